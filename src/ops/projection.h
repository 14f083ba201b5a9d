/* y = x · Wᵀ: choice of backend and the bound op. See clmla_enqueue_projection in clmla_ops.h. */
#ifndef CLMLA_OPS_PROJECTION_H
#define CLMLA_OPS_PROJECTION_H

#include "ops/matrix.h"
#include "ops/op.h"
#include "ops/projection_clblast.h"
#include "ops/projection_native.h"

typedef struct mla__projection {
    clmla_projection_backend backend; /* AUTO: native up to native_max_rows, CLBlast above */
    int32_t native_max_rows;
    mla__projection_native native;
    mla__projection_clblast clblast;
} mla__projection;

clmla_status mla__projection_bind(clmla_context *context, const clmla_projection_params *params,
                                  mla__projection *op);
/* The same for a layer, where batch_invariant may ask that a row's bits do not depend on the number
 * of rows of a call; without it they may, on class nvidia. (mla__projection_bind asks for nothing.) */
clmla_status mla__projection_bind_steps(clmla_context *context,
                                        const clmla_projection_params *params, bool batch_invariant,
                                        mla__projection *op);
/* Rows x_row .. x_row + num_rows - 1 of x into rows y_row .. of y. */
clmla_status mla__projection_enqueue(mla__projection *op, mla__stream *stream, int32_t x_row,
                                     int32_t y_row, int32_t num_rows);
clmla_status mla__projection_warm(mla__projection *op, mla__stream *stream);
void mla__projection_release(mla__projection *op);

/* Up to how many rows AUTO takes native kernels for weights of a dtype: the tuning record's (true),
 * else the class's. */
bool mla__projection_auto_rows(const clmla_context *context, clmla_dtype weights, int32_t *rows);
/* Backend that a projection of max_rows rows resolves to: NATIVE, CLBLAST, or AUTO when both are
 * used, depending on the rows of a call. */
clmla_projection_backend mla__projection_resolve(const clmla_context *context,
                                                 clmla_projection_backend asked,
                                                 clmla_dtype weights, int32_t max_rows,
                                                 int32_t *native_max_rows);

#endif
