/* One step: upload, plan, layers, output; then sampling, and taking back what was rejected. */
#include <string.h>

#include "engine.h"

/* ---- device ---------------------------------------------------------------------------------- */

/* Embeddings of all new tokens, one after the other as cu_seqlens_q counts them. Does not wait: the
 * host memory stays as it is until the step's output was read. */
static clmla_status upload_tokens(struct engine *engine, const struct batch *batch, cl_event *ready)
{
    for (int32_t t = 0; t < batch->num_tokens; t++)
        model_embed(engine->options.model, batch->tokens[t],
                    engine->host_hidden + (size_t)t * HIDDEN_SIZE);
    const cl_command_queue queue = engine->shards[0].queue;
    const size_t bytes = (size_t)batch->num_tokens * HIDDEN_SIZE * sizeof(float);
    const clmla_status status = clEnqueueWriteBuffer(queue, engine->hidden[0], CL_FALSE, 0, bytes,
                                                     engine->host_hidden, 0, NULL, ready);
    /* Other queues will wait for the event, so it has to be on its way. */
    return status == CLMLA_SUCCESS ? clFlush(queue) : status;
}

/* Whether the step is what the plan holds, one step on: as many new tokens of each sequence as
 * before, in pages that the plan knows. Steady decoding is, until somebody needs a new page. */
static bool continues(const struct batch *planned, const struct batch *batch)
{
    if (planned->num_sequences != batch->num_sequences)
        return false;
    for (int32_t b = 0; b < batch->num_sequences; b++) {
        const int32_t num_new = batch->cu_seqlens_q[b + 1] - batch->cu_seqlens_q[b];
        if (planned->cu_seqlens_q[b + 1] != batch->cu_seqlens_q[b + 1] ||
            planned->cache_seqlens[b] + num_new != batch->cache_seqlens[b] ||
            memcmp(planned->block_table[b], batch->block_table[b], sizeof batch->block_table[b]) !=
                0)
            return false;
    }
    return true;
}

/* Every shard has a plan of the same step. clmla_enqueue_advance uploads no tables; a new plan is
 * always right. */
static clmla_status plan_step(struct engine *engine, const struct batch *batch)
{
    const clmla_step step = {.struct_size = sizeof step,
                             .num_sequences = batch->num_sequences,
                             .cu_seqlens_q = batch->cu_seqlens_q,
                             .cache_seqlens = batch->cache_seqlens,
                             .block_table = &batch->block_table[0][0],
                             .block_table_stride = MAX_PAGES_PER_SEQUENCE};
    const bool advances = continues(&engine->planned, batch);
    clmla_status status = CLMLA_SUCCESS;
    for (int32_t s = 0; s < engine->options.num_shards && status == CLMLA_SUCCESS; s++) {
        const struct shard *shard = &engine->shards[s];
        status = advances ? clmla_enqueue_advance(shard->plan, NULL, shard->queue, 0, NULL, NULL)
                          : clmla_enqueue_plan(shard->plan, &step, shard->queue, 0, NULL, NULL);
    }
    if (status == CLMLA_SUCCESS) {
        engine->planned = *batch;
        engine->counts.advances += advances;
    }
    return status;
}

/* One model layer on all shards, each behind the one before it: the first writes its heads' part of
 * the output, the next adds its own. ready is the event of what the layer reads, then of what it has
 * written. With one shard the queue alone keeps this order, and events could be left out. */
static clmla_status run_layer(struct engine *engine, int32_t layer, cl_event *ready)
{
    clmla_status status = CLMLA_SUCCESS;
    for (int32_t s = 0; s < engine->options.num_shards && status == CLMLA_SUCCESS; s++) {
        const struct shard *shard = &engine->shards[s];
        cl_event done = NULL;
        status = clmla_enqueue_layer(shard->layers[layer].binding, shard->plan, shard->queue, 1,
                                     ready, &done);
        if (status == CLMLA_SUCCESS) {
            clReleaseEvent(*ready);
            *ready = done;
            status = clFlush(shard->queue);
        }
    }
    return status;
}

/* The whole model; the output is in host_hidden afterwards. */
static clmla_status compute(struct engine *engine, const struct batch *batch)
{
    const size_t bytes = (size_t)batch->num_tokens * HIDDEN_SIZE * sizeof(float);
    cl_event ready = NULL;
    clmla_status status = upload_tokens(engine, batch, &ready);
    if (status == CLMLA_SUCCESS)
        status = plan_step(engine, batch);
    for (int32_t layer = 0; layer < NUM_LAYERS && status == CLMLA_SUCCESS; layer++) {
        status = run_layer(engine, layer, &ready);
        if (status == CLMLA_SUCCESS && engine->options.after_layer != NULL)
            status =
                engine->options.after_layer(engine->options.after_layer_user, engine, batch, layer);
    }
    if (status == CLMLA_SUCCESS) /* the step's one wait */
        status = clEnqueueReadBuffer(engine->shards[0].queue, engine->hidden[NUM_LAYERS % 2],
                                     CL_TRUE, 0, bytes, engine->host_hidden, 1, &ready, NULL);
    if (ready != NULL)
        clReleaseEvent(ready);
    return status;
}

/* ---- host ------------------------------------------------------------------------------------ */

/* Goes through the outputs from the last known token on: each gives the token that follows, and as
 * long as that is the one that was guessed, the next output is valid, too. Returns how many guesses
 * were right. */
static int32_t sample_tokens(struct engine *engine, const struct batch *batch, int32_t b,
                             struct sequence *sequence)
{
    const int32_t num_drafts = batch->num_drafts[b];
    const int32_t first = batch->cu_seqlens_q[b + 1] - num_drafts - 1;
    for (int32_t i = 0; i <= num_drafts; i++) {
        const float *hidden = engine->host_hidden + (size_t)(first + i) * HIDDEN_SIZE;
        const int32_t token = engine->options.sample(engine->options.user, sequence,
                                                     sequence->num_tokens - 1, hidden);
        sequence->tokens[sequence->num_tokens++] = token;
        if (i < num_drafts && batch->tokens[first + i + 1] != token)
            return i;
    }
    return num_drafts;
}

/* Rejected drafts leave keys in the caches. Nobody has to remove them: what counts is the length,
 * and the next tokens overwrite them. The plans learn the new length, so that the next step can
 * advance them; otherwise, and where the length would be less than the sequence's new tokens, which
 * no plan can hold, that step fills them anew. The pages stay the sequence's; it needs them soon. */
static void take_back(struct engine *engine, const int32_t *rejected)
{
    struct batch *planned = &engine->planned;
    int32_t change[MAX_SEQUENCES] = {0};
    bool any = false;
    clmla_status status = CLMLA_SUCCESS;
    for (int32_t b = 0; b < planned->num_sequences; b++) {
        const int32_t num_new = planned->cu_seqlens_q[b + 1] - planned->cu_seqlens_q[b];
        change[b] = -rejected[b];
        any = any || rejected[b] > 0;
        planned->cache_seqlens[b] -= rejected[b];
        if (planned->cache_seqlens[b] < num_new)
            status = CLMLA_CAPACITY_EXCEEDED;
    }
    for (int32_t s = 0; any && s < engine->options.num_shards && status == CLMLA_SUCCESS; s++) {
        const struct shard *shard = &engine->shards[s];
        status = clmla_enqueue_advance(shard->plan, change, shard->queue, 0, NULL, NULL);
    }
    if (status != CLMLA_SUCCESS)
        planned->num_sequences = -1;
}

/* Steps that use the pages may still be under way: the next owner's come later on the same queues. */
static clmla_status give_back(struct engine *engine, struct sequence *sequence)
{
    const clmla_status status =
        engine_poison(engine, &sequence->pages, 0, sequence->pages.num_pages * PAGE_BLOCK_SIZE);
    page_list_release(&sequence->pages, &engine->pool);
    return status;
}

/* What the step means for its sequences. */
static clmla_status settle(struct engine *engine, const struct batch *batch)
{
    int32_t rejected[MAX_SEQUENCES] = {0};
    for (int32_t b = 0; b < batch->num_sequences; b++) {
        struct sequence *sequence = &engine->sequences[batch->slots[b]];
        const int32_t num_drafts = batch->num_drafts[b];
        sequence->num_keys = batch->cache_seqlens[b] - num_drafts;
        if (sequence->num_keys < sequence->num_tokens)
            continue; /* more of the prompt to come: this output is nobody's next token */
        const int32_t accepted = sample_tokens(engine, batch, b, sequence);
        sequence->num_keys += accepted;
        rejected[b] = num_drafts - accepted;
        engine->counts.accepted_drafts += accepted;
        engine->counts.rejected_drafts += rejected[b];
    }
    take_back(engine, rejected);
    clmla_status status = CLMLA_SUCCESS;
    for (int32_t b = 0; b < batch->num_sequences; b++) {
        struct sequence *sequence = &engine->sequences[batch->slots[b]];
        const bool ends = sequence->num_tokens >= sequence->max_tokens;
        const clmla_status done = ends ? give_back(engine, sequence)
                                       : engine_poison(engine, &sequence->pages, sequence->num_keys,
                                                       batch->cache_seqlens[b]);
        sequence->id = ends ? -1 : sequence->id;
        status = status == CLMLA_SUCCESS ? done : status;
    }
    return status;
}

/* Every sequence waits for a page: takes those of the one that loses least. Its tokens are all known
 * still, so that later steps compute its keys anew as if they were a prompt. */
static clmla_status preempt(struct engine *engine)
{
    struct sequence *least = NULL;
    int32_t num_holders = 0;
    for (int32_t slot = 0; slot < MAX_SEQUENCES; slot++) {
        struct sequence *sequence = &engine->sequences[slot];
        if (sequence->id < 0 || sequence->pages.num_pages == 0)
            continue;
        num_holders++;
        if (least == NULL || sequence->num_keys < least->num_keys)
            least = sequence;
    }
    if (num_holders < 2) /* its pages would not help anybody else */
        return CLMLA_CAPACITY_EXCEEDED;
    engine->counts.preemptions++;
    least->num_keys = 0;
    return give_back(engine, least);
}

clmla_status engine_step(struct engine *engine)
{
    struct batch batch;
    clmla_status status = CLMLA_SUCCESS;
    if (!engine_is_busy(engine))
        return CLMLA_SUCCESS;
    for (engine_schedule(engine, &batch); batch.num_sequences == 0 && status == CLMLA_SUCCESS;
         engine_schedule(engine, &batch))
        status = preempt(engine);
    if (status == CLMLA_SUCCESS)
        status = compute(engine, &batch);
    if (status == CLMLA_SUCCESS)
        status = settle(engine, &batch);
    if (status == CLMLA_SUCCESS) {
        engine->counts.steps++;
        return status;
    }
    /* What was enqueued may still read host_hidden, and not every plan may have followed. */
    engine->planned.num_sequences = -1;
    for (int32_t s = 0; s < engine->options.num_shards; s++)
        clFinish(engine->shards[s].queue);
    return status;
}
