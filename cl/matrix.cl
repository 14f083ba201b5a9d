/*
 * Packing of weight matrices and vectors into the layouts of src/ops/matrix.h.
 *
 *   bf16, f16   packed[b][n / 64][k / 2][n % 64][k % 2]     zero for n >= N, k >= K
 *   f8_e4m3     codes alike, behind the scales of each batch, which the host writes before; here a
 *               column's becomes NaN where one of its codes is
 *   f32         packed[b][k][n], rows of N_pad elements     zero for n >= N
 *
 *   b batch, n output feature < N, k input feature < K; N_pad = N rounded up to 64.
 *
 * One launch packs a slab: features [n_begin, n_begin + n_count) x [k_begin, k_begin + k_count) of
 * some batches. source points at its first element. A slab begins at a multiple of 64 in n and of 2
 * in k; n_count and k_count include the padding that the slab's edge has to zero.
 * One work-item: one feature n, ITEM_K input features. Any work-group. No local memory, no barrier.
 *
 * SOURCE_DTYPE   bf16, f16, f32; f8_e4m3
 * W_DTYPE        bf16, f16, f32: storage; f8_e4m3 where the source is
 * PAIRED         1: layout of pairs, 0: f32 layout
 * CODES          1: W_DTYPE is f8_e4m3: codes are copied
 * ITEM_K         input features per work-item, even
 */
#ifndef ITEM_K
#define ITEM_K 16
#endif
#if ITEM_K % 2 != 0
#error "ITEM_K must be even: a work-item writes whole pairs"
#endif

CLMLA_INLINE size_t packed_index(size_t b, size_t n, size_t k, size_t N_pad, size_t K)
{
#if PAIRED
    const size_t pairs = (K + 1) / 2;
#if CODES
    const size_t scales = (K + FP8_GROUP - 1) / FP8_GROUP * N_pad * sizeof(float);
    return b * (scales + N_pad * pairs * 2) + scales +
           ((n / PANEL * pairs + k / 2) * PANEL + n % PANEL) * 2 + k % 2;
#endif
    return (((b * (N_pad / PANEL) + n / PANEL) * pairs + k / 2) * PANEL + n % PANEL) * 2 + k % 2;
#else
    return (b * K + k) * N_pad + n;
#endif
}

#if CODES
/* A NaN among a column's FP8_GROUP codes makes their scale one. Work-items may write the same word,
 * all of them the same. */
CLMLA_INLINE void spread_nan(global uchar *packed, const uchar code, size_t b, size_t n, size_t k,
                             size_t N_pad, size_t K)
{
    const size_t groups = (K + FP8_GROUP - 1) / FP8_GROUP;
    const size_t batch = N_pad * (groups * sizeof(float) + (K + 1) / 2 * 2);
    if ((code & 0x7f) == 0x7f)
        ((global float *)(packed + b * batch))[k / FP8_GROUP * N_pad + n] = NAN;
}
#endif

kernel void matrix_pack(global const STORAGE(SOURCE_DTYPE) * source, const ulong source_offset,
                        const ulong batch_stride, const ulong n_stride, const ulong k_stride,
                        global STORAGE(W_DTYPE) * packed, const ulong packed_offset, const int N,
                        const int K, const int batch_begin, const int n_begin, const int n_count,
                        const int k_begin, const int k_count)
{
    const int n = (int)get_global_id(0);
    const int first = (int)get_global_id(1) * ITEM_K;
    const size_t b = get_global_id(2);
    if (n >= n_count)
        return;

    const size_t N_pad = ((size_t)N + PANEL - 1) / PANEL * PANEL;
    const size_t row = source_offset + b * batch_stride + (size_t)n * n_stride;
    for (int k = first; k < min(first + ITEM_K, k_count); k++) {
        const bool inside = n_begin + n < N && k_begin + k < K;
        const size_t at = packed_index((size_t)batch_begin + b, (size_t)(n_begin + n),
                                       (size_t)(k_begin + k), N_pad, (size_t)K);
#if CODES
        const uchar code = inside ? source[row + (size_t)k * k_stride] : 0;
        packed[packed_offset + at] = code;
        spread_nan(packed + packed_offset, code, (size_t)batch_begin + b, (size_t)(n_begin + n),
                   (size_t)(k_begin + k), N_pad, (size_t)K);
#else
        const float value = inside ? LOAD(SOURCE_DTYPE, source, row + (size_t)k * k_stride) : 0.0f;
        STORE(W_DTYPE, value, packed, packed_offset + at);
#endif
    }
}

#if !CODES
/* y[i] = x[i] as float32. One work-item: one element. */
kernel void vector_pack(global const STORAGE(SOURCE_DTYPE) * x, const ulong x_offset,
                        global float *y, const ulong y_offset, const int num)
{
    const size_t i = get_global_id(0);
    if (i < (size_t)num)
        y[y_offset + i] = LOAD(SOURCE_DTYPE, x, x_offset + i);
}
#endif
