/* What a tile of a record must keep to: the #error rules of its kernel, the device's limits, and
 * bounds on what a compiler has to unroll. */
#include "core/checked.h"
#include "core/dtype.h"
#include "tuning/record.h"

enum {
    PANEL = 64,         /* columns of packed weights; src/ops/matrix.h */
    MOST_CPU_ROWS = 16, /* of x a tile: 2 KiB of private memory each */
    MOST_BLOCK_ROWS = 4096,
    MOST_REGISTERS = 64, /* vectors or floats of sums that are unrolled */
    MOST_GPU_ROWS = 128,
    MOST_STAGES = 8 /* of a ring in local memory */
};

static bool is_power_of_two(int32_t value) { return value > 0 && (value & (value - 1)) == 0; }

/* cl/cpu/projection.clh; the dot products' vectors have sixteen columns, with FP8 weights pairs of
 * them (cl/cpu/projection_dot_fp8.cl). */
static const char *cpu_projection_fault(const mla__projection_tile *t, bool dot,
                                        clmla_dtype weights)
{
    if (dot && t->vector_width != 16)
        return "vector_width must be 16";
    if (t->vector_width != 4 && t->vector_width != 8 && t->vector_width != 16)
        return "vector_width must be 4, 8 or 16";
    if (t->tile_vectors > PANEL || t->vector_width * t->tile_vectors % 16 != 0 ||
        PANEL % (t->vector_width * t->tile_vectors) != 0)
        return "vector_width * tile_vectors must be 16, 32 or 64";
    if (dot && weights == CLMLA_DTYPE_F8_E4M3 && t->tile_vectors % 2 != 0)
        return "tile_vectors must be even with FP8 weights";
    if (t->tile_rows > MOST_CPU_ROWS || t->tile_rows * t->tile_vectors > MOST_REGISTERS)
        return "tile_rows must be at most 16, tile_rows * tile_vectors 64";
    if (t->block_rows > MOST_BLOCK_ROWS || t->block_rows % t->tile_rows != 0)
        return "block_rows must be a multiple of tile_rows, at most 4096";
    return NULL;
}

/* cl/gpu/projection.cl; its local memory depends on tile_k, see mla__record_gpu_tile_fits. */
static const char *gpu_projection_fault(const mla__device *device, const mla__projection_tile *t)
{
    if (t->tile_columns > PANEL || PANEL % t->tile_columns != 0)
        return "tile_columns must divide 64";
    if (t->tile_rows > MOST_GPU_ROWS || t->tile_rows % t->work_rows != 0 ||
        t->tile_columns % t->work_columns != 0)
        return "tile_rows must be a multiple of work_rows, at most 128, and tile_columns of "
               "work_columns";
    if (t->work_rows * t->work_columns > MOST_REGISTERS)
        return "work_rows * work_columns must be at most 64";
    if ((size_t)(t->tile_rows / t->work_rows) * (size_t)(t->tile_columns / t->work_columns) >
        device->max_work_group_size)
        return "tile_rows / work_rows * tile_columns / work_columns must be a work-group of the "
               "device";
    return NULL;
}

bool mla__record_gpu_tile_fits(const mla__device *device, const mla__projection_tile *t)
{
    return 4 * (uint64_t)t->tile_k * (uint64_t)(t->tile_rows + 1 + t->tile_columns) <=
           device->local_mem_bytes;
}

/* They take the tile_k that the matrix comes to have. */
static bool default_gpu_tiles_fit(const mla__device *device, int32_t tile_k)
{
    const int32_t rows[] = {1, INT32_MAX};
    bool fit = true;
    for (int i = 0; i < 2; i++) {
        mla__projection_tile tile;
        mla__projection_tile_default(device, CLMLA_KERNELS_GPU, CLMLA_DTYPE_BF16, rows[i], &tile);
        tile.tile_k = tile_k;
        fit = fit && mla__record_gpu_tile_fits(device, &tile);
    }
    return fit;
}

/* cl/gpu/projection_stream.cl */
static const char *stream_fault(const mla__device *device, const mla__projection_tile *t)
{
    if (t->tile_columns > PANEL || PANEL % t->tile_columns != 0)
        return "tile_columns must divide 64";
    if (t->tile_k != 16 && t->tile_k != 32 && t->tile_k != 64)
        return "tile_k must be 16, 32 or 64";
    if (t->slices > PANEL ||
        (size_t)t->tile_columns * (size_t)t->slices > device->max_work_group_size)
        return "slices must be at most 64, tile_columns * slices a work-group of the device";
    const uint64_t rows = (uint64_t)mla__projection_stream_rows(CLMLA_KERNELS_GPU);
    const uint64_t floats =
        rows * (uint64_t)t->slices * (uint64_t)(t->tile_k + 4 + t->tile_columns);
    if (4 * floats > device->local_mem_bytes)
        return "tile_columns, tile_k and slices need more local memory than the device has";
    return default_gpu_tiles_fit(device, t->tile_k)
               ? NULL
               : "tile_k must leave the built-in tiles of projection_gpu room in local memory";
}

/* cl/nvidia/projection_few.clh: one warp a slice. */
static const char *few_fault(const mla__device *device, clmla_dtype weights_dtype,
                             const mla__projection_tile *t)
{
    enum { MOST_SLICES = 16 };
    if (t->tile_columns != PANEL / 2 && t->tile_columns != PANEL)
        return "tile_columns must be 32 or 64";
    if (weights_dtype == CLMLA_DTYPE_F8_E4M3 && t->tile_columns != PANEL / 2)
        return "tile_columns of FP8 weights must be 32";
    if (t->slices > MOST_SLICES)
        return "slices must be at most 16";
    return mla__projection_tile_fits_few(device, t)
               ? NULL
               : "slices need more local memory or work-items than the device has";
}

/* cl/nvidia/projection_tiled.cl */
static const char *tiled_fault(const mla__device *device, clmla_dtype weights_dtype,
                               const mla__projection_tile *t)
{
    if ((t->tile_rows != 64 && t->tile_rows != 128) ||
        (t->tile_columns != PANEL && t->tile_columns != 2 * PANEL) ||
        (t->work_rows != 32 && t->work_rows != 64))
        return "tile_rows and tile_columns must be 64 or 128, work_rows 32 or 64";
    if (t->stages < 2 || t->stages > MOST_STAGES)
        return "stages must be from 2 to 8";
    return mla__projection_tile_fits_tiled(device, weights_dtype, t)
               ? NULL
               : "the tile needs more local memory or work-items than the device has";
}

/* cl/nvidia/projection_wgmma.cl */
static const char *wgmma_fault(const mla__device *device, const mla__projection_tile *t)
{
    if (t->tile_columns != 2 * PANEL && t->tile_columns != 4 * PANEL)
        return "tile_columns must be 128 or 256";
    if (t->stages < 3 || t->stages > MOST_STAGES)
        return "stages must be from 3 to 8";
    return mla__projection_tile_fits_wgmma(device, t)
               ? NULL
               : "the tile needs more local memory or work-items than the device has";
}

static const char *projection_fault(const mla__device *device, const mla__record_entry *entry)
{
    const mla__projection_tile *t = &entry->projection;
    switch (entry->key.kernel) {
    case MLA__RECORD_PROJECTION_CPU:
        return cpu_projection_fault(t, false, entry->key.dtype);
    case MLA__RECORD_PROJECTION_DOT:
        return cpu_projection_fault(t, true, entry->key.dtype);
    case MLA__RECORD_PROJECTION_STREAM:
        return stream_fault(device, t);
    case MLA__RECORD_PROJECTION_FEW:
        return few_fault(device, entry->key.dtype, t);
    case MLA__RECORD_PROJECTION_TILED:
        return tiled_fault(device, entry->key.dtype, t);
    case MLA__RECORD_PROJECTION_WGMMA:
        return wgmma_fault(device, t);
    default:
        return gpu_projection_fault(device, t);
    }
}

/* cl/cpu/attention_lanes.clh, attention_dot.cl */
static const char *cpu_attention_fault(const mla__attention_tile *t, bool dot)
{
    if (t->row_vectors > 4 || t->tile_rows != 16 * t->row_vectors)
        return "row_vectors must be at most 4";
    if (t->tile_tokens > MOST_REGISTERS || t->tile_tokens * t->row_vectors > MOST_REGISTERS ||
        t->tile_values > MOST_REGISTERS || t->tile_values * t->row_vectors > MOST_REGISTERS)
        return "tile_tokens * row_vectors and tile_values * row_vectors must be at most 64";
    if (t->block_tokens > 1024 || t->block_tokens % (t->tile_tokens * t->row_vectors) != 0)
        return "block_tokens must be a multiple of tile_tokens * row_vectors, at most 1024";
    if (dot && t->tile_tokens % 2 != 0)
        return "tile_tokens must be even";
    return NULL;
}

/* cl/gpu/attention.cl */
static const char *gpu_attention_fault(const mla__device *device, const mla__attention_tile *t)
{
    if (!is_power_of_two(t->tile_rows) || !is_power_of_two(t->block_tokens) ||
        !is_power_of_two(t->work_group) || t->tile_rows < 2 || t->block_tokens < 2)
        return "tile_rows, block_tokens and work_group must be powers of two, at least 2";
    if ((size_t)t->work_group > device->max_work_group_size)
        return "work_group must be one of the device";
    if (t->tile_rows > MOST_REGISTERS || t->block_tokens > t->work_group ||
        t->tile_rows > t->work_group || t->tile_rows / 2 * (t->block_tokens / 2) > t->work_group)
        return "tile_rows must be at most 64; tile_rows, block_tokens and tile_rows * block_tokens "
               "/ 4 at most work_group";
    return NULL;
}

/* cl/nvidia/attention.clh */
static const char *mma_attention_fault(const mla__device *device, const mla__record_key *key,
                                       const mla__attention_tile *t)
{
    if (t->tile_rows != 16 && t->tile_rows != 32)
        return "tile_rows must be 16 or 32";
    if (t->stages < 2 || t->stages > MOST_STAGES)
        return "stages must be from 2 to 8";
    return mla__attention_tile_fits_mma(device, t, key->sizes[1], key->sizes[2])
               ? NULL
               : "the tile needs more local memory or work-items than the device has";
}

static const char *attention_fault(const mla__device *device, const mla__record_entry *entry)
{
    const mla__attention_tile *t = &entry->attention;
    const mla__record_key *key = &entry->key;
    if (key->kernel == MLA__RECORD_ATTENTION_MMA)
        return mma_attention_fault(device, key, t);
    const bool gpu = key->kernel == MLA__RECORD_ATTENTION_GPU;
    const clmla_dtype stored = key->dtype == CLMLA_DTYPE_FP8_DS_MLA ? CLMLA_DTYPE_BF16 : key->dtype;
    const char *fault = gpu ? gpu_attention_fault(device, t)
                            : cpu_attention_fault(t, key->kernel == MLA__RECORD_ATTENTION_DOT);
    if (fault != NULL)
        return fault;
    if (key->kernel == MLA__RECORD_ATTENTION_DOT && stored != CLMLA_DTYPE_BF16)
        return "cache must be bf16 or fp8_ds_mla";
    const bool fits =
        gpu ? mla__attention_tile_fits_gpu(device, t, mla__dtype_bytes(stored), key->sizes[1],
                                           key->sizes[2])
            : mla__attention_tile_fits_cpu(t, key->kernel == MLA__RECORD_ATTENTION_DOT,
                                           key->sizes[1], key->sizes[2]);
    if (fits)
        return NULL;
    return gpu ? "the tile needs more local memory than the device has"
               : "the tile needs more than 2 MiB of private memory";
}

/* CLBlast's own constraints on its kernel 0 (src/kernels/level3/xgemm_part1.opencl of 1.5.3), and
 * what slabs are padded to: 64 columns, 32 k (ops/clblast_layout.c). */
static const char *clblast_fault(const mla__device *device, const mla__record_entry *entry)
{
    enum { COLUMNS = 64, K = 32, MOST_ROWS = 128, MOST_SUMS = 256 };
    const mla__clblast_xgemm *x = &entry->clblast.xgemm;
    if (x->gemmk != 0 || x->kreg != 1 || x->sa > 1 || x->sb > 1 || x->strm > 1 || x->strn > 1)
        return "gemmk must be 0, kreg 1, sa, sb, strm and strn 0 or 1";
    if (!is_power_of_two(x->kwg) || x->kwg > K || !is_power_of_two(x->kwi) || x->kwi > x->kwg ||
        !is_power_of_two(x->mwg) || x->mwg > COLUMNS || !is_power_of_two(x->nwg) ||
        x->nwg > MOST_ROWS)
        return "kwg, kwi, mwg and nwg must be powers of two, at most 32, kwg, 64 and 128";
    if (!is_power_of_two(x->mdimc) || !is_power_of_two(x->ndimc) || !is_power_of_two(x->mdima) ||
        !is_power_of_two(x->ndimb) || !is_power_of_two(x->vwm) || !is_power_of_two(x->vwn) ||
        x->vwm > 16 || x->vwn > 16 || x->mdimc > COLUMNS || x->mdima > COLUMNS ||
        x->ndimc > MOST_ROWS || x->ndimb > MOST_ROWS)
        return "mdimc, ndimc, mdima, ndimb, vwm and vwn must be powers of two, the last two at "
               "most "
               "16";
    const int32_t group = x->mdimc * x->ndimc;
    if (x->mwg % (x->mdimc * x->vwm) != 0 || x->mwg % (x->mdima * x->vwm) != 0 ||
        x->nwg % (x->ndimc * x->vwn) != 0 || x->nwg % (x->ndimb * x->vwn) != 0)
        return "mdimc * vwm and mdima * vwm must divide mwg, ndimc * vwn and ndimb * vwn nwg";
    if (group % x->mdima != 0 || group % x->ndimb != 0 || x->kwg % (group / x->mdima) != 0 ||
        x->kwg % (group / x->ndimb) != 0)
        return "mdima and ndimb must divide mdimc * ndimc, and what comes out kwg";
    if ((size_t)group > device->max_work_group_size)
        return "mdimc * ndimc must be a work-group of the device";
    if (x->mwg / x->mdimc * (x->nwg / x->ndimc) > MOST_SUMS)
        return "a work-item must have at most 256 sums";
    if (4 * (uint64_t)x->kwg * (uint64_t)(x->sa * x->mwg + x->sb * x->nwg) >
        device->local_mem_bytes)
        return "sa and sb need more local memory than the device has";
    if (entry->max_rows < INT32_MAX && entry->max_rows % x->nwg != 0)
        return "max_rows must be a multiple of nwg, or any";
    return NULL;
}

const char *mla__record_fault(const mla__device *device, const mla__record_entry *entry)
{
    if (entry->key.kernel >= MLA__RECORD_AUTO_CPU)
        return NULL; /* any number will do */
    if (entry->key.kernel == MLA__RECORD_CLBLAST_XGEMM)
        return clblast_fault(device, entry);
    return entry->key.kernel >= MLA__RECORD_ATTENTION_CPU ? attention_fault(device, entry)
                                                          : projection_fault(device, entry);
}
