/*
 * The reference layer against the golden files (tests/golden/README.md): outputs, appended cache
 * rows and every stored intermediate of the official code's float64 run, in both forms.
 */
#include "clmla_model.h"
#include "core/dtype.h"
#include "ref/mla_ref.h"
#include "support/support.h"

/* Two float64 runs in different order: the golden README states 1e-11 (in practice 1e-15). */
#define BOUND 1e-11

static const char *const cases[] = {
    "01_tiny_prefill",   "02_tiny_decode",       "03_tiny_yarn",
    "04_lite_prefill",   "05_lite_decode",       "06_r1_yarn_prefill",
    "07_r1_yarn_decode", "08_r1_noyarn_prefill", "09_r1_noyarn_decode",
    "10_odd_prefill",    "11_odd_decode",        "12_odd_yarn_chunk",
    "13_autoregressive", "14_autoregressive_b2", "15_chunked_7_9",
    "16_chunked_4_b2",   "17_batch_prefill",     "18_batch_decode",
    "19_ragged_decode",  "20_ragged_prefill",    "21_ragged_autoregressive",
    "22_long_decode",    "23_long_decode_qlora", "24_large_prefill",
    "25_large_decode",   "26_small_prefill",     "27_fp8_prefill",
    "28_fp8_decode",
};
#define NUM_CASES (sizeof cases / sizeof cases[0])

enum { Q_PROJ, Q_A, Q_A_NORM, Q_B, KV_A, KV_A_NORM, KV_B, O_PROJ, NUM_WEIGHTS };
static const char *const weight_names[NUM_WEIGHTS] = {
    "q_proj",         "q_a_proj",  "q_a_layernorm", "q_b_proj", "kv_a_proj_with_mqa",
    "kv_a_layernorm", "kv_b_proj", "o_proj",
};

typedef struct golden {
    const char *name;
    clmla_safetensors *file;
    clmla_config config;
    double *arrays[NUM_WEIGHTS];
    mla_ref_weights weights;
} golden;

static const clmla_safetensors_tensor *find(const golden *g, const char *prefix, const char *name)
{
    char full[128];
    (void)snprintf(full, sizeof full, "%s%s", prefix, name);
    return clmla_safetensors_find(g->file, full);
}

static const clmla_safetensors_tensor *need(const golden *g, const char *prefix, const char *name)
{
    const clmla_safetensors_tensor *tensor = find(g, prefix, name);
    if (tensor == NULL)
        fail_msg("%s has no tensor %s%s", g->name, prefix, name);
    return tensor;
}

static double *allocate(uint64_t count)
{
    double *values = malloc((size_t)(count + 1) * sizeof *values);
    assert_non_null(values);
    for (size_t i = 0; i <= count; i++)
        values[i] = (double)NAN;
    return values;
}

static double *to_doubles(const clmla_safetensors_tensor *tensor)
{
    double *values = allocate(tensor->num_elements);
    for (size_t i = 0; i < tensor->num_elements; i++) {
        if (tensor->dtype == CLMLA_ST_BF16)
            values[i] = mla__load(tensor->data, CLMLA_DTYPE_BF16, i);
        else if (tensor->dtype == CLMLA_ST_F32)
            values[i] = mla__load(tensor->data, CLMLA_DTYPE_F32, i);
        else if (tensor->dtype == CLMLA_ST_F8_E4M3)
            values[i] = (double)mla__f8_e4m3_to_float(((const uint8_t *)tensor->data)[i]);
        else if (tensor->dtype == CLMLA_ST_F64)
            memcpy(&values[i], (const char *)tensor->data + i * sizeof(double), sizeof(double));
        else
            fail_msg("%s is %s", tensor->name, clmla_safetensors_dtype_name(tensor->dtype));
    }
    return values;
}

/* value = code · scale of the 128 x 128 block */
static void dequantise(double *values, const uint64_t *shape, const clmla_safetensors_tensor *scale)
{
    double *scales = to_doubles(scale);
    for (uint64_t row = 0; row < shape[0]; row++)
        for (uint64_t column = 0; column < shape[1]; column++)
            values[row * shape[1] + column] *= scales[row / 128 * scale->shape[1] + column / 128];
    free(scales);
}

static void golden_open(golden *g, const char *name)
{
    char path[512];
    clmla_model_error error = {""};
    *g = (golden){.name = name};
    (void)snprintf(path, sizeof path, "%s/%s.safetensors", GOLDEN_DIR, name);
    if (clmla_safetensors_open(path, &g->file, &error) != CLMLA_SUCCESS)
        fail_msg("%s", error.text);
    const char *json = clmla_safetensors_metadata(g->file, "config");
    assert_non_null(json);
    if (clmla_model_config_parse(json, strlen(json), &g->config, &error) != CLMLA_SUCCESS)
        fail_msg("%s", error.text);

    for (size_t i = 0; i < NUM_WEIGHTS; i++) {
        char weight[96];
        (void)snprintf(weight, sizeof weight, "model.layers.0.self_attn.%s.weight",
                       weight_names[i]);
        const clmla_safetensors_tensor *tensor = find(g, "", weight);
        if (tensor == NULL)
            continue;
        g->arrays[i] = to_doubles(tensor);
        if (tensor->dtype == CLMLA_ST_F8_E4M3)
            dequantise(g->arrays[i], tensor->shape, need(g, weight, "_scale_inv"));
    }
    g->weights = (mla_ref_weights){
        .q_proj = g->arrays[Q_PROJ],
        .q_a_proj = g->arrays[Q_A],
        .q_a_layernorm = g->arrays[Q_A_NORM],
        .q_b_proj = g->arrays[Q_B],
        .kv_a_proj_with_mqa = g->arrays[KV_A],
        .kv_a_layernorm = g->arrays[KV_A_NORM],
        .kv_b_proj = g->arrays[KV_B],
        .o_proj = g->arrays[O_PROJ],
    };
}

static void golden_close(golden *g)
{
    for (size_t i = 0; i < NUM_WEIGHTS; i++)
        free(g->arrays[i]);
    clmla_safetensors_close(g->file);
}

static void check(const golden *g, const char *prefix, const char *name, const double *got)
{
    char what[200];
    const clmla_safetensors_tensor *tensor = need(g, prefix, name);
    double *expected = to_doubles(tensor);
    (void)snprintf(what, sizeof what, "%s %s%s", g->name, prefix, name);
    test_close(what, got, expected, (size_t)tensor->num_elements, BOUND);
    free(expected);
}

/* The stored intermediates, in the order of mla_ref_intermediates. */
#define NUM_MIDS 8
static const char *const mid_names[NUM_MIDS] = {
    "mid.q",          "mid.q_pe",   "mid.k_pe",        "mid.kv_norm",
    "mid.q_absorbed", "mid.scores", "mid.attn_latent", "mid.attn_out",
};

/* Arrays for the intermediates that a step stores; sizes per batch row go to strides. */
static void open_mids(const golden *g, const char *step, mla_ref_form form, double *mids[NUM_MIDS],
                      size_t strides[NUM_MIDS])
{
    for (size_t i = 0; i < NUM_MIDS; i++) {
        const clmla_safetensors_tensor *tensor = find(g, step, mid_names[i]);
        const int absorbed_only = i == 4 || i == 6;
        mids[i] = NULL;
        strides[i] = 0;
        if (tensor == NULL || (absorbed_only && form == MLA_REF_NAIVE))
            continue;
        mids[i] = allocate(tensor->num_elements);
        strides[i] = (size_t)(tensor->num_elements / tensor->shape[0]);
    }
}

static size_t check_and_free_mids(const golden *g, const char *step, double *mids[NUM_MIDS])
{
    size_t checked = 0;
    for (size_t i = 0; i < NUM_MIDS; i++) {
        if (mids[i] == NULL)
            continue;
        check(g, step, mid_names[i], mids[i]);
        free(mids[i]);
        checked++;
    }
    return checked;
}

static double *at(double *array, size_t index) { return array != NULL ? array + index : NULL; }

static mla_ref_intermediates mids_of_row(double *const mids[NUM_MIDS],
                                         const size_t strides[NUM_MIDS], size_t row)
{
    return (mla_ref_intermediates){
        .q = at(mids[0], row * strides[0]),
        .q_pe = at(mids[1], row * strides[1]),
        .k_pe = at(mids[2], row * strides[2]),
        .kv_norm = at(mids[3], row * strides[3]),
        .q_absorbed = at(mids[4], row * strides[4]),
        .scores = at(mids[5], row * strides[5]),
        .attn_latent = at(mids[6], row * strides[6]),
        .attn_out = at(mids[7], row * strides[7]),
    };
}

/* A request's caches, one after another: rows 0 .. past - 1 given, the others poisoned. */
typedef struct request {
    const char *prefix;
    size_t batch, past, num_new;
    size_t kv_lora, rope, hidden;
    double *kv_cache; /* [batch, past + num_new, kv_lora] */
    double *pe_cache; /* [batch, past + num_new, rope] */
} request;

static size_t start_of(const golden *g, const char *step)
{
    int32_t start;
    memcpy(&start, need(g, step, "start_pos")->data, sizeof start);
    return (size_t)start;
}

static void fill_past(const golden *g, const request *r, const char *name, size_t dim,
                      double *cache)
{
    if (r->past == 0)
        return;
    const clmla_safetensors_tensor *tensor = need(g, r->prefix, name);
    double *rows = to_doubles(tensor);
    assert_int_equal(tensor->num_elements, r->batch * r->past * dim);
    for (size_t b = 0; b < r->batch; b++)
        memcpy(cache + b * (r->past + r->num_new) * dim, rows + b * r->past * dim,
               r->past * dim * sizeof *rows);
    free(rows);
}

static void request_open(const golden *g, const char *prefix, request *r)
{
    char step[32];
    (void)snprintf(step, sizeof step, "%sstep0.", prefix);
    const clmla_safetensors_tensor *rows = need(g, prefix, "kv_cache");
    *r = (request){
        .prefix = prefix,
        .batch = (size_t)rows->shape[0],
        .past = start_of(g, step),
        .num_new = (size_t)rows->shape[1],
        .kv_lora = (size_t)g->config.kv_lora_rank,
        .rope = (size_t)g->config.qk_rope_head_dim,
        .hidden = (size_t)g->config.hidden_size,
    };
    const size_t keys = r->past + r->num_new;
    r->kv_cache = allocate(r->batch * keys * r->kv_lora);
    r->pe_cache = allocate(r->batch * keys * r->rope);
    fill_past(g, r, "init.kv_cache", r->kv_lora, r->kv_cache);
    fill_past(g, r, "init.pe_cache", r->rope, r->pe_cache);
}

/* Compares the appended rows with the stored ones. */
static void check_appended(const golden *g, const request *r, const char *name, size_t dim,
                           const double *cache)
{
    double *appended = allocate(r->batch * r->num_new * dim);
    for (size_t b = 0; b < r->batch; b++)
        memcpy(appended + b * r->num_new * dim,
               cache + (b * (r->past + r->num_new) + r->past) * dim,
               r->num_new * dim * sizeof *appended);
    check(g, r->prefix, name, appended);
    free(appended);
}

static void request_close(const golden *g, request *r)
{
    check_appended(g, r, "kv_cache", r->kv_lora, r->kv_cache);
    check_appended(g, r, "pe_cache", r->rope, r->pe_cache);
    free(r->kv_cache);
    free(r->pe_cache);
}

/* Runs `tokens` tokens of every batch row, hidden_states [batch, tokens, hidden]. */
static double *run(const golden *g, const request *r, mla_ref_form form, size_t start,
                   size_t tokens, const double *hidden_states, double *const mids[NUM_MIDS],
                   const size_t strides[NUM_MIDS])
{
    const size_t keys = r->past + r->num_new;
    double *output = allocate(r->batch * tokens * r->hidden);
    for (size_t b = 0; b < r->batch; b++) {
        const mla_ref_intermediates mid = mids_of_row(mids, strides, b);
        assert_int_equal(mla_ref_layer(&g->config, &g->weights, form, start, tokens,
                                       hidden_states + b * tokens * r->hidden,
                                       r->kv_cache + b * keys * r->kv_lora,
                                       r->pe_cache + b * keys * r->rope, NULL, 0,
                                       output + b * tokens * r->hidden, &mid),
                         CLMLA_SUCCESS);
    }
    return output;
}

/* All steps of one request, fed the stored hidden states. Returns how many tensors were compared.
 */
static size_t check_steps(const golden *g, const char *prefix, mla_ref_form form)
{
    request r;
    size_t compared = 0;
    request_open(g, prefix, &r);
    for (int i = 0;; i++) {
        char step[32];
        double *mids[NUM_MIDS];
        size_t strides[NUM_MIDS];
        (void)snprintf(step, sizeof step, "%sstep%d.", prefix, i);
        const clmla_safetensors_tensor *input = find(g, step, "hidden_states");
        if (input == NULL)
            break;
        double *hidden_states = to_doubles(input);
        open_mids(g, step, form, mids, strides);
        double *output = run(g, &r, form, start_of(g, step), (size_t)input->shape[1], hidden_states,
                             mids, strides);
        check(g, step, "output", output);
        compared += 1 + check_and_free_mids(g, step, mids);
        free(hidden_states);
        free(output);
    }
    request_close(g, &r);
    return compared + 2;
}

/* Chunked cases: all steps' tokens as one prefill. */
static size_t check_whole(const golden *g, mla_ref_form form)
{
    static double *const no_mids[NUM_MIDS] = {NULL};
    static const size_t no_strides[NUM_MIDS] = {0};
    if (find(g, "", "whole.output") == NULL)
        return 0;
    request r;
    request_open(g, "", &r);
    double *hidden_states = allocate(r.batch * r.num_new * r.hidden);
    for (size_t done = 0, i = 0; done < r.num_new; i++) {
        char step[32];
        (void)snprintf(step, sizeof step, "step%zu.", i);
        const clmla_safetensors_tensor *input = need(g, step, "hidden_states");
        double *rows = to_doubles(input);
        const size_t tokens = (size_t)input->shape[1];
        for (size_t b = 0; b < r.batch; b++)
            memcpy(hidden_states + (b * r.num_new + done) * r.hidden, rows + b * tokens * r.hidden,
                   tokens * r.hidden * sizeof *rows);
        done += tokens;
        free(rows);
    }
    double *output = run(g, &r, form, r.past, r.num_new, hidden_states, no_mids, no_strides);
    check(g, "", "whole.output", output);
    free(output);
    free(hidden_states);
    request_close(g, &r);
    return 1;
}

/* Whether the tensor is one of the truths that a form must reproduce: float64, but not the run on
 * rounded weights. */
static int is_truth(const clmla_safetensors_tensor *tensor, mla_ref_form form)
{
    if (tensor->dtype != CLMLA_ST_F64 || strstr(tensor->name, "dequant") != NULL)
        return 0;
    return form == MLA_REF_ABSORBED || (strstr(tensor->name, "mid.q_absorbed") == NULL &&
                                        strstr(tensor->name, "mid.attn_latent") == NULL);
}

static void check_case(const char *name, mla_ref_form form)
{
    golden g;
    size_t compared = 0, stored = 0;
    golden_open(&g, name);
    if (find(&g, "", "step0.hidden_states") != NULL)
        compared += check_steps(&g, "", form);
    for (int i = 0;; i++) {
        char prefix[16];
        (void)snprintf(prefix, sizeof prefix, "req%d.", i);
        if (find(&g, prefix, "step0.hidden_states") == NULL)
            break;
        compared += check_steps(&g, prefix, form);
    }
    compared += check_whole(&g, form);

    for (size_t i = 0; i < clmla_safetensors_count(g.file); i++)
        stored += is_truth(clmla_safetensors_at(g.file, i), form) ? 1 : 0;
    if (compared != stored)
        fail_msg("%s: compared %zu of the %zu stored float64 tensors", name, compared, stored);
    golden_close(&g);
}

static void absorbed_form_reproduces_the_golden_files(void **state)
{
    (void)state;
    for (size_t i = 0; i < NUM_CASES; i++)
        check_case(cases[i], MLA_REF_ABSORBED);
}

static void naive_form_reproduces_the_golden_files(void **state)
{
    (void)state;
    for (size_t i = 0; i < NUM_CASES; i++)
        check_case(cases[i], MLA_REF_NAIVE);
}

/* ---- a small layer of random weights: what the golden files do not ask ---- */

enum { HIDDEN = 12, HEADS = 3, Q_LORA = 5, KV_LORA = 6, NOPE = 4, ROPE = 2, V = 3 };
enum { PAST = 4, TOKENS = 70, KEYS = PAST + TOKENS }; /* more tokens than a block */

typedef struct small_layer {
    clmla_config config;
    double q_a[Q_LORA * HIDDEN], q_a_norm[Q_LORA], q_b[HEADS * (NOPE + ROPE) * Q_LORA];
    double kv_a[(KV_LORA + ROPE) * HIDDEN], kv_a_norm[KV_LORA];
    double kv_b[HEADS * (NOPE + V) * KV_LORA], o[HIDDEN * HEADS * V];
    double hidden_states[TOKENS * HIDDEN];
    double kv_cache[KEYS * KV_LORA], pe_cache[KEYS * ROPE];
    mla_ref_weights weights;
} small_layer;

static void fill(test_random *random, double *values, size_t count)
{
    for (size_t i = 0; i < count; i++)
        values[i] = test_random_normal(random);
}
#define FILL(random, array) fill(random, array, sizeof(array) / sizeof(array)[0])

static void small_layer_open(small_layer *l)
{
    test_random random = {7};
    l->config = (clmla_config){.struct_size = sizeof l->config,
                               .hidden_size = HIDDEN,
                               .num_attention_heads = HEADS,
                               .q_lora_rank = Q_LORA,
                               .kv_lora_rank = KV_LORA,
                               .qk_nope_head_dim = NOPE,
                               .qk_rope_head_dim = ROPE,
                               .v_head_dim = V};
    FILL(&random, l->q_a);
    FILL(&random, l->q_a_norm);
    FILL(&random, l->q_b);
    FILL(&random, l->kv_a);
    FILL(&random, l->kv_a_norm);
    FILL(&random, l->kv_b);
    FILL(&random, l->o);
    FILL(&random, l->hidden_states);
    FILL(&random, l->kv_cache);
    FILL(&random, l->pe_cache);
    for (size_t i = (size_t)PAST * KV_LORA; i < (size_t)KEYS * KV_LORA; i++)
        l->kv_cache[i] = (double)NAN;
    l->weights = (mla_ref_weights){.q_a_proj = l->q_a,
                                   .q_a_layernorm = l->q_a_norm,
                                   .q_b_proj = l->q_b,
                                   .kv_a_proj_with_mqa = l->kv_a,
                                   .kv_a_layernorm = l->kv_a_norm,
                                   .kv_b_proj = l->kv_b,
                                   .o_proj = l->o};
}

static clmla_status run_small(small_layer *l, mla_ref_form form, const int32_t *rows,
                              size_t num_rows, double *output)
{
    return mla_ref_layer(&l->config, &l->weights, form, PAST, TOKENS, l->hidden_states, l->kv_cache,
                         l->pe_cache, rows, num_rows, output, NULL);
}

static void computes_only_the_rows_asked_for_but_every_cache_row(void **state)
{
    (void)state;
    const int32_t rows[] = {0, 3, 65, TOKENS - 1};
    const mla_ref_form forms[] = {MLA_REF_ABSORBED, MLA_REF_NAIVE};
    for (size_t f = 0; f < 2; f++) {
        small_layer whole, part;
        double all[TOKENS * HIDDEN], some[TOKENS * HIDDEN];
        small_layer_open(&whole);
        small_layer_open(&part);
        assert_int_equal(run_small(&whole, forms[f], NULL, 0, all), CLMLA_SUCCESS);
        for (size_t i = 0; i < (size_t)TOKENS * HIDDEN; i++)
            some[i] = 1234.0;
        assert_int_equal(run_small(&part, forms[f], rows, 4, some), CLMLA_SUCCESS);
        for (int32_t t = 0, next = 0; t < TOKENS; t++) {
            if (next < 4 && t == rows[next]) {
                test_close("asked row", some + t * HIDDEN, all + t * HIDDEN, HIDDEN, 1e-13);
                next++;
                continue;
            }
            for (int32_t i = 0; i < HIDDEN; i++)
                assert_true(some[t * HIDDEN + i] == 1234.0);
        }
        assert_memory_equal(part.kv_cache, whole.kv_cache, sizeof whole.kv_cache);
        assert_memory_equal(part.pe_cache, whole.pe_cache, sizeof whole.pe_cache);
    }
}

static void both_forms_agree(void **state)
{
    (void)state;
    small_layer layer;
    double absorbed[TOKENS * HIDDEN], naive[TOKENS * HIDDEN];
    small_layer_open(&layer);
    assert_int_equal(run_small(&layer, MLA_REF_ABSORBED, NULL, 0, absorbed), CLMLA_SUCCESS);
    assert_int_equal(run_small(&layer, MLA_REF_NAIVE, NULL, 0, naive), CLMLA_SUCCESS);
    test_close("naive against absorbed", naive, absorbed, (size_t)TOKENS * HIDDEN, 1e-13);
}

static void without_output_computes_the_cache_rows(void **state)
{
    (void)state;
    small_layer whole, caches;
    double output[TOKENS * HIDDEN];
    small_layer_open(&whole);
    small_layer_open(&caches);
    assert_int_equal(run_small(&whole, MLA_REF_ABSORBED, NULL, 0, output), CLMLA_SUCCESS);
    assert_int_equal(run_small(&caches, MLA_REF_ABSORBED, NULL, 0, NULL), CLMLA_SUCCESS);
    assert_memory_equal(caches.kv_cache, whole.kv_cache, sizeof whole.kv_cache);
    assert_memory_equal(caches.pe_cache, whole.pe_cache, sizeof whole.pe_cache);
}

/* A cache whose rows are there: the same rows, the same output; another row counts for the tokens
 * that see it. */
static void attends_to_the_rows_that_are_there(void **state)
{
    (void)state;
    enum { CHANGED = 5 };
    const mla_ref_form forms[] = {MLA_REF_ABSORBED, MLA_REF_NAIVE};
    for (size_t f = 0; f < 2; f++) {
        small_layer layer;
        double whole[TOKENS * HIDDEN], output[TOKENS * HIDDEN];
        small_layer_open(&layer);
        assert_int_equal(run_small(&layer, forms[f], NULL, 0, whole), CLMLA_SUCCESS);
        assert_int_equal(mla_ref_layer_attend(&layer.config, &layer.weights, forms[f], PAST, TOKENS,
                                              layer.hidden_states, layer.kv_cache, layer.pe_cache,
                                              NULL, 0, output, NULL),
                         CLMLA_SUCCESS);
        assert_memory_equal(output, whole, sizeof whole);
        layer.kv_cache[(PAST + CHANGED) * KV_LORA] += 1.0;
        assert_int_equal(mla_ref_layer_attend(&layer.config, &layer.weights, forms[f], PAST, TOKENS,
                                              layer.hidden_states, layer.kv_cache, layer.pe_cache,
                                              NULL, 0, output, NULL),
                         CLMLA_SUCCESS);
        assert_memory_equal(output, whole, (size_t)CHANGED * HIDDEN * sizeof *whole);
        for (size_t t = CHANGED; t < TOKENS; t++)
            assert_memory_not_equal(output + t * HIDDEN, whole + t * HIDDEN,
                                    HIDDEN * sizeof *whole);
    }
}

static void no_tokens_are_no_work(void **state)
{
    (void)state;
    small_layer layer, before;
    small_layer_open(&layer);
    before = layer;
    assert_int_equal(mla_ref_layer(&layer.config, &layer.weights, MLA_REF_ABSORBED, PAST, 0,
                                   layer.hidden_states, layer.kv_cache, layer.pe_cache, NULL, 0,
                                   NULL, NULL),
                     CLMLA_SUCCESS);
    assert_memory_equal(layer.kv_cache, before.kv_cache, sizeof layer.kv_cache);
}

static void refuses_bad_arguments_before_touching_anything(void **state)
{
    (void)state;
    const int32_t descending[] = {3, 2}, twice[] = {3, 3}, past_end[] = {TOKENS}, negative[] = {-1};
    small_layer layer, before;
    double output[1] = {1234.0};
    small_layer_open(&layer);
    before = layer;
    const mla_ref_form form = MLA_REF_ABSORBED;
    assert_int_equal(run_small(&layer, form, descending, 2, output), CLMLA_INVALID_ARGUMENT);
    assert_int_equal(run_small(&layer, form, twice, 2, output), CLMLA_INVALID_ARGUMENT);
    assert_int_equal(run_small(&layer, form, past_end, 1, output), CLMLA_INVALID_ARGUMENT);
    assert_int_equal(run_small(&layer, form, negative, 1, output), CLMLA_INVALID_ARGUMENT);
    layer.weights.q_b_proj = NULL;
    assert_int_equal(run_small(&layer, form, NULL, 0, output), CLMLA_INVALID_ARGUMENT);
    layer.config.kv_lora_rank = 0;
    assert_int_equal(run_small(&layer, form, NULL, 0, output), CLMLA_INVALID_CONFIG);
    assert_true(output[0] == 1234.0);
    assert_memory_equal(layer.kv_cache, before.kv_cache, sizeof layer.kv_cache);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(absorbed_form_reproduces_the_golden_files),
        cmocka_unit_test(naive_form_reproduces_the_golden_files),
        cmocka_unit_test(computes_only_the_rows_asked_for_but_every_cache_row),
        cmocka_unit_test(both_forms_agree),
        cmocka_unit_test(without_output_computes_the_cache_rows),
        cmocka_unit_test(attends_to_the_rows_that_are_there),
        cmocka_unit_test(no_tokens_are_no_work),
        cmocka_unit_test(refuses_bad_arguments_before_touching_anything),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
