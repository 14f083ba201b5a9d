#include "support/peer_batch.h"

#include "core/dtype.h"
#include "ref/mla_ref.h"

enum { POOL = 1 << 20, MAX_DIM = 1024, GUARD_BYTES = 256 };
enum { UNUSED_PAGE = 2147480000, SPARE_PAGES = 2 };
enum { QUERY = 1, KEY = 2 };

static void *allocate(size_t bytes)
{
    void *data = malloc(bytes + 1);
    assert_non_null(data);
    return data;
}

/* ---- values --------------------------------------------------------------------------------- */

static uint16_t pool[POOL + MAX_DIM];

/* Drawn again only where the distribution changes. */
static void fill_pool(const peer_batch *b)
{
    static clmla_dtype dtype;
    static double deviation, largest;
    test_random random = {.state = 2026};
    if (dtype == b->dtype && deviation == b->deviation && largest == b->largest)
        return;
    dtype = b->dtype;
    deviation = b->deviation;
    largest = b->largest;
    for (size_t i = 0; i < POOL + MAX_DIM; i++)
        mla__store(pool, dtype, i,
                   fmax(-largest, fmin(largest, deviation * test_random_normal(&random))));
}

/* A row's elements, latent first: a place in the pool. */
static const uint16_t *row_of(int kind, int32_t id, int32_t position, int32_t head)
{
    test_random random = {.state = (uint64_t)kind << 60 ^ (uint64_t)(uint32_t)id << 40 ^
                                   (uint64_t)(uint32_t)head << 32 ^ (uint32_t)position};
    return pool + test_random_u64(&random) % POOL;
}

static const uint16_t *query_row(const attention_sequence *of, int32_t token, int32_t head)
{
    return row_of(QUERY, of->id, of->keys - of->new_tokens + token, head);
}

static void to_doubles(const peer_batch *b, const uint16_t *bits, size_t count, double *values)
{
    for (size_t i = 0; i < count; i++)
        values[i] = (double)(b->dtype == CLMLA_DTYPE_BF16 ? mla__bf16_to_float(bits[i])
                                                          : mla__f16_to_float(bits[i]));
}

uint64_t peer_products(const peer_batch *b)
{
    uint64_t products = 0;
    for (int32_t s = 0; s < b->num_sequences; s++)
        products += (uint64_t)b->sequences[s].new_tokens * (uint64_t)b->sequences[s].keys;
    return products * (uint64_t)b->num_heads * (uint64_t)(2 * b->kv_lora_rank + b->rope_dim);
}

/* ---- buffers -------------------------------------------------------------------------------- */

typedef struct area {
    cl_mem buffer;
    size_t bytes;
    unsigned char *data; /* mapped; the payload */
} area;

static void map(area *a)
{
    cl_int status = CL_SUCCESS;
    unsigned char *all =
        clEnqueueMapBuffer(test_device_get()->queue, a->buffer, CL_TRUE, CL_MAP_READ | CL_MAP_WRITE,
                           0, a->bytes + 2 * GUARD_BYTES, 0, NULL, NULL, &status);
    assert_int_equal(status, CL_SUCCESS);
    a->data = all + GUARD_BYTES;
}

static void unmap(area *a)
{
    assert_int_equal(clEnqueueUnmapMemObject(test_device_get()->queue, a->buffer,
                                             a->data - GUARD_BYTES, 0, NULL, NULL),
                     CL_SUCCESS);
    a->data = NULL;
}

/* Poisoned, guards as well, and mapped. */
static area make(size_t bytes)
{
    cl_int status = CL_SUCCESS;
    area a = {.bytes = bytes};
    a.buffer = clCreateBuffer(test_device_get()->context, CL_MEM_READ_WRITE,
                              bytes + 2 * GUARD_BYTES, NULL, &status);
    assert_int_equal(status, CL_SUCCESS);
    map(&a);
    memset(a.data - GUARD_BYTES, 0xff, bytes + 2 * GUARD_BYTES);
    return a;
}

static clmla_tensor tensor_of(const area *a, clmla_dtype dtype, size_t offset, size_t outer,
                              size_t inner)
{
    return (clmla_tensor){.buffer = a->buffer,
                          .offset_bytes = GUARD_BYTES + offset,
                          .dtype = dtype,
                          .strides = {outer, inner}};
}

static void check_guards(const char *what, const area *a)
{
    for (size_t i = 0; i < GUARD_BYTES; i++)
        if (a->data[-1 - (ptrdiff_t)i] != 0xff || a->data[a->bytes + i] != 0xff)
            fail_msg("%s: written %zu bytes outside", what, i + 1);
}

typedef struct problem {
    const peer_batch *batch;
    int32_t num_tokens, num_pages, table_stride;
    int32_t *cu, *table;
    area q, q_pe, kv, pe, out, lse, workspace, cu_table, seqlens, block_table;
    clmla_attention_params params;
} problem;

static void deal_pages(problem *p)
{
    const peer_batch *b = p->batch;
    int32_t longest = 0, next = 0;
    p->num_pages = SPARE_PAGES;
    for (int32_t s = 0; s < b->num_sequences; s++) {
        const int32_t keys = b->sequences[s].keys;
        longest = keys > longest ? keys : longest;
        p->num_pages += (keys + b->page_block_size - 1) / b->page_block_size;
    }
    p->params.sequences.max_cache_seqlen = longest;
    p->table_stride = longest / b->page_block_size + 2;
    p->table = allocate((size_t)b->num_sequences * (size_t)p->table_stride * sizeof(int32_t));
    int32_t *order = allocate((size_t)p->num_pages * sizeof(int32_t));
    test_random random = {.state = 99};
    for (int32_t i = 0; i < p->num_pages; i++) {
        const int32_t at = test_random_int(&random, 0, i);
        order[i] = order[at];
        order[at] = i;
    }
    for (int32_t s = 0; s < b->num_sequences; s++)
        for (int32_t i = 0; i < p->table_stride; i++)
            p->table[(size_t)s * (size_t)p->table_stride + (size_t)i] =
                (int64_t)i * b->page_block_size < b->sequences[s].keys ? order[next++]
                                                                       : UNUSED_PAGE;
    free(order);
}

static void make_caches(problem *p)
{
    const peer_batch *b = p->batch;
    const size_t latent = (size_t)b->kv_lora_rank, rope = (size_t)b->rope_dim;
    const size_t page_rows = (size_t)b->page_block_size, rows = (size_t)p->num_pages * page_rows;
    const size_t kv_row = latent + (b->fused ? rope : 0), pe_row = b->fused ? kv_row : rope;
    p->kv = make(rows * kv_row * 2);
    p->pe = make(b->fused ? 0 : rows * rope * 2);
    for (int32_t s = 0; s < b->num_sequences; s++)
        for (int32_t j = 0; j < b->sequences[s].keys; j++) {
            const int32_t *table = p->table + (size_t)s * (size_t)p->table_stride;
            const size_t row = (size_t)table[j / b->page_block_size] * page_rows +
                               (size_t)(j % b->page_block_size);
            const uint16_t *from = row_of(KEY, b->sequences[s].id, j, 0);
            memcpy(p->kv.data + row * kv_row * 2, from, kv_row * 2);
            if (!b->fused)
                memcpy(p->pe.data + row * rope * 2, from + latent, rope * 2);
        }
    p->params.kv_cache = tensor_of(&p->kv, b->dtype, 0, page_rows * kv_row, kv_row);
    if (rope > 0)
        p->params.pe_cache = tensor_of(b->fused ? &p->kv : &p->pe, b->dtype,
                                       b->fused ? latent * 2 : 0, page_rows * pe_row, pe_row);
}

static void make_queries(problem *p)
{
    const peer_batch *b = p->batch;
    const size_t latent = (size_t)b->kv_lora_rank, rope = (size_t)b->rope_dim;
    const size_t heads = (size_t)b->num_heads, rows = (size_t)p->num_tokens * heads;
    const size_t q_row = latent + (b->fused ? rope : 0), pe_row = b->fused ? q_row : rope;
    size_t row = 0;
    p->q = make(rows * q_row * 2);
    p->q_pe = make(b->fused ? 0 : rows * rope * 2);
    for (int32_t s = 0; s < b->num_sequences; s++)
        for (int32_t i = 0; i < b->sequences[s].new_tokens; i++)
            for (int32_t h = 0; h < b->num_heads; h++, row++) {
                const uint16_t *from = query_row(&b->sequences[s], i, h);
                memcpy(p->q.data + row * q_row * 2, from, q_row * 2);
                if (!b->fused)
                    memcpy(p->q_pe.data + row * rope * 2, from + latent, rope * 2);
            }
    p->params.q_lat = tensor_of(&p->q, b->dtype, 0, heads * q_row, q_row);
    if (rope > 0)
        p->params.q_pe = tensor_of(b->fused ? &p->q : &p->q_pe, b->dtype, b->fused ? latent * 2 : 0,
                                   heads * pe_row, pe_row);
    p->out = make(rows * latent * 2);
    p->params.out = tensor_of(&p->out, b->dtype, 0, 0, 0);
    p->lse = make(rows * sizeof(float));
    p->params.softmax_lse = tensor_of(&p->lse, CLMLA_DTYPE_F32, 0, 0, 0);
}

static void make_tables(problem *p)
{
    const peer_batch *b = p->batch;
    const size_t count = (size_t)b->num_sequences;
    p->cu_table = make((count + 1) * sizeof(int32_t));
    p->seqlens = make(count * sizeof(int32_t));
    p->block_table = make(count * (size_t)p->table_stride * sizeof(int32_t));
    memcpy(p->cu_table.data, p->cu, p->cu_table.bytes);
    memcpy(p->block_table.data, p->table, p->block_table.bytes);
    for (size_t s = 0; s < count; s++)
        memcpy(p->seqlens.data + s * sizeof(int32_t), &b->sequences[s].keys, sizeof(int32_t));
    clmla_sequences *to = &p->params.sequences;
    to->num_sequences = b->num_sequences;
    to->num_tokens = p->num_tokens;
    to->num_pages = p->num_pages;
    to->page_block_size = b->page_block_size;
    to->block_table_stride = p->table_stride;
    to->cu_seqlens_q = tensor_of(&p->cu_table, CLMLA_DTYPE_I32, 0, 0, 0);
    to->cache_seqlens = tensor_of(&p->seqlens, CLMLA_DTYPE_I32, 0, 0, 0);
    to->block_table = tensor_of(&p->block_table, CLMLA_DTYPE_I32, 0, 0, 0);
}

static void for_areas(problem *p, void (*apply)(area *))
{
    area *areas[] = {&p->q,   &p->q_pe,      &p->kv,       &p->pe,      &p->out,
                     &p->lse, &p->workspace, &p->cu_table, &p->seqlens, &p->block_table};
    for (size_t i = 0; i < sizeof areas / sizeof areas[0]; i++)
        if (areas[i]->buffer != NULL)
            apply(areas[i]);
}

static void release(area *a) { (void)clReleaseMemObject(a->buffer); }

static problem make_problem(clmla_context *context, const peer_batch *b)
{
    problem p = {.batch = b};
    uint64_t bytes = 0;
    fill_pool(b);
    p.cu = allocate(((size_t)b->num_sequences + 1) * sizeof(int32_t));
    p.cu[0] = 0;
    for (int32_t s = 0; s < b->num_sequences; s++)
        p.cu[s + 1] = p.cu[s] + b->sequences[s].new_tokens;
    p.num_tokens = p.cu[b->num_sequences];
    p.params = (clmla_attention_params){.struct_size = sizeof p.params,
                                        .num_heads = b->num_heads,
                                        .kv_lora_rank = b->kv_lora_rank,
                                        .rope_dim = b->rope_dim,
                                        .mask = b->mask,
                                        .softmax_scale = b->softmax_scale};
    deal_pages(&p);
    make_caches(&p);
    make_queries(&p);
    make_tables(&p);
    assert_int_equal(clmla_attention_workspace_size(context, &p.params, &bytes), CLMLA_SUCCESS);
    if (bytes > 0) {
        p.workspace = make((size_t)bytes);
        p.params.workspace = tensor_of(&p.workspace, CLMLA_DTYPE_F32, 0, 0, 0);
    }
    for_areas(&p, unmap);
    return p;
}

/* ---- results -------------------------------------------------------------------------------- */

static void check_finite(const problem *p)
{
    const uint16_t exponent = p->batch->dtype == CLMLA_DTYPE_BF16 ? 0x7f80 : 0x7c00;
    const uint16_t *out = (const void *)p->out.data;
    const size_t count = p->out.bytes / sizeof *out;
    size_t not_finite = 0;
    for (size_t i = 0; i < count; i++)
        not_finite += (size_t)((out[i] & exponent) == exponent);
    if (not_finite > 0)
        fail_msg("%zu elements of %zu of out are not finite", not_finite, count);
}

/* Row `row` of sequence s (token · H + head) by the reference, and from the device. */
static void compare_row(const problem *p, int32_t s, int32_t row, const double *c_kv,
                        const double *k_pe, double *scores, peer_rows *rows)
{
    const peer_batch *b = p->batch;
    const attention_sequence *of = &b->sequences[s];
    const size_t latent = (size_t)b->kv_lora_rank, rope = (size_t)b->rope_dim;
    const int32_t token = row / b->num_heads, head = row % b->num_heads;
    const int32_t seen = of->keys - of->new_tokens + token + 1;
    const int32_t keys = b->mask == CLMLA_MASK_NONE ? of->keys : seen > 0 ? seen : 0;
    const size_t at = (size_t)p->cu[s] * (size_t)b->num_heads + (size_t)row;
    double q[MAX_DIM];
    float lse;
    to_doubles(b, query_row(of, token, head), latent + rope, q);
    mla_ref_attention_head((size_t)keys, latent, rope, b->softmax_scale, q, q + latent, c_kv, k_pe,
                           scores, rows->expected_out + rows->count * latent,
                           rows->expected_lse + rows->count);
    memcpy(&lse, p->lse.data + at * sizeof lse, sizeof lse);
    rows->lse[rows->count] = (double)lse;
    uint16_t *bits = allocate(latent * 2);
    memcpy(bits, p->out.data + at * latent * 2, latent * 2);
    to_doubles(b, bits, latent, rows->out + rows->count * latent);
    free(bits);
    rows->count++;
}

/* Rows of one sequence that the reference computes. */
static int32_t rows_wanted(const peer_batch *b, int32_t s, uint64_t budget)
{
    const attention_sequence *of = &b->sequences[s];
    const int64_t rows = (int64_t)of->new_tokens * b->num_heads;
    const uint64_t products = (uint64_t)(of->keys + 1) * (uint64_t)(2 * b->kv_lora_rank);
    const uint64_t affordable = budget / (uint64_t)b->num_sequences / products;
    return (int32_t)((uint64_t)rows < affordable ? rows : affordable > 0 ? (int64_t)affordable : 1);
}

static void compare_sequence(const problem *p, int32_t s, int32_t wanted, test_random *random,
                             peer_rows *rows)
{
    const peer_batch *b = p->batch;
    const attention_sequence *of = &b->sequences[s];
    const size_t latent = (size_t)b->kv_lora_rank, rope = (size_t)b->rope_dim;
    const size_t keys = (size_t)of->keys;
    double *c_kv = allocate(keys * latent * sizeof(double));
    double *k_pe = allocate(keys * rope * sizeof(double));
    double *scores = allocate(keys * sizeof(double));
    for (size_t j = 0; j < keys; j++) {
        const uint16_t *from = row_of(KEY, of->id, (int32_t)j, 0);
        to_doubles(b, from, latent, c_kv + j * latent);
        to_doubles(b, from + latent, rope, k_pe + j * rope);
    }
    const int64_t all = (int64_t)of->new_tokens * b->num_heads;
    const int64_t first = wanted < all ? test_random_int(random, 0, (int32_t)all - 1) : 0;
    for (int64_t i = 0; i < wanted; i++)
        compare_row(p, s, (int32_t)((first + i * all / wanted) % all), c_kv, k_pe, scores, rows);
    free(c_kv);
    free(k_pe);
    free(scores);
}

static peer_rows compare(const problem *p, uint64_t budget, test_random *random)
{
    const peer_batch *b = p->batch;
    size_t count = 0;
    for (int32_t s = 0; s < b->num_sequences; s++)
        count += b->sequences[s].new_tokens > 0 ? (size_t)rows_wanted(b, s, budget) : 0;
    peer_rows rows = {.num_latent = (size_t)b->kv_lora_rank};
    rows.out = allocate(count * rows.num_latent * sizeof(double));
    rows.expected_out = allocate(count * rows.num_latent * sizeof(double));
    rows.lse = allocate(count * sizeof(double));
    rows.expected_lse = allocate(count * sizeof(double));
    for (int32_t s = 0; s < b->num_sequences; s++)
        if (b->sequences[s].new_tokens > 0)
            compare_sequence(p, s, rows_wanted(b, s, budget), random, &rows);
    return rows;
}

/* Enqueues, waits, maps out and lse and looks at what needs no reference. */
static void run(clmla_context *context, problem *p)
{
    const cl_command_queue queue = test_device_get()->queue;
    const clmla_status status = clmla_enqueue_attention(context, &p->params, queue, 0, NULL, NULL);
    if (status != CLMLA_SUCCESS)
        fail_msg("clmla_enqueue_attention: %s: %s", clmla_status_name(status), test_last_notify());
    map(&p->out);
    map(&p->lse);
    check_guards("out", &p->out);
    check_guards("softmax_lse", &p->lse);
}

static void release_problem(problem *p)
{
    unmap(&p->out);
    unmap(&p->lse);
    assert_int_equal(clFinish(test_device_get()->queue), CL_SUCCESS);
    for_areas(p, release);
    free(p->cu);
    free(p->table);
}

static void *copy_of(const area *from)
{
    void *copy = allocate(from->bytes);
    memcpy(copy, from->data, from->bytes);
    return copy;
}

peer_rows peer_run(clmla_context *context, const peer_batch *batch, uint64_t budget,
                   test_random *random, peer_bits *bits)
{
    problem p = make_problem(context, batch);
    run(context, &p);
    check_finite(&p);
    peer_rows rows = compare(&p, budget, random);
    if (bits != NULL)
        *bits = (peer_bits){.out_bytes = p.out.bytes,
                            .lse_bytes = p.lse.bytes,
                            .out = copy_of(&p.out),
                            .lse = copy_of(&p.lse)};
    release_problem(&p);
    return rows;
}

static void same_bytes(const char *what, const area *have, const unsigned char *expected,
                       size_t bytes)
{
    assert_int_equal(have->bytes, bytes);
    if (memcmp(have->data, expected, bytes) == 0)
        return;
    size_t at = 0;
    while (have->data[at] == expected[at])
        at++;
    fail_msg("%s: byte %zu of %zu differs from that of another page size", what, at, bytes);
}

void peer_run_same(clmla_context *context, const peer_batch *batch, const peer_bits *bits)
{
    problem p = make_problem(context, batch);
    run(context, &p);
    same_bytes("out", &p.out, bits->out, bits->out_bytes);
    same_bytes("softmax_lse", &p.lse, bits->lse, bits->lse_bytes);
    release_problem(&p);
}

void peer_bits_release(peer_bits *bits)
{
    free(bits->out);
    free(bits->lse);
    *bits = (peer_bits){.out = NULL};
}

void peer_rows_release(peer_rows *rows)
{
    free(rows->out);
    free(rows->expected_out);
    free(rows->lse);
    free(rows->expected_lse);
}
