/*
 * The shape that every op of this room has.
 *
 *   mla__<op>_bind      check the params, choose the kernel, create this op's own kernel objects
 *                       and set every argument that does not change; num_tokens / num_rows of the
 *                       params are upper bounds.
 *   mla__<op>_enqueue   set the few arguments that changed since the last call and launch. No
 *                       look-up, no allocation, no wait.
 *   mla__<op>_warm      launch every kernel that enqueue can reach once, with no rows, so that
 *                       drivers which compile at the first launch do it now. Ops of the layer only.
 *   mla__<op>_release   accepts a zeroed struct.
 *   clmla_enqueue_<op>  (public, clmla_ops.h) bind + enqueue + release, on a stream of its own.
 *
 * A layer binds its ops once and enqueues them step by step; a token block of a step is given as
 * token_begin (index in the step) and num_tokens. Tensors of the workspace hold only the block
 * (row 0 is token_begin); tensors of the step (hidden_states, output, cos_sin) hold all tokens.
 */
#ifndef CLMLA_OPS_OP_H
#define CLMLA_OPS_OP_H

#include <float.h>
#include <stdbool.h>

#include "core/checked.h"
#include "core/dtype.h"
#include "ocl/context.h"
#include "ocl/launch.h"
#include "ops/tensor.h"

/* Copies and checks a params struct's size; on failure notifies with the op's name. */
#define MLA__PARAMS_COPY(context, op_name, dst, src)                                               \
    (mla__params_copy(&(dst), sizeof(dst), sizeof(dst), (src))                                     \
         ? CLMLA_SUCCESS                                                                           \
         : mla__fail((context), CLMLA_INVALID_ARGUMENT,                                            \
                     op_name ": params are null or struct_size is not one this library knows"))

/* WORK_GROUP of the small row kernels: 1 on the cpu class (a work-item then walks its row with
 * vectors), else the largest power of two within `wanted` and what the device allows. */
static inline size_t mla__row_work_group(const clmla_context *context, size_t wanted)
{
    if (context->kernel_class == CLMLA_KERNELS_CPU)
        return 1;
    size_t size = 1;
    while (2 * size <= wanted && 2 * size <= context->device.max_work_group_size)
        size *= 2;
    return size;
}

/* The source of the warp operations: inline PTX, or its emulation on devices that have none. */
static inline const char *mla__ptx_file(const clmla_context *context)
{
    return context->device.has_ptx ? "nvidia/ptx.clh" : "nvidia/ptx_emulated.clh";
}

/* The same for those of warpgroups, behind it. */
static inline const char *mla__wgmma_file(const clmla_context *context)
{
    return context->device.has_ptx ? "nvidia/wgmma.clh" : "nvidia/wgmma_emulated.clh";
}

/* A caller's eps: 0 means 1e-6. False when it is negative, NaN or past float32. */
static inline bool mla__resolve_eps(double eps, float *out)
{
    if (!(eps >= 0.0 && eps <= (double)FLT_MAX))
        return false;
    *out = eps == 0.0 ? 1e-6f : (float)eps;
    return true;
}

#endif
