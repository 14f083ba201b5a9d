/* What the tests of attention share: the batches' sequences and the table of tests. */
#ifndef CLMLA_TESTS_ATTENTION_TESTS_H
#define CLMLA_TESTS_ATTENTION_TESTS_H

#include "ops/attention.h"
#include "support/attention_batch.h"
#include "support/support.h"

enum { BF16 = CLMLA_DTYPE_BF16, F16 = CLMLA_DTYPE_F16, F32 = CLMLA_DTYPE_F32 };
enum { FP8 = CLMLA_DTYPE_FP8_DS_MLA };

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define SEQUENCES(array) .num_sequences = (int32_t)COUNT(array), .sequences = (array)

/* Both dims have whole vectors of sixteen, or pairs, and a tail. Few programs are built that way.
 */
enum { LATENT = 33, ROPE = 18 };
#define STANDARD .kv_lora_rank = LATENT, .rope_dim = ROPE, .q_lat = F32, .out = F32

/* Sequences {id, new tokens, keys}: a chunk, single tokens, several, none; with keys and without.
 */
static const attention_sequence mixed[] = {{1, 13, 30}, {2, 1, 41}, {3, 0, 12}, {4, 1, 1},
                                           {5, 3, 17},  {6, 2, 0},  {7, 0, 0},  {8, 1, 64}};
enum { MIXED_TOKENS = 21 };
static const attention_sequence prefill[] = {{1, 37, 37}};

/* A kernel that attention may take. */
typedef struct attention_path {
    clmla_kernel_class kernel_class;
    bool dot_products; /* cpu class on bf16 dot products, where the device has them */
    bool narrow;       /* cpu class with the tiles of vectors of eight floats, and of four */
    bool mma;          /* nvidia class on tensor cores */
    int32_t tile_rows; /* mma: the kernel's tile for every step; 0: by its rows */
} attention_path;

static inline const attention_path *path_of(void **state)
{
    return *(const attention_path **)state;
}

static inline clmla_context *open_path(void **state)
{
    const attention_path *path = path_of(state);
    clmla_context *context = test_context_with_units(
        path->kernel_class,
        path->dot_products || path->mma ? CLMLA_MATRIX_UNITS_AUTO : CLMLA_MATRIX_UNITS_OFF);
    if (path->dot_products && !context->device.has_bf16_dot) {
        clmla_context_release(context);
        print_message("skipped: the device has no bf16 dot products\n");
        skip();
    }
    const char *why_not;
    if (path->tile_rows == MLA__ATTENTION_LARGE_ROWS &&
        !attention_try_large_tile(context, 128, 16, &why_not)) { /* the largest below */
        clmla_context_release(context);
        print_message("skipped: the large tile: %s\n", why_not);
        skip();
    }
    if (path->narrow)
        context->device.float_vector_width = 8;
    return context;
}

/* The batch with the query that the path takes: bf16 for dot products and tensor cores, and for
 * those the smallest dims that they take. */
static inline attention_batch on_path(void **state, const attention_batch *batch)
{
    attention_batch made = *batch;
    const attention_path *path = path_of(state);
    if (path->dot_products || path->mma)
        made.q_lat = made.q_pe = BF16;
    if (path->mma) {
        made.tile_rows = path->tile_rows;
        made.kv_lora_rank = batch->cache == FP8 ? 128 : 64;
        made.rope_dim = batch->rope_dim > 0 ? 16 : 0;
    }
    return made;
}

static inline double *doubles(size_t count)
{
    double *values = malloc((count + 1) * sizeof(double));
    assert_non_null(values);
    return values;
}

#define ON_PATH(test, path)                                                                        \
    {                                                                                              \
#test " on " #path, test, NULL, NULL, (void *)&path                                        \
    }
#define BOTH_CLASSES(test) ON_PATH(test, cpu), ON_PATH(test, gpu)
#define ALL_PATHS(test)                                                                            \
    BOTH_CLASSES(test), ON_PATH(test, cpu_dot), ON_PATH(test, cpu_narrow), ON_PATH(test, mma),     \
        ON_PATH(test, mma_large)
#define PATHS                                                                                      \
    static attention_path cpu = {CLMLA_KERNELS_CPU, false}, gpu = {CLMLA_KERNELS_GPU, false},      \
                          cpu_dot = {CLMLA_KERNELS_CPU, true},                                     \
                          cpu_narrow = {CLMLA_KERNELS_CPU, .narrow = true},                        \
                          mma = {CLMLA_KERNELS_NVIDIA, .mma = true},                               \
                          mma_large = {CLMLA_KERNELS_NVIDIA, .mma = true,                          \
                                       .tile_rows = MLA__ATTENTION_LARGE_ROWS}

#endif
