/* What must not change a native projection's result by a single bit (the width of the device's
 * vectors, the number of rows), and the order in which its kernels state that they add. */
#include "ops/projection_shapes.h"

/* ---- what must not change a bit ------------------------------------------------------------ */

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
    const projection_case fp8 = {
        .name = "FP8", .M = 69, .N = 150, .K = 323, .x = BF16, .w = F8, .y = F32};
    for (size_t i = 0; i <= NUM_SHAPES + DTYPE_PAIRS; i++) {
        const projection_case one = i < NUM_SHAPES ? projection_shapes[i]
                                    : i < NUM_SHAPES + DTYPE_PAIRS
                                        ? projection_dtype_pair(i - NUM_SHAPES)
                                        : fp8;
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
    } kinds[] = {{CLMLA_KERNELS_CPU, BF16, true}, {CLMLA_KERNELS_CPU, BF16, false},
                 {CLMLA_KERNELS_CPU, F32, false}, {CLMLA_KERNELS_CPU, F8, true},
                 {CLMLA_KERNELS_CPU, F8, false},  {CLMLA_KERNELS_GPU, BF16, true},
                 {CLMLA_KERNELS_GPU, F32, true},  {CLMLA_KERNELS_GPU, F8, true}};
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

/* ---- the order of the sum ------------------------------------------------------------------ */

/* Σ x·w as cl/cpu/projection.cl and projection_dot.cl state their chains: k = 0, 1, 2, .. or, with
 * the zeros that fill the last pair, k = 1, 0, 3, 2, .. */
static float chain(const projection_data *d, size_t m, size_t n, size_t K, clmla_dtype w,
                   bool odd_first)
{
    float sum = 0.0f;
    for (size_t i = 0; i < K + K % 2; i++) {
        const size_t k = odd_first ? i ^ 1u : i;
        if (k < K)
            sum = fmaf((float)mla__load(d->x, BF16, m * d->x_stride + k),
                       (float)projection_rounded(w, d->w[n * K + k]), sum);
    }
    return sum;
}

/* The same as cl/cpu/projection_dot_fp8.cl states it: chains of unscaled codes in groups of k. */
static float grouped_chain(const projection_data *d, size_t m, size_t n, size_t K)
{
    const size_t across = (K - 1) / FP8_BLOCK + 1;
    float total = 0.0f;
    for (size_t first = 0; first < K; first += FP8_BLOCK) {
        float sum = 0.0f;
        for (size_t i = first; i < K + K % 2 && i < first + FP8_BLOCK; i++) {
            const size_t k = i ^ 1u;
            if (k < K)
                sum = fmaf((float)mla__load(d->x, BF16, m * d->x_stride + k),
                           mla__f8_e4m3_to_float(d->codes[n * K + k]), sum);
        }
        total = fmaf(sum, d->scales[n / FP8_BLOCK * across + first / FP8_BLOCK], total);
    }
    return total;
}

/* Bit for bit; the order of the pairs also tells which of the kernels ran. */
static void cpu_adds_in_the_stated_order(void **state)
{
    (void)state;
    enum { M = 6, N = 150, K = 323 };
    for (int run = 0; run < 4; run++) {
        const bool units = run % 2 == 1;
        const clmla_dtype w = run < 2 ? BF16 : F8;
        clmla_context *context = native_context(CLMLA_KERNELS_CPU, units);
        const bool dot = mla__projection_uses_dot(context, BF16, w);
        assert_int_equal(dot, units && context->device.has_bf16_dot &&
                                  (w == BF16 || context->device.has_byte_tables));
        const projection_case one = {
            .name = "order", .M = M, .N = N, .K = K, .x = BF16, .w = w, .y = F32};
        projection_data d = projection_make(&one);
        clmla_matrix *matrix = projection_matrix(context, &one, &d);
        test_buffer x = test_buffer_of(d.x, d.x_count * mla__dtype_bytes(BF16), BF16);
        float y[M * N];
        run_rows(context, &d, matrix, &x, 0, M, y);
        for (size_t i = 0; i < M * N; i++) {
            const float expected = dot && w == F8 ? grouped_chain(&d, i / N, i % N, K)
                                                  : chain(&d, i / N, i % N, K, w, dot);
            if (memcmp(&y[i], &expected, sizeof expected) != 0)
                fail_msg("dot %d, w %s: [%zu, %zu] is %a, expected %a", dot, mla__dtype_name(w),
                         i / N, i % N, (double)y[i], (double)expected);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vector_width_does_not_change_a_bit),
        cmocka_unit_test(rows_do_not_depend_on_their_number),
        cmocka_unit_test(cpu_adds_in_the_stated_order),
        cmocka_unit_test(gpu_adds_in_the_stated_order),
    };
    return cmocka_run_group_tests_name("bits of projection", tests, NULL, test_device_teardown);
}
