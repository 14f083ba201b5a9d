/*
 * y[m, b, n] = Σ_k x[m, b, k] · W[b, n, k]           class nvidia, many rows, on tensor cores
 *
 *   x   [rows, B, K]   bf16; rows x_row .. x_row + num_rows - 1 are read
 *   W   bf16 or FP8, packed as src/ops/matrix.h says
 *   y   [rows, B, N]   Y_DTYPE; rows y_row .. y_row + num_rows - 1 are written
 *
 * One work-group: TILE_ROWS rows x TILE_COLUMNS columns of one batch. One warp: WORK_ROWS rows x 32
 * columns of them. The group walks k in stages of 32 through a ring of STAGES in local memory that
 * asynchronous copies fill: rows of x, then 16 rows of pairs of W. Both are padded so that neither
 * reading meets a bank conflict: x as matrices, W by four columns a lane (projection.clh).
 *
 * Grid: (row tiles · WORK_GROUP, column tiles, batches), work-group {WORK_GROUP, 1, 1}: groups that
 * run side by side share columns of W, which pass about once. Local memory: STAGES · STAGE_BYTES;
 * src/tuning/params.c counts the same. Barriers: one a stage.
 *
 * k rises in one chain of products of 16 (FP8: one for every FP8_GROUP k, scaled and added): other
 * bits than projection_few.cl's, but a row's do not depend on the tile or on the other rows.
 * Elements past K and N and rows past the last are zeros.
 *
 * Y_DTYPE        bf16, f32
 * ACCUMULATE     1: y += result (added in float32, rounded once), 0: y = result
 * TILE_ROWS      64 or 128
 * TILE_COLUMNS   64 or 128
 * WORK_ROWS      32 or 64, divides TILE_ROWS
 * STAGES         >= 2
 * ALIGNED_Y      1: rows of y begin at multiples of 8 elements and N is a multiple of 8; those of
 *                y2 and N2, too, where SECOND is 1 (Y2_DTYPE: y2's)
 * and projection.clh's
 */
#define WARP_COLUMNS (TILE_COLUMNS / LANE_COLUMNS) /* warps beside each other */
#define WORK_GROUP (TILE_ROWS / WORK_ROWS * WARP_COLUMNS * 32)
#define ROW_TILES (WORK_ROWS / 16)
#define STAGE_K 32
#define X_PITCH (2 * STAGE_K + 16)                    /* bytes */
#define W_PITCH (4 * COLUMN_WORDS(TILE_COLUMNS) + 32) /* bytes */
#define X_BYTES (TILE_ROWS * X_PITCH)
#define STAGE_BYTES (X_BYTES + STAGE_K / 2 * W_PITCH)
#define X_CHUNKS (TILE_ROWS * STAGE_K / 8 / WORK_GROUP) /* of 16 bytes, for one work-item */
#define CHUNK_COLUMNS (4 * PANEL / PANEL_WORDS)
#define STAGE_CHUNKS (STAGE_K / 2 * TILE_COLUMNS / CHUNK_COLUMNS) /* of W, of 16 bytes */
#define W_CHUNKS ((STAGE_CHUNKS + WORK_GROUP - 1) / WORK_GROUP)
#if TILE_ROWS % WORK_ROWS != 0 || WORK_ROWS % 16 != 0 || TILE_COLUMNS % PANEL != 0 || STAGES < 2
#error "TILE_ROWS, TILE_COLUMNS, WORK_ROWS and STAGES do not fit each other"
#endif
#if TILE_ROWS * STAGE_K / 8 % WORK_GROUP != 0
#error "work-items must divide the chunks of a stage of x"
#endif

/* The group's part of x and W. */
typedef struct operands {
    global const ushort *x; /* first row */
    size_t x_row_stride;
    int rows;             /* from there to the last */
    global const uint *W; /* first panel */
    int panels;           /* from there to the last */
    int K;
} operands;

/* Begins to copy this work-item's part of the stage that begins at k0; past K zeros. */
CLMLA_INLINE void copy_stage(const operands *from, const int k0, const shared_address stage)
{
    const int item = (int)get_local_id(0);
    UNROLL
    for (int i = 0; i < X_CHUNKS; i++) {
        const int row = item / 4 + i * (WORK_GROUP / 4), k = k0 + item % 4 * 8;
        const bool exists = row < from->rows && k < from->K;
        copy_x_chunk(stage + (shared_address)(row * X_PITCH + item % 4 * 16),
                     exists ? from->x + (size_t)row * from->x_row_stride + (size_t)k : from->x,
                     exists);
    }
    UNROLL
    for (int i = 0; i < W_CHUNKS; i++) {
        const int chunk = item + i * WORK_GROUP;
        const int pair = chunk / (TILE_COLUMNS / CHUNK_COLUMNS);
        const int column = chunk % (TILE_COLUMNS / CHUNK_COLUMNS) * CHUNK_COLUMNS;
        const int panel = column / PANEL;
        const size_t pairs = (size_t)from->K / 2, p = (size_t)(k0 / 2 + pair);
        const bool exists = p < pairs && panel < from->panels;
        if (STAGE_CHUNKS % WORK_GROUP == 0 || chunk < STAGE_CHUNKS)
            copy_async(stage +
                           (shared_address)(X_BYTES + pair * W_PITCH + COLUMN_WORDS(column) * 4),
                       exists ? from->W + ((size_t)panel * pairs + p) * PANEL_WORDS +
                                    COLUMN_WORDS(column % PANEL)
                              : from->W,
                       exists);
    }
    copy_commit();
}

#define ROW_LOADS ((int)(W_PITCH / sizeof(packed_columns))) /* of a row of W in local memory */

/* warp: sums[ROW_TILES][4] += x · W of a stage; this warp's rows begin at `row`, its columns at
 * `column`. */
CLMLA_INLINE void multiply_stage(const warp *w, const shared_address stage,
                                 local const packed_columns *weights, const uint row,
                                 const uint column, float4 *sums)
{
    const uint lane = w->lane;
    const shared_address x = stage + (row + lane % 16) * X_PITCH + lane / 16 * 16;
    local const packed_columns *const of_lane =
        weights + lane % 4 * ROW_LOADS + (column + lane / 4 * 4) / 4;
    UNROLL_WARP
    for (int k = 0; k < STAGE_K / 16; k++) {
        const uint4 b0 = bf16_columns(of_lane[k * 8 * ROW_LOADS]);
        const uint4 b1 = bf16_columns(of_lane[(k * 8 + 4) * ROW_LOADS]);
        UNROLL_WARP
        for (int m = 0; m < ROW_TILES; m++) {
            const uint4 a = warp_load_matrices(w, x + (shared_address)(m * 16 * X_PITCH + k * 32));
            multiply_columns(w, a, b0, b1, sums + 4 * m);
        }
    }
}

#if ALIGNED_Y
CLMLA_INLINE void store8_bf16(const float8 v, global ushort *to)
{
    *(global uint4 *)to = (uint4)(pack_bf16(v.s0, v.s1), pack_bf16(v.s2, v.s3),
                                  pack_bf16(v.s4, v.s5), pack_bf16(v.s6, v.s7));
}
CLMLA_INLINE void store8_f32(const float8 v, global float *to)
{
    *(global float4 *)to = v.lo;
    *(global float4 *)(to + 4) = v.hi;
}
#endif

/* Eight neighbours of a row of y, of which `columns` exist. */
CLMLA_INLINE void store_results(float8 row, global STORAGE(Y_DTYPE) * y, const int columns)
{
    float v[8];
    vstore8(row, 0, v);
#if ACCUMULATE
    UNROLL
    for (int i = 0; i < 8; i++)
        v[i] += i < columns ? LOAD(Y_DTYPE, y, i) : 0.0f;
#endif
#if ALIGNED_Y
    if (columns > 0)
        CLMLA_CAT(store8_, Y_DTYPE)(vload8(0, v), y);
#else
    UNROLL
    for (int i = 0; i < 8; i++) {
        if (i < columns)
            STORE(Y_DTYPE, v[i], y, i);
    }
#endif
}

#if SECOND
CLMLA_INLINE void store_second(float8 row, global STORAGE(Y2_DTYPE) * y2, const int columns)
{
#if ALIGNED_Y
    if (columns > 0)
        CLMLA_CAT(store8_, Y2_DTYPE)(row, y2);
#else
    float v[8];
    vstore8(row, 0, v);
    UNROLL
    for (int i = 0; i < 8; i++) {
        if (i < columns)
            STORE(Y2_DTYPE, v[i], y2, i);
    }
#endif
}
#endif

kernel __attribute__((reqd_work_group_size(WORK_GROUP, 1, 1))) void
projection_tiled(global const ushort *x, const ulong x_offset, const ulong x_row_stride,
                 const ulong x_batch_stride, global const uint *W, const ulong w_offset,
                 global STORAGE(Y_DTYPE) * y, const ulong y_offset, const ulong y_row_stride,
                 const ulong y_batch_stride, const int N, const int K, const int x_row,
                 const int y_row, const int num_rows SECOND_PARAMS)
{
    local uint4 ring[STAGES * STAGE_BYTES / 16];
    WARP_BEGIN(w, WORK_GROUP);
    const int m0 = (int)get_group_id(0) * TILE_ROWS;
    const int n0 = (int)get_group_id(1) * TILE_COLUMNS;
    const size_t b = get_group_id(2);
    const int num_stages = num_rows > m0 ? (K + STAGE_K - 1) / STAGE_K : 0;
    const operands from = {x + x_offset + b * x_batch_stride + (size_t)(x_row + m0) * x_row_stride,
                           x_row_stride,
                           num_rows - m0,
                           weight_panel(W + w_offset, b, n0, N, K),
                           (padded_columns(N) + padded_columns(SECOND_COLUMNS) - n0) / PANEL,
                           K};
    const uint row = w.index / WARP_COLUMNS * WORK_ROWS;
    const uint column = w.index % WARP_COLUMNS * LANE_COLUMNS;

    float4 sums[ROW_TILES * 4];
    UNROLL
    for (int i = 0; i < ROW_TILES * 4; i++)
        sums[i] = (float4)(0.0f);
#if PAIR_F8
    float4 unscaled[ROW_TILES * 4];
    UNROLL
    for (int i = 0; i < ROW_TILES * 4; i++)
        unscaled[i] = (float4)(0.0f);
    const int result = n0 + (int)(column + w.lane % 4 * 8); /* the lane's first column */
    global const float *scales =
        (global const float *)weight_scales(W + w_offset, b, N, K) + result;
#else
    float4 *const unscaled = sums;
#endif
    const shared_address ring_address = SHARED_ADDRESS(ring);
    UNROLL
    for (int stage = 0; stage < STAGES - 1; stage++)
        copy_stage(&from, stage * STAGE_K, ring_address + (shared_address)(stage * STAGE_BYTES));
    for (int stage = 0; stage < num_stages; stage++) {
        const int slot = stage % STAGES, free_slot = (stage + STAGES - 1) % STAGES;
        COPY_WAIT(STAGES - 2);
        barrier(CLK_LOCAL_MEM_FENCE);
        copy_stage(&from, (stage + STAGES - 1) * STAGE_K,
                   ring_address + (shared_address)(free_slot * STAGE_BYTES));
        multiply_stage(
            &w, ring_address + (shared_address)(slot * STAGE_BYTES),
            (local const packed_columns *)(ring + slot * (STAGE_BYTES / 16) + X_BYTES / 16), row,
            column, unscaled);
#if PAIR_F8
        if ((stage + 1) % (FP8_GROUP / STAGE_K) == 0 || stage + 1 == num_stages) {
            const float8 of_columns = load_scales(scales, result < padded_columns(N));
            UNROLL
            for (int m = 0; m < ROW_TILES; m++)
                add_scaled(of_columns, unscaled + 4 * m, sums + 4 * m);
            scales += padded_columns(N);
        }
#endif
    }

    const int first_row = (int)(row + w.lane / 4);
    const int first_column = n0 + (int)(column + w.lane % 4 * 8);
    global STORAGE(Y_DTYPE) *y_lane = y + y_offset + b * y_batch_stride +
                                      (size_t)(y_row + m0 + first_row) * y_row_stride +
                                      (size_t)first_column;
#if SECOND
    const int second_column = first_column - padded_columns(N); /* the same sign in a whole warp */
    if (second_column >= 0) {
        global STORAGE(Y2_DTYPE) *y2_lane = y2 + y2_offset +
                                            (size_t)(y_row + m0 + first_row) * y2_row_stride +
                                            (size_t)second_column;
        UNROLL
        for (int i = 0; i < 2 * ROW_TILES; i++) {
            if (first_row + i * 8 < num_rows - m0)
                store_second(lane_results(sums + i / 2 * 4, i % 2 == 1),
                             y2_lane + (size_t)(i * 8) * y2_row_stride, N2 - second_column);
        }
        return;
    }
#endif
    UNROLL
    for (int i = 0; i < 2 * ROW_TILES; i++) {
        if (first_row + i * 8 < num_rows - m0)
            store_results(lane_results(sums + i / 2 * 4, i % 2 == 1),
                          y_lane + (size_t)(i * 8) * y_row_stride, N - first_column);
    }
}
