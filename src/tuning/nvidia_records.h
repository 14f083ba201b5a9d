/*
 * What class nvidia's choices take from the GPU: how many work-groups of each kernel a
 * multiprocessor holds at a time. That follows from registers and local memory until a device is
 * measured.
 */
#ifndef CLMLA_TUNING_NVIDIA_RECORDS_H
#define CLMLA_TUNING_NVIDIA_RECORDS_H

#include "ocl/device.h"

typedef struct mla__nvidia_record {
    int32_t few_groups; /* of cl/nvidia/projection_few.cl, aimed at before tiles widen */
    int32_t attention_groups_of_16; /* of cl/nvidia/attention.cl with tiles of 16 rows */
    int32_t attention_groups_of_32; /* and of 32 */
    int32_t attention_rows;         /* of the largest of its tiles whose registers do not spill */
    bool one_launch;                /* cl/nvidia/decode_layer.cl spills none either */
    bool measured;                  /* on a device that it is for */
    const char *source;             /* one line for --verbose */
} mla__nvidia_record;

/* Never NULL: devices that are none of NVIDIA's run the kernels emulated and get some record, too. */
const mla__nvidia_record *mla__nvidia_record_find(const mla__device *device);

#endif
