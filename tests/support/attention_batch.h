/*
 * Batches for the tests of attention: described in a few named fields, laid out in poisoned
 * buffers, run, and computed by the reference in double.
 *
 * A value depends on its sequence's id and on its position alone, not on the batch, the page or the
 * dtype's place in memory: the same sequence can be compared across batches.
 */
#ifndef CLMLA_TESTS_ATTENTION_BATCH_H
#define CLMLA_TESTS_ATTENTION_BATCH_H

#include <stdbool.h>

#include "clmla.h"
#include "ops/attention.h"
#include "support/device.h"

typedef struct attention_sequence {
    int32_t id;
    int32_t new_tokens;
    int32_t keys; /* cache_seqlens */
} attention_sequence;

/* Zero fields are the plain choice. */
typedef struct attention_batch {
    int32_t num_heads, kv_lora_rank, rope_dim;
    clmla_mask mask;
    double softmax_scale; /* 0: 1 / sqrt(kv_lora_rank + rope_dim) */
    int32_t num_sequences;
    const attention_sequence *sequences;
    int32_t extra_tokens;    /* tokens past the last sequence */
    int32_t page_block_size; /* 0: contiguous */
    int32_t gap;             /* elements between the rows of q, out and the caches */
    bool fused;              /* kv_cache and pe_cache are columns of one buffer */
    bool in_place;           /* out is q_lat */
    bool no_lse;
    clmla_dtype q_lat, q_pe, cache, out;
    int32_t num_splits, split_tokens; /* as in clmla_attention_params */
    int32_t nan_key;                  /* 1 + a key of the first sequence whose latent holds a NaN */
    int32_t tile_rows;                /* the kernel's tile of so many; 0: as attention chooses */
    int32_t nan_row;                  /* 1 + a row (token · H + head) of q_lat that holds a NaN */
} attention_batch;

/* The batch in memory: values as the kernel sees them, buffers, and the call's params. */
typedef struct attention_problem {
    attention_batch batch;
    int32_t num_tokens, num_pages;
    double *q;             /* [T, H, kv_lora | rope] */
    double **c_kv, **k_pe; /* of each sequence [keys, kv_lora], [keys, rope] */
    int32_t *cu;           /* [B + 1] */
    test_buffer q_lat, q_pe, kv_cache, pe_cache, out, lse, workspace;
    test_buffer cu_table, seqlens_table, block_table;
    unsigned char *before[7]; /* what the inputs held */
    clmla_attention_params params;
} attention_problem;

attention_problem attention_problem_make(clmla_context *context, const attention_batch *batch);
void attention_problem_release(attention_problem *problem);

/* Whether the large tile of tensor cores runs, found out as clmla_layer_prepare does; *why_not where it
 * does not. */
bool attention_try_large_tile(clmla_context *context, int32_t kv_lora_rank, int32_t rope_dim,
                              const char **why_not);

/* clmla_enqueue_attention on the batch's tile. */
clmla_status attention_problem_enqueue(clmla_context *context, const attention_problem *problem,
                                       cl_command_queue queue, cl_uint num_events,
                                       const cl_event *wait_list, cl_event *event);
/* Steps of any number of rows take the tile of tile_rows from now on; 0: all stay. */
void attention_keep_tile(mla__attention *op, int32_t tile_rows);

/* Reads out [T, H, kv_lora] and lse [T, H] (may be NULL), and fails the test when an input, a gap
 * between rows or a canary changed. */
void attention_problem_read(const attention_problem *problem, double *out, double *lse);
/* Fails the test unless every input and output is as made. */
void attention_problem_untouched(const attention_problem *problem);

typedef struct attention_result {
    double *out, *lse; /* [T, H, kv_lora], [T, H]; lse NULL when not asked for */
} attention_result;

/* Make, enqueue, wait, read, release. */
attention_result attention_run(clmla_context *context, const attention_batch *batch);
void attention_result_release(attention_result *result);

/* Row (token · H + head) by the reference; returns the number of keys it sees. */
int32_t attention_reference(const attention_problem *problem, size_t row, double *out, double *lse);

#endif
