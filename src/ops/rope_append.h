/* kv norm, RoPE of k_pe, append, and RoPE of q_pe in one launch: the bits of cache_append and rope.
 * See op.h. */
#ifndef CLMLA_OPS_ROPE_APPEND_H
#define CLMLA_OPS_ROPE_APPEND_H

#include "ops/cache_append.h"

typedef struct mla__rope_append_params {
    clmla_cache_append_params append;
    int32_t num_heads;
    clmla_tensor q_pe; /* [num_tokens, num_heads, rope_dim], rotated in place */
} mla__rope_append_params;

typedef struct mla__rope_append {
    mla__cache_append append; /* of the kernel rope_append */
} mla__rope_append;

clmla_status mla__rope_append_bind(clmla_context *context, const mla__rope_append_params *params,
                                   mla__rope_append *op);
/* Another plan's tables. */
clmla_status mla__rope_append_set_sequences(mla__rope_append *op, const mla__sequences *sequences,
                                            const mla__view *cos_sin);
/* Row i of kv_a and of q_pe is token token_begin + i of the step. */
clmla_status mla__rope_append_enqueue(mla__rope_append *op, mla__stream *stream,
                                      int32_t token_begin, int32_t num_tokens);
clmla_status mla__rope_append_warm(mla__rope_append *op, mla__stream *stream);
void mla__rope_append_release(mla__rope_append *op);

#endif
