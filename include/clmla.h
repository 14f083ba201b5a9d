/*
 * clmla: DeepSeek-R1/V3/V2 Multi-head Latent Attention (MLA), absorbed form, in OpenCL.
 *
 * SPDX-License-Identifier: Apache-2.0
 *
 * For a token with hidden state x at position p of sequence b (row vectors, weights
 * [out_features, in_features]; names as in a Hugging Face checkpoint and its config.json):
 *
 *     q            = x · q_projᵀ                                        q_lora_rank == 0
 *     q            = RMSNorm(x · q_a_projᵀ; q_a_layernorm) · q_b_projᵀ  otherwise
 *     q            -> per head [q_nope | q_pe]
 *     [c_kv | k_pe] = x · kv_a_proj_with_mqaᵀ
 *     c_kv         = RMSNorm(c_kv; kv_a_layernorm)
 *     q_pe, k_pe   = RoPE(·, p)              interleaved pairs (2i, 2i+1), rotated in place
 *     append       kv_cache[b, p] = c_kv,  pe_cache[b, p] = k_pe
 *     q_lat[h]     = q_nope[h] · W_UK[h]                                absorb
 *     s[h, j]      = softmax_scale · (q_lat[h]·c_kv[j] + q_pe[h]·k_pe[j]),   j <= p
 *     ctx[h]       = softmax_j(s[h, ·]) · c_kv
 *     o[h]         = W_UV[h] · ctx[h]
 *     y            = concat_h(o) · o_projᵀ
 *
 * Three levels, each built on the one below; use the highest that fits:
 *   layer     clmla_context -> clmla_layer -> clmla_weights, clmla_plan, clmla_binding ->
 *             clmla_enqueue_layer: one call computes the whole layer for one step.
 *   ops       clmla_enqueue_projection, _rmsnorm, _rope_table, _rope, _cache_append, _attention,
 *             _merge_states: the lines of the equation, on tensors of your own. In clmla_ops.h,
 *             with status, tensors, configuration and context; included here.
 *   queries   device class, sizes, which kernel was chosen and why.
 *
 * Conventions that hold everywhere and are not repeated below:
 *   - The host owns queues, buffers and events. Objects retain what they keep beyond a call.
 *   - clmla_enqueue_* returns at once and behaves like clEnqueue*: it waits for wait_list, and
 *     *event (when event is not NULL) completes with the work; the caller releases it. In-order
 *     and out-of-order queues both work. No work is success: a marker is enqueued.
 *   - Everything that can be checked is checked before the first enqueue; on such an error nothing
 *     was touched and *event is not written. If a later enqueue fails, its status is returned and
 *     no event; outputs, workspace and cache rows at or past the old length are then undefined,
 *     rows below it intact.
 *   - The library never prints, exits, or reads the environment. Detail about an error (argument,
 *     value, limit, build log) goes to the context's notify callback.
 *   - Every params struct begins with struct_size = sizeof of that struct; fields left zero mean
 *     their default. A struct_size this library does not know is INVALID_ARGUMENT.
 *   - release functions accept NULL. Output pointers are written on success only.
 *   - A clmla_context and a clmla_layer may be used by several threads at once; a plan, a binding
 *     and a weights object by one thread at a time.
 *   - Sums accumulate in float32; logits, softmax and log-sum-exp are float32 always. Results are
 *     the same bits on every rerun (no floating-point atomics).
 */
#ifndef CLMLA_H
#define CLMLA_H

#include "clmla_ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---------------------------------------------------------------------------------------------
 * Layer: the immutable executor of one configuration; one serves all of a model's layers
 * ------------------------------------------------------------------------------------------- */

typedef struct clmla_layer clmla_layer;

typedef int32_t clmla_attention_form;
enum { CLMLA_FORM_ABSORBED = 0 };

typedef struct clmla_layer_params {
    size_t struct_size;
    const clmla_config *config; /* copied */
    int32_t max_num_sequences;  /* >= 1 */
    int32_t max_num_tokens;     /* new tokens of a step, all sequences together, >= 1 */
    int32_t max_seqlen_q;       /* new tokens of one sequence; 0: max_num_tokens */
    int32_t max_cache_seqlen;   /* keys of one sequence, new ones included, >= 1 */
    int32_t page_block_size;    /* 0: contiguous, one page of max_cache_seqlen rows per sequence */
    int32_t num_pages;          /* pages in the caches; 0: max_num_sequences when contiguous */
    clmla_dtype weights_dtype;
    clmla_dtype cache_dtype;
    clmla_dtype hidden_dtype;       /* hidden_states, and what stages hand on */
    clmla_dtype output_dtype;       /* DEFAULT: hidden_dtype */
    uint64_t workspace_limit_bytes; /* 0: none. Tokens are cut into blocks to stay within it */
    int32_t batch_invariant; /* 1: K order and KV splits depend on weight shapes and device only: a
                                token has the same bits in any company; native projections */
    int32_t num_splits;      /* KV splits; 0: chosen per step */
    clmla_attention_form attention_form;
    int32_t one_launch; /* 1: up to 16 tokens take one launch where possible, see
                           clmla_layer_prepare; 0: a launch for every stage */
} clmla_layer_params;

/** Makes a layer: checks configuration and limits, chooses kernels, lays out the workspace.
 *  Compiles nothing (see clmla_layer_prepare). Retains the context.
 *  Errors: INVALID_ARGUMENT, INVALID_CONFIG, INVALID_TENSOR_DTYPE, UNSUPPORTED_CONFIG,
 *  WORKSPACE_TOO_SMALL (workspace_limit_bytes does not hold one token). */
CLMLA_API clmla_status clmla_layer_create(clmla_context *context, const clmla_layer_params *params,
                                          clmla_layer **out);

/** Gives up the caller's hold; weights, plans and bindings made from the layer keep it alive. NULL is
 *  allowed. */
CLMLA_API void clmla_layer_release(clmla_layer *layer);

/** Builds every kernel that the layer can reach and launches each once without work, on temporary
 *  buffers of the sizes of the weights and the workspace (freed again), and, with CLBlast chosen,
 *  makes one call of each of its paths. Waits. After it no enqueue of this layer compiles. Calling
 *  it is optional: without it the first steps compile.
 *  On class nvidia it also finds out, once per context, whether a work-group gets more local memory
 *  than the device reports; bindings created afterwards use that for steps of many rows a sequence,
 *  with the same bits. That a driver refuses it is no error; notify gets a line.
 *  With one_launch it finds out whether the layer's work-groups can wait for each other: bindings
 *  made after it then compute steps of up to 16 tokens (16 of a block) in one launch, on class
 *  nvidia with every product on tensor cores and bf16 rows at multiples of 16 bytes. Else, and
 *  without this call, one_launch changes nothing, and clmla_layer_describe tells why. Such a launch
 *  needs the device for itself: where other work keeps a work-group off it for seconds, the launch
 *  ends without its result, clmla_plan_get_error says UNSUPPORTED_DEVICE, and so do the binding's
 *  later steps; make another layer. Numerics: the bits of the launches of steps that split the keys
 *  and merge them in W_UV's launch; in others W_UV's products are added in the order of that one.
 *  Errors: CL_* of builds and launches (the build log goes to notify), CLBLAST_FAILED. */
CLMLA_API clmla_status clmla_layer_prepare(clmla_layer *layer, cl_command_queue queue);

typedef struct clmla_layer_info {
    size_t struct_size;
    uint64_t workspace_bytes; /* that a binding needs */
    uint64_t weights_bytes;   /* of one layer's packed weights */
    int32_t tokens_per_block; /* tokens computed at a time; max_num_tokens when not limited */
    clmla_kernel_class kernel_class;
    const char *projection; /* "native", "clblast" or "mixed"; constant */
} clmla_layer_info;

/** Sizes and choices. info->struct_size must be set by the caller. */
CLMLA_API clmla_status clmla_layer_get_info(const clmla_layer *layer, clmla_layer_info *info);

/** Text, one line per op: which kernel runs, with which parameters, and why another does not.
 *  Writes up to capacity bytes, always terminated when capacity > 0; *length (may be NULL) is the
 *  whole text's length without the terminator. */
CLMLA_API clmla_status clmla_layer_describe(const clmla_layer *layer, char *text, size_t capacity,
                                            size_t *length);

/* ---------------------------------------------------------------------------------------------
 * Weights: one model layer's, packed
 * ------------------------------------------------------------------------------------------- */

typedef struct clmla_weights clmla_weights;

/** Shapes [out_features, in_features]; H is the layer's (local) head count. Any of bf16, f16, f32,
 *  rounded once to the layer's weights_dtype (the norm weights are kept in float32). */
typedef struct clmla_weights_params {
    size_t struct_size;
    clmla_weight_source q_proj;        /* [H·(nope + rope), hidden], only if q_lora_rank == 0 */
    clmla_weight_source q_a_proj;      /* [q_lora, hidden],          only if q_lora_rank > 0 */
    clmla_weight_source q_a_layernorm; /* [q_lora],                  likewise */
    clmla_weight_source q_b_proj;      /* [H·(nope + rope), q_lora], likewise */
    clmla_weight_source kv_a_proj_with_mqa; /* [kv_lora + rope, hidden] */
    clmla_weight_source kv_a_layernorm;     /* [kv_lora] */
    clmla_weight_source kv_b_proj; /* [H·(nope + v), kv_lora], per head nope rows of W_UK, then v
                                      rows of W_UV */
    clmla_weight_source o_proj;    /* [hidden, H·v]; a shard's is a view of columns */
    cl_mem buffer;                 /* weights_bytes of memory for the packed form, retained; NULL:
                                      the library allocates it */
    uint64_t offset_bytes;         /* in buffer, multiple of 256 */
} clmla_weights_params;

/** Packs one layer's weights. Waits until they are packed: sources may be freed afterwards.
 *  They serve every clmla_layer of the same context whose weight shapes and weights_dtype are the
 *  same, whatever its limits. Retains the layer. Uses at most 32 MiB of temporary device memory.
 *  Errors: INVALID_ARGUMENT (a source missing, or one given that the configuration has no use
 *  for), INVALID_TENSOR_DTYPE, INVALID_STRIDE, BUFFER_TOO_SMALL, CL_*. */
CLMLA_API clmla_status clmla_weights_create(clmla_layer *layer, const clmla_weights_params *params,
                                            cl_command_queue queue, clmla_weights **out);

/** Gives up the caller's hold; bindings keep their weights alive. NULL is allowed. */
CLMLA_API void clmla_weights_release(clmla_weights *weights);

/* ---------------------------------------------------------------------------------------------
 * Plan: one step's tables, shared by all layers of the step
 * ------------------------------------------------------------------------------------------- */

typedef struct clmla_plan clmla_plan;

/** Makes an empty plan (no sequences) for a layer's limits. Allocates its device tables: about
 *  4 · (max_num_sequences · pages per sequence + max_num_tokens · (rope + 1)) bytes.
 *  Retains the layer. */
CLMLA_API clmla_status clmla_plan_create(clmla_layer *layer, clmla_plan **out);

/** Releases the plan and its tables. Waits for uploads of host arrays that are still under way;
 *  forwards that use the plan must have completed. NULL is allowed. */
CLMLA_API void clmla_plan_release(clmla_plan *plan);

/** A step's sequences, from host arrays or from device tables; see clmla_sequences for what they
 *  mean. Host: the three pointers (block_table NULL for a contiguous cache), copied before the call
 *  returns. Device: the pointers NULL and tables set; the bounds are then required, since they fix
 *  the launch geometry. */
typedef struct clmla_step {
    size_t struct_size;
    int32_t num_sequences;           /* 0 .. max_num_sequences */
    const int32_t *cu_seqlens_q;     /* host [num_sequences + 1], from 0, not decreasing */
    const int32_t *cache_seqlens;    /* host [num_sequences], each >= its new tokens */
    const int32_t *block_table;      /* host [num_sequences, block_table_stride] */
    int32_t block_table_stride;      /* 0: pages needed for max_cache_seqlen */
    clmla_tensor cu_seqlens_q_table; /* device, i32, dense */
    clmla_tensor cache_seqlens_table;
    clmla_tensor block_table_table;
    int32_t num_tokens;       /* device tables: upper bound of cu_seqlens_q[num_sequences] */
    int32_t max_cache_seqlen; /* device tables: upper bound; 0: the layer's */
} clmla_step;

/** Fills the plan: validates, uploads, derives positions and cos/sin.
 *  Host arrays are validated here. Device tables are validated by the kernel that copies them: a
 * bad sequence becomes empty (no keys, appends nothing, its tokens attend nothing) and a sticky
 * error word is set that clmla_plan_get_error reads. Host arrays pass through staging memory of the
 * plan that is recycled once its upload is complete and grown otherwise: the call never waits.
 *  Errors: INVALID_ARGUMENT, CAPACITY_EXCEEDED (sequences, tokens, keys), INVALID_SEQUENCE,
 *  INVALID_BLOCK_TABLE, CL_*; the plan then keeps its former step. Where a CL_* came while tables
 *  were changed, the next call that needs them uploads the former step again; one from device tables
 *  is lost: INVALID_STATE until the plan is filled. */
CLMLA_API clmla_status clmla_enqueue_plan(clmla_plan *plan, const clmla_step *step,
                                          cl_command_queue queue, cl_uint num_events,
                                          const cl_event *wait_list, cl_event *event);

/** cache_seqlens[b] += num_tokens[b], on the host's copy and on the device alike, and derives
 *  positions and cos/sin anew; the number of new tokens of each sequence stays. num_tokens is a
 *  host array [num_sequences], copied; NULL adds each sequence's own new tokens (the next decode
 *  step). Negative values take back rejected speculative tokens.
 *  With host arrays a result that leaves [new tokens, keys the pages hold] is CAPACITY_EXCEEDED,
 *  a page outside the cache INVALID_BLOCK_TABLE, and nothing changes; with device tables the kernel
 *  checks, as in clmla_enqueue_plan. Never waits.
 *  Errors: INVALID_STATE (never filled), the above, CL_*; the lengths are then the former ones, as
 *  after clmla_enqueue_plan. */
CLMLA_API clmla_status clmla_enqueue_advance(clmla_plan *plan, const int32_t *num_tokens,
                                             cl_command_queue queue, cl_uint num_events,
                                             const cl_event *wait_list, cl_event *event);

/** Reads the plan's sticky error word and clears it: SUCCESS; INVALID_SEQUENCE, INVALID_BLOCK_TABLE or
 *  CAPACITY_EXCEEDED in a plan filled from device tables; UNSUPPORTED_DEVICE after a step in one
 *  launch that failed (clmla_layer_prepare), in *error. Waits for the queue. */
CLMLA_API clmla_status clmla_plan_get_error(clmla_plan *plan, cl_command_queue queue,
                                            clmla_status *error);

/** The plan's device tables, valid until it is released: sequences for ops of your own, positions
 *  [T] i32 and cos_sin [T, rope/2, 2] f32. Each output may be NULL. */
CLMLA_API clmla_status clmla_plan_get_tables(const clmla_plan *plan, clmla_sequences *sequences,
                                             clmla_tensor *positions, clmla_tensor *cos_sin);

/* ---------------------------------------------------------------------------------------------
 * Binding: layer + weights + buffers, ready to enqueue
 * ------------------------------------------------------------------------------------------- */

typedef struct clmla_binding clmla_binding;

/** Dtypes must be the layer's (DEFAULT: the layer's). T is the layer's max_num_tokens. */
typedef struct clmla_binding_params {
    size_t struct_size;
    clmla_weights *weights;
    clmla_tensor kv_cache; /* [num_pages, page_block_size, kv_lora_rank] read and appended to */
    clmla_tensor pe_cache; /* [num_pages, page_block_size, rope]; see clmla_cache_append_params */
    clmla_tensor hidden_states;    /* [T, hidden_size] read */
    clmla_tensor output;           /* [T, hidden_size] written; may be hidden_states exactly */
    clmla_output_mode output_mode; /* ACCUMULATE: output += y, e.g. a tensor-parallel partial sum */
    clmla_tensor workspace; /* workspace_bytes; offset multiple of 256. Bindings that never run
                               at the same time may share one */
} clmla_binding_params;

/** Binds buffers: makes this binding's own kernel objects and sets their arguments once. Retains
 *  the layer, the weights and the buffers. Costs host memory proportional to its arguments only,
 *  and, where steps take one launch, 16 bytes of device memory for the work-groups' barrier.
 *  Errors: INVALID_ARGUMENT, INVALID_TENSOR_DTYPE, INVALID_STRIDE, BUFFER_TOO_SMALL,
 *  WORKSPACE_TOO_SMALL, CL_* (kernels that prepare has not built are built here). */
CLMLA_API clmla_status clmla_binding_create(clmla_layer *layer, const clmla_binding_params *params,
                                            clmla_binding **out);

/** Releases the binding, its kernel objects and its holds. Its forwards must have completed. NULL is
 *  allowed. */
CLMLA_API void clmla_binding_release(clmla_binding *binding);

/** The whole layer for one step: appends the plan's new tokens to the caches and writes
 *  output[t] for t < the plan's number of tokens (other rows are not touched).
 *  The plan must have been enqueued before on this queue, or its event be in wait_list. No host
 *  wait, no device allocation, no compilation after clmla_layer_prepare (CLBlast mode is exempt
 *  where CLBlast itself allocates). Feeding output back as hidden_states needs no copy: bind the
 *  same tensor to both.
 *  Numerics: storage as the layer's dtypes say; float32 accumulation; the bounds of
 *  tests/golden/README.md hold.
 *  Errors: INVALID_ARGUMENT, INVALID_STATE (plan of another layer, or never filled), CL_*,
 *  CLBLAST_FAILED. */
CLMLA_API clmla_status clmla_enqueue_layer(clmla_binding *binding, clmla_plan *plan,
                                           cl_command_queue queue, cl_uint num_events,
                                           const cl_event *wait_list, cl_event *event);

typedef struct clmla_binding_stats {
    size_t struct_size;
    int32_t kernel_launches; /* own kernels enqueued by the last clmla_enqueue_layer */
    int32_t clblast_calls;   /* CLBlast calls made by it */
} clmla_binding_stats;

/** Counts of the last successful clmla_enqueue_layer. stats->struct_size must be set. */
CLMLA_API clmla_status clmla_binding_get_stats(const clmla_binding *binding,
                                               clmla_binding_stats *stats);

/** Called during clmla_enqueue_layer, once per stage in order, with the stage's name (as in the
 *  equation: "q_a_proj", "attention", ...) and an event for the end of that stage; the callee
 *  retains the event if it keeps it. For measuring: a binding with a stage function enqueues one
 *  marker more per stage. */
typedef void (*clmla_stage_fn)(const char *stage, cl_event end, void *user);

/** Sets (or, with NULL, removes) the stage function of a binding. */
CLMLA_API clmla_status clmla_binding_set_stage_fn(clmla_binding *binding, clmla_stage_fn fn,
                                                  void *user);

#ifdef __cplusplus
}
#endif

#endif /* CLMLA_H */
