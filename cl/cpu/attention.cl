/*
 * Absorbed attention, cpu class, with an online softmax over blocks of keys:
 *
 *     s[r, j] = scale · (q_lat[r]·c_kv[j] + q_pe[r]·k_pe[j])      keys j that row r sees
 *     out[r]  = Σ_j exp2(s[r, j] - m[r]) · c_kv[j] / l[r]         m running maximum, l running sum
 *     lse[r]  = ln 2 · (m[r] + log2 l[r])
 *
 * scale contains log2(e) and is folded into the query in float32. Shapes, rows r and their groups:
 * attention.clh.
 *
 * Mapping: one work-group = one work-item = one group of TILE_ROWS rows (global id 0) × one split
 * of the keys (global id 1). Sixteen consecutive rows are the lanes of a float16, a "row vector";
 * no operation crosses lanes, so that a row's result depends on its own query and keys only. A
 * group of at most sixteen rows computes one row vector instead of ROW_VECTORS.
 *     scores  TILE_TOKENS keys × ROW_VECTORS in registers: query by vector, key elements broadcast
 *     sum     TILE_VALUES latent elements × ROW_VECTORS in registers over the keys of the block
 * Keys that some rows of the group do not see add nothing to those rows: the sum keeps its old bits
 * by select, as 0 · NaN would not.
 *
 * Private memory (float32): keys BLOCK_TOKENS · D, query TILE_ROWS · D, sums TILE_ROWS ·
 * KV_LORA_RANK, scores BLOCK_TOKENS · TILE_ROWS, with D = KV_LORA_RANK + ROPE_DIM. No local memory,
 * no barrier.
 *
 * Macros besides attention.clh's: ROW_VECTORS, TILE_ROWS = 16 · ROW_VECTORS; TILE_TOKENS ·
 * ROW_VECTORS divides BLOCK_TOKENS; TILE_VALUES.
 */
#define KEY_DIM (KV_LORA_RANK + ROPE_DIM)

/* Sixteen values to every stride-th float: a row of memory to a lane. */
CLMLA_INLINE void scatter16(float16 v, float *p, int stride)
{
    p[0] = v.s0, p[stride] = v.s1, p[2 * stride] = v.s2, p[3 * stride] = v.s3;
    p[4 * stride] = v.s4, p[5 * stride] = v.s5, p[6 * stride] = v.s6, p[7 * stride] = v.s7;
    p[8 * stride] = v.s8, p[9 * stride] = v.s9, p[10 * stride] = v.sa, p[11 * stride] = v.sb;
    p[12 * stride] = v.sc, p[13 * stride] = v.sd, p[14 * stride] = v.se, p[15 * stride] = v.sf;
}

/* One key's row as float32. */
CLMLA_INLINE void load_key(global const latent_storage *c_kv,
                           global const STORAGE(CACHE_DTYPE) * k_pe, float *key)
{
    int i = 0;
    for (; i + LANES <= KV_LORA_RANK; i += LANES)
        vstore16(latent_float16(c_kv, i), 0, key + i);
    for (; i < KV_LORA_RANK; i++)
        key[i] = latent_float(c_kv, i);
#if ROPE_DIM > 0
    for (i = 0; i + LANES <= ROPE_DIM; i += LANES)
        vstore16(LOAD16(CACHE_DTYPE, k_pe, i), 0, key + KV_LORA_RANK + i);
    for (; i < ROPE_DIM; i++)
        key[KV_LORA_RANK + i] = LOAD(CACHE_DTYPE, k_pe, i);
#endif
}

/* Scores of keys `key`, key + 1, ... (a register tile) for row_vectors row vectors; raises max.
 * query [KEY_DIM][row_vectors][16], keys [..][KEY_DIM], scores [..][row_vectors][16]. */
CLMLA_INLINE void score_keys(const int row_vectors, const float *query, const float *keys,
                             const int key, const int16 *limit, float *scores, float16 *max)
{
    const int tile_tokens = SCORE_REGISTERS / row_vectors;
    float16 s[SCORE_REGISTERS];
    UNROLL
    for (int i = 0; i < SCORE_REGISTERS; i++)
        s[i] = 0.0f;
    for (int k = 0; k < KEY_DIM; k++) {
        float16 q[ROW_VECTORS];
        UNROLL
        for (int j = 0; j < row_vectors; j++)
            q[j] = vload16(0, query + (k * row_vectors + j) * LANES);
        UNROLL
        for (int t = 0; t < tile_tokens; t++) {
            const float16 c = keys[t * KEY_DIM + k];
            UNROLL
            for (int j = 0; j < row_vectors; j++)
                s[t * row_vectors + j] = fma(q[j], c, s[t * row_vectors + j]);
        }
    }
    UNROLL
    for (int t = 0; t < tile_tokens; t++) {
        UNROLL
        for (int j = 0; j < row_vectors; j++) {
            const float16 seen =
                select((float16)NOTHING_SEEN, s[t * row_vectors + j], (int16)(key + t) < limit[j]);
            max[j] = fmax(max[j], seen);
            vstore16(seen, 0, scores + (t * row_vectors + j) * LANES);
        }
    }
}

/* sums[v] = sums[v] · rescale + Σ_t p[t] · keys[t][v] for `count` latent elements from v. Rows see
 * all of the first num_full keys; of the others those below their limit. */
CLMLA_INLINE void add_values(const int row_vectors, const int count, const float *p,
                             const float *keys, const int key, const int num_full,
                             const int num_keys, const int16 *limit, const float16 *rescale,
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
        UNROLL
        for (int i = 0; i < count; i++) {
            const float16 c = keys[t * KEY_DIM + i];
            UNROLL
            for (int j = 0; j < row_vectors; j++)
                o[i * row_vectors + j] =
                    fma(vload16(0, p + (t * row_vectors + j) * LANES), c, o[i * row_vectors + j]);
        }
    }
    for (int t = num_full; t < num_keys; t++) {
        UNROLL
        for (int i = 0; i < count; i++) {
            const float16 c = keys[t * KEY_DIM + i];
            UNROLL
            for (int j = 0; j < row_vectors; j++) {
                const float16 old = o[i * row_vectors + j];
                const float16 sum = fma(vload16(0, p + (t * row_vectors + j) * LANES), c, old);
                o[i * row_vectors + j] = select(old, sum, (int16)(key + t) < limit[j]);
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

/* One block of num_keys keys from `key` on, the first num_full of which every row sees. */
CLMLA_INLINE void attend_block(const int row_vectors, const float *query, const float *keys,
                               const int key, const int num_full, const int num_keys,
                               const int16 *limit, float *scores, float *sums, float16 *max,
                               float16 *total)
{
    const int tile_tokens = SCORE_REGISTERS / row_vectors;
    float16 raised[ROW_VECTORS], rescale[ROW_VECTORS];
    UNROLL
    for (int j = 0; j < row_vectors; j++)
        raised[j] = max[j];

    /* s = q · k, and the running maximum */
    for (int t = 0; t < num_keys; t += tile_tokens)
        score_keys(row_vectors, query, keys + t * KEY_DIM, key + t, limit,
                   scores + t * row_vectors * LANES, raised);

    /* p = exp2(s - m), l = l · exp2(m_old - m) + Σ p */
    UNROLL
    for (int j = 0; j < row_vectors; j++) {
        rescale[j] = exp2(max[j] - raised[j]);
        max[j] = raised[j];
        total[j] *= rescale[j];
    }
    for (int t = 0; t < num_keys; t++) {
        UNROLL
        for (int j = 0; j < row_vectors; j++) {
            float *s = scores + (t * row_vectors + j) * LANES;
            const float16 p =
                select((float16)0.0f, exp2(vload16(0, s) - max[j]), (int16)(key + t) < limit[j]);
            total[j] += p;
            vstore16(p, 0, s);
        }
    }

    /* out = out · exp2(m_old - m) + Σ p · c_kv */
    const int tiled = KV_LORA_RANK - KV_LORA_RANK % TILE_VALUES;
    for (int v = 0; v < tiled; v += TILE_VALUES)
        add_values(row_vectors, TILE_VALUES, scores, keys + v, key, num_full, num_keys, limit,
                   rescale, sums + v * row_vectors * LANES);
#if KV_LORA_RANK % TILE_VALUES != 0
    add_values(row_vectors, KV_LORA_RANK % TILE_VALUES, scores, keys + tiled, key, num_full,
               num_keys, limit, rescale, sums + tiled * row_vectors * LANES);
#endif
}

/* Converts keys `key` .. key + num_keys - 1 of a sequence, and zeroes what the last tile of scores
 * reads beyond them. */
CLMLA_INLINE void load_block(ATTENTION_PARAMS, const int sequence, const int key,
                             const int num_keys, const int tile_tokens, float *keys)
{
    for (int t = 0; t < num_keys; t++) {
        const int page = find_page(block_table + block_table_offset, block_table_stride,
                                   page_block_size, sequence, key + t);
        const size_t row = (size_t)((key + t) % page_block_size);
        load_key(kv_cache + kv_offset + (size_t)page * kv_page_stride + row * kv_row_stride,
                 pe_cache + pe_offset + (size_t)page * pe_page_stride + row * pe_row_stride,
                 keys + t * KEY_DIM);
    }
    const int tiled = (num_keys + tile_tokens - 1) / tile_tokens * tile_tokens;
    for (int i = num_keys * KEY_DIM; i < tiled * KEY_DIM; i++)
        keys[i] = 0.0f;
}

/* All keys from split_begin to end; leaves 1 / l and lse of each lane in factors and lses. */
CLMLA_INLINE void attend(const int row_vectors, ATTENTION_PARAMS, const int sequence,
                         const int split_begin, const int end, const int *limits,
                         const float *query, float *keys, float *scores, float *sums,
                         float *factors, float *lses)
{
    int16 limit[ROW_VECTORS];
    float16 max[ROW_VECTORS], total[ROW_VECTORS];
    UNROLL
    for (int j = 0; j < row_vectors; j++) {
        limit[j] = vload16(0, limits + j * LANES);
        max[j] = NOTHING_SEEN;
        total[j] = 0.0f;
    }
    for (int key = split_begin; key < end; key += BLOCK_TOKENS) {
        const int num_keys = min(BLOCK_TOKENS, end - key);
        const int num_full = clamp(limits[0] - key, 0, num_keys); /* the first row sees least */
        load_block(ATTENTION_ARGS, sequence, key, num_keys, SCORE_REGISTERS / row_vectors, keys);
        attend_block(row_vectors, query, keys, key, num_full, num_keys, limit, scores, sums, max,
                     total);
        if (end - key <= BLOCK_TOKENS)
            break; /* key + BLOCK_TOKENS may pass INT_MAX */
    }
    UNROLL
    for (int j = 0; j < row_vectors; j++) {
        vstore16(1.0f / total[j], 0, factors + j * LANES);
        vstore16((max[j] + log2(total[j])) * LN_2, 0, lses + j * LANES);
    }
}

/* scale · (q_lat | q_pe) of one row into its lane. */
CLMLA_INLINE void load_query(ATTENTION_PARAMS, const size_t token, const size_t head,
                             const int stride, float *lane)
{
    global const STORAGE(Q_LAT_DTYPE) *lat =
        q_lat + q_lat_offset + token * q_lat_token_stride + head * q_lat_head_stride;
    int i = 0;
    for (; i + LANES <= KV_LORA_RANK; i += LANES)
        scatter16(LOAD16(Q_LAT_DTYPE, lat, i) * scale_log2, lane + i * stride, stride);
    for (; i < KV_LORA_RANK; i++)
        lane[i * stride] = LOAD(Q_LAT_DTYPE, lat, i) * scale_log2;
#if ROPE_DIM > 0
    global const STORAGE(Q_PE_DTYPE) *pe =
        q_pe + q_pe_offset + token * q_pe_token_stride + head * q_pe_head_stride;
    lane += KV_LORA_RANK * stride;
    for (i = 0; i + LANES <= ROPE_DIM; i += LANES)
        scatter16(LOAD16(Q_PE_DTYPE, pe, i) * scale_log2, lane + i * stride, stride);
    for (; i < ROPE_DIM; i++)
        lane[i * stride] = LOAD(Q_PE_DTYPE, pe, i) * scale_log2;
#endif
}

kernel __attribute__((reqd_work_group_size(1, 1, 1))) void attention__cpu(ATTENTION_PARAMS)
{
    row_group group;
    find_group(SEQUENCES_ARGS, num_heads, token_begin, num_tokens, (long)get_global_id(0), &group);
    if (group.num_rows == 0)
        return;
    float query[TILE_ROWS * KEY_DIM] VECTOR_ALIGNED;
    float sums[TILE_ROWS * KV_LORA_RANK] VECTOR_ALIGNED;
    float keys[BLOCK_TOKENS * KEY_DIM] VECTOR_ALIGNED;
    float scores[BLOCK_TOKENS * TILE_ROWS] VECTOR_ALIGNED;
    float factors[TILE_ROWS], lses[TILE_ROWS];
    int limits[TILE_ROWS];

    const int split = (int)get_global_id(1);
    const long split_begin = (long)split * split_tokens;
    const int end = split_end(split_begin, split_tokens,
                              visible_keys(&group, num_heads, causal, group.num_rows - 1));
    const int stride = group.num_rows <= LANES ? LANES : TILE_ROWS;

    /* Lanes without a row hold zeros and are not stored. */
    for (int i = 0; i < KEY_DIM * stride; i++)
        query[i] = 0.0f;
    for (int i = 0; i < KV_LORA_RANK * stride; i++)
        sums[i] = 0.0f;
    find_limits(&group, num_heads, causal, end, stride, limits);
    for (int row = 0; row < group.num_rows; row++)
        load_query(ATTENTION_ARGS, (size_t)row_token(&group, num_heads, row),
                   (size_t)row_head(&group, num_heads, row), stride, query + row);

    if (stride == LANES)
        attend(1, ATTENTION_ARGS, group.sequence, (int)split_begin, end, limits, query, keys,
               scores, sums, factors, lses);
#if ROW_VECTORS > 1
    else
        attend(ROW_VECTORS, ATTENTION_ARGS, group.sequence, (int)split_begin, end, limits, query,
               keys, scores, sums, factors, lses);
#endif

    store_rows(ATTENTION_ARGS, &group, split, split_begin, limits, stride, sums, factors, lses);
}
