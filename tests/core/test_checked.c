#include "core/checked.h"
#include "support/support.h"

static void adds_and_multiplies_up_to_the_last_value(void **state)
{
    (void)state;
    uint64_t out = 7;
    assert_true(mla__checked_add(UINT64_MAX - 5, 5, &out));
    assert_true(out == UINT64_MAX);
    assert_true(mla__checked_mul(UINT64_C(1) << 32, UINT64_C(0xffffffff), &out));
    assert_true(out == UINT64_C(0xffffffff00000000));
    assert_true(mla__checked_mul(0, UINT64_MAX, &out));
    assert_true(out == 0);
    assert_true(mla__checked_mul(UINT64_MAX, 0, &out));
    assert_true(out == 0);
    assert_true(mla__checked_mul(UINT64_MAX, 1, &out));
    assert_true(out == UINT64_MAX);
}

static void refuses_what_does_not_fit_and_leaves_out_alone(void **state)
{
    (void)state;
    uint64_t out = 7;
    assert_false(mla__checked_add(UINT64_MAX, 1, &out));
    assert_false(mla__checked_add(UINT64_MAX - 5, 6, &out));
    assert_false(mla__checked_mul(UINT64_C(1) << 32, UINT64_C(1) << 32, &out));
    assert_false(mla__checked_mul(3, UINT64_MAX / 3 + 1, &out));
    assert_false(mla__checked_round_up(UINT64_MAX - 3, 256, &out));
    assert_true(out == 7);
}

static void rounds_up_to_units(void **state)
{
    (void)state;
    static const struct {
        uint64_t a, unit, expected;
    } cases[] = {
        {0, 256, 0},
        {1, 256, 256},
        {255, 256, 256},
        {256, 256, 256},
        {257, 256, 512},
        {10, 3, 12},
        {12, 3, 12},
        {5, 1, 5},
        {UINT64_MAX, 1, UINT64_MAX},
        {UINT64_MAX - 255, 256, UINT64_MAX - 255},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint64_t out = 7;
        assert_true(mla__checked_round_up(cases[i].a, cases[i].unit, &out));
        assert_true(out == cases[i].expected);
    }
}

static void divides_rounding_up_without_overflow(void **state)
{
    (void)state;
    assert_true(mla__ceil_div(0, 4) == 0);
    assert_true(mla__ceil_div(1, 4) == 1);
    assert_true(mla__ceil_div(4, 4) == 1);
    assert_true(mla__ceil_div(5, 4) == 2);
    assert_true(mla__ceil_div(UINT64_MAX, 2) == (UINT64_C(1) << 63));
}

/* A params struct that grew by a field between two versions. */
typedef struct first_version {
    size_t struct_size;
    uint64_t a;
} first_version;
typedef struct second_version {
    size_t struct_size;
    uint64_t a;
    uint64_t b;
} second_version;

static void copies_params_of_an_older_version_with_new_fields_zero(void **state)
{
    (void)state;
    const struct {
        first_version params;
        uint64_t not_ours;
    } caller = {{sizeof(first_version), 11}, 99};
    second_version copy;
    memset(&copy, 0xff, sizeof copy);
    assert_true(mla__params_copy(&copy, sizeof copy, sizeof(first_version), &caller.params));
    assert_true(copy.struct_size == sizeof copy);
    assert_true(copy.a == 11);
    assert_true(copy.b == 0);
}

static void copies_params_of_this_version(void **state)
{
    (void)state;
    const second_version caller = {sizeof(second_version), 11, 12};
    second_version copy = {0};
    assert_true(mla__params_copy(&copy, sizeof copy, sizeof(first_version), &caller));
    assert_memory_equal(&copy, &caller, sizeof copy);
}

static void refuses_params_of_unknown_size(void **state)
{
    (void)state;
    const size_t sizes[] = {0, 1, sizeof(first_version) - 1, sizeof(second_version) + 1, SIZE_MAX};
    second_version copy = {1, 2, 3};
    const second_version before = copy;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const second_version caller = {sizes[i], 11, 12};
        assert_false(mla__params_copy(&copy, sizeof copy, sizeof(first_version), &caller));
    }
    assert_false(mla__params_copy(&copy, sizeof copy, sizeof(first_version), NULL));
    assert_memory_equal(&copy, &before, sizeof copy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(adds_and_multiplies_up_to_the_last_value),
        cmocka_unit_test(refuses_what_does_not_fit_and_leaves_out_alone),
        cmocka_unit_test(rounds_up_to_units),
        cmocka_unit_test(divides_rounding_up_without_overflow),
        cmocka_unit_test(copies_params_of_an_older_version_with_new_fields_zero),
        cmocka_unit_test(copies_params_of_this_version),
        cmocka_unit_test(refuses_params_of_unknown_size),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
