/*
 * Packed weights past 2^31 and 2^32 words: a matrix of a few gigabytes that is zero but for some of
 * its columns, first, last and between, against the sum in double; the others' products have to be
 * zero. Also the float32 weights that CLBlast multiplies in place of the last of them, and packing.
 * The matrix is a range of addresses (support/sparse.h) that the test writes as the layout says
 * (src/ops/matrix.h); zeros take no memory.
 *
 * Not of class nvidia's kernels, whose 2^33 products take an emulation too long.
 */
#define _DEFAULT_SOURCE /* madvise */

#include <sys/mman.h>

#include "ops/clblast_convert.h"
#include "ops/clblast_layout.h"
#include "ops/matrix.h"
#include "ops/projection.h"
#include "ops/rows.h"
#include "support/sparse.h"
#include "support/table.h"

enum { BF16 = CLMLA_DTYPE_BF16, F32 = CLMLA_DTYPE_F32, F8 = CLMLA_DTYPE_F8_E4M3 };
enum { IN = 4096, GROUP = 128, PANEL = MLA__PANEL };

typedef struct weight_case {
    const char *name;
    clmla_kernel_class kernel_class;
    bool matrix_units;
    clmla_dtype x, w;
    bool slow; /* on a CPU */
} weight_case;

// clang-format off
static const weight_case cases[] = {
    {"cpu bf16 by dot products", CLMLA_KERNELS_CPU, true, BF16, BF16, false},
    {"cpu FP8 by dot products", CLMLA_KERNELS_CPU, true, BF16, F8, false},
    {"cpu bf16", CLMLA_KERNELS_CPU, false, BF16, BF16, false},
    {"cpu FP8", CLMLA_KERNELS_CPU, false, F32, F8, true},
    {"cpu float32", CLMLA_KERNELS_CPU, false, F32, F32, true},
    {"gpu bf16", CLMLA_KERNELS_GPU, false, BF16, BF16, true},
    {"gpu FP8", CLMLA_KERNELS_GPU, false, BF16, F8, true},
    {"gpu float32", CLMLA_KERNELS_GPU, false, F32, F32, true},
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
    test_buffer to = test_buffer_poisoned(columns * sizeof(float), F32);
    test_buffer from = test_buffer_of_doubles(x, IN, c->x);
    const clmla_projection_params params = {.struct_size = sizeof params,
                                            .matrix = matrix,
                                            .num_rows = 1,
                                            .x = from.tensor,
                                            .y = to.tensor,
                                            .backend = CLMLA_PROJECTION_NATIVE};
    const clmla_status status = clmla_enqueue_projection(context, &params, queue, 0, NULL, NULL);
    if (status != CLMLA_SUCCESS)
        fail_msg("%s: %s: %s", c->name, clmla_status_name(status), test_last_notify());
    test_buffer_read(&to, y);
    test_buffer_release(&to);
    test_buffer_release(&from);
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

/* NULL, or why there is none. huge: fewer faults; zeros stay shared. */
static const char *make_range(size_t bytes, bool huge, sparse *range)
{
    const char *why_not = sparse_create(bytes, range);
    if (why_not != NULL) {
        print_message("skipped: no offsets past 2^31, %s\n", why_not);
        return why_not;
    }
    memset(range->data, 0, 4); /* sparse_create has tried them */
    if (huge)
        (void)madvise(range->data, range->bytes, MADV_HUGEPAGE);
    return NULL;
}

static const char *make_region(const clmla_context *context, clmla_dtype dtype, sparse *region)
{
    uint64_t bytes = 0;
    assert_int_equal(mla__matrix_bytes(context, 1, (int32_t)columns_of(dtype), IN, dtype, &bytes),
                     CLMLA_SUCCESS);
    return make_range((size_t)bytes, dtype != F32, region); /* its columns touch a page a row */
}

static void products_past_2_to_the_32_weights(void **state)
{
    const weight_case *c = *state;
    sparse region = {.buffer = NULL};
    if (c->slow && !test_all()) {
        print_message("skipped: %s, slow; CLMLA_TEST_ALL=1 computes it\n", c->name);
        skip();
    }
    clmla_context *context = test_context_with_units(
        c->kernel_class, c->matrix_units ? CLMLA_MATRIX_UNITS_AUTO : CLMLA_MATRIX_UNITS_OFF);
    const char *why_not = make_region(context, c->w, &region);
    if (why_not == NULL)
        check(context, c, &region);
    sparse_release(&region);
    clmla_context_release(context);
    if (why_not != NULL)
        skip();
}

/* ---- what CLBlast multiplies ---------------------------------------------------------------- */

/* The last two panels as float32 [IN, 2 · PANEL]. */
static void check_widened(clmla_context *context, sparse *region)
{
    const size_t columns = columns_of(BF16), first = columns - 2 * PANEL;
    const struct clmla_matrix matrix = {.context = context,
                                        .buffer = region->buffer,
                                        .num_batches = 1,
                                        .out_features = (int32_t)columns,
                                        .in_features = IN,
                                        .dtype = BF16};
    double *ones = doubles(IN), magnitude;
    for (size_t i = 2; i < PLANTED; i++)
        (void)plant(region, BF16, columns, planted_column(columns, i), ones, &magnitude);
    free(ones);
    const size_t bytes = (size_t)IN * 2 * PANEL * sizeof(float);
    cl_int error = CL_SUCCESS;
    const cl_mem slab =
        clCreateBuffer(test_device_get()->context, CL_MEM_READ_WRITE, bytes, NULL, &error);
    assert_int_equal(error, CL_SUCCESS);
    const mla__clblast_slabs slabs = {.x = slab, .w = slab, .y = slab};
    const mla__view view = {.buffer = slab, .dtype = BF16};
    const clmla_projection_params params = {.struct_size = sizeof params, .matrix = &matrix};
    const mla__clblast_part part = {.num_batches = 1, .columns = 2 * PANEL};
    mla__clblast_convert op = {0};
    mla__stream stream;
    assert_int_equal(mla__clblast_convert_bind(context, &params, &view, &view, &slabs, IN, &op),
                     CLMLA_SUCCESS);
    assert_int_equal(mla__stream_begin(&stream, test_device_get()->queue, 0, NULL), CLMLA_SUCCESS);
    assert_int_equal(mla__clblast_convert_w(&op, &stream, &part, (int32_t)first), CLMLA_SUCCESS);
    float *widened = malloc(bytes);
    assert_non_null(widened);
    assert_int_equal(clEnqueueReadBuffer(test_device_get()->queue, slab, CL_TRUE, 0, bytes, widened,
                                         0, NULL, NULL),
                     CL_SUCCESS);
    for (size_t k = 0; k < IN; k++)
        for (size_t n = 0; n < 2 * PANEL; n++) {
            const double weight =
                mla__load(region->data + place_of(BF16, columns, first + n, k), BF16, 0);
            if ((double)widened[k * 2 * PANEL + n] != weight)
                fail_msg("weight [%zu, %zu] is %.9g, expected %.9g", first + n, k,
                         (double)widened[k * 2 * PANEL + n], weight);
        }
    free(widened);
    (void)clReleaseMemObject(slab);
    mla__clblast_convert_release(&op);
}

static void weights_past_2_to_the_32_are_widened(void **state)
{
    const char *why_not = NULL;
    (void)state;
    for (size_t k = 0; k < 2 && why_not == NULL; k++) {
        sparse region = {.buffer = NULL};
        clmla_context *context = test_context(both_classes[k], CLMLA_PROJECTION_NATIVE);
        why_not = make_region(context, BF16, &region);
        if (why_not == NULL)
            check_widened(context, &region);
        sparse_release(&region);
        clmla_context_release(context);
    }
    if (why_not != NULL)
        skip();
}

/* ---- packing ---------------------------------------------------------------------------------- */

/* Rows of zeros but for those of the planted columns, bf16 [columns, IN], packed from another range
 * of addresses. */
static void check_packed(clmla_context *context, const sparse *source, const sparse *packed,
                         size_t columns)
{
    const cl_command_queue queue = test_device_get()->queue;
    const clmla_matrix_params params = {
        .struct_size = sizeof params,
        .source = {.tensor = {.buffer = source->buffer, .dtype = BF16}},
        .out_features = (int32_t)columns,
        .in_features = IN,
        .dtype = BF16,
        .buffer = packed->buffer};
    clmla_matrix *matrix;
    for (size_t i = 0; i < PLANTED; i++) {
        test_random random = {.state = i};
        for (size_t k = 0; k < IN; k++)
            mla__store(source->data, BF16, planted_column(columns, i) * IN + k,
                       test_random_normal(&random));
    }
    assert_int_equal(clmla_matrix_create(context, &params, queue, &matrix), CLMLA_SUCCESS);
    clmla_matrix_release(matrix);
    size_t differences = 0;
    for (size_t i = 0; i < PLANTED; i++)
        for (size_t k = 0; k < IN; k++) {
            const size_t n = planted_column(columns, i);
            unsigned char *to = packed->data + place_of(BF16, columns, n, k);
            const unsigned char *from = source->data + (n * IN + k) * 2;
            differences += memcmp(to, from, 2) != 0;
            memset(to, 0, 2);
        }
    assert_int_equal(differences, 0);
    for (size_t i = 0; i < columns * IN * 2 / sizeof(uint64_t); i++)
        differences += ((const uint64_t *)packed->data)[i] != 0;
    assert_int_equal(differences, 0);
}

static void packs_past_2_to_the_31_weights(void **state)
{
    const size_t columns = ((size_t)1 << 19) + 2 * PANEL, bytes = columns * IN * 2;
    sparse source = {.buffer = NULL}, packed = {.buffer = NULL};
    (void)state;
    if (!test_all()) {
        print_message("skipped: packing takes 4 GiB of memory; CLMLA_TEST_ALL=1 does it\n");
        skip();
    }
    clmla_context *context = test_context(CLMLA_KERNELS_CPU, CLMLA_PROJECTION_NATIVE);
    const char *why_not = make_range(bytes, true, &source);
    if (why_not == NULL && (why_not = make_range(bytes, true, &packed)) == NULL)
        check_packed(context, &source, &packed, columns);
    sparse_release(&source);
    sparse_release(&packed);
    clmla_context_release(context);
    if (why_not != NULL)
        skip();
}

/* CLBlast's own offsets have 32 bits: float32 weights, which it reads where they lie, end there. */
static void float32_weights_past_2_to_the_31_are_refused_for_clblast(void **state)
{
    (void)state;
    clmla_context *context = test_context(CLMLA_KERNELS_CPU, CLMLA_PROJECTION_CLBLAST);
    struct clmla_matrix matrix = {.context = context,
                                  .num_batches = 1,
                                  .out_features = 65536,
                                  .in_features = 32768,
                                  .dtype = F32};
    mla__clblast_layout layout;
    assert_int_equal(mla__clblast_lay_out(context, &matrix, 1, &layout), CLMLA_UNSUPPORTED_CONFIG);
    assert_non_null(strstr(test_last_notify(), "2147483648 float32 weights"));
    matrix.num_batches = 2; /* batches count together */
    matrix.in_features = 16384;
    assert_int_equal(mla__clblast_lay_out(context, &matrix, 1, &layout), CLMLA_UNSUPPORTED_CONFIG);
    matrix.in_features = 16383;
    assert_int_equal(mla__clblast_lay_out(context, &matrix, 1, &layout), CLMLA_SUCCESS);
    assert_int_equal(layout.w_bytes, 0);
    matrix.in_features = 32768;
    matrix.dtype = BF16; /* widened slab by slab, at offsets of their own */
    assert_int_equal(mla__clblast_lay_out(context, &matrix, 1, &layout), CLMLA_SUCCESS);
    assert_true(layout.w_bytes > 0);
    clmla_context_release(context);
}

int main(int argc, char **argv)
{
    const test_table table = TEST_TABLE(products_past_2_to_the_32_weights, cases);
    const struct CMUnitTest others[] = {
        cmocka_unit_test(weights_past_2_to_the_32_are_widened),
        cmocka_unit_test(packs_past_2_to_the_31_weights),
        cmocka_unit_test(float32_weights_past_2_to_the_31_are_refused_for_clblast),
    };
    return test_run("weight_offsets", argc, argv, &table, 1, TEST_AND(others));
}
