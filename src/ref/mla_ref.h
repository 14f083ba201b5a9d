/*
 * CPU reference of the MLA layer in double, one function per line of the equation in clmla.h.
 * Slow, obvious, free of OpenCL: the oracle of tests, `clmla verify` and `clmla bench`.
 *
 * All arrays are dense, row-major double. Shapes in brackets; names as in clmla.h.
 * Source of the mathematics: DeepSeek-V3 inference/model.py (classes RMSNorm, MLA).
 */
#ifndef CLMLA_REF_MLA_REF_H
#define CLMLA_REF_MLA_REF_H

#include <stddef.h>
#include <stdint.h>

#include "clmla_ops.h"

/* Σ a[i] · b[i] */
double mla_ref_dot(size_t count, const double *a, const double *b);

/* y[i] += factor · x[i] */
void mla_ref_add_scaled(size_t count, double factor, const double *x, double *y);

/* scores[j] = exp(scores[j]) / Σ exp(scores), in place; returns ln Σ exp(scores), -INFINITY when
 * count == 0. */
double mla_ref_softmax(size_t count, double *scores);

/* y[rows, n] = x[rows, k] · w[n, k]ᵀ */
void mla_ref_projection(size_t rows, size_t n, size_t k, const double *x, const double *w,
                        double *y);

/* y[rows, dim] = x / sqrt(mean(x²) + eps) · weight; y may be x */
void mla_ref_rmsnorm(size_t rows, size_t dim, double eps, const double *x, const double *weight,
                     double *y);

/* Rotates interleaved pairs of x[dim] for one position, in place. freq[dim/2], radians. */
void mla_ref_rope(size_t dim, const double *freq, int64_t position, double *x);

/* One query head against keys 0 .. num_keys - 1, absorbed:
 *   s[j] = scale · (q_lat · c_kv[j] + q_pe · k_pe[j]),  out = softmax(s) · c_kv,  lse = ln Σ exp(s)
 * c_kv [num_keys, kv_lora], k_pe [num_keys, rope]; scores: scratch [num_keys], holds the
 * probabilities afterwards. num_keys == 0: out = 0, lse = -INFINITY. */
void mla_ref_attention_head(size_t num_keys, size_t kv_lora, size_t rope, double scale,
                            const double *q_lat, const double *q_pe, const double *c_kv,
                            const double *k_pe, double *scores, double *out, double *lse);

/* out, lse of several partial states; see clmla_enqueue_merge_states. partial_out [states, dim],
 * partial_lse [states]. */
void mla_ref_merge_states(size_t num_states, size_t dim, const double *partial_out,
                          const double *partial_lse, double *out, double *lse);

/* One layer's weights as doubles, each with the shape in clmla_weights_params; unused ones NULL. */
typedef struct mla_ref_weights {
    const double *q_proj;
    const double *q_a_proj;
    const double *q_a_layernorm;
    const double *q_b_proj;
    const double *kv_a_proj_with_mqa;
    const double *kv_a_layernorm;
    const double *kv_b_proj;
    const double *o_proj;
} mla_ref_weights;

/* Which form computes the attention. The results are equal up to rounding. */
typedef enum mla_ref_form {
    MLA_REF_ABSORBED, /* scores and sums in the latent space */
    MLA_REF_NAIVE     /* k and v materialised per head from kv_b_proj */
} mla_ref_form;

/* Optional intermediates, dense, written where not NULL; names as mid.* in tests/golden/README.md.
 */
typedef struct mla_ref_intermediates {
    double *q;           /* [tokens, heads, nope + rope] after its projections, before rope */
    double *q_pe;        /* [tokens, heads, rope] rotated */
    double *k_pe;        /* [tokens, rope] rotated */
    double *kv_norm;     /* [tokens, kv_lora] */
    double *q_absorbed;  /* [tokens, heads, kv_lora], absorbed form only */
    double *scores;      /* [tokens, heads, past + tokens] probabilities, 0 where masked */
    double *attn_latent; /* [tokens, heads, kv_lora], absorbed form only */
    double *attn_out;    /* [tokens, heads · v] */
} mla_ref_intermediates;

/* The layer for one sequence: num_tokens new tokens after `past` cached ones.
 *   hidden_states [num_tokens, hidden]
 *   kv_cache [past + num_tokens, kv_lora], pe_cache [past + num_tokens, rope]: rows 0 .. past - 1
 *   read, the new rows written
 *   output [num_tokens, hidden]; NULL: only the cache rows are computed
 *   rows: which of the new tokens to compute an output for, [num_rows] ascending; NULL: all.
 *   Other rows of output (and of the intermediates) are left alone.
 * Returns SUCCESS, INVALID_CONFIG, INVALID_ARGUMENT (a weight the config needs is NULL; rows not
 * ascending or out of range) or CL_OUT_OF_HOST_MEMORY. */
clmla_status mla_ref_layer(const clmla_config *config, const mla_ref_weights *weights,
                           mla_ref_form form, size_t past, size_t num_tokens,
                           const double *hidden_states, double *kv_cache, double *pe_cache,
                           const int32_t *rows, size_t num_rows, double *output,
                           const mla_ref_intermediates *mid);

/* The same on a cache that holds the new rows already, whatever they are: rounded as a device
 * stores them, say. No cache row is computed; all past + num_tokens are read. */
clmla_status mla_ref_layer_attend(const clmla_config *config, const mla_ref_weights *weights,
                                  mla_ref_form form, size_t past, size_t num_tokens,
                                  const double *hidden_states, const double *kv_cache,
                                  const double *pe_cache, const int32_t *rows, size_t num_rows,
                                  double *output, const mla_ref_intermediates *mid);

#endif
