/*
 * clmla_binding: the ops of one model layer's forward pass, bound to its weights, caches, input,
 * output and workspace.
 */
#ifndef CLMLA_LAYER_BINDING_H
#define CLMLA_LAYER_BINDING_H

#include "layer/decode_layer.h"
#include "layer/layer.h"
#include "layer/plan.h"
#include "layer/weights.h"
#include "ops/attention.h"
#include "ops/merge_up.h"
#include "ops/norm_append.h"
#include "ops/projection.h"
#include "ops/projection_pair.h"
#include "ops/rmsnorm.h"
#include "ops/rope_append.h"

enum { MLA__BOUND_BUFFERS = 5 };

struct clmla_binding {
    clmla_layer *layer;                 /* retained */
    clmla_weights *weights;             /* retained */
    cl_mem buffers[MLA__BOUND_BUFFERS]; /* caches, input, output, workspace: retained, or NULL */

    /* The equation's lines, in order. Where attention rotates q_pe, norm_append is bound in place of
     * q_a_layernorm and rope_append; where qkv_a_proj has variants, it is in place of kv_a_proj and
     * of q_a_proj (with q LoRA) or q_proj. */
    mla__projection_native qkv_a_proj;
    mla__projection q_a_proj; /* with q LoRA */
    mla__projection kv_a_proj;
    mla__cache_append norm_append;
    mla__rmsnorm q_a_layernorm;
    mla__projection q_b_proj; /* q_b_proj or q_proj */
    mla__rope_append rope_append;
    mla__projection absorb; /* W_UK */
    mla__attention attention;
    mla__projection v_up;      /* W_UV */
    mla__merge_up merge_v_up;  /* attention's merge and v_up in one */
    int32_t merge_v_up_tokens; /* up to how many tokens; 0: never, and it is not bound */
    mla__projection o_proj;
    mla__decode_layer decode_layer; /* all of it, for few tokens, where prepare found it possible */

    uint64_t plan_id;       /* whose tables the kernels' arguments name; 0: none yet */
    int32_t plan_sequences; /* and for how many sequences */
    clmla_stage_fn stage_fn;
    void *stage_user;
    clmla_binding_stats stats;
};

/* forward.c: every stage for tokens token_begin .. token_begin + num_tokens - 1 of the step. */
clmla_status mla__forward_block(clmla_binding *binding, const clmla_plan *plan, mla__stream *stream,
                                int32_t token_begin, int32_t num_tokens);

/* Splits of the keys for num_tokens tokens of the plan's step: as asked for, else chosen from the
 * step's bounds, at most what the workspace holds. */
void mla__binding_split(const clmla_binding *binding, const clmla_plan *plan, int32_t num_tokens,
                        mla__attention_step *step);

/* Whether merge_v_up takes the place of attention's merge and v_up in this step. */
bool mla__binding_merges_up(const clmla_binding *binding, const mla__attention_step *step);

/* Points the kernels at a plan's tables where they are not there yet. */
clmla_status mla__binding_use_plan(clmla_binding *binding, const clmla_plan *plan);

/* binding_ops.c: binds and releases the ops above. params checked, dtypes resolved. */
clmla_status mla__binding_bind_ops(clmla_binding *binding, const clmla_binding_params *params);
void mla__binding_release_ops(clmla_binding *binding);

#endif
