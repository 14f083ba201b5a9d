/*
 * Absorbed attention, gpu class, with an online softmax over blocks of keys:
 *
 *     s[r, j] = scale · (q_lat[r]·c_kv[j] + q_pe[r]·k_pe[j])      keys j that row r sees
 *     out[r]  = Σ_j exp2(s[r, j] - m[r]) · c_kv[j] / l[r]         m running maximum, l running sum
 *     lse[r]  = ln 2 · (m[r] + log2 l[r])
 *
 * scale contains log2(e). Shapes, rows r and their groups: attention.clh.
 *
 * Mapping: one work-group = one group of TILE_ROWS rows (group id 0) × one split of the keys (group
 * id 1). Queries stay in local memory in their storage dtype; each block of keys is brought there
 * once and serves the scores and the sum. Elements are handled in pairs.
 *     scores  one work-item = 2 rows × 2 keys × every SLICES-th pair; slices are added in local
 *             memory
 *     sum     one work-item = pairs of latent columns id, id + WORK_GROUP, ... × all rows
 * Keys that some rows of the group do not see add nothing to those rows: the sum keeps its old bits
 * by select, as 0 · NaN would not.
 *
 * Local memory: queries TILE_ROWS · D, keys BLOCK_TOKENS · (D padded), partial sums of the scores
 * 4 · WORK_GROUP floats (their space holds the probabilities later), scores, four words per row;
 * src/tuning/attention_tile.c counts the same bytes. Five barriers per block, one before the first
 * and one after the last.
 *
 * Macros besides attention.clh's: WORK_GROUP, TILE_ROWS and BLOCK_TOKENS powers of two, TILE_ROWS
 * and BLOCK_TOKENS even, TILE_ROWS · BLOCK_TOKENS / 4 <= WORK_GROUP, BLOCK_TOKENS <= WORK_GROUP,
 * TILE_ROWS <= WORK_GROUP; ALIGNED_PAIRS 1 when every row of q_lat, q_pe and the caches begins at
 * an even element.
 */
#define LATENT_PAIRS ((KV_LORA_RANK + 1) / 2)
#define ROPE_PAIRS ((ROPE_DIM + 1) / 2)
#define KEY_PAIRS (LATENT_PAIRS + ROPE_PAIRS)
/* Two keys are 8 banks apart, so that work-items on neighbouring keys do not collide. */
#define KEY_PITCH ((KEY_PAIRS + 11) / 16 * 16 + 4)
#define SCORE_TILES ((TILE_ROWS / 2) * (BLOCK_TOKENS / 2))
#define SLICES (WORK_GROUP / SCORE_TILES)
#define SCORES (TILE_ROWS * BLOCK_TOKENS)
#define LOADERS (WORK_GROUP / BLOCK_TOKENS) /* work-items per key */
#define COLUMNS ((LATENT_PAIRS + WORK_GROUP - 1) / WORK_GROUP)

#if TILE_ROWS % 2 != 0 || BLOCK_TOKENS % 2 != 0 || WORK_GROUP % SCORE_TILES != 0 ||                \
    WORK_GROUP % BLOCK_TOKENS != 0 || TILE_ROWS > WORK_GROUP
#error "TILE_ROWS, BLOCK_TOKENS and WORK_GROUP do not fit each other"
#endif

/* ---- pairs of elements: one uint of 16-bit storage, or a float2 ------------------------------ */

typedef uint pair_bf16;
typedef uint pair_f16;
typedef float2 pair_f32;
#define PAIR(dtype) CLMLA_CAT(pair_, dtype)
#define NO_PAIR(dtype) ((PAIR(dtype))(0))
/* Elements i and i + 1 of global p as stored; the second is 0 unless has_second. */
#define FETCH(dtype, p, i, has_second) CLMLA_CAT(fetch_, dtype)((p), (i), (has_second))
/* A pair in local memory as two floats. */
#define UNPACK(dtype, p) CLMLA_CAT(unpack_, dtype)(p)

CLMLA_INLINE uint fetch_bf16(global const ushort *p, int i, bool has_second)
{
#if ALIGNED_PAIRS
    if (has_second)
        return *(global const uint *)(p + i);
#endif
    return (uint)p[i] | (has_second ? (uint)p[i + 1] << 16 : 0u);
}
CLMLA_INLINE uint fetch_f16(global const half *p, int i, bool has_second)
{
    return fetch_bf16((global const ushort *)p, i, has_second);
}
CLMLA_INLINE float2 fetch_f32(global const float *p, int i, bool has_second)
{
    return (float2)(p[i], has_second ? p[i + 1] : 0.0f);
}
/* The same of a latent. */
#if CACHE_FP8
CLMLA_INLINE uint fetch_record(global const uchar *record, const int i)
{
    return latent_bits(record, i) | (uint)latent_bits(record, i + 1) << 16;
}
#define FETCH_LATENT(row, i, has_second) fetch_record((row), (i))
#else
#define FETCH_LATENT(row, i, has_second) FETCH(CACHE_DTYPE, row, i, has_second)
#endif

CLMLA_INLINE float2 unpack_bf16(local const uint *p)
{
    return (float2)(as_float(*p << 16), as_float(*p & 0xffff0000u));
}
CLMLA_INLINE float2 unpack_f16(local const uint *p)
{
    return vload_half2(0, (local const half *)p);
}
CLMLA_INLINE float2 unpack_f32(local const float2 *p) { return *p; }

/* ---- the kernel ------------------------------------------------------------------------------ */

/* partial[slice][row][key] = Σ over this work-item's pairs of q · k, 2 rows × 2 keys. */
CLMLA_INLINE void score_keys(local const PAIR(Q_LAT_DTYPE) * q_lat_tile,
                             local const PAIR(Q_PE_DTYPE) * q_pe_tile,
                             local const PAIR(CACHE_DTYPE) * key_tile, local float *partial)
{
    const int item = (int)get_local_id(0);
    const int slice = item % SLICES, tile = item / SLICES;
    const int row = tile / (BLOCK_TOKENS / 2) * 2, key = tile % (BLOCK_TOKENS / 2) * 2;
    local const PAIR(CACHE_DTYPE) *k0 = key_tile + key * KEY_PITCH, *k1 = k0 + KEY_PITCH;
    local const PAIR(Q_LAT_DTYPE) *lat0 = q_lat_tile + row * LATENT_PAIRS,
                                  *lat1 = lat0 + LATENT_PAIRS;
    float s00 = 0.0f, s01 = 0.0f, s10 = 0.0f, s11 = 0.0f;
    for (int i = slice; i < LATENT_PAIRS; i += SLICES) {
        const float2 a0 = UNPACK(Q_LAT_DTYPE, lat0 + i), a1 = UNPACK(Q_LAT_DTYPE, lat1 + i);
        const float2 b0 = UNPACK(CACHE_DTYPE, k0 + i), b1 = UNPACK(CACHE_DTYPE, k1 + i);
        s00 = fma(a0.y, b0.y, fma(a0.x, b0.x, s00));
        s01 = fma(a0.y, b1.y, fma(a0.x, b1.x, s01));
        s10 = fma(a1.y, b0.y, fma(a1.x, b0.x, s10));
        s11 = fma(a1.y, b1.y, fma(a1.x, b1.x, s11));
    }
#if ROPE_DIM > 0
    local const PAIR(Q_PE_DTYPE) *pe0 = q_pe_tile + row * ROPE_PAIRS, *pe1 = pe0 + ROPE_PAIRS;
    for (int i = slice; i < ROPE_PAIRS; i += SLICES) {
        const float2 a0 = UNPACK(Q_PE_DTYPE, pe0 + i), a1 = UNPACK(Q_PE_DTYPE, pe1 + i);
        const float2 b0 = UNPACK(CACHE_DTYPE, k0 + LATENT_PAIRS + i);
        const float2 b1 = UNPACK(CACHE_DTYPE, k1 + LATENT_PAIRS + i);
        s00 = fma(a0.y, b0.y, fma(a0.x, b0.x, s00));
        s01 = fma(a0.y, b1.y, fma(a0.x, b1.x, s01));
        s10 = fma(a1.y, b0.y, fma(a1.x, b0.x, s10));
        s11 = fma(a1.y, b1.y, fma(a1.x, b1.x, s11));
    }
#endif
    local float *to = partial + slice * SCORES + row * BLOCK_TOKENS + key;
    to[0] = s00;
    to[1] = s01;
    to[BLOCK_TOKENS] = s10;
    to[BLOCK_TOKENS + 1] = s11;
}

/* Brings keys `key` .. key + num_keys - 1 to local memory; the block's other rows become zero. */
CLMLA_INLINE void load_block(ATTENTION_PARAMS, const int sequence, const int key,
                             const int num_keys, local PAIR(CACHE_DTYPE) * key_tile)
{
    const int item = (int)get_local_id(0);
    const int t = item / LOADERS;
    local PAIR(CACHE_DTYPE) *to = key_tile + t * KEY_PITCH;
    if (t >= num_keys) {
        for (int i = item % LOADERS; i < KEY_PAIRS; i += LOADERS)
            to[i] = NO_PAIR(CACHE_DTYPE);
        return;
    }
    const int page = find_page(block_table + block_table_offset, block_table_stride,
                               page_block_size, sequence, key + t);
    const size_t row = (size_t)((key + t) % page_block_size);
    global const latent_storage *c_kv =
        kv_cache + kv_offset + (size_t)page * kv_page_stride + row * kv_row_stride;
    for (int i = item % LOADERS; i < LATENT_PAIRS; i += LOADERS)
        to[i] = FETCH_LATENT(c_kv, 2 * i, 2 * i + 1 < KV_LORA_RANK);
#if ROPE_DIM > 0
    global const STORAGE(CACHE_DTYPE) *k_pe =
        pe_cache + pe_offset + (size_t)page * pe_page_stride + row * pe_row_stride;
    for (int i = item % LOADERS; i < ROPE_PAIRS; i += LOADERS)
        to[LATENT_PAIRS + i] = FETCH(CACHE_DTYPE, k_pe, 2 * i, 2 * i + 1 < ROPE_DIM);
#endif
}

/* Brings the group's queries to local memory; rows that the group lacks become zero. */
CLMLA_INLINE void load_queries(ATTENTION_PARAMS, const row_group *group,
                               local PAIR(Q_LAT_DTYPE) * q_lat_tile,
                               local PAIR(Q_PE_DTYPE) * q_pe_tile)
{
    const int item = (int)get_local_id(0);
    for (int row = 0; row < TILE_ROWS; row++) {
        const bool real = row < group->num_rows;
        const size_t token = real ? (size_t)row_token(group, num_heads, row) : 0;
        const size_t head = real ? (size_t)row_head(group, num_heads, row) : 0;
        global const STORAGE(Q_LAT_DTYPE) *lat =
            q_lat + q_lat_offset + token * q_lat_token_stride + head * q_lat_head_stride;
        for (int i = item; i < LATENT_PAIRS; i += WORK_GROUP)
            q_lat_tile[row * LATENT_PAIRS + i] =
                real ? FETCH(Q_LAT_DTYPE, lat, 2 * i, 2 * i + 1 < KV_LORA_RANK)
                     : NO_PAIR(Q_LAT_DTYPE);
#if ROPE_DIM > 0
        global const STORAGE(Q_PE_DTYPE) *pe =
            q_pe + q_pe_offset + token * q_pe_token_stride + head * q_pe_head_stride;
        for (int i = item; i < ROPE_PAIRS; i += WORK_GROUP)
            q_pe_tile[row * ROPE_PAIRS + i] =
                real ? FETCH(Q_PE_DTYPE, pe, 2 * i, 2 * i + 1 < ROPE_DIM) : NO_PAIR(Q_PE_DTYPE);
#endif
    }
}

/* sums[c][r] = sums[c][r] · rescale[r] + Σ_t p[t][r] · keys[t][column pair c]. Rows see all of the
 * first num_full keys; of the others those below their limit. */
CLMLA_INLINE void add_values(local const PAIR(CACHE_DTYPE) * key_tile, local const float *p,
                             local const float *rescale, local const int *limits, const int key,
                             const int num_full, const int num_keys, float2 *sums)
{
    const int item = (int)get_local_id(0);
    UNROLL
    for (int r = 0; r < TILE_ROWS; r++) {
        UNROLL
        for (int c = 0; c < COLUMNS; c++)
            sums[c * TILE_ROWS + r] *= rescale[r];
    }
    for (int t = 0; t < num_keys; t++) {
        float2 v[COLUMNS];
        UNROLL
        for (int c = 0; c < COLUMNS; c++)
            v[c] = UNPACK(CACHE_DTYPE,
                          key_tile + t * KEY_PITCH + min(item + c * WORK_GROUP, LATENT_PAIRS - 1));
        if (t < num_full) {
            UNROLL
            for (int r = 0; r < TILE_ROWS; r++) {
                UNROLL
                for (int c = 0; c < COLUMNS; c++)
                    sums[c * TILE_ROWS + r] =
                        fma((float2)(p[t * TILE_ROWS + r]), v[c], sums[c * TILE_ROWS + r]);
            }
        } else {
            UNROLL
            for (int r = 0; r < TILE_ROWS; r++) {
                UNROLL
                for (int c = 0; c < COLUMNS; c++) {
                    const float2 old = sums[c * TILE_ROWS + r];
                    const float2 sum = fma((float2)(p[t * TILE_ROWS + r]), v[c], old);
                    sums[c * TILE_ROWS + r] = key + t < limits[r] ? sum : old;
                }
            }
        }
    }
}

/* Writes out of the group's rows; factors[r] = 1 / l of row r, 0 of a row that sees nothing. */
CLMLA_INLINE void store_rows(ATTENTION_PARAMS, const row_group *group, const size_t first_state,
                             local const float *factors, const float2 *sums)
{
    const int item = (int)get_local_id(0);
    UNROLL
    for (int r = 0; r < TILE_ROWS; r++) {
        const float factor = factors[r];
        if (r >= group->num_rows)
            continue;
#if PARTIAL_STATES
        if (factor == 0.0f)
            continue; /* l is at most the number of keys: only a row that sees nothing has 0 */
#endif
        global STORAGE(OUT_DTYPE) *to =
            out + out_offset +
            (first_state + (size_t)row_token(group, num_heads, r)) * out_token_stride +
            (size_t)row_head(group, num_heads, r) * out_head_stride;
        UNROLL
        for (int c = 0; c < COLUMNS; c++) {
            const int i = 2 * (item + c * WORK_GROUP);
            const float2 y = sums[c * TILE_ROWS + r] * factor;
            if (i < KV_LORA_RANK)
                STORE(OUT_DTYPE, y.x, to, i);
            if (i + 1 < KV_LORA_RANK)
                STORE(OUT_DTYPE, y.y, to, i + 1);
        }
    }
}

/* scores[row][key] = scale · Σ over the slices, NOTHING_SEEN where the row does not see the key. */
CLMLA_INLINE void sum_slices(local const float *partial, local const int *limits, const int key,
                             const float scale_log2, local float *scores)
{
    for (int i = (int)get_local_id(0); i < SCORES; i += WORK_GROUP) {
        float s = 0.0f;
        for (int slice = 0; slice < SLICES; slice++)
            s += partial[slice * SCORES + i];
        scores[i] =
            key + i % BLOCK_TOKENS < limits[i / BLOCK_TOKENS] ? s * scale_log2 : NOTHING_SEEN;
    }
}

/* p[key][row] = exp2(score - m) with the maximum m raised by the block; rescale = exp2(m_old - m).
 */
CLMLA_INLINE void exponentials(local const float *scores, local const int *limits, const int key,
                               local const float *row_max, local float *raised_max,
                               local float *rescale, local float *p)
{
    for (int i = (int)get_local_id(0); i < SCORES; i += WORK_GROUP) {
        const int row = i / BLOCK_TOKENS, t = i % BLOCK_TOKENS;
        float m = row_max[row];
        for (int other = 0; other < BLOCK_TOKENS; other++)
            m = fmax(m, scores[row * BLOCK_TOKENS + other]);
        p[t * TILE_ROWS + row] = key + t < limits[row] ? exp2(scores[i] - m) : 0.0f;
        if (t == 0) {
            rescale[row] = exp2(row_max[row] - m);
            raised_max[row] = m;
        }
    }
}

/* Brings a block of keys to local memory and leaves its p = exp2(s - m) in `partial`, [key][row].
 * Reached by the whole work-group, as are its barriers. */
CLMLA_INLINE void weigh_keys(ATTENTION_PARAMS, const int sequence, const int key,
                             const int num_keys, local const PAIR(Q_LAT_DTYPE) * q_lat_tile,
                             local const PAIR(Q_PE_DTYPE) * q_pe_tile, local const int *limits,
                             local const float *row_max, local PAIR(CACHE_DTYPE) * key_tile,
                             local float *partial, local float *scores, local float *raised_max,
                             local float *rescale)
{
    load_block(ATTENTION_ARGS, sequence, key, num_keys, key_tile);
    barrier(CLK_LOCAL_MEM_FENCE);

    /* s = scale · q · k */
    score_keys(q_lat_tile, q_pe_tile, key_tile, partial);
    barrier(CLK_LOCAL_MEM_FENCE);
    sum_slices(partial, limits, key, scale_log2, scores);
    barrier(CLK_LOCAL_MEM_FENCE);

    /* p = exp2(s - m) */
    exponentials(scores, limits, key, row_max, raised_max, rescale, partial);
    barrier(CLK_LOCAL_MEM_FENCE);
}

/* l · rescale + Σ p over the block's keys for row `item`; its maximum becomes the raised one. */
CLMLA_INLINE float add_exponentials(local const float *p, local const float *rescale,
                                    local const float *raised_max, local float *row_max,
                                    const int item, float total)
{
    total *= rescale[item];
    for (int t = 0; t < BLOCK_TOKENS; t++)
        total += p[t * TILE_ROWS + item];
    row_max[item] = raised_max[item];
    return total;
}

/* lse of row `item`, and factors = 1 / l; a row that saw nothing has -INFINITY and 0. */
CLMLA_INLINE void finish_row(ATTENTION_PARAMS, const row_group *group, const size_t first_state,
                             const bool empty, const int item, const float total,
                             local const float *row_max, local float *factors)
{
    const size_t state = first_state + (size_t)row_token(group, num_heads, item);
    if (lse != 0)
        lse[lse_offset + state * lse_token_stride + (size_t)row_head(group, num_heads, item)] =
            empty ? -INFINITY : (row_max[item] + log2(total)) * LN_2;
    factors[item] = empty ? 0.0f : 1.0f / total;
}

kernel __attribute__((reqd_work_group_size(WORK_GROUP, 1, 1))) void attention__gpu(ATTENTION_PARAMS)
{
    local PAIR(Q_LAT_DTYPE) q_lat_tile[TILE_ROWS * LATENT_PAIRS];
#if ROPE_DIM > 0
    local PAIR(Q_PE_DTYPE) q_pe_tile[TILE_ROWS * ROPE_PAIRS];
#else
    local PAIR(Q_PE_DTYPE) *q_pe_tile = 0;
#endif
    local PAIR(CACHE_DTYPE) key_tile[BLOCK_TOKENS * KEY_PITCH];
    local float partial[SLICES * SCORES], scores[SCORES];
    local float row_max[TILE_ROWS], raised_max[TILE_ROWS], rescale[TILE_ROWS];
    local int limits[TILE_ROWS];
    local float *const p = partial; /* [key][row]; the partial sums are done with by then */

    row_group group;
    find_group(SEQUENCES_ARGS, num_heads, token_begin, num_tokens, (long)get_group_id(0), &group);
    if (group.num_rows == 0)
        return; /* the whole work-group */
    const int item = (int)get_local_id(0), split = (int)get_group_id(1);
    const long split_begin = (long)split * split_tokens;
    const int end = split_end(split_begin, split_tokens,
                              visible_keys(&group, num_heads, causal, group.num_rows - 1));
    const int least = min(visible_keys(&group, num_heads, causal, 0), end);

    /* l of row `item`. Private: kept in local memory it was read back as 0 on PoCL 3.1 after the
     * loop, since no other work-item touches it. */
    float total = 0.0f;
    float2 sums[COLUMNS * TILE_ROWS];
    UNROLL
    for (int i = 0; i < COLUMNS * TILE_ROWS; i++)
        sums[i] = 0.0f;
    load_queries(ATTENTION_ARGS, &group, q_lat_tile, q_pe_tile);
    if (item < TILE_ROWS) {
        row_max[item] = NOTHING_SEEN;
        limits[item] =
            item < group.num_rows ? min(visible_keys(&group, num_heads, causal, item), end) : end;
    }
    barrier(CLK_LOCAL_MEM_FENCE);

    const int num_blocks = end > split_begin ? (end - (int)split_begin - 1) / BLOCK_TOKENS + 1 : 0;
    for (int block = 0; block < num_blocks; block++) {
        const int key = (int)split_begin + block * BLOCK_TOKENS;
        const int num_keys = min(BLOCK_TOKENS, end - key);
        weigh_keys(ATTENTION_ARGS, group.sequence, key, num_keys, q_lat_tile, q_pe_tile, limits,
                   row_max, key_tile, partial, scores, raised_max, rescale);

        /* l = l · exp2(m_old - m) + Σ p, out likewise with Σ p · c_kv */
        if (item < TILE_ROWS)
            total = add_exponentials(p, rescale, raised_max, row_max, item, total);
        add_values(key_tile, p, rescale, limits, key, clamp(least - key, 0, num_keys), num_keys,
                   sums);
        barrier(CLK_LOCAL_MEM_FENCE);
    }

    /* out = out / l and lse, or the state of a row that saw nothing */
    const size_t first_state = PARTIAL_STATES == 1 ? (size_t)split * (size_t)num_tokens : 0;
    if (item < group.num_rows)
        finish_row(ATTENTION_ARGS, &group, first_state, limits[item] <= split_begin, item, total,
                   row_max, rescale);
    barrier(CLK_LOCAL_MEM_FENCE);
    store_rows(ATTENTION_ARGS, &group, first_state, rescale, sums);
}
