/*
 * Whether a golden case can be stored in float16 at all: its weights, caches and hidden states,
 * which are bf16 or FP8 with scales and may be larger than float16's largest number.
 */
#ifndef CLMLA_CLI_GOLDEN_RANGE_H
#define CLMLA_CLI_GOLDEN_RANGE_H

#include "cli/golden.h"

#define MLA_F16_MAX 65504.0f

/* What does not fit, by the tensor's name in the file. */
typedef struct mla_golden_outlier {
    char tensor[96];
    double value; /* of the first such element */
} mla_golden_outlier;

/* False: something is larger than limit in magnitude, *outlier says what. Infinities and NaN count
 * as fitting: every dtype has them. */
bool mla_golden_fits(const mla_golden *golden, float limit, mla_golden_outlier *outlier);

#endif
