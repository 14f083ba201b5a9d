/*
 * Batches of attention for matrices of many large cases: rows of queries and keys are cut out of a
 * pool of random numbers, so that a case costs little more than copying them. What a row holds
 * depends on its sequence's id, its position and its head alone. The reference computes some rows
 * of every sequence, as many as a budget allows.
 *
 * Pages lie in a shuffled order, unused rows of the caches hold NaN, unused entries of the block
 * table are absurd, out and lse are poisoned and have canaries.
 */
#ifndef CLMLA_TESTS_PEER_BATCH_H
#define CLMLA_TESTS_PEER_BATCH_H

#include "support/attention_batch.h"
#include "support/support.h"

typedef struct peer_batch {
    int32_t num_heads, kv_lora_rank, rope_dim;
    clmla_dtype dtype; /* of queries, caches and out: bf16 or f16 */
    double deviation;  /* of the elements, normal */
    double largest;    /* they are cut at */
    double softmax_scale;
    clmla_mask mask;
    bool fused; /* latent and rope part are columns of one tensor, queries and caches alike */
    int32_t num_sequences;
    const attention_sequence *sequences;
    int32_t page_block_size;
} peer_batch;

/* Rows that the reference computed, and what the device has there. */
typedef struct peer_rows {
    size_t count, num_latent;   /* rows; elements of each: kv_lora_rank */
    double *out, *expected_out; /* [count, kv_lora_rank] */
    double *lse, *expected_lse; /* [count] */
} peer_rows;

/* All that a run has written: out and lse of every row. */
typedef struct peer_bits {
    unsigned char *out, *lse;
    size_t out_bytes, lse_bytes;
} peer_bits;

/* Products that a batch takes: rows of queries times keys times their elements. */
uint64_t peer_products(const peer_batch *batch);

/* Runs the batch; fails the test when it returns an error, when an element of out is not finite or
 * when something was written outside of out or lse. At least one row of each sequence that has
 * tokens is compared, chosen by `random`, and as many as `budget` products of the reference
 * allow. *bits, unless NULL, become what the run wrote. */
peer_rows peer_run(clmla_context *context, const peer_batch *batch, uint64_t budget,
                   test_random *random, peer_bits *bits);
void peer_rows_release(peer_rows *rows);

/* Runs the batch, which differs from that of `bits` in its pages alone; fails the test unless
 * every bit of out and lse is the same. */
void peer_run_same(clmla_context *context, const peer_batch *batch, const peer_bits *bits);
void peer_bits_release(peer_bits *bits);

#endif
