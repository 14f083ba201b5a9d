#include "support/support.h"

#include <fnmatch.h>
#include <stdbool.h>

uint64_t test_random_u64(test_random *random)
{
    uint64_t z = (random->state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

double test_random_uniform(test_random *random, double low, double high)
{
    return low + (high - low) * ((double)(test_random_u64(random) >> 11) * 0x1p-53);
}

double test_random_normal(test_random *random)
{
    const double u = test_random_uniform(random, 0x1p-53, 1.0);
    const double v = test_random_uniform(random, 0.0, 1.0);
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v); /* Box-Muller */
}

int32_t test_random_int(test_random *random, int32_t low, int32_t high)
{
    const uint64_t span = (uint64_t)((int64_t)high - low) + 1;
    return (int32_t)(low + (int64_t)(test_random_u64(random) % span));
}

int test_all(void)
{
    const char *all = getenv("CLMLA_TEST_ALL");
    return all != NULL && strcmp(all, "1") == 0;
}

/* Whether the name fits one of the patterns, which have | between them. */
static bool fits(const char *name, const char *patterns)
{
    char pattern[128];
    for (size_t length; *patterns != '\0'; patterns += length + (patterns[length] == '|')) {
        length = strcspn(patterns, "|");
        if (length >= sizeof pattern) {
            print_error("a pattern is longer than %zu characters: %s\n", sizeof pattern - 1,
                        patterns);
            exit(1);
        }
        memcpy(pattern, patterns, length);
        pattern[length] = '\0';
        if (fnmatch(pattern, name, 0) == 0)
            return true;
    }
    return false;
}

/* What cmocka's macros call, wrapped so that no program forgets the environment. */
typedef int test_group(const char *name, const struct CMUnitTest *tests, size_t count,
                       CMFixtureFunction setup, CMFixtureFunction teardown);
test_group __real__cmocka_run_group_tests, __wrap__cmocka_run_group_tests;

int __wrap__cmocka_run_group_tests(const char *name, const struct CMUnitTest *tests, size_t count,
                                   CMFixtureFunction setup, CMFixtureFunction teardown)
{
    const char *only = getenv("CLMLA_TEST_ONLY"), *without = getenv("CLMLA_TEST_WITHOUT");
    struct CMUnitTest *chosen = malloc((count + 1) * sizeof(*chosen));
    if (chosen == NULL)
        return 1;
    size_t num_chosen = 0;
    for (size_t i = 0; i < count; i++)
        if ((only == NULL || fits(tests[i].name, only)) &&
            (without == NULL || !fits(tests[i].name, without)))
            chosen[num_chosen++] = tests[i];
    int failed = 1;
    if (only != NULL && num_chosen == 0)
        print_error("%s: no test is chosen by %s\n", name, only);
    else
        failed = __real__cmocka_run_group_tests(name, chosen, num_chosen, setup, teardown);
    free(chosen);
    return failed;
}

int test_too_long(size_t elements)
{
    const char *most = getenv("CLMLA_TEST_MAX_DIM");
    return most != NULL && elements > strtoul(most, NULL, 10);
}

void test_close(const char *what, const double *y, const double *t, size_t count, double bound)
{
    double error = 0.0, norm = 0.0, worst = -1.0;
    size_t worst_at = 0;
    for (size_t i = 0; i < count; i++) {
        const double d = fabs(y[i] - t[i]);
        if (!isfinite(y[i]))
            fail_msg("%s: element %zu is %g, expected %g", what, i, y[i], t[i]);
        error += d * d;
        norm += t[i] * t[i];
        if (d > worst) {
            worst = d;
            worst_at = i;
        }
    }
    if (!(sqrt(error) <= bound * sqrt(norm)))
        fail_msg("%s: relative L2 %.3g > %.3g; worst at %zu of %zu: %.9g, expected %.9g", what,
                 sqrt(error / norm), bound, worst_at, count, y[worst_at], t[worst_at]);
}

void test_flash_mla_close(const char *what, const double *y, const double *t, size_t count,
                          double abs_tolerance, double rel_tolerance, double cos_tolerance)
{
    double yt = 0.0, yy = 0.0, tt = 0.0;
    for (size_t i = 0; i < count; i++) {
        if (isnan(t[i]) || isinf(t[i]) || isnan(y[i]) || isinf(y[i])) {
            const int same = (isnan(t[i]) && isnan(y[i])) || (isinf(t[i]) && y[i] == t[i]);
            if (!same)
                fail_msg("%s: element %zu is %g, expected %g", what, i, y[i], t[i]);
            continue;
        }
        const double d = fabs(y[i] - t[i]);
        if (!(d < abs_tolerance) && !(d / fabs(t[i]) < rel_tolerance))
            fail_msg("%s: element %zu of %zu is %.9g, expected %.9g", what, i, count, y[i], t[i]);
        yt += y[i] * t[i];
        yy += y[i] * y[i];
        tt += t[i] * t[i];
    }
    const double difference = yy + tt > 0.0 ? 1.0 - 2.0 * yt / (yy + tt) : 0.0;
    if (!(difference < cos_tolerance))
        fail_msg("%s: cosine difference %.3g >= %.3g", what, difference, cos_tolerance);
}
