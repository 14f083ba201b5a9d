/*
 * The comparison gives the figures that tests/golden/README.md states for the official bf16 run, no
 * error for the truth, and no pass for anything that is not finite.
 */
#include <jansson.h>
#include <stdbool.h>

#include "cli/golden.h"
#include "core/dtype.h"
#include "golden_cases.h"
#include "support/support.h"

/* Rounding a double truth to the float of a result: 2^-24 relative. */
#define FLOAT_ROUNDING 6.0e-8

/* ---- comparing ------------------------------------------------------------------------------ */

/* Copies a stored tensor of any float dtype; false when there is none of this name. */
static bool copy_stored(const mla_golden *golden, const char *name, float *out, size_t count)
{
    const clmla_safetensors_tensor *tensor = clmla_safetensors_find(golden->file, name);
    if (tensor == NULL)
        return false;
    assert_true(tensor->num_elements == count);
    for (size_t i = 0; i < count; i++) {
        if (tensor->dtype == CLMLA_ST_F64)
            out[i] = (float)((const double *)tensor->data)[i];
        else if (tensor->dtype == CLMLA_ST_F32)
            out[i] = ((const float *)tensor->data)[i];
        else
            out[i] = mla__bf16_to_float(((const uint16_t *)tensor->data)[i]);
    }
    return true;
}

static void fill_request(const mla_golden *golden, int32_t r, const char *output, const char *cache,
                         mla_results *results)
{
    const mla_request *request = &golden->job.requests[r];
    size_t tokens = 0;
    char name[96];
    for (int32_t i = 0; i < request->num_steps; i++) {
        const size_t rows = (size_t)request->batch * (size_t)request->steps[i];
        (void)snprintf(name, sizeof name, "%sstep%d.%s", request->prefix, i, output);
        assert_true(copy_stored(golden, name, results->output[r][i],
                                rows * (size_t)golden->job.config.hidden_size));
        tokens += rows;
    }
    if (golden->recipe)
        return; /* their cache rows are a selection */
    (void)snprintf(name, sizeof name, "%skv_cache%s", request->prefix, cache);
    assert_true(copy_stored(golden, name, results->kv_cache[r],
                            tokens * (size_t)golden->job.config.kv_lora_rank));
    (void)snprintf(name, sizeof name, "%spe_cache%s", request->prefix, cache);
    assert_true(copy_stored(golden, name, results->pe_cache[r],
                            tokens * (size_t)golden->job.config.qk_rope_head_dim));
}

/* Results made of stored tensors: step{i}.{output} and {kv,pe}_cache{cache}. */
static void fill_results(const mla_golden *golden, const char *output, const char *cache,
                         mla_results *results)
{
    assert_int_equal(mla_results_create(&golden->job, results), CLMLA_SUCCESS);
    for (int32_t r = 0; r < golden->job.num_requests; r++)
        fill_request(golden, r, output, cache, results);
}

static mla_golden_errors compare(const mla_golden *golden, const mla_results *results)
{
    mla_golden_errors errors;
    clmla_model_error error = {""};
    memset(&errors, 0xff, sizeof errors);
    if (mla_golden_compare(golden, results, golden->bound_bf16_rel_l2, &errors, &error) !=
        CLMLA_SUCCESS)
        fail_msg("%s: %s", golden->job.name, error.text);
    return errors;
}

/* A number of the metadata `errors`: {run: {figure: number}}. */
static double stated(const mla_golden *golden, const char *run, const char *figure)
{
    json_t *root = json_loads(clmla_safetensors_metadata(golden->file, "errors"), 0, NULL);
    const json_t *value = json_object_get(json_object_get(root, run), figure);
    const double number = json_number_value(value);
    assert_true(json_is_number(value));
    json_decref(root);
    return number;
}

static void check_figure(const mla_golden *golden, const char *what, double is, double expected)
{
    /* results pass through float32: 2^-24 of an element against errors of 1e-3 and more */
    if (!(fabs(is - expected) <= 1e-4 * expected))
        fail_msg("%s: %s is %.8g, stated is %.8g", golden->job.name, what, is, expected);
}

static void finds_no_error_in_the_truth(void **state)
{
    (void)state;
    for (size_t i = 0; i < NUM_STORED; i++) {
        mla_golden golden;
        mla_results results;
        mla_golden_errors errors;
        open_case(cases[i], &golden);
        fill_results(&golden, "output", "", &results);
        errors = compare(&golden, &results);
        assert_true(errors.finite);
        assert_true(errors.rel_l2 <= FLOAT_ROUNDING);
        assert_true(errors.cache_rel_l2 <= FLOAT_ROUNDING);
        assert_true(errors.max_abs <=
                    FLOAT_ROUNDING * stated(&golden, "official_bf16_absorb", "ref_max_abs"));
        assert_true(errors.row_check == 0.0);
        mla_results_release(&golden.job, &results);
        mla_golden_close(&golden);
    }
}

/* The official bf16 run's outputs give the figures of the table in the README. */
static void reproduces_the_official_errors(void **state)
{
    (void)state;
    for (size_t i = 0; i < NUM_STORED; i++) {
        mla_golden golden;
        mla_results results;
        mla_golden_errors errors;
        const char *run;
        double kv;
        double pe;
        open_case(cases[i], &golden);
        fill_results(&golden, "output_bf16", "_bf16", &results);
        errors = compare(&golden, &results);
        run = strcmp(clmla_safetensors_metadata(golden.file, "attn_mode"), "absorb") == 0
                  ? "official_bf16_absorb"
                  : "official_bf16_naive";
        assert_true(errors.finite);
        check_figure(&golden, "rel_l2", errors.rel_l2, stated(&golden, run, "rel_l2"));
        check_figure(&golden, "max_abs", errors.max_abs, stated(&golden, run, "max_abs"));
        /* stated per cache; both together lie between the two */
        kv = stated(&golden, "official_bf16_kv_cache", "rel_l2");
        pe = stated(&golden, "official_bf16_pe_cache", "rel_l2");
        assert_true(errors.cache_rel_l2 >= fmin(kv, pe) * (1.0 - 1e-4));
        assert_true(errors.cache_rel_l2 <= fmax(kv, pe) * (1.0 + 1e-4));
        mla_results_release(&golden.job, &results);
        mla_golden_close(&golden);
    }
}

static void reproduces_the_error_of_dequantising(void **state)
{
    (void)state;
    for (size_t i = NUM_STORED - 2; i < NUM_STORED; i++) {
        mla_golden golden;
        mla_results results;
        mla_golden_errors errors;
        open_case(cases[i], &golden);
        assert_true(golden.fp8);
        fill_results(&golden, "output_bf16_dequant", "", &results);
        errors = compare(&golden, &results);
        check_figure(&golden, "rel_l2", errors.rel_l2,
                     stated(&golden, "bf16_dequant_only", "rel_l2"));
        check_figure(&golden, "max_abs", errors.max_abs,
                     stated(&golden, "bf16_dequant_only", "max_abs"));
        mla_results_release(&golden.job, &results);
        mla_golden_close(&golden);
    }
}

/* Case 30 stores every row of every step, so its table row can be checked, too. */
static void reproduces_the_official_errors_of_a_recipe(void **state)
{
    mla_golden golden;
    mla_results results;
    mla_golden_errors errors;
    (void)state;
    open_case(cases[LITE_DECODE], &golden);
    fill_results(&golden, "output_rows_bf16", "", &results);
    errors = compare(&golden, &results);
    assert_true(errors.finite);
    check_figure(&golden, "rel_l2", errors.rel_l2,
                 stated(&golden, "official_bf16_absorb", "rel_l2"));
    check_figure(&golden, "max_abs", errors.max_abs,
                 stated(&golden, "official_bf16_absorb", "max_abs"));
    assert_true(errors.row_check > 0.0);
    assert_true(errors.row_check <= 1.0);
    /* the cache was left zero: an error of 1 */
    assert_true(errors.cache_rel_l2 == 1.0);
    mla_results_release(&golden.job, &results);
    mla_golden_close(&golden);
}

/* The stored float32 rows are exact, and their sums agree with row_check: this holds only if probes
 * are drawn right. */
static void checks_every_row_of_a_recipe(void **state)
{
    const int32_t last = 15;
    mla_golden golden;
    mla_results results;
    mla_golden_errors errors;
    float *row;
    (void)state;
    open_case(cases[LITE_DECODE], &golden);
    fill_results(&golden, "output_rows", "", &results);
    errors = compare(&golden, &results);
    assert_true(errors.rel_l2 == 0.0);
    assert_true(errors.max_abs == 0.0);
    assert_true(errors.row_check <= FLOAT_ROUNDING / golden.bound_bf16_rel_l2);

    /* a row twice as long: |2 - 1| / (2 bound) */
    row = results.output[last][2];
    for (int32_t i = 0; i < golden.job.config.hidden_size; i++)
        row[i] *= 2.0f;
    errors = compare(&golden, &results);
    check_figure(&golden, "row_check", errors.row_check, 0.5 / golden.bound_bf16_rel_l2);
    /* a row of the right norm in the wrong order: only the probes tell */
    for (int32_t i = 0; i < golden.job.config.hidden_size / 2; i++) {
        const float first = row[i] / 2.0f;
        row[i] = row[golden.job.config.hidden_size - 1 - i] / 2.0f;
        row[golden.job.config.hidden_size - 1 - i] = first;
    }
    errors = compare(&golden, &results);
    assert_true(errors.row_check > 1.0);
    mla_results_release(&golden.job, &results);
    mla_golden_close(&golden);
}

/* Appended rows are addressed by their position in the whole cache. */
static void compares_the_selected_cache_rows_of_a_recipe(void **state)
{
    const int32_t rows[2] = {0, 2}; /* positions 400 and 402 of request 15 */
    mla_golden golden;
    mla_results results;
    mla_golden_errors errors;
    (void)state;
    open_case(cases[LITE_DECODE], &golden);
    fill_results(&golden, "output_rows", "", &results);
    for (int32_t r = 0; r < golden.job.num_requests; r++) {
        const size_t kv = (size_t)golden.job.config.kv_lora_rank;
        const size_t pe = (size_t)golden.job.config.qk_rope_head_dim;
        float *both = malloc(2 * (kv + pe) * sizeof(float));
        char name[96];
        assert_non_null(both);
        (void)snprintf(name, sizeof name, "req%d.kv_cache_rows", r);
        assert_true(copy_stored(&golden, name, both, 2 * kv));
        (void)snprintf(name, sizeof name, "req%d.pe_cache_rows", r);
        assert_true(copy_stored(&golden, name, both + 2 * kv, 2 * pe));
        for (size_t i = 0; i < 2; i++) {
            memcpy(results.kv_cache[r] + (size_t)rows[i] * kv, both + i * kv, kv * sizeof(float));
            memcpy(results.pe_cache[r] + (size_t)rows[i] * pe, both + 2 * kv + i * pe,
                   pe * sizeof(float));
        }
        free(both);
    }
    errors = compare(&golden, &results);
    assert_true(errors.cache_rel_l2 == 0.0);
    results.pe_cache[15][2 * golden.job.config.qk_rope_head_dim] += 1.0f;
    errors = compare(&golden, &results);
    assert_true(errors.cache_rel_l2 > 0.0);
    mla_results_release(&golden.job, &results);
    mla_golden_close(&golden);
}

static void rows_that_are_not_stored_are_checked(void **state)
{
    mla_golden golden;
    mla_results results;
    mla_golden_errors errors;
    (void)state;
    open_case("29_full_lite_prefill", &golden);
    assert_int_equal(mla_results_create(&golden.job, &results), CLMLA_SUCCESS);
    errors = compare(&golden, &results);
    assert_true(errors.finite);
    assert_true(errors.rel_l2 == 1.0);
    check_figure(&golden, "row_check", errors.row_check, 0.5 / golden.bound_bf16_rel_l2);
    mla_results_release(&golden.job, &results);
    mla_golden_close(&golden);
}

/* One bad element anywhere: not finite, and no figure it belongs to passes a bound. */
static void check_not_finite(const mla_golden *golden, const mla_results *results, float *element,
                             bool in_output)
{
    const float bad[3] = {NAN, INFINITY, -INFINITY};
    const float good = *element;
    for (int i = 0; i < 3; i++) {
        mla_golden_errors errors;
        *element = bad[i];
        errors = compare(golden, results);
        assert_false(errors.finite);
        if (in_output) {
            assert_false(errors.rel_l2 <= 1e30);
            assert_false(errors.max_abs <= 1e30);
            assert_false(errors.row_check <= 1e30);
        } else {
            assert_false(errors.cache_rel_l2 <= 1e30);
        }
    }
    *element = good;
    assert_true(compare(golden, results).finite);
}

static void nan_never_passes(void **state)
{
    static const char *const looked_at[] = {"14_autoregressive_b2", "21_ragged_autoregressive",
                                            "30_full_lite_decode"};
    (void)state;
    for (size_t i = 0; i < sizeof looked_at / sizeof looked_at[0]; i++) {
        mla_golden golden;
        mla_results results;
        int32_t last;
        open_case(looked_at[i], &golden);
        fill_results(&golden, golden.recipe ? "output_rows" : "output", "", &results);
        last = golden.job.num_requests - 1;
        check_not_finite(&golden, &results, &results.output[0][0][0], true);
        check_not_finite(&golden, &results,
                         &results.output[last][2][(int64_t)golden.job.requests[last].batch *
                                                      golden.job.config.hidden_size -
                                                  1],
                         true);
        check_not_finite(&golden, &results, &results.kv_cache[last][0], false);
        /* the second of the appended rows, which the recipe case does not store */
        check_not_finite(&golden, &results,
                         &results.pe_cache[last][golden.job.config.qk_rope_head_dim], false);
        mla_results_release(&golden.job, &results);
        mla_golden_close(&golden);
    }
}

static void refuses_a_bound_that_is_none(void **state)
{
    const double bounds[] = {0.0, -1.0, (double)NAN};
    mla_golden golden;
    mla_results results;
    mla_golden_errors errors;
    (void)state;
    open_case(cases[0], &golden);
    fill_results(&golden, "output", "", &results);
    for (size_t i = 0; i < sizeof bounds / sizeof bounds[0]; i++)
        assert_int_equal(mla_golden_compare(&golden, &results, bounds[i], &errors, NULL),
                         CLMLA_INVALID_ARGUMENT);
    mla_results_release(&golden.job, &results);
    mla_golden_close(&golden);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_no_error_in_the_truth),
        cmocka_unit_test(reproduces_the_official_errors),
        cmocka_unit_test(reproduces_the_error_of_dequantising),
        cmocka_unit_test(reproduces_the_official_errors_of_a_recipe),
        cmocka_unit_test(checks_every_row_of_a_recipe),
        cmocka_unit_test(compares_the_selected_cache_rows_of_a_recipe),
        cmocka_unit_test(rows_that_are_not_stored_are_checked),
        cmocka_unit_test(nan_never_passes),
        cmocka_unit_test(refuses_a_bound_that_is_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
