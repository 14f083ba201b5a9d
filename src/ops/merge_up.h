/* o[t, h] = W_UV[h] · ctx[t, h] with ctx merged from partial attention states in the same launch:
 * the bits of merge and projection. For few tokens on class gpu. See op.h. */
#ifndef CLMLA_OPS_MERGE_UP_H
#define CLMLA_OPS_MERGE_UP_H

#include "ops/matrix.h"
#include "ops/op.h"
#include "tuning/params.h"

/* States of S splits of T tokens lie packed: the stride between splits is T · the one between
 * tokens, whatever T a call has. Strides between splits in the tensors are not looked at. */
typedef struct mla__merge_up_params {
    const clmla_matrix *matrix; /* W_UV [H, N, K] */
    int32_t max_tokens;         /* that y holds, >= 0 */
    uint64_t num_states;        /* S · T states that the tensors hold, >= 1 */
    clmla_tensor partial_out;   /* [S, T, H, K] f32 read */
    clmla_tensor partial_lse;   /* [S, T, H] f32 read */
    clmla_dtype ctx_dtype;      /* that ctx is rounded to: bf16, f16, f32 */
    clmla_tensor y;             /* [T, H, N] written */
} mla__merge_up_params;

typedef struct mla__merge_up {
    mla__kernel kernel;
    mla__projection_tile tile;
    int32_t work_group;
    int32_t num_heads, out_features;
    uint64_t out_token_stride, lse_token_stride;
    int32_t num_states, num_tokens; /* arguments as they stand in the kernel; -1: not set yet */
} mla__merge_up;

/* Whether the kernel can be bound for this matrix on this context's class and device. */
bool mla__merge_up_fits(const clmla_context *context, const clmla_matrix *matrix);
/* UNSUPPORTED_DEVICE where it does not fit. */
clmla_status mla__merge_up_bind(clmla_context *context, const mla__merge_up_params *params,
                                mla__merge_up *op);
clmla_status mla__merge_up_enqueue(mla__merge_up *op, mla__stream *stream, int32_t num_states,
                                   int32_t num_tokens);
clmla_status mla__merge_up_warm(mla__merge_up *op, mla__stream *stream);
/* One line: the kernel and its parameters, or why it cannot be. Returns the length as snprintf. */
int mla__merge_up_text(const clmla_context *context, const clmla_matrix *matrix, char *text,
                       size_t capacity);
void mla__merge_up_release(mla__merge_up *op);

#endif
