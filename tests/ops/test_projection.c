/* Projections of both kernel classes against the sum in double; CLBlast's are in
 * test_projection_clblast.c. */
#include "ops/projection_case.h"

/* Tails on every side of the cpu tile (4 x 64), the gpu tiles (16 x 32, 64 x 64) and their 32 k. */
static const projection_case shapes[] = {
    {.name = "one of everything", .M = 1, .N = 1, .K = 1, .x = BF16, .w = BF16, .y = BF16},
    {.name = "one row, odd k", .M = 1, .N = 65, .K = 37, .x = BF16, .w = BF16, .y = BF16},
    {.name = "one k", .M = 5, .N = 70, .K = 1, .x = BF16, .w = BF16, .y = BF16},
    {.name = "one column", .M = 6, .N = 1, .K = 33, .x = BF16, .w = BF16, .y = BF16},
    {.name = "one short of a cpu tile", .M = 3, .N = 63, .K = 31, .x = BF16, .w = BF16, .y = BF16},
    {.name = "exactly a cpu tile", .M = 4, .N = 64, .K = 32, .x = BF16, .w = BF16, .y = BF16},
    {.name = "one past a cpu tile", .M = 5, .N = 65, .K = 33, .x = BF16, .w = BF16, .y = BF16},
    {.name = "the most few rows", .M = 16, .N = 33, .K = 64, .x = BF16, .w = BF16, .y = BF16},
    {.name = "one row more", .M = 17, .N = 127, .K = 65, .x = BF16, .w = BF16, .y = BF16},
    {.name = "past a chunk of k", .M = 5, .N = 65, .K = 1029, .x = BF16, .w = BF16, .y = BF16},
    {.name = "past a block of rows", .M = 67, .N = 129, .K = 34, .x = BF16, .w = BF16, .y = BF16},
    {.name = "several panels, strided, with offset",
     .M = 9,
     .N = 200,
     .K = 96,
     .x = BF16,
     .w = BF16,
     .y = BF16,
     .row_gap = 13,
     .offset = 7},
    {.name = "heads with gaps, as q_nope",
     .M = 6,
     .N = 40,
     .K = 24,
     .batches = 3,
     .x = BF16,
     .w = BF16,
     .y = BF16,
     .row_gap = 5,
     .batch_gap = 11,
     .offset = 3},
    {.name = "x from row 3 into row 1",
     .M = 7,
     .N = 66,
     .K = 20,
     .x = BF16,
     .w = BF16,
     .y = BF16,
     .x_row = 3,
     .y_row = 1,
     .row_gap = 1},
    {.name = "x from row 0 into row 2",
     .M = 5,
     .N = 66,
     .K = 20,
     .x = BF16,
     .w = BF16,
     .y = BF16,
     .y_row = 2},
    {.name = "a transposed source, several heads",
     .M = 5,
     .N = 70,
     .K = 19,
     .batches = 2,
     .x = BF16,
     .w = BF16,
     .y = BF16,
     .transposed = true},
    {.name = "float32 weights, odd k, strided",
     .M = 9,
     .N = 70,
     .K = 33,
     .batches = 2,
     .x = BF16,
     .w = F32,
     .y = BF16,
     .row_gap = 3},
    {.name = "accumulate into bf16",
     .M = 6,
     .N = 70,
     .K = 40,
     .x = BF16,
     .w = BF16,
     .y = BF16,
     .row_gap = 3,
     .accumulate = true},
    {.name = "accumulate into float32, one row",
     .M = 1,
     .N = 17,
     .K = 40,
     .x = BF16,
     .w = BF16,
     .y = F32,
     .accumulate = true},
    {.name = "a NaN row stays alone",
     .M = 6,
     .N = 70,
     .K = 35,
     .x = BF16,
     .w = BF16,
     .y = BF16,
     .poison_row = true},
    {.name = "a NaN row, float32 weights",
     .M = 6,
     .N = 70,
     .K = 35,
     .x = BF16,
     .w = F32,
     .y = F32,
     .poison_row = true},
};

enum { NUM_SHAPES = sizeof(shapes) / sizeof(shapes[0]) };

/* A context whose projections are native, with or without the bf16 dot products. */
static clmla_context *native_context(clmla_kernel_class kernel_class, bool matrix_units)
{
    clmla_context *context = test_context(kernel_class, CLMLA_PROJECTION_NATIVE);
    context->matrix_units = matrix_units;
    return context;
}

static void matches_reference(clmla_kernel_class kernel_class, bool matrix_units)
{
    clmla_context *context = native_context(kernel_class, matrix_units);
    for (size_t i = 0; i < NUM_SHAPES; i++)
        projection_run(context, &shapes[i]);
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
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        for (int32_t rows = 1; rows <= 5; rows++) {
            projection_case one = shapes[i];
            one.M = rows;
            projection_run(context, &one);
        }
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

/* Every pair of x and w, with few rows and with more, with a y that differs from pair to pair so that all triples of one dtype
 * and each y with each w come up. */
enum { DTYPE_PAIRS = 9 };
static projection_case dtype_pair(size_t i)
{
    static const clmla_dtype dtypes[] = {BF16, F16, F32};
    static char name[64];
    const size_t x = i / 3, w = i % 3;
    const clmla_dtype y = dtypes[(2 * x + 2 * w) % 3];
    (void)snprintf(name, sizeof name, "x %s, w %s, y %s", mla__dtype_name(dtypes[x]),
                   mla__dtype_name(dtypes[w]), mla__dtype_name(y));
    return (projection_case){.name = name,
                             .M = 5,
                             .N = 70,
                             .K = 37,
                             .x = dtypes[x],
                             .w = dtypes[w],
                             .y = y,
                             .row_gap = 3,
                             .accumulate = x == w};
}

static void takes_every_dtype(void **state)
{
    (void)state;
    for (size_t c = 0; c < 2; c++) {
        clmla_context *context = test_context(both_classes[c], CLMLA_PROJECTION_NATIVE);
        for (size_t i = 0; i < DTYPE_PAIRS; i++) {
            projection_case one = dtype_pair(i);
            projection_run(context, &one);
            one.M = 3;
            projection_run(context, &one);
        }
        clmla_context_release(context);
    }
}

/* Vectors narrower than the device's compute the same chains: every shape and pair of dtypes is
 * right and has the bits of vectors of sixteen. */
static void vector_width_does_not_change_a_bit(void **state)
{
    (void)state;
    const int32_t widths[] = {16, 8, 4};
    clmla_context *contexts[3];
    for (size_t w = 0; w < 3; w++) {
        contexts[w] = native_context(CLMLA_KERNELS_CPU, false);
        contexts[w]->device.float_vector_width = widths[w];
    }
    for (size_t i = 0; i < NUM_SHAPES + DTYPE_PAIRS; i++) {
        const projection_case one = i < NUM_SHAPES ? shapes[i] : dtype_pair(i - NUM_SHAPES);
        const size_t bytes = projection_layout(&one).y_count * mla__dtype_bytes(one.y);
        unsigned char *y[3];
        for (size_t w = 0; w < 3; w++) {
            y[w] = projection_run_on(contexts[w], &one, test_device_get()->queue);
            if (memcmp(y[w], y[0], bytes) != 0)
                fail_msg("%s: vectors of %d differ", one.name, (int)widths[w]);
        }
        for (size_t w = 0; w < 3; w++)
            free(y[w]);
    }
    for (size_t w = 0; w < 3; w++)
        clmla_context_release(contexts[w]);
}

/* The tile follows the device's vectors; the bf16 dot products' does not. */
static void tile_has_the_vectors_of_the_device(void **state)
{
    (void)state;
    clmla_context *context = native_context(CLMLA_KERNELS_CPU, true);
    mla__projection_tile tile;
    for (int32_t width = 4; width <= 16; width *= 2) {
        context->device.float_vector_width = width;
        context->device.has_bf16_dot = false;
        mla__projection_choose_tile(context, BF16, BF16, 64, &tile);
        assert_int_equal(tile.vector_width, width);
        context->device.has_bf16_dot = true;
        mla__projection_choose_tile(context, BF16, BF16, 64, &tile);
        assert_int_equal(tile.vector_width, 16);
        mla__projection_choose_tile(context, BF16, F32, 64, &tile);
        assert_int_equal(tile.vector_width, width);
    }
    clmla_context_release(context);
}

/* Runs rows [first, first + count) of d's x and writes their float32 results to out. */
static void run_rows(clmla_context *context, const projection_data *d, const clmla_matrix *matrix,
                     const test_buffer *x, int32_t first, int32_t count, float *out)
{
    const size_t N = (size_t)matrix->out_features;
    test_buffer y = test_buffer_poisoned((size_t)count * N * sizeof *out, F32);
    const clmla_projection_params params = {
        .struct_size = sizeof params,
        .matrix = matrix,
        .num_rows = count,
        .x = view_of(x, (size_t)first * d->x_stride, d->x_stride, 0),
        .y = view_of(&y, 0, N, 0),
    };
    assert_int_equal(
        clmla_enqueue_projection(context, &params, test_device_get()->queue, 0, NULL, NULL),
        CLMLA_SUCCESS);
    test_buffer_read(&y, out);
    test_buffer_release(&y);
}

/* 37 rows at once, in parts that take each variant and each place in a tile. */
static void rows_do_not_depend_on_their_number(void **state)
{
    (void)state;
    enum { M = 37, N = 70, K = 1075 }; /* slices of k of more than one stage */
    const struct {
        clmla_kernel_class kernel_class;
        clmla_dtype weights;
        bool matrix_units;
    } kinds[] = {{CLMLA_KERNELS_CPU, BF16, true},
                 {CLMLA_KERNELS_CPU, BF16, false},
                 {CLMLA_KERNELS_CPU, F32, false},
                 {CLMLA_KERNELS_GPU, BF16, true},
                 {CLMLA_KERNELS_GPU, F32, true}};
    const int32_t parts[] = {1, 2, 3, 4, 6, 1, 17, 3};
    for (size_t c = 0; c < sizeof(kinds) / sizeof(kinds[0]); c++) {
        clmla_context *context = native_context(kinds[c].kernel_class, kinds[c].matrix_units);
        const projection_case one = {
            .name = "rows", .M = M, .N = N, .K = K, .x = BF16, .w = kinds[c].weights, .y = F32};
        projection_data d = projection_make(&one);
        clmla_matrix *matrix = projection_matrix(context, &one, &d);
        test_buffer x = test_buffer_of(d.x, d.x_count * mla__dtype_bytes(BF16), BF16);
        static float whole[M * N], part[M * N];
        run_rows(context, &d, matrix, &x, 0, M, whole);
        int32_t row = 0;
        for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
            run_rows(context, &d, matrix, &x, row, parts[i], part);
            assert_memory_equal(part, whole + row * N, (size_t)parts[i] * N * sizeof *part);
            row += parts[i];
        }
        assert_int_equal(row, M);
        test_buffer_release(&x);
        clmla_matrix_release(matrix);
        projection_free(&d);
        clmla_context_release(context);
    }
}

/* Σ x·w as cl/cpu/projection.cl and projection_dot.cl state their chains: k = 0, 1, 2, .. or, with
 * the zeros that fill the last pair, k = 1, 0, 3, 2, .. */
static float chain(const projection_data *d, size_t m, size_t n, size_t K, bool odd_first)
{
    float sum = 0.0f;
    for (size_t i = 0; i < K + K % 2; i++) {
        const size_t k = odd_first ? i ^ 1u : i;
        if (k < K)
            sum = fmaf((float)mla__load(d->x, BF16, m * d->x_stride + k),
                       (float)projection_rounded(BF16, d->w[n * K + k]), sum);
    }
    return sum;
}

/* Bit for bit; the order of the pairs also tells which of the kernels ran. */
static void cpu_adds_in_the_stated_order(void **state)
{
    (void)state;
    enum { M = 6, N = 70, K = 75 };
    for (int units = 0; units < 2; units++) {
        clmla_context *context = native_context(CLMLA_KERNELS_CPU, units == 1);
        const bool dot = mla__projection_uses_dot(context, BF16, BF16);
        assert_int_equal(dot, units == 1 && context->device.has_bf16_dot);
        const projection_case one = {
            .name = "order", .M = M, .N = N, .K = K, .x = BF16, .w = BF16, .y = F32};
        projection_data d = projection_make(&one);
        clmla_matrix *matrix = projection_matrix(context, &one, &d);
        test_buffer x = test_buffer_of(d.x, d.x_count * mla__dtype_bytes(BF16), BF16);
        float y[M * N];
        run_rows(context, &d, matrix, &x, 0, M, y);
        for (size_t i = 0; i < M * N; i++) {
            const float expected = chain(&d, i / N, i % N, K, dot);
            if (memcmp(&y[i], &expected, sizeof expected) != 0)
                fail_msg("dot %d: [%zu, %zu] is %a, expected %a", dot, i / N, i % N, (double)y[i],
                         (double)expected);
        }
        test_buffer_release(&x);
        clmla_matrix_release(matrix);
        projection_free(&d);
        clmla_context_release(context);
    }
}

/* Σ x·w as cl/gpu/weights.clh states it. */
static float sliced_chain(const projection_data *d, size_t m, size_t n, size_t K, size_t slice_k)
{
    float total = 0.0f;
    for (size_t first = 0; first < K; first += slice_k) {
        float sum = 0.0f;
        for (size_t k = first; k < K && k < first + slice_k; k++)
            sum = fmaf((float)mla__load(d->x, BF16, m * d->x_stride + k),
                       (float)projection_rounded(BF16, d->w[n * K + k]), sum);
        total += sum;
    }
    return total;
}

static void gpu_adds_in_the_stated_order(void **state)
{
    (void)state;
    enum { M = 6, N = 70, K = 1075 };
    clmla_context *context = native_context(CLMLA_KERNELS_GPU, true);
    const projection_case one = {
        .name = "order", .M = M, .N = N, .K = K, .x = BF16, .w = BF16, .y = F32};
    projection_data d = projection_make(&one);
    clmla_matrix *matrix = projection_matrix(context, &one, &d);
    test_buffer x = test_buffer_of(d.x, d.x_count * mla__dtype_bytes(BF16), BF16);
    mla__projection_tile tile;
    mla__projection_stream_tile(&context->device, 1, N, &tile);
    const int32_t slice_k =
        ((K - 1) / tile.slices / tile.tile_k + 1) * tile.tile_k; /* ceil(K / slices), padded */
    assert_true(tile.slices > 1 && slice_k < K);
    const int32_t rows[] = {1, 4, M};
    for (size_t r = 0; r < 3; r++) {
        float y[M * N];
        run_rows(context, &d, matrix, &x, 0, rows[r], y);
        for (size_t i = 0; i < (size_t)rows[r] * N; i++) {
            const float expected = sliced_chain(&d, i / N, i % N, K, (size_t)slice_k);
            if (memcmp(&y[i], &expected, sizeof expected) != 0)
                fail_msg("%d rows: [%zu, %zu] is %a, expected %a", (int)rows[r], i / N, i % N,
                         (double)y[i], (double)expected);
        }
    }
    test_buffer_release(&x);
    clmla_matrix_release(matrix);
    projection_free(&d);
    clmla_context_release(context);
}

/* Only bf16 with bf16 on class cpu, where asked for and there. */
static void bf16_dot_is_chosen_by_storage(void **state)
{
    (void)state;
    clmla_context *cpu = native_context(CLMLA_KERNELS_CPU, true);
    clmla_context *gpu = native_context(CLMLA_KERNELS_GPU, true);
    cpu->device.has_bf16_dot = gpu->device.has_bf16_dot = true;
    assert_true(mla__projection_uses_dot(cpu, BF16, BF16));
    assert_false(mla__projection_uses_dot(cpu, F32, BF16));
    assert_false(mla__projection_uses_dot(cpu, BF16, F32));
    assert_false(mla__projection_uses_dot(cpu, F16, F16));
    assert_false(mla__projection_uses_dot(gpu, BF16, BF16));
    cpu->matrix_units = false;
    assert_false(mla__projection_uses_dot(cpu, BF16, BF16));
    cpu->matrix_units = true;
    cpu->device.has_bf16_dot = false;
    assert_false(mla__projection_uses_dot(cpu, BF16, BF16));
    clmla_context_release(cpu);
    clmla_context_release(gpu);
}

static void works_on_an_out_of_order_queue(void **state)
{
    (void)state;
    if (test_device_get()->out_of_order == NULL) {
        print_message("skipped: the device has no out-of-order queue\n");
        skip();
    }
    clmla_context *context = test_context(CLMLA_KERNELS_CPU, CLMLA_PROJECTION_NATIVE);
    free(projection_run_on(context, &shapes[11], test_device_get()->out_of_order));
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
        projection_data d = projection_make(&one);
        clmla_matrix *matrix = projection_matrix(context, &one, &d);
        test_buffer x = test_buffer_of(d.x, d.x_count * 4, F32);
        test_buffer y = test_buffer_poisoned(d.y_count * 4, F32), workspace;
        const clmla_projection_params params =
            projection_params_of(context, &one, &d, matrix, &x, &y, &workspace);
        mla__projection op = {0};
        mla__stream stream;
        assert_int_equal(mla__projection_bind(context, &params, &op), CLMLA_SUCCESS);
        assert_int_equal(mla__stream_begin(&stream, test_device_get()->queue, 0, NULL), 0);
        assert_int_equal(mla__projection_warm(&op, &stream), CLMLA_SUCCESS);
        assert_int_equal(mla__projection_enqueue(&op, &stream, 0, 0, 0), CLMLA_SUCCESS);
        unsigned char bytes[M * N * 4];
        test_buffer_read(&y, bytes);
        for (size_t i = 0; i < M * N; i++)
            check_poison("after warming", bytes, F32, i);
        /* rows 4, 5 of x into 0, 1 of y; rows 0 .. 3 into 2 .. 5 */
        assert_int_equal(mla__projection_enqueue(&op, &stream, 4, 0, 2), CLMLA_SUCCESS);
        assert_int_equal(mla__projection_enqueue(&op, &stream, 0, 2, 4), CLMLA_SUCCESS);
        assert_int_equal(stream.clblast_calls, 0);
        test_buffer_read(&y, bytes);
        for (size_t i = 0; i < M * N; i++) {
            const size_t from = (i / N + 4) % M * N + i % N;
            check_element(one.name, i / N, i % N, F32, mla__load(bytes, F32, i), d.expected[from],
                          d.error[from]);
        }
        mla__projection_release(&op);
        test_buffer_release(&x);
        test_buffer_release(&y);
        test_buffer_release(&workspace);
        clmla_matrix_release(matrix);
        projection_free(&d);
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
    projection_data d = projection_make(&one);
    clmla_matrix *matrix = projection_matrix(context, &one, &d);
    test_buffer x = test_buffer_of(d.x, d.x_count * 4, F32);
    test_buffer y = test_buffer_of(d.y, d.y_count * 4, F32), workspace;
    const clmla_projection_params valid =
        projection_params_of(context, &one, &d, matrix, &x, &y, &workspace);
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
    test_buffer_unchanged("y after refusals", &y, d.y);
    assert_int_equal(
        clmla_enqueue_projection(NULL, &valid, test_device_get()->queue, 0, NULL, NULL),
        CLMLA_INVALID_ARGUMENT);
    test_buffer_release(&x);
    test_buffer_release(&y);
    test_buffer_release(&workspace);
    clmla_matrix_release(matrix);
    projection_free(&d);
    clmla_context_release(context);
}

static void auto_follows_class_and_rows(void **state)
{
    (void)state;
    int32_t rows;
    clmla_context *cpu = test_context(CLMLA_KERNELS_CPU, CLMLA_PROJECTION_AUTO);
    clmla_context *gpu = test_context(CLMLA_KERNELS_GPU, CLMLA_PROJECTION_AUTO);
    assert_int_equal(mla__projection_resolve(cpu, CLMLA_PROJECTION_AUTO, 4096, &rows),
                     CLMLA_PROJECTION_NATIVE);
    assert_int_equal(mla__projection_resolve(gpu, CLMLA_PROJECTION_AUTO, 32, &rows),
                     CLMLA_PROJECTION_NATIVE);
    assert_int_equal(mla__projection_resolve(gpu, CLMLA_PROJECTION_AUTO, 33, &rows),
                     CLMLA_PROJECTION_AUTO);
    assert_int_equal(rows, 32);
    assert_int_equal(mla__projection_resolve(gpu, CLMLA_PROJECTION_NATIVE, 4096, &rows),
                     CLMLA_PROJECTION_NATIVE);
    assert_int_equal(mla__projection_resolve(cpu, CLMLA_PROJECTION_CLBLAST, 1, &rows),
                     CLMLA_PROJECTION_CLBLAST);
    assert_int_equal(rows, 0);
    clmla_context *nvidia = test_context(CLMLA_KERNELS_NVIDIA, CLMLA_PROJECTION_AUTO);
    assert_int_equal(mla__projection_resolve(nvidia, CLMLA_PROJECTION_AUTO, 4096, &rows),
                     CLMLA_PROJECTION_NATIVE);
    assert_int_equal(rows, INT32_MAX);
    nvidia->matrix_units = false;
    assert_int_equal(mla__projection_resolve(nvidia, CLMLA_PROJECTION_AUTO, 4096, &rows),
                     CLMLA_PROJECTION_AUTO);
    clmla_context_release(cpu);
    clmla_context_release(gpu);
    clmla_context_release(nvidia);
}

static int close_device(void **state)
{
    (void)state;
    test_device_close();
    return 0;
}

/* An argument is a pattern of names: the tests to run. */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cpu_matches_reference),
        cmocka_unit_test(cpu_with_matrix_units_matches_reference),
        cmocka_unit_test(gpu_matches_reference),
        cmocka_unit_test(gpu_with_few_rows_matches_reference),
        cmocka_unit_test(gpu_matches_reference_on_other_devices),
        cmocka_unit_test(takes_every_dtype),
        cmocka_unit_test(vector_width_does_not_change_a_bit),
        cmocka_unit_test(tile_has_the_vectors_of_the_device),
        cmocka_unit_test(rows_do_not_depend_on_their_number),
        cmocka_unit_test(cpu_adds_in_the_stated_order),
        cmocka_unit_test(gpu_adds_in_the_stated_order),
        cmocka_unit_test(bf16_dot_is_chosen_by_storage),
        cmocka_unit_test(works_on_an_out_of_order_queue),
        cmocka_unit_test(bound_op_runs_again_with_other_rows),
        cmocka_unit_test(zero_rows_give_an_event_only),
        cmocka_unit_test(refuses_what_does_not_fit),
        cmocka_unit_test(auto_follows_class_and_rows),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("projection", tests, NULL, close_device);
}
