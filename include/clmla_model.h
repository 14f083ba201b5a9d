/*
 * clmla_model: reading model files for clmla. Optional: libclmla does not need it.
 *
 * SPDX-License-Identifier: Apache-2.0
 *
 *   clmla_model_config_read   config.json (or any JSON text in its words) -> clmla_config
 *   clmla_safetensors_*       safetensors files -> named views of host memory, and back
 *   clmla_checkpoint_*        a checkpoint (config.json, index, shards) -> one layer's weights, as
 *                             clmla_weights_create takes them
 *
 * Every function that can fail takes an optional text buffer for one line that names file, tensor
 * or key, the value, and what would be accepted. Nothing here is printed.
 */
#ifndef CLMLA_MODEL_H
#define CLMLA_MODEL_H

#include "clmla.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Room for an explanation. text is always terminated when bytes > 0; both may be zero. */
typedef struct clmla_model_error {
    char text[512];
} clmla_model_error;

/** Parses config.json text of DeepSeek-V2/V3/R1 models. Keys that change MLA's mathematics are
 *  honoured or refused by name (attention_bias true, a rope type other than yarn or default, mscale
 *  != mscale_all_dim, rope_interleave false, an unknown quantisation); others are ignored.
 *  rope_scaling and rope_parameters are both read; both present and different is an error.
 *  model_type is ignored: any model with these keys is read, its rope pairs taken as interleaved.
 *  json need not be terminated. *out has its struct_size set and is valid.
 *  Errors: BAD_FILE (not JSON, a key of the wrong type), INVALID_CONFIG (missing or impossible
 *  value), UNSUPPORTED_CONFIG (a refused key). */
CLMLA_API clmla_status clmla_model_config_parse(const char *json, size_t bytes, clmla_config *out,
                                                clmla_model_error *error);

/** The same from a file. Errors also: IO. */
CLMLA_API clmla_status clmla_model_config_read(const char *path, clmla_config *out,
                                               clmla_model_error *error);

/** Element types of a safetensors file. All that the format defines are recognised. */
typedef int32_t clmla_safetensors_dtype;
enum {
    CLMLA_ST_BOOL = 1,
    CLMLA_ST_U8,
    CLMLA_ST_I8,
    CLMLA_ST_F8_E5M2,
    CLMLA_ST_F8_E4M3,
    CLMLA_ST_I16,
    CLMLA_ST_U16,
    CLMLA_ST_F16,
    CLMLA_ST_BF16,
    CLMLA_ST_I32,
    CLMLA_ST_U32,
    CLMLA_ST_F32,
    CLMLA_ST_F64,
    CLMLA_ST_I64,
    CLMLA_ST_U64,
    CLMLA_ST_F8_E8M0,
    CLMLA_ST_F8_E4M3FNUZ,
    CLMLA_ST_F8_E5M2FNUZ,
    CLMLA_ST_C64,
    CLMLA_ST_F4, /* the last three lie packed, without bits between the elements */
    CLMLA_ST_F6_E2M3,
    CLMLA_ST_F6_E3M2
};

/** "BF16" and so on, as the file says it; "unknown" for other values. */
CLMLA_API const char *clmla_safetensors_dtype_name(clmla_safetensors_dtype dtype);
/** Bytes per element; 0 for other values, and for elements of less than a byte. */
CLMLA_API size_t clmla_safetensors_dtype_bytes(clmla_safetensors_dtype dtype);

/** One tensor: a view of the file's memory, valid until the file is closed. */
typedef struct clmla_safetensors_tensor {
    const char *name;
    clmla_safetensors_dtype dtype;
    int32_t rank; /* 0 .. 8 */
    uint64_t shape[8];
    uint64_t num_elements;
    uint64_t bytes;
    const void *data; /* aligned to one byte only */
} clmla_safetensors_tensor;

/** Writes "BF16 [4, 4]" for messages: up to capacity bytes, always terminated when capacity > 0. */
CLMLA_API void clmla_safetensors_describe(const clmla_safetensors_tensor *tensor, char *text,
                                          size_t capacity);

typedef struct clmla_safetensors clmla_safetensors;

/** Maps a file read-only and checks its whole header: length, JSON, duplicates, dtypes, shapes,
 *  offsets (inside the file, no overlap, no gap, size = product of shape · element size). At most
 *  100 MB of header, a million tensors, eight dimensions.
 *  Errors: IO, BAD_FILE, CL_OUT_OF_HOST_MEMORY. */
CLMLA_API clmla_status clmla_safetensors_open(const char *path, clmla_safetensors **out,
                                              clmla_model_error *error);
/** The same over memory of the caller's, which must outlive the object. */
CLMLA_API clmla_status clmla_safetensors_open_memory(const void *data, size_t bytes,
                                                     const char *name, clmla_safetensors **out,
                                                     clmla_model_error *error);

/** Unmaps the file; its tensors and strings are gone with it. NULL is allowed. */
CLMLA_API void clmla_safetensors_close(clmla_safetensors *file);

/** Number of tensors. */
CLMLA_API size_t clmla_safetensors_count(const clmla_safetensors *file);
/** Tensor i in the order of the header. i < count. */
CLMLA_API const clmla_safetensors_tensor *clmla_safetensors_at(const clmla_safetensors *file,
                                                               size_t i);
/** By name; NULL if there is none. */
CLMLA_API const clmla_safetensors_tensor *clmla_safetensors_find(const clmla_safetensors *file,
                                                                 const char *name);
/** Value of a key of __metadata__; NULL if there is none. Valid until the file is closed. */
CLMLA_API const char *clmla_safetensors_metadata(const clmla_safetensors *file, const char *key);

/** Writes a file: tensors in the given order (name, dtype, rank, shape, data are read), metadata as
 *  pairs of key and value (2 · num_metadata strings, may be NULL). An existing file is replaced
 *  only once the new one is complete.
 *  Errors: IO, INVALID_ARGUMENT (duplicate name, unknown dtype), CL_OUT_OF_HOST_MEMORY. */
CLMLA_API clmla_status clmla_safetensors_write(const char *path,
                                               const clmla_safetensors_tensor *tensors,
                                               size_t num_tensors, const char *const *metadata,
                                               size_t num_metadata, clmla_model_error *error);

/* ---------------------------------------------------------------------------------------------
 * Checkpoints
 * ------------------------------------------------------------------------------------------- */

/** One weight as its file stores it, row-major, aligned to one byte only. */
typedef struct clmla_checkpoint_weight {
    const void *data;              /* NULL: not a part of this configuration */
    clmla_safetensors_dtype dtype; /* BF16, F16, F32; matrices also F8_E4M3 */
    uint64_t rows, columns;        /* out_features, in_features; norm weights: rows 1 */
    const void *scale_inv; /* F8_E4M3: float32 [ceil(rows/128), ceil(columns/128)]; else NULL */
} clmla_checkpoint_weight;

/** A layer's weights; shapes as in clmla_weights_params. */
typedef struct clmla_checkpoint_weights {
    clmla_checkpoint_weight q_proj;
    clmla_checkpoint_weight q_a_proj;
    clmla_checkpoint_weight q_a_layernorm;
    clmla_checkpoint_weight q_b_proj;
    clmla_checkpoint_weight kv_a_proj_with_mqa;
    clmla_checkpoint_weight kv_a_layernorm;
    clmla_checkpoint_weight kv_b_proj;
    clmla_checkpoint_weight o_proj;
} clmla_checkpoint_weights;

typedef struct clmla_checkpoint clmla_checkpoint;

/** Opens a model as Hugging Face stores it. path is a folder with config.json and either
 *  model.safetensors (looked for first) or model.safetensors.index.json and its shards; or one
 *  .safetensors file with config.json in the same folder. Of the index weight_map is read: names of
 *  files in the folder, nothing with a '/' or "..". Shards are not opened yet.
 *  One thread at a time.
 *  Errors: IO, BAD_FILE, INVALID_CONFIG, UNSUPPORTED_CONFIG (both: of config.json),
 *  CL_OUT_OF_HOST_MEMORY. */
CLMLA_API clmla_status clmla_checkpoint_open(const char *path, clmla_checkpoint **out,
                                             clmla_model_error *error);

/** Unmaps its files; weights that came from it are gone with it. NULL is allowed. */
CLMLA_API void clmla_checkpoint_close(clmla_checkpoint *checkpoint);

/** What config.json says. Valid until the checkpoint is closed. NULL for NULL. */
CLMLA_API const clmla_config *clmla_checkpoint_config(const clmla_checkpoint *checkpoint);

/** One more than the largest number of a layer with attention weights; 0: there is none. Layers of
 *  multi-token prediction count. */
CLMLA_API int32_t clmla_checkpoint_num_layers(const clmla_checkpoint *checkpoint);

/** The weights model.layers.{layer}.self_attn.{name}.weight, those that the configuration has, and
 *  the .weight_scale_inv of FP8 ones: views, valid until the checkpoint is closed. Maps the shards
 *  that hold them; pages are read when they are used.
 *  Checked: dtypes; shapes against config.json; scales present, of their shape and finite where the
 *  weight is F8_E4M3, absent elsewhere; no tensor in two of the open shards; no .bias.
 *  Errors: INVALID_ARGUMENT (no such layer); IO (a shard is missing); BAD_FILE (a tensor is missing
 *  or not as config.json asks); UNSUPPORTED_CONFIG (a bias); CL_OUT_OF_HOST_MEMORY. */
CLMLA_API clmla_status clmla_checkpoint_layer(clmla_checkpoint *checkpoint, int32_t layer,
                                              clmla_checkpoint_weights *out,
                                              clmla_model_error *error);

/** out[r, c] = weight[first_row + r, c]; of F8_E4M3 code[r, c] · scale_inv[r / 128, c / 128].
 *  out [num_rows, columns] bf16, f16 or f32 (DEFAULT: bf16), dense, aligned to dtype, written
 *  Any thread.
 *  Errors: INVALID_ARGUMENT (rows outside the weight, no data, another dtype).
 *  The product is float32; it, or the stored value, is rounded to dtype once, to nearest even.
 *  Source: DeepSeek-V3 README_WEIGHTS.md. */
CLMLA_API clmla_status clmla_checkpoint_decode(const clmla_checkpoint_weight *weight,
                                               uint64_t first_row, uint64_t num_rows,
                                               clmla_dtype dtype, void *out);

/** Fills the sources of params for clmla_weights_create; its other fields stay. BF16, F16 and F32
 *  weights are used where they lie, F8_E4M3 ones are decoded to dtype (the layer's weights_dtype;
 *  DEFAULT: bf16) into one block of host memory. With dtype F8_E4M3 they, too, are used where they
 *  lie, and only their scales are copied.
 *  memory: out; to be given to clmla_checkpoint_sources_free once the weights are created; NULL
 *  when nothing is in it.
 *  Any thread.
 *  Errors: INVALID_ARGUMENT (NULL, a dtype that weights cannot have), CL_OUT_OF_HOST_MEMORY. */
CLMLA_API clmla_status clmla_checkpoint_sources(const clmla_checkpoint_weights *weights,
                                                clmla_dtype dtype, clmla_weights_params *params,
                                                void **memory, clmla_model_error *error);

/** NULL is allowed. */
CLMLA_API void clmla_checkpoint_sources_free(void *memory);

#ifdef __cplusplus
}
#endif

#endif /* CLMLA_MODEL_H */
