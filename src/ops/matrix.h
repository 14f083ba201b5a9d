/*
 * clmla_matrix: a packed weight matrix. Layouts (private, one per storage dtype):
 *
 *   bf16, f16   [batch][ceil(N/64)][ceil(K/2)][64] of uint: column n of panel n/64, low half = even
 *               k, high half = odd k; rows past N and an odd last k are zero.
 *   f8_e4m3     per batch: scales [ceil(K/128)][N_pad] of float32, then codes
 *               [N_pad/64][ceil(K/2)][64] of ushort: as above, low byte = even k. weight = code ·
 *               scale; padded scales and codes are zero. N_pad = N rounded up to 64. A column's scale is
 *               NaN where one of its 128 codes is (0x7f, 0xff): who reads need not look for those
 *   f32         [batch][K][N_pad], N_pad = N rounded up to 64, zero-padded: what CLBlast wants as
 *               its unrotated A operand, and what the native f32 kernels read.
 */
#ifndef CLMLA_OPS_MATRIX_H
#define CLMLA_OPS_MATRIX_H

#include "ops/op.h"

enum { MLA__PANEL = 64 }; /* columns of a panel; cl/common.clh has the same number */

struct clmla_matrix {
    clmla_context *context; /* retained; NULL in a matrix embedded in clmla_weights */
    cl_mem buffer;          /* retained by clmla_matrix_create */
    uint64_t offset_bytes;
    int32_t num_batches;
    int32_t out_features; /* N */
    int32_t in_features;  /* K */
    clmla_dtype dtype;
};

/* Bytes of the packed form, a multiple of 256. */
clmla_status mla__matrix_bytes(const clmla_context *context, int32_t num_batches,
                               int32_t out_features, int32_t in_features, clmla_dtype dtype,
                               uint64_t *bytes);

/* Packs into an existing buffer and fills *out without retaining anything. Waits. A transposed
 * source with strides[0] between batches and strides[1] between its rows serves W_UK, W_UV as views
 * of kv_b_proj. */
clmla_status mla__matrix_pack(clmla_context *context, const clmla_matrix_params *params,
                              cl_command_queue queue, struct clmla_matrix *out);

/* Uploads (or copies) a vector of num elements as float32 to buffer + offset_bytes. Waits. For the
 * norm weights. */
clmla_status mla__vector_pack(clmla_context *context, const clmla_weight_source *source,
                              const char *name, int32_t num, cl_mem buffer, uint64_t offset_bytes,
                              cl_command_queue queue);

#endif
