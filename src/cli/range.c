#include "cli/range.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/dtype.h"

static bool fits(double value, float limit, mla_outlier *outlier)
{
    outlier->value = value;
    return !(fabs(value) > (double)limit) || isinf(value);
}

/* As decoded to float32, so many rows at a time as share FP8's scales. Without memory for them the
 * question is left to the run, which needs far more. */
static bool weight_fits(const clmla_checkpoint_weight *weight, float limit, mla_outlier *outlier)
{
    enum { ROWS = 128 };
    float *values = malloc((size_t)weight->columns * ROWS * sizeof(*values) + 1);
    bool fitting = true;
    uint64_t rows;
    for (uint64_t r = 0; values != NULL && r < weight->rows && fitting; r += rows) {
        rows = weight->rows - r < ROWS ? weight->rows - r : ROWS;
        if (clmla_checkpoint_decode(weight, r, rows, CLMLA_DTYPE_F32, values) != CLMLA_SUCCESS)
            break;
        for (uint64_t i = 0; i < rows * weight->columns && fitting; i++)
            fitting = fits((double)values[i], limit, outlier);
    }
    free(values);
    return fitting;
}

static bool weights_fit(const mla_job *job, float limit, mla_outlier *outlier)
{
    const clmla_checkpoint_weights *w = &job->weights;
    const struct {
        const char *name;
        const clmla_checkpoint_weight *weight;
    } all[] = {{"q_proj", &w->q_proj},
               {"q_a_proj", &w->q_a_proj},
               {"q_a_layernorm", &w->q_a_layernorm},
               {"q_b_proj", &w->q_b_proj},
               {"kv_a_proj_with_mqa", &w->kv_a_proj_with_mqa},
               {"kv_a_layernorm", &w->kv_a_layernorm},
               {"kv_b_proj", &w->kv_b_proj},
               {"o_proj", &w->o_proj}};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        (void)snprintf(outlier->tensor, sizeof(outlier->tensor),
                       "model.layers.%d.self_attn.%s.weight", (int)job->layer, all[i].name);
        if (!weight_fits(all[i].weight, limit, outlier))
            return false;
    }
    return true;
}

static bool array_fits(const mla_array *array, uint64_t count, float limit, mla_outlier *outlier)
{
    for (uint64_t i = 0; i < count && array->data != NULL; i++)
        if (!fits(mla__load(array->data, array->dtype, (size_t)i), limit, outlier))
            return false;
    return true;
}

static bool request_fits(const mla_job *job, const mla_request *request, float limit,
                         mla_outlier *outlier)
{
    const clmla_config *config = &job->config;
    const uint64_t batch = (uint64_t)request->batch;
    const uint64_t past = batch * (uint64_t)request->past;
    mla_job_tensor_name(job, request, -1, "init.kv_cache", outlier->tensor);
    if (!array_fits(&request->kv_cache, past * (uint64_t)config->kv_lora_rank, limit, outlier))
        return false;
    mla_job_tensor_name(job, request, -1, "init.pe_cache", outlier->tensor);
    if (!array_fits(&request->pe_cache, past * (uint64_t)config->qk_rope_head_dim, limit, outlier))
        return false;
    for (int32_t i = 0; i < request->num_steps; i++) {
        const uint64_t tokens = batch * (uint64_t)request->steps[i];
        mla_job_tensor_name(job, request, i, "hidden_states", outlier->tensor);
        if (!array_fits(&request->hidden[i], tokens * (uint64_t)config->hidden_size, limit,
                        outlier))
            return false;
    }
    return true;
}

bool mla_job_fits(const mla_job *job, float limit, mla_outlier *outlier)
{
    outlier->is_weight = true;
    if (!weights_fit(job, limit, outlier))
        return false;
    outlier->is_weight = false;
    for (int32_t r = 0; r < job->num_requests; r++)
        if (!request_fits(job, &job->requests[r], limit, outlier))
            return false;
    return true;
}
