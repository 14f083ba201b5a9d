/*
 * A host application that reads a model's config.json text through libclmla_model. Exits 0 when the
 * values arrive and a text that is no configuration is refused with an explanation.
 */
#define CL_TARGET_OPENCL_VERSION 120
#include <clmla_model.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char text[] = "{\"hidden_size\": 2048, \"num_attention_heads\": 16,"
                           " \"q_lora_rank\": null, \"kv_lora_rank\": 512,"
                           " \"qk_nope_head_dim\": 128, \"qk_rope_head_dim\": 64,"
                           " \"v_head_dim\": 128, \"rms_norm_eps\": 1e-06,"
                           " \"rope_theta\": 10000, \"rope_scaling\": null,"
                           " \"max_position_embeddings\": 4096}";

int main(void)
{
    clmla_config config;
    clmla_model_error error = {.text = ""};
    clmla_status status = clmla_model_config_parse(text, strlen(text), &config, &error);
    if (status != CLMLA_SUCCESS) {
        fprintf(stderr, "embed_model: %s: %s\n", clmla_status_name(status), error.text);
        return EXIT_FAILURE;
    }
    if (config.hidden_size != 2048 || config.q_lora_rank != 0 || config.kv_lora_rank != 512) {
        fprintf(stderr, "embed_model: hidden_size %d, kv_lora_rank %d\n", config.hidden_size,
                config.kv_lora_rank);
        return EXIT_FAILURE;
    }
    if (clmla_model_config_parse("[]", 2, &config, &error) == CLMLA_SUCCESS ||
        error.text[0] == '\0') {
        fprintf(stderr, "embed_model: [] was accepted, or refused without a word\n");
        return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}
