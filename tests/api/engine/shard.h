/*
 * What one device holds of the model: some heads of every layer, and all of the caches. Without
 * tensor parallelism there is one shard, and it has all the heads.
 */
#ifndef ENGINE_SHARD_H
#define ENGINE_SHARD_H

#include "model.h"

/* The limits that a clmla_layer is made for. */
enum {
    MAX_SEQUENCES = 3,   /* computed side by side */
    MAX_STEP_TOKENS = 16 /* new tokens of a step, all sequences together */
};

/* One model layer's own. */
struct shard_layer {
    clmla_weights *weights;
    cl_mem kv_cache; /* [NUM_PAGES, PAGE_BLOCK_SIZE, kv_lora_rank] bf16 */
    cl_mem pe_cache; /* [NUM_PAGES, PAGE_BLOCK_SIZE, qk_rope_head_dim] bf16 */
    clmla_binding *binding;
};

/* Shared by all model layers: they have one configuration, run one after the other, and all compute
 * the same step. */
struct shard {
    cl_command_queue queue;
    clmla_layer *layer;
    clmla_plan *plan;
    cl_mem workspace;
    struct shard_layer layers[NUM_LAYERS];
};

struct shard_params {
    const struct model *model;
    cl_context cl;
    cl_device_id device;
    clmla_context *context;
    int32_t first_head;
    int32_t num_heads;
    int32_t batch_invariant;
    /* [MAX_STEP_TOKENS, HIDDEN_SIZE] float32: layer l reads hidden[l % 2] and writes, or adds to,
     * hidden[(l + 1) % 2]. */
    cl_mem hidden[2];
    clmla_output_mode output_mode;
};

/* Compiles, packs the weights, and waits until all is ready. shard_release is right after every
 * outcome. */
clmla_status shard_create(const struct shard_params *params, struct shard *shard);

/* Waits for the queue first: bindings and plans must not go while their work is under way. */
void shard_release(struct shard *shard);

#endif
