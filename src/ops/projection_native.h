/* The native projections as a bound op: the kernels that projection_kernel.h chooses, by the number
 * of rows of a call. */
#ifndef CLMLA_OPS_PROJECTION_NATIVE_H
#define CLMLA_OPS_PROJECTION_NATIVE_H

#include "ops/matrix.h"
#include "ops/projection_kernel.h"

/* One kernel and what it was chosen for. */
typedef struct mla__projection_variant {
    mla__kernel kernel;
    mla__projection_choice choice;
    int32_t x_row, y_row, num_rows; /* arguments as they stand in the kernel; -1: not set yet */
} mla__projection_variant;

typedef struct mla__projection_native {
    mla__projection_variant variants[MLA__PROJECTION_MAX_CHOICES]; /* by rising max_rows */
    int num_variants;
    const clmla_matrix *matrix;
    int32_t columns; /* that are computed: out_features, or those of two matrices */
} mla__projection_native;

/* A second product of the same x on tensor cores; see projection_pair.h. */
typedef struct mla__projection_second {
    const clmla_matrix *matrix; /* follows the first in memory */
    mla__view y;
} mla__projection_second;

/* Storage and shape of x · Wᵀ. */
mla__projection_shape mla__projection_shape_of(const clmla_matrix *matrix, clmla_dtype x,
                                               clmla_dtype y, bool batch_invariant);
/* batch_invariant: see mla__projection_shape. */
clmla_status mla__projection_native_bind(clmla_context *context,
                                         const clmla_projection_params *params, const mla__view *x,
                                         const mla__view *y, bool batch_invariant,
                                         mla__projection_native *op);
/* With a second product. CL_BUILD_PROGRAM_FAILURE where the driver does not build it: no portable
 * kernel takes its place. */
clmla_status mla__projection_native_bind_pair(clmla_context *context,
                                              const clmla_projection_params *params,
                                              const mla__view *x, const mla__view *y,
                                              const mla__projection_second *second,
                                              bool batch_invariant, mla__projection_native *op);
/* One kernel for all calls, without any other in its place. */
clmla_status mla__projection_native_bind_choice(clmla_context *context, const clmla_matrix *matrix,
                                                const mla__view *x, const mla__view *y,
                                                const mla__projection_choice *choice,
                                                mla__projection_native *op);
clmla_status mla__projection_native_enqueue(mla__projection_native *op, mla__stream *stream,
                                            int32_t x_row, int32_t y_row, int32_t num_rows);
/* Kernels and tiles for calls of up to max_rows rows: "native gpu up to 4 rows: projection_stream
 * ...". Returns the length as snprintf. */
int mla__projection_native_text(const clmla_context *context, const mla__projection_shape *shape,
                                int32_t max_rows, char *text, size_t capacity);
clmla_status mla__projection_native_warm(mla__projection_native *op, mla__stream *stream);
void mla__projection_native_release(mla__projection_native *op);

#endif
