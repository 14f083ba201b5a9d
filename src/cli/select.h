/*
 * Which device a user means: pure matching on descriptions, no OpenCL calls.
 *
 * --platform is an index or a case-insensitive part of a platform's name or vendor. --device is an
 * index, within the platform where one is given and in the whole list otherwise, or a part of the
 * device's name. Where several devices remain: a GPU, else an accelerator, else a CPU, software
 * rasterisers last, the first of equals.
 */
#ifndef CLMLA_CLI_SELECT_H
#define CLMLA_CLI_SELECT_H

#include <stddef.h>
#include <stdint.h>

typedef enum mla_device_kind {
    MLA_DEVICE_GPU,
    MLA_DEVICE_ACCELERATOR,
    MLA_DEVICE_CPU,
    MLA_DEVICE_OTHER
} mla_device_kind;

/* "gpu", "accelerator", "cpu", "other" */
const char *mla_device_kind_name(mla_device_kind kind);

/* One device of the flat list, platforms in order. */
typedef struct mla_device_description {
    int32_t platform; /* index of its platform */
    const char *platform_name;
    const char *platform_vendor;
    const char *name;
    mla_device_kind kind;
} mla_device_description;

typedef enum mla_shorthand {
    MLA_SHORTHAND_NONE,
    MLA_SHORTHAND_NVIDIA,
    MLA_SHORTHAND_AMD,
    MLA_SHORTHAND_INTEL,
    MLA_SHORTHAND_MOORE,
    MLA_SHORTHAND_METAX,
    MLA_SHORTHAND_ILUVATAR,
    MLA_SHORTHAND_CPU
} mla_shorthand;

typedef struct mla_device_request {
    const char *platform; /* NULL: any */
    const char *device;   /* NULL: the preferred one */
    mla_shorthand shorthand;
    const char *platform_source, *device_source; /* "--platform" or "CLMLA_PLATFORM": for errors */
} mla_device_request;

/* Index into devices, or -1 and one line in why that names the argument, its value and what would
 * be accepted. count > 0. */
int32_t mla_select_device(const mla_device_description *devices, size_t count,
                          const mla_device_request *request, char *why, size_t why_bytes);

#endif
