/*
 * Merge of partial attention states and W_UV in one, class gpu, for few tokens:
 *
 *     ctx[t, h]  = Σ_s exp(lse[s, t, h] - max) · partial_out[s, t, h] / Σ_s exp(lse[s, t, h] - max)
 *     y[t, h, n] = Σ_k ctx[t, h, k] · W[h, n, k]
 *
 *   partial_out  [S, T, H, K] float32, partial_lse [S, T, H] float32; a state of lse -INFINITY is
 *                left out, its partial_out is not read; with only such states ctx = 0
 *   W            packed as src/ops/matrix.h says
 *   y            [T, H, N]   Y_DTYPE
 *
 * ctx is rounded to CTX_DTYPE. The order of every sum is merge.cl's and weights.clh's: the bits of
 * merge followed by projection.
 *
 * One work-group: one (token, head) and TILE_COLUMNS columns n; each merges ctx anew. One work-item:
 * while merging, elements k = id, id + WORK_GROUP, ...; while multiplying, one column and every
 * LANES-th slice of k, ctx read from local memory. Grid: (column tiles · WORK_GROUP, heads, tokens),
 * work-group {WORK_GROUP, 1, 1}. Local memory: SLICES · (SLICE_K + TILE_COLUMNS) + WORK_GROUP floats,
 * as src/tuning/params.c counts them. Barriers: two per WORK_GROUP states, two more.
 *
 * CTX_DTYPE, Y_DTYPE   bf16, f16, f32
 * LATENT               K
 * WORK_GROUP           multiple of TILE_COLUMNS; WORK_GROUP / TILE_COLUMNS divides SLICES
 * TILE_COLUMNS         divides 64
 * and weights.clh's
 */
#define LANES (WORK_GROUP / TILE_COLUMNS)
#define SLICE_K (((LATENT + SLICES - 1) / SLICES + TILE_K - 1) / TILE_K * TILE_K)
#define ELEMENTS ((LATENT + WORK_GROUP - 1) / WORK_GROUP)
#define LEFT_OUT (-1.0f) /* in place of a weight, which is never negative */
#if PANEL % TILE_COLUMNS != 0 || WORK_GROUP % TILE_COLUMNS != 0 || SLICES % LANES != 0
#error "TILE_COLUMNS, SLICES and WORK_GROUP do not fit each other"
#endif

/* What storing as CTX_DTYPE makes of a value. */
#define ROUNDED(dtype, v) CLMLA_CAT(rounded_, dtype)(v)
CLMLA_INLINE float rounded_bf16(const float v) { return bf16_to_float(float_to_bf16(v)); }
CLMLA_INLINE float rounded_f16(const float v)
{
    ushort bits;
    vstore_half_rte(v, 0, (half *)&bits);
    return vload_half(0, (const half *)&bits);
}
CLMLA_INLINE float rounded_f32(const float v) { return v; }

/* ctx[k] of one (token, head), zeros from LATENT on; weights is scratch. Ends with a barrier. */
CLMLA_INLINE void merge_states(global const float *parts, const ulong part_stride,
                               global const float *lses, const ulong lse_stride,
                               const int num_states, local float *weights, local float *ctx)
{
    const int item = (int)get_local_id(0);
    float highest = -INFINITY, total = 0.0f, sum[ELEMENTS];
    for (int s = 0; s < num_states; s++)
        highest = fmax(highest, lses[(size_t)s * lse_stride]);
    UNROLL
    for (int i = 0; i < ELEMENTS; i++)
        sum[i] = 0.0f;

    bool empty = true;
    for (int first = 0; first < num_states; first += WORK_GROUP) {
        if (first + item < num_states) {
            const float lse = lses[(size_t)(first + item) * lse_stride];
            weights[item] = lse == -INFINITY ? LEFT_OUT : exp(lse - highest);
        }
        barrier(CLK_LOCAL_MEM_FENCE);
        const int count = min(WORK_GROUP, num_states - first);
        for (int s = 0; s < count; s++) {
            const float weight = weights[s];
            if (weight == LEFT_OUT)
                continue;
            global const float *part = parts + (size_t)(first + s) * part_stride;
            empty = false;
            total += weight;
            UNROLL
            for (int i = 0; i < ELEMENTS; i++) {
                const int k = item + i * WORK_GROUP;
                sum[i] = fma(weight, k < LATENT ? part[k] : 0.0f, sum[i]);
            }
        }
        barrier(CLK_LOCAL_MEM_FENCE);
    }

    const float factor = 1.0f / total;
    UNROLL
    for (int i = 0; i < ELEMENTS; i++) {
        const int k = item + i * WORK_GROUP;
        if (k < LATENT)
            ctx[k] = empty ? 0.0f : ROUNDED(CTX_DTYPE, sum[i] * factor);
    }
    for (int k = LATENT + item; k < SLICES * SLICE_K; k += WORK_GROUP)
        ctx[k] = 0.0f;
    barrier(CLK_LOCAL_MEM_FENCE);
}

kernel __attribute__((reqd_work_group_size(WORK_GROUP, 1, 1))) void
merge_up(global const float *partial_out, const ulong partial_offset,
         const ulong partial_state_stride, const ulong partial_token_stride,
         const ulong partial_head_stride, global const float *partial_lse,
         const ulong partial_lse_offset, const ulong partial_lse_state_stride,
         const ulong partial_lse_token_stride, global const packed_weight *W, const ulong w_offset,
         global STORAGE(Y_DTYPE) * y, const ulong y_offset, const ulong y_token_stride,
         const ulong y_head_stride, const int N, const int num_states, const int num_tokens)
{
    local float4 ctx[SLICES * SLICE_K / 4];
    local float partial[SLICES][TILE_COLUMNS];
    local float weights[WORK_GROUP];

    const int item = (int)get_local_id(0);
    const int column = item % TILE_COLUMNS, lane = item / TILE_COLUMNS;
    const int n = (int)get_group_id(0) * TILE_COLUMNS + column;
    const size_t head = get_group_id(1), token = get_group_id(2);
    const bool real = token < (size_t)num_tokens; /* false for the whole group, when warming up */

    merge_states(partial_out + partial_offset + token * partial_token_stride +
                     head * partial_head_stride,
                 partial_state_stride,
                 partial_lse + partial_lse_offset + token * partial_lse_token_stride + head,
                 partial_lse_state_stride, real ? num_states : 0, weights, (local float *)ctx);

    const weight_column w_column = find_column(W, w_offset, head, (size_t)n, N, LATENT);
    for (int slice = lane; slice < SLICES; slice += LANES) {
        float sum = 0.0f;
        const int end = real ? (slice + 1) * SLICE_K : 0;
        for (int k0 = slice * SLICE_K; k0 < end; k0 += TILE_K) {
            UNROLL
            for (int i = 0; i < TILE_K; i += 4)
                sum = add_products(ctx[(k0 + i) / 4], weight_pair(&w_column, 0, k0 + i, LATENT),
                                   weight_pair(&w_column, 0, k0 + i + 2, LATENT), sum);
        }
        partial[slice][column] = sum;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    if (lane == 0 && n < N && real) {
        float total = 0.0f;
        for (int s = 0; s < SLICES; s++)
            total += partial[s][column];
        STORE(Y_DTYPE, total, y, y_offset + token * y_token_stride + head * y_head_stride + n);
    }
}
