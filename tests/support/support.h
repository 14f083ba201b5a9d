/*
 * What every test needs: cmocka with the headers it wants, random data with a fixed seed,
 * comparison in one place.
 */
#ifndef CLMLA_TESTS_SUPPORT_H
#define CLMLA_TESTS_SUPPORT_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* splitmix64; the seed is printed by tests that use it. */
typedef struct test_random {
    uint64_t state;
} test_random;

uint64_t test_random_u64(test_random *random);
double test_random_uniform(test_random *random, double low, double high);
double test_random_normal(test_random *random);
int32_t test_random_int(test_random *random, int32_t low, int32_t high); /* both included */

/* Whether CLMLA_TEST_ALL=1 asks for all cases of a test that computes a part of them by default. */
int test_all(void);

/*
 * In every test program, from the environment: CLMLA_TEST_ONLY, patterns (* and ?, with | between
 * them) of the names of the tests to run, at least one, and CLMLA_TEST_WITHOUT, those of tests to
 * leave out.
 */

/* Whether a case of so many elements along its longest dimension is left out: there are more than
 * CLMLA_TEST_MAX_DIM, which a simulator sets. */
int test_too_long(size_t elements);

/* Fails the test unless ||y - t|| <= bound · ||t||, printing the figure, the first worst element
 * and `what`. A NaN or infinity in y fails always. */
void test_close(const char *what, const double *y, const double *t, size_t count, double bound);

/* FlashMLA's comparator (kernelkit/compare.py): each element passes if |y - t| < abs_tolerance or
 * |y - t| / |t| < rel_tolerance; the cosine difference 1 - 2·y·t / (y·y + t·t) < cos_tolerance; NaN
 * and infinities must stand at the same places. */
void test_flash_mla_close(const char *what, const double *y, const double *t, size_t count,
                          double abs_tolerance, double rel_tolerance, double cos_tolerance);

#endif
