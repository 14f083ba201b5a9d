/* Small products of known results with every tile of cl/nvidia/projection_wgmma.cl. */
#include <stdlib.h>

#include "core/dtype.h"
#include "ops/matrix.h"
#include "ops/projection_native.h"
#include "ops/sm_90a_trial.h"

/* Tails of panels, of warpgroups and of steps of k; more stages than the ring holds. */
enum { COLUMNS = 200, DEPTH = 328, ROW_PERIOD = 37, COLUMN_PERIOD = 41 };

/* x [rows, DEPTH], W [COLUMNS, DEPTH] of small integers: every sum is exact in whatever order. Rows
 * and columns recur, so that few sums are computed here. */
static int x_of(int32_t row, int32_t k) { return (row % ROW_PERIOD * 5 + k * 3) % 9 - 4; }
static int w_of(int32_t column, int32_t k) { return (column % COLUMN_PERIOD * 7 + k * 2) % 11 - 5; }

typedef struct products {
    const mla__sm_90a_trial *trial;
    int32_t rows;
    cl_mem x, y, packed;
    struct clmla_matrix matrix;
    float *results;
} products;

/* On a GPU a work-group for every compute unit, and more than one of the smaller tile: what goes
 * wrong between neighbours is to show. An emulation has none. */
static clmla_status make_x_and_y(products *p)
{
    const mla__device *device = &p->trial->context->device;
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
            x[(size_t)row * DEPTH + (size_t)k] = mla__float_to_bf16((float)x_of(row, k));
    }
    p->x = mla__sm_90a_buffer(p->trial, rows * DEPTH * sizeof(*x), x);
    p->y = mla__sm_90a_buffer(p->trial, rows * COLUMNS * sizeof(*p->results), NULL);
    free(x);
    return p->x != NULL && p->y != NULL ? CLMLA_SUCCESS : CL_MEM_OBJECT_ALLOCATION_FAILURE;
}

static clmla_status make_matrix(products *p)
{
    uint16_t *w = malloc(sizeof(*w) * COLUMNS * DEPTH);
    uint64_t bytes = 0;
    clmla_status status =
        mla__matrix_bytes(p->trial->context, 1, COLUMNS, DEPTH, CLMLA_DTYPE_BF16, &bytes);
    if (w == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    for (int32_t column = 0; column < COLUMNS; column++) {
        for (int32_t k = 0; k < DEPTH; k++)
            w[column * DEPTH + k] = mla__float_to_bf16((float)w_of(column, k));
    }
    p->packed = mla__sm_90a_buffer(p->trial, (size_t)bytes, NULL);
    const clmla_matrix_params params = {
        .struct_size = sizeof(params),
        .source = {.host = w, .tensor = {.dtype = CLMLA_DTYPE_BF16}},
        .out_features = COLUMNS,
        .in_features = DEPTH,
        .dtype = CLMLA_DTYPE_BF16,
        .buffer = p->packed};
    if (status == CLMLA_SUCCESS)
        status = p->packed != NULL
                     ? mla__matrix_pack(p->trial->context, &params, p->trial->queue, &p->matrix)
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
static clmla_status run(products *p, const mla__projection_tile *tile)
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
        mla__projection_native_bind_choice(p->trial->context, &p->matrix, &x, &y, &choice, &op);
    if (status == CLMLA_SUCCESS)
        status = clEnqueueFillBuffer(p->trial->queue, p->y, &poison, sizeof(poison), 0, bytes, 0,
                                     NULL, NULL);
    if (status == CLMLA_SUCCESS)
        status = mla__stream_begin(&stream, p->trial->queue, 0, NULL);
    if (status == CLMLA_SUCCESS)
        status = mla__projection_native_enqueue(&op, &stream, 0, 0, p->rows);
    if (status == CLMLA_SUCCESS)
        status = clFinish(p->trial->queue);
    if (status == CLMLA_SUCCESS)
        status = clEnqueueReadBuffer(p->trial->queue, p->y, CL_TRUE, 0, bytes, p->results, 0, NULL,
                                     NULL);
    mla__projection_native_release(&op);
    return status;
}

static void release(products *p)
{
    const cl_mem buffers[] = {p->x, p->y, p->packed};
    for (size_t i = 0; i < sizeof(buffers) / sizeof(buffers[0]); i++) {
        if (buffers[i] != NULL)
            (void)clReleaseMemObject(buffers[i]);
    }
    free(p->results);
}

static const char *try_all(products *p)
{
    mla__projection_tile tile;
    if (make_x_and_y(p) != CLMLA_SUCCESS || make_matrix(p) != CLMLA_SUCCESS)
        return "no memory to try them in";
    for (int32_t size = 0; mla__projection_tile_wgmma(&p->trial->context->device, size, &tile);
         size++) {
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

const char *mla__sm_90a_try_projection(const mla__sm_90a_trial *trial)
{
    products p = {.trial = trial};
    mla__projection_tile tile;
    if (!mla__projection_tile_wgmma(&trial->context->device, 0, &tile))
        return "no tile fits the device's local memory or work-groups";
    const char *const why = try_all(&p);
    release(&p);
    return why;
}
