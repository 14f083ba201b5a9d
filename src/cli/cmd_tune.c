/*
 * clmla tune: searches the tiles of a model's products and of its attention on this device, and
 * writes them as the record that the other commands read.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/bench.h"
#include "cli/cli.h"
#include "cli/message.h"
#include "cli/options.h"
#include "cli/report.h"
#include "cli/tune.h"
#include "core/dtype.h"
#include "core/os.h"

static struct poptOption own_options[] = {
    MLA_OPTION_VALUE("model", MLA_OPT_MODEL, "whose sizes to tune for (default lite)",
                     "lite|r1|CONFIG.json"),
    MLA_OPTION_VALUE("tp", MLA_OPT_TP, "a shard of N: heads / N (default 1)", "N"),
    MLA_OPTION_VALUE("ops", MLA_OPT_OPS,
                     "default all; backend: up to how many rows --projection auto stays native",
                     "projection,attention,backend"),
    MLA_OPTION_VALUE("rows", MLA_OPT_ROWS,
                     "rows of calls to tune projections for, each for calls of up to so many, the "
                     "last for those above, too (default 1,16,256; for CLBlast 16,32,256)",
                     "L"),
    MLA_OPTION_VALUE("max-seconds", MLA_OPT_MAX_SECONDS, "of searching each tile (default 30)",
                     "S"),
    MLA_OPTION_FLAG("again", MLA_OPT_AGAIN, "search what the record has already, too"),
    POPT_TABLEEND,
};

static const mla_command command = {
    .name = "tune",
    .summary =
        "Searches tiles for the kernels of a model's layer on this device, verifies every one\n"
        "before timing it, and writes the record that the other commands read: --tuning FILE,\n"
        "else the device's in CLMLA_TUNING_DIR. What is found is kept when it is interrupted;\n"
        "called again it goes on. --projection clblast: the parameters of CLBlast's GEMM.",
    .own = own_options,
    .has_device = true,
    .has_numerics = true,
    .has_storage = true,
};

enum {
    USUAL_ROWS = 3,
    CLBLAST_ROWS = 16,
    MOST_ROWS = 4,
    MOST_ROW_COUNT = 1 << 16,
    MOST_SECONDS = 1000000,
    PROJECTION = 1,
    ATTENTION = 2,
    BACKEND = 4
};

typedef struct tuner {
    mla_common common;
    const char *model;
    clmla_config config;
    uint32_t ops; /* bits */
    int32_t rows[MOST_ROWS];
    size_t num_rows;
    double max_seconds;
    bool again;
    int32_t tp;

    mla_session session; /* without a record */
    cl_command_queue queue;
    char path[MLA_PATH_BYTES];
    mla_tune_record *record;
    mla_report report;
    char last_key[256];                 /* of the line that was looked at last */
    int searched, changed, kept, wrong; /* tiles; kept: were in the record */
} tuner;

static const mla_column columns[] = {
    {.key = "what", .heading = "what", .width = 39},
    {.key = "before_us", .heading = "before us", .format = "%.1f", .width = 10},
    {.key = "after_us", .heading = "after us", .format = "%.1f", .width = 10},
    {.key = "tried", .heading = "tried", .width = 5},
    {.key = "tile", .heading = "tile"},
};

static const mla_column backend_columns[] = {
    {.key = "rows", .heading = "rows", .width = 5},
    {.key = "native_us", .heading = "native us", .format = "%.1f", .width = 10},
    {.key = "clblast_us", .heading = "CLBlast us", .format = "%.1f", .width = 10},
};

/* ---- arguments ------------------------------------------------------------------------------- */

static bool take_rows(const mla_options *options, tuner *t)
{
    static const int32_t native[] = {1, 16, 256}, clblast[] = {16, 32, 256};
    const bool by_clblast = t->common.projections[0] == CLMLA_PROJECTION_CLBLAST;
    const int32_t *usual = by_clblast ? clblast : native;
    int32_t *given = NULL;
    size_t count = 0;
    if (!mla_option_list(options, MLA_OPT_ROWS, 1, MOST_ROW_COUNT, &given, &count))
        return false;
    const int32_t *rows = given != NULL ? given : usual;
    t->num_rows = given != NULL ? count : USUAL_ROWS;
    bool rising = t->num_rows <= MOST_ROWS, whole = true;
    for (size_t i = 0; i < t->num_rows && rising; i++) {
        t->rows[i] = rows[i];
        rising = i == 0 || rows[i] > rows[i - 1];
        whole = whole && rows[i] % CLBLAST_ROWS == 0;
    }
    free(given);
    if (!rising)
        mla_error("--rows '%s': must be up to %d numbers that rise", options->text[MLA_OPT_ROWS],
                  MOST_ROWS);
    else if (by_clblast && !whole)
        mla_error("--rows '%s': must be multiples of %d for CLBlast, whose calls are padded",
                  options->text[MLA_OPT_ROWS], CLBLAST_ROWS);
    return rising && (whole || !by_clblast);
}

static bool take_arguments(const mla_options *options, tuner *t)
{
    static const char *const ops[] = {"projection", "attention", "backend"};
    int64_t seconds = 30, tp = 1;
    t->ops = PROJECTION | ATTENTION | BACKEND;
    if (!mla_options_common(options, &t->common) ||
        !mla_option_choices(options, MLA_OPT_OPS, ops, 3, &t->ops) || !take_rows(options, t) ||
        !mla_option_integer(options, MLA_OPT_MAX_SECONDS, 1, MOST_SECONDS, &seconds) ||
        !mla_option_integer(options, MLA_OPT_TP, 1, MOST_ROW_COUNT, &tp) ||
        !mla_option_model(options, (int32_t)tp, &t->model, &t->config) ||
        !mla_check_storage(&t->common, t->model, &t->config))
        return false;
    t->max_seconds = (double)seconds;
    t->tp = (int32_t)tp;
    t->again = mla_option_given(options, MLA_OPT_AGAIN);
    if (t->common.tuning != NULL && strcmp(t->common.tuning, MLA_NO_TUNING) == 0) {
        mla_error("--tuning 'none': must be the file to write");
        return false;
    }
    return true;
}

/* ---- the record ------------------------------------------------------------------------------ */

/* Where the entries come from. No paths: records are sent to others. */
static void print_remarks(const tuner *t, char *text, size_t bytes)
{
    const clmla_config *c = &t->config;
    const time_t now = time(NULL);
    /* NOLINTNEXTLINE(concurrency-mt-unsafe): no other thread asks for a time of day */
    const struct tm *utc = gmtime(&now);
    char date[32] = "", rows[64] = "";
    clmla_config named;
    if (utc != NULL)
        (void)strftime(date, sizeof(date), "%Y-%m-%d", utc);
    for (size_t i = 0; i < t->num_rows; i++)
        (void)snprintf(rows + strlen(rows), sizeof(rows) - strlen(rows), "%s%d", i > 0 ? "," : "",
                       (int)t->rows[i]);
    (void)snprintf(
        text, bytes,
        "\nplatform %s\nclmla %s\ncommit %s\ndate %s\n"
        "model hidden_size %d, heads %d, q_lora_rank %d, kv_lora_rank %d, qk_nope_head_dim %d, "
        "qk_rope_head_dim %d, v_head_dim %d\n"
        "command clmla tune --model %s --tp %d --dtype %s --kernels %s --matrix-units %s --rows %s "
        "--max-seconds %.0f%s%s%s%s\n",
        t->session.device->platform_name, clmla_version(),
        mla_commit[0] != '\0' ? mla_commit : "unknown", date, (int)c->hidden_size,
        (int)c->num_attention_heads, (int)c->q_lora_rank, (int)c->kv_lora_rank,
        (int)c->qk_nope_head_dim, (int)c->qk_rope_head_dim, (int)c->v_head_dim,
        mla_bench_model(t->model, &named) ? t->model : "CONFIG.json", (int)t->tp,
        mla__dtype_name(t->common.dtype),
        clmla_kernel_class_name(clmla_context_kernel_class(t->session.clmla)),
        t->common.matrix_units == CLMLA_MATRIX_UNITS_OFF ? "off" : "auto", rows, t->max_seconds,
        t->common.projections[0] == CLMLA_PROJECTION_CLBLAST ? " --projection clblast" : "",
        t->common.weights_dtype == CLMLA_DTYPE_F8_E4M3 ? " --weights-dtype fp8" : "",
        t->common.cache_dtype == CLMLA_DTYPE_FP8_DS_MLA ? " --cache-dtype fp8" : "",
        t->common.kernel_directory != NULL ? " --kernel-dir DIR" : "");
}

static bool open_record(tuner *t)
{
    char remarks[2048];
    mla_session_tuning_path(&t->common, t->session.device, t->path);
    if (t->path[0] == '\0') {
        mla_error("tune: no folder for the record; CLMLA_TUNING_DIR or --tuning FILE must name a "
                  "place");
        return false;
    }
    if (t->common.tuning == NULL &&
        mla__os_private_directory(t->common.tuning_directory) != CLMLA_SUCCESS) {
        mla_error("%s: %s", t->common.tuning_directory, mla__os_last_error());
        return false;
    }
    print_remarks(t, remarks, sizeof(remarks));
    return mla_tune_record_open(&t->session, t->path, remarks, &t->record);
}

/* ---- work ------------------------------------------------------------------------------------ */

static bool on_tensor_cores(const tuner *t)
{
    return clmla_context_kernel_class(t->session.clmla) == CLMLA_KERNELS_NVIDIA &&
           t->common.matrix_units != CLMLA_MATRIX_UNITS_OFF;
}

/* Whose kernels are native: class nvidia without tensor cores runs class gpu's. */
static const char *native_class(const tuner *t)
{
    const clmla_kernel_class kernels = clmla_context_kernel_class(t->session.clmla);
    return clmla_kernel_class_name(
        kernels == CLMLA_KERNELS_NVIDIA && !on_tensor_cores(t) ? CLMLA_KERNELS_GPU : kernels);
}

/* One line's search. Returns an exit code; success when the record has the line already. */
static int tune_line(tuner *t, mla_subject *subjects, int count, int32_t max_rows)
{
    char text[MLA_LINE_BYTES];
    mla_tune_line line;
    mla_tune_result result;
    const clmla_status status = mla_subject_describe(&subjects[0], t->session.clmla, text);
    if (status == CLMLA_UNSUPPORTED_CONFIG) {
        mla_note("%s: left out: %s", subjects[0].name, t->session.detail);
        t->session.detail[0] = '\0';
        return MLA_EXIT_SUCCESS;
    }
    if (status != CLMLA_SUCCESS)
        return mla_session_fail(&t->session, subjects[0].name, status);
    if (!mla_tune_line_parse(text, &line)) {
        mla_error("%s: '%s' is no line of a record; please report this", subjects[0].name, text);
        return MLA_EXIT_FAILED;
    }
    if (!mla_tune_line_set_rows(&line, max_rows) && strcmp(line.key, t->last_key) == 0)
        return MLA_EXIT_SUCCESS; /* one line for calls of fewer rows, too: searched with those */
    (void)snprintf(t->last_key, sizeof(t->last_key), "%s", line.key);
    if (!t->again && mla_tune_record_has(t->record, line.key)) {
        t->kept++;
        return MLA_EXIT_SUCCESS;
    }
    int code =
        mla_tune_search(&t->session, subjects, count, t->record, &line, t->max_seconds, &result);
    t->wrong += result.wrong;
    if (code != MLA_EXIT_SUCCESS || result.stopped)
        return code;
    if (!mla_tune_record_put(t->record, result.line))
        return MLA_EXIT_FAILED;
    t->searched++;
    t->changed += result.changed;
    for (int i = 0; i < count; i++)
        if (!mla_report_add(&t->report,
                            json_pack("{s:s, s:f, s:f, s:i, s:s}", "what", subjects[i].name,
                                      "before_us", 1e-3 * result.before_ns[i], "after_us",
                                      1e-3 * result.after_ns[i], "tried", result.tried, "tile",
                                      result.changed ? result.tile : "the built-in one"))) {
            mla_error("out of memory");
            return MLA_EXIT_FAILED;
        }
    (void)fflush(stdout);
    return MLA_EXIT_SUCCESS;
}

static int tune_product(tuner *t, const mla_tune_product *product)
{
    mla_product_data *data;
    int code = MLA_EXIT_SUCCESS;
    mla_progress("%s: drawing weights and computing the reference", product->name);
    const clmla_status status = mla_product_create(&t->session, product, CLMLA_PROJECTION_NATIVE,
                                                   t->rows[t->num_rows - 1], &data);
    mla_progress_clear();
    if (status != CLMLA_SUCCESS)
        code = mla_session_fail(&t->session, product->name, status);
    for (size_t i = 0; i < t->num_rows && code == MLA_EXIT_SUCCESS && !mla__os_interrupted(); i++) {
        mla_subject subject = {
            .session = &t->session, .queue = t->queue, .rows = t->rows[i], .product = data};
        (void)snprintf(subject.name, sizeof(subject.name), "%.31s, %d row%s", product->name,
                       (int)t->rows[i], t->rows[i] == 1 ? "" : "s");
        code = tune_line(t, &subject, 1, i + 1 < t->num_rows ? t->rows[i] : INT32_MAX);
    }
    mla_product_release(data);
    return code;
}

/* The data of all products at once. Returns an exit code; release them in each case. */
static int create_all(tuner *t, const mla_tune_product *products, int count,
                      clmla_projection_backend backend, int32_t max_rows,
                      mla_product_data *data[MLA_MOST_PRODUCTS])
{
    int code = MLA_EXIT_SUCCESS;
    for (int i = 0; i < count && code == MLA_EXIT_SUCCESS; i++) {
        mla_progress("%s: drawing weights and computing the reference", products[i].name);
        const clmla_status status =
            mla_product_create(&t->session, &products[i], backend, max_rows, &data[i]);
        mla_progress_clear();
        if (status != CLMLA_SUCCESS)
            code = mla_session_fail(&t->session, products[i].name, status);
    }
    return code;
}

static void release_all(mla_product_data *data[MLA_MOST_PRODUCTS])
{
    for (int i = 0; i < MLA_MOST_PRODUCTS; i++)
        mla_product_release(data[i]);
}

/* One line for all products: a number of rows after another. */
static int tune_clblast(tuner *t, const mla_tune_product *products, int count)
{
    mla_product_data *data[MLA_MOST_PRODUCTS] = {NULL};
    int code =
        create_all(t, products, count, CLMLA_PROJECTION_CLBLAST, t->rows[t->num_rows - 1], data);
    for (size_t r = 0; r < t->num_rows && code == MLA_EXIT_SUCCESS && !mla__os_interrupted(); r++) {
        mla_subject subjects[MLA_MOST_PRODUCTS];
        for (int i = 0; i < count; i++) {
            subjects[i] = (mla_subject){
                .session = &t->session, .queue = t->queue, .rows = t->rows[r], .product = data[i]};
            (void)snprintf(subjects[i].name, sizeof(subjects[i].name), "%.31s by CLBlast, %d rows",
                           products[i].name, (int)t->rows[r]);
        }
        code = tune_line(t, subjects, count, r + 1 < t->num_rows ? t->rows[r] : INT32_MAX);
    }
    release_all(data);
    return code;
}

static int report_backend(const mla_backend_result *result)
{
    mla_report report;
    bool printed =
        mla_report_open(stdout, MLA_FORMAT_TABLE, backend_columns,
                        sizeof(backend_columns) / sizeof(backend_columns[0]), true, &report);
    (void)printf("\n");
    for (int i = 0; i < result->count && printed; i++) {
        const mla_backend_times *taken = &result->times[i];
        printed = mla_report_add(&report, json_pack("{s:i, s:f, s:f}", "rows", (int)taken->rows,
                                                    "native_us", 1e-3 * taken->native_ns,
                                                    "clblast_us", 1e-3 * taken->clblast_ns));
    }
    mla_report_close(&report);
    if (!printed)
        mla_error("out of memory");
    else if (result->native_max_rows == 0)
        (void)printf("--projection auto: CLBlast for any number of rows\n");
    else if (result->native_max_rows > result->times[result->count - 1].rows)
        (void)printf("--projection auto: native kernels for any number of rows\n");
    else
        (void)printf("--projection auto: native kernels up to %d row%s, CLBlast above\n",
                     (int)result->native_max_rows, result->native_max_rows == 1 ? "" : "s");
    (void)fflush(stdout);
    return printed ? MLA_EXIT_SUCCESS : MLA_EXIT_FAILED;
}

/* Up to how many rows backend AUTO stays native. */
static int tune_backend(tuner *t)
{
    mla_tune_product products[MLA_MOST_PRODUCTS];
    const int count =
        mla_tune_products(&t->config, t->common.dtype, t->common.dtype, false, products);
    mla_product_data *data[MLA_MOST_PRODUCTS] = {NULL};
    mla_subject subjects[MLA_MOST_PRODUCTS];
    mla_backend_result result;
    char key[64];
    (void)snprintf(key, sizeof(key), "auto_%s weights=%s", native_class(t),
                   mla__dtype_name(t->common.dtype));
    if (!t->again && mla_tune_record_has(t->record, key)) {
        t->kept++;
        return MLA_EXIT_SUCCESS;
    }
    int code =
        create_all(t, products, count, CLMLA_PROJECTION_AUTO, mla_tune_backend_max_rows(), data);
    for (int i = 0; i < count; i++) {
        subjects[i] = (mla_subject){.session = &t->session, .queue = t->queue, .product = data[i]};
        (void)snprintf(subjects[i].name, sizeof(subjects[i].name), "%.31s", products[i].name);
    }
    if (code == MLA_EXIT_SUCCESS) {
        code = mla_tune_backend(&t->session, subjects, count, t->record, key, &result);
        t->wrong += result.wrong;
        if (code == MLA_EXIT_SUCCESS && !result.stopped) {
            code = mla_tune_record_put(t->record, result.line) ? report_backend(&result)
                                                               : MLA_EXIT_FAILED;
        }
    }
    release_all(data);
    return code;
}

/* Whether the subject's line is for some numbers of rows: then each batch has its own. */
static bool has_rows(const tuner *t, const mla_subject *subject)
{
    char text[MLA_LINE_BYTES];
    mla_tune_line line;
    return mla_subject_describe(subject, t->session.clmla, text) == CLMLA_SUCCESS &&
           mla_tune_line_parse(text, &line) && mla_tune_line_set_rows(&line, INT32_MAX);
}

/* Batches of rising rows a sequence. */
static int tune_attention(tuner *t)
{
    mla_attention_data *data;
    mla_subject subjects[MLA_ATTENTION_BATCHES];
    mla_progress("attention: drawing caches and computing the reference");
    const clmla_status status = mla_attention_create(&t->session, &t->config, &data);
    mla_progress_clear();
    for (int i = 0; i < MLA_ATTENTION_BATCHES; i++) {
        subjects[i] =
            (mla_subject){.session = &t->session, .queue = t->queue, .rows = i, .attention = data};
        (void)snprintf(subjects[i].name, sizeof(subjects[i].name), "attention, %s",
                       mla_attention_batch_name(i));
    }
    int code = status == CLMLA_SUCCESS ? MLA_EXIT_SUCCESS
                                       : mla_session_fail(&t->session, "attention", status);
    if (code == MLA_EXIT_SUCCESS && !has_rows(t, &subjects[0]))
        code = tune_line(t, subjects, MLA_ATTENTION_BATCHES, INT32_MAX);
    else
        for (int i = 0;
             i < MLA_ATTENTION_BATCHES && code == MLA_EXIT_SUCCESS && !mla__os_interrupted(); i++)
            code = tune_line(t, &subjects[i], 1,
                             i + 1 < MLA_ATTENTION_BATCHES ? mla_attention_batch_rows(data, i)
                                                           : INT32_MAX);
    mla_attention_release(data);
    return code;
}

/* What was done, and what to do next. */
static int conclude(const tuner *t, int code)
{
    if (code == MLA_EXIT_SUCCESS && mla__os_interrupted()) {
        mla_error("interrupted: %d tiles of this run are in %s; the same command goes on",
                  t->searched, t->path);
        return MLA_EXIT_FAILED;
    }
    if (code != MLA_EXIT_SUCCESS)
        return code;
    (void)printf(
        "\n%s: %d tiles searched, %d better than the built-in ones; %d were there before\n",
        t->path, t->searched, t->changed, t->kept);
    return t->wrong == 0 ? MLA_EXIT_SUCCESS : MLA_EXIT_FAILED;
}

static int tune(tuner *t)
{
    mla_tune_product products[MLA_MOST_PRODUCTS];
    const bool fp8 = t->common.weights_dtype == CLMLA_DTYPE_F8_E4M3; /* native's alone, unpaired */
    const int num_products = mla_tune_products(&t->config, t->common.dtype, t->common.weights_dtype,
                                               on_tensor_cores(t) && !fp8, products);
    cl_int status;
    int code = MLA_EXIT_SUCCESS;
    t->queue = clCreateCommandQueue(t->session.context, t->session.device->id,
                                    CL_QUEUE_PROFILING_ENABLE, &status);
    if (status != CL_SUCCESS)
        return mla_session_fail(&t->session, t->session.device->name, status);
    mla__os_watch_interrupts();
    if (t->common.projections[0] == CLMLA_PROJECTION_CLBLAST)
        return conclude(t, tune_clblast(t, products, num_products));
    for (int i = 0; i < num_products && (t->ops & PROJECTION) != 0 && code == MLA_EXIT_SUCCESS &&
                    !mla__os_interrupted();
         i++)
        code = tune_product(t, &products[i]);
    if ((t->ops & ATTENTION) != 0 && code == MLA_EXIT_SUCCESS && !mla__os_interrupted())
        code = tune_attention(t);
    if ((t->ops & BACKEND) != 0 && t->common.projections[0] == CLMLA_PROJECTION_AUTO && !fp8 &&
        code == MLA_EXIT_SUCCESS && !mla__os_interrupted())
        code = tune_backend(t);
    return conclude(t, code);
}

static int run(const mla_options *options)
{
    tuner *t = calloc(1, sizeof(*t));
    int code = MLA_EXIT_USAGE;
    if (t == NULL) {
        mla_error("out of memory");
        return MLA_EXIT_FAILED;
    }
    if (take_arguments(options, t)) {
        mla_common without = t->common; /* what is searched does not start from a record */
        without.tuning = MLA_NO_TUNING;
        code = mla_session_open(&without, &t->session);
        if (code == -1)
            code = !open_record(t) ||
                           !mla_report_open(stdout, MLA_FORMAT_TABLE, columns,
                                            sizeof(columns) / sizeof(columns[0]), true, &t->report)
                       ? MLA_EXIT_FAILED
                       : tune(t);
        mla_report_close(&t->report);
        mla_tune_record_release(t->record);
        if (t->queue != NULL)
            (void)clReleaseCommandQueue(t->queue);
        mla_session_close(&t->session);
    }
    free(t);
    return code;
}

int mla_cmd_tune(int argc, char **argv) { return mla_command_run(&command, argc, argv, run); }
