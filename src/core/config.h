/*
 * Derived sizes of a clmla_config, and its defaults made explicit.
 * Public in clmla_ops.h: clmla_config_validate, clmla_config_softmax_scale (defined in config.c).
 */
#ifndef CLMLA_CORE_CONFIG_H
#define CLMLA_CORE_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "clmla_ops.h"

/* Validates and fills every default (eps, theta, betas, mscale): afterwards no field means "0:
 * default" except q_lora_rank, max_position_embeddings, softmax_scale and rope_scaling.factor. */
clmla_status mla__config_resolve(const clmla_config *config, clmla_config *resolved, char *why,
                                 size_t why_bytes);

/* qk_nope_head_dim + qk_rope_head_dim */
int32_t mla__config_qk_head_dim(const clmla_config *config);
/* kv_lora_rank + qk_rope_head_dim: a token's cache elements */
int32_t mla__config_kv_dim(const clmla_config *config);
/* input of q_proj or q_b_proj: hidden_size or q_lora_rank */
int32_t mla__config_q_in(const clmla_config *config);

#endif
