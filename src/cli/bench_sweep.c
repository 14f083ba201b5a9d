/*
 * clmla bench --sweep: batched decode over batch, context and heads, beside what the device was
 * measured to reach.
 *
 * A cell decodes one new token for each of `batch` sequences; the first of its steps sees `context`
 * keys, later ones one more each. Weights are those of one head count, shared by its cells.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/bench.h"
#include "cli/cli.h"
#include "cli/measure.h"
#include "cli/message.h"
#include "cli/report.h"

enum { MAX_BATCH = 1 << 16, MAX_CONTEXT = 1 << 24, MAX_HEADS = 1 << 12 };

/* Of the device's memory that a cell may fill: the workspace, the driver and, on a CPU, the host's
 * copies need the rest. */
#define MEMORY_SHARE 0.5

typedef struct sweep_run {
    mla_bench *bench;
    mla_report *report;
    json_t *skipped; /* {"heads","batch","context","reason"} */
    mla_measured measured;
} sweep_run;

static const mla_column columns[] = {
    {.key = "heads", .heading = "heads"},
    {.key = "batch", .heading = "batch"},
    {.key = "context", .heading = "context"},
    {.key = "dtype", .heading = "dtype"},
    {.key = "projection", .heading = "projection"},
    {.key = "kernels", .heading = "kernels"},
    {.key = "runs", .heading = "runs"},
    {.key = "median_ms", .heading = "median ms", .format = "%.4g"},
    {.key = "min_ms", .heading = NULL},
    {.key = "tokens_per_s", .heading = "tokens/s", .format = "%.1f"},
    {.key = "enqueue_us", .heading = "enqueue us", .format = "%.1f"},
    {.key = "kernel_launches", .heading = NULL},
    {.key = "clblast_calls", .heading = NULL},
    {.key = "bytes", .heading = NULL, .format = "%.0f"},
    {.key = "flop", .heading = NULL},
    {.key = "flop_per_byte", .heading = "FLOP/byte", .format = "%.1f"},
    {.key = "gb_per_s", .heading = "GB/s", .format = "%.2f"},
    {.key = "gflop_per_s", .heading = "GFLOP/s", .format = "%.1f"},
    {.key = "roofline_fraction", .heading = "of roofline", .format = "%.2f"},
    {.key = "attention_ms", .heading = NULL},
    {.key = "attention_gb_per_s", .heading = NULL},
    {.key = "attention_gflop_per_s", .heading = NULL},
    {.key = "weights_dtype", .heading = NULL},
    {.key = "cache_dtype", .heading = NULL},
    {.key = "device_read_gb_per_s", .heading = NULL},
    {.key = "device_fma_gflop_per_s", .heading = NULL},
    {.key = "verified", .heading = "verified"},
    {.key = "max_rel_error", .heading = "rel error", .format = "%.1e"},
};

/* ---- lists ----------------------------------------------------------------------------------- */

static bool default_list(const int32_t *values, size_t count, int32_t **out, size_t *num)
{
    if (*out != NULL)
        return true;
    *out = malloc(count * sizeof(**out));
    if (*out == NULL) {
        mla_error("out of memory");
        return false;
    }
    memcpy(*out, values, count * sizeof(**out));
    *num = count;
    return true;
}

bool mla_sweep_take(const mla_options *options, const mla_bench *bench, bool named_model,
                    mla_sweep *out)
{
    static const int32_t batches[] = {1, 4, 16, 64};
    static const int32_t contexts[] = {1024, 4096, 16384, 32768};
    static const int32_t named_heads[] = {16, 128}; /* of lite and r1 */
    const int32_t *heads = named_model ? named_heads : &bench->config.num_attention_heads;
    *out = (mla_sweep){0};
    if (!mla_option_list(options, MLA_OPT_BATCHES, 1, MAX_BATCH, &out->batches,
                         &out->num_batches) ||
        !mla_option_list(options, MLA_OPT_CONTEXTS, 1, MAX_CONTEXT, &out->contexts,
                         &out->num_contexts) ||
        !mla_option_list(options, MLA_OPT_HEADS, 1, MAX_HEADS, &out->heads, &out->num_heads))
        return false;
    return default_list(batches, 4, &out->batches, &out->num_batches) &&
           default_list(contexts, 4, &out->contexts, &out->num_contexts) &&
           default_list(heads, named_model ? 2 : 1, &out->heads, &out->num_heads);
}

void mla_sweep_release(mla_sweep *sweep)
{
    free(sweep->batches);
    free(sweep->contexts);
    free(sweep->heads);
    *sweep = (mla_sweep){0};
}

/* ---- one cell -------------------------------------------------------------------------------- */

#define GIB ((double)(1 << 30))

/* False with the reason when the device's memory does not hold the cell. */
static bool fits(const mla_bench *bench, int32_t batch, int32_t context, char *why, size_t bytes)
{
    const mla_device_info *device = bench->backends[0].session.device;
    const int32_t steps = bench->runs > bench->warmup ? bench->runs : bench->warmup;
    const mla_memory needed = mla_decode_memory(bench, batch, context + steps);
    if (needed.largest_bytes > (double)device->max_alloc_bytes)
        (void)snprintf(why, bytes, "a buffer of %.1f GiB, the device's largest is %.1f GiB",
                       needed.largest_bytes / GIB, (double)device->max_alloc_bytes / GIB);
    else if (needed.total_bytes > MEMORY_SHARE * (double)device->global_mem_bytes)
        (void)snprintf(why, bytes, "%.1f GiB, more than half of the device's %.1f GiB",
                       needed.total_bytes / GIB, (double)device->global_mem_bytes / GIB);
    else
        return true;
    return false;
}

/* With --stages: the attention stage of the first step, whose sequences all hold `context` keys.
 * Where attention is split, merging belongs to it, unless one kernel merges and applies W_UV. */
static void add_attention(const sweep_run *run, int32_t batch, int32_t context, json_t *row)
{
    const double keys = (double)batch * (double)context;
    const mla_cost cost = mla_attention_cost(run->bench, (double)batch, keys, keys);
    const json_t *stages = json_object_get(row, "stages");
    for (size_t i = 0; i < json_array_size(stages); i++) {
        const json_t *stage = json_array_get(stages, i);
        const double ms = json_real_value(json_object_get(stage, "median_ms"));
        if (strcmp(json_string_value(json_object_get(stage, "stage")), "attention") != 0)
            continue;
        (void)json_object_set_new(row, "attention_ms", mla_report_real(ms));
        (void)json_object_set_new(row, "attention_gb_per_s",
                                  mla_report_real(1e-6 * cost.bytes / ms));
        (void)json_object_set_new(row, "attention_gflop_per_s",
                                  mla_report_real(1e-6 * cost.flop / ms));
    }
}

/* The members of a sweep's row that a cell's result does not have. */
static void complete_row(const sweep_run *run, int32_t batch, int32_t context, json_t *row)
{
    const mla_cost cost = {.bytes = json_real_value(json_object_get(row, "bytes")),
                           .flop = json_real_value(json_object_get(row, "flop"))};
    const double read = run->measured.read_gb_per_s, fma = run->measured.fma_gflop_per_s;
    const double reached = json_real_value(json_object_get(row, "gflop_per_s"));
    (void)json_object_del(row, "seqlens");
    (void)json_object_del(row, "pastlens");
    (void)json_object_set_new(row, "heads", json_integer(run->bench->config.num_attention_heads));
    (void)json_object_set_new(row, "batch", json_integer(batch));
    (void)json_object_set_new(row, "context", json_integer(context));
    (void)json_object_set_new(row, "flop_per_byte", mla_report_real(cost.flop / cost.bytes));
    (void)json_object_set_new(row, "roofline_fraction",
                              mla_report_real(reached / mla_roofline(read, fma, cost)));
    add_attention(run, batch, context, row);
    (void)json_object_set_new(row, "device_read_gb_per_s", mla_report_real(read));
    (void)json_object_set_new(row, "device_fma_gflop_per_s", mla_report_real(fma));
}

/* Adds a row for each backend. lengths: seqlens and pastlens. */
static int measure_cell(const sweep_run *run, int32_t batch, int32_t context,
                        const int32_t *lengths, const char *what)
{
    mla_bench *bench = run->bench;
    const mla_workload workload = {true, batch, lengths, lengths + batch, batch};
    int code = MLA_EXIT_SUCCESS;
    for (int32_t i = 0; i < bench->num_backends; i++) {
        char name[112];
        json_t *row = NULL;
        (void)snprintf(name, sizeof(name), "%s%s%s", what, bench->num_backends > 1 ? ", " : "",
                       bench->num_backends > 1 ? mla_projection_name(bench->common->projections[i])
                                               : "");
        mla_progress("%s", name);
        const int one = mla_bench_measure(bench, &bench->backends[i], &workload, true, name, &row);
        if (one != MLA_EXIT_SUCCESS) {
            code = one;
            continue;
        }
        complete_row(run, batch, context, row);
        if (!mla_report_add(run->report, row)) {
            mla_error("out of memory");
            return MLA_EXIT_FAILED;
        }
    }
    return code;
}

/* Adds rows, or a line to what is skipped. */
static int sweep_cell(const sweep_run *run, int32_t batch, int32_t context)
{
    const int32_t heads = run->bench->config.num_attention_heads;
    char what[96], why[160];
    (void)snprintf(what, sizeof(what), "heads %d, batch %d, context %d", (int)heads, (int)batch,
                   (int)context);
    if (!fits(run->bench, batch, context, why, sizeof(why))) {
        mla_note("%s: skipped: %s", what, why);
        (void)json_array_append_new(run->skipped,
                                    json_pack("{s:i, s:i, s:i, s:s}", "heads", (int)heads, "batch",
                                              (int)batch, "context", (int)context, "reason", why));
        return MLA_EXIT_SUCCESS;
    }
    int32_t *lengths = malloc(2 * (size_t)batch * sizeof(*lengths));
    if (lengths == NULL) {
        mla_error("out of memory");
        return MLA_EXIT_FAILED;
    }
    for (int32_t i = 0; i < batch; i++) {
        lengths[i] = 1;
        lengths[batch + i] = context - 1;
    }
    const int code = measure_cell(run, batch, context, lengths, what);
    free(lengths);
    return code;
}

/* ---- all cells ------------------------------------------------------------------------------- */

/* The cells of the head count in bench->config. */
static int sweep_heads(const sweep_run *run, const mla_sweep *sweep)
{
    int code = MLA_EXIT_SUCCESS;
    for (size_t b = 0; b < sweep->num_batches; b++)
        for (size_t c = 0; c < sweep->num_contexts; c++) {
            const int one = sweep_cell(run, sweep->batches[b], sweep->contexts[c]);
            if (one != MLA_EXIT_SUCCESS)
                code = one;
        }
    mla_bench_drop_weights(run->bench);
    return code;
}

static void print_header(const sweep_run *run, const char *model)
{
    mla_print_title(run->bench, model);
    (void)printf("device measured: read %.1f GB/s, f32 multiply-adds %.1f GFLOP/s\n\n",
                 run->measured.read_gb_per_s, run->measured.fma_gflop_per_s);
    (void)fflush(stdout);
}

static json_t *document_json(const sweep_run *run, const char *model)
{
    const mla_bench *bench = run->bench;
    return json_pack("{s:s, s:o, s:o, s:s, s:i, s:i, s:I, s:O}", "clmla", clmla_version(), "device",
                     mla_session_device_json(&bench->backends[0].session), "device_measured",
                     json_pack("{s:f, s:f}", "read_gb_per_s", run->measured.read_gb_per_s,
                               "fma_gflop_per_s", run->measured.fma_gflop_per_s),
                     "model", model, "layers", (int)bench->num_layers, "page_block_size",
                     (int)bench->common->page_block_size, "seed", (json_int_t)bench->common->seed,
                     "skipped", run->skipped);
}

static clmla_status measure_device(sweep_run *run)
{
    mla_progress("measuring the device");
    const clmla_status status =
        mla_measure_device(run->bench->backends[0].session.device, &run->measured);
    mla_progress_clear();
    return status;
}

int mla_sweep_run(mla_bench *bench, const mla_sweep *sweep, const char *model)
{
    const mla_format format = bench->common->format;
    mla_report report;
    sweep_run run = {.bench = bench, .report = &report, .skipped = json_array()};
    const clmla_status status = measure_device(&run);
    int code = MLA_EXIT_SUCCESS;
    if (status != CLMLA_SUCCESS) {
        json_decref(run.skipped);
        return mla_session_fail(&bench->backends[0].session, "measuring the device", status);
    }
    if (!mla_report_open(stdout, format, columns, sizeof(columns) / sizeof(columns[0]), false,
                         &report) ||
        run.skipped == NULL) {
        mla_error("out of memory");
        return MLA_EXIT_FAILED;
    }
    if (bench->check == MLA_CHECK_SAMPLE)
        bench->check = MLA_CHECK_ONE;
    for (size_t h = 0; h < sweep->num_heads; h++) {
        bench->config.num_attention_heads = sweep->heads[h];
        const int one = sweep_heads(&run, sweep);
        if (one != MLA_EXIT_SUCCESS)
            code = one;
    }
    const bool as_table = format == MLA_FORMAT_TABLE && json_array_size(report.rows) > 0;
    if (as_table)
        print_header(&run, model);
    if (!mla_report_print(&report, format == MLA_FORMAT_JSON ? document_json(&run, model) : NULL,
                          "results")) {
        mla_error("could not write the report");
        code = MLA_EXIT_FAILED;
    }
    if (as_table)
        mla_print_stages(report.rows,
                         (const char *const[]){"heads", "batch", "context", "projection"},
                         bench->num_backends > 1 ? 4 : 3);
    mla_report_close(&report);
    json_decref(run.skipped);
    return code;
}
