#include "cli/stats.h"
#include "support/support.h"

typedef struct stats_case {
    const char *name;
    double samples[6];
    size_t count;
    double median, minimum, mean;
} stats_case;

static const stats_case cases[] = {
    {"one sample", {3.0}, 1, 3.0, 3.0, 3.0},
    {"two samples: the median lies between", {4.0, 1.0}, 2, 2.5, 1.0, 2.5},
    {"an odd count, unsorted", {5.0, 1.0, 3.0}, 3, 3.0, 1.0, 3.0},
    {"an even count, unsorted, one far off", {100.0, 2.0, 1.0, 3.0}, 4, 2.5, 1.0, 26.5},
    {"negative and repeated samples", {-1.0, -1.0, 2.0, 0.0, -1.0}, 5, -1.0, -1.0, -0.2},
};

static void computes(void **state)
{
    const stats_case *c = *state;
    double samples[6];
    memcpy(samples, c->samples, sizeof(samples));
    assert_true(mla_minimum(samples, c->count) == c->minimum);
    assert_true(fabs(mla_mean(samples, c->count) - c->mean) < 1e-15);
    assert_true(mla_median(samples, c->count) == c->median);
}

static void nothing_gives_nan(void **state)
{
    (void)state;
    double none[1] = {1.0};
    assert_true(isnan(mla_median(none, 0)));
    assert_true(isnan(mla_minimum(none, 0)));
    assert_true(isnan(mla_mean(none, 0)));
}

int main(void)
{
    enum { NUM_CASES = sizeof(cases) / sizeof(cases[0]) };
    struct CMUnitTest tests[NUM_CASES + 1];
    for (size_t i = 0; i < NUM_CASES; i++)
        tests[i] =
            (struct CMUnitTest){cases[i].name, computes, NULL, NULL, (void *)(uintptr_t)&cases[i]};
    tests[NUM_CASES] = (struct CMUnitTest)cmocka_unit_test(nothing_gives_nan);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
