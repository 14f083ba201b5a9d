/*
 * Hidden states 30 times as large as usual and a thousandth of it, every storage dtype on every
 * kernel class. The bounds are made as those of the golden files (tests/golden/README.md), here for
 * these very inputs: 1.1 times the larger of the error of a run in the official model's order,
 * which rounds each of its tensors to the storage dtype, and twice the error of an exact run that
 * rounds the cache and the output alone; float32: four times the former, at least 5e-6.
 */
#include "core/config.h"
#include "core/dtype.h"
#include "core/fp8_cache.h"
#include "core/yarn.h"
#include "support/layer_fixture.h"
#include "support/table.h"

enum { BF16 = CLMLA_DTYPE_BF16, F16 = CLMLA_DTYPE_F16, F32 = CLMLA_DTYPE_F32 };
enum { CPU = CLMLA_KERNELS_CPU, GPU = CLMLA_KERNELS_GPU, NVIDIA = CLMLA_KERNELS_NVIDIA };
enum { PAST = 31, TOKENS = 9, KEYS = PAST + TOKENS };

typedef struct scaled_case {
    const char *name;
    clmla_kernel_class kernel_class;
    clmla_dtype dtype;
    int32_t q_lora_rank, fp8_weights, fp8_cache, clblast;
} scaled_case;

static const scaled_case cases[] = {
    {"cpu bf16", CPU, BF16, 36},
    {"cpu bf16 without q LoRA", CPU, BF16, 0},
    {"cpu f16", CPU, F16, 36},
    {"cpu f32", CPU, F32, 36},
    {"cpu f32 without q LoRA", CPU, F32, 0},
    {"cpu FP8 weights", CPU, BF16, 36, .fp8_weights = 1},
    {"cpu FP8 cache", CPU, BF16, 36, .fp8_cache = 1},
    {"cpu CLBlast bf16", CPU, BF16, 36, .clblast = 1},
    {"gpu bf16", GPU, BF16, 36},
    {"gpu f16", GPU, F16, 36},
    {"gpu f32", GPU, F32, 36},
    {"gpu FP8 weights", GPU, BF16, 36, .fp8_weights = 1},
    {"gpu FP8 cache", GPU, BF16, 36, .fp8_cache = 1},
    {"nvidia bf16", NVIDIA, BF16, 36},
    {"nvidia FP8 weights", NVIDIA, BF16, 36, .fp8_weights = 1},
    {"nvidia FP8 cache", NVIDIA, BF16, 36, .fp8_cache = 1},
};

static double *doubles(size_t count)
{
    double *values = calloc(count + 1, sizeof(double));
    assert_non_null(values);
    return values;
}

/* ---- the official model's roundings --------------------------------------------------------- */

typedef struct rounded_run {
    const fixture *f;
    bool storage_only;   /* the cache and the output */
    clmla_config config; /* resolved */
    size_t hidden, heads, nope, rope, latent, v, qk;
    double freq[32];
    double *kv, *pe; /* [KEYS, latent], [KEYS, rope] */
} rounded_run;

static void store(clmla_dtype dtype, double *values, size_t count)
{
    unsigned char element[4];
    for (size_t i = 0; i < count; i++) {
        mla__store(element, dtype, 0, values[i]);
        values[i] = mla__load(element, dtype, 0);
    }
}

static void rounded(const rounded_run *r, double *values, size_t count)
{
    if (!r->storage_only)
        store(r->f->options.dtype, values, count);
}

/* y[n] = round(x[k] · w[n, k]ᵀ) */
static void project(const rounded_run *r, size_t n, size_t k, const double *x, const double *w,
                    double *y)
{
    mla_ref_projection(1, n, k, x, w, y);
    rounded(r, y, n);
}

static void normalise(const rounded_run *r, size_t dim, const double *weight, double *x)
{
    mla_ref_rmsnorm(1, dim, r->config.rms_norm_eps, x, weight, x);
    rounded(r, x, dim);
}

static void append(rounded_run *r, size_t position, const double *x)
{
    const mla_ref_weights *w = &r->f->host_weights.ref;
    double *kv_a = doubles(r->latent + r->rope), *kv = r->kv + position * r->latent;
    double *pe = r->pe + position * r->rope;
    project(r, r->latent + r->rope, r->hidden, x, w->kv_a_proj_with_mqa, kv_a);
    memcpy(kv, kv_a, r->latent * sizeof *kv);
    memcpy(pe, kv_a + r->latent, r->rope * sizeof *pe);
    normalise(r, r->latent, w->kv_a_layernorm, kv);
    mla_ref_rope(r->rope, r->freq, (int64_t)position, pe);
    store(r->f->options.dtype, kv, r->latent);
    store(r->f->options.dtype, pe, r->rope);
    free(kv_a);
    if (!r->f->options.fp8_cache)
        return;
    unsigned char *record =
        malloc((size_t)mla__fp8_record_bytes((int32_t)r->latent, (int32_t)r->rope));
    float *values = malloc(r->latent * sizeof *values);
    assert_non_null(record);
    assert_non_null(values);
    for (size_t i = 0; i < r->latent; i++)
        values[i] = (float)kv[i];
    mla__fp8_encode_latent(values, (int32_t)r->latent, record);
    mla__fp8_decode_latent(record, (int32_t)r->latent, values);
    for (size_t i = 0; i < r->latent; i++)
        kv[i] = (double)values[i];
    free(record);
    free(values);
}

/* Scores: two products, their sum, the scaled sum, and the probabilities, each rounded. */
static void attend(const rounded_run *r, size_t keys, size_t head, double *q, double *o)
{
    const double *w_uk = r->f->host_weights.ref.kv_b_proj + head * (r->nope + r->v) * r->latent;
    double *q_lat = doubles(r->latent), *ctx = doubles(r->latent), *scores = doubles(keys);
    mla_ref_rope(r->rope, r->freq, (int64_t)keys - 1, q + r->nope);
    rounded(r, q + r->nope, r->rope);
    for (size_t i = 0; i < r->nope; i++)
        mla_ref_add_scaled(r->latent, q[i], w_uk + i * r->latent, q_lat);
    rounded(r, q_lat, r->latent);
    for (size_t j = 0; j < keys; j++) {
        double parts[2] = {mla_ref_dot(r->latent, q_lat, r->kv + j * r->latent),
                           mla_ref_dot(r->rope, q + r->nope, r->pe + j * r->rope)};
        rounded(r, parts, 2);
        scores[j] = parts[0] + parts[1];
        rounded(r, scores + j, 1);
        scores[j] *= clmla_config_softmax_scale(&r->config);
        rounded(r, scores + j, 1);
    }
    (void)mla_ref_softmax(keys, scores);
    rounded(r, scores, keys);
    for (size_t j = 0; j < keys; j++)
        mla_ref_add_scaled(r->latent, scores[j], r->kv + j * r->latent, ctx);
    rounded(r, ctx, r->latent);
    project(r, r->v, r->latent, ctx, w_uk + r->nope * r->latent, o);
    free(q_lat);
    free(ctx);
    free(scores);
}

static void run_token(rounded_run *r, size_t position, const double *x, double *y)
{
    const mla_ref_weights *w = &r->f->host_weights.ref;
    const size_t lora = (size_t)r->config.q_lora_rank;
    double *q_a = doubles(lora), *q = doubles(r->heads * r->qk), *o = doubles(r->heads * r->v);
    append(r, position, x);
    if (lora > 0) {
        project(r, lora, r->hidden, x, w->q_a_proj, q_a);
        normalise(r, lora, w->q_a_layernorm, q_a);
        project(r, r->heads * r->qk, lora, q_a, w->q_b_proj, q);
    } else {
        project(r, r->heads * r->qk, r->hidden, x, w->q_proj, q);
    }
    for (size_t h = 0; h < r->heads; h++)
        attend(r, position + 1, h, q + h * r->qk, o + h * r->v);
    project(r, r->hidden, r->heads * r->v, o, w->o_proj, y);
    store(r->f->options.dtype, y, r->hidden);
    free(q_a);
    free(q);
    free(o);
}

/* Output of the new tokens; what is cached of the past comes from the fixture. */
static void run_rounded(const fixture *f, bool storage_only, const double *hidden, double *output)
{
    const clmla_config *c = &f->options.config;
    rounded_run r = {.f = f,
                     .storage_only = storage_only,
                     .hidden = (size_t)c->hidden_size,
                     .heads = (size_t)c->num_attention_heads,
                     .nope = (size_t)c->qk_nope_head_dim,
                     .rope = (size_t)c->qk_rope_head_dim,
                     .latent = (size_t)c->kv_lora_rank,
                     .v = (size_t)c->v_head_dim,
                     .qk = (size_t)(c->qk_nope_head_dim + c->qk_rope_head_dim)};
    assert_int_equal(mla__config_resolve(c, &r.config, NULL, 0), CLMLA_SUCCESS);
    mla__rope_frequencies(&r.config, r.freq);
    r.kv = doubles(KEYS * r.latent);
    r.pe = doubles(KEYS * r.rope);
    memcpy(r.kv, f->ref_kv[0], PAST * r.latent * sizeof(double));
    memcpy(r.pe, f->ref_pe[0], PAST * r.rope * sizeof(double));
    for (size_t t = 0; t < TOKENS; t++)
        run_token(&r, PAST + t, hidden + t * r.hidden, output + t * r.hidden);
    free(r.kv);
    free(r.pe);
}

/* ---- the layer ------------------------------------------------------------------------------ */

static fixture make(const scaled_case *c)
{
    clmla_config config =
        fixture_config_of(c->fp8_weights ? CLMLA_KERNELS_NVIDIA : c->kernel_class, c->q_lora_rank);
    if (c->fp8_cache)
        config.kv_lora_rank = 128;
    const fixture_options options = {.config = config,
                                     .kernel_class = c->kernel_class,
                                     .projection = c->clblast ? CLMLA_PROJECTION_CLBLAST
                                                              : CLMLA_PROJECTION_NATIVE,
                                     .dtype = c->dtype,
                                     .page_block_size = 16,
                                     .fp8_weights = c->fp8_weights,
                                     .fp8_cache = c->fp8_cache,
                                     .share_context = 1};
    return fixture_create(&options);
}

static double relative_l2(const double *y, const double *t, size_t count)
{
    double error = 0.0, norm = 0.0;
    for (size_t i = 0; i < count; i++) {
        error += (y[i] - t[i]) * (y[i] - t[i]);
        norm += t[i] * t[i];
    }
    return sqrt(error / norm);
}

static void check(fixture *f, const scaled_case *c, double factor)
{
    const size_t width = (size_t)f->options.config.hidden_size, count = TOKENS * width;
    const int32_t past[1] = {PAST}, new_tokens[1] = {TOKENS};
    double *hidden = fixture_draw_hidden(f, TOKENS, 7);
    double *expected = doubles(count), *output = doubles(count);
    double *official = doubles(count), *stored = doubles(count);
    char what[80];
    for (size_t i = 0; i < count; i++)
        hidden[i] = (double)mla__bf16_to_float(mla__double_to_bf16(factor * hidden[i]));
    store(c->dtype, hidden, count);
    fixture_set_past(f, 0, PAST, 100);
    fixture_set_hidden(f, hidden, 0, TOKENS);
    run_rounded(f, false, hidden, official);
    run_rounded(f, true, hidden, stored);
    assert_int_equal(fixture_plan(f, 1, past, new_tokens), CLMLA_SUCCESS);
    assert_int_equal(
        clmla_enqueue_layer(f->binding, f->plan, test_device_get()->queue, 0, NULL, NULL),
        CLMLA_SUCCESS);
    fixture_get_output(f, output, 0, TOKENS);
    fixture_reference(f, 0, PAST, TOKENS, hidden, expected);
    const double error = relative_l2(official, expected, count);
    const double bound = c->dtype == F32
                             ? fmax(4.0 * error, 5e-6)
                             : 1.1 * fmax(error, 2.0 * relative_l2(stored, expected, count));
    (void)snprintf(what, sizeof what, "%s, hidden states times %g", c->name, factor);
    test_close(what, output, expected, count, bound);
    free(hidden);
    free(expected);
    free(official);
    free(stored);
    free(output);
}

static void stays_within_the_golden_bounds(void **state)
{
    const scaled_case *c = *state;
    static const double factors[] = {1.0, 30.0, 1e-3};
    fixture f = make(c);
    for (size_t i = 0; i < sizeof factors / sizeof factors[0]; i++)
        check(&f, c, factors[i]);
    fixture_release(&f);
}

int main(int argc, char **argv)
{
    const test_table table = TEST_TABLE(stays_within_the_golden_bounds, cases);
    return test_run("scaled_hidden", argc, argv, &table, 1, TEST_NO_OTHERS);
}
