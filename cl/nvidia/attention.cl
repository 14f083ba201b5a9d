/*
 * Absorbed attention on the tensor cores of NVIDIA GPUs, query and cache in bf16: what
 * gpu/attention.cl computes, with an online softmax over blocks of keys:
 *
 *     s[r, j] = scale · (q_lat[r]·c_kv[j] + q_pe[r]·k_pe[j])      keys j that row r sees
 *     out[r]  = Σ_j exp2(s[r, j] - m[r]) · c_kv[j] / l[r]         m running maximum, l running sum
 *     lse[r]  = ln 2 · (m[r] + log2 l[r])
 *
 * scale contains log2(e). Shapes, rows r and their groups: attention.clh. Products of bf16 are added
 * in float32; p = exp2(s - m) is rounded to bf16 for the sum, l adds p unrounded.
 *
 * Mapping: one work-group of four warps = one group of TILE_ROWS rows (group id 0) × one split of
 * the keys (group id 1). A ring of STAGES blocks of keys in local memory is filled by asynchronous
 * copies; a block is read from memory once and serves the scores and the sum.
 *     scores  a warp adds a quarter of the k of all rows and keys of the block, so that no key
 *             element is read from local memory twice; the quarters meet in local memory. From then
 *             on every warp holds all scores, in the layout in which the sum's product wants p.
 *     sum     a warp owns a quarter of the latent columns, in registers
 *
 * Rows that do not see all keys of a block are summed apart, once for every number of keys that
 * rows see: keys beyond are zeroed first, and the other rows keep their old bits by select (0 · NaN
 * would not be 0).
 *
 * Local memory: STAGES · BLOCK_TOKENS · KEY_PITCH bytes of keys, and 4 · TILE_ROWS · BLOCK_TOKENS
 * floats of partial scores; src/tuning/attention_tile.c counts the same. Two barriers a block.
 *
 * Macros besides attention.clh's: TILE_ROWS 16 or 32, BLOCK_TOKENS a multiple of 16, WORK_GROUP 128,
 * STAGES >= 2. KV_LORA_RANK a multiple of 64, ROPE_DIM of 16. Storage bf16, OUT_DTYPE bf16 or f32.
 * ROTATE_QUERY     1: q_pe is as projected, and rotated here by its token's row of cos_sin
 *                  [T, ROPE_DIM / 2, 2] float; 0: it is rotated already
 * ALIGNED_CACHE    1: rows of the caches begin at multiples of 8 elements; 0: anywhere, slower
 * ALIGNED_QUERY    1: rows of q_lat and q_pe begin at even elements
 * ALIGNED_OUT      1: rows of out begin at even elements
 */
#define WARPS (WORK_GROUP / 32)
#define ROW_TILES (TILE_ROWS / 16)
#define KEY_DIM (KV_LORA_RANK + ROPE_DIM)
#define KEY_PITCH (2 * KEY_DIM + 16) /* bytes; an odd number of 16: no bank conflicts in a matrix */
#define KEY_STEPS (KEY_DIM / 16)     /* products along k that a score takes */
#define WARP_STEPS ((KEY_STEPS + WARPS - 1) / WARPS)
#define KEY_TILES (BLOCK_TOKENS / 8)
#define WARP_VALUES (KV_LORA_RANK / WARPS) /* latent columns of a warp */
#define VALUE_TILES (WARP_VALUES / 8)
#define BLOCK_BYTES (BLOCK_TOKENS * KEY_PITCH)
#define LOADERS (WORK_GROUP / BLOCK_TOKENS) /* work-items that copy one key */

#if WORK_GROUP != 128 || TILE_ROWS % 16 != 0 || BLOCK_TOKENS % 16 != 0 || STAGES < 2
#error "TILE_ROWS, BLOCK_TOKENS, WORK_GROUP and STAGES do not fit each other"
#endif
#if KV_LORA_RANK % 64 != 0 || ROPE_DIM % 16 != 0
#error "KV_LORA_RANK must be a multiple of 64, ROPE_DIM of 16"
#endif

#if ROTATE_QUERY
#define ROTATION_PARAMS                                                                            \
    , global const float *cos_sin, const ulong cos_sin_offset, const ulong cos_sin_token_stride,   \
        const ulong cos_sin_pair_stride
#define ROTATION_ARGS , cos_sin, cos_sin_offset, cos_sin_token_stride, cos_sin_pair_stride
#else
#define ROTATION_PARAMS
#define ROTATION_ARGS
#endif

/* ---- keys -------------------------------------------------------------------------------------- */

/* The key that a work-item copies a part of. */
typedef struct key_row {
    global const ushort *latent, *pe;
    bool exists;
} key_row;

/* Key `key` + this work-item's place in the block; past `end` the pointers stay as they are. */
CLMLA_INLINE void find_key(ATTENTION_PARAMS, const int sequence, const int key, const int end,
                           key_row *row)
{
    const int position = key + (int)get_local_id(0) / LOADERS;
    row->exists = position < end;
    if (!row->exists)
        return;
    const size_t page = (size_t)find_page(block_table + block_table_offset, block_table_stride,
                                          page_block_size, sequence, position);
    const size_t in_page = (size_t)(position % page_block_size);
    row->latent = kv_cache + kv_offset + page * kv_page_stride + in_page * kv_row_stride;
    row->pe = pe_cache + pe_offset + page * pe_page_stride + in_page * pe_row_stride;
}

/* Copies 8 elements to local memory, perhaps later; zeros unless they exist. */
CLMLA_INLINE void copy_chunk(const shared_address to, global const ushort *from, const bool exists)
{
#if ALIGNED_CACHE
    copy_async(to, from, exists);
#else
    store_shared(to, exists ? as_uint4(vload8(0, from)) : (uint4)(0u));
#endif
}

/* Begins to copy this work-item's part of a block; keys that do not exist become zero. */
CLMLA_INLINE void copy_block(const key_row *row, const shared_address block)
{
    const int item = (int)get_local_id(0);
    const shared_address to = block + (shared_address)(item / LOADERS * KEY_PITCH);
    UNROLL
    for (int i = 0; i < (KEY_DIM / 8 + LOADERS - 1) / LOADERS; i++) {
        const int chunk = item % LOADERS + i * LOADERS; /* of 8 elements */
        global const ushort *from = chunk < KV_LORA_RANK / 8
                                        ? row->latent + chunk * 8
                                        : row->pe + (chunk - KV_LORA_RANK / 8) * 8;
        if (chunk < KEY_DIM / 8)
            copy_chunk(to + (shared_address)(chunk * 16), from, row->exists);
    }
    copy_commit();
}

/* ---- scores ------------------------------------------------------------------------------------ */

/* What a lane has of a row: of rows lane / 4 and lane / 4 + 8 of each tile of sixteen. */
typedef struct row_state {
    int limit[2 * ROW_TILES]; /* end of the split's keys that the row sees */
    float max[2 * ROW_TILES];
    float total[2 * ROW_TILES]; /* Σ p over the keys that this lane weighs */
} row_state;

/* Element pair `pair` of a row in memory; zero where there is no row. */
CLMLA_INLINE uint query_pair(global const ushort *row, const bool exists, const int pair)
{
#if ALIGNED_QUERY
    return exists ? *(global const uint *)(row + 2 * pair) : 0u;
#else
    return exists ? as_uint(vload2(pair, row)) : 0u;
#endif
}

#if ROTATE_QUERY
/* The pair of elements rotated by (cos, sin): the bits of rotate.clh. */
CLMLA_INLINE uint rotated(const uint pair, global const float *row, const ulong pair_stride,
                          const int j)
{
    const float2 x = (float2)(as_float(pair << 16), as_float(pair & 0xffff0000u));
    const float2 y = rotate_pair(x, vload2(0, row + (size_t)j * pair_stride));
    return pack_bf16(y.x, y.y);
}
#endif

/* The fragments of this warp's steps of k, [ROW_TILES][WARP_STEPS]; zero past the last step. */
CLMLA_INLINE void load_query(ATTENTION_PARAMS ROTATION_PARAMS, const warp *w,
                             const row_group *group, uint4 *query)
{
    const int g = (int)w->lane / 4, t = (int)w->lane % 4;
    UNROLL
    for (int m = 0; m < ROW_TILES; m++) {
        global const ushort *latent[2], *pe[2];
        bool exists[2];
#if ROTATE_QUERY
        global const float *rotation[2];
#endif
        UNROLL
        for (int i = 0; i < 2; i++) {
            const int row = m * 16 + g + 8 * i;
            exists[i] = row < group->num_rows;
            const size_t token = exists[i] ? (size_t)row_token(group, num_heads, row) : 0;
            const size_t head = exists[i] ? (size_t)row_head(group, num_heads, row) : 0;
            latent[i] =
                q_lat + q_lat_offset + token * q_lat_token_stride + head * q_lat_head_stride;
            pe[i] = q_pe + q_pe_offset + token * q_pe_token_stride + head * q_pe_head_stride;
#if ROTATE_QUERY
            rotation[i] = cos_sin + cos_sin_offset + (token_begin + token) * cos_sin_token_stride;
#endif
        }
        UNROLL
        for (int k = 0; k < WARP_STEPS; k++) {
            const int step = (int)w->index * WARP_STEPS + k;
            uint a[4] = {0, 0, 0, 0};
            UNROLL
            for (int i = 0; i < 4; i++) {
                const int pair = step * 8 + t + i / 2 * 4;
                if (step < KV_LORA_RANK / 16)
                    a[i] = query_pair(latent[i % 2], exists[i % 2], pair);
                else if (step < KEY_STEPS)
                    a[i] = query_pair(pe[i % 2], exists[i % 2], pair - KV_LORA_RANK / 2);
#if ROTATE_QUERY
                if (step >= KV_LORA_RANK / 16 && step < KEY_STEPS)
                    a[i] = rotated(a[i], rotation[i % 2], cos_sin_pair_stride,
                                   pair - KV_LORA_RANK / 2);
#endif
            }
            query[m * WARP_STEPS + k] = (uint4)(a[0], a[1], a[2], a[3]);
        }
    }
}

/* exchange[ROW_TILES][WARPS][KEY_TILES][32] = q · k over this warp's steps of k. */
CLMLA_INLINE void score_keys(const warp *w, const uint4 *query, const shared_address block,
                             local float4 *exchange)
{
    const uint lane = w->lane;
    const shared_address key = block + (lane % 8 + lane / 16 * 8) * KEY_PITCH + lane / 8 % 2 * 16;
    float4 s[ROW_TILES * KEY_TILES];
    UNROLL
    for (int i = 0; i < ROW_TILES * KEY_TILES; i++)
        s[i] = (float4)(0.0f);
    UNROLL_WARP
    for (int k = 0; k < WARP_STEPS; k++) {
        uint step = w->index * WARP_STEPS + (uint)k;
#if KEY_STEPS % WARPS != 0
        step = min(step, (uint)KEY_STEPS - 1); /* its query is zero */
#endif
        UNROLL_WARP
        for (int n = 0; n < KEY_TILES / 2; n++) {
            const uint4 b =
                warp_load_matrices(w, key + (shared_address)(n * 16 * KEY_PITCH) + step * 32);
            UNROLL_WARP
            for (int m = 0; m < ROW_TILES; m++) {
                const uint4 a = query[m * WARP_STEPS + k];
                warp_mma(w, &s[m * KEY_TILES + 2 * n], a, b.x, b.y);
                warp_mma(w, &s[m * KEY_TILES + 2 * n + 1], a, b.z, b.w);
            }
        }
    }
    UNROLL
    for (int m = 0; m < ROW_TILES; m++) {
        UNROLL
        for (int n = 0; n < KEY_TILES; n++)
            exchange[((m * WARPS + (int)w->index) * KEY_TILES + n) * 32 + (int)lane] =
                s[m * KEY_TILES + n];
    }
}

/* Scores of a lane's four elements of tile n: the warps' quarters, scaled, or NOTHING_SEEN. key:
 * that of the first element; the second is of the next key, the other two of the row eight below. */
CLMLA_INLINE float4 sum_scores(local const float4 *exchange, const int m, const int n,
                               const uint lane, const float scale_log2, const int key,
                               const int limit0, const int limit1)
{
    float4 s = (float4)(0.0f);
    UNROLL
    for (int i = 0; i < WARPS; i++)
        s += exchange[((m * WARPS + i) * KEY_TILES + n) * 32 + (int)lane];
    s *= scale_log2;
    return (float4)(key < limit0 ? s.x : NOTHING_SEEN, key + 1 < limit0 ? s.y : NOTHING_SEEN,
                    key < limit1 ? s.z : NOTHING_SEEN, key + 1 < limit1 ? s.w : NOTHING_SEEN);
}

/* The largest value of a row, which the four lanes of a quad share. */
CLMLA_INLINE float row_max(const warp *w, float value)
{
    value = fmax(value, warp_shuffle_xor(w, value, 1));
    return fmax(value, warp_shuffle_xor(w, value, 2));
}

CLMLA_INLINE float row_sum(const warp *w, float value)
{
    value += warp_shuffle_xor(w, value, 1);
    return value + warp_shuffle_xor(w, value, 2);
}

/* p = exp2(s - m), 0 for keys not seen. */
CLMLA_INLINE float weight(const float score, const float max, const int key, const int limit)
{
    const float p = exp2_fast(score - max);
    return key < limit ? p : 0.0f;
}

/* weights [ROW_TILES][BLOCK_TOKENS / 16] = p of keys `key` .. as fragments; raises max, adds to
 * total; rescale[row] = exp2(m_old - m). */
CLMLA_INLINE void weigh_keys(const warp *w, local const float4 *exchange, const float scale_log2,
                             const int key, row_state *rows, float *rescale, uint4 *weights)
{
    const int column = key + (int)w->lane % 4 * 2;
    UNROLL_WARP
    for (int m = 0; m < ROW_TILES; m++) {
        const int limit0 = rows->limit[2 * m], limit1 = rows->limit[2 * m + 1];
        float4 s[KEY_TILES];
        float max0 = rows->max[2 * m], max1 = rows->max[2 * m + 1];
        UNROLL
        for (int n = 0; n < KEY_TILES; n++) {
            s[n] = sum_scores(exchange, m, n, w->lane, scale_log2, column + n * 8, limit0, limit1);
            max0 = fmax(max0, fmax(s[n].x, s[n].y));
            max1 = fmax(max1, fmax(s[n].z, s[n].w));
        }
        max0 = row_max(w, max0);
        max1 = row_max(w, max1);
        rescale[2 * m] = exp2_fast(rows->max[2 * m] - max0);
        rescale[2 * m + 1] = exp2_fast(rows->max[2 * m + 1] - max1);
        rows->max[2 * m] = max0;
        rows->max[2 * m + 1] = max1;

        float total0 = 0.0f, total1 = 0.0f;
        uint pairs[2 * KEY_TILES];
        UNROLL
        for (int n = 0; n < KEY_TILES; n++) {
            const int first = column + n * 8;
            const float4 p = (float4)(weight(s[n].x, max0, first, limit0),
                                      weight(s[n].y, max0, first + 1, limit0),
                                      weight(s[n].z, max1, first, limit1),
                                      weight(s[n].w, max1, first + 1, limit1));
            total0 += p.x + p.y;
            total1 += p.z + p.w;
            pairs[2 * n] = pack_bf16(p.x, p.y);
            pairs[2 * n + 1] = pack_bf16(p.z, p.w);
        }
        rows->total[2 * m] = fma(rows->total[2 * m], rescale[2 * m], total0);
        rows->total[2 * m + 1] = fma(rows->total[2 * m + 1], rescale[2 * m + 1], total1);
        UNROLL
        for (int k = 0; k < BLOCK_TOKENS / 16; k++)
            weights[m * (BLOCK_TOKENS / 16) + k] =
                (uint4)(pairs[4 * k], pairs[4 * k + 1], pairs[4 * k + 2], pairs[4 * k + 3]);
    }
}

/* ---- sum --------------------------------------------------------------------------------------- */

/* This warp's columns of the block, for warp_load_transposed. */
CLMLA_INLINE shared_address warp_values(const warp *w, const shared_address block)
{
    return block + w->lane % 16 * KEY_PITCH + w->lane / 16 * 16 + w->index * (2 * WARP_VALUES);
}

/* sums[ROW_TILES][VALUE_TILES] += p · c_kv; every row sees every key of the block. */
CLMLA_INLINE void add_values(const warp *w, const uint4 *weights, const shared_address block,
                             float4 *sums)
{
    const shared_address values = warp_values(w, block);
    UNROLL_WARP
    for (int k = 0; k < BLOCK_TOKENS / 16; k++) {
        UNROLL_WARP
        for (int j = 0; j < VALUE_TILES / 2; j++) {
            const uint4 b =
                warp_load_transposed(w, values + (shared_address)(k * 16 * KEY_PITCH + j * 32));
            UNROLL_WARP
            for (int m = 0; m < ROW_TILES; m++) {
                const uint4 a = weights[m * (BLOCK_TOKENS / 16) + k];
                warp_mma(w, &sums[m * VALUE_TILES + 2 * j], a, b.x, b.y);
                warp_mma(w, &sums[m * VALUE_TILES + 2 * j + 1], a, b.z, b.w);
            }
        }
    }
}

CLMLA_INLINE float4 select_rows(const float4 otherwise, const float4 sum, const bool row0,
                                const bool row1)
{
    return (float4)(row0 ? sum.x : otherwise.x, row0 ? sum.y : otherwise.y,
                    row1 ? sum.z : otherwise.z, row1 ? sum.w : otherwise.w);
}

/* The same for those rows only whose last key is `visible` - 1, or which see the whole block and
 * visible is its end. */
CLMLA_INLINE void add_values_of_rows(const warp *w, const uint4 *weights,
                                     const shared_address block, const int block_end,
                                     const int visible, const row_state *rows, float4 *sums)
{
    const shared_address values = warp_values(w, block);
    UNROLL_WARP
    for (int j = 0; j < VALUE_TILES / 2; j++) {
        float4 sum[2 * ROW_TILES];
        UNROLL
        for (int m = 0; m < ROW_TILES; m++) {
            sum[2 * m] = sums[m * VALUE_TILES + 2 * j];
            sum[2 * m + 1] = sums[m * VALUE_TILES + 2 * j + 1];
        }
        UNROLL_WARP
        for (int k = 0; k < BLOCK_TOKENS / 16; k++) {
            const uint4 b =
                warp_load_transposed(w, values + (shared_address)(k * 16 * KEY_PITCH + j * 32));
            UNROLL_WARP
            for (int m = 0; m < ROW_TILES; m++) {
                const uint4 a = weights[m * (BLOCK_TOKENS / 16) + k];
                warp_mma(w, &sum[2 * m], a, b.x, b.y);
                warp_mma(w, &sum[2 * m + 1], a, b.z, b.w);
            }
        }
        UNROLL
        for (int m = 0; m < ROW_TILES; m++) {
            const bool row0 = min(rows->limit[2 * m], block_end) == visible;
            const bool row1 = min(rows->limit[2 * m + 1], block_end) == visible;
            float4 *const to = sums + m * VALUE_TILES + 2 * j;
            to[0] = select_rows(to[0], sum[2 * m], row0, row1);
            to[1] = select_rows(to[1], sum[2 * m + 1], row0, row1);
        }
    }
}

/* A block of keys `key` .. of which rows see different numbers, least .. most (ends of what the
 * first and the last row of the group see). Keys past most are zero already. */
CLMLA_INLINE void add_values_by_limit(const warp *w, const uint4 *weights,
                                      const shared_address block, local uint4 *block_rows,
                                      const int key, const int least, const int most,
                                      const row_state *rows, float4 *sums)
{
    const int block_end = key + BLOCK_TOKENS;
    const int first = min(most, block_end);
    for (int visible = first; visible > key && visible >= least; visible--) {
        if (visible < first) { /* one key less */
            barrier(CLK_LOCAL_MEM_FENCE);
            for (int i = (int)get_local_id(0); i < KV_LORA_RANK / 8; i += WORK_GROUP)
                block_rows[(visible - key) * (KEY_PITCH / 16) + i] = (uint4)(0u);
            barrier(CLK_LOCAL_MEM_FENCE);
        }
        add_values_of_rows(w, weights, block, block_end, visible, rows, sums);
    }
}

/* ---- results ----------------------------------------------------------------------------------- */

#if ALIGNED_OUT
CLMLA_INLINE void store_pair_bf16(const float2 value, global ushort *to)
{
    *(global uint *)to = pack_bf16(value.x, value.y);
}
CLMLA_INLINE void store_pair_f32(const float2 value, global float *to)
{
    *(global float2 *)to = value;
}
#define STORE_PAIR(value, to) CLMLA_CAT(store_pair_, OUT_DTYPE)((value), (to))
#else
#define STORE_PAIR(value, to)                                                                      \
    {                                                                                              \
        const float2 pair = (value);                                                               \
        STORE(OUT_DTYPE, pair.x, (to), 0);                                                         \
        STORE(OUT_DTYPE, pair.y, (to), 1);                                                         \
    }
#endif

/* out = sums / l and lse of the rows that this lane holds a part of. */
CLMLA_INLINE void store_rows(ATTENTION_PARAMS, const warp *w, const row_group *group,
                             const int split, const int split_begin, const row_state *rows,
                             const float4 *sums)
{
    const int g = (int)w->lane / 4, t = (int)w->lane % 4;
    UNROLL_WARP
    for (int i = 0; i < 2 * ROW_TILES; i++) {
        const int row = i / 2 * 16 + g + i % 2 * 8;
        const float total = row_sum(w, rows->total[i]);
        const bool empty = rows->limit[i] <= split_begin;
        const float factor = empty ? 0.0f : 1.0f / total;
        if (row >= group->num_rows)
            continue;
        const size_t token = (size_t)row_token(group, num_heads, row);
        const size_t head = (size_t)row_head(group, num_heads, row);
        const size_t state =
            PARTIAL_STATES == 1 ? (size_t)split * (size_t)num_tokens + token : token;
        if (lse != 0 && w->index == 0 && t == 0)
            lse[lse_offset + state * lse_token_stride + head] =
                empty ? -INFINITY : (rows->max[i] + log2(total)) * LN_2;
        if (PARTIAL_STATES == 1 && empty)
            continue;
        global STORAGE(OUT_DTYPE) *to = out + out_offset + state * out_token_stride +
                                        head * out_head_stride + w->index * WARP_VALUES + 2 * t;
        UNROLL
        for (int j = 0; j < VALUE_TILES; j++) {
            const float4 sum = sums[i / 2 * VALUE_TILES + j];
            STORE_PAIR((i % 2 == 0 ? sum.xy : sum.zw) * factor, to + j * 8);
        }
    }
}

/* ---- the kernel -------------------------------------------------------------------------------- */

kernel __attribute__((reqd_work_group_size(WORK_GROUP, 1, 1))) void
attention__mma(ATTENTION_PARAMS ROTATION_PARAMS)
{
    local uint4 ring[STAGES * BLOCK_BYTES / 16];
    local float4 exchange[ROW_TILES * WARPS * KEY_TILES * 32];
    WARP_BEGIN(w, WORK_GROUP);

    row_group group;
    find_group(SEQUENCES_ARGS, num_heads, token_begin, num_tokens, (long)get_group_id(0), &group);
    const int split = (int)get_group_id(1);
    const long split_start = (long)split * split_tokens;
    const int last_row = max(group.num_rows - 1, 0);
    const int end =
        split_end(split_start, split_tokens, visible_keys(&group, num_heads, causal, last_row));
    const int least = min(visible_keys(&group, num_heads, causal, 0), end);
    const bool has_keys = group.num_rows > 0 && end > split_start;
    /* both within int where there are keys */
    const int split_begin = has_keys ? (int)split_start : end;
    const int num_blocks = has_keys ? (end - split_begin - 1) / BLOCK_TOKENS + 1 : 0;

    row_state rows;
    UNROLL
    for (int i = 0; i < 2 * ROW_TILES; i++) {
        const int row = i / 2 * 16 + (int)w.lane / 4 + i % 2 * 8;
        rows.limit[i] =
            row < group.num_rows ? min(visible_keys(&group, num_heads, causal, row), end) : end;
        rows.max[i] = NOTHING_SEEN;
        rows.total[i] = 0.0f;
    }
    uint4 query[ROW_TILES * WARP_STEPS];
    load_query(ATTENTION_ARGS ROTATION_ARGS, &w, &group, query);
    float4 sums[ROW_TILES * VALUE_TILES];
    UNROLL
    for (int i = 0; i < ROW_TILES * VALUE_TILES; i++)
        sums[i] = (float4)(0.0f);

    /* The first STAGES - 1 blocks are under way before the loop; `next` is found a block ahead, so
     * that the look-up in the block table is not waited for. */
    const shared_address ring_address = SHARED_ADDRESS(ring);
    key_row next = {kv_cache + kv_offset, pe_cache + pe_offset, false};
    int next_key = split_begin;
    find_key(ATTENTION_ARGS, group.sequence, next_key, end, &next);
    UNROLL
    for (int stage = 0; stage < STAGES - 1; stage++) {
        copy_block(&next, ring_address + (shared_address)(stage * BLOCK_BYTES));
        next_key = next_key > end - BLOCK_TOKENS ? end : next_key + BLOCK_TOKENS;
        find_key(ATTENTION_ARGS, group.sequence, next_key, end, &next);
    }

    for (int block = 0; block < num_blocks; block++) {
        const int key = split_begin + block * BLOCK_TOKENS;
        const int slot = block % STAGES, free_slot = (block + STAGES - 1) % STAGES;
        const shared_address keys = ring_address + (shared_address)(slot * BLOCK_BYTES);
        COPY_WAIT(STAGES - 2);
        barrier(CLK_LOCAL_MEM_FENCE);
        copy_block(&next, ring_address + (shared_address)(free_slot * BLOCK_BYTES));
        next_key = next_key > end - BLOCK_TOKENS ? end : next_key + BLOCK_TOKENS;
        find_key(ATTENTION_ARGS, group.sequence, next_key, end, &next);

        /* s = q · k */
        score_keys(&w, query, keys, exchange);
        barrier(CLK_LOCAL_MEM_FENCE);

        /* p = exp2(s - m), l = l · exp2(m_old - m) + Σ p */
        float rescale[2 * ROW_TILES];
        uint4 weights[ROW_TILES * (BLOCK_TOKENS / 16)];
        weigh_keys(&w, exchange, scale_log2, key, &rows, rescale, weights);

        /* out = out · exp2(m_old - m) + Σ p · c_kv */
        UNROLL
        for (int i = 0; i < ROW_TILES * VALUE_TILES; i++) {
            const int m = i / VALUE_TILES;
            sums[i] *=
                (float4)(rescale[2 * m], rescale[2 * m], rescale[2 * m + 1], rescale[2 * m + 1]);
        }
        if (least - key >= BLOCK_TOKENS)
            add_values(&w, weights, keys, sums);
        else
            add_values_by_limit(&w, weights, keys, ring + slot * (BLOCK_BYTES / 16), key, least,
                                end, &rows, sums);
    }
    /* out may be q_lat, which every warp has read by now */
    barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE);
    group.token = forget_origin(group.token); /* or each row's token and head stay in registers */
    group.head = forget_origin(group.head);
    store_rows(ATTENTION_ARGS, &w, &group, split, split_begin, &rows, sums);
}
