#include "cli/run_output.h"

#include <stdlib.h>

#include "cli/cli.h"
#include "cli/message.h"

/* The tensors of the output file with their names. */
typedef struct tensor_list {
    clmla_safetensors_tensor *tensors;
    char (*names)[MLA_TENSOR_NAME_BYTES];
    size_t count;
} tensor_list;

static bool list_create(size_t capacity, tensor_list *out)
{
    /* NOLINTNEXTLINE(clang-analyzer-optin.portability.UnixAPI): a job has tensors */
    *out = (tensor_list){.tensors = calloc(capacity, sizeof(*out->tensors)),
                         .names = calloc(capacity, sizeof(*out->names))};
    return out->tensors != NULL && out->names != NULL;
}

static void list_release(tensor_list *list)
{
    free(list->tensors);
    free(list->names);
}

/* [batch, rows, width] F32, under the next name of the list. */
static void add_tensor(tensor_list *list, int32_t batch, int32_t rows, int32_t width,
                       const float *data)
{
    clmla_safetensors_tensor *t = &list->tensors[list->count];
    *t = (clmla_safetensors_tensor){
        .name = list->names[list->count],
        .dtype = CLMLA_ST_F32,
        .rank = 3,
        .shape = {(uint64_t)batch, (uint64_t)rows, (uint64_t)width},
        .data = data,
    };
    t->num_elements = t->shape[0] * t->shape[1] * t->shape[2];
    t->bytes = t->num_elements * sizeof(float);
    list->count++;
}

static void add_request(tensor_list *list, const mla_job *job, int32_t index,
                        const mla_results *results)
{
    const mla_request *request = &job->requests[index];
    const int32_t tokens = mla_request_new_tokens(request);
    for (int32_t i = 0; i < request->num_steps; i++) {
        mla_job_tensor_name(job, request, i, "output", list->names[list->count]);
        add_tensor(list, request->batch, request->steps[i], job->config.hidden_size,
                   results->output[index][i]);
    }
    mla_job_tensor_name(job, request, -1, "kv_cache", list->names[list->count]);
    add_tensor(list, request->batch, tokens, job->config.kv_lora_rank, results->kv_cache[index]);
    if (job->config.qk_rope_head_dim > 0) {
        mla_job_tensor_name(job, request, -1, "pe_cache", list->names[list->count]);
        add_tensor(list, request->batch, tokens, job->config.qk_rope_head_dim,
                   results->pe_cache[index]);
    }
}

int mla_run_output_write(const mla_job *job, const mla_results *results, const char *key,
                         const char *value, const char *path)
{
    const char *const metadata[] = {"format", "mla-outputs 1", key,
                                    value,    "clmla",         clmla_version()};
    enum { NUM_PAIRS = sizeof(metadata) / sizeof(metadata[0]) / 2, CACHES = 2 };
    clmla_model_error error = {{0}};
    tensor_list list;
    size_t capacity = 0;
    for (int32_t i = 0; i < job->num_requests; i++)
        capacity += (size_t)job->requests[i].num_steps + CACHES;
    if (!list_create(capacity, &list)) {
        list_release(&list);
        mla_error("out of memory");
        return MLA_EXIT_FAILED;
    }
    for (int32_t i = 0; i < job->num_requests; i++)
        add_request(&list, job, i, results);
    const clmla_status status =
        clmla_safetensors_write(path, list.tensors, list.count, metadata, NUM_PAIRS, &error);
    list_release(&list);
    if (status == CLMLA_SUCCESS)
        return MLA_EXIT_SUCCESS;
    mla_error("--output '%s': %s", path, error.text);
    return MLA_EXIT_FAILED;
}
