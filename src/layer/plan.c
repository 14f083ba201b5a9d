#include "layer/plan.h"

#include <stdlib.h>
#include <string.h>

#include "ops/op.h"

/* ---- creation ------------------------------------------------------------------------------- */

static mla__plan_tables tables_of(const clmla_layer *layer)
{
    const uint64_t sequences = (uint64_t)layer->max_num_sequences;
    const uint64_t tokens = (uint64_t)layer->max_num_tokens;
    mla__plan_tables at = {0};
    at.cache_seqlens = at.cu_seqlens_q + sequences + 1;
    at.block_table = at.cache_seqlens + sequences;
    at.positions = at.block_table + sequences * (uint64_t)layer->pages_per_sequence;
    at.error = at.positions + tokens;
    at.cos_sin = at.error + 1;
    at.end = at.cos_sin + tokens * (uint64_t)layer->config.qk_rope_head_dim;
    return at;
}

static clmla_tensor table(const clmla_plan *plan, uint64_t at, clmla_dtype dtype)
{
    const clmla_tensor tensor = {.buffer = plan->buffer, .offset_bytes = 4 * at, .dtype = dtype};
    return tensor;
}

/* Sequences with the plan's limits as counts: for binding kernels to the tables once. */
static clmla_sequences limits_of(const clmla_plan *plan)
{
    const clmla_layer *layer = plan->layer;
    clmla_sequences s = {.num_sequences = layer->max_num_sequences,
                         .num_tokens = layer->max_num_tokens,
                         .max_cache_seqlen = layer->max_cache_seqlen,
                         .num_pages = layer->num_pages,
                         .page_block_size = layer->page_block_size,
                         .block_table_stride = layer->pages_per_sequence};
    s.cu_seqlens_q = table(plan, plan->at.cu_seqlens_q, CLMLA_DTYPE_I32);
    s.cache_seqlens = table(plan, plan->at.cache_seqlens, CLMLA_DTYPE_I32);
    if (layer->pages_per_sequence > 0)
        s.block_table = table(plan, plan->at.block_table, CLMLA_DTYPE_I32);
    return s;
}

clmla_sequences mla__plan_sequences(const clmla_plan *plan)
{
    clmla_sequences s = limits_of(plan);
    s.num_sequences = plan->step.num_sequences;
    s.num_tokens = plan->step.num_tokens;
    s.max_cache_seqlen = plan->step.max_cache_seqlen;
    return s;
}

clmla_tensor mla__plan_cos_sin(const clmla_plan *plan)
{
    return table(plan, plan->at.cos_sin, CLMLA_DTYPE_F32);
}

static clmla_status bind_kernels(clmla_plan *plan)
{
    const clmla_layer *layer = plan->layer;
    const clmla_rope_table_params params = {.struct_size = sizeof(params),
                                            .config = &layer->config,
                                            .sequences = limits_of(plan),
                                            .positions =
                                                table(plan, plan->at.positions, CLMLA_DTYPE_I32),
                                            .cos_sin = mla__plan_cos_sin(plan)};
    const clmla_status status = mla__rope_table_bind(layer->context, &params, &plan->rope_table);
    return status == CLMLA_SUCCESS ? mla__plan_device_bind(plan) : status;
}

static clmla_status allocate(clmla_plan *plan)
{
    const clmla_layer *layer = plan->layer;
    const size_t sequences = (size_t)layer->max_num_sequences;
    const size_t pages = sequences * (size_t)layer->pages_per_sequence;
    cl_int error;
    plan->cu_seqlens_q = calloc(sequences + 1, sizeof(int32_t));
    plan->cache_seqlens = calloc(sequences, sizeof(int32_t));
    plan->next_seqlens = calloc(sequences, sizeof(int32_t));
    plan->block_table = calloc(pages > 0 ? pages : 1, sizeof(int32_t));
    if (plan->cu_seqlens_q == NULL || plan->cache_seqlens == NULL || plan->next_seqlens == NULL ||
        plan->block_table == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    plan->staging.block_bytes = 4 * (size_t)plan->at.positions;
    /* The error word must start as 0, hence a first content. */
    void *zeros = calloc((size_t)plan->at.end, 4);
    if (zeros == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    plan->buffer = clCreateBuffer(layer->context->context, CL_MEM_READ_WRITE | CL_MEM_COPY_HOST_PTR,
                                  4 * (size_t)plan->at.end, zeros, &error);
    free(zeros);
    if (error != CL_SUCCESS) {
        plan->buffer = NULL;
        return mla__fail(layer->context, error, "plan: cannot allocate %llu bytes of tables",
                         4 * (unsigned long long)plan->at.end);
    }
    return CLMLA_SUCCESS;
}

clmla_status clmla_plan_create(clmla_layer *layer, clmla_plan **out)
{
    if (layer == NULL || out == NULL)
        return CLMLA_INVALID_ARGUMENT;
    clmla_plan *plan = calloc(1, sizeof(*plan));
    if (plan == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    plan->layer = layer;
    plan->id = mla__layer_retain_for_plan(layer);
    plan->at = tables_of(layer);
    clmla_status status = allocate(plan);
    if (status == CLMLA_SUCCESS)
        status = bind_kernels(plan);
    if (status != CLMLA_SUCCESS) {
        clmla_plan_release(plan);
        return status;
    }
    *out = plan;
    return CLMLA_SUCCESS;
}

void clmla_plan_release(clmla_plan *plan)
{
    if (plan == NULL)
        return;
    mla__staging_release(&plan->staging);
    mla__rope_table_release(&plan->rope_table);
    mla__plan_device_release(plan);
    if (plan->buffer != NULL)
        clReleaseMemObject(plan->buffer);
    free(plan->cu_seqlens_q);
    free(plan->cache_seqlens);
    free(plan->next_seqlens);
    free(plan->block_table);
    clmla_layer_release(plan->layer);
    free(plan);
}

/* ---- a step --------------------------------------------------------------------------------- */

/* The host arrays in the device tables' layout; entries past the step are filled so that a kernel
 * that reads them finds no tokens and no keys. */
static void pack_step(const clmla_plan *plan, const clmla_step *host, int32_t *data)
{
    const clmla_layer *layer = plan->layer;
    const size_t n = (size_t)host->num_sequences, width = (size_t)layer->pages_per_sequence;
    const size_t stride = host->block_table_stride > 0 ? (size_t)host->block_table_stride : width;
    const size_t copied = stride < width ? stride : width;
    for (size_t b = 0; b <= (size_t)layer->max_num_sequences; b++)
        data[plan->at.cu_seqlens_q + b] = host->cu_seqlens_q[b < n ? b : n];
    for (size_t b = 0; b < (size_t)layer->max_num_sequences; b++)
        data[plan->at.cache_seqlens + b] = b < n ? host->cache_seqlens[b] : 0;
    for (size_t b = 0; b < n; b++) {
        int32_t *row = data + plan->at.block_table + b * width;
        for (size_t i = 0; i < width; i++)
            row[i] = i < copied ? host->block_table[b * stride + i] : -1;
    }
}

static clmla_status upload_step(clmla_plan *plan, const clmla_step *host, mla__stream *stream)
{
    mla__staging_block *block;
    const clmla_status status = mla__staging_acquire(&plan->staging, &block);
    if (status != CLMLA_SUCCESS)
        return status;
    const size_t elements = (size_t)plan->at.block_table +
                            (size_t)host->num_sequences * (size_t)plan->layer->pages_per_sequence;
    pack_step(plan, host, block->data);
    return mla__stream_write(stream, plan->buffer, 0, 4 * elements, block->data, &block->written);
}

/* The host's copy, once everything was enqueued. */
static void remember_step(clmla_plan *plan, const clmla_step *host)
{
    const clmla_layer *layer = plan->layer;
    const size_t n = (size_t)host->num_sequences, width = (size_t)layer->pages_per_sequence;
    const size_t stride = host->block_table_stride > 0 ? (size_t)host->block_table_stride : width;
    memcpy(plan->cu_seqlens_q, host->cu_seqlens_q, (n + 1) * sizeof(int32_t));
    if (n > 0)
        memcpy(plan->cache_seqlens, host->cache_seqlens, n * sizeof(int32_t));
    for (size_t b = 0; b < n; b++) {
        for (size_t i = 0; i < width; i++)
            plan->block_table[b * width + i] = i < stride ? host->block_table[b * stride + i] : -1;
    }
}

static clmla_status check_device_step(const clmla_plan *plan, const clmla_step *tables,
                                      mla__plan_step *step)
{
    const clmla_layer *layer = plan->layer;
    const int32_t keys =
        tables->max_cache_seqlen > 0 ? tables->max_cache_seqlen : layer->max_cache_seqlen;
    if (tables->num_tokens < 0 || tables->num_tokens > layer->max_num_tokens)
        return mla__fail(layer->context, CLMLA_CAPACITY_EXCEEDED,
                         "plan: num_tokens is %d, max_num_tokens is %d", (int)tables->num_tokens,
                         (int)layer->max_num_tokens);
    if (keys > layer->max_cache_seqlen)
        return mla__fail(layer->context, CLMLA_CAPACITY_EXCEEDED,
                         "plan: max_cache_seqlen is %d, the layer's is %d", (int)keys,
                         (int)layer->max_cache_seqlen);
    const mla__plan_step checked = {.num_sequences = tables->num_sequences,
                                    .num_tokens = tables->num_tokens,
                                    .max_cache_seqlen = keys,
                                    .on_device = true,
                                    .filled = true};
    *step = checked;
    return CLMLA_SUCCESS;
}

static clmla_status derive_tables(clmla_plan *plan, const mla__plan_step *step, mla__stream *stream)
{
    return mla__rope_table_enqueue(&plan->rope_table, stream, step->num_sequences,
                                   step->num_tokens);
}

/* What the host remembers, once more. */
static clmla_status restore(clmla_plan *plan, mla__stream *stream)
{
    const clmla_step step = {.struct_size = sizeof(step),
                             .num_sequences = plan->step.num_sequences,
                             .cu_seqlens_q = plan->cu_seqlens_q,
                             .cache_seqlens = plan->cache_seqlens,
                             .block_table = plan->block_table};
    clmla_status status = upload_step(plan, &step, stream);
    if (status == CLMLA_SUCCESS)
        status = derive_tables(plan, &plan->step, stream);
    if (status == CLMLA_SUCCESS)
        plan->torn = false;
    return status;
}

clmla_status mla__plan_ready(clmla_plan *plan, const char *name, mla__stream *stream)
{
    if (!plan->step.filled)
        return mla__fail(plan->layer->context, CLMLA_INVALID_STATE, "%s: the plan was never filled",
                         name);
    if (!plan->torn)
        return CLMLA_SUCCESS;
    if (plan->step.on_device)
        return mla__fail(plan->layer->context, CLMLA_INVALID_STATE,
                         "%s: the plan must be filled again, since a call failed that changed its "
                         "tables",
                         name);
    return restore(plan, stream);
}

clmla_status clmla_enqueue_plan(clmla_plan *plan, const clmla_step *step, cl_command_queue queue,
                                cl_uint num_events, const cl_event *wait_list, cl_event *event)
{
    clmla_step s;
    mla__plan_step next;
    mla__stream stream;
    if (plan == NULL)
        return CLMLA_INVALID_ARGUMENT;
    const clmla_layer *layer = plan->layer;
    clmla_status status = MLA__PARAMS_COPY(layer->context, "plan", s, step);
    if (status != CLMLA_SUCCESS)
        return status;
    if (s.num_sequences < 0 || s.num_sequences > layer->max_num_sequences)
        return mla__fail(layer->context, CLMLA_CAPACITY_EXCEEDED,
                         "plan: num_sequences is %d, max_num_sequences is %d", (int)s.num_sequences,
                         (int)layer->max_num_sequences);
    const bool from_host = s.cu_seqlens_q != NULL;
    const int32_t no_tokens = 0;
    if (!from_host && s.num_sequences == 0) /* an empty step needs no arrays */
        s.cu_seqlens_q = &no_tokens;
    status = s.cu_seqlens_q != NULL ? mla__plan_validate(plan, &s, &next)
                                    : check_device_step(plan, &s, &next);
    if (status == CLMLA_SUCCESS)
        status = mla__stream_begin(&stream, queue, num_events, wait_list);
    if (status != CLMLA_SUCCESS)
        return status;
    plan->torn = true;
    status = next.on_device ? mla__plan_device_fill(plan, &s, &next, &stream)
                            : upload_step(plan, &s, &stream);
    if (status == CLMLA_SUCCESS)
        status = derive_tables(plan, &next, &stream);
    if (status == CLMLA_SUCCESS)
        status = mla__stream_end(&stream, event);
    if (status != CLMLA_SUCCESS)
        return status;
    plan->torn = false;
    if (!next.on_device)
        remember_step(plan, &s);
    plan->step = next;
    return CLMLA_SUCCESS;
}

/* ---- advance -------------------------------------------------------------------------------- */

static clmla_status check_advance(const clmla_plan *plan, int32_t b, int64_t length)
{
    const clmla_layer *layer = plan->layer;
    const int32_t new_tokens = plan->cu_seqlens_q[b + 1] - plan->cu_seqlens_q[b];
    if (length < new_tokens || length > mla__plan_capacity(layer))
        return mla__fail(layer->context, CLMLA_CAPACITY_EXCEEDED,
                         "advance: sequence %d would have %lld keys, must be %d .. %d", (int)b,
                         (long long)length, (int)new_tokens, (int)mla__plan_capacity(layer));
    if (layer->pages_per_sequence == 0)
        return CLMLA_SUCCESS;
    /* Pages below the present length were checked before. */
    const int32_t first = plan->cache_seqlens[b] / layer->page_block_size;
    for (int32_t i = first; (int64_t)i * layer->page_block_size < length; i++) {
        const int32_t page =
            plan->block_table[(size_t)b * (size_t)layer->pages_per_sequence + (size_t)i];
        if (page < 0 || page >= layer->num_pages)
            return mla__fail(layer->context, CLMLA_INVALID_BLOCK_TABLE,
                             "advance: block_table[%d, %d] is %d, the cache has %d pages", (int)b,
                             (int)i, (int)page, (int)layer->num_pages);
    }
    return CLMLA_SUCCESS;
}

/* Host arrays: the exact lengths after the step, into next_seqlens. */
static clmla_status advance_on_host(clmla_plan *plan, const int32_t *num_tokens,
                                    mla__plan_step *next)
{
    next->max_cache_seqlen = 0;
    for (int32_t b = 0; b < next->num_sequences; b++) {
        const int32_t new_tokens = plan->cu_seqlens_q[b + 1] - plan->cu_seqlens_q[b];
        const int64_t length =
            (int64_t)plan->cache_seqlens[b] + (num_tokens != NULL ? num_tokens[b] : new_tokens);
        const clmla_status status = check_advance(plan, b, length);
        if (status != CLMLA_SUCCESS)
            return status;
        plan->next_seqlens[b] = (int32_t)length;
        if (length > next->max_cache_seqlen)
            next->max_cache_seqlen = (int32_t)length;
    }
    return CLMLA_SUCCESS;
}

/* Device tables: only the upper bound is known here. */
static void advance_bound(const clmla_plan *plan, const int32_t *num_tokens, mla__plan_step *next)
{
    int64_t most = num_tokens != NULL ? 0 : plan->layer->max_seqlen_q;
    for (int32_t b = 0; num_tokens != NULL && b < next->num_sequences; b++) {
        if (num_tokens[b] > most)
            most = num_tokens[b];
    }
    const int64_t bound = next->max_cache_seqlen + most;
    const int32_t limit = plan->layer->max_cache_seqlen;
    next->max_cache_seqlen = bound < limit ? (int32_t)bound : limit;
}

clmla_status clmla_enqueue_advance(clmla_plan *plan, const int32_t *num_tokens,
                                   cl_command_queue queue, cl_uint num_events,
                                   const cl_event *wait_list, cl_event *event)
{
    mla__stream stream;
    if (plan == NULL)
        return CLMLA_INVALID_ARGUMENT;
    mla__plan_step next = plan->step;
    clmla_status status = CLMLA_SUCCESS;
    if (next.on_device)
        advance_bound(plan, num_tokens, &next);
    else if (next.filled)
        status = advance_on_host(plan, num_tokens, &next);
    if (status == CLMLA_SUCCESS)
        status = mla__stream_begin(&stream, queue, num_events, wait_list);
    if (status == CLMLA_SUCCESS)
        status = mla__plan_ready(plan, "advance", &stream);
    if (status != CLMLA_SUCCESS)
        return status;
    plan->torn = true;
    status = mla__plan_device_advance(plan, num_tokens, &stream);
    if (status == CLMLA_SUCCESS)
        status = derive_tables(plan, &next, &stream);
    if (status == CLMLA_SUCCESS)
        status = mla__stream_end(&stream, event);
    if (status != CLMLA_SUCCESS)
        return status;
    plan->torn = false;
    if (!next.on_device && next.num_sequences > 0)
        memcpy(plan->cache_seqlens, plan->next_seqlens,
               (size_t)next.num_sequences * sizeof(int32_t));
    plan->step = next;
    return CLMLA_SUCCESS;
}

/* ---- queries -------------------------------------------------------------------------------- */

clmla_status clmla_plan_get_error(clmla_plan *plan, cl_command_queue queue, clmla_status *error)
{
    const cl_int none = 0;
    cl_int word = 0;
    if (plan == NULL || error == NULL)
        return CLMLA_INVALID_ARGUMENT;
    if (queue == NULL)
        return CL_INVALID_COMMAND_QUEUE;
    cl_int status = clFinish(queue);
    if (status == CL_SUCCESS)
        status = clEnqueueReadBuffer(queue, plan->buffer, CL_TRUE, 4 * (size_t)plan->at.error,
                                     sizeof(word), &word, 0, NULL, NULL);
    if (status == CL_SUCCESS && word != 0)
        status = clEnqueueWriteBuffer(queue, plan->buffer, CL_TRUE, 4 * (size_t)plan->at.error,
                                      sizeof(none), &none, 0, NULL, NULL);
    if (status == CL_SUCCESS)
        *error = word;
    return status;
}

clmla_status clmla_plan_get_tables(const clmla_plan *plan, clmla_sequences *sequences,
                                   clmla_tensor *positions, clmla_tensor *cos_sin)
{
    if (plan == NULL)
        return CLMLA_INVALID_ARGUMENT;
    if (sequences != NULL)
        *sequences = mla__plan_sequences(plan);
    if (positions != NULL)
        *positions = table(plan, plan->at.positions, CLMLA_DTYPE_I32);
    if (cos_sin != NULL)
        *cos_sin = mla__plan_cos_sin(plan);
    return CLMLA_SUCCESS;
}
