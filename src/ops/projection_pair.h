/* Two projections of the same x in one launch: y = x · Wᵀ and y2 = x · W2ᵀ. On tensor cores, whose
 * kernels read both matrices as the panels of one. */
#ifndef CLMLA_OPS_PROJECTION_PAIR_H
#define CLMLA_OPS_PROJECTION_PAIR_H

#include "ops/projection_native.h"

typedef struct mla__projection_pair_params {
    /* [N, K] and [N2, K], one batch, of one dtype; the second follows the first in memory. */
    const clmla_matrix *first, *second;
    int32_t num_rows;
    clmla_tensor x;                 /* [num_rows, K] */
    clmla_tensor first_y, second_y; /* [num_rows, N], [num_rows, N2], each of its own dtype */
    bool batch_invariant;           /* see mla__projection_shape */
} mla__projection_pair_params;

/* Whether tensor cores take the pair; where its matrices lie is not looked at. */
bool mla__projection_pair_fits(const clmla_context *context, const clmla_matrix *first,
                               const clmla_matrix *second, clmla_dtype x, clmla_dtype first_y,
                               clmla_dtype second_y);

/* Enqueued, warmed and released as the native projection that it is. *op stays without variants
 * where the pair does not fit, its matrices do not follow each other, or the driver does not build
 * it: then the two are projected one by one. Fails where that would fail, too. */
clmla_status mla__projection_pair_bind(clmla_context *context,
                                       const mla__projection_pair_params *params,
                                       mla__projection_native *op);

#endif
