/*
 * A toy model of three MLA layers with weights drawn at random: what a real engine reads from a
 * checkpoint (libclmla_model can help with that). The output of layer l is the input of layer
 * l + 1; norms, residuals and the feed-forward part of a real model would stand between them.
 */
#ifndef ENGINE_MODEL_H
#define ENGINE_MODEL_H

#define CL_TARGET_OPENCL_VERSION 120
#include <clmla.h>

enum { NUM_LAYERS = 3, NUM_HEADS = 4, HIDDEN_SIZE = 96, VOCABULARY = 50 };

/* The whole model's; see model_config_of_shard. */
extern const clmla_config model_config;

enum {
    Q_A_PROJ,
    Q_A_LAYERNORM,
    Q_B_PROJ,
    KV_A_PROJ_WITH_MQA,
    KV_A_LAYERNORM,
    KV_B_PROJ,
    O_PROJ,
    NUM_WEIGHTS
};

/* [out_features, in_features] bf16, as in a checkpoint; a norm's has one row. */
struct model_weight {
    size_t rows, columns;
    uint16_t *values;
};

struct model {
    struct model_weight layers[NUM_LAYERS][NUM_WEIGHTS];
    float *embedding; /* [VOCABULARY, HIDDEN_SIZE] */
};

/* CLMLA_SUCCESS or CL_OUT_OF_HOST_MEMORY; model_release is right after both. */
clmla_status model_create(struct model *model);
void model_release(struct model *model);

/* hidden [HIDDEN_SIZE] = the embedding of a token. */
void model_embed(const struct model *model, int32_t token, float *hidden);

/* The token whose embedding has the largest product with hidden [HIDDEN_SIZE]: greedy decoding. */
int32_t model_sample(const struct model *model, const float *hidden);

/* The configuration of num_heads of the model's heads. Nothing else differs: every shard has the
 * whole hidden state, the whole latent cache, and its own heads' part of the rest. */
clmla_config model_config_of_shard(int32_t num_heads);

/* The sources of one layer's weights for the heads from first_head on. They are views of the whole
 * matrices; how many heads there are clmla knows from the shard's configuration. */
clmla_weights_params model_weights_of_shard(const struct model *model, int32_t layer,
                                            int32_t first_head);

#endif
