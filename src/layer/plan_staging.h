/*
 * Host memory for uploads that nobody waits for: a block is free again once its write is complete;
 * when none is free a new one is allocated.
 */
#ifndef CLMLA_LAYER_PLAN_STAGING_H
#define CLMLA_LAYER_PLAN_STAGING_H

#include <stddef.h>
#include <stdint.h>

#include "clmla.h"

typedef struct mla__staging_block {
    struct mla__staging_block *next;
    cl_event written; /* NULL: free */
    int32_t data[];
} mla__staging_block;

typedef struct mla__staging {
    mla__staging_block *blocks;
    size_t block_bytes; /* every block's data */
} mla__staging;

/* A free block; its event must be set by the write that uses it. CL_OUT_OF_HOST_MEMORY. */
clmla_status mla__staging_acquire(mla__staging *staging, mla__staging_block **out);

/* Waits for writes that are still under way, then frees every block. */
void mla__staging_release(mla__staging *staging);

#endif
