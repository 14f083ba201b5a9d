/*
 * clmla report: one JSON document with what the other commands find out here, for sending in.
 *
 * What fails is a line of "errors" and the rest goes on. Whoever reads the document must not learn
 * whose machine it comes from: errors are recorded without paths, and no name of a host, user or
 * file is asked for.
 */
#include <clblast_c.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/bench.h"
#include "cli/cli.h"
#include "cli/device_json.h"
#include "cli/hide.h"
#include "cli/message.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/report.h"
#include "cli/session.h"
#include "cli/verify.h"
#include "core/dtype.h"
#include "core/os.h"

static struct poptOption own_options[] = {
    MLA_OPTION_VALUE("output", MLA_OPT_OUTPUT,
                     "file to write (default standard output); an existing one is replaced when "
                     "the report is complete",
                     "REPORT.json"),
    MLA_OPTION_VALUE("model", MLA_OPT_MODEL, "sizes of the layer to measure (default lite)",
                     "lite|r1|CONFIG.json"),
    MLA_OPTION_VALUE("max-seconds", MLA_OPT_MAX_SECONDS,
                     "of measuring each case and mode, at least 3 runs (default 3)", "S"),
    POPT_TABLEEND,
};

static const mla_command command = {
    .name = "report",
    .summary = "Writes one JSON document with versions, processor, devices, results of verify (of "
               "the files, if any)\nand of bench, for sending in. It names neither the machine nor "
               "its user: no host name, no user\nname, no path.",
    .arguments = "[OPTION...] [FILE.safetensors...]",
    .own = own_options,
    .has_device = true,
    .has_numerics = true,
    .has_storage = true,
};

enum { DEFAULT_MAX_SECONDS = 3, OWN_HIDDEN = 4, ERROR_BYTES = 2048 };

#define GIB ((double)(1 << 30))

typedef struct report_run {
    const mla_options *options;
    const mla_common *common;
    mla_bench_request *request;
    mla_hidden *hidden;
    size_t num_hidden;
    const char *stage; /* that errors belong to */
    json_t *document, *errors;
} report_run;

/* ---- errors ---------------------------------------------------------------------------------- */

static void record_error(const char *text, void *user)
{
    const report_run *run = user;
    char shown[ERROR_BYTES];
    mla_hide_paths(text, run->hidden, run->num_hidden, shown, sizeof(shown));
    /* Without memory for the line the document will not be written either. */
    (void)json_array_append_new(run->errors,
                                json_pack("{s:s, s:s}", "stage", run->stage, "text", shown));
}

/* Everything among the arguments that may be a path. */
static bool collect_hidden(report_run *run)
{
    const mla_options *options = run->options;
    run->num_hidden = OWN_HIDDEN + (size_t)options->num_arguments;
    run->hidden = calloc(run->num_hidden, sizeof(*run->hidden));
    if (run->hidden == NULL)
        return false;
    run->hidden[0] = (mla_hidden){run->common->kernel_directory, "KERNEL_DIR"};
    run->hidden[1] = (mla_hidden){run->common->cache_directory, "CACHE_DIR"};
    run->hidden[2] = (mla_hidden){options->text[MLA_OPT_OUTPUT], "OUTPUT"};
    run->hidden[3] = (mla_hidden){options->text[MLA_OPT_TUNING], "TUNING"};
    for (int i = 0; i < options->num_arguments; i++) {
        mla_hidden *file = &run->hidden[OWN_HIDDEN + i];
        file->path = options->arguments[i];
        (void)snprintf(file->shown, sizeof(file->shown), "FILE %d", i + 1);
    }
    return true;
}

/* ---- the document's parts -------------------------------------------------------------------- */

static json_t *text_or_null(const char *text)
{
    return text[0] != '\0' ? json_string(text) : json_null();
}

static json_t *clblast_json(void)
{
#ifdef CLBLAST_VERSION_MAJOR
    return json_sprintf("%d.%d.%d", CLBLAST_VERSION_MAJOR, CLBLAST_VERSION_MINOR,
                        CLBLAST_VERSION_PATCH);
#else
    return json_null();
#endif
}

static json_t *system_json(void)
{
    mla__os_facts facts;
    mla__os_describe(&facts);
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:i, s:f}", "name", text_or_null(facts.system),
                     "release", text_or_null(facts.release), "distribution",
                     text_or_null(facts.distribution), "machine", text_or_null(facts.machine),
                     "processor", text_or_null(facts.processor), "processors",
                     (int)facts.num_processors, "memory_gib", (double)facts.memory_bytes / GIB);
}

static json_t *config_json(const clmla_config *c)
{
    const clmla_rope_scaling *rope = &c->rope_scaling;
    json_t *scaling =
        rope->factor > 0.0
            ? json_pack("{s:f, s:f, s:f, s:f, s:f, s:i}", "factor", rope->factor, "beta_fast",
                        rope->beta_fast, "beta_slow", rope->beta_slow, "mscale", rope->mscale,
                        "mscale_all_dim", rope->mscale_all_dim, "original_max_position_embeddings",
                        (int)rope->original_max_position_embeddings)
            : json_null();
    return json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:f, s:o}", "hidden_size",
                     (int)c->hidden_size, "num_attention_heads", (int)c->num_attention_heads,
                     "q_lora_rank", (int)c->q_lora_rank, "kv_lora_rank", (int)c->kv_lora_rank,
                     "qk_nope_head_dim", (int)c->qk_nope_head_dim, "qk_rope_head_dim",
                     (int)c->qk_rope_head_dim, "v_head_dim", (int)c->v_head_dim, "rms_norm_eps",
                     c->rms_norm_eps, "rope_theta", c->rope_theta, "rope_scaling", scaling);
}

/* {"state": "passed", "failed" or "not run", "results": [...]}; takes rows. */
static json_t *part_json(const char *state, json_t *rows)
{
    return json_pack("{s:s, s:o}", "state", state, "results", rows);
}

static const char *state_of(int code) { return code == MLA_EXIT_SUCCESS ? "passed" : "failed"; }

/* What the arguments changed and results do not show. */
static json_t *settings_json(const mla_common *common)
{
    return json_pack("{s:s, s:s, s:s, s:b, s:b, s:b, s:b, s:b}", "weights_dtype",
                     mla__dtype_name(common->weights_dtype), "cache_dtype",
                     mla__dtype_name(common->cache_dtype), "matrix_units",
                     common->matrix_units == CLMLA_MATRIX_UNITS_OFF ? "off" : "auto",
                     "clblast_overrides", common->clblast_overrides, "sm_90a", common->sm_90a,
                     "one_launch", common->one_launch, "batch_invariant", common->batch_invariant,
                     "own_kernels", common->kernel_directory != NULL);
}

static int add_devices(report_run *run)
{
    mla_inventory inventory = {0};
    json_t *devices = json_array();
    run->stage = "devices";
    const clmla_status status = mla_inventory_create(&inventory);
    if (status != CLMLA_SUCCESS)
        mla_error("OpenCL platforms: %s (%s)", clmla_status_message(status),
                  clmla_status_name(status));
    for (size_t i = 0; i < inventory.num_devices; i++)
        (void)json_array_append_new(devices, mla_device_json(&inventory, &inventory.devices[i]));
    (void)json_object_set_new(run->document, "num_platforms",
                              json_integer((json_int_t)inventory.num_platforms));
    (void)json_object_set_new(run->document, "devices", devices);
    mla_inventory_release(&inventory);
    return status == CLMLA_SUCCESS ? MLA_EXIT_SUCCESS : MLA_EXIT_FAILED;
}

/* Returns an exit code; *opened: whether there is any use in going on with the device. */
static int add_verify(report_run *run, bool *opened)
{
    mla_session session;
    mla_report report;
    int code;
    if (!mla_report_open(stdout, MLA_FORMAT_JSON, NULL, 0, false, &report)) {
        mla_error("out of memory");
        return MLA_EXIT_FAILED;
    }
    run->stage = "device";
    const int how = mla_session_open(run->common, &session);
    *opened = how == -1;
    if (*opened) {
        run->stage = "verify";
        (void)json_object_set_new(run->document, "device", mla_session_device_json(&session));
        code = mla_verify_files(&session, run->options, &report);
    } else {
        (void)json_object_set_new(run->document, "device", json_null());
        code = how;
    }
    mla_session_close(&session);
    const bool not_run = !*opened || run->options->num_arguments == 0;
    (void)json_object_set_new(
        run->document, "verify",
        part_json(not_run ? "not run" : state_of(code), json_incref(report.rows)));
    mla_report_close(&report);
    return code;
}

static json_t *bench_json(const report_run *run, const char *state, json_t *rows, json_t *about)
{
    const char *model = run->options->text[MLA_OPT_MODEL];
    clmla_config named;
    json_t *part = part_json(state, rows);
    if (about != NULL)
        (void)json_object_update(part, about);
    (void)json_object_del(part, "device"); /* the document's */
    const bool custom = model != NULL && !mla_bench_model(model, &named);
    (void)json_object_set_new(part, "model",
                              json_string(custom          ? "custom"
                                          : model != NULL ? model
                                                          : "lite"));
    (void)json_object_set_new(part, "config", config_json(mla_bench_request_config(run->request)));
    return part;
}

static int add_bench(report_run *run, bool opened)
{
    mla_report report;
    json_t *about = NULL;
    int code = MLA_EXIT_FAILED;
    if (!mla_report_open(stdout, MLA_FORMAT_JSON, NULL, 0, false, &report)) {
        mla_error("out of memory");
        return MLA_EXIT_FAILED;
    }
    run->stage = "bench";
    if (opened) {
        mla_progress("measuring");
        code = mla_bench_request_run(run->request, &report, &about);
        mla_progress_clear();
    }
    (void)json_object_set_new(
        run->document, "bench",
        bench_json(run, opened ? state_of(code) : "not run", json_incref(report.rows), about));
    json_decref(about);
    mla_report_close(&report);
    return code;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static int write_document(const report_run *run)
{
    const char *output = run->options->text[MLA_OPT_OUTPUT];
    char *text = mla_report_text(run->document);
    int code = MLA_EXIT_FAILED;
    if (text == NULL)
        mla_error("out of memory");
    else if (output != NULL)
        code = mla_output_write(output, text, strlen(text)) ? MLA_EXIT_SUCCESS : MLA_EXIT_FAILED;
    else if (fputs(text, stdout) >= 0) /* main flushes and looks for errors */
        code = MLA_EXIT_SUCCESS;
    else
        mla_error("could not write the report");
    free(text);
    return code;
}

static int fill_document(report_run *run)
{
    bool opened = false;
    const int devices = add_devices(run);
    const int verified = add_verify(run, &opened);
    if (verified == MLA_EXIT_USAGE)
        return MLA_EXIT_USAGE;
    const int measured = add_bench(run, opened);
    return devices == MLA_EXIT_SUCCESS && verified == MLA_EXIT_SUCCESS &&
                   measured == MLA_EXIT_SUCCESS
               ? MLA_EXIT_SUCCESS
               : MLA_EXIT_FAILED;
}

static int make_report(report_run *run)
{
    run->errors = json_array();
    run->document =
        json_pack("{s:s, s:s, s:o, s:o, s:o, s:o}", "format", "clmla-report 1", "clmla",
                  clmla_version(), "commit", text_or_null(mla_commit), "clblast", clblast_json(),
                  "system", system_json(), "settings", settings_json(run->common));
    if (run->document == NULL || run->errors == NULL || !collect_hidden(run)) {
        mla_error("out of memory");
        return MLA_EXIT_FAILED;
    }
    mla_errors_to(record_error, run);
    const int code = fill_document(run);
    mla_errors_to(NULL, NULL);
    if (code == MLA_EXIT_USAGE)
        return code;
    (void)json_object_set(run->document, "errors", run->errors);
    (void)json_object_set_new(run->document, "passed", json_boolean(code == MLA_EXIT_SUCCESS));
    const int written = write_document(run);
    return written != MLA_EXIT_SUCCESS ? written : code;
}

static int run(const mla_options *options)
{
    mla_common common;
    const char *output = options->text[MLA_OPT_OUTPUT];
    if (!mla_options_common(options, &common))
        return MLA_EXIT_USAGE;
    report_run run = {.options = options, .common = &common};
    run.request = mla_bench_request_create(options, DEFAULT_MAX_SECONDS);
    if (run.request == NULL)
        return MLA_EXIT_USAGE;
    int code = MLA_EXIT_FAILED;
    if (output == NULL || mla_output_is_possible(output))
        code = make_report(&run);
    json_decref(run.document);
    json_decref(run.errors);
    free(run.hidden);
    mla_bench_request_release(run.request);
    return code;
}

int mla_cmd_report(int argc, char **argv) { return mla_command_run(&command, argc, argv, run); }
