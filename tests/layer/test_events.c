/*
 * Events as hosts use them: steps behind a user event, chained by wait lists whose events are
 * released as soon as they have been handed over, on queues of both kinds; uploads and reads on
 * another queue; two layers in flight on one out-of-order queue. Nothing runs before its wait list,
 * and the bits are those of one in-order queue with a wait after every call.
 */
#include "support/layer_fixture.h"

enum { SEQUENCES = 3, TOKENS = 11, STEPS = 3 };

static const int32_t past[SEQUENCES] = {5, 0, 40}, prompt[SEQUENCES] = {2, 8, 1};

typedef struct events_case {
    const char *name;
    clmla_kernel_class kernel_class;
    clmla_projection_backend projection;
    bool out_of_order;
} events_case;

static const events_case cases[] = {
    {"cpu, in order", CLMLA_KERNELS_CPU, CLMLA_PROJECTION_NATIVE, false},
    {"cpu, out of order", CLMLA_KERNELS_CPU, CLMLA_PROJECTION_NATIVE, true},
    {"gpu, out of order", CLMLA_KERNELS_GPU, CLMLA_PROJECTION_NATIVE, true},
    {"CLBlast, in order", CLMLA_KERNELS_CPU, CLMLA_PROJECTION_CLBLAST, false},
    {"CLBlast, out of order", CLMLA_KERNELS_CPU, CLMLA_PROJECTION_CLBLAST, true},
};

/* Two layers of a case, in contexts of their own, and what their steps give; made once. */
static struct {
    const events_case *of;
    fixture f[2];
    unsigned char *expected[2]; /* output */
} made;

/* As before the first step. */
static void reset(int k)
{
    fixture *f = &made.f[k];
    double *hidden = fixture_draw_hidden(f, TOKENS, 8 + (uint64_t)k);
    fixture_set_hidden(f, hidden, 0, TOKENS);
    free(hidden);
}

static cl_command_queue queue_of(const events_case *c)
{
    const test_device *on = test_device_get();
    if (c->out_of_order && on->out_of_order == NULL) {
        print_message("skipped: the device has no out-of-order queues\n");
        skip();
    }
    return c->out_of_order ? on->out_of_order : on->queue;
}

static cl_event make_gate(void)
{
    cl_int status = CL_SUCCESS;
    const cl_event gate = clCreateUserEvent(test_device_get()->context, &status);
    assert_int_equal(status, CL_SUCCESS);
    return gate;
}

static void open_gate(cl_event gate)
{
    assert_int_equal(clSetUserEventStatus(gate, CL_COMPLETE), CL_SUCCESS);
    assert_int_equal(clReleaseEvent(gate), CL_SUCCESS);
}

static bool is_complete(cl_event event)
{
    cl_int status = CL_QUEUED;
    assert_int_equal(
        clGetEventInfo(event, CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof status, &status, NULL),
        CL_SUCCESS);
    assert_true(status >= 0);
    return status == CL_COMPLETE;
}

/* The step's tables, from host arrays that are gone when the call has returned. */
static void enqueue_plan(fixture *f, cl_command_queue queue, cl_event after, cl_event *event)
{
    int32_t cu[SEQUENCES + 1] = {0}, lengths[SEQUENCES];
    for (int32_t b = 0; b < SEQUENCES; b++) {
        cu[b + 1] = cu[b] + prompt[b];
        lengths[b] = past[b] + prompt[b];
    }
    const clmla_step step = {.struct_size = sizeof step,
                             .num_sequences = SEQUENCES,
                             .cu_seqlens_q = cu,
                             .cache_seqlens = lengths,
                             .block_table = f->block_table,
                             .block_table_stride = f->pages};
    assert_int_equal(clmla_enqueue_plan(f->plan, &step, queue, after != NULL,
                                        after != NULL ? &after : NULL, event),
                     CLMLA_SUCCESS);
    memset(cu, 0xff, sizeof cu);
    memset(lengths, 0xff, sizeof lengths);
}

/* The next call of a chain: layer and advance in turns. *last is waited for, released at once, and
 * becomes the call's event. */
static void enqueue_next(fixture *f, cl_command_queue queue, bool advance, cl_event *last)
{
    cl_event event = NULL;
    const clmla_status status =
        advance ? clmla_enqueue_advance(f->plan, NULL, queue, 1, last, &event)
                : clmla_enqueue_layer(f->binding, f->plan, queue, 1, last, &event);
    assert_int_equal(status, CLMLA_SUCCESS);
    assert_int_equal(clReleaseEvent(*last), CL_SUCCESS);
    *last = event;
}

static unsigned char *bytes_of(const test_buffer *buffer)
{
    unsigned char *data = malloc(buffer->bytes);
    assert_non_null(data);
    test_buffer_read(buffer, data);
    return data;
}

/* In order, with a wait after every call. */
static unsigned char *plain_steps(fixture *f)
{
    const cl_command_queue queue = test_device_get()->queue;
    enqueue_plan(f, queue, NULL, NULL);
    for (int i = 0; i < STEPS; i++) {
        if (i > 0)
            assert_int_equal(clmla_enqueue_advance(f->plan, NULL, queue, 0, NULL, NULL),
                             CLMLA_SUCCESS);
        assert_int_equal(clFinish(queue), CL_SUCCESS);
        assert_int_equal(clmla_enqueue_layer(f->binding, f->plan, queue, 0, NULL, NULL),
                         CLMLA_SUCCESS);
        assert_int_equal(clFinish(queue), CL_SUCCESS);
    }
    return bytes_of(&f->output);
}

static void release_all(void)
{
    for (int k = 0; k < 2 && made.of != NULL; k++) {
        fixture_release(&made.f[k]);
        free(made.expected[k]);
    }
    made.of = NULL;
}

/* Each step's output is the next one's input; prepared, so that nothing compiles behind a gate. */
static void make(const events_case *c)
{
    const fixture_options options = {.config = fixture_config(36),
                                     .kernel_class = c->kernel_class,
                                     .projection = c->projection,
                                     .page_block_size = 16,
                                     .feed_back = 1,
                                     .share_context = 1};
    if (made.of != c) {
        release_all();
        made.of = c;
        for (int k = 0; k < 2; k++) {
            made.f[k] = fixture_create(&options);
            assert_int_equal(clmla_layer_prepare(made.f[k].layer, test_device_get()->queue),
                             CLMLA_SUCCESS);
            for (int32_t b = 0; b < SEQUENCES; b++)
                fixture_set_past(&made.f[k], b, past[b], 10 + (uint64_t)(k * SEQUENCES + b));
            reset(k);
            made.expected[k] = plain_steps(&made.f[k]);
        }
    }
    reset(0);
    reset(1);
}

static void same_output(int k)
{
    unsigned char *output = bytes_of(&made.f[k].output);
    assert_memory_equal(output, made.expected[k], made.f[k].output.bytes);
    free(output);
}

static void steps_wait_for_a_user_event_and_each_other(void **state)
{
    const events_case *c = *state;
    const cl_command_queue queue = queue_of(c);
    make(c);
    fixture *f = &made.f[0];
    cl_event last = NULL;
    const cl_event gate = make_gate();
    enqueue_plan(f, queue, gate, &last);
    for (int i = 0; i < STEPS; i++) {
        if (i > 0)
            enqueue_next(f, queue, true, &last);
        enqueue_next(f, queue, false, &last);
    }
    assert_int_equal(clFlush(queue), CL_SUCCESS);
    assert_false(is_complete(last));
    open_gate(gate);
    assert_int_equal(clWaitForEvents(1, &last), CL_SUCCESS);
    assert_true(is_complete(last));
    same_output(0);
    assert_int_equal(clReleaseEvent(last), CL_SUCCESS);
}

/* No wait lists: what was enqueued before on the queue is done before. */
static void steps_on_one_queue_need_no_events(void **state)
{
    const events_case *c = *state;
    const cl_command_queue queue = queue_of(c);
    make(c);
    fixture *f = &made.f[0];
    enqueue_plan(f, queue, NULL, NULL);
    for (int i = 0; i < STEPS; i++) {
        cl_event unused = NULL;
        if (i > 0)
            assert_int_equal(clmla_enqueue_advance(f->plan, NULL, queue, 0, NULL, NULL),
                             CLMLA_SUCCESS);
        assert_int_equal(clmla_enqueue_layer(f->binding, f->plan, queue, 0, NULL, &unused),
                         CLMLA_SUCCESS);
        assert_int_equal(clReleaseEvent(unused), CL_SUCCESS);
    }
    assert_int_equal(clFinish(queue), CL_SUCCESS);
    same_output(0);
}

/* The hidden states come from another queue, held up there, and go back to it. Whole buffers: behind
 * a user event Intel's runtime (2026.22) tells other queues that a transfer at an offset is done
 * before it is. */
static void events_of_another_queue_are_waited_for(void **state)
{
    const events_case *c = *state;
    const test_device *on = test_device_get();
    const cl_command_queue queue = queue_of(c);
    cl_int status = CL_SUCCESS;
    const cl_command_queue other = clCreateCommandQueue(on->context, on->id, 0, &status);
    assert_int_equal(status, CL_SUCCESS);
    make(c);
    fixture *f = &made.f[0]; /* its output takes the place of the hidden states */
    const cl_mem buffer = f->hidden.tensor.buffer;
    size_t bytes = 0;
    assert_int_equal(clGetMemObjectInfo(buffer, CL_MEM_SIZE, sizeof bytes, &bytes, NULL),
                     CL_SUCCESS);
    unsigned char *hidden = malloc(bytes), *poison = malloc(bytes);
    assert_non_null(hidden);
    assert_non_null(poison);
    assert_int_equal(
        clEnqueueReadBuffer(on->queue, buffer, CL_TRUE, 0, bytes, hidden, 0, NULL, NULL),
        CL_SUCCESS);
    memset(poison, 0xff, bytes);
    assert_int_equal(
        clEnqueueWriteBuffer(on->queue, buffer, CL_TRUE, 0, bytes, poison, 0, NULL, NULL),
        CL_SUCCESS);
    const cl_event gate = make_gate();
    cl_event waited[2] = {NULL, NULL}, last = NULL;
    assert_int_equal(
        clEnqueueWriteBuffer(other, buffer, CL_FALSE, 0, bytes, hidden, 1, &gate, &waited[0]),
        CL_SUCCESS);
    enqueue_plan(f, other, NULL, &waited[1]);
    assert_int_equal(clmla_enqueue_layer(f->binding, f->plan, queue, 2, waited, &last),
                     CLMLA_SUCCESS);
    assert_int_equal(clReleaseEvent(waited[0]), CL_SUCCESS);
    assert_int_equal(clReleaseEvent(waited[1]), CL_SUCCESS);
    for (int i = 1; i < STEPS; i++) { /* each call on the other queue than the one before */
        enqueue_next(f, other, true, &last);
        enqueue_next(f, queue, false, &last);
    }
    assert_int_equal(clEnqueueReadBuffer(other, buffer, CL_FALSE, 0, bytes, poison, 1, &last, NULL),
                     CL_SUCCESS);
    assert_int_equal(clReleaseEvent(last), CL_SUCCESS);
    assert_int_equal(clFlush(queue), CL_SUCCESS);
    assert_int_equal(clFlush(other), CL_SUCCESS);
    open_gate(gate);
    assert_int_equal(clFinish(other), CL_SUCCESS);
    assert_memory_equal(poison + f->output.tensor.offset_bytes, made.expected[0], f->output.bytes);
    assert_int_equal(clReleaseCommandQueue(other), CL_SUCCESS);
    free(hidden);
    free(poison);
}

/* Two chains behind one gate, their calls in turns. */
static void two_layers_share_a_queue(void **state)
{
    const events_case *c = *state;
    const cl_command_queue queue = queue_of(c);
    cl_event last[2];
    make(c);
    const cl_event gate = make_gate();
    for (int k = 0; k < 2; k++)
        enqueue_plan(&made.f[k], queue, gate, &last[k]);
    for (int i = 0; i < STEPS; i++)
        for (int advance = i > 0; advance >= 0; advance--)
            for (int k = 0; k < 2; k++)
                enqueue_next(&made.f[k], queue, advance, &last[k]);
    assert_int_equal(clFlush(queue), CL_SUCCESS);
    open_gate(gate);
    assert_int_equal(clWaitForEvents(2, last), CL_SUCCESS);
    for (int k = 0; k < 2; k++) {
        same_output(k);
        assert_int_equal(clReleaseEvent(last[k]), CL_SUCCESS);
    }
}

int main(void)
{
    static const struct {
        const char *name;
        CMUnitTestFunction run;
    } promises[] = {
        {"steps wait for a user event and each other", steps_wait_for_a_user_event_and_each_other},
        {"steps on one queue need no events", steps_on_one_queue_need_no_events},
        {"events of another queue are waited for", events_of_another_queue_are_waited_for},
        {"two layers share a queue", two_layers_share_a_queue},
    };
    enum { NUM_CASES = sizeof cases / sizeof cases[0] };
    enum { NUM_PROMISES = sizeof promises / sizeof promises[0] };
    static events_case states[NUM_CASES];
    static char names[NUM_CASES * NUM_PROMISES][96];
    struct CMUnitTest tests[NUM_CASES * NUM_PROMISES];
    memset(tests, 0, sizeof tests);
    memcpy(states, cases, sizeof cases);
    for (size_t i = 0; i < NUM_CASES * NUM_PROMISES; i++) {
        const size_t k = i / NUM_PROMISES, p = i % NUM_PROMISES;
        (void)snprintf(names[i], sizeof names[i], "%s: %s", states[k].name, promises[p].name);
        tests[i] = (struct CMUnitTest){
            .name = names[i], .test_func = promises[p].run, .initial_state = &states[k]};
    }
    const int failed = cmocka_run_group_tests_name("events", tests, NULL, NULL);
    release_all();
    fixture_release_contexts();
    test_device_close();
    return failed;
}
