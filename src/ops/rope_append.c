#include "ops/rope_append.h"

#include "ops/loops.h"
#include "ops/rope.h"

/* cpu class: heads that one work-item rotates. */
enum { CPU_HEADS_PER_GROUP = 32 };

/* gpu class: one pair a work-item, as rope has it. */
static size_t heads_per_group(size_t work_group, int32_t half)
{
    if (work_group == 1 || half == 0)
        return CPU_HEADS_PER_GROUP;
    const size_t heads = work_group / (size_t)half;
    return heads > 0 ? heads : 1;
}

static clmla_status make_q_pe(const clmla_context *context, const mla__rope_append_params *params,
                              mla__view *q_pe)
{
    const clmla_rope_params rope = {.struct_size = sizeof rope,
                                    .num_tokens = params->append.sequences.num_tokens,
                                    .num_heads = params->num_heads,
                                    .rope_dim = params->append.rope_dim,
                                    .x = params->q_pe,
                                    .cos_sin = params->append.cos_sin};
    mla__view cos_sin;
    return mla__rope_check(context, &rope, q_pe, &cos_sin);
}

clmla_status mla__rope_append_bind(clmla_context *context, const mla__rope_append_params *params,
                                   mla__rope_append *op)
{
    static const char *const files[] = {"append.clh", "rotate.clh", "rope_append.cl", NULL};
    mla__append_args args;
    mla__view q_pe;
    clmla_status status = mla__append_check(context, &params->append, &args);
    if (status == CLMLA_SUCCESS)
        status = make_q_pe(context, params, &q_pe);
    if (status != CLMLA_SUCCESS)
        return status;

    mla__cache_append made = mla__append_begin(context, &args);
    const size_t heads = heads_per_group(made.work_group, args.half);
    if (args.half > 0)
        made.groups_per_token += mla__ceil_div((uint64_t)params->num_heads, heads);
    mla__defines defines = {.length = 0};
    mla__append_define(&made, &args, &defines);
    mla__define_dtype(&defines, "X_DTYPE", q_pe.dtype);
    mla__define_int(&defines, "HEADS_PER_GROUP", (long long)heads);
    const int32_t turned = heads < (size_t)params->num_heads ? (int32_t)heads : params->num_heads;
    mla__define_loops(&defines, mla__append_loops(&made, &args) +
                                    mla__loops_rotate(turned, args.half, made.work_group));
    status = mla__kernel_create(context, files, &defines, "rope_append", &made.kernel);
    if (status != CLMLA_SUCCESS)
        return status;
    mla__append_arguments(&made, &args);
    mla__arg_view(&made.kernel, &q_pe, 2);
    mla__arg_int(&made.kernel, params->num_heads);
    mla__arg_int(&made.kernel, (cl_int)made.groups_per_token);
    status = mla__kernel_ready(&made.kernel);
    if (status == CLMLA_SUCCESS)
        op->append = made;
    else
        mla__cache_append_release(&made);
    return status;
}

clmla_status mla__rope_append_set_sequences(mla__rope_append *op, const mla__sequences *sequences,
                                            const mla__view *cos_sin)
{
    return mla__cache_append_set_sequences(&op->append, sequences, cos_sin);
}

clmla_status mla__rope_append_enqueue(mla__rope_append *op, mla__stream *stream,
                                      int32_t token_begin, int32_t num_tokens)
{
    return mla__cache_append_enqueue(&op->append, stream, token_begin, num_tokens);
}

clmla_status mla__rope_append_warm(mla__rope_append *op, mla__stream *stream)
{
    return mla__cache_append_warm(&op->append, stream);
}

void mla__rope_append_release(mla__rope_append *op) { mla__cache_append_release(&op->append); }
