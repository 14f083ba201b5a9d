/* Packed weights, element by element against the layout that src/ops/matrix.h promises. */
#include "ops/matrix.h"
#include "ops/rows.h"

enum { BF16 = CLMLA_DTYPE_BF16, F16 = CLMLA_DTYPE_F16, F32 = CLMLA_DTYPE_F32 };

typedef struct matrix_case {
    const char *name;
    int32_t batches, N, K; /* batches 0: the field is left out */
    clmla_dtype source, storage;
    bool transposed, on_device;
    size_t row_gap, batch_gap; /* elements of poison after each source row and batch */
    size_t offset;             /* elements of poison before the source */
} matrix_case;

static const matrix_case cases[] = {
    {.name = "one weight", .N = 1, .K = 1, .source = BF16, .storage = BF16},
    {.name = "odd k", .N = 3, .K = 7, .source = BF16, .storage = BF16},
    {.name = "a whole panel", .N = 64, .K = 32, .source = F32, .storage = BF16},
    {.name = "one column past a panel", .N = 65, .K = 33, .source = F32, .storage = F16},
    {.name = "float32 storage", .N = 65, .K = 33, .source = F32, .storage = F32},
    {.name = "f16 to bf16", .N = 5, .K = 18, .source = F16, .storage = BF16},
    {.name = "f16 to f16", .N = 5, .K = 18, .source = F16, .storage = F16},
    {.name = "bf16 to float32, device",
     .N = 70,
     .K = 17,
     .source = BF16,
     .storage = F32,
     .on_device = true},
    {.name = "a view of columns, host",
     .N = 70,
     .K = 17,
     .source = BF16,
     .storage = BF16,
     .row_gap = 5,
     .offset = 3},
    {.name = "a view of columns, device",
     .N = 70,
     .K = 17,
     .source = F32,
     .storage = BF16,
     .row_gap = 5,
     .offset = 3,
     .on_device = true},
    {.name = "heads", .batches = 3, .N = 10, .K = 6, .source = BF16, .storage = BF16},
    {.name = "W_UV of kv_b_proj, host",
     .batches = 3,
     .N = 10,
     .K = 6,
     .source = BF16,
     .storage = BF16,
     .batch_gap = 24,
     .offset = 24},
    {.name = "W_UK of kv_b_proj, host",
     .batches = 3,
     .N = 66,
     .K = 5,
     .source = BF16,
     .storage = BF16,
     .batch_gap = 132,
     .transposed = true},
    {.name = "W_UK of kv_b_proj, device",
     .batches = 3,
     .N = 66,
     .K = 5,
     .source = BF16,
     .storage = F32,
     .batch_gap = 132,
     .row_gap = 2,
     .transposed = true,
     .on_device = true},
    {.name = "one head, batch stride given",
     .batches = 1,
     .N = 66,
     .K = 5,
     .source = BF16,
     .storage = BF16,
     .batch_gap = 132,
     .transposed = true},
    {.name = "rows cut into slabs", .N = 4300, .K = 2001, .source = F32, .storage = BF16},
    {.name = "rows of k cut into slabs, strided",
     .N = 2100,
     .K = 4301,
     .source = F32,
     .storage = BF16,
     .row_gap = 1,
     .transposed = true},
    {.name = "a row larger than a slab", .N = 3, .K = 140001, .source = F32, .storage = BF16},
    {.name = "a row of n larger than a slab",
     .N = 4194371,
     .K = 1,
     .source = F32,
     .storage = BF16,
     .transposed = true},
};

/* Index in the packed form, in elements of the storage dtype. */
static size_t packed_index(const matrix_case *c, size_t b, size_t n, size_t k)
{
    const size_t panels = ((size_t)c->N + 63) / 64, K = (size_t)c->K;
    if (c->storage == F32)
        return (b * K + k) * panels * 64 + n;
    return (((b * panels + n / 64) * ((K + 1) / 2) + k / 2) * 64 + n % 64) * 2 + k % 2;
}

/* A source and what it must become. */
typedef struct data {
    size_t batches, row_stride, batch_stride, count, packed_bytes;
    unsigned char *source, *packed;
} data;

/* Values that rounding treats differently: ties, overflow, subnormals of each dtype, signs. */
static double value_at(size_t i, test_random *random)
{
    static const double special[] = {0.0,         -0.0,        1.0 + 0x1p-8,     1.0 + 3 * 0x1p-8,
                                     65520.0,     -65504.0,    0x1p-24,          0x1p-25,
                                     -0x1p-130,   0x1.fffp127, (double)INFINITY, -(double)INFINITY,
                                     1 + 0x1p-11, 3 * 0x1p-25, 0x1p-126,         2.0};
    enum { COUNT = sizeof special / sizeof special[0] };
    return i % 3 == 0 ? special[i / 3 % COUNT] : test_random_normal(random);
}

static data make_data(const matrix_case *c)
{
    test_random random = {.state = 5};
    data d = {.batches = c->batches > 0 ? (size_t)c->batches : 1};
    const size_t rows = (size_t)(c->transposed ? c->K : c->N);
    const size_t columns = (size_t)(c->transposed ? c->N : c->K);
    d.row_stride = columns + c->row_gap;
    d.batch_stride = rows * d.row_stride + c->batch_gap;
    d.count = c->offset + d.batches * d.batch_stride;
    d.source = poisoned(d.count, c->source);
    const size_t padded = ((size_t)c->N + 63) / 64 * 64, pairs = ((size_t)c->K + 1) / 2;
    d.packed_bytes = 4 * d.batches * padded * (c->storage == F32 ? (size_t)c->K : pairs);
    d.packed = calloc(1, d.packed_bytes);
    assert_non_null(d.packed);
    size_t i = 0;
    for (size_t b = 0; b < d.batches; b++) {
        for (size_t row = 0; row < rows; row++) {
            for (size_t column = 0; column < columns; column++, i++) {
                const size_t at = c->offset + b * d.batch_stride + row * d.row_stride + column;
                mla__store(d.source, c->source, at, value_at(i, &random));
                const size_t n = c->transposed ? column : row, k = c->transposed ? row : column;
                mla__store(d.packed, c->storage, packed_index(c, b, n, k),
                           mla__load(d.source, c->source, at));
            }
        }
    }
    return d;
}

static clmla_weight_source source_of(const matrix_case *c, const data *d, const test_buffer *buffer)
{
    clmla_weight_source source = {.tensor = {.dtype = c->source}};
    if (c->on_device)
        source.tensor = buffer->tensor;
    else
        source.host = d->source;
    source.tensor.offset_bytes += c->offset * mla__dtype_bytes(c->source);
    if (c->batches > 0) {
        source.tensor.strides[0] = d->batch_stride;
        source.tensor.strides[1] = d->row_stride;
    } else if (c->row_gap > 0) {
        source.tensor.strides[0] = d->row_stride; /* a plain matrix */
    }
    return source;
}

static void check_case(clmla_context *context, const matrix_case *c, cl_command_queue queue)
{
    data d = make_data(c);
    const size_t source_bytes = d.count * mla__dtype_bytes(c->source);
    test_buffer source = test_buffer_of(d.source, c->on_device ? source_bytes : 0, c->source);
    clmla_matrix_params params = {
        .struct_size = sizeof params,
        .source = source_of(c, &d, &source),
        .num_batches = c->batches,
        .out_features = c->N,
        .in_features = c->K,
        .transposed = c->transposed,
        .dtype = c->storage,
    };
    uint64_t bytes = 0;
    assert_int_equal(clmla_matrix_size(context, &params, &bytes), CLMLA_SUCCESS);
    assert_true(bytes >= d.packed_bytes && bytes < d.packed_bytes + 256 && bytes % 256 == 0);
    test_buffer packed = test_buffer_poisoned((size_t)bytes, c->storage);
    params.buffer = packed.tensor.buffer;
    params.offset_bytes = packed.tensor.offset_bytes;
    clmla_matrix *matrix = NULL;
    const clmla_status status = clmla_matrix_create(context, &params, queue, &matrix);
    if (status != CLMLA_SUCCESS)
        fail_msg("%s: %s: %s", c->name, clmla_status_name(status), test_last_notify());
    unsigned char *got = malloc((size_t)bytes);
    assert_non_null(got);
    test_buffer_read(&packed, got);
    const size_t element = mla__dtype_bytes(c->storage);
    for (size_t i = 0; i < d.packed_bytes; i += element) {
        if (memcmp(got + i, d.packed + i, element) != 0)
            fail_msg("%s: packed element %zu is %.9g, expected %.9g", c->name, i / element,
                     mla__load(got, c->storage, i / element),
                     mla__load(d.packed, c->storage, i / element));
    }
    if (c->on_device)
        test_buffer_unchanged(c->name, &source, d.source);
    free(got);
    clmla_matrix_release(matrix);
    test_buffer_release(&source);
    test_buffer_release(&packed);
    free(d.source);
    free(d.packed);
}

static void packs_as_the_layout_says(void **state)
{
    (void)state;
    clmla_context *context = test_context(CLMLA_KERNELS_AUTO, CLMLA_PROJECTION_NATIVE);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        if (!test_too_long((size_t)(cases[i].K > cases[i].N ? cases[i].K : cases[i].N)))
            check_case(context, &cases[i], test_device_get()->queue);
    clmla_context_release(context);
}

static void packs_on_an_out_of_order_queue(void **state)
{
    (void)state;
    if (test_device_get()->out_of_order == NULL) {
        print_message("skipped: the device has no out-of-order queue\n");
        skip();
    }
    clmla_context *context = test_context(CLMLA_KERNELS_AUTO, CLMLA_PROJECTION_NATIVE);
    check_case(context, &cases[15], test_device_get()->out_of_order);
    clmla_context_release(context);
}

static void nan_stays_nan(void **state)
{
    (void)state;
    clmla_context *context = test_context(CLMLA_KERNELS_AUTO, CLMLA_PROJECTION_NATIVE);
    const clmla_dtype storages[] = {BF16, F16, F32};
    const uint32_t bits[2] = {0x7f800001u, 0xffffffffu}; /* cut off, the first is infinity */
    for (size_t i = 0; i < 3; i++) {
        static const unsigned char zeros[512];
        test_buffer packed = test_buffer_of(zeros, sizeof zeros, storages[i]);
        const clmla_matrix_params params = {
            .struct_size = sizeof params,
            .source = {.host = bits, .tensor = {.dtype = F32}},
            .out_features = 1,
            .in_features = 2,
            .dtype = storages[i],
            .buffer = packed.tensor.buffer,
            .offset_bytes = packed.tensor.offset_bytes,
        };
        clmla_matrix *matrix = NULL;
        unsigned char got[512];
        assert_int_equal(clmla_matrix_create(context, &params, test_device_get()->queue, &matrix),
                         0);
        test_buffer_read(&packed, got);
        assert_true(isnan(mla__load(got, storages[i], 0)));
        assert_true(isnan(mla__load(got, storages[i], storages[i] == F32 ? 64 : 1)));
        clmla_matrix_release(matrix);
        test_buffer_release(&packed);
    }
    clmla_context_release(context);
}

/* ---- vectors ------------------------------------------------------------------------------- */

static void vectors_become_float32(void **state)
{
    (void)state;
    enum { NUM = 67, OFFSET = 3 };
    const clmla_dtype dtypes[] = {BF16, F16, F32};
    clmla_context *context = test_context(CLMLA_KERNELS_AUTO, CLMLA_PROJECTION_NATIVE);
    for (size_t i = 0; i < 6; i++) {
        test_random random = {.state = 3};
        const clmla_dtype dtype = dtypes[i / 2];
        const bool on_device = i % 2 != 0;
        unsigned char *values = poisoned(OFFSET + NUM, dtype);
        double expected[NUM], got[NUM];
        for (size_t j = 0; j < NUM; j++)
            expected[j] = put_random(values, dtype, OFFSET + j, &random);
        test_buffer source =
            test_buffer_of(values, (OFFSET + NUM) * mla__dtype_bytes(dtype), dtype);
        test_buffer packed = test_buffer_poisoned(NUM * 4, F32);
        clmla_weight_source from = {.host = values, .tensor = {.dtype = dtype}};
        if (on_device)
            from = (clmla_weight_source){.tensor = source.tensor};
        from.tensor.offset_bytes += OFFSET * mla__dtype_bytes(dtype);
        assert_int_equal(mla__vector_pack(context, &from, "norm", NUM, packed.tensor.buffer,
                                          packed.tensor.offset_bytes, test_device_get()->queue),
                         CLMLA_SUCCESS);
        test_buffer_read_doubles(&packed, got, NUM);
        for (size_t j = 0; j < NUM; j++)
            assert_true(got[j] == expected[j]);
        test_buffer_release(&source);
        test_buffer_release(&packed);
        free(values);
    }
    clmla_context_release(context);
}

/* ---- refusals ------------------------------------------------------------------------------ */

static void check_refused(clmla_context *context, const char *name, clmla_status expected,
                          const clmla_matrix_params *params)
{
    clmla_matrix *matrix = NULL;
    test_clear_notify();
    const clmla_status status =
        clmla_matrix_create(context, params, test_device_get()->queue, &matrix);
    if (status != expected)
        fail_msg("%s: %s, expected %s", name, clmla_status_name(status),
                 clmla_status_name(expected));
    assert_null(matrix);
    assert_non_null(strstr(test_last_notify(), "matrix"));
}

static void refuses_what_does_not_fit(void **state)
{
    (void)state;
    enum { B = 2, N = 3, K = 5, CASES = 13 };
    static const float source[B * N * K];
    clmla_context *context = test_context(CLMLA_KERNELS_AUTO, CLMLA_PROJECTION_NATIVE);
    test_buffer buffer = test_buffer_poisoned(4096, F32);
    const clmla_matrix_params valid = {.struct_size = sizeof valid,
                                       .source = {.host = source, .tensor = {.dtype = F32}},
                                       .num_batches = B,
                                       .out_features = N,
                                       .in_features = K,
                                       .dtype = BF16,
                                       .buffer = buffer.tensor.buffer,
                                       .offset_bytes = 256};
    struct {
        const char *name;
        clmla_status expected;
        clmla_matrix_params params;
    } wrong[CASES] = {
        {"struct_size", CLMLA_INVALID_ARGUMENT, valid},
        {"negative batches", CLMLA_INVALID_TENSOR_SHAPE, valid},
        {"no columns", CLMLA_INVALID_TENSOR_SHAPE, valid},
        {"no k", CLMLA_INVALID_TENSOR_SHAPE, valid},
        {"storage dtype", CLMLA_INVALID_TENSOR_DTYPE, valid},
        {"host source dtype", CLMLA_INVALID_TENSOR_DTYPE, valid},
        {"host row stride", CLMLA_INVALID_STRIDE, valid},
        {"host batch stride", CLMLA_INVALID_STRIDE, valid},
        {"device source too small", CLMLA_BUFFER_TOO_SMALL, valid},
        {"device source stride", CLMLA_INVALID_STRIDE, valid},
        {"both sources", CLMLA_INVALID_ARGUMENT, valid},
        {"offset", CLMLA_INVALID_ARGUMENT, valid},
        {"target too small", CLMLA_BUFFER_TOO_SMALL, valid},
    };
    wrong[0].params.struct_size++;
    wrong[1].params.num_batches = -1;
    wrong[2].params.out_features = 0;
    wrong[3].params.in_features = 0;
    wrong[4].params.dtype = CLMLA_DTYPE_I32;
    wrong[5].params.source.tensor.dtype = CLMLA_DTYPE_I32;
    wrong[6].params.source.tensor.strides[1] = K - 1;
    wrong[7].params.source.tensor.strides[0] = N * K - 1;
    wrong[8].params.source = (clmla_weight_source){
        .tensor = {.buffer = buffer.tensor.buffer, .offset_bytes = 4600, .dtype = F32}};
    wrong[9].params.source = (clmla_weight_source){
        .tensor = {.buffer = buffer.tensor.buffer, .strides = {N * K, K - 1}, .dtype = F32}};
    wrong[10].params.source.tensor.buffer = buffer.tensor.buffer;
    wrong[11].params.offset_bytes = 128;
    wrong[12].params.offset_bytes = 4096;
    for (size_t i = 0; i < CASES; i++)
        check_refused(context, wrong[i].name, wrong[i].expected, &wrong[i].params);
    unsigned char untouched[4096];
    memset(untouched, 0xff, sizeof untouched);
    test_buffer_unchanged("buffer after refusals", &buffer, untouched);
    clmla_matrix_release(NULL);
    test_buffer_release(&buffer);
    clmla_context_release(context);
}

/* An argument is a pattern of names: the tests to run. */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packs_as_the_layout_says),
        cmocka_unit_test(packs_on_an_out_of_order_queue),
        cmocka_unit_test(nan_stays_nan),
        cmocka_unit_test(vectors_become_float32),
        cmocka_unit_test(refuses_what_does_not_fit),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("matrix", tests, NULL, test_device_teardown);
}
