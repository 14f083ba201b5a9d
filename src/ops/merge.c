#include "ops/merge.h"

#include "ops/loops.h"

/* Arguments that change; see cl/merge.cl. */
enum {
    OUT_STATE_STRIDE_ARG = 2,
    LSE_STATE_STRIDE_ARG = 7,
    NUM_STATES_ARG = 16,
    NUM_TOKENS_ARG = 17,
    VALUES = 16, /* elements per work-item; cl/merge.cl has the same number */
    WANTED_WORK_GROUP = 64
};

typedef struct merge_args {
    mla__view partial_out, partial_lse, out, lse;
} merge_args;

static clmla_status check(const clmla_context *context, const clmla_merge_states_params *p,
                          merge_args *args)
{
    if (p->num_states < 1 || p->num_tokens < 0 || p->num_heads < 1 || p->dim < 1)
        return mla__fail(context, CLMLA_INVALID_TENSOR_SHAPE,
                         "merge_states: num_states %d, num_heads %d and dim %d must be >= 1, "
                         "num_tokens %d >= 0",
                         (int)p->num_states, (int)p->num_heads, (int)p->dim, (int)p->num_tokens);
    const uint64_t states = (uint64_t)p->num_states, tokens = (uint64_t)p->num_tokens;
    const uint64_t heads = (uint64_t)p->num_heads, dim = (uint64_t)p->dim;
    const struct {
        mla__tensor_spec spec;
        const clmla_tensor *tensor;
        mla__view *view;
    } checks[] = {
        {{"merge_states: partial_out", {states, tokens, heads, dim}, 4, MLA__F32, CLMLA_DTYPE_F32},
         &p->partial_out,
         &args->partial_out},
        {{"merge_states: partial_lse", {states, tokens, heads}, 3, MLA__F32, CLMLA_DTYPE_F32},
         &p->partial_lse,
         &args->partial_lse},
        {{"merge_states: out", {tokens, heads, dim}, 3, MLA__FLOATS, CLMLA_DTYPE_BF16},
         &p->out,
         &args->out},
        {{"merge_states: softmax_lse", {tokens, heads}, 2, MLA__F32, CLMLA_DTYPE_F32},
         &p->softmax_lse,
         &args->lse},
    };
    args->lse = (mla__view){.dtype = CLMLA_DTYPE_F32};
    for (size_t i = 0; i < sizeof checks / sizeof checks[0]; i++) {
        if (checks[i].tensor == &p->softmax_lse && p->softmax_lse.buffer == NULL)
            continue; /* not wanted */
        const clmla_status status =
            mla__view_make(context, checks[i].tensor, &checks[i].spec, checks[i].view);
        if (status != CLMLA_SUCCESS)
            return status;
    }
    return CLMLA_SUCCESS;
}

static clmla_status set_arguments(mla__merge *op, const merge_args *args)
{
    mla__kernel *kernel = &op->kernel;
    mla__arg_view(kernel, &args->partial_out, 3);
    mla__arg_view(kernel, &args->partial_lse, 2);
    mla__arg_view(kernel, &args->out, 2);
    mla__arg_view(kernel, &args->lse, 1);
    mla__arg_int(kernel, op->num_states);
    mla__arg_int(kernel, op->num_tokens);
    mla__arg_int(kernel, op->num_heads);
    mla__arg_int(kernel, op->dim);
    return mla__kernel_ready(kernel);
}

clmla_status mla__merge_bind(clmla_context *context, const clmla_merge_states_params *user_params,
                             mla__merge *op)
{
    clmla_merge_states_params params;
    merge_args args;
    clmla_status status = MLA__PARAMS_COPY(context, "merge_states", params, user_params);
    if (status == CLMLA_SUCCESS)
        status = check(context, &params, &args);
    if (status != CLMLA_SUCCESS)
        return status;

    const uint64_t tokens = (uint64_t)params.num_tokens;
    mla__merge made = {
        .num_heads = params.num_heads,
        .dim = params.dim,
        .num_states = params.num_states,
        .num_tokens = params.num_tokens,
        .out_token_stride = args.partial_out.strides[1],
        .lse_token_stride = args.partial_lse.strides[1],
        .out_packed = args.partial_out.strides[0] == tokens * args.partial_out.strides[1],
        .lse_packed = args.partial_lse.strides[0] == tokens * args.partial_lse.strides[1],
        .work_group = WANTED_WORK_GROUP < context->device.max_work_group_size
                          ? WANTED_WORK_GROUP
                          : context->device.max_work_group_size};
    const char *const files[] = {"merge.cl", NULL};
    mla__defines defines = {.length = 0};
    mla__define_dtype(&defines, "OUT_DTYPE", args.out.dtype);
    mla__define_loops(&defines, mla__loops_merge(params.num_states));
    status = mla__kernel_create(context, files, &defines, "merge", &made.kernel);
    if (status == CLMLA_SUCCESS)
        status = set_arguments(&made, &args);
    if (status == CLMLA_SUCCESS)
        *op = made;
    else
        mla__merge_release(&made);
    return status;
}

static clmla_status set_num_tokens(mla__merge *op, int32_t num_tokens)
{
    const uint64_t tokens = (uint64_t)num_tokens;
    clmla_status status = mla__arg_set_int(&op->kernel, NUM_TOKENS_ARG, num_tokens);
    if (status == CLMLA_SUCCESS && op->out_packed)
        status =
            mla__arg_set_ulong(&op->kernel, OUT_STATE_STRIDE_ARG, tokens * op->out_token_stride);
    if (status == CLMLA_SUCCESS && op->lse_packed)
        status =
            mla__arg_set_ulong(&op->kernel, LSE_STATE_STRIDE_ARG, tokens * op->lse_token_stride);
    if (status == CLMLA_SUCCESS)
        op->num_tokens = num_tokens;
    return status;
}

static clmla_status launch(mla__merge *op, mla__stream *stream, int32_t num_states,
                           int32_t num_tokens, size_t work_items)
{
    clmla_status status = CLMLA_SUCCESS;
    if (op->num_states != num_states)
        status = mla__arg_set_int(&op->kernel, NUM_STATES_ARG, num_states);
    if (status != CLMLA_SUCCESS)
        return status;
    op->num_states = num_states;
    if (op->num_tokens != num_tokens)
        status = set_num_tokens(op, num_tokens);
    if (status != CLMLA_SUCCESS)
        return status;
    return mla__stream_launch(stream, &op->kernel, 1, &work_items, &op->work_group);
}

clmla_status mla__merge_enqueue(mla__merge *op, mla__stream *stream, int32_t num_states,
                                int32_t num_tokens)
{
    const size_t chunks = ((size_t)op->dim + VALUES - 1) / VALUES;
    return launch(op, stream, num_states, num_tokens,
                  (size_t)num_tokens * (size_t)op->num_heads * chunks);
}

clmla_status mla__merge_warm(mla__merge *op, mla__stream *stream)
{
    return launch(op, stream, op->num_states, 0, 1);
}

void mla__merge_release(mla__merge *op) { mla__kernel_release(&op->kernel); }

clmla_status clmla_enqueue_merge_states(clmla_context *context,
                                        const clmla_merge_states_params *params,
                                        cl_command_queue queue, cl_uint num_events,
                                        const cl_event *wait_list, cl_event *event)
{
    if (context == NULL)
        return CLMLA_INVALID_ARGUMENT;
    mla__merge op = {.num_tokens = 0};
    mla__stream stream;
    clmla_status status = mla__merge_bind(context, params, &op);
    if (status != CLMLA_SUCCESS)
        return status;
    status = mla__stream_begin(&stream, queue, num_events, wait_list);
    if (status == CLMLA_SUCCESS)
        status = mla__merge_enqueue(&op, &stream, op.num_states, op.num_tokens);
    if (status == CLMLA_SUCCESS)
        status = mla__stream_end(&stream, event);
    mla__merge_release(&op);
    return status;
}
