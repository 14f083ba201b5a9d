/*
 * Weights of a checkpoint in storage dtypes: FP8 is code · scale of its block, rounded once.
 */
#include <stdbool.h>

#include "clmla_model.h"
#include "core/dtype.h"
#include "support/support.h"

enum { ROWS = 131, COLUMNS = 259, BLOCK_ROWS = 2, BLOCK_COLUMNS = 3, COUNT = ROWS * COLUMNS };

/* One byte more than needed, so that data begins at odd addresses, as in files. */
static unsigned char code_bytes[COUNT + 1];
static unsigned char scale_bytes[BLOCK_ROWS * BLOCK_COLUMNS * sizeof(float) + 1];
static float scales[BLOCK_ROWS * BLOCK_COLUMNS];

static clmla_checkpoint_weight fp8_weight(void)
{
    return (clmla_checkpoint_weight){.data = code_bytes + 1,
                                     .dtype = CLMLA_ST_F8_E4M3,
                                     .rows = ROWS,
                                     .columns = COLUMNS,
                                     .scale_inv = scale_bytes + 1};
}

/* e4m3fn from its definition: bias 7, subnormals of 2^-9. */
static double value_of(unsigned char code)
{
    const int exponent = code >> 3 & 0xf, mantissa = code & 7;
    const double magnitude =
        exponent == 0 ? ldexp(mantissa, -9) : ldexp(8 + mantissa, exponent - 10);
    return (code & 0x80) != 0 ? -magnitude : magnitude;
}

static float product(int row, int column)
{
    return (float)value_of(code_bytes[1 + row * COLUMNS + column]) *
           scales[row / 128 * BLOCK_COLUMNS + column / 128];
}

static void decodes_fp8_to_every_dtype(void **state)
{
    static const clmla_dtype dtypes[] = {CLMLA_DTYPE_DEFAULT, CLMLA_DTYPE_BF16, CLMLA_DTYPE_F16,
                                         CLMLA_DTYPE_F32};
    const clmla_checkpoint_weight weight = fp8_weight();
    static float out[COUNT]; /* room for any */
    (void)state;
    for (size_t d = 0; d < sizeof dtypes / sizeof dtypes[0]; d++) {
        const clmla_dtype dtype = d == 0 ? CLMLA_DTYPE_BF16 : dtypes[d];
        assert_int_equal(clmla_checkpoint_decode(&weight, 0, ROWS, dtypes[d], out), CLMLA_SUCCESS);
        for (int row = 0; row < ROWS; row++)
            for (int column = 0; column < COLUMNS; column++) {
                double expected = 0.0;
                mla__store(&expected, dtype, 0, (double)product(row, column));
                expected = mla__load(&expected, dtype, 0);
                if (mla__load(out, dtype, (size_t)(row * COLUMNS + column)) != expected)
                    fail_msg("dtype %d, [%d, %d]: expected %.9g", (int)dtype, row, column,
                             expected);
            }
    }
}

static void decodes_a_part_of_the_rows(void **state)
{
    const clmla_checkpoint_weight weight = fp8_weight();
    float out[2 * COLUMNS + 1];
    (void)state;
    out[2 * COLUMNS] = 7.0f;
    assert_int_equal(clmla_checkpoint_decode(&weight, 127, 2, CLMLA_DTYPE_F32, out), CLMLA_SUCCESS);
    for (int i = 0; i < 2 * COLUMNS; i++)
        assert_true(out[i] == product(127 + i / COLUMNS, i % COLUMNS));
    assert_true(out[2 * COLUMNS] == 7.0f);
    assert_int_equal(clmla_checkpoint_decode(&weight, ROWS, 0, CLMLA_DTYPE_F32, out),
                     CLMLA_SUCCESS);
}

static void converts_the_other_dtypes(void **state)
{
    static const struct {
        clmla_safetensors_dtype stored;
        clmla_dtype dtype;
    } cases[] = {{CLMLA_ST_BF16, CLMLA_DTYPE_BF16},
                 {CLMLA_ST_F16, CLMLA_DTYPE_F16},
                 {CLMLA_ST_F32, CLMLA_DTYPE_F32}};
    static const double values[] = {0.0, -1.0, 1.0 + 0x1p-9, 3.14159, 1e-5, -300.25};
    enum { NUM = sizeof values / sizeof values[0] };
    (void)state;
    for (size_t from = 0; from < 3; from++)
        for (size_t to = 0; to < 3; to++) {
            unsigned char stored[NUM * 4 + 1];
            float out[NUM];
            for (size_t i = 0; i < NUM; i++)
                mla__store(stored + 1, cases[from].dtype, i, values[i]);
            const clmla_checkpoint_weight weight = {stored + 1, cases[from].stored, 2, NUM / 2,
                                                    NULL};
            assert_int_equal(clmla_checkpoint_decode(&weight, 0, 2, cases[to].dtype, out),
                             CLMLA_SUCCESS);
            for (size_t i = 0; i < NUM; i++) {
                double expected = 0.0;
                mla__store(&expected, cases[to].dtype, 0,
                           mla__load(stored + 1, cases[from].dtype, i));
                assert_true(mla__load(out, cases[to].dtype, i) ==
                            mla__load(&expected, cases[to].dtype, 0));
            }
        }
}

static void refuses_what_it_cannot_decode(void **state)
{
    clmla_checkpoint_weight weight = fp8_weight();
    const clmla_checkpoint_weight none = {0};
    float out[COLUMNS];
    (void)state;
#define REFUSED(weight, first, rows, dtype)                                                        \
    assert_int_equal(clmla_checkpoint_decode(weight, first, rows, dtype, out),                     \
                     CLMLA_INVALID_ARGUMENT)
    REFUSED(NULL, 0, 1, CLMLA_DTYPE_F32);
    REFUSED(&none, 0, 0, CLMLA_DTYPE_F32);
    REFUSED(&weight, ROWS, 1, CLMLA_DTYPE_F32);
    REFUSED(&weight, 1, UINT64_MAX, CLMLA_DTYPE_F32);
    REFUSED(&weight, UINT64_MAX, 1, CLMLA_DTYPE_F32);
    REFUSED(&weight, 0, 1, CLMLA_DTYPE_I32);
    REFUSED(&weight, 0, 1, -1);
    weight.scale_inv = NULL;
    REFUSED(&weight, 0, 1, CLMLA_DTYPE_F32);
    weight.dtype = CLMLA_ST_I8;
    REFUSED(&weight, 0, 1, CLMLA_DTYPE_F32);
#undef REFUSED
}

static void makes_sources(void **state)
{
    static const uint16_t norm[COLUMNS];
    const clmla_checkpoint_weights weights = {
        .q_proj = fp8_weight(),
        .kv_a_layernorm = {norm, CLMLA_ST_BF16, 1, COLUMNS, NULL},
        .o_proj = fp8_weight(),
    };
    clmla_weights_params params = {.struct_size = sizeof params, .offset_bytes = 512};
    void *memory = NULL;
    static uint16_t expected[COUNT];
    (void)state;
    params.q_a_proj.host = norm; /* a source that the layer does not have is cleared */
    assert_int_equal(
        clmla_checkpoint_sources(&weights, CLMLA_DTYPE_DEFAULT, &params, &memory, NULL),
        CLMLA_SUCCESS);
    assert_non_null(memory);
    assert_int_equal(clmla_checkpoint_decode(&weights.q_proj, 0, ROWS, CLMLA_DTYPE_BF16, expected),
                     CLMLA_SUCCESS);
    assert_memory_equal(params.q_proj.host, expected, sizeof expected);
    assert_memory_equal(params.o_proj.host, expected, sizeof expected);
    assert_ptr_not_equal(params.q_proj.host, params.o_proj.host);
    assert_int_equal(params.q_proj.tensor.dtype, CLMLA_DTYPE_BF16);
    assert_ptr_equal(params.kv_a_layernorm.host, norm);
    assert_int_equal(params.kv_a_layernorm.tensor.dtype, CLMLA_DTYPE_BF16);
    assert_null(params.q_a_proj.host);
    assert_true(params.struct_size == sizeof params && params.offset_bytes == 512);
    clmla_checkpoint_sources_free(memory);
    clmla_checkpoint_sources_free(NULL);
}

static void makes_sources_without_memory_where_nothing_is_fp8(void **state)
{
    static const uint16_t norm[COLUMNS];
    clmla_checkpoint_weights weights = {.o_proj = {norm, CLMLA_ST_F16, 1, COLUMNS, NULL}};
    clmla_weights_params params = {0};
    clmla_weights_params untouched;
    void *memory = &params;
    clmla_model_error error = {""};
    (void)state;
    assert_int_equal(clmla_checkpoint_sources(&weights, CLMLA_DTYPE_F32, &params, &memory, NULL),
                     CLMLA_SUCCESS);
    assert_null(memory);
    assert_ptr_equal(params.o_proj.host, norm);
    assert_int_equal(params.o_proj.tensor.dtype, CLMLA_DTYPE_F16);

    untouched = params;
    weights.o_proj.dtype = CLMLA_ST_I32;
    assert_int_equal(clmla_checkpoint_sources(&weights, CLMLA_DTYPE_F32, &params, &memory, &error),
                     CLMLA_INVALID_ARGUMENT);
    assert_non_null(strstr(error.text, "dtype"));
    assert_memory_equal(&params, &untouched, sizeof params);
    assert_int_equal(clmla_checkpoint_sources(&weights, CLMLA_DTYPE_I32, &params, &memory, NULL),
                     CLMLA_INVALID_ARGUMENT);
    assert_int_equal(clmla_checkpoint_sources(NULL, CLMLA_DTYPE_F32, &params, &memory, NULL),
                     CLMLA_INVALID_ARGUMENT);
}

static void keeps_fp8_where_it_lies(void **state)
{
    static const uint16_t norm[COLUMNS];
    clmla_checkpoint_weights weights = {
        .kv_a_layernorm = {norm, CLMLA_ST_BF16, 1, COLUMNS, NULL},
        .o_proj = fp8_weight(),
    };
    clmla_weights_params params = {0};
    void *memory = NULL;
    (void)state;
    assert_int_equal(
        clmla_checkpoint_sources(&weights, CLMLA_DTYPE_F8_E4M3, &params, &memory, NULL),
        CLMLA_SUCCESS);
    assert_ptr_equal(params.o_proj.host, code_bytes + 1);
    assert_int_equal(params.o_proj.tensor.dtype, CLMLA_DTYPE_F8_E4M3);
    assert_memory_equal(params.o_proj.scale_inv, scales, sizeof scales);
    assert_int_equal((uintptr_t)params.o_proj.scale_inv % sizeof(float), 0);
    assert_ptr_equal(params.kv_a_layernorm.host, norm);
    assert_int_equal(params.kv_a_layernorm.tensor.dtype, CLMLA_DTYPE_BF16);
    assert_null(params.kv_a_layernorm.scale_inv);
    clmla_checkpoint_sources_free(memory);

    weights.o_proj.scale_inv = NULL;
    assert_int_equal(
        clmla_checkpoint_sources(&weights, CLMLA_DTYPE_F8_E4M3, &params, &memory, NULL),
        CLMLA_INVALID_ARGUMENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decodes_fp8_to_every_dtype),
        cmocka_unit_test(decodes_a_part_of_the_rows),
        cmocka_unit_test(converts_the_other_dtypes),
        cmocka_unit_test(refuses_what_it_cannot_decode),
        cmocka_unit_test(makes_sources),
        cmocka_unit_test(keeps_fp8_where_it_lies),
        cmocka_unit_test(makes_sources_without_memory_where_nothing_is_fp8),
    };
    test_random random = {2};
    for (size_t i = 0; i < sizeof code_bytes; i++) {
        code_bytes[i] = (unsigned char)test_random_u64(&random);
        if ((code_bytes[i] & 0x7f) == 0x7f) /* NaN, which is equal to nothing */
            code_bytes[i]--;
    }
    for (size_t i = 0; i < sizeof scales / sizeof scales[0]; i++)
        scales[i] = (float)test_random_uniform(&random, 1e-4, 2.0);
    memcpy(scale_bytes + 1, scales, sizeof scales);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
