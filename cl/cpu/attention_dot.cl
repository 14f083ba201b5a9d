/*
 * Absorbed attention, cpu class, on bf16 dot products: what attention.cl computes (its formula,
 * mapping and promises), for query and cache in bf16, with vdpbf16ps as the inner operation:
 *
 *     acc[lane] += a.high · b.high;  acc[lane] += a.low · b.low      a, b pairs of bf16
 *
 * rounds to nearest even after each of the two, takes denormals as zero and flushes them (Intel 64
 * and IA-32 SDM, volume 2, VDPBF16PS). Products of two bf16 are exact in float32, so the scores are
 * float32 sums like attention.cl's; the scale is applied to them, not to the query. The pairs run
 *     scores  along the elements of a key; an odd part ends in a zero on both sides
 *     sum     along the keys of a block: key t with key t + 1, t even
 * Here p = exp2(s - m) is rounded to bf16. The divisor of out sums the rounded p, so that the
 * weights of the keys add up to 1; lse takes the sum of the unrounded p.
 *
 * Pairs whose second key some rows of the group do not see are added with and without that key and
 * selected by row: p = 0 would not keep out a NaN, nor the sign of a zero.
 *
 * Keys are copied tile by tile: as keys for the scores of that tile, as values for the sums of the
 * block. While a tile is scored, the next one is asked for, line by line between the operations:
 * with 16 heads, waiting for the cache was a third of the time.
 *
 * Private memory: keys 2 · SCORE_REGISTERS · D bytes, values 2 · BLOCK_TOKENS · KV_LORA_RANK, query
 * 2 · TILE_ROWS · D, sums 4 · TILE_ROWS · KV_LORA_RANK, scores and weights
 * 6 · BLOCK_TOKENS · TILE_ROWS. D even parts.
 *
 * The host sees to it that the processor has the instruction and that x86-64 code is made. Macros
 * as for attention.cl, with Q_LAT_DTYPE = Q_PE_DTYPE = CACHE_DTYPE = bf16 and TILE_TOKENS even.
 */
#define LATENT_PAIRS ((KV_LORA_RANK + 1) / 2)
#define KEY_PAIRS (LATENT_PAIRS + (ROPE_DIM + 1) / 2)
#define ADD_PAIRS(acc, a, b) __asm__("vdpbf16ps %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b))
/* b one pair in memory, for all lanes. As part of the instruction it costs no register and no
 * instruction of its own. */
#define ADD_PAIR(acc, a, b) __asm__("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(a), "m"(b))
/* The 64 bytes, 16 pairs, at p; p need not be valid. */
#define PREFETCH(p) __asm__ volatile("prefetcht0 %0" : : "m"(*(p)))
#define LINE_PAIRS 16

#if TILE_TOKENS % 2 != 0
#error "TILE_TOKENS must be even"
#endif

/* `dim` elements as pairs to every stride-th uint. */
CLMLA_INLINE void load_pairs(global const ushort *from, const int dim, uint *to, const int stride)
{
    int i = 0;
    for (; i + 16 <= dim; i += 16) {
        const uint8 pairs = as_uint8(load_bits16(from + i));
        uint *p = to + i / 2 * stride;
        if (stride == 1) {
            vstore8(pairs, 0, p);
            continue;
        }
        p[0] = pairs.s0, p[stride] = pairs.s1, p[2 * stride] = pairs.s2;
        p[3 * stride] = pairs.s3, p[4 * stride] = pairs.s4, p[5 * stride] = pairs.s5;
        p[6 * stride] = pairs.s6, p[7 * stride] = pairs.s7;
    }
    for (; i + 2 <= dim; i += 2)
        to[i / 2 * stride] = from[i] | (uint)from[i + 1] << 16;
    if (dim % 2 != 0)
        to[dim / 2 * stride] = from[dim - 1];
}

#if CACHE_FP8
/* The pairs of a latent. */
CLMLA_INLINE void load_latent(global const uchar *row, uint *to)
{
    for (int i = 0; i < KV_LORA_RANK; i += LANES)
        vstore8(as_uint8(latent_bits16(row, i)), 0, to + i / 2);
}
#else
#define load_latent(row, to) load_pairs((row), KV_LORA_RANK, (to), 1)
#endif

/* values[i] = latent element i of two keys; of the first alone where second_mask is 0. */
CLMLA_INLINE void load_values(global const latent_storage *first,
                              global const latent_storage *second, const uint second_mask,
                              uint *values)
{
    int i = 0;
    for (; i + LANES <= KV_LORA_RANK; i += LANES) {
        const uint16 high = convert_uint16(latent_bits16(second, i)) << 16;
        vstore16(convert_uint16(latent_bits16(first, i)) | (high & second_mask), 0, values + i);
    }
    for (; i < KV_LORA_RANK; i++)
        values[i] = latent_bits(first, i) | ((uint)latent_bits(second, i) << 16 & second_mask);
}

/* Where the keys of a tile lie in the caches. */
typedef struct tile_rows {
    global const latent_storage *latent[SCORE_REGISTERS];
    global const ushort *pe[SCORE_REGISTERS];
} tile_rows;

/* Rows of tile_tokens keys of a sequence from `key` on; past `end` the last row again. Leaves *rows
 * as it is when there is no key. */
CLMLA_INLINE void find_rows(ATTENTION_PARAMS, const int sequence, const int key, const int end,
                            const int tile_tokens, tile_rows *rows)
{
    size_t page = 0;
    int row = page_block_size;
    for (int t = 0; t < min(tile_tokens, end - key); t++, row++) {
        if (row == page_block_size || t == 0) {
            page = (size_t)find_page(block_table + block_table_offset, block_table_stride,
                                     page_block_size, sequence, key + t);
            row = (key + t) % page_block_size;
        }
        rows->latent[t] = kv_cache + kv_offset + page * kv_page_stride + row * kv_row_stride;
        rows->pe[t] = pe_cache + pe_offset + page * pe_page_stride + row * pe_row_stride;
    }
    for (int t = end - key; t > 0 && t < tile_tokens; t++) {
        rows->latent[t] = rows->latent[t - 1];
        rows->pe[t] = rows->pe[t - 1];
    }
}

/* The first num_keys keys of a tile as keys [..][KEY_PAIRS] and values [.. / 2][KV_LORA_RANK];
 * zeroes the other keys. */
CLMLA_INLINE void load_tile(const tile_rows *rows, const int num_keys, const int tile_tokens,
                            uint *keys, uint *values)
{
    for (int t = 0; t < num_keys; t++) {
        global const latent_storage *c_kv = rows->latent[t];
        load_latent(c_kv, keys + t * KEY_PAIRS);
#if ROPE_DIM > 0
        load_pairs(rows->pe[t], ROPE_DIM, keys + t * KEY_PAIRS + LATENT_PAIRS, 1);
#endif
        if (t % 2 != 0)
            load_values(rows->latent[t - 1], c_kv, UINT_MAX, values + t / 2 * KV_LORA_RANK);
        else if (t + 1 == num_keys)
            load_values(c_kv, c_kv, 0, values + t / 2 * KV_LORA_RANK);
    }
    for (int i = num_keys * KEY_PAIRS; i < tile_tokens * KEY_PAIRS; i++)
        keys[i] = 0;
}

/* Asks for the line that holds pair k of every key of a tile. */
CLMLA_INLINE void prefetch_pairs(const tile_rows *rows, const int tile_tokens, const int k)
{
    UNROLL
    for (int t = 0; t < tile_tokens; t++) {
        if (k < LATENT_PAIRS)
            PREFETCH(rows->latent[t] + 2 * k);
        else
            PREFETCH(rows->pe[t] + 2 * (k - LATENT_PAIRS));
    }
}

/* Scores of keys `key`, key + 1, ... (a register tile) for row_vectors row vectors; raises max.
 * query [KEY_PAIRS][row_vectors][16], scores [..][row_vectors][16]. next: rows of the next tile. */
CLMLA_INLINE void score_keys(const int row_vectors, const float scale_log2, const uint *query,
                             const uint *keys, const int key, const int16 *limit,
                             const tile_rows *next, float *scores, float16 *max)
{
    const int tile_tokens = SCORE_REGISTERS / row_vectors;
    float16 s[SCORE_REGISTERS];
    UNROLL
    for (int i = 0; i < SCORE_REGISTERS; i++)
        s[i] = 0.0f;
    for (int k = 0; k < KEY_PAIRS; k++) {
        uint16 q[ROW_VECTORS];
        if (k % LINE_PAIRS == 0)
            prefetch_pairs(next, tile_tokens, k);
        UNROLL
        for (int j = 0; j < row_vectors; j++)
            q[j] = vload16(0, query + (k * row_vectors + j) * LANES);
        UNROLL
        for (int t = 0; t < tile_tokens; t++) {
            UNROLL
            for (int j = 0; j < row_vectors; j++)
                ADD_PAIR(s[t * row_vectors + j], q[j], keys[t * KEY_PAIRS + k]);
        }
    }
    UNROLL
    for (int t = 0; t < tile_tokens; t++) {
        UNROLL
        for (int j = 0; j < row_vectors; j++) {
            const float16 seen = select((float16)NOTHING_SEEN, s[t * row_vectors + j] * scale_log2,
                                        (int16)(key + t) < limit[j]);
            max[j] = fmax(max[j], seen);
            vstore16(seen, 0, scores + (t * row_vectors + j) * LANES);
        }
    }
}

/* sums[v] = sums[v] · rescale + Σ_t weights[t] · values[t][v] over pairs t of keys, for `count`
 * latent elements from v. Rows see both keys of the first num_full pairs; of the others' keys those
 * below their limit. */
CLMLA_INLINE void add_values(const int row_vectors, const int count, const uint *weights,
                             const uint *values, const int key, const int num_full,
                             const int num_pairs, const int16 *limit, const float16 *rescale,
                             float *sums)
{
    float16 o[SUM_REGISTERS];
    UNROLL
    for (int i = 0; i < count; i++) {
        UNROLL
        for (int j = 0; j < row_vectors; j++)
            o[i * row_vectors + j] = vload16(0, sums + (i * row_vectors + j) * LANES) * rescale[j];
    }
    for (int t = 0; t < num_full; t++) {
        uint16 p[ROW_VECTORS];
        UNROLL
        for (int j = 0; j < row_vectors; j++)
            p[j] = vload16(0, weights + (t * row_vectors + j) * LANES);
        UNROLL
        for (int i = 0; i < count; i++) {
            UNROLL
            for (int j = 0; j < row_vectors; j++)
                ADD_PAIR(o[i * row_vectors + j], p[j], values[t * KV_LORA_RANK + i]);
        }
    }
    for (int t = num_full; t < num_pairs; t++) {
        UNROLL
        for (int i = 0; i < count; i++) {
            const uint16 both = values[t * KV_LORA_RANK + i], first = both & 0xffffu;
            UNROLL
            for (int j = 0; j < row_vectors; j++) {
                const uint16 p = vload16(0, weights + (t * row_vectors + j) * LANES);
                float16 sum = o[i * row_vectors + j], with_first = sum, with_both = sum;
                ADD_PAIRS(with_first, p, first);
                ADD_PAIRS(with_both, p, both);
                sum = select(sum, with_first, (int16)(key + 2 * t) < limit[j]);
                o[i * row_vectors + j] =
                    select(sum, with_both, (int16)(key + 2 * t + 1) < limit[j]);
            }
        }
    }
    UNROLL
    for (int i = 0; i < count; i++) {
        UNROLL
        for (int j = 0; j < row_vectors; j++)
            vstore16(o[i * row_vectors + j], 0, sums + (i * row_vectors + j) * LANES);
    }
}

/* What the keys seen so far leave of each row: maximum, Σ p, Σ of p rounded. */
typedef struct row_state {
    float16 max, total, rounded_total;
} row_state;

/* weights = pairs of exp2(s - m) rounded, of num_keys keys from `key` on. */
CLMLA_INLINE void weigh_keys(const int row_vectors, const float *scores, const int key,
                             const int num_keys, const int16 *limit, row_state *state,
                             uint *weights)
{
    for (int t = 0; t < num_keys; t += 2) {
        UNROLL
        for (int j = 0; j < row_vectors; j++) {
            uint16 pair = 0;
            UNROLL
            for (int i = 0; i < 2; i++) {
                const float16 s = vload16(0, scores + ((t + i) * row_vectors + j) * LANES);
                const float16 p =
                    select((float16)0.0f, exp2(s - state[j].max), (int16)(key + t + i) < limit[j]);
                const uint16 rounded = convert_uint16(float16_to_bf16(p));
                state[j].total += p;
                state[j].rounded_total += as_float16(rounded << 16);
                pair |= rounded << (16 * i);
            }
            vstore16(pair, 0, weights + (t / 2 * row_vectors + j) * LANES);
        }
    }
}

/* One block of num_keys keys from `key` on, the first num_full of which every row sees. rows: of the
 * block's first tile; leaves those of the next block's. */
CLMLA_INLINE void attend_block(const int row_vectors, ATTENTION_PARAMS, const int sequence,
                               const uint *query, const int key, const int num_full,
                               const int num_keys, const int end, const int16 *limit,
                               tile_rows *rows, float *scores, uint *weights, uint *values,
                               float *sums, row_state *state)
{
    const int tile_tokens = SCORE_REGISTERS / row_vectors;
    uint keys[SCORE_REGISTERS * KEY_PAIRS] VECTOR_ALIGNED;
    float16 raised[ROW_VECTORS], rescale[ROW_VECTORS];
    UNROLL
    for (int j = 0; j < row_vectors; j++)
        raised[j] = state[j].max;

    /* s = q · k, and the running maximum */
    for (int t = 0; t < num_keys; t += tile_tokens) {
        const int count = min(tile_tokens, num_keys - t);
        load_tile(rows, count, tile_tokens, keys, values + t / 2 * KV_LORA_RANK);
        find_rows(ATTENTION_ARGS, sequence, key + t + count, end, tile_tokens, rows);
        score_keys(row_vectors, scale_log2, query, keys, key + t, limit, rows,
                   scores + t * row_vectors * LANES, raised);
    }

    /* p = exp2(s - m), l = l · exp2(m_old - m) + Σ p */
    UNROLL
    for (int j = 0; j < row_vectors; j++) {
        rescale[j] = exp2(state[j].max - raised[j]);
        state[j].max = raised[j];
        state[j].total *= rescale[j];
        state[j].rounded_total *= rescale[j];
    }
    weigh_keys(row_vectors, scores, key, num_keys, limit, state, weights);

    /* out = out · exp2(m_old - m) + Σ p · c_kv */
    const int tiled = KV_LORA_RANK - KV_LORA_RANK % TILE_VALUES;
    const int full_pairs = num_full / 2, num_pairs = (num_keys + 1) / 2;
    for (int v = 0; v < tiled; v += TILE_VALUES)
        add_values(row_vectors, TILE_VALUES, weights, values + v, key, full_pairs, num_pairs, limit,
                   rescale, sums + v * row_vectors * LANES);
#if KV_LORA_RANK % TILE_VALUES != 0
    add_values(row_vectors, KV_LORA_RANK % TILE_VALUES, weights, values + tiled, key, full_pairs,
               num_pairs, limit, rescale, sums + tiled * row_vectors * LANES);
#endif
}

/* All keys from split_begin to end; leaves 1 / l and lse of each lane in factors and lses. */
CLMLA_INLINE void attend(const int row_vectors, ATTENTION_PARAMS, const int sequence,
                         const int split_begin, const int end, const int *limits, const uint *query,
                         float *sums, float *factors, float *lses)
{
    uint values[BLOCK_TOKENS / 2 * KV_LORA_RANK] VECTOR_ALIGNED;
    float scores[BLOCK_TOKENS * TILE_ROWS] VECTOR_ALIGNED;
    uint weights[BLOCK_TOKENS / 2 * TILE_ROWS] VECTOR_ALIGNED;
    int16 limit[ROW_VECTORS];
    row_state state[ROW_VECTORS];
    UNROLL
    for (int j = 0; j < row_vectors; j++) {
        limit[j] = vload16(0, limits + j * LANES);
        state[j] = (row_state){NOTHING_SEEN, 0.0f, 0.0f};
    }
    tile_rows rows;
    find_rows(ATTENTION_ARGS, sequence, split_begin, end, SCORE_REGISTERS / row_vectors, &rows);
    for (int key = split_begin; key < end;) {
        const int num_keys = min(BLOCK_TOKENS, end - key);
        const int num_full = clamp(limits[0] - key, 0, num_keys); /* the first row sees least */
        attend_block(row_vectors, ATTENTION_ARGS, sequence, query, key, num_full, num_keys, end,
                     limit, &rows, scores, weights, values, sums, state);
        key += num_keys;
    }
    UNROLL
    for (int j = 0; j < row_vectors; j++) {
        vstore16(1.0f / state[j].rounded_total, 0, factors + j * LANES);
        vstore16((state[j].max + log2(state[j].total)) * LN_2, 0, lses + j * LANES);
    }
}

kernel __attribute__((reqd_work_group_size(1, 1, 1))) void attention__cpu_dot(ATTENTION_PARAMS)
{
    row_group group;
    find_group(SEQUENCES_ARGS, num_heads, token_begin, num_tokens, (long)get_global_id(0), &group);
    if (group.num_rows == 0)
        return;
    uint query[TILE_ROWS * KEY_PAIRS] VECTOR_ALIGNED;
    float sums[TILE_ROWS * KV_LORA_RANK] VECTOR_ALIGNED;
    float factors[TILE_ROWS], lses[TILE_ROWS];
    int limits[TILE_ROWS];

    const int split = (int)get_global_id(1);
    const long split_begin = (long)split * split_tokens;
    const int end = split_end(split_begin, split_tokens,
                              visible_keys(&group, num_heads, causal, group.num_rows - 1));
    const int stride = group.num_rows <= LANES ? LANES : TILE_ROWS;

    /* Lanes without a row hold zeros and are not stored. */
    for (int i = 0; i < KEY_PAIRS * stride; i++)
        query[i] = 0;
    for (int i = 0; i < KV_LORA_RANK * stride; i++)
        sums[i] = 0.0f;
    find_limits(&group, num_heads, causal, end, stride, limits);
    for (int row = 0; row < group.num_rows; row++) {
        const size_t token = (size_t)row_token(&group, num_heads, row);
        const size_t head = (size_t)row_head(&group, num_heads, row);
        load_pairs(q_lat + q_lat_offset + token * q_lat_token_stride + head * q_lat_head_stride,
                   KV_LORA_RANK, query + row, stride);
#if ROPE_DIM > 0
        load_pairs(q_pe + q_pe_offset + token * q_pe_token_stride + head * q_pe_head_stride,
                   ROPE_DIM, query + LATENT_PAIRS * stride + row, stride);
#endif
    }

    if (stride == LANES)
        attend(1, ATTENTION_ARGS, group.sequence, (int)split_begin, end, limits, query, sums,
               factors, lses);
#if ROW_VECTORS > 1
    else
        attend(ROW_VECTORS, ATTENTION_ARGS, group.sequence, (int)split_begin, end, limits, query,
               sums, factors, lses);
#endif

    store_rows(ATTENTION_ARGS, &group, split, split_begin, limits, stride, sums, factors, lses);
}
