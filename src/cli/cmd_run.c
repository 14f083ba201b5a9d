#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/golden.h"
#include "cli/golden_range.h"
#include "cli/message.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/runner.h"
#include "cli/session.h"

static struct poptOption own_options[] = {
    MLA_OPTION_VALUE("case", MLA_OPT_CASE, "golden case to compute", "GOLDEN.safetensors"),
    MLA_OPTION_VALUE("output", MLA_OPT_OUTPUT, "file to write; an existing one is replaced",
                     "Y.safetensors"),
    MLA_OPTION_VALUE("weights", MLA_OPT_WEIGHTS, "not in this build yet", "DIR|FILE"),
    MLA_OPTION_VALUE("layer", MLA_OPT_LAYER, "not in this build yet", "N"),
    MLA_OPTION_VALUE("input", MLA_OPT_INPUT, "not in this build yet", "X.safetensors"),
    POPT_TABLEEND,
};

static const mla_command command = {
    .name = "run",
    .summary = "Computes a golden case and writes its outputs and appended cache rows as F32.",
    .own = own_options,
    .has_device = true,
    .has_numerics = true,
};

enum { NAME_BYTES = 64 };

/* The tensors of the output file with their names. */
typedef struct tensor_list {
    clmla_safetensors_tensor *tensors;
    char (*names)[NAME_BYTES];
    size_t count;
} tensor_list;

static bool list_create(size_t capacity, tensor_list *out)
{
    *out = (tensor_list){.tensors = calloc(capacity, sizeof(*out->tensors)),
                         .names = calloc(capacity, sizeof(*out->names))};
    return out->tensors != NULL && out->names != NULL;
}

static void list_release(tensor_list *list)
{
    free(list->tensors);
    free(list->names);
}

/* [batch, rows, width] F32, named prefix + name. */
static void add_tensor(tensor_list *list, const mla_golden_request *request, const char *name,
                       int32_t rows, int32_t width, const float *data)
{
    clmla_safetensors_tensor *t = &list->tensors[list->count];
    (void)snprintf(list->names[list->count], NAME_BYTES, "%s%s", request->prefix, name);
    *t = (clmla_safetensors_tensor){
        .name = list->names[list->count],
        .dtype = CLMLA_ST_F32,
        .rank = 3,
        .shape = {(uint64_t)request->batch, (uint64_t)rows, (uint64_t)width},
        .data = data,
    };
    t->num_elements = t->shape[0] * t->shape[1] * t->shape[2];
    t->bytes = t->num_elements * sizeof(float);
    list->count++;
}

static void add_request(tensor_list *list, const mla_golden *golden, int32_t index,
                        const mla_golden_results *results)
{
    const mla_golden_request *request = &golden->requests[index];
    int32_t tokens = 0;
    for (int32_t i = 0; i < request->num_steps; i++) {
        char name[32];
        (void)snprintf(name, sizeof(name), "step%d.output", (int)i);
        add_tensor(list, request, name, request->steps[i], golden->config.hidden_size,
                   results->output[index][i]);
        tokens += request->steps[i];
    }
    add_tensor(list, request, "kv_cache", tokens, golden->config.kv_lora_rank,
               results->kv_cache[index]);
    if (golden->config.qk_rope_head_dim > 0)
        add_tensor(list, request, "pe_cache", tokens, golden->config.qk_rope_head_dim,
                   results->pe_cache[index]);
}

static int write_results(const mla_golden *golden, const mla_golden_results *results,
                         const char *path)
{
    const char *const metadata[] = {"format",     "mla-outputs 1", "case",
                                    golden->name, "clmla",         clmla_version()};
    enum { NUM_PAIRS = sizeof(metadata) / sizeof(metadata[0]) / 2, CACHES = 2 };
    clmla_model_error error = {{0}};
    tensor_list list;
    size_t capacity = 0;
    for (int32_t i = 0; i < golden->num_requests; i++)
        capacity += (size_t)golden->requests[i].num_steps + CACHES;
    if (!list_create(capacity, &list)) {
        list_release(&list);
        mla_error("out of memory");
        return MLA_EXIT_FAILED;
    }
    for (int32_t i = 0; i < golden->num_requests; i++)
        add_request(&list, golden, i, results);
    const clmla_status status =
        clmla_safetensors_write(path, list.tensors, list.count, metadata, NUM_PAIRS, &error);
    list_release(&list);
    if (status == CLMLA_SUCCESS)
        return MLA_EXIT_SUCCESS;
    mla_error("--output '%s': %s", path, error.text);
    return MLA_EXIT_FAILED;
}

static int run_case(mla_session *session, const char *path, const char *output)
{
    mla_golden golden = {0};
    mla_golden_results results = {0};
    clmla_model_error error = {{0}};
    mla_run_choices choices;
    if (mla_golden_open(path, mla_progress_drawing, NULL, &golden, &error) != CLMLA_SUCCESS) {
        mla_error("%s", error.text);
        return MLA_EXIT_FAILED;
    }
    mla_progress_clear();
    mla_golden_outlier outlier;
    if (session->common->dtype == CLMLA_DTYPE_F16 &&
        !mla_golden_fits(&golden, MLA_F16_MAX, &outlier)) {
        mla_error("%s: %s has %g, f16 ends at %g", path, outlier.tensor, outlier.value,
                  (double)MLA_F16_MAX);
        mla_golden_close(&golden);
        return MLA_EXIT_FAILED;
    }
    int code = MLA_EXIT_SUCCESS;
    clmla_status status = mla_golden_results_create(&golden, &results);
    if (status == CLMLA_SUCCESS)
        status = mla_run_golden(session, &golden, &results, &choices);
    if (status != CLMLA_SUCCESS)
        code = mla_session_fail(session, path, status);
    else
        code = write_results(&golden, &results, output);
    mla_golden_results_release(&golden, &results);
    mla_golden_close(&golden);
    return code;
}

static bool check_arguments(const mla_options *options)
{
    static const struct {
        mla_option id;
        const char *name;
    } later[] = {
        {MLA_OPT_WEIGHTS, "--weights"}, {MLA_OPT_LAYER, "--layer"}, {MLA_OPT_INPUT, "--input"}};
    for (size_t i = 0; i < sizeof(later) / sizeof(later[0]); i++)
        if (mla_option_given(options, later[i].id)) {
            mla_error("%s '%s': not in this build yet; --case computes a golden case",
                      later[i].name, options->text[later[i].id]);
            return false;
        }
    if (!mla_option_given(options, MLA_OPT_CASE) || !mla_option_given(options, MLA_OPT_OUTPUT)) {
        mla_error("run: --case GOLDEN.safetensors and --output Y.safetensors are needed");
        return false;
    }
    return true;
}

static int run(const mla_options *options)
{
    mla_common common;
    mla_session session;
    if (!mla_options_common(options, &common) || !check_arguments(options))
        return MLA_EXIT_USAGE;
    const char *output = options->text[MLA_OPT_OUTPUT];
    if (!mla_output_has_folder(output))
        return MLA_EXIT_FAILED;
    int code = mla_session_open(&common, &session);
    if (code == -1)
        code = run_case(&session, options->text[MLA_OPT_CASE], output);
    mla_session_close(&session);
    return code;
}

int mla_cmd_run(int argc, char **argv) { return mla_command_run(&command, argc, argv, run); }
