#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/golden.h"
#include "cli/message.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/range.h"
#include "cli/run_input.h"
#include "cli/run_output.h"
#include "cli/runner.h"
#include "cli/session.h"

static struct poptOption own_options[] = {
    MLA_OPTION_VALUE("case", MLA_OPT_CASE, "golden case to compute", "GOLDEN.safetensors"),
    MLA_OPTION_VALUE("weights", MLA_OPT_WEIGHTS,
                     "checkpoint to take a layer from: a folder with config.json and safetensors, "
                     "or one file beside its config.json",
                     "DIR|FILE"),
    MLA_OPTION_VALUE("layer", MLA_OPT_LAYER, "which layer of --weights (default 0)", "N"),
    MLA_OPTION_VALUE("input", MLA_OPT_INPUT,
                     "hidden_states [b, s, hidden], optionally init.kv_cache, init.pe_cache and "
                     "start_pos, for --weights",
                     "X.safetensors"),
    MLA_OPTION_VALUE("output", MLA_OPT_OUTPUT, "file to write; an existing one is replaced",
                     "Y.safetensors"),
    POPT_TABLEEND,
};

static const mla_command command = {
    .name = "run",
    .summary = "Computes a golden case, or one layer of a checkpoint on an input, and writes the "
               "outputs and appended\ncache rows as F32.",
    .own = own_options,
    .has_device = true,
    .has_numerics = true,
    .has_storage = true,
};

/* Where a job comes from and goes to. */
typedef struct job_files {
    const char *weights, *input; /* a golden case is both */
    const char *output;
    const char *key, *value; /* of the output's metadata */
} job_files;

static int compute(mla_session *session, const mla_job *job, const job_files *files)
{
    mla_results results = {0};
    mla_run_choices choices;
    mla_outlier outlier;
    if (session->common->dtype == CLMLA_DTYPE_F16 && !mla_job_fits(job, MLA_F16_MAX, &outlier)) {
        mla_error("%s: %s has %g, f16 ends at %g",
                  outlier.is_weight ? files->weights : files->input, outlier.tensor, outlier.value,
                  (double)MLA_F16_MAX);
        return MLA_EXIT_FAILED;
    }
    int code = MLA_EXIT_SUCCESS;
    clmla_status status = mla_results_create(job, &results);
    if (status == CLMLA_SUCCESS)
        status = mla_run_job(session, job, &results, &choices);
    if (status != CLMLA_SUCCESS)
        code = mla_session_fail(session, files->weights, status);
    else
        code = mla_run_output_write(job, &results, files->key, files->value, files->output);
    mla_results_release(job, &results);
    return code;
}

static int run_case(mla_session *session, const char *path, const char *output)
{
    mla_golden golden = {0};
    clmla_model_error error = {{0}};
    if (mla_golden_open(path, mla_progress_drawing, NULL, &golden, &error) != CLMLA_SUCCESS) {
        mla_error("%s", error.text);
        return MLA_EXIT_FAILED;
    }
    mla_progress_clear();
    const job_files files = {path, path, output, "case", golden.job.name};
    const int code = compute(session, &golden.job, &files);
    mla_golden_close(&golden);
    return code;
}

static int run_weights(mla_session *session, const mla_options *options, int32_t layer)
{
    mla_run_input input;
    char number[16];
    (void)snprintf(number, sizeof(number), "%d", (int)layer);
    const job_files files = {options->text[MLA_OPT_WEIGHTS], options->text[MLA_OPT_INPUT],
                             options->text[MLA_OPT_OUTPUT], "layer", number};
    int code = mla_run_input_open(files.weights, layer, files.input, &input);
    if (code == -1)
        code = compute(session, &input.job, &files);
    mla_run_input_close(&input);
    return code;
}

/* The two forms of the command, and what each needs. */
static bool check_arguments(const mla_options *options)
{
    const bool from_case = mla_option_given(options, MLA_OPT_CASE);
    const bool from_weights = mla_option_given(options, MLA_OPT_WEIGHTS);
    if (from_case && options->text[MLA_OPT_CASE][0] == '\0') {
        mla_error("--case '': must be a file");
        return false;
    }
    if (from_case && from_weights) {
        mla_error("--case and --weights: give one of them only");
        return false;
    }
    if (!from_weights &&
        (mla_option_given(options, MLA_OPT_LAYER) || mla_option_given(options, MLA_OPT_INPUT))) {
        mla_error("--%s: needs --weights DIR|FILE",
                  mla_option_given(options, MLA_OPT_LAYER) ? "layer" : "input");
        return false;
    }
    if ((!from_case && !from_weights) || !mla_option_given(options, MLA_OPT_OUTPUT) ||
        (from_weights && !mla_option_given(options, MLA_OPT_INPUT))) {
        mla_error("run: --output Y.safetensors is needed, and --case GOLDEN.safetensors or "
                  "--weights DIR|FILE with --input X.safetensors");
        return false;
    }
    return true;
}

static int run(const mla_options *options)
{
    mla_common common;
    mla_session session;
    int64_t layer = 0;
    if (!mla_options_common(options, &common) || !check_arguments(options) ||
        !mla_option_integer(options, MLA_OPT_LAYER, 0, INT32_MAX, &layer))
        return MLA_EXIT_USAGE;
    const char *output = options->text[MLA_OPT_OUTPUT];
    if (!mla_output_is_possible(output))
        return MLA_EXIT_FAILED;
    int code = mla_session_open(&common, &session);
    if (code == -1)
        code = mla_option_given(options, MLA_OPT_CASE)
                   ? run_case(&session, options->text[MLA_OPT_CASE], output)
                   : run_weights(&session, options, (int32_t)layer);
    mla_session_close(&session);
    return code;
}

int mla_cmd_run(int argc, char **argv) { return mla_command_run(&command, argc, argv, run); }
