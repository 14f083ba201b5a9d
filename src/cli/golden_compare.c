/*
 * Comparing the results of a run with a golden case's float64 truth.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/golden_internal.h"
#include "core/checked.h"
#include "core/dtype.h"

/* Sums over everything of one kind that is compared. */
typedef struct error_sums {
    double difference; /* Σ (y - t)² */
    double truth;      /* Σ t² */
    double max_abs;
    uint64_t count;
    bool finite;
} error_sums;

typedef struct comparison {
    const mla_golden *golden;
    const mla_results *results;
    double bound;
    error_sums output, cache;
    double row_check;
    clmla_model_error *error;
} comparison;

/* ---- sums ----------------------------------------------------------------------------------- */

/* t is F64 or F32. */
static void add_row(error_sums *sums, const float *y, const void *t, clmla_safetensors_dtype dtype,
                    size_t count)
{
    const double *t64 = t;
    const float *t32 = t;
    for (size_t i = 0; i < count; i++) {
        const double truth = dtype == CLMLA_ST_F64 ? t64[i] : (double)t32[i];
        const double difference = (double)y[i] - truth;
        if (!isfinite(difference))
            sums->finite = false;
        sums->difference += difference * difference;
        sums->truth += truth * truth;
        sums->max_abs = fmax(sums->max_abs, fabs(difference));
    }
    sums->count += count;
}

static bool all_finite(const float *y, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (!isfinite(y[i]))
            return false;
    return true;
}

/* NaN when anything was not finite, so that no comparison with a bound passes. */
static double relative(const error_sums *sums)
{
    if (!sums->finite)
        return (double)NAN;
    if (sums->difference == 0.0)
        return 0.0;
    return sqrt(sums->difference / sums->truth);
}

/* ---- outputs -------------------------------------------------------------------------------- */

/* Rows of a tensor that a list of indices selects: `indices` [n] I32, `values` [n, width] F32.
 * *count is 0 when this request stores none. */
typedef struct selected_rows {
    const int32_t *indices;
    const float *values;
    size_t count;
} selected_rows;

static clmla_status select_rows(const comparison *c, mla_golden_key indices, mla_golden_key values,
                                int32_t width, selected_rows *out)
{
    const clmla_safetensors_tensor *list = clmla_safetensors_find(c->golden->file, indices.name);
    const void *data;
    clmla_status status;
    memset(out, 0, sizeof *out);
    if (list == NULL)
        return CLMLA_SUCCESS;
    indices.rank = 1;
    indices.shape[0] = list->rank == 1 ? list->shape[0] : 0;
    status = mla_golden_stored(c->golden, &indices, CLMLA_ST_I32, &data, c->error);
    if (status != CLMLA_SUCCESS)
        return status;
    out->indices = data;
    out->count = (size_t)indices.shape[0];
    values.rank = 2;
    values.shape[0] = indices.shape[0];
    values.shape[1] = (uint64_t)width;
    status = mla_golden_stored(c->golden, &values, CLMLA_ST_F32, &data, c->error);
    if (status == CLMLA_SUCCESS)
        out->values = data;
    return status;
}

static clmla_status bad_row(const comparison *c, const char *name, int32_t row)
{
    return mla_golden_fail(c->error, CLMLA_BAD_FILE,
                           "%s: tensor '%s' names row %d, which no step "
                           "computes",
                           c->golden->job.name, name, row);
}

/* sum, L2 norm and products with the probes of every row; see README, "Full-size cases". */
static double check_row(const comparison *c, const float *y, const double *stored)
{
    const size_t hidden = (size_t)c->golden->job.config.hidden_size;
    const double norm = stored[1];
    double squares = 0.0;
    double products[2] = {0.0, 0.0};
    double worst;
    if (!isfinite(norm) || !isfinite(stored[2]) || !isfinite(stored[3]))
        return (double)INFINITY;
    for (size_t i = 0; i < hidden; i++) {
        const double value = (double)y[i];
        squares += value * value;
        for (int p = 0; p < 2; p++)
            products[p] += value * (double)mla__bf16_to_float(c->golden->probes[p][i]);
    }
    if (!(norm > 0.0))
        return squares == 0.0 ? 0.0 : (double)INFINITY;
    worst = fabs(sqrt(squares) / norm - 1.0) / (2.0 * c->bound);
    for (int p = 0; p < 2; p++)
        worst = fmax(worst, fabs(products[p] - stored[2 + p]) / (4.0 * c->bound * norm));
    return worst;
}

static clmla_status compare_recipe_step(comparison *c, const mla_request *request, int32_t step,
                                        const float *y)
{
    const int32_t hidden = c->golden->job.config.hidden_size;
    const mla_golden_key indices = mla_golden_request_key(c->golden, request, step, "rows");
    mla_golden_key key = mla_golden_request_key(c->golden, request, step, "output_rows");
    selected_rows rows;
    const void *row_check;
    clmla_status status = select_rows(c, indices, key, hidden, &rows);
    if (status != CLMLA_SUCCESS)
        return status;
    for (size_t i = 0; i < rows.count; i++) {
        const int32_t row = rows.indices[i];
        if (row < 0 || row >= request->steps[step])
            return bad_row(c, indices.name, row);
        add_row(&c->output, y + (size_t)row * (size_t)hidden, rows.values + i * (size_t)hidden,
                CLMLA_ST_F32, (size_t)hidden);
    }
    key = mla_golden_request_key(c->golden, request, step, "row_check");
    key.rank = 2;
    key.shape[0] = (uint64_t)request->steps[step];
    key.shape[1] = 4;
    status = mla_golden_stored(c->golden, &key, CLMLA_ST_F64, &row_check, c->error);
    if (status != CLMLA_SUCCESS)
        return status;
    for (int32_t row = 0; row < request->steps[step]; row++)
        c->row_check = fmax(c->row_check, check_row(c, y + (size_t)row * (size_t)hidden,
                                                    (const double *)row_check + 4 * (size_t)row));
    return CLMLA_SUCCESS;
}

static clmla_status compare_step(comparison *c, const mla_request *request, int32_t step,
                                 const float *y)
{
    const size_t count = (size_t)request->batch * (size_t)request->steps[step] *
                         (size_t)c->golden->job.config.hidden_size;
    mla_golden_key key = mla_golden_request_key(c->golden, request, step, "output");
    const void *truth;
    clmla_status status;
    if (!all_finite(y, count))
        c->output.finite = false;
    if (c->golden->recipe)
        return compare_recipe_step(c, request, step, y);
    key.rank = 3;
    key.shape[0] = (uint64_t)request->batch;
    key.shape[1] = (uint64_t)request->steps[step];
    key.shape[2] = (uint64_t)c->golden->job.config.hidden_size;
    status = mla_golden_stored(c->golden, &key, CLMLA_ST_F64, &truth, c->error);
    if (status == CLMLA_SUCCESS)
        add_row(&c->output, y, truth, CLMLA_ST_F64, count);
    return status;
}

/* ---- caches --------------------------------------------------------------------------------- */

/* cache_rows are positions: row p of the cache is row p - past of the appended ones. */
static clmla_status compare_recipe_cache(comparison *c, const mla_request *request,
                                         const char *what, int32_t width, const float *y)
{
    const mla_golden_key indices = mla_golden_request_key(c->golden, request, -1, "cache_rows");
    selected_rows rows;
    const clmla_status status =
        select_rows(c, indices, mla_golden_request_key(c->golden, request, -1, what), width, &rows);
    if (status != CLMLA_SUCCESS)
        return status;
    for (size_t i = 0; i < rows.count; i++) {
        const int32_t position = rows.indices[i];
        if (position < 0 || position - request->past >= mla_request_new_tokens(request))
            return bad_row(c, indices.name, position);
        if (position >= request->past) /* earlier rows were there before the run */
            add_row(&c->cache, y + (size_t)(position - request->past) * (size_t)width,
                    rows.values + i * (size_t)width, CLMLA_ST_F32, (size_t)width);
    }
    return CLMLA_SUCCESS;
}

static clmla_status compare_cache(comparison *c, const mla_request *request, const char *stored,
                                  const char *recipe, int32_t width, const float *y)
{
    mla_golden_key key = mla_golden_request_key(c->golden, request, -1, stored);
    const uint64_t tokens = (uint64_t)mla_request_new_tokens(request);
    const size_t count = (size_t)request->batch * (size_t)tokens * (size_t)width;
    const void *truth;
    clmla_status status;
    if (width == 0)
        return CLMLA_SUCCESS;
    if (!all_finite(y, count))
        c->cache.finite = false;
    if (c->golden->recipe)
        return compare_recipe_cache(c, request, recipe, width, y);
    key.rank = 3;
    key.shape[0] = (uint64_t)request->batch;
    key.shape[1] = tokens;
    key.shape[2] = (uint64_t)width;
    status = mla_golden_stored(c->golden, &key, CLMLA_ST_F64, &truth, c->error);
    if (status == CLMLA_SUCCESS)
        add_row(&c->cache, y, truth, CLMLA_ST_F64, count);
    return status;
}

static clmla_status compare_request(comparison *c, int32_t r)
{
    const mla_request *request = &c->golden->job.requests[r];
    const mla_results *results = c->results;
    clmla_status status = CLMLA_SUCCESS;
    for (int32_t i = 0; i < request->num_steps && status == CLMLA_SUCCESS; i++)
        status = compare_step(c, request, i, results->output[r][i]);
    if (status == CLMLA_SUCCESS)
        status = compare_cache(c, request, "kv_cache", "kv_cache_rows",
                               c->golden->job.config.kv_lora_rank, results->kv_cache[r]);
    if (status == CLMLA_SUCCESS)
        status = compare_cache(c, request, "pe_cache", "pe_cache_rows",
                               c->golden->job.config.qk_rope_head_dim, results->pe_cache[r]);
    return status;
}

clmla_status mla_golden_compare(const mla_golden *golden, const mla_results *results, double bound,
                                mla_golden_errors *out, clmla_model_error *error)
{
    comparison c = {.golden = golden,
                    .results = results,
                    .bound = bound,
                    .output = {.finite = true},
                    .cache = {.finite = true},
                    .error = error};
    if (!(bound > 0.0))
        return mla_golden_fail(error, CLMLA_INVALID_ARGUMENT, "%s: bound %g is not > 0",
                               golden->job.name, bound);
    for (int32_t r = 0; r < golden->job.num_requests; r++) {
        const clmla_status status = compare_request(&c, r);
        if (status != CLMLA_SUCCESS)
            return status;
    }
    if (c.output.count == 0)
        return mla_golden_fail(error, CLMLA_BAD_FILE, "%s: no output is stored", golden->job.name);
    out->rel_l2 = relative(&c.output);
    out->max_abs = c.output.finite ? c.output.max_abs : (double)NAN;
    out->cache_rel_l2 = relative(&c.cache);
    out->row_check = c.output.finite ? c.row_check : (double)NAN;
    out->finite = c.output.finite && c.cache.finite;
    return CLMLA_SUCCESS;
}
