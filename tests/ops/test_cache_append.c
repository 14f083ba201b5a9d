/* Norm, rotation and append against the reference; every other byte of the caches must stay. */
#include "ops/cache_append.h"
#include "ops/rows.h"
#include "ref/mla_ref.h"

enum { BF16 = CLMLA_DTYPE_BF16, F16 = CLMLA_DTYPE_F16, F32 = CLMLA_DTYPE_F32 };
enum { I32 = CLMLA_DTYPE_I32, MAX_SEQUENCES = 6, MAX_ROPE = 64 };

typedef struct append_case {
    const char *name;
    int32_t kv_lora, rope;
    int32_t page_block_size, table_width; /* width 0: contiguous */
    bool fused;
    clmla_dtype kv, pe, weight; /* fused: kv and pe are the same */
    size_t gap; /* elements between rows of kv_a, cos_sin and the caches, and between pages */
    int32_t num_sequences;
    int32_t new_tokens[MAX_SEQUENCES], cache_seqlens[MAX_SEQUENCES];
    int32_t spare_tokens; /* rows past the last sequence */
    int32_t token_begin;  /* first token of the block that is appended; the rest of the step */
    int32_t bad_sequence; /* 1 + sequence whose last page is outside the cache; 0: none */
    double eps;
} append_case;

/* clang-format off */
static const append_case cases[] = {
    {"one token into an empty contiguous cache",
     32, 8, 4, 0, false, BF16, BF16, BF16, 0, 1, {1}, {1}, 0, 0, 0, 0},
    {"R1's ranks, fused and paged, ragged",
     512, 64, 64, 4, true, BF16, BF16, BF16, 0, 4, {3, 0, 1, 5}, {3, 90, 200, 66}, 0, 0, 0, 0},
    {"odd ranks, split, odd pages, f32 weight",
     45, 6, 3, 5, false, F16, BF16, F32, 3, 3, {7, 2, 1}, {15, 2, 9}, 2, 0, 0, 1e-3},
    {"pages of one row",
     17, 2, 1, 12, false, F32, F32, F32, 0, 2, {4, 5}, {12, 5}, 1, 0, 0, 0},
    {"a prompt across pages, fused with a gap",
     130, 14, 4, 6, true, F32, F32, BF16, 5, 2, {21, 1}, {21, 24}, 0, 0, 0, 0},
    {"the second block of a step",
     33, 4, 8, 3, false, F16, F16, F16, 1, 3, {5, 6, 2}, {9, 6, 20}, 3, 7, 0, 0},
    {"no rope part",
     40, 0, 8, 2, false, BF16, BF16, BF16, 0, 2, {2, 1}, {10, 1}, 1, 0, 0, 0},
    {"a page outside the cache is skipped",
     16, 4, 2, 4, false, F32, F32, F32, 0, 3, {3, 4, 1}, {3, 8, 2}, 0, 0, 2, 0},
    {"positions past the block table are skipped",
     16, 4, 2, 2, false, F32, F32, F32, 0, 3, {3, 4, 1}, {6, 4, 40}, 0, 0, 0, 0},
    {"positions past a contiguous page are skipped",
     16, 4, 5, 0, true, F32, F32, F32, 0, 3, {3, 4, 1}, {7, 4, 40}, 0, 0, 0, 0},
    {"a sequence that the plan made empty appends nothing",
     20, 4, 4, 2, false, F32, F16, F32, 0, 3, {3, 4, 1}, {3, 0, 5}, 2, 0, 0, 0},
    {"no sequences",
     16, 4, 4, 2, false, BF16, BF16, BF16, 0, 0, {0}, {0}, 3, 0, 0, 0},
};
/* clang-format on */

/* ---- layout ---------------------------------------------------------------------------------- */

typedef struct layout {
    int32_t num_pages, num_tokens;
    int32_t cu[MAX_SEQUENCES + 1];
    int32_t *table; /* [num_sequences, table_width] */
    size_t kv_a_stride, cos_sin_stride;
    size_t kv_row, kv_page, kv_count; /* elements; fused: pe_cache lies in kv_cache's buffer */
    size_t pe_row, pe_page, pe_count;
} layout;

/* Sequences get pages in a scattered order; entries past those they use stay absurd. A sequence
 * that was made empty keeps the pages of its new tokens. */
static void make_table(const append_case *c, layout *l)
{
    const int32_t width = c->table_width;
    l->num_pages = c->num_sequences * (width > 0 ? width : 1) + 1;
    l->table = malloc((size_t)(c->num_sequences * width + 1) * sizeof *l->table);
    assert_non_null(l->table);
    for (int32_t b = 0; b < c->num_sequences; b++) {
        const int32_t keys =
            c->cache_seqlens[b] > c->new_tokens[b] ? c->cache_seqlens[b] : c->new_tokens[b];
        const int32_t used = (keys + c->page_block_size - 1) / c->page_block_size;
        for (int32_t i = 0; i < width; i++) {
            int32_t page = i < used ? l->num_pages - 1 - (i * c->num_sequences + b) : 0x7fffffff;
            if (c->bad_sequence == b + 1 && i == used - 1)
                page = l->num_pages;
            l->table[b * width + i] = page;
        }
    }
}

static layout make_layout(const append_case *c)
{
    layout l = {.cu = {0}};
    make_table(c, &l);
    for (int32_t b = 0; b < c->num_sequences; b++)
        l.cu[b + 1] = l.cu[b] + c->new_tokens[b];
    l.num_tokens = l.cu[c->num_sequences] + c->spare_tokens;
    const size_t kv = (size_t)c->kv_lora, rope = (size_t)c->rope;
    const size_t rows = (size_t)c->page_block_size, pages = (size_t)l.num_pages;
    l.kv_a_stride = kv + rope + c->gap;
    l.cos_sin_stride = rope + c->gap;
    l.kv_row = kv + (c->fused ? rope : 0) + c->gap;
    l.kv_page = rows * l.kv_row + c->gap;
    l.kv_count = pages * l.kv_page;
    l.pe_row = c->fused ? l.kv_row : rope + c->gap;
    l.pe_page = c->fused ? l.kv_page : rows * l.pe_row + c->gap;
    l.pe_count = c->fused ? 0 : pages * l.pe_page;
    return l;
}

/* Page and row of token t, false when it is to be skipped. */
static bool find_row(const append_case *c, const layout *l, int32_t t, int32_t *page, int32_t *row)
{
    for (int32_t b = 0; b < c->num_sequences; b++) {
        if (t < l->cu[b] || t >= l->cu[b + 1])
            continue;
        const int32_t position = c->cache_seqlens[b] - c->new_tokens[b] + t - l->cu[b];
        const int32_t entry = position / c->page_block_size;
        if (position < 0 || entry >= (c->table_width > 0 ? c->table_width : 1))
            return false;
        *page = c->table_width > 0 ? l->table[b * c->table_width + entry] : b;
        *row = position % c->page_block_size;
        return *page >= 0 && *page < l->num_pages;
    }
    return false;
}

/* ---- what must stand in the caches ----------------------------------------------------------- */

/* One cache buffer: NaN in expected means "not written"; error is the absolute error allowed. */
typedef struct image {
    clmla_dtype dtype;
    size_t count;
    double *expected, *error;
} image;

static image make_image(clmla_dtype dtype, size_t count)
{
    image made = {
        .dtype = dtype, .count = count, .expected = doubles(count), .error = doubles(count)};
    for (size_t i = 0; i < count; i++)
        made.expected[i] = (double)NAN;
    return made;
}

static void check_image(const char *name, const image *expected, const test_buffer *buffer)
{
    unsigned char *got = poisoned(expected->count, expected->dtype);
    test_buffer_read(buffer, got);
    for (size_t at = 0; at < expected->count; at++) {
        if (isnan(expected->expected[at]))
            check_poison(name, got, expected->dtype, at);
        else
            check_element(name, 0, at, expected->dtype, mla__load(got, expected->dtype, at),
                          expected->expected[at], expected->error[at]);
    }
    free(got);
}

typedef struct inputs {
    float *kv_a, *cos_sin; /* kv_a [block, ...], cos_sin [T, ...], gaps poisoned */
    unsigned char *weight;
    size_t kv_a_count, cos_sin_count;
} inputs;

static inputs make_inputs(const append_case *c, const layout *l)
{
    test_random random = {.state = 23};
    const size_t tokens = (size_t)l->num_tokens, block = tokens - (size_t)c->token_begin;
    inputs in = {.kv_a_count = block * l->kv_a_stride, .cos_sin_count = tokens * l->cos_sin_stride};
    in.kv_a = (float *)(void *)poisoned(in.kv_a_count, F32);
    in.cos_sin = (float *)(void *)poisoned(in.cos_sin_count, F32);
    in.weight = poisoned((size_t)c->kv_lora, c->weight);
    for (size_t i = 0; i < (size_t)c->kv_lora; i++)
        (void)put_random(in.weight, c->weight, i, &random);
    for (size_t t = 0; t < block; t++) {
        for (size_t i = 0; i < (size_t)(c->kv_lora + c->rope); i++)
            (void)put_random(in.kv_a, F32, t * l->kv_a_stride + i, &random);
    }
    for (size_t i = 0; i < tokens * (size_t)(c->rope / 2); i++) {
        const size_t pair = i % (size_t)(c->rope / 2), t = i / (size_t)(c->rope / 2);
        const double angle = test_random_uniform(&random, 0.0, 6.28);
        in.cos_sin[t * l->cos_sin_stride + 2 * pair] = (float)cos(angle);
        in.cos_sin[t * l->cos_sin_stride + 2 * pair + 1] = (float)sin(angle);
    }
    return in;
}

/* The row that token t leaves at kv + kv_at and pe + pe_at. */
static void expect_row(const append_case *c, const layout *l, const inputs *in, int32_t t,
                       image *kv, size_t kv_at, image *pe, size_t pe_at)
{
    const size_t dim = (size_t)c->kv_lora, rope = (size_t)c->rope;
    const float *row = in->kv_a + (size_t)(t - c->token_begin) * l->kv_a_stride;
    const float *turn = in->cos_sin + (size_t)t * l->cos_sin_stride;
    double *x = doubles(dim), *weight = doubles(dim);
    for (size_t i = 0; i < dim; i++) {
        x[i] = (double)row[i];
        weight[i] = mla__load(in->weight, c->weight, i);
    }
    mla_ref_rmsnorm(1, dim, c->eps == 0.0 ? 1e-6 : c->eps, x, weight, kv->expected + kv_at);
    /* As in test_rmsnorm.c: half the additions of the longer path, and ten roundings. */
    for (size_t i = 0; i < dim; i++)
        kv->error[kv_at + i] =
            ((double)(dim / 16 + 20) / 2.0 + 10.0) * 0x1p-24 * fabs(kv->expected[kv_at + i]);
    for (size_t j = 0; j < rope; j += 2) {
        const double a = (double)row[dim + j], b = (double)row[dim + j + 1];
        const double cosine = (double)turn[j], sine = (double)turn[j + 1];
        pe->expected[pe_at + j] = a * cosine - b * sine;
        pe->expected[pe_at + j + 1] = a * sine + b * cosine;
        /* two products and a sum: at most three roundings */
        pe->error[pe_at + j] = pe->error[pe_at + j + 1] = 3 * 0x1p-24 * (fabs(a) + fabs(b));
    }
    free(x);
    free(weight);
}

/* ---- running --------------------------------------------------------------------------------- */

typedef struct buffers {
    test_buffer cu, len, table, kv_a, weight, cos_sin, kv, pe;
} buffers;

static buffers make_buffers(const append_case *c, const layout *l, const inputs *in)
{
    const size_t sequences = (size_t)c->num_sequences;
    return (buffers){.cu = test_buffer_of(l->cu, (sequences + 1) * 4, I32),
                     .len = test_buffer_of(c->cache_seqlens, sequences * 4, I32),
                     .table = test_buffer_of(l->table, sequences * (size_t)c->table_width * 4, I32),
                     .kv_a = test_buffer_of(in->kv_a, in->kv_a_count * 4, F32),
                     .weight = test_buffer_of(
                         in->weight, (size_t)c->kv_lora * mla__dtype_bytes(c->weight), c->weight),
                     .cos_sin = test_buffer_of(in->cos_sin, in->cos_sin_count * 4, F32),
                     .kv = test_buffer_poisoned(l->kv_count * mla__dtype_bytes(c->kv), c->kv),
                     .pe = test_buffer_poisoned(l->pe_count * mla__dtype_bytes(c->pe), c->pe)};
}

static void release_buffers(buffers *on)
{
    test_buffer *const all[] = {&on->cu,     &on->len,     &on->table, &on->kv_a,
                                &on->weight, &on->cos_sin, &on->kv,    &on->pe};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        test_buffer_release(all[i]);
}

static clmla_cache_append_params make_params(const append_case *c, const layout *l,
                                             const buffers *on)
{
    clmla_cache_append_params params = {.struct_size = sizeof params,
                                        .kv_lora_rank = c->kv_lora,
                                        .rope_dim = c->rope,
                                        .eps = c->eps,
                                        .sequences = {.num_sequences = c->num_sequences,
                                                      .num_tokens = l->num_tokens - c->token_begin,
                                                      .num_pages = l->num_pages,
                                                      .page_block_size = c->page_block_size,
                                                      .block_table_stride = c->table_width,
                                                      .cu_seqlens_q = on->cu.tensor,
                                                      .cache_seqlens = on->len.tensor},
                                        .kv_a = view_of(&on->kv_a, 0, l->kv_a_stride, 0),
                                        .kv_a_layernorm = on->weight.tensor,
                                        .cos_sin = view_of(&on->cos_sin, 0, l->cos_sin_stride, 0),
                                        .kv_cache = view_of(&on->kv, 0, l->kv_page, l->kv_row)};
    if (c->table_width > 0)
        params.sequences.block_table = on->table.tensor;
    if (c->rope > 0)
        params.pe_cache = view_of(c->fused ? &on->kv : &on->pe, c->fused ? (size_t)c->kv_lora : 0,
                                  l->pe_page, l->pe_row);
    return params;
}

static void append(clmla_context *context, const append_case *c,
                   const clmla_cache_append_params *params)
{
    mla__cache_append op;
    mla__stream stream;
    assert_int_equal(mla__cache_append_bind(context, params, &op), 0);
    assert_int_equal(mla__stream_begin(&stream, test_device_get()->queue, 0, NULL), 0);
    assert_int_equal(mla__cache_append_warm(&op, &stream), 0);
    assert_int_equal(
        mla__cache_append_enqueue(&op, &stream, c->token_begin, params->sequences.num_tokens), 0);
    mla__cache_append_release(&op);
}

static void run_case(const append_case *c, clmla_context *context)
{
    layout l = make_layout(c);
    inputs in = make_inputs(c, &l);
    image kv = make_image(c->kv, l.kv_count), pe = make_image(c->pe, l.pe_count);
    for (int32_t t = c->token_begin; t < l.num_tokens; t++) {
        int32_t page, row;
        if (!find_row(c, &l, t, &page, &row))
            continue;
        const size_t kv_at = (size_t)page * l.kv_page + (size_t)row * l.kv_row;
        const size_t pe_at = (size_t)page * l.pe_page + (size_t)row * l.pe_row;
        expect_row(c, &l, &in, t, &kv, kv_at, c->fused ? &kv : &pe,
                   c->fused ? kv_at + (size_t)c->kv_lora : pe_at);
    }

    buffers on = make_buffers(c, &l, &in);
    const clmla_cache_append_params params = make_params(c, &l, &on);
    append(context, c, &params);
    check_image(c->name, &kv, &on.kv);
    check_image(c->name, &pe, &on.pe);
    test_buffer_unchanged("kv_a", &on.kv_a, in.kv_a);
    test_buffer_unchanged("cos_sin", &on.cos_sin, in.cos_sin);
    test_buffer_unchanged("block_table", &on.table, l.table);

    release_buffers(&on);
    free(l.table);
    free(in.kv_a);
    free(in.cos_sin);
    free(in.weight);
    free(kv.expected);
    free(kv.error);
    free(pe.expected);
    free(pe.error);
}

static void new_tokens_are_appended_and_nothing_else(void **state)
{
    (void)state;
    for (size_t k = 0; k < 2; k++) {
        clmla_context *context = test_context(both_classes[k], CLMLA_PROJECTION_AUTO);
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
            if (!test_too_long((size_t)cases[i].kv_lora))
                run_case(&cases[i], context);
        clmla_context_release(context);
    }
}

/* A NaN in one token's row makes that cache row NaN; the others keep their bits. */
static void a_nan_stays_in_its_row(void **state)
{
    (void)state;
    const append_case *c = &cases[1];
    for (size_t k = 0; k < 2; k++) {
        clmla_context *context = test_context(both_classes[k], CLMLA_PROJECTION_AUTO);
        layout l = make_layout(c);
        inputs in = make_inputs(c, &l);
        uint16_t *clean = (uint16_t *)(void *)poisoned(l.kv_count, BF16);
        uint16_t *dirty = (uint16_t *)(void *)poisoned(l.kv_count, BF16);
        int32_t page = 0, row = 0;
        assert_true(find_row(c, &l, 3, &page, &row));
        const size_t from = (size_t)page * l.kv_page + (size_t)row * l.kv_row;
        for (int pass = 0; pass < 2; pass++) {
            buffers on = make_buffers(c, &l, &in);
            const clmla_cache_append_params params = make_params(c, &l, &on);
            assert_int_equal(clmla_enqueue_cache_append(context, &params, test_device_get()->queue,
                                                        0, NULL, NULL),
                             0);
            test_buffer_read(&on.kv, pass == 0 ? clean : dirty);
            release_buffers(&on);
            in.kv_a[3 * l.kv_a_stride + 7] = NAN;
        }
        for (size_t at = 0; at < l.kv_count; at++) {
            if (at >= from && at < from + (size_t)c->kv_lora)
                assert_true(isnan(mla__bf16_to_float(dirty[at])));
            else
                assert_int_equal(dirty[at], clean[at]);
        }
        clmla_context_release(context);
        free(clean);
        free(dirty);
        free(l.table);
        free(in.kv_a);
        free(in.cos_sin);
        free(in.weight);
    }
}

/* As a binding uses it: bound without sequences, then given those of a plan. */
static void another_plan_can_be_set(void **state)
{
    (void)state;
    const append_case *c = &cases[2];
    for (size_t k = 0; k < 2; k++) {
        clmla_context *context = test_context(both_classes[k], CLMLA_PROJECTION_AUTO);
        layout l = make_layout(c);
        inputs in = make_inputs(c, &l);
        buffers on = make_buffers(c, &l, &in), direct = make_buffers(c, &l, &in);
        const clmla_cache_append_params whole = make_params(c, &l, &direct);
        append(context, c, &whole);

        const clmla_cache_append_params target = make_params(c, &l, &on);
        clmla_cache_append_params early = target;
        early.sequences.num_sequences = 0;
        early.cos_sin = target.kv_a; /* a stand-in of the same shape */
        mla__sequences sequences;
        mla__cache_append op;
        mla__stream stream;
        assert_int_equal(mla__sequences_make(context, "test", &target.sequences, 1, &sequences), 0);
        const mla__view cos_sin = {.buffer = target.cos_sin.buffer,
                                   .offset = target.cos_sin.offset_bytes / 4,
                                   .strides = {l.cos_sin_stride, 2},
                                   .dtype = F32};
        assert_int_equal(mla__cache_append_bind(context, &early, &op), 0);
        assert_int_equal(mla__cache_append_set_sequences(&op, &sequences, &cos_sin), 0);
        assert_int_equal(mla__stream_begin(&stream, test_device_get()->queue, 0, NULL), 0);
        assert_int_equal(mla__cache_append_enqueue(&op, &stream, 0, l.num_tokens), 0);
        unsigned char *expected = poisoned(l.kv_count, c->kv);
        test_buffer_read(&direct.kv, expected);
        test_buffer_unchanged("kv_cache", &on.kv, expected);
        unsigned char *expected_pe = poisoned(l.pe_count, c->pe);
        test_buffer_read(&direct.pe, expected_pe);
        test_buffer_unchanged("pe_cache", &on.pe, expected_pe);
        mla__cache_append_release(&op);
        release_buffers(&on);
        release_buffers(&direct);
        clmla_context_release(context);
        free(expected);
        free(expected_pe);
        free(l.table);
        free(in.kv_a);
        free(in.cos_sin);
        free(in.weight);
    }
}

static void bad_arguments_are_refused(void **state)
{
    (void)state;
    const append_case *c = &cases[0];
    clmla_context *context = test_context(CLMLA_KERNELS_CPU, CLMLA_PROJECTION_AUTO);
    layout l = make_layout(c);
    inputs in = make_inputs(c, &l);
    buffers on = make_buffers(c, &l, &in);
    const clmla_cache_append_params good = make_params(c, &l, &on);
    clmla_cache_append_params bad[6];
    const clmla_status expected[6] = {CLMLA_INVALID_TENSOR_SHAPE, CLMLA_INVALID_TENSOR_SHAPE,
                                      CLMLA_INVALID_ARGUMENT,     CLMLA_INVALID_TENSOR_DTYPE,
                                      CLMLA_BUFFER_TOO_SMALL,     CLMLA_INVALID_STRIDE};
    for (size_t i = 0; i < 6; i++)
        bad[i] = good;
    bad[0].rope_dim = 3;
    bad[1].kv_lora_rank = 0;
    bad[2].eps = -1e-6;
    bad[3].kv_a.dtype = BF16;
    bad[4].sequences.num_pages = 1000;
    bad[5].kv_cache.strides[1] = 31;
    for (size_t i = 0; i < 6; i++) {
        test_clear_notify();
        assert_int_equal(
            clmla_enqueue_cache_append(context, &bad[i], test_device_get()->queue, 0, NULL, NULL),
            expected[i]);
        assert_non_null(strstr(test_last_notify(), "cache_append"));
    }
    clmla_context_release(context);
    release_buffers(&on);
    free(l.table);
    free(in.kv_a);
    free(in.cos_sin);
    free(in.weight);
}

/* An argument is a pattern of names: the tests to run. */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(new_tokens_are_appended_and_nothing_else),
        cmocka_unit_test(a_nan_stays_in_its_row),
        cmocka_unit_test(another_plan_can_be_set),
        cmocka_unit_test(bad_arguments_are_refused),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    test_device_close();
    return failed;
}
