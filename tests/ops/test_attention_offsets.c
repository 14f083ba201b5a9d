/*
 * Attention's rows of queries, results and log-sum-exps 2^30 elements apart, its block table's rows
 * as well, pages 2^26 elements apart: past 2^31 and 2^32 elements every path has the bits of
 * compact tensors. The tensors are ranges of addresses (support/sparse.h).
 */
#include "core/dtype.h"
#include "ops/attention_tests.h"
#include "support/sparse.h"

enum { HEADS = 4, PAGE_ROWS = 7, NUM_REGIONS = 6 };
#define STRIDE (((size_t)1 << 30) + 128) /* between tokens, and between sequences of the table */
#define PAGE_STRIDE (((size_t)1 << 26) + 1024)

static const attention_batch batch_of_all = {
    .num_heads = HEADS, STANDARD, SEQUENCES(mixed), .page_block_size = PAGE_ROWS};

/* Moves `rows` dense rows of a compact tensor to rows that lie `stride` elements apart. */
static void spread(const test_buffer *compact, const sparse *to, size_t rows, size_t stride)
{
    const size_t bytes = compact->bytes / rows, element = mla__dtype_bytes(compact->tensor.dtype);
    unsigned char *all = malloc(compact->bytes);
    assert_non_null(all);
    test_buffer_read(compact, all);
    for (size_t r = 0; r < rows; r++)
        memcpy(to->data + r * stride * element, all + r * bytes, bytes);
    free(all);
}

static void same_rows(const char *what, const test_buffer *compact, const sparse *in, size_t rows)
{
    const size_t bytes = compact->bytes / rows, element = mla__dtype_bytes(compact->tensor.dtype);
    unsigned char *all = malloc(compact->bytes);
    assert_non_null(all);
    test_buffer_read(compact, all);
    for (size_t r = 0; r < rows; r++)
        if (memcmp(in->data + r * STRIDE * element, all + r * bytes, bytes) != 0)
            fail_msg("%s: token %zu differs", what, r);
    free(all);
}

static void place(clmla_tensor *tensor, const sparse *in, size_t stride)
{
    tensor->buffer = in->buffer;
    tensor->offset_bytes = 0;
    tensor->strides[0] = stride;
}

/* Pages of the first sequences move to the far end of the cache: page i becomes 127 - i. */
enum { NUM_PAGES = 128 };

static void spread_pages(attention_problem *p, sparse *kv, sparse *pe, sparse *table)
{
    const clmla_sequences *s = &p->params.sequences;
    const size_t entries = (size_t)s->block_table_stride;
    int32_t *from = malloc((size_t)s->num_sequences * entries * sizeof(int32_t));
    assert_non_null(from);
    test_buffer_read(&p->block_table, from);
    for (size_t b = 0; b < (size_t)s->num_sequences; b++)
        for (size_t i = 0; i < entries; i++) {
            const int32_t page = from[b * entries + i];
            const int32_t moved = page < NUM_PAGES ? NUM_PAGES - 1 - page : page;
            memcpy(table->data + (b * STRIDE + i) * sizeof(int32_t), &moved, sizeof moved);
        }
    free(from);
    struct {
        const test_buffer *compact;
        sparse *to;
        clmla_tensor *tensor;
    } caches[] = {{&p->kv_cache, kv, &p->params.kv_cache}, {&p->pe_cache, pe, &p->params.pe_cache}};
    for (size_t c = 0; c < 2; c++) {
        const size_t bytes = caches[c].compact->bytes / (size_t)p->num_pages;
        const size_t element = mla__dtype_bytes(caches[c].compact->tensor.dtype);
        unsigned char *all = malloc(caches[c].compact->bytes);
        assert_non_null(all);
        test_buffer_read(caches[c].compact, all);
        for (size_t page = 0; page < (size_t)p->num_pages; page++)
            memcpy(caches[c].to->data + (NUM_PAGES - 1 - page) * PAGE_STRIDE * element,
                   all + page * bytes, bytes);
        free(all);
        place(caches[c].tensor, caches[c].to, PAGE_STRIDE);
    }
    place(&p->params.sequences.block_table, table, 0);
    p->params.sequences.num_pages = NUM_PAGES;
    p->params.sequences.block_table_stride = (int32_t)STRIDE;
}

static void run(clmla_context *context, const attention_problem *p)
{
    const cl_command_queue queue = test_device_get()->queue;
    const clmla_status status = attention_problem_enqueue(context, p, queue, 0, NULL, NULL);
    if (status != CLMLA_SUCCESS)
        fail_msg("%s: %s", clmla_status_name(status), test_last_notify());
    assert_int_equal(clFinish(queue), CL_SUCCESS);
}

static void check(clmla_context *context, const attention_batch *batch, sparse *regions)
{
    attention_problem p = attention_problem_make(context, batch);
    const size_t tokens = (size_t)p.num_tokens;
    run(context, &p);
    const clmla_attention_params compact = p.params;
    spread(&p.q_lat, &regions[0], tokens, STRIDE);
    spread(&p.q_pe, &regions[1], tokens, STRIDE);
    place(&p.params.q_lat, &regions[0], STRIDE);
    place(&p.params.q_pe, &regions[1], STRIDE);
    place(&p.params.out, &regions[2], STRIDE);
    place(&p.params.softmax_lse, &regions[3], STRIDE);
    run(context, &p);
    same_rows("out", &p.out, &regions[2], tokens);
    same_rows("softmax_lse", &p.lse, &regions[3], tokens);

    p.params = compact;
    place(&p.params.out, &regions[2], STRIDE);
    place(&p.params.softmax_lse, &regions[3], STRIDE);
    for (size_t t = 0; t < tokens; t++) /* from the first run */
        memset(regions[2].data + t * STRIDE * mla__dtype_bytes(p.out.tensor.dtype), 0xff,
               p.out.bytes / tokens);
    spread_pages(&p, &regions[4], &regions[5], &regions[0]);
    run(context, &p);
    same_rows("out, pages far apart", &p.out, &regions[2], tokens);
    same_rows("softmax_lse, pages far apart", &p.lse, &regions[3], tokens);
    p.params = compact;
    attention_problem_release(&p);
}

static void offsets_past_32_bits_change_no_bit(void **state)
{
    clmla_context *context = open_path(state);
    sparse regions[NUM_REGIONS] = {{.buffer = NULL}};
    const char *why_not = NULL;
    for (size_t i = 0; i < NUM_REGIONS && why_not == NULL; i++)
        why_not = sparse_create((MIXED_TOKENS + 1) * STRIDE * sizeof(float), &regions[i]);
    for (int32_t splits = 1; splits <= 3 && why_not == NULL; splits += 2) {
        attention_batch batch = on_path(state, &batch_of_all);
        batch.num_splits = splits;
        check(context, &batch, regions);
    }
    for (size_t i = 0; i < NUM_REGIONS; i++)
        sparse_release(&regions[i]);
    clmla_context_release(context);
    if (why_not != NULL) {
        print_message("skipped: no offsets past 2^31, %s\n", why_not);
        skip();
    }
}

int main(void)
{
    PATHS;
    const struct CMUnitTest tests[] = {ALL_PATHS(offsets_past_32_bits_change_no_bit)};
    const int failed = cmocka_run_group_tests_name("attention_offsets", tests, NULL, NULL);
    test_device_close();
    return failed;
}
