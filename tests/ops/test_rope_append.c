/* rope_append leaves the bits of cache_append and rope, and nothing else. The equations themselves
 * are tested in test_cache_append.c and test_rope.c. */
#include "ops/rope.h"
#include "ops/rope_append.h"
#include "ops/rows.h"

enum { BF16 = CLMLA_DTYPE_BF16, F16 = CLMLA_DTYPE_F16, F32 = CLMLA_DTYPE_F32 };
enum { I32 = CLMLA_DTYPE_I32, SEQUENCES = 3, PAGE_ROWS = 4, PAGES_EACH = 3 };

typedef struct fused_case {
    const char *name;
    int32_t kv_lora, rope, heads;
    size_t nope;     /* elements of a head in front of its rope part */
    size_t pair_gap; /* floats between pairs of cos_sin */
    clmla_dtype q, cache, weight;
    int32_t new_tokens[SEQUENCES], cache_seqlens[SEQUENCES];
    int32_t spare_tokens; /* rows past the last sequence */
    int32_t token_begin;
} fused_case;

/* clang-format off */
static const fused_case cases[] = {
    {"one token of Lite", 512, 64, 16, 128, 0, BF16, BF16, BF16, {1, 0, 0}, {9, 0, 0}, 0, 0},
    {"more heads than a work-group rotates",
     64, 16, 71, 8, 0, BF16, BF16, F32, {2, 1, 3}, {2, 12, 4}, 0, 0},
    {"pairs left over after eights, f32", 33, 22, 3, 5, 0, F32, F32, F32, {3, 2, 1}, {7, 2, 9}, 2, 0},
    {"the second block of a step, f16", 40, 6, 5, 0, 0, F16, F16, F16, {5, 4, 3}, {5, 8, 12}, 1, 7},
    {"pairs that stand apart in the table", 24, 32, 2, 1, 1, F32, BF16, BF16, {2, 2, 2}, {4, 5, 6}, 0, 1},
    {"more pairs than a gpu work-group has items", 16, 300, 3, 0, 0, BF16, F32, BF16, {1, 1, 0}, {1, 4, 0}, 0, 0},
    {"no rope part", 40, 0, 4, 16, 0, BF16, BF16, BF16, {2, 1, 0}, {5, 1, 0}, 1, 0},
    {"skipped rows: a made-empty sequence, positions past the pages",
     20, 8, 2, 3, 0, BF16, F16, BF16, {3, 4, 2}, {0, 14, 2}, 1, 0},
};
/* clang-format on */

typedef struct arrays {
    size_t tokens, block, head, table_row;
    size_t kv_a_count, table_count, q_count, kv_count, pe_count;
    unsigned char *kv_a, *table, *weight, *q;
    int32_t cu[SEQUENCES + 1], pages[SEQUENCES * PAGES_EACH];
} arrays;

static unsigned char *filled(size_t count, clmla_dtype dtype, uint64_t seed)
{
    test_random random = {.state = seed};
    unsigned char *made = poisoned(count, dtype);
    for (size_t i = 0; i < count; i++)
        (void)put_random(made, dtype, i, &random);
    return made;
}

static arrays make_arrays(const fused_case *c)
{
    const size_t rope = (size_t)c->rope, kv_lora = (size_t)c->kv_lora;
    arrays a = {.cu = {0}};
    for (int32_t b = 0; b < SEQUENCES; b++) {
        a.cu[b + 1] = a.cu[b] + c->new_tokens[b];
        for (int32_t i = 0; i < PAGES_EACH; i++)
            a.pages[b * PAGES_EACH + i] = SEQUENCES * PAGES_EACH - 1 - (i * SEQUENCES + b);
    }
    a.tokens = (size_t)(a.cu[SEQUENCES] + c->spare_tokens);
    a.block = a.tokens - (size_t)c->token_begin;
    a.head = c->nope + rope;
    a.table_row = rope / 2 * (2 + c->pair_gap);
    a.kv_a_count = a.block * (kv_lora + rope);
    a.table_count = a.tokens * a.table_row;
    a.q_count = a.block * (size_t)c->heads * a.head;
    a.kv_count = SEQUENCES * PAGES_EACH * PAGE_ROWS * kv_lora;
    a.pe_count = SEQUENCES * PAGES_EACH * PAGE_ROWS * rope;
    a.kv_a = filled(a.kv_a_count, F32, 1);
    a.table = filled(a.table_count, F32, 2);
    a.weight = filled(kv_lora, c->weight, 3);
    a.q = filled(a.q_count, c->q, 4);
    return a;
}

typedef struct buffers {
    test_buffer cu, len, pages, kv_a, table, weight, q, kv, pe;
} buffers;

static buffers make_buffers(const fused_case *c, const arrays *a)
{
    const size_t cache_bytes = mla__dtype_bytes(c->cache), q_bytes = mla__dtype_bytes(c->q);
    return (buffers){.cu = test_buffer_of(a->cu, sizeof a->cu, I32),
                     .len = test_buffer_of(c->cache_seqlens, sizeof c->cache_seqlens, I32),
                     .pages = test_buffer_of(a->pages, sizeof a->pages, I32),
                     .kv_a = test_buffer_of(a->kv_a, a->kv_a_count * 4, F32),
                     .table = test_buffer_of(a->table, a->table_count * 4, F32),
                     .weight = test_buffer_of(
                         a->weight, (size_t)c->kv_lora * mla__dtype_bytes(c->weight), c->weight),
                     .q = test_buffer_of(a->q, a->q_count * q_bytes, c->q),
                     .kv = test_buffer_poisoned(a->kv_count * cache_bytes, c->cache),
                     .pe = test_buffer_poisoned(a->pe_count * cache_bytes, c->cache)};
}

static void release_buffers(buffers *on)
{
    test_buffer *const all[] = {&on->cu,     &on->len, &on->pages, &on->kv_a, &on->table,
                                &on->weight, &on->q,   &on->kv,    &on->pe};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        test_buffer_release(all[i]);
}

static mla__rope_append_params make_params(const fused_case *c, const arrays *a, const buffers *on)
{
    const size_t heads = (size_t)c->heads;
    mla__rope_append_params params = {
        .append = {.struct_size = sizeof params.append,
                   .kv_lora_rank = c->kv_lora,
                   .rope_dim = c->rope,
                   .sequences = {.num_sequences = SEQUENCES,
                                 .num_tokens = (int32_t)a->block,
                                 .num_pages = SEQUENCES * PAGES_EACH,
                                 .page_block_size = PAGE_ROWS,
                                 .block_table_stride = PAGES_EACH,
                                 .cu_seqlens_q = on->cu.tensor,
                                 .cache_seqlens = on->len.tensor,
                                 .block_table = on->pages.tensor},
                   .kv_a = on->kv_a.tensor,
                   .kv_a_layernorm = on->weight.tensor,
                   .cos_sin = view_of(&on->table, 0, a->table_row, 2 + c->pair_gap),
                   .kv_cache = on->kv.tensor},
        .num_heads = c->heads,
        .q_pe = view_of(&on->q, c->rope > 0 ? c->nope : 0, heads * a->head, a->head)};
    if (c->rope > 0)
        params.append.pe_cache = on->pe.tensor;
    return params;
}

static void run_apart(const fused_case *c, const mla__rope_append_params *p, clmla_context *context)
{
    const int32_t n = p->append.sequences.num_tokens;
    const clmla_rope_params rope_params = {.struct_size = sizeof rope_params,
                                           .num_tokens = n,
                                           .num_heads = p->num_heads,
                                           .rope_dim = c->rope,
                                           .x = p->q_pe,
                                           .cos_sin = p->append.cos_sin};
    mla__cache_append append;
    mla__rope rope;
    mla__stream stream;
    assert_int_equal(mla__cache_append_bind(context, &p->append, &append), 0);
    assert_int_equal(mla__rope_bind(context, &rope_params, &rope), 0);
    assert_int_equal(mla__stream_begin(&stream, test_device_get()->queue, 0, NULL), 0);
    assert_int_equal(mla__cache_append_enqueue(&append, &stream, c->token_begin, n), 0);
    assert_int_equal(mla__rope_enqueue(&rope, &stream, c->token_begin, n), 0);
    mla__cache_append_release(&append);
    mla__rope_release(&rope);
}

static void run_fused(const fused_case *c, const arrays *a, const buffers *on,
                      const mla__rope_append_params *p, clmla_context *context)
{
    mla__rope_append op;
    mla__stream stream;
    assert_int_equal(mla__rope_append_bind(context, p, &op), 0);
    assert_int_equal(mla__stream_begin(&stream, test_device_get()->queue, 0, NULL), 0);
    assert_int_equal(mla__rope_append_warm(&op, &stream), 0);
    test_buffer_unchanged("q after warm", &on->q, a->q);
    assert_int_equal(
        mla__rope_append_enqueue(&op, &stream, c->token_begin, p->append.sequences.num_tokens), 0);
    assert_int_equal(stream.kernel_launches, 2); /* warm, enqueue */
    mla__rope_append_release(&op);
}

static void check_same(const char *name, const char *what, const test_buffer *apart,
                       const test_buffer *fused)
{
    unsigned char *expected = poisoned(apart->bytes, BF16), *got = poisoned(fused->bytes, BF16);
    assert_int_equal(apart->bytes, fused->bytes);
    test_buffer_read(apart, expected);
    test_buffer_read(fused, got);
    for (size_t i = 0; i < fused->bytes; i++) {
        if (got[i] != expected[i])
            fail_msg("%s: byte %zu of %s differs", name, i, what);
    }
    free(expected);
    free(got);
}

static void run_case(const fused_case *c, clmla_context *context)
{
    arrays a = make_arrays(c);
    buffers apart = make_buffers(c, &a), fused = make_buffers(c, &a);
    const mla__rope_append_params params_apart = make_params(c, &a, &apart);
    const mla__rope_append_params params_fused = make_params(c, &a, &fused);
    run_apart(c, &params_apart, context);
    run_fused(c, &a, &fused, &params_fused, context);
    check_same(c->name, "kv_cache", &apart.kv, &fused.kv);
    check_same(c->name, "pe_cache", &apart.pe, &fused.pe);
    check_same(c->name, "q", &apart.q, &fused.q);
    test_buffer_unchanged("kv_a", &fused.kv_a, a.kv_a);
    test_buffer_unchanged("cos_sin", &fused.table, a.table);
    release_buffers(&apart);
    release_buffers(&fused);
    free(a.kv_a);
    free(a.table);
    free(a.weight);
    free(a.q);
}

static void leaves_the_bits_of_the_separate_ops(void **state)
{
    (void)state;
    for (size_t k = 0; k < 2; k++) {
        clmla_context *context = test_context(both_classes[k], CLMLA_PROJECTION_AUTO);
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
            run_case(&cases[i], context);
        clmla_context_release(context);
    }
}

static void refuses_what_either_op_refuses(void **state)
{
    (void)state;
    clmla_context *context = test_context(CLMLA_KERNELS_CPU, CLMLA_PROJECTION_AUTO);
    const fused_case *c = &cases[0];
    arrays a = make_arrays(c);
    buffers on = make_buffers(c, &a);
    const mla__rope_append_params good = make_params(c, &a, &on);
    mla__rope_append_params bad[3] = {good, good, good};
    mla__rope_append op = {.append = {.num_tokens = -7}};
    bad[0].num_heads = 0;
    bad[1].q_pe.strides[1] = 63;
    bad[2].append.eps = -1.0;
    const clmla_status expected[3] = {CLMLA_INVALID_TENSOR_SHAPE, CLMLA_INVALID_STRIDE,
                                      CLMLA_INVALID_ARGUMENT};
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(mla__rope_append_bind(context, &bad[i], &op), expected[i]);
    assert_int_equal(op.append.num_tokens, -7);
    release_buffers(&on);
    free(a.kv_a);
    free(a.table);
    free(a.weight);
    free(a.q);
    clmla_context_release(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(leaves_the_bits_of_the_separate_ops),
        cmocka_unit_test(refuses_what_either_op_refuses),
    };
    const int failures = cmocka_run_group_tests(tests, NULL, NULL);
    test_device_close();
    return failures;
}
