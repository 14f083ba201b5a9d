#include "cli/golden_range.h"

#include <math.h>
#include <stdio.h>

#include "core/checked.h"
#include "core/dtype.h"

static bool fits(float value, float limit, mla_golden_outlier *outlier)
{
    outlier->value = value;
    return !(fabsf(value) > limit) || isinf(value);
}

static bool bf16_fits(const uint16_t *values, uint64_t count, float limit,
                      mla_golden_outlier *outlier)
{
    for (uint64_t i = 0; i < count; i++)
        if (!fits(mla__bf16_to_float(values[i]), limit, outlier))
            return false;
    return true;
}

/* code · scale of its 128 x 128 block */
static bool fp8_fits(const mla_golden_weight *w, float limit, mla_golden_outlier *outlier)
{
    enum { BLOCK = 128 };
    const uint8_t *codes = w->data;
    const uint64_t blocks = mla__ceil_div(w->columns, BLOCK);
    for (uint64_t row = 0; row < w->rows; row++)
        for (uint64_t column = 0; column < w->columns; column++) {
            const float scale = w->scale_inv[row / BLOCK * blocks + column / BLOCK];
            const float code = mla__f8_e4m3_to_float(codes[row * w->columns + column]);
            if (!fits(code * scale, limit, outlier))
                return false;
        }
    return true;
}

static bool weights_fit(const mla_golden_weights *w, float limit, mla_golden_outlier *outlier)
{
    const struct {
        const char *name;
        const mla_golden_weight *weight;
    } all[] = {{"q_proj", &w->q_proj},
               {"q_a_proj", &w->q_a_proj},
               {"q_a_layernorm", &w->q_a_layernorm},
               {"q_b_proj", &w->q_b_proj},
               {"kv_a_proj_with_mqa", &w->kv_a_proj_with_mqa},
               {"kv_a_layernorm", &w->kv_a_layernorm},
               {"kv_b_proj", &w->kv_b_proj},
               {"o_proj", &w->o_proj}};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        const mla_golden_weight *weight = all[i].weight;
        (void)snprintf(outlier->tensor, sizeof(outlier->tensor),
                       "model.layers.0.self_attn.%s.weight", all[i].name);
        if (weight->data == NULL)
            continue;
        if (weight->scale_inv != NULL
                ? !fp8_fits(weight, limit, outlier)
                : !bf16_fits(weight->data, weight->rows * weight->columns, limit, outlier))
            return false;
    }
    return true;
}

static bool cache_fits(const mla_golden_request *request, const char *name, const uint16_t *rows,
                       int32_t width, float limit, mla_golden_outlier *outlier)
{
    const uint64_t count = (uint64_t)request->batch * (uint64_t)request->past * (uint64_t)width;
    (void)snprintf(outlier->tensor, sizeof(outlier->tensor), "%sinit.%s", request->prefix, name);
    return request->past == 0 || width == 0 || bf16_fits(rows, count, limit, outlier);
}

static bool request_fits(const mla_golden_request *request, const clmla_config *config, float limit,
                         mla_golden_outlier *outlier)
{
    if (!cache_fits(request, "kv_cache", request->kv_cache, config->kv_lora_rank, limit, outlier) ||
        !cache_fits(request, "pe_cache", request->pe_cache, config->qk_rope_head_dim, limit,
                    outlier))
        return false;
    for (int32_t i = 0; i < request->num_steps; i++) {
        const uint64_t count =
            (uint64_t)request->batch * (uint64_t)request->steps[i] * (uint64_t)config->hidden_size;
        (void)snprintf(outlier->tensor, sizeof(outlier->tensor), "%sstep%d.hidden_states",
                       request->prefix, (int)i);
        if (!bf16_fits(request->hidden[i], count, limit, outlier))
            return false;
    }
    return true;
}

bool mla_golden_fits(const mla_golden *golden, float limit, mla_golden_outlier *outlier)
{
    if (!weights_fit(&golden->weights, limit, outlier))
        return false;
    for (int32_t r = 0; r < golden->num_requests; r++)
        if (!request_fits(&golden->requests[r], &golden->config, limit, outlier))
            return false;
    return true;
}
