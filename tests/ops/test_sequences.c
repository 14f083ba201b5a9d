/* clmla_sequences: what is refused, and how the ten kernel arguments arrive. */
#include "clmla.h"
#include "ops/sequences.h"
#include "support/device.h"
#include "support/support.h"

#define KERNELS TEST_OUTPUT_DIR "/kernels-test-sequences"

enum { B = 3, STRIDE = 4 };

static clmla_context *context;
static test_buffer cu_seqlens_q, cache_seqlens, block_table;

static clmla_sequences valid(void)
{
    return (clmla_sequences){.num_sequences = B,
                             .num_tokens = 5,
                             .max_cache_seqlen = 30,
                             .num_pages = 12,
                             .page_block_size = 8,
                             .block_table_stride = STRIDE,
                             .cu_seqlens_q = cu_seqlens_q.tensor,
                             .cache_seqlens = cache_seqlens.tensor,
                             .block_table = block_table.tensor};
}

static void expect(const char *name, const clmla_sequences *s, int needs_pages, clmla_status status,
                   const char *says)
{
    mla__sequences made, untouched;
    memset(&made, 0xff, sizeof made);
    memset(&untouched, 0xff, sizeof untouched);
    test_clear_notify();
    const clmla_status got = mla__sequences_make(context, "op", s, needs_pages, &made);
    if (got != status)
        fail_msg("%s: %s (%s)", name, clmla_status_name(got), test_last_notify());
    if (strstr(test_last_notify(), says) == NULL)
        fail_msg("%s: \"%s\" does not say \"%s\"", name, test_last_notify(), says);
    if (status != CLMLA_SUCCESS)
        assert_memory_equal(&made, &untouched, sizeof made);
}

static void bad_sequences_are_refused_by_name(void **state)
{
    (void)state;
    const struct {
        const char *name;
        size_t field; /* of clmla_sequences, an int32 */
        int32_t value;
        clmla_status status;
        const char *says;
    } cases[] = {
        {"a negative number of sequences", offsetof(clmla_sequences, num_sequences), -1,
         CLMLA_INVALID_ARGUMENT, "op: num_sequences -1"},
        {"a negative number of tokens", offsetof(clmla_sequences, num_tokens), -2,
         CLMLA_INVALID_ARGUMENT, "op: num_tokens -2"},
        {"a negative bound of keys", offsetof(clmla_sequences, max_cache_seqlen), -3,
         CLMLA_INVALID_ARGUMENT, "op: max_cache_seqlen -3"},
        {"a negative number of pages", offsetof(clmla_sequences, num_pages), -1,
         CLMLA_INVALID_ARGUMENT, "op: num_pages -1"},
        {"pages without rows", offsetof(clmla_sequences, page_block_size), 0,
         CLMLA_INVALID_ARGUMENT, "op: page_block_size 0"},
        {"a block table without columns", offsetof(clmla_sequences, block_table_stride), 0,
         CLMLA_INVALID_ARGUMENT, "op: block_table_stride 0"},
        {"a block table wider than its buffer", offsetof(clmla_sequences, block_table_stride), 1000,
         CLMLA_BUFFER_TOO_SMALL, "op: block_table reaches byte"},
        {"more sequences than cu_seqlens_q holds", offsetof(clmla_sequences, num_sequences), 1000,
         CLMLA_BUFFER_TOO_SMALL, "op: cu_seqlens_q reaches byte"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        clmla_sequences s = valid();
        memcpy((char *)&s + cases[i].field, &cases[i].value, sizeof cases[i].value);
        expect(cases[i].name, &s, 1, cases[i].status, cases[i].says);
    }
    clmla_sequences s = valid();
    s.cache_seqlens.buffer = NULL;
    expect("no cache_seqlens", &s, 1, CLMLA_INVALID_ARGUMENT, "op: cache_seqlens has no buffer");
    s = valid();
    s.cu_seqlens_q.dtype = CLMLA_DTYPE_F32;
    expect("tables are int32", &s, 1, CLMLA_INVALID_TENSOR_DTYPE, "op: cu_seqlens_q has dtype f32");
    s = valid();
    s.block_table.buffer = NULL;
    s.num_pages = B - 1;
    expect("contiguous with fewer pages than sequences", &s, 1, CLMLA_INVALID_ARGUMENT,
           "num_pages 2 < num_sequences 3");
}

static void what_an_op_does_not_read_is_not_checked(void **state)
{
    (void)state;
    clmla_sequences s = valid();
    s.page_block_size = 0;
    s.num_pages = -1;
    s.block_table_stride = -1;
    expect("an op without pages", &s, 0, CLMLA_SUCCESS, "");
    s = (clmla_sequences){.num_tokens = 5, .page_block_size = 1};
    expect("no sequences need no tables", &s, 1, CLMLA_SUCCESS, "");
}

static void without_a_block_table_the_stride_is_zero(void **state)
{
    (void)state;
    clmla_sequences s = valid();
    s.block_table = (clmla_tensor){0};
    mla__sequences made;
    assert_int_equal(mla__sequences_make(context, "op", &s, 1, &made), CLMLA_SUCCESS);
    assert_int_equal(made.block_table_stride, 0);
    assert_null(made.block_table.buffer);
    assert_int_equal(made.num_pages, 12);
}

/* One row of numbers per table entry that the kernel reads through its parameters. */
static const char source[] =
    "kernel void look(global int *out, const ulong at, SEQUENCES_PARAMS, const int last)\n"
    "{\n"
    "    out += at;\n"
    "    out[0] = cu_seqlens_q[cu_seqlens_q_offset + 1];\n"
    "    out[1] = cache_seqlens[cache_seqlens_offset + 1];\n"
    "    out[2] = block_table_stride == 0 ? -5\n"
    "                                     : block_table[block_table_offset + block_table_stride];\n"
    "    out[3] = block_table_stride;\n"
    "    out[4] = page_block_size;\n"
    "    out[5] = num_pages;\n"
    "    out[6] = num_sequences;\n"
    "    out[7] = last;\n"
    "}\n";

static void the_ten_arguments_arrive(void **state)
{
    (void)state;
    static const char *const files[] = {"look.cl", NULL};
    test_write_kernel(KERNELS, files[0], source);
    clmla_context *with_kernels = test_context_with_kernels(CLMLA_KERNELS_AUTO, KERNELS);
    test_buffer out = test_buffer_poisoned(8 * sizeof(int32_t), CLMLA_DTYPE_I32);
    mla__kernel kernel = {0};
    mla__sequences paged, contiguous;
    clmla_sequences s = valid();
    assert_int_equal(mla__sequences_make(context, "op", &s, 1, &paged), CLMLA_SUCCESS);
    s.block_table.buffer = NULL;
    assert_int_equal(mla__sequences_make(context, "op", &s, 1, &contiguous), CLMLA_SUCCESS);
    assert_int_equal(mla__kernel_create(with_kernels, files, NULL, "look", &kernel), CLMLA_SUCCESS);
    mla__arg_buffer(&kernel, out.tensor.buffer);
    mla__arg_ulong(&kernel, out.tensor.offset_bytes / sizeof(int32_t));
    mla__arg_sequences(&kernel, &paged);
    mla__arg_int(&kernel, 99);
    assert_int_equal(mla__kernel_ready(&kernel), CLMLA_SUCCESS);

    const int32_t expected[2][8] = {{12, 22, 34, STRIDE, 8, 12, B, 99},
                                    {12, 22, -5, 0, 8, 12, B, 99}};
    for (int i = 0; i < 2; i++) {
        mla__stream stream;
        int32_t got[8];
        assert_int_equal(mla__stream_begin(&stream, test_device_get()->queue, 0, NULL),
                         CLMLA_SUCCESS);
        assert_int_equal(mla__stream_launch(&stream, &kernel, 1, (size_t[]){1}, (size_t[]){1}),
                         CLMLA_SUCCESS);
        test_buffer_read(&out, got);
        assert_memory_equal(got, expected[i], sizeof got);
        assert_int_equal(mla__arg_set_sequences(&kernel, 2, &contiguous), CLMLA_SUCCESS);
    }
    mla__kernel_release(&kernel);
    test_buffer_release(&out);
    clmla_context_release(with_kernels);
}

static int set_up(void **state)
{
    (void)state;
    const int32_t cu[B + 1] = {11, 12, 13, 14}, lengths[B] = {21, 22, 23};
    const int32_t pages[B * STRIDE] = {30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41};
    context = test_context(CLMLA_KERNELS_AUTO, CLMLA_PROJECTION_AUTO);
    cu_seqlens_q = test_buffer_of(cu, sizeof cu, CLMLA_DTYPE_DEFAULT);
    cache_seqlens = test_buffer_of(lengths, sizeof lengths, CLMLA_DTYPE_I32);
    block_table = test_buffer_of(pages, sizeof pages, CLMLA_DTYPE_I32);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    test_buffer_release(&cu_seqlens_q);
    test_buffer_release(&cache_seqlens);
    test_buffer_release(&block_table);
    clmla_context_release(context);
    test_device_close();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_sequences_are_refused_by_name),
        cmocka_unit_test(what_an_op_does_not_read_is_not_checked),
        cmocka_unit_test(without_a_block_table_the_stride_is_zero),
        cmocka_unit_test(the_ten_arguments_arrive),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
