/* Attention by products of whole warpgroups, emulated: cl/nvidia/attention_wgmma.cl against the
 * reference in double, what must not change its bits, when it is taken, and what happens where it
 * does not work. */
#include "ops/attention_tests.h"
#include "ops/sm_90a.h"

#define KERNELS(name) TEST_OUTPUT_DIR "/attention_wgmma_" name
#define DIMS .kv_lora_rank = 256, .rope_dim = 64

enum { HEADS = 64 };

/* {id, new tokens, keys}: blocks of 64 keys begun, filled and passed, chunks across their ends,
 * tokens without keys, sequences without tokens. */
static const attention_sequence varied[] = {{1, 3, 66}, {2, 1, 64}, {3, 0, 12}, {4, 1, 1},
                                            {5, 2, 32}, {6, 2, 0},  {7, 0, 0},  {8, 1, 200}};
enum { VARIED_TOKENS = 10 };
static const attention_sequence decode[] = {{1, 1, 130}};
static const attention_sequence more_tokens_than_keys[] = {{1, 3, 2}};
static const attention_sequence prompt[] = {{1, 5, 67}};

/* Where the kernel is known to work; skipped where the device's local memory does not hold it. */
static clmla_context *ready_context(void)
{
    clmla_context *context = test_context(CLMLA_KERNELS_NVIDIA, CLMLA_PROJECTION_NATIVE);
    mla__attention_tile tile;
    context->sm_90a[MLA__SM_90A_ATTENTION] = MLA__SM_90A_READY;
    if (!mla__attention_tile_wgmma(&context->device, HEADS, 512, 64, &tile)) {
        print_message("skipped: the device has %llu bytes of local memory\n",
                      (unsigned long long)context->device.local_mem_bytes);
        clmla_context_release(context);
        skip();
    }
    return context;
}

// clang-format off
static const attention_case cases[] = {
    {"64 heads, paged", false,
     {DIMS, .num_heads = 64, SEQUENCES(varied), .page_block_size = 16}},
    {"64 heads without a mask, contiguous", false,
     {DIMS, .num_heads = 64, .mask = CLMLA_MASK_NONE, SEQUENCES(varied)}},
    {"128 heads of 512 + 64", false,
     {.num_heads = 128, .kv_lora_rank = 512, .rope_dim = 64, SEQUENCES(decode),
      .page_block_size = 64}},
    {"192 heads, float32 out, tokens past the last sequence", false,
     {DIMS, .num_heads = 192, .out = F32, SEQUENCES(prompt), .page_block_size = 7,
      .extra_tokens = 2}},
    {"no rope part, in place", false,
     {.num_heads = 64, .kv_lora_rank = 256, SEQUENCES(prompt), .in_place = true}},
    {"fused cache, strides of whole chunks", false,
     {DIMS, .num_heads = 64, SEQUENCES(prompt), .page_block_size = 5, .gap = 8, .fused = true}},
    {"rows begin anywhere, lse not wanted", false,
     {DIMS, .num_heads = 64, SEQUENCES(varied), .page_block_size = 16, .gap = 3, .no_lse = true}},
    {"fused cache, rows begin anywhere", false,
     {DIMS, .num_heads = 64, SEQUENCES(prompt), .page_block_size = 1, .gap = 1, .fused = true}},
    {"tokens before the first key attend nothing", false,
     {DIMS, .num_heads = 64, SEQUENCES(more_tokens_than_keys)}},
    {"three splits", false,
     {DIMS, .num_heads = 64, SEQUENCES(varied), .page_block_size = 16, .num_splits = 3}},
    {"512 + 64, splits of 40 keys, in place", false,
     {.num_heads = 64, .kv_lora_rank = 512, .rope_dim = 64, SEQUENCES(prompt), .split_tokens = 40,
      .in_place = true}},
    {"more splits than keys", false,
     {DIMS, .num_heads = 64, SEQUENCES(more_tokens_than_keys), .num_splits = 5}},
    {"sharp softmax", false,
     {DIMS, .num_heads = 64, .softmax_scale = 300, SEQUENCES(varied), .page_block_size = 16}},
};
// clang-format on

static void matches_the_formula(void **state)
{
    (void)state;
    clmla_context *context = ready_context();
    for (size_t i = 0; i < COUNT(cases); i++) {
        assert_int_equal(attention_kind(context, &cases[i].batch), MLA__ATTENTION_WGMMA);
        attention_check(context, &cases[i], 0x1p-9);
    }
    clmla_context_release(context);
}

/* The smallest that reaches every part of the kernel, for simulators: two blocks of keys, the second
 * begun, of a token in place; the query's rows begin anywhere. */
static void on_simulators(void **state)
{
    (void)state;
    static const attention_sequence one[] = {{1, 1, 65}};
    static const attention_case small = {
        "one token", false, {DIMS, .num_heads = 64, SEQUENCES(one), .in_place = true, .gap = 1}};
    clmla_context *context = ready_context();
    attention_check(context, &small, 0x1p-9);
    clmla_context_release(context);
}

/* ---- bits ----------------------------------------------------------------------------------- */

static const attention_batch standard = {DIMS, .num_heads = HEADS, SEQUENCES(varied),
                                         .page_block_size = 16};

static void expect_same_rows(const attention_batch *b, const char *what, const attention_result *x,
                             size_t row_x, const attention_result *y, size_t row_y, size_t count)
{
    const size_t latent = (size_t)b->kv_lora_rank;
    for (size_t r = 0; r < count; r++) {
        if (memcmp(x->out + (row_x + r) * latent, y->out + (row_y + r) * latent,
                   latent * sizeof(double)) != 0 ||
            memcmp(x->lse + row_x + r, y->lse + row_y + r, sizeof(double)) != 0)
            fail_msg("%s: row %zu differs", what, row_x + r);
    }
}

static void layout_does_not_change_a_bit(void **state)
{
    (void)state;
    static const struct {
        int32_t page_block_size, gap;
        bool fused;
    } layouts[] = {{1, 0, false}, {64, 5, false}, {0, 8, true}};
    clmla_context *context = ready_context();
    attention_result first = attention_run(context, &standard);
    for (size_t i = 0; i < COUNT(layouts); i++) {
        attention_batch batch = standard;
        batch.page_block_size = layouts[i].page_block_size;
        batch.gap = layouts[i].gap;
        batch.fused = layouts[i].fused;
        attention_result result = attention_run(context, &batch);
        expect_same_rows(&batch, "layout", &result, 0, &first, 0, VARIED_TOKENS * HEADS);
        attention_result_release(&result);
    }
    attention_result_release(&first);
    clmla_context_release(context);
}

static void alone_and_batched_are_the_same_bits(void **state)
{
    (void)state;
    clmla_context *context = ready_context();
    static const int32_t split_tokens[] = {0, 48};
    for (size_t k = 0; k < COUNT(split_tokens); k++) {
        attention_batch batch = standard;
        batch.num_splits = 1;
        batch.split_tokens = split_tokens[k];
        attention_result together = attention_run(context, &batch);
        size_t row = 0;
        for (size_t s = 0; s < COUNT(varied); s++) {
            const size_t rows = (size_t)varied[s].new_tokens * HEADS;
            batch.num_sequences = 1;
            batch.sequences = &varied[s];
            attention_result alone = attention_run(context, &batch);
            expect_same_rows(&batch, "alone", &alone, 0, &together, row, rows);
            attention_result_release(&alone);
            row += rows;
        }
        attention_result_release(&together);
    }
    clmla_context_release(context);
}

static void chunks_and_whole_are_the_same_bits(void **state)
{
    (void)state;
    clmla_context *context = ready_context();
    attention_batch batch = standard;
    batch.num_splits = 1;
    batch.num_sequences = 1;
    batch.sequences = prompt;
    attention_result whole = attention_run(context, &batch);
    static const attention_sequence parts[] = {{1, 1, 63}, {1, 3, 66}, {1, 1, 67}};
    size_t row = 0;
    for (size_t i = 0; i < COUNT(parts); i++) {
        const size_t rows = (size_t)parts[i].new_tokens * HEADS;
        batch.sequences = &parts[i];
        attention_result part = attention_run(context, &batch);
        expect_same_rows(&batch, "chunk", &part, 0, &whole, row, rows);
        attention_result_release(&part);
        row += rows;
    }
    assert_int_equal(row, prompt->new_tokens * HEADS);
    attention_result_release(&whole);
    clmla_context_release(context);
}

/* A key reaches all rows that see it, a query its own row. */
static void nan_stays_where_it_belongs(void **state)
{
    (void)state;
    enum { KEY = 64, ROW = 70, FIRST_THAT_SEES = 1 }; /* token i of the first is at 63 + i */
    clmla_context *context = ready_context();
    attention_batch batch = standard;
    const size_t latent = (size_t)batch.kv_lora_rank;
    attention_result clean = attention_run(context, &batch);
    batch.nan_key = 1 + KEY;
    attention_result result = attention_run(context, &batch);
    expect_same_rows(&batch, "before the key", &result, 0, &clean, 0, FIRST_THAT_SEES * HEADS);
    for (size_t i = FIRST_THAT_SEES * HEADS * latent; i < 3 * HEADS * latent; i++)
        assert_true(isnan(result.out[i]));
    expect_same_rows(&batch, "other sequences", &result, 3 * HEADS, &clean, 3 * HEADS,
                     (VARIED_TOKENS - 3) * HEADS);
    attention_result_release(&result);
    batch.nan_key = 0;
    batch.nan_row = 1 + ROW;
    result = attention_run(context, &batch);
    expect_same_rows(&batch, "before the row", &result, 0, &clean, 0, ROW);
    for (size_t i = ROW * latent; i < (ROW + 1) * latent; i++)
        assert_true(isnan(result.out[i]));
    expect_same_rows(&batch, "behind the row", &result, ROW + 1, &clean, ROW + 1,
                     VARIED_TOKENS * HEADS - ROW - 1);
    attention_result_release(&result);
    attention_result_release(&clean);
    clmla_context_release(context);
}

/* ---- choice --------------------------------------------------------------------------------- */

static void taken_where_it_fits_and_is_ready(void **state)
{
    (void)state;
    static const struct {
        attention_batch batch;
        enum mla__attention_kind kind;
    } shapes[] = {
        {{DIMS, .num_heads = 64, SEQUENCES(decode)}, MLA__ATTENTION_WGMMA},
        {{DIMS, .num_heads = 96, SEQUENCES(decode)}, MLA__ATTENTION_MMA},
        {{DIMS, .num_heads = 16, SEQUENCES(decode)}, MLA__ATTENTION_MMA},
        {{.kv_lora_rank = 128, .rope_dim = 64, .num_heads = 64, SEQUENCES(decode)},
         MLA__ATTENTION_MMA},
        {{.kv_lora_rank = 256, .rope_dim = 32, .num_heads = 64, SEQUENCES(decode)},
         MLA__ATTENTION_MMA},
        {{.kv_lora_rank = 256, .rope_dim = 64, .num_heads = 64, .cache = FP8, SEQUENCES(decode)},
         MLA__ATTENTION_MMA},
        {{DIMS, .num_heads = 64, .out = F16, SEQUENCES(decode)}, MLA__ATTENTION_GPU},
        {{DIMS, .num_heads = 64, .q_lat = F32, SEQUENCES(decode)}, MLA__ATTENTION_GPU},
    };
    clmla_context *context = ready_context();
    for (size_t i = 0; i < COUNT(shapes); i++) {
        if (attention_kind(context, &shapes[i].batch) != shapes[i].kind)
            fail_msg("shape %zu: not kind %d", i, (int)shapes[i].kind);
    }
    static const mla__sm_90a others[] = {MLA__SM_90A_OFF, MLA__SM_90A_ASKED, MLA__SM_90A_REFUSED};
    for (size_t i = 0; i < COUNT(others); i++) {
        context->sm_90a[MLA__SM_90A_ATTENTION] = others[i];
        assert_int_equal(attention_kind(context, &shapes[0].batch), MLA__ATTENTION_MMA);
    }
    clmla_context_release(context);
}

/* ---- trial ---------------------------------------------------------------------------------- */

static clmla_context *tried(clmla_context *context)
{
    context->sm_90a[MLA__SM_90A_ATTENTION] = MLA__SM_90A_ASKED;
    test_clear_notify();
    mla__sm_90a_probe(context);
    return context;
}

static const attention_case ordinary = {
    "ordinary", false, {DIMS, .num_heads = HEADS, SEQUENCES(prompt), .page_block_size = 16}};

static void accepted_where_results_are_right(void **state)
{
    (void)state;
    clmla_context *context = tried(ready_context());
    const char *why = NULL;
    if (mla__context_sm_90a(context, MLA__SM_90A_ATTENTION, &why) != MLA__SM_90A_READY)
        fail_msg("refused: %s", why);
    assert_string_equal(test_last_notify(), "");
    assert_int_equal(attention_kind(context, &ordinary.batch), MLA__ATTENTION_WGMMA);
    clmla_context_release(context);
}

static void expect_refusal(clmla_context *context, const char *says)
{
    const char *why = NULL;
    assert_int_equal(mla__context_sm_90a(context, MLA__SM_90A_ATTENTION, &why),
                     MLA__SM_90A_REFUSED);
    assert_string_equal(why, says);
    assert_non_null(strstr(test_last_notify(), says));
    assert_non_null(strstr(test_last_notify(), "sm_90a, attention: "));
    assert_int_equal(attention_kind(context, &ordinary.batch), MLA__ATTENTION_MMA);
    attention_check(context, &ordinary, 0x1p-9);
    clmla_context_release(context);
}

/* With another kernel in its place. */
static clmla_context *context_with(const char *directory, const char *kernel)
{
    test_write_kernel(directory, "nvidia/attention_wgmma.cl", kernel);
    return test_context_with_kernels(CLMLA_KERNELS_NVIDIA, directory);
}

static const char does_nothing[] =
    "kernel __attribute__((reqd_work_group_size(WORK_GROUP, 1, 1))) void\n"
    "attention__wgmma(ATTENTION_PARAMS ROTATION_PARAMS)\n"
    "{\n"
    "}\n";

static void refused_where_results_are_wrong(void **state)
{
    (void)state;
    clmla_context_release(ready_context()); /* skips where there is no tile */
    expect_refusal(tried(context_with(KERNELS("wrong"), does_nothing)), "their results are wrong");
}

static void refused_where_they_do_not_build(void **state)
{
    (void)state;
    clmla_context_release(ready_context());
    expect_refusal(tried(context_with(KERNELS("unbuilt"), "#error no\n")),
                   "the driver does not build them");
}

static void refused_where_no_tile_fits(void **state)
{
    (void)state;
    clmla_context *context = test_context(CLMLA_KERNELS_NVIDIA, CLMLA_PROJECTION_NATIVE);
    context->device.local_mem_bytes = 200 * 1024;
    expect_refusal(tried(context), "no tile fits the device's local memory or work-groups");
}

/* Tried with success, but a later variant does not build: the kernel on mma, and where that does not
 * build, either, the portable one. */
static void others_take_its_place_where_it_does_not_build(void **state)
{
    (void)state;
    clmla_context_release(ready_context());
    for (int mma = 1; mma >= 0; mma--) {
        const char *const directory = KERNELS("gone");
        test_write_kernel(directory, "nvidia/attention.cl", "#error no\n");
        clmla_context *context = context_with(mma ? KERNELS("unbuilt") : directory, "#error no\n");
        context->sm_90a[MLA__SM_90A_ATTENTION] = MLA__SM_90A_READY;
        test_clear_notify();
        attention_check(context, &ordinary, 0x1p-9);
        assert_int_equal(attention_kind(context, &ordinary.batch),
                         mma ? MLA__ATTENTION_MMA : MLA__ATTENTION_GPU);
        assert_non_null(strstr(test_last_notify(), mma ? "kernels for sm_90 take the place"
                                                       : "the portable one takes its place"));
        const char *why = NULL;
        assert_int_equal(mla__context_sm_90a(context, MLA__SM_90A_ATTENTION, &why),
                         MLA__SM_90A_REFUSED);
        assert_string_equal(why, "the driver does not build one of them");
        clmla_context_release(context);
    }
}

int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(matches_the_formula),
        cmocka_unit_test(on_simulators),
        cmocka_unit_test(layout_does_not_change_a_bit),
        cmocka_unit_test(alone_and_batched_are_the_same_bits),
        cmocka_unit_test(chunks_and_whole_are_the_same_bits),
        cmocka_unit_test(nan_stays_where_it_belongs),
        cmocka_unit_test(taken_where_it_fits_and_is_ready),
        cmocka_unit_test(accepted_where_results_are_right),
        cmocka_unit_test(refused_where_results_are_wrong),
        cmocka_unit_test(refused_where_they_do_not_build),
        cmocka_unit_test(refused_where_no_tile_fits),
        cmocka_unit_test(others_take_its_place_where_it_does_not_build),
    };
    const int failed = cmocka_run_group_tests_name("attention_wgmma", tests, NULL, NULL);
    test_device_close();
    return failed;
}
