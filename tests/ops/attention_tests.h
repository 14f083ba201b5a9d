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
    return *(const attention_path *const *)state;
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

typedef struct attention_case {
    const char *name;
    bool cpu_only; /* a program of its own, that takes long to build for work-groups on a CPU */
    attention_batch batch;
} attention_case;

/* bound_of_dot: what dot products add to the bound of out. */
static inline void attention_check(clmla_context *context, const attention_case *c,
                                   double bound_of_dot)
{
    attention_problem p = attention_problem_make(context, &c->batch);
    const size_t rows = (size_t)p.num_tokens * (size_t)c->batch.num_heads;
    const size_t latent = (size_t)c->batch.kv_lora_rank;
    double *t = doubles(rows * latent), *t_lse = doubles(rows);
    double *out = doubles(rows * latent), *lse = doubles(rows);
    for (size_t r = 0; r < rows; r++)
        (void)attention_reference(&p, r, t + r * latent, t_lse + r);
    const cl_command_queue queue = test_device_get()->queue;
    const clmla_status status = attention_problem_enqueue(context, &p, queue, 0, NULL, NULL);
    if (status != CLMLA_SUCCESS)
        fail_msg("%s: %s: %s", c->name, clmla_status_name(status), test_last_notify());
    assert_int_equal(clFinish(queue), CL_SUCCESS);
    attention_problem_read(&p, out, c->batch.no_lse ? NULL : lse);
    /* Half a unit in the last place of out. Logits are float32 sums of values that are exact:
     * |logit| · 2^-24 · a few, which the exponential passes on as a relative error. */
    const double rounding = p.batch.out == BF16 ? 0x1p-9 : p.batch.out == F16 ? 0x1p-12 : 0x1p-24;
    const double logits = p.batch.softmax_scale * 0.5; /* q · k of deviation 0.1 each */
    test_close(c->name, out, t, rows * latent, rounding + bound_of_dot + 3e-6 + logits * 1e-6);
    for (size_t r = 0; r < rows && !c->batch.no_lse; r++) {
        const double bound = 2e-6 * (1.0 + fabs(t_lse[r])) + logits * 1e-6;
        if (!(lse[r] == t_lse[r] || fabs(lse[r] - t_lse[r]) <= bound))
            fail_msg("%s: lse of row %zu is %.9g, expected %.9g", c->name, r, lse[r], t_lse[r]);
    }
    free(t);
    free(t_lse);
    free(out);
    free(lse);
    attention_problem_release(&p);
}

static inline enum mla__attention_kind attention_kind(clmla_context *context,
                                                      const attention_batch *batch)
{
    attention_problem p = attention_problem_make(context, batch);
    mla__attention op = {.num_heads = 0};
    p.params.num_splits = 1;
    assert_int_equal(mla__attention_bind(context, &p.params, &op), CLMLA_SUCCESS);
    const enum mla__attention_kind kind = op.kind;
    mla__attention_release(&op);
    attention_problem_release(&p);
    return kind;
}

#define ON_PATH(test, path)                                                                        \
    {                                                                                              \
#test " on " #path, test, NULL, NULL, (void *)&path                                        \
    }
#define BOTH_CLASSES(test) ON_PATH(test, cpu), ON_PATH(test, gpu)
#define ALL_PATHS(test)                                                                            \
    BOTH_CLASSES(test), ON_PATH(test, cpu_dot), ON_PATH(test, cpu_narrow), ON_PATH(test, nvidia),  \
        ON_PATH(test, nvidia_large)
#define PATHS                                                                                      \
    static attention_path cpu = {CLMLA_KERNELS_CPU, false}, gpu = {CLMLA_KERNELS_GPU, false},      \
                          cpu_dot = {CLMLA_KERNELS_CPU, true},                                     \
                          cpu_narrow = {CLMLA_KERNELS_CPU, .narrow = true},                        \
                          nvidia = {CLMLA_KERNELS_NVIDIA, .mma = true},                            \
                          nvidia_large = {CLMLA_KERNELS_NVIDIA, .mma = true,                       \
                                          .tile_rows = MLA__ATTENTION_LARGE_ROWS}

#endif
