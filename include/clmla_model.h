/*
 * clmla_model: reading model files for clmla. Optional: libclmla does not need it.
 *
 * SPDX-License-Identifier: Apache-2.0
 *
 *   clmla_model_config_read   config.json (or any JSON text in its words) -> clmla_config
 *   clmla_safetensors_*       safetensors files -> named views of host memory, and back
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
    CLMLA_ST_U64
};

/** "BF16" and so on, as the file says it; "unknown" for other values. */
CLMLA_API const char *clmla_safetensors_dtype_name(clmla_safetensors_dtype dtype);
/** Bytes per element; 0 for other values. */
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

typedef struct clmla_safetensors clmla_safetensors;

/** Maps a file read-only and checks its whole header: length, JSON, duplicates, dtypes, shapes,
 *  offsets (inside the file, no overlap, no gap, size = product of shape · element size).
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

#ifdef __cplusplus
}
#endif

#endif /* CLMLA_MODEL_H */
