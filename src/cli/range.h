/*
 * Whether a job can be stored in float16 at all: its weights, caches and hidden states may be larger
 * than float16's largest number.
 */
#ifndef CLMLA_CLI_RANGE_H
#define CLMLA_CLI_RANGE_H

#include "cli/job.h"

#define MLA_F16_MAX 65504.0f

/* What does not fit, by the tensor's name in the file. */
typedef struct mla_outlier {
    char tensor[MLA_TENSOR_NAME_BYTES];
    bool is_weight; /* else of the requests */
    double value;   /* of the first such element */
} mla_outlier;

/* False: something is larger than limit in magnitude, *outlier says what. Infinities and NaN count
 * as fitting: every dtype has them. */
bool mla_job_fits(const mla_job *job, float limit, mla_outlier *outlier);

#endif
