/*
 * How a projection through CLBlast is cut into calls, and what workspace the cut needs.
 */
#ifndef CLMLA_OPS_CLBLAST_LAYOUT_H
#define CLMLA_OPS_CLBLAST_LAYOUT_H

#include "ops/matrix.h"

/* Units that rows of x are padded to where CLBlast is left with its own parameters; the conversion
 * kernels rely on MLA__CLBLAST_FEW_TILE dividing all paddings. */
enum {
    MLA__CLBLAST_TILE = 64, /* CLBlast's tiles of m and n are 16 .. 128, mostly 64 */
    MLA__CLBLAST_FEW_ROWS =
        16,                   /* up to here rows are padded to FEW_TILE: CLBlast's direct kernel, */
    MLA__CLBLAST_FEW_TILE = 8 /* which such calls take, needs no multiple, and 64 rows would be 8
                                   times the work */
};

/* Sizes in bytes, multiples of the alignment of sub-buffers. */
typedef struct mla__clblast_layout {
    int32_t slab_columns; /* columns of W in one call, a multiple of 64 */
    int32_t slab_batches; /* batches in one call; 1 unless no call needs a temporary */
    int32_t slab_rows;    /* rows of x in one call, padded */
    int32_t k_pad;        /* rows of x_slab and w_slab */
    uint64_t x_bytes, w_bytes, y_bytes, temporary_bytes;
} mla__clblast_layout;

/* Fails with CLMLA_UNSUPPORTED_CONFIG where CLBlast's 32-bit offsets do not reach float32 weights. */
clmla_status mla__clblast_lay_out(const clmla_context *context, const clmla_matrix *matrix,
                                  int32_t max_rows, mla__clblast_layout *out);

/* What the workspace must hold besides the bytes up to the first aligned one. */
uint64_t mla__clblast_layout_bytes(const mla__clblast_layout *layout);

/* Sub-buffers begin at multiples of this. */
uint64_t mla__clblast_alignment(const clmla_context *context);

/* Rows to whole tiles of the parameters that CLBlast is given, where they compute them. */
int32_t mla__clblast_padded_rows(const clmla_context *context, int32_t rows);

/* out_features to whole panels. */
int32_t mla__clblast_padded_columns(const clmla_matrix *matrix);

/* 16-bit weights: converted slab by slab; float32 ones are used where they lie. */
bool mla__clblast_is_widened(const clmla_matrix *matrix);

#endif
