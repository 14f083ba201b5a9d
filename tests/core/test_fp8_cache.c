/* FP8 records: sizes, scales, and codes that stand for the values within half a step. */
#include <float.h>

#include "core/fp8_cache.h"
#include "support/support.h"

static void records_have_flash_mla_s_sizes(void **state)
{
    (void)state;
    assert_int_equal(mla__fp8_record_bytes(512, 64), 656);
    assert_int_equal(mla__fp8_latent_bytes(512), 528);
    assert_int_equal(mla__fp8_record_bytes(256, 32), 256 + 8 + 64);
    assert_true(mla__fp8_cache_fits(512, 64) && mla__fp8_cache_fits(128, 0));
    assert_false(mla__fp8_cache_fits(64, 64) || mla__fp8_cache_fits(320, 64) ||
                 mla__fp8_cache_fits(512, 63));
}

/* The smallest power of two that brings the largest value within 448. */
static void scales_are_the_smallest_that_fit(void **state)
{
    (void)state;
    test_random random = {.state = 5};
    assert_true(mla__fp8_scale(448.0f) == 1.0f);
    assert_true(mla__fp8_scale(nextafterf(448.0f, 500.0f)) == 2.0f);
    assert_true(mla__fp8_scale(0.0f) == 0x1p-13f);
    assert_true(mla__fp8_scale(FLT_MIN) == 0x1p-13f);
    assert_true(mla__fp8_scale(INFINITY) == mla__fp8_scale(FLT_MAX));
    for (int i = 0; i < 1000; i++) {
        const float largest = (float)exp2(test_random_uniform(&random, -3.0, 30.0));
        const float scale = mla__fp8_scale(largest);
        int exponent;
        assert_true(frexpf(scale, &exponent) == 0.5f);
        assert_true(largest <= 448.0f * scale && largest > 224.0f * scale);
    }
}

static void values_come_back_within_half_a_step(void **state)
{
    (void)state;
    enum { RANK = 384 };
    test_random random = {.state = 6};
    unsigned char record[RANK + 12], again[RANK + 12];
    float values[RANK], decoded[RANK];
    for (int i = 0; i < RANK; i++)
        values[i] = ldexpf((float)test_random_normal(&random), 4 * (i / MLA__FP8_GROUP) - 6);
    values[200] = 0.0f;
    mla__fp8_encode_latent(values, RANK, record);
    mla__fp8_decode_latent(record, RANK, decoded);
    for (int i = 0; i < RANK; i++) {
        float scale;
        memcpy(&scale, record + RANK + 4 * (i / MLA__FP8_GROUP), sizeof scale);
        const float step = fmaxf(fabsf(values[i]) * 0x1p-4f, scale * 0x1p-10f);
        assert_true(fabsf(decoded[i] - values[i]) <= step);
    }
    mla__fp8_encode_latent(decoded, RANK, again);
    mla__fp8_decode_latent(again, RANK, values);
    assert_memory_equal(values, decoded, sizeof values);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(records_have_flash_mla_s_sizes),
                                       cmocka_unit_test(scales_are_the_smallest_that_fit),
                                       cmocka_unit_test(values_come_back_within_half_a_step)};
    return cmocka_run_group_tests_name("fp8_cache", tests, NULL, NULL);
}
