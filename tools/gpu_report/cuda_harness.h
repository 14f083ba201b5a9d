/* What the parts of cuda_harness share: kernels, records. */
#ifndef CLMLA_CUDA_HARNESS_H
#define CLMLA_CUDA_HARNESS_H

#include "cuda_data.h"
#include "cuda_driver.h"
#include "cuda_manifest.h"
#include "report_common.h"

enum { HARNESS_MAX_KERNELS = 64 };

typedef struct harness {
    cuda driver;
    manifest manifest;
    const char *folder; /* of the PTX */
    cuda_kernel kernels[HARNESS_MAX_KERNELS];
    int num_kernels;
    bool small;     /* shapes for tests */
    double round_s; /* of a timed chain */
    double deadline_s;
    int num_records, num_failures;
} harness;

/* A record of a kernel, which harness_print ends; kernel may be NULL. */
void harness_record(const harness *h, const char *kind, const cuda_kernel *kernel, json *record);
/* Prints the record, with the error where !ok. */
void harness_print(harness *h, json *record, bool ok);
bool harness_has_time(const harness *h);

/* Adds how the comparison went. False, with the driver's error set, where an element is wrong. */
bool harness_judge(harness *h, const comparison *c, json *record);
/* Adds median_us, min_us, max_us, rounds, chain. */
void harness_timing(const cuda_timing *timing, json *record);

/* The kernel of that name, verified, or NULL. */
const cuda_kernel *harness_verified(const harness *h, const char *name);

/* ---- parts: a check of one kernel on a small problem, and measurements of verified kernels ---- */

bool attention_verify(harness *h, const cuda_kernel *kernel, json *record);
void attention_measure(harness *h);
bool projection_verify(harness *h, const cuda_kernel *kernel, json *record);
void projection_measure(harness *h);
bool fill_verify(harness *h, const cuda_kernel *kernel, json *record);
bool stream_verify(harness *h, const cuda_kernel *kernel, json *record);
bool merge_verify(harness *h, const cuda_kernel *kernel, json *record);
bool add_one_verify(harness *h, const cuda_kernel *kernel, json *record);
void memory_measure(harness *h);
void launch_measure(harness *h);

#endif
