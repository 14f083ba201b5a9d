/*
 * Who holds which page of the latent caches. Plain bookkeeping on the host: clmla sees the result
 * only, as the rows of a step's block_table.
 *
 * A page number is valid in the caches of every model layer (and of every tensor-parallel shard)
 * alike: all of them store the same sequences, so one allocator serves them all.
 */
#ifndef ENGINE_PAGES_H
#define ENGINE_PAGES_H

#include <stdbool.h>
#include <stdint.h>

/* Small, so that this example's sequences cross pages often and run out of them. A real engine
 * takes pages of 16 to 64 rows, and as many as the device's memory holds. */
enum {
    PAGE_BLOCK_SIZE = 8,
    NUM_PAGES = 11,
    MAX_KEYS = 64, /* of one sequence */
    MAX_PAGES_PER_SEQUENCE = MAX_KEYS / PAGE_BLOCK_SIZE
};

struct page_pool {
    int32_t num_free;
    int32_t free_pages[NUM_PAGES]; /* a stack; the page freed last is the next one given */
};

/* One sequence's row of the block table: its keys 0 .. 7 lie in pages[0], 8 .. 15 in pages[1] ... */
struct page_list {
    int32_t num_pages;
    int32_t pages[MAX_PAGES_PER_SEQUENCE];
};

void page_pool_init(struct page_pool *pool);

/* Makes room for num_keys keys in all. All or nothing: when the pool has too few pages, or the
 * sequence would pass MAX_KEYS, it returns false and nobody's pages have changed. */
bool page_list_reserve(struct page_list *list, struct page_pool *pool, int32_t num_keys);

/* Gives every page back. The memory is another sequence's from here on, so call it only once no
 * step that reads or writes these pages will still be enqueued; those that are enqueued already do
 * no harm, since the new owner's steps follow them on the same queue. */
void page_list_release(struct page_list *list, struct page_pool *pool);

#endif
