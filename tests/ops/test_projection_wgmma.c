/* Projections of many rows by products of whole warpgroups, emulated: cl/nvidia/projection_wgmma.cl
 * against the sum in double, when it is taken, and what happens where it does not work. */
#include "ops/projection_case.h"
#include "ops/projection_pair.h"

/* A device of that many units on which kernels for sm_90a are known to work. */
static clmla_context *ready_context(cl_uint compute_units)
{
    clmla_context *context = test_context(CLMLA_KERNELS_NVIDIA, CLMLA_PROJECTION_NATIVE);
    context->device.compute_units = compute_units;
    context->sm_90a = MLA__SM_90A_READY;
    return context;
}

static mla__projection_choices choose(const clmla_context *context, const projection_case *c,
                                      int32_t max_rows, bool batch_invariant)
{
    const struct clmla_matrix matrix = {.num_batches = c->batches > 0 ? c->batches : 1,
                                        .out_features = c->N,
                                        .in_features = c->K,
                                        .dtype = c->w};
    const mla__projection_shape shape =
        mla__projection_shape_of(&matrix, c->x, c->y, batch_invariant);
    mla__projection_choices choices;
    mla__projection_choose(context, &shape, max_rows, &choices);
    return choices;
}

/* Runs a case that must go to this kernel with a tile of so many columns. */
static void run_wgmma(clmla_context *context, const projection_case *c, int32_t tile_columns)
{
    const int32_t rows = projection_bound_rows(c);
    const mla__projection_choices choices = choose(context, c, rows, false);
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
            clmla_context *context = ready_context(units);
            (void)snprintf(name, sizeof name, "%d rows, [%d x %d, %d]", (int)one.M,
                           (int)one.batches, (int)one.N, (int)one.K);
            run_wgmma(context, &one, size == 1 || one.N <= 128 ? 256 : 128);
            clmla_context_release(context);
        }
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(matches_reference),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    test_device_close();
    return failed;
}
