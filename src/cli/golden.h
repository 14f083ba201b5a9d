/*
 * A golden case (tests/golden/README.md) opened and made uniform: its configuration, its weights
 * and every request's steps, whether stored or drawn by the recipe.
 */
#ifndef CLMLA_CLI_GOLDEN_H
#define CLMLA_CLI_GOLDEN_H

#include <stdbool.h>
#include <stdint.h>

#include "clmla.h"
#include "clmla_model.h"

enum { MLA_GOLDEN_MAX_REQUESTS = 64 };

/* Weights as patterns of dtype (BF16, or F8_E4M3 with block scales), shapes as in clmla.h. */
typedef struct mla_golden_weight {
    const void *data; /* NULL: not part of this configuration */
    clmla_safetensors_dtype dtype;
    uint64_t rows, columns; /* norm weights: rows 1 */
    const float *scale_inv; /* FP8: [ceil(rows/128), ceil(columns/128)]; else NULL */
} mla_golden_weight;

typedef struct mla_golden_weights {
    mla_golden_weight q_proj, q_a_proj, q_a_layernorm, q_b_proj, kv_a_proj_with_mqa, kv_a_layernorm,
        kv_b_proj, o_proj;
} mla_golden_weights;

/* One request group: `batch` sequences that go through the same steps. */
typedef struct mla_golden_request {
    char prefix[16]; /* "" or "req3." */
    int32_t batch, past, num_steps;
    int32_t *steps;           /* tokens of each step */
    const uint16_t *kv_cache; /* bf16 [batch, past, kv_lora]; NULL when past == 0 */
    const uint16_t *pe_cache; /* bf16 [batch, past, rope] */
    const uint16_t **hidden;  /* per step: bf16 [batch, steps[i], hidden] */
} mla_golden_request;

typedef struct mla_golden {
    clmla_safetensors *file;
    const char *name; /* metadata "case" */
    clmla_config config;
    bool recipe, feedback, fp8;
    double bound_bf16_rel_l2, bound_bf16_max_abs, bound_f32_rel_l2;
    mla_golden_weights weights;
    int32_t num_requests;
    mla_golden_request requests[MLA_GOLDEN_MAX_REQUESTS];
    uint16_t *probes[2]; /* recipe: bf16 [hidden] */
    void **owned;        /* drawn tensors and converted data, freed by close */
    size_t num_owned;
} mla_golden;

/* Opens and checks a case; recipe tensors are drawn and their checksums compared. progress (may be
 * NULL) is told the name of each large tensor as it is drawn. */
clmla_status mla_golden_open(const char *path, void (*progress)(const char *what, void *user),
                             void *user, mla_golden *out, clmla_model_error *error);
void mla_golden_close(mla_golden *golden);

/* Figures of one comparison. */
typedef struct mla_golden_errors {
    double rel_l2;       /* ||y - t|| / ||t|| over the stored outputs of the case */
    double max_abs;      /* max |y - t| */
    double cache_rel_l2; /* appended cache rows, kv and pe together; 0 when none is stored */
    double row_check; /* recipe: worst of |norm(y)/norm - 1| / (2e) and |dot - stored| / (4e·norm)
                         over all rows, e the bound of the run's dtype; <= 1 passes; else 0 */
    bool finite;      /* no NaN or infinity in any result; else the figures it touches are NaN */
} mla_golden_errors;

/* Results of a run, float32, per request and step: output[r][i] is [batch, steps[i], hidden];
 * kv_cache[r] is [batch, new tokens, kv_lora], pe_cache[r] likewise: the appended rows. */
typedef struct mla_golden_results {
    float **output[MLA_GOLDEN_MAX_REQUESTS];
    float *kv_cache[MLA_GOLDEN_MAX_REQUESTS];
    float *pe_cache[MLA_GOLDEN_MAX_REQUESTS];
} mla_golden_results;

/* Room for every result of a case, and its release. */
clmla_status mla_golden_results_create(const mla_golden *golden, mla_golden_results *out);
void mla_golden_results_release(const mla_golden *golden, mla_golden_results *results);

/* Compares results with the float64 truth; bound is the relative L2 bound used for row_check. */
clmla_status mla_golden_compare(const mla_golden *golden, const mla_golden_results *results,
                                double bound, mla_golden_errors *out, clmla_model_error *error);

#endif
