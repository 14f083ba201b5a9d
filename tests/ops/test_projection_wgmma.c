/* Projections of many rows by products of whole warpgroups, emulated: cl/nvidia/projection_wgmma.cl
 * against the sum in double, when it is taken, and what happens where it does not work. */
#include "ops/projection_case.h"

/* A device of that many units on which kernels for sm_90a are known to work. */
static clmla_context *ready_context(cl_uint compute_units)
{
    clmla_context *context = test_context(CLMLA_KERNELS_NVIDIA, CLMLA_PROJECTION_NATIVE);
    context->device.compute_units = compute_units;
    context->sm_90a[MLA__SM_90A_PROJECTION] = MLA__SM_90A_READY;
    return context;
}

/* Runs a case that must go to this kernel with a tile of so many columns. */
static void run_wgmma(clmla_context *context, const projection_case *c, int32_t tile_columns)
{
    const int32_t rows = projection_bound_rows(c);
    const mla__projection_choices choices = projection_choices(context, c, rows, false);
    const mla__projection_choice *choice = &choices.list[choices.count - 1];
    if (choice->kind != MLA__PROJECTION_WGMMA || choice->tile.tile_columns != tile_columns)
        fail_msg("%s: kind %d, %d columns", c->name, (int)choice->kind,
                 (int)choice->tile.tile_columns);
    projection_run(context, c);
}

/* Rows around the tile, widths around panels, warpgroups and both tiles, depths around stages, pairs
 * of stages and the ring; dtypes, gaps, offsets and batches in turn. */
static void matches_reference(void **state)
{
    (void)state;
    static const struct {
        int32_t rows, N, K;
    } shapes[] = {{65, 8, 8},      {70, 63, 24},   {100, 64, 64},   {127, 65, 72},  {128, 128, 128},
                  {129, 129, 136}, {130, 200, 40}, {130, 250, 264}, {257, 96, 392}, {300, 31, 200}};
    clmla_context *context = ready_context(1);
    for (int size = 0; size < 2; size++) {
        for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
            char name[64];
            const size_t turn = i + 5 * (size_t)size;
            const projection_case one = {.name = name,
                                         .M = shapes[i].rows,
                                         .N = shapes[i].N,
                                         .K = shapes[i].K,
                                         .batches = turn % 4 == 0 ? 2 : 1,
                                         .x = BF16,
                                         .w = BF16,
                                         .y = turn % 2 == 0 ? BF16 : F32,
                                         .row_gap = turn % 3 == 0 ? 16 : 0,
                                         .batch_gap = turn % 4 == 0 ? 8 : 0,
                                         .offset = turn % 5 == 3 ? 8 : 0};
            /* As many units as the smaller tile fills, and one that the larger does. */
            const mla__projection_tile tile = {.tile_rows = 128, .tile_columns = 128};
            const cl_uint units =
                size == 1
                    ? 1
                    : (cl_uint)(one.batches * ((one.M + tile.tile_rows - 1) / tile.tile_rows) *
                                ((one.N + tile.tile_columns - 1) / tile.tile_columns));
            context->device.compute_units = units;
            (void)snprintf(name, sizeof name, "%d rows, [%d x %d, %d]", (int)one.M,
                           (int)one.batches, (int)one.N, (int)one.K);
            run_wgmma(context, &one, size == 1 || one.N <= 128 ? 256 : 128);
        }
    }
    clmla_context_release(context);
}

/* The smallest, for simulators. */
static void on_simulators(void **state)
{
    (void)state;
    clmla_context *context = ready_context(1);
    run_wgmma(context,
              &(projection_case){
                  .name = "smallest", .M = 65, .N = 8, .K = 8, .x = BF16, .w = BF16, .y = BF16},
              256);
    clmla_context_release(context);
}

/* Where rows begin anywhere, y accumulates, rows move within the bound tensors, a row is NaN. */
static void matches_reference_in_special_cases(void **state)
{
    (void)state;
    static const projection_case special[] = {
        {.name = "x and y anywhere",
         .N = 70,
         .K = 72,
         .batches = 2,
         .y = BF16,
         .row_gap = 3,
         .batch_gap = 5,
         .offset = 1},
        {.name = "accumulate into bf16",
         .N = 72,
         .K = 40,
         .y = BF16,
         .row_gap = 8,
         .accumulate = true},
        {.name = "accumulate into float32, y anywhere",
         .N = 65,
         .K = 48,
         .y = F32,
         .row_gap = 3,
         .accumulate = true},
        {.name = "x from row 3 into row 1",
         .N = 66,
         .K = 24,
         .y = BF16,
         .x_row = 3,
         .y_row = 1,
         .row_gap = 2},
        {.name = "a NaN row stays alone", .N = 70, .K = 40, .y = BF16, .poison_row = true},
    };
    static const int32_t rows[] = {70, 130};
    clmla_context *context = ready_context(1);
    for (size_t i = 0; i < sizeof special / sizeof special[0]; i++) {
        for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
            projection_case one = special[i];
            one.M = rows[r];
            one.x = one.w = BF16;
            run_wgmma(context, &one, 256);
        }
    }
    clmla_context_release(context);
}

static bool is_among(const mla__projection_choices *choices, enum mla__projection_kind kind)
{
    for (int i = 0; i < choices->count; i++) {
        if (choices->list[i].kind == kind)
            return true;
    }
    return false;
}

static void taken_for_many_rows_where_ready(void **state)
{
    (void)state;
    clmla_context *context = ready_context(132);
    projection_case one = {
        .name = "o_proj", .N = 7168, .K = 16384, .x = BF16, .w = BF16, .y = BF16};
    mla__projection_choices choices = projection_choices(context, &one, INT32_MAX, false);
    const mla__projection_choice *last = &choices.list[choices.count - 1];
    assert_int_equal(choices.list[0].kind, MLA__PROJECTION_FEW);
    assert_true(is_among(&choices, MLA__PROJECTION_TILED));
    assert_int_equal(last->kind, MLA__PROJECTION_WGMMA);
    assert_int_equal(last->tile.tile_columns, 256);
    assert_int_equal(last[-1].kind, MLA__PROJECTION_WGMMA);
    assert_int_equal(last[-1].tile.tile_columns, 128);
    assert_int_equal(last[-1].max_rows, 4 * 128); /* 28 groups of 256 columns: five make 132 */
    const struct clmla_matrix matrix = {
        .num_batches = 1, .out_features = one.N, .in_features = one.K, .dtype = BF16};
    const mla__projection_shape shape = mla__projection_shape_of(&matrix, BF16, BF16, false);
    char text[2048];
    (void)mla__projection_native_text(context, &shape, INT32_MAX, text, sizeof text);
    assert_non_null(strstr(text, "native nvidia tensor cores up to 16 rows: projection_few "));
    assert_non_null(
        strstr(text, ", above: projection_wgmma tile_rows=128 tile_columns=256 stages=5"));
    choices = projection_choices(context, &one, MLA__PROJECTION_FEW_MAX_ROWS, false);
    assert_false(is_among(&choices, MLA__PROJECTION_WGMMA));
    choices = projection_choices(context, &one, INT32_MAX, true); /* batch-invariant */
    assert_false(is_among(&choices, MLA__PROJECTION_WGMMA));
    static const mla__sm_90a others[] = {MLA__SM_90A_OFF, MLA__SM_90A_ASKED, MLA__SM_90A_REFUSED};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        context->sm_90a[MLA__SM_90A_PROJECTION] = others[i];
        choices = projection_choices(context, &one, INT32_MAX, false);
        assert_false(is_among(&choices, MLA__PROJECTION_WGMMA));
    }
    clmla_context_release(context);
}

/* ---- whether they work ----------------------------------------------------------------------- */

#define KERNELS TEST_OUTPUT_DIR "/kernels-test-wgmma"

/* Of class nvidia, with files of this directory, on which the kernels are asked for. */
static clmla_context *asking_context(const char *directory)
{
    clmla_context *context = test_context_with_kernels(CLMLA_KERNELS_NVIDIA, directory);
    context->sm_90a[MLA__SM_90A_PROJECTION] = MLA__SM_90A_ASKED;
    test_clear_notify();
    return context;
}

static const projection_case ordinary = {
    .name = "ordinary", .M = 70, .N = 66, .K = 40, .x = BF16, .w = BF16, .y = BF16};

/* Making a matrix tries them. */
static void expect_after_matrix(clmla_context *context, mla__sm_90a expected, const char *says)
{
    projection_data d = projection_make(&ordinary);
    clmla_matrix *matrix = projection_matrix(context, &ordinary, &d);
    const char *why = NULL;
    assert_int_equal(mla__context_sm_90a(context, MLA__SM_90A_PROJECTION, &why), expected);
    if (says != NULL) {
        assert_string_equal(why, says);
        assert_non_null(strstr(test_last_notify(), says));
        assert_non_null(strstr(test_last_notify(), "sm_90a, projections: "));
    } else {
        assert_string_equal(test_last_notify(), "");
    }
    clmla_matrix_release(matrix);
    projection_free(&d);
}

static void accepted_where_results_are_right(void **state)
{
    (void)state;
    clmla_context *context = asking_context(NULL);
    context->device.compute_units = 1;
    expect_after_matrix(context, MLA__SM_90A_READY, NULL);
    run_wgmma(context, &ordinary, 256);
    clmla_context_release(context);
}

static void not_tried_where_not_asked_for(void **state)
{
    (void)state;
    clmla_context *context = asking_context(NULL);
    context->sm_90a[MLA__SM_90A_PROJECTION] = MLA__SM_90A_OFF;
    expect_after_matrix(context, MLA__SM_90A_OFF, NULL);
    clmla_context_release(context);
}

static void expect_ordinary_kernels(clmla_context *context, const char *says)
{
    context->device.compute_units = 1;
    expect_after_matrix(context, MLA__SM_90A_REFUSED, says);
    const mla__projection_choices choices =
        projection_choices(context, &ordinary, ordinary.M, false);
    assert_int_equal(choices.list[choices.count - 1].kind, MLA__PROJECTION_TILED);
    projection_run(context, &ordinary);
    clmla_context_release(context);
}

static void refused_where_results_are_wrong(void **state)
{
    (void)state;
    test_write_kernel(
        KERNELS, "nvidia/projection_wgmma.cl",
        "kernel void projection_wgmma(global const ushort *x, ulong a, ulong b, ulong "
        "c, global const uint *w, ulong d, global float *y, ulong e, ulong f, ulong g, "
        "int h, int i, int j, int k, int l) { y[0] = 0; }\n");
    expect_ordinary_kernels(asking_context(KERNELS), "their results are wrong");
}

static void refused_where_they_do_not_build(void **state)
{
    (void)state;
    test_write_kernel(KERNELS, "nvidia/projection_wgmma.cl", "#error no\n");
    expect_ordinary_kernels(asking_context(KERNELS), "the driver does not build them");
}

/* A device with PTX that is this one: its binary is no PTX. */
static void refused_where_the_binary_is_not_ptx(void **state)
{
    (void)state;
    const char *const directory = TEST_OUTPUT_DIR "/kernels-test-wgmma-ptx";
    static const char *const empty[] = {"nvidia/ptx.clh", "nvidia/wgmma.clh",
                                        "nvidia/wgmma_matrix.clh", "nvidia/projection.clh"};
    test_write_kernel(directory, "nvidia/projection_wgmma.cl",
                      "kernel void projection_wgmma() {}\n");
    for (size_t i = 0; i < sizeof empty / sizeof empty[0]; i++)
        test_write_kernel(directory, empty[i], "\n");
    clmla_context *context = asking_context(directory);
    context->device.has_ptx = true;
    expect_after_matrix(context, MLA__SM_90A_REFUSED, "the driver does not build them");
    clmla_context_release(context);
}

static void refused_where_no_tile_fits(void **state)
{
    (void)state;
    clmla_context *context = asking_context(NULL);
    context->device.local_mem_bytes = 64 * 1024;
    expect_ordinary_kernels(context, "no tile fits the device's local memory or work-groups");
}

/* Tried with success, but a later variant does not build. */
static void others_take_their_place_where_one_does_not_build(void **state)
{
    (void)state;
    test_write_kernel(KERNELS, "nvidia/projection_wgmma.cl", "#error no\n");
    clmla_context *context = asking_context(KERNELS);
    const char *why = NULL;
    context->device.compute_units = 1;
    context->sm_90a[MLA__SM_90A_PROJECTION] = MLA__SM_90A_READY;
    projection_run(context, &ordinary);
    assert_int_equal(mla__context_sm_90a(context, MLA__SM_90A_PROJECTION, &why),
                     MLA__SM_90A_REFUSED);
    assert_string_equal(why, "the driver does not build one of them");
    assert_non_null(strstr(test_last_notify(), "kernels for sm_90 take the place"));
    clmla_context_release(context);
}

/* What does not build is another kernel: the portable ones, and nothing is said of sm_90a. */
static void not_refused_where_another_kernel_does_not_build(void **state)
{
    (void)state;
    const char *const directory = TEST_OUTPUT_DIR "/kernels-test-wgmma-few";
    test_write_kernel(directory, "nvidia/projection_few.cl", "#error no\n");
    clmla_context *context = asking_context(directory);
    context->device.compute_units = 1;
    context->sm_90a[MLA__SM_90A_PROJECTION] = MLA__SM_90A_READY;
    projection_run(context, &ordinary);
    assert_int_equal(mla__context_sm_90a(context, MLA__SM_90A_PROJECTION, NULL), MLA__SM_90A_READY);
    assert_non_null(strstr(test_last_notify(), "the portable ones take its place"));
    clmla_context_release(context);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(matches_reference),
        cmocka_unit_test(on_simulators),
        cmocka_unit_test(matches_reference_in_special_cases),
        cmocka_unit_test(taken_for_many_rows_where_ready),
        cmocka_unit_test(accepted_where_results_are_right),
        cmocka_unit_test(not_tried_where_not_asked_for),
        cmocka_unit_test(refused_where_results_are_wrong),
        cmocka_unit_test(refused_where_they_do_not_build),
        cmocka_unit_test(refused_where_the_binary_is_not_ptx),
        cmocka_unit_test(refused_where_no_tile_fits),
        cmocka_unit_test(others_take_their_place_where_one_does_not_build),
        cmocka_unit_test(not_refused_where_another_kernel_does_not_build),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    test_device_close();
    return failed;
}
