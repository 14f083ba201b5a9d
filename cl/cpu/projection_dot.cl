/*
 * y[m, b, n] = Σ_k x[m, b, k] · W[b, n, k]           class cpu, x and W bf16, AVX512_BF16
 *
 *   x   [rows, B, K]   bf16; rows x_row .. x_row + num_rows - 1 are read
 *   W   bf16, packed as src/ops/matrix.h says: the pairs that vdpbf16ps multiplies
 *   y   [rows, B, N]   Y_DTYPE; rows y_row .. y_row + num_rows - 1 are written
 *
 * The twin of projection.cl for processors with AVX512_BF16: one instruction multiplies sixteen
 * columns' pairs of k with a pair of x and adds both products. Work-items, grid and tiles are
 * projection.cl's. Pairs of x are broadcast from x itself: with up to four rows of it and whole
 * panels of W, a copy of x costs more than it saves.
 *
 * vdpbf16ps (Intel SDM, vol. 2) adds the product of the odd k's, then that of the even k's, each as
 * a fused multiply-add in float32 rounded to nearest even, with subnormal operands and results taken
 * as zero. So every y is one chain of fused multiply-adds over k = 1, 0, 3, 2, .. from 0, whatever
 * the tile: a row's bits do not depend on the number of rows or on its place among them.
 * Rows past the end are computed as copies of the last row and not stored. The odd last k is a pair
 * with a zero from here, since beyond the row's end x may be NaN, and with a zero of W's padding.
 *
 * Y_DTYPE, ACCUMULATE, TILE_ROWS, TILE_VECTORS, BLOCK_ROWS   as projection.clh says
 */

/* sum[c] + w[c].odd · x.odd + w[c].even · x.even. Assembly, since PoCL compiles for a processor
 * without AVX512_BF16 (skylake-avx512) and then knows no builtin for it. */
CLMLA_INLINE float16 dot_pairs(float16 sum, uint16 w, uint x)
{
    const uint16 pairs = (uint16)(x);
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(w), "v"(pairs));
    return sum;
}

/* One row of x is over before the processor's own prefetching has caught up with W: 8 KiB ahead into
 * L1 and 64 KiB ahead into L2 is 5 to 15 % faster than nothing, either alone less. Four rows to a
 * tile gain nothing. The addresses may lie past W: a prefetch does not fault. */
#if TILE_ROWS == 1
#define PREFETCH_WEIGHTS(j)                                                                        \
    __asm__ volatile("prefetcht0 %0; prefetcht1 %1"                                                \
                     :                                                                             \
                     : "m"(w[16 * (j) + 2048]), "m"(w[16 * (j) + 16384]))
#else
#define PREFETCH_WEIGHTS(j)
#endif

/* sum[i][j] of one pair: w its row of W, X_PAIR(i) row i's pair of x. */
#define ADD_PAIRS(X_PAIR)                                                                          \
    {                                                                                              \
        uint16 weights[TILE_VECTORS];                                                              \
        UNROLL                                                                                     \
        for (int j = 0; j < TILE_VECTORS; j++) {                                                   \
            PREFETCH_WEIGHTS(j);                                                                   \
            weights[j] = vload16(j, w);                                                            \
        }                                                                                          \
        UNROLL                                                                                     \
        for (int i = 0; i < TILE_ROWS; i++) {                                                      \
            UNROLL                                                                                 \
            for (int j = 0; j < TILE_VECTORS; j++)                                                 \
                sum[i][j] = dot_pairs(sum[i][j], weights[j], X_PAIR(i));                           \
        }                                                                                          \
    }
#define WHOLE_PAIR(i) as_uint(vload2(0, x_rows[i] + k))
#define LAST_ALONE(i) ((uint)x_rows[i][K - 1])

kernel void projection_dot(global const ushort *x, const ulong x_offset, const ulong x_row_stride,
                           const ulong x_batch_stride, global const uint *W, const ulong w_offset,
                           global STORAGE(Y_DTYPE) * y, const ulong y_offset,
                           const ulong y_row_stride, const ulong y_batch_stride, const int N,
                           const int K, const int x_row, const int y_row, const int num_rows)
{
    const int n0 = (int)get_global_id(0) * TILE_COLUMNS_OF_16;
    const int block_begin = (int)get_global_id(1) * BLOCK_ROWS;
    const int block_end = min(block_begin + BLOCK_ROWS, num_rows);
    const size_t b = get_global_id(2);
    const size_t num_panels = ((size_t)N + PANEL - 1) / PANEL, num_pairs = ((size_t)K + 1) / 2;
    if (n0 >= N)
        return;

    const size_t panel = b * num_panels + (size_t)n0 / PANEL;
    global const uint *w_tile = W + w_offset + panel * num_pairs * PANEL + (size_t)n0 % PANEL;
    global const ushort *x_b = x + x_offset + b * x_batch_stride;
    global STORAGE(Y_DTYPE) *y_b = y + y_offset + b * y_batch_stride;

    for (int m0 = block_begin; m0 < block_end; m0 += TILE_ROWS) {
        float16 sum[TILE_ROWS][TILE_VECTORS];
        global const ushort *x_rows[TILE_ROWS];
        UNROLL
        for (int i = 0; i < TILE_ROWS; i++) {
            x_rows[i] = x_b + (size_t)(x_row + min(m0 + i, num_rows - 1)) * x_row_stride;
            UNROLL
            for (int j = 0; j < TILE_VECTORS; j++)
                sum[i][j] = (float16)(0.0f);
        }

        global const uint *w = w_tile;
        for (int k = 0; k + 1 < K; k += 2, w += PANEL)
            ADD_PAIRS(WHOLE_PAIR)
        if (K % 2 != 0)
            ADD_PAIRS(LAST_ALONE)

        UNROLL
        for (int i = 0; i < TILE_ROWS; i++) {
            if (m0 + i < num_rows) {
                const size_t row = (size_t)(y_row + m0 + i) * y_row_stride;
                UNROLL
                for (int j = 0; j < TILE_VECTORS; j++)
                    store_columns(sum[i][j], y_b, row + (size_t)(n0 + 16 * j), N - n0 - 16 * j);
            }
        }
    }
}
