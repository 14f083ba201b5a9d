/*
 * Projections through CLBlast SGEMM. x is converted to float32 [K_pad, M_pad], 16-bit weights slab
 * by slab to float32 [K_pad, columns]; the column-major call y[columns, M] = W · xᵀ (A not rotated,
 * B rotated) then needs no temporary of CLBlast's where the sizes are multiples of its tile; a
 * third kernel converts y and adds where asked.
 */
#ifndef CLMLA_OPS_PROJECTION_CLBLAST_H
#define CLMLA_OPS_PROJECTION_CLBLAST_H

#include "ops/clblast_convert.h"

typedef struct mla__projection_clblast {
    clmla_context *context; /* borrowed; NULL: not bound */
    const clmla_matrix *matrix;
    mla__clblast_layout layout;
    mla__clblast_convert convert;
    mla__clblast_slabs slabs; /* sub-buffers of the workspace, owned; w: 16-bit weights only */
    cl_mem temporary;         /* the same; NULL: none needed */
    cl_mem *w_groups;         /* float32 weights: sub-buffers of the matrix, one for each group of
                                 slab_batches batches, as CLBlast copies an operand that does not
                                 begin at offset 0; or the matrix's buffer alone */
    int32_t num_w_groups;
    uint64_t
        w_offset; /* elements before the matrix in its buffer, where that is given to CLBlast */
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
