/*
 * A cell against the double reference, before it is timed.
 *
 * The steps of a request, each fed with what the device really had as input, equal one prefill of
 * all those inputs (attention is causal), so the reference needs one call per request and layer.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/bench.h"
#include "cli/convert.h"
#include "cli/message.h"
#include "core/dtype.h"
#include "core/fp8_cache.h"
#include "ref/mla_ref.h"

/* What the device had as input and made of it in one layer: rows of request r from
 * first_row(r) on, step after step. */
typedef struct capture {
    double *input, *output; /* [steps · num_tokens, hidden] */
} capture;

/* Σ of squares, of differences and of the truth. */
typedef struct difference {
    double error, truth;
} difference;

typedef struct check {
    const mla_cell *cell;
    int32_t steps;
    size_t hidden, kv_lora, rope;
    int32_t layers[2]; /* which ones; all when `all` */
    bool all;
    capture *captures; /* [num_layers], empty for those not checked */
    void *rows;        /* staging of num_tokens rows */
    bool fp8_cache;
    float *floats;   /* [kv_lora + rope], of a record */
    double *doubles; /* likewise, of a key */
    difference output, cache;
} check;

double mla_check_bound(clmla_dtype dtype)
{
    /* bf16, f32: the bounds of the golden files at these sizes (29 to 32: at most 1.65e-2 and
     * 9e-6), rounded up; f16 has three more bits of mantissa than bf16. */
    return dtype == CLMLA_DTYPE_F32 ? 1e-5 : dtype == CLMLA_DTYPE_F16 ? 2.5e-3 : 2e-2;
}

static bool is_checked(const check *c, int32_t layer)
{
    return c->all || layer == c->layers[0] || layer == c->layers[1];
}

/* First row of a request in the captures. */
static size_t first_row(const check *c, int32_t request)
{
    size_t row = 0;
    for (int32_t b = 0; b < request; b++)
        row += (size_t)c->cell->workload->seqlens[b];
    return row * (size_t)c->steps;
}

static void add_difference(difference *sum, const double *y, const double *t, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        sum->error += (y[i] - t[i]) * (y[i] - t[i]);
        sum->truth += t[i] * t[i];
    }
}

/* NaN and infinity anywhere end as INFINITY, and so does a reference that is zero. */
static double relative(const difference *sum)
{
    const double value = sqrt(sum->error) / sqrt(sum->truth);
    return isfinite(value) ? value : (double)INFINITY;
}

/* ---- the device's run ------------------------------------------------------------------------ */

/* A lane's rows of a buffer, to where the captures want them. */
static clmla_status read_rows(const check *c, const mla_lane *lane, cl_mem buffer, int32_t step,
                              double *to)
{
    const mla_session *session = &c->cell->backend->session;
    const clmla_dtype dtype = session->common->dtype;
    const size_t row_bytes = c->hidden * mla__dtype_bytes(dtype);
    const clmla_status status =
        clEnqueueReadBuffer(session->queue, buffer, CL_TRUE, lane->first_row * row_bytes,
                            (size_t)lane->num_tokens * row_bytes, c->rows, 0, NULL, NULL);
    for (int32_t i = 0; i < lane->num_requests && status == CLMLA_SUCCESS; i++) {
        const int32_t request = lane->first_request + i;
        const size_t count = (size_t)c->cell->workload->seqlens[request];
        const size_t row = first_row(c, request) + (size_t)step * count;
        mla_load_doubles(c->rows, dtype, (size_t)lane->cu_seqlens_q[i] * c->hidden,
                         count * c->hidden, to + row * c->hidden);
    }
    return status;
}

/* One step of a lane, layer after layer, with what goes in and comes out. */
static clmla_status run_step(const check *c, const mla_lane *lane, int32_t step)
{
    const mla_cell *cell = c->cell;
    const cl_command_queue queue = cell->backend->session.queue;
    clmla_status status =
        step == 0 ? mla_cell_first_step(cell, lane, queue) : mla_cell_next_step(cell, queue);
    for (int32_t i = 0; i < cell->bench->num_layers && status == CLMLA_SUCCESS; i++) {
        const cl_mem input = i == 0 && !cell->workload->decode ? cell->initial : cell->work;
        if (is_checked(c, i))
            status = read_rows(c, lane, input, step, c->captures[i].input);
        if (status == CLMLA_SUCCESS)
            status = clmla_enqueue_layer(lane->bindings[i], cell->plan, queue, 0, NULL, NULL);
        if (status == CLMLA_SUCCESS && is_checked(c, i))
            status = read_rows(c, lane, cell->work, step, c->captures[i].output);
    }
    return status;
}

static clmla_status run_device(const check *c)
{
    clmla_status status = mla_cell_restore(c->cell, c->cell->backend->session.queue);
    for (int32_t i = 0; i < c->cell->num_lanes; i++)
        for (int32_t step = 0; step < c->steps && status == CLMLA_SUCCESS; step++)
            status = run_step(c, &c->cell->lanes[i], step);
    return status;
}

/* ---- the reference --------------------------------------------------------------------------- */

/* A layer's weights as doubles. */
typedef struct wide_weights {
    double *values[MLA_NUM_WEIGHTS];
    mla_ref_weights ref;
} wide_weights;

/* [rows, columns]; NULL: out of memory. */
static double *widen(const clmla_checkpoint_weight *weight)
{
    enum { BLOCK_ROWS = MLA__FP8_BLOCK }; /* decoded together: scales are looked up once */
    const size_t columns = (size_t)weight->columns;
    float *floats = malloc(BLOCK_ROWS * columns * sizeof(*floats));
    double *values = malloc((size_t)weight->rows * columns * sizeof(*values));
    bool done = floats != NULL && values != NULL;
    for (uint64_t row = 0; row < weight->rows && done; row += BLOCK_ROWS) {
        const uint64_t left = weight->rows - row, rows = left < BLOCK_ROWS ? left : BLOCK_ROWS;
        done = clmla_checkpoint_decode(weight, row, rows, CLMLA_DTYPE_F32, floats) == CLMLA_SUCCESS;
        mla_load_doubles(floats, CLMLA_DTYPE_F32, 0, (size_t)rows * columns,
                         values + (size_t)row * columns);
    }
    free(floats);
    if (!done) {
        free(values);
        values = NULL;
    }
    return values;
}

static bool widen_weights(const check *c, int32_t layer, wide_weights *out)
{
    const mla_bench *bench = c->cell->bench;
    mla_drawn_weights drawn;
    *out = (wide_weights){.values = {NULL}};
    bool done = mla_draw_weights(&bench->config, layer, bench->common->seed,
                                 bench->common->weights_dtype == CLMLA_DTYPE_F8_E4M3, &drawn);
    for (int i = 0; i < MLA_NUM_WEIGHTS && done; i++) {
        if (drawn.weights[i].data == NULL)
            continue;
        out->values[i] = widen(&drawn.weights[i]);
        done = out->values[i] != NULL;
    }
    mla_drawn_weights_release(&drawn);
    double *const *v = out->values;
    out->ref = (mla_ref_weights){
        .q_proj = v[0],
        .q_a_proj = v[1],
        .q_a_layernorm = v[2],
        .q_b_proj = v[3],
        .kv_a_proj_with_mqa = v[4],
        .kv_a_layernorm = v[5],
        .kv_b_proj = v[6],
        .o_proj = v[7],
    };
    return done;
}

static void release_weights(wide_weights *weights)
{
    for (int i = 0; i < MLA_NUM_WEIGHTS; i++)
        free(weights->values[i]);
}

/* ---- keys ------------------------------------------------------------------------------------ */

/* The keys of one request: kv [past + new, kv_lora], pe [past + new, rope]. */
typedef struct keys {
    double *kv, *pe;
} keys;

static void load_record(const check *c, const unsigned char *record, double *kv, double *pe)
{
    mla_load_record(&c->cell->bench->config, record, c->floats, c->floats + c->kv_lora);
    mla_load_doubles(c->floats, CLMLA_DTYPE_F32, 0, c->kv_lora, kv);
    mla_load_doubles(c->floats, CLMLA_DTYPE_F32, c->kv_lora, c->rope, pe);
}

static bool draw_past_part(const check *c, int32_t layer, int32_t request, bool rope_part,
                           double *out)
{
    const size_t past = (size_t)c->cell->workload->pastlens[request];
    const size_t count = past * (rope_part ? c->rope : c->kv_lora);
    uint16_t *drawn = malloc(count * sizeof(*drawn) + 1);
    if (drawn == NULL)
        return false;
    mla_draw_past(layer, request, rope_part, c->cell->bench->common->seed, count, drawn);
    mla_load_doubles(drawn, CLMLA_DTYPE_BF16, 0, count, out);
    free(drawn);
    return true;
}

static bool draw_past_records(const check *c, int32_t layer, int32_t request, const keys *out)
{
    const mla_bench *bench = c->cell->bench;
    const size_t past = (size_t)c->cell->workload->pastlens[request];
    const size_t record_bytes = mla_record_bytes(&bench->config);
    unsigned char *records = malloc(past * record_bytes + 1);
    const bool drawn = records != NULL && mla_draw_records(&bench->config, layer, request,
                                                           bench->common->seed, past, records);
    for (size_t key = 0; key < past && drawn; key++)
        load_record(c, records + key * record_bytes, out->kv + key * c->kv_lora,
                    out->pe + key * c->rope);
    free(records);
    return drawn;
}

/* Room for past and new keys, the past ones as drawn. False: out of memory; release in each case. */
static bool create_keys(const check *c, int32_t layer, int32_t request, size_t new_tokens,
                        keys *out)
{
    const size_t rows = (size_t)c->cell->workload->pastlens[request] + new_tokens;
    out->kv = malloc(rows * c->kv_lora * sizeof(*out->kv));
    out->pe = malloc(rows * c->rope * sizeof(*out->pe) + 1);
    if (out->kv == NULL || out->pe == NULL)
        return false;
    return c->fp8_cache ? draw_past_records(c, layer, request, out)
                        : draw_past_part(c, layer, request, false, out->kv) &&
                              draw_past_part(c, layer, request, true, out->pe);
}

static void release_keys(keys *k)
{
    free(k->kv);
    free(k->pe);
}

typedef struct device_caches {
    void *kv, *pe; /* whole caches of a layer as the device holds them; FP8: records, and nothing */
} device_caches;

/* A row of the device's caches. */
static void load_key(const check *c, const device_caches *caches, size_t row, double *kv,
                     double *pe)
{
    const clmla_dtype dtype = c->cell->bench->common->cache_dtype;
    if (c->fp8_cache) {
        const unsigned char *records = caches->kv;
        load_record(c, records + row * mla_record_bytes(&c->cell->bench->config), kv, pe);
        return;
    }
    mla_load_doubles(caches->kv, dtype, row * c->kv_lora, c->kv_lora, kv);
    mla_load_doubles(caches->pe, dtype, row * c->rope, c->rope, pe);
}

/* Half of the distance between numbers of that many bits of mantissa around value. */
static double half_step(double value, int mantissa_bits, int least_exponent)
{
    const int exponent = ilogb(value);
    return ldexp(1.0, (exponent > least_exponent ? exponent : least_exponent) - mantissa_bits - 1);
}

/* Adds what rounding does not explain; written so that NaN stays NaN. */
static void add_unexplained(difference *sum, double y, double t, double rounding)
{
    const double excess = fabs(y - t) - rounding;
    const double error = excess <= 0.0 ? 0.0 : excess;
    add_difference(sum, &error, &(double){0.0}, 1);
    sum->truth += t * t;
}

/* The same of a record: latents are e4m3 with the scale of the truth's group, the rest is bf16. */
static void add_record_difference(check *c, const double *kv, const double *pe,
                                  const double *true_kv, const double *true_pe)
{
    enum { E4M3_MANTISSA = 3, E4M3_LEAST = -6, BF16_MANTISSA = 7, BF16_LEAST = -126 };
    for (size_t first = 0; first < c->kv_lora; first += MLA__FP8_GROUP) {
        double largest = 0.0;
        for (size_t i = first; i < first + MLA__FP8_GROUP; i++)
            largest = fmax(largest, fabs(true_kv[i]));
        const double scale = (double)mla__fp8_scale((float)largest);
        for (size_t i = first; i < first + MLA__FP8_GROUP; i++)
            add_unexplained(&c->cache, kv[i], true_kv[i],
                            scale * half_step(true_kv[i] / scale, E4M3_MANTISSA, E4M3_LEAST));
    }
    for (size_t i = 0; i < c->rope; i++)
        add_unexplained(&c->cache, pe[i], true_pe[i],
                        half_step(true_pe[i], BF16_MANTISSA, BF16_LEAST));
}

/* The appended keys of one request: the device's cache against the reference's, which with FP8
 * become the device's. */
static void compare_keys(check *c, int32_t request, const device_caches *caches, size_t new_tokens,
                         const keys *truth)
{
    const int32_t past = c->cell->workload->pastlens[request];
    double *kv = c->doubles, *pe = c->doubles + c->kv_lora;
    for (size_t i = 0; i < new_tokens; i++) {
        const int32_t key = past + (int32_t)i;
        double *true_kv = truth->kv + (size_t)key * c->kv_lora;
        double *true_pe = truth->pe + (size_t)key * c->rope;
        load_key(c, caches, mla_pages_row(&c->cell->pages, request, key), kv, pe);
        if (c->fp8_cache) {
            add_record_difference(c, kv, pe, true_kv, true_pe);
            memcpy(true_kv, kv, c->kv_lora * sizeof(*kv));
            memcpy(true_pe, pe, c->rope * sizeof(*pe));
        } else {
            add_difference(&c->cache, kv, true_kv, c->kv_lora);
            add_difference(&c->cache, pe, true_pe, c->rope);
        }
    }
}

/* ---- comparison ------------------------------------------------------------------------------ */

/* One request of one layer. Prefill samples its first and last token. */
static clmla_status compare_request(check *c, int32_t layer, int32_t request,
                                    const wide_weights *weights, const device_caches *caches)
{
    const mla_workload *w = c->cell->workload;
    const clmla_config *config = &c->cell->bench->config;
    const size_t past = (size_t)w->pastlens[request];
    const size_t tokens = (size_t)w->seqlens[request] * (size_t)c->steps;
    const int32_t sample[2] = {0, (int32_t)tokens - 1};
    const bool every_row = w->decode || tokens <= 2 || c->cell->bench->check == MLA_CHECK_FULL;
    const int32_t *rows = every_row ? NULL : sample;
    const size_t num_rows = every_row ? tokens : 2;
    const size_t base = first_row(c, request) * c->hidden;
    const double *input = c->captures[layer].input + base;
    keys k = {NULL, NULL};
    double *truth = malloc(tokens * c->hidden * sizeof(*truth));
    clmla_status status = CL_OUT_OF_HOST_MEMORY;
    if (truth != NULL && create_keys(c, layer, request, tokens, &k))
        status = mla_ref_layer(config, &weights->ref, MLA_REF_ABSORBED, past, tokens, input, k.kv,
                               k.pe, NULL, 0, NULL, NULL);
    if (status == CLMLA_SUCCESS) {
        compare_keys(c, request, caches, tokens, &k);
        status = mla_ref_layer_attend(config, &weights->ref, MLA_REF_ABSORBED, past, tokens, input,
                                      k.kv, k.pe, rows, num_rows, truth, NULL);
    }
    for (size_t i = 0; i < num_rows && status == CLMLA_SUCCESS; i++) {
        const size_t row = (every_row ? i : (size_t)sample[i]) * c->hidden;
        add_difference(&c->output, c->captures[layer].output + base + row, truth + row, c->hidden);
    }
    release_keys(&k);
    free(truth);
    return status;
}

static clmla_status read_cache(const check *c, cl_mem buffer, size_t key_bytes, void **out)
{
    const mla_session *session = &c->cell->backend->session;
    const size_t bytes = mla_pages_rows(&c->cell->pages) * key_bytes;
    *out = malloc(bytes + 1);
    if (*out == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    return bytes == 0 ? CLMLA_SUCCESS
                      : clEnqueueReadBuffer(session->queue, buffer, CL_TRUE, 0, bytes, *out, 0,
                                            NULL, NULL);
}

static clmla_status read_caches(const check *c, int32_t layer, device_caches *out)
{
    const size_t element_bytes = mla__dtype_bytes(c->cell->bench->common->cache_dtype);
    const size_t kv_bytes =
        c->fp8_cache ? mla_record_bytes(&c->cell->bench->config) : c->kv_lora * element_bytes;
    const clmla_status status = read_cache(c, c->cell->kv_cache[layer], kv_bytes, &out->kv);
    if (status != CLMLA_SUCCESS || c->fp8_cache)
        return status;
    return read_cache(c, c->cell->pe_cache[layer], c->rope * element_bytes, &out->pe);
}

static clmla_status compare_layer(check *c, int32_t layer)
{
    const mla_workload *w = c->cell->workload;
    device_caches caches = {NULL, NULL};
    wide_weights weights;
    clmla_status status = widen_weights(c, layer, &weights) ? CLMLA_SUCCESS : CL_OUT_OF_HOST_MEMORY;
    if (status == CLMLA_SUCCESS)
        status = read_caches(c, layer, &caches);
    const int32_t first = c->cell->bench->check == MLA_CHECK_ONE ? w->num_requests - 1 : 0;
    for (int32_t b = first; b < w->num_requests && status == CLMLA_SUCCESS; b++) {
        mla_progress("checking against the reference: request %d of %d", (int)b + 1,
                     (int)w->num_requests);
        status = compare_request(c, layer, b, &weights, &caches);
    }
    free(caches.kv);
    free(caches.pe);
    release_weights(&weights);
    return status;
}

/* ---- check ----------------------------------------------------------------------------------- */

static clmla_status create_captures(check *c)
{
    const int32_t num_layers = c->cell->bench->num_layers;
    const size_t count = (size_t)c->steps * (size_t)c->cell->workload->num_tokens * c->hidden;
    c->captures = calloc((size_t)num_layers, sizeof(*c->captures));
    c->rows = malloc((size_t)c->cell->rows_bytes);
    c->floats = malloc((c->kv_lora + c->rope) * sizeof(*c->floats));
    c->doubles = malloc((c->kv_lora + c->rope) * sizeof(*c->doubles));
    if (c->captures == NULL || c->rows == NULL || c->floats == NULL || c->doubles == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    for (int32_t i = 0; i < num_layers; i++) {
        if (!is_checked(c, i))
            continue;
        c->captures[i] = (capture){malloc(count * sizeof(double)), malloc(count * sizeof(double))};
        if (c->captures[i].input == NULL || c->captures[i].output == NULL)
            return CL_OUT_OF_HOST_MEMORY;
    }
    return CLMLA_SUCCESS;
}

static void release_captures(check *c)
{
    for (int32_t i = 0; c->captures != NULL && i < c->cell->bench->num_layers; i++) {
        free(c->captures[i].input);
        free(c->captures[i].output);
    }
    free(c->captures);
    free(c->rows);
    free(c->floats);
    free(c->doubles);
}

clmla_status mla_cell_check(const mla_cell *cell, double *rel_error)
{
    enum {
        SAMPLE_STEPS = 2,
        FULL_STEPS = 4
    }; /* of decode: the second reads what the first wrote */
    const mla_bench *bench = cell->bench;
    const bool full = bench->check == MLA_CHECK_FULL;
    check c = {
        .cell = cell,
        .steps = !cell->workload->decode ? 1
                 : full                  ? FULL_STEPS
                                         : SAMPLE_STEPS,
        .hidden = (size_t)bench->config.hidden_size,
        .kv_lora = (size_t)bench->config.kv_lora_rank,
        .rope = (size_t)bench->config.qk_rope_head_dim,
        .layers = {0, bench->num_layers - 1},
        .all = full,
        .fp8_cache = bench->common->cache_dtype == CLMLA_DTYPE_FP8_DS_MLA,
    };
    clmla_status status = create_captures(&c);
    if (status == CLMLA_SUCCESS)
        status = run_device(&c);
    for (int32_t i = 0; i < bench->num_layers && status == CLMLA_SUCCESS; i++)
        if (is_checked(&c, i))
            status = compare_layer(&c, i);
    release_captures(&c);
    mla_progress_clear();
    if (status == CLMLA_SUCCESS)
        *rel_error = fmax(relative(&c.output), relative(&c.cache));
    return status;
}
