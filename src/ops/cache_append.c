#include "ops/cache_append.h"

#include <inttypes.h>

#include "ops/loops.h"

/* Indices of arguments that change; see cl/append.clh. The sequences come first. */
enum {
    SEQUENCES_ARG = 0,
    COS_SIN_ARG = MLA__SEQUENCES_ARGS + 5,
    TOKEN_BEGIN_ARG = MLA__SEQUENCES_ARGS + 20,
    NUM_TOKENS_ARG = MLA__SEQUENCES_ARGS + 21,
    WANTED_WORK_GROUP = 128
};

static clmla_status check_tensors(const clmla_context *context,
                                  const clmla_cache_append_params *params, mla__append_args *args)
{
    const uint64_t kv_lora = (uint64_t)params->kv_lora_rank, rope = (uint64_t)params->rope_dim;
    const uint64_t tokens = (uint64_t)args->sequences.num_tokens;
    const struct {
        mla__tensor_spec spec;
        const clmla_tensor *tensor;
        mla__view *view;
    } checks[] = {
        {{"cache_append: kv_a", {tokens, kv_lora + rope}, 2, MLA__F32, CLMLA_DTYPE_F32},
         &params->kv_a,
         &args->kv_a},
        {{"cache_append: kv_a_layernorm", {kv_lora}, 1, MLA__FLOATS, CLMLA_DTYPE_BF16},
         &params->kv_a_layernorm,
         &args->kv_a_layernorm},
        {{"cache_append: cos_sin", {tokens, rope / 2, 2}, 3, MLA__F32, CLMLA_DTYPE_F32},
         &params->cos_sin,
         &args->cos_sin},
    };
    for (size_t i = 0; i < sizeof checks / sizeof checks[0]; i++) {
        const clmla_status status =
            mla__view_make(context, checks[i].tensor, &checks[i].spec, checks[i].view);
        if (status != CLMLA_SUCCESS)
            return status;
    }
    return mla__cache_tensors_make(context, "cache_append", &args->sequences, &params->kv_cache,
                                   &params->pe_cache, params->kv_lora_rank, params->rope_dim,
                                   &args->cache);
}

clmla_status mla__append_check(const clmla_context *context,
                               const clmla_cache_append_params *params, mla__append_args *args)
{
    if (params->kv_lora_rank < 1 || params->rope_dim < 0 || params->rope_dim % 2 != 0)
        return mla__fail(context, CLMLA_INVALID_TENSOR_SHAPE,
                         "cache_append: kv_lora_rank %" PRId32 " must be >= 1, rope_dim %" PRId32
                         " even and >= 0",
                         params->kv_lora_rank, params->rope_dim);
    if (!mla__resolve_eps(params->eps, &args->eps))
        return mla__fail(context, CLMLA_INVALID_ARGUMENT,
                         "cache_append: eps %g is not a positive number", params->eps);
    args->kv_lora_rank = params->kv_lora_rank;
    args->half = params->rope_dim / 2;
    const clmla_status status =
        mla__sequences_make(context, "cache_append", &params->sequences, 1, &args->sequences);
    return status == CLMLA_SUCCESS ? check_tensors(context, params, args) : status;
}

mla__cache_append mla__append_begin(const clmla_context *context, const mla__append_args *args)
{
    return (mla__cache_append){.sequences_arg = SEQUENCES_ARG,
                               .cos_sin_arg = COS_SIN_ARG,
                               .num_tokens = args->sequences.num_tokens,
                               .work_group = mla__row_work_group(context, WANTED_WORK_GROUP),
                               .groups_per_token = 1};
}

double mla__append_loops(const mla__cache_append *op, const mla__append_args *args)
{
    return mla__loops_search() +
           mla__loops_row(args->kv_lora_rank, args->cache.fp8, op->work_group) +
           mla__loops_rotate(1, args->half, op->work_group);
}

void mla__append_define(const mla__cache_append *op, const mla__append_args *args,
                        mla__defines *defines)
{
    mla__define_int(defines, "WORK_GROUP", (long long)op->work_group);
    mla__define_dtype(defines, "W_DTYPE", args->kv_a_layernorm.dtype);
    mla__define_dtype(defines, "KV_DTYPE", args->cache.kv_cache.dtype);
    mla__define_int(defines, "KV_FP8", args->cache.fp8);
    mla__define_dtype(defines, "PE_DTYPE", args->cache.pe_cache.dtype);
}

void mla__append_arguments(mla__cache_append *op, const mla__append_args *args)
{
    mla__arg_sequences(&op->kernel, &args->sequences);
    mla__arg_view(&op->kernel, &args->kv_a, 1);
    mla__arg_view(&op->kernel, &args->kv_a_layernorm, 0);
    mla__arg_view(&op->kernel, &args->cos_sin, 2);
    mla__arg_view(&op->kernel, &args->cache.kv_cache, 2);
    mla__arg_view(&op->kernel, &args->cache.pe_cache, 2);
    mla__arg_int(&op->kernel, args->kv_lora_rank);
    mla__arg_int(&op->kernel, args->half);
    mla__arg_float(&op->kernel, args->eps);
    mla__arg_int(&op->kernel, op->token_begin);
    mla__arg_int(&op->kernel, op->num_tokens);
}

clmla_status mla__cache_append_bind(clmla_context *context,
                                    const clmla_cache_append_params *user_params,
                                    mla__cache_append *op)
{
    static const char *const files[] = {"append.clh", "cache_append.cl", NULL};
    clmla_cache_append_params params;
    mla__append_args args;
    clmla_status status = MLA__PARAMS_COPY(context, "cache_append", params, user_params);
    if (status == CLMLA_SUCCESS)
        status = mla__append_check(context, &params, &args);
    if (status != CLMLA_SUCCESS)
        return status;

    mla__cache_append made = mla__append_begin(context, &args);
    mla__defines defines = {.length = 0};
    mla__append_define(&made, &args, &defines);
    mla__define_loops(&defines, mla__append_loops(&made, &args));
    status = mla__kernel_create(context, files, &defines, "cache_append", &made.kernel);
    if (status != CLMLA_SUCCESS)
        return status;
    mla__append_arguments(&made, &args);
    status = mla__kernel_ready(&made.kernel);
    if (status == CLMLA_SUCCESS)
        *op = made;
    else
        mla__cache_append_release(&made);
    return status;
}

clmla_status mla__cache_append_set_sequences(mla__cache_append *op, const mla__sequences *sequences,
                                             const mla__view *cos_sin)
{
    const cl_uint first = op->cos_sin_arg;
    clmla_status status = mla__arg_set_sequences(&op->kernel, op->sequences_arg, sequences);
    if (status == CLMLA_SUCCESS)
        status = mla__arg_set_buffer(&op->kernel, first, cos_sin->buffer);
    if (status == CLMLA_SUCCESS)
        status = mla__arg_set_ulong(&op->kernel, first + 1, cos_sin->offset);
    if (status == CLMLA_SUCCESS)
        status = mla__arg_set_ulong(&op->kernel, first + 2, cos_sin->strides[0]);
    if (status == CLMLA_SUCCESS)
        status = mla__arg_set_ulong(&op->kernel, first + 3, cos_sin->strides[1]);
    return status;
}

static clmla_status launch(mla__cache_append *op, mla__stream *stream, int32_t token_begin,
                           int32_t num_tokens, size_t tokens)
{
    clmla_status status = CLMLA_SUCCESS;
    if (op->token_begin != token_begin)
        status = mla__arg_set_int(&op->kernel, TOKEN_BEGIN_ARG, token_begin);
    if (status != CLMLA_SUCCESS)
        return status;
    op->token_begin = token_begin;
    if (op->num_tokens != num_tokens)
        status = mla__arg_set_int(&op->kernel, NUM_TOKENS_ARG, num_tokens);
    if (status != CLMLA_SUCCESS)
        return status;
    op->num_tokens = num_tokens;
    const size_t global = tokens * op->groups_per_token * op->work_group;
    return mla__stream_launch(stream, &op->kernel, 1, &global, &op->work_group);
}

clmla_status mla__cache_append_enqueue(mla__cache_append *op, mla__stream *stream,
                                       int32_t token_begin, int32_t num_tokens)
{
    return launch(op, stream, token_begin, num_tokens, (size_t)num_tokens);
}

clmla_status mla__cache_append_warm(mla__cache_append *op, mla__stream *stream)
{
    return launch(op, stream, 0, 0, 1);
}

void mla__cache_append_release(mla__cache_append *op) { mla__kernel_release(&op->kernel); }

clmla_status clmla_enqueue_cache_append(clmla_context *context,
                                        const clmla_cache_append_params *params,
                                        cl_command_queue queue, cl_uint num_events,
                                        const cl_event *wait_list, cl_event *event)
{
    if (context == NULL)
        return CLMLA_INVALID_ARGUMENT;
    mla__cache_append op = {.num_tokens = 0};
    mla__stream stream;
    clmla_status status = mla__cache_append_bind(context, params, &op);
    if (status != CLMLA_SUCCESS)
        return status;
    status = mla__stream_begin(&stream, queue, num_events, wait_list);
    if (status == CLMLA_SUCCESS)
        status = mla__cache_append_enqueue(&op, &stream, 0, op.num_tokens);
    if (status == CLMLA_SUCCESS)
        status = mla__stream_end(&stream, event);
    mla__cache_append_release(&op);
    return status;
}
