/* Projections of class nvidia on tensor cores, or on their emulation: cl/nvidia/projection_few.cl and
 * projection_tiled.cl against the sum in double, and which of them, or which portable kernel, takes
 * a call. */
#include "ops/projection_case.h"

static clmla_context *nvidia_context(cl_uint compute_units)
{
    clmla_context *context = test_context(CLMLA_KERNELS_NVIDIA, CLMLA_PROJECTION_NATIVE);
    context->device.compute_units = compute_units;
    return context;
}

/* The kernel that a call of that many rows takes. */
static const mla__projection_choice *choice_for(const mla__projection_choices *choices,
                                                int32_t rows)
{
    int i = 0;
    while (i + 1 < choices->count && rows > choices->list[i].max_rows)
        i++;
    return &choices->list[i];
}

/* Runs a case that must go to this kernel. */
static void run_on(clmla_context *context, const projection_case *c, enum mla__projection_kind kind)
{
    const mla__projection_choices choices =
        projection_choices(context, c, projection_bound_rows(c), false);
    const mla__projection_choice *choice = choice_for(&choices, c->M);
    if (choice->kind != kind)
        fail_msg("%s: %d rows take kind %d, expected %d (%s)", c->name, (int)c->M,
                 (int)choice->kind, (int)kind,
                 choices.why_portable != NULL ? choices.why_portable : "tensor cores");
    projection_run(context, c);
}

static const clmla_dtype weights[] = {BF16, F8};

static int32_t few_max_rows(clmla_dtype w)
{
    return w == F8 ? MLA__PROJECTION_FEW_MAX_ROWS_FP8 : MLA__PROJECTION_FEW_MAX_ROWS;
}

static enum mla__projection_kind kind_for(const projection_case *c)
{
    return c->M <= few_max_rows(c->w) ? MLA__PROJECTION_FEW : MLA__PROJECTION_TILED;
}

/* The smallest of each kernel, for simulators. */
static void on_simulators(void **state)
{
    (void)state;
    clmla_context *context = nvidia_context(2);
    for (size_t w = 0; w < 2; w++) {
        projection_case one = {
            .name = "smallest", .M = 3, .N = 8, .K = 8, .x = BF16, .w = weights[w], .y = BF16};
        run_on(context, &one, MLA__PROJECTION_FEW);
        one.M = few_max_rows(one.w) + 1;
        run_on(context, &one, MLA__PROJECTION_TILED);
    }
    clmla_context_release(context);
}

/* Rows around every tile, each with several widths and depths: tails of panels, of steps and of
 * slices; dtypes, gaps and batches in turn. */
static void matches_reference(void **state)
{
    (void)state;
    static const int32_t rows[] = {1, 2, 3, 4, 5, 15, 16, 17, 33, 63, 64, 65, 100, 130};
    static const int32_t widths[] = {8, 63, 64, 65, 128, 200, 31};
    static const int32_t depths[] = {8, 24, 32, 40, 64, 296};
    clmla_context *context = nvidia_context(2);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        for (size_t j = 0; j < 4; j++) {
            char name[64];
            const size_t turn = i * 4 + j;
            projection_case one = {.name = name,
                                   .M = rows[i],
                                   .N = widths[(i + 2 * j) % 7],
                                   .K = depths[(i * 5 + j) % 6],
                                   .batches = turn % 3 == 0 ? 3 : 1,
                                   .x = BF16,
                                   .y = j % 2 == 0 ? BF16 : F32,
                                   .row_gap = j >= 2 ? 16 : 0,
                                   .batch_gap = turn % 3 == 0 ? 8 : 0,
                                   .offset = j == 3 ? 8 : 0};
            for (size_t w = 0; w < 1 + (i + j) % 2; w++) { /* FP8 on every other one */
                one.w = weights[w];
                (void)snprintf(name, sizeof name, "%s, %d rows, [%d x %d, %d]",
                               mla__dtype_name(one.w), (int)one.M, (int)one.batches, (int)one.N,
                               (int)one.K);
                run_on(context, &one, kind_for(&one));
            }
        }
    }
    clmla_context_release(context);
}

/* Shapes that need more room: several stages of every slice, W_UK and W_UV, kv_a's width. */
static const projection_case wide[] = {
    {.name = "kv_a", .M = 3, .N = 576, .K = 512, .x = BF16, .w = BF16, .y = F32},
    {.name = "W_UK, 17 rows",
     .M = 17,
     .N = 512,
     .K = 128,
     .batches = 3,
     .x = BF16,
     .w = BF16,
     .y = BF16},
    {.name = "W_UV", .M = 33, .N = 128, .K = 512, .batches = 3, .x = BF16, .w = BF16, .y = BF16},
    {.name = "kv_a, many rows", .M = 130, .N = 576, .K = 512, .x = BF16, .w = BF16, .y = F32},
};

/* Where rows of x begin anywhere; y accumulates; rows move within the bound tensors; a row is NaN. */
static const projection_case special[] = {
    {.name = "x anywhere",
     .N = 70,
     .K = 72,
     .batches = 2,
     .x = BF16,
     .w = BF16,
     .y = BF16,
     .row_gap = 3,
     .batch_gap = 5,
     .offset = 1},
    {.name = "accumulate into bf16",
     .N = 72,
     .K = 40,
     .x = BF16,
     .w = BF16,
     .y = BF16,
     .row_gap = 8,
     .accumulate = true},
    {.name = "accumulate into float32, y anywhere",
     .N = 65,
     .K = 48,
     .x = BF16,
     .w = BF16,
     .y = F32,
     .row_gap = 3,
     .accumulate = true},
    {.name = "x from row 3 into row 1",
     .N = 66,
     .K = 24,
     .x = BF16,
     .w = BF16,
     .y = BF16,
     .x_row = 3,
     .y_row = 1,
     .row_gap = 2},
    {.name = "a NaN row stays alone",
     .N = 70,
     .K = 40,
     .x = BF16,
     .w = BF16,
     .y = BF16,
     .poison_row = true},
};

static void matches_reference_in_special_cases(void **state)
{
    (void)state;
    static const int32_t rows[] = {5, 16, 40, 70};
    clmla_context *context = nvidia_context(2);
    for (size_t w = 0; w < 2; w++) {
        for (size_t i = 0; i < sizeof(special) / sizeof(special[0]); i++) {
            for (size_t r = 0; r < sizeof(rows) / sizeof(rows[0]); r++) {
                projection_case one = special[i];
                one.M = rows[r];
                one.w = weights[w];
                run_on(context, &one, kind_for(&one));
            }
        }
        for (size_t i = 0; i < sizeof(wide) / sizeof(wide[0]); i++) {
            projection_case one = wide[i];
            one.w = weights[w];
            run_on(context, &one, kind_for(&one));
        }
    }
    clmla_context_release(context);
}

/* Devices of different sizes take every tile: narrow and wide, with eight warps and sixteen, and the
 * three of many rows. */
static void every_tile_matches_reference(void **state)
{
    (void)state;
    static const struct {
        cl_uint units;
        int32_t rows, batches, N, K, tile_rows, tile_columns, slices;
        clmla_dtype w; /* 0: bf16 */
    } tiles[] = {{1, 9, 1, 128, 296, 16, 32, 8, F8},     {64, 9, 1, 70, 520, 16, 32, 16, F8},
                 {1, 20, 2, 70, 136, 32, 32, 4, F8},     {64, 20, 1, 70, 520, 32, 32, 16, F8},
                 {300, 100, 1, 200, 264, 64, 64, 0, F8}, {4, 100, 1, 200, 264, 128, 64, 0, F8},
                 {4, 130, 1, 200, 264, 128, 128, 0, F8}, {1, 9, 1, 128, 296, 16, 64, 8},
                 {64, 9, 1, 70, 520, 16, 32, 16},        {1, 20, 2, 70, 72, 32, 64, 2},
                 {64, 20, 1, 70, 520, 32, 32, 16},       {1, 60, 3, 70, 136, 64, 32, 4},
                 {64, 60, 1, 40, 520, 64, 32, 16},       {300, 100, 1, 200, 72, 64, 64, 0},
                 {4, 100, 1, 200, 72, 128, 64, 0},       {4, 130, 1, 200, 72, 128, 128, 0}};
    for (size_t i = 0; i < sizeof(tiles) / sizeof(tiles[0]); i++) {
        clmla_context *context = nvidia_context(tiles[i].units);
        const projection_case one = {.name = "tile",
                                     .M = tiles[i].rows,
                                     .N = tiles[i].N,
                                     .K = tiles[i].K,
                                     .batches = tiles[i].batches,
                                     .x = BF16,
                                     .w = tiles[i].w != 0 ? tiles[i].w : BF16,
                                     .y = F32};
        const mla__projection_choices choices = projection_choices(context, &one, one.M, false);
        const mla__projection_tile tile = choice_for(&choices, one.M)->tile;
        if (tile.tile_rows != tiles[i].tile_rows || tile.tile_columns != tiles[i].tile_columns ||
            tile.slices != tiles[i].slices)
            fail_msg("tile %zu: %d x %d, %d slices", i, (int)tile.tile_rows, (int)tile.tile_columns,
                     (int)tile.slices);
        run_on(context, &one, kind_for(&one));
        clmla_context_release(context);
    }
}

/* Runs rows [first, first + count) of d's x, as a layer in batch-invariant mode does, and writes
 * their float32 results to out. */
static void run_rows(clmla_context *context, const projection_data *d, const clmla_matrix *matrix,
                     const test_buffer *x, int32_t first, int32_t count, float *out)
{
    const size_t N = (size_t)matrix->out_features;
    test_buffer y = test_buffer_poisoned((size_t)count * N * sizeof *out, F32);
    const clmla_projection_params params = {
        .struct_size = sizeof params,
        .matrix = matrix,
        .num_rows = count,
        .x = view_of(x, (size_t)first * d->x_stride, d->x_stride, 0),
        .y = view_of(&y, 0, N, 0),
    };
    mla__projection op = {0};
    mla__stream stream;
    assert_int_equal(mla__projection_bind_steps(context, &params, true, &op), CLMLA_SUCCESS);
    assert_int_equal(mla__stream_begin(&stream, test_device_get()->queue, 0, NULL), 0);
    assert_int_equal(mla__projection_enqueue(&op, &stream, 0, 0, count), CLMLA_SUCCESS);
    test_buffer_read(&y, out);
    mla__projection_release(&op);
    test_buffer_release(&y);
}

/* 150 rows at once, in blocks, against parts that take each tile and each place in it. */
static void check_batch_invariant_rows(clmla_dtype w)
{
    enum { M = 150, N = 70, K = 520 };
    static const int32_t parts[] = {1, 2, 15, 16, 17, 33, 66};
    clmla_context *context = nvidia_context(1);
    const projection_case one = {
        .name = "rows", .M = M, .N = N, .K = K, .x = BF16, .w = w, .y = F32};
    const mla__projection_choices choices = projection_choices(context, &one, M, true);
    for (int i = 0; i < choices.count; i++) {
        assert_int_equal(choices.list[i].kind, MLA__PROJECTION_FEW);
        assert_int_equal(choices.list[i].tile.slices, choices.list[0].tile.slices);
    }
    assert_int_equal(choices.count, w == F8 ? 2 : 3);
    assert_int_equal(choices.list[choices.count - 1].max_rows, INT32_MAX);
    assert_int_equal(choices.list[choices.count - 1].tile.tile_rows, few_max_rows(w));
    projection_data d = projection_make(&one);
    clmla_matrix *matrix = projection_matrix(context, &one, &d);
    test_buffer x = test_buffer_of(d.x, d.x_count * mla__dtype_bytes(BF16), BF16);
    static float whole[M * N], part[M * N];
    run_rows(context, &d, matrix, &x, 0, M, whole);
    int32_t row = 0;
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        run_rows(context, &d, matrix, &x, row, parts[i], part);
        assert_memory_equal(part, whole + row * N, (size_t)parts[i] * N * sizeof *part);
        row += parts[i];
    }
    assert_int_equal(row, M);
    for (size_t i = 0; i < M * N; i++)
        check_element("invariant", i / N, i % N, F32, (double)whole[i], d.expected[i], d.error[i]);
    test_buffer_release(&x);
    clmla_matrix_release(matrix);
    projection_free(&d);
    clmla_context_release(context);
}

static void batch_invariant_rows_do_not_depend_on_their_number(void **state)
{
    (void)state;
    for (size_t w = 0; w < 2; w++)
        check_batch_invariant_rows(weights[w]);
}

/* What the kernels do not take goes to those of class gpu, and the text says why. */
static void other_shapes_go_to_portable_kernels(void **state)
{
    (void)state;
    static const struct {
        clmla_dtype x, w, y;
        int32_t K;
        const char *why;
    } cases[] = {{BF16, BF16, F32, 36, "multiple of 8"}, {BF16, BF16, F16, 40, "y bf16 or f32"},
                 {F16, F16, BF16, 40, "must be bf16"},   {F32, F32, F32, 40, "must be bf16"},
                 {BF16, F32, F32, 40, "must be bf16"},   {BF16, F8, F32, 36, "multiple of 8"},
                 {BF16, F8, F16, 40, "y bf16 or f32"},   {F32, F8, F32, 40, "x must be bf16"}};
    clmla_context *context = nvidia_context(2);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        projection_case one = {.name = "portable",
                               .N = 70,
                               .K = cases[i].K,
                               .x = cases[i].x,
                               .w = cases[i].w,
                               .y = cases[i].y};
        for (one.M = 3; one.M <= 70; one.M += 67) {
            const mla__projection_choices choices = projection_choices(context, &one, one.M, false);
            assert_non_null(choices.why_portable);
            assert_non_null(strstr(choices.why_portable, cases[i].why));
            run_on(context, &one, one.M == 3 ? MLA__PROJECTION_STREAM : MLA__PROJECTION_GPU);
        }
    }
    projection_case one = {
        .name = "units off", .M = 20, .N = 70, .K = 40, .x = BF16, .w = BF16, .y = BF16};
    context->matrix_units = false;
    run_on(context, &one, MLA__PROJECTION_GPU);
    context->matrix_units = true;
    context->device.local_mem_bytes = 32 * 1024;
    run_on(context, &one, MLA__PROJECTION_GPU);
    clmla_context_release(context);
}

static void text_names_kernels_and_reasons(void **state)
{
    (void)state;
    clmla_context *context = nvidia_context(9);
    mla__projection_shape shape = {
        .x = BF16, .w = BF16, .y = F32, .num_batches = 1, .out_features = 576, .in_features = 512};
    char text[1024];
    assert_in_range(mla__projection_native_text(context, &shape, INT32_MAX, text, sizeof text), 1,
                    sizeof text - 1);
    assert_non_null(strstr(text, "native nvidia tensor cores up to 16 rows: projection_few "
                                 "tile_rows=16 tile_columns=32 slices=8, up to 32 rows: "));
    assert_non_null(
        strstr(text, "up to 128 rows: projection_tiled tile_rows=128 tile_columns=64 "));
    assert_non_null(strstr(text, ", above: projection_tiled tile_rows=128 tile_columns=128 "));
    (void)mla__projection_native_text(context, &shape, 16, text, sizeof text);
    assert_null(strstr(text, "up to 32 rows"));
    shape.batch_invariant = true;
    (void)mla__projection_native_text(context, &shape, INT32_MAX, text, sizeof text);
    assert_non_null(strstr(text, "above: projection_few tile_rows=64 "));
    shape.w = F8;
    (void)mla__projection_native_text(context, &shape, INT32_MAX, text, sizeof text);
    assert_non_null(strstr(text, "native nvidia tensor cores up to 16 rows: projection_few "
                                 "tile_rows=16 tile_columns=32 "));
    assert_non_null(strstr(text, "above: projection_few tile_rows=32 tile_columns=32 "));
    shape.in_features = 12;
    (void)mla__projection_native_text(context, &shape, 1, text, sizeof text);
    assert_non_null(strstr(text, "native nvidia not by tensor cores, in_features must be a "
                                 "multiple of 8: up to 4 rows: projection_stream "));
    clmla_context_release(context);
}

/* A driver that refuses the source of a kernel: the portable ones, and a notice. */
static void portable_kernels_where_these_do_not_build(void **state)
{
    (void)state;
    clmla_context *context = nvidia_context(2);
    projection_case one = {
        .name = "no tensor cores", .M = 6, .N = 70, .K = 40, .x = BF16, .y = BF16};
    context->device.has_ptx = true; /* inline PTX does not assemble for a CPU */
    for (size_t w = 0; w < 2; w++) {
        one.w = weights[w];
        test_clear_notify();
        projection_run(context, &one);
        assert_non_null(strstr(test_last_notify(), "the portable ones take its place"));
    }
    clmla_context_release(context);
}

/* Bound for many rows; warming touches nothing; calls of few and of many. */
static void bound_op_takes_few_rows_and_many(void **state)
{
    (void)state;
    enum { M = 70, N = 66 };
    clmla_context *context = nvidia_context(2);
    const projection_case one = {
        .name = "bound", .M = M, .N = N, .K = 40, .x = BF16, .w = BF16, .y = F32};
    projection_call call = projection_prepare(context, &one);
    static unsigned char bytes[M * N * 4];
    mla__projection op = {0};
    mla__stream stream;
    assert_int_equal(mla__projection_bind(context, &call.params, &op), CLMLA_SUCCESS);
    assert_int_equal(op.native.variants[0].choice.kind, MLA__PROJECTION_FEW);
    assert_int_equal(op.native.variants[op.native.num_variants - 1].choice.kind,
                     MLA__PROJECTION_TILED);
    assert_int_equal(mla__stream_begin(&stream, test_device_get()->queue, 0, NULL), 0);
    assert_int_equal(mla__projection_warm(&op, &stream), CLMLA_SUCCESS);
    test_buffer_read(&call.y, bytes);
    for (size_t i = 0; i < M * N; i++)
        check_poison("after warming", bytes, F32, i);
    assert_int_equal(mla__projection_enqueue(&op, &stream, 0, 0, M), CLMLA_SUCCESS);
    assert_int_equal(mla__projection_enqueue(&op, &stream, 30, 0, 20), CLMLA_SUCCESS);
    test_buffer_read(&call.y, bytes);
    for (size_t i = 0; i < M * N; i++) {
        const size_t from = i < 20 * N ? i + 30 * N : i;
        check_element(one.name, i / N, i % N, F32, mla__load(bytes, F32, i), call.d.expected[from],
                      call.d.error[from]);
    }
    mla__projection_release(&op);
    projection_finish(&call);
    clmla_context_release(context);
}

/* An argument is a pattern of names: the tests to run. */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(matches_reference),
        cmocka_unit_test(on_simulators),
        cmocka_unit_test(matches_reference_in_special_cases),
        cmocka_unit_test(every_tile_matches_reference),
        cmocka_unit_test(batch_invariant_rows_do_not_depend_on_their_number),
        cmocka_unit_test(other_shapes_go_to_portable_kernels),
        cmocka_unit_test(text_names_kernels_and_reasons),
        cmocka_unit_test(portable_kernels_where_these_do_not_build),
        cmocka_unit_test(bound_op_takes_few_rows_and_many),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("projection on tensor cores", tests, NULL,
                                       test_device_teardown);
}
