/* Projections through CLBlast against the sum in double: both of its paths, batches, slabs, and the
 * workspace they need. */
#include <clblast_c.h>
#include <pthread.h>

#include "ops/clblast.h"
#include "ops/projection_case.h"

static const projection_case shapes[] = {
    {.name = "one of everything", .M = 1, .N = 1, .K = 1, .x = BF16, .w = BF16, .y = BF16},
    {.name = "one row, odd k", .M = 1, .N = 65, .K = 37, .x = BF16, .w = BF16, .y = BF16},
    {.name = "nothing needs padding", .M = 64, .N = 64, .K = 32, .x = BF16, .w = BF16, .y = BF16},
    {.name = "everything needs padding, strided",
     .M = 17,
     .N = 129,
     .K = 33,
     .x = F16,
     .w = F16,
     .y = F16,
     .row_gap = 5,
     .offset = 3},
    {.name = "float32 throughout, odd k",
     .M = 9,
     .N = 70,
     .K = 33,
     .x = F32,
     .w = F32,
     .y = F32,
     .row_gap = 2},
    {.name = "heads with gaps",
     .M = 6,
     .N = 40,
     .K = 24,
     .batches = 3,
     .x = BF16,
     .w = BF16,
     .y = F32,
     .row_gap = 5,
     .batch_gap = 11,
     .offset = 3},
    {.name = "heads of float32 weights, transposed source",
     .M = 5,
     .N = 70,
     .K = 19,
     .batches = 2,
     .x = BF16,
     .w = F32,
     .y = BF16,
     .transposed = true},
    {.name = "accumulate into bf16, from row 3 into row 1",
     .M = 6,
     .N = 70,
     .K = 40,
     .x = BF16,
     .w = BF16,
     .y = BF16,
     .row_gap = 3,
     .x_row = 3,
     .y_row = 1,
     .accumulate = true},
    {.name = "a NaN row stays alone",
     .M = 6,
     .N = 70,
     .K = 35,
     .x = BF16,
     .w = BF16,
     .y = BF16,
     .poison_row = true},
};

/* ---- CLBlast's parameters, counted on their way in ------------------------------------------- */

static int num_overrides; /* calls run one after another, under the library's lock */

CLBlastStatusCode __real_CLBlastOverrideParameters(cl_device_id device, const char *kernel,
                                                   CLBlastPrecision precision, size_t count,
                                                   const char **names, const size_t *values);
CLBlastStatusCode __wrap_CLBlastOverrideParameters(cl_device_id device, const char *kernel,
                                                   CLBlastPrecision precision, size_t count,
                                                   const char **names, const size_t *values);

CLBlastStatusCode __wrap_CLBlastOverrideParameters(cl_device_id device, const char *kernel,
                                                   CLBlastPrecision precision, size_t count,
                                                   const char **names, const size_t *values)
{
    num_overrides++;
    return __real_CLBlastOverrideParameters(device, kernel, precision, count, names, values);
}

static void run_all(void)
{
    clmla_context *context = test_context(CLMLA_KERNELS_AUTO, CLMLA_PROJECTION_CLBLAST);
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
        projection_run(context, &shapes[i]);
    clmla_context_release(context);
}

static void direct_path_matches_reference(void **state)
{
    (void)state;
    num_overrides = 0;
    run_all();
    assert_int_equal(num_overrides, 0); /* CLBlast is left as it is */
}

/* The smallest that its kernels convert, for simulators. */
static void on_simulators(void **state)
{
    static const clmla_kernel_class classes[] = {CLMLA_KERNELS_CPU, CLMLA_KERNELS_GPU};
    (void)state;
    for (size_t k = 0; k < 2; k++) {
        clmla_context *context = test_context(classes[k], CLMLA_PROJECTION_CLBLAST);
        projection_run(context, &(projection_case){.name = "smallest",
                                                   .M = 3,
                                                   .N = 5,
                                                   .K = 7,
                                                   .x = BF16,
                                                   .w = k == 0 ? F16 : BF16,
                                                   .y = BF16});
        clmla_context_release(context);
    }
    assert_int_equal(CLBlastClearCache(),
                     CLBlastSuccess); /* oclgrind crashes where exit() does it */
}

/* Products of at least `size`³ multiplications take CLBlast's indirect path from now on. */
static void set_indirect_size(size_t size)
{
    const char *name = "XGEMM_MIN_INDIRECT_SIZE";
    assert_int_equal(CLBlastOverrideParameters(test_device_get()->id, "GemmRoutine",
                                               CLBlastPrecisionSingle, 1, &name, &size),
                     CLBlastSuccess);
}

/* With and without a temporary; heads then go one by one. */
static void indirect_path_matches_reference(void **state)
{
    (void)state;
    set_indirect_size(1);
    run_all();
}

static void small_gpu_calls_are_native_and_large_ones_not(void **state)
{
    (void)state;
    clmla_context *context = test_context(CLMLA_KERNELS_GPU, CLMLA_PROJECTION_AUTO);
    const projection_case one = {
        .name = "mixed", .M = 40, .N = 3, .K = 5, .x = F32, .w = F32, .y = F32};
    projection_call call = projection_prepare(context, &one);
    mla__projection op = {0};
    mla__stream stream;
    assert_int_equal(mla__projection_bind(context, &call.params, &op), CLMLA_SUCCESS);
    assert_int_equal(op.backend, CLMLA_PROJECTION_AUTO);
    assert_int_equal(mla__stream_begin(&stream, test_device_get()->queue, 0, NULL), 0);
    assert_int_equal(mla__projection_warm(&op, &stream), CLMLA_SUCCESS);
    assert_true(stream.clblast_calls >= 1);
    stream.clblast_calls = 0;
    assert_int_equal(mla__projection_enqueue(&op, &stream, 0, 0, 32), CLMLA_SUCCESS);
    assert_int_equal(stream.clblast_calls, 0);
    assert_int_equal(mla__projection_enqueue(&op, &stream, 0, 0, 40), CLMLA_SUCCESS);
    assert_int_equal(stream.clblast_calls, 1);
    projection_check_y(&call);
    mla__projection_release(&op);
    projection_finish(&call);
    clmla_context_release(context);
}

static void works_on_an_out_of_order_queue(void **state)
{
    (void)state;
    if (test_device_get()->out_of_order == NULL) {
        print_message("skipped: the device has no out-of-order queue\n");
        skip();
    }
    clmla_context *context = test_context(CLMLA_KERNELS_AUTO, CLMLA_PROJECTION_CLBLAST);
    free(projection_run_on(context, &shapes[3], test_device_get()->out_of_order));
    clmla_context_release(context);
}

/* The same matrix at byte 256 of a buffer of its own, which the caller releases. */
static struct clmla_matrix moved_to_256(const clmla_matrix *matrix)
{
    const test_device *on = test_device_get();
    struct clmla_matrix moved = *matrix;
    uint64_t bytes;
    cl_int error;
    assert_int_equal(mla__matrix_bytes(matrix->context, matrix->num_batches, matrix->out_features,
                                       matrix->in_features, matrix->dtype, &bytes),
                     CLMLA_SUCCESS);
    moved.buffer = clCreateBuffer(on->context, CL_MEM_READ_WRITE, bytes + 256, NULL, &error);
    assert_int_equal(error, CL_SUCCESS);
    assert_int_equal(clEnqueueCopyBuffer(on->queue, matrix->buffer, moved.buffer,
                                         matrix->offset_bytes, 256, bytes, 0, NULL, NULL),
                     CL_SUCCESS);
    moved.offset_bytes = 256;
    return moved;
}

/* A workspace that is itself a sub-buffer, and weights that do not begin where a sub-buffer may. */
static void takes_memory_that_begins_anywhere(void **state)
{
    (void)state;
    const test_device *on = test_device_get();
    clmla_context *context = test_context(CLMLA_KERNELS_AUTO, CLMLA_PROJECTION_CLBLAST);
    const projection_case one = {
        .name = "anywhere", .M = 9, .N = 70, .K = 33, .x = F32, .w = F32, .y = F32};
    projection_call call = projection_prepare(context, &one);
    cl_int error;
    const cl_buffer_region region = {.origin = 4096, .size = call.workspace.bytes + 256};
    const cl_mem root =
        clCreateBuffer(on->context, CL_MEM_READ_WRITE, region.origin + region.size, NULL, &error);
    assert_int_equal(error, CL_SUCCESS);
    call.params.workspace.buffer =
        clCreateSubBuffer(root, 0, CL_BUFFER_CREATE_TYPE_REGION, &region, &error);
    assert_int_equal(error, CL_SUCCESS);
    call.params.workspace.offset_bytes = 256;
    mla__device *device = &context->device;
    const cl_uint align = device->mem_base_addr_align_bytes;
    for (int misaligned = 0; misaligned < 2; misaligned++) {
        mla__projection op = {0};
        mla__stream stream;
        const struct clmla_matrix moved = moved_to_256(call.matrix);
        call.params.matrix = &moved;
        if (misaligned) {
            device->mem_base_addr_align_bytes = 512; /* which byte 256 does not have */
            test_buffer_release(&call.workspace);
            call.workspace = test_buffer_poisoned(1 << 20, F32);
            call.params.workspace = call.workspace.tensor;
        }
        assert_int_equal(mla__projection_bind(context, &call.params, &op), CLMLA_SUCCESS);
        assert_int_equal(op.clblast.w_offset, misaligned ? 64 : 0);
        assert_int_equal(mla__stream_begin(&stream, on->queue, 0, NULL), CLMLA_SUCCESS);
        assert_int_equal(mla__projection_enqueue(&op, &stream, 0, 0, 9), CLMLA_SUCCESS);
        projection_check_y(&call);
        mla__projection_release(&op);
        clReleaseMemObject(moved.buffer);
        if (!misaligned)
            clReleaseMemObject(call.params.workspace.buffer);
    }
    device->mem_base_addr_align_bytes = align;
    clReleaseMemObject(root);
    projection_finish(&call);
    clmla_context_release(context);
}

static void refuses_a_small_workspace(void **state)
{
    (void)state;
    clmla_context *context = test_context(CLMLA_KERNELS_AUTO, CLMLA_PROJECTION_CLBLAST);
    const projection_case one = {
        .name = "workspace", .M = 3, .N = 5, .K = 7, .x = F32, .w = BF16, .y = F32};
    projection_call call = projection_prepare(context, &one);
    test_buffer small = test_buffer_poisoned(call.workspace.bytes - 1024, F32);
    for (int given = 0; given < 2; given++) {
        cl_event event = NULL;
        call.params.workspace = given ? small.tensor : (clmla_tensor){0};
        assert_int_equal(clmla_enqueue_projection(context, &call.params, test_device_get()->queue,
                                                  0, NULL, &event),
                         CLMLA_WORKSPACE_TOO_SMALL);
        assert_null(event);
        assert_non_null(strstr(test_last_notify(), "workspace"));
    }
    test_buffer_unchanged("y after refusals", &call.y, call.d.y);
    test_buffer_release(&small);
    projection_finish(&call);
    clmla_context_release(context);
}

static void statuses_of_clblast_are_mapped(void **state)
{
    (void)state;
    clmla_context *context = test_context(CLMLA_KERNELS_AUTO, CLMLA_PROJECTION_CLBLAST);
    test_buffer buffer = test_buffer_poisoned(4096, F32);
    const cl_mem mem = buffer.tensor.buffer;
    const mla__clblast_gemm no_k = {
        .columns = 8, .rows = 8, .k = 0, .num_batches = 1, .w = mem, .x = mem, .y = mem};
    test_clear_notify();
    assert_int_equal(mla__clblast_enqueue(context, test_device_get()->queue, &no_k),
                     CLMLA_CLBLAST_FAILED);
    assert_non_null(strstr(test_last_notify(), "-1017")); /* CLBlastInvalidDimension */
    test_buffer_release(&buffer);
    clmla_context_release(context);
}

/* ---- slabs --------------------------------------------------------------------------------- */

/* Calls cut into several slabs of columns, groups of heads or blocks of rows, small enough to run.
 */
static const struct {
    projection_case one;
    int32_t columns, batches, rows;
} cuts[] = {
    {{.name = "columns", .M = 5, .N = 200, .K = 40, .x = BF16, .w = BF16, .y = F32}, 64, 1, 8},
    {{.name = "rows and columns",
      .M = 21,
      .N = 130,
      .K = 9,
      .x = BF16,
      .w = BF16,
      .y = F32,
      .row_gap = 1},
     128,
     1,
     8},
    {{.name = "rows", .M = 21, .N = 60, .K = 9, .x = BF16, .w = BF16, .y = F32}, 64, 1, 8},
    {{.name = "groups of heads",
      .M = 5,
      .N = 30,
      .K = 9,
      .batches = 5,
      .x = BF16,
      .w = BF16,
      .y = F32,
      .batch_gap = 2},
     64,
     2,
     8},
    {{.name = "groups of heads of float32 weights",
      .M = 5,
      .N = 30,
      .K = 9,
      .batches = 5,
      .x = BF16,
      .w = F32,
      .y = F32},
     64,
     2,
     8},
};

static void cut_calls_match_reference(void **state)
{
    (void)state;
    clmla_context *context = test_context(CLMLA_KERNELS_AUTO, CLMLA_PROJECTION_CLBLAST);
    for (size_t i = 0; i < sizeof(cuts) / sizeof(cuts[0]); i++) {
        const projection_case *c = &cuts[i].one;
        projection_call call = projection_prepare(context, c);
        mla__projection op = {0};
        mla__stream stream;
        assert_int_equal(mla__projection_bind(context, &call.params, &op), CLMLA_SUCCESS);
        /* smaller parts fit where larger ones did; the temporary of the whole stays */
        assert_true(cuts[i].columns <= op.clblast.layout.slab_columns);
        op.clblast.layout.slab_columns = cuts[i].columns;
        op.clblast.layout.slab_batches = cuts[i].batches;
        op.clblast.layout.slab_rows = cuts[i].rows;
        assert_int_equal(mla__stream_begin(&stream, test_device_get()->queue, 0, NULL), 0);
        assert_int_equal(mla__projection_enqueue(&op, &stream, 0, 0, c->M), CLMLA_SUCCESS);
        assert_true(stream.clblast_calls > 1);
        projection_check_y(&call);
        mla__projection_release(&op);
        projection_finish(&call);
    }
    clmla_context_release(context);
}

/* DeepSeek-R1's projections of 704 rows stay within 150 MiB, in bf16 and in float32. */
static void workspace_of_r1_is_bounded(void **state)
{
    (void)state;
    const struct {
        const char *name;
        int32_t batches, N, K;
    } matrices[] = {{"q_a_proj", 1, 1536, 7168}, {"q_b_proj", 1, 24576, 1536},
                    {"kv_a_proj", 1, 576, 7168}, {"W_UK", 128, 512, 128},
                    {"W_UV", 128, 128, 512},     {"o_proj", 1, 7168, 16384}};
    const clmla_dtype dtypes[] = {BF16, F32};
    clmla_context *context = test_context(CLMLA_KERNELS_AUTO, CLMLA_PROJECTION_CLBLAST);
    for (size_t i = 0; i < 2 * sizeof(matrices) / sizeof(matrices[0]); i++) {
        const size_t j = i / 2;
        const struct clmla_matrix matrix = {.num_batches = matrices[j].batches,
                                            .out_features = matrices[j].N,
                                            .in_features = matrices[j].K,
                                            .dtype = dtypes[i % 2]};
        uint64_t bytes, of_one_row;
        assert_int_equal(mla__projection_clblast_workspace(context, &matrix, 704, &bytes), 0);
        assert_int_equal(mla__projection_clblast_workspace(context, &matrix, 1, &of_one_row), 0);
        print_message("%-9s %s: %.1f MiB for 704 rows, %.1f for one\n", matrices[j].name,
                      mla__dtype_name(matrix.dtype), (double)bytes / (1 << 20),
                      (double)of_one_row / (1 << 20));
        assert_true(bytes <= (uint64_t)150 << 20);
        assert_true(of_one_row <= bytes);
    }
    clmla_context_release(context);
}

/* ---- parameters that the context allows ---------------------------------------------------- */

/* A context that allows overrides, on a device that has parameters; else the test is skipped. */
static clmla_context *overriding_context(void)
{
    int32_t count;
    clmla_context *context = test_context(CLMLA_KERNELS_AUTO, CLMLA_PROJECTION_CLBLAST);
    if (mla__clblast_records(&context->device, &count) == NULL) {
        clmla_context_release(context);
        print_message("skipped: no CLBlast parameters for this device\n");
        skip();
    }
    context->clblast_overrides = true;
    return context;
}

static void given_parameters_match_reference(void **state)
{
    (void)state;
    static const projection_case more[] = {
        {.name = "a tile of few rows", .M = 16, .N = 70, .K = 40, .x = BF16, .w = BF16, .y = F32},
        {.name = "the tile between", .M = 32, .N = 70, .K = 40, .x = F16, .w = F16, .y = F16},
        {.name = "one row above it", .M = 33, .N = 70, .K = 40, .x = BF16, .w = BF16, .y = F32},
        {.name = "heads of 17 rows, float32 weights of whole tiles",
         .M = 17,
         .N = 64,
         .K = 32,
         .batches = 3,
         .x = BF16,
         .w = F32,
         .y = F32},
        {.name = "one row more", .M = 17, .N = 70, .K = 40, .x = BF16, .w = BF16, .y = F32},
        {.name = "a tile and a row", .M = 65, .N = 70, .K = 40, .x = BF16, .w = BF16, .y = F32},
        {.name = "heads of many rows",
         .M = 70,
         .N = 40,
         .K = 24,
         .batches = 3,
         .x = BF16,
         .w = BF16,
         .y = F32,
         .batch_gap = 3},
        {.name = "heads of many rows, float32 weights",
         .M = 70,
         .N = 40,
         .K = 19,
         .batches = 3,
         .x = BF16,
         .w = F32,
         .y = F32},
    };
    clmla_context *context = overriding_context();
    num_overrides = 0;
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
        projection_run(context, &shapes[i]);
    for (size_t i = 0; i < sizeof(more) / sizeof(more[0]); i++)
        projection_run(context, &more[i]);
    assert_true(num_overrides > 0);
    clmla_context_release(context);
}

/* A bound projection for a thread of its own. */
typedef struct bound_case {
    projection_call call;
    mla__projection op;
    cl_command_queue queue;
    clmla_status status;
} bound_case;

static void bind_case(clmla_context *context, const projection_case *one, bound_case *b)
{
    cl_int error;
    *b = (bound_case){.call = projection_prepare(context, one)};
    assert_int_equal(mla__projection_bind(context, &b->call.params, &b->op), CLMLA_SUCCESS);
    b->queue = clCreateCommandQueue(test_device_get()->context, test_device_get()->id, 0, &error);
    assert_int_equal(error, CL_SUCCESS);
}

static void check_and_release(bound_case *b)
{
    assert_int_equal(b->status, CLMLA_SUCCESS);
    projection_check_y(&b->call);
    mla__projection_release(&b->op);
    clReleaseCommandQueue(b->queue);
    projection_finish(&b->call);
}

/* Warms the projection, then runs it several times. */
static void *run_bound(void *argument)
{
    enum { ROUNDS = 20 };
    bound_case *b = argument;
    mla__stream stream;
    b->status = mla__stream_begin(&stream, b->queue, 0, NULL);
    if (b->status == CLMLA_SUCCESS)
        b->status = mla__projection_warm(&b->op, &stream);
    for (int i = 0; i < ROUNDS && b->status == CLMLA_SUCCESS; i++)
        b->status = mla__projection_enqueue(&b->op, &stream, 0, 0, b->call.of->M);
    if (b->status == CLMLA_SUCCESS)
        b->status = clFinish(b->queue);
    return NULL;
}

/* Calls of few and of many rows have parameters of their own, set before each. */
static void threads_do_not_mix_their_parameters(void **state)
{
    (void)state;
    static const projection_case cases[] = {
        {.name = "few", .M = 9, .N = 130, .K = 40, .x = BF16, .w = BF16, .y = F32},
        {.name = "many", .M = 70, .N = 130, .K = 40, .x = BF16, .w = BF16, .y = F32}};
    clmla_context *context = overriding_context();
    bound_case bound[2];
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) {
        bind_case(context, &cases[i], &bound[i]);
        /* of CLBlast's: it neither pads nor transposes */
        assert_int_equal(bound[i].op.clblast.layout.temporary_bytes, 0);
    }
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, run_bound, &bound[i]), 0);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    for (int i = 0; i < 2; i++)
        check_and_release(&bound[i]);
    clmla_context_release(context);
}

/* An argument is a pattern of names: the tests to run. */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(workspace_of_r1_is_bounded), /* before anything overrides CLBlast */
        cmocka_unit_test(direct_path_matches_reference),
        cmocka_unit_test(on_simulators),
        cmocka_unit_test(cut_calls_match_reference),
        cmocka_unit_test(small_gpu_calls_are_native_and_large_ones_not),
        cmocka_unit_test(works_on_an_out_of_order_queue),
        cmocka_unit_test(refuses_a_small_workspace),
        cmocka_unit_test(statuses_of_clblast_are_mapped),
        cmocka_unit_test(indirect_path_matches_reference),
        cmocka_unit_test(takes_memory_that_begins_anywhere),
        cmocka_unit_test(given_parameters_match_reference),
        cmocka_unit_test(threads_do_not_mix_their_parameters),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("projection_clblast", tests, NULL, test_device_teardown);
}
