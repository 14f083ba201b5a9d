#include <string.h>

#include "cli/bench.h"

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
