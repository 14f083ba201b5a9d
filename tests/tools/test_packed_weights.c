/* Weights as tools/gpu_report/cuda_harness packs them are those that the library packs. */
#include "gpu_report/cuda_data.h"
#include "ops/matrix.h"
#include "support/device.h"
#include "support/support.h"

static void packed_as_the_library_packs(void **state)
{
    static const struct {
        size_t N, K;
    } cases[] = {{1, 2}, {64, 32}, {65, 8}, {200, 1064}, {72, 33}};
    clmla_context *context = test_context(CLMLA_KERNELS_CPU, CLMLA_PROJECTION_NATIVE);
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const size_t N = cases[i].N, K = cases[i].K, count = data_packed_count(N, K);
        const size_t bytes = count * sizeof(uint16_t);
        uint16_t *plain = malloc(N * K * sizeof(*plain));
        uint16_t *packed = malloc(bytes), *expected = malloc(bytes);
        clmla_matrix *matrix = NULL;
        assert_true(plain != NULL && packed != NULL && expected != NULL);
        data_draw(plain, N * K, i);
        const clmla_matrix_params params = {
            .struct_size = sizeof params,
            .source = {.host = plain, .tensor = {.dtype = CLMLA_DTYPE_BF16}},
            .out_features = (int32_t)N,
            .in_features = (int32_t)K,
            .dtype = CLMLA_DTYPE_BF16,
        };
        assert_int_equal(clmla_matrix_create(context, &params, test_device_get()->queue, &matrix),
                         CLMLA_SUCCESS);
        assert_int_equal(clEnqueueReadBuffer(test_device_get()->queue, matrix->buffer, CL_TRUE,
                                             matrix->offset_bytes, bytes, expected, 0, NULL, NULL),
                         CL_SUCCESS);
        data_pack(plain, N, K, packed);
        assert_memory_equal(packed, expected, bytes);
        clmla_matrix_release(matrix);
        free(plain);
        free(packed);
        free(expected);
    }
    clmla_context_release(context);
}

/* What the checks of results rely on: no zeros, and a sum of two products is exact in float32. */
static void drawn_values_are_odd_multiples(void **state)
{
    uint16_t drawn[1000];
    double sum = 0.0;
    (void)state;
    data_draw(drawn, 1000, 7);
    for (size_t i = 0; i < 1000; i++) {
        const double scaled = data_value(drawn[i]) * 256.0;
        assert_true(fabs(scaled) < 256.0 && fabs(fmod(scaled, 2.0)) == 1.0);
        assert_int_equal(data_round(data_value(drawn[i])), drawn[i]);
        sum += data_value(drawn[i]);
    }
    assert_true(fabs(sum) < 100.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packed_as_the_library_packs),
        cmocka_unit_test(drawn_values_are_odd_multiples),
    };
    return cmocka_run_group_tests(tests, NULL, test_device_teardown);
}
