#include "ops/projection_clblast.h"

#include <stdlib.h>

#include "ops/clblast.h"

static int32_t min_int(int32_t a, int32_t b) { return a < b ? a : b; }

clmla_status mla__projection_clblast_workspace(const clmla_context *context,
                                               const clmla_matrix *matrix, int32_t max_rows,
                                               uint64_t *bytes)
{
    mla__clblast_layout l;
    if (max_rows <= 0) {
        *bytes = 0;
        return CLMLA_SUCCESS;
    }
    const clmla_status status = mla__clblast_lay_out(context, matrix, max_rows, &l);
    if (status == CLMLA_SUCCESS) /* the workspace may begin anywhere */
        *bytes = mla__clblast_layout_bytes(&l) + mla__clblast_alignment(context);
    return status;
}

/* ---- binding ------------------------------------------------------------------------------- */

/* The buffer that sub-buffers are made from, and where `buffer` begins in it. */
static clmla_status find_root(cl_mem buffer, cl_mem *root, size_t *base)
{
    cl_mem parent = NULL;
    size_t offset = 0;
    clmla_status status =
        clGetMemObjectInfo(buffer, CL_MEM_ASSOCIATED_MEMOBJECT, sizeof(parent), &parent, NULL);
    if (status == CLMLA_SUCCESS && parent != NULL)
        status = clGetMemObjectInfo(buffer, CL_MEM_OFFSET, sizeof(offset), &offset, NULL);
    if (status != CLMLA_SUCCESS)
        return status;
    *root = parent != NULL ? parent : buffer;
    *base = offset;
    return CLMLA_SUCCESS;
}

/* Cuts the next region of a root buffer; 0 bytes make none. */
static clmla_status take_region(cl_mem root, size_t *origin, uint64_t bytes, cl_mem *out)
{
    cl_int error;
    const cl_buffer_region region = {.origin = *origin, .size = (size_t)bytes};
    if (bytes == 0)
        return CLMLA_SUCCESS;
    const cl_mem buffer = clCreateSubBuffer(root, 0, CL_BUFFER_CREATE_TYPE_REGION, &region, &error);
    if (error != CL_SUCCESS)
        return error;
    *origin += (size_t)bytes;
    *out = buffer;
    return CLMLA_SUCCESS;
}

static clmla_status bind_workspace(mla__projection_clblast *op, const clmla_tensor *workspace)
{
    const mla__clblast_layout *l = &op->layout;
    const uint64_t align = mla__clblast_alignment(op->context),
                   needed = mla__clblast_layout_bytes(l) + align;
    size_t bytes = 0, base;
    cl_mem root;
    if (workspace->buffer == NULL)
        return mla__fail(op->context, CLMLA_WORKSPACE_TOO_SMALL,
                         "projection: no workspace, CLBlast needs %llu bytes",
                         (unsigned long long)needed);
    clmla_status status =
        clGetMemObjectInfo(workspace->buffer, CL_MEM_SIZE, sizeof(bytes), &bytes, NULL);
    if (status != CLMLA_SUCCESS)
        return mla__fail(op->context, status, "projection: workspace is not a buffer");
    if (workspace->offset_bytes > bytes || bytes - workspace->offset_bytes < needed)
        return mla__fail(op->context, CLMLA_WORKSPACE_TOO_SMALL,
                         "projection: workspace has %zu bytes from offset %llu, needs %llu", bytes,
                         (unsigned long long)workspace->offset_bytes, (unsigned long long)needed);
    status = find_root(workspace->buffer, &root, &base);
    if (status != CLMLA_SUCCESS)
        return status;
    size_t origin = (size_t)(mla__ceil_div(base + workspace->offset_bytes, align) * align);
    if ((status = take_region(root, &origin, l->x_bytes, &op->slabs.x)) != CLMLA_SUCCESS ||
        (status = take_region(root, &origin, l->w_bytes, &op->slabs.w)) != CLMLA_SUCCESS ||
        (status = take_region(root, &origin, l->y_bytes, &op->slabs.y)) != CLMLA_SUCCESS ||
        (status = take_region(root, &origin, l->temporary_bytes, &op->temporary)) != CLMLA_SUCCESS)
        return mla__fail(op->context, status, "projection: cannot cut the workspace");
    return CLMLA_SUCCESS;
}

/* The matrix's buffer, from whose start CLBlast counts 32-bit offsets; batches go one by one, since
 * its batched calls may ignore an offset. */
static clmla_status bind_misaligned_weights(mla__projection_clblast *op, uint64_t batch_bytes)
{
    const clmla_matrix *m = op->matrix;
    const uint64_t end = m->offset_bytes + (uint64_t)m->num_batches * batch_bytes;
    if (end / 4 > INT32_MAX)
        return mla__fail(
            op->context, CLMLA_UNSUPPORTED_CONFIG,
            "projection: weights at offset %llu, CLBlast's 32-bit offsets do not reach",
            (unsigned long long)m->offset_bytes);
    const clmla_status status = clRetainMemObject(m->buffer);
    if (status != CLMLA_SUCCESS)
        return status;
    op->w_groups[0] = m->buffer;
    op->num_w_groups = 1;
    op->w_offset = m->offset_bytes / 4;
    op->layout.slab_batches = 1;
    return CLMLA_SUCCESS;
}

/* Float32 weights are used where they lie, if the device lets a sub-buffer begin there. */
static clmla_status bind_float_weights(mla__projection_clblast *op)
{
    const clmla_matrix *m = op->matrix;
    const uint64_t batch_bytes =
        4 * (uint64_t)m->in_features * (uint64_t)mla__clblast_padded_columns(m);
    const int32_t batches = op->layout.slab_batches;
    const int32_t groups = (int32_t)mla__ceil_div((uint64_t)m->num_batches, (uint64_t)batches);
    const uint64_t align = mla__clblast_alignment(op->context);
    cl_mem root;
    size_t base;
    clmla_status status = find_root(m->buffer, &root, &base);
    if (status != CLMLA_SUCCESS)
        return status;
    op->w_groups = calloc((size_t)groups, sizeof(*op->w_groups));
    if (op->w_groups == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    size_t origin = base + (size_t)m->offset_bytes;
    if (origin % align != 0 || (groups > 1 && (uint64_t)batches * batch_bytes % align != 0))
        return bind_misaligned_weights(op, batch_bytes);
    for (; op->num_w_groups < groups && status == CLMLA_SUCCESS; op->num_w_groups++) {
        const int32_t in_group = min_int(batches, m->num_batches - op->num_w_groups * batches);
        status = take_region(root, &origin, (uint64_t)in_group * batch_bytes,
                             &op->w_groups[op->num_w_groups]);
    }
    return status;
}

clmla_status mla__projection_clblast_bind(clmla_context *context,
                                          const clmla_projection_params *params, const mla__view *x,
                                          const mla__view *y, mla__projection_clblast *op)
{
    mla__projection_clblast bound = {.context = context, .matrix = params->matrix};
    if (context->device.max_loop_iterations > 0)
        return mla__fail(context, CLMLA_UNSUPPORTED_DEVICE,
                         "projection: not by CLBlast, the loops of whose kernels nobody counted: "
                         "this device ends them after %u iterations without an error",
                         (unsigned)context->device.max_loop_iterations);
    clmla_status status =
        mla__clblast_lay_out(context, params->matrix, params->num_rows, &bound.layout);
    if (status == CLMLA_SUCCESS)
        status = bind_workspace(&bound, &params->workspace);
    if (status == CLMLA_SUCCESS && !mla__clblast_is_widened(bound.matrix))
        status = bind_float_weights(&bound);
    if (status == CLMLA_SUCCESS)
        status = mla__clblast_convert_bind(context, params, x, y, &bound.slabs, bound.layout.k_pad,
                                           &bound.convert);
    if (status != CLMLA_SUCCESS) {
        mla__projection_clblast_release(&bound);
        return status;
    }
    *op = bound;
    return CLMLA_SUCCESS;
}

void mla__projection_clblast_release(mla__projection_clblast *op)
{
    const cl_mem buffers[] = {op->slabs.x, op->slabs.w, op->slabs.y, op->temporary};
    for (size_t i = 0; i < sizeof(buffers) / sizeof(buffers[0]); i++) {
        if (buffers[i] != NULL)
            clReleaseMemObject(buffers[i]);
    }
    for (int32_t i = 0; i < op->num_w_groups; i++) {
        if (op->w_groups[i] != NULL)
            clReleaseMemObject(op->w_groups[i]);
    }
    free(op->w_groups);
    mla__clblast_convert_release(&op->convert);
    *op = (mla__projection_clblast){0};
}

/* ---- enqueuing ----------------------------------------------------------------------------- */

/* The weights of the call: the slab, a group of batches, or a place in the matrix's buffer. */
static void give_weights(const mla__projection_clblast *op, const mla__clblast_part *part,
                         mla__clblast_gemm *call)
{
    if (op->w_groups == NULL) {
        call->w = op->slabs.w;
    } else if (op->num_w_groups * op->layout.slab_batches >= op->matrix->num_batches) {
        call->w = op->w_groups[part->batch_begin / op->layout.slab_batches];
    } else {
        call->w = op->w_groups[0];
        call->w_offset = (size_t)part->batch_begin * call->k * call->columns;
    }
    call->w_offset += (size_t)op->w_offset;
}

static clmla_status multiply(mla__projection_clblast *op, mla__stream *stream,
                             const mla__clblast_part *part)
{
    mla__clblast_gemm call = {.columns = (size_t)part->columns,
                              .rows = (size_t)part->rows,
                              .k = (size_t)op->layout.k_pad,
                              .num_batches = (size_t)part->num_batches,
                              .x = op->slabs.x,
                              .y = op->slabs.y};
    give_weights(op, part, &call);
    uint64_t needed = 0;
    clmla_status status = CLMLA_SUCCESS;
    if (call.num_batches == 1)
        status = mla__clblast_temporary_bytes(op->context, stream->queue, call.columns, call.rows,
                                              call.k, call.w_offset, &needed);
    if (status == CLMLA_SUCCESS)
        status = mla__stream_before_foreign(stream);
    if (status != CLMLA_SUCCESS)
        return status;
    /* More than was reserved is possible for misaligned float32 weights only: CLBlast allocates. */
    if (needed > 0 && needed <= op->layout.temporary_bytes)
        call.temporary = op->temporary;
    status = mla__clblast_enqueue(op->context, stream->queue, &call);
    mla__stream_after_foreign(stream);
    stream->clblast_calls++;
    return status;
}

/* One block of rows of one group of batches, slab of columns by slab of columns. */
static clmla_status enqueue_block(mla__projection_clblast *op, mla__stream *stream,
                                  mla__clblast_part *part, int32_t y_row, int32_t num_rows,
                                  bool widen)
{
    const int32_t all_columns = mla__clblast_padded_columns(op->matrix);
    for (int32_t c = 0; c < all_columns; c += op->layout.slab_columns) {
        clmla_status status = CLMLA_SUCCESS;
        part->columns = min_int(op->layout.slab_columns, all_columns - c);
        if (widen)
            status = mla__clblast_convert_w(&op->convert, stream, part, c);
        if (status == CLMLA_SUCCESS)
            status = multiply(op, stream, part);
        if (status == CLMLA_SUCCESS)
            status = mla__clblast_convert_y(&op->convert, stream, part, y_row, num_rows, c);
        if (status != CLMLA_SUCCESS)
            return status;
    }
    return CLMLA_SUCCESS;
}

clmla_status mla__projection_clblast_enqueue(mla__projection_clblast *op, mla__stream *stream,
                                             int32_t x_row, int32_t y_row, int32_t num_rows)
{
    const mla__clblast_layout *l = &op->layout;
    const int32_t num_batches = op->matrix->num_batches;
    const bool one_slab = l->slab_batches == num_batches &&
                          l->slab_columns == mla__clblast_padded_columns(op->matrix);
    for (int32_t row = 0; row < num_rows; row += l->slab_rows) {
        const int32_t rows = min_int(l->slab_rows, num_rows - row);
        const bool widen = mla__clblast_is_widened(op->matrix) && (row == 0 || !one_slab);
        for (int32_t b = 0; b < num_batches; b += l->slab_batches) {
            mla__clblast_part part = {.batch_begin = b,
                                      .num_batches = min_int(l->slab_batches, num_batches - b),
                                      .rows = mla__clblast_padded_rows(op->context, rows)};
            clmla_status status =
                mla__clblast_convert_x(&op->convert, stream, &part, x_row + row, rows);
            if (status == CLMLA_SUCCESS)
                status = enqueue_block(op, stream, &part, y_row + row, rows, widen);
            if (status != CLMLA_SUCCESS)
                return status;
        }
    }
    return CLMLA_SUCCESS;
}

/* ---- warming up ---------------------------------------------------------------------------- */

static clmla_status fill_with_zeros(mla__stream *stream, cl_mem buffer, uint64_t bytes)
{
    const float zero = 0.0f;
    clmla_status status = mla__stream_before_foreign(stream);
    if (status == CLMLA_SUCCESS)
        status = clEnqueueFillBuffer(stream->queue, buffer, &zero, sizeof(zero), 0, (size_t)bytes,
                                     0, NULL, NULL);
    if (status == CLMLA_SUCCESS)
        mla__stream_after_foreign(stream);
    return status;
}

/* One call of each of CLBlast's kernels that calls of num_batches batches reach: direct and
 * indirect, and each set of parameters. */
static clmla_status warm_calls(mla__projection_clblast *op, mla__stream *stream,
                               int32_t num_batches)
{
    const mla__clblast_layout *l = &op->layout;
    mla__clblast_part part = {.num_batches = num_batches, .columns = l->slab_columns};
    const mla__clblast_record *last = NULL;
    bool last_direct = false;
    clmla_status status = CLMLA_SUCCESS;
    for (int32_t rows = 1; status == CLMLA_SUCCESS; rows = part.rows + 1) {
        bool direct;
        const bool first = part.rows == 0;
        part.rows = mla__clblast_padded_rows(op->context, rows);
        if (part.rows > l->slab_rows)
            break;
        const mla__clblast_record *record = mla__clblast_record_of(op->context, (size_t)part.rows);
        status = mla__clblast_is_direct(op->context, stream->queue, (size_t)part.columns,
                                        (size_t)part.rows, (size_t)l->k_pad, &direct);
        if (status == CLMLA_SUCCESS && (first || record != last || direct != last_direct))
            status = multiply(op, stream, &part);
        last = record;
        last_direct = direct;
    }
    return status;
}

clmla_status mla__projection_clblast_warm(mla__projection_clblast *op, mla__stream *stream)
{
    const mla__clblast_layout *l = &op->layout;
    clmla_status status;
    if ((status = fill_with_zeros(stream, op->slabs.x, l->x_bytes)) != CLMLA_SUCCESS ||
        (status = fill_with_zeros(stream, op->slabs.y, l->y_bytes)) != CLMLA_SUCCESS ||
        (l->w_bytes > 0 &&
         (status = fill_with_zeros(stream, op->slabs.w, l->w_bytes)) != CLMLA_SUCCESS) ||
        (status = mla__clblast_convert_warm(&op->convert, stream, l->slab_columns)) !=
            CLMLA_SUCCESS)
        return status;
    status = warm_calls(op, stream, l->slab_batches);
    if (status == CLMLA_SUCCESS && l->slab_batches > 1 &&
        op->matrix->num_batches % l->slab_batches == 1)
        status = warm_calls(op, stream, 1);
    return status;
}
