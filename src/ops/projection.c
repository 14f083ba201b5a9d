#include "ops/projection.h"

#include "tuning/record.h"

/* From here on CLBlast's tiles pay for its conversions; not measured on a GPU yet. */
enum { GPU_NATIVE_MAX_ROWS = 32 };

/* Class nvidia without tensor cores runs class gpu's kernels. */
static clmla_kernel_class native_class(const clmla_context *context)
{
    const bool portable = context->kernel_class == CLMLA_KERNELS_NVIDIA && !context->matrix_units;
    return portable ? CLMLA_KERNELS_GPU : context->kernel_class;
}

bool mla__projection_auto_rows(const clmla_context *context, clmla_dtype weights, int32_t *rows)
{
    static const mla__record_kernel auto_kernels[] = {
        [CLMLA_KERNELS_CPU] = MLA__RECORD_AUTO_CPU,
        [CLMLA_KERNELS_GPU] = MLA__RECORD_AUTO_GPU,
        [CLMLA_KERNELS_NVIDIA] = MLA__RECORD_AUTO_NVIDIA,
    };
    const clmla_kernel_class kernels = native_class(context);
    const mla__record_key key = {.kernel = auto_kernels[kernels], .dtype = weights};
    const bool counted = context->device.max_loop_iterations > 0; /* CLBlast's loops are not */
    const mla__record_entry *entry = counted ? NULL : mla__record_find(context->record, &key, 1);
    if (entry != NULL)
        *rows = entry->native_max_rows < MLA__RECORD_ALL_ROWS ? entry->native_max_rows : INT32_MAX;
    else /* tensor cores outrun CLBlast's float32 by far */
        *rows = kernels == CLMLA_KERNELS_GPU && !counted ? GPU_NATIVE_MAX_ROWS : INT32_MAX;
    return entry != NULL;
}

clmla_projection_backend mla__projection_resolve(const clmla_context *context,
                                                 clmla_projection_backend asked,
                                                 clmla_dtype weights, int32_t max_rows,
                                                 int32_t *native_max_rows)
{
    clmla_projection_backend backend = asked;
    if (asked == CLMLA_PROJECTION_AUTO) /* FP8 weights are native's alone */
        backend = weights == CLMLA_DTYPE_F8_E4M3 ? CLMLA_PROJECTION_NATIVE : context->projection;
    int32_t rows = backend == CLMLA_PROJECTION_CLBLAST ? 0 : INT32_MAX;
    if (backend == CLMLA_PROJECTION_AUTO) {
        (void)mla__projection_auto_rows(context, weights, &rows);
        if (max_rows <= rows)
            rows = INT32_MAX;
        backend = rows == INT32_MAX ? CLMLA_PROJECTION_NATIVE
                  : rows == 0       ? CLMLA_PROJECTION_CLBLAST
                                    : CLMLA_PROJECTION_AUTO;
    }
    *native_max_rows = rows;
    return backend;
}

static clmla_projection_backend resolve(const clmla_context *context,
                                        const clmla_projection_params *p, int32_t *native_max_rows)
{
    return mla__projection_resolve(context, p->backend, p->matrix->dtype, p->num_rows,
                                   native_max_rows);
}

static clmla_status check_params(const clmla_context *context, const clmla_projection_params *p)
{
    if (p->matrix == NULL)
        return mla__fail(context, CLMLA_INVALID_ARGUMENT, "projection: matrix is null");
    if (p->num_rows < 0)
        return mla__fail(context, CLMLA_INVALID_TENSOR_SHAPE,
                         "projection: num_rows is %d, must be >= 0", (int)p->num_rows);
    if (p->output_mode != CLMLA_OVERWRITE && p->output_mode != CLMLA_ACCUMULATE)
        return mla__fail(context, CLMLA_INVALID_ARGUMENT,
                         "projection: output_mode is %d, must be 0 or 1", (int)p->output_mode);
    if (p->backend < CLMLA_PROJECTION_AUTO || p->backend > CLMLA_PROJECTION_CLBLAST)
        return mla__fail(context, CLMLA_INVALID_ARGUMENT,
                         "projection: backend is %d, must be 0, 1 or 2", (int)p->backend);
    if (p->matrix->dtype == CLMLA_DTYPE_F8_E4M3 && p->backend == CLMLA_PROJECTION_CLBLAST)
        return mla__fail(context, CLMLA_UNSUPPORTED_CONFIG,
                         "projection: CLBlast takes no FP8 weights");
    return CLMLA_SUCCESS;
}

/* tensor as [num_rows, num_batches, features] */
static clmla_status make_view(const clmla_context *context, const clmla_projection_params *p,
                              const char *name, const clmla_tensor *tensor, int32_t features,
                              mla__view *out)
{
    const mla__tensor_spec spec = {
        .name = name,
        .shape = {(uint64_t)p->num_rows, (uint64_t)p->matrix->num_batches, (uint64_t)features},
        .rank = 3,
        .dtypes = MLA__FLOATS,
        .otherwise = CLMLA_DTYPE_BF16};
    return mla__view_make(context, tensor, &spec, out);
}

static clmla_status bind_checked(clmla_context *context, const clmla_projection_params *p,
                                 bool batch_invariant, mla__projection *op)
{
    mla__view x, y;
    clmla_status status = check_params(context, p);
    if (status == CLMLA_SUCCESS)
        status = make_view(context, p, "projection: x", &p->x, p->matrix->in_features, &x);
    if (status == CLMLA_SUCCESS)
        status = make_view(context, p, "projection: y", &p->y, p->matrix->out_features, &y);
    if (status != CLMLA_SUCCESS)
        return status;
    mla__projection bound = {0};
    bound.backend = resolve(context, p, &bound.native_max_rows);
    if (bound.backend != CLMLA_PROJECTION_CLBLAST) {
        clmla_projection_params native = *p;
        if (native.num_rows > bound.native_max_rows)
            native.num_rows = bound.native_max_rows;
        status =
            mla__projection_native_bind(context, &native, &x, &y, batch_invariant, &bound.native);
    }
    if (status == CLMLA_SUCCESS && bound.backend != CLMLA_PROJECTION_NATIVE && p->num_rows > 0)
        status = mla__projection_clblast_bind(context, p, &x, &y, &bound.clblast);
    if (status != CLMLA_SUCCESS) {
        mla__projection_release(&bound);
        return status;
    }
    *op = bound;
    return CLMLA_SUCCESS;
}

clmla_status mla__projection_bind_steps(clmla_context *context,
                                        const clmla_projection_params *params, bool batch_invariant,
                                        mla__projection *op)
{
    clmla_projection_params p;
    const clmla_status status = MLA__PARAMS_COPY(context, "projection", p, params);
    return status == CLMLA_SUCCESS ? bind_checked(context, &p, batch_invariant, op) : status;
}

clmla_status mla__projection_bind(clmla_context *context, const clmla_projection_params *params,
                                  mla__projection *op)
{
    return mla__projection_bind_steps(context, params, false, op);
}

clmla_status mla__projection_enqueue(mla__projection *op, mla__stream *stream, int32_t x_row,
                                     int32_t y_row, int32_t num_rows)
{
    if (num_rows <= 0)
        return CLMLA_SUCCESS;
    return num_rows <= op->native_max_rows
               ? mla__projection_native_enqueue(&op->native, stream, x_row, y_row, num_rows)
               : mla__projection_clblast_enqueue(&op->clblast, stream, x_row, y_row, num_rows);
}

clmla_status mla__projection_warm(mla__projection *op, mla__stream *stream)
{
    clmla_status status = CLMLA_SUCCESS;
    if (op->backend != CLMLA_PROJECTION_CLBLAST)
        status = mla__projection_native_warm(&op->native, stream);
    if (status == CLMLA_SUCCESS && op->clblast.context != NULL)
        status = mla__projection_clblast_warm(&op->clblast, stream);
    return status;
}

void mla__projection_release(mla__projection *op)
{
    mla__projection_native_release(&op->native);
    mla__projection_clblast_release(&op->clblast);
}

clmla_status clmla_enqueue_projection(clmla_context *context, const clmla_projection_params *params,
                                      cl_command_queue queue, cl_uint num_events,
                                      const cl_event *wait_list, cl_event *event)
{
    mla__projection op = {0};
    mla__stream stream;
    clmla_projection_params p;
    if (context == NULL)
        return CLMLA_INVALID_ARGUMENT;
    clmla_status status = MLA__PARAMS_COPY(context, "projection", p, params);
    if (status == CLMLA_SUCCESS)
        status = mla__stream_begin(&stream, queue, num_events, wait_list);
    if (status == CLMLA_SUCCESS)
        status = bind_checked(context, &p, false, &op);
    if (status == CLMLA_SUCCESS)
        status = mla__projection_enqueue(&op, &stream, 0, 0, p.num_rows);
    if (status == CLMLA_SUCCESS)
        status = mla__stream_end(&stream, event);
    mla__projection_release(&op);
    return status;
}

clmla_status clmla_projection_workspace_size(clmla_context *context,
                                             const clmla_projection_params *params, uint64_t *bytes)
{
    clmla_projection_params p;
    int32_t native_max_rows;
    if (context == NULL || bytes == NULL)
        return CLMLA_INVALID_ARGUMENT;
    clmla_status status = MLA__PARAMS_COPY(context, "projection", p, params);
    if (status == CLMLA_SUCCESS)
        status = check_params(context, &p);
    if (status != CLMLA_SUCCESS)
        return status;
    if (p.num_rows == 0 || resolve(context, &p, &native_max_rows) == CLMLA_PROJECTION_NATIVE) {
        *bytes = 0;
        return CLMLA_SUCCESS;
    }
    return mla__projection_clblast_workspace(context, p.matrix, p.num_rows, bytes);
}
