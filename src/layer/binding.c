#include "layer/binding.h"

#include <stdlib.h>

#include "core/dtype.h"
#include "ops/op.h"

/* ---- checks ---------------------------------------------------------------------------------- */

/* A tensor must have the layer's dtype; DEFAULT is replaced by it. */
static clmla_status take_dtype(const clmla_layer *layer, const char *name, clmla_dtype dtype,
                               clmla_tensor *tensor)
{
    if (tensor->dtype == CLMLA_DTYPE_DEFAULT)
        tensor->dtype = dtype;
    if (tensor->dtype == dtype)
        return CLMLA_SUCCESS;
    return mla__fail(layer->context, CLMLA_INVALID_TENSOR_DTYPE,
                     "binding: %s is %s, the layer's is %s", name, mla__dtype_name(tensor->dtype),
                     mla__dtype_name(dtype));
}

/* The whole of hidden_states and output, of which the ops see only a block's rows. */
static clmla_status check_rows(const clmla_layer *layer, const char *name,
                               const clmla_tensor *tensor)
{
    const mla__tensor_spec spec = {
        .name = name,
        .shape = {(uint64_t)layer->max_num_tokens, (uint64_t)layer->config.hidden_size},
        .rank = 2,
        .dtypes = MLA__FLOATS,
        .otherwise = tensor->dtype};
    mla__view view;
    return mla__view_make(layer->context, tensor, &spec, &view);
}

static clmla_status check_workspace(const clmla_layer *layer, const clmla_tensor *workspace)
{
    size_t bytes = 0;
    if (workspace->buffer == NULL)
        return mla__fail(layer->context, CLMLA_WORKSPACE_TOO_SMALL,
                         "binding: no workspace, %llu bytes are needed",
                         (unsigned long long)layer->workspace.bytes);
    if (workspace->offset_bytes % 256 != 0)
        return mla__fail(layer->context, CLMLA_INVALID_ARGUMENT,
                         "binding: workspace offset_bytes is %llu, must be a multiple of 256",
                         (unsigned long long)workspace->offset_bytes);
    const cl_int error =
        clGetMemObjectInfo(workspace->buffer, CL_MEM_SIZE, sizeof(bytes), &bytes, NULL);
    if (error != CL_SUCCESS)
        return mla__fail(layer->context, error, "binding: workspace is not a buffer");
    if (workspace->offset_bytes > bytes || bytes - workspace->offset_bytes < layer->workspace.bytes)
        return mla__fail(layer->context, CLMLA_WORKSPACE_TOO_SMALL,
                         "binding: workspace has %llu bytes after its offset, %llu are needed",
                         (unsigned long long)(workspace->offset_bytes > bytes
                                                  ? 0
                                                  : bytes - workspace->offset_bytes),
                         (unsigned long long)layer->workspace.bytes);
    return CLMLA_SUCCESS;
}

static clmla_status check_params(const clmla_layer *layer, clmla_binding_params *p)
{
    if (p->weights == NULL)
        return mla__fail(layer->context, CLMLA_INVALID_ARGUMENT, "binding: weights are null");
    if (!mla__weights_fit(p->weights, layer))
        return mla__fail(layer->context, CLMLA_INVALID_ARGUMENT,
                         "binding: the weights are of another context, configuration or dtype");
    if (p->output_mode != CLMLA_OVERWRITE && p->output_mode != CLMLA_ACCUMULATE)
        return mla__fail(layer->context, CLMLA_INVALID_ARGUMENT, "binding: output_mode is %d",
                         (int)p->output_mode);
    clmla_status status = take_dtype(layer, "kv_cache", layer->cache_dtype, &p->kv_cache);
    if (status == CLMLA_SUCCESS)
        status = take_dtype(layer, "pe_cache",
                            layer->cache_dtype == CLMLA_DTYPE_FP8_DS_MLA ? CLMLA_DTYPE_BF16
                                                                         : layer->cache_dtype,
                            &p->pe_cache);
    if (status == CLMLA_SUCCESS)
        status = take_dtype(layer, "hidden_states", layer->hidden_dtype, &p->hidden_states);
    if (status == CLMLA_SUCCESS)
        status = take_dtype(layer, "output", layer->output_dtype, &p->output);
    if (status == CLMLA_SUCCESS)
        status = check_rows(layer, "binding: hidden_states", &p->hidden_states);
    if (status == CLMLA_SUCCESS)
        status = check_rows(layer, "binding: output", &p->output);
    if (status == CLMLA_SUCCESS)
        status = check_workspace(layer, &p->workspace);
    return status;
}

/* ---- life ------------------------------------------------------------------------------------ */

static clmla_status retain_buffers(clmla_binding *binding, const clmla_binding_params *p)
{
    const cl_mem buffers[MLA__BOUND_BUFFERS] = {p->kv_cache.buffer, p->pe_cache.buffer,
                                                p->hidden_states.buffer, p->output.buffer,
                                                p->workspace.buffer};
    for (int i = 0; i < MLA__BOUND_BUFFERS; i++) {
        if (buffers[i] == NULL)
            continue; /* pe_cache, where there is no rope part */
        const cl_int error = clRetainMemObject(buffers[i]);
        if (error != CL_SUCCESS)
            return error;
        binding->buffers[i] = buffers[i];
    }
    return CLMLA_SUCCESS;
}

clmla_status clmla_binding_create(clmla_layer *layer, const clmla_binding_params *params,
                                  clmla_binding **out)
{
    clmla_binding_params p;
    if (layer == NULL || out == NULL)
        return CLMLA_INVALID_ARGUMENT;
    clmla_status status = MLA__PARAMS_COPY(layer->context, "binding", p, params);
    if (status != CLMLA_SUCCESS || (status = check_params(layer, &p)) != CLMLA_SUCCESS)
        return status;
    clmla_binding *binding = calloc(1, sizeof(*binding));
    if (binding == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    mla__layer_retain(layer);
    binding->layer = layer;
    binding->weights = p.weights;
    mla__weights_retain(p.weights);
    binding->stats.struct_size = sizeof(binding->stats);
    status = retain_buffers(binding, &p);
    if (status == CLMLA_SUCCESS)
        status = mla__binding_bind_ops(binding, &p);
    if (status != CLMLA_SUCCESS) {
        clmla_binding_release(binding);
        return status;
    }
    *out = binding;
    return CLMLA_SUCCESS;
}

void clmla_binding_release(clmla_binding *binding)
{
    if (binding == NULL)
        return;
    mla__binding_release_ops(binding);
    for (int i = 0; i < MLA__BOUND_BUFFERS; i++) {
        if (binding->buffers[i] != NULL)
            clReleaseMemObject(binding->buffers[i]);
    }
    clmla_weights_release(binding->weights);
    clmla_layer_release(binding->layer);
    free(binding);
}

/* ---- steps ----------------------------------------------------------------------------------- */

clmla_status mla__binding_use_plan(clmla_binding *binding, const clmla_plan *plan)
{
    const clmla_layer *layer = binding->layer;
    if (binding->plan_id == plan->id && binding->plan_sequences == plan->step.num_sequences)
        return CLMLA_SUCCESS;
    const clmla_sequences tables = mla__plan_sequences(plan);
    const clmla_tensor cos_sin_tensor = mla__plan_cos_sin(plan);
    const mla__tensor_spec spec = {
        .name = "layer: cos_sin",
        .shape = {(uint64_t)layer->max_num_tokens, (uint64_t)layer->config.qk_rope_head_dim / 2, 2},
        .rank = 3,
        .dtypes = MLA__F32,
        .otherwise = CLMLA_DTYPE_F32};
    mla__sequences sequences;
    mla__view cos_sin;
    clmla_status status = mla__sequences_make(layer->context, "layer", &tables, 1, &sequences);
    if (status == CLMLA_SUCCESS)
        status = mla__view_make(layer->context, &cos_sin_tensor, &spec, &cos_sin);
    if (status == CLMLA_SUCCESS)
        status = binding->attention.rotates_query
                     ? mla__cache_append_set_sequences(&binding->norm_append, &sequences, &cos_sin)
                     : mla__rope_append_set_sequences(&binding->rope_append, &sequences, &cos_sin);
    if (status == CLMLA_SUCCESS)
        status = mla__attention_set_sequences(&binding->attention, &sequences, &cos_sin);
    if (status == CLMLA_SUCCESS)
        status = mla__decode_layer_set_plan(&binding->decode_layer, plan, &sequences, &cos_sin);
    binding->plan_id = status == CLMLA_SUCCESS ? plan->id : 0;
    binding->plan_sequences = plan->step.num_sequences;
    return status;
}

void mla__binding_split(const clmla_binding *binding, const clmla_plan *plan, int32_t num_tokens,
                        mla__attention_step *step)
{
    const clmla_layer *layer = binding->layer;
    uint64_t one_split = 0;
    int32_t max_splits = 1;
    if (layer->num_splits != 1 &&
        mla__attention_split_bytes(layer->context, num_tokens, layer->config.num_attention_heads,
                                   layer->config.kv_lora_rank, 1, &one_split) == CLMLA_SUCCESS &&
        one_split > 0) {
        const uint64_t holds = layer->workspace.splits_bytes / one_split;
        max_splits = holds > INT32_MAX ? INT32_MAX : holds < 1 ? 1 : (int32_t)holds;
    }
    if (layer->num_splits > 1) {
        step->num_splits = layer->num_splits < max_splits ? layer->num_splits : max_splits;
        step->split_tokens = (int32_t)mla__ceil_div((uint64_t)plan->step.max_cache_seqlen,
                                                    (uint64_t)step->num_splits);
        return;
    }
    mla__attention_choose_splits(layer->context, layer->config.num_attention_heads,
                                 plan->step.num_sequences, num_tokens, plan->step.max_cache_seqlen,
                                 max_splits, &step->num_splits, &step->split_tokens);
}

bool mla__binding_merges_up(const clmla_binding *binding, const mla__attention_step *step)
{
    return step->num_splits > 1 && step->num_tokens <= binding->merge_v_up_tokens;
}

/* ---- queries --------------------------------------------------------------------------------- */

clmla_status clmla_binding_get_stats(const clmla_binding *binding, clmla_binding_stats *stats)
{
    if (binding == NULL || stats == NULL || stats->struct_size != sizeof(*stats))
        return CLMLA_INVALID_ARGUMENT;
    *stats = binding->stats;
    return CLMLA_SUCCESS;
}

clmla_status clmla_binding_set_stage_fn(clmla_binding *binding, clmla_stage_fn fn, void *user)
{
    if (binding == NULL)
        return CLMLA_INVALID_ARGUMENT;
    binding->stage_fn = fn;
    binding->stage_user = user;
    return CLMLA_SUCCESS;
}
