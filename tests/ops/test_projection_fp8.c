/* Projections on weights that stay FP8 codes with scales of blocks of 128 x 128. */
#include "ops/projection_case.h"

static const projection_case shapes[] = {
    {.name = "one of everything", .M = 1, .N = 1, .K = 1, .x = BF16, .w = F8, .y = BF16},
    {.name = "one block", .M = 1, .N = 128, .K = 128, .x = BF16, .w = F8, .y = BF16},
    {.name = "partial blocks, odd k", .M = 3, .N = 130, .K = 391, .x = F32, .w = F8, .y = F32},
    {.name = "past a chunk of k", .M = 5, .N = 65, .K = 1029, .x = BF16, .w = F8, .y = BF16},
    {.name = "past a block of rows", .M = 67, .N = 257, .K = 258, .x = F16, .w = F8, .y = F16},
    {.name = "bf16, partial blocks, odd k",
     .M = 3,
     .N = 130,
     .K = 391,
     .x = BF16,
     .w = F8,
     .y = F32},
    {.name = "bf16, one k past a block", .M = 4, .N = 33, .K = 129, .x = BF16, .w = F8, .y = F32},
    {.name = "bf16, past a block of rows",
     .M = 67,
     .N = 257,
     .K = 259,
     .x = BF16,
     .w = F8,
     .y = F32,
     .row_gap = 3},
    {.name = "one row, accumulated",
     .M = 1,
     .N = 90,
     .K = 257,
     .x = BF16,
     .w = F8,
     .y = BF16,
     .offset = 1,
     .accumulate = true},
    {.name = "strided, accumulated",
     .M = 18,
     .N = 200,
     .K = 130,
     .x = BF16,
     .w = F8,
     .y = F32,
     .row_gap = 5,
     .offset = 3,
     .x_row = 1,
     .y_row = 2,
     .accumulate = true},
    {.name = "heads as W_UV has them",
     .M = 4,
     .N = 128,
     .K = 256,
     .batches = 3,
     .x = BF16,
     .w = F8,
     .y = BF16},
    {.name = "heads that begin inside blocks",
     .M = 4,
     .N = 40,
     .K = 256,
     .batches = 5,
     .x = BF16,
     .w = F8,
     .y = BF16},
    {.name = "heads as W_UK has them",
     .M = 2,
     .N = 300,
     .K = 128,
     .batches = 3,
     .x = BF16,
     .w = F8,
     .y = BF16,
     .transposed = true},
    {.name = "half a block a head",
     .M = 2,
     .N = 130,
     .K = 64,
     .batches = 4,
     .x = BF16,
     .w = F8,
     .y = BF16,
     .transposed = true},
    {.name = "a NaN weight",
     .M = 3,
     .N = 70,
     .K = 136,
     .batches = 2,
     .x = BF16,
     .w = F8,
     .y = F32,
     .nan_weight = true},
    {.name = "a NaN weight, many rows",
     .M = 67,
     .N = 70,
     .K = 264,
     .x = BF16,
     .w = F8,
     .y = BF16,
     .nan_weight = true},
    {.name = "a NaN weight, transposed",
     .M = 5,
     .N = 72,
     .K = 128,
     .batches = 2,
     .x = BF16,
     .w = F8,
     .y = BF16,
     .transposed = true,
     .nan_weight = true},
    {.name = "NaN in a row of x",
     .M = 4,
     .N = 70,
     .K = 130,
     .x = BF16,
     .w = F8,
     .y = F32,
     .poison_row = true},
};

enum { COUNT = sizeof shapes / sizeof shapes[0] };

static const struct {
    const char *name;
    clmla_kernel_class kernel_class;
    bool matrix_units;
} kinds[] = {{"cpu", CLMLA_KERNELS_CPU, true},
             {"cpu without dot products", CLMLA_KERNELS_CPU, false},
             {"gpu", CLMLA_KERNELS_GPU, true},
             {"nvidia", CLMLA_KERNELS_NVIDIA, true}};

enum { KINDS = sizeof kinds / sizeof kinds[0] };

static clmla_context *context_of(size_t kind)
{
    clmla_context *context = test_context(kinds[kind].kernel_class, CLMLA_PROJECTION_AUTO);
    context->matrix_units = kinds[kind].matrix_units;
    return context;
}

static void every_shape_on_every_class(void **state)
{
    (void)state;
    for (size_t k = 0; k < KINDS; k++) {
        clmla_context *context = context_of(k);
        for (size_t i = 0; i < COUNT; i++)
            projection_run(context, &shapes[i]);
        clmla_context_release(context);
    }
}

/* y = code · scale of every code, of which each is a row of weights: alone, as the first and as
 * the second of a pair. x is one there and zero elsewhere, so that nothing is rounded but the
 * product with the scale. */
static void every_code_is_exact(void **state)
{
    (void)state;
    enum { CODES = 256, MOST_K = 2 };
    static const float scales[] = {0x1p-3f, 0x1.8acf14p-8f};
    const struct {
        int32_t K, at;
    } places[] = {{1, 0}, {2, 0}, {2, 1}};
    for (size_t k = 0; k < KINDS; k++) {
        clmla_context *context = context_of(k);
        for (size_t p = 0; p < sizeof places / sizeof places[0]; p++) {
            const int32_t K = places[p].K;
            const projection_case one = {
                .name = "codes", .M = 1, .N = CODES, .K = K, .x = BF16, .w = F8, .y = F32};
            uint8_t codes[CODES * MOST_K] = {0};
            float ones[MOST_K] = {0}, y[CODES];
            unsigned char x_bits[2 * MOST_K];
            for (int32_t n = 0; n < CODES; n++)
                codes[n * K + places[p].at] = (uint8_t)n;
            ones[places[p].at] = 1.0f;
            for (int32_t i = 0; i < K; i++)
                mla__store(x_bits, BF16, (size_t)i, (double)ones[i]);
            const projection_data d = {.codes = codes, .scales = (float[]){scales[0], scales[1]}};
            clmla_matrix *matrix = projection_matrix(context, &one, &d);
            test_buffer x = test_buffer_of(x_bits, 2 * (size_t)K, BF16);
            test_buffer out = test_buffer_poisoned(sizeof y, F32);
            const clmla_projection_params params = {.struct_size = sizeof params,
                                                    .matrix = matrix,
                                                    .num_rows = 1,
                                                    .x = x.tensor,
                                                    .y = out.tensor};
            assert_int_equal(
                clmla_enqueue_projection(context, &params, test_device_get()->queue, 0, NULL, NULL),
                CLMLA_SUCCESS);
            test_buffer_read(&out, y);
            for (int n = 0; n < CODES; n++) {
                const float expected = mla__f8_e4m3_to_float((uint8_t)n) * scales[n / FP8_BLOCK];
                if (isnan(expected) ? !isnan(y[n]) : !(y[n] == expected))
                    fail_msg("%s: code 0x%02x at %d of %d is %a, expected %a", kinds[k].name,
                             (unsigned)n, (int)places[p].at, (int)K, (double)y[n],
                             (double)expected);
            }
            test_buffer_release(&x);
            test_buffer_release(&out);
            clmla_matrix_release(matrix);
        }
        clmla_context_release(context);
    }
}

static clmla_matrix_params params_of(const uint8_t *codes, const float *scales)
{
    return (clmla_matrix_params){
        .struct_size = sizeof(clmla_matrix_params),
        .source = {.host = codes, .tensor = {.dtype = F8}, .scale_inv = scales},
        .out_features = 256,
        .in_features = 512,
        .dtype = F8};
}

/* Codes are half of bf16, scales one float for 128 of them. */
static void takes_half_the_bytes_of_bf16(void **state)
{
    (void)state;
    clmla_context *context = test_context(CLMLA_KERNELS_CPU, CLMLA_PROJECTION_AUTO);
    clmla_matrix_params params = params_of(NULL, NULL);
    uint64_t fp8 = 0, bf16 = 0;
    assert_int_equal(clmla_matrix_size(context, &params, &fp8), CLMLA_SUCCESS);
    params.dtype = BF16;
    assert_int_equal(clmla_matrix_size(context, &params, &bf16), CLMLA_SUCCESS);
    assert_int_equal(bf16, 2 * 256 * 512);
    assert_int_equal(fp8, 256 * 512 + 4 * 256 * 512 / 128);
    clmla_context_release(context);
}

static void what_cannot_be_is_refused(void **state)
{
    (void)state;
    static const uint8_t codes[256 * 512];
    static const float scales[2 * 4];
    const cl_command_queue queue = test_device_get()->queue;
    clmla_context *context = test_context(CLMLA_KERNELS_CPU, CLMLA_PROJECTION_AUTO);
    const clmla_matrix_params good = params_of(codes, scales);
    clmla_matrix_params bad[] = {good, good, good, good, good};
    const clmla_status expected[] = {CLMLA_INVALID_ARGUMENT, CLMLA_INVALID_TENSOR_DTYPE,
                                     CLMLA_INVALID_TENSOR_DTYPE, CLMLA_UNSUPPORTED_CONFIG,
                                     CLMLA_UNSUPPORTED_CONFIG};
    clmla_matrix *matrix = NULL;
    bad[0].source.scale_inv = NULL;
    bad[1].dtype = BF16;
    bad[2].source.tensor.dtype = BF16;
    bad[3].transposed = 1; /* heads of 100 rows: a group of k lies in two blocks */
    bad[3].num_batches = 2;
    bad[3].out_features = 512;
    bad[3].in_features = 100;
    bad[4].source.tensor.offset_bytes = 64; /* columns from inside a block */
    bad[4].source.tensor.strides[0] = 512;
    bad[4].in_features = 256;
    bad[4].out_features = 64;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        test_clear_notify();
        assert_int_equal(clmla_matrix_create(context, &bad[i], queue, &matrix), expected[i]);
        assert_non_null(strstr(test_last_notify(), "matrix"));
    }
    assert_int_equal(clmla_matrix_create(context, &good, queue, &matrix), CLMLA_SUCCESS);
    test_buffer x = test_buffer_poisoned(1024, BF16), y = test_buffer_poisoned(1024, F32);
    const clmla_projection_params projection = {.struct_size = sizeof projection,
                                                .matrix = matrix,
                                                .num_rows = 1,
                                                .x = x.tensor,
                                                .y = y.tensor,
                                                .backend = CLMLA_PROJECTION_CLBLAST};
    assert_int_equal(clmla_enqueue_projection(context, &projection, queue, 0, NULL, NULL),
                     CLMLA_UNSUPPORTED_CONFIG);
    test_buffer_release(&x);
    test_buffer_release(&y);
    clmla_matrix_release(matrix);
    clmla_context_release(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_shape_on_every_class),
                                       cmocka_unit_test(every_code_is_exact),
                                       cmocka_unit_test(takes_half_the_bytes_of_bf16),
                                       cmocka_unit_test(what_cannot_be_is_refused)};
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    test_device_close();
    return failed;
}
