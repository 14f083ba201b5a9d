/*
 * Where keys of sequences lie in a paged cache: page numbers in shuffled order, so that a wrong
 * look-up shows.
 */
#ifndef CLMLA_CLI_PAGES_H
#define CLMLA_CLI_PAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct mla_pages {
    int32_t page_block_size;    /* rows per page */
    int32_t pages_per_sequence; /* of block_table's rows */
    int32_t num_pages;
    int32_t *block_table; /* [num_sequences, pages_per_sequence] */
} mla_pages;

/* Pages for num_sequences (>= 1) sequences of max_keys (>= 1) keys each. page_block_size 0: one
 * page per sequence, in order. Entries past the pages that keys[b] needs are absurd numbers, which
 * nobody may use; keys NULL: every entry is a page. False: out of memory or too many rows. */
bool mla_pages_create(int32_t num_sequences, int32_t max_keys, const int32_t *keys,
                      int32_t page_block_size, uint64_t seed, mla_pages *out);
void mla_pages_release(mla_pages *pages);

/* Row of the cache that holds a sequence's key. */
size_t mla_pages_row(const mla_pages *pages, int32_t sequence, int32_t key);
/* Rows of the whole cache. */
size_t mla_pages_rows(const mla_pages *pages);

#endif
