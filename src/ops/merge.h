/* Combination of partial attention states by their log-sum-exp. See clmla_enqueue_merge_states. */
#ifndef CLMLA_OPS_MERGE_H
#define CLMLA_OPS_MERGE_H

#include "ops/op.h"

typedef struct mla__merge {
    mla__kernel kernel;
    int32_t num_heads, dim;
    int32_t num_states, num_tokens;              /* of the last enqueue, or as bound */
    uint64_t out_token_stride, lse_token_stride; /* of the partial states */
    bool out_packed, lse_packed; /* bound with state stride = num_tokens · token stride */
    size_t work_group;
} mla__merge;

clmla_status mla__merge_bind(clmla_context *context, const clmla_merge_states_params *params,
                             mla__merge *op);
/* The first num_states states, each with num_tokens tokens. Where partial_out or partial_lse was
 * bound packed (the stride between states is num_tokens · the stride between tokens, as in a dense
 * tensor) it stays packed with the new num_tokens; other strides between states stay as bound. */
clmla_status mla__merge_enqueue(mla__merge *op, mla__stream *stream, int32_t num_states,
                                int32_t num_tokens);
clmla_status mla__merge_warm(mla__merge *op, mla__stream *stream);
void mla__merge_release(mla__merge *op);

#endif
