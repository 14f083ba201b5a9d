#include "cli/run_input.h"

#include <string.h>

#include "cli/cli.h"
#include "cli/message.h"

/* A tensor [batch, rows, width] of the input file. */
typedef struct rows_tensor {
    mla_array array;
    int32_t batch, rows;
} rows_tensor;

static bool dtype_of(clmla_safetensors_dtype stored, clmla_dtype *out)
{
    *out = stored == CLMLA_ST_BF16  ? CLMLA_DTYPE_BF16
           : stored == CLMLA_ST_F16 ? CLMLA_DTYPE_F16
           : stored == CLMLA_ST_F32 ? CLMLA_DTYPE_F32
                                    : CLMLA_DTYPE_DEFAULT;
    return *out != CLMLA_DTYPE_DEFAULT;
}

/* A tensor that is there. False after printing the error. */
static bool take_rows(const clmla_safetensors_tensor *tensor, const char *path, int32_t width,
                      rows_tensor *out)
{
    *out = (rows_tensor){.array = {.data = tensor->data}};
    if (dtype_of(tensor->dtype, &out->array.dtype) && tensor->rank == 3 && tensor->shape[0] >= 1 &&
        tensor->shape[0] <= INT32_MAX && tensor->shape[1] >= 1 && tensor->shape[1] <= INT32_MAX &&
        tensor->shape[2] == (uint64_t)width) {
        out->batch = (int32_t)tensor->shape[0];
        out->rows = (int32_t)tensor->shape[1];
        return true;
    }
    char is[192];
    clmla_safetensors_describe(tensor, is, sizeof(is));
    mla_error("%s: tensor '%s' is %s, must be BF16, F16 or F32 [batch, tokens, %d], both >= 1",
              path, tensor->name, is, (int)width);
    return false;
}

static bool take_hidden(mla_run_input *in, const char *path)
{
    const clmla_safetensors_tensor *tensor = clmla_safetensors_find(in->file, "hidden_states");
    mla_request *request = &in->job.requests[0];
    rows_tensor hidden;
    if (tensor == NULL) {
        mla_error("%s: tensor 'hidden_states' is missing", path);
        return false;
    }
    if (!take_rows(tensor, path, in->job.config.hidden_size, &hidden))
        return false;
    if ((uint64_t)hidden.batch * (uint64_t)hidden.rows > INT32_MAX) {
        mla_error("%s: tensor 'hidden_states' has %d x %d tokens, at most %d are accepted", path,
                  (int)hidden.batch, (int)hidden.rows, INT32_MAX);
        return false;
    }
    in->tokens = hidden.rows;
    in->hidden = hidden.array;
    request->batch = hidden.batch;
    request->num_steps = 1;
    request->steps = &in->tokens;
    request->hidden = &in->hidden;
    return true;
}

/* Both caches or none; pe_cache is left out where the model has no rope part. */
static bool take_caches(mla_run_input *in, const char *path)
{
    static const char *const names[] = {"init.kv_cache", "init.pe_cache"};
    const int32_t widths[] = {in->job.config.kv_lora_rank, in->job.config.qk_rope_head_dim};
    mla_request *request = &in->job.requests[0];
    mla_array *const arrays[] = {&request->kv_cache, &request->pe_cache};
    const bool given = clmla_safetensors_find(in->file, names[0]) != NULL ||
                       clmla_safetensors_find(in->file, names[1]) != NULL;
    for (int i = 0; i < 2 && given; i++) {
        const clmla_safetensors_tensor *tensor = clmla_safetensors_find(in->file, names[i]);
        rows_tensor rows;
        if (widths[i] == 0)
            continue;
        if (tensor == NULL) {
            mla_error("%s: tensor '%s' is missing; %s is there", path, names[i], names[1 - i]);
            return false;
        }
        if (!take_rows(tensor, path, widths[i], &rows))
            return false;
        if (rows.batch != request->batch || (i == 1 && rows.rows != request->past)) {
            mla_error("%s: tensor '%s' is [%d, %d, ...]; hidden_states has a batch of %d%s", path,
                      names[i], (int)rows.batch, (int)rows.rows, (int)request->batch,
                      i == 1 ? ", and both caches must have the same rows" : "");
            return false;
        }
        request->past = rows.rows;
        *arrays[i] = rows.array;
    }
    return true;
}

/* The cache holds the tokens before the first new one, so there is nothing to choose. */
static bool check_start(const mla_run_input *in, const char *path)
{
    const clmla_safetensors_tensor *tensor = clmla_safetensors_find(in->file, "start_pos");
    const int32_t past = in->job.requests[0].past;
    int32_t start = past;
    if (past > INT32_MAX - in->tokens) {
        mla_error("%s: %d cached and %d new tokens, together at most %d are accepted", path,
                  (int)past, (int)in->tokens, INT32_MAX);
        return false;
    }
    if (tensor == NULL)
        return true;
    if (tensor->dtype != CLMLA_ST_I32 || tensor->num_elements != 1) {
        mla_error("%s: tensor 'start_pos' is not I32 [1]", path);
        return false;
    }
    memcpy(&start, tensor->data, sizeof(start));
    if (start != past)
        mla_error("%s: tensor 'start_pos' is %d, but init.kv_cache holds %d tokens", path,
                  (int)start, (int)past);
    return start == past;
}

static int open_weights(const char *weights, int32_t layer, mla_run_input *in)
{
    clmla_model_error error = {{0}};
    clmla_status status = clmla_checkpoint_open(weights, &in->checkpoint, &error);
    if (status != CLMLA_SUCCESS) {
        mla_error("%s", error.text);
        return MLA_EXIT_FAILED;
    }
    status = clmla_checkpoint_layer(in->checkpoint, layer, &in->job.weights, &error);
    if (status == CLMLA_INVALID_ARGUMENT) {
        mla_error("--layer '%d': %s", (int)layer, error.text);
        return MLA_EXIT_USAGE;
    }
    if (status != CLMLA_SUCCESS) {
        mla_error("%s", error.text);
        return MLA_EXIT_FAILED;
    }
    in->job.config = *clmla_checkpoint_config(in->checkpoint);
    in->job.layer = layer;
    return -1;
}

int mla_run_input_open(const char *weights, int32_t layer, const char *input, mla_run_input *out)
{
    clmla_model_error error = {{0}};
    memset(out, 0, sizeof(*out));
    const int code = open_weights(weights, layer, out);
    if (code != -1)
        return code;
    if (clmla_safetensors_open(input, &out->file, &error) != CLMLA_SUCCESS) {
        mla_error("%s", error.text);
        return MLA_EXIT_FAILED;
    }
    out->job.name = input;
    out->job.steps_unnamed = true;
    out->job.num_requests = 1;
    if (!take_hidden(out, input) || !take_caches(out, input) || !check_start(out, input))
        return MLA_EXIT_FAILED;
    return -1;
}

void mla_run_input_close(mla_run_input *input)
{
    clmla_safetensors_close(input->file);
    clmla_checkpoint_close(input->checkpoint);
    memset(input, 0, sizeof(*input));
}
