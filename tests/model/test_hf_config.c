/*
 * config.json: the keys of released models are read, and every key that would change the
 * mathematics is refused by name.
 */
#include <stdbool.h>

#include "clmla_model.h"
#include "support/support.h"

#define OUTPUT TEST_OUTPUT_DIR "/test_hf_config.json"

/* A small valid configuration without its closing brace: cases append keys to it. */
#define SIZES                                                                                      \
    "{\"hidden_size\": 64, \"num_attention_heads\": 2, \"kv_lora_rank\": 32, "                     \
    "\"qk_nope_head_dim\": 16, \"qk_rope_head_dim\": 8, \"v_head_dim\": 16"
#define YARN_VALUES                                                                                \
    "\"factor\": 40, \"original_max_position_embeddings\": 4096, \"beta_fast\": 32, "              \
    "\"beta_slow\": 1, \"mscale\": 0.707, \"mscale_all_dim\": 0.707"

/* ---- configurations that are read ----------------------------------------------------------- */

typedef struct accepted_case {
    const char *name;
    const char *json;
    clmla_config expected; /* struct_size is filled in by the test */
} accepted_case;

static const accepted_case accepted[] = {
    {.name = "DeepSeek-R1 and V3",
     .json = "{\"architectures\": [\"DeepseekV3ForCausalLM\"], \"attention_bias\": false, "
             "\"attention_dropout\": 0.0, \"auto_map\": {\"AutoConfig\": \"x\"}, "
             "\"bos_token_id\": 0, \"first_k_dense_replace\": 3, \"hidden_act\": \"silu\", "
             "\"hidden_size\": 7168, \"intermediate_size\": 18432, \"kv_lora_rank\": 512, "
             "\"max_position_embeddings\": 163840, \"model_type\": \"deepseek_v3\", "
             "\"num_attention_heads\": 128, \"num_hidden_layers\": 61, "
             "\"num_key_value_heads\": 128, \"q_lora_rank\": 1536, \"qk_nope_head_dim\": 128, "
             "\"qk_rope_head_dim\": 64, \"quantization_config\": {\"activation_scheme\": "
             "\"dynamic\", \"fmt\": \"e4m3\", \"quant_method\": \"fp8\", \"weight_block_size\": "
             "[128, 128]}, \"rms_norm_eps\": 1e-06, \"rope_scaling\": {\"beta_fast\": 32, "
             "\"beta_slow\": 1, \"factor\": 40, \"mscale\": 1.0, \"mscale_all_dim\": 1.0, "
             "\"original_max_position_embeddings\": 4096, \"type\": \"yarn\"}, "
             "\"rope_theta\": 10000, \"tie_word_embeddings\": false, \"v_head_dim\": 128}\n",
     .expected = {.hidden_size = 7168,
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
                                   .original_max_position_embeddings = 4096}}},
    {.name = "DeepSeek-V3.1: scale_fmt ue8m0 (the scales are float32 all the same)",
     .json = "{\"architectures\": [\"DeepseekV3ForCausalLM\"], \"attention_bias\": false, "
             "\"attention_dropout\": 0.0, \"hidden_size\": 7168, \"kv_lora_rank\": 512, "
             "\"max_position_embeddings\": 163840, \"model_type\": \"deepseek_v3\", "
             "\"num_attention_heads\": 128, \"num_hidden_layers\": 61, "
             "\"num_key_value_heads\": 128, \"num_nextn_predict_layers\": 1, "
             "\"q_lora_rank\": 1536, \"qk_nope_head_dim\": 128, \"qk_rope_head_dim\": 64, "
             "\"quantization_config\": {\"activation_scheme\": \"dynamic\", \"fmt\": \"e4m3\", "
             "\"quant_method\": \"fp8\", \"scale_fmt\": \"ue8m0\", \"weight_block_size\": [128, "
             "128]}, \"rms_norm_eps\": 1e-06, \"rope_scaling\": {\"beta_fast\": 32, "
             "\"beta_slow\": 1, \"factor\": 40, \"mscale\": 1.0, \"mscale_all_dim\": 1.0, "
             "\"original_max_position_embeddings\": 4096, \"type\": \"yarn\"}, "
             "\"rope_theta\": 10000, \"v_head_dim\": 128}",
     .expected = {.hidden_size = 7168,
                  .num_attention_heads = 128,
                  .q_lora_rank = 1536,
                  .kv_lora_rank = 512,
                  .qk_nope_head_dim = 128,
                  .qk_rope_head_dim = 64,
                  .v_head_dim = 128,
                  .max_position_embeddings = 163840,
                  .rms_norm_eps = 1e-6,
                  .rope_theta = 10000.0,
                  .rope_scaling = {40.0, 32.0, 1.0, 1.0, 1.0, 4096}}},
    {.name = "DeepSeek-V2-Lite: q_lora_rank is null",
     .json = "{\"attention_bias\": false, \"hidden_size\": 2048, \"kv_lora_rank\": 512, "
             "\"max_position_embeddings\": 163840, \"model_type\": \"deepseek_v2\", "
             "\"num_attention_heads\": 16, \"num_key_value_heads\": 16, \"q_lora_rank\": null, "
             "\"qk_nope_head_dim\": 128, \"qk_rope_head_dim\": 64, \"rms_norm_eps\": 1e-06, "
             "\"rope_scaling\": {" YARN_VALUES ", \"type\": \"yarn\"}, \"rope_theta\": 10000, "
             "\"torch_dtype\": \"bfloat16\", \"v_head_dim\": 128}",
     .expected = {.hidden_size = 2048,
                  .num_attention_heads = 16,
                  .kv_lora_rank = 512,
                  .qk_nope_head_dim = 128,
                  .qk_rope_head_dim = 64,
                  .v_head_dim = 128,
                  .max_position_embeddings = 163840,
                  .rms_norm_eps = 1e-6,
                  .rope_theta = 10000.0,
                  .rope_scaling = {40.0, 32.0, 1.0, 0.707, 0.707, 4096}}},
    {.name = "sizes of MiniCPM3 with plain RoPE",
     .json = "{\"hidden_size\": 2560, \"num_attention_heads\": 40, \"q_lora_rank\": 768, "
             "\"kv_lora_rank\": 256, \"qk_nope_head_dim\": 64, \"qk_rope_head_dim\": 32, "
             "\"v_head_dim\": 64, \"rms_norm_eps\": 1e-05, \"max_position_embeddings\": 32768, "
             "\"rope_scaling\": null}",
     .expected = {.hidden_size = 2560,
                  .num_attention_heads = 40,
                  .q_lora_rank = 768,
                  .kv_lora_rank = 256,
                  .qk_nope_head_dim = 64,
                  .qk_rope_head_dim = 32,
                  .v_head_dim = 64,
                  .max_position_embeddings = 32768,
                  .rms_norm_eps = 1e-5}},
    {.name = "Kimi-K2: other theta, equal betas",
     .json = "{\"model_type\": \"kimi_k2\", \"attention_bias\": false, "
             "\"num_key_value_heads\": 64, \"quantization_config\": {\"activation_scheme\": "
             "\"dynamic\", \"fmt\": \"e4m3\", \"quant_method\": \"fp8\", "
             "\"weight_block_size\": [128, 128]}, \"hidden_size\": 7168, \"num_attention_heads\": "
             "64, \"q_lora_rank\": 1536, "
             "\"kv_lora_rank\": 512, \"qk_nope_head_dim\": 128, \"qk_rope_head_dim\": 64, "
             "\"v_head_dim\": 128, \"rms_norm_eps\": 1e-06, \"max_position_embeddings\": 131072, "
             "\"rope_theta\": 50000.0, \"rope_scaling\": {\"beta_fast\": 1.0, \"beta_slow\": 1.0, "
             "\"factor\": 32.0, \"mscale\": 1.0, \"mscale_all_dim\": 1.0, "
             "\"original_max_position_embeddings\": 4096, \"type\": \"yarn\"}}",
     .expected = {.hidden_size = 7168,
                  .num_attention_heads = 64,
                  .q_lora_rank = 1536,
                  .kv_lora_rank = 512,
                  .qk_nope_head_dim = 128,
                  .qk_rope_head_dim = 64,
                  .v_head_dim = 128,
                  .max_position_embeddings = 131072,
                  .rms_norm_eps = 1e-6,
                  .rope_theta = 50000.0,
                  .rope_scaling = {32.0, 1.0, 1.0, 1.0, 1.0, 4096}}},
};

#define SMALL                                                                                      \
    .hidden_size = 64, .num_attention_heads = 2, .kv_lora_rank = 32, .qk_nope_head_dim = 16,       \
    .qk_rope_head_dim = 8, .v_head_dim = 16

/* The same for one or two keys after SIZES. */
static const accepted_case accepted_keys[] = {
    {.name = "required keys only", .json = "}", .expected = {SMALL}},
    {.name = "q_lora_rank 0, as the official inference code writes it",
     .json = ", \"q_lora_rank\": 0}",
     .expected = {SMALL}},
    {.name = "optional keys that are null",
     .json = ", \"q_lora_rank\": null, \"rope_theta\": null, \"rope_scaling\": null, "
             "\"rope_parameters\": null, \"quantization_config\": null, \"rms_norm_eps\": null, "
             "\"attention_bias\": null, \"rope_interleave\": null, \"index_topk\": null}",
     .expected = {SMALL}},
    {.name = "flags at the value that is supported",
     .json = ", \"attention_bias\": false, \"rope_interleave\": true, \"mla_use_nope\": false}",
     .expected = {SMALL}},
    {.name = "rope_type default",
     .json = ", \"rope_scaling\": {\"rope_type\": \"default\", \"factor\": 8}}",
     .expected = {SMALL}},
    {.name = "rope_type instead of type",
     .json = ", \"rope_scaling\": {\"rope_type\": \"yarn\", " YARN_VALUES "}}",
     .expected = {SMALL, .rope_scaling = {40.0, 32.0, 1.0, 0.707, 0.707, 4096}}},
    {.name = "type and rope_type that agree",
     .json = ", \"rope_scaling\": {\"type\": \"yarn\", \"rope_type\": \"yarn\", " YARN_VALUES "}}",
     .expected = {SMALL, .rope_scaling = {40.0, 32.0, 1.0, 0.707, 0.707, 4096}}},
    {.name = "yarn with the official defaults",
     .json = ", \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 2.5, "
             "\"original_max_position_embeddings\": 100}}",
     .expected = {SMALL, .rope_scaling = {2.5, 32.0, 1.0, 1.0, 1.0, 100}}},
    {.name = "attention_factor 1, which is what equal mscales give",
     .json =
         ", \"rope_scaling\": {\"type\": \"yarn\", \"attention_factor\": 1.0, " YARN_VALUES "}}",
     .expected = {SMALL, .rope_scaling = {40.0, 32.0, 1.0, 0.707, 0.707, 4096}}},
    {.name = "rope_parameters with theta and yarn",
     .json = ", \"rope_parameters\": {\"rope_theta\": 50000.0, \"rope_type\": \"yarn\", "
             "\"truncate\": true, " YARN_VALUES "}}",
     .expected = {SMALL, .rope_theta = 50000.0,
                  .rope_scaling = {40.0, 32.0, 1.0, 0.707, 0.707, 4096}}},
    {.name = "rope_parameters with theta only",
     .json = ", \"rope_parameters\": {\"rope_theta\": 1000000, \"rope_type\": \"default\"}}",
     .expected = {SMALL, .rope_theta = 1000000.0}},
    {.name = "rope_scaling and rope_parameters that agree",
     .json =
         ", \"rope_theta\": 10000.0, \"rope_scaling\": {\"type\": \"yarn\", " YARN_VALUES
         "}, \"rope_parameters\": {\"rope_type\": \"yarn\", \"rope_theta\": 1e4, " YARN_VALUES "}}",
     .expected = {SMALL, .rope_theta = 10000.0,
                  .rope_scaling = {40.0, 32.0, 1.0, 0.707, 0.707, 4096}}},
    {.name = "rope_scaling null beside rope_parameters",
     .json = ", \"rope_scaling\": null, \"rope_parameters\": {\"rope_type\": \"yarn\", " YARN_VALUES
             "}}",
     .expected = {SMALL, .rope_scaling = {40.0, 32.0, 1.0, 0.707, 0.707, 4096}}},
    {.name = "fp8 without fmt",
     .json = ", \"quantization_config\": {\"quant_method\": \"fp8\", \"weight_block_size\": [128, "
             "128], \"modules_to_not_convert\": []}}",
     .expected = {SMALL}},
    {.name = "another eps",
     .json = ", \"rms_norm_eps\": 0.25}",
     .expected = {SMALL, .rms_norm_eps = 0.25}},
};

static void check_double(const char *name, const char *field, double is, double expected)
{
    if (!(is >= expected && is <= expected))
        fail_msg("%s: %s is %.17g, not %.17g", name, field, is, expected);
}

static void check_int(const char *name, const char *field, int32_t is, int32_t expected)
{
    if (is != expected)
        fail_msg("%s: %s is %d, not %d", name, field, is, expected);
}

static void check_config(const char *name, const clmla_config *is, const clmla_config *expected)
{
#define INT(field) check_int(name, #field, is->field, expected->field)
#define DOUBLE(field) check_double(name, #field, is->field, expected->field)
    INT(hidden_size);
    INT(num_attention_heads);
    INT(q_lora_rank);
    INT(kv_lora_rank);
    INT(qk_nope_head_dim);
    INT(qk_rope_head_dim);
    INT(v_head_dim);
    INT(max_position_embeddings);
    DOUBLE(rms_norm_eps);
    DOUBLE(rope_theta);
    DOUBLE(softmax_scale);
    DOUBLE(rope_scaling.factor);
    DOUBLE(rope_scaling.beta_fast);
    DOUBLE(rope_scaling.beta_slow);
    DOUBLE(rope_scaling.mscale);
    DOUBLE(rope_scaling.mscale_all_dim);
    INT(rope_scaling.original_max_position_embeddings);
#undef INT
#undef DOUBLE
    assert_true(is->struct_size == sizeof *is);
    assert_int_equal(clmla_config_validate(is, NULL, 0), CLMLA_SUCCESS);
}

static void check_accepted(const accepted_case *test, const char *prefix)
{
    char json[4096];
    clmla_config config;
    clmla_model_error error = {""};
    const int length = snprintf(json, sizeof json, "%s%s", prefix, test->json);
    assert_true(length > 0 && (size_t)length < sizeof json);
    memset(&config, 0xff, sizeof config);
    json[length] = 'x'; /* the text need not be terminated */
    if (clmla_model_config_parse(json, (size_t)length, &config, &error) != CLMLA_SUCCESS)
        fail_msg("%s: refused: %s", test->name, error.text);
    check_config(test->name, &config, &test->expected);
}

static void reads_configurations_of_released_models(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof accepted / sizeof accepted[0]; i++)
        check_accepted(&accepted[i], "");
}

static void reads_optional_keys(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof accepted_keys / sizeof accepted_keys[0]; i++)
        check_accepted(&accepted_keys[i], SIZES);
}

/* ---- configurations that are refused -------------------------------------------------------- */

typedef struct refused_case {
    const char *name;
    const char *json; /* a whole text if it does not begin with a comma, else after SIZES */
    clmla_status status;
    const char *says;
} refused_case;

static const refused_case refused[] = {
    {"no text", "", CLMLA_BAD_FILE, "line"},
    {"a list", "[1]", CLMLA_BAD_FILE, "not a JSON object"},
    {"text that is cut off", "{\"hidden_size\": 1", CLMLA_BAD_FILE, "line 1"},
    {"a key twice", ", \"v_head_dim\": 16}", CLMLA_BAD_FILE, "duplicate"},
    {"nothing", "{}", CLMLA_INVALID_CONFIG, "config.json: hidden_size is missing"},
    {"no kv_lora_rank",
     "{\"hidden_size\": 64, \"num_attention_heads\": 2, \"qk_nope_head_dim\": 16, "
     "\"qk_rope_head_dim\": 8, \"v_head_dim\": 16}",
     CLMLA_INVALID_CONFIG, "config.json: kv_lora_rank is missing"},
    {"a required key that is null", "{\"hidden_size\": null}", CLMLA_INVALID_CONFIG,
     "hidden_size is missing"},
    {"a size that is text", "{\"hidden_size\": \"64\"}", CLMLA_BAD_FILE,
     "hidden_size is not an integer"},
    {"a size with a fraction", "{\"hidden_size\": 64.0}", CLMLA_BAD_FILE,
     "hidden_size is not an integer"},
    {"a size of 0", "{\"hidden_size\": 0}", CLMLA_INVALID_CONFIG, "hidden_size is 0"},
    {"a negative size", "{\"hidden_size\": -64}", CLMLA_INVALID_CONFIG, "hidden_size is -64"},
    {"a size of 2^31", "{\"hidden_size\": 2147483648}", CLMLA_INVALID_CONFIG,
     "hidden_size is 2147483648"},
    {"a size of 2^64", "{\"hidden_size\": 18446744073709551616}", CLMLA_BAD_FILE, "integer"},
    {"an odd rope part",
     "{\"hidden_size\": 64, \"num_attention_heads\": 2, \"kv_lora_rank\": 32, "
     "\"qk_nope_head_dim\": 16, \"qk_rope_head_dim\": 7, \"v_head_dim\": 16}",
     CLMLA_INVALID_CONFIG, "qk_rope_head_dim"},
    {"a negative q_lora_rank", ", \"q_lora_rank\": -1}", CLMLA_INVALID_CONFIG, "q_lora_rank is -1"},
    {"an eps of 0", ", \"rms_norm_eps\": 0.0}", CLMLA_INVALID_CONFIG, "rms_norm_eps is 0"},
    {"an eps that is text", ", \"rms_norm_eps\": \"1e-6\"}", CLMLA_BAD_FILE,
     "rms_norm_eps is not a number"},
    {"a negative theta", ", \"rope_theta\": -1}", CLMLA_INVALID_CONFIG, "rope_theta is -1"},
    {"a number past every double", ", \"rope_theta\": 1e999}", CLMLA_BAD_FILE, "real number"},
    {"attention_bias", ", \"attention_bias\": true}", CLMLA_UNSUPPORTED_CONFIG,
     "attention_bias is true"},
    {"attention_bias that is a number", ", \"attention_bias\": 1}", CLMLA_BAD_FILE,
     "attention_bias is not true or false"},
    {"rope_interleave false", ", \"rope_interleave\": false}", CLMLA_UNSUPPORTED_CONFIG,
     "rope_interleave is false"},
    {"scaled query latents", ", \"mla_scale_q_lora\": true}", CLMLA_UNSUPPORTED_CONFIG,
     "mla_scale_q_lora is true"},
    {"scaled key latents", ", \"mla_scale_kv_lora\": true}", CLMLA_UNSUPPORTED_CONFIG,
     "mla_scale_kv_lora is true"},
    {"no rotation", ", \"mla_use_nope\": true}", CLMLA_UNSUPPORTED_CONFIG, "mla_use_nope is true"},
    {"queries scaled by position", ", \"llama_4_scaling\": {\"beta\": 0.1}}",
     CLMLA_UNSUPPORTED_CONFIG, "llama_4_scaling"},
    {"the same in rope_parameters",
     ", \"rope_parameters\": {\"rope_type\": \"yarn\", \"llama_4_scaling_beta\": 0.1, " YARN_VALUES
     "}}",
     CLMLA_UNSUPPORTED_CONFIG, "rope_parameters.llama_4_scaling_beta"},
    {"logits with a bound", ", \"attn_logit_softcapping\": 50.0}", CLMLA_UNSUPPORTED_CONFIG,
     "attn_logit_softcapping"},
    {"another softmax scale", ", \"query_pre_attn_scalar\": 144}", CLMLA_UNSUPPORTED_CONFIG,
     "query_pre_attn_scalar"},
    {"a factor of logits", ", \"attention_multiplier\": 0.5}", CLMLA_UNSUPPORTED_CONFIG,
     "attention_multiplier"},
    {"a rotation of a part of the rope part", ", \"partial_rotary_factor\": 0.5}",
     CLMLA_UNSUPPORTED_CONFIG, "partial_rotary_factor is 0.5"},
    {"the same in rope_parameters", ", \"rope_parameters\": {\"partial_rotary_factor\": 0.5}}",
     CLMLA_UNSUPPORTED_CONFIG, "rope_parameters.partial_rotary_factor is 0.5"},
    {"attn_factor",
     ", \"rope_scaling\": {\"type\": \"yarn\", \"attn_factor\": 2.0, " YARN_VALUES "}}",
     CLMLA_UNSUPPORTED_CONFIG, "rope_scaling.attn_factor is 2"},
    {"sparse attention", ", \"index_topk\": 2048}", CLMLA_UNSUPPORTED_CONFIG, "index_topk"},
    {"rope_scaling that is text", ", \"rope_scaling\": \"yarn\"}", CLMLA_BAD_FILE,
     "rope_scaling is not an object"},
    {"linear scaling", ", \"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}}",
     CLMLA_UNSUPPORTED_CONFIG, "rope_scaling.rope_type 'linear' is not supported"},
    {"MiniCPM3 as it is released: longrope with its lists",
     "{\"model_type\": \"minicpm3\", \"hidden_size\": 2560, \"num_attention_heads\": 40, "
     "\"q_lora_rank\": 768, \"kv_lora_rank\": 256, \"qk_nope_head_dim\": 64, "
     "\"qk_rope_head_dim\": 32, \"v_head_dim\": 64, \"rms_norm_eps\": 1e-05, "
     "\"rope_scaling\": {\"type\": \"longrope\", \"long_factor\": [1.0, 1.1], "
     "\"short_factor\": [1.0, 1.1], \"original_max_position_embeddings\": 32768}}",
     CLMLA_UNSUPPORTED_CONFIG, "rope_scaling.rope_type 'longrope' is not supported"},
    {"longrope", ", \"rope_scaling\": {\"rope_type\": \"longrope\"}}", CLMLA_UNSUPPORTED_CONFIG,
     "'longrope'"},
    {"llama3 in rope_parameters", ", \"rope_parameters\": {\"rope_type\": \"llama3\"}}",
     CLMLA_UNSUPPORTED_CONFIG, "rope_parameters.rope_type 'llama3'"},
    {"a type that is a number", ", \"rope_scaling\": {\"type\": 1}}", CLMLA_BAD_FILE,
     "rope_scaling.type is not a string"},
    {"type and rope_type that differ",
     ", \"rope_scaling\": {\"type\": \"yarn\", \"rope_type\": \"default\"}}", CLMLA_INVALID_CONFIG,
     "rope_scaling.type is 'yarn', but rope_type is 'default'"},
    {"a factor without a type", ", \"rope_scaling\": {\"factor\": 4}}", CLMLA_INVALID_CONFIG,
     "rope_scaling.rope_type is missing"},
    {"yarn without a factor",
     ", \"rope_scaling\": {\"type\": \"yarn\", \"original_max_position_embeddings\": 4096}}",
     CLMLA_INVALID_CONFIG, "rope_scaling.factor is missing"},
    {"yarn without the original length", ", \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4}}",
     CLMLA_INVALID_CONFIG, "rope_scaling.original_max_position_embeddings is missing"},
    {"a factor of 0",
     ", \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 0, "
     "\"original_max_position_embeddings\": 4096}}",
     CLMLA_INVALID_CONFIG, "rope_scaling.factor is 0"},
    {"a factor below 1",
     ", \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 0.5, "
     "\"original_max_position_embeddings\": 4096}}",
     CLMLA_INVALID_CONFIG, "rope_scaling.factor is 0.5"},
    {"mscale that differs from mscale_all_dim",
     ", \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4, \"mscale\": 1.0, "
     "\"mscale_all_dim\": 0.707, \"original_max_position_embeddings\": 4096}}",
     CLMLA_UNSUPPORTED_CONFIG, "rope_scaling.mscale is 1, but mscale_all_dim is 0.707"},
    {"mscale alone",
     ", \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4, \"mscale\": 1.0, "
     "\"original_max_position_embeddings\": 4096}}",
     CLMLA_UNSUPPORTED_CONFIG, "only one is given"},
    {"mscale 0, which would mean its default",
     ", \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4, \"mscale\": 0, "
     "\"mscale_all_dim\": 0, \"original_max_position_embeddings\": 4096}}",
     CLMLA_INVALID_CONFIG, "rope_scaling.mscale is 0"},
    {"attention_factor",
     ", \"rope_scaling\": {\"type\": \"yarn\", \"attention_factor\": 2.0, " YARN_VALUES "}}",
     CLMLA_UNSUPPORTED_CONFIG, "rope_scaling.attention_factor is 2"},
    {"a ramp that is not truncated",
     ", \"rope_scaling\": {\"type\": \"yarn\", \"truncate\": false, " YARN_VALUES "}}",
     CLMLA_UNSUPPORTED_CONFIG, "rope_scaling.truncate is false"},
    {"rope_parameters per kind of layer",
     ", \"rope_parameters\": {\"full_attention\": {\"rope_type\": \"default\"}}}",
     CLMLA_UNSUPPORTED_CONFIG, "rope_parameters.full_attention is an object"},
    {"rope_scaling and rope_parameters that differ in a value",
     ", \"rope_scaling\": {\"type\": \"yarn\", " YARN_VALUES
     "}, \"rope_parameters\": {\"rope_type\": \"yarn\", \"factor\": 40, "
     "\"original_max_position_embeddings\": 4096}}",
     CLMLA_INVALID_CONFIG, "rope_scaling and rope_parameters differ"},
    {"rope_scaling yarn, rope_parameters default",
     ", \"rope_scaling\": {\"type\": \"yarn\", " YARN_VALUES
     "}, \"rope_parameters\": {\"rope_type\": \"default\"}}",
     CLMLA_INVALID_CONFIG, "rope_scaling and rope_parameters differ"},
    {"two thetas",
     ", \"rope_theta\": 10000, \"rope_parameters\": {\"rope_type\": \"default\", "
     "\"rope_theta\": 50000}}",
     CLMLA_INVALID_CONFIG, "rope_theta is stated as 10000 and as 50000"},
    {"another quantisation method", ", \"quantization_config\": {\"quant_method\": \"awq\"}}",
     CLMLA_UNSUPPORTED_CONFIG, "quantization_config.quant_method is awq"},
    {"no quantisation method", ", \"quantization_config\": {}}", CLMLA_UNSUPPORTED_CONFIG,
     "quantization_config.quant_method is missing"},
    {"e5m2",
     ", \"quantization_config\": {\"quant_method\": \"fp8\", \"fmt\": \"e5m2\", "
     "\"weight_block_size\": [128, 128]}}",
     CLMLA_UNSUPPORTED_CONFIG, "quantization_config.fmt is e5m2"},
    {"other blocks",
     ", \"quantization_config\": {\"quant_method\": \"fp8\", \"weight_block_size\": [128, 64]}}",
     CLMLA_UNSUPPORTED_CONFIG, "quantization_config.weight_block_size is not [128, 128]"},
    {"no blocks", ", \"quantization_config\": {\"quant_method\": \"fp8\", \"fmt\": \"e4m3\"}}",
     CLMLA_UNSUPPORTED_CONFIG, "quantization_config.weight_block_size"},
};

static void refuses_by_name(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        const refused_case *test = &refused[i];
        char json[2048];
        clmla_config config;
        clmla_config untouched;
        clmla_model_error error = {""};
        clmla_status status;
        const int length =
            snprintf(json, sizeof json, "%s%s", test->json[0] == ',' ? SIZES : "", test->json);
        assert_true(length >= 0 && (size_t)length < sizeof json);
        memset(&config, 0xa5, sizeof config);
        untouched = config;
        status = clmla_model_config_parse(json, (size_t)length, &config, &error);
        if (status != test->status || strstr(error.text, test->says) == NULL)
            fail_msg("%s: status %s, message \"%s\" without \"%s\"", test->name,
                     clmla_status_name(status), error.text, test->says);
        assert_memory_equal(&config, &untouched, sizeof config);
        assert_int_equal(clmla_model_config_parse(json, (size_t)length, &config, NULL), status);
    }
}

static void refuses_null_arguments(void **state)
{
    clmla_config config;
    (void)state;
    assert_int_equal(clmla_model_config_parse(NULL, 0, &config, NULL), CLMLA_INVALID_ARGUMENT);
    assert_int_equal(clmla_model_config_parse("{}", 2, NULL, NULL), CLMLA_INVALID_ARGUMENT);
    assert_int_equal(clmla_model_config_read(NULL, &config, NULL), CLMLA_INVALID_ARGUMENT);
}

/* ---- files ---------------------------------------------------------------------------------- */

static void write_text(const char *text)
{
    FILE *stream = fopen(OUTPUT, "wb");
    assert_non_null(stream);
    assert_true(fputs(text, stream) >= 0);
    assert_int_equal(fclose(stream), 0);
}

static void reads_a_file(void **state)
{
    clmla_config config;
    clmla_model_error error = {""};
    (void)state;
    write_text(SIZES ", \"rope_scaling\": {\"type\": \"yarn\", " YARN_VALUES "}}");
    assert_int_equal(clmla_model_config_read(OUTPUT, &config, &error), CLMLA_SUCCESS);
    assert_int_equal(config.v_head_dim, 16);
    check_double("file", "factor", config.rope_scaling.factor, 40.0);
    check_double("file", "mscale", config.rope_scaling.mscale, 0.707);

    write_text("{\"hidden_size\": 64}");
    assert_int_equal(clmla_model_config_read(OUTPUT, &config, &error), CLMLA_INVALID_CONFIG);
    assert_non_null(strstr(error.text, "test_hf_config.json: num_attention_heads is missing"));
    assert_int_equal(remove(OUTPUT), 0);
    assert_int_equal(clmla_model_config_read(OUTPUT, &config, &error), CLMLA_IO);
    assert_non_null(strstr(error.text, "test_hf_config.json"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_configurations_of_released_models),
        cmocka_unit_test(reads_optional_keys),
        cmocka_unit_test(refuses_by_name),
        cmocka_unit_test(refuses_null_arguments),
        cmocka_unit_test(reads_a_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
