#include "layer/workspace.h"

#include "core/checked.h"
#include "core/dtype.h"
#include "layer/decode_layer.h"
#include "layer/layer.h"
#include "ops/attention.h"
#include "ops/projection.h"

enum { ALIGNMENT = 256 };
/* Partial states are worth their memory only when few tokens leave the device idle; 32 MiB hold,
 * for instance, 128 splits of one token with 128 heads. */
static const uint64_t SPLITS_LIMIT_BYTES = (uint64_t)32 << 20;

/* Appends a region of count · element_bytes bytes; false on overflow. */
static bool add_region(mla__workspace *workspace, uint64_t count, uint64_t element_bytes,
                       uint64_t *offset)
{
    uint64_t bytes, end;
    if (!mla__checked_mul(count, element_bytes, &bytes) ||
        !mla__checked_round_up(bytes, ALIGNMENT, &bytes) ||
        !mla__checked_add(workspace->bytes, bytes, &end))
        return false;
    *offset = workspace->bytes;
    workspace->bytes = end;
    return true;
}

/* The most that any step of up to num_tokens tokens would use for its splits, within the limit. */
static clmla_status chosen_splits_bytes(const clmla_layer *layer, int32_t num_tokens,
                                        uint64_t *bytes)
{
    const int32_t heads = layer->config.num_attention_heads;
    const int32_t latent = layer->config.kv_lora_rank;
    *bytes = 0;
    if (layer->num_splits == 1)
        return CLMLA_SUCCESS;
    if (layer->num_splits > 1)
        return mla__attention_split_bytes(layer->context, num_tokens, heads, latent,
                                          layer->num_splits, bytes);
    for (int32_t tokens = 1;; tokens = tokens > num_tokens / 2 ? num_tokens : tokens * 2) {
        int32_t num_splits, split_tokens;
        uint64_t needed;
        mla__attention_choose_splits(layer->context, heads, 1, tokens, layer->max_cache_seqlen,
                                     INT32_MAX, &num_splits, &split_tokens);
        const clmla_status status =
            mla__attention_split_bytes(layer->context, tokens, heads, latent, num_splits, &needed);
        if (status != CLMLA_SUCCESS)
            return status;
        if (num_splits > 1 && needed > *bytes)
            *bytes = needed;
        if (tokens == num_tokens)
            break;
    }
    if (*bytes > SPLITS_LIMIT_BYTES)
        *bytes = SPLITS_LIMIT_BYTES;
    return CLMLA_SUCCESS;
}

/* The same, and one state of each token that a launch of the whole layer takes. */
static clmla_status splits_bytes(const clmla_layer *layer, int32_t num_tokens, uint64_t *bytes)
{
    const int32_t few =
        num_tokens < MLA__DECODE_LAYER_MAX_TOKENS ? num_tokens : MLA__DECODE_LAYER_MAX_TOKENS;
    uint64_t needed = 0;
    clmla_status status = chosen_splits_bytes(layer, num_tokens, bytes);
    if (status == CLMLA_SUCCESS && layer->one_launch)
        status = mla__attention_split_bytes(layer->context, few, layer->config.num_attention_heads,
                                            layer->config.kv_lora_rank, 1, &needed);
    if (needed > *bytes)
        *bytes = needed;
    return status;
}

/* CLBlast runs one projection at a time, so they share the largest one's scratch. */
static clmla_status scratch_bytes(const clmla_layer *layer, int32_t num_tokens, uint64_t *bytes)
{
    *bytes = 0;
    if (layer->projection == CLMLA_PROJECTION_NATIVE)
        return CLMLA_SUCCESS;
    for (int role = 0; role < MLA__NUM_ROLES; role++) {
        const struct clmla_matrix matrix = mla__layer_matrix(layer, (enum mla__role)role);
        uint64_t needed;
        if (matrix.out_features == 0)
            continue;
        const clmla_status status =
            mla__projection_clblast_workspace(layer->context, &matrix, num_tokens, &needed);
        if (status != CLMLA_SUCCESS)
            return status;
        if (needed > *bytes)
            *bytes = needed;
    }
    return CLMLA_SUCCESS;
}

clmla_status mla__workspace_layout(const clmla_layer *layer, int32_t num_tokens,
                                   mla__workspace *out)
{
    const clmla_config *c = &layer->config;
    const uint64_t tokens = (uint64_t)num_tokens, heads = (uint64_t)c->num_attention_heads;
    const uint64_t stage = mla__dtype_bytes(layer->stage_dtype);
    const uint64_t qk = (uint64_t)c->qk_nope_head_dim + (uint64_t)c->qk_rope_head_dim;
    const uint64_t v = (uint64_t)c->v_head_dim;
    mla__workspace w = {0};

    clmla_status status = splits_bytes(layer, num_tokens, &w.splits_bytes);
    if (status == CLMLA_SUCCESS)
        status = scratch_bytes(layer, num_tokens, &w.scratch_bytes);
    if (status != CLMLA_SUCCESS)
        return status;
    /* tokens, heads and dims fit 31, 16 and 20 bits, so these products fit 64. */
    const bool fits =
        add_region(&w, tokens * (uint64_t)c->q_lora_rank, stage, &w.q_a) &&
        add_region(&w, tokens * (uint64_t)(c->kv_lora_rank + c->qk_rope_head_dim), 4, &w.kv_a) &&
        add_region(&w, tokens * heads * (qk > v ? qk : v), stage, &w.q) &&
        add_region(&w, tokens * heads * (uint64_t)c->kv_lora_rank,
                   mla__dtype_bytes(layer->latent_dtype), &w.q_lat) &&
        add_region(&w, w.splits_bytes, 1, &w.splits) &&
        add_region(&w, w.scratch_bytes, 1, &w.scratch);
    if (!fits)
        return mla__fail(layer->context, CLMLA_INTERNAL, "layer: workspace size overflows");
    *out = w;
    return CLMLA_SUCCESS;
}
