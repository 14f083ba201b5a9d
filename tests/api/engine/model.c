#include "model.h"

#include <stdlib.h>
#include <string.h>

enum { Q_LORA = 48, KV_LORA = 64, NOPE = 16, ROPE = 16, V = 24 };

const clmla_config model_config = {
    .struct_size = sizeof(clmla_config),
    .hidden_size = HIDDEN_SIZE,
    .num_attention_heads = NUM_HEADS,
    .q_lora_rank = Q_LORA,
    .kv_lora_rank = KV_LORA,
    .qk_nope_head_dim = NOPE,
    .qk_rope_head_dim = ROPE,
    .v_head_dim = V,
    .rope_scaling = {.factor = 4, .original_max_position_embeddings = 32},
};

static const struct {
    size_t rows, columns;
} shapes[NUM_WEIGHTS] = {
    [Q_A_PROJ] = {Q_LORA, HIDDEN_SIZE},
    [Q_A_LAYERNORM] = {1, Q_LORA},
    [Q_B_PROJ] = {NUM_HEADS * (NOPE + ROPE), Q_LORA},
    [KV_A_PROJ_WITH_MQA] = {KV_LORA + ROPE, HIDDEN_SIZE},
    [KV_A_LAYERNORM] = {1, KV_LORA},
    [KV_B_PROJ] = {NUM_HEADS * (NOPE + V), KV_LORA},
    [O_PROJ] = {HIDDEN_SIZE, NUM_HEADS *V},
};

/* ---- data ------------------------------------------------------------------------------------ */

/* Uniform in [-1, 1), the same on every run. */
static float next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return (float)(*state >> 8) * (2.0f / 16777216.0f) - 1.0f;
}

/* The upper half of a float. */
static uint16_t to_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)(bits >> 16);
}

/* Matrices keep the size of what they multiply: a uniform value in ±s has variance s² / 3. Norm
 * weights lie around 1. */
static float draw(size_t rows, size_t columns, uint32_t *state)
{
    const float value = next_random(state);
    if (rows == 1)
        return 1.0f + 0.5f * value;
    float scale = 1.0f;
    while (scale * scale * (float)columns > 3.0f)
        scale *= 0.9f;
    return scale * value;
}

clmla_status model_create(struct model *model)
{
    uint32_t state = 1;
    memset(model, 0, sizeof *model);
    for (int layer = 0; layer < NUM_LAYERS; layer++) {
        for (int i = 0; i < NUM_WEIGHTS; i++) {
            struct model_weight *weight = &model->layers[layer][i];
            const size_t count = shapes[i].rows * shapes[i].columns;
            weight->rows = shapes[i].rows;
            weight->columns = shapes[i].columns;
            weight->values = malloc(count * sizeof *weight->values);
            if (weight->values == NULL)
                return CL_OUT_OF_HOST_MEMORY;
            for (size_t j = 0; j < count; j++)
                weight->values[j] = to_bf16(draw(weight->rows, weight->columns, &state));
        }
    }
    model->embedding = malloc(VOCABULARY * HIDDEN_SIZE * sizeof *model->embedding);
    if (model->embedding == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    for (size_t j = 0; j < VOCABULARY * HIDDEN_SIZE; j++)
        model->embedding[j] = 1.5f * next_random(&state);
    return CLMLA_SUCCESS;
}

void model_release(struct model *model)
{
    for (int layer = 0; layer < NUM_LAYERS; layer++) {
        for (int i = 0; i < NUM_WEIGHTS; i++)
            free(model->layers[layer][i].values);
    }
    free(model->embedding);
}

void model_embed(const struct model *model, int32_t token, float *hidden)
{
    memcpy(hidden, model->embedding + (size_t)token * HIDDEN_SIZE, HIDDEN_SIZE * sizeof *hidden);
}

int32_t model_sample(const struct model *model, const float *hidden)
{
    int32_t best = 0;
    float best_logit = 0;
    for (int32_t token = 0; token < VOCABULARY; token++) {
        const float *row = model->embedding + (size_t)token * HIDDEN_SIZE;
        float logit = 0;
        for (size_t i = 0; i < HIDDEN_SIZE; i++)
            logit += row[i] * hidden[i];
        if (token == 0 || logit > best_logit) {
            best = token;
            best_logit = logit;
        }
    }
    return best;
}

/* ---- shards ---------------------------------------------------------------------------------- */

clmla_config model_config_of_shard(int32_t num_heads)
{
    clmla_config config = model_config;
    /* Not the hidden size and not softmax_scale: neither depends on the number of heads. */
    config.num_attention_heads = num_heads;
    return config;
}

/* A view that starts at an element; row_stride 0: rows follow each other without a gap. */
static clmla_weight_source view(const struct model_weight *weight, size_t first_row,
                                size_t first_column, size_t row_stride)
{
    const size_t first = first_row * weight->columns + first_column;
    return (clmla_weight_source){.host = weight->values,
                                 .tensor = {.offset_bytes = first * sizeof *weight->values,
                                            .strides = {row_stride},
                                            .dtype = CLMLA_DTYPE_BF16}};
}

clmla_weights_params model_weights_of_shard(const struct model *model, int32_t layer,
                                            int32_t first_head)
{
    const struct model_weight *w = model->layers[layer];
    const size_t head = (size_t)first_head;
    return (clmla_weights_params){
        .struct_size = sizeof(clmla_weights_params),
        /* What makes the latents is every shard's: each computes and caches all of them. */
        .q_a_proj = view(&w[Q_A_PROJ], 0, 0, 0),
        .q_a_layernorm = view(&w[Q_A_LAYERNORM], 0, 0, 0),
        .kv_a_proj_with_mqa = view(&w[KV_A_PROJ_WITH_MQA], 0, 0, 0),
        .kv_a_layernorm = view(&w[KV_A_LAYERNORM], 0, 0, 0),
        /* Out of the latents come the heads' queries, keys and values: rows, head after head. */
        .q_b_proj = view(&w[Q_B_PROJ], head * (NOPE + ROPE), 0, 0),
        .kv_b_proj = view(&w[KV_B_PROJ], head * (NOPE + V), 0, 0),
        /* Into the hidden state go all heads side by side: columns of every row, hence the stride
         * of the whole matrix. The shards' outputs are summands of the layer's. */
        .o_proj = view(&w[O_PROJ], 0, head * V, NUM_HEADS * V),
    };
}
