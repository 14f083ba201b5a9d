/* What CLBlast launches when it has this library's parameters: its matrix product alone. It neither
 * pads nor transposes an operand, and allocates nothing, on any call of the layers of
 * DeepSeek-V2-Lite and DeepSeek-R1. Commands are counted on their way to the driver and then
 * dropped, so that sizes cost nothing. */
#define _GNU_SOURCE /* RTLD_NEXT */
#include <clblast_c.h>
#include <dlfcn.h>

#include "ops/clblast.h"
#include "ops/projection.h"
#include "support/device.h"
#include "support/support.h"

/* ---- the driver's entries that CLBlast calls, too -------------------------------------------- */

#define SEEN_BY_CLBLAST __attribute__((visibility("default")))

static bool counting;
static int num_products, num_others, num_buffers;
static char other[64]; /* the last kernel that is neither a product nor one of ours */

SEEN_BY_CLBLAST cl_int clEnqueueNDRangeKernel(cl_command_queue queue, cl_kernel kernel,
                                              cl_uint work_dim, const size_t *global_offset,
                                              const size_t *global, const size_t *local,
                                              cl_uint num_events, const cl_event *wait_list,
                                              cl_event *event)
{
    char name[64] = "";
    (void)queue, (void)work_dim, (void)global_offset, (void)global, (void)local;
    (void)num_events, (void)wait_list;
    assert_true(counting);
    assert_int_equal(clGetKernelInfo(kernel, CL_KERNEL_FUNCTION_NAME, sizeof(name), name, NULL),
                     CL_SUCCESS);
    if (strcmp(name, "Xgemm") == 0 || strcmp(name, "XgemmStridedBatched") == 0) {
        num_products++;
    } else if (strcmp(name, "convert_x") != 0 && strcmp(name, "widen_w") != 0 &&
               strcmp(name, "convert_y") != 0) {
        num_others++;
        memcpy(other, name, sizeof(name));
    }
    if (event != NULL) { /* of a command that is done */
        cl_context context;
        cl_int error;
        assert_int_equal(
            clGetCommandQueueInfo(queue, CL_QUEUE_CONTEXT, sizeof(context), &context, NULL),
            CL_SUCCESS);
        *event = clCreateUserEvent(context, &error);
        assert_int_equal(error, CL_SUCCESS);
        assert_int_equal(clSetUserEventStatus(*event, CL_COMPLETE), CL_SUCCESS);
    }
    return CL_SUCCESS;
}

SEEN_BY_CLBLAST cl_mem clCreateBuffer(cl_context context, cl_mem_flags flags, size_t bytes,
                                      void *host, cl_int *error)
{
    typedef cl_mem (*create_fn)(cl_context, cl_mem_flags, size_t, void *, cl_int *);
    create_fn create;
    void *const symbol = dlsym(RTLD_NEXT, "clCreateBuffer");
    assert_non_null(symbol);
    memcpy(&create, &symbol, sizeof(create));
    num_buffers += counting;
    return create(context, flags, bytes, host, error);
}

/* ---- the calls of the layers ------------------------------------------------------------------ */

typedef struct role {
    const char *name;
    int32_t batches, N, K;
} role;

static const role roles[] = {
    {"lite q_proj", 1, 3072, 2048},  {"lite kv_a_proj", 1, 576, 2048},
    {"lite W_UK", 16, 512, 128},     {"lite W_UV", 16, 128, 512},
    {"lite o_proj", 1, 2048, 2048},  {"r1 q_a_proj", 1, 1536, 7168},
    {"r1 q_b_proj", 1, 24576, 1536}, {"r1 kv_a_proj", 1, 576, 7168},
    {"r1 W_UK", 128, 512, 128},      {"r1 W_UV", 128, 128, 512},
    {"r1 o_proj", 1, 7168, 16384},
};

/* Below, at and above each record's rows, and two that fill slabs of rows. */
static const int32_t row_counts[] = {1, 16, 17, 32, 33, 64, 65, 700, 1024};

static cl_mem make_buffer(uint64_t bytes)
{
    cl_int error;
    const cl_mem buffer =
        clCreateBuffer(test_device_get()->context, CL_MEM_READ_WRITE, (size_t)bytes, NULL, &error);
    assert_int_equal(error, CL_SUCCESS);
    return buffer;
}

/* One role bound for `most` rows, called with fewer and with all; the matrix begins inside its
 * buffer, as a layer's does. */
static void check_role(clmla_context *context, const role *r, clmla_dtype dtype, int32_t most)
{
    struct clmla_matrix matrix = {.context = context,
                                  .num_batches = r->batches,
                                  .out_features = r->N,
                                  .in_features = r->K,
                                  .dtype = dtype,
                                  .offset_bytes = 4096};
    clmla_projection_params params = {.struct_size = sizeof(params),
                                      .matrix = &matrix,
                                      .num_rows = most,
                                      .backend = CLMLA_PROJECTION_CLBLAST};
    mla__projection op = {0};
    mla__stream stream;
    uint64_t bytes;
    assert_int_equal(mla__matrix_bytes(context, r->batches, r->N, r->K, dtype, &bytes), 0);
    matrix.buffer = make_buffer(bytes + matrix.offset_bytes);
    const uint64_t rows = (uint64_t)most * (uint64_t)r->batches;
    params.x =
        (clmla_tensor){.buffer = make_buffer(rows * (uint64_t)r->K * 2), .dtype = CLMLA_DTYPE_BF16};
    params.y =
        (clmla_tensor){.buffer = make_buffer(rows * (uint64_t)r->N * 4), .dtype = CLMLA_DTYPE_F32};
    assert_int_equal(clmla_projection_workspace_size(context, &params, &bytes), CLMLA_SUCCESS);
    params.workspace.buffer = make_buffer(bytes);
    const clmla_status status = mla__projection_bind(context, &params, &op);
    if (status != CLMLA_SUCCESS)
        fail_msg("%s: %s: %s", r->name, clmla_status_name(status), test_last_notify());
    assert_int_equal(op.clblast.layout.temporary_bytes, 0);

    assert_int_equal(mla__stream_begin(&stream, test_device_get()->queue, 0, NULL), CLMLA_SUCCESS);
    for (size_t i = 0; i < sizeof(row_counts) / sizeof(row_counts[0]); i++) {
        if (row_counts[i] > most)
            break;
        num_products = num_others = num_buffers = 0;
        stream.clblast_calls = 0;
        counting = true;
        assert_int_equal(mla__projection_enqueue(&op, &stream, 0, 0, row_counts[i]), CLMLA_SUCCESS);
        counting = false;
        if (num_others > 0 || num_buffers > 0)
            fail_msg("%s %s, %d rows: CLBlast launched %d other kernels (%s), made %d buffers",
                     r->name, mla__dtype_name(dtype), (int)row_counts[i], num_others, other,
                     num_buffers);
        assert_true(num_products > 0);
        assert_int_equal(num_products, stream.clblast_calls);
    }
    mla__projection_release(&op);
    clReleaseMemObject(matrix.buffer);
    clReleaseMemObject(params.x.buffer);
    clReleaseMemObject(params.y.buffer);
    clReleaseMemObject(params.workspace.buffer);
}

static void clblast_uses_operands_as_they_lie(void **state)
{
    (void)state;
    const clmla_dtype dtypes[] = {CLMLA_DTYPE_BF16, CLMLA_DTYPE_F32};
    const int32_t limits[] = {1, 64, 1024};
    int32_t count;
    clmla_context *context = test_context(CLMLA_KERNELS_AUTO, CLMLA_PROJECTION_CLBLAST);
    const mla__clblast_record *records = mla__clblast_records(&context->device, &count);
    /* below the threshold of "GemmRoutine" the direct kernel reads operands as they are */
    bool indirect = records != NULL;
    for (int32_t i = 0; indirect && i < count; i++)
        indirect = records[i].min_indirect_size <= 1;
    if (!indirect) {
        clmla_context_release(context);
        print_message("skipped: no CLBlast parameters for this device, or not for all rows\n");
        skip();
    }
    context->clblast_overrides = true;
    for (size_t i = 0; i < sizeof(roles) / sizeof(roles[0]); i++) {
        for (size_t d = 0; d < sizeof(dtypes) / sizeof(dtypes[0]); d++) {
            for (size_t l = 0; l < sizeof(limits) / sizeof(limits[0]); l++)
                check_role(context, &roles[i], dtypes[d], limits[l]);
        }
    }
    clmla_context_release(context);
}

/* What the test counts does happen where it should: without parameters for its sizes CLBlast pads,
 * as an operand of 1 row is no whole tile of any. */
static void other_calls_are_seen(void **state)
{
    (void)state;
    clmla_context *context = test_context(CLMLA_KERNELS_AUTO, CLMLA_PROJECTION_CLBLAST);
    const cl_mem w = make_buffer(65 * 33 * 4), x = make_buffer(33 * 4), y = make_buffer(65 * 4);
    const mla__clblast_gemm odd = {
        .columns = 65, .rows = 1, .k = 33, .num_batches = 1, .w = w, .x = x, .y = y};
    const char *name = "XGEMM_MIN_INDIRECT_SIZE";
    const size_t one = 1;
    assert_int_equal(CLBlastOverrideParameters(test_device_get()->id, "GemmRoutine",
                                               CLBlastPrecisionSingle, 1, &name, &one),
                     CLBlastSuccess);
    num_products = num_others = num_buffers = 0;
    counting = true;
    assert_int_equal(mla__clblast_enqueue(context, test_device_get()->queue, &odd), CLMLA_SUCCESS);
    counting = false;
    assert_int_equal(num_products, 1);
    assert_true(num_others >= 2);
    assert_int_equal(num_buffers, 1);
    clReleaseMemObject(w);
    clReleaseMemObject(x);
    clReleaseMemObject(y);
    clmla_context_release(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(clblast_uses_operands_as_they_lie),
        cmocka_unit_test(other_calls_are_seen), /* last: it changes CLBlast's parameters */
    };
    return cmocka_run_group_tests_name("clblast_operands", tests, NULL, test_device_teardown);
}
