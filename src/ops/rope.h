/* RoPE: the step's table of cos and sin, and the rotation in place. See clmla_ops.h and op.h. */
#ifndef CLMLA_OPS_ROPE_H
#define CLMLA_OPS_ROPE_H

#include "ops/op.h"
#include "ops/sequences.h"

typedef struct mla__rope_table {
    mla__kernel kernel;
    cl_mem turns;                      /* ulong [rope/2], made at bind */
    int32_t half;                      /* rope / 2 */
    int32_t num_sequences, num_tokens; /* as set in the kernel */
    size_t work_group;                 /* work-items per token */
} mla__rope_table;

clmla_status mla__rope_table_bind(clmla_context *context, const clmla_rope_table_params *params,
                                  mla__rope_table *op);
/* Positions and cos/sin of tokens 0 .. num_tokens - 1. */
clmla_status mla__rope_table_enqueue(mla__rope_table *op, mla__stream *stream,
                                     int32_t num_sequences, int32_t num_tokens);
clmla_status mla__rope_table_warm(mla__rope_table *op, mla__stream *stream);
void mla__rope_table_release(mla__rope_table *op);

typedef struct mla__rope {
    mla__kernel kernel; /* none when half is 0: nothing to rotate */
    int32_t num_heads, half;
    int32_t token_begin, num_tokens; /* as set in the kernel */
    size_t work_group;               /* 1: a work-item takes a head; else a pair */
} mla__rope;

clmla_status mla__rope_bind(clmla_context *context, const clmla_rope_params *params, mla__rope *op);
/* Row i of x is rotated by row token_begin + i of cos_sin. */
clmla_status mla__rope_enqueue(mla__rope *op, mla__stream *stream, int32_t token_begin,
                               int32_t num_tokens);
void mla__rope_release(mla__rope *op);

/* For rope_append: checks and views of the tensors. */
clmla_status mla__rope_check(const clmla_context *context, const clmla_rope_params *params,
                             mla__view *x, mla__view *cos_sin);

#endif
