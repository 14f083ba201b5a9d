/*
 * y[m, b, n] = Σ_g scale[b, g, n] · Σ_k∈g x[m, b, k] · code[b, n, k]    class cpu, x bf16,
 *                                                                     AVX512_BF16 and AVX512_VBMI
 *
 *   x   [rows, B, K]   bf16; rows x_row .. x_row + num_rows - 1 are read
 *   W   f8_e4m3, packed as src/ops/matrix.h says: pairs of codes, a float32 scale for every column
 *       and group g of FP8_GROUP k
 *   y   [rows, B, N]   Y_DTYPE; rows y_row .. y_row + num_rows - 1 are written
 *
 * The twin of projection_dot.cl for FP8 weights; its work-items, grid and tiles. A work-item takes
 * k group by group and multiplies all of its rows by the group's codes, TILE_ROWS at a time, then
 * adds their sums times the scales to totals. The codes are decoded to bf16, which is exact, while
 * the first rows are multiplied, and kept for the others. Private memory: the group's weights (16
 * KiB with TILE_VECTORS 4), a float32 total for every y.
 *
 * A group's sum is one chain of fused multiply-adds over k = 1, 0, 3, 2, .. from 0, as
 * projection_dot.cl has it, subnormal operands and results taken as zero; a total is one chain of
 * fma(sum, scale, total) over the groups. So a row's bits do not depend on the number of rows or on
 * its place among them. A sum of unscaled codes, up to 448, overflows sooner than their product
 * with a small scale: finite x below 2^112 never get there.
 * Rows past the end and the odd last k are as in projection_dot.cl.
 *
 * Y_DTYPE, ACCUMULATE, TILE_ROWS, TILE_VECTORS, BLOCK_ROWS   as projection.clh says
 */
#if TILE_VECTORS % 2 != 0
#error "codes are decoded for 32 columns at a time"
#endif

enum { GROUP_PAIRS = FP8_GROUP / 2 };

/* sum[c] + w[c].odd · x.odd + w[c].even · x.even; see projection_dot.cl. */
CLMLA_INLINE float16 dot_pairs(float16 sum, uint16 w, uint x)
{
    const uint16 pairs = (uint16)(x);
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(w), "v"(pairs));
    return sum;
}

/* Upper and lower byte of code 0 .. 127 in bf16: 0x7f is NaN, below 8 are multiples of 2^-9. */
typedef struct byte_tables {
    uint16 upper[2], lower[2];
} byte_tables;

CLMLA_INLINE byte_tables make_tables(void)
{
    uint upper[32], lower[32];
    UNROLL
    for (uint i = 0; i < 32; i++) {
        upper[i] = lower[i] = 0;
        UNROLL
        for (uint c = 0; c < 4; c++) {
            const uint bits = as_uint(e4m3_to_float((uchar)(4 * i + c))) >> 16;
            upper[i] |= bits >> 8 << 8 * c;
            lower[i] |= (bits & 0xffu) << 8 * c;
        }
    }
    return (byte_tables){{vload16(0, upper), vload16(1, upper)},
                         {vload16(0, lower), vload16(1, lower)}};
}

/* 64 bytes of a table of 128, at the lower 7 bits of each byte of codes. */
CLMLA_INLINE uint16 look_up(uint16 codes, const uint16 *table)
{
    __asm__("vpermi2b %2, %1, %0" : "+v"(codes) : "v"(table[0]), "v"(table[1]));
    return codes;
}

/* 32 columns' pairs of codes as pairs of bf16. What interleaves the bytes does so within quarters
 * of a vector, of eight columns each: first has the columns 0-3, 8-11, 16-19, 24-27, second the
 * rest. */
CLMLA_INLINE void decode_pairs(const uint16 codes, const byte_tables *tables, uint16 *first,
                               uint16 *second)
{
    const uint16 lower = look_up(codes, tables->lower);
    const uint16 upper = look_up(codes, tables->upper) | (codes & 0x80808080u);
    __asm__("vpunpcklbw %2, %1, %0" : "=v"(*first) : "v"(lower), "v"(upper));
    __asm__("vpunpckhbw %2, %1, %0" : "=v"(*second) : "v"(lower), "v"(upper));
}

/* 32 columns' values in that order, and back. */
CLMLA_INLINE void split_columns(float16 a, float16 b, float16 *first, float16 *second)
{
    *first = (float16)(a.s0123, a.s89ab, b.s0123, b.s89ab);
    *second = (float16)(a.s4567, a.scdef, b.s4567, b.scdef);
}
CLMLA_INLINE void join_columns(float16 first, float16 second, float16 *a, float16 *b)
{
    *a = (float16)(first.s0123, second.s0123, first.s4567, second.s4567);
    *b = (float16)(first.s89ab, second.s89ab, first.scdef, second.scdef);
}

/* One row's codes are over before the processor's own prefetching has caught up; see
 * projection_dot.cl. */
#if TILE_ROWS == 1
#define PREFETCH_CODES(j)                                                                          \
    __asm__ volatile("prefetcht0 %0; prefetcht1 %1"                                                \
                     :                                                                             \
                     : "m"(codes[16 * (j) + 4096]), "m"(codes[16 * (j) + 32768]))
#else
#define PREFETCH_CODES(j)
#endif

/* Where a row of pairs comes from: decoded for the first rows, and kept for the others. */
#define DECODE                                                                                     \
    UNROLL                                                                                         \
    for (int j = 0; j < TILE_VECTORS; j += 2) {                                                    \
        PREFETCH_CODES(j);                                                                         \
        decode_pairs(vload16(0, (global const uint *)(codes + 16 * j)), &tables, &w[j],            \
                     &w[j + 1]);                                                                   \
    }                                                                                              \
    codes += PANEL;                                                                                \
    if (kept) {                                                                                    \
        UNROLL                                                                                     \
        for (int j = 0; j < TILE_VECTORS; j++)                                                     \
            weights[p][j] = w[j];                                                                  \
    }
#define RECALL                                                                                     \
    UNROLL                                                                                         \
    for (int j = 0; j < TILE_VECTORS; j++)                                                         \
        w[j] = weights[p][j];

#define ADD_PAIRS(SOURCE, X_PAIR)                                                                  \
    {                                                                                              \
        uint16 w[TILE_VECTORS];                                                                    \
        SOURCE                                                                                     \
        UNROLL                                                                                     \
        for (int i = 0; i < TILE_ROWS; i++) {                                                      \
            UNROLL                                                                                 \
            for (int j = 0; j < TILE_VECTORS; j++)                                                 \
                sum[i][j] = dot_pairs(sum[i][j], w[j], X_PAIR(i));                                 \
        }                                                                                          \
    }
#define WHOLE_PAIR(i) as_uint(vload2(p, x_rows[i]))
#define LAST_ALONE(i) ((uint)x_rows[i][2 * p])

/* The group's products, of whole pairs and of an odd last k. */
#define ADD_GROUP(SOURCE)                                                                          \
    {                                                                                              \
        int p = 0;                                                                                 \
        for (; 2 * p + 1 < count; p++)                                                             \
            ADD_PAIRS(SOURCE, WHOLE_PAIR)                                                          \
        if (count % 2 != 0)                                                                        \
            ADD_PAIRS(SOURCE, LAST_ALONE)                                                          \
    }

kernel void projection_dot_fp8(global const ushort *x, const ulong x_offset,
                               const ulong x_row_stride, const ulong x_batch_stride,
                               global const ushort *W, const ulong w_offset,
                               global STORAGE(Y_DTYPE) * y, const ulong y_offset,
                               const ulong y_row_stride, const ulong y_batch_stride, const int N,
                               const int K, const int x_row, const int y_row, const int num_rows)
{
    const int n0 = (int)get_global_id(0) * TILE_COLUMNS_OF_16;
    const int block_begin = (int)get_global_id(1) * BLOCK_ROWS;
    const int block_rows = min(BLOCK_ROWS, num_rows - block_begin);
    const size_t b = get_global_id(2);
    if (n0 >= N)
        return;

    const size_t num_pairs = ((size_t)K + 1) / 2;
    const size_t columns = ((size_t)N + PANEL - 1) / PANEL * PANEL;
    const size_t num_scales = ((size_t)K + FP8_GROUP - 1) / FP8_GROUP * columns;
    global const float *scales =
        (global const float *)W + w_offset + b * (num_scales + columns * num_pairs / 2);
    global const ushort *codes = (global const ushort *)(scales + num_scales) +
                                 (size_t)n0 / PANEL * num_pairs * PANEL + (size_t)n0 % PANEL;
    global const ushort *x_b = x + x_offset + b * x_batch_stride;
    global STORAGE(Y_DTYPE) *y_b = y + y_offset + b * y_batch_stride;
    const byte_tables tables = make_tables();
    const bool kept = block_rows > TILE_ROWS;

    float16 total[BLOCK_ROWS][TILE_VECTORS];
    for (int m = 0; m < block_rows; m += TILE_ROWS) {
        UNROLL
        for (int i = 0; i < TILE_ROWS; i++) {
            UNROLL
            for (int j = 0; j < TILE_VECTORS; j++)
                total[m + i][j] = (float16)(0.0f);
        }
    }

    for (int k0 = 0; k0 < K; k0 += FP8_GROUP) {
        const int count = min(FP8_GROUP, K - k0);
        uint16 weights[GROUP_PAIRS][TILE_VECTORS];
        float16 scale[TILE_VECTORS];
        global const float *scales_k = scales + (size_t)(k0 / FP8_GROUP) * columns + (size_t)n0;
        UNROLL
        for (int j = 0; j < TILE_VECTORS; j += 2)
            split_columns(vload16(j, scales_k), vload16(j + 1, scales_k), &scale[j], &scale[j + 1]);

        for (int m = 0; m < block_rows; m += TILE_ROWS) {
            float16 sum[TILE_ROWS][TILE_VECTORS];
            global const ushort *x_rows[TILE_ROWS];
            UNROLL
            for (int i = 0; i < TILE_ROWS; i++) {
                const int row = x_row + min(block_begin + m + i, num_rows - 1);
                x_rows[i] = x_b + (size_t)row * x_row_stride + (size_t)k0;
                UNROLL
                for (int j = 0; j < TILE_VECTORS; j++)
                    sum[i][j] = (float16)(0.0f);
            }
            if (m == 0)
                ADD_GROUP(DECODE)
            else
                ADD_GROUP(RECALL)
            UNROLL
            for (int i = 0; i < TILE_ROWS; i++) {
                UNROLL
                for (int j = 0; j < TILE_VECTORS; j++)
                    total[m + i][j] = fma(sum[i][j], scale[j], total[m + i][j]);
            }
        }
    }

    for (int m = 0; m < block_rows; m++) {
        const size_t row = (size_t)(y_row + block_begin + m) * y_row_stride;
        UNROLL
        for (int j = 0; j < TILE_VECTORS; j += 2) {
            float16 lower, upper;
            join_columns(total[m][j], total[m][j + 1], &lower, &upper);
            store_columns(lower, y_b, row + (size_t)(n0 + 16 * j), N - n0 - 16 * j);
            store_columns(upper, y_b, row + (size_t)(n0 + 16 * j + 16), N - n0 - 16 * j - 16);
        }
    }
}
