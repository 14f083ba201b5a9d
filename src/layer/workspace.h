/*
 * Where the intermediates of a token block live in the workspace: byte offsets, multiples of 256.
 *
 *   q_a     [T, q_lora]          stage dtype    x · q_a_projᵀ, then its norm
 *   kv_a    [T, kv_lora + rope]  float32        c_kv | k_pe before norm and RoPE
 *   q       [T, H, nope + rope]  stage dtype    rotated in place; o [T, H, v] takes its place later
 *   q_lat   [T, H, kv_lora]      latent dtype   ctx overwrites it
 *   splits  partial attention states            see mla__attention_split_bytes
 *   scratch what CLBlast projections need
 *
 * Nothing here grows with tokens × context.
 */
#ifndef CLMLA_LAYER_WORKSPACE_H
#define CLMLA_LAYER_WORKSPACE_H

#include <stdint.h>

#include "clmla.h"

typedef struct mla__workspace {
    uint64_t q_a, kv_a, q, q_lat, splits, scratch;
    uint64_t splits_bytes, scratch_bytes;
    uint64_t bytes; /* the whole */
} mla__workspace;

/* Layout for blocks of num_tokens tokens. Errors: INTERNAL when a size overflows 64 bits. */
clmla_status mla__workspace_layout(const clmla_layer *layer, int32_t num_tokens,
                                   mla__workspace *out);

#endif
