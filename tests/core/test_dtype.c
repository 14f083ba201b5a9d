#include "core/dtype.h"
#include "support/support.h"

/* A 16-bit format, spelled out: the conversions are checked against ldexp, not against bit tricks.
 */
typedef struct format {
    const char *name;
    int mantissa_bits;
    float (*to_float)(uint16_t bits);
    uint16_t (*from_float)(float value);
    uint16_t (*from_double)(double value);
} format;

static const format formats[] = {
    {"bf16", 7, mla__bf16_to_float, mla__float_to_bf16, mla__double_to_bf16},
    {"f16", 10, mla__f16_to_float, mla__float_to_f16, mla__double_to_f16},
};
#define NUM_FORMATS (sizeof formats / sizeof formats[0])

static unsigned infinity_of(const format *f)
{
    return ((1u << (15 - f->mantissa_bits)) - 1u) << f->mantissa_bits;
}

/* The value of a pattern by the definition of a binary format. */
static double value_by_definition(unsigned bits, int mantissa_bits, int exponent_bits)
{
    const int bias = (1 << (exponent_bits - 1)) - 1;
    const int exponent = (int)(bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
    const int mantissa = (int)bits & ((1 << mantissa_bits) - 1);
    const double sign = (bits >> (mantissa_bits + exponent_bits)) & 1u ? -1.0 : 1.0;
    if (exponent == 0)
        return sign * ldexp(mantissa, 1 - bias - mantissa_bits);
    return sign * ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
}

static void every_16_bit_pattern_has_the_value_of_its_definition(void **state)
{
    (void)state;
    for (size_t i = 0; i < NUM_FORMATS; i++) {
        const format *f = &formats[i];
        for (unsigned bits = 0; bits < 0x10000; bits++) {
            const double value = (double)f->to_float((uint16_t)bits);
            const unsigned magnitude = bits & 0x7fff;
            if (magnitude > infinity_of(f)) {
                assert_true(isnan(value));
            } else if (magnitude == infinity_of(f)) {
                assert_true(isinf(value));
                assert_int_equal(signbit(value) != 0, bits >> 15);
            } else {
                assert_true(value ==
                            value_by_definition(bits, f->mantissa_bits, 15 - f->mantissa_bits));
                assert_int_equal(signbit(value) != 0, bits >> 15);
            }
        }
    }
}

static void every_16_bit_pattern_comes_back_from_float_and_from_double(void **state)
{
    (void)state;
    for (size_t i = 0; i < NUM_FORMATS; i++) {
        const format *f = &formats[i];
        for (unsigned bits = 0; bits < 0x10000; bits++) {
            const float value = f->to_float((uint16_t)bits);
            const unsigned quiet = 1u << (f->mantissa_bits - 1);
            const unsigned expected = isnan(value) ? bits | quiet : bits;
            assert_int_equal(f->from_float(value), expected);
            assert_int_equal(f->from_double((double)value), expected);
        }
    }
}

/* Between each pair of neighbours: just below the middle, the middle, just above it. The upper
 * neighbour of the largest value is the power of two that infinity stands for. */
static void rounds_to_nearest_and_ties_to_even_between_all_neighbours(void **state)
{
    (void)state;
    for (size_t i = 0; i < NUM_FORMATS; i++) {
        const format *f = &formats[i];
        for (unsigned low = 0; low < infinity_of(f); low++) {
            const int exponent_bits = 15 - f->mantissa_bits;
            const double a = value_by_definition(low, f->mantissa_bits, exponent_bits);
            const double b = value_by_definition(low + 1, f->mantissa_bits, exponent_bits);
            const double middle = (a + b) / 2; /* exact: one bit more */
            const unsigned even = low % 2 == 0 ? low : low + 1;
            for (unsigned sign = 0; sign <= 0x8000; sign += 0x8000) {
                const double s = sign != 0 ? -1.0 : 1.0;
                assert_int_equal(f->from_double(s * nextafter(middle, 0.0)), low | sign);
                assert_int_equal(f->from_double(s * middle), even | sign);
                assert_int_equal(f->from_double(s * nextafter(middle, HUGE_VAL)), (low + 1) | sign);
                const float single = (float)middle;
                if ((double)single != middle) /* the middle of bf16's smallest subnormals */
                    continue;
                const float sf = (float)s;
                assert_int_equal(f->from_float(sf * nextafterf(single, 0.0f)), low | sign);
                assert_int_equal(f->from_float(sf * single), even | sign);
                assert_int_equal(f->from_float(sf * nextafterf(single, INFINITY)),
                                 (low + 1) | sign);
            }
        }
    }
}

static void rounds_a_double_once(void **state)
{
    (void)state;
    /* A hair above a tie: through float the hair is lost and the tie goes to even, downwards. */
    const double above_tie_bf16 = 1.0 + 0x1p-8 + 0x1p-40;
    const double above_tie_f16 = 1.0 + 0x1p-11 + 0x1p-40;
    assert_int_equal(mla__double_to_bf16(above_tie_bf16), 0x3f81);
    assert_int_equal(mla__float_to_bf16((float)above_tie_bf16), 0x3f80);
    assert_int_equal(mla__double_to_f16(above_tie_f16), 0x3c01);
    assert_int_equal(mla__float_to_f16((float)above_tie_f16), 0x3c00);
}

static void keeps_extremes(void **state)
{
    (void)state;
    for (size_t i = 0; i < NUM_FORMATS; i++) {
        const format *f = &formats[i];
        const unsigned infinity = infinity_of(f);
        assert_int_equal(f->from_double((double)INFINITY), infinity);
        assert_int_equal(f->from_double((double)-INFINITY), infinity | 0x8000);
        assert_int_equal(f->from_double(1e300), infinity);
        assert_int_equal(f->from_double(-1e300), infinity | 0x8000);
        assert_int_equal(f->from_double(0.0), 0);
        assert_int_equal(f->from_double(-0.0), 0x8000);
        assert_int_equal(f->from_double(1e-300), 0);
        assert_int_equal(f->from_double(-1e-300), 0x8000);
        assert_int_equal(f->from_double(0x1p-1074), 0);
        assert_true(isnan(f->to_float(f->from_double((double)NAN))));
        assert_true(isnan(f->to_float(f->from_float(NAN))));
    }
    assert_int_equal(mla__float_to_f16(65504.0f), 0x7bff);
    assert_int_equal(mla__float_to_f16(65519.996f), 0x7bff);
    assert_int_equal(mla__float_to_f16(65520.0f), 0x7c00);
}

/* A NaN whose set bits are all below those that remain must not become infinity. */
static void keeps_nan_with_a_low_payload(void **state)
{
    (void)state;
    const uint32_t bits = 0x7f800001u;
    const uint64_t wide_bits = UINT64_C(0xfff0000000000001);
    float single;
    double wide;
    memcpy(&single, &bits, sizeof single);
    memcpy(&wide, &wide_bits, sizeof wide);
    for (size_t i = 0; i < NUM_FORMATS; i++) {
        assert_true(isnan(formats[i].to_float(formats[i].from_float(single))));
        assert_true(isnan(formats[i].to_float(formats[i].from_double(wide))));
        assert_int_equal(formats[i].from_double(wide) >> 15, 1);
    }
}

static void every_e4m3_pattern_has_the_value_of_its_definition(void **state)
{
    (void)state;
    for (unsigned bits = 0; bits < 0x100; bits++) {
        const double value = (double)mla__f8_e4m3_to_float((uint8_t)bits);
        if ((bits & 0x7f) == 0x7f) {
            assert_true(isnan(value));
        } else {
            assert_true(value == value_by_definition(bits, 3, 4));
            assert_int_equal(signbit(value) != 0, bits >> 7);
        }
    }
    assert_true(mla__f8_e4m3_to_float(0x7e) == 448.0f);
    assert_true(mla__f8_e4m3_to_float(0x01) == 0x1p-9f);
}

/* Every code is its own value's, and a value between two goes to the nearer, ties to even. */
static void e4m3_is_rounded_to_nearest(void **state)
{
    (void)state;
    for (unsigned bits = 0; bits < 0x7e; bits++) {
        const float low = mla__f8_e4m3_to_float((uint8_t)bits);
        const float high = mla__f8_e4m3_to_float((uint8_t)(bits + 1));
        const float middle = (low + high) / 2;
        for (unsigned sign = 0; sign <= 0x80; sign += 0x80) {
            const float s = sign ? -1.0f : 1.0f;
            assert_int_equal(mla__float_to_f8_e4m3(s * low), bits | sign);
            assert_int_equal(mla__float_to_f8_e4m3(s * middle), (bits + (bits & 1u)) | sign);
            assert_int_equal(mla__float_to_f8_e4m3(s * nextafterf(middle, 0.0f)), bits | sign);
            assert_int_equal(mla__float_to_f8_e4m3(s * nextafterf(middle, 500.0f)),
                             (bits + 1) | sign);
        }
    }
    assert_int_equal(mla__float_to_f8_e4m3(448.0f), 0x7e);
    assert_int_equal(mla__float_to_f8_e4m3(1e30f), 0x7e);
    assert_int_equal(mla__float_to_f8_e4m3(-INFINITY), 0xfe);
    assert_int_equal(mla__float_to_f8_e4m3(NAN), 0x7f);
}

static void knows_sizes_and_names(void **state)
{
    (void)state;
    static const struct {
        clmla_dtype dtype;
        size_t bytes;
        const char *name;
    } cases[] = {
        {CLMLA_DTYPE_DEFAULT, 0, "default"},
        {CLMLA_DTYPE_BF16, 2, "bf16"},
        {CLMLA_DTYPE_F16, 2, "f16"},
        {CLMLA_DTYPE_F32, 4, "f32"},
        {CLMLA_DTYPE_I32, 4, "i32"},
        {CLMLA_DTYPE_FP8_DS_MLA, 1, "fp8_ds_mla"},
        {CLMLA_DTYPE_F8_E4M3, 1, "f8_e4m3"},
        {7, 0, "unknown"},
        {-1, 0, "unknown"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_true(mla__dtype_bytes(cases[i].dtype) == cases[i].bytes);
        assert_string_equal(mla__dtype_name(cases[i].dtype), cases[i].name);
    }
}

/* At an odd address, next to neighbours that must stay. */
static void loads_what_it_stored_and_touches_nothing_else(void **state)
{
    (void)state;
    const clmla_dtype dtypes[] = {CLMLA_DTYPE_BF16, CLMLA_DTYPE_F16, CLMLA_DTYPE_F32};
    for (size_t i = 0; i < 3; i++) {
        const size_t bytes = mla__dtype_bytes(dtypes[i]);
        unsigned char memory[32], expected[32];
        memset(memory, 0xff, sizeof memory);
        mla__store(memory + 1, dtypes[i], 2, -1.625);
        assert_true(mla__load(memory + 1, dtypes[i], 2) == -1.625);
        assert_true(isnan(mla__load(memory + 1, dtypes[i], 1)));
        assert_true(isnan(mla__load(memory + 1, dtypes[i], 3)));
        memset(expected, 0xff, sizeof expected);
        memcpy(expected + 1 + 2 * bytes, memory + 1 + 2 * bytes, bytes);
        assert_memory_equal(memory, expected, sizeof memory);
    }
}

static void stores_rounded_values(void **state)
{
    (void)state;
    unsigned char memory[4];
    mla__store(memory, CLMLA_DTYPE_BF16, 0, 1.0 + 0x1p-8 + 0x1p-40);
    assert_true(mla__load(memory, CLMLA_DTYPE_BF16, 0) == 1.0 + 0x1p-7);
    mla__store(memory, CLMLA_DTYPE_F16, 0, 1.0 + 0x1p-11 + 0x1p-40);
    assert_true(mla__load(memory, CLMLA_DTYPE_F16, 0) == 1.0 + 0x1p-10);
    mla__store(memory, CLMLA_DTYPE_F32, 0, 0.1);
    assert_true(mla__load(memory, CLMLA_DTYPE_F32, 0) == (double)0.1f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_16_bit_pattern_has_the_value_of_its_definition),
        cmocka_unit_test(every_16_bit_pattern_comes_back_from_float_and_from_double),
        cmocka_unit_test(rounds_to_nearest_and_ties_to_even_between_all_neighbours),
        cmocka_unit_test(rounds_a_double_once),
        cmocka_unit_test(keeps_extremes),
        cmocka_unit_test(keeps_nan_with_a_low_payload),
        cmocka_unit_test(e4m3_is_rounded_to_nearest),
        cmocka_unit_test(every_e4m3_pattern_has_the_value_of_its_definition),
        cmocka_unit_test(knows_sizes_and_names),
        cmocka_unit_test(loads_what_it_stored_and_touches_nothing_else),
        cmocka_unit_test(stores_rounded_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
