/* rmsnorm against the reference in double, on both classes of work-groups. */
#include "ops/rmsnorm.h"
#include "ops/rows.h"
#include "ref/mla_ref.h"

enum { BF16 = CLMLA_DTYPE_BF16, F16 = CLMLA_DTYPE_F16, F32 = CLMLA_DTYPE_F32 };

typedef struct rmsnorm_case {
    const char *name;
    int32_t rows, dim;
    size_t x_gap, y_gap; /* elements between the end of a row and the next */
    size_t offset;       /* elements before the first row, of x, weight and y */
    clmla_dtype x, weight, y;
    bool in_place;
    double eps;
} rmsnorm_case;

static const rmsnorm_case cases[] = {
    {"one element", 1, 1, 0, 0, 0, BF16, BF16, BF16, false, 0},
    {"a row shorter than a vector", 3, 15, 0, 0, 0, BF16, BF16, BF16, false, 0},
    {"a row of exactly one vector", 3, 16, 0, 0, 0, BF16, BF16, BF16, false, 0},
    {"one element past a vector", 3, 17, 0, 0, 1, BF16, BF16, BF16, false, 0},
    {"one element short of a work-group", 2, 127, 1, 3, 1, F32, F32, F32, false, 0},
    {"one element past a work-group", 2, 129, 5, 5, 3, F32, F32, F32, true, 1e-5},
    {"kv_lora_rank of R1, strided", 5, 512, 64, 3, 7, F32, BF16, F16, false, 1e-6},
    {"q_lora_rank of R1, in place", 4, 1536, 0, 0, 0, BF16, BF16, BF16, true, 1e-6},
    {"q_lora_rank of R1, f32 weights", 3, 1536, 576, 0, 5, BF16, F32, BF16, false, 0},
    {"f16 throughout, odd stride", 7, 96, 3, 3, 1, F16, F16, F16, true, 0},
    {"f16 in, bf16 out", 3, 33, 0, 7, 2, F16, F32, BF16, false, 1e-3},
    {"f32 in place, large eps", 2, 40, 0, 0, 0, F32, F32, F32, true, 0.5},
};

/* One case's data: raw x with poison in the gaps, and the expected rows. */
typedef struct data {
    size_t x_stride, y_stride, x_count, y_count;
    unsigned char *x, *weight;
    double *expected; /* [rows, dim] */
} data;

static data make_data(const rmsnorm_case *c)
{
    test_random random = {.state = 7};
    const size_t rows = (size_t)c->rows, dim = (size_t)c->dim;
    data d = {.x_stride = dim + c->x_gap, .y_stride = dim + c->y_gap};
    d.x_count = c->offset + rows * d.x_stride;
    d.y_count = c->offset + rows * d.y_stride;
    d.x = poisoned(d.x_count, c->x);
    d.weight = poisoned(c->offset + dim, c->weight);
    d.expected = doubles(rows * dim);
    double *x = doubles(rows * dim), *weight = doubles(dim);
    for (size_t t = 0; t < rows; t++) {
        for (size_t i = 0; i < dim; i++)
            x[t * dim + i] = put_random(d.x, c->x, c->offset + t * d.x_stride + i, &random);
    }
    for (size_t i = 0; i < dim; i++)
        weight[i] = put_random(d.weight, c->weight, c->offset + i, &random);
    mla_ref_rmsnorm(rows, dim, c->eps == 0.0 ? 1e-6 : c->eps, x, weight, d.expected);
    free(x);
    free(weight);
    return d;
}

static void free_data(data *d)
{
    free(d->x);
    free(d->weight);
    free(d->expected);
}

/* A sum of `dim` squares in float32, all of one sign, along the longer of the two paths (dim / 16
 * vector steps, 15 of the tail, 4 over the lanes) is within that many roundings; the root halves
 * them; mean, eps, root (3 ulp), reciprocal (2.5 ulp) and two products add less than ten. */
static double relative_error(int32_t dim) { return ((dim / 16 + 20) / 2.0 + 10) * 0x1p-24; }

static void check_rows(const rmsnorm_case *c, const data *d, const unsigned char *y)
{
    const size_t dim = (size_t)c->dim;
    for (size_t at = 0; at < d->y_count; at++) {
        const size_t row = at < c->offset ? 0 : (at - c->offset) / d->y_stride;
        const size_t column = at < c->offset ? dim : (at - c->offset) % d->y_stride;
        if (column >= dim) {
            check_poison(c->name, y, c->y, at);
            continue;
        }
        const double expected = d->expected[row * dim + column];
        check_element(c->name, row, column, c->y, mla__load(y, c->y, at), expected,
                      relative_error(c->dim) * fabs(expected));
    }
}

static void run_case(const rmsnorm_case *c, clmla_context *context)
{
    data d = make_data(c);
    if (c->in_place)
        assert_int_equal(c->x_gap, c->y_gap);
    test_buffer x = test_buffer_of(d.x, d.x_count * mla__dtype_bytes(c->x), c->x);
    test_buffer weight = test_buffer_of(
        d.weight, (c->offset + (size_t)c->dim) * mla__dtype_bytes(c->weight), c->weight);
    test_buffer y =
        c->in_place ? x : test_buffer_poisoned(d.y_count * mla__dtype_bytes(c->y), c->y);
    const clmla_rmsnorm_params params = {.struct_size = sizeof params,
                                         .num_tokens = c->rows,
                                         .dim = c->dim,
                                         .eps = c->eps,
                                         .x = view_of(&x, c->offset, d.x_stride, 0),
                                         .weight = view_of(&weight, c->offset, 0, 0),
                                         .y = view_of(&y, c->offset, d.y_stride, 0)};
    assert_int_equal(
        clmla_enqueue_rmsnorm(context, &params, test_device_get()->queue, 0, NULL, NULL), 0);

    unsigned char *result = poisoned(d.y_count, c->y);
    test_buffer_read(&y, result);
    check_rows(c, &d, result);
    test_buffer_unchanged("weight", &weight, d.weight);
    if (!c->in_place) {
        test_buffer_unchanged("x", &x, d.x);
        test_buffer_release(&y);
    }
    test_buffer_release(&x);
    test_buffer_release(&weight);
    free(result);
    free_data(&d);
}

static void rows_are_normalised(void **state)
{
    (void)state;
    for (size_t k = 0; k < 2; k++) {
        clmla_context *context = test_context(both_classes[k], CLMLA_PROJECTION_AUTO);
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
            run_case(&cases[i], context);
        clmla_context_release(context);
    }
}

enum { ROWS = 6, DIM = 100 };

/* y of `rows` rows of x[first ...], dense f32. */
static void normalise(clmla_context *context, const test_buffer *x, const test_buffer *weight,
                      size_t first, int32_t rows, float *out)
{
    test_buffer y = test_buffer_poisoned((size_t)rows * DIM * sizeof(float), F32);
    const clmla_rmsnorm_params params = {.struct_size = sizeof params,
                                         .num_tokens = rows,
                                         .dim = DIM,
                                         .x = view_of(x, first * DIM, 0, 0),
                                         .weight = weight->tensor,
                                         .y = y.tensor};
    assert_int_equal(
        clmla_enqueue_rmsnorm(context, &params, test_device_get()->queue, 0, NULL, NULL), 0);
    test_buffer_read(&y, out);
    test_buffer_release(&y);
}

static void a_row_does_not_depend_on_the_others(void **state)
{
    (void)state;
    test_random random = {.state = 11};
    float x[ROWS * DIM], w[DIM], all[ROWS * DIM], alone[DIM], with_nan[ROWS * DIM];
    for (size_t i = 0; i < ROWS * DIM; i++)
        x[i] = (float)test_random_normal(&random);
    for (size_t i = 0; i < DIM; i++)
        w[i] = (float)test_random_normal(&random);
    test_buffer weight = test_buffer_of(w, sizeof w, F32);
    test_buffer clean = test_buffer_of(x, sizeof x, F32);
    x[2 * DIM + DIM - 1] = NAN;
    test_buffer dirty = test_buffer_of(x, sizeof x, F32);
    for (size_t k = 0; k < 2; k++) {
        clmla_context *context = test_context(both_classes[k], CLMLA_PROJECTION_AUTO);
        normalise(context, &clean, &weight, 0, ROWS, all);
        for (size_t row = 0; row < ROWS; row++) {
            normalise(context, &clean, &weight, row, 1, alone);
            assert_memory_equal(alone, all + row * DIM, sizeof alone);
        }
        normalise(context, &dirty, &weight, 0, ROWS, with_nan);
        for (size_t row = 0; row < ROWS; row++) {
            for (size_t i = 0; row == 2 && i < DIM; i++)
                assert_true(isnan(with_nan[row * DIM + i]));
            if (row != 2)
                assert_memory_equal(with_nan + row * DIM, all + row * DIM, sizeof alone);
        }
        clmla_context_release(context);
    }
    test_buffer_release(&weight);
    test_buffer_release(&clean);
    test_buffer_release(&dirty);
}

static void columns_side_by_side_do_not_overlap(void **state)
{
    (void)state;
    test_random random = {.state = 13};
    float both[ROWS * 2 * DIM], w[DIM], after[ROWS * 2 * DIM];
    for (size_t i = 0; i < ROWS * 2 * DIM; i++)
        both[i] = (float)test_random_normal(&random);
    for (size_t i = 0; i < DIM; i++)
        w[i] = 1.0f;
    test_buffer matrix = test_buffer_of(both, sizeof both, F32);
    test_buffer weight = test_buffer_of(w, sizeof w, F32);
    clmla_context *context = test_context(CLMLA_KERNELS_CPU, CLMLA_PROJECTION_AUTO);
    const clmla_rmsnorm_params params = {.struct_size = sizeof params,
                                         .num_tokens = ROWS,
                                         .dim = DIM,
                                         .x = view_of(&matrix, DIM, 2 * DIM, 0),
                                         .weight = weight.tensor,
                                         .y = view_of(&matrix, 0, 2 * DIM, 0)};
    assert_int_equal(
        clmla_enqueue_rmsnorm(context, &params, test_device_get()->queue, 0, NULL, NULL), 0);
    test_buffer_read(&matrix, after);
    for (size_t t = 0; t < ROWS; t++) {
        double x[DIM], ones[DIM], expected[DIM];
        for (size_t i = 0; i < DIM; i++) {
            x[i] = (double)both[t * 2 * DIM + DIM + i];
            ones[i] = 1.0;
        }
        mla_ref_rmsnorm(1, DIM, 1e-6, x, ones, expected);
        for (size_t i = 0; i < DIM; i++)
            check_element("columns", t, i, F32, (double)after[t * 2 * DIM + i], expected[i],
                          relative_error(DIM) * fabs(expected[i]));
        assert_memory_equal(after + t * 2 * DIM + DIM, both + t * 2 * DIM + DIM,
                            DIM * sizeof(float));
    }
    clmla_context_release(context);
    test_buffer_release(&matrix);
    test_buffer_release(&weight);
}

/* As a layer uses it: bound once for ROWS rows, enqueued with other counts. */
static void a_bound_op_touches_only_the_rows_asked_for(void **state)
{
    (void)state;
    float x[ROWS * DIM], w[DIM];
    for (size_t i = 0; i < ROWS * DIM; i++)
        x[i] = (float)(i % 7) - 3.0f;
    for (size_t i = 0; i < DIM; i++)
        w[i] = 2.0f;
    const int32_t counts[] = {0, 2, 5, ROWS, 1};
    for (size_t k = 0; k < 2; k++) {
        clmla_context *context = test_context(both_classes[k], CLMLA_PROJECTION_AUTO);
        test_buffer in = test_buffer_of(x, sizeof x, F32),
                    weight = test_buffer_of(w, sizeof w, F32);
        test_buffer y = test_buffer_poisoned(sizeof x, F32);
        unsigned char *poison = poisoned(ROWS * DIM, F32);
        float all[ROWS * DIM], out[ROWS * DIM];
        normalise(context, &in, &weight, 0, ROWS, all);
        const clmla_rmsnorm_params params = {.struct_size = sizeof params,
                                             .num_tokens = ROWS,
                                             .dim = DIM,
                                             .x = in.tensor,
                                             .weight = weight.tensor,
                                             .y = y.tensor};
        mla__rmsnorm op;
        mla__stream stream;
        assert_int_equal(mla__rmsnorm_bind(context, &params, &op), 0);
        assert_int_equal(mla__stream_begin(&stream, test_device_get()->queue, 0, NULL), 0);
        assert_int_equal(mla__rmsnorm_warm(&op, &stream), 0);
        test_buffer_unchanged("y after warm", &y, poison);
        for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
            const size_t elements = (size_t)counts[i] * DIM;
            clEnqueueWriteBuffer(test_device_get()->queue, y.tensor.buffer, CL_TRUE,
                                 y.tensor.offset_bytes, y.bytes, poison, 0, NULL, NULL);
            assert_int_equal(mla__rmsnorm_enqueue(&op, &stream, counts[i]), 0);
            test_buffer_read(&y, out);
            assert_memory_equal(out, all, elements * sizeof(float));
            for (size_t j = elements; j < ROWS * DIM; j++)
                check_poison("rows past the count", (unsigned char *)out, F32, j);
        }
        mla__rmsnorm_release(&op);
        clmla_context_release(context);
        test_buffer_release(&in);
        test_buffer_release(&weight);
        test_buffer_release(&y);
        free(poison);
    }
}

static void bad_arguments_are_refused(void **state)
{
    (void)state;
    clmla_context *context = test_context(CLMLA_KERNELS_CPU, CLMLA_PROJECTION_AUTO);
    cl_command_queue queue = test_device_get()->queue;
    test_buffer x = test_buffer_poisoned(4 * 32 * 2, BF16), w = test_buffer_poisoned(32 * 2, BF16);
    test_buffer y = test_buffer_poisoned(4 * 32 * 2, BF16);
    unsigned char *poison = poisoned(4 * 32, BF16);
    const clmla_rmsnorm_params good = {.struct_size = sizeof good,
                                       .num_tokens = 4,
                                       .dim = 32,
                                       .x = x.tensor,
                                       .weight = w.tensor,
                                       .y = y.tensor};
    clmla_rmsnorm_params bad[8];
    const clmla_status expected[8] = {CLMLA_INVALID_TENSOR_SHAPE, CLMLA_INVALID_TENSOR_SHAPE,
                                      CLMLA_INVALID_ARGUMENT,     CLMLA_INVALID_ARGUMENT,
                                      CLMLA_INVALID_STRIDE,       CLMLA_BUFFER_TOO_SMALL,
                                      CLMLA_INVALID_TENSOR_DTYPE, CLMLA_INVALID_ARGUMENT};
    for (size_t i = 0; i < 8; i++)
        bad[i] = good;
    bad[0].dim = 0;
    bad[1].num_tokens = -1;
    bad[2].eps = -1.0;
    bad[3].eps = (double)NAN;
    bad[4].x.strides[0] = 31;
    bad[5].num_tokens = 400;
    bad[6].y.dtype = CLMLA_DTYPE_I32;
    bad[7].num_tokens = 3; /* y one row after x in the same buffer */
    bad[7].y = view_of(&x, 32, 0, 0);
    for (size_t i = 0; i < 8; i++) {
        test_clear_notify();
        assert_int_equal(clmla_enqueue_rmsnorm(context, &bad[i], queue, 0, NULL, NULL),
                         expected[i]);
        assert_non_null(strstr(test_last_notify(), "rmsnorm"));
    }
    assert_int_equal(clmla_enqueue_rmsnorm(context, NULL, queue, 0, NULL, NULL),
                     CLMLA_INVALID_ARGUMENT);
    assert_int_equal(clmla_enqueue_rmsnorm(NULL, &good, queue, 0, NULL, NULL),
                     CLMLA_INVALID_ARGUMENT);
    test_buffer_unchanged("y", &y, poison);

    clmla_rmsnorm_params nothing = good;
    cl_event event = NULL;
    nothing.num_tokens = 0;
    assert_int_equal(clmla_enqueue_rmsnorm(context, &nothing, queue, 0, NULL, &event), 0);
    assert_int_equal(clWaitForEvents(1, &event), 0);
    clReleaseEvent(event);
    test_buffer_unchanged("y", &y, poison);
    clmla_context_release(context);
    test_buffer_release(&x);
    test_buffer_release(&w);
    test_buffer_release(&y);
    free(poison);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_normalised),
        cmocka_unit_test(a_row_does_not_depend_on_the_others),
        cmocka_unit_test(columns_side_by_side_do_not_overlap),
        cmocka_unit_test(a_bound_op_touches_only_the_rows_asked_for),
        cmocka_unit_test(bad_arguments_are_refused),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    test_device_close();
    return failed;
}
