/* kv norm, RoPE of k_pe, append, and the norm of q_a in one launch: the bits of cache_append and
 * rmsnorm. See op.h. */
#ifndef CLMLA_OPS_NORM_APPEND_H
#define CLMLA_OPS_NORM_APPEND_H

#include "ops/cache_append.h"

typedef struct mla__norm_append_params {
    clmla_cache_append_params append;
    clmla_rmsnorm_params q_a; /* x and y the same, weight's dtype as append's; dim 0: no q_a */
} mla__norm_append_params;

/* Enqueued, warmed and released as the cache_append that it is. */
clmla_status mla__norm_append_bind(clmla_context *context, const mla__norm_append_params *params,
                                   mla__cache_append *op);

#endif
