#include "cli/job.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/checked.h"

int32_t mla_request_new_tokens(const mla_request *request)
{
    int32_t tokens = 0;
    for (int32_t i = 0; i < request->num_steps; i++)
        tokens += request->steps[i];
    return tokens;
}

void mla_job_tensor_name(const mla_job *job, const mla_request *request, int32_t step,
                         const char *what, char name[MLA_TENSOR_NAME_BYTES])
{
    if (step >= 0 && !job->steps_unnamed)
        (void)snprintf(name, MLA_TENSOR_NAME_BYTES, "%sstep%d.%s", request->prefix, (int)step,
                       what);
    else
        (void)snprintf(name, MLA_TENSOR_NAME_BYTES, "%s%s", request->prefix, what);
}

/* ---- room for results ----------------------------------------------------------------------- */

static float *allocate_rows(int32_t batch, int32_t tokens, int32_t width)
{
    uint64_t count = (uint64_t)batch * (uint64_t)tokens;
    if (!mla__checked_mul(count, (uint64_t)width, &count) || count >= SIZE_MAX / sizeof(float))
        return NULL;
    return calloc((size_t)count + 1, sizeof(float)); /* + 1: a width of 0 is not a failure */
}

static bool allocate_request(const mla_job *job, int32_t r, mla_results *results)
{
    const mla_request *request = &job->requests[r];
    const clmla_config *config = &job->config;
    const int32_t tokens = mla_request_new_tokens(request);
    bool complete;
    results->output[r] = calloc((size_t)request->num_steps, sizeof *results->output[r]);
    results->kv_cache[r] = allocate_rows(request->batch, tokens, config->kv_lora_rank);
    results->pe_cache[r] = allocate_rows(request->batch, tokens, config->qk_rope_head_dim);
    complete =
        results->output[r] != NULL && results->kv_cache[r] != NULL && results->pe_cache[r] != NULL;
    for (int32_t i = 0; i < request->num_steps && complete; i++) {
        results->output[r][i] =
            allocate_rows(request->batch, request->steps[i], config->hidden_size);
        complete = results->output[r][i] != NULL;
    }
    return complete;
}

clmla_status mla_results_create(const mla_job *job, mla_results *out)
{
    mla_results results;
    memset(&results, 0, sizeof results);
    for (int32_t r = 0; r < job->num_requests; r++) {
        if (!allocate_request(job, r, &results)) {
            mla_results_release(job, &results);
            return CL_OUT_OF_HOST_MEMORY;
        }
    }
    *out = results;
    return CLMLA_SUCCESS;
}

void mla_results_release(const mla_job *job, mla_results *results)
{
    if (results == NULL)
        return;
    for (int32_t r = 0; r < job->num_requests; r++) {
        for (int32_t i = 0; results->output[r] != NULL && i < job->requests[r].num_steps; i++)
            free(results->output[r][i]);
        free(results->output[r]);
        free(results->kv_cache[r]);
        free(results->pe_cache[r]);
    }
    memset(results, 0, sizeof *results);
}
