#include "ops/rmsnorm.h"

#include <inttypes.h>

#include "ops/loops.h"

/* The only argument of the kernel that changes; see cl/rmsnorm.cl. */
enum { NUM_TOKENS_ARG = 10, WANTED_WORK_GROUP = 128 };

/* True when some row of y shares a byte with some row of x and the two are not the same view.
 * Columns side by side in one matrix share none, although their spans overlap. */
static bool overlaps_partly(const mla__rmsnorm_args *args, const clmla_rmsnorm_params *params)
{
    const mla__view *x = &args->x, *y = &args->y;
    const uint64_t rows = (uint64_t)params->num_tokens, dim = (uint64_t)params->dim;
    if (rows == 0 || !mla__views_overlap(x, (rows - 1) * x->strides[0] + dim, y,
                                         (rows - 1) * y->strides[0] + dim))
        return false;
    const uint64_t x_bytes = mla__dtype_bytes(x->dtype), y_bytes = mla__dtype_bytes(y->dtype);
    const uint64_t x_begin = x->offset * x_bytes, y_begin = y->offset * y_bytes;
    const bool same_stride = rows == 1 || x->strides[0] * x_bytes == y->strides[0] * y_bytes;
    if (x_begin == y_begin && x->dtype == y->dtype && same_stride)
        return false;
    if (rows == 1 || !same_stride)
        return true;
    const uint64_t stride = x->strides[0] * x_bytes;
    const uint64_t column_x = x_begin % stride, column_y = y_begin % stride;
    return column_x <= column_y
               ? column_y - column_x < dim * x_bytes || column_y + dim * y_bytes > stride + column_x
               : column_x - column_y < dim * y_bytes ||
                     column_x + dim * x_bytes > stride + column_y;
}

clmla_status mla__rmsnorm_check(const clmla_context *context, const clmla_rmsnorm_params *params,
                                mla__rmsnorm_args *args)
{
    if (params->num_tokens < 0 || params->dim < 1)
        return mla__fail(context, CLMLA_INVALID_TENSOR_SHAPE,
                         "rmsnorm: num_tokens %" PRId32 " must be >= 0, dim %" PRId32 " >= 1",
                         params->num_tokens, params->dim);
    if (!mla__resolve_eps(params->eps, &args->eps))
        return mla__fail(context, CLMLA_INVALID_ARGUMENT,
                         "rmsnorm: eps %g is not a positive number", params->eps);

    const uint64_t rows = (uint64_t)params->num_tokens, dim = (uint64_t)params->dim;
    const mla__tensor_spec x = {.name = "rmsnorm: x",
                                .shape = {rows, dim},
                                .rank = 2,
                                .dtypes = MLA__FLOATS,
                                .otherwise = CLMLA_DTYPE_BF16};
    const mla__tensor_spec weight = {.name = "rmsnorm: weight",
                                     .shape = {dim},
                                     .rank = 1,
                                     .dtypes = MLA__FLOATS,
                                     .otherwise = CLMLA_DTYPE_BF16};
    mla__tensor_spec y = x;
    y.name = "rmsnorm: y";
    clmla_status status = mla__view_make(context, &params->x, &x, &args->x);
    if (status == CLMLA_SUCCESS)
        status = mla__view_make(context, &params->weight, &weight, &args->weight);
    if (status == CLMLA_SUCCESS)
        status = mla__view_make(context, &params->y, &y, &args->y);
    if (status == CLMLA_SUCCESS && overlaps_partly(args, params))
        return mla__fail(context, CLMLA_INVALID_ARGUMENT,
                         "rmsnorm: y overlaps x; it may be x exactly or lie apart");
    return status;
}

clmla_status mla__rmsnorm_bind(clmla_context *context, const clmla_rmsnorm_params *user_params,
                               mla__rmsnorm *op)
{
    clmla_rmsnorm_params params;
    mla__rmsnorm_args args;
    clmla_status status = MLA__PARAMS_COPY(context, "rmsnorm", params, user_params);
    if (status == CLMLA_SUCCESS)
        status = mla__rmsnorm_check(context, &params, &args);
    if (status != CLMLA_SUCCESS)
        return status;

    mla__rmsnorm made = {.num_tokens = params.num_tokens,
                         .work_group = mla__row_work_group(context, WANTED_WORK_GROUP)};
    const char *const files[] = {"rmsnorm.clh", "rmsnorm.cl", NULL};
    mla__defines defines = {.length = 0};
    mla__define_int(&defines, "WORK_GROUP", (long long)made.work_group);
    mla__define_dtype(&defines, "X_DTYPE", args.x.dtype);
    mla__define_dtype(&defines, "W_DTYPE", args.weight.dtype);
    mla__define_dtype(&defines, "Y_DTYPE", args.y.dtype);
    mla__define_loops(&defines, mla__loops_row(params.dim, false, made.work_group));
    status = mla__kernel_create(context, files, &defines, "rmsnorm", &made.kernel);
    if (status != CLMLA_SUCCESS)
        return status;

    mla__arg_view(&made.kernel, &args.x, 1);
    mla__arg_view(&made.kernel, &args.weight, 0);
    mla__arg_view(&made.kernel, &args.y, 1);
    mla__arg_int(&made.kernel, params.dim);
    mla__arg_float(&made.kernel, args.eps);
    mla__arg_int(&made.kernel, params.num_tokens);
    status = mla__kernel_ready(&made.kernel);
    if (status != CLMLA_SUCCESS) {
        mla__rmsnorm_release(&made);
        return status;
    }
    *op = made;
    return CLMLA_SUCCESS;
}

static clmla_status launch(mla__rmsnorm *op, mla__stream *stream, int32_t num_tokens,
                           size_t work_groups)
{
    if (op->num_tokens != num_tokens) {
        const clmla_status status = mla__arg_set_int(&op->kernel, NUM_TOKENS_ARG, num_tokens);
        if (status != CLMLA_SUCCESS)
            return status;
        op->num_tokens = num_tokens;
    }
    const size_t global = work_groups * op->work_group;
    return mla__stream_launch(stream, &op->kernel, 1, &global, &op->work_group);
}

clmla_status mla__rmsnorm_enqueue(mla__rmsnorm *op, mla__stream *stream, int32_t num_tokens)
{
    return launch(op, stream, num_tokens, (size_t)num_tokens);
}

clmla_status mla__rmsnorm_warm(mla__rmsnorm *op, mla__stream *stream)
{
    return launch(op, stream, 0, 1);
}

void mla__rmsnorm_release(mla__rmsnorm *op) { mla__kernel_release(&op->kernel); }

clmla_status clmla_enqueue_rmsnorm(clmla_context *context, const clmla_rmsnorm_params *params,
                                   cl_command_queue queue, cl_uint num_events,
                                   const cl_event *wait_list, cl_event *event)
{
    if (context == NULL)
        return CLMLA_INVALID_ARGUMENT;
    mla__rmsnorm op = {.num_tokens = 0};
    mla__stream stream;
    clmla_status status = mla__rmsnorm_bind(context, params, &op);
    if (status != CLMLA_SUCCESS)
        return status;
    status = mla__stream_begin(&stream, queue, num_events, wait_list);
    if (status == CLMLA_SUCCESS)
        status = mla__rmsnorm_enqueue(&op, &stream, op.num_tokens);
    if (status == CLMLA_SUCCESS)
        status = mla__stream_end(&stream, event);
    mla__rmsnorm_release(&op);
    return status;
}
