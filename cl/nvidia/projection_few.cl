/*
 * A projection of few rows on tensor cores: projection_few.clh, a launch of its own. Rows x_row ..
 * x_row + num_rows - 1 of x are read, y_row .. of y are written, [rows, B, K] and [rows, B, N]. Grid:
 * (column tiles · work-items, row blocks, batches), work-group {32 · SLICES, 1, 1}.
 *
 * Y_DTYPE        bf16, f32
 * Y2_DTYPE       bf16, f32: y2's where SECOND is 1 (projection.clh), else any
 * ACCUMULATE     1: y += result, 0: y = result
 * TILE_ROWS, TILE_COLUMNS and SLICES, the number of slices of k and of warps: projection_few.clh
 */
#define IS_FLOAT(dtype) (sizeof(STORAGE(dtype)) == 4)

kernel __attribute__((reqd_work_group_size(32 * SLICES, 1, 1))) void
projection_few(global const ushort *x, const ulong x_offset, const ulong x_row_stride,
               const ulong x_batch_stride, global const uint *W, const ulong w_offset,
               global STORAGE(Y_DTYPE) * y, const ulong y_offset, const ulong y_row_stride,
               const ulong y_batch_stride, const int N, const int K, const int x_row,
               const int y_row, const int num_rows SECOND_PARAMS)
{
    local float4 partial[FEW_PARTIAL_BYTES(SLICES) / 16];
    WARP_BEGIN(w, 32 * SLICES);
    const few_product product = {
        .x = x + x_offset + (size_t)x_row * x_row_stride,
        .x_row_stride = x_row_stride,
        .x_batch_stride = x_batch_stride,
        .W = W + w_offset,
        .K = num_rows > 0 ? K : 0, /* warming up: nothing to walk through */
        .num_rows = num_rows,
        .slices = SLICES,
        .accumulate = ACCUMULATE,
        .first = {.y = y + y_offset + (size_t)y_row * y_row_stride,
                  .is_float = IS_FLOAT(Y_DTYPE),
                  .row_stride = y_row_stride,
                  .batch_stride = y_batch_stride,
                  .columns = N},
#if SECOND
        .second = {.y = y2 + y2_offset + (size_t)y_row * y2_row_stride,
                   .is_float = IS_FLOAT(Y2_DTYPE),
                   .row_stride = y2_row_stride,
                   .columns = N2},
#endif
    };
    project_few(&product, &w, (int)get_group_id(0), (int)get_group_id(1), get_group_id(2),
                (local float *)partial);
}
