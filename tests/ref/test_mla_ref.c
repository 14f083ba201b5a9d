#include "ref/mla_ref.h"
#include "support/support.h"

#define SEED 20240501

static double *random_array(test_random *random, size_t count)
{
    double *values = malloc((count + 1) * sizeof *values);
    assert_non_null(values);
    for (size_t i = 0; i < count; i++)
        values[i] = test_random_normal(random);
    return values;
}

/* Small integers: every sum is exact, so the order of adding does not matter. */
static double *integer_array(test_random *random, size_t count)
{
    double *values = malloc((count + 1) * sizeof *values);
    assert_non_null(values);
    for (size_t i = 0; i < count; i++)
        values[i] = test_random_int(random, -50, 50);
    return values;
}

static void check_projection(test_random *random, size_t rows, size_t n, size_t k)
{
    double *x = integer_array(random, rows * k), *w = integer_array(random, n * k);
    double *y = malloc((rows * n + 1) * sizeof *y);
    assert_non_null(y);
    for (size_t i = 0; i <= rows * n; i++)
        y[i] = (double)NAN;
    mla_ref_projection(rows, n, k, x, w, y);
    for (size_t row = 0; row < rows; row++)
        for (size_t column = 0; column < n; column++) {
            double expected = 0.0;
            for (size_t i = 0; i < k; i++)
                expected += x[row * k + i] * w[column * k + i];
            if (y[row * n + column] != expected)
                fail_msg("rows %zu n %zu k %zu: y[%zu, %zu] is %g, expected %g", rows, n, k, row,
                         column, y[row * n + column], expected);
        }
    assert_true(isnan(y[rows * n]));
    free(x);
    free(w);
    free(y);
}

static void projection_is_exact_for_every_tail_of_its_tiles(void **state)
{
    (void)state;
    const size_t ks[] = {1, 2, 3, 5, 511, 512, 513, 1027};
    test_random random = {SEED};
    for (size_t rows = 0; rows <= 9; rows++)
        for (size_t n = 1; n <= 5; n++)
            for (size_t i = 0; i < sizeof ks / sizeof ks[0]; i++)
                check_projection(&random, rows, n, ks[i]);
}

static void dot_adds_every_product_once(void **state)
{
    (void)state;
    test_random random = {SEED};
    for (size_t count = 0; count < 40; count++) {
        double *a = integer_array(&random, count), *b = integer_array(&random, count);
        double expected = 0.0;
        for (size_t i = 0; i < count; i++)
            expected += a[i] * b[i];
        assert_true(mla_ref_dot(count, a, b) == expected);
        free(a);
        free(b);
    }
}

static void rmsnorm_matches_its_formula_also_in_place(void **state)
{
    (void)state;
    const double x[] = {3.0, -4.0, 0.0, 0.0};
    const double weight[] = {2.0, 0.5};
    const double eps = 0.25;
    const double expected[] = {
        2.0 * 3.0 / sqrt(12.5 + 0.25),
        0.5 * -4.0 / sqrt(12.5 + 0.25),
        0.0,
        0.0,
    };
    double y[4];
    mla_ref_rmsnorm(2, 2, eps, x, weight, y);
    test_close("rmsnorm", y, expected, 4, 1e-15);
    memcpy(y, x, sizeof y);
    mla_ref_rmsnorm(2, 2, eps, y, weight, y);
    test_close("rmsnorm in place", y, expected, 4, 1e-15);
}

static void rope_rotates_interleaved_pairs(void **state)
{
    (void)state;
    const double freq[] = {1.0, 0.01};
    const double x[] = {1.0, 2.0, 3.0, -4.0};
    const double a = 7.0, b = 0.07;
    const double expected[] = {
        1.0 * cos(a) - 2.0 * sin(a),
        1.0 * sin(a) + 2.0 * cos(a),
        3.0 * cos(b) + 4.0 * sin(b),
        3.0 * sin(b) - 4.0 * cos(b),
    };
    double y[4];
    memcpy(y, x, sizeof y);
    mla_ref_rope(4, freq, 7, y);
    test_close("rope", y, expected, 4, 1e-14);
    memcpy(y, x, sizeof y);
    mla_ref_rope(4, freq, 0, y);
    assert_memory_equal(y, x, sizeof y);
}

/* softmax over {ln 1, ln 3} + shift is {1/4, 3/4} with lse = ln 4 + shift, also where exp(shift)
 * would overflow or vanish. */
static void softmax_survives_large_logits(void **state)
{
    (void)state;
    const double shifts[] = {0.0, 5000.0, -5000.0};
    for (size_t i = 0; i < 3; i++) {
        double scores[] = {shifts[i], log(3.0) + shifts[i]};
        const double expected[] = {0.25, 0.75};
        const double lse = mla_ref_softmax(2, scores);
        test_close("softmax", scores, expected, 2, 1e-12);
        assert_true(fabs(lse - (log(4.0) + shifts[i])) < 1e-11);
    }
}

static void attention_head_matches_its_formula(void **state)
{
    (void)state;
    /* Keys of two elements and a rope part of two: logits 0.5 · (q_lat · c + q_pe · k) = 1, 2, -1.5
     */
    const double q_lat[] = {1.0, 2.0}, q_pe[] = {3.0, -1.0};
    const double c_kv[] = {1.0, 0.5, -1.0, 1.0, 0.0, 1.0};
    const double k_pe[] = {0.0, 0.0, 1.0, 0.0, -1.0, 2.0};
    const double e[] = {exp(1.0), exp(2.0), exp(-1.5)};
    const double sum = e[0] + e[1] + e[2];
    const double expected[] = {(e[0] - e[1]) / sum, (0.5 * e[0] + e[1] + e[2]) / sum};
    double scores[3], out[2], lse;
    mla_ref_attention_head(3, 2, 2, 0.5, q_lat, q_pe, c_kv, k_pe, scores, out, &lse);
    test_close("attention head", out, expected, 2, 1e-14);
    assert_true(fabs(lse - log(sum)) < 1e-14);
    assert_true(fabs(scores[2] - e[2] / sum) < 1e-15);
}

static void attention_head_without_keys_is_the_identity_of_merging(void **state)
{
    (void)state;
    const double q[] = {1.0, 2.0};
    double out[] = {7.0, 7.0}, lse = 7.0, scores = 7.0;
    mla_ref_attention_head(0, 2, 2, 0.5, q, q, NULL, NULL, &scores, out, &lse);
    assert_true(out[0] == 0.0 && out[1] == 0.0);
    assert_true(lse == (double)-INFINITY);
    assert_true(scores == 7.0);
}

/* Attention over parts of the keys, merged, is attention over all of them. */
static void merging_the_parts_gives_the_whole(void **state)
{
    (void)state;
    enum { keys = 11, kv_lora = 6, rope = 4, parts = 4 };
    const size_t ends[parts] = {3, 3, 10, keys}; /* the second part is empty */
    test_random random = {SEED};
    double *q = random_array(&random, kv_lora + rope);
    double *c_kv = random_array(&random, keys * kv_lora);
    double *k_pe = random_array(&random, keys * rope);
    double scores[keys], whole[kv_lora], whole_lse;
    double partial[parts * kv_lora], partial_lse[parts], merged[kv_lora], merged_lse;

    mla_ref_attention_head(keys, kv_lora, rope, 3.0, q, q + kv_lora, c_kv, k_pe, scores, whole,
                           &whole_lse);
    for (size_t i = 0, from = 0; i < parts; from = ends[i], i++)
        mla_ref_attention_head(ends[i] - from, kv_lora, rope, 3.0, q, q + kv_lora,
                               c_kv + from * kv_lora, k_pe + from * rope, scores,
                               partial + i * kv_lora, &partial_lse[i]);
    for (size_t i = 0; i < kv_lora; i++)
        partial[kv_lora + i] = (double)NAN; /* of the empty part: must not be used */
    mla_ref_merge_states(parts, kv_lora, partial, partial_lse, merged, &merged_lse);
    test_close("merged", merged, whole, kv_lora, 1e-14);
    assert_true(fabs(merged_lse - whole_lse) < 1e-13);
    free(q);
    free(c_kv);
    free(k_pe);
}

static void merging_nothing_gives_nothing(void **state)
{
    (void)state;
    const double partial[] = {(double)NAN, 1.0, 2.0, (double)INFINITY};
    const double lse_in[] = {(double)-INFINITY, (double)-INFINITY};
    double out[] = {7.0, 7.0}, lse = 7.0;
    mla_ref_merge_states(2, 2, partial, lse_in, out, &lse);
    assert_true(out[0] == 0.0 && out[1] == 0.0);
    assert_true(lse == (double)-INFINITY);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(projection_is_exact_for_every_tail_of_its_tiles),
        cmocka_unit_test(dot_adds_every_product_once),
        cmocka_unit_test(rmsnorm_matches_its_formula_also_in_place),
        cmocka_unit_test(rope_rotates_interleaved_pairs),
        cmocka_unit_test(softmax_survives_large_logits),
        cmocka_unit_test(attention_head_matches_its_formula),
        cmocka_unit_test(attention_head_without_keys_is_the_identity_of_merging),
        cmocka_unit_test(merging_the_parts_gives_the_whole),
        cmocka_unit_test(merging_nothing_gives_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
