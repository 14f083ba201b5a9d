#include "engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print_note(clmla_status status, const char *text, void *user)
{
    (void)user;
    if (status != CLMLA_SUCCESS)
        fprintf(stderr, "clmla: %s: %s\n", clmla_status_name(status), text);
}

/* Shard i has the heads NUM_HEADS / n · i and on. Here all shards are on one device, each with a
 * queue of its own; on several devices each would have a cl_context, a clmla_context, and hidden
 * states of its own, too, and the sum would be a transfer (tensor_parallel_mpi.c has one). */
static clmla_status create_shard(struct engine *engine, int32_t index)
{
    const int32_t num_heads = NUM_HEADS / engine->options.num_shards;
    const struct shard_params params = {.model = engine->options.model,
                                        .cl = engine->cl,
                                        .device = engine->options.device,
                                        .context = engine->context,
                                        .first_head = index * num_heads,
                                        .num_heads = num_heads,
                                        .batch_invariant = engine->options.batch_invariant,
                                        .hidden = {engine->hidden[0], engine->hidden[1]},
                                        /* The first one writes, the others add to it. */
                                        .output_mode =
                                            index == 0 ? CLMLA_OVERWRITE : CLMLA_ACCUMULATE};
    return shard_create(&params, &engine->shards[index]);
}

/* Nothing in a cache counts before it is appended, so real engines skip this. */
static clmla_status poison_caches(struct engine *engine)
{
    clmla_status status = CLMLA_SUCCESS;
    struct page_list all = {.num_pages = 1};
    for (int32_t page = 0; page < NUM_PAGES && status == CLMLA_SUCCESS; page++) {
        all.pages[0] = page;
        status = engine_poison(engine, &all, 0, PAGE_BLOCK_SIZE);
    }
    return status;
}

clmla_status engine_create(const struct engine_options *options, struct engine *engine)
{
    const size_t hidden_bytes = MAX_STEP_TOKENS * HIDDEN_SIZE * sizeof(float);
    const clmla_context_options context_options = {.struct_size = sizeof context_options,
                                                   .notify = print_note,
                                                   .kernel_class = options->kernel_class};
    clmla_status status = CLMLA_SUCCESS;
    memset(engine, 0, sizeof *engine);
    engine->options = *options;
    engine->planned.num_sequences = -1;
    page_pool_init(&engine->pool);
    for (int32_t i = 0; i < MAX_SEQUENCES; i++)
        engine->sequences[i].id = -1;

    engine->host_hidden = malloc(hidden_bytes);
    if (engine->host_hidden == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    engine->cl = clCreateContext(NULL, 1, &options->device, NULL, NULL, &status);
    for (int32_t i = 0; i < 2 && status == CLMLA_SUCCESS; i++)
        engine->hidden[i] =
            clCreateBuffer(engine->cl, CL_MEM_READ_WRITE, hidden_bytes, NULL, &status);
    if (status == CLMLA_SUCCESS)
        status =
            clmla_context_create(engine->cl, options->device, &context_options, &engine->context);
    for (int32_t i = 0; i < options->num_shards && status == CLMLA_SUCCESS; i++)
        status = create_shard(engine, i);
    if (status == CLMLA_SUCCESS)
        status = poison_caches(engine);
    return status;
}

void engine_release(struct engine *engine)
{
    for (int32_t i = 0; i < MAX_SHARDS; i++)
        shard_release(&engine->shards[i]);
    clmla_context_release(engine->context);
    for (int32_t i = 0; i < 2; i++) {
        if (engine->hidden[i] != NULL)
            clReleaseMemObject(engine->hidden[i]);
    }
    if (engine->cl != NULL)
        clReleaseContext(engine->cl);
    free(engine->host_hidden);
}

bool engine_add(struct engine *engine, int32_t id, const int32_t *prompt, int32_t num_prompt,
                int32_t max_tokens)
{
    for (int32_t i = 0; i < MAX_SEQUENCES; i++) {
        struct sequence *sequence = &engine->sequences[i];
        if (sequence->id >= 0)
            continue;
        memset(sequence, 0, sizeof *sequence);
        sequence->id = id;
        sequence->num_tokens = num_prompt;
        sequence->max_tokens = max_tokens;
        memcpy(sequence->tokens, prompt, (size_t)num_prompt * sizeof *prompt);
        return true;
    }
    return false;
}

bool engine_is_busy(const struct engine *engine)
{
    for (int32_t i = 0; i < MAX_SEQUENCES; i++) {
        if (engine->sequences[i].id >= 0)
            return true;
    }
    return false;
}

/* One row of a cache; bytes of ones are a NaN in bf16, as in every other storage dtype. */
static clmla_status poison_row(cl_command_queue queue, cl_mem cache, int32_t width, int32_t row)
{
    const unsigned char ones = 0xff;
    const size_t bytes = (size_t)width * sizeof(uint16_t);
    return clEnqueueFillBuffer(queue, cache, &ones, sizeof ones, (size_t)row * bytes, bytes, 0,
                               NULL, NULL);
}

clmla_status engine_poison(struct engine *engine, const struct page_list *list, int32_t first,
                           int32_t end)
{
    clmla_status status = CLMLA_SUCCESS;
    for (int32_t s = 0; engine->options.poison && s < engine->options.num_shards; s++) {
        const struct shard *shard = &engine->shards[s];
        for (int32_t key = first; key < end; key++) {
            /* Where clmla looks for a key, too. */
            const int32_t row =
                list->pages[key / PAGE_BLOCK_SIZE] * PAGE_BLOCK_SIZE + key % PAGE_BLOCK_SIZE;
            for (int32_t i = 0; i < NUM_LAYERS && status == CLMLA_SUCCESS; i++) {
                const struct shard_layer *own = &shard->layers[i];
                status = poison_row(shard->queue, own->kv_cache, model_config.kv_lora_rank, row);
                if (status == CLMLA_SUCCESS)
                    status =
                        poison_row(shard->queue, own->pe_cache, model_config.qk_rope_head_dim, row);
            }
        }
    }
    return status;
}
