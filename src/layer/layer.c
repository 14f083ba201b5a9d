#include "layer/layer.h"

#include <stdlib.h>

#include "core/checked.h"
#include "core/config.h"
#include "core/dtype.h"
#include "core/fp8_cache.h"
#include "layer/weights.h"
#include "ops/merge_up.h"
#include "ops/op.h"
#include "ops/projection.h"

const char *mla__role_name(enum mla__role role)
{
    static const char *const names[MLA__NUM_ROLES] = {
        [MLA__Q_PROJ] = "q_proj",     [MLA__Q_A_PROJ] = "q_a_proj",
        [MLA__Q_B_PROJ] = "q_b_proj", [MLA__KV_A_PROJ] = "kv_a_proj_with_mqa",
        [MLA__W_UK] = "W_UK",         [MLA__W_UV] = "W_UV",
        [MLA__O_PROJ] = "o_proj",
    };
    return names[role];
}

struct clmla_matrix mla__layer_matrix(const clmla_layer *layer, enum mla__role role)
{
    const clmla_config *c = &layer->config;
    const int32_t heads = c->num_attention_heads;
    const bool q_lora = c->q_lora_rank > 0;
    struct clmla_matrix m = {.num_batches = 1, .dtype = layer->weights_dtype};
    switch (role) {
    case MLA__Q_PROJ:
        m.out_features = q_lora ? 0 : heads * mla__config_qk_head_dim(c);
        m.in_features = c->hidden_size;
        break;
    case MLA__Q_A_PROJ:
        m.out_features = c->q_lora_rank;
        m.in_features = c->hidden_size;
        break;
    case MLA__Q_B_PROJ:
        m.out_features = q_lora ? heads * mla__config_qk_head_dim(c) : 0;
        m.in_features = c->q_lora_rank;
        break;
    case MLA__KV_A_PROJ:
        m.out_features = mla__config_kv_dim(c);
        m.in_features = c->hidden_size;
        break;
    case MLA__W_UK:
        m.num_batches = heads;
        m.out_features = c->kv_lora_rank;
        m.in_features = c->qk_nope_head_dim;
        break;
    case MLA__W_UV:
        m.num_batches = heads;
        m.out_features = c->v_head_dim;
        m.in_features = c->kv_lora_rank;
        break;
    case MLA__O_PROJ:
        m.out_features = c->hidden_size;
        m.in_features = heads * c->v_head_dim;
        break;
    case MLA__NUM_ROLES:
        break;
    }
    return m;
}

mla__attention_shape mla__layer_attention_shape(const clmla_layer *layer)
{
    return (mla__attention_shape){.q_lat = layer->latent_dtype,
                                  .q_pe = layer->stage_dtype,
                                  .cache = layer->cache_dtype,
                                  .out = layer->latent_dtype,
                                  .num_heads = layer->config.num_attention_heads,
                                  .kv_lora_rank = layer->config.kv_lora_rank,
                                  .rope_dim = layer->config.qk_rope_head_dim};
}

bool mla__layer_fills_tile(const clmla_layer *layer, int32_t tile_rows)
{
    return (int64_t)layer->tokens_per_block * layer->config.num_attention_heads >= tile_rows;
}

int32_t mla__layer_merge_up_tokens(const clmla_layer *layer, const char **why_not)
{
    const struct clmla_matrix w_uv = mla__layer_matrix(layer, MLA__W_UV);
    const char *reason = NULL;
    if (layer->context->kernel_class == CLMLA_KERNELS_CPU)
        reason = "not of this class";
    else if (layer->workspace.splits_bytes == 0)
        reason = "attention has one split";
    else if (layer->projection == CLMLA_PROJECTION_CLBLAST)
        reason = "CLBlast projects";
    else if (!mla__merge_up_fits(layer->context, &w_uv))
        reason = "does not fit the device";
    if (why_not != NULL)
        *why_not = reason;
    if (reason != NULL)
        return 0;
    const int32_t limits[] = {layer->tokens_per_block, layer->native_max_rows};
    int32_t tokens = mla__merge_up_max_tokens(layer->config.num_attention_heads);
    for (size_t i = 0; i < 2; i++)
        tokens = tokens < limits[i] ? tokens : limits[i];
    return tokens;
}

static bool is_float(clmla_dtype dtype)
{
    return dtype == CLMLA_DTYPE_BF16 || dtype == CLMLA_DTYPE_F16 || dtype == CLMLA_DTYPE_F32;
}

static clmla_status check_cache_dtype(const clmla_layer *layer)
{
    const clmla_config *c = &layer->config;
    if (is_float(layer->cache_dtype))
        return CLMLA_SUCCESS;
    if (layer->cache_dtype != CLMLA_DTYPE_FP8_DS_MLA)
        return mla__fail(layer->context, CLMLA_INVALID_TENSOR_DTYPE,
                         "layer: cache_dtype is %d, must be bf16, f16, f32 or fp8_ds_mla",
                         (int)layer->cache_dtype);
    if (!mla__fp8_cache_fits(c->kv_lora_rank, c->qk_rope_head_dim))
        return mla__fail(layer->context, CLMLA_UNSUPPORTED_CONFIG,
                         "layer: cache_dtype fp8_ds_mla needs a kv_lora_rank that is a multiple of "
                         "%d, not %d",
                         MLA__FP8_GROUP, (int)c->kv_lora_rank);
    return CLMLA_SUCCESS;
}

static clmla_status set_dtypes(clmla_layer *layer, const clmla_layer_params *p)
{
    layer->weights_dtype = mla__dtype_or(p->weights_dtype, CLMLA_DTYPE_BF16);
    layer->cache_dtype = mla__dtype_or(p->cache_dtype, CLMLA_DTYPE_BF16);
    layer->hidden_dtype = mla__dtype_or(p->hidden_dtype, CLMLA_DTYPE_BF16);
    layer->output_dtype = mla__dtype_or(p->output_dtype, layer->hidden_dtype);
    const struct {
        const char *name;
        clmla_dtype dtype;
    } fields[] = {{"weights_dtype", layer->weights_dtype},
                  {"hidden_dtype", layer->hidden_dtype},
                  {"output_dtype", layer->output_dtype}};
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        const bool fp8_weights = i == 0 && fields[i].dtype == CLMLA_DTYPE_F8_E4M3;
        if (!is_float(fields[i].dtype) && !fp8_weights)
            return mla__fail(layer->context, CLMLA_INVALID_TENSOR_DTYPE,
                             "layer: %s is %d, must be bf16, f16 or f32%s", fields[i].name,
                             (int)fields[i].dtype, i == 0 ? ", or f8_e4m3" : "");
    }
    const clmla_status status = check_cache_dtype(layer);
    if (status != CLMLA_SUCCESS)
        return status;
    layer->stage_dtype = layer->hidden_dtype;
    layer->latent_dtype =
        layer->hidden_dtype == CLMLA_DTYPE_F16 ? CLMLA_DTYPE_F32 : layer->hidden_dtype;
    return CLMLA_SUCCESS;
}

static clmla_status require_at_least(const clmla_layer *layer, const char *name, int32_t value,
                                     int32_t least)
{
    if (value >= least)
        return CLMLA_SUCCESS;
    return mla__fail(layer->context, CLMLA_INVALID_ARGUMENT, "layer: %s is %d, must be >= %d", name,
                     (int)value, (int)least);
}

static clmla_status set_limits(clmla_layer *layer, const clmla_layer_params *p)
{
    const struct {
        const char *name;
        int32_t value, least;
    } fields[] = {{"max_num_sequences", p->max_num_sequences, 1},
                  {"max_num_tokens", p->max_num_tokens, 1},
                  {"max_seqlen_q", p->max_seqlen_q, 0},
                  {"max_cache_seqlen", p->max_cache_seqlen, 1},
                  {"page_block_size", p->page_block_size, 0},
                  {"num_pages", p->num_pages, 0},
                  {"num_splits", p->num_splits, 0}};
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        const clmla_status status =
            require_at_least(layer, fields[i].name, fields[i].value, fields[i].least);
        if (status != CLMLA_SUCCESS)
            return status;
    }
    const bool paged = p->page_block_size > 0;
    layer->max_num_sequences = p->max_num_sequences;
    layer->max_num_tokens = p->max_num_tokens;
    layer->max_seqlen_q = p->max_seqlen_q > 0 ? p->max_seqlen_q : p->max_num_tokens;
    layer->max_cache_seqlen = p->max_cache_seqlen;
    layer->page_block_size = paged ? p->page_block_size : p->max_cache_seqlen;
    layer->num_pages = p->num_pages > 0 ? p->num_pages : (paged ? 0 : p->max_num_sequences);
    layer->pages_per_sequence =
        paged ? (int32_t)mla__ceil_div((uint64_t)p->max_cache_seqlen, (uint64_t)p->page_block_size)
              : 0;
    layer->batch_invariant = p->batch_invariant != 0;
    layer->one_launch = p->one_launch != 0;
    layer->why_not_one_launch = "not before clmla_layer_prepare";
    layer->num_splits = layer->batch_invariant ? 1 : p->num_splits;
    const clmla_status status = require_at_least(layer, "num_pages", layer->num_pages,
                                                 paged ? 1 : layer->max_num_sequences);
    if (status != CLMLA_SUCCESS)
        return status;
    if (p->batch_invariant && p->num_splits > 1)
        return mla__fail(layer->context, CLMLA_UNSUPPORTED_CONFIG,
                         "layer: batch_invariant uses one split, num_splits is %d",
                         (int)p->num_splits);
    return CLMLA_SUCCESS;
}

static clmla_status set_projection(clmla_layer *layer)
{
    if (layer->batch_invariant && layer->context->projection == CLMLA_PROJECTION_CLBLAST)
        return mla__fail(layer->context, CLMLA_UNSUPPORTED_CONFIG,
                         "layer: batch_invariant needs native projections, the context asks for "
                         "CLBlast");
    const bool fp8 = layer->weights_dtype == CLMLA_DTYPE_F8_E4M3;
    if (fp8 && layer->context->projection == CLMLA_PROJECTION_CLBLAST)
        return mla__fail(layer->context, CLMLA_UNSUPPORTED_CONFIG,
                         "layer: weights_dtype f8_e4m3 needs native projections, the context asks "
                         "for CLBlast");
    const clmla_projection_backend asked =
        layer->batch_invariant ? CLMLA_PROJECTION_NATIVE : CLMLA_PROJECTION_AUTO;
    layer->projection = mla__projection_resolve(layer->context, asked, layer->weights_dtype,
                                                layer->max_num_tokens, &layer->native_max_rows);
    return CLMLA_SUCCESS;
}

/* The largest token block whose workspace stays within the limit (0: no limit). */
static clmla_status set_workspace(clmla_layer *layer, uint64_t limit_bytes)
{
    clmla_status status = mla__workspace_layout(layer, layer->max_num_tokens, &layer->workspace);
    layer->tokens_per_block = layer->max_num_tokens;
    if (status != CLMLA_SUCCESS || limit_bytes == 0 || layer->workspace.bytes <= limit_bytes)
        return status;
    int32_t fits = 0, too_many = layer->max_num_tokens;
    while (too_many - fits > 1) {
        mla__workspace workspace;
        const int32_t middle = fits + (too_many - fits) / 2;
        status = mla__workspace_layout(layer, middle, &workspace);
        if (status != CLMLA_SUCCESS)
            return status;
        if (workspace.bytes <= limit_bytes) {
            fits = middle;
            layer->workspace = workspace;
        } else {
            too_many = middle;
        }
    }
    layer->tokens_per_block = fits;
    if (fits > 0)
        return CLMLA_SUCCESS;
    status = mla__workspace_layout(layer, 1, &layer->workspace);
    if (status != CLMLA_SUCCESS)
        return status;
    return mla__fail(layer->context, CLMLA_WORKSPACE_TOO_SMALL,
                     "layer: workspace_limit_bytes is %llu, one token needs %llu",
                     (unsigned long long)limit_bytes, (unsigned long long)layer->workspace.bytes);
}

static clmla_status layer_init(clmla_layer *layer, const clmla_layer_params *p)
{
    char why[256];
    clmla_status status = mla__config_resolve(p->config, &layer->config, why, sizeof(why));
    if (status != CLMLA_SUCCESS)
        return mla__fail(layer->context, status, "layer: %s", why);
    if (p->attention_form != CLMLA_FORM_ABSORBED)
        return mla__fail(layer->context, CLMLA_UNSUPPORTED_CONFIG,
                         "layer: attention_form is %d, only absorbed (0) exists",
                         (int)p->attention_form);
    layer->softmax_scale = clmla_config_softmax_scale(&layer->config);
    if ((status = set_dtypes(layer, p)) != CLMLA_SUCCESS ||
        (status = set_limits(layer, p)) != CLMLA_SUCCESS ||
        (status = set_projection(layer)) != CLMLA_SUCCESS)
        return status;
    return set_workspace(layer, p->workspace_limit_bytes);
}

clmla_status clmla_layer_create(clmla_context *context, const clmla_layer_params *params,
                                clmla_layer **out)
{
    clmla_layer_params p;
    if (context == NULL || out == NULL)
        return CLMLA_INVALID_ARGUMENT;
    clmla_status status = MLA__PARAMS_COPY(context, "layer", p, params);
    if (status != CLMLA_SUCCESS)
        return status;
    if (p.config == NULL)
        return mla__fail(context, CLMLA_INVALID_ARGUMENT, "layer: config is null");
    clmla_layer *layer = calloc(1, sizeof(*layer));
    if (layer == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    mla__context_retain(context);
    layer->context = context;
    layer->references = 1;
    status = layer_init(layer, &p);
    if (status != CLMLA_SUCCESS) {
        clmla_layer_release(layer);
        return status;
    }
    *out = layer;
    return CLMLA_SUCCESS;
}

void mla__layer_retain(clmla_layer *layer)
{
    mla__os_mutex_lock(layer->context->mutex);
    layer->references++;
    mla__os_mutex_unlock(layer->context->mutex);
}

uint64_t mla__layer_retain_for_plan(clmla_layer *layer)
{
    mla__os_mutex_lock(layer->context->mutex);
    layer->references++;
    const uint64_t id = ++layer->plans_made;
    mla__os_mutex_unlock(layer->context->mutex);
    return id;
}

void clmla_layer_release(clmla_layer *layer)
{
    if (layer == NULL)
        return;
    clmla_context *context = layer->context;
    mla__os_mutex_lock(context->mutex);
    const bool last = --layer->references == 0;
    mla__os_mutex_unlock(context->mutex);
    if (!last)
        return;
    free(layer);
    clmla_context_release(context);
}

int32_t mla__layer_one_launch_groups(const clmla_layer *layer, const char **why_not)
{
    mla__os_mutex_lock(layer->context->mutex);
    const int32_t groups = layer->one_launch_groups;
    if (why_not != NULL)
        *why_not = layer->why_not_one_launch;
    mla__os_mutex_unlock(layer->context->mutex);
    return groups;
}

void mla__layer_set_one_launch_groups(clmla_layer *layer, int32_t num_groups, const char *why_not)
{
    mla__os_mutex_lock(layer->context->mutex);
    layer->one_launch_groups = num_groups;
    layer->why_not_one_launch = why_not;
    mla__os_mutex_unlock(layer->context->mutex);
}

clmla_status clmla_layer_get_info(const clmla_layer *layer, clmla_layer_info *info)
{
    uint64_t bytes;
    if (layer == NULL || info == NULL || info->struct_size != sizeof(*info))
        return CLMLA_INVALID_ARGUMENT;
    const clmla_status status = mla__weights_bytes(layer, &bytes);
    if (status != CLMLA_SUCCESS)
        return status;
    info->workspace_bytes = layer->workspace.bytes;
    info->weights_bytes = bytes;
    info->tokens_per_block = layer->tokens_per_block;
    info->kernel_class = layer->context->kernel_class;
    info->projection = layer->projection == CLMLA_PROJECTION_NATIVE    ? "native"
                       : layer->projection == CLMLA_PROJECTION_CLBLAST ? "clblast"
                                                                       : "mixed";
    return CLMLA_SUCCESS;
}
