/* See clmla_enqueue_rmsnorm in clmla_ops.h and op.h for the shape. */
#ifndef CLMLA_OPS_RMSNORM_H
#define CLMLA_OPS_RMSNORM_H

#include "ops/op.h"

typedef struct mla__rmsnorm {
    mla__kernel kernel;
    int32_t num_tokens; /* as set in the kernel */
    size_t work_group;  /* work-items per token */
} mla__rmsnorm;

clmla_status mla__rmsnorm_bind(clmla_context *context, const clmla_rmsnorm_params *params,
                               mla__rmsnorm *op);
clmla_status mla__rmsnorm_enqueue(mla__rmsnorm *op, mla__stream *stream, int32_t num_tokens);
clmla_status mla__rmsnorm_warm(mla__rmsnorm *op, mla__stream *stream);
void mla__rmsnorm_release(mla__rmsnorm *op);

/* ---- for norm_append ---------------------------------------------------------------------------- */

typedef struct mla__rmsnorm_args {
    mla__view x, weight, y;
    float eps;
} mla__rmsnorm_args;

clmla_status mla__rmsnorm_check(const clmla_context *context, const clmla_rmsnorm_params *params,
                                mla__rmsnorm_args *args);

#endif
