/*
 * y[m, b, n] = Σ_k x[m, b, k] · W[b, n, k]           class gpu
 *
 *   x   [rows, B, K]   X_DTYPE; rows x_row .. x_row + num_rows - 1 are read
 *   W   packed as src/ops/matrix.h says
 *   y   [rows, B, N]   Y_DTYPE; rows y_row .. y_row + num_rows - 1 are written
 *
 * One work-group: TILE_ROWS rows x TILE_COLUMNS columns of one batch; it walks k in stages of
 * TILE_K through local memory. One work-item: WORK_ROWS x WORK_COLUMNS of them, neighbours in the
 * group apart by one column, so that local reads and global writes of y are contiguous. Grid:
 * (column tiles · WORK_GROUP, row tiles, batches), work-group {WORK_GROUP, 1, 1}. Local memory:
 * TILE_K · (TILE_ROWS + 1 + TILE_COLUMNS) floats. Barriers: two a stage.
 *
 * The order of the sum is weights.clh's: a row's bits do not depend on the tile or on the number of
 * rows. Elements past K, N or the last row are loaded as zeros, so no NaN comes in from there.
 *
 * X_DTYPE, Y_DTYPE   bf16, f16, f32
 * ACCUMULATE         1: y += result (added in float32, rounded once), 0: y = result
 * TILE_ROWS          multiple of WORK_ROWS
 * TILE_COLUMNS       multiple of WORK_COLUMNS, divides 64
 * and weights.clh's
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
kernel __attribute__((reqd_work_group_size(WORK_GROUP, 1, 1))) void
projection(global const STORAGE(X_DTYPE) * x, const ulong x_offset, const ulong x_row_stride,
           const ulong x_batch_stride, global const packed_weight *W, const ulong w_offset,
           global STORAGE(Y_DTYPE) * y, const ulong y_offset, const ulong y_row_stride,
           const ulong y_batch_stride, const int N, const int K, const int x_row, const int y_row,
           const int num_rows)
{
    local float x_stage[TILE_K][TILE_ROWS + 1]; /* + 1: writes along k fall on different banks */
    local float w_stage[TILE_K][TILE_COLUMNS];

    const int item = (int)get_local_id(0);
    const int item_row = item / GROUP_COLUMNS, item_column = item % GROUP_COLUMNS;
    const int n0 = (int)get_group_id(0) * TILE_COLUMNS;
    const int m0 = (int)get_group_id(1) * TILE_ROWS;
    const size_t b = get_group_id(2);
    if (m0 >= num_rows || n0 >= N) /* the same for the whole group */
        return;

    const int slice_k = slice_length(K);
    weight_column w_tile;
    find_column(W, w_offset, b, (size_t)n0, N, K, &w_tile);
    global const STORAGE(X_DTYPE) *x_tile =
        x + x_offset + b * x_batch_stride + (size_t)(x_row + m0) * x_row_stride;
    global STORAGE(Y_DTYPE) *y_tile =
        y + y_offset + b * y_batch_stride + (size_t)(y_row + m0) * y_row_stride + (size_t)n0;

    float sum[WORK_ROWS][WORK_COLUMNS], total[WORK_ROWS][WORK_COLUMNS]; /* of a slice; of all */
    UNROLL
    for (int i = 0; i < WORK_ROWS; i++) {
        UNROLL
        for (int j = 0; j < WORK_COLUMNS; j++)
            sum[i][j] = total[i][j] = 0.0f;
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
        for (int e = item; e < TILE_COLUMNS * (TILE_K / 2); e += WORK_GROUP) {
            const int n = e % TILE_COLUMNS, k = e / TILE_COLUMNS * 2;
            const float2 w = weight_pair(&w_tile, n, k0 + k, K);
            w_stage[k][n] = w.x;
            w_stage[k + 1][n] = w.y;
        }
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
        if (k0 + TILE_K >= K || (k0 + TILE_K) % slice_k == 0) { /* the slice ends */
            UNROLL
            for (int i = 0; i < WORK_ROWS; i++) {
                UNROLL
                for (int j = 0; j < WORK_COLUMNS; j++) {
                    total[i][j] += sum[i][j];
                    sum[i][j] = 0.0f;
                }
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
                total[i][j] += LOAD(Y_DTYPE, y_tile, at);
#endif
                STORE(Y_DTYPE, total[i][j], y_tile, at);
            }
        }
    }
}
