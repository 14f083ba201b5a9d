/*
 * Absorbed attention. See clmla_enqueue_attention in clmla_ops.h and op.h for the shape.
 *
 * Rows: the new tokens × heads of one sequence, flattened (row = token · H + head), are cut into
 * groups of tile rows; a group belongs to one sequence. Group g of the grid is found without a
 * table: base(b) = floor(cu[b]·H / R) + b never decreases, and leaves room for ceil(n_b·H / R)
 * groups, so the grid has floor(T·H / R) + B + 1 groups and a binary search gives b; the last is
 * for tokens past cu[B], which are written as tokens with nothing to attend. cu is clipped to the
 * token block. The second grid dimension is the split: keys [s · split_tokens, (s + 1) ·
 * split_tokens).
 */
#ifndef CLMLA_OPS_ATTENTION_H
#define CLMLA_OPS_ATTENTION_H

#include "ops/merge.h"
#include "ops/op.h"
#include "ops/sequences.h"
#include "tuning/params.h"

/* What changes from step to step. */
typedef struct mla__attention_step {
    int32_t num_sequences;
    int32_t token_begin, num_tokens; /* the token block */
    int32_t num_splits;              /* grid; split_tokens · num_splits >= longest cache */
    int32_t split_tokens;
} mla__attention_step;

enum mla__attention_kind {
    MLA__ATTENTION_CPU,  /* cl/cpu/attention.cl */
    MLA__ATTENTION_DOT,  /* cl/cpu/attention_dot.cl: bf16 dot products */
    MLA__ATTENTION_GPU,  /* cl/gpu/attention.cl */
    MLA__ATTENTION_MMA,  /* cl/nvidia/attention.cl: tensor cores */
    MLA__ATTENTION_WGMMA /* cl/nvidia/attention_wgmma.cl: the same, target sm_90a */
};

/* What the choice of a kernel depends on. */
typedef struct mla__attention_shape {
    clmla_dtype q_lat, q_pe, cache, out;
    int32_t num_heads, kv_lora_rank, rope_dim;
    bool portable; /* no matrix units: the driver did not build their kernel */
} mla__attention_shape;

typedef struct mla__attention_choice {
    enum mla__attention_kind kind;
    mla__attention_tile tile;
    mla__attention_tile many_tile; /* where sequences have many_rows rows; none: tile_rows 0 */
    int32_t many_rows;
    mla__attention_tile large_tile; /* where they have its number of rows, once it is known to run;
                                       none: tile_rows 0 */
    uint64_t large_local_bytes;     /* what it takes or would take; 0: there is none */
    const char *why_not_large;      /* class nvidia on tensor cores: the reason; else NULL */
    const char *why_portable;       /* class nvidia on GPU kernels: the reason; else NULL */
    bool recorded;                  /* tile (and many_tile) are the tuning record's */
} mla__attention_choice;

/* The fastest kernel that class, device, storage and context allow and a tile of which fits. False:
 * none. */
bool mla__attention_choose(const clmla_context *context, const mla__attention_shape *shape,
                           mla__attention_choice *choice);

/* Puts the tuning record's tiles for the chosen kind in place of the built-in ones, where there are
 * some that fit. */
void mla__attention_take_record(const clmla_context *context, const mla__attention_shape *shape,
                                mla__attention_choice *choice);

/* Finds out whether the large tile of this shape runs on the device, if the shape has one and nobody
 * has done so in this context. Until then, and where it does not, the others stay. Waits. */
clmla_status mla__attention_try_large(clmla_context *context, const mla__attention_shape *shape,
                                      mla__stream *stream);

/* One tile's kernels. */
typedef struct mla__attention_variant {
    mla__attention_tile tile; /* tile_rows 0: there is none */
    int32_t from_rows;        /* of sequences that take it */
    mla__kernel kernel;       /* writes out and lse */
    mla__kernel split_kernel; /* writes partial states into the workspace */
} mla__attention_variant;

typedef struct mla__attention {
    /* few: for every step; many, large: for steps with many rows a sequence, the same bits. */
    mla__attention_variant few, many, large;
    mla__merge merge;
    enum mla__attention_kind kind;
    bool rotates_query; /* q_pe is rotated here, by rows of cos_sin */
    int32_t num_heads, kv_lora_rank;
    uint64_t workspace_bytes; /* for partial states */
    cl_uint sequences_arg;
} mla__attention;

/* params->num_splits is the largest number of splits that enqueue may use (workspace is checked
 * for it); 0 or 1 binds no split kernel. */
clmla_status mla__attention_bind(clmla_context *context, const clmla_attention_params *params,
                                 mla__attention *op);
/* The same for a layer, whose steps differ: the workspace has workspace_bytes, and enqueue may use
 * any num_splits for which mla__attention_split_bytes(num_tokens, num_splits) fits in them; 0 binds
 * no split kernel. params->num_splits is not looked at. (mla__attention_bind calls this with the
 * bytes that its params ask for.)
 * cos_sin [T, rope_dim / 2, 2] float32, row t for token t of the step: q_pe is as projected; where
 * op->rotates_query comes out true the kernel rotates it, else the caller must. NULL: rotated. */
clmla_status mla__attention_bind_steps(clmla_context *context, const clmla_attention_params *params,
                                       uint64_t workspace_bytes, const clmla_tensor *cos_sin,
                                       mla__attention *op);
/* Another plan's tables; cos_sin is looked at only where the op rotates. */
clmla_status mla__attention_set_sequences(mla__attention *op, const mla__sequences *sequences,
                                          const mla__view *cos_sin);
clmla_status mla__attention_enqueue(mla__attention *op, mla__stream *stream,
                                    const mla__attention_step *step);
/* The same without merging: the partial states of step->num_splits > 1 splits stay where
 * mla__attention_states says, packed. */
clmla_status mla__attention_enqueue_states(mla__attention *op, mla__stream *stream,
                                           const mla__attention_step *step);
/* Views [S, T, H, kv_lora_rank] and [S, T, H] of the workspace; states of T = 1 token. */
void mla__attention_states(const clmla_tensor *workspace, int32_t num_heads, int32_t kv_lora_rank,
                           clmla_tensor *partial_out, clmla_tensor *partial_lse);
clmla_status mla__attention_warm(mla__attention *op, mla__stream *stream);
void mla__attention_release(mla__attention *op);

/* Number of splits and keys per split for a step on this device, at most max_splits: what fills
 * the device, in parts of at least 64 keys (see attention_split.c for the rule).
 * Deterministic in its arguments. */
void mla__attention_choose_splits(const clmla_context *context, int32_t num_heads,
                                  int32_t num_sequences, int32_t num_tokens,
                                  int32_t max_cache_seqlen, int32_t max_splits, int32_t *num_splits,
                                  int32_t *split_tokens);

/* The step that a call asks for: its split_tokens when they are given, else its num_splits, else what
 * suits the device. */
clmla_status mla__attention_choose_step(const clmla_context *context,
                                        const clmla_attention_params *params,
                                        mla__attention_step *step);

/* Workspace of num_splits partial states of num_tokens tokens: float32 out and lse. */
clmla_status mla__attention_split_bytes(const clmla_context *context, int32_t num_tokens,
                                        int32_t num_heads, int32_t kv_lora_rank, int32_t num_splits,
                                        uint64_t *bytes);

#endif
