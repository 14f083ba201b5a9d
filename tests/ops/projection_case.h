/*
 * One projection on random data against the sum in double, with poison around everything that the
 * operation must not touch.
 */
#ifndef CLMLA_TESTS_OPS_PROJECTION_CASE_H
#define CLMLA_TESTS_OPS_PROJECTION_CASE_H

#include "ops/projection.h"
#include "ops/rows.h"

enum { BF16 = CLMLA_DTYPE_BF16, F16 = CLMLA_DTYPE_F16, F32 = CLMLA_DTYPE_F32 };
enum { F8 = CLMLA_DTYPE_F8_E4M3, FP8_BLOCK = 128, NAN_COLUMN = 5 };

typedef struct projection_case {
    const char *name;
    int32_t M, N, K;
    int32_t batches; /* 0: 1 */
    clmla_dtype x, w, y;
    size_t row_gap, batch_gap; /* elements of poison after each row and after each batch's part */
    size_t offset;             /* elements of poison before x and y */
    int32_t x_row, y_row;      /* first row of the call within the bound tensors */
    bool accumulate;
    bool transposed;
    bool poison_row; /* row 0 of x is NaN: only row 0 of y may be */
    bool nan_weight; /* of F8: one of NAN_COLUMN's weights in every batch, so that column of y */
} projection_case;

/* A case's tensors and what is expected. */
typedef struct projection_data {
    size_t batches, x_stride, y_stride, x_batch, y_batch, x_count, y_count, w_count;
    unsigned char *x, *y; /* as uploaded */
    float *w;             /* [batches, N, K], or transposed */
    uint8_t *codes;       /* of F8: w[i] = codes[i] · the scale of its block */
    float *scales;
    double *expected; /* [M, batches, N] */
    double *error;    /* bound before the last rounding */
} projection_data;

/* Rows that x and y have. */
static int32_t projection_bound_rows(const projection_case *c)
{
    return c->M + (c->x_row > c->y_row ? c->x_row : c->y_row);
}

static size_t projection_w_index(const projection_case *c, size_t b, size_t n, size_t k)
{
    const size_t N = (size_t)c->N, K = (size_t)c->K;
    return c->transposed ? (b * K + k) * N + n : (b * N + n) * K + k;
}

/* What storing a weight makes of it. */
static double projection_rounded(clmla_dtype dtype, float value)
{
    unsigned char bytes[4];
    if (dtype == F8)
        return (double)value;
    mla__store(bytes, dtype, 0, (double)value);
    return mla__load(bytes, dtype, 0);
}

/* A chain of K fused multiply-adds, in whatever order, is within K · 2^-24 · Σ|x||w|: the bf16 dot
 * products are such a chain too. (They take subnormals as zeros; there are none in the data, and a
 * sum that becomes one is off by K · 2^-126, far below the bound.) ACCUMULATE adds one rounding of
 * the sum. */
static void projection_expect(const projection_case *c, projection_data *d)
{
    const size_t K = (size_t)c->K, N = (size_t)c->N;
    for (size_t m = 0; m < (size_t)c->M; m++) {
        for (size_t b = 0; b < d->batches; b++) {
            for (size_t n = 0; n < N; n++) {
                const size_t xi = c->offset + (m + (size_t)c->x_row) * d->x_stride + b * d->x_batch;
                const size_t yi =
                    c->offset + (m + (size_t)c->y_row) * d->y_stride + b * d->y_batch + n;
                double sum = 0, magnitude = 0;
                for (size_t k = 0; k < K; k++) {
                    const double x = mla__load(d->x, c->x, xi + k);
                    const double w = projection_rounded(c->w, d->w[projection_w_index(c, b, n, k)]);
                    sum += x * w;
                    magnitude += fabs(x * w);
                }
                double error = (double)K * 0x1p-24 * magnitude;
                if (c->accumulate) {
                    sum += mla__load(d->y, c->y, yi);
                    error += 0x1p-24 * (fabs(sum) + error);
                }
                const size_t at = (m * d->batches + b) * N + n;
                d->expected[at] = sum;
                d->error[at] = error;
            }
        }
    }
}

static projection_data projection_layout(const projection_case *c)
{
    projection_data d = {.batches = c->batches > 0 ? (size_t)c->batches : 1};
    d.x_batch = (size_t)c->K + c->batch_gap;
    d.y_batch = (size_t)c->N + c->batch_gap;
    d.x_stride = d.batches * d.x_batch + c->row_gap;
    d.y_stride = d.batches * d.y_batch + c->row_gap;
    const size_t rows = (size_t)projection_bound_rows(c);
    d.x_count = c->offset + rows * d.x_stride;
    d.y_count = c->offset + rows * d.y_stride;
    return d;
}

/* Codes of every size but NaN, scales of blocks of the whole [batches · rows, columns] matrix. */
static void projection_draw_fp8(const projection_case *c, projection_data *d, test_random *random)
{
    const size_t columns = (size_t)(c->transposed ? c->N : c->K), rows = d->w_count / columns;
    const size_t across = (columns - 1) / FP8_BLOCK + 1, down = (rows - 1) / FP8_BLOCK + 1;
    d->codes = malloc(d->w_count);
    d->scales = malloc(across * down * sizeof(float));
    assert_true(d->codes != NULL && d->scales != NULL);
    for (size_t i = 0; i < across * down; i++)
        /* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): the assert does not return then */
        d->scales[i] = (float)test_random_uniform(random, 0.001, 0.01);
    for (size_t i = 0; i < d->w_count; i++) {
        const size_t block = i / columns / FP8_BLOCK * across + i % columns / FP8_BLOCK;
        d->codes[i] = (uint8_t)test_random_int(random, 0, 255);
        d->codes[i] ^= (d->codes[i] & 0x7f) == 0x7f; /* 448, not NaN */
        d->w[i] = mla__f8_e4m3_to_float(d->codes[i]) * d->scales[block];
    }
    for (size_t b = 0; c->nan_weight && b < d->batches; b++) { /* of either sign, last and first */
        const size_t k = b % 2 == 0 ? (size_t)c->K - 1 : 0;
        d->codes[projection_w_index(c, b, NAN_COLUMN, k)] = b % 2 == 0 ? 0xff : 0x7f;
    }
}

static projection_data projection_make(const projection_case *c)
{
    test_random random = {.state = 11};
    projection_data d = projection_layout(c);
    const size_t M = (size_t)c->M, N = (size_t)c->N, K = (size_t)c->K;
    d.w_count = d.batches * N * K;
    d.x = poisoned(d.x_count, c->x);
    d.y = poisoned(d.y_count, c->y);
    d.w = calloc(d.w_count, sizeof *d.w);
    assert_non_null(d.w);
    d.expected = doubles(M * d.batches * N);
    d.error = doubles(M * d.batches * N);
    for (size_t i = 0; i < d.w_count; i++)
        d.w[i] = (float)test_random_normal(&random);
    if (c->w == F8)
        projection_draw_fp8(c, &d, &random);
    for (size_t m = 0; m < M; m++) {
        for (size_t b = 0; b < d.batches; b++) {
            const size_t xi = c->offset + (m + (size_t)c->x_row) * d.x_stride + b * d.x_batch;
            const size_t yi = c->offset + (m + (size_t)c->y_row) * d.y_stride + b * d.y_batch;
            for (size_t k = 0; k < K && !(c->poison_row && m == 0); k++)
                put_random(d.x, c->x, xi + k, &random);
            for (size_t n = 0; n < N && c->accumulate; n++)
                put_random(d.y, c->y, yi + n, &random);
        }
    }
    projection_expect(c, &d);
    return d;
}

static void projection_free(projection_data *d)
{
    free(d->x);
    free(d->y);
    free(d->w);
    free(d->codes);
    free(d->scales);
    free(d->expected);
    free(d->error);
}

/* Every element of y: the result within its bound, or still what it was. */
static void projection_check(const projection_case *c, const projection_data *d,
                             const unsigned char *y)
{
    const size_t first = c->offset + (size_t)c->y_row * d->y_stride, N = (size_t)c->N;
    for (size_t at = 0; at < d->y_count; at++) {
        const size_t row = at < first ? 0 : (at - first) / d->y_stride;
        const size_t inside = at < first ? 0 : (at - first) % d->y_stride;
        const size_t b = inside / d->y_batch, n = inside % d->y_batch;
        if (at < first || row >= (size_t)c->M || b >= d->batches || n >= N) {
            check_poison(c->name, y, c->y, at);
            continue;
        }
        const double value = mla__load(y, c->y, at);
        const size_t i = (row * d->batches + b) * N + n;
        if ((c->poison_row && row == 0) || (c->nan_weight && n == NAN_COLUMN)) {
            if (!isnan(value))
                fail_msg("%s: [%zu, %zu] is %g, expected NaN", c->name, row, n, value);
        } else {
            check_element(c->name, row, b * N + n, c->y, value, d->expected[i], d->error[i]);
        }
    }
}

static clmla_matrix *projection_matrix(clmla_context *context, const projection_case *c,
                                       const projection_data *d)
{
    const clmla_weight_source fp8 = {
        .host = d->codes, .tensor = {.dtype = F8}, .scale_inv = d->scales};
    const clmla_weight_source floats = {.host = d->w, .tensor = {.dtype = F32}};
    const clmla_matrix_params params = {
        .struct_size = sizeof params,
        .source = c->w == F8 ? fp8 : floats,
        .num_batches = c->batches,
        .out_features = c->N,
        .in_features = c->K,
        .transposed = c->transposed,
        .dtype = c->w,
    };
    clmla_matrix *matrix = NULL;
    const clmla_status status =
        clmla_matrix_create(context, &params, test_device_get()->queue, &matrix);
    if (status != CLMLA_SUCCESS)
        fail_msg("%s: matrix: %s: %s", c->name, clmla_status_name(status), test_last_notify());
    return matrix;
}

/* The kernels of the case on this context, for calls of up to max_rows rows. */
static inline mla__projection_choices projection_choices(const clmla_context *context,
                                                         const projection_case *c, int32_t max_rows,
                                                         bool batch_invariant)
{
    const struct clmla_matrix matrix = {.num_batches = c->batches > 0 ? c->batches : 1,
                                        .out_features = c->N,
                                        .in_features = c->K,
                                        .dtype = c->w};
    const mla__projection_shape shape =
        mla__projection_shape_of(&matrix, c->x, c->y, batch_invariant);
    mla__projection_choices choices;
    mla__projection_choose(context, &shape, max_rows, &choices);
    return choices;
}

/* A case's tensors on the device and the parameters of its call. */
typedef struct projection_call {
    const projection_case *of;
    projection_data d;
    clmla_matrix *matrix;
    test_buffer x, y, workspace;
    clmla_projection_params params;
} projection_call;

static projection_call projection_prepare(clmla_context *context, const projection_case *c)
{
    projection_call call = {.of = c, .d = projection_make(c)};
    const projection_data *d = &call.d;
    uint64_t bytes = 0;
    call.matrix = projection_matrix(context, c, d);
    call.x = test_buffer_of(d->x, d->x_count * mla__dtype_bytes(c->x), c->x);
    call.y = test_buffer_of(d->y, d->y_count * mla__dtype_bytes(c->y), c->y);
    call.params = (clmla_projection_params){
        .struct_size = sizeof call.params,
        .matrix = call.matrix,
        .num_rows = projection_bound_rows(c),
        .x = view_of(&call.x, c->offset, d->x_stride, d->x_batch),
        .y = view_of(&call.y, c->offset, d->y_stride, d->y_batch),
        .output_mode = c->accumulate ? CLMLA_ACCUMULATE : CLMLA_OVERWRITE,
    };
    assert_int_equal(clmla_projection_workspace_size(context, &call.params, &bytes), CLMLA_SUCCESS);
    call.workspace = test_buffer_poisoned((size_t)bytes, F32);
    if (bytes > 0)
        call.params.workspace = call.workspace.tensor;
    return call;
}

/* y's bytes, free() them. */
static unsigned char *projection_read_y(const projection_call *call)
{
    unsigned char *bytes = malloc(call->y.bytes + 1);
    assert_non_null(bytes);
    test_buffer_read(&call->y, bytes);
    return bytes;
}

static inline void projection_check_y(const projection_call *call)
{
    unsigned char *bytes = projection_read_y(call);
    projection_check(call->of, &call->d, bytes);
    free(bytes);
}

static void projection_finish(projection_call *call)
{
    test_buffer_release(&call->x);
    test_buffer_release(&call->y);
    test_buffer_release(&call->workspace);
    clmla_matrix_release(call->matrix);
    projection_free(&call->d);
}

/* The whole case on a queue. Returns y's bytes as they are afterwards, free() them. */
static inline unsigned char *projection_run_on(clmla_context *context, const projection_case *c,
                                               cl_command_queue queue)
{
    projection_call call = projection_prepare(context, c);
    mla__projection op = {0};
    mla__stream stream;
    clmla_status status = mla__projection_bind(context, &call.params, &op);
    if (status == CLMLA_SUCCESS)
        status = mla__stream_begin(&stream, queue, 0, NULL);
    if (status == CLMLA_SUCCESS)
        status = mla__projection_enqueue(&op, &stream, c->x_row, c->y_row, c->M);
    if (status != CLMLA_SUCCESS)
        fail_msg("%s: %s: %s", c->name, clmla_status_name(status), test_last_notify());
    assert_int_equal(clFinish(queue), CL_SUCCESS);
    unsigned char *out = projection_read_y(&call);
    projection_check(c, &call.d, out);
    test_buffer_unchanged(c->name, &call.x, call.d.x);
    unsigned char *scratch = malloc(call.workspace.bytes + 1);
    assert_non_null(scratch);
    test_buffer_read(&call.workspace, scratch); /* for its canaries */
    free(scratch);
    mla__projection_release(&op);
    projection_finish(&call);
    return out;
}

static inline void projection_run(clmla_context *context, const projection_case *c)
{
    free(projection_run_on(context, c, test_device_get()->queue));
}

#endif
