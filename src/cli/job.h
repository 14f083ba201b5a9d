/*
 * What one run computes: requests over the weights of one layer. A golden case is a job with
 * the truth beside it; a checkpoint's layer with an input file is one without.
 */
#ifndef CLMLA_CLI_JOB_H
#define CLMLA_CLI_JOB_H

#include <stdbool.h>
#include <stdint.h>

#include "clmla.h"
#include "clmla_model.h"

enum { MLA_MAX_REQUESTS = 64, MLA_TENSOR_NAME_BYTES = 96 };

/* Dense elements of bf16, f16 or f32, aligned to one byte only; data NULL: none. */
typedef struct mla_array {
    const void *data;
    clmla_dtype dtype;
} mla_array;

/* One request group: `batch` sequences that go through the same steps. */
typedef struct mla_request {
    char prefix[16]; /* of its tensors' names: "" or "req3." */
    int32_t batch, past, num_steps;
    int32_t *steps;     /* tokens of each step */
    mla_array kv_cache; /* [batch, past, kv_lora]; none when past == 0 */
    mla_array pe_cache; /* [batch, past, rope] */
    mla_array *hidden;  /* per step: [batch, steps[i], hidden] */
} mla_request;

typedef struct mla_job {
    const char *name; /* for messages */
    clmla_config config;
    int32_t layer;      /* whose weights these are */
    bool steps_unnamed; /* one step, and its tensors' names do not begin with "step0." */
    clmla_checkpoint_weights weights;
    int32_t num_requests;
    mla_request requests[MLA_MAX_REQUESTS];
} mla_job;

/* New tokens of a request: the sum of its steps. */
int32_t mla_request_new_tokens(const mla_request *request);

/* A tensor's name in files: "{prefix}step{step}.{what}"; without the step where step < 0. */
void mla_job_tensor_name(const mla_job *job, const mla_request *request, int32_t step,
                         const char *what, char name[MLA_TENSOR_NAME_BYTES]);

/* Results of a run, float32, per request and step: output[r][i] is [batch, steps[i], hidden];
 * kv_cache[r] is [batch, new tokens, kv_lora], pe_cache[r] likewise: the appended rows. */
typedef struct mla_results {
    float **output[MLA_MAX_REQUESTS];
    float *kv_cache[MLA_MAX_REQUESTS];
    float *pe_cache[MLA_MAX_REQUESTS];
} mla_results;

/* Room for every result of a job, and its release. */
clmla_status mla_results_create(const mla_job *job, mla_results *out);
void mla_results_release(const mla_job *job, mla_results *results);

#endif
