/*
 * y[m, b, n] = Σ_k x[m, b, k] · W[b, n, k]           class gpu, at most TILE_ROWS rows
 *
 *   x   [rows, B, K]   X_DTYPE; rows x_row .. x_row + num_rows - 1 are read
 *   W   packed as src/ops/matrix.h says
 *   y   [rows, B, N]   Y_DTYPE; rows y_row .. y_row + num_rows - 1 are written
 *
 * For decoding: with so few rows the weights pass once and the bytes of W are the work, so all
 * work-items of a group read weights, and k is shared among them as well as n.
 *
 * One work-group: TILE_COLUMNS columns of one batch. One work-item: one column × one of SLICES
 * slices of k (weights.clh), all rows: neighbouring work-items read neighbouring elements of a
 * panel. They walk their slices in stages of TILE_K: weights to registers, x of all slices to local
 * memory, multiply. The slices' sums meet in local memory and are added in order: the bits of
 * projection.cl, whatever num_rows.
 *
 * Grid: (column tiles · WORK_GROUP, 1, batches), work-group {WORK_GROUP, 1, 1}. Local memory:
 * TILE_ROWS · SLICES · (TILE_K + 4 + TILE_COLUMNS) floats. Barriers: two a stage, one more.
 *
 * X_DTYPE, Y_DTYPE   bf16, f16, f32
 * ACCUMULATE         1: y += result (added in float32, rounded once), 0: y = result
 * TILE_COLUMNS       divides 64
 * and weights.clh's
 */
#define WORK_GROUP (TILE_COLUMNS * SLICES)
#define SLICE_PITCH (TILE_K + 4) /* two slices read at once lie on different banks */
#if PANEL % TILE_COLUMNS != 0
#error "a tile must not straddle panels"
#endif

kernel __attribute__((reqd_work_group_size(WORK_GROUP, 1, 1))) void
projection_stream(global const STORAGE(X_DTYPE) * x, const ulong x_offset, const ulong x_row_stride,
                  const ulong x_batch_stride, global const packed_weight *W, const ulong w_offset,
                  global STORAGE(Y_DTYPE) * y, const ulong y_offset, const ulong y_row_stride,
                  const ulong y_batch_stride, const int N, const int K, const int x_row,
                  const int y_row, const int num_rows)
{
    local float4 x_stage[TILE_ROWS][SLICES][SLICE_PITCH / 4];
    local float partial[TILE_ROWS][SLICES][TILE_COLUMNS];

    const int item = (int)get_local_id(0);
    const int column = item % TILE_COLUMNS, slice = item / TILE_COLUMNS;
    const int n0 = (int)get_group_id(0) * TILE_COLUMNS;
    const size_t b = get_group_id(2);
    const int slice_k = slice_length(K);
    const int num_stages = num_rows > 0 ? slice_k / TILE_K : 0;
    weight_column w_column;
    find_column(W, w_offset, b, (size_t)(n0 + column), N, K, &w_column);
    global const STORAGE(X_DTYPE) *x_rows =
        x + x_offset + b * x_batch_stride + (size_t)x_row * x_row_stride;
    global STORAGE(Y_DTYPE) *y_rows =
        y + y_offset + b * y_batch_stride + (size_t)y_row * y_row_stride + (size_t)n0;

    float sum[TILE_ROWS];
    UNROLL
    for (int m = 0; m < TILE_ROWS; m++)
        sum[m] = 0.0f;

    for (int stage = 0; stage < num_stages; stage++) {
        float2 w[TILE_K / 2];
        UNROLL
        for (int i = 0; i < TILE_K / 2; i++)
            w[i] = weight_pair(&w_column, 0, slice * slice_k + stage * TILE_K + 2 * i, K);
        for (int e = item; e < num_rows * SLICES * TILE_K; e += WORK_GROUP) {
            const int m = e / (SLICES * TILE_K), s = e / TILE_K % SLICES, i = e % TILE_K;
            const int k = s * slice_k + stage * TILE_K + i;
            ((local float *)x_stage[m][s])[i] =
                k < K ? LOAD(X_DTYPE, x_rows, (size_t)m * x_row_stride + (size_t)k) : 0.0f;
        }
        barrier(CLK_LOCAL_MEM_FENCE);

        UNROLL
        for (int m = 0; m < TILE_ROWS; m++) {
            if (m >= num_rows)
                continue;
            UNROLL
            for (int i = 0; i < TILE_K / 4; i++)
                sum[m] = add_products(x_stage[m][slice][i], w[2 * i], w[2 * i + 1], sum[m]);
        }
        barrier(CLK_LOCAL_MEM_FENCE);
    }

    UNROLL
    for (int m = 0; m < TILE_ROWS; m++)
        partial[m][slice][column] = sum[m];
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int e = item; e < num_rows * TILE_COLUMNS; e += WORK_GROUP) {
        const int m = e / TILE_COLUMNS, n = e % TILE_COLUMNS;
        const size_t at = (size_t)m * y_row_stride + (size_t)n;
        float total = 0.0f;
        for (int s = 0; s < SLICES; s++)
            total += partial[m][s][n];
        if (n0 + n >= N)
            continue;
#if ACCUMULATE
        total += LOAD(Y_DTYPE, y_rows, at);
#endif
        STORE(Y_DTYPE, total, y_rows, at);
    }
}
