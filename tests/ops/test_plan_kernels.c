/* The kernels of cl/plan.cl: what they copy, what they refuse, and what is left then. */
#include "ocl/launch.h"
#include "ops/rows.h"

enum { I32 = CLMLA_DTYPE_I32, MAX_SEQUENCES = 6, WIDTH = 3, SRC_WIDTH = 5 };
enum { PAGE_ROWS = 4, NUM_PAGES = 20, MAX_SEQLEN_Q = 6, MAX_CACHE_SEQLEN = 11, TOKENS_BOUND = 10 };

/* Layout of the plan's buffer, with a word between tables that must stay as it was. */
enum {
    CU_AT = 1,
    LEN_AT = CU_AT + MAX_SEQUENCES + 2,
    TABLE_AT = LEN_AT + MAX_SEQUENCES + 1,
    ERROR_AT = TABLE_AT + MAX_SEQUENCES * WIDTH + 1,
    PLAN_WORDS = ERROR_AT + 2
};

/* Every word -1 (poison), the error word `error`. */
static void clear_plan(int32_t *plan, int32_t error)
{
    memset(plan, 0xff, PLAN_WORDS * sizeof *plan);
    plan[ERROR_AT] = error;
}

static mla__kernel kernel_of(clmla_context *context, const char *name, int32_t work_group)
{
    const char *const files[] = {"plan.cl", NULL};
    mla__defines defines = {.length = 0};
    mla__kernel kernel;
    mla__define_int(&defines, "WORK_GROUP", work_group);
    assert_int_equal(mla__kernel_create(context, files, &defines, name, &kernel), 0);
    return kernel;
}

static void arg_plan(mla__kernel *kernel, const test_buffer *plan, int32_t table_stride)
{
    const cl_ulong at = plan->tensor.offset_bytes / 4;
    mla__arg_buffer(kernel, plan->tensor.buffer);
    mla__arg_ulong(kernel, at + CU_AT);
    mla__arg_ulong(kernel, at + LEN_AT);
    mla__arg_ulong(kernel, at + TABLE_AT);
    mla__arg_int(kernel, table_stride);
    mla__arg_ulong(kernel, at + ERROR_AT);
}

static void launch(const mla__kernel *kernel, size_t global, size_t local)
{
    mla__stream stream;
    assert_int_equal(mla__kernel_ready(kernel), 0);
    assert_int_equal(mla__stream_begin(&stream, test_device_get()->queue, 0, NULL), 0);
    assert_int_equal(mla__stream_launch(&stream, kernel, 1, &global, &local), 0);
}

static void check_plan(const char *name, const test_buffer *plan, const int32_t *expected)
{
    int32_t got[PLAN_WORDS];
    test_buffer_read(plan, got);
    for (int i = 0; i < PLAN_WORDS; i++) {
        if (got[i] != expected[i])
            fail_msg("%s: word %d (cu %d, len %d, table %d, error %d) is %d, expected %d", name, i,
                     CU_AT, LEN_AT, TABLE_AT, ERROR_AT, got[i], expected[i]);
    }
}

/* ---- plan_validate --------------------------------------------------------------------------- */

typedef struct validate_case {
    const char *name;
    int32_t n;
    int32_t cu[MAX_SEQUENCES + 1], len[MAX_SEQUENCES];
    bool contiguous,
        narrow;     /* narrow: the caller's table has two entries a row, the plan's three */
    bool bad_entry; /* entry [b, i] of the caller's table names `page` */
    int32_t b, i, page;
    int32_t error_before;
    int32_t expected_len[MAX_SEQUENCES]; /* and cu as given, unless step_is_empty */
    bool step_is_empty;
    int32_t error; /* expected */
} validate_case;

/* clang-format off */
static const validate_case validate_cases[] = {
    {"a good step is copied",
     .n = 4, .cu = {0, 3, 3, 4, 10}, .len = {3, 7, 9, 11}, .expected_len = {3, 7, 9, 11}},
    {"a good contiguous step is copied", .contiguous = true,
     .n = 3, .cu = {0, 1, 2, 4}, .len = {1, 4, 2}, .expected_len = {1, 4, 2}},
    {"a narrower table is filled up with -1", .narrow = true,
     .n = 2, .cu = {0, 1, 2}, .len = {8, 1}, .expected_len = {8, 1}},
    {"no new tokens, no keys",
     .n = 2, .cu = {0, 0, 0}, .len = {0, 0}, .expected_len = {0, 0}},
    {"fewer keys than new tokens", .error = CLMLA_INVALID_SEQUENCE,
     .n = 3, .cu = {0, 1, 4, 5}, .len = {1, 2, 9}, .expected_len = {1, 0, 9}},
    {"a negative length without new tokens", .error = CLMLA_INVALID_SEQUENCE,
     .n = 2, .cu = {0, 0, 1}, .len = {-5, 2}, .expected_len = {0, 2}},
    {"more keys than the limit", .error = CLMLA_CAPACITY_EXCEEDED,
     .n = 2, .cu = {0, 1, 2}, .len = {12, 5}, .expected_len = {0, 5}},
    {"more keys than the narrower table holds", .narrow = true, .error = CLMLA_CAPACITY_EXCEEDED,
     .n = 2, .cu = {0, 1, 2}, .len = {9, 8}, .expected_len = {0, 8}},
    {"more keys than a contiguous page", .contiguous = true, .error = CLMLA_CAPACITY_EXCEEDED,
     .n = 2, .cu = {0, 1, 2}, .len = {4, 5}, .expected_len = {4, 0}},
    {"the largest length of all", .error = CLMLA_CAPACITY_EXCEEDED,
     .n = 1, .cu = {0, 1}, .len = {2147483647}, .expected_len = {0}},
    {"too many new tokens of one sequence", .error = CLMLA_CAPACITY_EXCEEDED,
     .n = 2, .cu = {0, 7, 8}, .len = {8, 1}, .expected_len = {0, 1}},
    {"a visible page past the cache", .error = CLMLA_INVALID_BLOCK_TABLE,
     .bad_entry = true, .b = 1, .i = 2, .page = NUM_PAGES,
     .n = 2, .cu = {0, 1, 2}, .len = {9, 9}, .expected_len = {9, 0}},
    {"a negative visible page", .error = CLMLA_INVALID_BLOCK_TABLE,
     .bad_entry = true, .b = 0, .i = 0, .page = -1,
     .n = 2, .cu = {0, 1, 2}, .len = {9, 9}, .expected_len = {0, 9}},
    {"an absurd page that no key needs",
     .bad_entry = true, .b = 0, .i = 2, .page = 0x7fffffff,
     .n = 2, .cu = {0, 1, 2}, .len = {8, 9}, .expected_len = {8, 9}},
    {"an earlier error sticks",
     .error_before = CLMLA_INVALID_BLOCK_TABLE, .error = CLMLA_INVALID_BLOCK_TABLE,
     .n = 2, .cu = {0, 1, 2}, .len = {0, 9}, .expected_len = {0, 9}},
    {"a good step does not clear an earlier error",
     .error_before = CLMLA_CAPACITY_EXCEEDED, .error = CLMLA_CAPACITY_EXCEEDED,
     .n = 1, .cu = {0, 1}, .len = {5}, .expected_len = {5}},
    {"cu does not begin at 0", .step_is_empty = true, .error = CLMLA_INVALID_SEQUENCE,
     .n = 2, .cu = {1, 2, 3}, .len = {5, 5}},
    {"cu begins below 0", .step_is_empty = true, .error = CLMLA_INVALID_SEQUENCE,
     .n = 2, .cu = {-1, 2, 3}, .len = {5, 5}},
    {"cu decreases at the end", .step_is_empty = true, .error = CLMLA_INVALID_SEQUENCE,
     .n = 3, .cu = {0, 2, 4, 3}, .len = {5, 5, 5}},
    {"more tokens than the bound", .step_is_empty = true, .error = CLMLA_CAPACITY_EXCEEDED,
     .n = 3, .cu = {0, 2, 6, 11}, .len = {5, 5, 5}},
};
/* clang-format on */

/* The caller's block table: distinct pages, rows `stride` apart. */
static void fill_source_table(const validate_case *c, int32_t stride, int32_t *table)
{
    for (int32_t b = 0; b < c->n; b++) {
        for (int32_t i = 0; i < stride; i++)
            table[b * stride + i] = NUM_PAGES - 1 - (b * WIDTH + i) % NUM_PAGES;
    }
    if (c->bad_entry)
        table[c->b * stride + c->i] = c->page;
}

static void expect_step(const validate_case *c, int32_t src_stride, const int32_t *table,
                        int32_t *plan)
{
    clear_plan(plan, c->error);
    for (int32_t b = 0; b <= c->n; b++)
        plan[CU_AT + b] = c->step_is_empty ? 0 : c->cu[b];
    for (int32_t b = 0; b < c->n; b++) {
        plan[LEN_AT + b] = c->expected_len[b];
        for (int32_t i = 0; !c->contiguous && i < WIDTH; i++)
            plan[TABLE_AT + b * WIDTH + i] = i < src_stride ? table[b * src_stride + i] : -1;
    }
}

static void run_validate(const validate_case *c, clmla_context *context, int32_t work_group)
{
    const int32_t stride = c->contiguous ? 0 : c->narrow ? 2 : SRC_WIDTH;
    const int32_t capacity = PAGE_ROWS * (c->contiguous ? 1 : c->narrow ? 2 : WIDTH);
    const size_t n = (size_t)c->n;
    int32_t src_table[MAX_SEQUENCES * SRC_WIDTH + 1], before[PLAN_WORDS], expected[PLAN_WORDS];
    fill_source_table(c, stride, src_table);
    clear_plan(before, c->error_before);
    expect_step(c, stride, src_table, expected);
    test_buffer cu = test_buffer_of(c->cu, (n + 1) * 4, I32);
    test_buffer len = test_buffer_of(c->len, n * 4, I32);
    test_buffer table = test_buffer_of(src_table, n * (size_t)stride * 4, I32);
    test_buffer plan = test_buffer_of(before, sizeof before, I32);

    mla__kernel kernel = kernel_of(context, "plan_validate", work_group);
    mla__arg_buffer(&kernel, cu.tensor.buffer);
    mla__arg_ulong(&kernel, cu.tensor.offset_bytes / 4);
    mla__arg_buffer(&kernel, len.tensor.buffer);
    mla__arg_ulong(&kernel, len.tensor.offset_bytes / 4);
    mla__arg_buffer(&kernel, c->contiguous ? NULL : table.tensor.buffer);
    mla__arg_ulong(&kernel, table.tensor.offset_bytes / 4);
    mla__arg_int(&kernel, stride);
    arg_plan(&kernel, &plan, c->contiguous ? 0 : WIDTH);
    mla__arg_int(&kernel, c->n);
    mla__arg_int(&kernel, TOKENS_BOUND);
    mla__arg_int(&kernel, MAX_SEQLEN_Q);
    mla__arg_int(&kernel, MAX_CACHE_SEQLEN);
    mla__arg_int(&kernel, PAGE_ROWS);
    mla__arg_int(&kernel, NUM_PAGES);
    mla__arg_int(&kernel, capacity);
    launch(&kernel, n * (size_t)work_group, (size_t)work_group);
    check_plan(c->name, &plan, expected);
    test_buffer_unchanged("cu_seqlens_q", &cu, c->cu);
    test_buffer_unchanged("cache_seqlens", &len, c->len);
    test_buffer_unchanged("block_table", &table, src_table);

    mla__kernel_release(&kernel);
    test_buffer_release(&cu);
    test_buffer_release(&len);
    test_buffer_release(&table);
    test_buffer_release(&plan);
}

static const int32_t work_groups[] = {1, 2, 64};

static void device_tables_are_copied_and_checked(void **state)
{
    (void)state;
    clmla_context *context = test_context(CLMLA_KERNELS_GPU, CLMLA_PROJECTION_AUTO);
    for (size_t k = 0; k < 3; k++) {
        for (size_t i = 0; i < sizeof validate_cases / sizeof validate_cases[0]; i++)
            run_validate(&validate_cases[i], context, work_groups[k]);
    }
    clmla_context_release(context);
}

/* ---- plan_advance ---------------------------------------------------------------------------- */

typedef struct advance_case {
    const char *name;
    int32_t n;
    int32_t cu[MAX_SEQUENCES + 1], len[MAX_SEQUENCES];
    int32_t first, count; /* count 0: all n */
    bool use_new_tokens, contiguous;
    int32_t d[MAX_SEQUENCES]; /* of sequences first, first + 1, ... */
    bool bad_entry;           /* entry [b, i] of the table is outside the cache */
    int32_t b, i;
    int32_t expected_len[MAX_SEQUENCES];
    int32_t error; /* expected */
} advance_case;

/* clang-format off */
static const advance_case advance_cases[] = {
    {"numbers are added",
     .n = 3, .cu = {0, 1, 3, 3}, .len = {1, 9, 4}, .d = {4, -7, 0}, .expected_len = {5, 2, 4}},
    {"only sequences first .. first + count - 1", .first = 1, .count = 2,
     .n = 4, .cu = {0, 1, 2, 3, 4}, .len = {5, 5, 5, 5}, .d = {1, 2},
     .expected_len = {5, 6, 7, 5}},
    {"each sequence's own new tokens", .use_new_tokens = true,
     .n = 3, .cu = {0, 1, 4, 4}, .len = {1, 4, 6}, .d = {9, 9, 9}, .expected_len = {2, 7, 6}},
    {"up to the capacity",
     .n = 1, .cu = {0, 1}, .len = {1}, .d = {11}, .expected_len = {12}},
    {"past the capacity", .error = CLMLA_CAPACITY_EXCEEDED,
     .n = 2, .cu = {0, 1, 2}, .len = {5, 5}, .d = {8, 1}, .expected_len = {0, 6}},
    {"below the new tokens", .error = CLMLA_CAPACITY_EXCEEDED,
     .n = 2, .cu = {0, 3, 4}, .len = {5, 5}, .d = {-3, -4}, .expected_len = {0, 1}},
    {"sums past an int32", .error = CLMLA_CAPACITY_EXCEEDED,
     .n = 2, .cu = {0, 1, 2}, .len = {5, 5}, .d = {2147483647, -2147483647},
     .expected_len = {0, 0}},
    {"a newly visible page outside the cache", .use_new_tokens = true,
     .bad_entry = true, .b = 1, .i = 2, .error = CLMLA_INVALID_BLOCK_TABLE,
     .n = 2, .cu = {0, 1, 2}, .len = {8, 8}, .expected_len = {9, 0}},
    {"a bad page that stays invisible", .use_new_tokens = true,
     .bad_entry = true, .b = 0, .i = 2,
     .n = 1, .cu = {0, 1}, .len = {7}, .expected_len = {8}},
    {"an empty sequence with new tokens stays empty",
     .n = 2, .cu = {0, 2, 3}, .len = {0, 3}, .d = {5, 5}, .expected_len = {0, 8}},
    {"an empty sequence without new tokens grows",
     .n = 1, .cu = {0, 0}, .len = {0}, .d = {5}, .expected_len = {5}},
    {"contiguous", .use_new_tokens = true, .contiguous = true, .error = CLMLA_CAPACITY_EXCEEDED,
     .n = 2, .cu = {0, 1, 2}, .len = {2, 4}, .expected_len = {3, 0}},
};
/* clang-format on */

static void arg_numbers(mla__kernel *kernel, const cl_int *d)
{
    for (int i = 0; i < 64; i += 16) {
        cl_int16 part;
        memcpy(&part, d + i, sizeof part);
        mla__arg_bytes(kernel, &part, sizeof part);
    }
}

static void run_advance(const advance_case *c, clmla_context *context, int32_t work_group)
{
    int32_t before[PLAN_WORDS], expected[PLAN_WORDS];
    const int32_t count = c->count > 0 ? c->count : c->n;
    cl_int d[64] = {0};
    memcpy(d, c->d, sizeof c->d);
    clear_plan(before, 0);
    for (int32_t b = 0; b < c->n; b++) {
        before[CU_AT + b + 1] = c->cu[b + 1];
        before[LEN_AT + b] = c->len[b];
        for (int32_t i = 0; i < WIDTH; i++)
            before[TABLE_AT + b * WIDTH + i] = (b * WIDTH + i) % NUM_PAGES;
    }
    before[CU_AT] = 0;
    if (c->bad_entry)
        before[TABLE_AT + c->b * WIDTH + c->i] = NUM_PAGES;
    memcpy(expected, before, sizeof before);
    memcpy(expected + LEN_AT, c->expected_len, (size_t)c->n * 4);
    expected[ERROR_AT] = c->error;
    test_buffer plan = test_buffer_of(before, sizeof before, I32);

    mla__kernel kernel = kernel_of(context, "plan_advance", work_group);
    arg_plan(&kernel, &plan, c->contiguous ? 0 : WIDTH);
    mla__arg_int(&kernel, c->first);
    mla__arg_int(&kernel, count);
    mla__arg_int(&kernel, c->use_new_tokens);
    arg_numbers(&kernel, d);
    mla__arg_int(&kernel, c->contiguous ? PAGE_ROWS : WIDTH * PAGE_ROWS);
    mla__arg_int(&kernel, PAGE_ROWS);
    mla__arg_int(&kernel, NUM_PAGES);
    launch(&kernel, (size_t)count, (size_t)work_group);
    check_plan(c->name, &plan, expected);
    mla__kernel_release(&kernel);
    test_buffer_release(&plan);
}

static void lengths_advance_within_the_pages(void **state)
{
    (void)state;
    clmla_context *context = test_context(CLMLA_KERNELS_GPU, CLMLA_PROJECTION_AUTO);
    for (size_t k = 0; k < 3; k++) {
        for (size_t i = 0; i < sizeof advance_cases / sizeof advance_cases[0]; i++)
            run_advance(&advance_cases[i], context, work_groups[k]);
    }
    clmla_context_release(context);
}

/* All sixty-four numbers reach their sequence. */
static void a_full_launch_takes_sixty_four_numbers(void **state)
{
    (void)state;
    enum { N = 64, LEN = N + 1, ERROR = LEN + N, WORDS = ERROR + 1 };
    clmla_context *context = test_context(CLMLA_KERNELS_GPU, CLMLA_PROJECTION_AUTO);
    for (size_t k = 0; k < 3; k++) {
        int32_t words[WORDS], got[WORDS];
        cl_int d[N];
        memset(words, 0, sizeof words);
        for (int i = 0; i < N; i++)
            d[i] = 7 * i + 1;
        test_buffer plan = test_buffer_of(words, sizeof words, I32);
        const cl_ulong at = plan.tensor.offset_bytes / 4;
        mla__kernel kernel = kernel_of(context, "plan_advance", work_groups[k]);
        mla__arg_buffer(&kernel, plan.tensor.buffer);
        mla__arg_ulong(&kernel, at);
        mla__arg_ulong(&kernel, at + LEN);
        mla__arg_ulong(&kernel, at);
        mla__arg_int(&kernel, 0);
        mla__arg_ulong(&kernel, at + ERROR);
        mla__arg_int(&kernel, 0);
        mla__arg_int(&kernel, N);
        mla__arg_int(&kernel, 0);
        arg_numbers(&kernel, d);
        mla__arg_int(&kernel, 1000);
        mla__arg_int(&kernel, 1000);
        mla__arg_int(&kernel, N);
        launch(&kernel, N, (size_t)work_groups[k]);
        test_buffer_read(&plan, got);
        assert_memory_equal(got + LEN, d, sizeof d);
        assert_int_equal(got[ERROR], 0);
        mla__kernel_release(&kernel);
        test_buffer_release(&plan);
    }
    clmla_context_release(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(device_tables_are_copied_and_checked),
        cmocka_unit_test(lengths_advance_within_the_pages),
        cmocka_unit_test(a_full_launch_takes_sixty_four_numbers),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    test_device_close();
    return failed;
}
