#include "ops/tensor.h"

#include "core/checked.h"
#include "core/dtype.h"

static clmla_status resolve_dtype(const clmla_context *context, const clmla_tensor *tensor,
                                  const mla__tensor_spec *spec, clmla_dtype *out)
{
    const clmla_dtype dtype = mla__dtype_or(tensor->dtype, spec->otherwise);
    const bool known = dtype > CLMLA_DTYPE_DEFAULT && dtype <= CLMLA_DTYPE_F8_E4M3;
    if (!known || (spec->dtypes & (1 << dtype)) == 0)
        return mla__fail(context, CLMLA_INVALID_TENSOR_DTYPE, "%s has dtype %s (%d)", spec->name,
                         mla__dtype_name(dtype), (int)dtype);
    *out = dtype;
    return CLMLA_SUCCESS;
}

/* Fills the strides; *span = elements from the first to the last, both included. */
static clmla_status resolve_strides(const clmla_context *context, const clmla_tensor *tensor,
                                    const mla__tensor_spec *spec, uint64_t *strides, uint64_t *span)
{
    uint64_t reach = spec->shape[spec->rank - 1]; /* span of the dimensions inside dimension i */
    uint64_t dense = reach;                       /* what a stride of 0 means there */
    for (int i = spec->rank - 2; i >= 0; i--) {
        const uint64_t stride = tensor->strides[i] == 0 ? dense : tensor->strides[i];
        strides[i] = stride;
        if (spec->shape[i] <= 1)
            continue; /* its stride is never taken */
        if (stride < reach)
            return mla__fail(context, CLMLA_INVALID_STRIDE, "%s: strides[%d] is %llu < %llu",
                             spec->name, i, (unsigned long long)stride, (unsigned long long)reach);
        uint64_t steps = 0;
        if (!mla__checked_mul(stride, spec->shape[i] - 1, &steps) ||
            !mla__checked_add(steps, reach, &reach) ||
            !mla__checked_mul(stride, spec->shape[i], &dense))
            return mla__fail(context, CLMLA_BUFFER_TOO_SMALL,
                             "%s: %llu times strides[%d] %llu is more than any buffer holds",
                             spec->name, (unsigned long long)spec->shape[i], i,
                             (unsigned long long)stride);
    }
    *span = reach;
    return CLMLA_SUCCESS;
}

static clmla_status check_buffer(const clmla_context *context, const clmla_tensor *tensor,
                                 const mla__tensor_spec *spec, uint64_t span, uint64_t element)
{
    size_t size = 0;
    cl_context owner = NULL;
    clmla_status status = clGetMemObjectInfo(tensor->buffer, CL_MEM_SIZE, sizeof size, &size, NULL);
    if (status == CLMLA_SUCCESS)
        status = clGetMemObjectInfo(tensor->buffer, CL_MEM_CONTEXT, sizeof owner, &owner, NULL);
    if (status != CLMLA_SUCCESS)
        return mla__fail(context, status, "%s: the buffer is not valid", spec->name);
    if (context != NULL && owner != context->context)
        return mla__fail(context, CL_INVALID_CONTEXT, "%s: the buffer is of another cl_context",
                         spec->name);
    uint64_t end = 0;
    if (!mla__checked_mul(span, element, &end) ||
        !mla__checked_add(end, tensor->offset_bytes, &end))
        return mla__fail(context, CLMLA_BUFFER_TOO_SMALL,
                         "%s reaches past byte 2^64 of a buffer of %zu", spec->name, size);
    if (end > size)
        return mla__fail(context, CLMLA_BUFFER_TOO_SMALL, "%s reaches byte %llu of a buffer of %zu",
                         spec->name, (unsigned long long)end, size);
    return CLMLA_SUCCESS;
}

static bool is_empty(const mla__tensor_spec *spec)
{
    for (int i = 0; i < spec->rank; i++)
        if (spec->shape[i] == 0)
            return true;
    return false;
}

clmla_status mla__view_make(const clmla_context *context, const clmla_tensor *tensor,
                            const mla__tensor_spec *spec, mla__view *out)
{
    mla__view view = {.buffer = tensor->buffer};
    clmla_status status = resolve_dtype(context, tensor, spec, &view.dtype);
    if (status != CLMLA_SUCCESS)
        return status;
    if (is_empty(spec)) {
        *out = view;
        return CLMLA_SUCCESS;
    }
    if (tensor->buffer == NULL)
        return mla__fail(context, CLMLA_INVALID_ARGUMENT, "%s has no buffer", spec->name);
    const uint64_t element = mla__dtype_bytes(view.dtype);
    if (tensor->offset_bytes % element != 0)
        return mla__fail(context, CLMLA_INVALID_STRIDE,
                         "%s: offset_bytes %llu is not a multiple of the element size %llu",
                         spec->name, (unsigned long long)tensor->offset_bytes,
                         (unsigned long long)element);
    view.offset = tensor->offset_bytes / element;
    uint64_t span = 0;
    status = resolve_strides(context, tensor, spec, view.strides, &span);
    if (status == CLMLA_SUCCESS)
        status = check_buffer(context, tensor, spec, span, element);
    if (status == CLMLA_SUCCESS)
        *out = view;
    return status;
}

void mla__arg_view(mla__kernel *kernel, const mla__view *view, int count)
{
    mla__arg_buffer(kernel, view->buffer);
    mla__arg_ulong(kernel, view->offset);
    for (int i = 0; i < count; i++)
        mla__arg_ulong(kernel, view->strides[i]);
}

bool mla__view_is_multiple(const mla__view *view, uint64_t elements)
{
    return view->offset % elements == 0 && view->strides[0] % elements == 0 &&
           view->strides[1] % elements == 0;
}

bool mla__views_overlap(const mla__view *a, uint64_t a_span_elements, const mla__view *b,
                        uint64_t b_span_elements)
{
    if (a->buffer != b->buffer || a->buffer == NULL || a_span_elements == 0 || b_span_elements == 0)
        return false;
    const uint64_t a_element = mla__dtype_bytes(a->dtype), b_element = mla__dtype_bytes(b->dtype);
    const uint64_t a_begin = a->offset * a_element, a_end = a_begin + a_span_elements * a_element;
    const uint64_t b_begin = b->offset * b_element, b_end = b_begin + b_span_elements * b_element;
    return a_begin < b_end && b_begin < a_end;
}
