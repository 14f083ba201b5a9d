/*
 * One layer's weights of a checkpoint, every tensor checked against the configuration.
 */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "core/checked.h"
#include "core/dtype.h"
#include "model/checkpoint.h"
#include "model/error.h"

enum { NUM_WEIGHTS = 8, NAME_BYTES = 96, TEXT_BYTES = 192 };

/* What the configuration asks of a weight, and where it goes. */
typedef struct wanted_weight {
    const char *name;
    bool wanted;
    uint64_t rows, columns; /* rows 0: a norm's weights [columns] */
    clmla_checkpoint_weight *to;
} wanted_weight;

/* A layer being read. */
typedef struct reader {
    clmla_checkpoint *checkpoint;
    int32_t layer;
    clmla_model_error *error;
} reader;

static void list_wanted(const clmla_config *c, clmla_checkpoint_weights *to,
                        wanted_weight out[NUM_WEIGHTS])
{
    const bool lora = c->q_lora_rank > 0;
    const uint64_t heads = (uint64_t)c->num_attention_heads;
    const uint64_t nope = (uint64_t)c->qk_nope_head_dim;
    const uint64_t rope = (uint64_t)c->qk_rope_head_dim;
    const uint64_t v = (uint64_t)c->v_head_dim;
    const uint64_t hidden = (uint64_t)c->hidden_size;
    const uint64_t q_lora = (uint64_t)c->q_lora_rank;
    const uint64_t kv_lora = (uint64_t)c->kv_lora_rank;
    const wanted_weight list[NUM_WEIGHTS] = {
        {"q_proj", !lora, heads * (nope + rope), hidden, &to->q_proj},
        {"q_a_proj", lora, q_lora, hidden, &to->q_a_proj},
        {"q_a_layernorm", lora, 0, q_lora, &to->q_a_layernorm},
        {"q_b_proj", lora, heads * (nope + rope), q_lora, &to->q_b_proj},
        {"kv_a_proj_with_mqa", true, kv_lora + rope, hidden, &to->kv_a_proj_with_mqa},
        {"kv_a_layernorm", true, 0, kv_lora, &to->kv_a_layernorm},
        {"kv_b_proj", true, heads * (nope + v), kv_lora, &to->kv_b_proj},
        {"o_proj", true, hidden, heads * v, &to->o_proj},
    };
    memcpy(out, list, sizeof list);
}

static void tensor_name(const reader *in, const char *weight, const char *what,
                        char name[NAME_BYTES])
{
    (void)snprintf(name, NAME_BYTES, "model.layers.%d.self_attn.%s.%s", (int)in->layer, weight,
                   what);
}

/* ---- one tensor ----------------------------------------------------------------------------- */

/* rows 0: one dimension. */
static bool has_shape(const clmla_safetensors_tensor *tensor, uint64_t rows, uint64_t columns)
{
    if (rows == 0)
        return tensor->rank == 1 && tensor->shape[0] == columns;
    return tensor->rank == 2 && tensor->shape[0] == rows && tensor->shape[1] == columns;
}

static void shape_text(uint64_t rows, uint64_t columns, char text[TEXT_BYTES])
{
    if (rows == 0)
        (void)snprintf(text, TEXT_BYTES, "[%llu]", (unsigned long long)columns);
    else
        (void)snprintf(text, TEXT_BYTES, "[%llu, %llu]", (unsigned long long)rows,
                       (unsigned long long)columns);
}

static clmla_status find(const reader *in, const char *weight, const char *what, mla__located *out)
{
    char name[NAME_BYTES];
    tensor_name(in, weight, what, name);
    return mla__checkpoint_find(in->checkpoint, name, out, in->error);
}

/* Why a tensor is missing, where the configuration is the likelier cause. */
static clmla_status missing(const reader *in, const wanted_weight *weight, const char *path)
{
    const int q_lora_rank = (int)in->checkpoint->config.q_lora_rank;
    char name[NAME_BYTES];
    char hint[64] = "";
    tensor_name(in, weight->name, "weight", name);
    if (weight->name[0] == 'q')
        (void)snprintf(hint, sizeof hint, "; config.json says q_lora_rank %d", q_lora_rank);
    return mla__model_fail(in->error, CLMLA_BAD_FILE, "%s: tensor '%s' is missing%s", path, name,
                           hint);
}

static clmla_status check_dtype_and_shape(const reader *in, const wanted_weight *weight,
                                          const mla__located *located)
{
    const clmla_safetensors_dtype dtype = located->tensor->dtype;
    const bool is_norm = weight->rows == 0;
    char is[TEXT_BYTES];
    char shape[TEXT_BYTES];
    if ((dtype == CLMLA_ST_BF16 || dtype == CLMLA_ST_F16 || dtype == CLMLA_ST_F32 ||
         (dtype == CLMLA_ST_F8_E4M3 && !is_norm)) &&
        has_shape(located->tensor, weight->rows, weight->columns))
        return CLMLA_SUCCESS;
    clmla_safetensors_describe(located->tensor, is, sizeof is);
    shape_text(weight->rows, weight->columns, shape);
    return mla__model_fail(
        in->error, CLMLA_BAD_FILE, "%s: tensor '%s' is %s; config.json asks for %s of BF16, F16%s",
        located->path, located->tensor->name, is, shape, is_norm ? " or F32" : ", F32 or F8_E4M3");
}

/* ---- scales --------------------------------------------------------------------------------- */

static clmla_status check_finite(const reader *in, const mla__located *scale)
{
    const unsigned char *bytes = scale->tensor->data;
    for (uint64_t i = 0; i < scale->tensor->num_elements; i++) {
        float value;
        memcpy(&value, bytes + i * sizeof value, sizeof value);
        if (!isfinite(value))
            return mla__model_fail(
                in->error, CLMLA_BAD_FILE, "%s: tensor '%s': element %llu is %g, must be finite",
                scale->path, scale->tensor->name, (unsigned long long)i, (double)value);
    }
    return CLMLA_SUCCESS;
}

/* The scales of an F8_E4M3 weight; other weights must have none, since they would change them. */
static clmla_status read_scale(const reader *in, const wanted_weight *weight,
                               const mla__located *located)
{
    const uint64_t rows = mla__ceil_div(weight->rows, MLA__FP8_BLOCK);
    const uint64_t columns = mla__ceil_div(weight->columns, MLA__FP8_BLOCK);
    mla__located scale;
    char shape[TEXT_BYTES];
    clmla_status status = find(in, weight->name, "weight_scale_inv", &scale);
    if (status != CLMLA_SUCCESS)
        return status;
    if (located->tensor->dtype != CLMLA_ST_F8_E4M3) {
        if (scale.tensor == NULL)
            return CLMLA_SUCCESS;
        return mla__model_fail(in->error, CLMLA_BAD_FILE,
                               "%s: tensor '%s' is %s, but has a weight_scale_inv, which only "
                               "F8_E4M3 may have",
                               located->path, located->tensor->name,
                               clmla_safetensors_dtype_name(located->tensor->dtype));
    }
    shape_text(rows, columns, shape);
    if (scale.tensor == NULL)
        return mla__model_fail(in->error, CLMLA_BAD_FILE,
                               "%s: tensor '%s_scale_inv' is missing; F8_E4M3 needs F32 %s",
                               scale.path, located->tensor->name, shape);
    if (scale.tensor->dtype != CLMLA_ST_F32 || !has_shape(scale.tensor, rows, columns)) {
        char is[TEXT_BYTES];
        clmla_safetensors_describe(scale.tensor, is, sizeof is);
        return mla__model_fail(in->error, CLMLA_BAD_FILE,
                               "%s: tensor '%s' is %s, must be F32 %s, one for each block of "
                               "%d x %d",
                               scale.path, scale.tensor->name, is, shape, MLA__FP8_BLOCK,
                               MLA__FP8_BLOCK);
    }
    weight->to->scale_inv = scale.tensor->data;
    return check_finite(in, &scale);
}

/* ---- the layer ------------------------------------------------------------------------------ */

static clmla_status refuse_bias(const reader *in, const wanted_weight *weight)
{
    mla__located bias;
    const clmla_status status = find(in, weight->name, "bias", &bias);
    if (status != CLMLA_SUCCESS || bias.tensor == NULL)
        return status;
    return mla__model_fail(in->error, CLMLA_UNSUPPORTED_CONFIG,
                           "%s: tensor '%s': biases are not supported", bias.path,
                           bias.tensor->name);
}

static clmla_status read_weight(const reader *in, const wanted_weight *weight)
{
    mla__located located;
    clmla_status status = refuse_bias(in, weight);
    if (status == CLMLA_SUCCESS)
        status = find(in, weight->name, "weight", &located);
    if (status != CLMLA_SUCCESS)
        return status;
    if (located.tensor == NULL)
        return missing(in, weight, located.path);
    status = check_dtype_and_shape(in, weight, &located);
    if (status != CLMLA_SUCCESS)
        return status;
    *weight->to = (clmla_checkpoint_weight){.data = located.tensor->data,
                                            .dtype = located.tensor->dtype,
                                            .rows = weight->rows > 0 ? weight->rows : 1,
                                            .columns = weight->columns};
    return read_scale(in, weight, &located);
}

/* All shards that hold a part of the layer, before any tensor is looked for: one that is in two of
 * them must be seen. */
static clmla_status map_shards(const reader *in, const wanted_weight weights[NUM_WEIGHTS])
{
    static const char *const parts[] = {"weight", "weight_scale_inv", "bias"};
    clmla_status status = CLMLA_SUCCESS;
    for (int i = 0; i < NUM_WEIGHTS; i++)
        for (size_t p = 0; p < sizeof parts / sizeof parts[0] && status == CLMLA_SUCCESS; p++) {
            char name[NAME_BYTES];
            tensor_name(in, weights[i].name, parts[p], name);
            if (weights[i].wanted)
                status = mla__checkpoint_map(in->checkpoint, name, in->error);
        }
    return status;
}

static clmla_status check_layer(const clmla_checkpoint *checkpoint, int32_t layer,
                                clmla_model_error *error)
{
    if (checkpoint->num_layers == 0)
        return mla__model_fail(error, CLMLA_BAD_FILE,
                               "%s: no tensor is named model.layers.N.self_attn.*",
                               mla__checkpoint_source(checkpoint));
    if (layer < checkpoint->first_layer || layer >= checkpoint->num_layers)
        return mla__model_fail(
            error, CLMLA_INVALID_ARGUMENT, "the checkpoint has layers %d to %d, no layer %d",
            (int)checkpoint->first_layer, (int)checkpoint->num_layers - 1, (int)layer);
    return CLMLA_SUCCESS;
}

clmla_status clmla_checkpoint_layer(clmla_checkpoint *checkpoint, int32_t layer,
                                    clmla_checkpoint_weights *out, clmla_model_error *error)
{
    const reader in = {checkpoint, layer, error};
    clmla_checkpoint_weights weights = {0};
    wanted_weight wanted[NUM_WEIGHTS];
    clmla_status status;
    if (checkpoint == NULL || out == NULL)
        return mla__model_fail(error, CLMLA_INVALID_ARGUMENT,
                               "checkpoint: checkpoint or out is NULL");
    status = check_layer(checkpoint, layer, error);
    if (status != CLMLA_SUCCESS)
        return status;
    list_wanted(&checkpoint->config, &weights, wanted);
    status = map_shards(&in, wanted);
    for (int i = 0; i < NUM_WEIGHTS && status == CLMLA_SUCCESS; i++)
        if (wanted[i].wanted)
            status = read_weight(&in, &wanted[i]);
    if (status == CLMLA_SUCCESS)
        *out = weights;
    return status;
}
