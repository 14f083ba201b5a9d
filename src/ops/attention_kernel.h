/* Which attention kernel computes a call, and that kernel with its arguments. */
#ifndef CLMLA_OPS_ATTENTION_KERNEL_H
#define CLMLA_OPS_ATTENTION_KERNEL_H

#include "ops/attention.h"
#include "ops/cache_tensors.h"

#define MLA__LOG2_E 1.4426950408889634

/* A call's tensors, checked. */
typedef struct mla__attention_args {
    mla__sequences sequences;
    mla__view q_lat, q_pe, out, lse;
    mla__cache_tensors cache;
    clmla_mask mask;
    double softmax_scale;
    int32_t rope_dim;
    bool rotates_query; /* cos_sin is there, and q_pe not rotated */
    mla__view cos_sin;
} mla__attention_args;

bool mla__attention_on_tensor_cores(enum mla__attention_kind kind);

clmla_dtype mla__attention_widest(const mla__attention_shape *shape);

/* The kernel of op's kind that writes out and lse, as results or as partial states. */
clmla_status mla__attention_kernel(clmla_context *context, const mla__attention *op,
                                   const mla__attention_tile *tile, const mla__attention_args *args,
                                   const mla__view *out, const mla__view *lse, bool partial,
                                   mla__kernel *kernel);

#endif
