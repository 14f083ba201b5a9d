/* What the tests of rope_append and norm_append share: cases, their arrays and buffers. */
#ifndef CLMLA_TESTS_APPEND_CASE_H
#define CLMLA_TESTS_APPEND_CASE_H

#include "core/fp8_cache.h"
#include "ops/cache_append.h"
#include "ops/rows.h"

enum { BF16 = CLMLA_DTYPE_BF16, F16 = CLMLA_DTYPE_F16, F32 = CLMLA_DTYPE_F32 };
enum { FP8 = CLMLA_DTYPE_FP8_DS_MLA };
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
static const fused_case fused_cases[] = {
    {"one token of Lite", 512, 64, 16, 128, 0, BF16, BF16, BF16, {1, 0, 0}, {9, 0, 0}, 0, 0},
    {"more heads than a work-group rotates",
     64, 16, 71, 8, 0, BF16, BF16, F32, {2, 1, 3}, {2, 12, 4}, 0, 0},
    {"pairs left over after eights, f32", 33, 22, 3, 5, 0, F32, F32, F32, {3, 2, 1}, {7, 2, 9}, 2, 0},
    {"the second block of a step, f16", 40, 6, 5, 0, 0, F16, F16, F16, {5, 4, 3}, {5, 8, 12}, 1, 7},
    {"pairs that stand apart in the table", 24, 32, 2, 1, 1, F32, BF16, BF16, {2, 2, 2}, {4, 5, 6}, 0, 1},
    {"more pairs than a gpu work-group has items", 16, 300, 3, 0, 0, BF16, F32, BF16, {1, 1, 0}, {1, 4, 0}, 0, 0},
    {"FP8 records", 256, 16, 3, 8, 0, BF16, FP8, BF16, {3, 2, 1}, {7, 2, 9}, 2, 0},
    {"FP8 records without a rope part", 128, 0, 2, 8, 0, F32, FP8, F32, {1, 2, 2}, {4, 2, 9}, 0, 1},
    {"no rope part", 40, 0, 4, 16, 0, BF16, BF16, BF16, {2, 1, 0}, {5, 1, 0}, 1, 0},
    {"skipped rows: a made-empty sequence, positions past the pages",
     20, 8, 2, 3, 0, BF16, F16, BF16, {3, 4, 2}, {0, 14, 2}, 1, 0},
};
/* clang-format on */

static inline bool fused_case_is_too_long(const fused_case *c)
{
    const size_t kv_a = (size_t)(c->kv_lora + c->rope);
    const size_t q = (size_t)c->heads * (c->nope + (size_t)c->rope);
    return test_too_long(kv_a > q ? kv_a : q);
}

typedef struct arrays {
    size_t tokens, block, head, table_row;
    size_t kv_a_count, table_count, q_count, kv_count, pe_count;
    unsigned char *kv_a, *table, *weight, *q;
    int32_t cu[SEQUENCES + 1], pages[SEQUENCES * PAGES_EACH];
} arrays;

static inline unsigned char *filled(size_t count, clmla_dtype dtype, uint64_t seed)
{
    test_random random = {.state = seed};
    unsigned char *made = poisoned(count, dtype);
    for (size_t i = 0; i < count; i++)
        (void)put_random(made, dtype, i, &random);
    return made;
}

static inline arrays make_arrays(const fused_case *c)
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
    const size_t rows = SEQUENCES * PAGES_EACH * PAGE_ROWS;
    const bool fp8 = c->cache == FP8;
    a.kv_count = rows * (fp8 ? mla__fp8_record_bytes(c->kv_lora, c->rope) : kv_lora);
    a.pe_count = fp8 ? 0 : rows * rope;
    a.kv_a = filled(a.kv_a_count, F32, 1);
    a.table = filled(a.table_count, F32, 2);
    a.weight = filled(kv_lora, c->weight, 3);
    a.q = filled(a.q_count, c->q, 4);
    return a;
}

typedef struct buffers {
    test_buffer cu, len, pages, kv_a, table, weight, q, kv, pe;
} buffers;

static inline buffers make_buffers(const fused_case *c, const arrays *a)
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

static inline void release_buffers(buffers *on)
{
    test_buffer *const all[] = {&on->cu,     &on->len, &on->pages, &on->kv_a, &on->table,
                                &on->weight, &on->q,   &on->kv,    &on->pe};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        test_buffer_release(all[i]);
}

static inline void release_arrays(arrays *a)
{
    free(a->kv_a);
    free(a->table);
    free(a->weight);
    free(a->q);
}

static inline clmla_cache_append_params append_params(const fused_case *c, const arrays *a,
                                                      const buffers *on)
{
    clmla_cache_append_params params = {.struct_size = sizeof params,
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
                                        .cos_sin =
                                            view_of(&on->table, 0, a->table_row, 2 + c->pair_gap),
                                        .kv_cache = on->kv.tensor};
    if (c->rope > 0 && c->cache != FP8)
        params.pe_cache = on->pe.tensor;
    return params;
}

static inline void check_same(const char *name, const char *what, const test_buffer *apart,
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

#endif
