/*
 * The OpenCL devices of this machine, described: what `clmla devices` shows and select.h matches.
 */
#ifndef CLMLA_CLI_INVENTORY_H
#define CLMLA_CLI_INVENTORY_H

#include "cli/select.h"
#include "clmla.h"

typedef struct mla_device_info {
    cl_platform_id platform;
    cl_device_id id;
    mla_device_description description; /* points to the texts below */
    char platform_name[256];
    char platform_vendor[256];
    char name[256];
    char vendor[256];
    char version[128];
    char driver_version[128];
    char *extensions;
    cl_uint compute_units, clock_mhz;
    cl_ulong global_mem_bytes, max_alloc_bytes, local_mem_bytes;
    cl_device_fp_config float_config;
    clmla_kernel_class kernel_class;
} mla_device_info;

typedef struct mla_inventory {
    mla_device_info *devices;
    size_t num_devices;
    size_t num_platforms; /* those without devices too */
} mla_inventory;

/* Reads all devices; none is success. Errors: CL_* of the OpenCL loader. */
clmla_status mla_inventory_create(mla_inventory *out);
void mla_inventory_release(mla_inventory *inventory);

/* The device a request means: NULL after printing the error, with *exit_code set. */
const mla_device_info *mla_inventory_select(const mla_inventory *inventory,
                                            const mla_device_request *request, int *exit_code);

/* "No OpenCL device" with the package to install. */
void mla_inventory_explain_none(const mla_inventory *inventory);

#endif
