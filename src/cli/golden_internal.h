/*
 * What the golden_*.c files share.
 */
#ifndef CLMLA_CLI_GOLDEN_INTERNAL_H
#define CLMLA_CLI_GOLDEN_INTERNAL_H

#include <jansson.h>

#include "cli/golden.h"

#if defined(__GNUC__)
#define MLA_GOLDEN_PRINTF __attribute__((format(printf, 3, 4)))
#else
#define MLA_GOLDEN_PRINTF
#endif

enum { MLA_GOLDEN_MAX_RANK = 3 };

/* A tensor's name and expected shape. */
typedef struct mla_golden_key {
    char name[MLA_TENSOR_NAME_BYTES];
    int32_t rank;
    uint64_t shape[MLA_GOLDEN_MAX_RANK];
} mla_golden_key;

/* A case while it is being opened. */
typedef struct mla_golden_opener {
    mla_golden golden;
    json_t *recipe; /* name -> shape, kind, exp, checksums; NULL: everything is stored */
    uint64_t seed;
    bool (*progress)(const char *what, void *user);
    void *user;
    clmla_model_error *error;
} mla_golden_opener;

/* Writes the text (error may be NULL) and returns status. */
clmla_status mla_golden_fail(clmla_model_error *error, clmla_status status, const char *format,
                             ...) MLA_GOLDEN_PRINTF;

#ifdef __clang_analyzer__ /* it sees one file at a time: it is shown that the status comes back */
#define mla_golden_fail(error, status, ...)                                                        \
    (mla_golden_fail((error), (status), __VA_ARGS__), (status))
#endif

/* The key of a request's tensor (see mla_job_tensor_name), its rank 0. */
mla_golden_key mla_golden_request_key(const mla_golden *golden, const mla_request *request,
                                      int32_t step, const char *what);

/* The data of a stored tensor; BAD_FILE when it is missing, or of another dtype, shape or alignment
 * than its size. */
clmla_status mla_golden_stored(const mla_golden *golden, const mla_golden_key *key,
                               clmla_safetensors_dtype dtype, const void **data,
                               clmla_model_error *error);

/* Registers memory that mla_golden_close frees; frees it at once when it cannot. */
clmla_status mla_golden_own(mla_golden *golden, void *memory, clmla_model_error *error);

/* golden_recipe.c: reads the metadata, draws the probes. */
clmla_status mla_golden_read_recipe(mla_golden_opener *open);
/* Draws a tensor that the recipe names and compares its checksums. */
clmla_status mla_golden_draw(mla_golden_opener *open, const mla_golden_key *key, const void **data);

#endif
