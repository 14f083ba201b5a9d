#include "cli/runner.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/convert.h"
#include "cli/message.h"
#include "cli/pages.h"
#include "core/checked.h"
#include "core/dtype.h"

/* One sequence of the batch: a member of a request group. */
typedef struct sequence {
    int32_t request, member;
    int32_t keys; /* after the last step */
} sequence;

typedef struct runner {
    mla_session *session;
    const mla_job *job;
    clmla_dtype dtype;
    size_t hidden_size, kv_lora, rope;

    sequence *sequences;
    int32_t num_sequences, num_steps, max_tokens, max_keys;
    int32_t *keys; /* [num_sequences], of the sequences */
    bool paged;
    mla_pages pages;

    /* host staging: a step's rows, and the step's tables */
    void *rows;
    int32_t *cu_seqlens_q, *cache_seqlens;

    clmla_layer *layer;
    clmla_weights *weights;
    clmla_plan *plan;
    clmla_binding *binding;
    cl_mem hidden, output, kv_cache, pe_cache, workspace;
} runner;

/* ---- the batch ------------------------------------------------------------------------------- */

static int32_t step_tokens(const mla_request *request, int32_t step)
{
    return step < request->num_steps ? request->steps[step] : 0;
}

/* Tokens of steps 0 .. end - 1 */
static int32_t tokens_before(const mla_request *request, int32_t end)
{
    int32_t tokens = 0;
    for (int32_t i = 0; i < end; i++)
        tokens += step_tokens(request, i);
    return tokens;
}

static clmla_status lay_out_batch(runner *r)
{
    const mla_job *job = r->job;
    for (int32_t i = 0; i < job->num_requests; i++) {
        r->num_sequences += job->requests[i].batch;
        if (job->requests[i].num_steps > r->num_steps)
            r->num_steps = job->requests[i].num_steps;
    }
    /* NOLINTNEXTLINE(clang-analyzer-optin.portability.UnixAPI): a job has a request at least */
    r->sequences = calloc((size_t)r->num_sequences, sizeof(*r->sequences));
    r->keys = calloc((size_t)r->num_sequences, sizeof(*r->keys));
    r->cache_seqlens = calloc((size_t)r->num_sequences, sizeof(*r->cache_seqlens));
    r->cu_seqlens_q = calloc((size_t)r->num_sequences + 1, sizeof(*r->cu_seqlens_q));
    if (r->sequences == NULL || r->keys == NULL || r->cache_seqlens == NULL ||
        r->cu_seqlens_q == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    int32_t b = 0;
    for (int32_t i = 0; i < job->num_requests; i++) {
        const mla_request *request = &job->requests[i];
        for (int32_t member = 0; member < request->batch; member++, b++) {
            r->keys[b] = request->past + tokens_before(request, request->num_steps);
            r->sequences[b] = (sequence){.request = i, .member = member, .keys = r->keys[b]};
            if (r->keys[b] > r->max_keys)
                r->max_keys = r->keys[b];
        }
    }
    for (int32_t step = 0; step < r->num_steps; step++) {
        int32_t tokens = 0;
        for (int32_t i = 0; i < job->num_requests; i++)
            tokens += job->requests[i].batch * step_tokens(&job->requests[i], step);
        if (tokens > r->max_tokens)
            r->max_tokens = tokens;
    }
    return CLMLA_SUCCESS;
}

/* ---- weights --------------------------------------------------------------------------------- */

static clmla_status create_weights(runner *r)
{
    clmla_weights_params params = {.struct_size = sizeof(params)};
    void *decoded = NULL;
    clmla_status status = clmla_checkpoint_sources(
        &r->job->weights, r->session->common->weights_dtype, &params, &decoded, NULL);
    if (status == CLMLA_SUCCESS)
        status = clmla_weights_create(r->layer, &params, r->session->queue, &r->weights);
    clmla_checkpoint_sources_free(decoded);
    return status;
}

/* ---- device memory --------------------------------------------------------------------------- */

/* An array from element `first` on; NULL where there is none. */
static const void *part_of(const mla_array *array, size_t first)
{
    const unsigned char *data = array->data;
    return data != NULL ? data + first * mla__dtype_bytes(array->dtype) : NULL;
}

/* Elements from_first .. from_first + count - 1 of an array. */
static void store_part(const mla_array *from, size_t from_first, size_t count, clmla_dtype dtype,
                       void *to, size_t first)
{
    mla_store_array(part_of(from, from_first), from->dtype, count, dtype, to, first);
}

/* A cache of NaN with the requests' past rows in their places. */
static clmla_status create_cache(runner *r, bool rope_part, cl_mem *out)
{
    const size_t width = rope_part ? r->rope : r->kv_lora;
    const size_t bytes = mla_pages_rows(&r->pages) * width * mla__dtype_bytes(r->dtype);
    if (bytes == 0)
        return CLMLA_SUCCESS;
    void *host = malloc(bytes);
    if (host == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    memset(host, 0xff, bytes);
    for (int32_t b = 0; b < r->num_sequences; b++) {
        const mla_request *request = &r->job->requests[r->sequences[b].request];
        const mla_array *rows = rope_part ? &request->pe_cache : &request->kv_cache;
        const size_t first = (size_t)r->sequences[b].member * (size_t)request->past;
        for (int32_t key = 0; key < request->past; key++)
            store_part(rows, (first + (size_t)key) * width, width, r->dtype, host,
                       mla_pages_row(&r->pages, b, key) * width);
    }
    const clmla_status status = mla_session_buffer(r->session, host, bytes, out);
    free(host);
    return status;
}

static bool is_fp8_cache(const runner *r)
{
    return r->session->common->cache_dtype == CLMLA_DTYPE_FP8_DS_MLA;
}

/* The same as FP8 records; scratch holds a latent. */
static void store_records(const runner *r, unsigned char *records, float *scratch)
{
    const clmla_config *config = &r->job->config;
    for (int32_t b = 0; b < r->num_sequences; b++) {
        const mla_request *request = &r->job->requests[r->sequences[b].request];
        const size_t first = (size_t)r->sequences[b].member * (size_t)request->past;
        for (int32_t key = 0; key < request->past; key++) {
            const size_t row = first + (size_t)key;
            const size_t to = mla_pages_row(&r->pages, b, key) * mla_record_bytes(config);
            mla_load_floats(request->kv_cache.data, request->kv_cache.dtype, row * r->kv_lora,
                            r->kv_lora, scratch);
            mla_store_record(config, scratch, part_of(&request->pe_cache, row * r->rope),
                             request->pe_cache.dtype, records + to);
        }
    }
}

static clmla_status create_records(runner *r)
{
    const size_t bytes = mla_pages_rows(&r->pages) * mla_record_bytes(&r->job->config);
    unsigned char *records = malloc(bytes);
    float *scratch = malloc(r->kv_lora * sizeof(*scratch));
    clmla_status status = CL_OUT_OF_HOST_MEMORY;
    if (records != NULL && scratch != NULL) {
        memset(records, 0xff, bytes);
        store_records(r, records, scratch);
        status = mla_session_buffer(r->session, records, bytes, &r->kv_cache);
    }
    free(records);
    free(scratch);
    return status;
}

static clmla_status create_caches(runner *r)
{
    if (is_fp8_cache(r))
        return create_records(r);
    const clmla_status status = create_cache(r, false, &r->kv_cache);
    return status == CLMLA_SUCCESS ? create_cache(r, true, &r->pe_cache) : status;
}

static clmla_status create_buffers(runner *r)
{
    clmla_layer_info info = {.struct_size = sizeof(info)};
    const size_t rows_bytes = (size_t)r->max_tokens * r->hidden_size * mla__dtype_bytes(r->dtype);
    clmla_status status = clmla_layer_get_info(r->layer, &info);
    r->rows = malloc(rows_bytes);
    if (status == CLMLA_SUCCESS && r->rows == NULL)
        status = CL_OUT_OF_HOST_MEMORY;
    if (status == CLMLA_SUCCESS)
        status = mla_session_buffer(r->session, NULL, rows_bytes, &r->hidden);
    if (status == CLMLA_SUCCESS)
        status = mla_session_buffer(r->session, NULL, rows_bytes, &r->output);
    if (status == CLMLA_SUCCESS)
        status = mla_session_buffer(r->session, NULL, info.workspace_bytes, &r->workspace);
    return status == CLMLA_SUCCESS ? create_caches(r) : status;
}

/* ---- objects --------------------------------------------------------------------------------- */

static clmla_status create_layer(runner *r, mla_run_choices *choices)
{
    clmla_layer_info info = {.struct_size = sizeof(info)};
    const clmla_layer_params params = {
        .struct_size = sizeof(params),
        .config = &r->job->config,
        .max_num_sequences = r->num_sequences,
        .max_num_tokens = r->max_tokens,
        .max_cache_seqlen = r->max_keys,
        .page_block_size = r->paged ? r->pages.page_block_size : 0,
        .num_pages = r->pages.num_pages,
        .weights_dtype = r->session->common->weights_dtype,
        .cache_dtype = r->session->common->cache_dtype,
        .hidden_dtype = r->dtype,
        .batch_invariant = r->session->common->batch_invariant,
        .one_launch = r->session->common->one_launch,
    };
    clmla_status status = clmla_layer_create(r->session->clmla, &params, &r->layer);
    if (status == CLMLA_SUCCESS)
        status = clmla_layer_get_info(r->layer, &info);
    if (status == CLMLA_SUCCESS && params.one_launch) /* only the device knows whether it can */
        status = clmla_layer_prepare(r->layer, r->session->queue);
    if (status != CLMLA_SUCCESS)
        return status;
    (void)snprintf(choices->projection, sizeof(choices->projection), "%s", info.projection);
    choices->kernels = info.kernel_class;
    return CLMLA_SUCCESS;
}

static clmla_status create_binding(runner *r)
{
    const clmla_binding_params params = {
        .struct_size = sizeof(params),
        .weights = r->weights,
        .kv_cache.buffer = r->kv_cache,
        .pe_cache.buffer = r->pe_cache,
        .hidden_states.buffer = r->hidden,
        .output.buffer = r->output,
        .workspace.buffer = r->workspace,
    };
    clmla_status status = clmla_binding_create(r->layer, &params, &r->binding);
    if (status == CLMLA_SUCCESS)
        status = clmla_plan_create(r->layer, &r->plan);
    return status;
}

static clmla_status set_up(runner *r, mla_run_choices *choices)
{
    const int32_t page_block_size = r->session->common->page_block_size;
    const clmla_config *config = &r->job->config;
    r->hidden_size = (size_t)config->hidden_size;
    r->kv_lora = (size_t)config->kv_lora_rank;
    r->rope = (size_t)config->qk_rope_head_dim;
    r->paged = page_block_size > 0;
    clmla_status status = lay_out_batch(r);
    if (status == CLMLA_SUCCESS &&
        !mla_pages_create(r->num_sequences, r->max_keys, r->paged ? r->keys : NULL, page_block_size,
                          r->session->common->seed, &r->pages))
        status = CL_OUT_OF_HOST_MEMORY;
    /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): r still holds its arrays; tear_down frees them */
    if (status == CLMLA_SUCCESS)
        status = create_layer(r, choices);
    if (status == CLMLA_SUCCESS)
        status = create_weights(r);
    if (r->layer != NULL) /* now it is known what --sm-90a comes to */
        mla_session_describe(r->session, r->layer);
    if (status == CLMLA_SUCCESS)
        status = create_buffers(r);
    if (status == CLMLA_SUCCESS)
        status = create_binding(r);
    return status;
}

static void tear_down(runner *r)
{
    (void)clFinish(r->session->queue);
    clmla_binding_release(r->binding);
    clmla_plan_release(r->plan);
    clmla_weights_release(r->weights);
    clmla_layer_release(r->layer);
    mla_buffer_release(r->hidden);
    mla_buffer_release(r->output);
    mla_buffer_release(r->kv_cache);
    mla_buffer_release(r->pe_cache);
    mla_buffer_release(r->workspace);
    mla_pages_release(&r->pages);
    free(r->sequences);
    free(r->keys);
    free(r->rows);
    free(r->cu_seqlens_q);
    free(r->cache_seqlens);
}

/* ---- steps ----------------------------------------------------------------------------------- */

/* The step's tables and hidden states, in the order of the sequences; returns the tokens. */
static int32_t gather_step(runner *r, int32_t step)
{
    int32_t tokens = 0;
    for (int32_t b = 0; b < r->num_sequences; b++) {
        const mla_request *request = &r->job->requests[r->sequences[b].request];
        const int32_t new_tokens = step_tokens(request, step);
        r->cu_seqlens_q[b] = tokens;
        r->cache_seqlens[b] = request->past + tokens_before(request, step + 1);
        if (new_tokens > 0) {
            const size_t count = (size_t)new_tokens * r->hidden_size;
            store_part(&request->hidden[step], (size_t)r->sequences[b].member * count, count,
                       r->dtype, r->rows, (size_t)tokens * r->hidden_size);
        }
        tokens += new_tokens;
    }
    r->cu_seqlens_q[r->num_sequences] = tokens;
    return tokens;
}

static void scatter_outputs(const runner *r, int32_t step, mla_results *results)
{
    for (int32_t b = 0; b < r->num_sequences; b++) {
        const sequence *s = &r->sequences[b];
        const size_t count =
            (size_t)step_tokens(&r->job->requests[s->request], step) * r->hidden_size;
        if (count > 0)
            mla_load_floats(r->rows, r->dtype, (size_t)r->cu_seqlens_q[b] * r->hidden_size, count,
                            results->output[s->request][step] + (size_t)s->member * count);
    }
}

/* Whether the step, if in one launch, came to its end. */
static clmla_status check_launch(runner *r)
{
    clmla_status error = CLMLA_SUCCESS;
    if (!r->session->common->one_launch)
        return CLMLA_SUCCESS;
    const clmla_status status = clmla_plan_get_error(r->plan, r->session->queue, &error);
    return status == CLMLA_SUCCESS ? error : status;
}

static clmla_status run_step(runner *r, int32_t step, mla_results *results)
{
    const cl_command_queue queue = r->session->queue;
    const int32_t tokens = gather_step(r, step);
    const size_t bytes = (size_t)tokens * r->hidden_size * mla__dtype_bytes(r->dtype);
    const clmla_step tables = {
        .struct_size = sizeof(tables),
        .num_sequences = r->num_sequences,
        .cu_seqlens_q = r->cu_seqlens_q,
        .cache_seqlens = r->cache_seqlens,
        .block_table = r->paged ? r->pages.block_table : NULL,
        .block_table_stride = r->paged ? r->pages.pages_per_sequence : 0,
    };
    clmla_status status =
        clEnqueueWriteBuffer(queue, r->hidden, CL_TRUE, 0, bytes, r->rows, 0, NULL, NULL);
    if (status == CLMLA_SUCCESS)
        status = clmla_enqueue_plan(r->plan, &tables, queue, 0, NULL, NULL);
    if (status == CLMLA_SUCCESS)
        status = clmla_enqueue_layer(r->binding, r->plan, queue, 0, NULL, NULL);
    if (status == CLMLA_SUCCESS)
        status = check_launch(r);
    if (status == CLMLA_SUCCESS)
        status = clEnqueueReadBuffer(queue, r->output, CL_TRUE, 0, bytes, r->rows, 0, NULL, NULL);
    if (status == CLMLA_SUCCESS)
        scatter_outputs(r, step, results);
    return status;
}

/* The rows that the steps appended, in the order of their positions. */
static clmla_status read_cache(const runner *r, cl_mem buffer, size_t width, float *const *results)
{
    const size_t bytes = mla_pages_rows(&r->pages) * width * mla__dtype_bytes(r->dtype);
    if (bytes == 0)
        return CLMLA_SUCCESS;
    void *host = malloc(bytes);
    if (host == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    const clmla_status status =
        clEnqueueReadBuffer(r->session->queue, buffer, CL_TRUE, 0, bytes, host, 0, NULL, NULL);
    for (int32_t b = 0; b < r->num_sequences && status == CLMLA_SUCCESS; b++) {
        const sequence *s = &r->sequences[b];
        const int32_t past = r->job->requests[s->request].past;
        const size_t new_rows = (size_t)(s->keys - past);
        float *rows = results[s->request] + (size_t)s->member * new_rows * width;
        for (size_t i = 0; i < new_rows; i++)
            mla_load_floats(host, r->dtype, mla_pages_row(&r->pages, b, past + (int32_t)i) * width,
                            width, rows + i * width);
    }
    free(host);
    return status;
}

/* The same of FP8 records. */
static clmla_status read_records(const runner *r, mla_results *results)
{
    const clmla_config *config = &r->job->config;
    const size_t bytes = mla_pages_rows(&r->pages) * mla_record_bytes(config);
    unsigned char *records = malloc(bytes);
    if (records == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    const clmla_status status = clEnqueueReadBuffer(r->session->queue, r->kv_cache, CL_TRUE, 0,
                                                    bytes, records, 0, NULL, NULL);
    for (int32_t b = 0; b < r->num_sequences && status == CLMLA_SUCCESS; b++) {
        const sequence *s = &r->sequences[b];
        const int32_t past = r->job->requests[s->request].past;
        const size_t new_rows = (size_t)(s->keys - past);
        for (size_t i = 0; i < new_rows; i++) {
            const size_t row = (size_t)s->member * new_rows + i;
            const size_t from =
                mla_pages_row(&r->pages, b, past + (int32_t)i) * mla_record_bytes(config);
            mla_load_record(config, records + from,
                            results->kv_cache[s->request] + row * r->kv_lora,
                            results->pe_cache[s->request] + row * r->rope);
        }
    }
    free(records);
    return status;
}

static clmla_status read_caches(const runner *r, mla_results *results)
{
    if (is_fp8_cache(r))
        return read_records(r, results);
    const clmla_status status = read_cache(r, r->kv_cache, r->kv_lora, results->kv_cache);
    return status == CLMLA_SUCCESS ? read_cache(r, r->pe_cache, r->rope, results->pe_cache)
                                   : status;
}

clmla_status mla_run_job(mla_session *session, const mla_job *job, mla_results *results,
                         mla_run_choices *choices)
{
    runner r = {.session = session, .job = job, .dtype = session->common->dtype};
    clmla_status status = set_up(&r, choices);
    for (int32_t step = 0; step < r.num_steps && status == CLMLA_SUCCESS; step++) {
        mla_progress("%s: step %d of %d", job->name, (int)step + 1, (int)r.num_steps);
        status = run_step(&r, step, results);
    }
    if (status == CLMLA_SUCCESS)
        status = read_caches(&r, results);
    tear_down(&r);
    mla_progress_clear();
    return status;
}
