/*
 * Decode steps by the hundred thousand on a tiny model, caches growing and reset: what the process
 * holds on the heap, its resident memory and the OpenCL objects that live stay as they are after
 * the first rounds, and the last step of a round, with all rows that the round appended, is the
 * reference's at checkpoints.
 *
 * A round is a number of decode steps, drawn anew each time, from the same past; its hidden states
 * are the same in each of its steps, so that the reference computes the round as one prefill. The
 * host waits once a round.
 *
 * By default a few thousand steps; 200,000 and more with CLMLA_TEST_ALL=1 (layer/all_soak, slow).
 */
#include <malloc.h>
#include <unistd.h>

#include "faults/opencl.h"
#include "support/layer_fixture.h"
#include "support/table.h"

enum { SEQUENCES = 3, MIN_STEPS = 8, MAX_STEPS = 72, WARM_ROUNDS = 40, CHECKPOINTS = 25 };

typedef struct soak_case {
    const char *name;
    clmla_kernel_class kernel_class;
    clmla_projection_backend projection;
    clmla_dtype dtype;
    double bound, cache_bound; /* as in test_layer.c */
    int32_t steps, all_steps;
} soak_case;

/* PoCL and malloc keep what they had for the longest queue so far: up to 31 KB were seen, no more
 * after 400,000 steps than after 200,000. The smallest leak is malloc's smallest piece, 32 bytes a
 * step, or a round when all steps are asked for. */
enum { HEAP_GROWTH = 64 << 10, RESIDENT_GROWTH = 2 << 20 };

static const soak_case cases[] = {
    {"cpu native f32", CLMLA_KERNELS_CPU, CLMLA_PROJECTION_NATIVE, CLMLA_DTYPE_F32, 5e-6, 5e-6,
     3000, 200000},
    {"gpu native bf16", CLMLA_KERNELS_GPU, CLMLA_PROJECTION_NATIVE, CLMLA_DTYPE_BF16, 1e-2, 3.5e-3,
     0, 20000},
    {"cpu CLBlast f32", CLMLA_KERNELS_CPU, CLMLA_PROJECTION_CLBLAST, CLMLA_DTYPE_F32, 5e-6, 5e-6, 0,
     20000},
};

static const int32_t past[SEQUENCES] = {3, 23, 0};

typedef struct usage {
    long heap, resident; /* bytes */
    faults_holds holds;
} usage;

/* Sanitizers keep freed memory for a while, and tell nothing about the heap. */
#ifdef TEST_SANITIZED
static const bool memory_is_known = false;
#else
static const bool memory_is_known = true;
#endif

static usage measure(void)
{
    const struct mallinfo2 info = mallinfo2();
    usage now = {.heap = (long)(info.uordblks + info.hblkhd), .holds = faults_count()};
    long size = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%ld %ld", &size, &resident), 2);
    fclose(file);
    now.resident = resident * sysconf(_SC_PAGESIZE);
    return now;
}

/* Steps of one round; the past stays as it was in the caches. */
static void run_round(fixture *f, const double *hidden, int32_t steps)
{
    static const int32_t one[SEQUENCES] = {1, 1, 1};
    const cl_command_queue queue = test_device_get()->queue;
    fixture_set_hidden(f, hidden, 0, SEQUENCES);
    assert_int_equal(fixture_plan(f, SEQUENCES, past, one), CLMLA_SUCCESS);
    for (int32_t i = 0; i < steps; i++) {
        if (i > 0)
            assert_int_equal(clmla_enqueue_advance(f->plan, NULL, queue, 0, NULL, NULL),
                             CLMLA_SUCCESS);
        assert_int_equal(clmla_enqueue_layer(f->binding, f->plan, queue, 0, NULL, NULL),
                         CLMLA_SUCCESS);
    }
    assert_int_equal(clFinish(queue), CL_SUCCESS);
}

static void check_round(fixture *f, const soak_case *c, const double *hidden, int32_t steps)
{
    const size_t width = (size_t)f->options.config.hidden_size;
    const size_t latent = (size_t)f->options.config.kv_lora_rank;
    const size_t rope = (size_t)f->options.config.qk_rope_head_dim;
    double *repeated = malloc(MAX_STEPS * width * sizeof(double));
    double *expected = malloc(MAX_STEPS * width * sizeof(double));
    double *actual = malloc(SEQUENCES * width * sizeof(double));
    double *kv = malloc(FIXTURE_MAX_KEYS * latent * sizeof(double));
    double *pe = malloc(FIXTURE_MAX_KEYS * rope * sizeof(double));
    assert_true(repeated != NULL && expected != NULL && actual != NULL && kv != NULL && pe != NULL);
    fixture_get_output(f, actual, 0, SEQUENCES);
    for (int32_t b = 0; b < SEQUENCES; b++) {
        const size_t keys = (size_t)(past[b] + steps);
        for (int32_t i = 0; i < steps; i++)
            memcpy(repeated + (size_t)i * width, hidden + (size_t)b * width,
                   width * sizeof(double));
        fixture_reference(f, b, past[b], steps, repeated, expected);
        test_close("output", actual + (size_t)b * width, expected + (size_t)(steps - 1) * width,
                   width, c->bound);
        fixture_get_cache(f, b, (int32_t)keys, kv, pe);
        test_close("kv_cache", kv, f->ref_kv[b], keys * latent, c->cache_bound);
        test_close("pe_cache", pe, f->ref_pe[b], keys * rope, c->cache_bound);
    }
    free(repeated);
    free(expected);
    free(actual);
    free(kv);
    free(pe);
}

static void same_usage(const soak_case *c, const usage *before, const usage *after, int32_t steps)
{
    print_message("%d steps: heap %+ld bytes, resident %+ld KiB\n", (int)steps,
                  after->heap - before->heap, (after->resident - before->resident) / 1024);
    for (int kind = 0; kind < FAULTS_KINDS; kind++)
        if (before->holds.of[kind] != after->holds.of[kind])
            fail_msg("%s: %d %s more than before", c->name,
                     after->holds.of[kind] - before->holds.of[kind], faults_kind_name(kind));
    if (!memory_is_known)
        return;
    if (after->heap - before->heap > HEAP_GROWTH)
        fail_msg("%s: %ld bytes more on the heap", c->name, after->heap - before->heap);
    if (after->resident - before->resident > RESIDENT_GROWTH)
        fail_msg("%s: %ld bytes more resident", c->name, after->resident - before->resident);
}

static void memory_stays_and_results_are_right(void **state)
{
    const soak_case *c = *state;
    const int32_t wanted = test_all() ? c->all_steps : c->steps;
    const fixture_options options = {.config = fixture_config(36),
                                     .kernel_class = c->kernel_class,
                                     .projection = c->projection,
                                     .dtype = c->dtype,
                                     .page_block_size = 16};
    if (wanted == 0) {
        print_message("skipped: %s, slow; CLMLA_TEST_ALL=1 computes it\n", c->name);
        skip();
    }
    fixture f = fixture_create(&options);
    test_random random = {.state = 7};
    usage before = {.heap = 0};
    double *hidden = NULL;
    int32_t done = 0, checked = 0, steps = 0;
    assert_int_equal(clmla_layer_prepare(f.layer, test_device_get()->queue), CLMLA_SUCCESS);
    for (int32_t b = 0; b < SEQUENCES; b++)
        fixture_set_past(&f, b, past[b], 70 + (uint64_t)b);
    for (int32_t round = 0; done < wanted; round++, done += steps) {
        free(hidden);
        hidden = fixture_draw_hidden(&f, SEQUENCES, 1000 + (uint64_t)round);
        steps = test_random_int(&random, MIN_STEPS, MAX_STEPS);
        run_round(&f, hidden, steps);
        if (round == WARM_ROUNDS)
            before = measure();
        if (done >= (int64_t)checked * wanted / CHECKPOINTS) {
            check_round(&f, c, hidden, steps);
            checked++;
        }
    }
    check_round(&f, c, hidden, steps);
    assert_true(checked > 1 && before.holds.of[FAULTS_MEMORY] > 0);
    const usage after = measure();
    same_usage(c, &before, &after, done);
    free(hidden);
    fixture_release(&f);
}

int main(int argc, char **argv)
{
    const test_table table = TEST_TABLE(memory_stays_and_results_are_right, cases);
    return test_run("soak", argc, argv, &table, 1, TEST_NO_OTHERS);
}
