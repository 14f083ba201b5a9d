/* The text of a config.json. What is accepted must have a layer's sizes in int32. */
#include <math.h>
#include <stdlib.h>

#include "fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    clmla_config config;
    clmla_model_error error = {""};
    const clmla_status status = clmla_model_config_parse((const char *)data, size, &config, &error);
    fuzz_check_error(status, &error);
    if (status != CLMLA_SUCCESS)
        return 0;
    const int64_t heads = config.num_attention_heads;
    const int64_t widths[] = {config.hidden_size, config.q_lora_rank,
                              config.kv_lora_rank + config.qk_rope_head_dim,
                              heads * (config.qk_nope_head_dim + config.qk_rope_head_dim),
                              heads * (config.qk_nope_head_dim + config.v_head_dim)};
    for (size_t i = 0; i < sizeof widths / sizeof widths[0]; i++) {
        if (widths[i] < 0 || widths[i] > INT32_MAX)
            abort();
    }
    if (config.hidden_size < 1 || heads < 1 || !(config.rms_norm_eps >= 0.0) ||
        !(config.rope_theta >= 0.0) || !isfinite(config.rope_theta))
        abort();
    return 0;
}
