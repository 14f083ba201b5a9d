/*
 * Absorbed attention by products of whole warpgroups: what nvidia/attention.clh computes, for numbers
 * of heads that are multiples of 64, so that the rows of a group are heads of one token and see the
 * same keys.
 *
 * One work-group: 64 rows x one split of the keys; two warpgroups. The query stays in local memory;
 * of two slots for blocks of 64 keys one is read while the other is filled. Both are rows of 64
 * columns, 128 bytes, in panels of 64 rows one behind the other, their chunks swizzled
 * (wgmma_matrix.clh). A block is
 *     scores  [64 rows, 32 keys] of one warpgroup: query and its half of the block, both in local
 *             memory, k in one chain
 *     p       maxima of the halves meet in local memory, then the halves of p, as fragments: a lane
 *             finds those of its rows where the same lane of the other warpgroup left them
 *     sum     a warpgroup owns half of the latent columns, 128 a product, in registers: p in
 *             registers, the block, its keys now rows that are summed over, in local memory
 * Tensor cores and copies work at the same time, tensor cores and the softmax do not: a second block
 * of scores on the way would take local memory that is not there.
 *
 * Keys past the end are zeros in local memory and weigh 0. Local memory: LOCAL_BYTES;
 * src/tuning/attention_tile.c counts the same. Three barriers a block.
 *
 * Grid: (groups of rows · WORK_GROUP, splits of the keys), work-group {WORK_GROUP, 1, 1}. p is
 * rounded to bf16 for the sum as there; sums of scores are in another order, so that the bits are
 * others. A row's do not depend on the other rows.
 *
 * Macros besides attention_rows.clh's: TILE_ROWS 64, BLOCK_TOKENS 64, WORK_GROUP 256, STAGES 2.
 * KV_LORA_RANK a multiple of 256, ROPE_DIM of 64. Storage bf16, OUT_DTYPE bf16 or f32.
 * ALIGNED_QUERY    1: rows of q_lat and q_pe begin at multiples of 8 elements
 */
#define WARPGROUPS (WORK_GROUP / 128)
#define KEY_DIM (KV_LORA_RANK + ROPE_DIM)
#define PANEL_BYTES (64 * MATRIX_ROW_BYTES)
#define BLOCK_BYTES (KEY_DIM / 64 * PANEL_BYTES) /* of keys, and of the query */
#define KEYS (BLOCK_TOKENS / WARPGROUPS)         /* of a block that a warpgroup scores */
#define KEY_TILES (KEYS / 8)
#define PRODUCTS (KV_LORA_RANK / WARPGROUPS / 128) /* beside each other, of a warpgroup's columns */
#define STEPS (BLOCK_TOKENS / 16)                  /* along the keys */
#define WEIGHTS_BYTES (STEPS * 128 * 16)           /* [STEPS][work-items of a warpgroup] uint4 */
#define ROWS_BYTES (WARPGROUPS * TILE_ROWS * 4)    /* [WARPGROUPS][TILE_ROWS] float */
#define LOCAL_BYTES ((1 + STAGES) * BLOCK_BYTES + WEIGHTS_BYTES + ROWS_BYTES)

#if TILE_ROWS != 64 || BLOCK_TOKENS != 64 || WORK_GROUP != 256 || STAGES != 2 ||                   \
    MATRIX_ROW_BYTES != 128
#error "TILE_ROWS, BLOCK_TOKENS, WORK_GROUP and STAGES do not fit the products"
#endif
#if KV_LORA_RANK % 256 != 0 || ROPE_DIM % 64 != 0
#error "KV_LORA_RANK must be a multiple of 256, ROPE_DIM of 64"
#endif
#if CACHE_FP8
#error "keys are copied as they are"
#endif

/* Where things lie in local memory. */
typedef struct places {
    shared_address query, slots, weights, rows;
} places;

/* A chunk's place among 64 rows of keys or of the query. */
CLMLA_INLINE shared_address chunk_place(const int row, const int chunk)
{
    return (shared_address)(chunk / 8 * PANEL_BYTES + SWIZZLED(row, chunk % 8));
}

/* ---- query --------------------------------------------------------------------------------------- */

CLMLA_INLINE uint4 query_chunk(global const ushort *from)
{
#if ALIGNED_QUERY
    return *(global const uint4 *)from;
#else
    return as_uint4(vload8(0, from));
#endif
}

/* The group's rows to local memory; zeros where there are none. */
CLMLA_INLINE void load_query(ATTENTION_PARAMS ROTATION_PARAMS, const row_group *group,
                             const shared_address query)
{
    const int row = (int)get_local_id(0) / LOADERS, part = (int)get_local_id(0) % LOADERS;
    const bool exists = row < group->num_rows;
    const size_t token = exists ? (size_t)row_token(group, num_heads, row) : 0;
    const size_t head = exists ? (size_t)row_head(group, num_heads, row) : 0;
    global const ushort *const latent =
        q_lat + q_lat_offset + token * q_lat_token_stride + head * q_lat_head_stride;
    global const ushort *const pe =
        q_pe + q_pe_offset + token * q_pe_token_stride + head * q_pe_head_stride;
#if ROTATE_QUERY
    global const float *const rotation =
        cos_sin + cos_sin_offset + (token_begin + token) * cos_sin_token_stride;
#endif
    for (int chunk = part; chunk < KEY_DIM / 8; chunk += LOADERS) {
        uint4 pairs = (uint4)(0u);
        if (exists && chunk < KV_LORA_RANK / 8) {
            pairs = query_chunk(latent + chunk * 8);
        } else if (exists) {
            const int first = chunk * 8 - KV_LORA_RANK;
            pairs = query_chunk(pe + first);
#if ROTATE_QUERY
            pairs = (uint4)(rotated(pairs.x, rotation, cos_sin_pair_stride, first / 2),
                            rotated(pairs.y, rotation, cos_sin_pair_stride, first / 2 + 1),
                            rotated(pairs.z, rotation, cos_sin_pair_stride, first / 2 + 2),
                            rotated(pairs.w, rotation, cos_sin_pair_stride, first / 2 + 3));
#endif
        }
        store_shared(query + chunk_place(row, chunk), pairs);
    }
}

/* ---- blocks of keys ------------------------------------------------------------------------------ */

/* Begins to copy this work-item's part of a block; keys that do not exist become zero. */
CLMLA_INLINE void copy_block(ATTENTION_PARAMS, const key_row *key, const shared_address slot)
{
    global const latent_storage *const latent = key_latent(ATTENTION_ARGS, key);
    global const ushort *const pe = key_pe(ATTENTION_ARGS, key);
    const int row = (int)get_local_id(0) / LOADERS, part = (int)get_local_id(0) % LOADERS;
    UNROLL
    for (int i = 0; i < KEY_DIM / 8 / LOADERS; i++) {
        const int chunk = part + i * LOADERS;
        const shared_address to = slot + chunk_place(row, chunk);
        if (i * LOADERS < KV_LORA_RANK / 8)
            copy_chunk(to, latent + chunk * 8, key->page >= 0);
        else
            copy_chunk(to, pe + (chunk * 8 - KV_LORA_RANK), key->page >= 0);
    }
    copy_commit();
}

/* warpgroup: scores[WARPGROUP_SUMS_N32] = q · k of its half of the block, later on. */
CLMLA_INLINE void score_keys(const warpgroup *wg, const shared_address query,
                             const shared_address slot, float *scores)
{
    const ulong q = matrix_descriptor(wg, query);
    const ulong k =
        matrix_descriptor(wg, slot + (shared_address)(wg->index * KEYS * MATRIX_ROW_BYTES));
    UNROLL
    for (int i = 0; i < WARPGROUP_SUMS_N32; i++)
        scores[i] = 0.0f;
    warpgroup_hold_n32(scores);
    warpgroup_arrive();
    UNROLL_WARP
    for (int step = 0; step < KEY_DIM / 16; step++) {
        const ulong at = (ulong)(step / 4 * (PANEL_BYTES >> 4) + step % 4 * DESCRIPTOR_K16);
        warpgroup_mma_n32(wg, scores, q + at, k + at);
    }
    warpgroup_commit();
}

/* warpgroup: sums[PRODUCTS][WARPGROUP_SUMS] += p · c_kv of the block. */
CLMLA_INLINE void add_values(const warpgroup *wg, const uint4 *weights, const shared_address slot,
                             float *sums)
{
    const ulong values = transposed_descriptor(wg, slot, PANEL_BYTES) +
                         (ulong)(wg->index * (KV_LORA_RANK / WARPGROUPS / 64) * (PANEL_BYTES >> 4));
    UNROLL
    for (int i = 0; i < PRODUCTS; i++)
        warpgroup_hold(sums + i * WARPGROUP_SUMS);
    warpgroup_arrive();
    UNROLL_WARP
    for (int step = 0; step < STEPS; step++) {
        UNROLL_WARP
        for (int i = 0; i < PRODUCTS; i++)
            warpgroup_mma_transposed(
                wg, sums + i * WARPGROUP_SUMS, weights[step],
                values + (ulong)(step * DESCRIPTOR_ROWS16 + i * (2 * PANEL_BYTES >> 4)));
    }
    warpgroup_commit();
    WARPGROUP_WAIT(0);
    UNROLL
    for (int i = 0; i < PRODUCTS; i++)
        warpgroup_hold(sums + i * WARPGROUP_SUMS);
}

/* ---- softmax ------------------------------------------------------------------------------------- */

/* What a lane has of its rows, r and r + 8 with r = 16 · warp + lane / 4. */
typedef struct row_state {
    float max[2];
    float total[2]; /* Σ p over the keys that this lane weighs */
} row_state;

/* A number of each of the lane's rows, the same in the four lanes of a quad, and the other
 * warpgroup's. */
CLMLA_INLINE void exchange_rows(const warp *w, const warpgroup *wg, const shared_address rows,
                                const float *mine, float *other)
{
    const uint row = wg->warp * 16 + w->lane / 4;
    const shared_address to = rows + 4 * (wg->index * TILE_ROWS + row);
    const shared_address from = rows + 4 * ((1 - wg->index) * TILE_ROWS + row);
    if (w->lane % 4 == 0) {
        store_shared_float(to, mine[0]);
        store_shared_float(to + 4 * 8, mine[1]);
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    other[0] = load_shared_float(from);
    other[1] = load_shared_float(from + 4 * 8);
}

/* Scales the scores of keys from `key` on, as far as they are before `end`, and raises max with the
 * other half's; rescale[row] = exp2(m_old - m). */
CLMLA_INLINE void raise_maxima(const warp *w, const warpgroup *wg, const shared_address exchange,
                               const float scale_log2, const int key, const int end, float *scores,
                               row_state *rows, float *rescale)
{
    const int first = key + (int)w->lane % 4 * 2;
    float mine[2] = {NOTHING_SEEN, NOTHING_SEEN}, other[2];
    UNROLL
    for (int i = 0; i < WARPGROUP_SUMS_N32; i++) {
        const int at = first + i / 4 * 8 + i % 2;
        scores[i] = at < end ? scores[i] * scale_log2 : NOTHING_SEEN;
        mine[i / 2 % 2] = fmax(mine[i / 2 % 2], scores[i]);
    }
    UNROLL_WARP
    for (int r = 0; r < 2; r++)
        mine[r] = row_max(w, mine[r]);
    exchange_rows(w, wg, exchange, mine, other);
    UNROLL
    for (int r = 0; r < 2; r++) {
        const float max = fmax(rows->max[r], fmax(mine[r], other[r]));
        rescale[r] = exp2_fast(rows->max[r] - max);
        rows->max[r] = max;
    }
}

/* weights[STEPS] = p of the block's keys as fragments, from both halves; adds to total. */
CLMLA_INLINE void weigh_keys(const warpgroup *wg, const warp *w, const shared_address exchange,
                             const int key, const int end, const float *scores,
                             const float *rescale, row_state *rows, uint4 *weights)
{
    const int first = key + (int)w->lane % 4 * 2;
    const shared_address lane = exchange + 16 * (wg->warp * 32 + w->lane);
    float total[2] = {0.0f, 0.0f};
    UNROLL
    for (int step = 0; step < KEYS / 16; step++) {
        uint pairs[4];
        UNROLL
        for (int i = 0; i < 4; i++) {
            const int r = i % 2, tile = 2 * step + i / 2, at = first + tile * 8;
            const float p0 = weight(scores[4 * tile + 2 * r], rows->max[r], at, end);
            const float p1 = weight(scores[4 * tile + 2 * r + 1], rows->max[r], at + 1, end);
            total[r] += p0 + p1;
            pairs[i] = pack_bf16(p0, p1);
        }
        store_shared(lane + (shared_address)(16 * 128) *
                                (wg->index * (KEYS / 16) + (shared_address)step),
                     (uint4)(pairs[0], pairs[1], pairs[2], pairs[3]));
    }
    UNROLL
    for (int r = 0; r < 2; r++)
        rows->total[r] = fma(rows->total[r], rescale[r], total[r]);
    barrier(CLK_LOCAL_MEM_FENCE);
    UNROLL
    for (int step = 0; step < STEPS; step++)
        weights[step] = load_shared(lane + (shared_address)(16 * 128 * step));
}

/* ---- results ------------------------------------------------------------------------------------- */

/* out = sums / l and lse of the lane's rows; totals are l, complete. */
CLMLA_INLINE void store_rows(ATTENTION_PARAMS, const warp *w, const warpgroup *wg,
                             const row_group *group, const int split, const bool empty,
                             const row_state *rows, const float *totals, const float *sums)
{
    const int column = (int)wg->index * (KV_LORA_RANK / WARPGROUPS) + (int)w->lane % 4 * 2;
    UNROLL
    for (int r = 0; r < 2; r++) {
        const int row = (int)wg->warp * 16 + (int)w->lane / 4 + 8 * r;
        const float factor = empty ? 0.0f : 1.0f / totals[r];
        if (row >= group->num_rows)
            continue;
        row_place place;
        find_row(ATTENTION_ARGS, group, row, split, &place);
        if (lse != 0 && wg->index == 0 && w->lane % 4 == 0)
            lse[place.lse] = row_lse(empty, rows->max[r], totals[r]);
        if (PARTIAL_STATES == 1 && empty)
            continue;
        global STORAGE(OUT_DTYPE) *const to = out + place.out + column;
        UNROLL
        for (int i = 0; i < PRODUCTS * 16; i++)
            STORE_PAIR((float2)(sums[4 * i + 2 * r], sums[4 * i + 2 * r + 1]) * factor, to + i * 8);
    }
}

/* ---- the kernel ---------------------------------------------------------------------------------- */

/* Keys of a split: those before `end`, blocks from split_begin on. */
typedef struct key_range {
    int begin, end, num_blocks;
} key_range;

CLMLA_INLINE void find_range(ATTENTION_PARAMS, const row_group *group, const int split,
                             key_range *range)
{
    const long start = (long)split * split_tokens;
    const int end = split_end(start, split_tokens, visible_keys(group, num_heads, causal, 0));
    const bool has_keys = group->num_rows > 0 && end > start;
    range->begin = has_keys ? (int)start : end; /* both within int where there are keys */
    range->end = end;
    range->num_blocks = has_keys ? (end - range->begin - 1) / BLOCK_TOKENS + 1 : 0;
}

/* The key of this work-item's place in block `block`, as find_key. */
CLMLA_INLINE void find_block(ATTENTION_PARAMS, const row_group *group, const key_range *range,
                             const int block, key_row *key)
{
    find_key(ATTENTION_ARGS, group->sequence,
             block < range->num_blocks ? range->begin + block * BLOCK_TOKENS : range->end,
             range->end, key);
}

/* Block `block` is in local memory; the one behind it, whose keys are `next`, follows meanwhile, and
 * next becomes the one behind that. */
CLMLA_INLINE void pass_block(ATTENTION_PARAMS, const warp *w, const warpgroup *wg, const places *at,
                             const row_group *group, const key_range *range, const int block,
                             key_row *next, row_state *rows, float *sums)
{
    const int key = range->begin + block * BLOCK_TOKENS + (int)wg->index * KEYS;
    const shared_address slot = at->slots + (shared_address)(block % STAGES * BLOCK_BYTES);
    const shared_address free_slot =
        at->slots + (shared_address)((block + 1) % STAGES * BLOCK_BYTES);
    float scores[WARPGROUP_SUMS_N32], rescale[2];
    uint4 weights[STEPS];

    /* s = q · k */
    score_keys(wg, at->query, slot, scores);
    copy_block(ATTENTION_ARGS, next, free_slot);
    find_block(ATTENTION_ARGS, group, range, block + 2, next);
    WARPGROUP_WAIT(0);
    warpgroup_hold_n32(scores);

    /* p = exp2(s - m), l = l · exp2(m_old - m) + Σ p */
    raise_maxima(w, wg, at->rows, scale_log2, key, range->end, scores, rows, rescale);
    weigh_keys(wg, w, at->weights, key, range->end, scores, rescale, rows, weights);

    /* out = out · exp2(m_old - m) + Σ p · c_kv */
    UNROLL
    for (int i = 0; i < PRODUCTS * WARPGROUP_SUMS; i++)
        sums[i] *= rescale[i / 2 % 2];
    add_values(wg, weights, slot, sums);
}

kernel __attribute__((reqd_work_group_size(WORK_GROUP, 1, 1))) void
attention__wgmma(ATTENTION_PARAMS ROTATION_PARAMS)
{
    LOCAL_MEMORY(memory, LOCAL_BYTES);
    WARP_BEGIN(w, WORK_GROUP);
    WARPGROUP_BEGIN(wg, w, memory);
    const shared_address begin = SHARED_ADDRESS(memory);
    const places at = {begin, begin + BLOCK_BYTES, begin + (1 + STAGES) * BLOCK_BYTES,
                       begin + (1 + STAGES) * BLOCK_BYTES + WEIGHTS_BYTES};
    const int split = (int)get_group_id(1);
    row_group group;
    key_range range;
    find_group(SEQUENCES_ARGS, num_heads, token_begin, num_tokens, (long)get_group_id(0), &group);
    find_range(ATTENTION_ARGS, &group, split, &range);

    /* The first block is under way before the loop; `next` is found a block ahead, so that the
     * look-up in the block table is not waited for. */
    key_row next;
    find_block(ATTENTION_ARGS, &group, &range, 0, &next);
    copy_block(ATTENTION_ARGS, &next, at.slots);
    find_block(ATTENTION_ARGS, &group, &range, 1, &next);
    load_query(ATTENTION_ARGS ROTATION_ARGS, &group, at.query);
    row_state rows = {{NOTHING_SEEN, NOTHING_SEEN}, {0.0f, 0.0f}};
    float sums[PRODUCTS * WARPGROUP_SUMS];
    UNROLL
    for (int i = 0; i < PRODUCTS * WARPGROUP_SUMS; i++)
        sums[i] = 0.0f;
    for (int block = 0; block < range.num_blocks; block++) {
        COPY_WAIT(0);
        publish_to_warpgroups();
        barrier(CLK_LOCAL_MEM_FENCE); /* the block is whole, the other slot is free */
        pass_block(ATTENTION_ARGS, &w, &wg, &at, &group, &range, block, &next, &rows, sums);
    }
    COPY_WAIT(0);

    float totals[2], other[2];
    UNROLL_WARP
    for (int r = 0; r < 2; r++)
        totals[r] = row_sum(&w, rows.total[r]);
    /* out may be q_lat, which every work-item has read by now */
    barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE);
    exchange_rows(&w, &wg, at.rows, totals, other);
    UNROLL
    for (int r = 0; r < 2; r++)
        totals[r] += other[r];
    store_rows(ATTENTION_ARGS, &w, &wg, &group, split, range.num_blocks == 0, &rows, totals, sums);
}
