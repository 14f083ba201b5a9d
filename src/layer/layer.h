/*
 * clmla_layer: one configuration's resolved choices and sizes. Immutable after creation, shared by
 * bindings, plans and weights, which retain it.
 * Public in clmla.h: clmla_layer_create, _release, _get_info (layer.c), _prepare, _describe.
 */
#ifndef CLMLA_LAYER_LAYER_H
#define CLMLA_LAYER_LAYER_H

#include <stdbool.h>

#include "layer/workspace.h"
#include "ocl/context.h"
#include "ops/attention.h"
#include "ops/matrix.h"

/* The weight matrices of a layer, in the order in which they are packed. */
enum mla__role {
    MLA__Q_PROJ,    /* q_lora_rank == 0 */
    MLA__Q_A_PROJ,  /* otherwise */
    MLA__KV_A_PROJ, /* right behind: a pair where tensor cores take both in one launch */
    MLA__Q_B_PROJ,  /* with q LoRA */
    MLA__W_UK,      /* per head [kv_lora, nope]: W_UK transposed, y = x · Wᵀ absorbs */
    MLA__W_UV,      /* per head [v, kv_lora] */
    MLA__O_PROJ,
    MLA__NUM_ROLES
};

struct clmla_layer {
    clmla_context *context; /* retained */
    int references;         /* guarded by context->mutex */
    uint64_t plans_made;    /* likewise; numbers the plans */
    clmla_config config;    /* resolved */
    double softmax_scale;

    int32_t max_num_sequences, max_num_tokens, max_seqlen_q, max_cache_seqlen;
    int32_t page_block_size, num_pages;
    int32_t pages_per_sequence; /* width of a plan's block table; 0: contiguous */
    int32_t num_splits;         /* asked for; 0: chosen per step, 1: never */
    bool batch_invariant;
    bool one_launch; /* asked for */

    clmla_dtype weights_dtype, cache_dtype, hidden_dtype, output_dtype;
    clmla_dtype stage_dtype;  /* q_a, q, o */
    clmla_dtype latent_dtype; /* q_lat, ctx: float32 where f16 would overflow */

    clmla_projection_backend projection; /* NATIVE, CLBLAST, or AUTO: by rows */
    int32_t native_max_rows;
    int32_t tokens_per_block;
    mla__workspace workspace; /* for tokens_per_block tokens */

    /* What clmla_layer_prepare found out, guarded by context->mutex: work-groups of decode_layer that
     * are on the device at once; 0: none, and the reason. */
    int32_t one_launch_groups;
    const char *why_not_one_launch;
};

void mla__layer_retain(clmla_layer *layer);
/* The same, for a new plan: returns its number, unique in this layer. */
uint64_t mla__layer_retain_for_plan(clmla_layer *layer);

/* Shape and dtype of a weight matrix, buffer left NULL; out_features == 0: this configuration has
 * none of that role. */
struct clmla_matrix mla__layer_matrix(const clmla_layer *layer, enum mla__role role);

/* What attention's kernel is chosen by. */
mla__attention_shape mla__layer_attention_shape(const clmla_layer *layer);
/* Some step has as many rows (token · H + head) as a tile of attention. */
bool mla__layer_fills_tile(const clmla_layer *layer, int32_t tile_rows);

/* Up to how many tokens of split attention one kernel merges and applies W_UV (mla__merge_up); 0:
 * never, and *why_not (may be NULL) tells. */
int32_t mla__layer_merge_up_tokens(const clmla_layer *layer, const char **why_not);

/* Work-groups of a decode_layer, 0: the stages run one by one, and *why_not (may be NULL) tells. */
int32_t mla__layer_one_launch_groups(const clmla_layer *layer, const char **why_not);
void mla__layer_set_one_launch_groups(clmla_layer *layer, int32_t num_groups, const char *why_not);

/* "q_proj", "q_a_proj", ..., "W_UK": the role's name in messages and stages. */
const char *mla__role_name(enum mla__role role);

#endif
