/*
 * y[m, b, n] = Σ_k x[m, b, k] · W[b, n, k]           class gpu
 *
 *   x   [rows, B, K]   X_DTYPE; rows x_row .. x_row + num_rows - 1 are read
 *   W   packed as src/ops/matrix.h says, W_DTYPE
 *   y   [rows, B, N]   Y_DTYPE; rows y_row .. y_row + num_rows - 1 are written
 *
 * One work-group: TILE_ROWS rows x TILE_COLUMNS columns of one batch; it walks k in stages of
 * TILE_K through local memory. One work-item: WORK_ROWS x WORK_COLUMNS of them, neighbours in the
 * group apart by one column, so that local reads and global writes of y are contiguous. Grid:
 * (column tiles · WORK_GROUP, row tiles, batches), work-group {WORK_GROUP, 1, 1}. Local memory:
 * TILE_K · (TILE_ROWS + 1 + TILE_COLUMNS) floats. Barriers: two a stage.
 *
 * Every y is one chain of fused multiply-adds over k = 0, 1, .. K - 1 from 0, then zeros up to a
 * multiple of TILE_K: with the same TILE_K a row's bits do not depend on the tile or on the number
 * of rows. Elements past K, N or the last row are loaded as zeros, so no NaN comes in from there.
 *
 * X_DTYPE, W_DTYPE, Y_DTYPE   bf16, f16, f32
 * PAIRED          1: W is 16-bit pairs, 0: W is f32
 * PAIR_F16        1: those pairs are f16, 0: bf16
 * ACCUMULATE      1: y += result (added in float32, rounded once), 0: y = result
 * TILE_ROWS       multiple of WORK_ROWS
 * TILE_COLUMNS    multiple of WORK_COLUMNS, divides 64
 * TILE_K          even
 */
#define GROUP_ROWS (TILE_ROWS / WORK_ROWS)          /* work-items along m */
#define GROUP_COLUMNS (TILE_COLUMNS / WORK_COLUMNS) /* work-items along n */
#define WORK_GROUP (GROUP_ROWS * GROUP_COLUMNS)
#if TILE_ROWS % WORK_ROWS != 0 || TILE_COLUMNS % WORK_COLUMNS != 0
#error "work-items must divide the tile"
#endif
#if PANEL % TILE_COLUMNS != 0
#error "a tile must not straddle panels"
#endif
#if TILE_K % 2 != 0
#error "TILE_K must be even: a stage holds whole pairs"
#endif

#if PAIRED && PAIR_F16
CLMLA_INLINE float2 unpack_pair(global const uint *w, size_t i)
{
    return vload_half2(i, (global const half *)w);
}
#elif PAIRED
CLMLA_INLINE float2 unpack_pair(global const uint *w, size_t i)
{
    return (float2)(as_float(w[i] << 16), as_float(w[i] & 0xffff0000u));
}
#endif

kernel __attribute__((reqd_work_group_size(WORK_GROUP, 1, 1))) void
projection(global const STORAGE(X_DTYPE) * x, const ulong x_offset, const ulong x_row_stride,
           const ulong x_batch_stride,
#if PAIRED
           global const uint *W,
#else
           global const float *W,
#endif
           const ulong w_offset, global STORAGE(Y_DTYPE) * y, const ulong y_offset,
           const ulong y_row_stride, const ulong y_batch_stride, const int N, const int K,
           const int x_row, const int y_row, const int num_rows)
{
    local float x_stage[TILE_K][TILE_ROWS + 1]; /* + 1: writes along k fall on different banks */
    local float w_stage[TILE_K][TILE_COLUMNS];

    const int item = (int)get_local_id(0);
    const int item_row = item / GROUP_COLUMNS, item_column = item % GROUP_COLUMNS;
    const int n0 = (int)get_group_id(0) * TILE_COLUMNS;
    const int m0 = (int)get_group_id(1) * TILE_ROWS;
    const size_t b = get_group_id(2);
    const size_t num_panels = ((size_t)N + PANEL - 1) / PANEL;
    if (m0 >= num_rows || n0 >= N) /* the same for the whole group */
        return;

#if PAIRED
    const size_t num_pairs = ((size_t)K + 1) / 2;
    const size_t panel = b * num_panels + (size_t)n0 / PANEL;
    global const uint *w_tile = W + w_offset + panel * num_pairs * PANEL + (size_t)n0 % PANEL;
#else
    const size_t w_stride = num_panels * PANEL;
    global const float *w_tile = W + w_offset + b * (size_t)K * w_stride + (size_t)n0;
#endif
    global const STORAGE(X_DTYPE) *x_tile =
        x + x_offset + b * x_batch_stride + (size_t)(x_row + m0) * x_row_stride;
    global STORAGE(Y_DTYPE) *y_tile =
        y + y_offset + b * y_batch_stride + (size_t)(y_row + m0) * y_row_stride + (size_t)n0;

    float sum[WORK_ROWS][WORK_COLUMNS];
    UNROLL
    for (int i = 0; i < WORK_ROWS; i++) {
        UNROLL
        for (int j = 0; j < WORK_COLUMNS; j++)
            sum[i][j] = 0.0f;
    }

    for (int k0 = 0; k0 < K; k0 += TILE_K) {
        /* x[m0 .., k0 ..], neighbours along k */
        for (int e = item; e < TILE_ROWS * TILE_K; e += WORK_GROUP) {
            const int m = e / TILE_K, k = e % TILE_K;
            const bool inside = m0 + m < num_rows && k0 + k < K;
            x_stage[k][m] =
                inside ? LOAD(X_DTYPE, x_tile, (size_t)m * x_row_stride + (size_t)(k0 + k)) : 0.0f;
        }
        /* W[n0 .., k0 ..], neighbours along n; padded columns hold zeros */
#if PAIRED
        for (int e = item; e < TILE_COLUMNS * (TILE_K / 2); e += WORK_GROUP) {
            const int n = e % TILE_COLUMNS, pair = e / TILE_COLUMNS;
            const size_t at = (size_t)(k0 / 2 + pair) * PANEL + (size_t)n;
            const float2 w = k0 + 2 * pair < K ? unpack_pair(w_tile, at) : (float2)(0.0f);
            w_stage[2 * pair][n] = w.x;
            w_stage[2 * pair + 1][n] = w.y;
        }
#else
        for (int e = item; e < TILE_COLUMNS * TILE_K; e += WORK_GROUP) {
            const int n = e % TILE_COLUMNS, k = e / TILE_COLUMNS;
            w_stage[k][n] = k0 + k < K ? w_tile[(size_t)(k0 + k) * w_stride + (size_t)n] : 0.0f;
        }
#endif
        barrier(CLK_LOCAL_MEM_FENCE);

        for (int k = 0; k < TILE_K; k++) {
            float w[WORK_COLUMNS];
            UNROLL
            for (int j = 0; j < WORK_COLUMNS; j++)
                w[j] = w_stage[k][item_column + j * GROUP_COLUMNS];
            UNROLL
            for (int i = 0; i < WORK_ROWS; i++) {
                const float value = x_stage[k][item_row + i * GROUP_ROWS];
                UNROLL
                for (int j = 0; j < WORK_COLUMNS; j++)
                    sum[i][j] = fma(value, w[j], sum[i][j]);
            }
        }
        barrier(CLK_LOCAL_MEM_FENCE);
    }

    UNROLL
    for (int i = 0; i < WORK_ROWS; i++) {
        const int m = item_row + i * GROUP_ROWS;
        UNROLL
        for (int j = 0; j < WORK_COLUMNS; j++) {
            const int n = item_column + j * GROUP_COLUMNS;
            if (m0 + m < num_rows && n0 + n < N) {
                const size_t at = (size_t)m * y_row_stride + (size_t)n;
#if ACCUMULATE
                sum[i][j] += LOAD(Y_DTYPE, y_tile, at);
#endif
                STORE(Y_DTYPE, sum[i][j], y_tile, at);
            }
        }
    }
}
