/*
 * Packed weights past 2^31 and 2^32 words: a matrix of a few gigabytes that is zero but for some of
 * its columns, first, last and between, against the sum in double; the others' products have to be
 * zero. The matrix is a range of addresses (support/sparse.h) that the test writes as the layout
 * says (src/ops/matrix.h); zeros take no memory.
 */
#define _DEFAULT_SOURCE /* madvise */

#include <sys/mman.h>

#include "ops/matrix.h"
#include "ops/projection.h"
#include "ops/rows.h"
#include "support/sparse.h"

enum { BF16 = CLMLA_DTYPE_BF16, F32 = CLMLA_DTYPE_F32, F8 = CLMLA_DTYPE_F8_E4M3 };
enum { IN = 4096, GROUP = 128, PANEL = MLA__PANEL };

typedef struct weight_case {
    const char *name;
    clmla_kernel_class kernel_class;
    bool matrix_units;
    clmla_projection_backend backend;
    clmla_dtype x, w;
    bool slow; /* on a CPU */
} weight_case;

// clang-format off
static const weight_case cases[] = {
    {"cpu bf16 by dot products", CLMLA_KERNELS_CPU, true, CLMLA_PROJECTION_NATIVE, BF16, BF16, false},
    {"cpu FP8 by dot products", CLMLA_KERNELS_CPU, true, CLMLA_PROJECTION_NATIVE, BF16, F8, false},
    {"cpu bf16", CLMLA_KERNELS_CPU, false, CLMLA_PROJECTION_NATIVE, BF16, BF16, false},
    {"cpu FP8", CLMLA_KERNELS_CPU, false, CLMLA_PROJECTION_NATIVE, F32, F8, true},
    {"cpu float32", CLMLA_KERNELS_CPU, false, CLMLA_PROJECTION_NATIVE, F32, F32, true},
    {"cpu CLBlast", CLMLA_KERNELS_CPU, false, CLMLA_PROJECTION_CLBLAST, BF16, BF16, true},
    {"gpu bf16", CLMLA_KERNELS_GPU, false, CLMLA_PROJECTION_NATIVE, BF16, BF16, true},
    {"gpu FP8", CLMLA_KERNELS_GPU, false, CLMLA_PROJECTION_NATIVE, BF16, F8, true},
    {"gpu float32", CLMLA_KERNELS_GPU, false, CLMLA_PROJECTION_NATIVE, F32, F32, true},
    {"nvidia bf16", CLMLA_KERNELS_NVIDIA, true, CLMLA_PROJECTION_NATIVE, BF16, BF16, true},
    {"nvidia FP8", CLMLA_KERNELS_NVIDIA, true, CLMLA_PROJECTION_NATIVE, BF16, F8, true},
};
// clang-format on

/* So that the last word, pair of codes or float lies past 2^32 of its kind. */
static size_t columns_of(clmla_dtype dtype)
{
    return ((size_t)1 << (dtype == F32 ? 20 : 21)) + 2 * PANEL;
}

enum { PLANTED = 4 };

/* Column i of those that are not zero. */
static size_t planted_column(size_t columns, size_t i)
{
    const size_t places[PLANTED] = {PANEL + 1, columns / 2, columns - PANEL - 3, columns - 1};
    return places[i];
}

/* Element [n, k] of the layout: bytes from the begin. */
static size_t place_of(clmla_dtype dtype, size_t columns, size_t n, size_t k)
{
    const size_t pair = (n / PANEL * (IN / 2) + k / 2) * PANEL + n % PANEL;
    if (dtype == F32)
        return (k * columns + n) * sizeof(float);
    if (dtype == BF16)
        return pair * 4 + k % 2 * 2;
    return IN / GROUP * columns * sizeof(float) + pair * 2 + k % 2;
}

static double plant(sparse *matrix, clmla_dtype dtype, size_t columns, size_t n, const double *x,
                    double *magnitude)
{
    test_random random = {.state = n};
    double sum = 0.0;
    *magnitude = 0.0;
    for (size_t k = 0; k < IN; k++) {
        unsigned char *at = matrix->data + place_of(dtype, columns, n, k);
        double weight;
        if (dtype == F8) {
            const float scale = (float)(1 + k / GROUP);
            *at = (unsigned char)test_random_int(&random, 0, 0x7e);
            memcpy(matrix->data + (k / GROUP * columns + n) * sizeof scale, &scale, sizeof scale);
            weight = (double)mla__f8_e4m3_to_float(*at) * (double)scale;
        } else {
            mla__store(at, dtype, 0, test_random_normal(&random));
            weight = mla__load(at, dtype, 0);
        }
        sum += x[k] * weight;
        *magnitude += fabs(x[k] * weight);
    }
    return sum;
}

static void multiply(clmla_context *context, const weight_case *c,
                     const struct clmla_matrix *matrix, const double *x, float *y)
{
    const cl_command_queue queue = test_device_get()->queue;
    const size_t columns = (size_t)matrix->out_features;
    uint64_t bytes = 0;
    test_buffer to = test_buffer_poisoned(columns * sizeof(float), F32), workspace;
    test_buffer from = test_buffer_of_doubles(x, IN, c->x);
    clmla_projection_params params = {.struct_size = sizeof params,
                                      .matrix = matrix,
                                      .num_rows = 1,
                                      .x = from.tensor,
                                      .y = to.tensor,
                                      .backend = c->backend};
    assert_int_equal(clmla_projection_workspace_size(context, &params, &bytes), CLMLA_SUCCESS);
    workspace = test_buffer_poisoned((size_t)bytes + 4, F32);
    params.workspace = workspace.tensor;
    const clmla_status status = clmla_enqueue_projection(context, &params, queue, 0, NULL, NULL);
    if (status != CLMLA_SUCCESS)
        fail_msg("%s: %s: %s", c->name, clmla_status_name(status), test_last_notify());
    test_buffer_read(&to, y);
    test_buffer_release(&to);
    test_buffer_release(&from);
    test_buffer_release(&workspace);
}

static void check(clmla_context *context, const weight_case *c, sparse *region)
{
    const size_t columns = columns_of(c->w);
    const struct clmla_matrix matrix = {.context = context,
                                        .buffer = region->buffer,
                                        .num_batches = 1,
                                        .out_features = (int32_t)columns,
                                        .in_features = IN,
                                        .dtype = c->w};
    double *x = doubles(IN), magnitude;
    float *y = calloc(columns, sizeof *y);
    test_random random = {.state = 3};
    assert_non_null(y);
    for (size_t k = 0; k < IN; k++)
        x[k] = (double)mla__bf16_to_float(mla__double_to_bf16(test_random_normal(&random)));
    double expected[PLANTED], bound[PLANTED];
    for (size_t i = 0; i < PLANTED; i++) {
        expected[i] = plant(region, c->w, columns, planted_column(columns, i), x, &magnitude);
        bound[i] = IN * 0x1p-24 * magnitude;
    }
    multiply(context, c, &matrix, x, y);
    for (size_t i = 0; i < PLANTED; i++) {
        const size_t n = planted_column(columns, i);
        if (!(fabs((double)y[n] - expected[i]) <= bound[i]))
            fail_msg("%s: column %zu is %.9g, expected %.9g", c->name, n, (double)y[n],
                     expected[i]);
        y[n] = 0.0f;
    }
    for (size_t n = 0; n < columns; n++)
        if (y[n] != 0.0f)
            fail_msg("%s: column %zu is %.9g, expected 0", c->name, n, (double)y[n]);
    free(x);
    free(y);
}

static void products_past_2_to_the_32_weights(void **state)
{
    const weight_case *c = *state;
    uint64_t bytes = 0;
    sparse region = {.buffer = NULL};
    if (c->slow && !test_all()) {
        print_message("skipped: %s, slow; CLMLA_TEST_ALL=1 computes it\n", c->name);
        skip();
    }
    clmla_context *context = test_context_with_units(
        c->kernel_class, c->matrix_units ? CLMLA_MATRIX_UNITS_AUTO : CLMLA_MATRIX_UNITS_OFF);
    assert_int_equal(mla__matrix_bytes(context, 1, (int32_t)columns_of(c->w), IN, c->w, &bytes),
                     CLMLA_SUCCESS);
    const char *why_not = sparse_create((size_t)bytes, &region);
    if (why_not == NULL) {
        memset(region.data, 0, 4); /* sparse_create has tried them */
        /* Fewer faults; zeros stay shared. A column of float32 touches one page a row. */
        if (c->w != F32)
            (void)madvise(region.data, region.bytes, MADV_HUGEPAGE);
        check(context, c, &region);
    }
    sparse_release(&region);
    clmla_context_release(context);
    if (why_not != NULL) {
        print_message("skipped: no offsets past 2^31, %s\n", why_not);
        skip();
    }
}

int main(int argc, char **argv)
{
    enum { NUM_CASES = sizeof cases / sizeof cases[0] };
    static weight_case states[NUM_CASES];
    struct CMUnitTest tests[NUM_CASES];
    memset(tests, 0, sizeof tests);
    memcpy(states, cases, sizeof cases);
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    for (size_t i = 0; i < NUM_CASES; i++) {
        tests[i].name = states[i].name;
        tests[i].test_func = products_past_2_to_the_32_weights;
        tests[i].initial_state = &states[i];
    }
    const int failed = cmocka_run_group_tests_name("weight_offsets", tests, NULL, NULL);
    test_device_close();
    return failed;
}
