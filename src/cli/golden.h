/*
 * A golden case (tests/golden/README.md) opened and made uniform: its configuration, its weights
 * and every request's steps, whether stored or drawn by the recipe.
 */
#ifndef CLMLA_CLI_GOLDEN_H
#define CLMLA_CLI_GOLDEN_H

#include <stdbool.h>
#include <stdint.h>

#include "cli/job.h"

typedef struct mla_golden {
    clmla_safetensors *file;
    mla_job job; /* named by metadata "case" */
    bool recipe, feedback, fp8;
    double bound_bf16_rel_l2, bound_bf16_max_abs, bound_f32_rel_l2;
    uint16_t *probes[2]; /* recipe: bf16 [hidden] */
    void **owned;        /* drawn tensors and converted data, freed by close */
    size_t num_owned;
} mla_golden;

/* Opens and checks a case; recipe tensors are drawn and their checksums compared. progress (may be
 * NULL) is told the name of each large tensor before it is drawn; false ends the opening (BAD_FILE). */
clmla_status mla_golden_open(const char *path, bool (*progress)(const char *what, void *user),
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

/* Compares results with the float64 truth; bound is the relative L2 bound used for row_check. */
clmla_status mla_golden_compare(const mla_golden *golden, const mla_results *results, double bound,
                                mla_golden_errors *out, clmla_model_error *error);

#endif
