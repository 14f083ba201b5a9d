#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/bench.h"
#include "cli/cli.h"
#include "cli/message.h"
#include "cli/options.h"
#include "cli/report.h"
#include "cli/session.h"
#include "clmla_model.h"
#include "core/printable.h"

static struct poptOption own_options[] = {
    MLA_OPTION_VALUE("model", MLA_OPT_MODEL, "sizes of the layer (default lite)",
                     "lite|r1|CONFIG.json"),
    MLA_OPTION_VALUE("case", MLA_OPT_CASE, "default both", "prefill,decode"),
    MLA_OPTION_VALUE("mode", MLA_OPT_MODE, "default both", "sequential,batched"),
    MLA_OPTION_VALUE("seqlens", MLA_OPT_SEQLENS,
                     "new tokens of each request, of the one case chosen", "L"),
    MLA_OPTION_VALUE("pastlens", MLA_OPT_PASTLENS, "tokens in the cache before, as many", "L"),
    MLA_OPTION_VALUE("warmup", MLA_OPT_WARMUP, "runs before timing (default 10)", "N"),
    MLA_OPTION_VALUE("runs", MLA_OPT_RUNS, "timed runs (default 100)", "N"),
    MLA_OPTION_VALUE("max-seconds", MLA_OPT_MAX_SECONDS,
                     "fewer runs, at least 3, where a case and mode would take longer (default 20)",
                     "S"),
    MLA_OPTION_VALUE("layers", MLA_OPT_LAYERS,
                     "layers with weights and caches of their own (default 1)", "N"),
    MLA_OPTION_VALUE("tp", MLA_OPT_TP, "a shard of N: heads / N (default 1)", "N"),
    MLA_OPTION_FLAG("stages", MLA_OPT_STAGES,
                    "time of each stage too (sequential: of the first request)"),
    MLA_OPTION_VALUE("check", MLA_OPT_CHECK,
                     "against the double reference, before timing (default sample)",
                     "full|sample|off"),
    MLA_OPTION_FLAG("sweep", MLA_OPT_SWEEP,
                    "batched decode, one new token per sequence, over batch, context and heads; "
                    "beside the device's measured read bandwidth and multiply-adds. Checks one "
                    "sequence of each. Default: --runs 20 --warmup 3 --max-seconds 5"),
    MLA_OPTION_VALUE("batches", MLA_OPT_BATCHES, "sequences, of --sweep (default 1,4,16,64)", "L"),
    MLA_OPTION_VALUE("contexts", MLA_OPT_CONTEXTS,
                     "keys of the first step, of --sweep (default 1024,4096,16384,32768)", "L"),
    MLA_OPTION_VALUE("heads", MLA_OPT_HEADS,
                     "of --sweep (default 16,128 for lite and r1, else the model's)", "L"),
    POPT_TABLEEND,
};

static const mla_command command = {
    .name = "bench",
    .summary = "Measures prefill latency and decode throughput of an MLA layer.",
    .own = own_options,
    .has_device = true,
    .has_numerics = true,
    .has_storage = true,
    .has_format = true,
    .many_projections = true,
};

enum {
    PREFILL = 0,
    DECODE = 1,
    SEQUENTIAL = 0,
    BATCHED = 1,
    MAX_RUNS = 1000000,
    MAX_LENGTH = 1 << 24,
    MAX_LAYERS = 1024
};

static const char *const case_names[] = {"prefill", "decode"};
static const char *const mode_names[] = {"sequential", "batched"};

struct mla_bench_request {
    mla_common common;
    mla_bench bench;
    const char *model;
    int32_t tp;
    uint32_t cases, modes; /* bits */
    mla_workload workloads[2];
    int32_t *seqlens, *pastlens; /* from the arguments; owned */
    int32_t *ones;               /* seqlens of decode where only pastlens are given; owned */
    bool is_sweep;
    mla_sweep sweep;
    const json_t *seed_rows[2]; /* by case: the first backend's batched row, of the report */
};

/* ---- workloads ------------------------------------------------------------------------------- */

/* The seed project's: InfiniLM's attention_test.py. */
static const int32_t prefill_seqlens[] = {64, 128, 256, 256};
static const int32_t prefill_pastlens[] = {512, 0, 0, 256};
static const int32_t decode_seqlens[] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
static const int32_t decode_pastlens[] = {50,  50,  50,  50,  100, 100, 100, 100,
                                          200, 200, 200, 200, 400, 400, 400, 400};

enum {
    PREFILL_REQUESTS = sizeof(prefill_seqlens) / sizeof(prefill_seqlens[0]),
    DECODE_REQUESTS = sizeof(decode_seqlens) / sizeof(decode_seqlens[0])
};

static bool count_tokens(mla_workload *w)
{
    int64_t tokens = 0;
    for (int32_t i = 0; i < w->num_requests; i++)
        tokens += w->seqlens[i];
    w->num_tokens = (int32_t)tokens;
    return tokens <= MAX_LENGTH;
}

/* --seqlens and --pastlens replace the workload of the one case that --case chooses. */
static bool take_lengths(const mla_options *options, mla_bench_request *r)
{
    size_t num_seqlens, num_pastlens;
    if (!mla_option_list(options, MLA_OPT_SEQLENS, 1, MAX_LENGTH, &r->seqlens, &num_seqlens) ||
        !mla_option_list(options, MLA_OPT_PASTLENS, 0, MAX_LENGTH, &r->pastlens, &num_pastlens))
        return false;
    if (r->seqlens == NULL && r->pastlens == NULL)
        return true;
    if (r->cases == 3) {
        mla_error("--seqlens, --pastlens: --case prefill or --case decode must say whose they are");
        return false;
    }
    const int index = r->cases == 1u << DECODE ? DECODE : PREFILL;
    if (r->pastlens == NULL || (r->seqlens == NULL && index == PREFILL)) {
        mla_error("--%s: --%s must be given too, with as many entries",
                  r->pastlens == NULL ? "seqlens" : "pastlens",
                  r->pastlens == NULL ? "pastlens" : "seqlens");
        return false;
    }
    if (r->seqlens != NULL && num_seqlens != num_pastlens) {
        mla_error("--seqlens '%s' has %zu entries, --pastlens '%s' has %zu: must be as many",
                  options->text[MLA_OPT_SEQLENS], num_seqlens, options->text[MLA_OPT_PASTLENS],
                  num_pastlens);
        return false;
    }
    if (r->seqlens == NULL) {
        r->ones = malloc(num_pastlens * sizeof(*r->ones));
        for (size_t i = 0; r->ones != NULL && i < num_pastlens; i++)
            r->ones[i] = 1;
        if (r->ones == NULL) {
            mla_error("out of memory");
            return false;
        }
    }
    r->workloads[index] = (mla_workload){
        .decode = index == DECODE,
        .num_requests = (int32_t)num_pastlens,
        .seqlens = r->seqlens != NULL ? r->seqlens : r->ones,
        .pastlens = r->pastlens,
    };
    if (count_tokens(&r->workloads[index]))
        return true;
    mla_error("--seqlens '%s': more than %d tokens in all", options->text[MLA_OPT_SEQLENS],
              (int)MAX_LENGTH);
    return false;
}

/* ---- arguments ------------------------------------------------------------------------------- */

/* Says which option does not go with --sweep, or needs it. */
static bool take_sweep(const mla_options *options, mla_bench_request *r)
{
    static const struct {
        mla_option id;
        const char *name;
        bool of_sweep;
    } checked[] = {
        {MLA_OPT_BATCHES, "batches", true},    {MLA_OPT_CONTEXTS, "contexts", true},
        {MLA_OPT_HEADS, "heads", true},        {MLA_OPT_CASE, "case", false},
        {MLA_OPT_MODE, "mode", false},         {MLA_OPT_SEQLENS, "seqlens", false},
        {MLA_OPT_PASTLENS, "pastlens", false}, {MLA_OPT_TP, "tp", false},
    };
    clmla_config named;
    r->is_sweep = mla_option_given(options, MLA_OPT_SWEEP);
    for (size_t i = 0; i < sizeof(checked) / sizeof(checked[0]); i++)
        if (mla_option_given(options, checked[i].id) && checked[i].of_sweep != r->is_sweep) {
            mla_error(r->is_sweep ? "--%s: does not go with --sweep" : "--%s: needs --sweep",
                      checked[i].name);
            return false;
        }
    return !r->is_sweep ||
           mla_sweep_take(options, &r->bench, mla_bench_model(r->model, &named), &r->sweep);
}

bool mla_option_model(const mla_options *options, int32_t tp, const char **model, clmla_config *out)
{
    clmla_model_error error = {{0}};
    *model = mla_option_given(options, MLA_OPT_MODEL) ? options->text[MLA_OPT_MODEL] : "lite";
    if (!mla_bench_model(*model, out) &&
        clmla_model_config_read(*model, out, &error) != CLMLA_SUCCESS) {
        mla_error("--model '%s': must be lite, r1 or a config.json: %s", *model, error.text);
        return false;
    }
    if (mla_option_given(options, MLA_OPT_MODEL)) /* has been read: a name for reports is left */
        mla__make_printable(options->text[MLA_OPT_MODEL]);
    if (out->num_attention_heads % tp != 0) {
        mla_error("--tp '%d': must divide the %d heads of %s", (int)tp,
                  (int)out->num_attention_heads, *model);
        return false;
    }
    out->num_attention_heads /= tp;
    return true;
}

static bool take_numbers(const mla_options *options, int64_t max_seconds, mla_bench_request *r)
{
    static const char *const checks[] = {"full", "sample", "off"};
    const bool sweep = mla_option_given(options, MLA_OPT_SWEEP);
    int64_t warmup = sweep ? 3 : 10, runs = sweep ? 20 : 100, layers = 1, tp = 1;
    int32_t check = MLA_CHECK_SAMPLE;
    if (!mla_option_integer(options, MLA_OPT_WARMUP, 0, MAX_RUNS, &warmup) ||
        !mla_option_integer(options, MLA_OPT_RUNS, 1, MAX_RUNS, &runs) ||
        !mla_option_integer(options, MLA_OPT_MAX_SECONDS, 1, MAX_RUNS, &max_seconds) ||
        !mla_option_integer(options, MLA_OPT_LAYERS, 1, MAX_LAYERS, &layers) ||
        !mla_option_integer(options, MLA_OPT_TP, 1, MAX_LAYERS, &tp) ||
        !mla_option_choice(options, MLA_OPT_CHECK, checks, 3, &check))
        return false;
    r->tp = (int32_t)tp;
    r->bench.num_layers = (int32_t)layers;
    r->bench.warmup = (int32_t)warmup;
    r->bench.runs = (int32_t)runs;
    r->bench.max_seconds = (double)max_seconds;
    r->bench.check = (mla_check)check;
    r->bench.stages = mla_option_given(options, MLA_OPT_STAGES);
    return true;
}

static bool take_request(const mla_options *options, int64_t max_seconds, mla_bench_request *r)
{
    r->cases = r->modes = 3;
    r->workloads[PREFILL] =
        (mla_workload){false, PREFILL_REQUESTS, prefill_seqlens, prefill_pastlens, 0};
    r->workloads[DECODE] =
        (mla_workload){true, DECODE_REQUESTS, decode_seqlens, decode_pastlens, 0};
    return mla_options_common(options, &r->common) &&
           mla_option_choices(options, MLA_OPT_CASE, case_names, 2, &r->cases) &&
           mla_option_choices(options, MLA_OPT_MODE, mode_names, 2, &r->modes) &&
           take_numbers(options, max_seconds, r) &&
           mla_option_model(options, r->tp, &r->model, &r->bench.config) &&
           mla_check_storage(&r->common, r->model, &r->bench.config) &&
           count_tokens(&r->workloads[PREFILL]) && count_tokens(&r->workloads[DECODE]) &&
           take_lengths(options, r) && take_sweep(options, r);
}

mla_bench_request *mla_bench_request_create(const mla_options *options, int64_t max_seconds)
{
    mla_bench_request *r = calloc(1, sizeof(*r));
    if (r == NULL)
        mla_error("out of memory");
    else if (take_request(options, max_seconds, r))
        return r;
    mla_bench_request_release(r);
    return NULL;
}

void mla_bench_request_release(mla_bench_request *request)
{
    if (request == NULL)
        return;
    free(request->seqlens);
    free(request->pastlens);
    free(request->ones);
    mla_sweep_release(&request->sweep);
    free(request);
}

const clmla_config *mla_bench_request_config(const mla_bench_request *request)
{
    return &request->bench.config;
}

/* ---- results --------------------------------------------------------------------------------- */

static const mla_column columns[] = {
    {.key = "case", .heading = "case"},
    {.key = "mode", .heading = "mode"},
    {.key = "dtype", .heading = "dtype"},
    {.key = "projection", .heading = "projection"},
    {.key = "kernels", .heading = "kernels"},
    {.key = "seqlens", .heading = NULL},
    {.key = "pastlens", .heading = NULL},
    {.key = "num_tokens", .heading = "tokens"},
    {.key = "runs", .heading = "runs"},
    {.key = "median_ms", .heading = "median ms", .format = "%.4g"},
    {.key = "min_ms", .heading = "min ms", .format = "%.4g"},
    {.key = "tokens_per_s", .heading = "tokens/s", .format = "%.1f"},
    {.key = "ttft_ms", .heading = "TTFT ms", .format = "%.4g"},
    {.key = "enqueue_us", .heading = NULL},
    {.key = "kernel_launches", .heading = "launches"},
    {.key = "clblast_calls", .heading = "CLBlast"},
    {.key = "gb_per_s", .heading = "GB/s", .format = "%.2f"},
    {.key = "gflop_per_s", .heading = "GFLOP/s", .format = "%.1f"},
    {.key = "weights_dtype", .heading = NULL},
    {.key = "cache_dtype", .heading = NULL},
    {.key = "verified", .heading = "verified"},
    {.key = "max_rel_error", .heading = "rel error", .format = "%.1e"},
};

/* The seed project's two lines, from the batched results of the first backend (NULL: none). */
static void print_seed_lines(const mla_bench_request *r)
{
    const json_t *prefill = r->seed_rows[PREFILL], *decode = r->seed_rows[DECODE];
    char how[32] = "batched";
    if (r->bench.num_backends > 1)
        (void)snprintf(how, sizeof(how), "batched, %s",
                       mla_projection_name(r->common.projections[0]));
    (void)printf("\n");
    if (prefill != NULL)
        (void)printf("Prefill Latency: %.3f ms (%s)\n",
                     json_real_value(json_object_get(prefill, "median_ms")), how);
    if (decode != NULL)
        (void)printf("Decode Throughput: %.2f tok/s (%s)\n",
                     json_real_value(json_object_get(decode, "tokens_per_s")), how);
}

/* ---- work ------------------------------------------------------------------------------------ */

/* One case and mode: a row for each backend. */
static int bench_cell(mla_bench_request *r, int index, int mode, mla_report *report)
{
    const bool several = r->bench.num_backends > 1;
    int code = MLA_EXIT_SUCCESS;
    for (int32_t i = 0; i < r->bench.num_backends; i++) {
        char what[64];
        json_t *row = NULL;
        (void)snprintf(what, sizeof(what), "%s %s%s%s", case_names[index], mode_names[mode],
                       several ? " " : "",
                       several ? mla_projection_name(r->common.projections[i]) : "");
        const int one = mla_bench_measure(&r->bench, &r->bench.backends[i], &r->workloads[index],
                                          mode == BATCHED, what, &row);
        if (one != MLA_EXIT_SUCCESS) {
            code = one;
            continue;
        }
        if (!mla_report_add(report, row)) {
            mla_error("out of memory");
            return MLA_EXIT_FAILED;
        }
        if (i == 0 && mode == BATCHED)
            r->seed_rows[index] = row;
    }
    return code;
}

static int bench_cells(mla_bench_request *r, mla_report *report)
{
    int code = MLA_EXIT_SUCCESS;
    for (int i = 0; i < 2; i++)
        for (int mode = 0; mode < 2; mode++) {
            if ((r->cases & 1u << i) == 0 || (r->modes & 1u << mode) == 0)
                continue;
            const int one = bench_cell(r, i, mode, report);
            if (one != MLA_EXIT_SUCCESS)
                code = one;
        }
    return code;
}

static json_t *about_json(const mla_bench_request *r)
{
    return json_pack("{s:o, s:s, s:i, s:i, s:i, s:I}", "device",
                     mla_session_device_json(&r->bench.backends[0].session), "model", r->model,
                     "layers", (int)r->bench.num_layers, "tp", (int)r->tp, "page_block_size",
                     (int)r->common.page_block_size, "seed", (json_int_t)r->common.seed);
}

int mla_bench_request_run(mla_bench_request *request, mla_report *report, json_t **about)
{
    int code = mla_bench_open(&request->common, &request->bench);
    *about = NULL;
    if (code == -1) {
        code = bench_cells(request, report);
        *about = about_json(request);
    }
    mla_bench_close(&request->bench);
    return code;
}

static json_t *document_json(const mla_bench_request *r)
{
    json_t *document = json_pack("{s:s}", "clmla", clmla_version());
    json_t *about = about_json(r);
    if (document != NULL && json_object_update(document, about) != 0) {
        json_decref(document);
        document = NULL;
    }
    json_decref(about);
    return document;
}

static int bench(mla_bench_request *r)
{
    const mla_format format = r->common.format;
    mla_report report;
    if (!mla_report_open(stdout, format, columns, sizeof(columns) / sizeof(columns[0]), false,
                         &report)) {
        mla_error("out of memory");
        return MLA_EXIT_FAILED;
    }
    int code = bench_cells(r, &report);
    const bool with_rows = json_array_size(report.rows) > 0;
    if (format == MLA_FORMAT_TABLE && with_rows) {
        mla_print_title(&r->bench, r->model);
        (void)printf("\n");
    }
    if (!mla_report_print(&report, format == MLA_FORMAT_JSON ? document_json(r) : NULL,
                          "results")) {
        mla_error("could not write the report");
        code = MLA_EXIT_FAILED;
    }
    if (format == MLA_FORMAT_TABLE && with_rows) {
        mla_print_stages(report.rows, (const char *const[]){"case", "mode", "projection"},
                         r->bench.num_backends > 1 ? 3 : 2);
        print_seed_lines(r);
    }
    mla_report_close(&report);
    return code;
}

static int run(const mla_options *options)
{
    const bool sweep = mla_option_given(options, MLA_OPT_SWEEP);
    mla_bench_request *r = mla_bench_request_create(options, sweep ? 5 : 20);
    if (r == NULL)
        return MLA_EXIT_USAGE;
    int code = mla_bench_open(&r->common, &r->bench);
    if (code == -1)
        code = r->is_sweep ? mla_sweep_run(&r->bench, &r->sweep, r->model) : bench(r);
    mla_bench_close(&r->bench);
    mla_bench_request_release(r);
    return code;
}

int mla_cmd_bench(int argc, char **argv) { return mla_command_run(&command, argc, argv, run); }
