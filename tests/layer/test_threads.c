/*
 * Threads that share a context and a layer, each with a queue, weights, a plan and bindings of its
 * own: they make their objects, run steps and release all of it side by side, while programs are
 * built, the layer is prepared and described, and other layers of the context come and go. Every
 * thread gets the bits that a single one gets. For ThreadSanitizer above all.
 */
#include <pthread.h>

#include "core/dtype.h"
#include "support/layer_fixture.h"
#include "support/table.h"

/*
 * PoCL before 6.0 aborts the process when several queues run a kernel that it has loaded twice, for
 * a small and for a larger grid of the same work-groups: it counts the users of the first on the
 * second (pocl_release_dlhandle_cache in lib/CL/devices/common.c of v3.1 to v5.0). A launch adds
 * two there and takes off one, so at worst a launch by the threads takes off two that a launch
 * before had left. The single worker goes first, 2 * THREADS rounds for one of theirs, and leaves
 * enough; the threads still build every program, in a context of their own.
 */
enum {
    THREADS = 4,
    ROUNDS = 2,
    ROUNDS_ALONE = 2 * THREADS * ROUNDS,
    STEPS = 3,
    TOKENS = 7,
    MAX_TOKENS = 16
};

typedef struct thread_case {
    const char *name;
    clmla_kernel_class kernel_class;
    clmla_projection_backend projection;
    bool prepare; /* by every thread; else the first steps build */
} thread_case;

static const thread_case cases[] = {
    {"cpu, the first steps build", CLMLA_KERNELS_CPU, CLMLA_PROJECTION_NATIVE, false},
    {"gpu, every thread prepares", CLMLA_KERNELS_GPU, CLMLA_PROJECTION_NATIVE, true},
    {"cpu, CLBlast", CLMLA_KERNELS_CPU, CLMLA_PROJECTION_CLBLAST, true},
};

/* What threads have in common; read by them only. */
typedef struct shared {
    const thread_case *of;
    clmla_config config;
    clmla_context *context;
    clmla_layer *layer;
    const fixture_weights *weights;
    const uint16_t *hidden; /* [TOKENS, hidden_size], bf16 */
} shared;

typedef struct worker {
    const shared *with;
    pthread_t thread;
    int rounds;
    cl_command_queue queue;
    cl_mem kv, pe, hidden, workspace;
    clmla_weights *weights;
    clmla_plan *plan;
    clmla_binding *binding;
    uint16_t *output; /* [TOKENS, hidden_size] of the last step */
    clmla_status status;
    const char *failed; /* the call */
} worker;

/* Threads must not fail a test: the first bad status is kept. */
static bool good(worker *w, const char *call, clmla_status status)
{
    if (w->status == CLMLA_SUCCESS && status != CLMLA_SUCCESS) {
        w->status = status;
        w->failed = call;
    }
    return w->status == CLMLA_SUCCESS;
}

static size_t hidden_bytes(const shared *s) { return (size_t)s->config.hidden_size * 2; }

static clmla_status create_layer(const shared *s, int32_t max_num_tokens, clmla_layer **out)
{
    const clmla_layer_params params = {.struct_size = sizeof params,
                                       .config = &s->config,
                                       .max_num_sequences = 2,
                                       .max_num_tokens = max_num_tokens,
                                       .max_cache_seqlen = 64,
                                       .page_block_size = 16,
                                       .num_pages = 8};
    return clmla_layer_create(s->context, &params, out);
}

static cl_mem make_buffer(worker *w, size_t bytes)
{
    cl_int status = CL_SUCCESS;
    const cl_mem made =
        clCreateBuffer(test_device_get()->context, CL_MEM_READ_WRITE, bytes, NULL, &status);
    (void)good(w, "clCreateBuffer", status);
    return made;
}

static bool make_objects(worker *w)
{
    const shared *s = w->with;
    const clmla_config *c = &s->config;
    const clmla_weights_params weights = fixture_weights_params(s->weights);
    clmla_layer_info info = {.struct_size = sizeof info};
    static const size_t rows = 8 * 16;
    if (s->of->prepare && !good(w, "clmla_layer_prepare", clmla_layer_prepare(s->layer, w->queue)))
        return false;
    if (!good(w, "clmla_layer_get_info", clmla_layer_get_info(s->layer, &info)))
        return false;
    w->kv = make_buffer(w, rows * (size_t)c->kv_lora_rank * 2);
    w->pe = make_buffer(w, rows * (size_t)c->qk_rope_head_dim * 2);
    w->hidden = make_buffer(w, MAX_TOKENS * hidden_bytes(s));
    w->workspace = make_buffer(w, (size_t)info.workspace_bytes);
    if (!good(w, "clmla_weights_create",
              clmla_weights_create(s->layer, &weights, w->queue, &w->weights)) ||
        !good(w, "clmla_plan_create", clmla_plan_create(s->layer, &w->plan)))
        return false;
    const clmla_binding_params binding = {.struct_size = sizeof binding,
                                          .weights = w->weights,
                                          .kv_cache = {.buffer = w->kv},
                                          .pe_cache = {.buffer = w->pe},
                                          .hidden_states = {.buffer = w->hidden},
                                          .output = {.buffer = w->hidden},
                                          .workspace = {.buffer = w->workspace}};
    return good(w, "clmla_binding_create", clmla_binding_create(s->layer, &binding, &w->binding));
}

static void release_objects(worker *w)
{
    cl_mem *const buffers[] = {&w->kv, &w->pe, &w->hidden, &w->workspace};
    clmla_binding_release(w->binding);
    clmla_plan_release(w->plan);
    clmla_weights_release(w->weights);
    w->binding = NULL;
    w->plan = NULL;
    w->weights = NULL;
    for (size_t i = 0; i < sizeof buffers / sizeof buffers[0]; i++) {
        if (*buffers[i] != NULL)
            (void)clReleaseMemObject(*buffers[i]);
        *buffers[i] = NULL;
    }
}

/* A prompt of two sequences, then decode steps that feed back what they give. */
static void run_steps(worker *w)
{
    static const int32_t cu[] = {0, 2, TOKENS}, lengths[] = {2, TOKENS - 2};
    static const int32_t table[] = {3, 0, 6, 2, 5, 1, 7, 4};
    const shared *s = w->with;
    const clmla_step step = {.struct_size = sizeof step,
                             .num_sequences = 2,
                             .cu_seqlens_q = cu,
                             .cache_seqlens = lengths,
                             .block_table = table,
                             .block_table_stride = 4};
    (void)good(w, "clEnqueueWriteBuffer",
               clEnqueueWriteBuffer(w->queue, w->hidden, CL_FALSE, 0, TOKENS * hidden_bytes(s),
                                    s->hidden, 0, NULL, NULL));
    (void)good(w, "clmla_enqueue_plan",
               clmla_enqueue_plan(w->plan, &step, w->queue, 0, NULL, NULL));
    for (int i = 0; i < STEPS && w->status == CLMLA_SUCCESS; i++) {
        if (i > 0)
            (void)good(w, "clmla_enqueue_advance",
                       clmla_enqueue_advance(w->plan, NULL, w->queue, 0, NULL, NULL));
        (void)good(w, "clmla_enqueue_layer",
                   clmla_enqueue_layer(w->binding, w->plan, w->queue, 0, NULL, NULL));
    }
    (void)good(w, "clEnqueueReadBuffer",
               clEnqueueReadBuffer(w->queue, w->hidden, CL_TRUE, 0, TOKENS * hidden_bytes(s),
                                   w->output, 0, NULL, NULL));
}

/* Another layer of the same context, made, described and released. */
static void pass_by(worker *w)
{
    char text[4096];
    clmla_layer *other = NULL;
    if (good(w, "clmla_layer_create", create_layer(w->with, 5, &other)))
        (void)good(w, "clmla_layer_describe", clmla_layer_describe(other, text, sizeof text, NULL));
    clmla_layer_release(other);
    (void)good(w, "clmla_layer_describe",
               clmla_layer_describe(w->with->layer, text, sizeof text, NULL));
}

static void *work(void *argument)
{
    worker *w = argument;
    for (int round = 0; round < w->rounds && w->status == CLMLA_SUCCESS; round++) {
        if (make_objects(w))
            run_steps(w);
        pass_by(w);
        release_objects(w);
    }
    return NULL;
}

static void open_worker(worker *w, const shared *s, int rounds)
{
    cl_int status = CL_SUCCESS;
    const test_device *on = test_device_get();
    *w = (worker){.with = s, .rounds = rounds, .output = malloc(TOKENS * hidden_bytes(s))};
    assert_non_null(w->output);
    w->queue = clCreateCommandQueue(on->context, on->id, 0, &status);
    assert_int_equal(status, CL_SUCCESS);
}

static void close_worker(worker *w)
{
    if (w->status != CLMLA_SUCCESS)
        fail_msg("%s: %s", w->failed, clmla_status_name(w->status));
    (void)clReleaseCommandQueue(w->queue);
    free(w->output);
}

static void open_shared(shared *s)
{
    const test_device *on = test_device_get();
    const clmla_context_options options = {.struct_size = sizeof options,
                                           .kernel_class = s->of->kernel_class,
                                           .projection = s->of->projection};
    assert_int_equal(clmla_context_create(on->context, on->id, &options, &s->context),
                     CLMLA_SUCCESS);
    assert_int_equal(create_layer(s, MAX_TOKENS, &s->layer), CLMLA_SUCCESS);
}

static void close_shared(shared *s)
{
    clmla_layer_release(s->layer);
    clmla_context_release(s->context);
}

static void threads_get_the_bits_of_a_single_one(void **state)
{
    shared s = {.of = *state, .config = fixture_config(36)};
    fixture_weights weights = fixture_weights_create(&s.config, 1234);
    const size_t count = TOKENS * (size_t)s.config.hidden_size;
    uint16_t *hidden = malloc(count * sizeof *hidden);
    test_random random = {.state = 5};
    worker alone, workers[THREADS];
    assert_non_null(hidden);
    for (size_t i = 0; i < count; i++)
        hidden[i] = mla__double_to_bf16(test_random_uniform(&random, -1.5, 1.5));
    s.weights = &weights;
    s.hidden = hidden;

    open_shared(&s);
    open_worker(&alone, &s, ROUNDS_ALONE);
    (void)work(&alone);
    close_shared(&s);

    open_shared(&s); /* the first in a context: programs are not built yet */
    for (int i = 0; i < THREADS; i++)
        open_worker(&workers[i], &s, ROUNDS);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(workers[i].thread, NULL), 0);
    for (int i = 0; i < THREADS; i++) {
        assert_memory_equal(workers[i].output, alone.output, count * sizeof *hidden);
        close_worker(&workers[i]);
    }
    close_worker(&alone);
    close_shared(&s);
    fixture_weights_release(&weights);
    free(hidden);
}

int main(int argc, char **argv)
{
    const test_table table = TEST_TABLE(threads_get_the_bits_of_a_single_one, cases);
    return test_run("threads", argc, argv, &table, 1, TEST_NO_OTHERS);
}
