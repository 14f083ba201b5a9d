/*
 * More than the device can hold, asked of the device itself: objects larger than its largest buffer.
 * The driver's status is passed on with the number of bytes, nothing is left behind, and smaller ones
 * are made afterwards. That any single buffer cannot be had is in test_objects.c.
 */
#include "faults/memory.h"
#include "faults/scenario.h"
#include "support/layer_fixture.h"

/* OpenCL's for a size beyond CL_DEVICE_MAX_MEM_ALLOC_SIZE, and what drivers say instead. */
static bool is_refusal(clmla_status status)
{
    return status == CL_INVALID_BUFFER_SIZE || status == CL_MEM_OBJECT_ALLOCATION_FAILURE ||
           status == CL_OUT_OF_RESOURCES || status == CL_OUT_OF_HOST_MEMORY;
}

static uint64_t largest_buffer(void)
{
    cl_ulong bytes = 0;
    assert_int_equal(clGetDeviceInfo(test_device_get()->id, CL_DEVICE_MAX_MEM_ALLOC_SIZE,
                                     sizeof bytes, &bytes, NULL),
                     CL_SUCCESS);
    return bytes;
}

static void expect_refused(clmla_status status, const char *what)
{
    if (!is_refusal(status))
        fail_msg("%s: %s (%s)", what, clmla_status_name(status), test_last_notify());
    assert_non_null(strstr(test_last_notify(), what));
    assert_non_null(strstr(test_last_notify(), "cannot allocate"));
    assert_non_null(strstr(test_last_notify(), " bytes"));
}

static clmla_status make_layer(clmla_context *context, int32_t hidden_size, int32_t num_heads,
                               int32_t max_sequences, int32_t max_keys, clmla_layer **out)
{
    clmla_config config = fixture_config(36);
    config.hidden_size = hidden_size;
    config.num_attention_heads = num_heads;
    const clmla_layer_params params = {.struct_size = sizeof params,
                                       .config = &config,
                                       .max_num_sequences = max_sequences,
                                       .max_num_tokens = max_sequences,
                                       .max_cache_seqlen = max_keys,
                                       .page_block_size = 16,
                                       .num_pages = 1};
    return clmla_layer_create(context, &params, out);
}

typedef struct count {
    faults_holds holds;
    int blocks;
} count;

static count count_all(void)
{
    (void)test_device_get();
    return (count){faults_count(), memory_blocks()};
}

static void expect_counts(const count *before)
{
    scenario_expect_holds(&before->holds);
    assert_int_equal(memory_blocks(), before->blocks);
}

static void weights_larger_than_a_buffer(void **state)
{
    (void)state;
    const count before = count_all();
    const fixture_options options = {.config = fixture_config(36), .page_block_size = 16};
    fixture f = fixture_create(&options);
    clmla_layer_info info = {.struct_size = sizeof info};
    clmla_layer *layer = NULL;
    const count made = count_all();
    /* The widest layer that a configuration may have, with ever more heads; none of its weights are
     * ever read. */
    for (int32_t heads = 4; info.weights_bytes <= largest_buffer(); heads *= 2) {
        clmla_layer_release(layer);
        layer = NULL;
        if (make_layer(f.context, 1 << 20, heads, 1, 16, &layer) != CLMLA_SUCCESS) {
            assert_non_null(strstr(test_last_notify(), "must be <= "));
            fixture_release(&f);
            print_message("skipped: no weights are too large for this device\n");
            skip();
        }
        assert_int_equal(clmla_layer_get_info(layer, &info), CLMLA_SUCCESS);
    }
    const clmla_weights_params params = fixture_weights_params(&f.host_weights);
    const count layer_made = count_all();
    for (int again = 0; again < 2; again++) {
        clmla_weights *weights = NULL;
        test_clear_notify();
        expect_refused(clmla_weights_create(layer, &params, test_device_get()->queue, &weights),
                       "weights: ");
        assert_null(weights);
        expect_counts(&layer_made);
    }
    clmla_layer_release(layer);
    expect_counts(&made);
    clmla_weights *weights = NULL;
    assert_int_equal(clmla_weights_create(f.layer, &params, test_device_get()->queue, &weights),
                     CLMLA_SUCCESS);
    clmla_weights_release(weights);
    fixture_release(&f);
    expect_counts(&before);
}

static void a_plan_larger_than_a_buffer(void **state)
{
    (void)state;
    const count before = count_all();
    clmla_context *context = test_context(CLMLA_KERNELS_CPU, CLMLA_PROJECTION_NATIVE);
    const uint64_t most = largest_buffer();
    const int32_t keys = 1 << 20; /* 65536 pages, 4 bytes each */
    const uint64_t sequences = most / (4 * (uint64_t)keys / 16) + 1;
    clmla_layer *layer = NULL;
    if (sequences > 1 << 15) { /* the host makes as much */
        print_message("skipped: the device's largest buffer takes too much of the host's memory\n");
        clmla_context_release(context);
        skip();
    }
    assert_int_equal(make_layer(context, 48, 4, (int32_t)sequences, keys, &layer), CLMLA_SUCCESS);
    const count made = count_all();
    for (int again = 0; again < 2; again++) {
        clmla_plan *plan = NULL;
        test_clear_notify();
        expect_refused(clmla_plan_create(layer, &plan), "plan: ");
        assert_null(plan);
        expect_counts(&made);
    }
    clmla_layer_release(layer);
    assert_int_equal(make_layer(context, 48, 4, 2, 64, &layer), CLMLA_SUCCESS);
    clmla_plan *plan = NULL;
    assert_int_equal(clmla_plan_create(layer, &plan), CLMLA_SUCCESS);
    clmla_plan_release(plan);
    clmla_layer_release(layer);
    clmla_context_release(context);
    expect_counts(&before);
}

static void a_matrix_larger_than_a_buffer(void **state)
{
    (void)state;
    const count before = count_all();
    clmla_context *context = test_context(CLMLA_KERNELS_CPU, CLMLA_PROJECTION_NATIVE);
    static const uint16_t source[4]; /* never read */
    clmla_matrix_params params = {.struct_size = sizeof params,
                                  .source = {.host = source, .tensor.dtype = CLMLA_DTYPE_BF16},
                                  .in_features = 1 << 20,
                                  .dtype = CLMLA_DTYPE_BF16};
    params.out_features = (int32_t)(largest_buffer() / 2 / (1 << 20)) + 64;
    const count made = count_all();
    for (int again = 0; again < 2; again++) {
        clmla_matrix *matrix = NULL;
        test_clear_notify();
        expect_refused(clmla_matrix_create(context, &params, test_device_get()->queue, &matrix),
                       "matrix: ");
        assert_null(matrix);
        expect_counts(&made);
    }
    clmla_matrix *matrix = NULL;
    params.in_features = params.out_features = 2;
    assert_int_equal(clmla_matrix_create(context, &params, test_device_get()->queue, &matrix),
                     CLMLA_SUCCESS);
    clmla_matrix_release(matrix);
    clmla_context_release(context);
    expect_counts(&before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weights_larger_than_a_buffer),
        cmocka_unit_test(a_plan_larger_than_a_buffer),
        cmocka_unit_test(a_matrix_larger_than_a_buffer),
    };
    const int failed = cmocka_run_group_tests_name("device memory", tests, NULL, NULL);
    test_device_close();
    return failed;
}
