/*
 * The rate of tensor cores: each warp multiplies MT row tiles of 16 with NT column tiles of 8 in a
 * loop, all accumulators independent. Goes after common.clh and ptx.clh (or ptx_emulated.clh).
 *
 *   A [16·MT, 16·STEPS] · Bᵀ, B [8·NT, 16·STEPS], rounds times over
 *
 * FEED_A, FEED_B: fragments come from local memory by ldmatrix in each step, else from registers.
 * A and B are `element`, so that the host knows the result: each work-item writes the sum of its
 * accumulators, tile (i, j) weighted by i·NT + j + 1.
 */
#define K (16 * STEPS)
#define PITCH (K + 8) /* elements: 16 bytes more, so that 8 rows lie in different banks */
#define A_ROWS (16 * MT)
#define B_ROWS (8 * NT)

/* bf16 of (hash · 2 - 255) / 256, which is exact. */
CLMLA_INLINE uint element(const uint row, const uint k)
{
    uint x = row * 0x9e3779b9u + k * 0x85ebca6bu;
    x ^= x >> 15;
    x *= 0x2c1b3c6du;
    x ^= x >> 13;
    return as_uint((float)((int)(x >> 24) * 2 - 255) / 256.0f) >> 16;
}

CLMLA_INLINE uint pair(const uint row, const uint k)
{
    return element(row, k) | element(row, k + 1) << 16;
}

__kernel __attribute__((reqd_work_group_size(WORK_GROUP, 1, 1))) void multiply(global float4 *sums,
                                                                               const int rounds)
{
    __attribute__((aligned(16))) local ushort tile[(A_ROWS + B_ROWS) * PITCH];
    WARP_BEGIN(w, WORK_GROUP);
    const uint g = w.lane / 4, t = w.lane % 4;
    uint4 a[STEPS][MT], b[STEPS][NT / 2];
    float4 d[MT][NT];
    for (uint i = (uint)get_local_id(0); i < (A_ROWS + B_ROWS) * K; i += WORK_GROUP)
        tile[i / K * PITCH + i % K] = (ushort)element(i / K, i % K);
    UNROLL_WARP
    for (int s = 0; s < STEPS; s++) {
        const uint k = 16 * s + 2 * t;
        UNROLL_WARP
        for (int i = 0; i < MT; i++)
            a[s][i] = (uint4)(pair(16 * i + g, k), pair(16 * i + g + 8, k), pair(16 * i + g, k + 8),
                              pair(16 * i + g + 8, k + 8));
        UNROLL_WARP
        for (int j = 0; j < NT / 2; j++) {
            const uint row = A_ROWS + 16 * j + g;
            b[s][j] =
                (uint4)(pair(row, k), pair(row, k + 8), pair(row + 8, k), pair(row + 8, k + 8));
        }
    }
    UNROLL_WARP
    for (int i = 0; i < MT; i++) {
        UNROLL_WARP
        for (int j = 0; j < NT; j++)
            d[i][j] = (float4)(0.0f);
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    const shared_address base = SHARED_ADDRESS(tile);
    const shared_address of_a = base + 2 * ((w.lane % 16) * PITCH + w.lane / 16 * 8);
    const shared_address of_b =
        base + 2 * ((A_ROWS + w.lane / 16 * 8 + w.lane % 8) * PITCH + w.lane / 8 % 2 * 8);
    for (int round = 0; round < rounds; round++) {
        UNROLL_WARP
        for (int s = 0; s < STEPS; s++) {
#if FEED_A
            UNROLL_WARP
            for (int i = 0; i < MT; i++)
                a[s][i] = warp_load_matrices(&w, of_a + 2 * (16 * i * PITCH + 16 * s));
#endif
#if FEED_B
            UNROLL_WARP
            for (int j = 0; j < NT / 2; j++)
                b[s][j] = warp_load_matrices(&w, of_b + 2 * (16 * j * PITCH + 16 * s));
#endif
            UNROLL_WARP
            for (int j = 0; j < NT / 2; j++) {
                UNROLL_WARP
                for (int i = 0; i < MT; i++) {
                    warp_mma(&w, &d[i][2 * j], a[s][i], b[s][j].x, b[s][j].y);
                    warp_mma(&w, &d[i][2 * j + 1], a[s][i], b[s][j].z, b[s][j].w);
                }
            }
        }
    }
    float4 sum = (float4)(0.0f);
    UNROLL_WARP
    for (int i = 0; i < MT; i++) {
        UNROLL_WARP
        for (int j = 0; j < NT; j++)
            sum += (float)(i * NT + j + 1) * d[i][j];
    }
    sums[get_global_id(0)] = sum;
}
