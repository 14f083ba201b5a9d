/*
 * Which tokens the next step computes. clmla takes a ragged batch: any number of new tokens of each
 * sequence, so a decode token is simply a chunk of one, and prompts and decoding share a step.
 */
#include <string.h>

#include "engine.h"

static int32_t least(int32_t a, int32_t b, int32_t c)
{
    const int32_t d = a < b ? a : b;
    return d < c ? d : c;
}

/* The sequence's row of the block table. clmla looks at the pages of cache_seqlens keys and no
 * further; the rest of the row may hold anything, and this is no page for sure. */
static void fill_block_table(const struct page_list *list, int32_t *row)
{
    for (int32_t i = 0; i < MAX_PAGES_PER_SEQUENCE; i++)
        row[i] = i < list->num_pages ? list->pages[i] : INT32_MAX;
}

/* Adds as many of a sequence's pending tokens as fit and, behind the last one, guesses. Without
 * enough free pages it stays out of this step; nothing has changed then. */
static void add_sequence(struct engine *engine, int32_t slot, struct batch *batch)
{
    struct sequence *sequence = &engine->sequences[slot];
    const int32_t pending = sequence->num_tokens - sequence->num_keys;
    const int32_t room = MAX_STEP_TOKENS - batch->num_tokens;
    const int32_t num_known = pending < room ? pending : room;
    int32_t drafts[MAX_DRAFTS];
    int32_t num_drafts = 0;
    if (num_known == 0)
        return;
    if (num_known == pending && engine->options.draft != NULL) {
        /* With all of them accepted, one token more than there are drafts is generated. */
        const int32_t useful = sequence->max_tokens - sequence->num_tokens - 1;
        num_drafts = engine->options.draft(engine->options.user, sequence,
                                           least(MAX_DRAFTS, room - num_known, useful), drafts);
    }
    /* cache_seqlens counts the new tokens, too: clmla appends them before it attends. */
    const int32_t num_keys = sequence->num_keys + num_known + num_drafts;
    if (!page_list_reserve(&sequence->pages, &engine->pool, num_keys)) {
        engine->counts.refusals++;
        return;
    }

    const int32_t b = batch->num_sequences++;
    int32_t *tokens = batch->tokens + batch->num_tokens;
    memcpy(tokens, sequence->tokens + sequence->num_keys, (size_t)num_known * sizeof *tokens);
    memcpy(tokens + num_known, drafts, (size_t)num_drafts * sizeof *tokens);
    batch->num_tokens += num_known + num_drafts;
    batch->slots[b] = slot;
    batch->num_drafts[b] = num_drafts;
    batch->cu_seqlens_q[b + 1] = batch->num_tokens;
    batch->cache_seqlens[b] = num_keys;
    fill_block_table(&sequence->pages, batch->block_table[b]);
}

/* Decoding first: a long prompt takes what is left and so delays nobody who is already reading. */
void engine_schedule(struct engine *engine, struct batch *batch)
{
    int32_t num_decoding = 0;
    memset(batch, 0, sizeof *batch);
    for (int prefill = 0; prefill < 2; prefill++) {
        for (int32_t slot = 0; slot < MAX_SEQUENCES; slot++) {
            const struct sequence *sequence = &engine->sequences[slot];
            const int is_prefill = sequence->num_tokens - sequence->num_keys > 1;
            if (sequence->id >= 0 && is_prefill == prefill)
                add_sequence(engine, slot, batch);
        }
        if (prefill == 0)
            num_decoding = batch->num_sequences;
    }
    if (num_decoding > 0 && batch->num_sequences > num_decoding)
        engine->counts.mixed_steps++;
}
