#include "ops/merge_up.h"

#include <stdio.h>

#include "ops/projection_kernel.h"

/* Arguments that change; see cl/gpu/merge_up.clh. */
enum {
    OUT_STATE_STRIDE_ARG = 2,
    LSE_STATE_STRIDE_ARG = 7,
    NUM_STATES_ARG = 16,
    NUM_TOKENS_ARG = 17
};

typedef struct merge_up_args {
    mla__view partial_out, partial_lse, y;
} merge_up_args;

static bool choose_tile(const clmla_context *context, const clmla_matrix *matrix,
                        mla__projection_tile *tile, int32_t *work_group)
{
    mla__projection_tile stream;
    if (context->kernel_class == CLMLA_KERNELS_CPU)
        return false;
    (void)mla__projection_choose_stream(context, matrix->dtype, matrix->num_batches,
                                        matrix->out_features, matrix->in_features, &stream);
    return mla__merge_up_tile(&context->device, &stream, matrix->in_features, tile, work_group);
}

bool mla__merge_up_fits(const clmla_context *context, const clmla_matrix *matrix)
{
    mla__projection_tile tile;
    int32_t work_group;
    return choose_tile(context, matrix, &tile, &work_group);
}

/* The states as one list: how they are cut into splits and tokens is a call's. */
static clmla_status check(const clmla_context *context, const mla__merge_up_params *p,
                          merge_up_args *args)
{
    const uint64_t tokens = (uint64_t)p->max_tokens, heads = (uint64_t)p->matrix->num_batches;
    const uint64_t in = (uint64_t)p->matrix->in_features, out = (uint64_t)p->matrix->out_features;
    clmla_tensor partial_out = p->partial_out, partial_lse = p->partial_lse;
    partial_out.strides[0] = p->partial_out.strides[1];
    partial_out.strides[1] = p->partial_out.strides[2];
    partial_lse.strides[0] = p->partial_lse.strides[1];
    partial_lse.strides[1] = 0;
    const struct {
        mla__tensor_spec spec;
        const clmla_tensor *tensor;
        mla__view *view;
    } checks[] = {
        {{"merge_up: partial_out", {p->num_states, heads, in}, 3, MLA__F32, CLMLA_DTYPE_F32},
         &partial_out,
         &args->partial_out},
        {{"merge_up: partial_lse", {p->num_states, heads}, 2, MLA__F32, CLMLA_DTYPE_F32},
         &partial_lse,
         &args->partial_lse},
        {{"merge_up: y", {tokens, heads, out}, 3, MLA__FLOATS, CLMLA_DTYPE_BF16}, &p->y, &args->y},
    };
    for (size_t i = 0; i < sizeof checks / sizeof checks[0]; i++) {
        const clmla_status status =
            mla__view_make(context, checks[i].tensor, &checks[i].spec, checks[i].view);
        if (status != CLMLA_SUCCESS)
            return status;
    }
    return CLMLA_SUCCESS;
}

static clmla_status make_kernel(clmla_context *context, const mla__merge_up_params *p,
                                const merge_up_args *args, mla__merge_up *op)
{
    static const char *const files[] = {"gpu/weights.clh", "gpu/merge_up.clh", "gpu/merge_up.cl",
                                        NULL};
    const clmla_matrix *w = p->matrix;
    mla__defines defines = {0};
    mla__define_dtype(&defines, "CTX_DTYPE", p->ctx_dtype);
    mla__define_dtype(&defines, "Y_DTYPE", args->y.dtype);
    mla__define_int(&defines, "PAIRED", w->dtype != CLMLA_DTYPE_F32);
    mla__define_int(&defines, "PAIR_F16", w->dtype == CLMLA_DTYPE_F16);
    mla__define_int(&defines, "PAIR_F8", w->dtype == CLMLA_DTYPE_F8_E4M3);
    mla__define_int(&defines, "LATENT", w->in_features);
    mla__define_int(&defines, "WORK_GROUP", op->work_group);
    mla__define_projection_tile(&defines, &op->tile);
    const clmla_status status =
        mla__kernel_create(context, files, &defines, "merge_up", &op->kernel);
    if (status != CLMLA_SUCCESS)
        return status;
    mla__kernel *k = &op->kernel;
    mla__arg_buffer(k, args->partial_out.buffer);
    mla__arg_ulong(k, args->partial_out.offset);
    mla__arg_ulong(k, 0); /* between splits */
    mla__arg_ulong(k, args->partial_out.strides[0]);
    mla__arg_ulong(k, args->partial_out.strides[1]);
    mla__arg_buffer(k, args->partial_lse.buffer);
    mla__arg_ulong(k, args->partial_lse.offset);
    mla__arg_ulong(k, 0); /* between splits */
    mla__arg_ulong(k, args->partial_lse.strides[0]);
    mla__arg_buffer(k, w->buffer);
    mla__arg_ulong(k, w->offset_bytes / 4);
    mla__arg_view(k, &args->y, 2);
    mla__arg_int(k, w->out_features);
    mla__arg_int(k, 0); /* num_states */
    mla__arg_int(k, 0); /* num_tokens */
    return mla__kernel_ready(k);
}

clmla_status mla__merge_up_bind(clmla_context *context, const mla__merge_up_params *params,
                                mla__merge_up *op)
{
    merge_up_args args;
    const clmla_matrix *w = params->matrix;
    mla__merge_up made = {.num_heads = w->num_batches,
                          .out_features = w->out_features,
                          .num_states = -1,
                          .num_tokens = -1};
    if (params->num_states < 1 || params->max_tokens < 0)
        return mla__fail(context, CLMLA_INVALID_TENSOR_SHAPE,
                         "merge_up: num_states %llu must be >= 1, max_tokens %d >= 0",
                         (unsigned long long)params->num_states, (int)params->max_tokens);
    if (!choose_tile(context, w, &made.tile, &made.work_group))
        return mla__fail(context, CLMLA_UNSUPPORTED_DEVICE,
                         "merge_up: [%d x %d, %d] does not fit class %s on this device",
                         (int)w->num_batches, (int)w->out_features, (int)w->in_features,
                         clmla_kernel_class_name(context->kernel_class));
    clmla_status status = check(context, params, &args);
    if (status != CLMLA_SUCCESS)
        return status;
    made.out_token_stride = args.partial_out.strides[0];
    made.lse_token_stride = args.partial_lse.strides[0];
    status = make_kernel(context, params, &args, &made);
    if (status == CLMLA_SUCCESS)
        *op = made;
    else
        mla__merge_up_release(&made);
    return status;
}

static clmla_status set_arguments(mla__merge_up *op, int32_t num_states, int32_t num_tokens)
{
    mla__kernel *k = &op->kernel;
    const uint64_t tokens = (uint64_t)num_tokens;
    clmla_status status = CLMLA_SUCCESS;
    if (op->num_states != num_states)
        status = mla__arg_set_int(k, NUM_STATES_ARG, num_states);
    if (status == CLMLA_SUCCESS && op->num_tokens != num_tokens) {
        status = mla__arg_set_int(k, NUM_TOKENS_ARG, num_tokens);
        if (status == CLMLA_SUCCESS)
            status = mla__arg_set_ulong(k, OUT_STATE_STRIDE_ARG, tokens * op->out_token_stride);
        if (status == CLMLA_SUCCESS)
            status = mla__arg_set_ulong(k, LSE_STATE_STRIDE_ARG, tokens * op->lse_token_stride);
    }
    op->num_states = status == CLMLA_SUCCESS ? num_states : -1;
    op->num_tokens = status == CLMLA_SUCCESS ? num_tokens : -1;
    return status;
}

static clmla_status launch(mla__merge_up *op, mla__stream *stream, int32_t num_states,
                           int32_t num_tokens, size_t tokens)
{
    const size_t work_group = (size_t)op->work_group;
    const size_t tiles =
        (size_t)mla__ceil_div((uint64_t)op->out_features, (uint64_t)op->tile.tile_columns);
    const size_t global[] = {tiles * work_group, (size_t)op->num_heads, tokens};
    const size_t local[] = {work_group, 1, 1};
    const clmla_status status = set_arguments(op, num_states, num_tokens);
    return status == CLMLA_SUCCESS ? mla__stream_launch(stream, &op->kernel, 3, global, local)
                                   : status;
}

clmla_status mla__merge_up_enqueue(mla__merge_up *op, mla__stream *stream, int32_t num_states,
                                   int32_t num_tokens)
{
    if (num_tokens <= 0)
        return CLMLA_SUCCESS;
    return launch(op, stream, num_states, num_tokens, (size_t)num_tokens);
}

clmla_status mla__merge_up_warm(mla__merge_up *op, mla__stream *stream)
{
    return launch(op, stream, 0, 0, 1);
}

int mla__merge_up_text(const clmla_context *context, const clmla_matrix *matrix, char *text,
                       size_t capacity)
{
    mla__projection_tile tile;
    int32_t work_group;
    char fields[256];
    if (!choose_tile(context, matrix, &tile, &work_group))
        return snprintf(text, capacity, "merge_up does not fit the device");
    (void)mla__projection_tile_text(&tile, fields, sizeof fields);
    return snprintf(text, capacity, "merge_up %s work_group=%d", fields, (int)work_group);
}

void mla__merge_up_release(mla__merge_up *op) { mla__kernel_release(&op->kernel); }
