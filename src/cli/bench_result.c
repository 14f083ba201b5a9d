/*
 * One cell's figures: checked first, then timed, then told as a JSON object.
 */
#include <math.h>
#include <stdio.h>

#include "cli/bench.h"
#include "cli/cli.h"
#include "cli/message.h"
#include "cli/report.h"
#include "core/dtype.h"

static json_t *list_json(const int32_t *values, int32_t count)
{
    json_t *list = json_array();
    for (int32_t i = 0; list != NULL && i < count; i++)
        (void)json_array_append_new(list, json_integer(values[i]));
    return list;
}

static void set_real(json_t *object, const char *key, double value)
{
    (void)json_object_set_new(object, key, mla_report_real(value));
}

static void set_figures(const mla_cell *cell, const mla_times *times, json_t *result)
{
    const mla_workload *w = cell->workload;
    const double runs = (double)times->runs;
    const mla_cost cost = mla_cell_cost(cell, times->runs);
    clmla_binding_stats stats = {.struct_size = sizeof(stats)};
    (void)clmla_binding_get_stats(cell->lanes[0].bindings[0], &stats);
    set_real(result, "median_ms", times->median_ms);
    set_real(result, "min_ms", times->min_ms);
    set_real(result, "tokens_per_s", (double)w->num_tokens * runs / times->chain_seconds);
    if (!w->decode)
        set_real(result, "ttft_ms", times->ttft_ms);
    set_real(result, "enqueue_us", times->enqueue_us);
    (void)json_object_set_new(result, "kernel_launches", json_integer(stats.kernel_launches));
    (void)json_object_set_new(result, "clblast_calls", json_integer(stats.clblast_calls));
    set_real(result, "bytes", cost.bytes / runs);
    set_real(result, "flop", cost.flop / runs);
    set_real(result, "gb_per_s", 1e-9 * cost.bytes / times->chain_seconds);
    set_real(result, "gflop_per_s", 1e-9 * cost.flop / times->chain_seconds);
}

/* stages: taken, or NULL. */
static json_t *result_json(const mla_cell *cell, const mla_times *times, double rel_error,
                           json_t *stages)
{
    const mla_workload *w = cell->workload;
    const mla_common *common = cell->bench->common;
    json_t *result = json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:o, s:o, s:i, s:i}", "case",
        w->decode ? "decode" : "prefill", "mode", cell->batched ? "batched" : "sequential", "dtype",
        mla__dtype_name(common->dtype), "weights_dtype", mla__dtype_name(common->weights_dtype),
        "cache_dtype", mla__dtype_name(common->cache_dtype), "projection", cell->info.projection,
        "kernels", clmla_kernel_class_name(cell->info.kernel_class), "seqlens",
        list_json(w->seqlens, w->num_requests), "pastlens", list_json(w->pastlens, w->num_requests),
        "num_tokens", (int)w->num_tokens, "runs", (int)times->runs);
    if (result == NULL) {
        json_decref(stages);
        return NULL;
    }
    set_figures(cell, times, result);
    (void)json_object_set_new(result, "verified",
                              json_boolean(cell->bench->check != MLA_CHECK_OFF));
    set_real(result, "max_rel_error", rel_error);
    if (stages != NULL)
        (void)json_object_set_new(result, "stages", stages);
    return result;
}

static int measure(const mla_cell *cell, json_t **result)
{
    const double bound = mla_check_bound(cell->bench->common->dtype);
    double rel_error = (double)NAN;
    mla_times times;
    json_t *stages = NULL;
    clmla_status status = CLMLA_SUCCESS;
    if (cell->bench->check != MLA_CHECK_OFF) {
        status = mla_cell_check(cell, &rel_error);
        if (status == CLMLA_SUCCESS && !(rel_error <= bound)) {
            mla_error("%s: wrong result, not timed: relative error %.3g against the reference, at "
                      "most %.3g",
                      cell->what, rel_error, bound);
            return MLA_EXIT_FAILED;
        }
    }
    if (status == CLMLA_SUCCESS)
        status = mla_cell_time(cell, &times);
    if (status == CLMLA_SUCCESS && cell->bench->stages)
        status = mla_cell_stages(cell, &stages);
    if (status != CLMLA_SUCCESS)
        return mla_session_fail(&cell->backend->session, cell->what, status);
    *result = result_json(cell, &times, rel_error, stages);
    if (*result != NULL)
        return MLA_EXIT_SUCCESS;
    mla_error("out of memory");
    return MLA_EXIT_FAILED;
}

int mla_bench_measure(const mla_bench *bench, mla_backend *backend, const mla_workload *workload,
                      bool batched, const char *what, json_t **result)
{
    mla_cell cell;
    const clmla_status status = mla_cell_create(bench, backend, workload, batched, what, &cell);
    const int code = status == CLMLA_SUCCESS ? measure(&cell, result)
                                             : mla_session_fail(&backend->session, what, status);
    mla_cell_release(&cell);
    return code;
}

void mla_print_title(const mla_bench *bench, const char *model)
{
    const mla_common *common = bench->common;
    const mla_device_info *device = bench->backends[0].session.device;
    (void)printf("clmla %s, model %s", clmla_version(), model);
    if (common->weights_dtype != common->dtype)
        (void)printf(", weights %s", mla__dtype_name(common->weights_dtype));
    if (common->cache_dtype != common->dtype)
        (void)printf(", cache %s", mla__dtype_name(common->cache_dtype));
    (void)printf(", %s (%s)\n", device->name, device->platform_name);
}

/* " heads 16" for a number, " decode" for a word. */
static void print_member(const json_t *row, const char *key)
{
    const json_t *value = json_object_get(row, key);
    if (json_is_integer(value))
        (void)printf(" %s %" JSON_INTEGER_FORMAT, key, json_integer_value(value));
    else
        (void)printf(" %s", json_string_value(value));
}

void mla_print_stages(const json_t *rows, const char *const *what, size_t num_what)
{
    size_t i, j;
    const json_t *row, *stage;
    json_array_foreach((json_t *)(uintptr_t)rows, i, row)
    {
        if (json_object_get(row, "stages") == NULL)
            continue;
        (void)printf("\nstages of");
        for (size_t k = 0; k < num_what; k++)
            print_member(row, what[k]);
        (void)printf(", median ms:");
        json_array_foreach(json_object_get(row, "stages"), j, stage)(void)
            printf(" %s %.4g", json_string_value(json_object_get(stage, "stage")),
                   json_real_value(json_object_get(stage, "median_ms")));
        (void)printf("; enqueue %.4g us\n", json_real_value(json_object_get(row, "enqueue_us")));
    }
}
