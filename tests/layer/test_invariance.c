/*
 * What must not change a bit: reruns, token blocks, queue kind, page size and cache layout; and in
 * batch-invariant mode the company that a token is computed in.
 */
#include "core/dtype.h"
#include "support/layer_fixture.h"
#include "support/table.h"

enum { TOKENS = 24, PAST = 13 };

typedef struct variant {
    const char *name;
    clmla_kernel_class kernel_class;
    int32_t page_block_size, fused;
    uint64_t workspace_limit_bytes;
    int out_of_order;
    int clblast;
    clmla_dtype dtype;
    int fp8_cache, fp8_weights;
    int batch_invariant;
    int lite; /* DeepSeek-V2-Lite's dims */
} variant;

static clmla_config config_of(const variant *v)
{
    clmla_config config = fixture_config_of(v->kernel_class, 36);
    if (v->fp8_weights)
        config = fixture_config_of(CLMLA_KERNELS_NVIDIA, 36);
    if (v->fp8_cache)
        config.kv_lora_rank = 128;
    if (v->lite)
        config = (clmla_config){
            .struct_size = sizeof config,
            .hidden_size = 2048,
            .num_attention_heads = 16,
            .kv_lora_rank = 512,
            .qk_nope_head_dim = 128,
            .qk_rope_head_dim = 64,
            .v_head_dim = 128,
            .rope_scaling = {.factor = 40, .original_max_position_embeddings = 4096}};
    return config;
}

static fixture make(const variant *v)
{
    const fixture_options options = {.config = config_of(v),
                                     .kernel_class = v->kernel_class,
                                     .projection = v->clblast ? CLMLA_PROJECTION_CLBLAST
                                                              : CLMLA_PROJECTION_NATIVE,
                                     .dtype = v->dtype,
                                     .page_block_size = v->page_block_size,
                                     .fused = v->fused,
                                     .fp8_cache = v->fp8_cache,
                                     .fp8_weights = v->fp8_weights,
                                     .workspace_limit_bytes = v->workspace_limit_bytes,
                                     .batch_invariant = v->batch_invariant,
                                     .share_context = 1};
    return fixture_create(&options);
}

/* One sequence of TOKENS tokens after PAST keys, in chunks of the given size; frees nothing. */
static double *run_chunks(fixture *f, const double *hidden, int32_t chunk, cl_command_queue queue)
{
    const size_t width = (size_t)f->options.config.hidden_size;
    double *out = malloc(TOKENS * width * sizeof(double));
    fixture_set_past(f, 0, PAST, 21);
    for (int32_t t = 0; t < TOKENS; t += chunk) {
        const int32_t past[1] = {PAST + t}, n[1] = {chunk < TOKENS - t ? chunk : TOKENS - t};
        fixture_set_hidden(f, hidden + (size_t)t * width, 0, (size_t)n[0]);
        assert_int_equal(fixture_plan(f, 1, past, n), CLMLA_SUCCESS);
        assert_int_equal(clFinish(test_device_get()->queue), CL_SUCCESS);
        assert_int_equal(clmla_enqueue_layer(f->binding, f->plan, queue, 0, NULL, NULL),
                         CLMLA_SUCCESS);
        assert_int_equal(clFinish(queue), CL_SUCCESS);
        fixture_get_output(f, out + (size_t)t * width, 0, (size_t)n[0]);
    }
    return out;
}

static const variant variants[] = {
    {"rerun", CLMLA_KERNELS_CPU, 16, 0, 0, 0},
    {"page of one row", CLMLA_KERNELS_CPU, 1, 0, 0, 0},
    {"contiguous cache", CLMLA_KERNELS_CPU, 0, 0, 0, 0},
    {"fused cache", CLMLA_KERNELS_CPU, 16, 1, 0, 0},
    {"few tokens at a time", CLMLA_KERNELS_CPU, 16, 0, 8192, 0},
    {"out-of-order queue", CLMLA_KERNELS_CPU, 16, 0, 0, 1},
    {"CLBlast: rerun", CLMLA_KERNELS_CPU, 16, 0, 0, 0, 1},
    {"CLBlast: out-of-order queue", CLMLA_KERNELS_CPU, 16, 0, 0, 1, 1},
    {"gpu: rerun", CLMLA_KERNELS_GPU, 16, 0, 0, 0},
    {"gpu: contiguous cache", CLMLA_KERNELS_GPU, 0, 0, 0, 0},
    {"gpu: fused cache", CLMLA_KERNELS_GPU, 3, 1, 0, 0},
    {"gpu: out-of-order queue", CLMLA_KERNELS_GPU, 16, 0, 0, 1},
    {"f32: contiguous cache", CLMLA_KERNELS_CPU, 0, .dtype = CLMLA_DTYPE_F32},
    {"f16: fused cache", CLMLA_KERNELS_CPU, 7, 1, .dtype = CLMLA_DTYPE_F16},
    {"FP8 cache: contiguous cache", CLMLA_KERNELS_CPU, 0, .fp8_cache = 1},
    {"gpu, f32: contiguous cache", CLMLA_KERNELS_GPU, 0, .dtype = CLMLA_DTYPE_F32},
    {"gpu, f16: fused cache", CLMLA_KERNELS_GPU, 7, 1, .dtype = CLMLA_DTYPE_F16},
    {"gpu, FP8 cache: page of one row", CLMLA_KERNELS_GPU, 1, .fp8_cache = 1},
    {"FP8 weights: contiguous cache", CLMLA_KERNELS_CPU, 0, .fp8_weights = 1},
    {"FP8 weights: fused cache", CLMLA_KERNELS_CPU, 7, 1, .fp8_weights = 1},
    {"gpu, FP8 weights: page of one row", CLMLA_KERNELS_GPU, 1, .fp8_weights = 1},
    {"FP8 weights and cache: page of one row", CLMLA_KERNELS_CPU, 1, .fp8_cache = 1,
     .fp8_weights = 1},
    {"gpu, FP8 weights and cache: contiguous cache", CLMLA_KERNELS_GPU, 0, .fp8_cache = 1,
     .fp8_weights = 1},
    {"nvidia: rerun", CLMLA_KERNELS_NVIDIA, 16, 0, 0, 0},
    {"nvidia: page of one row", CLMLA_KERNELS_NVIDIA, 1, 0, 0, 0},
    {"nvidia: fused cache", CLMLA_KERNELS_NVIDIA, 3, 1, 0, 0},
    {"nvidia: out-of-order queue", CLMLA_KERNELS_NVIDIA, 16, 0, 0, 1},
    {"nvidia, FP8 cache: contiguous cache", CLMLA_KERNELS_NVIDIA, 0, .fp8_cache = 1},
    {"nvidia, FP8 weights: page of one row", CLMLA_KERNELS_NVIDIA, 1, .fp8_weights = 1},
    {"nvidia, FP8 weights and cache: contiguous cache", CLMLA_KERNELS_NVIDIA, 0, .fp8_cache = 1,
     .fp8_weights = 1},
};

/* Each variant's plain twin: its class, backend and dtypes, pages of 16, in order. Kept for the
 * next variant, which mostly has the same. */
static struct {
    variant of;
    double *output; /* [TOKENS, hidden_size] */
} plain;

static const double *plain_output(const variant *v)
{
    const variant twin = {.name = "plain",
                          .kernel_class = v->kernel_class,
                          .page_block_size = 16,
                          .clblast = v->clblast,
                          .dtype = v->dtype,
                          .fp8_cache = v->fp8_cache,
                          .fp8_weights = v->fp8_weights};
    if (plain.output != NULL && plain.of.kernel_class == twin.kernel_class &&
        plain.of.clblast == twin.clblast && plain.of.dtype == twin.dtype &&
        plain.of.fp8_cache == twin.fp8_cache && plain.of.fp8_weights == twin.fp8_weights)
        return plain.output;
    free(plain.output);
    plain.of = twin;
    fixture f = make(&twin);
    double *hidden = fixture_draw_hidden(&f, TOKENS, 8);
    plain.output = run_chunks(&f, hidden, TOKENS, test_device_get()->queue);
    free(hidden);
    fixture_release(&f);
    return plain.output;
}

static void gives_the_same_bits(void **state)
{
    const variant *v = *state;
    const test_device *device = test_device_get();
    if (v->out_of_order && device->out_of_order == NULL) {
        print_message("skipped: the device has no out-of-order queues\n");
        skip();
    }
    const double *expected = plain_output(v);
    fixture f = make(v);
    double *hidden = fixture_draw_hidden(&f, TOKENS, 8);
    double *output =
        run_chunks(&f, hidden, TOKENS, v->out_of_order ? device->out_of_order : device->queue);
    assert_memory_equal(output, expected,
                        TOKENS * (size_t)f.options.config.hidden_size * sizeof(double));
    free(output);
    free(hidden);
    fixture_release(&f);
}

/* ---- batch-invariant mode -------------------------------------------------------------------- */

#define INVARIANT .page_block_size = 16, .batch_invariant = 1
static const variant invariant[] = {
    {"batch-invariant: cpu", CLMLA_KERNELS_CPU, INVARIANT},
    {"batch-invariant: cpu, f32", CLMLA_KERNELS_CPU, INVARIANT, .dtype = CLMLA_DTYPE_F32},
    {"batch-invariant: cpu, f16", CLMLA_KERNELS_CPU, INVARIANT, .dtype = CLMLA_DTYPE_F16},
    {"batch-invariant: cpu, FP8 cache", CLMLA_KERNELS_CPU, INVARIANT, .fp8_cache = 1},
    {"batch-invariant: cpu, FP8 weights", CLMLA_KERNELS_CPU, INVARIANT, .fp8_weights = 1},
    {"batch-invariant: cpu, FP8 weights and cache", CLMLA_KERNELS_CPU, INVARIANT, .fp8_cache = 1,
     .fp8_weights = 1},
    {"batch-invariant: gpu", CLMLA_KERNELS_GPU, INVARIANT},
    {"batch-invariant: gpu, f32", CLMLA_KERNELS_GPU, INVARIANT, .dtype = CLMLA_DTYPE_F32},
    {"batch-invariant: gpu, f16", CLMLA_KERNELS_GPU, INVARIANT, .dtype = CLMLA_DTYPE_F16},
    {"batch-invariant: gpu, FP8 cache", CLMLA_KERNELS_GPU, INVARIANT, .fp8_cache = 1},
    {"batch-invariant: gpu, FP8 weights", CLMLA_KERNELS_GPU, INVARIANT, .fp8_weights = 1},
    {"batch-invariant: gpu, FP8 weights and cache", CLMLA_KERNELS_GPU, INVARIANT, .fp8_cache = 1,
     .fp8_weights = 1},
    {"batch-invariant: nvidia", CLMLA_KERNELS_NVIDIA, INVARIANT},
    {"batch-invariant: nvidia, FP8 cache", CLMLA_KERNELS_NVIDIA, INVARIANT, .fp8_cache = 1},
    {"batch-invariant: nvidia, FP8 weights", CLMLA_KERNELS_NVIDIA, INVARIANT, .fp8_weights = 1},
    {"batch-invariant: nvidia, FP8 weights and cache", CLMLA_KERNELS_NVIDIA, INVARIANT,
     .fp8_cache = 1, .fp8_weights = 1},
    {"batch-invariant: cpu, DeepSeek-V2-Lite", CLMLA_KERNELS_CPU, INVARIANT, .lite = 1},
    {"batch-invariant: gpu, DeepSeek-V2-Lite", CLMLA_KERNELS_GPU, INVARIANT, .lite = 1},
    {"batch-invariant: nvidia, DeepSeek-V2-Lite", CLMLA_KERNELS_NVIDIA, INVARIANT, .lite = 1},
};

/* Chunk sizes of every kind against the whole prompt at once. */
static void chunks_equal_the_whole(fixture *f)
{
    static const int32_t chunks[] = {1, 5, 8, 23};
    const cl_command_queue queue = test_device_get()->queue;
    const size_t width = (size_t)f->options.config.hidden_size;
    double *hidden = fixture_draw_hidden(f, TOKENS, 8);
    double *whole = run_chunks(f, hidden, TOKENS, queue);
    for (size_t i = 0; i < sizeof(chunks) / sizeof(chunks[0]); i++) {
        double *parts = run_chunks(f, hidden, chunks[i], queue);
        for (size_t e = 0; e < TOKENS * width; e++) {
            if (memcmp(&parts[e], &whole[e], sizeof(double)) != 0)
                fail_msg("chunks of %d: element %zu is %.9g, in the whole %.9g", (int)chunks[i], e,
                         parts[e], whole[e]);
        }
        free(parts);
    }
    free(whole);
    free(hidden);
}

/* A sequence in a mixed batch against the same sequence alone. */
static void a_batch_equals_its_sequences_alone(fixture *f)
{
    enum { N = 5 };
    const int32_t past[N] = {PAST, 0, 40, 3, 60}, n[N] = {4, 9, 1, 0, 2};
    const cl_command_queue queue = test_device_get()->queue;
    const size_t width = (size_t)f->options.config.hidden_size;
    double *hidden = fixture_draw_hidden(f, 16, 8);
    double *together = malloc(16 * width * sizeof(double));
    double *alone = malloc(16 * width * sizeof(double));
    for (int32_t b = 0; b < N; b++)
        fixture_set_past(f, b, past[b], 30 + (uint64_t)b);
    fixture_set_hidden(f, hidden, 0, 16);
    assert_int_equal(fixture_plan(f, N, past, n), CLMLA_SUCCESS);
    assert_int_equal(clmla_enqueue_layer(f->binding, f->plan, queue, 0, NULL, NULL), CLMLA_SUCCESS);
    fixture_get_output(f, together, 0, 16);
    size_t first = 0;
    for (int32_t b = 0; b < N; b++) {
        int32_t only[N] = {0};
        only[b] = n[b];
        fixture_set_hidden(f, hidden + first * width, 0, (size_t)n[b]);
        assert_int_equal(fixture_plan(f, N, past, only), CLMLA_SUCCESS);
        assert_int_equal(clmla_enqueue_layer(f->binding, f->plan, queue, 0, NULL, NULL),
                         CLMLA_SUCCESS);
        fixture_get_output(f, alone + first * width, 0, (size_t)n[b]);
        first += (size_t)n[b];
    }
    assert_memory_equal(together, alone, 16 * width * sizeof(double));
    free(hidden);
    free(together);
    free(alone);
}

static void batch_invariant_bits(void **state)
{
    const variant *v = *state;
    if (v->lite && !test_all()) {
        print_message("skipped: %s, slow; CLMLA_TEST_ALL=1 computes it\n", v->name);
        skip();
    }
    fixture f = make(v);
    chunks_equal_the_whole(&f);
    a_batch_equals_its_sequences_alone(&f);
    fixture_release(&f);
}

int main(int argc, char **argv)
{
    const test_table tables[] = {TEST_TABLE(gives_the_same_bits, variants),
                                 TEST_TABLE(batch_invariant_bits, invariant)};
    const int failed =
        test_run("invariance", argc, argv, tables, TEST_COUNT(tables), TEST_NO_OTHERS);
    free(plain.output);
    return failed;
}
