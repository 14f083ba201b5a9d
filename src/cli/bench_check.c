/*
 * A cell against the double reference, before it is timed.
 *
 * The steps of a request, each fed with what the device really had as input, equal one prefill of
 * all those inputs (attention is causal), so the reference needs one call per request and layer.
 */
#include <math.h>
#include <stdlib.h>

#include "cli/bench.h"
#include "cli/convert.h"
#include "cli/message.h"
#include "core/dtype.h"
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

static bool widen_weights(const check *c, int32_t layer, wide_weights *out)
{
    const mla_bench *bench = c->cell->bench;
    mla_drawn_weights drawn;
    *out = (wide_weights){.values = {NULL}};
    bool done = mla_draw_weights(&bench->config, layer, bench->common->seed, &drawn);
    for (int i = 0; i < MLA_NUM_WEIGHTS && done; i++) {
        if (drawn.patterns[i] == NULL)
            continue;
        out->values[i] = malloc(drawn.count[i] * sizeof(double));
        done = out->values[i] != NULL;
        if (done)
            mla_load_doubles(drawn.patterns[i], CLMLA_DTYPE_BF16, 0, drawn.count[i],
                             out->values[i]);
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

/* [past + new, width] with the past rows as drawn; NULL: out of memory. */
static double *past_cache(const check *c, int32_t layer, int32_t request, bool rope_part,
                          size_t new_tokens)
{
    const size_t width = rope_part ? c->rope : c->kv_lora;
    const size_t past = (size_t)c->cell->workload->pastlens[request];
    uint16_t *drawn = malloc(past * width * sizeof(*drawn) + 1);
    double *rows = malloc((past + new_tokens) * width * sizeof(*rows) + 1);
    if (drawn != NULL && rows != NULL) {
        mla_draw_past(layer, request, rope_part, c->cell->bench->common->seed, past * width, drawn);
        mla_load_doubles(drawn, CLMLA_DTYPE_BF16, 0, past * width, rows);
    } else {
        free(rows);
        rows = NULL;
    }
    free(drawn);
    return rows;
}

/* The appended rows of one request, the device's cache against the reference's. */
static bool compare_cache(check *c, int32_t request, const void *device, size_t width,
                          size_t new_tokens, const double *truth)
{
    const clmla_dtype dtype = c->cell->bench->common->dtype;
    const int32_t past = c->cell->workload->pastlens[request];
    double *row = malloc(width * sizeof(*row) + 1);
    if (row == NULL)
        return false;
    for (size_t i = 0; i < new_tokens && width > 0; i++) {
        const int32_t key = past + (int32_t)i;
        mla_load_doubles(device, dtype, mla_pages_row(&c->cell->pages, request, key) * width, width,
                         row);
        add_difference(&c->cache, row, truth + (size_t)key * width, width);
    }
    free(row);
    return true;
}

typedef struct device_caches {
    void *kv, *pe; /* whole caches of a layer as the device holds them */
} device_caches;

/* One request of one layer. Prefill samples its first and last token. */
static clmla_status compare_request(check *c, int32_t layer, int32_t request,
                                    const wide_weights *weights, const device_caches *caches)
{
    const mla_workload *w = c->cell->workload;
    const size_t past = (size_t)w->pastlens[request];
    const size_t tokens = (size_t)w->seqlens[request] * (size_t)c->steps;
    const int32_t sample[2] = {0, (int32_t)tokens - 1};
    const bool every_row = w->decode || tokens <= 2 || c->cell->bench->check == MLA_CHECK_FULL;
    const size_t base = first_row(c, request) * c->hidden;
    double *kv = past_cache(c, layer, request, false, tokens);
    double *pe = past_cache(c, layer, request, true, tokens);
    double *truth = malloc(tokens * c->hidden * sizeof(*truth));
    clmla_status status = CL_OUT_OF_HOST_MEMORY;
    if (kv != NULL && pe != NULL && truth != NULL)
        status = mla_ref_layer(&c->cell->bench->config, &weights->ref, MLA_REF_ABSORBED, past,
                               tokens, c->captures[layer].input + base, kv, pe,
                               every_row ? NULL : sample, every_row ? tokens : 2, truth, NULL);
    for (size_t i = 0; i < (every_row ? tokens : 2) && status == CLMLA_SUCCESS; i++) {
        const size_t row = (every_row ? i : (size_t)sample[i]) * c->hidden;
        add_difference(&c->output, c->captures[layer].output + base + row, truth + row, c->hidden);
    }
    if (status == CLMLA_SUCCESS &&
        (!compare_cache(c, request, caches->kv, c->kv_lora, tokens, kv) ||
         !compare_cache(c, request, caches->pe, c->rope, tokens, pe)))
        status = CL_OUT_OF_HOST_MEMORY;
    free(kv);
    free(pe);
    free(truth);
    return status;
}

static clmla_status read_cache(const check *c, cl_mem buffer, size_t width, void **out)
{
    const mla_session *session = &c->cell->backend->session;
    const size_t bytes =
        mla_pages_rows(&c->cell->pages) * width * mla__dtype_bytes(session->common->dtype);
    *out = malloc(bytes + 1);
    if (*out == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    return bytes == 0 ? CLMLA_SUCCESS
                      : clEnqueueReadBuffer(session->queue, buffer, CL_TRUE, 0, bytes, *out, 0,
                                            NULL, NULL);
}

static clmla_status compare_layer(check *c, int32_t layer)
{
    const mla_workload *w = c->cell->workload;
    device_caches caches = {NULL, NULL};
    wide_weights weights;
    clmla_status status = widen_weights(c, layer, &weights) ? CLMLA_SUCCESS : CL_OUT_OF_HOST_MEMORY;
    if (status == CLMLA_SUCCESS)
        status = read_cache(c, c->cell->kv_cache[layer], c->kv_lora, &caches.kv);
    if (status == CLMLA_SUCCESS)
        status = read_cache(c, c->cell->pe_cache[layer], c->rope, &caches.pe);
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
    if (c->captures == NULL || c->rows == NULL)
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
