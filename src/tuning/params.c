#include "tuning/params.h"

#include <stdbool.h>
#include <stdio.h>

#include "tuning/nvidia_records.h"

/* ---- projection ---------------------------------------------------------------------------- */

/* cpu: below a tile of four rows the fourth's work would be thrown away. gpu: sixteen rows fill the
 * tile that is made for decoding. */
int32_t mla__projection_few_rows(clmla_kernel_class kernel_class)
{
    return kernel_class == CLMLA_KERNELS_CPU ? 3 : 16;
}

/* Vectors of sixteen floats: four rows by four vectors, 16 sums and 4 weights of 32 registers; with
 * more than 24 sums a compiler spills. The bf16 dot products take the same tile: five or six rows,
 * or blocks of 128, gain them under 2 %.
 *
 * Narrower vectors, not measured on such a processor:
 * 8 (AVX2: 16 registers): four rows by two vectors, 8 sums, 2 weights of each k of a pair, a value
 *   of x and the mask that unpacks a pair are 14. Code for AVX2 on one core with wider vectors (Zen
 *   4, LLVM 15) came to 93 GFLOP/s so, to 97 with five or six rows, which divide few batches.
 * 4 with fused multiply-adds (NEON: 32 registers, VSX: 64): four rows by four vectors again. Where
 *   there are 16 registers (SSE) they spill, which is nothing beside multiply-adds in software.
 *
 * One row reads whole panels: half a panel at a time came to 54 of the 73 GFLOP/s with vectors of
 * 8, to 42 of 54 with those of 4 (the same core). 64 rows of x (K = 8192: 2 MiB of float32) stay
 * near while a panel passes. */
static void cpu_tile(bool few_rows, int32_t vector_width, mla__projection_tile *tile)
{
    enum { PANEL_COLUMNS = 64 }; /* of src/ops/matrix.h's packing */
    tile->vector_width = vector_width;
    tile->tile_rows = few_rows ? 1 : 4;
    tile->tile_vectors = few_rows ? PANEL_COLUMNS / vector_width : vector_width == 8 ? 2 : 4;
    tile->block_rows = 64;
}

enum {
    STREAM_ROWS = 4,         /* sums per work-item; a tile of 16 rows would waste twelve */
    STREAM_WORK_GROUP = 256, /* what every GPU has */
    MIN_STREAM_COLUMNS = 16, /* 64 bytes in a row */
    PANEL_COLUMNS = 64,      /* of packed weights; src/ops/matrix.h */
    GROUPS_PER_UNIT = 2,     /* work-groups to aim at, per compute unit */
    SMALL_LOCAL_MEM_BYTES = 24 * 1024
};

static int32_t gpu_tile_k(const mla__device *device)
{
    const bool small =
        device->local_mem_bytes < SMALL_LOCAL_MEM_BYTES || device->max_loop_iterations > 0;
    return small ? 16 : 32;
}

/* Where loops end after a number of iterations: a work-item computes as little as there is, so that
 * few of its loops are within others. It also compiles fastest on Mesa's llvmpipe. */
static void smallest_tile(const mla__device *device, clmla_kernel_class kernel_class,
                          mla__projection_tile *tile)
{
    if (kernel_class == CLMLA_KERNELS_CPU) {
        *tile = (mla__projection_tile){.vector_width = device->float_vector_width,
                                       .tile_rows = 1,
                                       .tile_vectors = 16 / device->float_vector_width,
                                       .block_rows = 1};
        return;
    }
    *tile = (mla__projection_tile){.tile_rows = 4,
                                   .tile_columns = MIN_STREAM_COLUMNS,
                                   .work_rows = 1,
                                   .work_columns = 1,
                                   .tile_k = gpu_tile_k(device)};
}

/* Work-items of a group: 256, or what the device has, halving the rows (then the columns) that the
 * group spreads over and giving each work-item more. Every tile of a device has the same tile_k, so
 * that they pad k alike (bit-equal rows). */
static void gpu_tile(const mla__device *device, bool few_rows, mla__projection_tile *tile)
{
    tile->tile_rows = few_rows ? 16 : 64;
    tile->tile_columns = few_rows ? 32 : 64;
    tile->work_rows = few_rows ? 2 : 4;
    tile->work_columns = few_rows ? 1 : 4;
    tile->tile_k = gpu_tile_k(device);
    while (true) {
        const int32_t group_rows = tile->tile_rows / tile->work_rows;
        const int32_t group_columns = tile->tile_columns / tile->work_columns;
        const size_t group = (size_t)group_rows * (size_t)group_columns;
        if (group <= device->max_work_group_size || group == 1)
            break;
        if (group_rows > 1)
            tile->work_rows *= 2;
        else
            tile->work_columns *= 2;
    }
}

void mla__projection_tile_default(const mla__device *device, clmla_kernel_class kernel_class,
                                  clmla_dtype weights_dtype, int32_t max_rows,
                                  mla__projection_tile *tile)
{
    const bool few_rows = max_rows <= mla__projection_few_rows(kernel_class);
    (void)weights_dtype; /* no default depends on it; a tuning record may */
    *tile = (mla__projection_tile){0};
    if (device->max_loop_iterations > 0)
        smallest_tile(device, kernel_class, tile);
    else if (kernel_class == CLMLA_KERNELS_CPU)
        cpu_tile(few_rows, device->float_vector_width, tile);
    else
        gpu_tile(device, few_rows, tile);
}

void mla__projection_tile_dot(int32_t max_rows, mla__projection_tile *tile)
{
    *tile = (mla__projection_tile){0};
    cpu_tile(max_rows <= mla__projection_few_rows(CLMLA_KERNELS_CPU), 16, tile);
}

int32_t mla__projection_stream_rows(clmla_kernel_class kernel_class)
{
    return kernel_class == CLMLA_KERNELS_CPU ? 0 : STREAM_ROWS;
}

/* The largest power of two within what the device allows, at most STREAM_WORK_GROUP. */
static int32_t stream_work_group(const mla__device *device)
{
    int32_t size = 1;
    while (2 * size <= STREAM_WORK_GROUP && 2 * (size_t)size <= device->max_work_group_size)
        size *= 2;
    return size;
}

/* A whole panel a group reads 256 bytes in a row; where that makes too few groups for the device,
 * narrower ones with more slices of k. Not measured on a GPU. */
void mla__projection_stream_tile(const mla__device *device, int32_t num_batches,
                                 int32_t out_features, mla__projection_tile *tile)
{
    const int32_t work_group = stream_work_group(device);
    const int64_t wanted = (int64_t)GROUPS_PER_UNIT * (int64_t)device->compute_units;
    int64_t groups = (int64_t)num_batches * ((out_features - 1) / PANEL_COLUMNS + 1);
    int32_t columns = work_group < PANEL_COLUMNS ? work_group : PANEL_COLUMNS;
    while (columns > MIN_STREAM_COLUMNS && groups < wanted) {
        columns /= 2;
        groups *= 2;
    }
    *tile = (mla__projection_tile){.tile_rows = STREAM_ROWS,
                                   .tile_columns = columns,
                                   .tile_k = gpu_tile_k(device),
                                   .slices = work_group / columns};
}

/* ---- projection on tensor cores ------------------------------------------------------------- */

/* What NVIDIA's OpenCL gives a work-group, and what the emulation of warp operations adds for a
 * work-item where there is no PTX (cl/nvidia/ptx_emulated.clh). */
enum { MMA_LOCAL_BYTES = 48 * 1024, EMULATION_BYTES = 32, WARP = 32 };

/* Local memory of an emulated work-group. */
static bool emulation_fits(const mla__device *device, uint64_t local_bytes, int32_t work_group)
{
    return local_bytes + EMULATION_BYTES * (uint64_t)work_group <= device->local_mem_bytes;
}

static bool mma_fits(const mla__device *device, uint64_t local_bytes, int32_t work_group)
{
    return local_bytes <= MMA_LOCAL_BYTES && (size_t)work_group <= device->max_work_group_size &&
           (device->has_ptx ? local_bytes <= device->local_mem_bytes
                            : emulation_fits(device, local_bytes, work_group));
}

/* Eight warps share k, sixteen where even narrow tiles leave compute units without a work-group; a
 * step of 32 k is the least that a warp takes. */
static int32_t few_slices(const mla__device *device, int64_t narrow_groups, int32_t in_features)
{
    enum { STEP_K = 32 };
    const int32_t most = narrow_groups < (int64_t)device->compute_units ? 16 : 8;
    int32_t slices = 1;
    while (2 * slices <= most && 2 * slices <= (in_features - 1) / STEP_K + 1 &&
           2 * (size_t)slices * WARP <= device->max_work_group_size)
        slices *= 2;
    return slices;
}

bool mla__projection_tile_fits_few(const mla__device *device, const mla__projection_tile *tile)
{
    enum { BANK_PAD = 4 }; /* of the kernel */
    const int32_t floats = tile->slices * 16 * (tile->tile_columns + BANK_PAD);
    return mma_fits(device, 4 * (uint64_t)floats, tile->slices * WARP);
}

int32_t mla__projection_few_columns(clmla_dtype weights_dtype, int32_t tile_rows,
                                    int32_t tile_columns)
{
    const bool room = weights_dtype != CLMLA_DTYPE_F8_E4M3 && tile_rows < 64;
    return room ? tile_columns : PANEL_COLUMNS / 2;
}

/* A whole panel of columns, so that x passes least often; half of one where that makes too few
 * groups, and for 64 rows: two groups of eight warps share the registers of a multiprocessor, 128
 * for a work-item (ptxas for sm_90 takes 101, 128 and 126 for 16, 32 and 64 rows). Two sets of sums
 * for FP8 leave half a panel, of up to 32 rows. Not measured on a GPU. */
bool mla__projection_tile_few(const mla__device *device, clmla_dtype weights_dtype,
                              int32_t tile_rows, int32_t num_batches, int32_t out_features,
                              int32_t in_features, mla__projection_tile *tile)
{
    enum { WIDE = PANEL_COLUMNS, NARROW = PANEL_COLUMNS / 2 };
    const int64_t batches = num_batches;
    const int64_t wide = batches * ((out_features - 1) / WIDE + 1);
    const int64_t narrow = batches * ((out_features - 1) / NARROW + 1);
    const bool enough = wide >= (int64_t)mla__nvidia_record_find(device)->few_groups *
                                    (int64_t)device->compute_units;
    const mla__projection_tile chosen = {.tile_rows = tile_rows,
                                         .tile_columns = mla__projection_few_columns(
                                             weights_dtype, tile_rows, enough ? WIDE : NARROW),
                                         .slices = few_slices(device, narrow, in_features)};
    if (!mla__projection_tile_fits_few(device, &chosen))
        return false;
    *tile = chosen;
    return true;
}

bool mla__projection_tile_fits_tiled(const mla__device *device, clmla_dtype weights_dtype,
                                     const mla__projection_tile *t)
{
    enum { STAGE_K = 32, X_PITCH = 2 * STAGE_K + 16, W_PAD = 32 }; /* of the kernel */
    const int32_t pair_bytes = weights_dtype == CLMLA_DTYPE_F8_E4M3 ? 2 : 4;
    const int32_t stage_bytes =
        t->tile_rows * X_PITCH + STAGE_K / 2 * (pair_bytes * t->tile_columns + W_PAD);
    return mma_fits(device, (uint64_t)t->stages * (uint64_t)stage_bytes,
                    t->tile_rows / t->work_rows * t->tile_columns);
}

/* As many stages as local memory holds, of those that the way to memory lasts: a stage of the
 * smallest tile is multiplied soonest. Registers (ptxas for sm_90: 96, 76, 122) leave a
 * multiprocessor at least two work-groups of each; with FP8's two sets of sums (121, 112, 197) one of
 * the largest, which then has a stage more. Not measured on a GPU. */
bool mla__projection_tile_tiled(const mla__device *device, clmla_dtype weights_dtype, int32_t size,
                                mla__projection_tile *tile)
{
    static const mla__projection_tile sizes[] = {
        {.tile_rows = 64, .tile_columns = 64, .work_rows = 32, .stages = 4},
        {.tile_rows = 128, .tile_columns = 64, .work_rows = 32, .stages = 3},
        {.tile_rows = 128, .tile_columns = 128, .work_rows = 64, .stages = 2}};
    enum { LARGEST = 2 };
    if (size < 0 || size >= (int32_t)(sizeof(sizes) / sizeof(sizes[0])))
        return false;
    mla__projection_tile chosen = sizes[size];
    if (weights_dtype == CLMLA_DTYPE_F8_E4M3 && size == LARGEST)
        chosen.stages = 3;
    if (!mla__projection_tile_fits_tiled(device, weights_dtype, &chosen))
        return false;
    *tile = chosen;
    return true;
}

bool mla__projection_tile_fits_wgmma(const mla__device *device, const mla__projection_tile *t)
{
    enum { STAGE_K = 64, SM_90A_LOCAL_BYTES = 227 * 1024 }; /* of the kernel, of the target */
    const uint64_t bytes = (uint64_t)t->stages * (uint64_t)t->tile_rows * 2 * STAGE_K;
    return (size_t)t->tile_columns <= device->max_work_group_size && bytes <= SM_90A_LOCAL_BYTES &&
           (device->has_ptx || emulation_fits(device, bytes, t->tile_columns));
}

/* A multiprocessor holds two warpgroups, whose sums fill half of its registers (ptxas for sm_90a:
 * 248 and 237 of a work-item's 255): two work-groups of the smaller tile, or one of the larger, which
 * passes x half as often. Rows of x are under way for two and three stages. Not measured on a GPU.
 * Target sm_90a has 227 KiB of local memory, whatever OpenCL says of the device. */
bool mla__projection_tile_wgmma(const mla__device *device, int32_t size, mla__projection_tile *tile)
{
    static const mla__projection_tile sizes[] = {
        {.tile_rows = MLA__PROJECTION_WGMMA_ROWS, .tile_columns = 128, .stages = 4},
        {.tile_rows = MLA__PROJECTION_WGMMA_ROWS, .tile_columns = 256, .stages = 5}};
    if (size < 0 || size >= (int32_t)(sizeof(sizes) / sizeof(sizes[0])) ||
        !mla__projection_tile_fits_wgmma(device, &sizes[size]))
        return false;
    *tile = sizes[size];
    return true;
}

/* ---- merge and W_UV ------------------------------------------------------------------------- */

/* Local memory of cl/gpu/merge_up.clh: ctx, the slices' sums, weights of the states. A work-item
 * keeps its elements of ctx in registers while it adds the states. */
bool mla__merge_up_tile(const mla__device *device, const mla__projection_tile *stream,
                        int32_t in_features, mla__projection_tile *tile, int32_t *work_group)
{
    enum { LOCAL_BYTES = 32 * 1024, MAX_ELEMENTS = 16 };
    *tile = *stream;
    *work_group = stream_work_group(device);
    tile->tile_rows = 0; /* one token a group */
    tile->tile_columns = *work_group < PANEL_COLUMNS ? *work_group : PANEL_COLUMNS;
    const uint64_t in = (uint64_t)in_features, slices = (uint64_t)tile->slices;
    const uint64_t tile_k = (uint64_t)tile->tile_k, group = (uint64_t)*work_group;
    const uint64_t slice_k = ((in + slices - 1) / slices + tile_k - 1) / tile_k * tile_k;
    const uint64_t bytes = 4 * (slices * (slice_k + (uint64_t)tile->tile_columns) + group);
    return device->max_loop_iterations == 0 && /* merge and projection apart have fewer loops */
           tile->slices % (*work_group / tile->tile_columns) == 0 &&
           (in + group - 1) / group <= MAX_ELEMENTS && bytes <= LOCAL_BYTES &&
           bytes <= device->local_mem_bytes;
}

/* Fusing saves a launch and the way of ctx through memory, but every token reads W_UV anew, from
 * cache at best, where the projection reads it once for up to four. 128 rows (token · head) of
 * DeepSeek's 128 x 512 bf16 matrices are 16 MiB, about what a large GPU's cache delivers in the time
 * of a launch. One token reads nothing twice. Not measured on a GPU. */
int32_t mla__merge_up_max_tokens(int32_t num_heads)
{
    enum { MAX_ROWS = 128 };
    return num_heads < MAX_ROWS ? MAX_ROWS / num_heads : 1;
}

/* ---- macros and text ----------------------------------------------------------------------- */

typedef struct named_value {
    const char *field, *macro;
    int32_t value;
} named_value;

static void define_all(mla__defines *defines, const named_value *values, size_t count)
{
    for (size_t i = 0; i < count; i++)
        mla__define_int(defines, values[i].macro, values[i].value);
}

static int text_of(const named_value *values, size_t count, char *text, size_t capacity)
{
    int length = 0;
    if (capacity > 0)
        text[0] = '\0';
    for (size_t i = 0; i < count; i++) {
        if (values[i].value == 0)
            continue;
        const bool room = (size_t)length < capacity;
        length += snprintf(room ? text + length : NULL, room ? capacity - (size_t)length : 0,
                           "%s%s=%d", length > 0 ? " " : "", values[i].field, (int)values[i].value);
    }
    return length;
}

#define NAMED_VALUE(name, text, meaning) {#name, #text, tile->name},
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

void mla__define_projection_tile(mla__defines *defines, const mla__projection_tile *tile)
{
    const named_value values[] = {MLA__PROJECTION_TILE(NAMED_VALUE)};
    define_all(defines, values, COUNT(values));
}

void mla__define_attention_tile(mla__defines *defines, const mla__attention_tile *tile)
{
    const named_value values[] = {MLA__ATTENTION_TILE(NAMED_VALUE)};
    define_all(defines, values, COUNT(values));
}

int mla__projection_tile_text(const mla__projection_tile *tile, char *text, size_t capacity)
{
    const named_value values[] = {MLA__PROJECTION_TILE(NAMED_VALUE)};
    return text_of(values, COUNT(values), text, capacity);
}

int mla__attention_tile_text(const mla__attention_tile *tile, char *text, size_t capacity)
{
    const named_value values[] = {MLA__ATTENTION_TILE(NAMED_VALUE)};
    return text_of(values, COUNT(values), text, capacity);
}
