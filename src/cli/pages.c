#include "cli/pages.h"

#include <stdlib.h>

#include "core/checked.h"
#include "ref/draw.h"

/* What FlashMLA's tests put into unused entries: an index that cannot be right. */
#define UNUSED_ENTRY INT32_C(2147480000)

/* Fisher-Yates with the counter-based generator; the modulo's bias is of no matter here. */
static void shuffle(int32_t *values, int32_t count, uint64_t seed)
{
    const uint64_t base = mla_draw_base("block_table", seed);
    for (int32_t i = count - 1; i > 0; i--) {
        uint64_t draw = 0; /* 32 bits of four draws of eight bits */
        for (uint64_t byte = 0; byte < 4; byte++)
            draw =
                draw << 8 | (mla_draw_bf16(base, 4 * (uint64_t)i + byte, MLA_DRAW_UNIT, 0) & 255);
        const int32_t j = (int32_t)(draw % ((uint64_t)i + 1));
        const int32_t swapped = values[i];
        values[i] = values[j];
        values[j] = swapped;
    }
}

bool mla_pages_create(int32_t num_sequences, int32_t max_keys, const int32_t *keys,
                      int32_t page_block_size, uint64_t seed, mla_pages *out)
{
    mla_pages pages = {.page_block_size = page_block_size > 0 ? page_block_size : max_keys};
    uint64_t num_pages;
    pages.pages_per_sequence =
        (int32_t)mla__ceil_div((uint64_t)max_keys, (uint64_t)pages.page_block_size);
    if (!mla__checked_mul((uint64_t)num_sequences, (uint64_t)pages.pages_per_sequence,
                          &num_pages) ||
        num_pages > INT32_MAX)
        return false;
    pages.num_pages = (int32_t)num_pages;
    pages.block_table = malloc(num_pages * sizeof(*pages.block_table));
    if (pages.block_table == NULL)
        return false;
    for (int32_t i = 0; i < pages.num_pages; i++)
        pages.block_table[i] = i;
    if (page_block_size > 0)
        shuffle(pages.block_table, pages.num_pages, seed);
    for (int32_t b = 0; keys != NULL && b < num_sequences; b++) {
        const int32_t used =
            (int32_t)mla__ceil_div((uint64_t)keys[b], (uint64_t)pages.page_block_size);
        for (int32_t i = used; i < pages.pages_per_sequence; i++)
            pages.block_table[(size_t)b * (size_t)pages.pages_per_sequence + (size_t)i] =
                UNUSED_ENTRY;
    }
    *out = pages;
    return true;
}

void mla_pages_release(mla_pages *pages)
{
    free(pages->block_table);
    *pages = (mla_pages){0};
}

size_t mla_pages_row(const mla_pages *pages, int32_t sequence, int32_t key)
{
    const size_t entry = (size_t)sequence * (size_t)pages->pages_per_sequence +
                         (size_t)(key / pages->page_block_size);
    return (size_t)pages->block_table[entry] * (size_t)pages->page_block_size +
           (size_t)(key % pages->page_block_size);
}

size_t mla_pages_rows(const mla_pages *pages)
{
    return (size_t)pages->num_pages * (size_t)pages->page_block_size;
}
