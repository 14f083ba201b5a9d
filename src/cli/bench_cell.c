#include <stdlib.h>
#include <string.h>

#include "cli/bench.h"
#include "cli/convert.h"
#include "cli/message.h"
#include "core/dtype.h"

/* ---- lanes ----------------------------------------------------------------------------------- */

static clmla_status create_lane(const mla_cell *cell, int32_t first, int32_t count, size_t row,
                                mla_lane *lane)
{
    const mla_workload *w = cell->workload;
    *lane = (mla_lane){.first_request = first, .num_requests = count, .first_row = row};
    lane->cu_seqlens_q = calloc((size_t)count + 1, sizeof(*lane->cu_seqlens_q));
    lane->cache_seqlens = calloc((size_t)count, sizeof(*lane->cache_seqlens));
    lane->bindings = calloc((size_t)cell->bench->num_layers, sizeof(clmla_binding *));
    if (lane->cu_seqlens_q == NULL || lane->cache_seqlens == NULL || lane->bindings == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    for (int32_t i = 0; i < count; i++) {
        const int32_t seqlen = w->seqlens[first + i];
        lane->num_tokens += seqlen;
        lane->cu_seqlens_q[i + 1] = lane->num_tokens;
        lane->cache_seqlens[i] = w->pastlens[first + i] + seqlen;
        if (seqlen > lane->max_seqlen)
            lane->max_seqlen = seqlen;
    }
    return CLMLA_SUCCESS;
}

static clmla_status create_lanes(mla_cell *cell)
{
    const int32_t requests = cell->workload->num_requests;
    size_t row = 0;
    cell->num_lanes = cell->batched ? 1 : requests;
    cell->lanes = calloc((size_t)cell->num_lanes, sizeof(*cell->lanes));
    if (cell->lanes == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    for (int32_t i = 0; i < cell->num_lanes; i++) {
        const clmla_status status =
            create_lane(cell, i, cell->batched ? requests : 1, row, &cell->lanes[i]);
        if (status != CLMLA_SUCCESS)
            return status;
        row += (size_t)cell->lanes[i].num_tokens;
    }
    return CLMLA_SUCCESS;
}

/* ---- the layer ------------------------------------------------------------------------------- */

/* Keys of the longest request after a whole chain. */
static int64_t most_keys(const mla_cell *cell)
{
    const mla_workload *w = cell->workload;
    int64_t most = 1;
    for (int32_t i = 0; i < w->num_requests; i++) {
        const int64_t keys =
            (int64_t)w->pastlens[i] + (int64_t)w->seqlens[i] * (int64_t)cell->max_steps;
        if (keys > most)
            most = keys;
    }
    return most;
}

/* The limits are those of this mode: a lane at a time. */
static clmla_status create_layer(mla_cell *cell)
{
    const mla_bench *bench = cell->bench;
    const clmla_dtype dtype = bench->common->dtype;
    const int64_t max_keys = most_keys(cell);
    if (max_keys > INT32_MAX ||
        !mla_pages_create(cell->workload->num_requests, (int32_t)max_keys, NULL,
                          bench->common->page_block_size, bench->common->seed, &cell->pages))
        return CL_OUT_OF_HOST_MEMORY;
    clmla_layer_params params = {
        .struct_size = sizeof(params),
        .config = &bench->config,
        .max_cache_seqlen = (int32_t)max_keys,
        .page_block_size = cell->pages.page_block_size,
        .num_pages = cell->pages.num_pages,
        .weights_dtype = bench->common->weights_dtype,
        .cache_dtype = bench->common->cache_dtype,
        .hidden_dtype = dtype,
        .batch_invariant = bench->common->batch_invariant,
        .one_launch = bench->common->one_launch,
    };
    for (int32_t i = 0; i < cell->num_lanes; i++) {
        const mla_lane *lane = &cell->lanes[i];
        if (lane->num_requests > params.max_num_sequences)
            params.max_num_sequences = lane->num_requests;
        if (lane->num_tokens > params.max_num_tokens)
            params.max_num_tokens = lane->num_tokens;
        if (lane->max_seqlen > params.max_seqlen_q)
            params.max_seqlen_q = lane->max_seqlen;
    }
    clmla_status status = clmla_layer_create(cell->backend->session.clmla, &params, &cell->layer);
    if (status != CLMLA_SUCCESS)
        return status;
    cell->rows_bytes = (uint64_t)cell->workload->num_tokens * (uint64_t)bench->config.hidden_size *
                       mla__dtype_bytes(dtype);
    cell->info.struct_size = sizeof(cell->info);
    return clmla_layer_get_info(cell->layer, &cell->info);
}

/* ---- device memory --------------------------------------------------------------------------- */

typedef enum cache_rows {
    LATENT_ROWS,
    ROPE_ROWS,
    RECORDS /* of an FP8 cache: both */
} cache_rows;

static size_t row_width(const clmla_config *config, cache_rows rows)
{
    return (size_t)(rows == ROPE_ROWS ? config->qk_rope_head_dim : config->kv_lora_rank);
}

static size_t cache_row_bytes(const mla_bench *bench, cache_rows rows)
{
    return rows == RECORDS
               ? mla_record_bytes(&bench->config)
               : row_width(&bench->config, rows) * mla__dtype_bytes(bench->common->dtype);
}

/* The past rows of a request as they are stored. */
static bool draw_past(const mla_bench *bench, int32_t layer, int32_t request, cache_rows rows,
                      size_t count, unsigned char *out)
{
    const size_t elements = count * row_width(&bench->config, rows);
    if (rows == RECORDS)
        return mla_draw_records(&bench->config, layer, request, bench->common->seed, count, out);
    uint16_t *drawn = malloc(elements * sizeof(*drawn) + 1);
    if (drawn == NULL)
        return false;
    mla_draw_past(layer, request, rows == ROPE_ROWS, bench->common->seed, elements, drawn);
    mla_store_array(drawn, CLMLA_DTYPE_BF16, elements, bench->common->dtype, out, 0);
    free(drawn);
    return true;
}

/* NaN with the past rows of every request in their places. */
static clmla_status create_cache(const mla_cell *cell, int32_t layer, cache_rows rows, cl_mem *out)
{
    const mla_bench *bench = cell->bench;
    const size_t row_bytes = cache_row_bytes(bench, rows);
    const size_t bytes = mla_pages_rows(&cell->pages) * row_bytes;
    clmla_status status = CLMLA_SUCCESS;
    if (bytes == 0)
        return CLMLA_SUCCESS;
    unsigned char *host = malloc(bytes);
    if (host == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    memset(host, 0xff, bytes);
    for (int32_t b = 0; b < cell->workload->num_requests && status == CLMLA_SUCCESS; b++) {
        const int32_t past = cell->workload->pastlens[b];
        unsigned char *stored = malloc((size_t)past * row_bytes + 1);
        if (stored == NULL || !draw_past(bench, layer, b, rows, (size_t)past, stored))
            status = CL_OUT_OF_HOST_MEMORY;
        for (int32_t key = 0; key < past && status == CLMLA_SUCCESS; key++)
            memcpy(host + mla_pages_row(&cell->pages, b, key) * row_bytes,
                   stored + (size_t)key * row_bytes, row_bytes);
        free(stored);
    }
    if (status == CLMLA_SUCCESS)
        status = mla_session_buffer(&cell->backend->session, host, bytes, out);
    free(host);
    return status;
}

static clmla_status create_caches(const mla_cell *cell, int32_t layer)
{
    if (cell->bench->common->cache_dtype == CLMLA_DTYPE_FP8_DS_MLA)
        return create_cache(cell, layer, RECORDS, &cell->kv_cache[layer]);
    const clmla_status status = create_cache(cell, layer, LATENT_ROWS, &cell->kv_cache[layer]);
    return status == CLMLA_SUCCESS ? create_cache(cell, layer, ROPE_ROWS, &cell->pe_cache[layer])
                                   : status;
}

/* initial, and work with the same rows. A lane's binding spans max_num_tokens rows from its first,
 * hence the room after the last. */
static clmla_status create_rows(mla_cell *cell)
{
    const mla_bench *bench = cell->bench;
    const clmla_dtype dtype = bench->common->dtype;
    const size_t hidden = (size_t)bench->config.hidden_size;
    const size_t bytes = 2 * (size_t)cell->rows_bytes;
    const size_t tokens = (size_t)cell->workload->num_tokens;
    uint16_t *drawn = malloc(tokens * hidden * sizeof(*drawn));
    unsigned char *host = malloc(bytes);
    clmla_status status = CL_OUT_OF_HOST_MEMORY;
    if (drawn != NULL && host != NULL) {
        size_t row = 0;
        memset(host, 0xff, bytes);
        for (int32_t b = 0; b < cell->workload->num_requests; b++) {
            const size_t count = (size_t)cell->workload->seqlens[b];
            mla_draw_hidden(&bench->config, b, bench->common->seed, count, drawn + row * hidden);
            row += count;
        }
        mla_store_array(drawn, CLMLA_DTYPE_BF16, tokens * hidden, dtype, host, 0);
        status = mla_session_buffer(&cell->backend->session, host, bytes, &cell->initial);
        if (status == CLMLA_SUCCESS)
            status = mla_session_buffer(&cell->backend->session, host, bytes, &cell->work);
    }
    free(drawn);
    free(host);
    return status;
}

static clmla_status create_bindings(mla_cell *cell, mla_lane *lane)
{
    const mla_bench *bench = cell->bench;
    const uint64_t offset = (uint64_t)lane->first_row * (uint64_t)bench->config.hidden_size *
                            mla__dtype_bytes(bench->common->dtype);
    for (int32_t i = 0; i < bench->num_layers; i++) {
        /* Prefill reads what was drawn in every run; decode and later layers go on in place. */
        const bool reads_initial = i == 0 && !cell->workload->decode;
        const clmla_binding_params params = {
            .struct_size = sizeof(params),
            .weights = cell->backend->weights[i],
            .kv_cache.buffer = cell->kv_cache[i],
            .pe_cache.buffer = cell->pe_cache[i],
            .hidden_states = {.buffer = reads_initial ? cell->initial : cell->work,
                              .offset_bytes = offset},
            .output = {.buffer = cell->work, .offset_bytes = offset},
            .workspace.buffer = cell->workspace,
        };
        const clmla_status status = clmla_binding_create(cell->layer, &params, &lane->bindings[i]);
        if (status != CLMLA_SUCCESS)
            return status;
    }
    return CLMLA_SUCCESS;
}

/* ---- cells ----------------------------------------------------------------------------------- */

/* Before anything is drawn: what no buffer of the device can hold. */
static clmla_status check_sizes(mla_cell *cell)
{
    const mla_bench *bench = cell->bench;
    const bool records = bench->common->cache_dtype == CLMLA_DTYPE_FP8_DS_MLA;
    const uint64_t rows = mla_pages_rows(&cell->pages);
    const uint64_t sizes[] = {cell->info.weights_bytes, cell->info.workspace_bytes,
                              2 * cell->rows_bytes,
                              rows * cache_row_bytes(bench, records ? RECORDS : LATENT_ROWS),
                              records ? 0 : rows * cache_row_bytes(bench, ROPE_ROWS)};
    clmla_status status = CLMLA_SUCCESS;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]) && status == CLMLA_SUCCESS; i++)
        status = mla_session_check_buffer(&cell->backend->session, sizes[i]);
    return status;
}

static clmla_status create_memory(mla_cell *cell)
{
    const mla_bench *bench = cell->bench;
    const size_t layers = (size_t)bench->num_layers;
    cell->kv_cache = calloc(layers, sizeof(cl_mem));
    cell->pe_cache = calloc(layers, sizeof(cl_mem));
    if (cell->kv_cache == NULL || cell->pe_cache == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    clmla_status status = mla_session_buffer(&cell->backend->session, NULL,
                                             cell->info.workspace_bytes, &cell->workspace);
    if (status == CLMLA_SUCCESS)
        status = create_rows(cell);
    if (status == CLMLA_SUCCESS)
        status = mla_backend_pack(bench, cell->backend, cell->layer);
    for (int32_t i = 0; i < bench->num_layers && status == CLMLA_SUCCESS; i++)
        status = create_caches(cell, i);
    return status;
}

clmla_status mla_cell_create(const mla_bench *bench, mla_backend *backend,
                             const mla_workload *workload, bool batched, const char *what,
                             mla_cell *out)
{
    *out = (mla_cell){.bench = bench,
                      .backend = backend,
                      .workload = workload,
                      .batched = batched,
                      .what = what,
                      .max_steps = 1};
    if (workload->decode) {
        enum { CHECK_STEPS = 4 }; /* more than any check takes */
        out->max_steps = bench->runs > bench->warmup ? bench->runs : bench->warmup;
        if (out->max_steps < CHECK_STEPS)
            out->max_steps = CHECK_STEPS;
    }
    clmla_status status = create_lanes(out);
    if (status == CLMLA_SUCCESS)
        status = create_layer(out);
    if (status == CLMLA_SUCCESS)
        status = check_sizes(out);
    if (status == CLMLA_SUCCESS)
        status = create_memory(out);
    mla_progress("compiling kernels");
    if (status == CLMLA_SUCCESS)
        status = clmla_layer_prepare(out->layer, backend->session.queue);
    if (status == CLMLA_SUCCESS) /* now that it is known what runs on the device */
        mla_session_describe(&backend->session, out->layer);
    for (int32_t i = 0; i < out->num_lanes && status == CLMLA_SUCCESS; i++)
        status = create_bindings(out, &out->lanes[i]);
    if (status == CLMLA_SUCCESS)
        status = clmla_plan_create(out->layer, &out->plan);
    return status;
}

static void release_lane(mla_lane *lane, int32_t num_layers)
{
    for (int32_t i = 0; lane->bindings != NULL && i < num_layers; i++)
        clmla_binding_release(lane->bindings[i]);
    free(lane->bindings);
    free(lane->cu_seqlens_q);
    free(lane->cache_seqlens);
}

void mla_cell_release(mla_cell *cell)
{
    (void)clFinish(cell->backend->session.queue);
    for (int32_t i = 0; cell->lanes != NULL && i < cell->num_lanes; i++)
        release_lane(&cell->lanes[i], cell->bench->num_layers);
    for (int32_t i = 0; i < cell->bench->num_layers; i++) {
        if (cell->kv_cache != NULL)
            mla_buffer_release(cell->kv_cache[i]);
        if (cell->pe_cache != NULL)
            mla_buffer_release(cell->pe_cache[i]);
    }
    free(cell->lanes);
    free(cell->kv_cache);
    free(cell->pe_cache);
    mla_buffer_release(cell->initial);
    mla_buffer_release(cell->work);
    mla_buffer_release(cell->workspace);
    clmla_plan_release(cell->plan);
    clmla_layer_release(cell->layer);
    mla_pages_release(&cell->pages);
}

/* ---- steps ----------------------------------------------------------------------------------- */

clmla_status mla_cell_restore(const mla_cell *cell, cl_command_queue queue)
{
    if (!cell->workload->decode)
        return CLMLA_SUCCESS;
    return clEnqueueCopyBuffer(queue, cell->initial, cell->work, 0, 0, (size_t)cell->rows_bytes, 0,
                               NULL, NULL);
}

clmla_status mla_cell_first_step(const mla_cell *cell, const mla_lane *lane, cl_command_queue queue)
{
    const clmla_step step = {
        .struct_size = sizeof(step),
        .num_sequences = lane->num_requests,
        .cu_seqlens_q = lane->cu_seqlens_q,
        .cache_seqlens = lane->cache_seqlens,
        .block_table = cell->pages.block_table +
                       (size_t)lane->first_request * (size_t)cell->pages.pages_per_sequence,
        .block_table_stride = cell->pages.pages_per_sequence,
    };
    return clmla_enqueue_plan(cell->plan, &step, queue, 0, NULL, NULL);
}

clmla_status mla_cell_next_step(const mla_cell *cell, cl_command_queue queue)
{
    return clmla_enqueue_advance(cell->plan, NULL, queue, 0, NULL, NULL);
}

clmla_status mla_cell_forward(const mla_cell *cell, const mla_lane *lane, cl_command_queue queue)
{
    clmla_status status = CLMLA_SUCCESS;
    for (int32_t i = 0; i < cell->bench->num_layers && status == CLMLA_SUCCESS; i++)
        status = clmla_enqueue_layer(lane->bindings[i], cell->plan, queue, 0, NULL, NULL);
    return status;
}
