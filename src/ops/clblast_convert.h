/*
 * The kernels between the library's tensors and what CLBlast multiplies: x to float32 [K_pad,
 * M_pad], 16-bit weights slab by slab to float32 [K_pad, columns], and y back. See
 * cl/gpu/clblast_convert.cl.
 */
#ifndef CLMLA_OPS_CLBLAST_CONVERT_H
#define CLMLA_OPS_CLBLAST_CONVERT_H

#include "ops/clblast_layout.h"

/* The part of a projection that one call computes; rows already padded. */
typedef struct mla__clblast_part {
    int32_t batch_begin, num_batches, columns, rows;
} mla__clblast_part;

/* Where the parts lie, float32. */
typedef struct mla__clblast_slabs {
    cl_mem x, w, y;
} mla__clblast_slabs;

/* What one work-item takes and how many make a work-group, along the two dimensions besides the
 * batches. */
typedef struct mla__clblast_mapping {
    size_t item[2], group[2];
} mla__clblast_mapping;

typedef struct mla__clblast_convert {
    mla__kernel x, y;
    mla__kernel w; /* 16-bit weights only */
    mla__clblast_mapping x_mapping, w_mapping, y_mapping;
    int32_t k_pad;
} mla__clblast_convert;

clmla_status mla__clblast_convert_bind(clmla_context *context,
                                       const clmla_projection_params *params, const mla__view *x,
                                       const mla__view *y, const mla__clblast_slabs *slabs,
                                       int32_t k_pad, mla__clblast_convert *op);

/* Rows x_row .. x_row + num_rows - 1 of x, padded to part->rows. */
clmla_status mla__clblast_convert_x(mla__clblast_convert *op, mla__stream *stream,
                                    const mla__clblast_part *part, int32_t x_row, int32_t num_rows);
/* Columns column_begin .. column_begin + part->columns - 1 of 16-bit weights. */
clmla_status mla__clblast_convert_w(mla__clblast_convert *op, mla__stream *stream,
                                    const mla__clblast_part *part, int32_t column_begin);
/* To rows y_row .. y_row + num_rows - 1 of y, columns as above. */
clmla_status mla__clblast_convert_y(mla__clblast_convert *op, mla__stream *stream,
                                    const mla__clblast_part *part, int32_t y_row, int32_t num_rows,
                                    int32_t column_begin);
/* Every kernel on `columns` columns and no row: nothing outside the slabs is read or written. */
clmla_status mla__clblast_convert_warm(mla__clblast_convert *op, mla__stream *stream,
                                       int32_t columns);
void mla__clblast_convert_release(mla__clblast_convert *op);

#endif
