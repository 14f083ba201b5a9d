/* Two projections of one x in one launch (projection_pair.h) against the sums in double, on tensor
 * cores or their emulation, and where a pair is not taken. */
#include "ops/projection_case.h"
#include "ops/projection_pair.h"

static clmla_context *nvidia_context(void)
{
    return test_context(CLMLA_KERNELS_NVIDIA, CLMLA_PROJECTION_NATIVE);
}

/* Both cases' matrices in one buffer, `gap` bytes between them. */
typedef struct pair_of_matrices {
    cl_mem buffer;
    clmla_matrix *matrix[2];
} pair_of_matrices;

static pair_of_matrices pack(clmla_context *context, const projection_case *cases,
                             const projection_data *data, uint64_t gap)
{
    pair_of_matrices made = {.buffer = NULL};
    uint64_t bytes[2], offset = 0;
    cl_int error = CL_SUCCESS;
    for (int i = 0; i < 2; i++)
        assert_int_equal(mla__matrix_bytes(context, 1, cases[i].N, cases[i].K, BF16, &bytes[i]), 0);
    made.buffer = clCreateBuffer(test_device_get()->context, CL_MEM_READ_WRITE,
                                 (size_t)(bytes[0] + gap + bytes[1]), NULL, &error);
    assert_int_equal(error, CL_SUCCESS);
    for (int i = 0; i < 2; i++, offset = bytes[0] + gap) {
        const clmla_matrix_params params = {.struct_size = sizeof params,
                                            .source = {.host = data[i].w, .tensor = {.dtype = F32}},
                                            .out_features = cases[i].N,
                                            .in_features = cases[i].K,
                                            .dtype = BF16,
                                            .buffer = made.buffer,
                                            .offset_bytes = offset};
        assert_int_equal(
            clmla_matrix_create(context, &params, test_device_get()->queue, &made.matrix[i]),
            CLMLA_SUCCESS);
    }
    return made;
}

static void release_pair(pair_of_matrices *pair)
{
    clmla_matrix_release(pair->matrix[0]);
    clmla_matrix_release(pair->matrix[1]);
    (void)clReleaseMemObject(pair->buffer);
}

/* The second case with the first one's x. */
static void share_x(const projection_case *cases, projection_data *data)
{
    assert_int_equal(data[0].x_count, data[1].x_count);
    memcpy(data[1].x, data[0].x, data[0].x_count * mla__dtype_bytes(BF16));
    projection_expect(&cases[1], &data[1]);
}

static mla__projection_pair_params params_of(const projection_case *cases,
                                             const projection_data *data,
                                             const pair_of_matrices *pair, const test_buffer *x,
                                             const test_buffer *y)
{
    return (mla__projection_pair_params){
        .first = pair->matrix[0],
        .second = pair->matrix[1],
        .num_rows = projection_bound_rows(&cases[0]),
        .x = view_of(x, cases[0].offset, data[0].x_stride, 0),
        .first_y = view_of(&y[0], cases[0].offset, data[0].y_stride, 0),
        .second_y = view_of(&y[1], cases[1].offset, data[1].y_stride, 0)};
}

/* Runs the pair where it must be taken, and checks both results and all around them. */
static void run_pair(clmla_context *context, const projection_case *cases)
{
    projection_data data[2] = {projection_make(&cases[0]), projection_make(&cases[1])};
    share_x(cases, data);
    pair_of_matrices pair = pack(context, cases, data, 0);
    test_buffer x = test_buffer_of(data[0].x, data[0].x_count * 2, BF16), y[2];
    for (int i = 0; i < 2; i++)
        y[i] =
            test_buffer_of(data[i].y, data[i].y_count * mla__dtype_bytes(cases[i].y), cases[i].y);
    const mla__projection_pair_params params = params_of(cases, data, &pair, &x, y);
    mla__projection_native op;
    mla__stream stream;
    const projection_case *c = &cases[0];
    assert_int_equal(mla__projection_pair_bind(context, &params, &op), CLMLA_SUCCESS);
    if (op.num_variants == 0)
        fail_msg("%s: not taken as a pair: %s", c->name, test_last_notify());
    assert_int_equal(mla__stream_begin(&stream, test_device_get()->queue, 0, NULL), 0);
    assert_int_equal(mla__projection_native_warm(&op, &stream), 0);
    for (int i = 0; i < 2; i++)
        test_buffer_unchanged("y after warm", &y[i], data[i].y);
    stream.kernel_launches = 0;
    assert_int_equal(mla__projection_native_enqueue(&op, &stream, c->x_row, c->y_row, c->M), 0);
    assert_int_equal(stream.kernel_launches, 1);
    assert_int_equal(clFinish(test_device_get()->queue), CL_SUCCESS);
    for (int i = 0; i < 2; i++) {
        unsigned char *out = malloc(y[i].bytes + 1);
        assert_non_null(out);
        test_buffer_read(&y[i], out);
        projection_check(&cases[i], &data[i], out);
        free(out);
        test_buffer_release(&y[i]);
    }
    test_buffer_unchanged(c->name, &x, data[0].x);
    test_buffer_release(&x);
    mla__projection_native_release(&op);
    release_pair(&pair);
    projection_free(&data[0]);
    projection_free(&data[1]);
}

/* Widths that end within a panel, at its end, and in several; rows of every tile. */
static void matches_reference(void **state)
{
    (void)state;
    static const struct {
        int32_t rows, first, second, depth;
        size_t row_gap, offset;
        clmla_dtype first_y, second_y;
        int32_t x_row, y_row;
    } runs[] = {
        {1, 64, 80, 40, 0, 0, BF16, F32, 0, 0},   {5, 96, 80, 64, 0, 0, BF16, F32, 2, 0},
        {16, 40, 8, 24, 16, 8, BF16, F32, 0, 3},  {17, 200, 576, 64, 0, 0, BF16, F32, 0, 0},
        {40, 63, 65, 32, 3, 1, F32, BF16, 0, 0},  {64, 128, 64, 72, 0, 0, BF16, BF16, 0, 0},
        {65, 64, 80, 40, 0, 0, BF16, F32, 0, 0},  {100, 200, 72, 64, 16, 8, BF16, F32, 1, 1},
        {130, 31, 33, 32, 5, 3, BF16, F32, 0, 0}, {200, 320, 200, 40, 0, 0, BF16, F32, 0, 0}};
    clmla_context *context = nvidia_context();
    for (size_t i = 0; i < sizeof runs / sizeof runs[0]; i++) {
        char name[64];
        (void)snprintf(name, sizeof name, "%d rows, %d and %d columns of %d", (int)runs[i].rows,
                       (int)runs[i].first, (int)runs[i].second, (int)runs[i].depth);
        projection_case cases[2] = {{.name = name,
                                     .M = runs[i].rows,
                                     .N = runs[i].first,
                                     .K = runs[i].depth,
                                     .x = BF16,
                                     .w = BF16,
                                     .y = runs[i].first_y,
                                     .row_gap = runs[i].row_gap,
                                     .offset = runs[i].offset,
                                     .x_row = runs[i].x_row,
                                     .y_row = runs[i].y_row}};
        cases[1] = cases[0];
        cases[1].N = runs[i].second;
        cases[1].y = runs[i].second_y;
        run_pair(context, cases);
    }
    clmla_context_release(context);
}

/* The larger tiles, which a device with few compute units takes early. */
static void a_pair_in_every_tile(void **state)
{
    (void)state;
    clmla_context *context = nvidia_context();
    const cl_uint units[] = {1, 8, 1000};
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        context->device.compute_units = units[i];
        projection_case cases[2] = {
            {.name = "tile", .M = 130, .N = 72, .K = 40, .x = BF16, .w = BF16, .y = BF16}};
        cases[1] = cases[0];
        cases[1].N = 136;
        cases[1].y = F32;
        run_pair(context, cases);
    }
    clmla_context_release(context);
}

static void a_pair_by_products_of_warpgroups(void **state)
{
    (void)state;
    static const struct {
        cl_uint units;
        size_t row_gap;
        clmla_dtype y, second_y;
    } runs[] = {{1, 0, BF16, F32}, {6, 3, F32, BF16}}; /* 3 tiles of 128 columns, 2 of 256 */
    clmla_context *context = nvidia_context();
    context->sm_90a[MLA__SM_90A_PROJECTION] = MLA__SM_90A_READY;
    for (size_t i = 0; i < sizeof runs / sizeof runs[0]; i++) {
        context->device.compute_units = runs[i].units;
        projection_case cases[2] = {{.name = "warpgroups",
                                     .M = 130,
                                     .N = 72,
                                     .K = 136,
                                     .x = BF16,
                                     .w = BF16,
                                     .y = runs[i].y,
                                     .row_gap = runs[i].row_gap}};
        cases[1] = cases[0];
        cases[1].N = 200;
        cases[1].y = runs[i].second_y;
        const struct clmla_matrix both = {
            .num_batches = 1, .out_features = 328, .in_features = 136, .dtype = BF16};
        const mla__projection_shape shape = mla__projection_shape_of(&both, BF16, runs[i].y, false);
        mla__projection_choices choices;
        mla__projection_choose(context, &shape, 130, &choices);
        assert_int_equal(choices.list[choices.count - 1].kind, MLA__PROJECTION_WGMMA);
        assert_int_equal(choices.list[choices.count - 1].tile.tile_columns, i == 0 ? 256 : 128);
        run_pair(context, cases);
    }
    clmla_context_release(context);
}

static void expect_apart(clmla_context *context, const char *why, clmla_dtype y, uint64_t gap)
{
    projection_case cases[2] = {
        {.name = why, .M = 4, .N = 64, .K = 40, .x = BF16, .w = BF16, .y = y}};
    cases[1] = cases[0];
    projection_data data[2] = {projection_make(&cases[0]), projection_make(&cases[1])};
    pair_of_matrices pair = pack(context, cases, data, gap);
    test_buffer x = test_buffer_of(data[0].x, data[0].x_count * 2, BF16), ys[2];
    for (int i = 0; i < 2; i++)
        ys[i] = test_buffer_of(data[i].y, data[i].y_count * mla__dtype_bytes(y), y);
    const mla__projection_pair_params params = params_of(cases, data, &pair, &x, ys);
    mla__projection_native op = {.num_variants = -7};
    assert_int_equal(mla__projection_pair_bind(context, &params, &op), CLMLA_SUCCESS);
    if (op.num_variants != 0)
        fail_msg("%s: taken as a pair", why);
    test_buffer_release(&x);
    test_buffer_release(&ys[0]);
    test_buffer_release(&ys[1]);
    release_pair(&pair);
    projection_free(&data[0]);
    projection_free(&data[1]);
}

static void stays_apart_where_no_kernel_takes_the_pair(void **state)
{
    (void)state;
    const char *const directory = TEST_OUTPUT_DIR "/no_pairs";
    clmla_context *context = nvidia_context();
    expect_apart(context, "matrices that do not follow each other", BF16, 256);
    expect_apart(context, "y in f16", F16, 0);
    context->matrix_units = false;
    expect_apart(context, "matrix units off", BF16, 0);
    clmla_context_release(context);
    context = test_context(CLMLA_KERNELS_GPU, CLMLA_PROJECTION_NATIVE);
    expect_apart(context, "class gpu", BF16, 0);
    clmla_context_release(context);
    test_write_kernel(directory, "nvidia/projection.clh", "#error no tensor cores\n");
    context = test_context_with_kernels(CLMLA_KERNELS_NVIDIA, directory);
    expect_apart(context, "a driver that does not build it", BF16, 0);
    clmla_context_release(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(matches_reference),
        cmocka_unit_test(a_pair_in_every_tile),
        cmocka_unit_test(a_pair_by_products_of_warpgroups),
        cmocka_unit_test(stays_apart_where_no_kernel_takes_the_pair),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    test_device_close();
    return failed;
}
