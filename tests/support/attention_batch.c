#include "support/attention_batch.h"

#include "core/dtype.h"
#include "core/fp8_cache.h"
#include "ref/mla_ref.h"
#include "support/support.h"

enum { QUERY = 1, KEY = 2 };
enum { UNUSED_PAGE = 2147480000, SPARE_PAGES = 3 };

static void *allocate(size_t bytes)
{
    void *data = malloc(bytes + 1);
    assert_non_null(data);
    return data;
}

static size_t key_dim(const attention_batch *b)
{
    return (size_t)b->kv_lora_rank + (size_t)b->rope_dim;
}

static clmla_dtype dtype_or_bf16(clmla_dtype dtype)
{
    return dtype == CLMLA_DTYPE_DEFAULT ? CLMLA_DTYPE_BF16 : dtype;
}

static double rounded(double value, clmla_dtype dtype)
{
    unsigned char bits[8];
    mla__store(bits, dtype, 0, value);
    return mla__load(bits, dtype, 0);
}

/* ---- values --------------------------------------------------------------------------------- */

/* Normal of deviation 0.1 within [-1, 1]; latent and rope part have dtypes and places of their own.
 */
static void draw_row(const attention_batch *b, int kind, int32_t id, int32_t position, int32_t head,
                     clmla_dtype latent_dtype, clmla_dtype rope_dtype, double *latent, double *rope)
{
    const size_t num_latent = (size_t)b->kv_lora_rank;
    test_random random = {.state = (uint64_t)kind};
    const int32_t coordinates[] = {id, position, head};
    for (int i = 0; i < 3; i++)
        random.state = test_random_u64(&random) ^ (uint64_t)(uint32_t)coordinates[i];
    for (size_t i = 0; i < key_dim(b); i++) {
        const double value = fmax(-1.0, fmin(1.0, 0.1 * test_random_normal(&random)));
        if (i < num_latent)
            latent[i] = rounded(value, latent_dtype);
        else
            rope[i - num_latent] = rounded(value, rope_dtype);
    }
}

static bool is_fp8(const attention_batch *b) { return b->cache == CLMLA_DTYPE_FP8_DS_MLA; }

/* What an FP8 record makes of a latent, whose groups get scales of their own. */
static void round_as_record(const attention_batch *b, double *latent)
{
    const size_t count = (size_t)b->kv_lora_rank;
    float *values = allocate(count * sizeof(float));
    unsigned char *record = allocate(mla__fp8_latent_bytes(b->kv_lora_rank));
    for (size_t i = 0; i < count; i++)
        values[i] = (float)ldexp(latent[i], -3 * (int)(i / MLA__FP8_GROUP));
    mla__fp8_encode_latent(values, b->kv_lora_rank, record);
    mla__fp8_decode_latent(record, b->kv_lora_rank, values);
    for (size_t i = 0; i < count; i++)
        latent[i] = (double)values[i];
    free(values);
    free(record);
}

static void draw_key(const attention_batch *b, const attention_sequence *of, int32_t position,
                     double *latent, double *rope)
{
    const clmla_dtype latent_dtype = is_fp8(b) ? CLMLA_DTYPE_F32 : b->cache;
    const clmla_dtype rope_dtype = is_fp8(b) ? CLMLA_DTYPE_BF16 : b->cache;
    draw_row(b, KEY, of->id, position, 0, latent_dtype, rope_dtype, latent, rope);
    if (is_fp8(b))
        round_as_record(b, latent);
}

static void draw(attention_problem *p)
{
    const attention_batch *b = &p->batch;
    const size_t dim = key_dim(b), heads = (size_t)b->num_heads;
    const size_t latent = (size_t)b->kv_lora_rank, rope = (size_t)b->rope_dim;
    p->q = allocate((size_t)p->num_tokens * heads * dim * sizeof(double));
    p->c_kv = allocate((size_t)b->num_sequences * sizeof(double *));
    p->k_pe = allocate((size_t)b->num_sequences * sizeof(double *));
    for (int32_t s = 0; s < b->num_sequences; s++) {
        const attention_sequence *of = &b->sequences[s];
        p->c_kv[s] = allocate((size_t)of->keys * latent * sizeof(double));
        p->k_pe[s] = allocate((size_t)of->keys * rope * sizeof(double));
        for (int32_t j = 0; j < of->keys; j++)
            draw_key(b, of, j, p->c_kv[s] + (size_t)j * latent, p->k_pe[s] + (size_t)j * rope);
        for (int32_t i = 0; i < of->new_tokens; i++)
            for (int32_t h = 0; h < b->num_heads; h++) {
                double *row = p->q + ((size_t)(p->cu[s] + i) * heads + (size_t)h) * dim;
                draw_row(b, QUERY, of->id, of->keys - of->new_tokens + i, h, b->q_lat, b->q_pe, row,
                         row + latent);
            }
    }
    for (int32_t t = p->cu[b->num_sequences]; t < p->num_tokens; t++)
        for (size_t i = 0; i < heads * dim; i++)
            p->q[(size_t)t * heads * dim + i] = (double)NAN; /* nobody's tokens */
    if (b->nan_key > 0)
        p->c_kv[0][(size_t)(b->nan_key - 1) * latent] = (double)NAN;
    if (b->nan_row > 0)
        p->q[(size_t)(b->nan_row - 1) * dim] = (double)NAN;
}

/* ---- buffers -------------------------------------------------------------------------------- */

/* A [rows, columns, dim] tensor with gaps, from column `first` of a [rows, columns, source_dim]
 * array of doubles (NULL: poison everywhere). */
static test_buffer strided(const attention_batch *b, clmla_dtype dtype, size_t rows, size_t columns,
                           size_t dim, const double *source, size_t source_dim, size_t first)
{
    const size_t stride = dim + (size_t)b->gap, count = rows * columns * stride;
    const size_t bytes = count * mla__dtype_bytes(dtype);
    void *data = allocate(bytes);
    memset(data, 0xff, bytes);
    for (size_t r = 0; source != NULL && r < rows * columns; r++)
        for (size_t i = 0; i < dim; i++)
            mla__store(data, dtype, r * stride + i, source[r * source_dim + first + i]);
    test_buffer made = test_buffer_of(data, bytes, dtype);
    made.tensor.strides[0] = columns * stride;
    made.tensor.strides[1] = stride;
    free(data);
    return made;
}

/* Pages dealt out in a fixed shuffled order; entries past a sequence's last page are absurd. */
static int32_t *deal_pages(const attention_problem *p, int32_t stride)
{
    const attention_batch *b = &p->batch;
    const size_t count = (size_t)b->num_sequences * (size_t)stride;
    int32_t *table = allocate(count * sizeof(int32_t));
    int32_t *order = allocate((size_t)p->num_pages * sizeof(int32_t));
    test_random random = {.state = 99};
    for (int32_t i = 0; i < p->num_pages; i++) {
        const int32_t at = test_random_int(&random, 0, i);
        order[i] = order[at];
        order[at] = i;
    }
    int32_t next = 0;
    for (int32_t s = 0; s < b->num_sequences; s++)
        for (int32_t i = 0; i < stride; i++)
            table[s * stride + i] = (int64_t)i * b->page_block_size < b->sequences[s].keys
                                        ? order[next++]
                                        : UNUSED_PAGE;
    free(order);
    return table;
}

static int32_t longest(const attention_batch *b)
{
    int32_t keys = 0;
    for (int32_t s = 0; s < b->num_sequences; s++)
        keys = b->sequences[s].keys > keys ? b->sequences[s].keys : keys;
    return keys;
}

/* Where a key's row lies: table NULL, one page per sequence. */
static size_t cache_row(const int32_t *table, int32_t stride, int32_t page_rows, int32_t s,
                        int32_t key)
{
    const int32_t page = table == NULL ? s : table[s * stride + key / page_rows];
    return (size_t)page * (size_t)page_rows + (size_t)(key % page_rows);
}

/* FP8 records, their gaps and the rows of no key poisoned. The encoder gives the codes again that
 * the values came from. */
static void make_records(attention_problem *p, const int32_t *table, int32_t table_stride,
                         int32_t page_rows)
{
    const attention_batch *b = &p->batch;
    const size_t latent = (size_t)b->kv_lora_rank, rope = (size_t)b->rope_dim;
    const size_t stride = mla__fp8_record_bytes(b->kv_lora_rank, b->rope_dim) + 4 * (size_t)b->gap;
    const size_t bytes = (size_t)p->num_pages * (size_t)page_rows * stride;
    unsigned char *records = allocate(bytes);
    float *values = allocate(latent * sizeof(float));
    memset(records, 0xff, bytes);
    for (int32_t s = 0; s < b->num_sequences; s++)
        for (int32_t j = 0; j < b->sequences[s].keys; j++) {
            unsigned char *record =
                records + cache_row(table, table_stride, page_rows, s, j) * stride;
            for (size_t i = 0; i < latent; i++)
                values[i] = (float)p->c_kv[s][(size_t)j * latent + i];
            mla__fp8_encode_latent(values, b->kv_lora_rank, record);
            for (size_t i = 0; i < rope; i++)
                mla__store(record + mla__fp8_latent_bytes(b->kv_lora_rank), CLMLA_DTYPE_BF16, i,
                           p->k_pe[s][(size_t)j * rope + i]);
        }
    p->kv_cache = test_buffer_of(records, bytes, b->cache);
    p->kv_cache.tensor.strides[0] = (size_t)page_rows * stride;
    p->kv_cache.tensor.strides[1] = stride;
    p->params.kv_cache = p->kv_cache.tensor;
    free(records);
    free(values);
}

static void make_caches(attention_problem *p, const int32_t *table, int32_t table_stride,
                        int32_t page_rows)
{
    const attention_batch *b = &p->batch;
    const size_t dim = key_dim(b), latent = (size_t)b->kv_lora_rank, rope = (size_t)b->rope_dim;
    const size_t element = mla__dtype_bytes(b->cache), gap = (size_t)b->gap;
    const size_t rows = (size_t)p->num_pages * (size_t)page_rows;
    const size_t kv_stride = (b->fused ? dim : latent) + gap;
    const size_t pe_stride = b->fused ? kv_stride : rope + gap;
    unsigned char *kv = allocate(rows * kv_stride * element);
    unsigned char *pe = allocate(rows * pe_stride * element);
    memset(kv, 0xff, rows * kv_stride * element);
    memset(pe, 0xff, rows * pe_stride * element);
    for (int32_t s = 0; s < b->num_sequences; s++)
        for (int32_t j = 0; j < b->sequences[s].keys; j++) {
            const size_t row = cache_row(table, table_stride, page_rows, s, j);
            const double *c_kv = p->c_kv[s] + (size_t)j * latent;
            const double *k_pe = p->k_pe[s] + (size_t)j * rope;
            for (size_t i = 0; i < latent; i++)
                mla__store(kv, b->cache, row * kv_stride + i, c_kv[i]);
            for (size_t i = 0; i < rope; i++) {
                if (b->fused)
                    mla__store(kv, b->cache, row * kv_stride + latent + i, k_pe[i]);
                else
                    mla__store(pe, b->cache, row * pe_stride + i, k_pe[i]);
            }
        }
    p->kv_cache = test_buffer_of(kv, rows * kv_stride * element, b->cache);
    p->kv_cache.tensor.strides[0] = (size_t)page_rows * kv_stride;
    p->kv_cache.tensor.strides[1] = kv_stride;
    if (b->fused) {
        p->params.pe_cache = p->kv_cache.tensor;
        p->params.pe_cache.offset_bytes += latent * element;
    } else if (rope > 0) {
        p->pe_cache = test_buffer_of(pe, rows * pe_stride * element, b->cache);
        p->pe_cache.tensor.strides[0] = (size_t)page_rows * pe_stride;
        p->pe_cache.tensor.strides[1] = pe_stride;
        p->params.pe_cache = p->pe_cache.tensor;
    }
    p->params.kv_cache = p->kv_cache.tensor;
    free(kv);
    free(pe);
}

static void make_sequences(attention_problem *p)
{
    const attention_batch *b = &p->batch;
    const size_t count = (size_t)b->num_sequences;
    const bool paged = b->page_block_size > 0;
    const int32_t page_rows = paged ? b->page_block_size : longest(b) + 2;
    const int32_t stride = paged ? longest(b) / page_rows + 2 : 0;
    int32_t *seqlens = allocate(count * sizeof(int32_t)), *table = NULL;
    p->num_pages = paged ? SPARE_PAGES : b->num_sequences;
    for (int32_t s = 0; s < b->num_sequences; s++) {
        seqlens[s] = b->sequences[s].keys;
        if (paged)
            p->num_pages += (seqlens[s] + page_rows - 1) / page_rows;
    }
    if (paged) {
        table = deal_pages(p, stride);
        p->block_table =
            test_buffer_of(table, count * (size_t)stride * sizeof(int32_t), CLMLA_DTYPE_I32);
    }
    p->cu_table = test_buffer_of(p->cu, (count + 1) * sizeof(int32_t), CLMLA_DTYPE_I32);
    p->seqlens_table = test_buffer_of(seqlens, count * sizeof(int32_t), CLMLA_DTYPE_I32);
    p->params.sequences = (clmla_sequences){.num_sequences = b->num_sequences,
                                            .num_tokens = p->num_tokens,
                                            .max_cache_seqlen = longest(b),
                                            .num_pages = p->num_pages,
                                            .page_block_size = page_rows,
                                            .block_table_stride = stride,
                                            .cu_seqlens_q = p->cu_table.tensor,
                                            .cache_seqlens = p->seqlens_table.tensor,
                                            .block_table = p->block_table.tensor};
    if (is_fp8(b))
        make_records(p, table, stride, page_rows);
    else
        make_caches(p, table, stride, page_rows);
    free(table);
    free(seqlens);
}

static const test_buffer *input(const attention_problem *p, size_t i)
{
    const test_buffer *inputs[] = {&p->q_lat,    &p->q_pe,          &p->kv_cache,   &p->pe_cache,
                                   &p->cu_table, &p->seqlens_table, &p->block_table};
    return inputs[i];
}

static void remember_inputs(attention_problem *p)
{
    for (size_t i = 0; i < 7; i++) {
        const test_buffer *buffer = input(p, i);
        p->before[i] = allocate(buffer->bytes);
        if (buffer->tensor.buffer != NULL)
            test_buffer_read(buffer, p->before[i]);
    }
}

attention_problem attention_problem_make(clmla_context *context, const attention_batch *batch)
{
    attention_problem p = {.batch = *batch};
    attention_batch *b = &p.batch;
    b->q_lat = dtype_or_bf16(b->q_lat);
    b->q_pe = dtype_or_bf16(b->q_pe);
    b->cache = dtype_or_bf16(b->cache);
    b->out = dtype_or_bf16(b->out);
    const size_t latent = (size_t)b->kv_lora_rank, rope = (size_t)b->rope_dim;
    if (b->softmax_scale == 0.0)
        b->softmax_scale = 1.0 / sqrt((double)key_dim(b));
    p.cu = allocate(((size_t)b->num_sequences + 1) * sizeof(int32_t));
    p.cu[0] = 0;
    for (int32_t s = 0; s < b->num_sequences; s++)
        p.cu[s + 1] = p.cu[s] + b->sequences[s].new_tokens;
    p.num_tokens = p.cu[b->num_sequences] + b->extra_tokens;
    p.params = (clmla_attention_params){.struct_size = sizeof(clmla_attention_params),
                                        .num_heads = b->num_heads,
                                        .kv_lora_rank = b->kv_lora_rank,
                                        .rope_dim = b->rope_dim,
                                        .mask = b->mask,
                                        .softmax_scale = b->softmax_scale,
                                        .num_splits = b->num_splits,
                                        .split_tokens = b->split_tokens};
    draw(&p);
    make_sequences(&p);
    const size_t tokens = (size_t)p.num_tokens, heads = (size_t)b->num_heads;
    p.q_lat = strided(b, b->q_lat, tokens, heads, latent, p.q, latent + rope, 0);
    p.params.q_lat = p.q_lat.tensor;
    if (rope > 0) {
        p.q_pe = strided(b, b->q_pe, tokens, heads, rope, p.q, latent + rope, latent);
        p.params.q_pe = p.q_pe.tensor;
    }
    if (!b->in_place)
        p.out = strided(b, b->out, tokens, heads, latent, NULL, 0, 0);
    p.params.out = b->in_place ? p.q_lat.tensor : p.out.tensor;
    if (!b->no_lse) {
        p.lse = test_buffer_poisoned(tokens * heads * sizeof(float), CLMLA_DTYPE_F32);
        p.params.softmax_lse = p.lse.tensor;
    }
    uint64_t bytes = 0;
    assert_int_equal(clmla_attention_workspace_size(context, &p.params, &bytes), CLMLA_SUCCESS);
    if (bytes > 0) {
        p.workspace = test_buffer_poisoned((size_t)bytes, CLMLA_DTYPE_F32);
        p.params.workspace = p.workspace.tensor;
    }
    remember_inputs(&p);
    return p;
}

void attention_problem_release(attention_problem *p)
{
    test_buffer *buffers[] = {&p->q_lat,         &p->q_pe,       &p->kv_cache,  &p->pe_cache,
                              &p->out,           &p->lse,        &p->workspace, &p->cu_table,
                              &p->seqlens_table, &p->block_table};
    for (size_t i = 0; i < sizeof buffers / sizeof buffers[0]; i++)
        test_buffer_release(buffers[i]);
    for (size_t i = 0; i < 7; i++)
        free(p->before[i]);
    for (int32_t s = 0; s < p->batch.num_sequences; s++) {
        free(p->c_kv[s]);
        free(p->k_pe[s]);
    }
    free(p->c_kv);
    free(p->k_pe);
    free(p->q);
    free(p->cu);
}

/* ---- call ----------------------------------------------------------------------------------- */

bool attention_try_large_tile(clmla_context *context, int32_t kv_lora_rank, int32_t rope_dim,
                              const char **why_not)
{
    const mla__attention_shape shape = {.q_lat = CLMLA_DTYPE_BF16,
                                        .q_pe = CLMLA_DTYPE_BF16,
                                        .cache = CLMLA_DTYPE_BF16,
                                        .out = CLMLA_DTYPE_BF16,
                                        .num_heads = 16,
                                        .kv_lora_rank = kv_lora_rank,
                                        .rope_dim = rope_dim};
    mla__stream stream;
    mla__attention_choice choice;
    assert_int_equal(mla__stream_begin(&stream, test_device_get()->queue, 0, NULL), CLMLA_SUCCESS);
    assert_int_equal(mla__attention_try_large(context, &shape, &stream), CLMLA_SUCCESS);
    assert_true(mla__attention_choose(context, &shape, &choice));
    *why_not = choice.why_not_large;
    return choice.large_tile.tile_rows > 0;
}

void attention_keep_tile(mla__attention *op, int32_t tile_rows)
{
    mla__attention_variant *const others[] = {&op->many, &op->large};
    for (size_t i = 0; i < 2 && tile_rows > 0; i++) {
        if (others[i]->tile.tile_rows == tile_rows) {
            const mla__attention_variant few = op->few;
            op->few = *others[i];
            *others[i] = few;
        }
        others[i]->tile.tile_rows = 0; /* no step asks for it */
    }
    if (tile_rows > 0 && op->few.tile.tile_rows != tile_rows)
        fail_msg("attention has no tile of %d rows", (int)tile_rows);
}

clmla_status attention_problem_enqueue(clmla_context *context, const attention_problem *p,
                                       cl_command_queue queue, cl_uint num_events,
                                       const cl_event *wait_list, cl_event *event)
{
    if (p->batch.tile_rows == 0)
        return clmla_enqueue_attention(context, &p->params, queue, num_events, wait_list, event);
    clmla_attention_params params = p->params;
    mla__attention op = {.num_heads = 0};
    mla__attention_step step;
    mla__stream stream;
    clmla_status status = mla__attention_choose_step(context, &params, &step);
    params.num_splits = step.num_splits;
    if (status == CLMLA_SUCCESS)
        status = mla__attention_bind(context, &params, &op);
    if (status != CLMLA_SUCCESS)
        return status;
    attention_keep_tile(&op, p->batch.tile_rows);
    status = mla__stream_begin(&stream, queue, num_events, wait_list);
    if (status == CLMLA_SUCCESS)
        status = mla__attention_enqueue(&op, &stream, &step);
    if (status == CLMLA_SUCCESS)
        status = mla__stream_end(&stream, event);
    mla__attention_release(&op);
    return status;
}

/* ---- results -------------------------------------------------------------------------------- */

static void inputs_unchanged(const attention_problem *p, bool with_q_lat)
{
    static const char *const names[] = {"q_lat",        "q_pe",          "kv_cache",   "pe_cache",
                                        "cu_seqlens_q", "cache_seqlens", "block_table"};
    for (size_t i = with_q_lat ? 0 : 1; i < 7; i++)
        if (input(p, i)->tensor.buffer != NULL)
            test_buffer_unchanged(names[i], input(p, i), p->before[i]);
}

void attention_problem_read(const attention_problem *p, double *out, double *lse)
{
    const attention_batch *b = &p->batch;
    const test_buffer *from = b->in_place ? &p->q_lat : &p->out;
    const clmla_dtype dtype = from->tensor.dtype;
    const size_t rows = (size_t)p->num_tokens * (size_t)b->num_heads;
    const size_t latent = (size_t)b->kv_lora_rank, element = mla__dtype_bytes(dtype);
    const size_t stride = latent + (size_t)b->gap;
    unsigned char *data = allocate(from->bytes);
    test_buffer_read(from, data);
    for (size_t r = 0; r < rows; r++) {
        for (size_t i = 0; i < latent; i++)
            out[r * latent + i] = mla__load(data, dtype, r * stride + i);
        for (size_t i = latent * element; i < stride * element; i++)
            if (data[r * stride * element + i] != 0xff)
                fail_msg("written between rows %zu and %zu of out", r, r + 1);
    }
    free(data);
    if (lse != NULL)
        test_buffer_read_doubles(&p->lse, lse, rows);
    if (p->workspace.tensor.buffer != NULL) { /* for its canaries */
        unsigned char *scratch = allocate(p->workspace.bytes);
        test_buffer_read(&p->workspace, scratch);
        free(scratch);
    }
    inputs_unchanged(p, !b->in_place);
}

void attention_problem_untouched(const attention_problem *p)
{
    const test_buffer *outputs[] = {&p->out, &p->lse, &p->workspace};
    inputs_unchanged(p, true);
    for (size_t i = 0; i < 3; i++) {
        if (outputs[i]->tensor.buffer == NULL)
            continue;
        unsigned char *poison = allocate(outputs[i]->bytes);
        memset(poison, 0xff, outputs[i]->bytes);
        test_buffer_unchanged("an output", outputs[i], poison);
        free(poison);
    }
}

attention_result attention_run(clmla_context *context, const attention_batch *batch)
{
    attention_problem p = attention_problem_make(context, batch);
    const size_t rows = (size_t)p.num_tokens * (size_t)batch->num_heads;
    attention_result r = {.out = allocate(rows * (size_t)batch->kv_lora_rank * sizeof(double)),
                          .lse = batch->no_lse ? NULL : allocate(rows * sizeof(double))};
    const cl_command_queue queue = test_device_get()->queue;
    const clmla_status status = attention_problem_enqueue(context, &p, queue, 0, NULL, NULL);
    if (status != CLMLA_SUCCESS)
        fail_msg("clmla_enqueue_attention: %s: %s", clmla_status_name(status), test_last_notify());
    assert_int_equal(clFinish(queue), CL_SUCCESS);
    attention_problem_read(&p, r.out, r.lse);
    attention_problem_release(&p);
    return r;
}

void attention_result_release(attention_result *result)
{
    free(result->out);
    free(result->lse);
}

int32_t attention_reference(const attention_problem *p, size_t row, double *out, double *lse)
{
    const attention_batch *b = &p->batch;
    const size_t latent = (size_t)b->kv_lora_rank, rope = (size_t)b->rope_dim, dim = latent + rope;
    const int32_t token = (int32_t)(row / (size_t)b->num_heads);
    int32_t s = 0, keys = 0;
    while (s < b->num_sequences && token >= p->cu[s + 1])
        s++;
    if (s < b->num_sequences) {
        const attention_sequence *of = &b->sequences[s];
        const int32_t seen = of->keys - of->new_tokens + (token - p->cu[s]) + 1;
        keys = b->mask == CLMLA_MASK_NONE ? of->keys : seen > 0 ? seen : 0;
    }
    double *scores = allocate((size_t)keys * sizeof(double));
    const double *q = p->q + row * dim;
    mla_ref_attention_head((size_t)keys, latent, rope, b->softmax_scale, q, q + latent,
                           keys > 0 ? p->c_kv[s] : NULL, keys > 0 ? p->k_pe[s] : NULL, scores, out,
                           lse);
    free(scores);
    return keys;
}
