/*
 * The golden cases by name, for the tests of src/cli/golden*.c.
 */
#ifndef CLMLA_TESTS_GOLDEN_CASES_H
#define CLMLA_TESTS_GOLDEN_CASES_H

#include "cli/golden.h"
#include "support/support.h"

static const char *const cases[] = {
    "01_tiny_prefill",    "02_tiny_decode",       "03_tiny_yarn",
    "04_lite_prefill",    "05_lite_decode",       "06_r1_yarn_prefill",
    "07_r1_yarn_decode",  "08_r1_noyarn_prefill", "09_r1_noyarn_decode",
    "10_odd_prefill",     "11_odd_decode",        "12_odd_yarn_chunk",
    "13_autoregressive",  "14_autoregressive_b2", "15_chunked_7_9",
    "16_chunked_4_b2",    "17_batch_prefill",     "18_batch_decode",
    "19_ragged_decode",   "20_ragged_prefill",    "21_ragged_autoregressive",
    "22_long_decode",     "23_long_decode_qlora", "24_large_prefill",
    "25_large_decode",    "26_small_prefill",     "27_fp8_prefill",
    "28_fp8_decode",      "29_full_lite_prefill", "30_full_lite_decode",
    "31_full_r1_prefill", "32_full_r1_decode",
};

enum { NUM_CASES = sizeof cases / sizeof cases[0], NUM_STORED = 28, LITE_DECODE = 29 };

static inline void case_path(const char *name, char *path, size_t bytes)
{
    const int length = snprintf(path, bytes, GOLDEN_DIR "/%s.safetensors", name);
    assert_true(length > 0 && (size_t)length < bytes);
}

static inline void open_case(const char *name, mla_golden *golden)
{
    char path[512];
    clmla_model_error error = {""};
    case_path(name, path, sizeof path);
    if (mla_golden_open(path, NULL, NULL, golden, &error) != CLMLA_SUCCESS)
        fail_msg("%s: %s", name, error.text);
}

#endif
