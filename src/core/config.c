#include "core/config.h"

#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "core/checked.h"

/* Bounds that keep every product of sizes (elements, bytes) inside 63 bits; far above any model. */
#define DIM_MAX (1 << 20)
#define HEADS_MAX (1 << 16)

#define DEFAULT_RMS_NORM_EPS 1e-6
#define DEFAULT_ROPE_THETA 10000.0
#define DEFAULT_BETA_FAST 32.0
#define DEFAULT_BETA_SLOW 1.0
#define DEFAULT_MSCALE 1.0

/* Where the explanation of a refusal goes. */
typedef struct reason {
    char *text; /* may be NULL */
    size_t bytes;
} reason;

__attribute__((format(printf, 2, 3))) static bool refuse(reason why, const char *format, ...)
{
    if (why.text != NULL && why.bytes > 0) {
        va_list arguments;
        va_start(arguments, format);
        (void)vsnprintf(why.text, why.bytes, format, arguments);
        va_end(arguments);
    }
    return false;
}

static bool check_int(reason why, const char *field, int32_t value, int32_t low, int32_t high)
{
    if (value < low && low == 1)
        return refuse(why, "%s is %d, must be > 0", field, value);
    if (value < low)
        return refuse(why, "%s is %d, must be >= %d", field, value, low);
    if (value > high)
        return refuse(why, "%s is %d, must be <= %d", field, value, high);
    return true;
}

static bool check_positive(reason why, const char *field, double value)
{
    if (!(value > 0.0) || !isfinite(value))
        return refuse(why, "%s is %g, must be finite and > 0", field, value);
    return true;
}

/* Rows of a weight matrix, an int32_t everywhere. */
static bool check_rows(reason why, const char *dims, int32_t heads, int32_t a, int32_t b)
{
    const int64_t rows = (int64_t)heads * ((int64_t)a + b);
    if (rows > INT32_MAX)
        return refuse(why, "num_attention_heads * %s is %lld, must be <= %d", dims, (long long)rows,
                      INT32_MAX);
    return true;
}

static bool check_sizes(reason why, const clmla_config *c)
{
    if (!check_int(why, "hidden_size", c->hidden_size, 1, DIM_MAX) ||
        !check_int(why, "num_attention_heads", c->num_attention_heads, 1, HEADS_MAX) ||
        !check_int(why, "q_lora_rank", c->q_lora_rank, 0, DIM_MAX) ||
        !check_int(why, "kv_lora_rank", c->kv_lora_rank, 1, DIM_MAX) ||
        !check_int(why, "qk_nope_head_dim", c->qk_nope_head_dim, 1, DIM_MAX) ||
        !check_int(why, "qk_rope_head_dim", c->qk_rope_head_dim, 0, DIM_MAX) ||
        !check_int(why, "v_head_dim", c->v_head_dim, 1, DIM_MAX) ||
        !check_int(why, "max_position_embeddings", c->max_position_embeddings, 0, INT32_MAX))
        return false;
    if (c->qk_rope_head_dim % 2 != 0)
        return refuse(why, "qk_rope_head_dim is %d, must be even", c->qk_rope_head_dim);
    return check_rows(why, "(qk_nope_head_dim + qk_rope_head_dim)", c->num_attention_heads,
                      c->qk_nope_head_dim, c->qk_rope_head_dim) &&
           check_rows(why, "(qk_nope_head_dim + v_head_dim)", c->num_attention_heads,
                      c->qk_nope_head_dim, c->v_head_dim);
}

/* Only with YaRN on: a factor of 0 turns all of rope_scaling off. */
static bool check_yarn(reason why, const clmla_config *c)
{
    const clmla_rope_scaling *yarn = &c->rope_scaling;
    if (!(yarn->factor >= 1.0) || !isfinite(yarn->factor))
        return refuse(why, "rope_scaling.factor is %g, must be finite and >= 1 (or 0: no YaRN)",
                      yarn->factor);
    if (!check_int(why, "rope_scaling.original_max_position_embeddings",
                   yarn->original_max_position_embeddings, 1, INT32_MAX) ||
        !check_positive(why, "rope_scaling.beta_fast", yarn->beta_fast) ||
        !check_positive(why, "rope_scaling.beta_slow", yarn->beta_slow) ||
        !check_positive(why, "rope_scaling.mscale", yarn->mscale))
        return false;
    if (yarn->beta_fast < yarn->beta_slow)
        return refuse(why, "rope_scaling.beta_fast is %g, must be >= beta_slow, which is %g",
                      yarn->beta_fast, yarn->beta_slow);
    if (!(yarn->mscale_all_dim == yarn->mscale))
        return refuse(why, "rope_scaling.mscale_all_dim is %g, must equal mscale, which is %g",
                      yarn->mscale_all_dim, yarn->mscale);
    if (!(c->rope_theta > 1.0)) /* YaRN divides by ln theta */
        return refuse(why, "rope_theta is %g, must be > 1 with YaRN", c->rope_theta);
    return true;
}

static double or_default(double value, double fallback) { return value == 0.0 ? fallback : value; }

static void fill_defaults(clmla_config *c)
{
    clmla_rope_scaling *yarn = &c->rope_scaling;
    if (yarn->factor == 0.0)
        *yarn = (clmla_rope_scaling){0};
    c->rms_norm_eps = or_default(c->rms_norm_eps, DEFAULT_RMS_NORM_EPS);
    c->rope_theta = or_default(c->rope_theta, DEFAULT_ROPE_THETA);
    yarn->beta_fast = or_default(yarn->beta_fast, DEFAULT_BETA_FAST);
    yarn->beta_slow = or_default(yarn->beta_slow, DEFAULT_BETA_SLOW);
    yarn->mscale = or_default(yarn->mscale, DEFAULT_MSCALE);
    yarn->mscale_all_dim = or_default(yarn->mscale_all_dim, yarn->mscale);
}

static bool check(reason why, const clmla_config *c)
{
    if (!check_sizes(why, c) || !check_positive(why, "rms_norm_eps", c->rms_norm_eps) ||
        !check_positive(why, "rope_theta", c->rope_theta))
        return false;
    if (c->rms_norm_eps < (double)FLT_MIN) /* kernels compute with it in float32 */
        return refuse(why, "rms_norm_eps is %g, must be >= %g", c->rms_norm_eps, (double)FLT_MIN);
    if (c->softmax_scale != 0.0 && !check_positive(why, "softmax_scale", c->softmax_scale))
        return false;
    return c->rope_scaling.factor == 0.0 || check_yarn(why, c);
}

clmla_status mla__config_resolve(const clmla_config *config, clmla_config *resolved, char *text,
                                 size_t text_bytes)
{
    const reason why = {.text = text, .bytes = text_bytes};
    clmla_config copy;
    if (config == NULL) {
        (void)refuse(why, "config is NULL");
        return CLMLA_INVALID_CONFIG;
    }
    if (!mla__params_copy(&copy, sizeof copy, sizeof(clmla_config), config)) {
        (void)refuse(why, "struct_size is %zu, must be %zu", config->struct_size, sizeof copy);
        return CLMLA_INVALID_CONFIG;
    }
    fill_defaults(&copy);
    if (!check(why, &copy))
        return CLMLA_INVALID_CONFIG;
    *resolved = copy;
    return CLMLA_SUCCESS;
}

clmla_status clmla_config_validate(const clmla_config *config, char *why, size_t why_bytes)
{
    clmla_config resolved;
    return mla__config_resolve(config, &resolved, why, why_bytes);
}

double clmla_config_softmax_scale(const clmla_config *config)
{
    const clmla_rope_scaling *yarn = &config->rope_scaling;
    if (config->softmax_scale != 0.0)
        return config->softmax_scale;
    double m = 1.0;
    if (yarn->factor > 1.0)
        m = 0.1 * or_default(yarn->mscale, DEFAULT_MSCALE) * log(yarn->factor) + 1.0;
    return m * m / sqrt((double)mla__config_qk_head_dim(config));
}

int32_t mla__config_qk_head_dim(const clmla_config *config)
{
    return config->qk_nope_head_dim + config->qk_rope_head_dim;
}

int32_t mla__config_kv_dim(const clmla_config *config)
{
    return config->kv_lora_rank + config->qk_rope_head_dim;
}

int32_t mla__config_q_in(const clmla_config *config)
{
    return config->q_lora_rank > 0 ? config->q_lora_rank : config->hidden_size;
}
