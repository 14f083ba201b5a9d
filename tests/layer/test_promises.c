/*
 * After clmla_layer_prepare an enqueue builds no program, allocates no device memory and does not
 * wait. Creating a binding allocates no device memory either: a model's many cost their arguments
 * only. The OpenCL entries that would show it are wrapped at link time and counted.
 */
#include "layer/binding.h"
#include "support/layer_fixture.h"
#include "support/table.h"

static struct {
    int builds, buffers, waits;
} calls;

cl_int __real_clBuildProgram(cl_program program, cl_uint num_devices, const cl_device_id *devices,
                             const char *options, void (*notify)(cl_program, void *), void *user);
cl_int __wrap_clBuildProgram(cl_program program, cl_uint num_devices, const cl_device_id *devices,
                             const char *options, void (*notify)(cl_program, void *), void *user);
cl_mem __real_clCreateBuffer(cl_context context, cl_mem_flags flags, size_t bytes, void *host,
                             cl_int *error);
cl_mem __wrap_clCreateBuffer(cl_context context, cl_mem_flags flags, size_t bytes, void *host,
                             cl_int *error);
cl_int __real_clFinish(cl_command_queue queue);
cl_int __wrap_clFinish(cl_command_queue queue);
cl_int __real_clWaitForEvents(cl_uint num_events, const cl_event *events);
cl_int __wrap_clWaitForEvents(cl_uint num_events, const cl_event *events);
cl_int __real_clEnqueueWriteBuffer(cl_command_queue queue, cl_mem buffer, cl_bool blocking,
                                   size_t offset, size_t bytes, const void *data,
                                   cl_uint num_events, const cl_event *wait_list, cl_event *event);
cl_int __wrap_clEnqueueWriteBuffer(cl_command_queue queue, cl_mem buffer, cl_bool blocking,
                                   size_t offset, size_t bytes, const void *data,
                                   cl_uint num_events, const cl_event *wait_list, cl_event *event);

cl_int __wrap_clBuildProgram(cl_program program, cl_uint num_devices, const cl_device_id *devices,
                             const char *options, void (*notify)(cl_program, void *), void *user)
{
    calls.builds++;
    return __real_clBuildProgram(program, num_devices, devices, options, notify, user);
}

cl_mem __wrap_clCreateBuffer(cl_context context, cl_mem_flags flags, size_t bytes, void *host,
                             cl_int *error)
{
    calls.buffers++;
    return __real_clCreateBuffer(context, flags, bytes, host, error);
}

cl_int __wrap_clFinish(cl_command_queue queue)
{
    calls.waits++;
    return __real_clFinish(queue);
}

cl_int __wrap_clWaitForEvents(cl_uint num_events, const cl_event *events)
{
    calls.waits++;
    return __real_clWaitForEvents(num_events, events);
}

cl_int __wrap_clEnqueueWriteBuffer(cl_command_queue queue, cl_mem buffer, cl_bool blocking,
                                   size_t offset, size_t bytes, const void *data,
                                   cl_uint num_events, const cl_event *wait_list, cl_event *event)
{
    calls.waits += blocking != CL_FALSE;
    return __real_clEnqueueWriteBuffer(queue, buffer, blocking, offset, bytes, data, num_events,
                                       wait_list, event);
}

typedef struct promise_case {
    const char *name;
    clmla_kernel_class kernel_class;
    clmla_dtype dtype;
    int32_t num_splits;
} promise_case;

static const promise_case cases[] = {
    {"cpu bf16", CLMLA_KERNELS_CPU, CLMLA_DTYPE_BF16, 0},
    {"cpu f32, three splits", CLMLA_KERNELS_CPU, CLMLA_DTYPE_F32, 3},
    {"gpu bf16", CLMLA_KERNELS_GPU, CLMLA_DTYPE_BF16, 0},
    {"gpu bf16, three splits", CLMLA_KERNELS_GPU, CLMLA_DTYPE_BF16, 3},
    {"nvidia bf16, three splits", CLMLA_KERNELS_NVIDIA, CLMLA_DTYPE_BF16, 3},
};

/* Few and many tokens, one and several sequences, then decode steps: every kernel a step reaches. */
static void enqueue_steps(fixture *f)
{
    static const int32_t past[3] = {5, 40, 0}, few[3] = {1, 0, 1}, many[3] = {20, 1, 24};
    const cl_command_queue queue = test_device_get()->queue;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(fixture_plan(f, i == 0 ? 1 : 3, past, i == 2 ? many : few), CLMLA_SUCCESS);
        assert_int_equal(clmla_enqueue_layer(f->binding, f->plan, queue, 0, NULL, NULL),
                         CLMLA_SUCCESS);
        assert_int_equal(clmla_enqueue_advance(f->plan, NULL, queue, 0, NULL, NULL), CLMLA_SUCCESS);
        assert_int_equal(clmla_enqueue_layer(f->binding, f->plan, queue, 0, NULL, NULL),
                         CLMLA_SUCCESS);
    }
}

static void enqueues_without_building_allocating_or_waiting(void **state)
{
    const promise_case *c = *state;
    const fixture_options options = {.config = fixture_config_of(c->kernel_class, 36),
                                     .kernel_class = c->kernel_class,
                                     .projection = CLMLA_PROJECTION_NATIVE,
                                     .dtype = c->dtype,
                                     .page_block_size = 16,
                                     .num_splits = c->num_splits};
    fixture f = fixture_create(&options);
    double *hidden = fixture_draw_hidden(&f, 64, 5);
    fixture_set_hidden(&f, hidden, 0, 64);
    assert_int_equal(clmla_layer_prepare(f.layer, test_device_get()->queue), CLMLA_SUCCESS);
    assert_true(calls.builds > 0); /* the wrapping works */
    assert_true(calls.buffers > 0);
    assert_true(calls.waits > 0);
    memset(&calls, 0, sizeof calls);
    enqueue_steps(&f);
    assert_int_equal(calls.builds, 0);
    assert_int_equal(calls.buffers, 0);
    assert_int_equal(calls.waits, 0);
    free(hidden);
    fixture_release(&f);
}

/* A model's 61 layers share an executor and a workspace: what a binding adds is kernel objects and
 * their arguments. Dropping them leaves nothing behind. */
static void bindings_allocate_no_device_memory(void **state)
{
    (void)state;
    enum { NUM_LAYERS = 61 };
    static const int32_t past[1] = {5}, one[1] = {1};
    const fixture_options options = {.config = fixture_config(0),
                                     .kernel_class = CLMLA_KERNELS_CPU,
                                     .projection = CLMLA_PROJECTION_NATIVE,
                                     .dtype = CLMLA_DTYPE_BF16,
                                     .page_block_size = 16,
                                     .feed_back = 1};
    const cl_command_queue queue = test_device_get()->queue;
    fixture f = fixture_create(&options);
    clmla_binding *bindings[NUM_LAYERS];
    double *hidden = fixture_draw_hidden(&f, 1, 5);
    fixture_set_hidden(&f, hidden, 0, 1);
    assert_int_equal(clmla_layer_prepare(f.layer, queue), CLMLA_SUCCESS);
    assert_int_equal(fixture_plan(&f, 1, past, one), CLMLA_SUCCESS);
    assert_true(calls.buffers > 0); /* the wrapping works */
    memset(&calls, 0, sizeof calls);
    const clmla_binding_params params = {.struct_size = sizeof(params),
                                         .weights = f.weights,
                                         .kv_cache = f.kv_cache.tensor,
                                         .pe_cache = f.pe_cache.tensor,
                                         .hidden_states = f.hidden.tensor,
                                         .output = f.hidden.tensor,
                                         .workspace = f.workspace.tensor};
    for (int i = 0; i < NUM_LAYERS; i++)
        assert_int_equal(clmla_binding_create(f.layer, &params, &bindings[i]), CLMLA_SUCCESS);
    for (int i = 0; i < NUM_LAYERS; i++)
        assert_int_equal(clmla_enqueue_layer(bindings[i], f.plan, queue, 0, NULL, NULL),
                         CLMLA_SUCCESS);
    for (int i = 0; i < NUM_LAYERS; i++)
        clmla_binding_release(bindings[i]);
    assert_int_equal(calls.buffers, 0);
    assert_int_equal(calls.builds, 0);
    free(hidden);
    fixture_release(&f);
}

/* Preparing builds all that a binding needs. */
static void prepare_builds_what_a_binding_needs(void **state)
{
    (void)state;
    const clmla_config config = fixture_config(36);
    const clmla_layer_params params = {.struct_size = sizeof params,
                                       .config = &config,
                                       .max_num_sequences = 2,
                                       .max_num_tokens = 40,
                                       .max_cache_seqlen = 64,
                                       .page_block_size = 16,
                                       .num_pages = 8};
    clmla_context *context = test_context(CLMLA_KERNELS_CPU, CLMLA_PROJECTION_NATIVE);
    clmla_layer *layer;
    clmla_plan *plan;
    assert_int_equal(clmla_layer_create(context, &params, &layer), CLMLA_SUCCESS);
    assert_int_equal(clmla_layer_prepare(layer, test_device_get()->queue), CLMLA_SUCCESS);
    const int built = calls.builds;
    assert_int_equal(clmla_layer_prepare(layer, test_device_get()->queue), CLMLA_SUCCESS);
    assert_int_equal(clmla_plan_create(layer, &plan), CLMLA_SUCCESS);
    assert_int_equal(calls.builds, built);
    clmla_plan_release(plan);
    clmla_layer_release(layer);
    clmla_context_release(context);
}

static void describes(const fixture *f, const char *expected)
{
    char text[4096];
    assert_int_equal(clmla_layer_describe(f->layer, text, sizeof(text), NULL), CLMLA_SUCCESS);
    if (strstr(text, expected) == NULL)
        fail_msg("expected \"%s\" in\n%s", expected, text);
}

static fixture nvidia_fixture(int32_t max_num_tokens)
{
    const fixture_options options = {.config = fixture_config_of(CLMLA_KERNELS_NVIDIA, 0),
                                     .kernel_class = CLMLA_KERNELS_NVIDIA,
                                     .projection = CLMLA_PROJECTION_NATIVE,
                                     .dtype = CLMLA_DTYPE_BF16,
                                     .page_block_size = 16,
                                     .max_num_tokens = max_num_tokens};
    return fixture_create(&options);
}

static clmla_binding *bind_again(const fixture *f)
{
    const clmla_binding_params params = {.struct_size = sizeof(params),
                                         .weights = f->weights,
                                         .kv_cache = f->kv_cache.tensor,
                                         .pe_cache = f->pe_cache.tensor,
                                         .hidden_states = f->hidden.tensor,
                                         .output = f->output.tensor,
                                         .workspace = f->workspace.tensor};
    clmla_binding *binding = NULL;
    assert_int_equal(clmla_binding_create(f->layer, &params, &binding), CLMLA_SUCCESS);
    return binding;
}

/* Attention's tile for many rows needs more local memory than devices report: prepare finds out
 * whether they have it. Bindings from before keep their tiles; the bits are the same. */
static void prepare_tries_the_large_tile(void **state)
{
    (void)state;
    enum { TOKENS = 24 }; /* times four heads: more rows than the tile */
    static const int32_t past[1] = {0}, tokens[1] = {TOKENS};
    const cl_command_queue queue = test_device_get()->queue;
    fixture f = nvidia_fixture(TOKENS);
    const size_t count = TOKENS * (size_t)f.options.config.hidden_size;
    double *hidden = fixture_draw_hidden(&f, TOKENS, 5);
    double *before = malloc(count * sizeof(double)), *after = malloc(count * sizeof(double));
    assert_true(before != NULL && after != NULL);
    fixture_set_hidden(&f, hidden, 0, TOKENS);
    describes(&f, "attention from 64 rows a sequence: no tile of its own, its local memory is not");
    assert_int_equal(f.binding->attention.large.tile.tile_rows, 0);
    assert_int_equal(fixture_plan(&f, 1, past, tokens), CLMLA_SUCCESS);
    assert_int_equal(clmla_enqueue_layer(f.binding, f.plan, queue, 0, NULL, NULL), CLMLA_SUCCESS);
    fixture_get_output(&f, before, 0, TOKENS);

    assert_int_equal(clmla_layer_prepare(f.layer, queue), CLMLA_SUCCESS);
    if (f.context->local_refused_bytes > 0) {
        print_message("the device refuses the tile\n");
        describes(&f, "rows a sequence: no tile of its own, it does not build or run here");
    } else {
        describes(&f, "attention from 64 rows a sequence: tile_rows=64 ");
        memset(&calls, 0, sizeof calls);
        clmla_binding *binding = bind_again(&f);
        assert_int_equal(binding->attention.large.tile.tile_rows, MLA__ATTENTION_LARGE_ROWS);
        assert_int_equal(clmla_enqueue_layer(binding, f.plan, queue, 0, NULL, NULL), CLMLA_SUCCESS);
        assert_int_equal(calls.builds, 0);
        fixture_get_output(&f, after, 0, TOKENS);
        assert_memory_equal(before, after, count * sizeof(double));
        clmla_binding_release(binding);
    }
    free(hidden);
    free(before);
    free(after);
    fixture_release(&f);
}

static void a_layer_of_few_rows_tries_no_large_tile(void **state)
{
    (void)state;
    fixture f = nvidia_fixture(15);
    assert_int_equal(clmla_layer_prepare(f.layer, test_device_get()->queue), CLMLA_SUCCESS);
    describes(&f, "attention from 64 rows a sequence: no tile of its own, no step has as many");
    assert_int_equal(f.context->local_proven_bytes, 0);
    assert_int_equal(f.context->local_refused_bytes, 0);
    fixture_release(&f);
}

int main(int argc, char **argv)
{
    const test_table table = TEST_TABLE(enqueues_without_building_allocating_or_waiting, cases);
    const struct CMUnitTest others[] = {
        cmocka_unit_test(prepare_builds_what_a_binding_needs),
        cmocka_unit_test(bindings_allocate_no_device_memory),
        cmocka_unit_test(prepare_tries_the_large_tile),
        cmocka_unit_test(a_layer_of_few_rows_tries_no_large_tile),
    };
    return test_run("promises", argc, argv, &table, 1, TEST_AND(others));
}
