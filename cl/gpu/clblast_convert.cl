/*
 * Between the library's tensors and the float32 matrices that CLBlast's SGEMM multiplies:
 *
 *   x_slab [batches][K_pad][M_pad] = x, transposed     zero for m >= num_rows, k >= K
 *   w_slab [batches][K_pad][columns] = W, widened      zero for k >= K; padding of a panel is zero
 *   y      = y_slab [batches][M_pad][columns]          or y += y_slab
 *
 *   m row < num_rows, k input feature < K, n output feature; W packed as src/ops/matrix.h says.
 *
 * Classes gpu and nvidia. Three kernels; a work-item is described at each. Any work-group whose
 * first dimension runs along the contiguous index of what is written. No local memory, no barrier.
 *
 * X_DTYPE, Y_DTYPE   bf16, f16, f32
 * PAIR_F16           1: W's pairs are f16, 0: bf16
 * ACCUMULATE         1: y += result (added in float32, rounded once), 0: y = result
 * ITEM_K             input features per work-item of convert_x
 */

/* One work-item: row m of the slab, ITEM_K input features: short contiguous reads, and writes that
 * are contiguous across the work-group. */
kernel void convert_x(global const STORAGE(X_DTYPE) * x, const ulong x_offset,
                      const ulong x_row_stride, const ulong x_batch_stride, global float *x_slab,
                      const int K, const int K_pad, const int batch_begin, const int x_row,
                      const int num_rows, const int M_pad)
{
    const int m = (int)get_global_id(0);
    const int k_begin = (int)get_global_id(1) * ITEM_K;
    const size_t b = get_global_id(2);
    if (m >= M_pad)
        return;
    const size_t row =
        x_offset + (size_t)(x_row + m) * x_row_stride + ((size_t)batch_begin + b) * x_batch_stride;
    for (int k = k_begin; k < min(k_begin + ITEM_K, K_pad); k++) {
        const bool inside = m < num_rows && k < K;
        x_slab[(b * (size_t)K_pad + (size_t)k) * (size_t)M_pad + (size_t)m] =
            inside ? LOAD(X_DTYPE, x, row + (size_t)k) : 0.0f;
    }
}

/* One work-item: column n of the slab, one pair of input features. column_begin and columns are
 * multiples of 64. */
kernel void widen_w(global const uint *W, const ulong w_offset, const int num_panels,
                    global float *w_slab, const int K, const int K_pad, const int batch_begin,
                    const int column_begin, const int columns)
{
    const int n = (int)get_global_id(0);
    const int pair = (int)get_global_id(1);
    const size_t b = get_global_id(2);
    if (n >= columns || 2 * pair >= K_pad)
        return;
    const size_t num_pairs = ((size_t)K + 1) / 2;
    const size_t panel =
        ((size_t)batch_begin + b) * (size_t)num_panels + (size_t)(column_begin + n) / PANEL;
    const size_t at = w_offset + (panel * num_pairs + (size_t)pair) * PANEL + (size_t)n % PANEL;
    float2 w = (float2)(0.0f);
    if ((size_t)pair < num_pairs) {
#if PAIR_F16
        w = vload_half2(at, (global const half *)W);
#else
        w = (float2)(as_float(W[at] << 16), as_float(W[at] & 0xffff0000u));
#endif
    }
    const size_t to = (b * (size_t)K_pad + 2 * (size_t)pair) * (size_t)columns + (size_t)n;
    w_slab[to] = w.x;
    w_slab[to + (size_t)columns] = w.y;
}

/* One work-item: one element of y. */
kernel void convert_y(global STORAGE(Y_DTYPE) * y, const ulong y_offset, const ulong y_row_stride,
                      const ulong y_batch_stride, global const float *y_slab, const int N,
                      const int batch_begin, const int y_row, const int num_rows, const int M_pad,
                      const int column_begin, const int columns)
{
    const int n = (int)get_global_id(0);
    const size_t m = get_global_id(1);
    const size_t b = get_global_id(2);
    if (n >= columns || column_begin + n >= N || m >= (size_t)num_rows)
        return;
    float value = y_slab[(b * (size_t)M_pad + m) * (size_t)columns + (size_t)n];
    const size_t at = y_offset + ((size_t)y_row + m) * y_row_stride +
                      ((size_t)batch_begin + b) * y_batch_stride + (size_t)(column_begin + n);
#if ACCUMULATE
    value += LOAD(Y_DTYPE, y, at);
#endif
    STORE(Y_DTYPE, value, y, at);
}
