/* kv norm, RoPE of k_pe and append in one launch. See clmla_enqueue_cache_append and op.h. */
#ifndef CLMLA_OPS_CACHE_APPEND_H
#define CLMLA_OPS_CACHE_APPEND_H

#include "ops/cache_tensors.h"
#include "ops/op.h"
#include "ops/sequences.h"

typedef struct mla__cache_append {
    mla__kernel kernel;
    cl_uint sequences_arg, cos_sin_arg; /* first index of each */
    int32_t token_begin, num_tokens;    /* as set in the kernel */
    size_t work_group;
    size_t groups_per_token; /* work-groups; 1 but for rope_append and norm_append */
} mla__cache_append;

clmla_status mla__cache_append_bind(clmla_context *context, const clmla_cache_append_params *params,
                                    mla__cache_append *op);
/* Another plan's tables. */
clmla_status mla__cache_append_set_sequences(mla__cache_append *op, const mla__sequences *sequences,
                                             const mla__view *cos_sin);
/* Row i of kv_a is token token_begin + i of the step. */
clmla_status mla__cache_append_enqueue(mla__cache_append *op, mla__stream *stream,
                                       int32_t token_begin, int32_t num_tokens);
clmla_status mla__cache_append_warm(mla__cache_append *op, mla__stream *stream);
void mla__cache_append_release(mla__cache_append *op);

/* ---- for rope_append and norm_append, whose kernels' arguments begin with cache_append's --------- */

typedef struct mla__append_args {
    mla__sequences sequences;
    mla__view kv_a, kv_a_layernorm, cos_sin;
    mla__cache_tensors cache;
    int32_t kv_lora_rank, half; /* half = rope_dim / 2 */
    float eps;
} mla__append_args;

clmla_status mla__append_check(const clmla_context *context,
                               const clmla_cache_append_params *params, mla__append_args *args);
/* An op without a kernel. */
mla__cache_append mla__append_begin(const clmla_context *context, const mla__append_args *args);
/* WORK_GROUP and the dtypes. */
/* Of append_token in cl/append.clh; see ops/loops.h. */
double mla__append_loops(const mla__cache_append *op, const mla__append_args *args);
void mla__append_define(const mla__cache_append *op, const mla__append_args *args,
                        mla__defines *defines);
/* Every argument, in order; see APPEND_PARAMS of cl/append.clh. */
void mla__append_arguments(mla__cache_append *op, const mla__append_args *args);

#endif
