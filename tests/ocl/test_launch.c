/* Streams: order of commands on in-order and out-of-order queues, wait lists, events. */
#define _POSIX_C_SOURCE 200809L /* nanosleep */

#include <time.h>

#include "clmla.h"
#include "ocl/launch.h"
#include "support/device.h"
#include "support/support.h"

#define KERNELS TEST_OUTPUT_DIR "/kernels-test-launch"

/* push: x = 3x + value (mod 2^32), so that the order of two launches shows in x; the loop keeps a
 * work-item busy, so that launches that are not ordered overlap.
 * count: every work-item below limit adds one; sizes receives what the kernel saw. */
static const char source[] =
    "kernel void push(global uint *x, const ulong at, const int value, const int spins)\n"
    "{\n"
    "    volatile uint now = x[at];\n"
    "    for (int i = 0; i < spins; i++)\n"
    "        now = now + 1u;\n"
    "    x[at] = 3u * (now - (uint)spins) + (uint)value;\n"
    "}\n"
    "kernel void count(global int *seen, const ulong at, const int limit, global ulong *sizes,\n"
    "                  const ulong sizes_at)\n"
    "{\n"
    "    const int i = (int)(get_global_id(1) * get_global_size(0) + get_global_id(0));\n"
    "    if (i == 0) {\n"
    "        sizes[sizes_at] = get_global_size(0);\n"
    "        sizes[sizes_at + 1] = get_global_size(1);\n"
    "        sizes[sizes_at + 2] = get_local_size(0);\n"
    "    }\n"
    "    if (i < limit)\n"
    "        seen[at + i] += 1;\n"
    "}\n"
    "kernel void typed(global float *out, const ulong at, const int i, const ulong u,\n"
    "                  const float f, const float2 v, local float *scratch,\n"
    "                  global const int *nothing)\n"
    "{\n"
    "    scratch[3] = v.y;\n"
    "    out[at] = (float)i;\n"
    "    out[at + 1] = (float)(u >> 32);\n"
    "    out[at + 2] = f;\n"
    "    out[at + 3] = v.x;\n"
    "    out[at + 4] = scratch[3];\n"
    "    out[at + 5] = nothing == 0 ? 1.0f : 0.0f;\n"
    "}\n";

static const char *const files[] = {"launch.cl", NULL};
static const size_t one[] = {1};
static clmla_context *context;

static mla__kernel make(const char *name)
{
    mla__kernel kernel = {0};
    assert_int_equal(mla__kernel_create(context, files, NULL, name, &kernel), CLMLA_SUCCESS);
    return kernel;
}

enum { MAX_LINKS = 16, SPINS = 200000 };

/* A kernel object for each value, all on one uint. */
typedef struct chain {
    test_buffer x;
    mla__kernel links[MAX_LINKS];
    int count;
} chain;

static chain make_chain(int count)
{
    const uint32_t zero = 0;
    chain made = {.x = test_buffer_of(&zero, sizeof zero, CLMLA_DTYPE_I32), .count = count};
    for (int i = 0; i < count; i++) {
        made.links[i] = make("push");
        mla__arg_buffer(&made.links[i], made.x.tensor.buffer);
        mla__arg_ulong(&made.links[i], made.x.tensor.offset_bytes / sizeof zero);
        mla__arg_int(&made.links[i], i + 1);
        mla__arg_int(&made.links[i], SPINS);
    }
    return made;
}

static uint32_t chain_result(int count)
{
    uint32_t x = 0;
    for (int i = 0; i < count; i++)
        x = 3u * x + (uint32_t)(i + 1);
    return x;
}

static uint32_t read_x(const chain *c)
{
    uint32_t x = 0;
    test_buffer_read(&c->x, &x);
    return x;
}

static void release_chain(chain *c)
{
    for (int i = 0; i < c->count; i++)
        mla__kernel_release(&c->links[i]);
    test_buffer_release(&c->x);
}

/* A queue of its own: commands held back on it must not hold back test_device.queue, which reads.
 */
static cl_command_queue make_queue(bool out_of_order)
{
    const test_device *on = test_device_get();
    cl_int status = CL_SUCCESS;
    const cl_command_queue queue = clCreateCommandQueue(
        on->context, on->id, out_of_order ? CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE : 0, &status);
    if (status != CL_SUCCESS && out_of_order) {
        print_message("skipped: no out-of-order queues on this device\n");
        skip();
    }
    assert_int_equal(status, CL_SUCCESS);
    return queue;
}

static cl_event make_user_event(void)
{
    cl_int status = CL_SUCCESS;
    const cl_event event = clCreateUserEvent(test_device_get()->context, &status);
    assert_int_equal(status, CL_SUCCESS);
    return event;
}

static cl_int execution_status(cl_event event)
{
    cl_int status = CL_QUEUED;
    assert_int_equal(
        clGetEventInfo(event, CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof status, &status, NULL),
        CL_SUCCESS);
    return status;
}

static void pause_ms(long ms)
{
    const struct timespec duration = {.tv_nsec = ms * 1000000L};
    nanosleep(&duration, NULL);
}

static mla__stream begin(cl_command_queue queue, cl_uint num_events, const cl_event *wait_list)
{
    mla__stream stream;
    memset(&stream, 0xff, sizeof stream);
    assert_int_equal(mla__stream_begin(&stream, queue, num_events, wait_list), CLMLA_SUCCESS);
    return stream;
}

static void launch(mla__stream *stream, const mla__kernel *kernel)
{
    assert_int_equal(mla__stream_launch(stream, kernel, 1, one, one), CLMLA_SUCCESS);
}

/* ---- order -------------------------------------------------------------------------------- */

static void check_chain_behind_user_event(bool out_of_order)
{
    const cl_command_queue queue = make_queue(out_of_order);
    const cl_event gate = make_user_event();
    chain c = make_chain(8);
    mla__stream stream = begin(queue, 1, &gate);
    for (int i = 0; i < c.count; i++)
        launch(&stream, &c.links[i]);
    cl_event done = NULL;
    assert_int_equal(mla__stream_end(&stream, &done), CLMLA_SUCCESS);
    assert_non_null(done);
    assert_int_equal(stream.kernel_launches, 8);
    clFlush(queue);
    pause_ms(20);
    assert_int_not_equal(execution_status(done), CL_COMPLETE);
    assert_int_equal(read_x(&c), 0);

    assert_int_equal(clSetUserEventStatus(gate, CL_COMPLETE), CL_SUCCESS);
    assert_int_equal(clWaitForEvents(1, &done), CL_SUCCESS);
    assert_int_equal(execution_status(done), CL_COMPLETE);
    assert_int_equal(read_x(&c), chain_result(8));
    clReleaseEvent(done);
    clReleaseEvent(gate);
    release_chain(&c);
    clReleaseCommandQueue(queue);
}

static void a_chain_waits_for_its_list_in_order(void **state)
{
    (void)state;
    check_chain_behind_user_event(false);
}

static void a_chain_waits_for_its_list_out_of_order(void **state)
{
    (void)state;
    check_chain_behind_user_event(true);
}

/* The second stream waits for the first one's event only. */
static void streams_follow_each_other_through_events(void **state)
{
    (void)state;
    const cl_command_queue queue = make_queue(true);
    chain c = make_chain(6);
    cl_event first = NULL, second = NULL;
    mla__stream stream = begin(queue, 0, NULL);
    for (int i = 0; i < 3; i++)
        launch(&stream, &c.links[i]);
    assert_int_equal(mla__stream_end(&stream, &first), CLMLA_SUCCESS);
    stream = begin(queue, 1, &first);
    for (int i = 3; i < 6; i++)
        launch(&stream, &c.links[i]);
    assert_int_equal(mla__stream_end(&stream, &second), CLMLA_SUCCESS);
    assert_int_equal(clWaitForEvents(1, &second), CL_SUCCESS);
    assert_int_equal(read_x(&c), chain_result(6));
    clReleaseEvent(first);
    clReleaseEvent(second);
    release_chain(&c);
    clReleaseCommandQueue(queue);
}

/* A copy without wait list, as CLBlast would enqueue it: x -> y between two launches, then y -> x
 * first of all in a second stream; both streams behind user events. */
static void check_foreign_commands(bool out_of_order)
{
    const cl_command_queue queue = make_queue(out_of_order);
    const cl_event gates[] = {make_user_event(), make_user_event()};
    chain c = make_chain(2);
    test_buffer y = test_buffer_poisoned(sizeof(uint32_t), CLMLA_DTYPE_I32);
    const size_t at = c.x.tensor.offset_bytes;
    cl_event done = NULL;

    mla__stream stream = begin(queue, 1, &gates[0]);
    launch(&stream, &c.links[0]);
    assert_int_equal(mla__stream_before_foreign(&stream), CLMLA_SUCCESS);
    assert_int_equal(clEnqueueCopyBuffer(queue, c.x.tensor.buffer, y.tensor.buffer, at, at,
                                         sizeof(uint32_t), 0, NULL, NULL),
                     CL_SUCCESS);
    mla__stream_after_foreign(&stream);
    launch(&stream, &c.links[1]);
    assert_int_equal(mla__stream_end(&stream, &done), CLMLA_SUCCESS);
    clFlush(queue);
    assert_int_equal(clSetUserEventStatus(gates[0], CL_COMPLETE), CL_SUCCESS);
    assert_int_equal(clWaitForEvents(1, &done), CL_SUCCESS);
    clReleaseEvent(done);
    uint32_t copied = 0;
    test_buffer_read(&y, &copied);
    assert_int_equal(copied, chain_result(1));
    assert_int_equal(read_x(&c), chain_result(2));

    stream = begin(queue, 1, &gates[1]);
    assert_int_equal(mla__stream_before_foreign(&stream), CLMLA_SUCCESS);
    assert_int_equal(clEnqueueCopyBuffer(queue, y.tensor.buffer, c.x.tensor.buffer, at, at,
                                         sizeof(uint32_t), 0, NULL, NULL),
                     CL_SUCCESS);
    mla__stream_after_foreign(&stream);
    launch(&stream, &c.links[1]);
    assert_int_equal(mla__stream_end(&stream, &done), CLMLA_SUCCESS);
    clFlush(queue);
    pause_ms(20);
    assert_int_not_equal(execution_status(done), CL_COMPLETE);
    assert_int_equal(read_x(&c), chain_result(2));
    assert_int_equal(clSetUserEventStatus(gates[1], CL_COMPLETE), CL_SUCCESS);
    assert_int_equal(clWaitForEvents(1, &done), CL_SUCCESS);
    assert_int_equal(read_x(&c), 3u * chain_result(1) + 2u);

    clReleaseEvent(done);
    clReleaseEvent(gates[0]);
    clReleaseEvent(gates[1]);
    test_buffer_release(&y);
    release_chain(&c);
    clReleaseCommandQueue(queue);
}

static void foreign_commands_take_their_place_in_order(void **state)
{
    (void)state;
    check_foreign_commands(false);
}

static void foreign_commands_take_their_place_out_of_order(void **state)
{
    (void)state;
    check_foreign_commands(true);
}

static void check_write(bool out_of_order)
{
    const cl_command_queue queue = make_queue(out_of_order);
    const cl_event gate = make_user_event();
    const uint32_t fresh = 1000;
    chain c = make_chain(2);
    cl_event written = NULL, done = NULL, nothing = NULL;
    mla__stream stream = begin(queue, 1, &gate);
    launch(&stream, &c.links[0]);
    assert_int_equal(mla__stream_write(&stream, c.x.tensor.buffer, c.x.tensor.offset_bytes,
                                       sizeof fresh, &fresh, &written),
                     CLMLA_SUCCESS);
    assert_non_null(written);
    launch(&stream, &c.links[1]);
    assert_int_equal(mla__stream_write(&stream, c.x.tensor.buffer, 0, 0, &fresh, NULL),
                     CLMLA_SUCCESS);
    assert_int_equal(mla__stream_write(&stream, c.x.tensor.buffer, 0, 0, &fresh, &nothing),
                     CLMLA_SUCCESS);
    assert_non_null(nothing);
    assert_int_equal(mla__stream_end(&stream, &done), CLMLA_SUCCESS);
    clFlush(queue);
    pause_ms(5);
    assert_int_not_equal(execution_status(written), CL_COMPLETE);
    assert_int_equal(clSetUserEventStatus(gate, CL_COMPLETE), CL_SUCCESS);
    assert_int_equal(clWaitForEvents(1, &done), CL_SUCCESS);
    assert_int_equal(execution_status(written), CL_COMPLETE);
    assert_int_equal(execution_status(nothing), CL_COMPLETE);
    assert_int_equal(read_x(&c), 3u * fresh + 2u);
    assert_int_equal(stream.kernel_launches, 2);
    clReleaseEvent(written);
    clReleaseEvent(nothing);
    clReleaseEvent(done);
    clReleaseEvent(gate);
    release_chain(&c);
    clReleaseCommandQueue(queue);
}

static void a_write_takes_its_place_in_order(void **state)
{
    (void)state;
    check_write(false);
}

static void a_write_takes_its_place_out_of_order(void **state)
{
    (void)state;
    check_write(true);
}

/* ---- no work ------------------------------------------------------------------------------ */

static void check_empty_stream(bool out_of_order)
{
    const cl_command_queue queue = make_queue(out_of_order);
    const cl_event gate = make_user_event();
    cl_event done = NULL;
    mla__stream stream = begin(queue, 0, NULL);
    assert_int_equal(mla__stream_end(&stream, &done), CLMLA_SUCCESS);
    assert_int_equal(clWaitForEvents(1, &done), CL_SUCCESS);
    clReleaseEvent(done);

    chain c = make_chain(1);
    stream = begin(queue, 1, &gate);
    /* a size of 0 in any dimension enqueues nothing and leaves the wait list for others */
    const size_t nothing[][3] = {{0, 1, 1}, {1, 0, 1}, {1, 1, 0}}, ones[] = {1, 1, 1};
    for (int i = 0; i < 3; i++)
        assert_int_equal(mla__stream_launch(&stream, &c.links[0], 3, nothing[i], ones),
                         CLMLA_SUCCESS);
    assert_int_equal(stream.kernel_launches, 0);
    assert_int_equal(stream.num_events, 1);
    assert_int_equal(mla__stream_end(&stream, &done), CLMLA_SUCCESS);
    clFlush(queue);
    pause_ms(5);
    assert_int_not_equal(execution_status(done), CL_COMPLETE);
    assert_int_equal(clSetUserEventStatus(gate, CL_COMPLETE), CL_SUCCESS);
    assert_int_equal(clWaitForEvents(1, &done), CL_SUCCESS);
    assert_int_equal(read_x(&c), 0);
    clReleaseEvent(done);
    clReleaseEvent(gate);
    release_chain(&c);
    clReleaseCommandQueue(queue);
}

static void no_work_is_a_marker_in_order(void **state)
{
    (void)state;
    check_empty_stream(false);
}

static void no_work_is_a_marker_out_of_order(void **state)
{
    (void)state;
    check_empty_stream(true);
}

/* What an in-order queue gets after an op waits for that op's list, even when the op had no work
 * and nobody asked for its event. */
static void an_unused_list_holds_back_an_in_order_queue(void **state)
{
    (void)state;
    const cl_command_queue queue = make_queue(false);
    const cl_event gate = make_user_event();
    chain c = make_chain(1);
    cl_event done = NULL;
    mla__stream stream = begin(queue, 1, &gate);
    assert_int_equal(mla__stream_end(&stream, NULL), CLMLA_SUCCESS);
    stream = begin(queue, 0, NULL);
    launch(&stream, &c.links[0]);
    assert_int_equal(mla__stream_end(&stream, &done), CLMLA_SUCCESS);
    clFlush(queue);
    pause_ms(20);
    assert_int_not_equal(execution_status(done), CL_COMPLETE);
    assert_int_equal(read_x(&c), 0);
    assert_int_equal(clSetUserEventStatus(gate, CL_COMPLETE), CL_SUCCESS);
    assert_int_equal(clWaitForEvents(1, &done), CL_SUCCESS);
    assert_int_equal(read_x(&c), 1);
    clReleaseEvent(done);
    clReleaseEvent(gate);
    release_chain(&c);
    clReleaseCommandQueue(queue);
}

/* ---- sizes, arguments, errors ------------------------------------------------------------- */

static void global_sizes_are_rounded_up(void **state)
{
    (void)state;
    enum { LIMIT = 8 * 3 };
    const test_device *on = test_device_get();
    const int32_t zeros[LIMIT] = {0};
    int32_t seen[LIMIT];
    uint64_t sizes[3];
    test_buffer counts = test_buffer_of(zeros, sizeof zeros, CLMLA_DTYPE_I32);
    test_buffer saw = test_buffer_poisoned(sizeof sizes, CLMLA_DTYPE_I32);
    mla__kernel kernel = make("count");
    mla__arg_buffer(&kernel, counts.tensor.buffer);
    mla__arg_ulong(&kernel, counts.tensor.offset_bytes / sizeof zeros[0]);
    mla__arg_int(&kernel, LIMIT);
    mla__arg_buffer(&kernel, saw.tensor.buffer);
    mla__arg_ulong(&kernel, saw.tensor.offset_bytes / sizeof sizes[0]);
    mla__stream stream = begin(on->queue, 0, NULL);
    const size_t global[] = {5, 3}, local[] = {4, 1};
    assert_int_equal(mla__stream_launch(&stream, &kernel, 2, global, local), CLMLA_SUCCESS);
    assert_int_equal(mla__stream_end(&stream, NULL), CLMLA_SUCCESS);
    test_buffer_read(&counts, seen);
    test_buffer_read(&saw, sizes);
    assert_true(sizes[0] == 8 && sizes[1] == 3 && sizes[2] == 4);
    for (int i = 0; i < LIMIT; i++)
        assert_int_equal(seen[i], 1);
    mla__kernel_release(&kernel);
    test_buffer_release(&counts);
    test_buffer_release(&saw);
}

static void arguments_arrive_with_their_types(void **state)
{
    (void)state;
    const test_device *on = test_device_get();
    const cl_float2 pair = {{0.25f, -8.0f}};
    test_buffer out = test_buffer_poisoned(6 * sizeof(float), CLMLA_DTYPE_F32);
    mla__kernel kernel = make("typed");
    mla__arg_buffer(&kernel, out.tensor.buffer);
    mla__arg_ulong(&kernel, out.tensor.offset_bytes / sizeof(float));
    mla__arg_int(&kernel, 3);
    mla__arg_ulong(&kernel, (cl_ulong)5 << 32);
    mla__arg_float(&kernel, 1.5f);
    mla__arg_bytes(&kernel, &pair, sizeof pair);
    mla__arg_local(&kernel, 4 * sizeof(float));
    mla__arg_buffer(&kernel, NULL);
    assert_int_equal(mla__kernel_ready(&kernel), CLMLA_SUCCESS);
    assert_int_equal(kernel.next_arg, 8);

    mla__stream stream = begin(on->queue, 0, NULL);
    launch(&stream, &kernel);
    double got[6];
    test_buffer_read_doubles(&out, got, 6);
    const double expected[] = {3.0, 5.0, 1.5, 0.25, -8.0, 1.0};
    for (int i = 0; i < 6; i++)
        assert_true(got[i] == expected[i]);

    /* changed by index; the rest stays */
    assert_int_equal(mla__arg_set_int(&kernel, 2, -4), CLMLA_SUCCESS);
    assert_int_equal(mla__arg_set_ulong(&kernel, 3, (cl_ulong)6 << 32), CLMLA_SUCCESS);
    assert_int_equal(mla__arg_set_buffer(&kernel, 7, out.tensor.buffer), CLMLA_SUCCESS);
    launch(&stream, &kernel);
    test_buffer_read_doubles(&out, got, 6);
    const double changed[] = {-4.0, 6.0, 1.5, 0.25, -8.0, 0.0};
    for (int i = 0; i < 6; i++)
        assert_true(got[i] == changed[i]);
    mla__kernel_release(&kernel);
    test_buffer_release(&out);
}

static void the_first_argument_error_sticks(void **state)
{
    (void)state;
    const test_device *on = test_device_get();
    chain c = make_chain(1);
    mla__kernel *kernel = &c.links[0];
    mla__arg_int(kernel, 1); /* push has four arguments */
    assert_int_equal(mla__kernel_ready(kernel), CL_INVALID_ARG_INDEX);
    kernel->next_arg = 0;
    mla__arg_buffer(kernel, c.x.tensor.buffer);
    assert_int_equal(mla__kernel_ready(kernel), CL_INVALID_ARG_INDEX);
    mla__stream stream = begin(on->queue, 0, NULL);
    assert_int_equal(mla__stream_launch(&stream, kernel, 1, one, one), CL_INVALID_ARG_INDEX);
    assert_int_equal(stream.kernel_launches, 0);
    assert_int_equal(read_x(&c), 0);
    release_chain(&c);
}

static void no_kernel_is_an_error_not_a_crash(void **state)
{
    (void)state;
    mla__kernel none = {0};
    mla__arg_int(&none, 1);
    assert_int_equal(mla__kernel_ready(&none), CLMLA_INTERNAL);
    assert_int_equal(mla__arg_set_int(&none, 0, 1), CLMLA_INTERNAL);
    mla__kernel_release(&none);
}

static void bad_queues_and_lists_are_refused(void **state)
{
    (void)state;
    const test_device *on = test_device_get();
    const cl_event gate = make_user_event();
    const cl_event none = NULL;
    mla__stream stream = {.kernel_launches = 77};
    assert_int_equal(mla__stream_begin(&stream, NULL, 0, NULL), CL_INVALID_COMMAND_QUEUE);
    assert_int_equal(mla__stream_begin(&stream, on->queue, 1, NULL), CL_INVALID_EVENT_WAIT_LIST);
    assert_int_equal(mla__stream_begin(&stream, on->queue, 0, &gate), CL_INVALID_EVENT_WAIT_LIST);
    assert_int_equal(mla__stream_begin(&stream, on->queue, 1, &none), CL_INVALID_EVENT_WAIT_LIST);

    cl_int status = CL_SUCCESS;
    const cl_context other = clCreateContext(NULL, 1, &on->id, NULL, NULL, &status);
    assert_int_equal(status, CL_SUCCESS);
    const cl_event stranger = clCreateUserEvent(other, &status);
    assert_int_equal(status, CL_SUCCESS);
    assert_int_equal(mla__stream_begin(&stream, on->queue, 1, &stranger), CL_INVALID_CONTEXT);
    assert_int_equal(stream.kernel_launches, 77);
    clSetUserEventStatus(gate, CL_COMPLETE);
    clSetUserEventStatus(stranger, CL_COMPLETE);
    clReleaseEvent(stranger);
    clReleaseContext(other);
    clReleaseEvent(gate);
}

static int set_up(void **state)
{
    (void)state;
    test_write_kernel(KERNELS, "launch.cl", source);
    context = test_context_with_kernels(CLMLA_KERNELS_AUTO, KERNELS);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    clmla_context_release(context);
    test_device_close();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_chain_waits_for_its_list_in_order),
        cmocka_unit_test(a_chain_waits_for_its_list_out_of_order),
        cmocka_unit_test(streams_follow_each_other_through_events),
        cmocka_unit_test(foreign_commands_take_their_place_in_order),
        cmocka_unit_test(foreign_commands_take_their_place_out_of_order),
        cmocka_unit_test(a_write_takes_its_place_in_order),
        cmocka_unit_test(a_write_takes_its_place_out_of_order),
        cmocka_unit_test(no_work_is_a_marker_in_order),
        cmocka_unit_test(no_work_is_a_marker_out_of_order),
        cmocka_unit_test(an_unused_list_holds_back_an_in_order_queue),
        cmocka_unit_test(global_sizes_are_rounded_up),
        cmocka_unit_test(arguments_arrive_with_their_types),
        cmocka_unit_test(the_first_argument_error_sticks),
        cmocka_unit_test(no_kernel_is_an_error_not_a_crash),
        cmocka_unit_test(bad_queues_and_lists_are_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
