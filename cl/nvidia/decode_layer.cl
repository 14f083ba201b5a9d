/*
 * A layer for few tokens in one launch: what the launches of projection_few, norm_append, attention
 * and merge_up compute one after the other (src/layer/forward.c), to the same bits.
 *
 *     [q_a | c_kv | k_pe] = x · [q_a_proj | kv_a_proj_with_mqa]ᵀ       inputs; without q LoRA q, not q_a
 *     kv_cache, pe_cache, q_a = norm_append(c_kv, k_pe, q_a)           append
 *     q = q_a · q_b_projᵀ                                              q_b, with q LoRA
 *     q_lat[h] = q_nope[h] · W_UK[h]                                   absorb
 *     partial_out, partial_lse = attention(q_lat, q_pe), split         attend_keys
 *     o[h] = W_UV[h] · merge(partial_out, partial_lse)                 merge_v_up
 *     output = concat_h(o) · o_projᵀ                                   out
 *
 * A stage is a loop of this work-group over the work of the stage's own launch, every
 * get_num_groups(0)-th group of it; between stages all groups wait for each other (grid.clh). So all
 * must be on the device at once: the host asks the device by a launch without tokens, which meets at
 * every barrier and does no work. Without q LoRA append and absorb are one stage: neither reads what
 * the other writes.
 *
 * While others are busy a group asks for the beginning of its part of the next weights in L2:
 * PREFETCH_LINES lines of 128 bytes for each work-item.
 *
 * No pointer is restrict, and none may become so: a stage reads what other groups wrote in this
 * launch, which is not to go through caches of constants.
 *
 *   hidden, output   [T, HIDDEN_SIZE] bf16; bf16 or float32: tokens of the step
 *   kv_cache, pe_cache, cos_sin, sequences   as in append.clh and attention.clh
 *   weights          every matrix as src/ops/matrix.h packs it, and the norms in float32; *_at in
 *                    elements of four bytes. kv_a_proj_with_mqa follows the first matrix
 *   workspace        q_a, kv_a, q, q_lat as in src/layer/workspace.h, and the states [split, token]
 *                    of [NUM_HEADS, KV_LORA_RANK] out and [NUM_HEADS] lse; *_at likewise
 *
 * Grid: (work-groups · WORK_GROUP), work-group {WORK_GROUP, 1, 1}. Local memory: the largest that a
 * stage takes, and a word.
 *
 * Needs attention.clh, ptx.clh, nvidia/attention.clh, projection_few.clh, append.clh, rmsnorm.clh,
 * norm_append.clh, weights.clh, merge_up.clh and grid.clh in front of it, and their macros, of which
 * TILE_ROWS is attention's (16: more spill registers here), TILE_COLUMNS, TILE_K and SLICES are
 * merge_up's; FEW_ROWS 16, OUT_DTYPE f32, PARTIAL_STATES 1, ROTATE_QUERY 1, W_DTYPE f32, every other
 * dtype bf16. Further:
 * HIDDEN_SIZE, Q_LORA_RANK (0: none), NUM_HEADS, NOPE_DIM, V_DIM
 * INPUT_SLICES, Q_B_SLICES, ABSORB_SLICES, OUT_SLICES    of k, as in the launches of their own
 * OUTPUT_DTYPE     bf16, f32
 * PREFETCH_LINES   0: none
 */
#if FEW_ROWS != 16 || !PARTIAL_STATES || !ROTATE_QUERY || LATENT != KV_LORA_RANK
#error "stages do not fit each other"
#endif

#define QK_DIM (NOPE_DIM + ROPE_DIM)
#define KV_DIM (KV_LORA_RANK + ROPE_DIM)
#define Q_COLUMNS (NUM_HEADS * QK_DIM)
#define FIRST_COLUMNS (Q_LORA_RANK > 0 ? Q_LORA_RANK : Q_COLUMNS) /* of the inputs' first matrix */
#define STATE (NUM_HEADS * (KV_LORA_RANK + 1))                    /* floats of a token's state */

#define LARGER(a, b) ((a) > (b) ? (a) : (b))
#define SLICES_OF_ALL LARGER(LARGER(INPUT_SLICES, Q_B_SLICES), LARGER(ABSORB_SLICES, OUT_SLICES))
#define LOCAL_BYTES                                                                                \
    LARGER(RING_BYTES + EXCHANGE_BYTES,                                                            \
           LARGER(FEW_PARTIAL_BYTES(SLICES_OF_ALL), 4 * (MERGE_FLOATS + 3)))

/* src/layer/decode_layer.c sets them. */
#define DECODE_PARAMS                                                                              \
    SEQUENCES_PARAMS, global const float *cos_sin, const ulong cos_sin_offset,                     \
        const ulong cos_sin_token_stride, const ulong cos_sin_pair_stride, global ushort *output,  \
        const ulong output_offset, const ulong output_stride, global const ushort *hidden,         \
        const ulong hidden_offset, const ulong hidden_stride, global ushort *kv_cache,             \
        const ulong kv_offset, const ulong kv_page_stride, const ulong kv_row_stride,              \
        global ushort *pe_cache, const ulong pe_offset, const ulong pe_page_stride,                \
        const ulong pe_row_stride, global const uint *weights, const ulong input_at,               \
        const ulong q_b_at, const ulong w_uk_at, const ulong w_uv_at, const ulong out_at,          \
        const ulong q_norm_at, const ulong kv_norm_at, global float *workspace,                    \
        const ulong q_a_at, const ulong kv_a_at, const ulong q_at, const ulong q_lat_at,           \
        const ulong states_at, const float eps, const float scale_log2, const int accumulate,      \
        const int token_begin, const int num_tokens, const int num_splits, const int split_tokens
#define DECODE_ARGS                                                                                \
    SEQUENCES_ARGS, cos_sin, cos_sin_offset, cos_sin_token_stride, cos_sin_pair_stride, output,    \
        output_offset, output_stride, hidden, hidden_offset, hidden_stride, kv_cache, kv_offset,   \
        kv_page_stride, kv_row_stride, pe_cache, pe_offset, pe_page_stride, pe_row_stride,         \
        weights, input_at, q_b_at, w_uk_at, w_uv_at, out_at, q_norm_at, kv_norm_at, workspace,     \
        q_a_at, kv_a_at, q_at, q_lat_at, states_at, eps, scale_log2, accumulate, token_begin,      \
        num_tokens, num_splits, split_tokens

/* Of a stage's pieces of work this work-group takes the first and every so many-th from there. */
#define FIRST_ID ((int)get_group_id(0))
#define NEXT_ID ((int)get_num_groups(0))

/* ---- projections ------------------------------------------------------------------------------- */

CLMLA_INLINE void inputs(DECODE_PARAMS, few_product *p)
{
    *p = (few_product){
        .x = hidden + hidden_offset + (size_t)token_begin * hidden_stride,
        .x_row_stride = hidden_stride,
        .W = weights + input_at,
        .K = HIDDEN_SIZE,
        .num_rows = num_tokens,
        .slices = INPUT_SLICES,
        .first = {.y = workspace + (Q_LORA_RANK > 0 ? q_a_at : q_at),
                  .row_stride = FIRST_COLUMNS,
                  .columns = FIRST_COLUMNS},
        .second = {
            .y = workspace + kv_a_at, .is_float = true, .row_stride = KV_DIM, .columns = KV_DIM}};
}

CLMLA_INLINE void q_b(DECODE_PARAMS, few_product *p)
{
    *p = (few_product){
        .x = (global const ushort *)(workspace + q_a_at),
        .x_row_stride = Q_LORA_RANK,
        .W = weights + q_b_at,
        .K = Q_LORA_RANK,
        .num_rows = num_tokens,
        .slices = Q_B_SLICES,
        .first = {.y = workspace + q_at, .row_stride = Q_COLUMNS, .columns = Q_COLUMNS}};
}

CLMLA_INLINE void absorb(DECODE_PARAMS, few_product *p)
{
    *p = (few_product){.x = (global const ushort *)(workspace + q_at),
                       .x_row_stride = Q_COLUMNS,
                       .x_batch_stride = QK_DIM,
                       .W = weights + w_uk_at,
                       .K = NOPE_DIM,
                       .num_rows = num_tokens,
                       .slices = ABSORB_SLICES,
                       .first = {.y = workspace + q_lat_at,
                                 .row_stride = NUM_HEADS * KV_LORA_RANK,
                                 .batch_stride = KV_LORA_RANK,
                                 .columns = KV_LORA_RANK}};
}

CLMLA_INLINE void out(DECODE_PARAMS, few_product *p)
{
    const ulong to = output_offset + (ulong)token_begin * output_stride;
    *p = (few_product){.x = (global const ushort *)(workspace + q_at),
                       .x_row_stride = NUM_HEADS * V_DIM,
                       .W = weights + out_at,
                       .K = NUM_HEADS * V_DIM,
                       .num_rows = num_tokens,
                       .slices = OUT_SLICES,
                       .accumulate = accumulate != 0,
                       .first = {.y = (global STORAGE(OUTPUT_DTYPE) *)output + to,
                                 .is_float = sizeof(STORAGE(OUTPUT_DTYPE)) == 4,
                                 .row_stride = output_stride,
                                 .columns = HIDDEN_SIZE}};
}

/* Column tiles of a batch. */
CLMLA_INLINE int few_tiles(const few_product *p)
{
    const int columns =
        p->second.y != 0 ? padded_columns(p->first.columns) + p->second.columns : p->first.columns;
    return (columns + FEW_COLUMNS - 1) / FEW_COLUMNS;
}

CLMLA_INLINE void project(const few_product *p, const int num_batches, const warp *w,
                          const bool works, local float *partial)
{
    const int tiles = few_tiles(p);
    for (int id = FIRST_ID; id < (works ? tiles * num_batches : 0); id += NEXT_ID)
        project_few(p, w, id % tiles, 0, (size_t)(id / tiles), partial);
}

/* ---- weights ahead ----------------------------------------------------------------------------- */

/* Lines of 32 pairs from each of `parts` places, a part's rows a panel's width apart. */
CLMLA_INLINE void prefetch_rows(global const uint *from, const int parts, const int rows_per_part,
                                const int num_rows)
{
    UNROLL
    for (int i = 0; i < PREFETCH_LINES; i++) {
        const int line = (int)get_local_id(0) + i * WORK_GROUP;
        const int in_part = line / parts, row = line % parts * rows_per_part + in_part;
        if (in_part < rows_per_part && row < num_rows)
            prefetch_l2(from + (size_t)row * PANEL);
    }
}

/* What this work-group multiplies first, from the beginning of each slice. */
CLMLA_INLINE void prefetch_product(const few_product *p, const int num_batches)
{
    const int id = (int)get_group_id(0), tiles = few_tiles(p);
    const int n0 = id % tiles * FEW_COLUMNS;
    if (id < tiles * num_batches)
        prefetch_rows(weight_panel(p->W, (size_t)(id / tiles), n0, p->first.columns, p->K) +
                          n0 % PANEL,
                      p->slices, few_slice_steps(p->K, p->slices) * STEP_K / 2, p->K / 2);
}

/* Column tiles of W_UV of a head. */
#define V_TILES ((V_DIM + TILE_COLUMNS - 1) / TILE_COLUMNS)

/* The first half of the columns that this work-group multiplies first. */
CLMLA_INLINE void prefetch_w_uv(DECODE_PARAMS)
{
    const int tile = (int)get_group_id(0) / max(num_tokens, 1);
    if (tile < NUM_HEADS * V_TILES) {
        weight_column column;
        find_column(weights, w_uv_at, (size_t)(tile / V_TILES),
                    (size_t)(tile % V_TILES) * TILE_COLUMNS, V_DIM, KV_LORA_RANK, &column);
        prefetch_rows(column.w, 1, KV_LORA_RANK / 2, KV_LORA_RANK / 2);
    }
}

/* ---- the other stages -------------------------------------------------------------------------- */

CLMLA_INLINE void append(DECODE_PARAMS, const bool works, local float *partial)
{
    global const float *const norms = (global const float *)weights;
#if Q_LORA_RANK > 0
    for (int id = FIRST_ID; id < (works ? 2 * num_tokens : 0); id += NEXT_ID) {
        norm_append_token(SEQUENCES_ARGS, workspace, kv_a_at, KV_DIM, norms, kv_norm_at, cos_sin,
                          cos_sin_offset, cos_sin_token_stride, cos_sin_pair_stride, kv_cache,
                          kv_offset, kv_page_stride, kv_row_stride, pe_cache, pe_offset,
                          pe_page_stride, pe_row_stride, KV_LORA_RANK, ROPE_DIM / 2, eps,
                          token_begin, num_tokens, (global ushort *)(workspace + q_a_at), 0,
                          Q_LORA_RANK, norms, q_norm_at, Q_LORA_RANK, eps, (size_t)id, partial);
        barrier(CLK_LOCAL_MEM_FENCE); /* partial is used again */
    }
#else
    for (int id = FIRST_ID; id < (works ? num_tokens : 0); id += NEXT_ID) {
        append_token(SEQUENCES_ARGS, workspace, kv_a_at, KV_DIM, norms, kv_norm_at, cos_sin,
                     cos_sin_offset, cos_sin_token_stride, cos_sin_pair_stride, kv_cache, kv_offset,
                     kv_page_stride, kv_row_stride, pe_cache, pe_offset, pe_page_stride,
                     pe_row_stride, KV_LORA_RANK, ROPE_DIM / 2, eps, token_begin, num_tokens,
                     (size_t)id, true, partial);
        barrier(CLK_LOCAL_MEM_FENCE); /* partial is used again */
    }
#endif
}

CLMLA_INLINE void attend_keys(DECODE_PARAMS, const warp *w, const bool works, local uint4 *scratch)
{
    /* one more than sequences and rows ask for: tokens past the last sequence */
    const int groups = num_tokens * NUM_HEADS / TILE_ROWS + num_sequences + 1;
    global const ushort *const q = (global const ushort *)(workspace + q_at);
    for (int id = FIRST_ID; id < (works ? groups * num_splits : 0); id += NEXT_ID) {
        /* or addresses of every table and tensor stay in registers from one group to the next */
        const ulong none = (ulong)forget_origin(0);
        attend(cu_seqlens_q, cu_seqlens_q_offset + none, cache_seqlens, cache_seqlens_offset + none,
               block_table, block_table_offset + none, block_table_stride, page_block_size,
               num_pages, num_sequences, (global const ushort *)(workspace + q_lat_at), none,
               NUM_HEADS * KV_LORA_RANK, KV_LORA_RANK, q, NOPE_DIM + none, Q_COLUMNS, QK_DIM,
               kv_cache, kv_offset + none, kv_page_stride, kv_row_stride, pe_cache,
               pe_offset + none, pe_page_stride, pe_row_stride, workspace, states_at + none, STATE,
               KV_LORA_RANK, workspace, states_at + none + NUM_HEADS * KV_LORA_RANK, STATE,
               NUM_HEADS, scale_log2, 1, token_begin, num_tokens, split_tokens, cos_sin,
               cos_sin_offset + none, cos_sin_token_stride, cos_sin_pair_stride, w,
               (long)(id % groups), id / groups, scratch,
               (local float4 *)(scratch + RING_BYTES / 16));
    }
}

/* Tokens of one tile of W_UV are neighbours, which read the same weights. */
CLMLA_INLINE void merge_v_up(DECODE_PARAMS, const bool works, local float4 *scratch)
{
    const ulong state_stride = (ulong)num_tokens * STATE;
    for (int id = FIRST_ID; id < (works ? NUM_HEADS * V_TILES * num_tokens : 0); id += NEXT_ID) {
        const int tile = id / num_tokens;
        merge_and_project(workspace, states_at, state_stride, STATE, KV_LORA_RANK, workspace,
                          states_at + NUM_HEADS * KV_LORA_RANK, state_stride, STATE, weights,
                          w_uv_at, (global ushort *)(workspace + q_at), 0, NUM_HEADS * V_DIM, V_DIM,
                          V_DIM, num_splits, num_tokens, (size_t)(tile % V_TILES),
                          (size_t)(tile / V_TILES), (size_t)(id % num_tokens), scratch);
        barrier(CLK_LOCAL_MEM_FENCE); /* scratch is used again */
    }
}

/* ---- the layer --------------------------------------------------------------------------------- */

/* Looks at a barrier's words before a group gives up. Where nobody works few will do. */
#define POLLS (num_tokens > 0 ? GRID_POLLS : GRID_POLLS / 64)

enum { INPUTS, APPEND, Q_B, ABSORB, ATTEND, MERGE_V_UP, OUT, NUM_STAGES };

/* False: the next stage needs nothing of this one, so that nobody waits. */
CLMLA_INLINE bool run_stage(DECODE_PARAMS, const int stage, const warp *w, const bool works,
                            local uint4 *scratch)
{
    local float *const partial = (local float *)scratch;
    few_product from_x, to_q, to_q_lat, to_output;
    inputs(DECODE_ARGS, &from_x);
    q_b(DECODE_ARGS, &to_q);
    absorb(DECODE_ARGS, &to_q_lat);
    out(DECODE_ARGS, &to_output);
    if (stage == INPUTS) {
        project(&from_x, 1, w, works, partial);
        prefetch_product(Q_LORA_RANK > 0 ? &to_q : &to_q_lat, Q_LORA_RANK > 0 ? 1 : NUM_HEADS);
    } else if (stage == APPEND) {
        append(DECODE_ARGS, works, partial);
        return Q_LORA_RANK > 0;
    } else if (stage == Q_B) {
#if Q_LORA_RANK > 0
        project(&to_q, 1, w, works, partial);
        prefetch_product(&to_q_lat, NUM_HEADS);
#endif
        return Q_LORA_RANK > 0;
    } else if (stage == ABSORB) {
        project(&to_q_lat, NUM_HEADS, w, works, partial);
        prefetch_w_uv(DECODE_ARGS);
    } else if (stage == ATTEND) {
        attend_keys(DECODE_ARGS, w, works, scratch);
        prefetch_product(&to_output, 1);
    } else if (stage == MERGE_V_UP) {
        merge_v_up(DECODE_ARGS, works, (local float4 *)scratch);
    } else {
        project(&to_output, 1, w, works, partial);
    }
    return stage != OUT;
}

/* A stage, and then all groups wait for each other. */
#define STAGE(stage)                                                                               \
    waits = run_stage(DECODE_ARGS, stage, &w, goes_on && num_tokens > 0, scratch);                 \
    goes_on = grid_barrier(grid, error + error_at, (uint)get_num_groups(0), POLLS, goes_on, waits, \
                           &shared)

/* error[error_at]: set where the groups do not meet and it is 0. */
kernel __attribute__((reqd_work_group_size(WORK_GROUP, 1, 1))) void
decode_layer(DECODE_PARAMS, global uint *grid, global int *error, const ulong error_at)
{
    local uint4 scratch[LOCAL_BYTES / 16];
    local uint shared;
    WARP_BEGIN(w, WORK_GROUP);
    bool waits, goes_on = grid_barrier(grid, error + error_at, (uint)get_num_groups(0), POLLS, true,
                                       false, &shared);
#if EMULATED /* PoCL copies what follows a loop that has barriers and may be empty: here too often */
    for (int stage = INPUTS; stage < NUM_STAGES; stage++) {
        STAGE(stage);
    }
#else
    STAGE(INPUTS);
    STAGE(APPEND);
    STAGE(Q_B);
    STAGE(ABSORB);
    STAGE(ATTEND);
    STAGE(MERGE_V_UP);
    STAGE(OUT);
#endif
}
