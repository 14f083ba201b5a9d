/*
 * y[m, b, n] = Σ_k x[m, b, k] · W[b, n, k]     class nvidia, many rows, products of whole warpgroups
 *
 *   x, W, y and the other parameters are those of projection_tiled.cl
 *
 * yᵀ = W · xᵀ: columns of W are the rows of a, which a warpgroup may have in registers, and there a
 * pair along k of a panel is one of a fragment. x, which all share, is b: its rows lie in local
 * memory as they lie in memory, their chunks swizzled (wgmma_matrix.clh).
 *
 * One work-group: TILE_ROWS rows x TILE_COLUMNS columns of one batch. One warpgroup: those rows x 128
 * columns, two products of 64. One warp: 16 columns of each product, 32 neighbours. A lane reads two
 * at once, 2g and 2g + 1 with g = lane / 4: rows g and g + 8 of the fragment, whose registers lie
 * as they are read, so that none has to be moved when it comes.
 *
 * The group walks k in stages of 64. Rows of x pass through a ring of STAGES in local memory, copied
 * DISTANCE stages ahead; weights, which only their warp reads, go from memory to registers, one
 * stage ahead. Between two barriers one stage is multiplied while the one before may still be.
 *
 * Products are begun right behind the barrier, so that the tensor cores have the next stage before
 * they are done with one. Copies are published before the next weights are asked for, since
 * publishing waits for all that was asked for before; the wait for products between the two keeps
 * ptxas from exchanging them: the weights' registers are in use until then.
 *
 * Grid: (row tiles · WORK_GROUP, column tiles, batches), work-group {WORK_GROUP, 1, 1}, as
 * projection_tiled.cl. Local memory: STAGES · SLOT_BYTES; src/tuning/params.c counts the same.
 *
 * k rises in one chain of products of 16 whose inner order is the hardware's: other bits than
 * projection_tiled.cl's. A row's do not depend on the tile or on the other rows.
 *
 * Y_DTYPE        bf16, f32
 * ACCUMULATE     1: y += result (added in float32, rounded once), 0: y = result
 * TILE_ROWS      128
 * TILE_COLUMNS   128, 256
 * STAGES         >= 3
 * ALIGNED_Y      as projection_tiled.cl
 * and projection.clh's
 */
#define GROUP_COLUMNS 128 /* of a warpgroup */
#define WORK_GROUP TILE_COLUMNS
#define STAGE_K 64
#define STEPS (STAGE_K / 16)
#define SLOT_BYTES (TILE_ROWS * MATRIX_ROW_BYTES)
#define DISTANCE (STAGES - 2)                           /* one slot is read, another may still be */
#define X_CHUNKS (TILE_ROWS * STAGE_K / 8 / WORK_GROUP) /* of 16 bytes, for one work-item */
#if MATRIX_ROW_BYTES != 2 * STAGE_K || TILE_ROWS != 128 || TILE_COLUMNS % GROUP_COLUMNS != 0 ||    \
    STAGES < 3
#error "TILE_ROWS, TILE_COLUMNS and STAGES do not fit the products"
#endif
#if TILE_ROWS * STAGE_K / 8 % WORK_GROUP != 0
#error "work-items must divide the chunks of a stage"
#endif

/* The group's rows of x and this lane's part of W. */
typedef struct operands {
    global const ushort *x; /* first row */
    size_t x_row_stride;
    int rows;             /* from there to the last */
    int depth;            /* of k; 0 where there are no rows */
    global const uint *W; /* pair lane % 4 of k, first of the columns */
    int pairs;            /* of k from there on; 0 past the last panel */
} operands;

/* Begins to copy this work-item's part of the stage that begins at k0; past the depth zeros. */
CLMLA_INLINE void copy_stage(const operands *from, const int k0, const shared_address slot)
{
    const int item = (int)get_local_id(0), k = k0 + item % 8 * 8;
    UNROLL
    for (int i = 0; i < X_CHUNKS; i++) {
        const int row = item / 8 + i * (WORK_GROUP / 8);
        const bool exists = row < from->rows && k < from->depth;
        copy_x_chunk(slot + (shared_address)SWIZZLED(row, item % 8),
                     exists ? from->x + (size_t)row * from->x_row_stride + (size_t)k : from->x,
                     exists);
    }
    copy_commit();
}

/* Fragments of the stage that begins at k0: both products' of each step, of pairs lane % 4 and
 * lane % 4 + 4 of its eight. */
CLMLA_INLINE void load_weights(const operands *from, const int k0, uint4 *weights)
{
    UNROLL
    for (int i = 0; i < STEPS; i++) {
        const int pair = k0 / 2 + 8 * i;
        const bool low = pair < from->pairs, high = pair + 4 < from->pairs;
        global const uint *const w = low ? from->W + (size_t)pair * PANEL : from->W;
        UNROLL
        for (int j = 0; j < 2; j++) {
            const uint2 upper = load_or_zero(w + 16 * j, low);
            const uint2 lower = load_or_zero(w + 16 * j + 4 * PANEL, high);
            weights[2 * i + j] = (uint4)(upper.x, upper.y, lower.x, lower.y);
        }
    }
}

/* warpgroup: sums[2][WARPGROUP_SUMS] += W · xᵀ of a stage, later on. */
CLMLA_INLINE void multiply_stage(const warpgroup *wg, const shared_address slot,
                                 const uint4 *weights, float *sums)
{
    const ulong x = matrix_descriptor(wg, slot);
    warpgroup_arrive();
    UNROLL_WARP
    for (int k = 0; k < STEPS; k++) {
        const ulong step = x + (ulong)(DESCRIPTOR_K16 * k);
        warpgroup_mma(wg, sums, weights[2 * k], step);
        warpgroup_mma(wg, sums + WARPGROUP_SUMS, weights[2 * k + 1], step);
    }
    warpgroup_commit();
}

/* warpgroup: multiplies a stage whose copies are published by its weights, and fetches the next
 * one's. */
CLMLA_INLINE void pass_stage(const warpgroup *wg, const operands *from, const int stage,
                             const shared_address ring, const uint4 *weights, uint4 *next,
                             float *sums)
{
    const int ahead = stage + DISTANCE;
    barrier(CLK_LOCAL_MEM_FENCE);
    multiply_stage(wg, ring + (shared_address)(stage % STAGES * SLOT_BYTES), weights, sums);
    copy_stage(from, ahead * STAGE_K, ring + (shared_address)(ahead % STAGES * SLOT_BYTES));
    COPY_WAIT(DISTANCE - 1); /* the next stage's */
    publish_to_warpgroups();
    WARPGROUP_WAIT(1); /* the stage before: its slot and its weights' registers are free */
    load_weights(from, (stage + 1) * STAGE_K, next);
}

CLMLA_INLINE void store2_bf16(const float2 v, global ushort *to)
{
    *(global uint *)to = pack_bf16(v.x, v.y);
}
CLMLA_INLINE void store2_f32(const float2 v, global float *to) { *(global float2 *)to = v; }

/* Two neighbours of a row of y, of which `columns` exist. */
CLMLA_INLINE void store_results(float2 v, global STORAGE(Y_DTYPE) * y, const int columns)
{
#if ACCUMULATE
    v.x += columns > 0 ? LOAD(Y_DTYPE, y, 0) : 0.0f;
    v.y += columns > 1 ? LOAD(Y_DTYPE, y, 1) : 0.0f;
#endif
#if ALIGNED_Y
    if (columns > 0)
        CLMLA_CAT(store2_, Y_DTYPE)(v, y);
#else
    if (columns > 0)
        STORE(Y_DTYPE, v.x, y, 0);
    if (columns > 1)
        STORE(Y_DTYPE, v.y, y, 1);
#endif
}

#if SECOND
CLMLA_INLINE void store_second(const float2 v, global STORAGE(Y2_DTYPE) * y2, const int columns)
{
#if ALIGNED_Y
    if (columns > 0)
        CLMLA_CAT(store2_, Y2_DTYPE)(v, y2);
#else
    if (columns > 0)
        STORE(Y2_DTYPE, v.x, y2, 0);
    if (columns > 1)
        STORE(Y2_DTYPE, v.y, y2, 1);
#endif
}
#endif

/* Result i of TILE_ROWS / 4 of a lane: its row, and the two columns of a product's sums. */
CLMLA_INLINE int lane_row(const warp *w, const int i)
{
    return i / 2 * 8 + (int)w->lane % 4 * 2 + i % 2;
}
CLMLA_INLINE float2 lane_columns(const float *sums, const int i)
{
    return (float2)(sums[i / 2 * 4 + i % 2], sums[i / 2 * 4 + i % 2 + 2]);
}

kernel __attribute__((reqd_work_group_size(WORK_GROUP, 1, 1))) void
projection_wgmma(global const ushort *x, const ulong x_offset, const ulong x_row_stride,
                 const ulong x_batch_stride, global const uint *W, const ulong w_offset,
                 global STORAGE(Y_DTYPE) * y, const ulong y_offset, const ulong y_row_stride,
                 const ulong y_batch_stride, const int N, const int K, const int x_row,
                 const int y_row, const int num_rows SECOND_PARAMS)
{
    LOCAL_MEMORY(ring, STAGES * SLOT_BYTES);
    WARP_BEGIN(w, WORK_GROUP);
    WARPGROUP_BEGIN(wg, w, ring);
    const int m0 = (int)get_group_id(0) * TILE_ROWS;
    const size_t b = get_group_id(2);
    const int n = (int)get_group_id(1) * TILE_COLUMNS + (int)wg.index * GROUP_COLUMNS +
                  (int)wg.warp * LANE_COLUMNS + (int)w.lane / 4 * 2; /* and + 1, + 16, + 17 */
    const int depth = num_rows > m0 ? K : 0;
    const bool in_panel = n < padded_columns(N) + padded_columns(SECOND_COLUMNS);
    const operands from = {x + x_offset + b * x_batch_stride + (size_t)(x_row + m0) * x_row_stride,
                           x_row_stride,
                           num_rows - m0,
                           depth,
                           weight_panel(W + w_offset, b, in_panel ? n : 0, N, K) +
                               w.lane % 4 * PANEL + n % PANEL,
                           in_panel ? depth / 2 - (int)w.lane % 4 : 0};
    const shared_address ring_address = SHARED_ADDRESS(ring);
    uint4 even[2 * STEPS], odd[2 * STEPS];
    float sums[2 * WARPGROUP_SUMS];
    UNROLL
    for (int i = 0; i < 2 * WARPGROUP_SUMS; i++)
        sums[i] = 0.0f;
    UNROLL
    for (int stage = 0; stage < DISTANCE; stage++)
        copy_stage(&from, stage * STAGE_K, ring_address + (shared_address)(stage * SLOT_BYTES));
    COPY_WAIT(DISTANCE - 1);
    publish_to_warpgroups();
    load_weights(&from, 0, even);
    warpgroup_hold(sums);
    warpgroup_hold(sums + WARPGROUP_SUMS);
    /* By two stages, so that the registers of a stage's weights do not move; past K are zeros. */
    for (int stage = 0; stage * STAGE_K < depth; stage += 2) {
        pass_stage(&wg, &from, stage, ring_address, even, odd, sums);
        pass_stage(&wg, &from, stage + 1, ring_address, odd, even, sums);
    }
    WARPGROUP_WAIT(0);
    warpgroup_hold(sums);
    warpgroup_hold(sums + WARPGROUP_SUMS);

    global STORAGE(Y_DTYPE) *const y_columns =
        y + y_offset + b * y_batch_stride + (size_t)(y_row + m0) * y_row_stride + (size_t)n;
#if SECOND
    const int second = n - padded_columns(N); /* the same sign in a whole warp */
    if (second >= 0) {
        global STORAGE(Y2_DTYPE) *const y2_columns =
            y2 + y2_offset + (size_t)(y_row + m0) * y2_row_stride + (size_t)second;
        UNROLL
        for (int i = 0; i < TILE_ROWS / 4; i++) {
            global STORAGE(Y2_DTYPE) *const to =
                y2_columns + (size_t)lane_row(&w, i) * y2_row_stride;
            if (lane_row(&w, i) < from.rows) {
                store_second(lane_columns(sums, i), to, N2 - second);
                store_second(lane_columns(sums + WARPGROUP_SUMS, i), to + 16, N2 - second - 16);
            }
        }
        return;
    }
#endif
    UNROLL
    for (int i = 0; i < TILE_ROWS / 4; i++) {
        global STORAGE(Y_DTYPE) *const to = y_columns + (size_t)lane_row(&w, i) * y_row_stride;
        if (lane_row(&w, i) < from.rows) {
            store_results(lane_columns(sums, i), to, N - n);
            store_results(lane_columns(sums + WARPGROUP_SUMS, i), to + 16, N - n - 16);
        }
    }
}
