/*
 * The layer for few tokens in one launch: cl/nvidia/decode_layer.cl. See ops/op.h for the shape; it is
 * bound beside the ops whose stages it takes over, and reads from them what they were bound with.
 *
 * Its work-groups wait for each other, so all must be on the device at once, which OpenCL does not
 * promise. clmla_layer_prepare asks the device how many are (mla__decode_layer_probe); before that
 * nothing is bound.
 */
#ifndef CLMLA_LAYER_DECODE_LAYER_H
#define CLMLA_LAYER_DECODE_LAYER_H

#include "layer/plan.h"
#include "ops/attention.h"
#include "ops/sequences.h"

enum { MLA__DECODE_LAYER_MAX_TOKENS = 16 }; /* rows of a product on tensor cores */

typedef struct mla__decode_layer {
    mla__kernel kernel;   /* none: the stages run one by one, */
    const char *why_not;  /* for this reason, NULL where there is a kernel or nobody asked */
    cl_mem grid;          /* the words of cl/nvidia/grid.clh */
    size_t num_groups;    /* that are on the device at once */
    uint64_t max_states;  /* splits · tokens that the workspace holds */
    int32_t step_args[4]; /* token_begin, num_tokens, num_splits, split_tokens; -1: not set yet */
} mla__decode_layer;

/* After the binding's other ops. No kernel where the layer was not asked for it or not found able to,
 * where it does not fit the ops, or where the driver does not build it. */
clmla_status mla__decode_layer_bind(const clmla_binding *binding,
                                    const clmla_binding_params *params, mla__decode_layer *op);
/* Another plan's tables and error word. */
clmla_status mla__decode_layer_set_plan(mla__decode_layer *op, const clmla_plan *plan,
                                        const mla__sequences *sequences, const mla__view *cos_sin);
/* Whether it takes the step: its token block, and its keys as they are split. */
bool mla__decode_layer_takes(const mla__decode_layer *op, const mla__attention_step *step);
clmla_status mla__decode_layer_enqueue(mla__decode_layer *op, mla__stream *stream,
                                       const mla__attention_step *step);
/* The largest number of work-groups, of a few per compute unit, that met in a launch without tokens;
 * 0: none did. Waits. */
clmla_status mla__decode_layer_probe(mla__decode_layer *op, const clmla_context *context,
                                     cl_command_queue queue, int32_t *num_groups);
void mla__decode_layer_release(mla__decode_layer *op);

#endif
