/* The text of a model.safetensors.index.json, beside a valid config.json and one shard that has a
 * tensor. */
#include <stdlib.h>
#include <string.h>

#include "fuzz/fuzz.h"

static const char config[] =
    "{\"hidden_size\": 8, \"num_attention_heads\": 1, \"q_lora_rank\": null, \"kv_lora_rank\": 4, "
    "\"qk_nope_head_dim\": 2, \"qk_rope_head_dim\": 2, \"v_head_dim\": 2, \"rms_norm_eps\": 1e-6, "
    "\"rope_theta\": 10000.0, \"rope_scaling\": null, \"max_position_embeddings\": 64}";

static const char shard_header[] =
    "{\"model.layers.3.self_attn.kv_a_layernorm.weight\": "
    "{\"dtype\": \"BF16\", \"shape\": [4], \"data_offsets\": [0, 8]}}";

static void write_shard(void)
{
    uint8_t file[8 + sizeof shard_header - 1 + 8] = {sizeof shard_header - 1};
    memcpy(file + 8, shard_header, sizeof shard_header - 1);
    (void)fuzz_file("a.safetensors", file, sizeof file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int prepared = 0;
    if (!prepared) {
        (void)fuzz_file("config.json", config, sizeof config - 1);
        write_shard();
        prepared = 1;
    }
    (void)fuzz_file("model.safetensors.index.json", data, size);
    clmla_checkpoint *checkpoint = NULL;
    clmla_checkpoint_weights weights;
    clmla_model_error error = {""};
    clmla_status status = clmla_checkpoint_open(fuzz_file("", NULL, 0), &checkpoint, &error);
    fuzz_check_error(status, &error);
    if (status != CLMLA_SUCCESS)
        return 0;
    const int32_t layers = clmla_checkpoint_num_layers(checkpoint);
    const int32_t asked[] = {0, 3, layers - 1, layers};
    for (size_t i = 0; i < sizeof asked / sizeof asked[0]; i++) {
        error.text[0] = '\0';
        status = clmla_checkpoint_layer(checkpoint, asked[i], &weights, &error);
        fuzz_check_error(status, &error);
        if (status == CLMLA_SUCCESS) /* one shard has one tensor */
            abort();
    }
    clmla_checkpoint_close(checkpoint);
    return 0;
}
