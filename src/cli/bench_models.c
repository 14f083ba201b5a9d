#include <string.h>

#include "cli/bench.h"
#include "cli/message.h"
#include "core/fp8_cache.h"

/* DeepSeek-V2-Lite: config of tests/golden/29_full_lite_prefill.safetensors. */
static const clmla_config lite = {
    .struct_size = sizeof(clmla_config),
    .hidden_size = 2048,
    .num_attention_heads = 16,
    .q_lora_rank = 0,
    .kv_lora_rank = 512,
    .qk_nope_head_dim = 128,
    .qk_rope_head_dim = 64,
    .v_head_dim = 128,
    .max_position_embeddings = 163840,
    .rms_norm_eps = 1e-6,
    .rope_theta = 10000.0,
    .rope_scaling = {.factor = 40.0,
                     .beta_fast = 32.0,
                     .beta_slow = 1.0,
                     .mscale = 0.707,
                     .mscale_all_dim = 0.707,
                     .original_max_position_embeddings = 4096},
};

/* DeepSeek-R1 and V3: config of tests/golden/31_full_r1_prefill.safetensors. */
static const clmla_config r1 = {
    .struct_size = sizeof(clmla_config),
    .hidden_size = 7168,
    .num_attention_heads = 128,
    .q_lora_rank = 1536,
    .kv_lora_rank = 512,
    .qk_nope_head_dim = 128,
    .qk_rope_head_dim = 64,
    .v_head_dim = 128,
    .max_position_embeddings = 163840,
    .rms_norm_eps = 1e-6,
    .rope_theta = 10000.0,
    .rope_scaling = {.factor = 40.0,
                     .beta_fast = 32.0,
                     .beta_slow = 1.0,
                     .mscale = 1.0,
                     .mscale_all_dim = 1.0,
                     .original_max_position_embeddings = 4096},
};

bool mla_bench_model(const char *name, clmla_config *out)
{
    if (strcmp(name, "lite") != 0 && strcmp(name, "r1") != 0)
        return false;
    *out = strcmp(name, "lite") == 0 ? lite : r1;
    return true;
}

bool mla_check_storage(const mla_common *common, const char *model, const clmla_config *config)
{
    if (common->cache_dtype == CLMLA_DTYPE_FP8_DS_MLA &&
        !mla__fp8_cache_fits(config->kv_lora_rank, config->qk_rope_head_dim)) {
        mla_error(
            "--cache-dtype 'fp8': %s has kv_lora_rank %d; an FP8 cache needs a multiple of %d",
            model, (int)config->kv_lora_rank, MLA__FP8_GROUP);
        return false;
    }
    for (size_t i = 0; i < common->num_projections; i++)
        if (common->weights_dtype == CLMLA_DTYPE_F8_E4M3 &&
            common->projections[i] == CLMLA_PROJECTION_CLBLAST) {
            mla_error("--weights-dtype 'fp8': CLBlast takes no FP8 weights; --projection must be "
                      "auto or native");
            return false;
        }
    return true;
}
