/* merge_up against the reference in double, and bit for bit against merge followed by projection. */
#include "ops/merge.h"
#include "ops/merge_up.h"
#include "ops/projection.h"
#include "ops/rows.h"
#include "ref/mla_ref.h"

enum { BF16 = CLMLA_DTYPE_BF16, F16 = CLMLA_DTYPE_F16, F32 = CLMLA_DTYPE_F32 };

typedef struct up_case {
    const char *name;
    int32_t states, tokens, heads, N, K;
    clmla_dtype ctx, w, y;
    int32_t empty;   /* every empty-th state is empty; 1: all; 0: none */
    size_t gap;      /* elements of poison after each head's part of partial_out and y */
    double lse_span; /* log-sum-exps lie in [-span, span] */
} up_case;

static const up_case cases[] = {
    {"one of everything", 1, 1, 1, 1, 1, BF16, BF16, BF16, 0, 0, 3},
    {"one state", 1, 2, 3, 33, 20, BF16, BF16, BF16, 0, 3, 3},
    {"two states, odd dims", 2, 1, 3, 65, 37, BF16, BF16, BF16, 0, 5, 3},
    {"three states, first empty", 3, 2, 2, 70, 64, BF16, BF16, BF16, 3, 0, 3},
    {"four states, every second empty", 4, 3, 2, 16, 300, BF16, BF16, BF16, 2, 1, 3},
    {"only empty states", 5, 2, 2, 17, 40, BF16, BF16, BF16, 1, 2, 3},
    {"six states far apart", 6, 1, 2, 40, 130, F32, BF16, F32, 0, 0, 80},
    {"seven states, float32", 7, 2, 3, 48, 75, F32, F32, F32, 4, 7, 3},
    {"eight states, float32 weights, odd", 8, 1, 5, 129, 33, BF16, F32, BF16, 0, 3, 3},
    {"eight states, f16", 8, 2, 2, 66, 512, F16, F16, F16, 3, 3, 3},
    {"f16 as a layer has it", 3, 4, 3, 38, 47, F32, F16, F16, 0, 0, 3},
    {"one empty state", 1, 1, 2, 5, 9, F32, F32, F32, 1, 0, 3},
    {"DeepSeek's head", 8, 2, 2, 128, 512, BF16, BF16, BF16, 5, 0, 3},
    {"more states than a work-group has items", 261, 1, 1, 20, 24, BF16, BF16, F32, 2, 0, 2},
};

typedef struct up_problem {
    size_t rows, states, in, out; /* rows = T · H */
    size_t in_pitch, out_pitch;   /* between heads */
    double *parts, *lses;         /* [S, rows, K], [S, rows] */
    float *weights;               /* [H, N, K] */
    double *expected, *error;     /* [rows, N]; before the last rounding */
    test_buffer partial_out, partial_lse, ctx, y;
    clmla_matrix *matrix;
    mla__merge_up_params params;
} up_problem;

static void draw_states(const up_case *c, up_problem *p, test_random *random)
{
    double *spread = doubles(p->states * p->rows * p->in_pitch);
    p->parts = doubles(p->states * p->rows * p->in);
    p->lses = doubles(p->states * p->rows);
    for (size_t i = 0; i < p->states * p->rows; i++) {
        const bool empty = c->empty > 0 && i / p->rows % (size_t)c->empty == 0;
        const double lse = (double)(float)test_random_uniform(random, -c->lse_span, c->lse_span);
        p->lses[i] = empty ? (double)-INFINITY : lse;
        for (size_t k = 0; k < p->in_pitch; k++) {
            const double value = (double)(float)test_random_normal(random);
            spread[i * p->in_pitch + k] = empty || k >= p->in ? (double)NAN : value;
            if (k < p->in)
                p->parts[i * p->in + k] = spread[i * p->in_pitch + k];
        }
    }
    p->partial_out = test_buffer_of_doubles(spread, p->states * p->rows * p->in_pitch, F32);
    p->partial_lse = test_buffer_of_doubles(p->lses, p->states * p->rows, F32);
    free(spread);
}

static double rounded(clmla_dtype dtype, float value)
{
    unsigned char bytes[4];
    mla__store(bytes, dtype, 0, (double)value);
    return mla__load(bytes, dtype, 0);
}

/* ctx of one row, and Σ_s w_s · |partial_out| in its place of magnitudes. */
static void merge_row(const up_problem *p, size_t row, double *ctx, double *magnitudes)
{
    double *part = doubles(p->states * p->in), *lse = doubles(p->states), ignored;
    for (size_t s = 0; s < p->states; s++) {
        lse[s] = p->lses[s * p->rows + row];
        memcpy(part + s * p->in, p->parts + (s * p->rows + row) * p->in, p->in * sizeof(double));
    }
    mla_ref_merge_states(p->states, p->in, part, lse, ctx, &ignored);
    for (size_t i = 0; i < p->states * p->in; i++)
        part[i] = fabs(part[i]);
    mla_ref_merge_states(p->states, p->in, part, lse, magnitudes, &ignored);
    free(part);
    free(lse);
}

/* A weight of merging is off by exp's 3 units and its rounded argument, a sum of S terms by S
 * roundings; ctx is rounded once to its dtype; the product is a chain of K multiply-adds. */
static void expect(const up_case *c, up_problem *p)
{
    const double merging = 2.0 * (2.0 * c->lse_span + 6.0 + (double)p->states) * 0x1p-24;
    double *ctx = doubles(p->in), *magnitudes = doubles(p->in);
    p->expected = doubles(p->rows * p->out);
    p->error = doubles(p->rows * p->out);
    for (size_t row = 0; row < p->rows; row++) {
        const size_t head = row % (size_t)c->heads;
        merge_row(p, row, ctx, magnitudes);
        for (size_t n = 0; n < p->out; n++) {
            double sum = 0, error = 0;
            for (size_t k = 0; k < p->in; k++) {
                const double w = rounded(c->w, p->weights[(head * p->out + n) * p->in + k]);
                const double off = merging * magnitudes[k] + underflow_error(c->ctx) +
                                   unit_roundoff(c->ctx) * (fabs(ctx[k]) + magnitudes[k] * merging);
                sum += ctx[k] * w;
                error += off * fabs(w) + (double)p->in * 0x1p-24 * (fabs(ctx[k]) + off) * fabs(w);
            }
            p->expected[row * p->out + n] = sum;
            p->error[row * p->out + n] = error;
        }
    }
    free(ctx);
    free(magnitudes);
}

static up_problem make_problem(clmla_context *context, const up_case *c)
{
    test_random random = {.state = 17};
    const size_t heads = (size_t)c->heads;
    up_problem p = {.rows = (size_t)c->tokens * heads,
                    .states = (size_t)c->states,
                    .in = (size_t)c->K,
                    .out = (size_t)c->N,
                    .in_pitch = (size_t)c->K + c->gap,
                    .out_pitch = (size_t)c->N + c->gap};
    draw_states(c, &p, &random);
    p.weights = calloc(heads * p.out * p.in, sizeof(float));
    assert_non_null(p.weights);
    for (size_t i = 0; i < heads * p.out * p.in; i++)
        p.weights[i] = (float)test_random_normal(&random);
    expect(c, &p);
    p.ctx = test_buffer_poisoned(p.rows * p.in * mla__dtype_bytes(c->ctx), c->ctx);
    p.y = test_buffer_poisoned(p.rows * p.out_pitch * mla__dtype_bytes(c->y), c->y);
    const clmla_matrix_params w = {.struct_size = sizeof w,
                                   .source = {.host = p.weights, .tensor = {.dtype = F32}},
                                   .num_batches = c->heads,
                                   .out_features = c->N,
                                   .in_features = c->K,
                                   .dtype = c->w};
    assert_int_equal(clmla_matrix_create(context, &w, test_device_get()->queue, &p.matrix),
                     CLMLA_SUCCESS);
    p.params = (mla__merge_up_params){.matrix = p.matrix,
                                      .max_tokens = c->tokens,
                                      .num_states = p.states * (size_t)c->tokens,
                                      .partial_out = p.partial_out.tensor,
                                      .partial_lse = p.partial_lse.tensor,
                                      .ctx_dtype = c->ctx,
                                      .y = view_of(&p.y, 0, heads * p.out_pitch, p.out_pitch)};
    p.params.partial_out.strides[1] = heads * p.in_pitch;
    p.params.partial_out.strides[2] = p.in_pitch;
    p.params.partial_lse.strides[1] = heads;
    return p;
}

static void release_problem(up_problem *p)
{
    test_buffer_release(&p->partial_out);
    test_buffer_release(&p->partial_lse);
    test_buffer_release(&p->ctx);
    test_buffer_release(&p->y);
    clmla_matrix_release(p->matrix);
    free(p->parts);
    free(p->lses);
    free(p->weights);
    free(p->expected);
    free(p->error);
}

static unsigned char *read_y(const up_problem *p)
{
    unsigned char *bytes = malloc(p->y.bytes + 1);
    assert_non_null(bytes);
    test_buffer_read(&p->y, bytes);
    return bytes;
}

static void check_y(const up_case *c, const up_problem *p)
{
    unsigned char *y = read_y(p);
    for (size_t at = 0; at < p->rows * p->out_pitch; at++) {
        const size_t row = at / p->out_pitch, n = at % p->out_pitch, i = row * p->out + n;
        if (n >= p->out) {
            check_poison(c->name, y, c->y, at);
            continue;
        }
        const double value = mla__load(y, c->y, at);
        check_element(c->name, row, n, c->y, value, p->expected[i], p->error[i]);
        if (c->empty == 1)
            assert_true(value == 0.0);
    }
    free(y);
}

static clmla_context *gpu_context(void)
{
    return test_context(CLMLA_KERNELS_GPU, CLMLA_PROJECTION_NATIVE);
}

static void run(clmla_context *context, const up_case *c, const up_problem *p)
{
    mla__merge_up op = {0};
    mla__stream stream;
    const clmla_status status = mla__merge_up_bind(context, &p->params, &op);
    if (status != CLMLA_SUCCESS)
        fail_msg("%s: %s: %s", c->name, clmla_status_name(status), test_last_notify());
    assert_int_equal(mla__stream_begin(&stream, test_device_get()->queue, 0, NULL), CLMLA_SUCCESS);
    assert_int_equal(mla__merge_up_enqueue(&op, &stream, c->states, c->tokens), CLMLA_SUCCESS);
    assert_int_equal(stream.kernel_launches, 1);
    assert_int_equal(clFinish(test_device_get()->queue), CL_SUCCESS);
    mla__merge_up_release(&op);
}

static void matches_the_formula(void **state)
{
    (void)state;
    clmla_context *context = gpu_context();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        if (test_too_long((size_t)(cases[i].K > cases[i].N ? cases[i].K : cases[i].N)) ||
            test_too_long((size_t)cases[i].states))
            continue;
        up_problem p = make_problem(context, &cases[i]);
        run(context, &cases[i], &p);
        check_y(&cases[i], &p);
        release_problem(&p);
    }
    clmla_context_release(context);
}

/* Small work-groups, little local memory, and tiles from the widest to the narrowest. */
static void matches_the_formula_on_other_devices(void **state)
{
    (void)state;
    const struct {
        size_t work_group;
        cl_ulong local_mem_bytes;
        cl_uint compute_units;
    } devices[] = {
        {32, 16 * 1024, 1}, {64, 32 * 1024, 1}, {64, 32 * 1024, 300}, {256, 32 * 1024, 300}};
    static const up_case c = {"other device", 70, 2, 3, 70, 75, BF16, BF16, F32, 4, 3, 3};
    for (size_t d = 0; d < sizeof devices / sizeof devices[0]; d++) {
        clmla_context *context = gpu_context();
        context->device.max_work_group_size = devices[d].work_group;
        context->device.local_mem_bytes = devices[d].local_mem_bytes;
        context->device.compute_units = devices[d].compute_units;
        up_problem p = make_problem(context, &c);
        run(context, &c, &p);
        check_y(&c, &p);
        release_problem(&p);
        clmla_context_release(context);
    }
}

/* ctx by merge, rounded in memory, then the projection of as many rows. */
static void run_apart(clmla_context *context, const up_case *c, up_problem *p)
{
    const size_t heads = (size_t)c->heads;
    const cl_command_queue queue = test_device_get()->queue;
    clmla_merge_states_params merge = {.struct_size = sizeof merge,
                                       .num_states = c->states,
                                       .num_tokens = c->tokens,
                                       .num_heads = c->heads,
                                       .dim = c->K,
                                       .partial_out = p->params.partial_out,
                                       .partial_lse = p->params.partial_lse,
                                       .out = p->ctx.tensor};
    merge.partial_out.strides[0] = p->rows * p->in_pitch;
    merge.partial_lse.strides[0] = p->rows;
    const clmla_projection_params projection = {.struct_size = sizeof projection,
                                                .matrix = p->matrix,
                                                .num_rows = c->tokens,
                                                .x = view_of(&p->ctx, 0, heads * p->in, p->in),
                                                .y = p->params.y};
    assert_int_equal(clmla_enqueue_merge_states(context, &merge, queue, 0, NULL, NULL), 0);
    assert_int_equal(clmla_enqueue_projection(context, &projection, queue, 0, NULL, NULL), 0);
    assert_int_equal(clFinish(queue), CL_SUCCESS);
}

static void gives_the_bits_of_merge_and_projection(void **state)
{
    (void)state;
    clmla_context *context = gpu_context();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        up_problem p = make_problem(context, &cases[i]);
        run(context, &cases[i], &p);
        unsigned char *together = read_y(&p);
        test_buffer_release(&p.y);
        p.y = test_buffer_poisoned(p.rows * p.out_pitch * mla__dtype_bytes(cases[i].y), cases[i].y);
        p.params.y.buffer = p.y.tensor.buffer;
        run_apart(context, &cases[i], &p);
        unsigned char *apart = read_y(&p);
        if (memcmp(together, apart, p.y.bytes) != 0)
            fail_msg("%s: other bits than merge and projection", cases[i].name);
        free(together);
        free(apart);
        release_problem(&p);
    }
    clmla_context_release(context);
}

/* A layer binds once; splits and tokens then change from call to call and lie packed. Warming writes
 * nothing. */
static void runs_again_with_other_splits(void **state)
{
    (void)state;
    static const up_case wide = {"four of two", 4, 2, 3, 20, 40, BF16, BF16, F32, 0, 0, 3};
    static const up_case tall = {"seven of one", 7, 1, 3, 20, 40, BF16, BF16, F32, 0, 0, 3};
    const up_case *const both[] = {&wide, &tall};
    clmla_context *context = gpu_context();
    for (size_t i = 0; i < 2; i++) {
        up_problem p = make_problem(context, both[i]);
        const up_case *c = both[i];
        mla__merge_up op = {0};
        mla__stream stream;
        assert_int_equal(mla__merge_up_bind(context, &p.params, &op), CLMLA_SUCCESS);
        assert_int_equal(mla__stream_begin(&stream, test_device_get()->queue, 0, NULL), 0);
        assert_int_equal(mla__merge_up_warm(&op, &stream), CLMLA_SUCCESS);
        assert_int_equal(mla__merge_up_enqueue(&op, &stream, 1, 0), CLMLA_SUCCESS);
        assert_int_equal(stream.kernel_launches, 1);
        unsigned char *y = read_y(&p);
        for (size_t at = 0; at < p.rows * p.out_pitch; at++)
            check_poison("after warming", y, c->y, at);
        free(y);
        assert_int_equal(mla__merge_up_enqueue(&op, &stream, 1, 1), CLMLA_SUCCESS);
        assert_int_equal(mla__merge_up_enqueue(&op, &stream, c->states, c->tokens), CLMLA_SUCCESS);
        check_y(c, &p);
        mla__merge_up_release(&op);
        release_problem(&p);
    }
    clmla_context_release(context);
}

static void refuses_what_does_not_fit(void **state)
{
    (void)state;
    static const up_case c = {"valid", 4, 2, 3, 20, 40, BF16, BF16, F32, 0, 0, 3};
    clmla_context *context = gpu_context();
    clmla_context *cpu = test_context(CLMLA_KERNELS_CPU, CLMLA_PROJECTION_NATIVE);
    up_problem p = make_problem(context, &c);
    mla__merge_up op = {0};
    mla__merge_up_params wrong[5];
    const clmla_status expected[] = {CLMLA_INVALID_TENSOR_SHAPE, CLMLA_INVALID_TENSOR_SHAPE,
                                     CLMLA_BUFFER_TOO_SMALL, CLMLA_INVALID_TENSOR_DTYPE,
                                     CLMLA_BUFFER_TOO_SMALL};
    for (size_t i = 0; i < 5; i++)
        wrong[i] = p.params;
    wrong[0].num_states = 0;
    wrong[1].max_tokens = -1;
    wrong[2].num_states = 1000;
    wrong[3].partial_out.dtype = BF16;
    wrong[4].max_tokens = 1000;
    for (size_t i = 0; i < 5; i++) {
        test_clear_notify();
        assert_int_equal(mla__merge_up_bind(context, &wrong[i], &op), expected[i]);
        assert_non_null(strstr(test_last_notify(), "merge_up"));
    }
    assert_false(mla__merge_up_fits(cpu, p.matrix));
    assert_int_equal(mla__merge_up_bind(cpu, &p.params, &op), CLMLA_UNSUPPORTED_DEVICE);
    context->device.max_work_group_size = 2; /* 20 elements of ctx a work-item */
    assert_false(mla__merge_up_fits(context, p.matrix));
    context->device.max_work_group_size = 256;
    assert_true(mla__merge_up_fits(context, p.matrix));
    context->device.local_mem_bytes = 1024;
    assert_false(mla__merge_up_fits(context, p.matrix));
    release_problem(&p);
    clmla_context_release(context);
    clmla_context_release(cpu);
}

/* An argument is a pattern of names: the tests to run. */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(matches_the_formula),
        cmocka_unit_test(matches_the_formula_on_other_devices),
        cmocka_unit_test(gives_the_bits_of_merge_and_projection),
        cmocka_unit_test(runs_again_with_other_splits),
        cmocka_unit_test(refuses_what_does_not_fit),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const int failed = cmocka_run_group_tests_name("merge_up", tests, NULL, NULL);
    test_device_close();
    return failed;
}
