/*
 * clmla, the lower level: status, values, context and the single ops, on tensors of your own.
 *
 * SPDX-License-Identifier: Apache-2.0
 *
 * Includes no more than OpenCL. clmla.h includes this file and adds the whole layer; the equation
 * and the conventions that hold everywhere stand there.
 */
#ifndef CLMLA_OPS_H
#define CLMLA_OPS_H

#include <CL/cl.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#if defined(CLMLA_BUILDING) && defined(CLMLA_SHARED)
#define CLMLA_API __declspec(dllexport)
#elif defined(CLMLA_SHARED)
#define CLMLA_API __declspec(dllimport)
#else
#define CLMLA_API
#endif
#elif defined(__GNUC__)
#define CLMLA_API __attribute__((visibility("default")))
#else
#define CLMLA_API
#endif

#define CLMLA_VERSION_MAJOR 0
#define CLMLA_VERSION_MINOR 1
#define CLMLA_VERSION_PATCH 0

/** Version of the library that is linked, as "major.minor.patch"; constant, never NULL. */
CLMLA_API const char *clmla_version(void);

/* ---------------------------------------------------------------------------------------------
 * Status
 * ------------------------------------------------------------------------------------------- */

/** 0 is success; OpenCL's own (negative) codes pass through unchanged; ours start at -3001. */
typedef int32_t clmla_status;

/* X(name, value, message). Values are never reused. */
#define CLMLA_STATUS_MAP(X)                                                                        \
    X(SUCCESS, 0, "success")                                                                       \
    X(INVALID_ARGUMENT, -3001, "an argument is null, out of range or of an unknown version")       \
    X(INVALID_CONFIG, -3002, "the model configuration is not a valid MLA configuration")           \
    X(INVALID_TENSOR_SHAPE, -3003, "a tensor's shape does not fit the operation")                  \
    X(INVALID_TENSOR_DTYPE, -3004, "a tensor's dtype is not accepted here")                        \
    X(INVALID_STRIDE, -3005, "a stride is smaller than the row it spans, or misaligned")           \
    X(BUFFER_TOO_SMALL, -3006, "a tensor reaches past the end of its buffer")                      \
    X(WORKSPACE_TOO_SMALL, -3007, "the workspace is smaller than the size that was queried")       \
    X(INVALID_STATE, -3008, "the object is not in a state that allows this call")                  \
    X(CAPACITY_EXCEEDED, -3009, "more sequences, tokens or keys than the object was made for")     \
    X(INVALID_BLOCK_TABLE, -3010, "block_table names a page outside the cache")                    \
    X(INVALID_SEQUENCE, -3011, "cu_seqlens_q or cache_seqlens do not describe valid sequences")    \
    X(UNSUPPORTED_DEVICE, -3012, "this device cannot run the operation")                           \
    X(UNSUPPORTED_CONFIG, -3013, "valid, but not supported by this build")                         \
    X(INVALID_TUNING, -3014, "a tuning record is malformed or breaks a constraint")                \
    X(KERNEL_SOURCE_NOT_FOUND, -3015, "a kernel source file is missing")                           \
    X(CLBLAST_FAILED, -3016, "CLBlast returned an error of its own")                               \
    X(IO, -3017, "a file could not be read or written")                                            \
    X(BAD_FILE, -3018, "a file's content is not valid")                                            \
    X(INTERNAL, -3019, "an internal check failed; please report it")

enum {
#define CLMLA_STATUS_ENUM(name, value, message) CLMLA_##name = (value),
    CLMLA_STATUS_MAP(CLMLA_STATUS_ENUM)
#undef CLMLA_STATUS_ENUM
};

/** Name of a status, such as "CLMLA_INVALID_STRIDE" or "CL_OUT_OF_RESOURCES"; constant, never
 *  NULL; "unknown status" for a value that neither clmla nor OpenCL defines. */
CLMLA_API const char *clmla_status_name(clmla_status status);

/** One line of English for a status; constant, never NULL. */
CLMLA_API const char *clmla_status_message(clmla_status status);

/* ---------------------------------------------------------------------------------------------
 * Values: dtypes, classes, tensors, configuration
 * ------------------------------------------------------------------------------------------- */

typedef int32_t clmla_dtype;
enum {
    CLMLA_DTYPE_DEFAULT = 0, /* bf16, unless the field says otherwise */
    CLMLA_DTYPE_BF16 = 1,
    CLMLA_DTYPE_F16 = 2,
    CLMLA_DTYPE_F32 = 3,
    CLMLA_DTYPE_I32 = 4,        /* tables only */
    CLMLA_DTYPE_FP8_DS_MLA = 5, /* caches only: a record a key, which FlashMLA and vLLM read, too:
                                  kv_lora_rank (a multiple of 128) FP8 e4m3 codes, a float32 scale
                                  for each 128 of them, rope_dim bf16; 656 bytes for 512 + 64. An
                                  element is a byte, the last dimension a record */
    CLMLA_DTYPE_F8_E4M3 = 6     /* weights only: FP8 e4m3 codes with scales */
};

/** Which family of projection and attention kernels runs. */
typedef int32_t clmla_kernel_class;
enum {
    CLMLA_KERNELS_AUTO = 0,  /* from the device: cpu for CL_DEVICE_TYPE_CPU, nvidia for compute
                                capability 8.0 and later, else gpu */
    CLMLA_KERNELS_CPU = 1,   /* one work-item per register tile, no local memory, no barriers */
    CLMLA_KERNELS_GPU = 2,   /* portable work-group tiles in local memory */
    CLMLA_KERNELS_NVIDIA = 3 /* tensor cores through inline PTX, where storage, shapes and alignment
                                allow (clmla_layer_describe tells), else as gpu. On other devices
                                the PTX is emulated in plain OpenCL C: right, and very slow */
};

/** Who computes y = x · Wᵀ. */
typedef int32_t clmla_projection_backend;
enum {
    CLMLA_PROJECTION_AUTO = 0,   /* cpu class, and nvidia with matrix units: native; else native up
                                    to 32 rows, CLBlast above */
    CLMLA_PROJECTION_NATIVE = 1, /* own kernels on packed weights */
    CLMLA_PROJECTION_CLBLAST = 2 /* CLBlast SGEMM, 16-bit weights widened slab by slab */
};

/** Whether kernels may use the device's matrix or dot-product instructions on 16-bit storage. They
 *  round what they multiply to bf16 and sum in float32; float32 storage never uses them. */
typedef int32_t clmla_matrix_units;
enum {
    CLMLA_MATRIX_UNITS_AUTO = 0, /* where the device has them and a kernel exists */
    CLMLA_MATRIX_UNITS_OFF = 1   /* float32 multiply-adds only */
};

/** A view of a buffer. The shape comes from the argument that the tensor is passed as; the last
 *  dimension is always contiguous. strides[i] is the distance in elements between neighbours of
 *  dimension i (outermost first); 0 means dense. offset_bytes must be a multiple of the element
 *  size. A slice of columns is a view with the whole matrix's row stride. */
typedef struct clmla_tensor {
    cl_mem buffer;
    uint64_t offset_bytes;
    uint64_t strides[3];
    clmla_dtype dtype;
} clmla_tensor;

/** YaRN, as rope_scaling in config.json. factor == 0 means plain RoPE. */
typedef struct clmla_rope_scaling {
    double factor;
    double beta_fast;      /* 0: 32 */
    double beta_slow;      /* 0: 1 */
    double mscale;         /* 0: 1 */
    double mscale_all_dim; /* 0: mscale; must equal it */
    int32_t original_max_position_embeddings;
} clmla_rope_scaling;

/** One MLA layer, in config.json's words. A tensor-parallel shard states its local number of
 *  heads. Every positive size is accepted; qk_rope_head_dim must be even (0: no rope part). */
typedef struct clmla_config {
    size_t struct_size;
    int32_t hidden_size;
    int32_t num_attention_heads;
    int32_t q_lora_rank; /* 0: null, q_proj instead of q_a_proj, q_a_layernorm, q_b_proj */
    int32_t kv_lora_rank;
    int32_t qk_nope_head_dim;
    int32_t qk_rope_head_dim;
    int32_t v_head_dim;
    int32_t max_position_embeddings; /* 0: not limited */
    double rms_norm_eps;             /* 0: 1e-6 */
    double rope_theta;               /* 0: 10000 */
    double softmax_scale; /* 0: (nope + rope)^-1/2 · m², see clmla_config_softmax_scale */
    clmla_rope_scaling rope_scaling;
} clmla_config;

/** Checks a configuration.
 *  Returns SUCCESS, or INVALID_CONFIG (also for NULL and for an unknown struct_size) and, when why is
 *  not NULL, up to why_bytes of text (always
 *  terminated) that names the field and its value. */
CLMLA_API clmla_status clmla_config_validate(const clmla_config *config, char *why,
                                             size_t why_bytes);

/** (qk_nope_head_dim + qk_rope_head_dim)^-1/2 · m², m = 0.1 · mscale · ln(factor) + 1 with YaRN
 *  (factor > 1), else 1; config->softmax_scale when that is not 0. config must be valid.
 *  Source: DeepSeek-V3 inference/model.py, class MLA. */
CLMLA_API double clmla_config_softmax_scale(const clmla_config *config);

/* ---------------------------------------------------------------------------------------------
 * Context: one per (cl_context, cl_device_id)
 * ------------------------------------------------------------------------------------------- */

typedef struct clmla_context clmla_context;

/** Receives detail on the thread that made the failing call: status, one line of text (a build log
 *  has several), and the user pointer. status 0 is information, such as a kernel choice. The text
 *  is valid during the call only. Must not call into clmla. */
typedef void (*clmla_notify_fn)(clmla_status status, const char *text, void *user);

typedef struct clmla_context_options {
    size_t struct_size;
    clmla_notify_fn notify; /* NULL: none */
    void *notify_user;
    const char *kernel_directory; /* .cl files found here replace the embedded ones, read when a
                                     kernel needs them (CLMLA_IO where one cannot be); NULL: none.
                                     They are code: name only a directory you trust. Copied. */
    const char *cache_directory;  /* where compiled programs are kept for later processes, any
                                     number of them at once; NULL: not kept. Made with mode 0700
                                     where it is missing, parents too; not used where another user
                                     owns it or may write to it: what lies there is run. It never
                                     fails a call nor changes a result: problems go to notify as
                                     information. PoCL compiles a kernel once more before it hands
                                     out its binary: first builds take twice as long. Copied. */
    clmla_kernel_class kernel_class;
    clmla_projection_backend projection;
    clmla_matrix_units matrix_units;
    int32_t allow_clblast_overrides; /* 1: where clmla has parameters for the device, CLBlast's
                                        float32 GEMM runs with them. They then hold for the whole
                                        process and this device, for CLBlast calls of your own
                                        too, until the process ends. 0: CLBlast is left as it is */
    int32_t sm_90a; /* 1: on compute capability 9.0 products of many rows, and attention of 64, 128,
                       ... heads, by whole warpgroups, for which the driver's PTX is rewritten for
                       target sm_90a. The driver does not offer that, so small products and attention
                       of known results have to come out right first, in OpenCL contexts of their
                       own, in the first clmla_weights_create, clmla_matrix_create or
                       clmla_layer_prepare. Where they do not, other kernels run, and notify says
                       why. Where batch_invariant is 1, attention alone uses it. Not measured yet.
                       0: off */
    const char *tuning_file; /* a tuning record, as `clmla tune` writes it: tiles that were measured
                                on this device, in place of built-in ones. Read here, not kept open.
                                One of another device or driver version is not used, and notify
                                says so. It changes speed and, as any other tile does, the last bits
                                of results; never a promise of this library. NULL: none */
    const char *tuning_text; /* the same as text, in place of tuning_file */
} clmla_context_options;

/** Makes a context. Retains both handles; compiles nothing yet. options may be NULL.
 *  Errors: INVALID_ARGUMENT; UNSUPPORTED_DEVICE (no compiler, or not little-endian);
 *  KERNEL_SOURCE_NOT_FOUND (kernel_directory does not exist); IO (tuning_file cannot be read);
 *  INVALID_TUNING (a tuning record is malformed, or has a tile that a kernel rejects: notify gets
 *  file and line); CL_* of device queries. */
CLMLA_API clmla_status clmla_context_create(cl_context context, cl_device_id device,
                                            const clmla_context_options *options,
                                            clmla_context **out);

/** Gives up the caller's hold. The context, its programs and both OpenCL handles are released once
 *  every layer and matrix made from it is gone, too. NULL is allowed. */
CLMLA_API void clmla_context_release(clmla_context *context);

/** The class that CLMLA_KERNELS_AUTO resolves to on this device. */
CLMLA_API clmla_status clmla_device_kernel_class(cl_device_id device, clmla_kernel_class *out);

/** "auto", "cpu", "gpu", "nvidia"; "unknown" for other values. Constant, never NULL. */
CLMLA_API const char *clmla_kernel_class_name(clmla_kernel_class kernel_class);

/** The class this context runs (never AUTO). */
CLMLA_API clmla_kernel_class clmla_context_kernel_class(const clmla_context *context);

typedef struct clmla_context_info {
    size_t struct_size;
    const char *cache_directory; /* NULL: none in use. Lives as long as the context */
    int32_t programs_read;       /* from the cache directory, so far */
    int32_t programs_compiled;   /* from source, so far */
    int32_t tuning_entries;      /* tiles of the tuning record; 0: none in use */
} clmla_context_info;

/** What the context has done so far. info->struct_size must be set by the caller. Any thread. */
CLMLA_API clmla_status clmla_context_get_info(const clmla_context *context,
                                              clmla_context_info *info);

/* ---------------------------------------------------------------------------------------------
 * Ops
 * Tensor shapes in brackets, memory order. Unless said otherwise a tensor's dtype may be bf16, f16
 * or f32 and DEFAULT means bf16. T num_tokens, H num_heads, B num_sequences.
 * Programs are compiled on first use and kept in the context. Any thread.
 * Errors common to all: INVALID_ARGUMENT, INVALID_TENSOR_SHAPE, INVALID_TENSOR_DTYPE,
 * INVALID_STRIDE, BUFFER_TOO_SMALL, KERNEL_SOURCE_NOT_FOUND, IO (kernel_directory),
 * UNSUPPORTED_DEVICE (a device that ends loops, such as Mesa's llvmpipe, would not reach the end),
 * CL_* (build, enqueue).
 * ------------------------------------------------------------------------------------------- */

/** Where a weight comes from: host memory when host is not NULL (tensor.buffer must then be NULL;
 *  tensor's offset, strides and dtype describe the host memory), else tensor.buffer. */
typedef struct clmla_weight_source {
    const void *host;
    clmla_tensor tensor;
    const float *scale_inv; /* F8_E4M3 only, in host memory, as both: float32 scales of blocks of
                               128 x 128, [ceil(rows / 128), ceil(row stride / 128)], of the matrix
                               of that row stride that begins at host. weight = code · scale */
} clmla_weight_source;

/** One weight matrix [num_batches, out_features, in_features] in the layout that the context's
 *  projection kernels read; held once, immutable, layout private. It may be given to every clmla
 *  context of the OpenCL context and device that it was made on, whatever its options. */
typedef struct clmla_matrix clmla_matrix;

typedef struct clmla_matrix_params {
    size_t struct_size;
    clmla_weight_source source; /* [num_batches, out_features, in_features]; bf16, f16, f32. One
                                   batch and strides[1] == 0: strides[0] is the row stride */
    int32_t num_batches;        /* 0: 1 */
    int32_t out_features;
    int32_t in_features;
    int32_t transposed;    /* 1: the source is [num_batches, in_features, out_features] */
    clmla_dtype dtype;     /* storage; rounded to nearest even from the source */
    cl_mem buffer;         /* where to pack it; NULL: the library allocates matrix_size bytes */
    uint64_t offset_bytes; /* in buffer, multiple of 256 */
} clmla_matrix_params;

/** Bytes that the packed matrix occupies. source, buffer and offset are not looked at. */
CLMLA_API clmla_status clmla_matrix_size(clmla_context *context, const clmla_matrix_params *params,
                                         uint64_t *bytes);

/** Packs a matrix. Waits until it is packed: the source may be changed or freed afterwards.
 *  Uses at most 32 MiB of temporary device memory for a host source.
 *  Errors besides the common ones: CL_MEM_OBJECT_ALLOCATION_FAILURE. */
CLMLA_API clmla_status clmla_matrix_create(clmla_context *context,
                                           const clmla_matrix_params *params,
                                           cl_command_queue queue, clmla_matrix **out);

/** Releases the matrix and its memory (the caller's buffer: its hold on it). The commands that read
 *  it must have completed. NULL is allowed. */
CLMLA_API void clmla_matrix_release(clmla_matrix *matrix);

typedef int32_t clmla_output_mode;
enum {
    CLMLA_OVERWRITE = 0, /* y = result */
    CLMLA_ACCUMULATE = 1 /* y = y + result, added in float32, rounded once */
};

typedef struct clmla_projection_params {
    size_t struct_size;
    const clmla_matrix *matrix; /* [num_batches, N, K] */
    int32_t num_rows;           /* M >= 0 */
    clmla_tensor x;             /* [M, num_batches, K] read; [M, K] when num_batches == 1 */
    clmla_tensor y;             /* [M, num_batches, N] written; must not overlap x */
    clmla_output_mode output_mode;
    clmla_tensor workspace; /* CLBlast only: clmla_projection_workspace_size bytes, else unused */
    clmla_projection_backend backend; /* AUTO: the context's */
} clmla_projection_params;

/** y[m, b, :] = x[m, b, :] · W[b]ᵀ for every row m and batch b.
 *  x and y are views: strides[0] between rows, strides[1] between batches (>= K, N).
 *  Native: float32 FMA in an order that depends on class, dtypes, weight shape and device, not on
 *  num_rows: a row has the same bits whatever rows are computed with it. x is widened exactly, y
 *  rounded once to nearest even. Class nvidia on tensor cores (bf16 x and weights, bf16 or float32
 *  y, K a multiple of 8): float32 sums in another order above 64 rows than below, so that a row's
 *  bits may differ between the two; layers have batch_invariant.
 *  CLBlast: SGEMM in float32 on widened data; CLBlast may allocate where it needs a temporary
 *  buffer of its own, and all calls of the process are serialised by one lock.
 *  NaN and infinity propagate as in IEEE arithmetic; num_rows == 0 enqueues a marker.
 *  Errors besides the common ones: WORKSPACE_TOO_SMALL, CLBLAST_FAILED.
 *  Source: torch.nn.functional.linear in DeepSeek-V3 inference/model.py. */
CLMLA_API clmla_status clmla_enqueue_projection(clmla_context *context,
                                                const clmla_projection_params *params,
                                                cl_command_queue queue, cl_uint num_events,
                                                const cl_event *wait_list, cl_event *event);

/** Bytes of workspace for these params (0 for native). The tensors are not looked at. */
CLMLA_API clmla_status clmla_projection_workspace_size(clmla_context *context,
                                                       const clmla_projection_params *params,
                                                       uint64_t *bytes);

/** The kernel and tile of clmla_enqueue_projection with these params, as the line of a tuning record
 *  that would choose them (tuning_file of clmla_context_options), for programs that search better
 *  ones: "projection_cpu weights=bf16 batches=1 out_features=... : tile_rows=4 ...". Up to capacity
 *  bytes of text, always terminated where capacity is not 0; *length, unless NULL, becomes the
 *  whole text's. matrix, num_rows, backend and the dtypes are looked at, buffers are not.
 *  Errors besides the common ones: UNSUPPORTED_CONFIG where no record can choose (class nvidia on
 *  tensor cores), or CLBlast runs with parameters of its own. */
CLMLA_API clmla_status clmla_projection_describe(clmla_context *context,
                                                 const clmla_projection_params *params, char *text,
                                                 size_t capacity, size_t *length);

typedef struct clmla_rmsnorm_params {
    size_t struct_size;
    int32_t num_tokens;
    int32_t dim;
    double eps;          /* 0: 1e-6 */
    clmla_tensor x;      /* [T, dim] read */
    clmla_tensor weight; /* [dim] read */
    clmla_tensor y;      /* [T, dim] written; may be x exactly */
} clmla_rmsnorm_params;

/** y[t, i] = x[t, i] / sqrt(mean_i(x[t, i]²) + eps) · weight[i].
 *  The sum is float32 whatever the dtype; one rounding to y's dtype. A NaN in a row makes that row
 *  NaN. Source: DeepSeek-V3 inference/model.py, RMSNorm. */
CLMLA_API clmla_status clmla_enqueue_rmsnorm(clmla_context *context,
                                             const clmla_rmsnorm_params *params,
                                             cl_command_queue queue, cl_uint num_events,
                                             const cl_event *wait_list, cl_event *event);

/** The sequences of a step, as tables on the device (int32, dense).
 *  Token t belongs to the sequence b with cu_seqlens_q[b] <= t < cu_seqlens_q[b + 1]; it is new
 *  token i = t - cu_seqlens_q[b] of n = cu_seqlens_q[b + 1] - cu_seqlens_q[b], and stands at
 * position cache_seqlens[b] - n + i: cache_seqlens counts the keys visible to the last new token,
 * the new ones included, as in FlashMLA and vLLM. Key j of sequence b lies in page block_table[b, j
 * / page_block_size], row j % page_block_size. Ops do not validate device tables: wrong ones are
 * undefined behaviour here (clmla_plan does validate). */
typedef struct clmla_sequences {
    int32_t num_sequences;      /* B */
    int32_t num_tokens;         /* T: rows of the token tensors, >= cu_seqlens_q[B] */
    int32_t max_cache_seqlen;   /* upper bound of cache_seqlens; fixes the number of splits */
    int32_t num_pages;          /* pages in the caches */
    int32_t page_block_size;    /* rows per page, >= 1 */
    int32_t block_table_stride; /* entries between sequences of block_table */
    clmla_tensor cu_seqlens_q;  /* [B + 1] */
    clmla_tensor cache_seqlens; /* [B] */
    clmla_tensor block_table;   /* [B, block_table_stride]; no buffer: contiguous, page b is
                                   sequence b's */
} clmla_sequences;

typedef struct clmla_rope_table_params {
    size_t struct_size;
    const clmla_config *config; /* rope_theta, rope_scaling, qk_rope_head_dim */
    clmla_sequences sequences;  /* num_tokens, cu_seqlens_q, cache_seqlens, num_sequences */
    clmla_tensor positions;     /* [T] i32, written; no buffer: not wanted. -1 for t >= cu[B] */
    clmla_tensor cos_sin;       /* [T, rope/2, 2] f32, written: cos, sin */
} clmla_rope_table_params;

/** cos_sin[t, j] = (cos, sin)(position(t) · freq[j]), once per step, for all layers and heads.
 *  freq[j] = theta^(-2j/rope), with YaRN interpolated. The angle is kept in fixed-point turns,
 *  position · round(freq / 2π · 2^64) modulo 2^64, so that it is exact to 2^-24 turns or better at
 *  every position an int32 can name. Rows of tokens past cu_seqlens_q[B] are written as (1, 0).
 *  Source: DeepSeek-V3 inference/model.py, precompute_freqs_cis. */
CLMLA_API clmla_status clmla_enqueue_rope_table(clmla_context *context,
                                                const clmla_rope_table_params *params,
                                                cl_command_queue queue, cl_uint num_events,
                                                const cl_event *wait_list, cl_event *event);

typedef struct clmla_rope_params {
    size_t struct_size;
    int32_t num_tokens;
    int32_t num_heads;
    int32_t rope_dim;     /* even */
    clmla_tensor x;       /* [T, H, rope_dim] read and written in place */
    clmla_tensor cos_sin; /* [T, rope_dim/2, 2] f32 read */
} clmla_rope_params;

/** (x[2j], x[2j+1]) -> (x[2j]·cos - x[2j+1]·sin, x[2j]·sin + x[2j+1]·cos), in place.
 *  Interleaved pairs, left where they are, as the official inference code stores pe_cache. (Hugging
 *  Face's code de-interleaves first: its cache is a permutation of ours, its scores are equal.)
 *  float32 arithmetic, one rounding. Source: DeepSeek-V3 inference/model.py, apply_rotary_emb. */
CLMLA_API clmla_status clmla_enqueue_rope(clmla_context *context, const clmla_rope_params *params,
                                          cl_command_queue queue, cl_uint num_events,
                                          const cl_event *wait_list, cl_event *event);

typedef struct clmla_cache_append_params {
    size_t struct_size;
    int32_t kv_lora_rank;
    int32_t rope_dim; /* even, may be 0 */
    double eps;       /* 0: 1e-6 */
    clmla_sequences sequences;
    clmla_tensor kv_a;           /* [T, kv_lora_rank + rope_dim] f32 read: c_kv | k_pe */
    clmla_tensor kv_a_layernorm; /* [kv_lora_rank] read */
    clmla_tensor cos_sin;        /* [T, rope_dim/2, 2] f32 read */
    clmla_tensor kv_cache;       /* [num_pages, page_block_size, kv_lora_rank] written */
    clmla_tensor pe_cache;       /* [num_pages, page_block_size, rope_dim] written; a fused cache
                                    is the same buffer at kv_lora_rank elements, row stride 576 */
} clmla_cache_append_params;

/** kv_cache[b, p] = RMSNorm(c_kv; kv_a_layernorm), pe_cache[b, p] = RoPE(k_pe, p), for every new
 *  token at its position p. Only those rows are written. float32 arithmetic, one rounding to the
 *  cache's dtype. Tokens past cu_seqlens_q[B], of a position outside the pages, or of a page
 *  outside 0 .. num_pages - 1 are skipped.
 *  Source: DeepSeek-V3 inference/model.py, MLA.forward, kv_norm and apply_rotary_emb. */
CLMLA_API clmla_status clmla_enqueue_cache_append(clmla_context *context,
                                                  const clmla_cache_append_params *params,
                                                  cl_command_queue queue, cl_uint num_events,
                                                  const cl_event *wait_list, cl_event *event);

typedef int32_t clmla_mask;
enum {
    CLMLA_MASK_CAUSAL = 0, /* bottom-right: a token sees keys 0 .. its own position */
    CLMLA_MASK_NONE = 1    /* a token sees all cache_seqlens[b] keys */
};

typedef struct clmla_attention_params {
    size_t struct_size;
    int32_t num_heads;    /* H, any */
    int32_t kv_lora_rank; /* also head_dim_v */
    int32_t rope_dim;     /* may be 0 */
    clmla_mask mask;
    double softmax_scale; /* required, > 0 */
    int32_t num_splits;   /* parts of the keys computed side by side; 0: chosen; 1: none */
    int32_t split_tokens; /* keys per part; 0: from num_splits. Fixed: batch-invariant */
    clmla_sequences sequences;
    clmla_tensor q_lat;       /* [T, H, kv_lora_rank] read */
    clmla_tensor q_pe;        /* [T, H, rope_dim] read, rotated */
    clmla_tensor kv_cache;    /* [num_pages, page_block_size, kv_lora_rank] read */
    clmla_tensor pe_cache;    /* [num_pages, page_block_size, rope_dim] read */
    clmla_tensor out;         /* [T, H, kv_lora_rank] written; may be q_lat exactly */
    clmla_tensor softmax_lse; /* [T, H] f32, natural log, written; no buffer: not wanted */
    clmla_tensor workspace;   /* clmla_attention_workspace_size bytes when more than one split */
} clmla_attention_params;

/** out[t, h] = Σ_j softmax_j(softmax_scale · (q_lat[t,h]·c_kv[j] + q_pe[t,h]·k_pe[j])) · c_kv[j],
 *  softmax_lse[t, h] = ln Σ_j exp(same logits), over the keys j of t's sequence that mask admits.
 *  One pass over the keys with an online softmax; scores are never stored. Sequences may have any
 *  number of new tokens, none included, and any number of keys. A token with nothing to attend gets
 *  out = 0, softmax_lse = -INFINITY. Cache rows at or past cache_seqlens and block_table entries
 *  beyond the last used page are never used, whatever they hold (NaN, absurd indices).
 *  With more than one split, parts are computed separately and merged by their log-sum-exp.
 *  Errors besides the common ones: WORKSPACE_TOO_SMALL; UNSUPPORTED_DEVICE (tile does not fit).
 *  Source: DeepSeek-V3 inference/model.py, MLA.forward, attn_impl "absorb". */
CLMLA_API clmla_status clmla_enqueue_attention(clmla_context *context,
                                               const clmla_attention_params *params,
                                               cl_command_queue queue, cl_uint num_events,
                                               const cl_event *wait_list, cl_event *event);

/** Bytes of workspace for these params (0 with one split). The tensors are not looked at. */
CLMLA_API clmla_status clmla_attention_workspace_size(clmla_context *context,
                                                      const clmla_attention_params *params,
                                                      uint64_t *bytes);

/** The same as clmla_projection_describe for clmla_enqueue_attention: "attention_cpu cache=bf16
 *  heads=16 ... : row_vectors=2 ...". Heads, dims and dtypes are looked at, buffers are not.
 *  Errors: UNSUPPORTED_CONFIG (class nvidia on tensor cores), UNSUPPORTED_DEVICE (no tile fits). */
CLMLA_API clmla_status clmla_attention_describe(clmla_context *context,
                                                const clmla_attention_params *params, char *text,
                                                size_t capacity, size_t *length);

typedef struct clmla_merge_states_params {
    size_t struct_size;
    int32_t num_states; /* S >= 1 */
    int32_t num_tokens;
    int32_t num_heads;
    int32_t dim;
    clmla_tensor partial_out; /* [S, T, H, dim] f32 read */
    clmla_tensor partial_lse; /* [S, T, H] f32 read, natural log */
    clmla_tensor out;         /* [T, H, dim] written */
    clmla_tensor softmax_lse; /* [T, H] f32 written; no buffer: not wanted */
} clmla_merge_states_params;

/** lse = ln Σ_s exp(partial_lse[s]), out = Σ_s exp(partial_lse[s] - lse) · partial_out[s].
 *  A state of lse -INFINITY is the identity: its partial_out is not used, whatever it holds; with
 *  only such states out = 0, softmax_lse = -INFINITY. +INFINITY is not an empty state. */
CLMLA_API clmla_status clmla_enqueue_merge_states(clmla_context *context,
                                                  const clmla_merge_states_params *params,
                                                  cl_command_queue queue, cl_uint num_events,
                                                  const cl_event *wait_list, cl_event *event);

#ifdef __cplusplus
}
#endif

#endif /* CLMLA_OPS_H */
