/*
 * Projections through CLBlast SGEMM. x is converted to float32 [K_pad, M_pad], 16-bit weights slab
 * by slab to float32 [K_pad, columns]; the column-major call y[columns, M] = W · xᵀ (A not rotated,
 * B rotated) then needs no temporary of CLBlast's where the sizes are multiples of its tile; a
 * third kernel converts y and adds where asked. The only file that includes clblast_c.h; CLBlast's
 * statuses are mapped here.
 */
#ifndef CLMLA_OPS_PROJECTION_CLBLAST_H
#define CLMLA_OPS_PROJECTION_CLBLAST_H

#include "ops/matrix.h"

/* How a projection is cut, and what a cut needs. Sizes in bytes, multiples of the alignment of
 * sub-buffers. */
typedef struct mla__clblast_layout {
    int32_t slab_columns; /* columns of W in one call, a multiple of 64 */
    int32_t slab_batches; /* batches in one call; 1 unless no call needs a temporary */
    int32_t slab_rows;    /* rows of x in one call, padded */
    int32_t k_pad;        /* rows of x_slab and w_slab */
    uint64_t x_bytes, w_bytes, y_bytes, temporary_bytes;
} mla__clblast_layout;

typedef struct mla__projection_clblast {
    clmla_context *context; /* borrowed; NULL: not bound */
    const clmla_matrix *matrix;
    mla__clblast_layout layout;
    mla__kernel convert_x; /* cl/clblast_convert.cl */
    mla__kernel widen_w;   /* 16-bit weights only */
    mla__kernel convert_y;
    cl_mem x_slab, w_slab, y_slab; /* sub-buffers of the workspace, owned. CLBlast copies an operand
                                      that does not begin at offset 0. w_slab of float32 weights is
                                      the matrix itself */
    cl_mem temporary;              /* NULL: none needed */
    uint64_t w_offset;             /* elements from w_slab's start to the matrix, float32 only */
} mla__projection_clblast;

/* Float32 workspace for up to max_rows rows: x, one weight slab, one y slab, and CLBlast's own
 * temporary where it would need one. */
clmla_status mla__projection_clblast_workspace(const clmla_context *context,
                                               const clmla_matrix *matrix, int32_t max_rows,
                                               uint64_t *bytes);
clmla_status mla__projection_clblast_bind(clmla_context *context,
                                          const clmla_projection_params *params, const mla__view *x,
                                          const mla__view *y, mla__projection_clblast *op);
clmla_status mla__projection_clblast_enqueue(mla__projection_clblast *op, mla__stream *stream,
                                             int32_t x_row, int32_t y_row, int32_t num_rows);
/* One call of each path (direct, indirect, batched) that enqueue can reach. */
clmla_status mla__projection_clblast_warm(mla__projection_clblast *op, mla__stream *stream);
void mla__projection_clblast_release(mla__projection_clblast *op);

#endif
