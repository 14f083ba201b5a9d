/*
 * A small inference engine around clmla: continuous batching over a paged latent cache, chunked
 * prefill mixed with decoding, speculative decoding, and two-way tensor parallelism. Written to be
 * copied from:
 *
 *   pages.h     which page belongs to whom
 *   device.h    where it runs
 *   model.h     the weights, and a shard's views of them
 *   shard.h     what one device holds: clmla's objects, built once
 *   engine.h    sequences; schedule.c chooses a step's tokens, step.c computes them
 *   example.c   an application: requests arrive, are served, and the results are compared
 *
 * A step is: choose tokens (schedule.c), upload their embeddings, fill the plan, enqueue every
 * layer, read the output, sample. The host waits once a step, for the output.
 */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include "pages.h"
#include "shard.h"

enum { MAX_SHARDS = 2, MAX_DRAFTS = 3 };

/* A request that is being served. Its tokens are the prompt, then what was generated. The first
 * num_keys of them are in the caches, the rest (one when decoding, more of a prompt) is pending. */
struct sequence {
    int32_t id; /* the application's, >= 0; -1: this slot is free */
    int32_t num_tokens;
    int32_t num_keys;
    int32_t max_tokens; /* with so many tokens the sequence has ended */
    int32_t tokens[MAX_KEYS];
    struct page_list pages;
};

/* One step's sequences and tokens, in the form that clmla_step wants. */
struct batch {
    int32_t num_sequences;
    int32_t num_tokens;
    int32_t slots[MAX_SEQUENCES];      /* of engine.sequences */
    int32_t num_drafts[MAX_SEQUENCES]; /* the last of a sequence's new tokens, guessed ones */
    int32_t tokens[MAX_STEP_TOKENS];
    int32_t cu_seqlens_q[MAX_SEQUENCES + 1];
    int32_t cache_seqlens[MAX_SEQUENCES]; /* with the new tokens, drafts included */
    int32_t block_table[MAX_SEQUENCES][MAX_PAGES_PER_SEQUENCE];
};

struct engine;

struct engine_options {
    const struct model *model;
    cl_device_id device;
    clmla_kernel_class kernel_class;
    int32_t num_shards;      /* 1, or 2: half the heads each, on a queue each */
    int32_t batch_invariant; /* a token's bits do not depend on what is computed beside it */
    /* Fills pages that are given back, and rows of rejected drafts, with NaN: a debugging aid that
     * shows a wrong block table or length at once, where stale numbers would look plausible. */
    int32_t poison;
    /* The token after tokens[position], from that position's output [HIDDEN_SIZE]. */
    int32_t (*sample)(void *user, const struct sequence *sequence, int32_t position,
                      const float *hidden);
    /* Guesses up to max_drafts tokens after the last one; returns how many. NULL: no speculation.
     * Wrong guesses cost time only. */
    int32_t (*draft)(void *user, const struct sequence *sequence, int32_t max_drafts,
                     int32_t *drafts);
    /* Called when a layer of a step was enqueued, for tests; another status than success ends the
     * step with it. NULL: none. */
    clmla_status (*after_layer)(void *user, const struct engine *engine, const struct batch *batch,
                                int32_t layer);
    void *user; /* of sample and draft */
    void *after_layer_user;
};

struct engine_counts {
    int32_t steps;
    int32_t mixed_steps; /* with prefill and decode tokens side by side */
    int32_t refusals;    /* a sequence sat out a step because no page was free */
    int32_t preemptions; /* a sequence lost its pages, and its keys with them, to the others */
    int32_t advances;    /* steps that reused the plan */
    int32_t accepted_drafts;
    int32_t rejected_drafts;
};

struct engine {
    struct engine_options options;
    cl_context cl;
    clmla_context *context;
    cl_mem hidden[2]; /* [MAX_STEP_TOKENS, HIDDEN_SIZE] float32 on the device */
    float *host_hidden;
    struct shard shards[MAX_SHARDS];
    struct page_pool pool;
    struct sequence sequences[MAX_SEQUENCES];
    /* What the shards' plans hold now; num_sequences < 0: nothing that can be relied on. */
    struct batch planned;
    struct engine_counts counts;
};

/* engine_release is right after every outcome. */
clmla_status engine_create(const struct engine_options *options, struct engine *engine);
void engine_release(struct engine *engine);

/* Starts a request; its first tokens are computed in a later step. False when every slot is taken:
 * try again after a step. 1 <= num_prompt < max_tokens <= MAX_KEYS. */
bool engine_add(struct engine *engine, int32_t id, const int32_t *prompt, int32_t num_prompt,
                int32_t max_tokens);

/* Whether a sequence is still being served. */
bool engine_is_busy(const struct engine *engine);

/* One step. CLMLA_CAPACITY_EXCEEDED: a sequence needs more pages than there are at all. When the
 * computation fails, the sequences are as before, and the step may be tried again. */
clmla_status engine_step(struct engine *engine);

/* schedule.c: chooses the tokens of the next step and reserves their pages. */
void engine_schedule(struct engine *engine, struct batch *batch);

/* engine.c: with options.poison, fills a sequence's cache rows first .. end - 1 with NaN. */
clmla_status engine_poison(struct engine *engine, const struct page_list *list, int32_t first,
                           int32_t end);

#endif
