/*
 * clmla_plan: one step's tables on the device, and the host's copy of what it knows of them.
 *
 * Device tables, one buffer (int32 elements, then float):
 *     cu_seqlens_q [max_num_sequences + 1] | cache_seqlens [max_num_sequences] |
 *     block_table [max_num_sequences, pages_per_sequence] | positions [max_num_tokens] |
 *     error [1] | cos_sin [max_num_tokens, rope/2, 2] f32
 * The first three are contiguous so that a step from host arrays is one upload.
 */
#ifndef CLMLA_LAYER_PLAN_H
#define CLMLA_LAYER_PLAN_H

#include "layer/layer.h"
#include "layer/plan_staging.h"
#include "ops/rope.h"
#include "ops/sequences.h"

/* Offsets into the tables, elements of four bytes. */
typedef struct mla__plan_tables {
    uint64_t cu_seqlens_q, cache_seqlens, block_table, positions, error, cos_sin, end;
} mla__plan_tables;

/* What the host knows of the current step. */
typedef struct mla__plan_step {
    int32_t num_sequences;
    int32_t num_tokens;       /* exact with host arrays, an upper bound with device tables */
    int32_t max_cache_seqlen; /* likewise */
    bool on_device;           /* filled from device tables: the arrays below are unknown */
    bool filled;
} mla__plan_step;

struct clmla_plan {
    clmla_layer *layer; /* retained */
    uint64_t id;        /* unique in the layer: bindings notice another plan by it */
    cl_mem buffer;
    mla__plan_tables at;
    mla__plan_step step;
    bool torn; /* a call failed on the way: the device may have tables of neither step */
    int32_t *cu_seqlens_q;  /* host copies */
    int32_t *cache_seqlens; /* [max_num_sequences] */
    int32_t *next_seqlens;  /* [max_num_sequences]: scratch of advance */
    int32_t *block_table;   /* [max_num_sequences, pages_per_sequence] */
    mla__staging staging;
    mla__rope_table rope_table;
    mla__kernel validate, advance; /* cl/plan.cl */
};

/* The plan's tables as sequences of the current step, and cos_sin of all its tokens. */
clmla_sequences mla__plan_sequences(const clmla_plan *plan);
clmla_tensor mla__plan_cos_sin(const clmla_plan *plan);

/* The device has the tables of the plan's step: where a call failed on the way to another, they are
 * uploaded again. INVALID_STATE: never filled, or torn and known to the device alone. name: of the
 * caller, for notify. */
clmla_status mla__plan_ready(clmla_plan *plan, const char *name, mla__stream *stream);

/* Most keys that the pages of one sequence hold, at most max_cache_seqlen. */
int32_t mla__plan_capacity(const clmla_layer *layer);

/* plan_validate.c: a step from host arrays. Fills *step; errors go to notify. */
clmla_status mla__plan_validate(const clmla_plan *plan, const clmla_step *host,
                                mla__plan_step *step);

/* plan_device.c: kernels of cl/plan.cl. */
clmla_status mla__plan_device_bind(clmla_plan *plan);
void mla__plan_device_release(clmla_plan *plan);
clmla_status mla__plan_device_fill(clmla_plan *plan, const clmla_step *tables,
                                   const mla__plan_step *step, mla__stream *stream);
/* num_tokens NULL: each sequence's own new tokens. */
clmla_status mla__plan_device_advance(clmla_plan *plan, const int32_t *num_tokens,
                                      mla__stream *stream);
clmla_status mla__plan_device_warm(clmla_plan *plan, mla__stream *stream);

#endif
