/*
 * y[m, b, n] = Σ_k x[m, b, k] · W[b, n, k]           class cpu
 *
 *   x   [rows, B, K]   X_DTYPE; rows x_row .. x_row + num_rows - 1 are read
 *   W   packed as src/ops/matrix.h says, W_DTYPE
 *   y   [rows, B, N]   Y_DTYPE; rows y_row .. y_row + num_rows - 1 are written
 *
 * One work-item: TILE_VECTORS · VECTOR_WIDTH columns and BLOCK_ROWS rows of one batch, computed
 * TILE_ROWS rows at a time in registers, so that a block's rows of x and its panel of W stay in the
 * caches. Grid: (tiles of columns, blocks of rows, batches), work-group {1, 1, 1}. No local memory,
 * no barrier. FP8 weights are taken in chunks of k: a chunk is decoded once into private memory for
 * all of the block's rows, whose sums wait there.
 *
 * Every y is one chain of fused multiply-adds over k = 0, 1, .. K - 1 from 0, whatever the tile
 * and the width of its vectors: a row's bits do not depend on the number of rows or on its place
 * among them.
 * Rows past the end are computed as copies of the last row and not stored. The odd last k is a step
 * of its own: the padding of W would turn an x past the row's end that is NaN into NaN.
 *
 * X_DTYPE, W_DTYPE, Y_DTYPE   bf16, f16, f32; W_DTYPE f8_e4m3, too
 * PAIRED         1: W is pairs, 0: W is f32
 * PAIR_F16       1: those pairs are f16, 0: bf16
 * PAIR_F8        1: they are FP8 codes with scales
 * ACCUMULATE     1: y += result (added in float32, rounded once), 0: y = result
 * TILE_ROWS      >= 1; TILE_ROWS · TILE_VECTORS + TILE_VECTORS vectors live in registers
 * VECTOR_WIDTH   4, 8 or 16: floats per vector
 * TILE_VECTORS   TILE_VECTORS · VECTOR_WIDTH is a multiple of 16 and divides PANEL
 * BLOCK_ROWS     multiple of TILE_ROWS
 * CHUNK_K        k per chunk of widened x, even; TILE_ROWS · CHUNK_K floats of private memory, FP8:
 *                TILE_COLUMNS_OF_16 · (CHUNK_K + BLOCK_ROWS) more
 */
#if PAIRED && PAIR_F8
#ifndef CHUNK_K
#define CHUNK_K 64
#endif
#if FP8_GROUP % CHUNK_K != 0
#error "a chunk must lie in one group of FP8 weights"
#endif
#endif
#ifndef CHUNK_K
#define CHUNK_K 512
#endif
#if CHUNK_K % 2 != 0
#error "a chunk must hold whole pairs"
#endif

typedef CLMLA_CAT(float, VECTOR_WIDTH) floatv;
typedef CLMLA_CAT(uint, VECTOR_WIDTH) uintv;
#define AS_FLOATV CLMLA_CAT(as_float, VECTOR_WIDTH)
#define VLOADV CLMLA_CAT(vload, VECTOR_WIDTH)
#define VLOADV_HALF CLMLA_CAT(vload_half, VECTOR_WIDTH)
#define JOIN_TO_V CLMLA_CAT(join_to_, VECTOR_WIDTH)
/* Vectors v, v + 1, .. as sixteen columns; a vector's odd lanes. */
#if VECTOR_WIDTH == 16
#define SIXTEEN_COLUMNS(v) (v)[0]
#define ODD_LANES(v) odd_lanes(v)
#elif VECTOR_WIDTH == 8
#define SIXTEEN_COLUMNS(v) join_to_16((v)[0], (v)[1])
#define ODD_LANES(v) (v).odd
#else
#define SIXTEEN_COLUMNS(v) join_to_16(join_to_8((v)[0], (v)[1]), join_to_8((v)[2], (v)[3]))
#define ODD_LANES(v) (v).odd
#endif

#if PAIRED && PAIR_F8
typedef ushort packed_pair;
#define CONVERT_UINTV CLMLA_CAT(convert_uint, VECTOR_WIDTH)
#define E4M3_TO_FLOATV CLMLA_CAT(e4m3_to_float, VECTOR_WIDTH)

/* A vector's columns of pairs of codes, times their scales. */
CLMLA_INLINE void unpack_pairs(global const ushort *w, const floatv scale, floatv *even,
                               floatv *odd)
{
    const uintv pairs = CONVERT_UINTV(VLOADV(0, w));
    *even = E4M3_TO_FLOATV(pairs & 0xffu) * scale;
    *odd = E4M3_TO_FLOATV(pairs >> 8) * scale;
}
#elif PAIRED && PAIR_F16
typedef uint packed_pair;
/* A vector's columns of f16 pairs as the even k's and the odd k's values. */
CLMLA_INLINE void unpack_pairs(global const uint *w, floatv *even, floatv *odd)
{
    const floatv low = VLOADV_HALF(0, (global const half *)w);
    const floatv high = VLOADV_HALF(1, (global const half *)w);
    *even = JOIN_TO_V(low.even, high.even);
    *odd = JOIN_TO_V(ODD_LANES(low), ODD_LANES(high));
}
#elif PAIRED
typedef uint packed_pair;
/* A vector's columns of bf16 pairs as the even k's and the odd k's values. */
CLMLA_INLINE void unpack_pairs(global const uint *w, floatv *even, floatv *odd)
{
    const uintv pairs = VLOADV(0, w);
    *even = AS_FLOATV(pairs << 16);
    *odd = AS_FLOATV(pairs & 0xffff0000u);
}
#endif

/* to[0 .. count - 1] = x[at ..] as float32: the products then broadcast from float32 memory, which
 * widening at each use would not allow. */
CLMLA_INLINE void widen_row(global const STORAGE(X_DTYPE) * x, size_t at, int count, float *to)
{
    int k = 0;
    for (; k + 16 <= count; k += 16)
        vstore16(LOAD16(X_DTYPE, x, at + k), 0, to + k);
    for (; k < count; k++)
        to[k] = LOAD(X_DTYPE, x, at + k);
}

/* sum[i][j] += x_chunk[i][k] · weights[j] */
#define ADD_PRODUCTS(k, weights)                                                                   \
    UNROLL                                                                                         \
    for (int i = 0; i < TILE_ROWS; i++) {                                                          \
        const floatv value = (floatv)(x_chunk[i][k]);                                              \
        UNROLL                                                                                     \
        for (int j = 0; j < TILE_VECTORS; j++)                                                     \
            sum[i][j] = fma(value, (weights)[j], sum[i][j]);                                       \
    }

#define ZERO_SUMS                                                                                  \
    UNROLL                                                                                         \
    for (int i = 0; i < TILE_ROWS; i++) {                                                          \
        UNROLL                                                                                     \
        for (int j = 0; j < TILE_VECTORS; j++)                                                     \
            sum[i][j] = (floatv)(0.0f);                                                            \
    }

/* y[row + n0 ..] = the tile's columns of one row. */
CLMLA_INLINE void store_row(const floatv *sum, global STORAGE(Y_DTYPE) * y, size_t row, int n0,
                            int N)
{
    UNROLL
    for (int n = 0; n < TILE_COLUMNS_OF_16; n += 16)
        store_columns(SIXTEEN_COLUMNS(sum + n / VECTOR_WIDTH), y, row + (size_t)(n0 + n),
                      N - n0 - n);
}

kernel void projection(global const STORAGE(X_DTYPE) * x, const ulong x_offset,
                       const ulong x_row_stride, const ulong x_batch_stride,
#if PAIRED
                       global const packed_pair *W,
#else
                       global const float *W,
#endif
                       const ulong w_offset, global STORAGE(Y_DTYPE) * y, const ulong y_offset,
                       const ulong y_row_stride, const ulong y_batch_stride, const int N,
                       const int K, const int x_row, const int y_row, const int num_rows)
{
    const int n0 = (int)get_global_id(0) * TILE_COLUMNS_OF_16;
    const int block_begin = (int)get_global_id(1) * BLOCK_ROWS;
    const int block_end = min(block_begin + BLOCK_ROWS, num_rows);
    const size_t b = get_global_id(2);
    const size_t num_panels = ((size_t)N + PANEL - 1) / PANEL;
    if (n0 >= N)
        return;

#if PAIRED && PAIR_F8
    const size_t num_pairs = ((size_t)K + 1) / 2, w_stride = PANEL, columns = num_panels * PANEL;
    const size_t num_scales = ((size_t)K + FP8_GROUP - 1) / FP8_GROUP * columns;
    global const float *scales =
        (global const float *)W + w_offset + b * (num_scales + columns * num_pairs / 2);
    global const ushort *w_tile = (global const ushort *)(scales + num_scales) +
                                  (size_t)n0 / PANEL * num_pairs * PANEL + (size_t)n0 % PANEL;
#elif PAIRED
    const size_t num_pairs = ((size_t)K + 1) / 2, w_stride = PANEL;
    const size_t panel = b * num_panels + (size_t)n0 / PANEL;
    global const uint *w_tile = W + w_offset + panel * num_pairs * PANEL + (size_t)n0 % PANEL;
#else
    const size_t w_stride = num_panels * PANEL;
    global const float *w_tile = W + w_offset + b * (size_t)K * w_stride + (size_t)n0;
#endif
    global const STORAGE(X_DTYPE) *x_b = x + x_offset + b * x_batch_stride;
    global STORAGE(Y_DTYPE) *y_b = y + y_offset + b * y_batch_stride;

#if PAIRED && PAIR_F8
    floatv sums[BLOCK_ROWS][TILE_VECTORS], weights[CHUNK_K][TILE_VECTORS];
    for (int k0 = 0; k0 < K; k0 += CHUNK_K) {
        const int count = min(CHUNK_K, K - k0);
        floatv scale[TILE_VECTORS];
        UNROLL
        for (int j = 0; j < TILE_VECTORS; j++)
            scale[j] = VLOADV(j, scales + (size_t)(k0 / FP8_GROUP) * columns + n0);
        for (int k = 0; k < count; k += 2, w_tile += w_stride) {
            UNROLL
            for (int j = 0; j < TILE_VECTORS; j++)
                unpack_pairs(w_tile + VECTOR_WIDTH * j, scale[j], &weights[k][j],
                             &weights[k + 1][j]);
        }

        for (int m0 = block_begin; m0 < block_end; m0 += TILE_ROWS) {
            floatv sum[TILE_ROWS][TILE_VECTORS];
            float x_chunk[TILE_ROWS][CHUNK_K];
            floatv(*waiting)[TILE_VECTORS] = sums + (m0 - block_begin);
            ZERO_SUMS
            UNROLL
            for (int i = 0; i < TILE_ROWS; i++) {
                const int m = x_row + min(m0 + i, num_rows - 1);
                widen_row(x_b, (size_t)m * x_row_stride + (size_t)k0, count, x_chunk[i]);
                UNROLL
                for (int j = 0; j < TILE_VECTORS && k0 > 0; j++)
                    sum[i][j] = waiting[i][j];
            }
            for (int k = 0; k < count; k++)
                ADD_PRODUCTS(k, weights[k])
            UNROLL
            for (int i = 0; i < TILE_ROWS; i++) {
                UNROLL
                for (int j = 0; j < TILE_VECTORS; j++)
                    waiting[i][j] = sum[i][j];
            }
        }
    }
    for (int m = block_begin; m < block_end; m++)
        store_row(sums[m - block_begin], y_b, (size_t)(y_row + m) * y_row_stride, n0, N);
#else
    for (int m0 = block_begin; m0 < block_end; m0 += TILE_ROWS) {
        floatv sum[TILE_ROWS][TILE_VECTORS];
        float x_chunk[TILE_ROWS][CHUNK_K];
        ZERO_SUMS

        for (int k0 = 0; k0 < K; k0 += CHUNK_K) {
            const int count = min(CHUNK_K, K - k0);
            UNROLL
            for (int i = 0; i < TILE_ROWS; i++) {
                const int m = x_row + min(m0 + i, num_rows - 1);
                widen_row(x_b, (size_t)m * x_row_stride + (size_t)k0, count, x_chunk[i]);
            }
#if PAIRED
            global const packed_pair *w = w_tile + (size_t)(k0 / 2) * w_stride;
            for (int k = 0; k + 1 < count; k += 2, w += w_stride) {
                floatv even[TILE_VECTORS], odd[TILE_VECTORS];
                UNROLL
                for (int j = 0; j < TILE_VECTORS; j++)
                    unpack_pairs(w + VECTOR_WIDTH * j, &even[j], &odd[j]);
                ADD_PRODUCTS(k, even)
                ADD_PRODUCTS(k + 1, odd)
            }
            if (count % 2 != 0) {
                floatv even[TILE_VECTORS], odd[TILE_VECTORS];
                UNROLL
                for (int j = 0; j < TILE_VECTORS; j++)
                    unpack_pairs(w + VECTOR_WIDTH * j, &even[j], &odd[j]);
                ADD_PRODUCTS(count - 1, even)
            }
#else
            global const float *w = w_tile + (size_t)k0 * w_stride;
            for (int k = 0; k < count; k++, w += w_stride) {
                floatv column[TILE_VECTORS];
                UNROLL
                for (int j = 0; j < TILE_VECTORS; j++)
                    column[j] = VLOADV(j, w);
                ADD_PRODUCTS(k, column)
            }
#endif
        }

        UNROLL
        for (int i = 0; i < TILE_ROWS; i++) {
            if (m0 + i < num_rows)
                store_row(sum[i], y_b, (size_t)(y_row + m0 + i) * y_row_stride, n0, N);
        }
    }
#endif
}
