/*
 * Tile parameters of the kernel families, one X-macro list each: the list gives the struct, the
 * macro names that kernels are built with, and the text of --verbose. X(field, MACRO, meaning).
 */
#ifndef CLMLA_TUNING_PARAMS_H
#define CLMLA_TUNING_PARAMS_H

#include <stdbool.h>
#include <stdint.h>

#include "ocl/device.h"
#include "ocl/program.h"

/* cl/cpu/projection.cl, projection_dot.cl and projection_dot_fp8.cl use tile_rows, vector_width,
 * tile_vectors, block_rows; cl/gpu/projection.cl uses tile_rows, tile_columns, tile_k, work_rows,
 * work_columns, slices; cl/gpu/projection_stream.cl tile_rows, tile_columns, tile_k, slices;
 * cl/gpu/merge_up.clh tile_columns, tile_k, slices; cl/nvidia/projection_few.clh tile_rows,
 * tile_columns, slices; cl/nvidia/projection_tiled.cl tile_rows, tile_columns, work_rows, stages;
 * cl/nvidia/projection_wgmma.cl tile_rows, tile_columns, stages. */
#define MLA__PROJECTION_TILE(X)                                                                    \
    X(tile_rows, TILE_ROWS, "rows of y per tile")                                                  \
    X(vector_width, VECTOR_WIDTH, "cpu: columns per vector")                                       \
    X(tile_vectors, TILE_VECTORS, "cpu: vectors of columns per tile")                              \
    X(block_rows, BLOCK_ROWS, "cpu: rows that one work-item computes in turn")                     \
    X(tile_columns, TILE_COLUMNS, "gpu: columns of y per work-group")                              \
    X(tile_k, TILE_K, "gpu: k per stage in local memory")                                          \
    X(work_rows, WORK_ROWS, "gpu: rows per work-item; nvidia: per warp")                           \
    X(work_columns, WORK_COLUMNS, "gpu: columns per work-item")                                    \
    X(slices, SLICES, "gpu, nvidia: parts of k that are summed apart")                             \
    X(stages, STAGES, "nvidia: stages of k in local memory at a time")

/* cl/cpu/attention.cl and attention_dot.cl use row_vectors, block_tokens, tile_tokens, tile_values;
 * cl/gpu/attention.cl uses tile_rows, block_tokens, work_group; cl/nvidia/attention.clh and
 * attention_wgmma.cl those and stages. */
#define MLA__ATTENTION_TILE(X)                                                                     \
    X(tile_rows, TILE_ROWS, "rows (token · heads) per group")                                      \
    X(row_vectors, ROW_VECTORS, "cpu: vectors of 16 rows per work-item")                           \
    X(block_tokens, BLOCK_TOKENS, "keys per block")                                                \
    X(tile_tokens, TILE_TOKENS, "cpu: keys per register tile of the scores")                       \
    X(tile_values, TILE_VALUES, "cpu: latent elements per register tile of the sum")               \
    X(work_group, WORK_GROUP, "gpu, nvidia: work-items per group")                                 \
    X(stages, STAGES, "nvidia: blocks of keys in local memory at a time")

#define MLA__TILE_FIELD(field, macro, meaning) int32_t field;
typedef struct mla__projection_tile {
    MLA__PROJECTION_TILE(MLA__TILE_FIELD)
} mla__projection_tile;
typedef struct mla__attention_tile {
    MLA__ATTENTION_TILE(MLA__TILE_FIELD)
} mla__attention_tile;
#undef MLA__TILE_FIELD

/* Built-in defaults. Deterministic in their arguments. Up to this many rows a projection has a tile
 * of its own. The tile leaves slices 0: they are the matrix's. */
int32_t mla__projection_few_rows(clmla_kernel_class kernel_class);
void mla__projection_tile_default(const mla__device *device, clmla_kernel_class kernel_class,
                                  clmla_dtype weights_dtype, int32_t max_rows,
                                  mla__projection_tile *tile);
/* gpu: up to how many rows a projection takes cl/gpu/projection_stream.cl; 0 for other classes. */
int32_t mla__projection_stream_rows(clmla_kernel_class kernel_class);
/* Its tile for [num_batches, out_features, in_features]. slices and tile_k are those of every
 * kernel that multiplies by this matrix. */
void mla__projection_stream_tile(const mla__device *device, int32_t num_batches,
                                 int32_t out_features, mla__projection_tile *tile);

/* Up to how many rows a projection on tensor cores takes cl/nvidia/projection_few.clh, FP8 weights
 * the latter. */
enum { MLA__PROJECTION_FEW_MAX_ROWS = 64, MLA__PROJECTION_FEW_MAX_ROWS_FP8 = 32 };
enum { MLA__PROJECTION_WGMMA_ROWS = 128 }; /* of that kernel's tiles */
/* Its tile of 16, 32 or 64 rows for [num_batches, out_features, in_features]; slices follow from
 * device and matrix alone. False: it does not fit the device. */
bool mla__projection_tile_few(const mla__device *device, clmla_dtype weights_dtype,
                              int32_t tile_rows, int32_t num_batches, int32_t out_features,
                              int32_t in_features, mla__projection_tile *tile);
/* Whether a tile that is no default runs; of projection_few those of other tile_rows, too. */
bool mla__projection_tile_fits_few(const mla__device *device, const mla__projection_tile *tile);
bool mla__projection_tile_fits_tiled(const mla__device *device, clmla_dtype weights_dtype,
                                     const mla__projection_tile *tile);
bool mla__projection_tile_fits_wgmma(const mla__device *device, const mla__projection_tile *tile);
/* The few kernel's columns for so many rows: half a panel for 64 and for FP8 weights, whose sums would
 * spill. */
int32_t mla__projection_few_columns(clmla_dtype weights_dtype, int32_t tile_rows,
                                    int32_t tile_columns);

/* The tile of cl/nvidia/projection_tiled.cl of this size, 0 (the smallest) or more. False: there is
 * none, or it does not fit the device. */
bool mla__projection_tile_tiled(const mla__device *device, clmla_dtype weights_dtype, int32_t size,
                                mla__projection_tile *tile);

/* The same for cl/nvidia/projection_wgmma.cl. */
bool mla__projection_tile_wgmma(const mla__device *device, int32_t size,
                                mla__projection_tile *tile);

/* gpu: cl/gpu/merge_up.clh for W_UV [num_heads, out_features, in_features] with the matrix's tile of
 * projection_stream.cl, whose tile_k and slices it takes, in work-groups of *work_group. False: it
 * does not fit the device, or those. */
bool mla__merge_up_tile(const mla__device *device, const mla__projection_tile *stream,
                        int32_t in_features, mla__projection_tile *tile, int32_t *work_group);
/* Up to how many tokens it takes the place of merge and projection. */
int32_t mla__merge_up_max_tokens(int32_t num_heads);

/* The same for cl/cpu/projection_dot.cl and projection_dot_fp8.cl, whose vectors have sixteen
 * columns. */
void mla__projection_tile_dot(int32_t max_rows, mla__projection_tile *tile);
/* Chooses sizes so that the kernel's scratch (cpu: private, at most 256 KiB where any choice gets
 * there) or local memory (gpu: at most 32 KiB and the device's) fits. False: nothing fits. */
bool mla__attention_tile_default(const mla__device *device, clmla_kernel_class kernel_class,
                                 clmla_dtype activation_dtype, int32_t kv_lora_rank,
                                 int32_t rope_dim, mla__attention_tile *tile);

/* The same for cl/cpu/attention_dot.cl, whose storage is bf16. */
bool mla__attention_tile_dot(int32_t kv_lora_rank, int32_t rope_dim, mla__attention_tile *tile);

/* Whether a tile that is no default runs: private memory within 2 MiB, of attention_dot.cl where dot;
 * local memory within the device's. */
bool mla__attention_tile_fits_cpu(const mla__attention_tile *tile, bool dot, int32_t kv_lora_rank,
                                  int32_t rope_dim);
bool mla__attention_tile_fits_gpu(const mla__device *device, const mla__attention_tile *tile,
                                  uint64_t element_bytes, int32_t kv_lora_rank, int32_t rope_dim);

/* Default tiles for cl/nvidia/attention.clh, whose storage is bf16: within 48 KiB, what NVIDIA's OpenCL
 * gives a work-group. The emulation of its PTX takes some more. many: for steps of at least its
 * tile_rows rows a sequence; tile_rows 0 where tile suits those, too. */
bool mla__attention_tile_mma(const mla__device *device, int32_t num_heads, int32_t kv_lora_rank,
                             int32_t rope_dim, mla__attention_tile *tile,
                             mla__attention_tile *many);

/* The fields of such a tile that follow from the others, and whether one that is no default runs. */
void mla__attention_tile_complete_mma(mla__attention_tile *tile);
bool mla__attention_tile_fits_mma(const mla__device *device, const mla__attention_tile *tile,
                                  int32_t kv_lora_rank, int32_t rope_dim);

enum { MLA__ATTENTION_LARGE_ROWS = 64, MLA__ATTENTION_LARGE_GROUP = 256 /* work-items */ };
/* A tile of so many rows for the same kernel and the same bits, for steps of at least its rows a
 * sequence. It takes *local_bytes, more than NVIDIA's OpenCL reports: to be used only once a
 * work-group was seen to get them (ocl/local_memory.h). False: the device cannot have them. */
bool mla__attention_tile_large(const mla__device *device, int32_t kv_lora_rank, int32_t rope_dim,
                               mla__attention_tile *tile, uint64_t *local_bytes);

/* The tile of cl/nvidia/attention_wgmma.cl, whose storage is bf16, for every step. False: it does not
 * take these heads or dims, or does not fit the device. */
bool mla__attention_tile_wgmma(const mla__device *device, int32_t num_heads, int32_t kv_lora_rank,
                               int32_t rope_dim, mla__attention_tile *tile);

/* Adds every field of a tile as macros. */
void mla__define_projection_tile(mla__defines *defines, const mla__projection_tile *tile);
void mla__define_attention_tile(mla__defines *defines, const mla__attention_tile *tile);

/* "tile_rows=4 tile_vectors=4 ..." without the fields that are 0; returns the length as snprintf.
 */
int mla__projection_tile_text(const mla__projection_tile *tile, char *text, size_t capacity);
int mla__attention_tile_text(const mla__attention_tile *tile, char *text, size_t capacity);

#endif
