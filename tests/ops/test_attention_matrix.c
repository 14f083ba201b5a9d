/*
 * FlashMLA's dense decoding tests (tests/test_flash_mla_dense_decoding.py), reduced to what a CPU
 * computes in seconds: batch, new tokens, keys, heads, varying lengths, empty sequences, both
 * masks, block tables shuffled, unused cache and entries absurd; its comparator with its
 * tolerances. Differences: one latent head (that is MLA), pages of other sizes too, and the
 * log-sum-exp of a query without keys is -INFINITY here.
 */
#include "support/attention_batch.h"
#include "support/support.h"

enum { LATENT = 512, ROPE = 64, MAX_SEQUENCES = 16, SEED = 2025 };

typedef struct matrix_case {
    const char *name;
    int32_t num_sequences, new_tokens, keys, num_heads;
    bool varlen, some_empty;
    int32_t page_block_size;
    size_t max_rows; /* rows computed by the reference, spread evenly; 0: all */
} matrix_case;

static const matrix_case cpu_cases[] = {
    {"one sequence, one head", 1, 1, 20, 1, false, false, 64, 0},
    {"one sequence, three heads, two tokens", 1, 2, 20, 3, false, false, 64, 0},
    {"two sequences, nine heads", 2, 1, 140, 9, false, false, 64, 0},
    {"two sequences, nine heads, four tokens", 2, 4, 140, 9, true, false, 64, 0},
    {"six sequences of varying length", 6, 1, 140, 16, true, false, 64, 0},
    {"six sequences of varying length, four tokens", 6, 4, 140, 16, true, false, 64, 128},
    {"63 heads, two tokens", 2, 2, 140, 63, true, false, 64, 128},
    {"128 heads", 1, 1, 140, 128, false, false, 64, 0},
    {"128 heads, two tokens, varying length", 2, 2, 140, 128, true, false, 64, 128},
    {"a thousand keys", 1, 1, 1000, 16, false, false, 64, 0},
    {"four thousand keys", 1, 1, 4096, 16, false, false, 64, 0},
    {"four thousand keys, four tokens, varying length", 2, 4, 4096, 16, true, false, 64, 32},
    {"a thousand keys, 128 heads", 1, 1, 1000, 128, false, false, 64, 48},
    {"about half the sequences empty", 16, 2, 600, 9, true, true, 64, 96},
    {"pages of one row", 2, 2, 140, 16, true, false, 1, 0},
    {"pages of 61 rows", 2, 2, 140, 16, true, false, 61, 0},
    {"pages of 256 rows", 2, 1, 600, 16, true, false, 256, 0},
};

static const matrix_case gpu_cases[] = {
    {"one sequence, one head", 1, 1, 20, 1, false, false, 64, 0},
    {"two sequences, nine heads, two tokens", 2, 2, 140, 9, true, false, 64, 0},
    {"six sequences, some empty, three heads", 6, 2, 60, 3, true, true, 64, 0},
    {"63 heads", 1, 1, 20, 63, false, false, 61, 0},
    {"pages of one row", 1, 4, 20, 16, false, false, 1, 0},
};

static const matrix_case large_tile_cases[] = {
    {"63 heads, two tokens", 2, 2, 20, 63, true, false, 64, 32},
    {"128 heads", 1, 1, 40, 128, false, false, 61, 32},
};

static const matrix_case warpgroup_cases[] = {
    {"64 heads, two tokens, varying length", 2, 2, 140, 64, true, false, 64, 64},
    {"128 heads", 1, 1, 200, 128, false, false, 61, 64},
    {"128 heads, six sequences, some empty", 6, 1, 60, 128, true, true, 64, 64},
};

/* max(normal(keys, keys / 2), new tokens), cut at twice the keys; or 0. */
static void draw_lengths(const matrix_case *c, attention_sequence *sequences)
{
    test_random random = {.state = SEED};
    for (int32_t s = 0; s < c->num_sequences; s++) {
        double keys = c->keys;
        if (c->varlen)
            keys = fmin(2.0 * keys, keys + 0.5 * keys * test_random_normal(&random));
        if (keys < c->new_tokens)
            keys = c->new_tokens;
        if (c->some_empty && test_random_int(&random, 0, 1) == 0)
            keys = 0;
        sequences[s] = (attention_sequence){s, c->new_tokens, (int32_t)keys};
    }
}

static void check(clmla_context *context, const matrix_case *c, clmla_mask mask, int32_t tile_rows)
{
    char what[128];
    attention_sequence sequences[MAX_SEQUENCES];
    draw_lengths(c, sequences);
    const attention_batch batch = {.num_heads = c->num_heads,
                                   .kv_lora_rank = LATENT,
                                   .rope_dim = ROPE,
                                   .mask = mask,
                                   .num_sequences = c->num_sequences,
                                   .sequences = sequences,
                                   .page_block_size = c->page_block_size,
                                   .tile_rows = tile_rows};
    attention_problem p = attention_problem_make(context, &batch);
    const size_t rows = (size_t)p.num_tokens * (size_t)c->num_heads;
    const size_t checked = c->max_rows == 0 || c->max_rows > rows ? rows : c->max_rows;
    double *out = calloc(rows * LATENT, sizeof(double)), *lse = calloc(rows, sizeof(double));
    double *t = calloc(checked * LATENT, sizeof(double)), *t_lse = calloc(checked, sizeof(double));
    assert_true(out != NULL && lse != NULL && t != NULL && t_lse != NULL);
    for (size_t i = 0; i < checked; i++)
        (void)attention_reference(&p, i * rows / checked, t + i * LATENT, t_lse + i);

    const cl_command_queue queue = test_device_get()->queue;
    const clmla_status status = attention_problem_enqueue(context, &p, queue, 0, NULL, NULL);
    if (status != CLMLA_SUCCESS)
        fail_msg("%s: %s: %s", c->name, clmla_status_name(status), test_last_notify());
    assert_int_equal(clFinish(queue), CL_SUCCESS);
    attention_problem_read(&p, out, lse);
    for (size_t i = 0; i < rows * LATENT; i++)
        if (!isfinite(out[i]))
            fail_msg("%s: element %zu of out is %g", c->name, i, out[i]);
    for (size_t i = 0; i < checked; i++) {
        memmove(out + i * LATENT, out + i * rows / checked * LATENT, LATENT * sizeof(double));
        lse[i] = lse[i * rows / checked];
    }
    (void)snprintf(what, sizeof what, "%s, %s", c->name,
                   mask == CLMLA_MASK_CAUSAL ? "causal" : "no mask");
    test_flash_mla_close(what, out, t, checked * LATENT, 8e-4, 2.01 / 128, 5e-6);
    test_flash_mla_close(what, lse, t_lse, checked, 1e-6, 8.01 / 65536, (double)INFINITY);
    free(out);
    free(lse);
    free(t);
    free(t_lse);
    attention_problem_release(&p);
}

static void check_all(clmla_context *context, const matrix_case *cases, size_t count,
                      int32_t tile_rows)
{
    print_message("lengths drawn with seed %d\n", (int)SEED);
    for (size_t i = 0; i < count; i++) {
        check(context, &cases[i], CLMLA_MASK_CAUSAL, tile_rows);
        check(context, &cases[i], CLMLA_MASK_NONE, tile_rows);
    }
    clmla_context_release(context);
}

/* On bf16 dot products where the device has them. */
static void flash_mla_matrix_cpu_class(void **state)
{
    (void)state;
    check_all(test_context_with_units(CLMLA_KERNELS_CPU, CLMLA_MATRIX_UNITS_AUTO), cpu_cases,
              sizeof cpu_cases / sizeof cpu_cases[0], 0);
}

static void flash_mla_matrix_cpu_class_in_float32(void **state)
{
    (void)state;
    check_all(test_context_with_units(CLMLA_KERNELS_CPU, CLMLA_MATRIX_UNITS_OFF), cpu_cases,
              sizeof cpu_cases / sizeof cpu_cases[0], 0);
}

static void flash_mla_matrix_gpu_class(void **state)
{
    (void)state;
    check_all(test_context_with_units(CLMLA_KERNELS_GPU, CLMLA_MATRIX_UNITS_AUTO), gpu_cases,
              sizeof gpu_cases / sizeof gpu_cases[0], 0);
}

/* On tensor cores, or their emulation. */
static void flash_mla_matrix_nvidia_class(void **state)
{
    (void)state;
    check_all(test_context_with_units(CLMLA_KERNELS_NVIDIA, CLMLA_MATRIX_UNITS_AUTO), gpu_cases,
              sizeof gpu_cases / sizeof gpu_cases[0], 0);
}

/* In the tile of most local memory, which clmla_layer_prepare tries. */
static void flash_mla_matrix_nvidia_class_large_tile(void **state)
{
    (void)state;
    clmla_context *context = test_context_with_units(CLMLA_KERNELS_NVIDIA, CLMLA_MATRIX_UNITS_AUTO);
    const char *why_not;
    if (!attention_try_large_tile(context, LATENT, ROPE, &why_not)) {
        clmla_context_release(context);
        print_message("skipped: the large tile: %s\n", why_not);
        skip();
    }
    check_all(context, large_tile_cases, sizeof large_tile_cases / sizeof large_tile_cases[0],
              MLA__ATTENTION_LARGE_ROWS);
}

/* By products of whole warpgroups. */
static void flash_mla_matrix_nvidia_class_for_sm_90a(void **state)
{
    (void)state;
    clmla_context *context = test_context_with_units(CLMLA_KERNELS_NVIDIA, CLMLA_MATRIX_UNITS_AUTO);
    mla__attention_tile tile;
    context->sm_90a[MLA__SM_90A_ATTENTION] = MLA__SM_90A_READY;
    if (!mla__attention_tile_wgmma(&context->device, 64, LATENT, ROPE, &tile)) {
        print_message("skipped: the device has %llu bytes of local memory\n",
                      (unsigned long long)context->device.local_mem_bytes);
        clmla_context_release(context);
        skip();
    }
    check_all(context, warpgroup_cases, sizeof warpgroup_cases / sizeof warpgroup_cases[0], 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(flash_mla_matrix_cpu_class),
        cmocka_unit_test(flash_mla_matrix_cpu_class_in_float32),
        cmocka_unit_test(flash_mla_matrix_gpu_class),
        cmocka_unit_test(flash_mla_matrix_nvidia_class),
        cmocka_unit_test(flash_mla_matrix_nvidia_class_large_tile),
        cmocka_unit_test(flash_mla_matrix_nvidia_class_for_sm_90a),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    test_device_close();
    return failed;
}
