#include "ops/sm_90a.h"

#include <stdlib.h>
#include <string.h>

#include "ops/matrix.h"
#include "ops/projection_native.h"

/* Tails of panels, of warpgroups and of steps of k; more stages than the ring holds. */
enum { COLUMNS = 200, DEPTH = 328, ROW_PERIOD = 37, COLUMN_PERIOD = 41 };

/* x [rows, DEPTH], W [COLUMNS, DEPTH] of small integers: every sum is exact in whatever order. Rows
 * and columns recur, so that few sums are computed here. */
static int x_of(int32_t row, int32_t k) { return (row % ROW_PERIOD * 5 + k * 3) % 9 - 4; }
static int w_of(int32_t column, int32_t k) { return (column % COLUMN_PERIOD * 7 + k * 2) % 11 - 5; }

/* Exact for these: their low half is zero. */
static uint16_t bf16_of(int value)
{
    const float number = (float)value;
    uint32_t bits;
    memcpy(&bits, &number, sizeof(bits));
    return (uint16_t)(bits >> 16);
}

typedef struct probe {
    cl_context opencl;
    cl_command_queue queue;
    clmla_context *context;
    int32_t rows;
    cl_mem x, y, packed;
    struct clmla_matrix matrix;
    float *results;
} probe;

static cl_mem make_buffer(const probe *p, size_t bytes, void *data)
{
    const cl_mem_flags flags =
        data == NULL ? CL_MEM_READ_WRITE : CL_MEM_READ_WRITE | CL_MEM_COPY_HOST_PTR;
    cl_int error;
    const cl_mem buffer = clCreateBuffer(p->opencl, flags, bytes, data, &error);
    return error == CL_SUCCESS ? buffer : NULL;
}

/* On a GPU a work-group for every compute unit, and more than one of the smaller tile: what goes
 * wrong between neighbours is to show. An emulation has none. */
static clmla_status make_x_and_y(probe *p)
{
    const mla__device *device = &p->context->device;
    p->rows = 128 * (device->has_ptx ? (int32_t)device->compute_units : 1) + 2;
    const size_t rows = (size_t)p->rows;
    uint16_t *x = malloc(rows * DEPTH * sizeof(*x));
    p->results = malloc(rows * COLUMNS * sizeof(*p->results));
    if (x == NULL || p->results == NULL) {
        free(x);
        return CL_OUT_OF_HOST_MEMORY;
    }
    for (int32_t row = 0; row < p->rows; row++) {
        for (int32_t k = 0; k < DEPTH; k++)
            x[(size_t)row * DEPTH + (size_t)k] = bf16_of(x_of(row, k));
    }
    p->x = make_buffer(p, rows * DEPTH * sizeof(*x), x);
    p->y = make_buffer(p, rows * COLUMNS * sizeof(*p->results), NULL);
    free(x);
    return p->x != NULL && p->y != NULL ? CLMLA_SUCCESS : CL_MEM_OBJECT_ALLOCATION_FAILURE;
}

static clmla_status make_matrix(probe *p)
{
    uint16_t *w = malloc(COLUMNS * DEPTH * sizeof(*w));
    uint64_t bytes = 0;
    clmla_status status =
        mla__matrix_bytes(p->context, 1, COLUMNS, DEPTH, CLMLA_DTYPE_BF16, &bytes);
    if (w == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    for (int32_t column = 0; column < COLUMNS; column++) {
        for (int32_t k = 0; k < DEPTH; k++)
            w[column * DEPTH + k] = bf16_of(w_of(column, k));
    }
    p->packed = make_buffer(p, (size_t)bytes, NULL);
    const clmla_matrix_params params = {
        .struct_size = sizeof(params),
        .source = {.host = w, .tensor = {.dtype = CLMLA_DTYPE_BF16}},
        .out_features = COLUMNS,
        .in_features = DEPTH,
        .dtype = CLMLA_DTYPE_BF16,
        .buffer = p->packed};
    if (status == CLMLA_SUCCESS)
        status = p->packed != NULL ? mla__matrix_pack(p->context, &params, p->queue, &p->matrix)
                                   : CL_MEM_OBJECT_ALLOCATION_FAILURE;
    free(w);
    return status;
}

static bool results_are_right(const float *results, int32_t rows)
{
    float expected[ROW_PERIOD][COLUMN_PERIOD];
    for (int32_t row = 0; row < ROW_PERIOD; row++) {
        for (int32_t column = 0; column < COLUMN_PERIOD; column++) {
            int sum = 0;
            for (int32_t k = 0; k < DEPTH; k++)
                sum += x_of(row, k) * w_of(column, k);
            expected[row][column] = (float)sum;
        }
    }
    for (int32_t row = 0; row < rows; row++) {
        for (int32_t column = 0; column < COLUMNS; column++) {
            if (results[row * COLUMNS + column] !=
                expected[row % ROW_PERIOD][column % COLUMN_PERIOD])
                return false;
        }
    }
    return true;
}

/* y = x · Wᵀ by this tile, read back. */
static clmla_status run(probe *p, const mla__projection_tile *tile)
{
    const mla__projection_choice choice = {
        .kind = MLA__PROJECTION_WGMMA, .max_rows = INT32_MAX, .tile = *tile};
    const mla__view x = {.buffer = p->x, .strides = {DEPTH}, .dtype = CLMLA_DTYPE_BF16};
    const mla__view y = {.buffer = p->y, .strides = {COLUMNS}, .dtype = CLMLA_DTYPE_F32};
    static const cl_uint poison = 0xffffffff; /* a NaN */
    const size_t bytes = (size_t)p->rows * COLUMNS * sizeof(*p->results);
    mla__projection_native op = {.num_variants = 0};
    mla__stream stream;
    clmla_status status =
        mla__projection_native_bind_choice(p->context, &p->matrix, &x, &y, &choice, &op);
    if (status == CLMLA_SUCCESS)
        status =
            clEnqueueFillBuffer(p->queue, p->y, &poison, sizeof(poison), 0, bytes, 0, NULL, NULL);
    if (status == CLMLA_SUCCESS)
        status = mla__stream_begin(&stream, p->queue, 0, NULL);
    if (status == CLMLA_SUCCESS)
        status = mla__projection_native_enqueue(&op, &stream, 0, 0, p->rows);
    if (status == CLMLA_SUCCESS)
        status = clFinish(p->queue);
    if (status == CLMLA_SUCCESS)
        status = clEnqueueReadBuffer(p->queue, p->y, CL_TRUE, 0, bytes, p->results, 0, NULL, NULL);
    mla__projection_native_release(&op);
    return status;
}

/* All of OpenCL that the probe has, apart from the host's; the device as its context sees it. */
static clmla_status open_apart(probe *p, const clmla_context *host)
{
    const cl_device_id device = host->device.id;
    const clmla_context_options options = {.struct_size = sizeof(options),
                                           .notify = host->notify,
                                           .notify_user = host->notify_user,
                                           .kernel_directory = host->kernel_directory,
                                           .kernel_class = host->kernel_class,
                                           .cache_directory = host->cache_directory};
    cl_context_properties properties[] = {CL_CONTEXT_PLATFORM, 0, 0};
    cl_int status =
        clGetDeviceInfo(device, CL_DEVICE_PLATFORM, sizeof(properties[1]), &properties[1], NULL);
    if (status == CL_SUCCESS)
        p->opencl = clCreateContext(properties, 1, &device, NULL, NULL, &status);
    if (status == CL_SUCCESS)
        p->queue = clCreateCommandQueue(p->opencl, device, 0, &status);
    if (status == CL_SUCCESS)
        status = clmla_context_create(p->opencl, device, &options, &p->context);
    if (status == CL_SUCCESS)
        p->context->device = host->device;
    return status;
}

static void close_apart(probe *p)
{
    const cl_mem buffers[] = {p->x, p->y, p->packed};
    for (size_t i = 0; i < sizeof(buffers) / sizeof(buffers[0]); i++) {
        if (buffers[i] != NULL)
            (void)clReleaseMemObject(buffers[i]);
    }
    free(p->results);
    clmla_context_release(p->context);
    if (p->queue != NULL)
        (void)clReleaseCommandQueue(p->queue);
    if (p->opencl != NULL)
        (void)clReleaseContext(p->opencl);
}

/* Why the kernels do not work, or NULL. */
static const char *try_all(probe *p, const clmla_context *host)
{
    mla__projection_tile tile;
    if (!mla__projection_tile_wgmma(&host->device, 0, &tile))
        return "no tile fits the device's local memory or work-groups";
    if (open_apart(p, host) != CLMLA_SUCCESS || make_x_and_y(p) != CLMLA_SUCCESS ||
        make_matrix(p) != CLMLA_SUCCESS)
        return "no context or memory to try them in";
    for (int32_t size = 0; mla__projection_tile_wgmma(&p->context->device, size, &tile); size++) {
        const clmla_status status = run(p, &tile);
        if (status == CL_BUILD_PROGRAM_FAILURE)
            return "the driver does not build them";
        if (status != CLMLA_SUCCESS)
            return "they do not run";
        if (!results_are_right(p->results, p->rows))
            return "their results are wrong";
    }
    return NULL;
}

void mla__sm_90a_probe(clmla_context *context)
{
    if (mla__context_sm_90a(context, NULL) != MLA__SM_90A_ASKED)
        return;
    probe p = {.context = NULL};
    const char *const why = try_all(&p, context);
    close_apart(&p);
    if (why == NULL)
        mla__context_accept_sm_90a(context);
    else
        mla__context_refuse_sm_90a(context, why);
}
