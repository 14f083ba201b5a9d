/* Projections of both kernel classes against the sum in double, which kernel a call gets, and what
 * it refuses. The results' bits are in test_projection_bits.c, CLBlast's projections in
 * test_projection_clblast.c. */
#include "ops/projection_shapes.h"

/* ---- results ------------------------------------------------------------------------------- */

static void matches_reference(clmla_kernel_class kernel_class, bool matrix_units)
{
    clmla_context *context = native_context(kernel_class, matrix_units);
    for (size_t i = 0; i < NUM_SHAPES; i++)
        projection_run(context, &projection_shapes[i]);
    clmla_context_release(context);
}

static void cpu_matches_reference(void **state)
{
    (void)state;
    matches_reference(CLMLA_KERNELS_CPU, false);
}

/* The same as cpu_matches_reference where the device has no bf16 dot products. */
static void cpu_with_matrix_units_matches_reference(void **state)
{
    (void)state;
    matches_reference(CLMLA_KERNELS_CPU, true);
}

static void gpu_matches_reference(void **state)
{
    (void)state;
    matches_reference(CLMLA_KERNELS_GPU, true);
}

/* Every shape with few rows: projection_stream up to four, the small tile from five on. */
static void gpu_with_few_rows_matches_reference(void **state)
{
    (void)state;
    clmla_context *context = native_context(CLMLA_KERNELS_GPU, true);
    for (size_t i = 0; i < NUM_SHAPES; i++) {
        for (int32_t rows = 1; rows <= 5; rows++) {
            projection_case one = projection_shapes[i];
            one.M = rows;
            projection_run(context, &one);
        }
    }
    clmla_context_release(context);
}

/* The smallest of each kernel, for simulators: few rows and more, odd and not; a device with small
 * work-groups. */
static void gpu_on_simulators(void **state)
{
    (void)state;
    clmla_context *context = native_context(CLMLA_KERNELS_GPU, true);
    context->device.max_work_group_size = 32;
    for (int32_t rows = 1; rows <= 5; rows += 4) {
        projection_case one = {.name = "smallest",
                               .M = rows,
                               .N = 9,
                               .K = 33,
                               .batches = 2,
                               .x = BF16,
                               .w = BF16,
                               .y = F32,
                               .row_gap = 3};
        projection_run(context, &one);
        one.w = F32;
        projection_run(context, &one);
    }
    clmla_context_release(context);
}

/* Devices with small work-groups and little local memory, and with so many compute units that every
 * tile is as narrow as it gets. */
static void gpu_matches_reference_on_other_devices(void **state)
{
    (void)state;
    const struct {
        size_t work_group;
        cl_ulong local_mem_bytes;
        cl_uint compute_units;
    } devices[] = {{1, 32 * 1024, 2},    {8, 16 * 1024, 2},    {32, 32 * 1024, 1},
                   {64, 32 * 1024, 300}, {128, 48 * 1024, 64}, {256, 32 * 1024, 1}};
    for (size_t d = 0; d < sizeof(devices) / sizeof(devices[0]); d++) {
        clmla_context *context = native_context(CLMLA_KERNELS_GPU, true);
        context->device.max_work_group_size = devices[d].work_group;
        context->device.local_mem_bytes = devices[d].local_mem_bytes;
        context->device.compute_units = devices[d].compute_units;
        for (int32_t rows = 1; rows <= 5; rows += 2) {
            projection_case one = {.name = "other device",
                                   .M = rows,
                                   .N = 70,
                                   .K = 301,
                                   .batches = 2,
                                   .x = BF16,
                                   .w = BF16,
                                   .y = F32,
                                   .row_gap = 3};
            projection_run(context, &one);
            one.w = F32;
            projection_run(context, &one);
        }
        clmla_context_release(context);
    }
}

/* With few rows and with more. */
static void takes_every_dtype(void **state)
{
    (void)state;
    for (size_t c = 0; c < 2; c++) {
        clmla_context *context = test_context(both_classes[c], CLMLA_PROJECTION_NATIVE);
        for (size_t i = 0; i < DTYPE_PAIRS; i++) {
            projection_case one = projection_dtype_pair(i);
            projection_run(context, &one);
            one.M = 3;
            projection_run(context, &one);
        }
        clmla_context_release(context);
    }
}

/* ---- choices ------------------------------------------------------------------------------- */

static int32_t chosen_width(const clmla_context *context, const projection_case *c)
{
    return projection_choices(context, c, 64, false).list[0].tile.vector_width;
}

/* The tile follows the device's vectors; the bf16 dot products' does not. */
static void tile_has_the_vectors_of_the_device(void **state)
{
    (void)state;
    clmla_context *context = native_context(CLMLA_KERNELS_CPU, true);
    const projection_case bf16 = {.N = 64, .K = 64, .x = BF16, .w = BF16, .y = BF16};
    const projection_case f32 = {.N = 64, .K = 64, .x = BF16, .w = F32, .y = BF16};
    for (int32_t width = 4; width <= 16; width *= 2) {
        context->device.float_vector_width = width;
        context->device.has_bf16_dot = false;
        assert_int_equal(chosen_width(context, &bf16), width);
        context->device.has_bf16_dot = true;
        assert_int_equal(chosen_width(context, &bf16), 16);
        assert_int_equal(chosen_width(context, &f32), width);
    }
    clmla_context_release(context);
}

/* Only bf16 with bf16 or FP8 on class cpu, where asked for and there; FP8 needs its decoder. */
static void bf16_dot_is_chosen_by_storage(void **state)
{
    (void)state;
    clmla_context *cpu = native_context(CLMLA_KERNELS_CPU, true);
    clmla_context *gpu = native_context(CLMLA_KERNELS_GPU, true);
    cpu->device.has_bf16_dot = gpu->device.has_bf16_dot = true;
    cpu->device.has_byte_tables = gpu->device.has_byte_tables = true;
    assert_true(mla__projection_uses_dot(cpu, BF16, BF16));
    assert_false(mla__projection_uses_dot(cpu, F32, BF16));
    assert_false(mla__projection_uses_dot(cpu, BF16, F32));
    assert_false(mla__projection_uses_dot(cpu, F16, F16));
    assert_false(mla__projection_uses_dot(gpu, BF16, BF16));
    assert_true(mla__projection_uses_dot(cpu, BF16, F8));
    assert_false(mla__projection_uses_dot(cpu, F16, F8));
    assert_false(mla__projection_uses_dot(cpu, F32, F8));
    assert_false(mla__projection_uses_dot(gpu, BF16, F8));
    cpu->matrix_units = false;
    assert_false(mla__projection_uses_dot(cpu, BF16, BF16));
    assert_false(mla__projection_uses_dot(cpu, BF16, F8));
    cpu->matrix_units = true;
    cpu->device.has_byte_tables = false;
    assert_true(mla__projection_uses_dot(cpu, BF16, BF16));
    assert_false(mla__projection_uses_dot(cpu, BF16, F8));
    cpu->device.has_byte_tables = true;
    cpu->device.has_bf16_dot = false;
    assert_false(mla__projection_uses_dot(cpu, BF16, BF16));
    assert_false(mla__projection_uses_dot(cpu, BF16, F8));
    clmla_context_release(cpu);
    clmla_context_release(gpu);
}

/* native_max_rows of an entry for bf16 weights: none, some and all of the rows. */
static void auto_follows_the_tuning_record(void **state)
{
    (void)state;
    static const struct {
        const char *rows;
        int32_t native_max_rows; /* of calls of up to 4096 rows */
        clmla_projection_backend few, many;
    } cases[] = {
        {"0", 0, CLMLA_PROJECTION_CLBLAST, CLMLA_PROJECTION_CLBLAST},
        {"96", 96, CLMLA_PROJECTION_NATIVE, CLMLA_PROJECTION_AUTO},
        {"16777216", INT32_MAX, CLMLA_PROJECTION_NATIVE, CLMLA_PROJECTION_NATIVE},
    };
    static const char *const classes[] = {"auto_cpu", "auto_gpu", "auto_nvidia"};
    const clmla_projection_backend AUTO = CLMLA_PROJECTION_AUTO;
    for (int i = 0; i < 9; i++) {
        char entry[96];
        int32_t rows;
        (void)snprintf(entry, sizeof entry, "%s weights=bf16 : native_max_rows=%s\n",
                       classes[i / 3], cases[i % 3].rows);
        char *text = test_tuning_text(entry);
        clmla_context *context = test_context_with_tuning(
            (clmla_kernel_class)(CLMLA_KERNELS_CPU + i / 3), CLMLA_MATRIX_UNITS_AUTO, text);
        context->projection = AUTO;
        assert_int_equal(mla__projection_resolve(context, AUTO, BF16, 96, &rows), cases[i % 3].few);
        assert_int_equal(mla__projection_resolve(context, AUTO, BF16, 4096, &rows),
                         cases[i % 3].many);
        assert_int_equal(rows, cases[i % 3].native_max_rows);
        /* another dtype's weights, FP8's and who asks are not the record's */
        assert_false(mla__projection_auto_rows(context, F32, &rows));
        assert_int_equal(mla__projection_resolve(context, AUTO, CLMLA_DTYPE_F8_E4M3, 4096, &rows),
                         CLMLA_PROJECTION_NATIVE);
        assert_int_equal(
            mla__projection_resolve(context, CLMLA_PROJECTION_NATIVE, BF16, 4096, &rows),
            CLMLA_PROJECTION_NATIVE);
        context->matrix_units = false; /* nvidia: then class gpu's kernels run */
        assert_int_equal(mla__projection_auto_rows(context, BF16, &rows), i / 3 != 2);
        clmla_context_release(context);
        free(text);
    }
}

/* A driver that has no vectors of sixteen floats for the inline assembly, whatever the processor. */
static void another_kernel_where_bf16_dot_does_not_build(void **state)
{
    (void)state;
    const char *const directory = TEST_OUTPUT_DIR "/no_bf16_dot_projection";
    const projection_case one = {
        .name = "no bf16 dot", .M = 6, .N = 70, .K = 40, .x = BF16, .w = BF16, .y = BF16};
    test_write_kernel(directory, "cpu/projection_dot.cl", "#error no vdpbf16ps\n");
    clmla_context *context = test_context_with_kernels(CLMLA_KERNELS_CPU, directory);
    context->device.has_bf16_dot = true;
    assert_int_equal(projection_choices(context, &one, 6, false).list[0].kind, MLA__PROJECTION_DOT);
    test_clear_notify();
    projection_run(context, &one);
    assert_non_null(strstr(test_last_notify(), "bf16 dot products does not build here"));
    clmla_context_release(context);
}

static void auto_follows_class_and_rows(void **state)
{
    (void)state;
    int32_t rows;
    clmla_context *cpu = test_context(CLMLA_KERNELS_CPU, CLMLA_PROJECTION_AUTO);
    clmla_context *gpu = test_context(CLMLA_KERNELS_GPU, CLMLA_PROJECTION_AUTO);
    assert_int_equal(mla__projection_resolve(cpu, CLMLA_PROJECTION_AUTO, BF16, 4096, &rows),
                     CLMLA_PROJECTION_NATIVE);
    assert_int_equal(mla__projection_resolve(gpu, CLMLA_PROJECTION_AUTO, BF16, 32, &rows),
                     CLMLA_PROJECTION_NATIVE);
    assert_int_equal(mla__projection_resolve(gpu, CLMLA_PROJECTION_AUTO, BF16, 33, &rows),
                     CLMLA_PROJECTION_AUTO);
    assert_int_equal(rows, 32);
    assert_int_equal(mla__projection_resolve(gpu, CLMLA_PROJECTION_NATIVE, BF16, 4096, &rows),
                     CLMLA_PROJECTION_NATIVE);
    assert_int_equal(mla__projection_resolve(cpu, CLMLA_PROJECTION_CLBLAST, BF16, 1, &rows),
                     CLMLA_PROJECTION_CLBLAST);
    assert_int_equal(rows, 0);
    clmla_context *nvidia = test_context(CLMLA_KERNELS_NVIDIA, CLMLA_PROJECTION_AUTO);
    assert_int_equal(mla__projection_resolve(nvidia, CLMLA_PROJECTION_AUTO, BF16, 4096, &rows),
                     CLMLA_PROJECTION_NATIVE);
    assert_int_equal(rows, INT32_MAX);
    nvidia->matrix_units = false;
    assert_int_equal(mla__projection_resolve(nvidia, CLMLA_PROJECTION_AUTO, BF16, 4096, &rows),
                     CLMLA_PROJECTION_AUTO);
    clmla_context_release(cpu);
    clmla_context_release(gpu);
    clmla_context_release(nvidia);
}

/* ---- calls --------------------------------------------------------------------------------- */

static void works_on_an_out_of_order_queue(void **state)
{
    (void)state;
    if (test_device_get()->out_of_order == NULL) {
        print_message("skipped: the device has no out-of-order queue\n");
        skip();
    }
    clmla_context *context = test_context(CLMLA_KERNELS_CPU, CLMLA_PROJECTION_NATIVE);
    free(projection_run_on(context, &projection_shapes[11], test_device_get()->out_of_order));
    clmla_context_release(context);
}

/* A bound op: rows move between calls, num_rows 0 does nothing, warming touches nothing. */
static void bound_op_runs_again_with_other_rows(void **state)
{
    (void)state;
    enum { M = 6, N = 5 };
    for (size_t c = 0; c < 2; c++) {
        clmla_context *context = test_context(both_classes[c], CLMLA_PROJECTION_NATIVE);
        const projection_case one = {
            .name = "rows move", .M = M, .N = N, .K = 9, .x = F32, .w = F32, .y = F32};
        projection_call call = projection_prepare(context, &one);
        mla__projection op = {0};
        mla__stream stream;
        assert_int_equal(mla__projection_bind(context, &call.params, &op), CLMLA_SUCCESS);
        assert_int_equal(mla__stream_begin(&stream, test_device_get()->queue, 0, NULL), 0);
        assert_int_equal(mla__projection_warm(&op, &stream), CLMLA_SUCCESS);
        assert_int_equal(mla__projection_enqueue(&op, &stream, 0, 0, 0), CLMLA_SUCCESS);
        unsigned char bytes[M * N * 4];
        test_buffer_read(&call.y, bytes);
        for (size_t i = 0; i < M * N; i++)
            check_poison("after warming", bytes, F32, i);
        /* rows 4, 5 of x into 0, 1 of y; rows 0 .. 3 into 2 .. 5 */
        assert_int_equal(mla__projection_enqueue(&op, &stream, 4, 0, 2), CLMLA_SUCCESS);
        assert_int_equal(mla__projection_enqueue(&op, &stream, 0, 2, 4), CLMLA_SUCCESS);
        assert_int_equal(stream.clblast_calls, 0);
        test_buffer_read(&call.y, bytes);
        for (size_t i = 0; i < M * N; i++) {
            const size_t from = (i / N + 4) % M * N + i % N;
            check_element(one.name, i / N, i % N, F32, mla__load(bytes, F32, i),
                          call.d.expected[from], call.d.error[from]);
        }
        mla__projection_release(&op);
        projection_finish(&call);
        clmla_context_release(context);
    }
}

static void zero_rows_give_an_event_only(void **state)
{
    (void)state;
    clmla_context *context = test_context(CLMLA_KERNELS_CPU, CLMLA_PROJECTION_AUTO);
    const projection_case one = {
        .name = "none", .M = 1, .N = 3, .K = 3, .x = F32, .w = F32, .y = F32};
    projection_data d = projection_make(&one);
    clmla_matrix *matrix = projection_matrix(context, &one, &d);
    const clmla_projection_params params = {.struct_size = sizeof params, .matrix = matrix};
    cl_event event = NULL;
    assert_int_equal(
        clmla_enqueue_projection(context, &params, test_device_get()->queue, 0, NULL, &event),
        CLMLA_SUCCESS);
    assert_non_null(event);
    assert_int_equal(clWaitForEvents(1, &event), CL_SUCCESS);
    clReleaseEvent(event);
    clmla_matrix_release(matrix);
    projection_free(&d);
    clmla_context_release(context);
}

/* ---- refusals ------------------------------------------------------------------------------ */

/* A valid call; each refusal changes one thing. */
static void refuses_what_does_not_fit(void **state)
{
    (void)state;
    clmla_context *context = test_context(CLMLA_KERNELS_CPU, CLMLA_PROJECTION_NATIVE);
    const projection_case one = {
        .name = "valid", .M = 3, .N = 5, .K = 7, .x = F32, .w = F32, .y = F32};
    projection_call call = projection_prepare(context, &one);
    const clmla_projection_params valid = call.params;
    clmla_projection_params wrong[10];
    for (size_t i = 0; i < 10; i++)
        wrong[i] = valid;
    wrong[0].x.dtype = CLMLA_DTYPE_I32;
    wrong[1].y.dtype = (clmla_dtype)99;
    wrong[2].x.strides[0] = 6;
    wrong[3].y.strides[0] = 4;
    wrong[4].num_rows = 1000;
    wrong[5].struct_size += 8;
    wrong[6].matrix = NULL;
    wrong[7].num_rows = -1;
    wrong[8].output_mode = 7;
    wrong[9].backend = 9;
    const clmla_status expected[] = {CLMLA_INVALID_TENSOR_DTYPE, CLMLA_INVALID_TENSOR_DTYPE,
                                     CLMLA_INVALID_STRIDE,       CLMLA_INVALID_STRIDE,
                                     CLMLA_BUFFER_TOO_SMALL,     CLMLA_INVALID_ARGUMENT,
                                     CLMLA_INVALID_ARGUMENT,     CLMLA_INVALID_TENSOR_SHAPE,
                                     CLMLA_INVALID_ARGUMENT,     CLMLA_INVALID_ARGUMENT};
    for (size_t i = 0; i < 10; i++) {
        cl_event event = NULL;
        test_clear_notify();
        const clmla_status status =
            clmla_enqueue_projection(context, &wrong[i], test_device_get()->queue, 0, NULL, &event);
        if (status != expected[i])
            fail_msg("refusal %zu: %s, expected %s", i, clmla_status_name(status),
                     clmla_status_name(expected[i]));
        assert_null(event);
        assert_non_null(strstr(test_last_notify(), "projection"));
    }
    test_buffer_unchanged("y after refusals", &call.y, call.d.y);
    assert_int_equal(
        clmla_enqueue_projection(NULL, &valid, test_device_get()->queue, 0, NULL, NULL),
        CLMLA_INVALID_ARGUMENT);
    projection_finish(&call);
    clmla_context_release(context);
}

/* An argument is a pattern of names: the tests to run. */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cpu_matches_reference),
        cmocka_unit_test(cpu_with_matrix_units_matches_reference),
        cmocka_unit_test(gpu_matches_reference),
        cmocka_unit_test(gpu_with_few_rows_matches_reference),
        cmocka_unit_test(gpu_on_simulators),
        cmocka_unit_test(gpu_matches_reference_on_other_devices),
        cmocka_unit_test(takes_every_dtype),
        cmocka_unit_test(tile_has_the_vectors_of_the_device),
        cmocka_unit_test(bf16_dot_is_chosen_by_storage),
        cmocka_unit_test(another_kernel_where_bf16_dot_does_not_build),
        cmocka_unit_test(auto_follows_class_and_rows),
        cmocka_unit_test(auto_follows_the_tuning_record),
        cmocka_unit_test(works_on_an_out_of_order_queue),
        cmocka_unit_test(bound_op_runs_again_with_other_rows),
        cmocka_unit_test(zero_rows_give_an_event_only),
        cmocka_unit_test(refuses_what_does_not_fit),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("projection", tests, NULL, test_device_teardown);
}
