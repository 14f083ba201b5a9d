#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/bench.h"
#include "cli/convert.h"
#include "cli/draw_fp8.h"
#include "core/checked.h"
#include "core/config.h"
#include "core/dtype.h"
#include "core/fp8_cache.h"
#include "ref/draw.h"

enum { NAME_BYTES = 64 };

typedef struct weight_shape {
    const char *name;
    uint64_t rows, columns; /* norm weights: one row */
    int exp;
    bool is_norm;
} weight_shape;

/* In the order of clmla_weights_params; zero rows: not part of this configuration. */
static void weight_shapes(const clmla_config *c, weight_shape *out)
{
    const uint64_t heads = (uint64_t)c->num_attention_heads, hidden = (uint64_t)c->hidden_size;
    const uint64_t q_lora = (uint64_t)c->q_lora_rank, kv_lora = (uint64_t)c->kv_lora_rank;
    const uint64_t q_rows = heads * (uint64_t)mla__config_qk_head_dim(c);
    const uint64_t kv_rows = heads * (uint64_t)(c->qk_nope_head_dim + c->v_head_dim);
    const uint64_t o_columns = heads * (uint64_t)c->v_head_dim;
    const bool has_q_lora = q_lora > 0;
    const int hidden_exp = mla_draw_weight_exp(c->hidden_size);
    out[0] = (weight_shape){"q_proj", has_q_lora ? 0 : q_rows, hidden, hidden_exp, false};
    out[1] = (weight_shape){"q_a_proj", q_lora, hidden, hidden_exp, false};
    out[2] = (weight_shape){"q_a_layernorm", has_q_lora ? 1 : 0, q_lora, 0, true};
    out[3] = (weight_shape){"q_b_proj", has_q_lora ? q_rows : 0, q_lora,
                            has_q_lora ? mla_draw_weight_exp(c->q_lora_rank) : 0, false};
    out[4] = (weight_shape){"kv_a_proj_with_mqa", (uint64_t)mla__config_kv_dim(c), hidden,
                            hidden_exp, false};
    out[5] = (weight_shape){"kv_a_layernorm", 1, kv_lora, 0, true};
    out[6] =
        (weight_shape){"kv_b_proj", kv_rows, kv_lora, mla_draw_weight_exp(c->kv_lora_rank), false};
    /* what o_proj reads is an average over keys, hence small: twice as large */
    out[7] = (weight_shape){"o_proj", hidden, o_columns,
                            mla_draw_weight_exp(c->num_attention_heads * c->v_head_dim) + 1, false};
}

/* ---- weights --------------------------------------------------------------------------------- */

/* Draws weight i; release in each case. */
static bool draw_bf16(const weight_shape *shape, const char *name, uint64_t seed, int i,
                      mla_drawn_weights *out)
{
    const size_t count = (size_t)(shape->rows * shape->columns);
    uint16_t *patterns = malloc(count * sizeof(*patterns));
    out->owned[i] = patterns;
    if (patterns == NULL)
        return false;
    mla_draw(mla_draw_base(name, seed), 0, count, shape->is_norm ? MLA_DRAW_NORM : MLA_DRAW_SYM,
             shape->exp, patterns);
    out->weights[i] = (clmla_checkpoint_weight){
        .data = patterns, .dtype = CLMLA_ST_BF16, .rows = shape->rows, .columns = shape->columns};
    return true;
}

/* Replaces weight i by its codes and scales. */
static bool make_fp8(const char *name, uint64_t seed, int i, mla_drawn_weights *out)
{
    clmla_checkpoint_weight *weight = &out->weights[i];
    const size_t num_scales = mla_fp8_scales((size_t)weight->rows, (size_t)weight->columns);
    uint8_t *codes = malloc((size_t)(weight->rows * weight->columns));
    float *scale_inv = malloc(num_scales * sizeof(*scale_inv));
    const bool done = codes != NULL && scale_inv != NULL;
    if (done)
        mla_draw_fp8(name, seed, weight->data, (size_t)weight->rows, (size_t)weight->columns, codes,
                     scale_inv);
    free(out->owned[i]);
    out->owned[i] = codes;
    out->owned[MLA_NUM_WEIGHTS + i] = scale_inv;
    weight->data = codes;
    weight->dtype = CLMLA_ST_F8_E4M3;
    weight->scale_inv = scale_inv;
    return done;
}

bool mla_draw_weights(const clmla_config *config, int32_t layer, uint64_t seed, bool fp8,
                      mla_drawn_weights *out)
{
    weight_shape shapes[MLA_NUM_WEIGHTS];
    *out = (mla_drawn_weights){0};
    weight_shapes(config, shapes);
    for (int i = 0; i < MLA_NUM_WEIGHTS; i++) {
        const weight_shape *shape = &shapes[i];
        char name[NAME_BYTES];
        if (shape->rows * shape->columns == 0)
            continue;
        (void)snprintf(name, sizeof(name), "model.layers.%d.self_attn.%s.weight", (int)layer,
                       shape->name);
        if (!draw_bf16(shape, name, seed, i, out) ||
            (fp8 && !shape->is_norm && !make_fp8(name, seed, i, out)))
            return false;
    }
    return true;
}

void mla_drawn_weights_release(mla_drawn_weights *weights)
{
    for (int i = 0; i < 2 * MLA_NUM_WEIGHTS; i++)
        free(weights->owned[i]);
    *weights = (mla_drawn_weights){0};
}

/* ---- rows ------------------------------------------------------------------------------------ */

void mla_draw_hidden(const clmla_config *config, int32_t request, uint64_t seed, size_t count,
                     uint16_t *out)
{
    char name[NAME_BYTES];
    (void)snprintf(name, sizeof(name), "req%d.hidden_states", (int)request);
    mla_draw(mla_draw_base(name, seed), 0, count * (size_t)config->hidden_size, MLA_DRAW_SYM,
             MLA_DRAW_INPUT_EXP, out);
}

/* "layer0.req3.init.kv_cache" */
static uint64_t past_base(int32_t layer, int32_t request, const char *what, uint64_t seed)
{
    char name[NAME_BYTES];
    (void)snprintf(name, sizeof(name), "layer%d.req%d.init.%s", (int)layer, (int)request, what);
    return mla_draw_base(name, seed);
}

void mla_draw_past(int32_t layer, int32_t request, bool rope_part, uint64_t seed, size_t count,
                   uint16_t *out)
{
    mla_draw(past_base(layer, request, rope_part ? "pe_cache" : "kv_cache", seed), 0, count,
             MLA_DRAW_SYM, MLA_DRAW_INPUT_EXP, out);
}

/* Drawn groups of 128 elements have the same scale, nearly all of them, and one taken from another
 * group would not show: each is made smaller by a power of two, 1 to 1/8, that is drawn. */
static void shrink_groups(uint64_t base, size_t key, size_t kv_lora, float *latent)
{
    const size_t groups = kv_lora / MLA__FP8_GROUP;
    for (size_t group = 0; group < groups; group++) {
        const float drawn =
            mla__bf16_to_float(mla_draw_bf16(base, key * groups + group, MLA_DRAW_UNIT, 0));
        const float factor = ldexpf(1.0f, -(int)(4.0f * drawn));
        for (size_t i = 0; i < MLA__FP8_GROUP; i++)
            latent[group * MLA__FP8_GROUP + i] *= factor;
    }
}

bool mla_draw_records(const clmla_config *config, int32_t layer, int32_t request, uint64_t seed,
                      size_t count, unsigned char *out)
{
    const size_t kv_lora = (size_t)config->kv_lora_rank, rope = (size_t)config->qk_rope_head_dim;
    const uint64_t kv_base = past_base(layer, request, "kv_cache", seed);
    const uint64_t pe_base = past_base(layer, request, "pe_cache", seed);
    const uint64_t scale_base = past_base(layer, request, "kv_scale", seed);
    uint16_t *drawn = malloc((kv_lora + rope) * sizeof(*drawn));
    float *latent = malloc(kv_lora * sizeof(*latent));
    const bool done = drawn != NULL && latent != NULL;
    for (size_t key = 0; key < count && done; key++) {
        mla_draw(kv_base, (uint64_t)(key * kv_lora), kv_lora, MLA_DRAW_SYM, MLA_DRAW_INPUT_EXP,
                 drawn);
        mla_draw(pe_base, (uint64_t)(key * rope), rope, MLA_DRAW_SYM, MLA_DRAW_INPUT_EXP,
                 drawn + kv_lora);
        mla_load_floats(drawn, CLMLA_DTYPE_BF16, 0, kv_lora, latent);
        shrink_groups(scale_base, key, kv_lora, latent);
        mla_store_record(config, latent, drawn + kv_lora, CLMLA_DTYPE_BF16,
                         out + key * mla_record_bytes(config));
    }
    free(drawn);
    free(latent);
    return done;
}
