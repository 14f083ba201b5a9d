#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/bench.h"
#include "core/config.h"
#include "ref/draw.h"

enum { NAME_BYTES = 64 };

/* Hidden states and caches are uniform over (-2, 2), as in the golden recipe. */
#define INPUT_EXP 1

/* Uniform over (-2^e, 2^e) has the standard deviation 2^e / √3; 1/√fan_in keeps outputs near 1. */
static int weight_exp(int32_t fan_in) { return (int)lround(-log2(sqrt((double)fan_in / 3.0))); }

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
    const int hidden_exp = weight_exp(c->hidden_size);
    out[0] = (weight_shape){"q_proj", has_q_lora ? 0 : q_rows, hidden, hidden_exp, false};
    out[1] = (weight_shape){"q_a_proj", q_lora, hidden, hidden_exp, false};
    out[2] = (weight_shape){"q_a_layernorm", has_q_lora ? 1 : 0, q_lora, 0, true};
    out[3] = (weight_shape){"q_b_proj", has_q_lora ? q_rows : 0, q_lora,
                            has_q_lora ? weight_exp(c->q_lora_rank) : 0, false};
    out[4] = (weight_shape){"kv_a_proj_with_mqa", (uint64_t)mla__config_kv_dim(c), hidden,
                            hidden_exp, false};
    out[5] = (weight_shape){"kv_a_layernorm", 1, kv_lora, 0, true};
    out[6] = (weight_shape){"kv_b_proj", kv_rows, kv_lora, weight_exp(c->kv_lora_rank), false};
    /* what o_proj reads is an average over keys, hence small: twice as large */
    out[7] = (weight_shape){"o_proj", hidden, o_columns,
                            weight_exp(c->num_attention_heads * c->v_head_dim) + 1, false};
}

bool mla_draw_weights(const clmla_config *config, int32_t layer, uint64_t seed,
                      mla_drawn_weights *out)
{
    weight_shape shapes[MLA_NUM_WEIGHTS];
    *out = (mla_drawn_weights){0};
    weight_shapes(config, shapes);
    for (int i = 0; i < MLA_NUM_WEIGHTS; i++) {
        const weight_shape *shape = &shapes[i];
        char name[NAME_BYTES];
        out->count[i] = (size_t)(shape->rows * shape->columns);
        if (out->count[i] == 0)
            continue;
        out->patterns[i] = malloc(out->count[i] * sizeof(*out->patterns[i]));
        if (out->patterns[i] == NULL)
            return false;
        (void)snprintf(name, sizeof(name), "model.layers.%d.self_attn.%s.weight", (int)layer,
                       shape->name);
        mla_draw(mla_draw_base(name, seed), 0, out->count[i],
                 shape->is_norm ? MLA_DRAW_NORM : MLA_DRAW_SYM, shape->exp, out->patterns[i]);
    }
    return true;
}

void mla_drawn_weights_release(mla_drawn_weights *weights)
{
    for (int i = 0; i < MLA_NUM_WEIGHTS; i++)
        free(weights->patterns[i]);
    *weights = (mla_drawn_weights){0};
}

void mla_draw_hidden(const clmla_config *config, int32_t request, uint64_t seed, size_t count,
                     uint16_t *out)
{
    char name[NAME_BYTES];
    (void)snprintf(name, sizeof(name), "req%d.hidden_states", (int)request);
    mla_draw(mla_draw_base(name, seed), 0, count * (size_t)config->hidden_size, MLA_DRAW_SYM,
             INPUT_EXP, out);
}

void mla_draw_past(int32_t layer, int32_t request, bool rope_part, uint64_t seed, size_t count,
                   uint16_t *out)
{
    char name[NAME_BYTES];
    (void)snprintf(name, sizeof(name), "layer%d.req%d.init.%s_cache", (int)layer, (int)request,
                   rope_part ? "pe" : "kv");
    mla_draw(mla_draw_base(name, seed), 0, count, MLA_DRAW_SYM, INPUT_EXP, out);
}
