#include "core/dtype.h"
#include "tuning/nvidia_records.h"
#include "tuning/params.h"

enum {
    CPU_SCRATCH_BYTES = 256 * 1024,    /* wanted: half of a core's L2, and of a small stack */
    CPU_STACK_BYTES = 2 * 1024 * 1024, /* PoCL keeps private arrays on a worker's stack */
    GPU_LOCAL_BYTES = 32 * 1024        /* what every OpenCL GPU has */
};

/* Private memory of cl/cpu/attention.cl: query, sum and scores of each row, and the block of keys,
 * all float32. */
static uint64_t cpu_bytes(const mla__attention_tile *tile, int32_t kv_lora_rank, int32_t rope_dim)
{
    const uint64_t latent = (uint64_t)kv_lora_rank, key = latent + (uint64_t)rope_dim;
    const uint64_t rows = (uint64_t)tile->tile_rows, block = (uint64_t)tile->block_tokens;
    return 4 * (rows * (key + latent + block) + block * key);
}

/* First the tiles with the most sums in registers, then smaller ones, for wide latents.
 *
 * Vectors of sixteen floats: 16 sums of 32 registers (more than 24 spill); two row vectors share
 * each key element that is broadcast.
 *
 * Narrower ones, not measured on such a processor: the sixteen rows of a row vector are two
 * registers of eight or four of four. Four sums, a vector of the query or of weights and a key
 * element are 11 of 16 registers (AVX2) or 21 of 32 (NEON). Code for AVX2 on one core with wider
 * vectors (Zen 4, LLVM 15; 128 heads, 1024 keys) came to 92 GFLOP/s so; to 45 with six sums, to 61
 * with eight, to 22 .. 31 with two row vectors. */
static bool cpu_tile(const mla__device *device, int32_t kv_lora_rank, int32_t rope_dim,
                     mla__attention_tile *tile)
{
    static const mla__attention_tile wide[] = {
        {.row_vectors = 2, .block_tokens = 32, .tile_tokens = 8, .tile_values = 8},
        {.row_vectors = 2, .block_tokens = 16, .tile_tokens = 8, .tile_values = 8},
        {.row_vectors = 1, .block_tokens = 32, .tile_tokens = 16, .tile_values = 16},
        {.row_vectors = 1, .block_tokens = 16, .tile_tokens = 16, .tile_values = 16},
        {.row_vectors = 1, .block_tokens = 4, .tile_tokens = 4, .tile_values = 16},
    };
    static const mla__attention_tile narrow[] = {
        {.row_vectors = 1, .block_tokens = 32, .tile_tokens = 4, .tile_values = 4},
        {.row_vectors = 1, .block_tokens = 16, .tile_tokens = 4, .tile_values = 4},
        {.row_vectors = 1, .block_tokens = 4, .tile_tokens = 4, .tile_values = 4},
    };
    /* Where loops end after a number of iterations; it also compiles fastest on Mesa's llvmpipe. */
    static const mla__attention_tile smallest[] = {
        {.row_vectors = 1, .block_tokens = 4, .tile_tokens = 1, .tile_values = 1},
    };
    const bool is_wide = device->float_vector_width >= 16, small = device->max_loop_iterations > 0;
    const mla__attention_tile *const choices = small ? smallest : is_wide ? wide : narrow;
    const size_t num_choices = small     ? sizeof(smallest) / sizeof(smallest[0])
                               : is_wide ? sizeof(wide) / sizeof(wide[0])
                                         : sizeof(narrow) / sizeof(narrow[0]);
    for (size_t i = 0; i < num_choices; i++) {
        *tile = choices[i];
        tile->tile_rows = 16 * tile->row_vectors;
        if (cpu_bytes(tile, kv_lora_rank, rope_dim) <= CPU_SCRATCH_BYTES)
            return true;
    }
    return cpu_bytes(tile, kv_lora_rank, rope_dim) <= CPU_STACK_BYTES;
}

/* Private memory of cl/cpu/attention_dot.cl: query, a tile's keys and a block's values in bf16, its
 * weights, too. */
static uint64_t dot_bytes(const mla__attention_tile *tile, int32_t kv_lora_rank, int32_t rope_dim)
{
    const uint64_t latent = (uint64_t)kv_lora_rank;
    const uint64_t key = 2 * ((latent + 1) / 2 + ((uint64_t)rope_dim + 1) / 2);
    const uint64_t rows = (uint64_t)tile->tile_rows, block = (uint64_t)tile->block_tokens;
    const uint64_t score_registers = (uint64_t)tile->tile_tokens * (uint64_t)tile->row_vectors;
    return rows * (2 * key + 4 * latent + 6 * block) + 2 * score_registers * key +
           2 * block * latent;
}

/* As for float32. The operations take half the time, so that sums going through the caches once a
 * block cost more: blocks of 64 keys instead of 32 save 5 % with 128 heads. */
bool mla__attention_tile_dot(int32_t kv_lora_rank, int32_t rope_dim, mla__attention_tile *tile)
{
    static const mla__attention_tile choices[] = {
        {.row_vectors = 2, .block_tokens = 64, .tile_tokens = 8, .tile_values = 8},
        {.row_vectors = 2, .block_tokens = 32, .tile_tokens = 8, .tile_values = 8},
        {.row_vectors = 2, .block_tokens = 16, .tile_tokens = 8, .tile_values = 8},
        {.row_vectors = 1, .block_tokens = 32, .tile_tokens = 16, .tile_values = 16},
        {.row_vectors = 1, .block_tokens = 16, .tile_tokens = 16, .tile_values = 16},
    };
    const int num_choices = sizeof(choices) / sizeof(choices[0]);
    for (int i = 0; i < num_choices; i++) {
        mla__attention_tile chosen = choices[i];
        chosen.tile_rows = 16 * chosen.row_vectors;
        if (dot_bytes(&chosen, kv_lora_rank, rope_dim) > CPU_SCRATCH_BYTES)
            continue;
        *tile = chosen;
        return true;
    }
    return false;
}

/* Local memory of cl/gpu/attention.cl, array by array; element_bytes of the widest of the storage
 * dtypes. */
static uint64_t gpu_bytes(const mla__attention_tile *tile, uint64_t element_bytes,
                          int32_t kv_lora_rank, int32_t rope_dim)
{
    const uint64_t rows = (uint64_t)tile->tile_rows, block = (uint64_t)tile->block_tokens;
    const uint64_t pairs = ((uint64_t)kv_lora_rank + 1) / 2 + ((uint64_t)rope_dim + 1) / 2;
    const uint64_t pitch = (pairs + 11) / 16 * 16 + 4;
    return 2 * element_bytes * (rows * pairs + block * pitch) + 16 * (uint64_t)tile->work_group +
           4 * rows * block + 16 * rows;
}

/* 16 rows × 8 keys of 576 16-bit elements fill 32 KiB to the last bytes. Wider elements and latents
 * take fewer rows and keys, then smaller work-groups. */
static bool gpu_tile(const mla__device *device, uint64_t element_bytes, int32_t kv_lora_rank,
                     int32_t rope_dim, mla__attention_tile *tile)
{
    static const struct {
        int32_t rows, tokens;
    } choices[] = {{16, 8}, {16, 4}, {8, 8}, {8, 4}, {4, 4}, {4, 2}, {2, 2}};
    enum { SMALL_CHOICE = 4 };
    const int num_choices = sizeof(choices) / sizeof(choices[0]);
    const uint64_t limit = device->local_mem_bytes < GPU_LOCAL_BYTES ? device->local_mem_bytes
                                                                     : (uint64_t)GPU_LOCAL_BYTES;
    /* Where loops end after a number of iterations, small tiles, for few loops within others. */
    const bool small = device->max_loop_iterations > 0;
    for (int32_t work_group = small ? 64 : 256; work_group >= 32; work_group /= 2) {
        if ((size_t)work_group > device->max_work_group_size)
            continue;
        for (int i = small ? SMALL_CHOICE : 0; i < num_choices; i++) {
            *tile = (mla__attention_tile){.tile_rows = choices[i].rows,
                                          .block_tokens = choices[i].tokens,
                                          .work_group = work_group};
            if (gpu_bytes(tile, element_bytes, kv_lora_rank, rope_dim) <= limit)
                return true;
        }
    }
    return false;
}

bool mla__attention_tile_fits_cpu(const mla__attention_tile *tile, bool dot, int32_t kv_lora_rank,
                                  int32_t rope_dim)
{
    return (dot ? dot_bytes(tile, kv_lora_rank, rope_dim)
                : cpu_bytes(tile, kv_lora_rank, rope_dim)) <= CPU_STACK_BYTES;
}

bool mla__attention_tile_fits_gpu(const mla__device *device, const mla__attention_tile *tile,
                                  uint64_t element_bytes, int32_t kv_lora_rank, int32_t rope_dim)
{
    return gpu_bytes(tile, element_bytes, kv_lora_rank, rope_dim) <= device->local_mem_bytes;
}

bool mla__attention_tile_default(const mla__device *device, clmla_kernel_class kernel_class,
                                 clmla_dtype activation_dtype, int32_t kv_lora_rank,
                                 int32_t rope_dim, mla__attention_tile *tile)
{
    mla__attention_tile chosen;
    const bool fits =
        kernel_class == CLMLA_KERNELS_CPU
            ? cpu_tile(device, kv_lora_rank, rope_dim, &chosen)
            : gpu_tile(device, mla__dtype_bytes(activation_dtype), kv_lora_rank, rope_dim, &chosen);
    if (fits)
        *tile = chosen;
    return fits;
}

/* Local memory of cl/nvidia/attention.clh: the ring of keys, and of every row four partial scores;
 * with the emulation's scratch, see cl/nvidia/ptx_emulated.clh. */
static uint64_t mma_bytes(const mla__attention_tile *tile, int32_t kv_lora_rank, int32_t rope_dim,
                          bool emulated)
{
    const uint64_t pitch = 2 * ((uint64_t)kv_lora_rank + (uint64_t)rope_dim) + 16;
    const uint64_t block = (uint64_t)tile->block_tokens, rows = (uint64_t)tile->tile_rows;
    const uint64_t scratch = emulated ? 32 * (uint64_t)tile->work_group : 0;
    return (uint64_t)tile->stages * block * pitch + 16 * rows * block + scratch;
}

bool mla__attention_tile_fits_mma(const mla__device *device, const mla__attention_tile *tile,
                                  int32_t kv_lora_rank, int32_t rope_dim)
{
    enum { LOCAL_BYTES = 48 * 1024 };
    return mma_bytes(tile, kv_lora_rank, rope_dim, false) <= LOCAL_BYTES &&
           mma_bytes(tile, kv_lora_rank, rope_dim, !device->has_ptx) <= device->local_mem_bytes &&
           (size_t)tile->work_group <= device->max_work_group_size;
}

void mla__attention_tile_complete_mma(mla__attention_tile *tile)
{
    tile->block_tokens = 16;
    tile->work_group = 128;
}

/* Registers decide (tests/kernels/ptx_programs.txt has the budgets, for 512 + 64): sixteen rows leave
 * room for three work-groups on a multiprocessor, which hides the way to memory; thirty-two halve
 * the traffic of local memory per row and leave two. So sixteen where a sequence has no more rows,
 * else thirty-two, unless their registers spill. Not measured on a GPU. */
bool mla__attention_tile_mma(const mla__device *device, int32_t num_heads, int32_t kv_lora_rank,
                             int32_t rope_dim, mla__attention_tile *tile, mla__attention_tile *many)
{
    mla__attention_tile sixteen = {.tile_rows = 16, .stages = 2};
    mla__attention_tile double_rows = {.tile_rows = 32, .stages = 2};
    mla__attention_tile_complete_mma(&sixteen);
    mla__attention_tile_complete_mma(&double_rows);
    const bool fits = mla__nvidia_record_find(device)->attention_rows >= double_rows.tile_rows &&
                      mla__attention_tile_fits_mma(device, &double_rows, kv_lora_rank, rope_dim);
    if (!fits && !mla__attention_tile_fits_mma(device, &sixteen, kv_lora_rank, rope_dim))
        return false;
    *tile = fits && num_heads > sixteen.tile_rows ? double_rows : sixteen;
    *many = fits && num_heads <= sixteen.tile_rows ? double_rows : (mla__attention_tile){0};
    return true;
}

/* Bytes of local memory that a work-group gets at most. NVIDIA's OpenCL reports 48 KiB, whatever the
 * device; source of the rest: NVIDIA, CUDA C++ Programming Guide, technical specifications per
 * compute capability, "maximum amount of shared memory per thread block". */
static uint64_t most_local_bytes(const mla__device *device)
{
    uint64_t kib = 99; /* 8.6, 8.9, 12.0; the least of all from 8.0 */
    if (!device->has_ptx)
        return device->local_mem_bytes;
    switch (device->compute_capability) {
    case 80:
    case 87:
        kib = 163;
        break;
    case 90:
    case 100:
    case 103:
    case 110:
        kib = 227;
        break;
    default:
        break;
    }
    return 1024 * kib > device->local_mem_bytes ? 1024 * kib : device->local_mem_bytes;
}

/* 255 registers of 256 work-items fill a multiprocessor's, as two work-groups of 32 rows would. Both
 * row groups of this one read the same keys: half the traffic of L2 per row, whose bandwidth bounds
 * 128 heads, and local memory for four stages (89 KiB for 512 + 64), where two work-groups have two
 * each: three blocks of keys are under way, not one. Price: both halves wait at the same barriers.
 * Blocks of 16 keys, so that rows have the bits of the other tiles. Not measured on a GPU. */
bool mla__attention_tile_large(const mla__device *device, int32_t kv_lora_rank, int32_t rope_dim,
                               mla__attention_tile *tile, uint64_t *local_bytes)
{
    mla__attention_tile made = {.tile_rows = MLA__ATTENTION_LARGE_ROWS,
                                .block_tokens = 16,
                                .work_group = MLA__ATTENTION_LARGE_GROUP};
    if ((size_t)made.work_group > device->max_work_group_size ||
        mla__nvidia_record_find(device)->attention_rows < made.tile_rows)
        return false;
    for (made.stages = 4; made.stages >= 2; made.stages--) {
        const uint64_t bytes = mma_bytes(&made, kv_lora_rank, rope_dim, !device->has_ptx);
        if (bytes > most_local_bytes(device))
            continue;
        *tile = made;
        *local_bytes = bytes;
        return true;
    }
    return false;
}

/* What target sm_90a has, whatever OpenCL says of the device. */
enum { SM_90A_LOCAL_BYTES = 227 * 1024 };

/* The query and two slots for keys, 72 KiB each for 512 + 64, the halves' fragments of p and maxima:
 * 229,888 bytes, with which no third slot fits. One work-group a multiprocessor then has as many rows
 * there as two of the other kernel's 32, so that as many splits fill a device. */
bool mla__attention_tile_wgmma(const mla__device *device, int32_t num_heads, int32_t kv_lora_rank,
                               int32_t rope_dim, mla__attention_tile *tile)
{
    const mla__attention_tile made = {
        .tile_rows = 64, .block_tokens = 64, .work_group = 256, .stages = 2};
    const uint64_t block =
        2 * (uint64_t)made.block_tokens * ((uint64_t)kv_lora_rank + (uint64_t)rope_dim);
    const uint64_t bytes =
        (uint64_t)(1 + made.stages) * block + UINT64_C(64) * 64 * 2 + UINT64_C(2) * 64 * 4;
    const uint64_t scratch = 32 * (uint64_t)made.work_group; /* cl/nvidia/ptx_emulated.clh */
    if (num_heads % made.tile_rows != 0 || kv_lora_rank % 256 != 0 || rope_dim % 64 != 0 ||
        (size_t)made.work_group > device->max_work_group_size || bytes > SM_90A_LOCAL_BYTES ||
        (!device->has_ptx && bytes + scratch > device->local_mem_bytes))
        return false;
    *tile = made;
    return true;
}
