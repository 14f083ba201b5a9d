/*
 * What a device is and can do, read once. Quirks are named fields with their reason, set here and
 * nowhere else; nothing dispatches on a device's name.
 */
#ifndef CLMLA_OCL_DEVICE_H
#define CLMLA_OCL_DEVICE_H

#include <stdbool.h>

#include "clmla_ops.h"

typedef struct mla__device {
    cl_device_id id;
    cl_device_type type;
    char name[256];
    char vendor[256];
    char version[256];        /* CL_DEVICE_VERSION */
    char driver_version[256]; /* CL_DRIVER_VERSION */
    char platform_name[256];
    char platform_version[256];
    cl_uint compute_units;
    int32_t float_vector_width; /* 4, 8 or 16: floats of a vector that kernels of class cpu use */
    cl_ulong global_mem_bytes;
    cl_ulong max_alloc_bytes;
    cl_ulong local_mem_bytes;
    size_t max_work_group_size;
    size_t max_work_item_sizes[3];
    cl_uint mem_base_addr_align_bytes; /* where sub-buffers may begin */
    int compute_capability; /* NVIDIA: 10 · major + minor, from cl_nv_device_attribute_query; else 0
                             */
    bool has_ptx;           /* the inline PTX of cl/nvidia/ptx.clh: compute capability >= 8.0 */
    bool has_fp16;          /* cl_khr_fp16: half arithmetic; storage needs no extension */
    bool has_bf16_dot;      /* vdpbf16ps by inline assembly: host with AVX512_BF16, CPU, PoCL */
    bool has_byte_tables;   /* vpermi2b likewise: AVX512_VBMI */
    bool is_pocl;           /* platform is Portable Computing Language */
    bool splits_vload;      /* vload16 and vstore16 of 16-bit elements become several accesses, up
                               to one an element (PoCL 3.1); a vector type of their alignment does
                               not */
    cl_uint max_loop_iterations; /* what all loops of a work-item come to before the device leaves
                                  * them, without an error (Mesa's llvmpipe); 0: no such limit */
    clmla_kernel_class kernel_class; /* what AUTO resolves to */
} mla__device;

clmla_status mla__device_read(cl_device_id id, mla__device *out);

/* 4, 8 or 16, rounded down, of what a device calls its native and its preferred vector width: the
 * preferred one where the native is 0 (not known). */
int32_t mla__float_vector_width(cl_uint native, cl_uint preferred);

#endif
