/*
 * The test matrices of peers, whole: each with its shapes, its data and its comparator.
 *
 *   FlashMLA    tests/test_flash_mla_dense_decoding.py: batch × new tokens × keys × heads × varying
 *               lengths × mask, and batches of 128 in which about half of the sequences are empty.
 *               Normal numbers of deviation 0.1 within [-1, 1], bf16, one tensor of 576 columns.
 *   FlashInfer  tests/attention/test_deepseek_mla.py: page attention, varying lengths, and keys
 *               whose page ends in NaN. Normal numbers of deviation 1, f16, latent and rope part
 *               apart; the same shapes again in bf16 with FlashMLA's data and comparator, for the
 *               kernels that take bf16 alone.
 *   vLLM        tests/v1/attention/test_mla_backends.py: its batches, R1's dims, heads of tensor
 *               parallelism over 1, 4, 8 and 16. Its tolerance (0.5) says little: FlashMLA's data
 *               and comparator.
 *   other dims  a latent of 256, rope parts of 32, none
 *
 * Differences: one latent head (that is MLA); a query that sees no key has out 0 and lse -INFINITY,
 * and where a peer skips queries before the first key they are computed, too; pages of 64, too, for
 * FlashInfer's page attention. The reference computes at least one row of every sequence; all
 * elements have to be finite.
 *
 * FlashInfer's page sizes are run one after another on the same data: the reference computes rows
 * of the first, the others have to have its bits, all of them.
 *
 * By default a sample of the cases; all with CLMLA_TEST_ALL=1 (ops/all_attention_peers_*, slow).
 * Cases of more products than a path computes in reasonable time are left out, and counted; of
 * FlashInfer's, ragged batches that hold every sequence of the matrix stand for them.
 */
#include <time.h>

#include "support/peer_batch.h"

enum { MAX_SEQUENCES = 256, SEED = 2026, NO_LIMIT = 63 };
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ---- paths ---------------------------------------------------------------------------------- */

typedef struct peer_path {
    const char *name;
    clmla_kernel_class kernel_class;
    clmla_matrix_units units;
    clmla_dtype infer_dtype;           /* of FlashInfer's cases: f16 runs no matrix units */
    int all_products, sample_products; /* largest case, log2 */
    int sample_step;                   /* one case of so many */
} peer_path;

static peer_path cpu = {
    "cpu", CLMLA_KERNELS_CPU, CLMLA_MATRIX_UNITS_AUTO, CLMLA_DTYPE_BF16, NO_LIMIT, 29, 113};
static peer_path cpu_float = {"cpu, no matrix units",
                              CLMLA_KERNELS_CPU,
                              CLMLA_MATRIX_UNITS_OFF,
                              CLMLA_DTYPE_F16,
                              NO_LIMIT,
                              28,
                              151};
static peer_path gpu = {"gpu", CLMLA_KERNELS_GPU, CLMLA_MATRIX_UNITS_AUTO, CLMLA_DTYPE_F16, 30, 25,
                        151};
static peer_path nvidia = {
    "nvidia", CLMLA_KERNELS_NVIDIA, CLMLA_MATRIX_UNITS_AUTO, CLMLA_DTYPE_BF16, 28, 24, 211};

typedef struct matrix_run {
    const peer_path *path;
    clmla_context *context;
    bool all;
    int limit;       /* largest case, log2 of its products */
    uint64_t budget; /* of the reference, products of a case */
    int seen, computed, left_out;
    double begun; /* s */
    test_random random;
} matrix_run;

static double seconds(void)
{
    struct timespec now;
    assert_int_equal(timespec_get(&now, TIME_UTC), TIME_UTC);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static matrix_run begin(void **state)
{
    const peer_path *path = *state;
    const bool all = test_all() != 0;
    return (matrix_run){.path = path,
                        .context = test_context_with_units(path->kernel_class, path->units),
                        .all = all,
                        .limit = all ? path->all_products : path->sample_products,
                        .budget = (uint64_t)1 << 26,
                        .random = {.state = SEED},
                        .begun = seconds()};
}

static void end(matrix_run *run)
{
    print_message("%s: %d cases of %d in %.1f s, seed %d\n", run->path->name, run->computed,
                  run->seen, seconds() - run->begun, SEED);
    if (run->all && run->left_out > 0)
        print_message("skipped: %d cases of more than 2^%d products, too slow on class %s here\n",
                      run->left_out, run->limit, run->path->name);
    assert_true(run->computed > 0);
    clmla_context_release(run->context);
}

/* Whether the case is to be computed. */
static bool wanted(matrix_run *run, const peer_batch *batch)
{
    const bool chosen = run->all || run->seen % run->path->sample_step == 0;
    run->seen++;
    if (!chosen)
        return false;
    if (peer_products(batch) >> run->limit != 0) {
        run->left_out++;
        return false;
    }
    run->computed++;
    return true;
}

/* ---- comparators ---------------------------------------------------------------------------- */

/* torch.testing.assert_close */
static void torch_close(const char *what, const double *y, const double *t, size_t count,
                        double rtol, double atol)
{
    for (size_t i = 0; i < count; i++)
        if (y[i] != t[i] && !(fabs(y[i] - t[i]) <= atol + rtol * fabs(t[i])))
            fail_msg("%s: element %zu of %zu is %.9g, expected %.9g", what, i, count, y[i], t[i]);
}

enum { WHAT_BYTES = 160 };

static void print_batch(const char *name, const peer_batch *batch, char what[WHAT_BYTES])
{
    (void)snprintf(
        what, WHAT_BYTES, "%s: %d sequences, %d heads, %d tokens, %d keys, pages of %d, %s", name,
        (int)batch->num_sequences, (int)batch->num_heads, (int)batch->sequences[0].new_tokens,
        (int)batch->sequences[0].keys, (int)batch->page_block_size,
        batch->mask == CLMLA_MASK_CAUSAL ? "causal" : "no mask");
}

static void close_to_flash_mla(const char *what, const peer_rows *rows)
{
    test_flash_mla_close(what, rows->out, rows->expected_out, rows->count * rows->num_latent, 8e-4,
                         2.01 / 128, 5e-6);
    test_flash_mla_close(what, rows->lse, rows->expected_lse, rows->count, 1e-6, 8.01 / 65536,
                         (double)INFINITY);
}

static void check_flash_mla(matrix_run *run, const char *name, const peer_batch *batch)
{
    char what[WHAT_BYTES];
    if (!wanted(run, batch))
        return;
    peer_rows rows = peer_run(run->context, batch, run->budget, &run->random, NULL);
    print_batch(name, batch, what);
    close_to_flash_mla(what, &rows);
    peer_rows_release(&rows);
}

/* bits: of another page size, or to be had from this one. */
static void check_flash_infer(matrix_run *run, const char *name, const peer_batch *batch,
                              double atol, peer_bits *bits)
{
    char what[WHAT_BYTES];
    if (!wanted(run, batch))
        return;
    if (bits->out != NULL) {
        peer_run_same(run->context, batch, bits);
        return;
    }
    peer_rows rows = peer_run(run->context, batch, run->budget, &run->random, bits);
    print_batch(name, batch, what);
    if (batch->dtype == CLMLA_DTYPE_BF16) {
        close_to_flash_mla(what, &rows);
    } else {
        torch_close(what, rows.out, rows.expected_out, rows.count * rows.num_latent, 1e-3, atol);
        torch_close(what, rows.lse, rows.expected_lse, rows.count, 1e-3, atol);
    }
    peer_rows_release(&rows);
}

/* ---- FlashMLA ------------------------------------------------------------------------------- */

static const clmla_mask masks[] = {CLMLA_MASK_CAUSAL, CLMLA_MASK_NONE};

static peer_batch flash_mla_batch(const attention_sequence *sequences, int32_t num_sequences)
{
    return (peer_batch){.kv_lora_rank = 512,
                        .rope_dim = 64,
                        .dtype = CLMLA_DTYPE_BF16,
                        .deviation = 0.1,
                        .largest = 1.0,
                        .softmax_scale = 1.0 / 24.0, /* 576^-0.5 */
                        .fused = true,
                        .num_sequences = num_sequences,
                        .sequences = sequences,
                        .page_block_size = 64};
}

/* max(normal(keys, keys / 2), new tokens), cut at twice the keys; or, half of them, 0. */
static void draw_lengths(attention_sequence *sequences, int32_t count, int32_t new_tokens,
                         int32_t mean, bool varlen, bool some_empty)
{
    test_random random = {.state = SEED};
    for (int32_t s = 0; s < count; s++) {
        double keys = mean;
        if (varlen)
            keys = fmin(2.0 * keys, keys + 0.5 * keys * test_random_normal(&random));
        if (keys < new_tokens)
            keys = new_tokens;
        if (some_empty && test_random_int(&random, 0, 1) == 0)
            keys = 0;
        sequences[s] = (attention_sequence){s, new_tokens, (int32_t)keys};
    }
}

static const int32_t flash_mla_heads[] = {1, 3, 9, 63, 64, 126, 128};

static void for_heads_and_masks(matrix_run *run, const char *name, peer_batch batch)
{
    for (size_t h = 0; h < COUNT(flash_mla_heads); h++)
        for (size_t m = 0; m < COUNT(masks); m++) {
            batch.num_heads = flash_mla_heads[h];
            batch.mask = masks[m];
            check_flash_mla(run, name, &batch);
        }
}

static void flash_mla_dense_decode(void **state)
{
    static const int32_t batches[] = {1, 2, 6, 64}, tokens[] = {1, 2, 4}, keys[] = {20, 140, 4096};
    attention_sequence sequences[MAX_SEQUENCES];
    matrix_run run = begin(state);
    for (size_t b = 0; b < COUNT(batches); b++)
        for (size_t t = 0; t < COUNT(tokens); t++)
            for (size_t k = 0; k < COUNT(keys); k++)
                for (int varlen = 0; varlen < 2; varlen++) {
                    draw_lengths(sequences, batches[b], tokens[t], keys[k], varlen, false);
                    for_heads_and_masks(&run, varlen ? "varying lengths" : "equal lengths",
                                        flash_mla_batch(sequences, batches[b]));
                }
    end(&run);
}

/* The peer's has 4096 keys; shorter ones, too, for paths that leave those out. */
static void flash_mla_half_of_the_sequences_empty(void **state)
{
    static const int32_t keys[] = {20, 140, 4096};
    attention_sequence sequences[MAX_SEQUENCES];
    matrix_run run = begin(state);
    for (size_t k = 0; k < COUNT(keys); k++) {
        draw_lengths(sequences, 128, 2, keys[k], true, true);
        for_heads_and_masks(&run, "half empty", flash_mla_batch(sequences, 128));
    }
    end(&run);
}

/* ---- FlashInfer ----------------------------------------------------------------------------- */

static peer_batch flash_infer_batch(const matrix_run *run, const attention_sequence *sequences,
                                    int32_t num_sequences)
{
    const bool bf16 = run->path->infer_dtype == CLMLA_DTYPE_BF16;
    return (peer_batch){.num_heads = 16,
                        .kv_lora_rank = 512,
                        .rope_dim = 64,
                        .dtype = run->path->infer_dtype,
                        .deviation = bf16 ? 0.1 : 1.0,
                        .largest = bf16 ? 1.0 : 100.0,
                        .softmax_scale = 1.0 / sqrt(128.0 + 64.0),
                        .num_sequences = num_sequences,
                        .sequences = sequences};
}

static void for_masks_and_pages(matrix_run *run, const char *name, peer_batch batch,
                                const int32_t *pages, size_t num_pages, double atol)
{
    for (size_t m = 0; m < COUNT(masks); m++) {
        peer_bits bits = {.out = NULL};
        for (size_t p = 0; p < num_pages; p++) {
            batch.page_block_size = pages[p];
            batch.mask = masks[m];
            check_flash_infer(run, name, &batch, atol, &bits);
        }
        peer_bits_release(&bits);
    }
}

/* Sequences take their turns through `keys`. */
static void fill(attention_sequence *sequences, int32_t count, int32_t new_tokens,
                 const int32_t *keys, int32_t num_keys)
{
    for (int32_t s = 0; s < count; s++)
        sequences[s] = (attention_sequence){s, new_tokens, keys[s % num_keys]};
}

static const int32_t infer_pages[] = {1, 16, 64};
static const int32_t infer_keys[] = {0, 17, 33, 96, 97, 114, 514, 1024};
enum { INFER_MANY = 157, INFER_TOKENS = 9 /* 1, 3, ... 17 new tokens */ };

static void page_attention(matrix_run *run, const int32_t *batches, size_t num_batches)
{
    attention_sequence sequences[MAX_SEQUENCES];
    for (size_t b = 0; b < num_batches; b++)
        for (size_t k = 0; k < COUNT(infer_keys); k++)
            for (int32_t t = 0; t < INFER_TOKENS; t++) {
                fill(sequences, batches[b], 2 * t + 1, infer_keys + k, 1);
                for_masks_and_pages(run, "page attention",
                                    flash_infer_batch(run, sequences, batches[b]), infer_pages,
                                    COUNT(infer_pages), 1e-3);
            }
}

static void unlimited(matrix_run *run)
{
    if (run->all)
        run->limit = NO_LIMIT;
}

static void flash_infer_page_attention_of_1_to_5(void **state)
{
    static const int32_t few[] = {1, 3, 5};
    matrix_run run = begin(state);
    unlimited(&run);
    page_attention(&run, few, COUNT(few));
    end(&run);
}

static void flash_infer_page_attention_of_7(void **state)
{
    static const int32_t seven = 7;
    matrix_run run = begin(state);
    unlimited(&run);
    page_attention(&run, &seven, 1);
    end(&run);
}

static void flash_infer_page_attention_of_157(void **state)
{
    static const int32_t many = INFER_MANY;
    matrix_run run = begin(state);
    page_attention(&run, &many, 1);
    end(&run);
}

/* Numbers of keys and of tokens have no common divisor: so many sequences are all pairs of them. */
static void fill_ragged(attention_sequence *sequences, int32_t count, const int32_t *keys,
                        int32_t num_keys)
{
    for (int32_t s = 0; s < count; s++)
        sequences[s] = (attention_sequence){s, 2 * (s % INFER_TOKENS) + 1, keys[s % num_keys]};
}

/* Cases are large, hence by default on class cpu alone. */
static matrix_run begin_large(void **state)
{
    const peer_path *path = *state;
    if (!test_all() && path->kernel_class != CLMLA_KERNELS_CPU) {
        print_message("skipped: %s, slow; CLMLA_TEST_ALL=1 computes it\n", path->name);
        skip();
    }
    return begin(state);
}

static matrix_run begin_ragged(void **state)
{
    matrix_run run = begin_large(state);
    run.limit = NO_LIMIT;
    if (run.all)
        run.budget = (uint64_t)1 << 29;
    return run;
}

static void flash_infer_page_attention_ragged(void **state)
{
    attention_sequence sequences[MAX_SEQUENCES];
    matrix_run run = begin_ragged(state);
    fill_ragged(sequences, INFER_MANY, infer_keys, COUNT(infer_keys));
    for_masks_and_pages(&run, "page attention, ragged",
                        flash_infer_batch(&run, sequences, INFER_MANY), infer_pages,
                        COUNT(infer_pages), 1e-3);
    end(&run);
}

static const int32_t varying_heads[] = {16, 64}, varying_page = 1;
static const int32_t varying_keys[] = {0, 1, 3, 11, 17, 33, 79, 114, 514, 2743, 8736};

static void for_heads(matrix_run *run, const char *name, peer_batch batch)
{
    for (size_t h = 0; h < COUNT(varying_heads); h++) {
        batch.num_heads = varying_heads[h];
        for_masks_and_pages(run, name, batch, &varying_page, 1, 2e-3);
    }
}

/* A short, a middle and a long sequence, so many times. */
static void varying_lengths(matrix_run *run, int32_t times)
{
    const int32_t *shortest = varying_keys, *middle = varying_keys + 4, *longest = varying_keys + 8;
    attention_sequence sequences[MAX_SEQUENCES];
    for (size_t i = 0; i < (size_t)4 * 4 * 3; i++) {
        const int32_t keys[] = {shortest[i / 12], middle[i / 3 % 4], longest[i % 3]};
        for (int32_t t = 0; t < INFER_TOKENS; t++) {
            fill(sequences, 3 * times, 2 * t + 1, keys, 3);
            for_heads(run, "varying lengths", flash_infer_batch(run, sequences, 3 * times));
        }
    }
}

static void flash_infer_varying_lengths_of_3_and_9(void **state)
{
    matrix_run run = begin(state);
    varying_lengths(&run, 1);
    varying_lengths(&run, 3);
    end(&run);
}

static void flash_infer_varying_lengths_of_15(void **state)
{
    matrix_run run = begin_large(state);
    varying_lengths(&run, 5);
    end(&run);
}

static void flash_infer_varying_lengths_of_21(void **state)
{
    matrix_run run = begin_large(state);
    varying_lengths(&run, 7);
    end(&run);
}

static void flash_infer_varying_lengths_ragged(void **state)
{
    const int32_t count = INFER_TOKENS * (int32_t)COUNT(varying_keys);
    attention_sequence sequences[MAX_SEQUENCES];
    matrix_run run = begin_ragged(state);
    fill_ragged(sequences, count, varying_keys, COUNT(varying_keys));
    for_heads(&run, "varying lengths, ragged", flash_infer_batch(&run, sequences, count));
    end(&run);
}

static void flash_infer_pages_end_in_nan(void **state)
{
    static const int32_t batches[] = {1, 2, 3, 4, 5, 6, 7, 157}, pages[] = {16, 32};
    static const int32_t keys[] = {17, 33, 75, 197}, tokens[] = {3, 7, 17};
    attention_sequence sequences[MAX_SEQUENCES];
    matrix_run run = begin(state);
    unlimited(&run);
    for (size_t b = 0; b < COUNT(batches); b++)
        for (size_t k = 0; k < COUNT(keys); k++)
            for (size_t t = 0; t < COUNT(tokens); t++) {
                fill(sequences, batches[b], tokens[t], keys + k, 1);
                for_masks_and_pages(&run, "pages end in NaN",
                                    flash_infer_batch(&run, sequences, batches[b]), pages,
                                    COUNT(pages), 1e-3);
            }
    end(&run);
}

/* ---- vLLM ----------------------------------------------------------------------------------- */

typedef struct vllm_batch {
    const char *name;
    int32_t num_sequences;
    int32_t keys[8], new_tokens[8]; /* sequences take their turns */
} vllm_batch;

// clang-format off
static const vllm_batch vllm_batches[] = {
    {"small_decode", 2, {32, 40}, {1, 1}},
    {"small_prefill", 2, {32, 40}, {8, 8}},
    {"mixed_small", 4, {32, 40, 48, 56}, {1, 1, 5, 5}},
    {"medium_decode", 8, {128, 256, 512, 1024, 128, 256, 512, 1024}, {1, 1, 1, 1, 1, 1, 1, 1}},
    {"medium_prefill", 4, {256, 512, 1024, 2048}, {16, 16, 16, 16}},
    {"mixed_medium", 6, {512, 1024, 2048, 512, 1024, 2048}, {1, 1, 1, 7, 7, 7}},
    {"large_decode", 32, {2048, 2048, 2048, 2048, 2048, 2048, 2048, 2048},
     {1, 1, 1, 1, 1, 1, 1, 1}},
    {"large_prefill", 8, {4096, 4096, 4096, 4096, 4096, 4096, 4096, 4096},
     {32, 32, 32, 32, 32, 32, 32, 32}},
    {"single_decode", 1, {1024}, {1}},
    {"single_prefill", 1, {1024}, {64}},
    {"spec_decode_small", 4, {128, 256, 512, 1024}, {4, 4, 4, 4}},
    {"spec_decode_medium", 6, {512, 1024, 2048, 512, 1024, 2048}, {8, 8, 8, 8, 8, 8}},
};
// clang-format on

static void vllm_mixed_batches(void **state)
{
    static const int32_t parallel[] = {16, 8, 4, 1};
    attention_sequence sequences[MAX_SEQUENCES];
    matrix_run run = begin(state);
    for (size_t i = 0; i < COUNT(vllm_batches); i++)
        for (size_t t = 0; t < COUNT(parallel); t++) {
            const vllm_batch *from = &vllm_batches[i];
            for (int32_t s = 0; s < from->num_sequences; s++)
                sequences[s] = (attention_sequence){s, from->new_tokens[s % 8], from->keys[s % 8]};
            peer_batch batch = flash_mla_batch(sequences, from->num_sequences);
            batch.num_heads = 128 / parallel[t];
            batch.page_block_size = 16;
            check_flash_mla(&run, from->name, &batch);
        }
    end(&run);
}

/* ---- other dims ----------------------------------------------------------------------------- */

static void other_dims(void **state)
{
    static const int32_t dims[][2] = {{256, 32}, {256, 0}, {512, 0}, {512, 32}, {256, 64}};
    static const int32_t batches[] = {1, 6}, tokens[] = {1, 3, 17}, keys[] = {17, 140, 1024};
    attention_sequence sequences[MAX_SEQUENCES];
    matrix_run run = begin(state);
    /* by default few: programs take long to build, those of work-groups above all */
    const bool on_cpu = run.path->kernel_class == CLMLA_KERNELS_CPU;
    const size_t num_dims = run.all ? COUNT(dims) : on_cpu ? 3 : 1;
    for (size_t i = 0; i < COUNT(batches) * COUNT(tokens) * COUNT(keys); i++)
        for (size_t d = 0; d < num_dims; d++) {
            draw_lengths(sequences, batches[i / 9], tokens[i / 3 % 3], keys[i % 3], true, i % 2);
            peer_batch batch = flash_mla_batch(sequences, batches[i / 9]);
            batch.kv_lora_rank = dims[d][0];
            batch.rope_dim = dims[d][1];
            batch.softmax_scale = 1.0 / sqrt((double)(dims[d][0] + dims[d][1]));
            batch.fused = d % 2 == 0;
            for_heads_and_masks(&run, "other dims", batch);
        }
    end(&run);
}

#define ON_PATH(test, path)                                                                        \
    {                                                                                              \
#test " on " #path, test, NULL, NULL, &path                                                \
    }
#define ALL_PATHS(test)                                                                            \
    ON_PATH(test, cpu), ON_PATH(test, cpu_float), ON_PATH(test, gpu), ON_PATH(test, nvidia)

int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        ALL_PATHS(flash_mla_dense_decode),
        ALL_PATHS(flash_mla_half_of_the_sequences_empty),
        ALL_PATHS(flash_infer_page_attention_of_1_to_5),
        ALL_PATHS(flash_infer_page_attention_of_7),
        ALL_PATHS(flash_infer_page_attention_of_157),
        ALL_PATHS(flash_infer_page_attention_ragged),
        ALL_PATHS(flash_infer_varying_lengths_of_3_and_9),
        ALL_PATHS(flash_infer_varying_lengths_of_15),
        ALL_PATHS(flash_infer_varying_lengths_of_21),
        ALL_PATHS(flash_infer_varying_lengths_ragged),
        ALL_PATHS(flash_infer_pages_end_in_nan),
        ALL_PATHS(vllm_mixed_batches),
        ALL_PATHS(other_dims),
    };
    const int failed = cmocka_run_group_tests_name("attention_peers", tests, NULL, NULL);
    test_device_close();
    return failed;
}
