/* The native projection kernels of both classes: cl/cpu/projection.cl and its bf16-dot twin
 * cl/cpu/projection_dot.cl, cl/gpu/projection.cl and, for the fewest rows,
 * cl/gpu/projection_stream.cl. */
#ifndef CLMLA_OPS_PROJECTION_NATIVE_H
#define CLMLA_OPS_PROJECTION_NATIVE_H

#include "ops/matrix.h"
#include "tuning/params.h"

/* One kernel with its tile. */
typedef struct mla__projection_variant {
    mla__kernel kernel;
    mla__projection_tile tile;
    int32_t x_row, y_row, num_rows; /* arguments as they stand in the kernel; -1: not set yet */
} mla__projection_variant;

typedef struct mla__projection_native {
    /* By rows: up to mla__projection_stream_rows, up to mla__projection_few_rows, more. No kernel
     * where no call can have that many rows, or the class has none. */
    mla__projection_variant stream, few, many;
    clmla_kernel_class kernel_class;
    const clmla_matrix *matrix;
} mla__projection_native;

/* Whether x · Wᵀ takes the bf16 dot products: both are stored as bf16 and the device has them. Not
 * a matter of rows or of strides, so that a row's bits do not depend on either. */
bool mla__projection_uses_dot(const clmla_context *context, clmla_dtype x, clmla_dtype w);
/* The tile of up to `rows` rows. */
void mla__projection_choose_tile(const clmla_context *context, clmla_dtype x, clmla_dtype w,
                                 int32_t rows, mla__projection_tile *tile);
clmla_status mla__projection_native_bind(clmla_context *context,
                                         const clmla_projection_params *params, const mla__view *x,
                                         const mla__view *y, mla__projection_native *op);
clmla_status mla__projection_native_enqueue(mla__projection_native *op, mla__stream *stream,
                                            int32_t x_row, int32_t y_row, int32_t num_rows);
/* Kernels and tiles for calls of up to max_rows rows: "native gpu up to 4 rows: stream ...". Returns
 * the length as snprintf. */
int mla__projection_native_text(const clmla_context *context, const clmla_matrix *matrix,
                                clmla_dtype x, int32_t max_rows, char *text, size_t capacity);
clmla_status mla__projection_native_warm(mla__projection_native *op, mla__stream *stream);
void mla__projection_native_release(mla__projection_native *op);

#endif
