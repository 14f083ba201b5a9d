/*
 * Rows 2^30 elements apart and tensors that begin past 2^32 elements, for the ops whose tensors no
 * layer lays out so far apart: rmsnorm, merge_states, merge_up, and the sources that matrices are
 * packed from. The bits are those of compact tensors. The tensors are ranges of addresses
 * (support/sparse.h).
 */
#include "ops/matrix.h"
#include "ops/merge.h"
#include "ops/merge_up.h"
#include "ops/rmsnorm.h"
#include "ops/rows.h"
#include "support/sparse.h"

enum { BF16 = CLMLA_DTYPE_BF16, F16 = CLMLA_DTYPE_F16, F32 = CLMLA_DTYPE_F32 };
enum { F8 = CLMLA_DTYPE_F8_E4M3, NUM_REGIONS = 4 };
#define STRIDE (((size_t)1 << 30) + 104) /* elements between rows */
#define BASE (((size_t)1 << 32) + 128)   /* elements before the first */

static sparse regions[NUM_REGIONS];

/* Skips the test where there are none. */
static void make_regions(size_t count, size_t rows)
{
    const char *why_not = NULL;
    for (size_t i = 0; i < count && why_not == NULL; i++)
        why_not = sparse_create((BASE + rows * STRIDE) * sizeof(float), &regions[i]);
    if (why_not == NULL)
        return;
    for (size_t i = 0; i < count; i++)
        sparse_release(&regions[i]);
    print_message("skipped: no offsets past 2^31, %s\n", why_not);
    skip();
}

static void release_regions(void)
{
    for (size_t i = 0; i < NUM_REGIONS; i++)
        sparse_release(&regions[i]);
}

static clmla_tensor far_away(size_t region, clmla_dtype dtype, size_t stride0, size_t stride1,
                             size_t stride2)
{
    return (clmla_tensor){.buffer = regions[region].buffer,
                          .offset_bytes = BASE * mla__dtype_bytes(dtype),
                          .dtype = dtype,
                          .strides = {stride0, stride1, stride2}};
}

static unsigned char *payload(const test_buffer *compact)
{
    unsigned char *all = malloc(compact->bytes + 1);
    assert_non_null(all);
    test_buffer_read(compact, all);
    return all;
}

/* The compact tensor's dense rows to a region, `stride` elements apart. */
static void spread(const test_buffer *compact, size_t region, size_t rows, size_t stride)
{
    const size_t element = mla__dtype_bytes(compact->tensor.dtype), bytes = compact->bytes / rows;
    unsigned char *all = payload(compact);
    for (size_t r = 0; r < rows; r++)
        memcpy(regions[region].data + (BASE + r * stride) * element, all + r * bytes, bytes);
    free(all);
}

static void same_rows(const char *what, const test_buffer *compact, size_t region, size_t rows,
                      size_t stride)
{
    const size_t element = mla__dtype_bytes(compact->tensor.dtype), bytes = compact->bytes / rows;
    unsigned char *all = payload(compact);
    for (size_t r = 0; r < rows; r++)
        if (memcmp(regions[region].data + (BASE + r * stride) * element, all + r * bytes, bytes) !=
            0)
            fail_msg("%s: row %zu differs", what, r);
    free(all);
}

static test_buffer drawn(size_t count, clmla_dtype dtype, uint64_t seed)
{
    test_random random = {.state = seed};
    double *values = doubles(count);
    for (size_t i = 0; i < count; i++)
        values[i] = test_random_normal(&random);
    test_buffer made = test_buffer_of_doubles(values, count, dtype);
    free(values);
    return made;
}

/* ---- rmsnorm -------------------------------------------------------------------------------- */

static void normalise_both(clmla_context *context, clmla_dtype dtype)
{
    enum { ROWS = 6, DIM = 100 };
    const cl_command_queue queue = test_device_get()->queue;
    test_buffer x = drawn((size_t)ROWS * DIM, dtype, 3), weight = drawn(DIM, dtype, 4);
    test_buffer y = test_buffer_poisoned(x.bytes, dtype);
    clmla_rmsnorm_params params = {.struct_size = sizeof params,
                                   .num_tokens = ROWS,
                                   .dim = DIM,
                                   .x = x.tensor,
                                   .weight = weight.tensor,
                                   .y = y.tensor};
    assert_int_equal(clmla_enqueue_rmsnorm(context, &params, queue, 0, NULL, NULL), 0);
    spread(&x, 0, ROWS, STRIDE);
    spread(&weight, 1, 1, STRIDE);
    params.x = far_away(0, dtype, STRIDE, 0, 0);
    params.weight = far_away(1, dtype, 0, 0, 0);
    params.y = far_away(2, dtype, STRIDE, 0, 0);
    assert_int_equal(clmla_enqueue_rmsnorm(context, &params, queue, 0, NULL, NULL), 0);
    assert_int_equal(clFinish(queue), CL_SUCCESS);
    same_rows("rmsnorm", &y, 2, ROWS, STRIDE);
    test_buffer_release(&x);
    test_buffer_release(&weight);
    test_buffer_release(&y);
}

static void rmsnorm_has_the_bits_of_compact_rows(void **state)
{
    static const clmla_dtype dtypes[] = {BF16, F16, F32};
    (void)state;
    for (size_t k = 0; k < 2; k++)
        for (size_t d = 0; d < sizeof dtypes / sizeof dtypes[0]; d++) {
            make_regions(3, 6);
            clmla_context *context = test_context(both_classes[k], CLMLA_PROJECTION_NATIVE);
            normalise_both(context, dtypes[d]);
            clmla_context_release(context);
            release_regions();
        }
}

/* ---- merge_states and merge_up -------------------------------------------------------------- */

enum { STATES = 3, TOKENS = 5, HEADS = 5, LATENT = 48, VALUES = 33 };

/* Partial states in regions 0 and 1: [S, T, H, LATENT] rows STRIDE apart, log-sum-exps of tokens
 * too. */
static void spread_states(const test_buffer *out, const test_buffer *lse, clmla_tensor *to_out,
                          clmla_tensor *to_lse)
{
    spread(out, 0, (size_t)STATES * TOKENS * HEADS, STRIDE);
    spread(lse, 1, (size_t)STATES * TOKENS, STRIDE);
    *to_out = far_away(0, F32, TOKENS * HEADS * STRIDE, HEADS * STRIDE, STRIDE);
    *to_lse = far_away(1, F32, TOKENS * STRIDE, STRIDE, 0);
}

static void merge_has_the_bits_of_compact_states(void **state)
{
    const cl_command_queue queue = test_device_get()->queue;
    const size_t rows = (size_t)TOKENS * HEADS;
    (void)state;
    make_regions(4, (size_t)STATES * TOKENS * HEADS);
    clmla_context *context = test_context(CLMLA_KERNELS_GPU, CLMLA_PROJECTION_NATIVE);
    test_buffer partial_out = drawn(STATES * rows * LATENT, F32, 5);
    test_buffer partial_lse = drawn(STATES * rows, F32, 6);
    test_buffer out = test_buffer_poisoned(rows * LATENT * 2, BF16);
    test_buffer lse = test_buffer_poisoned(rows * sizeof(float), F32);
    clmla_merge_states_params params = {.struct_size = sizeof params,
                                        .num_states = STATES,
                                        .num_tokens = TOKENS,
                                        .num_heads = HEADS,
                                        .dim = LATENT,
                                        .partial_out = partial_out.tensor,
                                        .partial_lse = partial_lse.tensor,
                                        .out = out.tensor,
                                        .softmax_lse = lse.tensor};
    assert_int_equal(clmla_enqueue_merge_states(context, &params, queue, 0, NULL, NULL), 0);
    spread_states(&partial_out, &partial_lse, &params.partial_out, &params.partial_lse);
    params.out = far_away(2, BF16, HEADS * STRIDE, STRIDE, 0);
    params.softmax_lse = far_away(3, F32, 2 * STRIDE, 0, 0); /* the last past 2^32 by itself */
    assert_int_equal(clmla_enqueue_merge_states(context, &params, queue, 0, NULL, NULL), 0);
    assert_int_equal(clFinish(queue), CL_SUCCESS);
    same_rows("merge_states: out", &out, 2, rows, STRIDE);
    same_rows("merge_states: softmax_lse", &lse, 3, TOKENS, 2 * STRIDE);
    test_buffer_release(&partial_out);
    test_buffer_release(&partial_lse);
    test_buffer_release(&out);
    test_buffer_release(&lse);
    clmla_context_release(context);
    release_regions();
}

static void merge_up(clmla_context *context, const mla__merge_up_params *params)
{
    mla__merge_up op = {0};
    mla__stream stream;
    assert_int_equal(mla__merge_up_bind(context, params, &op), CLMLA_SUCCESS);
    assert_int_equal(mla__stream_begin(&stream, test_device_get()->queue, 0, NULL), CLMLA_SUCCESS);
    assert_int_equal(mla__merge_up_enqueue(&op, &stream, STATES, TOKENS), CLMLA_SUCCESS);
    assert_int_equal(clFinish(test_device_get()->queue), CL_SUCCESS);
    mla__merge_up_release(&op);
}

static clmla_matrix *matrix_of(clmla_context *context, const clmla_matrix_params *params)
{
    clmla_matrix *matrix = NULL;
    const clmla_status status =
        clmla_matrix_create(context, params, test_device_get()->queue, &matrix);
    if (status != CLMLA_SUCCESS)
        fail_msg("%s: %s", clmla_status_name(status), test_last_notify());
    return matrix;
}

static void merge_up_has_the_bits_of_compact_states(void **state)
{
    const size_t rows = (size_t)TOKENS * HEADS;
    (void)state;
    make_regions(3, (size_t)STATES * TOKENS * HEADS);
    clmla_context *context = test_context(CLMLA_KERNELS_GPU, CLMLA_PROJECTION_NATIVE);
    test_buffer partial_out = drawn(STATES * rows * LATENT, F32, 7);
    test_buffer partial_lse = drawn(STATES * rows, F32, 8);
    test_buffer weights = drawn((size_t)HEADS * VALUES * LATENT, BF16, 9);
    test_buffer y = test_buffer_poisoned(rows * VALUES * 2, BF16);
    const clmla_matrix_params w = {.struct_size = sizeof w,
                                   .source = {.tensor = weights.tensor},
                                   .num_batches = HEADS,
                                   .out_features = VALUES,
                                   .in_features = LATENT,
                                   .dtype = BF16};
    clmla_matrix *matrix = matrix_of(context, &w);
    mla__merge_up_params params = {.matrix = matrix,
                                   .max_tokens = TOKENS,
                                   .num_states = (uint64_t)STATES * TOKENS,
                                   .partial_out = partial_out.tensor,
                                   .partial_lse = partial_lse.tensor,
                                   .ctx_dtype = BF16,
                                   .y = y.tensor};
    merge_up(context, &params);
    spread_states(&partial_out, &partial_lse, &params.partial_out, &params.partial_lse);
    params.y = far_away(2, BF16, HEADS * STRIDE, STRIDE, 0);
    merge_up(context, &params);
    same_rows("merge_up", &y, 2, rows, STRIDE);
    clmla_matrix_release(matrix);
    test_buffer_release(&partial_out);
    test_buffer_release(&partial_lse);
    test_buffer_release(&weights);
    test_buffer_release(&y);
    clmla_context_release(context);
    release_regions();
}

/* ---- sources of matrices -------------------------------------------------------------------- */

typedef struct source_case {
    const char *name;
    clmla_dtype source, dtype;
    int32_t batches, out_features, in_features, transposed;
    bool host;
} source_case;

static const source_case sources[] = {
    {"device, bf16", BF16, BF16, 1, 70, 37, 0, false},
    {"device, float32 to bf16, transposed heads", F32, BF16, 3, 40, 5, 1, false},
    {"device, bf16 to float32", BF16, F32, 2, 5, 40, 0, false},
    {"host, bf16", BF16, BF16, 1, 70, 37, 0, true},
    {"host, float32 to f16, heads", F32, F16, 3, 5, 40, 0, true},
    {"host, bf16 to float32, transposed", BF16, F32, 1, 40, 9, 1, true},
    {"host, FP8", F8, F8, 1, 130, 40, 0, true},
    {"host, FP8, transposed heads", F8, F8, 2, 40, 6, 1, true},
};

/* Scales of the blocks of a matrix of so many rows and this row stride: by row, alike in a row. */
static float *scales_of(const source_case *c, size_t rows, size_t row_stride)
{
    const size_t columns = (row_stride + 127) / 128, count = (rows + 127) / 128 * columns;
    float *scales = c->source == F8 ? calloc(count, sizeof(float)) : NULL;
    for (size_t i = 0; scales != NULL && i < count; i += columns)
        scales[i] = 1.0f + (float)(i / columns);
    return scales;
}

static unsigned char *pack(clmla_context *context, const source_case *c,
                           const clmla_weight_source *source, size_t *bytes)
{
    const clmla_matrix_params params = {.struct_size = sizeof params,
                                        .source = *source,
                                        .num_batches = c->batches,
                                        .out_features = c->out_features,
                                        .in_features = c->in_features,
                                        .transposed = c->transposed,
                                        .dtype = c->dtype};
    uint64_t size = 0;
    assert_int_equal(clmla_matrix_size(context, &params, &size), CLMLA_SUCCESS);
    clmla_matrix *matrix = matrix_of(context, &params);
    unsigned char *packed = malloc((size_t)size);
    assert_non_null(packed);
    *bytes = (size_t)size;
    assert_int_equal(clEnqueueReadBuffer(test_device_get()->queue, matrix->buffer, CL_TRUE, 0,
                                         (size_t)size, packed, 0, NULL, NULL),
                     CL_SUCCESS);
    clmla_matrix_release(matrix);
    return packed;
}

static void check_source(clmla_context *context, const source_case *c)
{
    const size_t element = mla__dtype_bytes(c->source);
    const size_t rows = (size_t)(c->transposed ? c->in_features : c->out_features);
    const size_t columns = (size_t)(c->transposed ? c->out_features : c->in_features);
    const size_t all_rows = (size_t)c->batches * rows;
    size_t bytes, compact_bytes;
    test_buffer compact;
    if (c->source == F8) {
        unsigned char *codes = malloc(all_rows * columns);
        assert_non_null(codes);
        for (size_t i = 0; i < all_rows * columns; i++)
            codes[i] = (unsigned char)(i * 7 % 120);
        compact = test_buffer_of(codes, all_rows * columns, F8);
        free(codes);
    } else {
        compact = drawn(all_rows * columns, c->source, 10);
    }
    unsigned char *host = payload(&compact);
    float *near_scales = scales_of(c, all_rows, columns), *scales = scales_of(c, all_rows, STRIDE);
    clmla_weight_source source = {.scale_inv = near_scales};
    if (c->host) {
        source.host = host;
        source.tensor.dtype = c->source;
    } else {
        source.tensor = compact.tensor;
    }
    unsigned char *expected = pack(context, c, &source, &compact_bytes);
    spread(&compact, 0, all_rows, STRIDE);
    source.scale_inv = scales;
    source.tensor = far_away(0, c->source, rows * STRIDE, STRIDE, 0);
    if (c->host) {
        source.tensor.buffer = NULL;
        source.tensor.offset_bytes = 0;
        source.host = regions[0].data + BASE * element;
    }
    unsigned char *packed = pack(context, c, &source, &bytes);
    assert_int_equal(bytes, compact_bytes);
    if (memcmp(packed, expected, bytes) != 0)
        fail_msg("%s: packed otherwise from rows far apart", c->name);
    free(packed);
    free(expected);
    free(near_scales);
    free(scales);
    free(host);
    test_buffer_release(&compact);
}

static void matrices_are_packed_from_rows_far_apart(void **state)
{
    (void)state;
    clmla_context *context = test_context(CLMLA_KERNELS_CPU, CLMLA_PROJECTION_NATIVE);
    for (size_t i = 0; i < sizeof sources / sizeof sources[0]; i++) {
        make_regions(1, 130);
        check_source(context, &sources[i]);
        release_regions();
    }
    clmla_context_release(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rmsnorm_has_the_bits_of_compact_rows),
        cmocka_unit_test(merge_has_the_bits_of_compact_states),
        cmocka_unit_test(merge_up_has_the_bits_of_compact_states),
        cmocka_unit_test(matrices_are_packed_from_rows_far_apart),
    };
    const int failed = cmocka_run_group_tests_name("offsets", tests, NULL, NULL);
    test_device_close();
    return failed;
}
