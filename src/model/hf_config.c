/*
 * config.json of DeepSeek-V2/V3/R1 models -> clmla_config. A key that changes the mathematics of
 * MLA is honoured or refused by name; all others are ignored.
 */
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "clmla_model.h"
#include "core/dtype.h"
#include "core/os.h"
#include "model/error.h"

/* The text being read and its first error: every read_* does nothing once status is set, so that a
 * list of reads needs one check at its end. */
typedef struct reader {
    const char *source; /* file name in messages */
    clmla_model_error *error;
    clmla_status status;
} reader;

/* An object of config.json and its name with a dot, "" for the outermost. */
typedef struct section {
    json_t *object;
    const char *name;
} section;

typedef struct rope {
    bool present;
    double theta; /* 0: not stated here */
    clmla_rope_scaling scaling;
} rope;

#define FAIL(reader, code, ...)                                                                    \
    ((reader)->status = mla__model_fail((reader)->error, (code), __VA_ARGS__))

/* The value of a key; NULL when it is absent, null, or an error stands already. */
static json_t *value_of(const reader *in, section from, const char *key)
{
    json_t *value = json_object_get(from.object, key);
    return in->status != CLMLA_SUCCESS || json_is_null(value) ? NULL : value;
}

static void missing(reader *in, section from, const char *key)
{
    if (in->status == CLMLA_SUCCESS)
        FAIL(in, CLMLA_INVALID_CONFIG, "%s: %s%s is missing", in->source, from.name, key);
}

/* An integer of at least `low`; absent_value when there is none. */
static int32_t read_int(reader *in, section from, const char *key, int32_t low,
                        int32_t absent_value)
{
    const json_t *value = value_of(in, from, key);
    json_int_t number;
    if (value == NULL)
        return absent_value;
    if (!json_is_integer(value)) {
        FAIL(in, CLMLA_BAD_FILE, "%s: %s%s is not an integer", in->source, from.name, key);
        return absent_value;
    }
    number = json_integer_value(value);
    if (number < low || number > INT32_MAX) {
        FAIL(in, CLMLA_INVALID_CONFIG, "%s: %s%s is %lld, must be %d to %d", in->source, from.name,
             key, (long long)number, low, INT32_MAX);
        return absent_value;
    }
    return (int32_t)number;
}

static int32_t read_required_int(reader *in, section from, const char *key, int32_t low)
{
    if (value_of(in, from, key) == NULL)
        missing(in, from, key);
    return read_int(in, from, key, low, 0);
}

/* A number > 0; absent_value when there is none. */
static double read_positive(reader *in, section from, const char *key, double absent_value)
{
    const json_t *value = value_of(in, from, key);
    if (value == NULL)
        return absent_value;
    if (!json_is_number(value)) {
        FAIL(in, CLMLA_BAD_FILE, "%s: %s%s is not a number", in->source, from.name, key);
        return absent_value;
    }
    if (!(json_number_value(value) > 0.0)) {
        FAIL(in, CLMLA_INVALID_CONFIG, "%s: %s%s is %g, must be > 0", in->source, from.name, key,
             json_number_value(value));
        return absent_value;
    }
    return json_number_value(value);
}

/* NULL when there is none. */
static const char *read_text(reader *in, section from, const char *key)
{
    const json_t *value = value_of(in, from, key);
    if (value != NULL && !json_is_string(value)) {
        FAIL(in, CLMLA_BAD_FILE, "%s: %s%s is not a string", in->source, from.name, key);
        return NULL;
    }
    return json_string_value(value);
}

/* Refuses a boolean that stands at `refused`; absent is fine. */
static void refuse_flag(reader *in, section from, const char *key, bool refused)
{
    const json_t *value = value_of(in, from, key);
    if (value == NULL)
        return;
    if (!json_is_boolean(value))
        FAIL(in, CLMLA_BAD_FILE, "%s: %s%s is not true or false", in->source, from.name, key);
    else if (json_is_true(value) == refused)
        FAIL(in, CLMLA_UNSUPPORTED_CONFIG, "%s: %s%s is %s, which is not supported", in->source,
             from.name, key, refused ? "true" : "false");
}

/* Refuses a key whatever its value; absent and null are fine. */
static void refuse_key(reader *in, section from, const char *key, const char *meaning)
{
    if (value_of(in, from, key) != NULL)
        FAIL(in, CLMLA_UNSUPPORTED_CONFIG, "%s: %s%s: %s is not supported", in->source, from.name,
             key, meaning);
}

/* Refuses a factor that is not 1. */
static void refuse_factor(reader *in, section from, const char *key)
{
    const double factor = read_positive(in, from, key, 1.0);
    if (in->status == CLMLA_SUCCESS && (factor < 1.0 || factor > 1.0))
        FAIL(in, CLMLA_UNSUPPORTED_CONFIG, "%s: %s%s is %g, only 1 is supported", in->source,
             from.name, key, factor);
}

/* An object, or NULL when there is none. */
static json_t *read_object(reader *in, section from, const char *key)
{
    json_t *value = value_of(in, from, key);
    if (value != NULL && !json_is_object(value)) {
        FAIL(in, CLMLA_BAD_FILE, "%s: %s%s is not an object", in->source, from.name, key);
        return NULL;
    }
    return value;
}

/* `type` in older files, `rope_type` in newer ones; "default" when an object holds neither. */
static const char *read_rope_type(reader *in, section from)
{
    const char *type = read_text(in, from, "type");
    const char *rope_type = read_text(in, from, "rope_type");
    if (type != NULL && rope_type != NULL && strcmp(type, rope_type) != 0)
        FAIL(in, CLMLA_INVALID_CONFIG, "%s: %stype is '%.40s', but rope_type is '%.40s'",
             in->source, from.name, type, rope_type);
    if (type == NULL && rope_type == NULL && value_of(in, from, "factor") != NULL)
        missing(in, from, "rope_type");
    if (rope_type != NULL)
        return rope_type;
    return type != NULL ? type : "default";
}

static void read_yarn(reader *in, section from, clmla_rope_scaling *out)
{
    const bool has_mscale = value_of(in, from, "mscale") != NULL;
    const bool has_all_dim = value_of(in, from, "mscale_all_dim") != NULL;
    if (value_of(in, from, "factor") == NULL)
        missing(in, from, "factor");
    out->factor = read_positive(in, from, "factor", 0.0);
    out->original_max_position_embeddings =
        read_required_int(in, from, "original_max_position_embeddings", 1);
    /* Defaults of the official inference code. */
    out->beta_fast = read_positive(in, from, "beta_fast", 32.0);
    out->beta_slow = read_positive(in, from, "beta_slow", 1.0);
    out->mscale = read_positive(in, from, "mscale", 1.0);
    out->mscale_all_dim = read_positive(in, from, "mscale_all_dim", 1.0);
    refuse_factor(in, from, "attention_factor"); /* scales cos and sin */
    refuse_factor(in, from, "attn_factor");      /* the same */
    refuse_factor(in, from, "extrapolation_factor");
    refuse_flag(in, from, "truncate", false);
    if (in->status != CLMLA_SUCCESS)
        return;
    /* cos and sin would be scaled by the quotient of the two; one without the other has a default
     * that differs between implementations. */
    if (has_mscale != has_all_dim)
        FAIL(in, CLMLA_UNSUPPORTED_CONFIG, "%s: %smscale and mscale_all_dim: only one is given",
             in->source, from.name);
    else if (out->mscale < out->mscale_all_dim || out->mscale > out->mscale_all_dim)
        FAIL(in, CLMLA_UNSUPPORTED_CONFIG, "%s: %smscale is %g, but mscale_all_dim is %g",
             in->source, from.name, out->mscale, out->mscale_all_dim);
}

static rope read_rope(reader *in, section top, const char *key, const char *name)
{
    rope out = {0};
    const section from = {read_object(in, top, key), name};
    const char *type;
    const char *entry;
    json_t *value;
    if (from.object == NULL)
        return out;
    out.present = true;
    out.theta = read_positive(in, from, "rope_theta", 0.0);
    refuse_factor(in, from, "partial_rotary_factor");
    refuse_key(in, from, "llama_4_scaling_beta", "a scale of queries by position"); /* Mistral 4 */
    type = read_rope_type(in, from);
    if (in->status != CLMLA_SUCCESS)
        return out;
    if (strcmp(type, "yarn") == 0)
        read_yarn(in, from, &out.scaling);
    else if (strcmp(type, "default") != 0)
        FAIL(in, CLMLA_UNSUPPORTED_CONFIG,
             "%s: %srope_type '%.40s' is not supported; yarn and default are", in->source, name,
             type);
    json_object_foreach(from.object, entry, value)
    {
        if (in->status == CLMLA_SUCCESS && json_is_object(value)) /* one per kind of layer */
            FAIL(in, CLMLA_UNSUPPORTED_CONFIG, "%s: %s%.60s is an object, which is not supported",
                 in->source, name, entry);
    }
    return out;
}

static bool same(double a, double b) { return a <= b && a >= b; }

static bool same_scaling(const clmla_rope_scaling *a, const clmla_rope_scaling *b)
{
    return same(a->factor, b->factor) && same(a->beta_fast, b->beta_fast) &&
           same(a->beta_slow, b->beta_slow) && same(a->mscale, b->mscale) &&
           same(a->mscale_all_dim, b->mscale_all_dim) &&
           a->original_max_position_embeddings == b->original_max_position_embeddings;
}

/* rope_theta may stand in three places; all that are there must agree. */
static double one_theta(reader *in, double outer, const rope *scaling, const rope *parameters)
{
    const double stated[3] = {outer, scaling->theta, parameters->theta};
    double theta = 0.0;
    for (int i = 0; i < 3 && in->status == CLMLA_SUCCESS; i++) {
        if (!(stated[i] > 0.0))
            continue;
        if (theta > 0.0 && !same(theta, stated[i]))
            FAIL(in, CLMLA_INVALID_CONFIG, "%s: rope_theta is stated as %g and as %g", in->source,
                 theta, stated[i]);
        theta = stated[i];
    }
    return theta;
}

static void read_ropes(reader *in, section top, clmla_config *out)
{
    const double outer_theta = read_positive(in, top, "rope_theta", 0.0);
    const rope scaling = read_rope(in, top, "rope_scaling", "rope_scaling.");
    const rope parameters = read_rope(in, top, "rope_parameters", "rope_parameters.");
    if (in->status != CLMLA_SUCCESS)
        return;
    if (scaling.present && parameters.present &&
        !same_scaling(&scaling.scaling, &parameters.scaling))
        FAIL(in, CLMLA_INVALID_CONFIG, "%s: rope_scaling and rope_parameters differ", in->source);
    out->rope_scaling = scaling.present ? scaling.scaling : parameters.scaling;
    out->rope_theta = one_theta(in, outer_theta, &scaling, &parameters);
}

/* fp8 e4m3 in blocks of 128x128 is the one quantisation of these models. */
static void check_quantization(reader *in, section top)
{
    const section from = {read_object(in, top, "quantization_config"), "quantization_config."};
    const char *method;
    const char *format;
    const json_t *block;
    if (from.object == NULL)
        return;
    method = read_text(in, from, "quant_method");
    format = read_text(in, from, "fmt");
    block = value_of(in, from, "weight_block_size");
    if (in->status != CLMLA_SUCCESS)
        return;
    if (method == NULL || strcmp(method, "fp8") != 0)
        FAIL(in, CLMLA_UNSUPPORTED_CONFIG, "%s: %squant_method is %.40s, only fp8 is supported",
             in->source, from.name, method != NULL ? method : "missing");
    else if (format != NULL && strcmp(format, "e4m3") != 0)
        FAIL(in, CLMLA_UNSUPPORTED_CONFIG, "%s: %sfmt is %.40s, only e4m3 is supported", in->source,
             from.name, format);
    else if (json_array_size(block) != 2 ||
             json_integer_value(json_array_get(block, 0)) != MLA__FP8_BLOCK ||
             json_integer_value(json_array_get(block, 1)) != MLA__FP8_BLOCK)
        FAIL(in, CLMLA_UNSUPPORTED_CONFIG, "%s: %sweight_block_size is not [%d, %d]", in->source,
             from.name, MLA__FP8_BLOCK, MLA__FP8_BLOCK);
}

/* Relatives of these models that share the key names but not the mathematics. */
static void refuse_variants(reader *in, section top)
{
    refuse_flag(in, top, "attention_bias", true);
    refuse_flag(in, top, "rope_interleave", false);
    refuse_flag(in, top, "mla_scale_q_lora", true);        /* LongCat-Flash: scaled latents */
    refuse_flag(in, top, "mla_scale_kv_lora", true);       /* the same */
    refuse_flag(in, top, "mla_use_nope", true);            /* Kimi-Linear: no rotation */
    refuse_key(in, top, "index_topk", "sparse attention"); /* DeepSeek-V3.2 */
    refuse_key(in, top, "llama_4_scaling", "a scale of queries by position");
    refuse_key(in, top, "attn_logit_softcapping", "a bound on logits");
    refuse_key(in, top, "query_pre_attn_scalar", "another softmax scale");
    refuse_key(in, top, "attention_multiplier", "another softmax scale");
    refuse_factor(in, top, "partial_rotary_factor");
}

static void read_config(reader *in, json_t *root, clmla_config *out)
{
    const section top = {root, ""};
    char why[256];
    clmla_status status;

    out->struct_size = sizeof *out;
    out->hidden_size = read_required_int(in, top, "hidden_size", 1);
    out->num_attention_heads = read_required_int(in, top, "num_attention_heads", 1);
    out->q_lora_rank = read_int(in, top, "q_lora_rank", 0, 0);
    out->kv_lora_rank = read_required_int(in, top, "kv_lora_rank", 1);
    out->qk_nope_head_dim = read_required_int(in, top, "qk_nope_head_dim", 1);
    out->qk_rope_head_dim = read_required_int(in, top, "qk_rope_head_dim", 0);
    out->v_head_dim = read_required_int(in, top, "v_head_dim", 1);
    out->max_position_embeddings = read_int(in, top, "max_position_embeddings", 0, 0);
    out->rms_norm_eps = read_positive(in, top, "rms_norm_eps", 0.0);
    refuse_variants(in, top);
    read_ropes(in, top, out);
    check_quantization(in, top);
    if (in->status != CLMLA_SUCCESS)
        return;
    status = clmla_config_validate(out, why, sizeof why);
    if (status != CLMLA_SUCCESS)
        FAIL(in, status, "%s: %s", in->source, why);
}

static clmla_status parse(const char *source, const char *json, size_t bytes, clmla_config *out,
                          clmla_model_error *error)
{
    reader in = {source, error, CLMLA_SUCCESS};
    clmla_config config = {0};
    json_error_t json_error;
    json_t *root = json_loadb(json, bytes, JSON_REJECT_DUPLICATES, &json_error);
    if (root == NULL) {
        const bool memory = json_error_code(&json_error) == json_error_out_of_memory;
        return mla__model_fail(error, memory ? CL_OUT_OF_HOST_MEMORY : CLMLA_BAD_FILE,
                               "%s: line %d, column %d: %s", source, json_error.line,
                               json_error.column, json_error.text);
    }
    if (!json_is_object(root))
        FAIL(&in, CLMLA_BAD_FILE, "%s: not a JSON object", source);
    else
        read_config(&in, root, &config);
    json_decref(root);
    if (in.status == CLMLA_SUCCESS)
        *out = config;
    return in.status;
}

clmla_status clmla_model_config_parse(const char *json, size_t bytes, clmla_config *out,
                                      clmla_model_error *error)
{
    if (json == NULL || out == NULL)
        return mla__model_fail(error, CLMLA_INVALID_ARGUMENT, "config: json or out is NULL");
    return parse("config.json", json, bytes, out, error);
}

clmla_status clmla_model_config_read(const char *path, clmla_config *out, clmla_model_error *error)
{
    char *json = NULL;
    size_t bytes = 0;
    clmla_status status;
    if (path == NULL || out == NULL)
        return mla__model_fail(error, CLMLA_INVALID_ARGUMENT, "config: path or out is NULL");
    status = mla__os_read_file(path, &json, &bytes);
    if (status != CLMLA_SUCCESS)
        return mla__model_fail(error, status, "%s: %s", mla__model_short_path(path),
                               mla__os_last_error());
    status = parse(mla__model_short_path(path), json, bytes, out, error);
    free(json);
    return status;
}
