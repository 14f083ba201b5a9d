/* merge_states against the reference in double. */
#include "ops/merge.h"
#include "ref/mla_ref.h"
#include "support/device.h"
#include "support/support.h"

enum { BF16 = CLMLA_DTYPE_BF16, F16 = CLMLA_DTYPE_F16, F32 = CLMLA_DTYPE_F32 };

typedef struct merge_case {
    const char *name;
    int32_t states, tokens, heads, dim;
    size_t gap; /* elements between rows of partial_out and out */
    clmla_dtype out;
    int32_t empty;   /* every empty-th state is empty; 1: all; 0: none */
    double lse_span; /* log-sum-exps lie in [-span, span] */
    bool no_lse;
} merge_case;

static const merge_case cases[] = {
    {"one state comes out as it is", 1, 2, 3, 32, 0, F32, 0, 5, false},
    {"one empty state gives zero", 1, 2, 3, 32, 0, F32, 1, 5, false},
    {"only empty states give zero", 5, 1, 2, 16, 0, BF16, 1, 5, false},
    {"two states", 2, 3, 4, 512, 0, BF16, 0, 3, false},
    {"every second state empty", 7, 2, 2, 48, 0, F32, 2, 3, false},
    {"one element", 3, 1, 1, 1, 0, F32, 0, 3, false},
    {"one short of a vector, strided", 3, 2, 3, 15, 5, F32, 3, 3, false},
    {"one past a vector, f16, strided", 4, 2, 3, 17, 3, F16, 0, 3, false},
    {"states far apart in weight", 6, 2, 2, 64, 0, F32, 0, 80, false},
    {"states of huge log-sum-exp", 3, 1, 2, 33, 1, F32, 0, 3e4, false},
    {"many states, lse not wanted", 64, 1, 5, 40, 0, BF16, 3, 2, true},
    {"no tokens", 3, 0, 2, 16, 0, F32, 0, 1, false},
};

typedef struct merge_problem {
    size_t rows, stride;
    double *parts, *lses;            /* [S, rows, dim], [S, rows] */
    double *expected, *expected_lse; /* [rows, dim], [rows] */
    test_buffer partial_out, partial_lse, out, lse;
    clmla_merge_states_params params;
} merge_problem;

static double *doubles(size_t count)
{
    double *values = calloc(count + 1, sizeof(double));
    assert_non_null(values);
    return values;
}

static void draw(const merge_case *c, merge_problem *p)
{
    test_random random = {.state = 5};
    const size_t states = (size_t)c->states, dim = (size_t)c->dim;
    double *column = doubles(states * dim), *column_lse = doubles(states);
    for (size_t r = 0; r < p->rows; r++) {
        for (size_t s = 0; s < states; s++) {
            const bool empty = c->empty > 0 && s % (size_t)c->empty == 0;
            const double lse = test_random_uniform(&random, -c->lse_span, c->lse_span);
            column_lse[s] = empty ? (double)-INFINITY : (double)(float)lse;
            p->lses[s * p->rows + r] = column_lse[s];
            for (size_t i = 0; i < dim; i++) {
                const double value = (double)(float)test_random_normal(&random);
                column[s * dim + i] = value;
                p->parts[(s * p->rows + r) * dim + i] = empty ? (double)NAN : value;
            }
        }
        mla_ref_merge_states(states, dim, column, column_lse, p->expected + r * dim,
                             p->expected_lse + r);
    }
    free(column);
    free(column_lse);
}

static merge_problem make_problem(const merge_case *c)
{
    const size_t states = (size_t)c->states, dim = (size_t)c->dim;
    merge_problem p = {.rows = (size_t)c->tokens * (size_t)c->heads, .stride = dim + c->gap};
    p.parts = doubles(states * p.rows * dim);
    p.lses = doubles(states * p.rows);
    p.expected = doubles(p.rows * dim);
    p.expected_lse = doubles(p.rows);
    draw(c, &p);
    double *spread = doubles(states * p.rows * p.stride);
    for (size_t r = 0; r < states * p.rows; r++)
        for (size_t i = 0; i < p.stride; i++)
            spread[r * p.stride + i] = i < dim ? p.parts[r * dim + i] : (double)NAN;
    p.partial_out = test_buffer_of_doubles(spread, states * p.rows * p.stride, F32);
    p.partial_lse = test_buffer_of_doubles(p.lses, states * p.rows, F32);
    p.out = test_buffer_poisoned(p.rows * p.stride * mla__dtype_bytes(c->out), c->out);
    p.lse = test_buffer_poisoned(p.rows * sizeof(float), F32);
    p.params = (clmla_merge_states_params){.struct_size = sizeof(p.params),
                                           .num_states = c->states,
                                           .num_tokens = c->tokens,
                                           .num_heads = c->heads,
                                           .dim = c->dim,
                                           .partial_out = p.partial_out.tensor,
                                           .partial_lse = p.partial_lse.tensor,
                                           .out = p.out.tensor};
    p.params.partial_out.strides[0] = p.rows * p.stride;
    p.params.partial_out.strides[1] = (size_t)c->heads * p.stride;
    p.params.partial_out.strides[2] = p.stride;
    p.params.out.strides[0] = (size_t)c->heads * p.stride;
    p.params.out.strides[1] = p.stride;
    if (!c->no_lse)
        p.params.softmax_lse = p.lse.tensor;
    free(spread);
    return p;
}

static void release_problem(merge_problem *p)
{
    test_buffer_release(&p->partial_out);
    test_buffer_release(&p->partial_lse);
    test_buffer_release(&p->out);
    test_buffer_release(&p->lse);
    free(p->parts);
    free(p->lses);
    free(p->expected);
    free(p->expected_lse);
}

static void check_lse(const merge_case *c, const merge_problem *p)
{
    double *lse = doubles(p->rows);
    test_buffer_read_doubles(&p->lse, lse, p->rows);
    for (size_t r = 0; r < p->rows; r++) {
        /* max + log(sum), each rounded to float32 */
        const double bound = 3e-7 * (1.0 + fabs(p->expected_lse[r]));
        if (c->no_lse
                ? !isnan(lse[r])
                : !(lse[r] == p->expected_lse[r] || fabs(lse[r] - p->expected_lse[r]) <= bound))
            fail_msg("%s: lse of row %zu is %.9g, expected %.9g", c->name, r, lse[r],
                     p->expected_lse[r]);
    }
    free(lse);
}

static void check_out(const merge_case *c, const merge_problem *p)
{
    const size_t dim = (size_t)c->dim;
    double *spread = doubles(p->rows * p->stride), *out = doubles(p->rows * dim);
    /* Half a unit in the last place of out, and float32 sums of up to 64 terms whose weights have
     * the error of exp(float32 difference): |lse| · 2^-24. */
    const double rounding = c->out == BF16 ? 0x1p-9 : c->out == F16 ? 0x1p-12 : 0x1p-24;
    const double bound = rounding + 2e-6 + c->lse_span * 0x1p-24;
    test_buffer_read_doubles(&p->out, spread, p->rows * p->stride);
    for (size_t r = 0; r < p->rows; r++)
        for (size_t i = 0; i < p->stride; i++) {
            const double value = spread[r * p->stride + i];
            if (i < dim)
                out[r * dim + i] = value;
            else if (!isnan(value))
                fail_msg("%s: written between rows of out", c->name);
        }
    test_close(c->name, out, p->expected, p->rows * dim, bound);
    for (size_t i = 0; c->states == 1 && c->out == F32 && i < p->rows * dim; i++)
        assert_true(out[i] == p->expected[i]); /* bit for bit */
    free(spread);
    free(out);
}

static void matches_the_formula(void **state)
{
    (void)state;
    const cl_command_queue queue = test_device_get()->queue;
    clmla_context *context = test_context(CLMLA_KERNELS_AUTO, CLMLA_PROJECTION_AUTO);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const merge_case *c = &cases[i];
        merge_problem p = make_problem(c);
        const clmla_status status =
            clmla_enqueue_merge_states(context, &p.params, queue, 0, NULL, NULL);
        if (status != CLMLA_SUCCESS)
            fail_msg("%s: %s: %s", c->name, clmla_status_name(status), test_last_notify());
        assert_int_equal(clFinish(queue), CL_SUCCESS);
        check_out(c, &p);
        check_lse(c, &p);
        release_problem(&p);
    }
    clmla_context_release(context);
}

static void nan_and_plus_infinity_are_not_empty(void **state)
{
    (void)state;
    const double lses[] = {0.5, (double)NAN, 0.5, (double)INFINITY,
                           0.5, 0.5}; /* [2 states, 3 rows] */
    const double parts[6] = {1, 1, 1, 1, 1, 1};
    const cl_command_queue queue = test_device_get()->queue;
    clmla_context *context = test_context(CLMLA_KERNELS_AUTO, CLMLA_PROJECTION_AUTO);
    test_buffer partial_out = test_buffer_of_doubles(parts, 6, F32);
    test_buffer partial_lse = test_buffer_of_doubles(lses, 6, F32);
    test_buffer out = test_buffer_poisoned(3 * sizeof(float), F32);
    const clmla_merge_states_params params = {.struct_size = sizeof(params),
                                              .num_states = 2,
                                              .num_tokens = 3,
                                              .num_heads = 1,
                                              .dim = 1,
                                              .partial_out = partial_out.tensor,
                                              .partial_lse = partial_lse.tensor,
                                              .out = out.tensor};
    double values[3];
    assert_int_equal(clmla_enqueue_merge_states(context, &params, queue, 0, NULL, NULL),
                     CLMLA_SUCCESS);
    test_buffer_read_doubles(&out, values, 3);
    assert_true(isnan(values[0]) && isnan(values[1]));
    assert_true(values[2] == 1.0);
    test_buffer_release(&partial_out);
    test_buffer_release(&partial_lse);
    test_buffer_release(&out);
    clmla_context_release(context);
}

/* A layer binds once for the most it may need; fewer states and tokens then lie packed. */
static void fewer_states_and_tokens_stay_packed(void **state)
{
    (void)state;
    static const merge_case small = {"two states of two tokens", 2, 2, 3, 20, 0, F32, 0, 2, false};
    const cl_command_queue queue = test_device_get()->queue;
    clmla_context *context = test_context(CLMLA_KERNELS_AUTO, CLMLA_PROJECTION_AUTO);
    merge_problem p = make_problem(&small);
    clmla_merge_states_params bound = p.params;
    mla__merge op = {.num_tokens = 0};
    mla__stream stream;
    bound.num_states = 4; /* 4 × 1 states as records: what 2 × 2 take too */
    bound.num_tokens = 1;
    bound.partial_out.strides[0] = bound.partial_out.strides[1];
    assert_int_equal(mla__merge_bind(context, &bound, &op), CLMLA_SUCCESS);
    assert_int_equal(mla__stream_begin(&stream, queue, 0, NULL), CLMLA_SUCCESS);
    assert_int_equal(mla__merge_warm(&op, &stream), CLMLA_SUCCESS);
    assert_int_equal(mla__merge_enqueue(&op, &stream, 2, 2), CLMLA_SUCCESS);
    assert_int_equal(clFinish(queue), CL_SUCCESS);
    check_out(&small, &p);
    check_lse(&small, &p);
    mla__merge_release(&op);
    release_problem(&p);
    clmla_context_release(context);
}

typedef struct wrong_case {
    const char *name;
    clmla_status expected;
    void (*spoil)(clmla_merge_states_params *params);
} wrong_case;

static void no_states(clmla_merge_states_params *p) { p->num_states = 0; }
static void no_dim(clmla_merge_states_params *p) { p->dim = 0; }
static void half_partials(clmla_merge_states_params *p) { p->partial_out.dtype = F16; }
static void too_many_states(clmla_merge_states_params *p) { p->num_states = 3; }
static void overlapping_rows(clmla_merge_states_params *p) { p->out.strides[1] = 19; }
static void newer_struct(clmla_merge_states_params *p) { p->struct_size += 8; }

static void rejects_wrong_arguments(void **state)
{
    (void)state;
    static const wrong_case wrong[] = {
        {"no states", CLMLA_INVALID_TENSOR_SHAPE, no_states},
        {"no elements", CLMLA_INVALID_TENSOR_SHAPE, no_dim},
        {"partial states in f16", CLMLA_INVALID_TENSOR_DTYPE, half_partials},
        {"more states than the buffer holds", CLMLA_BUFFER_TOO_SMALL, too_many_states},
        {"rows of out that overlap", CLMLA_INVALID_STRIDE, overlapping_rows},
        {"a struct of a newer version", CLMLA_INVALID_ARGUMENT, newer_struct},
    };
    static const merge_case plain = {"plain", 2, 2, 3, 20, 0, F32, 0, 2, false};
    const cl_command_queue queue = test_device_get()->queue;
    clmla_context *context = test_context(CLMLA_KERNELS_AUTO, CLMLA_PROJECTION_AUTO);
    merge_problem p = make_problem(&plain);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        clmla_merge_states_params params = p.params;
        wrong[i].spoil(&params);
        const clmla_status status =
            clmla_enqueue_merge_states(context, &params, queue, 0, NULL, NULL);
        if (status != wrong[i].expected)
            fail_msg("%s: %s, expected %s", wrong[i].name, clmla_status_name(status),
                     clmla_status_name(wrong[i].expected));
    }
    assert_int_equal(clFinish(queue), CL_SUCCESS);
    double *out = doubles(p.rows * p.stride);
    test_buffer_read_doubles(&p.out, out, p.rows * p.stride);
    for (size_t i = 0; i < p.rows * p.stride; i++)
        assert_true(isnan(out[i])); /* still poisoned */
    free(out);
    release_problem(&p);
    clmla_context_release(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(matches_the_formula),
        cmocka_unit_test(nan_and_plus_infinity_are_not_empty),
        cmocka_unit_test(fewer_states_and_tokens_stay_packed),
        cmocka_unit_test(rejects_wrong_arguments),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    test_device_close();
    return failed;
}
