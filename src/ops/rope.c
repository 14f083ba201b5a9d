#include "ops/rope.h"

#include <inttypes.h>
#include <stdlib.h>

#include "core/config.h"
#include "core/yarn.h"
#include "ops/loops.h"

/* Indices of arguments that change; see cl/rope.cl. */
enum {
    TABLE_NUM_SEQUENCES_ARG = MLA__SEQUENCES_ARGS - 1,
    TABLE_NUM_TOKENS_ARG = MLA__SEQUENCES_ARGS + 8,
    ROPE_TOKEN_BEGIN_ARG = 10,
    ROPE_NUM_TOKENS_ARG = 11
};

enum { TABLE_WORK_GROUP = 32, ROPE_WORK_GROUP = 128 };

/* ---- the table ------------------------------------------------------------------------------- */

typedef struct table_args {
    clmla_config config; /* resolved */
    mla__sequences sequences;
    mla__view positions, cos_sin;
} table_args;

static clmla_status check_table(const clmla_context *context, const clmla_rope_table_params *params,
                                table_args *args)
{
    char why[160];
    if (params->config == NULL)
        return mla__fail(context, CLMLA_INVALID_ARGUMENT, "rope_table: config is null");
    clmla_status status = mla__config_resolve(params->config, &args->config, why, sizeof why);
    if (status != CLMLA_SUCCESS)
        return mla__fail(context, status, "rope_table: %s", why);
    status = mla__sequences_make(context, "rope_table", &params->sequences, 0, &args->sequences);
    if (status != CLMLA_SUCCESS)
        return status;

    const uint64_t tokens = (uint64_t)args->sequences.num_tokens;
    const mla__tensor_spec positions = {.name = "rope_table: positions",
                                        .shape = {tokens},
                                        .rank = 1,
                                        .dtypes = MLA__I32,
                                        .otherwise = CLMLA_DTYPE_I32};
    const mla__tensor_spec cos_sin = {
        .name = "rope_table: cos_sin",
        .shape = {tokens, (uint64_t)(args->config.qk_rope_head_dim / 2), 2},
        .rank = 3,
        .dtypes = MLA__F32,
        .otherwise = CLMLA_DTYPE_F32};
    args->positions = (mla__view){.buffer = NULL, .dtype = CLMLA_DTYPE_I32};
    if (params->positions.buffer != NULL)
        status = mla__view_make(context, &params->positions, &positions, &args->positions);
    if (status == CLMLA_SUCCESS)
        status = mla__view_make(context, &params->cos_sin, &cos_sin, &args->cos_sin);
    return status;
}

/* turns of clmla_config on the device; *out stays NULL when there is no rope part. */
static clmla_status make_turns(const clmla_context *context, const clmla_config *config,
                               cl_mem *out)
{
    const size_t half = (size_t)config->qk_rope_head_dim / 2;
    if (half == 0)
        return CLMLA_SUCCESS;
    uint64_t *turns = malloc(half * sizeof *turns);
    if (turns == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    mla__rope_turns(config, turns);
    cl_int error = CL_SUCCESS;
    cl_mem buffer = clCreateBuffer(context->context, CL_MEM_READ_ONLY | CL_MEM_COPY_HOST_PTR,
                                   half * sizeof *turns, turns, &error);
    free(turns);
    if (error != CL_SUCCESS)
        return mla__fail(context, error, "rope: cannot allocate %zu bytes of turns",
                         half * sizeof *turns);
    *out = buffer;
    return CLMLA_SUCCESS;
}

clmla_status mla__rope_table_bind(clmla_context *context,
                                  const clmla_rope_table_params *user_params, mla__rope_table *op)
{
    clmla_rope_table_params params;
    table_args args;
    clmla_status status = MLA__PARAMS_COPY(context, "rope_table", params, user_params);
    if (status == CLMLA_SUCCESS)
        status = check_table(context, &params, &args);
    if (status != CLMLA_SUCCESS)
        return status;

    mla__rope_table made = {.half = args.config.qk_rope_head_dim / 2,
                            .num_sequences = args.sequences.num_sequences,
                            .num_tokens = args.sequences.num_tokens,
                            .work_group = mla__row_work_group(context, TABLE_WORK_GROUP)};
    const char *const files[] = {"rope.cl", NULL};
    mla__defines defines = {.length = 0};
    mla__define_int(&defines, "WORK_GROUP", (long long)made.work_group);
    mla__define_loops(&defines,
                      mla__loops_search() + mla__loops_rotate(1, made.half, made.work_group));
    status = make_turns(context, &args.config, &made.turns);
    if (status == CLMLA_SUCCESS)
        status = mla__kernel_create(context, files, &defines, "rope_table", &made.kernel);
    if (status != CLMLA_SUCCESS)
        goto cleanup;

    mla__arg_sequences(&made.kernel, &args.sequences);
    mla__arg_buffer(&made.kernel, made.turns);
    mla__arg_int(&made.kernel, made.half);
    mla__arg_view(&made.kernel, &args.positions, 0);
    mla__arg_view(&made.kernel, &args.cos_sin, 2);
    mla__arg_int(&made.kernel, made.num_tokens);
    status = mla__kernel_ready(&made.kernel);
cleanup:
    if (status == CLMLA_SUCCESS)
        *op = made;
    else
        mla__rope_table_release(&made);
    return status;
}

static clmla_status launch_table(mla__rope_table *op, mla__stream *stream, int32_t num_sequences,
                                 int32_t num_tokens, size_t work_groups)
{
    clmla_status status = CLMLA_SUCCESS;
    if (op->num_sequences != num_sequences)
        status = mla__arg_set_int(&op->kernel, TABLE_NUM_SEQUENCES_ARG, num_sequences);
    if (status != CLMLA_SUCCESS)
        return status;
    op->num_sequences = num_sequences;
    if (op->num_tokens != num_tokens)
        status = mla__arg_set_int(&op->kernel, TABLE_NUM_TOKENS_ARG, num_tokens);
    if (status != CLMLA_SUCCESS)
        return status;
    op->num_tokens = num_tokens;
    const size_t global = work_groups * op->work_group;
    return mla__stream_launch(stream, &op->kernel, 1, &global, &op->work_group);
}

clmla_status mla__rope_table_enqueue(mla__rope_table *op, mla__stream *stream,
                                     int32_t num_sequences, int32_t num_tokens)
{
    return launch_table(op, stream, num_sequences, num_tokens, (size_t)num_tokens);
}

clmla_status mla__rope_table_warm(mla__rope_table *op, mla__stream *stream)
{
    return launch_table(op, stream, 0, 0, 1);
}

void mla__rope_table_release(mla__rope_table *op)
{
    mla__kernel_release(&op->kernel);
    if (op->turns != NULL)
        clReleaseMemObject(op->turns);
    op->turns = NULL;
}

clmla_status clmla_enqueue_rope_table(clmla_context *context, const clmla_rope_table_params *params,
                                      cl_command_queue queue, cl_uint num_events,
                                      const cl_event *wait_list, cl_event *event)
{
    if (context == NULL)
        return CLMLA_INVALID_ARGUMENT;
    mla__rope_table op = {.half = 0};
    mla__stream stream;
    clmla_status status = mla__rope_table_bind(context, params, &op);
    if (status != CLMLA_SUCCESS)
        return status;
    status = mla__stream_begin(&stream, queue, num_events, wait_list);
    if (status == CLMLA_SUCCESS)
        status = mla__rope_table_enqueue(&op, &stream, op.num_sequences, op.num_tokens);
    if (status == CLMLA_SUCCESS)
        status = mla__stream_end(&stream, event);
    mla__rope_table_release(&op);
    return status;
}

/* ---- the rotation ---------------------------------------------------------------------------- */

clmla_status mla__rope_check(const clmla_context *context, const clmla_rope_params *params,
                             mla__view *x, mla__view *cos_sin)
{
    if (params->num_tokens < 0 || params->num_heads < 1)
        return mla__fail(context, CLMLA_INVALID_TENSOR_SHAPE,
                         "rope: num_tokens %" PRId32 " must be >= 0, num_heads %" PRId32 " >= 1",
                         params->num_tokens, params->num_heads);
    if (params->rope_dim < 0 || params->rope_dim % 2 != 0)
        return mla__fail(context, CLMLA_INVALID_TENSOR_SHAPE,
                         "rope: rope_dim %" PRId32 " must be even and >= 0", params->rope_dim);

    const uint64_t tokens = (uint64_t)params->num_tokens;
    const uint64_t heads = (uint64_t)params->num_heads, dim = (uint64_t)params->rope_dim;
    const mla__tensor_spec x_spec = {.name = "rope: x",
                                     .shape = {tokens, heads, dim},
                                     .rank = 3,
                                     .dtypes = MLA__FLOATS,
                                     .otherwise = CLMLA_DTYPE_BF16};
    const mla__tensor_spec cos_sin_spec = {.name = "rope: cos_sin",
                                           .shape = {tokens, dim / 2, 2},
                                           .rank = 3,
                                           .dtypes = MLA__F32,
                                           .otherwise = CLMLA_DTYPE_F32};
    clmla_status status = mla__view_make(context, &params->x, &x_spec, x);
    if (status == CLMLA_SUCCESS)
        status = mla__view_make(context, &params->cos_sin, &cos_sin_spec, cos_sin);
    return status;
}

clmla_status mla__rope_bind(clmla_context *context, const clmla_rope_params *user_params,
                            mla__rope *op)
{
    clmla_rope_params params;
    mla__view x, cos_sin;
    clmla_status status = MLA__PARAMS_COPY(context, "rope", params, user_params);
    if (status == CLMLA_SUCCESS)
        status = mla__rope_check(context, &params, &x, &cos_sin);
    if (status != CLMLA_SUCCESS)
        return status;

    mla__rope made = {.num_heads = params.num_heads,
                      .half = params.rope_dim / 2,
                      .num_tokens = params.num_tokens,
                      .work_group = mla__row_work_group(context, ROPE_WORK_GROUP)};
    if (made.half == 0) {
        *op = made;
        return CLMLA_SUCCESS;
    }
    const char *const files[] = {"rotate.clh", "rope.cl", NULL};
    mla__defines defines = {.length = 0};
    mla__define_int(&defines, "WORK_GROUP", (long long)made.work_group);
    mla__define_dtype(&defines, "X_DTYPE", x.dtype);
    mla__define_loops(&defines, mla__loops_rotate(1, made.half, made.work_group));
    status = mla__kernel_create(context, files, &defines, "rope", &made.kernel);
    if (status != CLMLA_SUCCESS)
        return status;

    mla__arg_view(&made.kernel, &x, 2);
    mla__arg_view(&made.kernel, &cos_sin, 2);
    mla__arg_int(&made.kernel, made.num_heads);
    mla__arg_int(&made.kernel, made.half);
    mla__arg_int(&made.kernel, made.token_begin);
    mla__arg_int(&made.kernel, made.num_tokens);
    status = mla__kernel_ready(&made.kernel);
    if (status == CLMLA_SUCCESS)
        *op = made;
    else
        mla__rope_release(&made);
    return status;
}

clmla_status mla__rope_enqueue(mla__rope *op, mla__stream *stream, int32_t token_begin,
                               int32_t num_tokens)
{
    clmla_status status = CLMLA_SUCCESS;
    if (op->half == 0)
        return CLMLA_SUCCESS;
    if (op->token_begin != token_begin)
        status = mla__arg_set_int(&op->kernel, ROPE_TOKEN_BEGIN_ARG, token_begin);
    if (status != CLMLA_SUCCESS)
        return status;
    op->token_begin = token_begin;
    if (op->num_tokens != num_tokens)
        status = mla__arg_set_int(&op->kernel, ROPE_NUM_TOKENS_ARG, num_tokens);
    if (status != CLMLA_SUCCESS)
        return status;
    op->num_tokens = num_tokens;
    const size_t heads = (size_t)num_tokens * (size_t)op->num_heads;
    const size_t global = op->work_group == 1 ? heads : heads * (size_t)op->half;
    return mla__stream_launch(stream, &op->kernel, 1, &global, &op->work_group);
}

void mla__rope_release(mla__rope *op) { mla__kernel_release(&op->kernel); }

clmla_status clmla_enqueue_rope(clmla_context *context, const clmla_rope_params *params,
                                cl_command_queue queue, cl_uint num_events,
                                const cl_event *wait_list, cl_event *event)
{
    if (context == NULL)
        return CLMLA_INVALID_ARGUMENT;
    mla__rope op = {.half = 0};
    mla__stream stream;
    clmla_status status = mla__rope_bind(context, params, &op);
    if (status != CLMLA_SUCCESS)
        return status;
    status = mla__stream_begin(&stream, queue, num_events, wait_list);
    if (status == CLMLA_SUCCESS)
        status = mla__rope_enqueue(&op, &stream, 0, op.num_tokens);
    if (status == CLMLA_SUCCESS)
        status = mla__stream_end(&stream, event);
    mla__rope_release(&op);
    return status;
}
