/*
 * Checked tensor views: what a kernel needs to know of a clmla_tensor (buffer, element offset,
 * element strides, dtype) after the shape, the strides and the size of the buffer were checked.
 */
#ifndef CLMLA_OPS_TENSOR_H
#define CLMLA_OPS_TENSOR_H

#include "ocl/context.h"
#include "ocl/launch.h"

typedef struct mla__view {
    cl_mem buffer;
    uint64_t offset;     /* elements */
    uint64_t strides[3]; /* elements; of the dimensions before the last, outermost first */
    clmla_dtype dtype;   /* resolved, never DEFAULT */
} mla__view;

/* Bit masks of accepted dtypes. */
enum {
    MLA__BF16 = 1 << CLMLA_DTYPE_BF16,
    MLA__F16 = 1 << CLMLA_DTYPE_F16,
    MLA__F32 = 1 << CLMLA_DTYPE_F32,
    MLA__I32 = 1 << CLMLA_DTYPE_I32,
    MLA__FLOATS = MLA__BF16 | MLA__F16 | MLA__F32
};

/* What an argument must be. */
typedef struct mla__tensor_spec {
    const char *name;      /* for messages: "attention: q_lat" */
    uint64_t shape[4];     /* memory order */
    int rank;              /* 1 .. 4 */
    int dtypes;            /* mask of the above */
    clmla_dtype otherwise; /* what DEFAULT means here */
} mla__tensor_spec;

/* Resolves and checks one tensor: dtype in the mask, offset a multiple of the element size, each
 * stride at least the span of the dimensions inside it (0: dense; a dimension of size <= 1 may have
 * any), the last element inside the buffer. Errors go to notify with the spec's name. A shape with
 * a zero is empty: only the dtype is checked, buffer may be NULL. */
clmla_status mla__view_make(const clmla_context *context, const clmla_tensor *tensor,
                            const mla__tensor_spec *spec, mla__view *out);

/* As arguments of a kernel: the buffer, then ulong offset, then `count` ulong strides. */
void mla__arg_view(mla__kernel *kernel, const mla__view *view, int count);

/* Whether offset and strides of the first two dimensions are multiples of `elements`: where kernels
 * may read as many at once. */
bool mla__view_is_multiple(const mla__view *view, uint64_t elements);

/* True when two views of checked shapes may share a byte: same buffer, overlapping spans. */
bool mla__views_overlap(const mla__view *a, uint64_t a_span_elements, const mla__view *b,
                        uint64_t b_span_elements);

#endif
