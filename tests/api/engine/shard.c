#include "shard.h"

#include <string.h>

#include "pages.h"

static size_t cache_bytes(int32_t width)
{
    return (size_t)NUM_PAGES * PAGE_BLOCK_SIZE * (size_t)width * sizeof(uint16_t);
}

/* One layer object serves all model layers. Its limits are promises to clmla: it sizes workspace
 * and plan by them and refuses a step that exceeds them. */
static clmla_status create_layer(const struct shard_params *params, struct shard *shard)
{
    const clmla_config config = model_config_of_shard(params->num_heads);
    const clmla_layer_params limits = {.struct_size = sizeof limits,
                                       .config = &config,
                                       .max_num_sequences = MAX_SEQUENCES,
                                       .max_num_tokens = MAX_STEP_TOKENS,
                                       .max_cache_seqlen = MAX_KEYS,
                                       .page_block_size = PAGE_BLOCK_SIZE,
                                       .num_pages = NUM_PAGES,
                                       /* Weights and caches are bf16. Hidden states are float32,
                                        * so that the sum over shards is not rounded in between. */
                                       .hidden_dtype = CLMLA_DTYPE_F32,
                                       .batch_invariant = params->batch_invariant};
    clmla_status status = clmla_layer_create(params->context, &limits, &shard->layer);
    if (status == CLMLA_SUCCESS) /* compiles now, so that no step has to */
        status = clmla_layer_prepare(shard->layer, shard->queue);
    if (status == CLMLA_SUCCESS)
        status = clmla_plan_create(shard->layer, &shard->plan);

    clmla_layer_info info = {.struct_size = sizeof info};
    if (status == CLMLA_SUCCESS)
        status = clmla_layer_get_info(shard->layer, &info);
    if (status == CLMLA_SUCCESS && info.workspace_bytes > 0)
        shard->workspace =
            clCreateBuffer(params->cl, CL_MEM_READ_WRITE, info.workspace_bytes, NULL, &status);
    return status;
}

/* What every model layer has for itself: weights, caches, and the binding that ties them to the
 * buffers. A binding keeps its kernels' arguments, so that enqueueing a layer sets none. */
static clmla_status create_model_layer(const struct shard_params *params, int32_t index,
                                       struct shard *shard)
{
    struct shard_layer *own = &shard->layers[index];
    const clmla_weights_params sources =
        model_weights_of_shard(params->model, index, params->first_head);
    clmla_status status = clmla_weights_create(shard->layer, &sources, shard->queue, &own->weights);
    if (status == CLMLA_SUCCESS)
        own->kv_cache = clCreateBuffer(params->cl, CL_MEM_READ_WRITE,
                                       cache_bytes(model_config.kv_lora_rank), NULL, &status);
    if (status == CLMLA_SUCCESS)
        own->pe_cache = clCreateBuffer(params->cl, CL_MEM_READ_WRITE,
                                       cache_bytes(model_config.qk_rope_head_dim), NULL, &status);

    const clmla_binding_params tensors = {.struct_size = sizeof tensors,
                                          .weights = own->weights,
                                          .kv_cache = {.buffer = own->kv_cache},
                                          .pe_cache = {.buffer = own->pe_cache},
                                          .hidden_states = {.buffer = params->hidden[index % 2]},
                                          .output = {.buffer = params->hidden[(index + 1) % 2]},
                                          .output_mode = params->output_mode,
                                          .workspace = {.buffer = shard->workspace}};
    if (status == CLMLA_SUCCESS)
        status = clmla_binding_create(shard->layer, &tensors, &own->binding);
    return status;
}

clmla_status shard_create(const struct shard_params *params, struct shard *shard)
{
    clmla_status status = CLMLA_SUCCESS;
    memset(shard, 0, sizeof *shard);
    shard->queue = clCreateCommandQueue(params->cl, params->device, 0, &status);
    if (status == CLMLA_SUCCESS)
        status = create_layer(params, shard);
    for (int32_t i = 0; i < NUM_LAYERS && status == CLMLA_SUCCESS; i++)
        status = create_model_layer(params, i, shard);
    return status;
}

void shard_release(struct shard *shard)
{
    if (shard->queue != NULL)
        clFinish(shard->queue);
    for (int32_t i = 0; i < NUM_LAYERS; i++) {
        struct shard_layer *own = &shard->layers[i];
        clmla_binding_release(own->binding);
        clmla_weights_release(own->weights);
        if (own->kv_cache != NULL)
            clReleaseMemObject(own->kv_cache);
        if (own->pe_cache != NULL)
            clReleaseMemObject(own->pe_cache);
    }
    clmla_plan_release(shard->plan);
    clmla_layer_release(shard->layer);
    if (shard->workspace != NULL)
        clReleaseMemObject(shard->workspace);
    if (shard->queue != NULL)
        clReleaseCommandQueue(shard->queue);
}
