/*
 * Between the library's tensors and the float32 matrices that CLBlast's SGEMM multiplies, class cpu:
 * gpu/clblast_convert.cl says what x_slab, w_slab and y_slab hold, and the two files' kernels have
 * the same arguments.
 *
 * A work-item takes what a core's vectors and prefetchers like, a long run in vectors of 16, and a
 * matrix makes several work-items per core. Work-groups of one. No local memory, no barrier.
 *
 * X_DTYPE, Y_DTYPE   bf16, f16, f32
 * PAIR_F16           1: W's pairs are f16, 0: bf16
 * ACCUMULATE         1: y += result (added in float32, rounded once), 0: y = result
 * ITEM_K             input features per work-item of convert_x, a multiple of 16
 * ITEM_PAIRS         pairs of input features per work-item of widen_w
 * ITEM_COLUMNS       output features per work-item of convert_y, a multiple of 16
 */
#if ITEM_K % 16 != 0 || ITEM_COLUMNS % 16 != 0
#error "ITEM_K and ITEM_COLUMNS must be multiples of 16"
#endif

#define ITEM_ROWS 8 /* of convert_x; M_pad is a multiple of it */

/* to[k][m] = rows[m][k]: 16 rows of `pitch` elements. */
CLMLA_INLINE void store_transposed(const float16 *rows, global float *to, const size_t pitch)
{
#define STORE_K(k, lane)                                                                           \
    vstore8((float8)(rows[0].lane, rows[1].lane, rows[2].lane, rows[3].lane, rows[4].lane,         \
                     rows[5].lane, rows[6].lane, rows[7].lane),                                    \
            0, to + (k)*pitch)
    STORE_K(0, s0);
    STORE_K(1, s1);
    STORE_K(2, s2);
    STORE_K(3, s3);
    STORE_K(4, s4);
    STORE_K(5, s5);
    STORE_K(6, s6);
    STORE_K(7, s7);
    STORE_K(8, s8);
    STORE_K(9, s9);
    STORE_K(10, sa);
    STORE_K(11, sb);
    STORE_K(12, sc);
    STORE_K(13, sd);
    STORE_K(14, se);
    STORE_K(15, sf);
#undef STORE_K
}

/* One work-item: rows m .. m + 7 of the slab, ITEM_K input features. */
kernel __attribute__((reqd_work_group_size(1, 1, 1))) void
convert_x(global const STORAGE(X_DTYPE) * x, const ulong x_offset, const ulong x_row_stride,
          const ulong x_batch_stride, global float *x_slab, const int K, const int K_pad,
          const int batch_begin, const int x_row, const int num_rows, const int M_pad)
{
    const int m = (int)get_global_id(0) * ITEM_ROWS;
    const int k_begin = (int)get_global_id(1) * ITEM_K, k_end = min(k_begin + ITEM_K, K_pad);
    const size_t b = get_global_id(2);
    const int whole = k_begin + max(min(k_end, K) - k_begin, 0) / 16 * 16;
    global const STORAGE(X_DTYPE) *from = x + x_offset + (size_t)(x_row + m) * x_row_stride +
                                          ((size_t)batch_begin + b) * x_batch_stride;
    global float *to = x_slab + b * (size_t)K_pad * (size_t)M_pad + (size_t)m;

    for (int k = k_begin; k < whole; k += 16) {
        float16 rows[ITEM_ROWS];
        UNROLL
        for (int r = 0; r < ITEM_ROWS; r++)
            rows[r] = m + r < num_rows ? LOAD16(X_DTYPE, from, (size_t)r * x_row_stride + (size_t)k)
                                       : (float16)(0.0f);
        store_transposed(rows, to + (size_t)k * (size_t)M_pad, (size_t)M_pad);
    }
    for (int k = whole; k < k_end; k++) {
        for (int r = 0; r < ITEM_ROWS; r++) {
            const bool inside = m + r < num_rows && k < K;
            to[(size_t)k * (size_t)M_pad + (size_t)r] =
                inside ? LOAD(X_DTYPE, from, (size_t)r * x_row_stride + (size_t)k) : 0.0f;
        }
    }
}

/* Sixteen pairs: even and odd input feature. */
CLMLA_INLINE void widen_16_pairs(global const uint *pairs, float16 *even, float16 *odd)
{
#if PAIR_F16
    const float16 first = vload_half16(0, (global const half *)pairs);
    const float16 second = vload_half16(0, (global const half *)(pairs + 8));
    *even = join_to_16(first.even, second.even);
    *odd = join_to_16(odd_lanes(first), odd_lanes(second));
#else
    const uint16 bits = vload16(0, pairs);
    *even = as_float16(bits << 16);
    *odd = as_float16(bits & 0xffff0000u);
#endif
}

/* One work-item: a panel of 64 columns, ITEM_PAIRS pairs of input features, which lie one after
 * another in W. column_begin and columns are multiples of 64. */
kernel __attribute__((reqd_work_group_size(1, 1, 1))) void
widen_w(global const uint *W, const ulong w_offset, const int num_panels, global float *w_slab,
        const int K, const int K_pad, const int batch_begin, const int column_begin,
        const int columns)
{
    const size_t n = get_global_id(0) * PANEL;
    const int first = (int)get_global_id(1) * ITEM_PAIRS;
    const int end = min(first + ITEM_PAIRS, K_pad / 2);
    const size_t b = get_global_id(2);
    const int num_pairs = (K + 1) / 2;
    const size_t panel =
        ((size_t)batch_begin + b) * (size_t)num_panels + ((size_t)column_begin + n) / PANEL;
    global const uint *from = W + w_offset + panel * (size_t)num_pairs * PANEL;
    global float *to = w_slab + b * (size_t)K_pad * (size_t)columns + n;

    for (int pair = first; pair < end; pair++) {
        global float *even_row = to + 2 * (size_t)pair * (size_t)columns;
        UNROLL
        for (int c = 0; c < PANEL; c += 16) {
            float16 even = 0.0f, odd = 0.0f;
            if (pair < num_pairs)
                widen_16_pairs(from + (size_t)pair * PANEL + c, &even, &odd);
            vstore16(even, 0, even_row + c);
            vstore16(odd, 0, even_row + columns + c);
        }
    }
}

/* One work-item: one row of y, ITEM_COLUMNS output features. */
kernel __attribute__((reqd_work_group_size(1, 1, 1))) void
convert_y(global STORAGE(Y_DTYPE) * y, const ulong y_offset, const ulong y_row_stride,
          const ulong y_batch_stride, global const float *y_slab, const int N,
          const int batch_begin, const int y_row, const int num_rows, const int M_pad,
          const int column_begin, const int columns)
{
    const int begin = (int)get_global_id(0) * ITEM_COLUMNS;
    const size_t m = get_global_id(1);
    const size_t b = get_global_id(2);
    const int inside = m < (size_t)num_rows ? min(columns, N - column_begin) : 0;
    const int end = min(begin + ITEM_COLUMNS, inside);
    global const float *from = y_slab + (b * (size_t)M_pad + m) * (size_t)columns;
    global STORAGE(Y_DTYPE) *to = y + y_offset + ((size_t)y_row + m) * y_row_stride +
                                  ((size_t)batch_begin + b) * y_batch_stride + (size_t)column_begin;
    int n = begin;
    for (; n + 16 <= end; n += 16) {
        float16 value = vload16(0, from + n);
#if ACCUMULATE
        value += LOAD16(Y_DTYPE, to, n);
#endif
        STORE16(Y_DTYPE, value, to, n);
    }
    for (; n < end; n++) {
        float value = from[n];
#if ACCUMULATE
        value += LOAD(Y_DTYPE, to, n);
#endif
        STORE(Y_DTYPE, value, to, n);
    }
}
