/* Devices that end loops: what ops say of the loops of their kernels holds, and more than the device
 * runs through is refused. */
#include <inttypes.h>

#include "ops/loops.h"
#include "ops/projection_case.h"
#include "support/attention_batch.h"
#include "support/layer_fixture.h"

/* Counts of the work-items, by global id. */
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
enum { MAX_ITEMS = 1 << 16, MESA_ITERATIONS = 65535 };
static uint32_t counts[MAX_ITEMS];

/* ---- calls ---------------------------------------------------------------------------------- */

typedef struct loop_case {
    const char *name;
    clmla_kernel_class kernel_class;
    clmla_status (*call)(clmla_context *context, const struct loop_case *c);
    int32_t size, rows;
    clmla_dtype dtype; /* of weights, or of the cache */
} loop_case;

static clmla_status call_projection(clmla_context *context, const loop_case *c)
{
    const projection_case one = {
        .name = c->name, .M = c->rows, .N = 70, .K = c->size, .x = F32, .w = c->dtype, .y = F32};
    const cl_uint limit = context->device.max_loop_iterations;
    context->device.max_loop_iterations = 0; /* packing is another op */
    projection_call call = projection_prepare(context, &one);
    context->device.max_loop_iterations = limit;
    const clmla_status status =
        clmla_enqueue_projection(context, &call.params, test_device_get()->queue, 0, NULL, NULL);
    if (status == CLMLA_SUCCESS)
        projection_check_y(&call);
    else
        test_buffer_unchanged(c->name, &call.y, call.d.y);
    projection_finish(&call);
    return status;
}

static clmla_status call_attention(clmla_context *context, const loop_case *c)
{
    const attention_sequence sequences[] = {{1, 3, c->size}, {2, 1, 2}};
    const bool fp8 = c->dtype == CLMLA_DTYPE_FP8_DS_MLA;
    const attention_batch batch = {.num_heads = 9,
                                   .kv_lora_rank = fp8 ? 128 : 33,
                                   .rope_dim = 18,
                                   .cache = c->dtype,
                                   .q_lat = F32,
                                   .out = F32,
                                   .num_splits = 1,
                                   .num_sequences = 2,
                                   .sequences = sequences,
                                   .page_block_size = 4};
    attention_problem p = attention_problem_make(context, &batch);
    const clmla_status status =
        attention_problem_enqueue(context, &p, test_device_get()->queue, 0, NULL, NULL);
    assert_int_equal(clFinish(test_device_get()->queue), CL_SUCCESS);
    if (status != CLMLA_SUCCESS)
        attention_problem_untouched(&p);
    attention_problem_release(&p);
    return status;
}

static clmla_status call_rmsnorm(clmla_context *context, const loop_case *c)
{
    const size_t bytes = (size_t)c->size * 4;
    test_buffer x = test_buffer_poisoned(bytes, F32), weight = test_buffer_poisoned(bytes, F32);
    const clmla_rmsnorm_params params = {.struct_size = sizeof params,
                                         .num_tokens = 1,
                                         .dim = c->size,
                                         .x = x.tensor,
                                         .weight = weight.tensor,
                                         .y = x.tensor};
    const clmla_status status =
        clmla_enqueue_rmsnorm(context, &params, test_device_get()->queue, 0, NULL, NULL);
    assert_int_equal(clFinish(test_device_get()->queue), CL_SUCCESS);
    test_buffer_release(&x);
    test_buffer_release(&weight);
    return status;
}

static clmla_status call_merge(clmla_context *context, const loop_case *c)
{
    enum { DIM = 33 };
    const size_t states = (size_t)c->size;
    float *zeros = calloc(states * DIM, 4);
    assert_non_null(zeros);
    test_buffer parts = test_buffer_of(zeros, states * DIM * 4, F32);
    test_buffer lses = test_buffer_of(zeros, states * 4, F32);
    test_buffer out = test_buffer_poisoned(DIM * 4, F32);
    const clmla_merge_states_params params = {.struct_size = sizeof params,
                                              .num_states = c->size,
                                              .num_tokens = 1,
                                              .num_heads = 1,
                                              .dim = DIM,
                                              .partial_out = parts.tensor,
                                              .partial_lse = lses.tensor,
                                              .out = out.tensor};
    const clmla_status status =
        clmla_enqueue_merge_states(context, &params, test_device_get()->queue, 0, NULL, NULL);
    assert_int_equal(clFinish(test_device_get()->queue), CL_SUCCESS);
    free(zeros);
    test_buffer_release(&parts);
    test_buffer_release(&lses);
    test_buffer_release(&out);
    return status;
}

/* Sizes have tails of every loop. */
static const loop_case cases[] = {
    {"projection cpu bf16", CLMLA_KERNELS_CPU, call_projection, 535, 7, BF16},
    {"projection cpu f32", CLMLA_KERNELS_CPU, call_projection, 535, 7, F32},
    {"projection cpu FP8", CLMLA_KERNELS_CPU, call_projection, 301, 2, F8},
    {"projection gpu bf16", CLMLA_KERNELS_GPU, call_projection, 301, 7, BF16},
    {"projection gpu stream", CLMLA_KERNELS_GPU, call_projection, 301, 3, BF16},
    {"projection gpu stream f32", CLMLA_KERNELS_GPU, call_projection, 37, 1, F32},
    {"attention cpu", CLMLA_KERNELS_CPU, call_attention, 41, 0, BF16},
    {"attention cpu FP8", CLMLA_KERNELS_CPU, call_attention, 41, 0, CLMLA_DTYPE_FP8_DS_MLA},
    {"attention gpu", CLMLA_KERNELS_GPU, call_attention, 41, 0, BF16},
    {"attention gpu FP8", CLMLA_KERNELS_GPU, call_attention, 41, 0, CLMLA_DTYPE_FP8_DS_MLA},
    {"rmsnorm cpu", CLMLA_KERNELS_CPU, call_rmsnorm, 1007, 0, F32},
    {"rmsnorm gpu", CLMLA_KERNELS_GPU, call_rmsnorm, 1007, 0, F32},
    {"merge", CLMLA_KERNELS_CPU, call_merge, 77, 0, F32},
};

/* ---- counting ------------------------------------------------------------------------------- */

/* common.clh whose loops count their iterations in `counts`, where global memory is the host's. */
static void write_counting_kernels(const char *directory)
{
    static const char macros[] =
        "#define COUNT_LOOP (++((volatile global uint *)%" PRIuPTR "ul)[get_global_id(0) + "
        "get_global_size(0) * (get_global_id(1) + get_global_size(1) * get_global_id(2))])\n"
        "#define for(...) for (__VA_ARGS__, COUNT_LOOP)\n"
        "#define while(...) while (COUNT_LOOP, __VA_ARGS__)\n";
    clmla_context *context = test_context(CLMLA_KERNELS_CPU, CLMLA_PROJECTION_NATIVE);
    const char *common;
    char *owned = NULL;
    assert_int_equal(mla__source_find(context, "common.clh", &common, &owned), CLMLA_SUCCESS);
    char *text = malloc(strlen(common) + sizeof macros + 32);
    assert_non_null(text);
    const int begin = sprintf(text, macros, (uintptr_t)counts);
    (void)strcpy(text + begin, common);
    test_write_kernel(directory, "common.clh", text);
    free(text);
    free(owned);
    clmla_context_release(context);
}

/* Whether kernels can write to `counts`. */
static bool global_memory_is_the_hosts(void)
{
    clmla_context *context = test_context(CLMLA_KERNELS_CPU, CLMLA_PROJECTION_NATIVE);
    const bool pocl = context->device.is_pocl && (context->device.type & CL_DEVICE_TYPE_CPU) != 0;
    clmla_context_release(context);
    return pocl;
}

/* One iteration fewer than was counted must be refused; four times as many are enough. */
static void kernels_loop_no_more_than_their_op_says(void **state)
{
    (void)state;
    const char *const directory = TEST_OUTPUT_DIR "/counting_kernels";
    if (!global_memory_is_the_hosts()) {
        print_message("skipped: kernels cannot count in the host's memory\n");
        skip();
    }
    write_counting_kernels(directory);
    for (size_t i = 0; i < COUNT(cases); i++) {
        clmla_context *context = test_context_with_kernels(cases[i].kernel_class, directory);
        context->matrix_units = false;
        context->device.max_loop_iterations = UINT32_MAX; /* for the tiles of such a device */
        memset(counts, 0, sizeof counts);
        assert_int_equal(cases[i].call(context, &cases[i]), CLMLA_SUCCESS);
        uint32_t most = 0;
        for (size_t item = 0; item < MAX_ITEMS; item++)
            most = counts[item] > most ? counts[item] : most;
        print_message("%s: %" PRIu32 " iterations\n", cases[i].name, most);
        assert_true(most > 0);
        context->device.max_loop_iterations = most - 1;
        assert_int_equal(cases[i].call(context, &cases[i]), CLMLA_UNSUPPORTED_DEVICE);
        assert_non_null(strstr(test_last_notify(), "a work-item's loops may take"));
        context->device.max_loop_iterations = 4 * most + 64;
        if (cases[i].call(context, &cases[i]) != CLMLA_SUCCESS)
            fail_msg("%s: %s", cases[i].name, test_last_notify());
        clmla_context_release(context);
    }
}

/* ---- refusals ------------------------------------------------------------------------------- */

static void what_is_not_counted_is_refused(void **state)
{
    (void)state;
    static const char *const files[] = {"merge.cl", NULL};
    const loop_case clblast = {"CLBlast", CLMLA_KERNELS_GPU, call_projection, 40, 70, F32};
    clmla_context *context = test_context(CLMLA_KERNELS_GPU, CLMLA_PROJECTION_CLBLAST);
    mla__kernel kernel = {.kernel = NULL};
    mla__defines defines = {.length = 0};
    int32_t native_max_rows;
    mla__define_dtype(&defines, "OUT_DTYPE", F32);
    context->device.max_loop_iterations = MESA_ITERATIONS;
    assert_int_equal(mla__kernel_create(context, files, &defines, "merge", &kernel),
                     CLMLA_UNSUPPORTED_DEVICE);
    assert_non_null(strstr(test_last_notify(), "kernel merge is not for a device that ends loops"));
    mla__define_loops(&defines, MESA_ITERATIONS);
    assert_int_equal(mla__kernel_create(context, files, &defines, "merge", &kernel), CLMLA_SUCCESS);
    mla__kernel_release(&kernel);
    assert_int_equal(call_projection(context, &clblast), CLMLA_UNSUPPORTED_DEVICE);
    assert_non_null(strstr(test_last_notify(), "not by CLBlast"));
    context->projection = CLMLA_PROJECTION_AUTO;
    assert_int_equal(mla__projection_resolve(context, CLMLA_PROJECTION_AUTO, CLMLA_DTYPE_BF16, 4096,
                                             &native_max_rows),
                     CLMLA_PROJECTION_NATIVE);
    clmla_context_release(context);
}

/* ---- a layer -------------------------------------------------------------------------------- */

/* Every kernel of a step says what its loops come to. */
static void a_layer_runs_where_loops_end(void **state)
{
    const clmla_kernel_class *kernel_class = *state;
    const int32_t past[] = {9, 0, 31}, new_tokens[] = {1, 7, 3};
    for (int32_t q_lora_rank = 0; q_lora_rank <= 36; q_lora_rank += 36) {
        fixture f = fixture_create(&(fixture_options){
            .config = fixture_config_of(*kernel_class, q_lora_rank),
            .kernel_class = *kernel_class,
            .dtype = CLMLA_DTYPE_F32,
            .page_block_size = 16,
            .max_loop_iterations = 1
                                   << 20}); /* bounds for FIXTURE_MAX_KEYS, of which few are used */
        const size_t width = (size_t)f.options.config.hidden_size;
        double *hidden = fixture_draw_hidden(&f, 11, 5), *expected = doubles(11 * width);
        double *out = doubles(11 * width);
        size_t first = 0;
        for (int32_t b = 0; b < 3; b++)
            fixture_set_past(&f, b, past[b], 40 + (uint64_t)b);
        fixture_set_hidden(&f, hidden, 0, 11);
        assert_int_equal(fixture_plan(&f, 3, past, new_tokens), CLMLA_SUCCESS);
        assert_int_equal(
            clmla_enqueue_layer(f.binding, f.plan, test_device_get()->queue, 0, NULL, NULL),
            CLMLA_SUCCESS);
        assert_int_equal(clFinish(test_device_get()->queue), CL_SUCCESS);
        for (int32_t b = 0; b < 3; first += (size_t)new_tokens[b++])
            fixture_reference(&f, b, past[b], new_tokens[b], hidden + first * width,
                              expected + first * width);
        fixture_get_output(&f, out, 0, 11);
        test_close("layer", out, expected, 11 * width, 5e-6);
        free(hidden);
        free(expected);
        free(out);
        fixture_release(&f);
    }
}

/* ---- the device ----------------------------------------------------------------------------- */

/* What a kernel counts of n iterations, each of which has a loop of one. */
static int32_t counted(int32_t n)
{
    static const char source[] = "kernel void answer(global int *out, ulong at)\n"
                                 "{\n"
                                 "    int count = 0;\n"
                                 "    for (int i = 0; i < out[at]; i++)\n"
                                 "        count += out[at] != 0;\n"
                                 "    out[at] = count;\n"
                                 "}\n";
    const char *text = source;
    cl_int status;
    const test_device *on = test_device_get();
    test_buffer buffer = test_buffer_of(&n, sizeof n, CLMLA_DTYPE_I32);
    const cl_program program = clCreateProgramWithSource(on->context, 1, &text, NULL, &status);
    assert_int_equal(status, CL_SUCCESS);
    assert_int_equal(clBuildProgram(program, 1, &on->id, "-cl-std=CL1.2", NULL, NULL), CL_SUCCESS);
    const cl_kernel kernel = clCreateKernel(program, "answer", &status);
    const cl_ulong at = buffer.tensor.offset_bytes / sizeof n;
    const size_t one = 1;
    int32_t value = 0;
    assert_int_equal(clSetKernelArg(kernel, 0, sizeof buffer.tensor.buffer, &buffer.tensor.buffer),
                     CL_SUCCESS);
    assert_int_equal(clSetKernelArg(kernel, 1, sizeof at, &at), CL_SUCCESS);
    assert_int_equal(clEnqueueNDRangeKernel(on->queue, kernel, 1, NULL, &one, &one, 0, NULL, NULL),
                     CL_SUCCESS);
    test_buffer_read(&buffer, &value);
    test_buffer_release(&buffer);
    clReleaseKernel(kernel);
    clReleaseProgram(program);
    return value;
}

/* The largest K that is taken, and one that is not: right, or refused. */
static void the_longest_loops_are_right(void **state)
{
    const clmla_kernel_class *kernel_class = *state;
    clmla_context *context = test_context(*kernel_class, CLMLA_PROJECTION_NATIVE);
    const cl_uint limit = context->device.max_loop_iterations;
    if (limit == 0) {
        assert_int_equal(counted(2 * MESA_ITERATIONS), 2 * MESA_ITERATIONS);
        print_message("skipped: this device does not end loops\n");
        clmla_context_release(context);
        skip();
    }
    assert_int_equal(counted((int32_t)limit - 1), (int32_t)limit - 1);
    assert_true(counted(2 * (int32_t)limit) < 2 * (int32_t)limit);
    int32_t fits = 1, too_long = 1 << 20;
    loop_case c = {"longest", *kernel_class, call_projection, 0, 5, BF16};
    while (too_long - fits > 1) {
        const int32_t K = fits + (too_long - fits) / 2;
        const projection_case one = {.N = 70, .K = K, .x = F32, .w = BF16, .y = F32};
        const mla__projection_choices choices = projection_choices(context, &one, c.rows, false);
        bool all = true;
        for (int i = 0; i < choices.count; i++)
            all = all && mla__loops_projection(&choices.list[i], BF16, K) <= limit;
        *(all ? &fits : &too_long) = K;
    }
    print_message("the longest product has K = %" PRId32 "\n", fits);
    c.size = fits;
    assert_int_equal(call_projection(context, &c), CLMLA_SUCCESS);
    c.size = too_long;
    assert_int_equal(call_projection(context, &c), CLMLA_UNSUPPORTED_DEVICE);
    clmla_context_release(context);
}

int main(void)
{
    static clmla_kernel_class cpu = CLMLA_KERNELS_CPU, gpu = CLMLA_KERNELS_GPU;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kernels_loop_no_more_than_their_op_says),
        cmocka_unit_test(what_is_not_counted_is_refused),
        {"a_layer_runs_where_loops_end on cpu", a_layer_runs_where_loops_end, NULL, NULL, &cpu},
        {"a_layer_runs_where_loops_end on gpu", a_layer_runs_where_loops_end, NULL, NULL, &gpu},
        {"the_longest_loops_are_right on cpu", the_longest_loops_are_right, NULL, NULL, &cpu},
        {"the_longest_loops_are_right on gpu", the_longest_loops_are_right, NULL, NULL, &gpu},
    };
    return cmocka_run_group_tests_name("loops", tests, NULL, test_device_teardown);
}
