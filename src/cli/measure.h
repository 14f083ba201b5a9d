/*
 * What a device reaches at best, by small kernels: read bandwidth and float32 multiply-adds.
 */
#ifndef CLMLA_CLI_MEASURE_H
#define CLMLA_CLI_MEASURE_H

#include "cli/inventory.h"

typedef struct mla_measured {
    double read_gb_per_s;   /* 1e9 bytes */
    double fma_gflop_per_s; /* two operations a multiply-add */
} mla_measured;

/* The best of many launches whose results were checked; takes some seconds. Errors: CL_*; INTERNAL
 * when a result is wrong. */
clmla_status mla_measure_device(const mla_device_info *device, mla_measured *out);

#endif
