#include <math.h>
#include <stdio.h>

#include "cli/cli.h"
#include "cli/golden.h"
#include "cli/message.h"
#include "cli/options.h"
#include "cli/range.h"
#include "cli/report.h"
#include "cli/runner.h"
#include "cli/session.h"
#include "cli/verify.h"
#include "core/dtype.h"
#include "core/fp8_cache.h"

static const mla_command command = {
    .name = "verify",
    .summary = "Computes golden cases and compares them with the bounds in their files.",
    .arguments = "[OPTION...] FILE.safetensors...",
    .has_device = true,
    .has_numerics = true,
    .has_storage = true,
    .has_format = true,
};

/* Cache rows are kv_a's output, normalised or rotated, rounded once: in 16 bits the official runs
 * differ from float64 by 2.3e-3 (tests/golden/README.md). */
#define CACHE_BOUND_16_BIT 3.5e-3

static const mla_column columns[] = {
    {.key = "case", .heading = "case", .width = 24},
    {.key = "dtype", .heading = "dtype"},
    {.key = "weights_dtype", .heading = NULL},
    {.key = "cache_dtype", .heading = NULL},
    {.key = "projection", .heading = "projection"},
    {.key = "kernels", .heading = "kernels"},
    {.key = "rel_l2", .heading = "rel L2", .format = "%.2e", .width = 8},
    {.key = "rel_l2_bound", .heading = "bound", .format = "%.2e", .width = 8},
    {.key = "max_abs", .heading = "max abs", .format = "%.2e", .width = 8},
    {.key = "max_abs_bound", .heading = "bound", .format = "%.2e", .width = 8},
    {.key = "cache_rel_l2", .heading = "cache L2", .format = "%.2e", .width = 8},
    {.key = "cache_bound", .heading = "bound", .format = "%.2e", .width = 8},
    {.key = "row_check", .heading = "rows<=1", .format = "%.3f", .width = 7},
    {.key = "result", .heading = "result", .width = 6},
};

enum { NUM_COLUMNS = sizeof(columns) / sizeof(columns[0]) };

/* NaN: not asked for. */
typedef struct bounds {
    double rel_l2, max_abs, cache_rel_l2;
} bounds;

/* An FP8 cache: e4m3 rounds by up to 2^-4 of a value, evenly spread. The truth is that of the exact
 * cache, so outputs show what the rounding costs; a softmax that looks at few keys passes their error
 * on, and errors of its logits come on top. Three times bounds that, and says no more than that
 * nothing else is wrong: attention itself is tested on the rounded cache. */
#define E4M3_ROUNDING (0x1p-4 / 1.7320508)

static bounds bounds_of(const mla_golden *golden, const mla_common *common)
{
    const clmla_dtype dtype = common->dtype;
    if (common->cache_dtype == CLMLA_DTYPE_FP8_DS_MLA)
        return (bounds){3 * E4M3_ROUNDING, (double)NAN, E4M3_ROUNDING};
    if (dtype == CLMLA_DTYPE_F32)
        return (bounds){golden->bound_f32_rel_l2, (double)NAN, golden->bound_f32_rel_l2};
    return (bounds){golden->bound_bf16_rel_l2, golden->bound_bf16_max_abs, CACHE_BOUND_16_BIT};
}

/* Written so that NaN never passes. */
static bool passes(const mla_golden_errors *errors, const bounds *bound)
{
    return errors->finite && errors->rel_l2 <= bound->rel_l2 &&
           (isnan(bound->max_abs) || errors->max_abs <= bound->max_abs) &&
           errors->cache_rel_l2 <= bound->cache_rel_l2 && errors->row_check <= 1.0;
}

static json_t *row_of(const mla_golden *golden, const mla_common *common,
                      const mla_run_choices *choices, const mla_golden_errors *errors, bool passed)
{
    const bounds bound = bounds_of(golden, common);
    const bool with_max = !isnan(bound.max_abs);
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:o, s:f, s:o, s:o, s:o, s:f, s:o, s:b, s:s}",
                     "case", golden->job.name, "dtype", mla__dtype_name(common->dtype),
                     "weights_dtype", mla__dtype_name(common->weights_dtype), "cache_dtype",
                     mla__dtype_name(common->cache_dtype), "projection", choices->projection,
                     "kernels", clmla_kernel_class_name(choices->kernels), "rel_l2",
                     mla_report_real(errors->rel_l2), "rel_l2_bound", bound.rel_l2, "max_abs",
                     with_max ? mla_report_real(errors->max_abs) : json_null(), "max_abs_bound",
                     with_max ? mla_report_real(bound.max_abs) : json_null(), "cache_rel_l2",
                     mla_report_real(errors->cache_rel_l2), "cache_bound", bound.cache_rel_l2,
                     "row_check", golden->recipe ? mla_report_real(errors->row_check) : json_null(),
                     "finite", errors->finite, "result", passed ? "PASS" : "FAIL");
}

/* Why the case cannot be asked for as the options have it, or false. */
static bool is_skipped(const mla_golden *golden, const mla_common *common, char *reason,
                       size_t capacity)
{
    const clmla_config *config = &golden->job.config;
    mla_outlier outlier;
    if (common->dtype == CLMLA_DTYPE_F16 && !mla_job_fits(&golden->job, MLA_F16_MAX, &outlier)) {
        (void)snprintf(reason, capacity, "%s has %g, f16 ends at %g", outlier.tensor, outlier.value,
                       (double)MLA_F16_MAX);
        return true;
    }
    if (common->cache_dtype == CLMLA_DTYPE_FP8_DS_MLA &&
        !mla__fp8_cache_fits(config->kv_lora_rank, config->qk_rope_head_dim)) {
        (void)snprintf(reason, capacity, "kv_lora_rank %d makes no FP8 records",
                       (int)config->kv_lora_rank);
        return true;
    }
    if (common->weights_dtype == CLMLA_DTYPE_F8_E4M3 && !golden->fp8) {
        (void)snprintf(reason, capacity, "its weights are not FP8");
        return true;
    }
    return false;
}

/* Says on stderr why, and adds a row without figures. */
static int skip_case(const mla_golden *golden, const mla_common *common, const char *reason,
                     mla_report *report)
{
    mla_note("%s: skipped, %s", golden->job.name, reason);
    if (mla_report_add(report, json_pack("{s:s, s:s, s:s, s:s, s:s, s:s}", "case", golden->job.name,
                                         "dtype", mla__dtype_name(common->dtype), "weights_dtype",
                                         mla__dtype_name(common->weights_dtype), "cache_dtype",
                                         mla__dtype_name(common->cache_dtype), "result", "SKIP",
                                         "reason", reason)))
        return MLA_EXIT_SUCCESS;
    mla_error("out of memory");
    return MLA_EXIT_FAILED;
}

/* Computes an opened case and adds its row. Returns an exit code. */
static int verify_case(mla_session *session, const mla_golden *golden, const char *path,
                       mla_report *report)
{
    const bounds bound = bounds_of(golden, session->common);
    mla_results results = {0};
    mla_golden_errors errors = {0};
    clmla_model_error error = {{0}};
    mla_run_choices choices;
    clmla_status status = mla_results_create(&golden->job, &results);
    if (status != CLMLA_SUCCESS)
        return mla_session_fail(session, path, status);
    status = mla_run_job(session, &golden->job, &results, &choices);
    if (status != CLMLA_SUCCESS) {
        mla_results_release(&golden->job, &results);
        return mla_session_fail(session, path, status);
    }
    status = mla_golden_compare(golden, &results, bound.rel_l2, &errors, &error);
    mla_results_release(&golden->job, &results);
    if (status != CLMLA_SUCCESS) {
        mla_error("%s", error.text);
        return MLA_EXIT_FAILED;
    }
    const bool passed = passes(&errors, &bound);
    if (!mla_report_add(report, row_of(golden, session->common, &choices, &errors, passed))) {
        mla_error("out of memory");
        return MLA_EXIT_FAILED;
    }
    return passed ? MLA_EXIT_SUCCESS : MLA_EXIT_FAILED;
}

static int verify_file(mla_session *session, const char *path, mla_report *report)
{
    mla_golden golden = {0};
    clmla_model_error error = {{0}};
    if (mla_golden_open(path, mla_progress_drawing, NULL, &golden, &error) != CLMLA_SUCCESS) {
        mla_error("%s", error.text);
        return MLA_EXIT_FAILED;
    }
    mla_progress_clear();
    char reason[192];
    const int code = is_skipped(&golden, session->common, reason, sizeof(reason))
                         ? skip_case(&golden, session->common, reason, report)
                         : verify_case(session, &golden, path, report);
    mla_golden_close(&golden);
    return code;
}

int mla_verify_files(mla_session *session, const mla_options *options, mla_report *report)
{
    int code = MLA_EXIT_SUCCESS;
    for (int i = 0; i < options->num_arguments; i++)
        if (verify_file(session, options->arguments[i], report) != MLA_EXIT_SUCCESS)
            code = MLA_EXIT_FAILED;
    return code;
}

static int verify(mla_session *session, const mla_options *options)
{
    mla_report report;
    const mla_format format = session->common->format;
    if (!mla_report_open(stdout, format, columns, NUM_COLUMNS, true, &report)) {
        mla_error("out of memory");
        return MLA_EXIT_FAILED;
    }
    int code = mla_verify_files(session, options, &report);
    json_t *document =
        format == MLA_FORMAT_JSON
            ? json_pack("{s:s, s:o, s:b}", "clmla", clmla_version(), "device",
                        mla_session_device_json(session), "passed", code == MLA_EXIT_SUCCESS)
            : NULL;
    if (!mla_report_print(&report, document, "results")) {
        mla_error("could not write the report");
        code = MLA_EXIT_FAILED;
    }
    mla_report_close(&report);
    return code;
}

static int run(const mla_options *options)
{
    mla_common common;
    mla_session session;
    if (!mla_options_common(options, &common))
        return MLA_EXIT_USAGE;
    if (options->num_arguments == 0) {
        mla_error("verify: at least one golden FILE.safetensors is needed");
        return MLA_EXIT_USAGE;
    }
    int code = mla_session_open(&common, &session);
    if (code == -1)
        code = verify(&session, options);
    mla_session_close(&session);
    return code;
}

int mla_cmd_verify(int argc, char **argv) { return mla_command_run(&command, argc, argv, run); }
