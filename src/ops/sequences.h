/*
 * clmla_sequences as checked views, and as kernel arguments.
 *
 * Kernels that work on sequences take, in this order and contiguously (mla__arg_sequences):
 *     global const int *cu_seqlens_q, ulong cu_offset,
 *     global const int *cache_seqlens, ulong cache_seqlens_offset,
 *     global const int *block_table, ulong block_table_offset, int block_table_stride,
 *     int page_block_size, int num_pages, int num_sequences
 * block_table_stride 0 means contiguous: page b is sequence b's (block_table may be null).
 * Offsets in elements. cl/common.clh has the matching macro SEQUENCES_PARAMS and helpers
 * (find_sequence, page lookup).
 */
#ifndef CLMLA_OPS_SEQUENCES_H
#define CLMLA_OPS_SEQUENCES_H

#include "ops/op.h"

enum { MLA__SEQUENCES_ARGS = 10 };

typedef struct mla__sequences {
    mla__view cu_seqlens_q, cache_seqlens, block_table;
    int32_t num_sequences, num_tokens, max_cache_seqlen;
    int32_t num_pages, page_block_size, block_table_stride; /* stride 0: contiguous */
} mla__sequences;

/* Checks counts (>= 0), page_block_size >= 1 where needed, and the tables' sizes. For ops that do
 * not look at pages (rope table) needs_pages is 0. */
clmla_status mla__sequences_make(const clmla_context *context, const char *op,
                                 const clmla_sequences *sequences, int needs_pages,
                                 mla__sequences *out);

/* Sets the ten arguments beginning with the kernel's next one. */
void mla__arg_sequences(mla__kernel *kernel, const mla__sequences *sequences);

/* Sets them again, beginning at index first. */
clmla_status mla__arg_set_sequences(mla__kernel *kernel, cl_uint first,
                                    const mla__sequences *sequences);

#endif
