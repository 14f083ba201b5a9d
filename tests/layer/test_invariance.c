/*
 * What must not change a bit: reruns, token blocks, queue kind, page size and cache layout; and in
 * batch-invariant mode the company that a token is computed in.
 */
#include "core/dtype.h"
#include "support/layer_fixture.h"

enum { TOKENS = 24, PAST = 13 };

static fixture make(clmla_kernel_class kernel_class, clmla_projection_backend projection,
                    int32_t page_block_size, int32_t fused, uint64_t limit, int32_t batch_invariant)
{
    const fixture_options options = {.config = fixture_config_of(kernel_class, 36),
                                     .kernel_class = kernel_class,
                                     .projection = projection,
                                     .page_block_size = page_block_size,
                                     .fused = fused,
                                     .workspace_limit_bytes = limit,
                                     .batch_invariant = batch_invariant};
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

typedef struct variant {
    const char *name;
    clmla_kernel_class kernel_class;
    int32_t page_block_size, fused;
    uint64_t workspace_limit_bytes;
    int out_of_order;
    int clblast;
} variant;

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
    {"nvidia: rerun", CLMLA_KERNELS_NVIDIA, 16, 0, 0, 0},
    {"nvidia: page of one row", CLMLA_KERNELS_NVIDIA, 1, 0, 0, 0},
    {"nvidia: fused cache", CLMLA_KERNELS_NVIDIA, 3, 1, 0, 0},
    {"nvidia: out-of-order queue", CLMLA_KERNELS_NVIDIA, 16, 0, 0, 1},
};

static void gives_the_same_bits(void **state)
{
    const variant *v = *state;
    const test_device *device = test_device_get();
    if (v->out_of_order && device->out_of_order == NULL) {
        print_message("skipped: the device has no out-of-order queues\n");
        skip();
    }
    const clmla_projection_backend projection =
        v->clblast ? CLMLA_PROJECTION_CLBLAST : CLMLA_PROJECTION_NATIVE;
    fixture plain = make(v->kernel_class, projection, 16, 0, 0, 0);
    fixture other = make(v->kernel_class, projection, v->page_block_size, v->fused,
                         v->workspace_limit_bytes, 0);
    const size_t width = (size_t)plain.options.config.hidden_size;
    double *hidden = fixture_draw_hidden(&plain, TOKENS, 8);
    double *a = run_chunks(&plain, hidden, TOKENS, device->queue);
    double *b =
        run_chunks(&other, hidden, TOKENS, v->out_of_order ? device->out_of_order : device->queue);
    assert_memory_equal(a, b, TOKENS * width * sizeof(double));
    free(a);
    free(b);
    free(hidden);
    fixture_release(&plain);
    fixture_release(&other);
}

/* Chunk sizes of every kind against the whole prompt at once. */
static void batch_invariant_chunks_equal_the_whole(void **state)
{
    static const int32_t chunks[] = {1, 5, 8, 23};
    const clmla_kernel_class *kernel_class = *state;
    const cl_command_queue queue = test_device_get()->queue;
    fixture f = make(*kernel_class, CLMLA_PROJECTION_NATIVE, 16, 0, 0, 1);
    const size_t width = (size_t)f.options.config.hidden_size;
    double *hidden = fixture_draw_hidden(&f, TOKENS, 8);
    double *whole = run_chunks(&f, hidden, TOKENS, queue);
    for (size_t i = 0; i < sizeof(chunks) / sizeof(chunks[0]); i++) {
        double *parts = run_chunks(&f, hidden, chunks[i], queue);
        for (size_t e = 0; e < TOKENS * width; e++) {
            if (memcmp(&parts[e], &whole[e], sizeof(double)) != 0)
                fail_msg("chunks of %d: element %zu is %.9g, in the whole %.9g", (int)chunks[i], e,
                         parts[e], whole[e]);
        }
        free(parts);
    }
    free(whole);
    free(hidden);
    fixture_release(&f);
}

/* A sequence in a mixed batch against the same sequence alone. */
static void batch_invariant_batch_equals_alone(void **state)
{
    enum { N = 5 };
    const clmla_kernel_class *kernel_class = *state;
    const int32_t past[N] = {PAST, 0, 40, 3, 60}, n[N] = {4, 9, 1, 0, 2};
    const cl_command_queue queue = test_device_get()->queue;
    fixture f = make(*kernel_class, CLMLA_PROJECTION_NATIVE, 16, 0, 0, 1);
    const size_t width = (size_t)f.options.config.hidden_size;
    double *hidden = fixture_draw_hidden(&f, 16, 8);
    double *together = malloc(16 * width * sizeof(double));
    double *alone = malloc(16 * width * sizeof(double));
    for (int32_t b = 0; b < N; b++)
        fixture_set_past(&f, b, past[b], 30 + (uint64_t)b);
    fixture_set_hidden(&f, hidden, 0, 16);
    assert_int_equal(fixture_plan(&f, N, past, n), CLMLA_SUCCESS);
    assert_int_equal(clmla_enqueue_layer(f.binding, f.plan, queue, 0, NULL, NULL), CLMLA_SUCCESS);
    fixture_get_output(&f, together, 0, 16);
    size_t first = 0;
    for (int32_t b = 0; b < N; b++) {
        int32_t only[N] = {0};
        only[b] = n[b];
        fixture_set_hidden(&f, hidden + first * width, 0, (size_t)n[b]);
        assert_int_equal(fixture_plan(&f, N, past, only), CLMLA_SUCCESS);
        assert_int_equal(clmla_enqueue_layer(f.binding, f.plan, queue, 0, NULL, NULL),
                         CLMLA_SUCCESS);
        fixture_get_output(&f, alone + first * width, 0, (size_t)n[b]);
        first += (size_t)n[b];
    }
    assert_memory_equal(together, alone, 16 * width * sizeof(double));
    free(hidden);
    free(together);
    free(alone);
    fixture_release(&f);
}

int main(void)
{
    static variant states[sizeof(variants) / sizeof(variants[0])];
    static clmla_kernel_class cpu = CLMLA_KERNELS_CPU, gpu = CLMLA_KERNELS_GPU,
                              nvidia = CLMLA_KERNELS_NVIDIA;
    enum { NUM_VARIANTS = sizeof(variants) / sizeof(variants[0]) };
    const struct CMUnitTest batch[] = {{"cpu: batch-invariant chunks equal the whole",
                                        batch_invariant_chunks_equal_the_whole, NULL, NULL, &cpu},
                                       {"gpu: batch-invariant chunks equal the whole",
                                        batch_invariant_chunks_equal_the_whole, NULL, NULL, &gpu},
                                       {"nvidia: batch-invariant chunks equal the whole",
                                        batch_invariant_chunks_equal_the_whole, NULL, NULL,
                                        &nvidia},
                                       {"cpu: batch-invariant batch equals alone",
                                        batch_invariant_batch_equals_alone, NULL, NULL, &cpu},
                                       {"gpu: batch-invariant batch equals alone",
                                        batch_invariant_batch_equals_alone, NULL, NULL, &gpu},
                                       {"nvidia: batch-invariant batch equals alone",
                                        batch_invariant_batch_equals_alone, NULL, NULL, &nvidia}};
    struct CMUnitTest tests[NUM_VARIANTS + sizeof(batch) / sizeof(batch[0])];
    memset(tests, 0, sizeof(tests));
    memcpy(states, variants, sizeof(variants));
    for (size_t i = 0; i < NUM_VARIANTS; i++) {
        tests[i].name = states[i].name;
        tests[i].test_func = gives_the_same_bits;
        tests[i].initial_state = &states[i];
    }
    memcpy(tests + NUM_VARIANTS, batch, sizeof(batch));
    const int failed = cmocka_run_group_tests_name("invariance", tests, NULL, NULL);
    test_device_close();
    return failed;
}
