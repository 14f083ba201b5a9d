/* The tile of attention on tensor cores that takes more local memory than devices report: which steps
 * take it, and what happens where it does not build or run. Its results: test_attention.c and
 * test_attention_bits.c, path nvidia_large. */
#include "ocl/local_memory.h"
#include "ops/attention_tests.h"

#define KERNELS(name) TEST_OUTPUT_DIR "/large_tile_" name
#define BATCH .kv_lora_rank = 64, .rope_dim = 16

/* In attention's place: the first lse says which tile ran. */
static const char names_its_tile[] =
    "kernel __attribute__((reqd_work_group_size(WORK_GROUP, 1, 1))) void\n"
    "attention__mma(ATTENTION_PARAMS ROTATION_PARAMS)\n"
    "{\n"
    "    if (get_global_id(0) == 0)\n"
    "        lse[lse_offset] = TILE_ROWS;\n"
    "}\n";

static int32_t tile_of(clmla_context *context, const attention_batch *batch)
{
    attention_problem p = attention_problem_make(context, batch);
    const cl_command_queue queue = test_device_get()->queue;
    double *lse = doubles((size_t)p.num_tokens * (size_t)batch->num_heads);
    assert_int_equal(clmla_enqueue_attention(context, &p.params, queue, 0, NULL, NULL),
                     CLMLA_SUCCESS);
    test_buffer_read_doubles(&p.lse, lse, (size_t)p.num_tokens * (size_t)batch->num_heads);
    const int32_t rows = (int32_t)lse[0];
    free(lse);
    attention_problem_release(&p);
    return rows;
}

static void steps_of_many_rows_a_sequence_take_it_once_it_is_tried(void **state)
{
    static const attention_sequence one[] = {{1, 1, 2}}, two[] = {{1, 2, 2}}, four[] = {{1, 4, 4}};
    static const attention_sequence uneven[] = {{1, 3, 3}, {2, 1, 1}};
    static const struct {
        attention_batch batch;
        int32_t before, after;
    } cases[] = {
        {{BATCH, .num_heads = 1, SEQUENCES(one)}, 16, 16},
        {{BATCH, .num_heads = 16, SEQUENCES(one)}, 16, 16},
        {{BATCH, .num_heads = 16, SEQUENCES(two)}, 32, 32},
        {{BATCH, .num_heads = 16, SEQUENCES(four)}, 32, 64},
        {{BATCH, .num_heads = 31, SEQUENCES(two)}, 32, 32},
        {{BATCH, .num_heads = 32, SEQUENCES(two)}, 32, 64},
        {{BATCH, .num_heads = 32, SEQUENCES(uneven)}, 32, 64},
        {{BATCH, .num_heads = 31, SEQUENCES(uneven)}, 32, 32},
        {{BATCH, .num_heads = 63, SEQUENCES(one)}, 32, 32},
        {{BATCH, .num_heads = 128, SEQUENCES(one)}, 32, 64},
    };
    (void)state;
    const char *why_not;
    test_write_kernel(KERNELS("chosen"), "nvidia/attention.cl", names_its_tile);
    clmla_context *context = test_context_with_kernels(CLMLA_KERNELS_NVIDIA, KERNELS("chosen"));
    for (size_t i = 0; i < COUNT(cases); i++)
        assert_int_equal(tile_of(context, &cases[i].batch), cases[i].before);
    if (!attention_try_large_tile(context, 64, 16, &why_not)) {
        clmla_context_release(context);
        print_message("skipped: the large tile: %s\n", why_not);
        skip();
    }
    for (size_t i = 0; i < COUNT(cases); i++)
        if (tile_of(context, &cases[i].batch) != cases[i].after)
            fail_msg("case %zu: not the tile of %d rows", i, (int)cases[i].after);
    clmla_context_release(context);
}

static const attention_sequence chunk[] = {{1, 3, 20}};
static const attention_batch many_rows = {BATCH, .num_heads = 40, SEQUENCES(chunk)};

static void keeps_to_other_tiles(clmla_context *context)
{
    attention_problem p = attention_problem_make(context, &many_rows);
    mla__attention op = {.num_heads = 0};
    p.params.num_splits = 1;
    assert_int_equal(mla__attention_bind(context, &p.params, &op), CLMLA_SUCCESS);
    assert_int_equal(op.kind, MLA__ATTENTION_MMA);
    assert_int_equal(op.few.tile.tile_rows, 32);
    assert_int_equal(op.large.tile.tile_rows, 0);
    assert_null(op.large.kernel.kernel);
    mla__attention_release(&op);
    attention_problem_release(&p);
}

/* The driver takes less local memory than the tile wants: one line, once, and no error. */
static void refused(const char *directory, const char *kernel)
{
    const char *why_not = NULL;
    test_write_kernel(directory, "local_memory.cl", kernel);
    clmla_context *context = test_context_with_kernels(CLMLA_KERNELS_NVIDIA, directory);
    test_clear_notify();
    assert_false(attention_try_large_tile(context, 64, 16, &why_not));
    assert_non_null(strstr(why_not, "does not build or run"));
    assert_non_null(strstr(test_last_notify(), "local memory: no "));
    test_clear_notify();
    assert_false(attention_try_large_tile(context, 64, 16, &why_not));
    keeps_to_other_tiles(context);
    assert_string_equal(test_last_notify(), "");
    clmla_context_release(context);
}

static void local_memory_that_does_not_build_leaves_the_others(void **state)
{
    (void)state;
    refused(KERNELS("unbuilt"), "#error too much local memory\n");
}

static void local_memory_that_comes_back_wrong_leaves_the_others(void **state)
{
    (void)state;
    refused(KERNELS("wrong"), "kernel __attribute__((reqd_work_group_size(WORK_GROUP, 1, 1))) void "
                              "local_memory(global uint *out)\n"
                              "{\n"
                              "    out[get_local_id(0)] = 0;\n"
                              "}\n");
}

static void a_tile_that_does_not_build_leaves_the_others(void **state)
{
    (void)state;
    char kernel[1024];
    const char *why_not;
    (void)snprintf(kernel, sizeof kernel, "#if TILE_ROWS == 64\n#error no\n#endif\n%s",
                   names_its_tile);
    test_write_kernel(KERNELS("no_kernel"), "nvidia/attention.cl", kernel);
    clmla_context *context = test_context_with_kernels(CLMLA_KERNELS_NVIDIA, KERNELS("no_kernel"));
    if (attention_try_large_tile(context, 64, 16, &why_not)) {
        test_clear_notify();
        assert_int_equal(tile_of(context, &many_rows), 32);
        assert_non_null(strstr(test_last_notify(), "those of fewer remain"));
        test_clear_notify();
        keeps_to_other_tiles(context); /* remembered */
        assert_string_equal(test_last_notify(), "");
        assert_false(attention_try_large_tile(context, 64, 16, &why_not));
    }
    clmla_context_release(context);
}

/* What was refused stays refused, with everything above; what was had comes with all below. */
static void the_context_remembers_what_it_tried(void **state)
{
    (void)state;
    clmla_context *context = test_context(CLMLA_KERNELS_AUTO, CLMLA_PROJECTION_NATIVE);
    mla__stream stream;
    assert_int_equal(mla__stream_begin(&stream, test_device_get()->queue, 0, NULL), CLMLA_SUCCESS);
    assert_int_equal(mla__local_memory_state(context, 2048), MLA__LOCAL_UNTRIED);
    assert_int_equal(mla__local_memory_try(context, 2048, 16, &stream), CLMLA_SUCCESS);
    assert_int_equal(mla__local_memory_state(context, 2048), MLA__LOCAL_PROVEN);
    assert_int_equal(mla__local_memory_state(context, 16), MLA__LOCAL_PROVEN);
    assert_int_equal(mla__local_memory_state(context, 4096), MLA__LOCAL_UNTRIED);
    mla__local_memory_refuse(context, 8192);
    mla__local_memory_refuse(context, 16384);
    assert_int_equal(mla__local_memory_state(context, 4096), MLA__LOCAL_UNTRIED);
    assert_int_equal(mla__local_memory_state(context, 8192), MLA__LOCAL_REFUSED);
    assert_int_equal(mla__local_memory_try(context, 16384, 16, &stream), CLMLA_SUCCESS);
    assert_int_equal(mla__local_memory_state(context, 16384), MLA__LOCAL_REFUSED);
    clmla_context_release(context);
}

/* An argument is a pattern of names: the tests to run. */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_of_many_rows_a_sequence_take_it_once_it_is_tried),
        cmocka_unit_test(local_memory_that_does_not_build_leaves_the_others),
        cmocka_unit_test(local_memory_that_comes_back_wrong_leaves_the_others),
        cmocka_unit_test(a_tile_that_does_not_build_leaves_the_others),
        cmocka_unit_test(the_context_remembers_what_it_tried),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const int failed = cmocka_run_group_tests_name("attention_large", tests, NULL, NULL);
    test_device_close();
    return failed;
}
