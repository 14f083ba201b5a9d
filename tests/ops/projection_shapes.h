/* What the tests of native projections share: shapes and pairs of dtypes for both portable classes,
 * and a context. */
#ifndef CLMLA_TESTS_OPS_PROJECTION_SHAPES_H
#define CLMLA_TESTS_OPS_PROJECTION_SHAPES_H

#include "ops/projection_case.h"

/* Tails on every side of the cpu tile (4 x 64), the gpu tiles (16 x 32, 64 x 64) and their 32 k. */
static const projection_case projection_shapes[] = {
    {.name = "one of everything", .M = 1, .N = 1, .K = 1, .x = BF16, .w = BF16, .y = BF16},
    {.name = "one row, odd k", .M = 1, .N = 65, .K = 37, .x = BF16, .w = BF16, .y = BF16},
    {.name = "one k", .M = 5, .N = 70, .K = 1, .x = BF16, .w = BF16, .y = BF16},
    {.name = "one column", .M = 6, .N = 1, .K = 33, .x = BF16, .w = BF16, .y = BF16},
    {.name = "one short of a cpu tile", .M = 3, .N = 63, .K = 31, .x = BF16, .w = BF16, .y = BF16},
    {.name = "exactly a cpu tile", .M = 4, .N = 64, .K = 32, .x = BF16, .w = BF16, .y = BF16},
    {.name = "one past a cpu tile", .M = 5, .N = 65, .K = 33, .x = BF16, .w = BF16, .y = BF16},
    {.name = "the most few rows", .M = 16, .N = 33, .K = 64, .x = BF16, .w = BF16, .y = BF16},
    {.name = "one row more", .M = 17, .N = 127, .K = 65, .x = BF16, .w = BF16, .y = BF16},
    {.name = "past a chunk of k", .M = 5, .N = 65, .K = 1029, .x = BF16, .w = BF16, .y = BF16},
    {.name = "past a block of rows", .M = 67, .N = 129, .K = 34, .x = BF16, .w = BF16, .y = BF16},
    {.name = "several panels, strided, with offset",
     .M = 9,
     .N = 200,
     .K = 96,
     .x = BF16,
     .w = BF16,
     .y = BF16,
     .row_gap = 13,
     .offset = 7},
    {.name = "heads with gaps, as q_nope",
     .M = 6,
     .N = 40,
     .K = 24,
     .batches = 3,
     .x = BF16,
     .w = BF16,
     .y = BF16,
     .row_gap = 5,
     .batch_gap = 11,
     .offset = 3},
    {.name = "x from row 3 into row 1",
     .M = 7,
     .N = 66,
     .K = 20,
     .x = BF16,
     .w = BF16,
     .y = BF16,
     .x_row = 3,
     .y_row = 1,
     .row_gap = 1},
    {.name = "x from row 0 into row 2",
     .M = 5,
     .N = 66,
     .K = 20,
     .x = BF16,
     .w = BF16,
     .y = BF16,
     .y_row = 2},
    {.name = "a transposed source, several heads",
     .M = 5,
     .N = 70,
     .K = 19,
     .batches = 2,
     .x = BF16,
     .w = BF16,
     .y = BF16,
     .transposed = true},
    {.name = "float32 weights, odd k, strided",
     .M = 9,
     .N = 70,
     .K = 33,
     .batches = 2,
     .x = BF16,
     .w = F32,
     .y = BF16,
     .row_gap = 3},
    {.name = "accumulate into bf16",
     .M = 6,
     .N = 70,
     .K = 40,
     .x = BF16,
     .w = BF16,
     .y = BF16,
     .row_gap = 3,
     .accumulate = true},
    {.name = "accumulate into float32, one row",
     .M = 1,
     .N = 17,
     .K = 40,
     .x = BF16,
     .w = BF16,
     .y = F32,
     .accumulate = true},
    {.name = "a NaN row stays alone",
     .M = 6,
     .N = 70,
     .K = 35,
     .x = BF16,
     .w = BF16,
     .y = BF16,
     .poison_row = true},
    {.name = "a NaN row, float32 weights",
     .M = 6,
     .N = 70,
     .K = 35,
     .x = BF16,
     .w = F32,
     .y = F32,
     .poison_row = true},
};

enum { NUM_SHAPES = sizeof projection_shapes / sizeof projection_shapes[0] };

enum { DTYPE_PAIRS = 9 };

/* Every pair of x and w, with a y that differs from pair to pair so that all triples of one dtype
 * and each y with each w come up. Its name lasts until the next call. */
static inline projection_case projection_dtype_pair(size_t i)
{
    static const clmla_dtype dtypes[] = {BF16, F16, F32};
    static char name[64];
    const size_t x = i / 3, w = i % 3;
    const clmla_dtype y = dtypes[(2 * x + 2 * w) % 3];
    (void)snprintf(name, sizeof name, "x %s, w %s, y %s", mla__dtype_name(dtypes[x]),
                   mla__dtype_name(dtypes[w]), mla__dtype_name(y));
    return (projection_case){.name = name,
                             .M = 5,
                             .N = 70,
                             .K = 37,
                             .x = dtypes[x],
                             .w = dtypes[w],
                             .y = y,
                             .row_gap = 3,
                             .accumulate = x == w};
}

/* A context whose projections are native, with or without the bf16 dot products. */
static inline clmla_context *native_context(clmla_kernel_class kernel_class, bool matrix_units)
{
    clmla_context *context = test_context(kernel_class, CLMLA_PROJECTION_NATIVE);
    context->matrix_units = matrix_units;
    return context;
}

#endif
