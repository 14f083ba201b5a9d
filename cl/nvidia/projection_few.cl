/*
 * y[m, b, n] = Σ_k x[m, b, k] · W[b, n, k]           class nvidia, few rows, on tensor cores
 *
 *   x   [rows, B, K]   bf16; rows x_row .. x_row + num_rows - 1 are read
 *   W   bf16, packed as src/ops/matrix.h says
 *   y   [rows, B, N]   Y_DTYPE; rows y_row .. y_row + num_rows - 1 are written
 *
 * For decoding: the bytes of W are the work. They go once from memory to registers, in the order in
 * which the product wants them, without local memory.
 *
 * One work-group: TILE_ROWS rows x TILE_COLUMNS columns of one batch. One warp: all of them, over one
 * of SLICES slices of k; the slices' sums meet in local memory and are added in order. A warp walks
 * its slice in steps of 32 k, two products of 16. Within a step the products take k in another order
 * than memory has: lane t = lane % 4 of a quad has k = 8t .. 8t + 7, 16 bytes of each row of x and
 * four pairs of W, of which the first product takes two and the second two. Columns: projection.clh.
 *
 * Grid: (column tiles · WORK_GROUP, row blocks, batches), work-group {WORK_GROUP, 1, 1}. Local
 * memory: SLICES · 16 · (TILE_COLUMNS + 4) floats. Barriers: two for 16 rows, at the end.
 *
 * The order of the sum follows from K and SLICES alone: a row's bits depend neither on the tile nor
 * on the number of rows. Elements past K and rows past the last are zeros and are not read.
 *
 * Y_DTYPE        bf16, f32
 * Y2_DTYPE       bf16, f32: y2's where SECOND is 1 (projection.clh), else any
 * ACCUMULATE     1: y += result (added in float32, rounded once), 0: y = result
 * TILE_ROWS      16, 32 or 64
 * TILE_COLUMNS   32 or 64
 * SLICES         warps of a work-group
 * and projection.clh's
 */
#define WORK_GROUP (32 * SLICES)
#define ROW_TILES (TILE_ROWS / 16)
#define COLUMN_LOADS (TILE_COLUMNS / LANE_COLUMNS)
#define STEP_K 32
#define PREFETCH (ROW_TILES == 1)        /* W a step ahead: with more rows registers would spill */
#define PARTIAL_PITCH (TILE_COLUMNS + 4) /* two rows written at once lie on different banks */
#if TILE_ROWS % 16 != 0 || TILE_COLUMNS % LANE_COLUMNS != 0 || PANEL % TILE_COLUMNS != 0
#error "TILE_ROWS or TILE_COLUMNS does not fit the products or the panels"
#endif

/* W of a step, as a lane has it: [four pairs along k][COLUMN_LOADS]; zeros unless they exist. */
CLMLA_INLINE void load_weights(global const uint *from, const bool exists, uint4 *weights)
{
    UNROLL
    for (int pair = 0; pair < 4; pair++) {
        UNROLL
        for (int i = 0; i < COLUMN_LOADS; i++)
            weights[pair * COLUMN_LOADS + i] =
                exists ? *(global const uint4 *)(from + pair * PANEL + i * LANE_COLUMNS)
                       : (uint4)(0u);
    }
}

/* warp: sums[ROW_TILES][4 · COLUMN_LOADS] += x · W of a step. x: the lane's eight elements of its
 * first row, `rows` from there to the last; inside: they are within K. */
CLMLA_INLINE void multiply_step(const warp *w, global const ushort *x, const size_t x_row_stride,
                                const int rows, const bool inside, const uint4 *weights,
                                float4 *sums)
{
    UNROLL_WARP
    for (int m = 0; m < ROW_TILES; m++) {
        uint4 upper = (uint4)(0u), lower = (uint4)(0u); /* rows lane / 4 of the tile and 8 below */
        if (inside && m * 16 < rows)
            upper = load_chunk(x + (size_t)(m * 16) * x_row_stride);
        if (inside && m * 16 + 8 < rows)
            lower = load_chunk(x + (size_t)(m * 16 + 8) * x_row_stride);
        const uint4 first = (uint4)(upper.x, lower.x, upper.y, lower.y);
        const uint4 second = (uint4)(upper.z, lower.z, upper.w, lower.w);
        UNROLL_WARP
        for (int i = 0; i < COLUMN_LOADS; i++) {
            float4 *const sum = sums + (m * COLUMN_LOADS + i) * 4;
            multiply_columns(w, first, weights[i], weights[COLUMN_LOADS + i], sum);
            multiply_columns(w, second, weights[2 * COLUMN_LOADS + i],
                             weights[3 * COLUMN_LOADS + i], sum);
        }
    }
}

/* partial[16][PARTIAL_PITCH] = a warp's sums of 16 rows. */
CLMLA_INLINE void store_partial(const warp *w, const float4 *sums, local float *partial)
{
    local float *to = partial + w->lane / 4 * PARTIAL_PITCH + w->lane % 4 * 8;
    UNROLL
    for (int i = 0; i < COLUMN_LOADS; i++) {
        UNROLL
        for (int half_tile = 0; half_tile < 2; half_tile++) {
            const float8 row = lane_results(sums + i * 4, half_tile == 1);
            local float4 *const at =
                (local float4 *)(to + half_tile * 8 * PARTIAL_PITCH + i * LANE_COLUMNS);
            at[0] = row.lo;
            at[1] = row.hi;
        }
    }
}

/* y of 16 rows, of which there are `rows`, and TILE_COLUMNS columns, of which there are `columns`;
 * or y2, where it is not null. */
CLMLA_INLINE void add_slices(local const float *partial, const int rows, const int columns,
                             global STORAGE(Y_DTYPE) * y, global STORAGE(Y2_DTYPE) * y2,
                             const size_t y_row_stride)
{
    for (int e = (int)get_local_id(0); e < 16 * TILE_COLUMNS; e += WORK_GROUP) {
        const int m = e / TILE_COLUMNS, n = e % TILE_COLUMNS;
        const size_t at = (size_t)m * y_row_stride + (size_t)n;
        float total = 0.0f;
        if (m >= rows || n >= columns)
            continue;
        UNROLL
        for (int s = 0; s < SLICES; s++)
            total += partial[(s * 16 + m) * PARTIAL_PITCH + n];
#if ACCUMULATE
        total += LOAD(Y_DTYPE, y, at);
#endif
#if SECOND
        if (y2 != 0) {
            STORE(Y2_DTYPE, total, y2, at);
            continue;
        }
#endif
        STORE(Y_DTYPE, total, y, at);
    }
}

kernel __attribute__((reqd_work_group_size(WORK_GROUP, 1, 1))) void
projection_few(global const ushort *x, const ulong x_offset, const ulong x_row_stride,
               const ulong x_batch_stride, global const uint *W, const ulong w_offset,
               global STORAGE(Y_DTYPE) * y, const ulong y_offset, const ulong y_row_stride,
               const ulong y_batch_stride, const int N, const int K, const int x_row,
               const int y_row, const int num_rows SECOND_PARAMS)
{
    local float4 partial[SLICES * 16 * PARTIAL_PITCH / 4];
    WARP_BEGIN(w, WORK_GROUP);
    const int g = (int)w.lane / 4, t = (int)w.lane % 4;
    const int n0 = (int)get_group_id(0) * TILE_COLUMNS;
    const int m0 = (int)get_group_id(1) * TILE_ROWS;
    const size_t b = get_group_id(2);
    const int rows = num_rows - m0; /* maybe more than the tile has, or 0 */
    const int num_steps = (K + STEP_K - 1) / STEP_K;
    const int slice_steps = rows > 0 ? (num_steps + SLICES - 1) / SLICES : 0;

    /* the lane's first eight k of the slice, and its end */
    int k = (int)w.index * slice_steps * STEP_K + 8 * t;
    const int end = min(K, ((int)w.index + 1) * slice_steps * STEP_K);
    global const ushort *x_lane =
        x + x_offset + b * x_batch_stride + (size_t)(x_row + m0 + g) * x_row_stride + (size_t)k;
    global const uint *w_lane =
        weight_panel(W + w_offset, b, n0, N, K) + (size_t)k / 2 * PANEL + n0 % PANEL + 4 * g;

    float4 sums[ROW_TILES * COLUMN_LOADS * 4];
    UNROLL
    for (int i = 0; i < ROW_TILES * COLUMN_LOADS * 4; i++)
        sums[i] = (float4)(0.0f);
    uint4 weights[4 * COLUMN_LOADS];
#if PREFETCH
    uint4 next[4 * COLUMN_LOADS];
    load_weights(w_lane, k < end, next);
#endif
    for (int step = 0; step < slice_steps; step++) { /* as often in every warp */
#if PREFETCH
        UNROLL
        for (int i = 0; i < 4 * COLUMN_LOADS; i++)
            weights[i] = next[i];
        load_weights(w_lane + STEP_K / 2 * PANEL, k + STEP_K < end, next);
#else
        load_weights(w_lane, k < end, weights);
#endif
        multiply_step(&w, x_lane, x_row_stride, rows - g, k < end, weights, sums);
        w_lane += STEP_K / 2 * PANEL;
        x_lane += STEP_K;
        k += STEP_K;
    }

    const size_t first_row = (size_t)(y_row + m0);
    global STORAGE(Y_DTYPE) *y_tile =
        y + y_offset + b * y_batch_stride + first_row * y_row_stride + (size_t)n0;
    global STORAGE(Y2_DTYPE) *y2_tile = 0;
    size_t row_stride = y_row_stride;
    int columns = N - n0;
#if SECOND
    const int n2 = n0 - padded_columns(N);
    if (n2 >= 0) {
        row_stride = y2_row_stride;
        columns = N2 - n2;
        y2_tile = y2 + y2_offset + first_row * row_stride + (size_t)n2;
    }
#endif
    local float *const sums_of_slices = (local float *)partial;
    UNROLL_WARP
    for (int m = 0; m < ROW_TILES; m++) {
        store_partial(&w, sums + m * COLUMN_LOADS * 4,
                      sums_of_slices + w.index * 16 * PARTIAL_PITCH);
        barrier(CLK_LOCAL_MEM_FENCE);
        add_slices(sums_of_slices, rows - m * 16, columns, y_tile + (size_t)(m * 16) * row_stride,
                   y2_tile == 0 ? 0 : y2_tile + (size_t)(m * 16) * row_stride, row_stride);
        barrier(CLK_LOCAL_MEM_FENCE);
    }
}
