#include "ops/projection_clblast.h"

#include "ops/clblast.h"

/* Bounds of the workspace, besides CLBlast's temporary. One call's weights are large enough to fill
 * a big device (64 MiB: 1024 columns of K = 16384) and x and y together hold a prefill of 1024 rows
 * of DeepSeek-R1's o_proj; with both, r1's projections stay below 150 MiB. */
static const uint64_t W_SLAB_BYTES = (uint64_t)64 << 20;
static const uint64_t ROWS_BYTES = (uint64_t)80 << 20;

enum {
    TILE = 64,     /* CLBlast's tiles of m and n are 16 .. 128, mostly 64 */
    K_TILE = 32,   /* of k: 16 or 32 */
    FEW_ROWS = 16, /* up to here rows are padded to FEW_TILE: CLBlast's direct kernel, which such */
    FEW_TILE = 8,  /* calls take, needs no multiple, and 64 rows would be 8 times the work */
    CONVERT_K = 8, /* input features per work-item of convert_x */
    MIN_ALIGNMENT = 256
};

static const char *const FILES[] = {"clblast_convert.cl", NULL};

/* Arguments of the kernels that change between launches. */
enum { X_BATCH_ARG = 7, X_ROW_ARG = 8, X_NUM_ROWS_ARG = 9, X_M_PAD_ARG = 10 };
enum { W_BATCH_ARG = 6, W_COLUMN_ARG = 7, W_COLUMNS_ARG = 8 };
enum {
    Y_BATCH_ARG = 6,
    Y_ROW_ARG = 7,
    Y_NUM_ROWS_ARG = 8,
    Y_M_PAD_ARG = 9,
    Y_COLUMN_ARG = 10,
    Y_COLUMNS_ARG = 11
};

/* One SGEMM: y[columns, rows] = W · xᵀ, column-major; rows already padded. */
typedef struct gemm {
    int32_t batch_begin, num_batches, columns, rows;
} gemm;

static uint64_t round_up(uint64_t a, uint64_t unit) { return (a + unit - 1) / unit * unit; }
static int32_t min_int(int32_t a, int32_t b) { return a < b ? a : b; }

/* Rows to whole tiles of the parameters that CLBlast is given, where they compute them. */
static int32_t padded_rows(const clmla_context *context, int32_t rows)
{
    const mla__clblast_record *record = mla__clblast_record_of(context, (size_t)rows);
    const bool given = record != NULL && record->min_indirect_size <= 1;
    const int32_t tile = given ? record->xgemm.nwg : rows <= FEW_ROWS ? FEW_TILE : TILE;
    return (int32_t)round_up((uint64_t)rows, (uint64_t)tile);
}

static int32_t padded_columns(const clmla_matrix *matrix)
{
    return (int32_t)round_up((uint64_t)matrix->out_features, MLA__PANEL);
}

static bool is_widened(const clmla_matrix *matrix) { return matrix->dtype != CLMLA_DTYPE_F32; }

static uint64_t alignment(const clmla_context *context)
{
    const uint64_t align = context->device.mem_base_addr_align_bytes;
    return align > MIN_ALIGNMENT ? align : MIN_ALIGNMENT;
}

/* ---- layout -------------------------------------------------------------------------------- */

/* Parts of at most `most`, as equal as multiples of unit can be. */
static int32_t balanced(int32_t total, uint64_t most, int32_t unit)
{
    const uint64_t whole = most / (uint64_t)unit * (uint64_t)unit;
    const uint64_t part = whole > 0 ? whole : (uint64_t)unit;
    if ((uint64_t)total <= part)
        return total;
    const uint64_t parts = mla__ceil_div((uint64_t)total, part);
    return (int32_t)round_up(mla__ceil_div((uint64_t)total, parts), (uint64_t)unit);
}

/* Batches are put together where they have few rows and columns each; else rows are cut. */
static void cut(const clmla_context *context, const clmla_matrix *matrix, int32_t max_rows,
                bool together, mla__clblast_layout *out)
{
    const bool widened = is_widened(matrix);
    const int32_t all_columns = padded_columns(matrix), all_rows = padded_rows(context, max_rows);
    mla__clblast_layout l = {0};
    l.k_pad =
        widened ? (int32_t)round_up((uint64_t)matrix->in_features, K_TILE) : matrix->in_features;
    const uint64_t column_bytes = 4 * (uint64_t)l.k_pad;
    l.slab_columns =
        widened ? balanced(all_columns, W_SLAB_BYTES / column_bytes, MLA__PANEL) : all_columns;
    const uint64_t row_bytes = 4 * ((uint64_t)l.k_pad + (uint64_t)l.slab_columns);
    l.slab_batches = 1;
    if (together && l.slab_columns == all_columns) {
        uint64_t most = ROWS_BYTES / (row_bytes * (uint64_t)all_rows);
        const uint64_t fit = W_SLAB_BYTES / (column_bytes * (uint64_t)all_columns);
        if (widened && fit < most)
            most = fit;
        l.slab_batches = balanced(matrix->num_batches, most, 1);
    }
    const uint64_t rows = ROWS_BYTES / (row_bytes * (uint64_t)l.slab_batches);
    l.slab_rows = balanced(all_rows, rows, rows < TILE ? FEW_TILE : TILE);
    /* fewer rows than a slab's must not be padded to more */
    while (padded_rows(context, l.slab_rows) > l.slab_rows && l.slab_rows > FEW_TILE)
        l.slab_rows -= FEW_TILE;
    l.slab_rows = padded_rows(context, l.slab_rows);
    *out = l;
}

/* The largest temporary that a call of enqueue may need. Row counts between those tried need no
 * more than the next larger one. */
static clmla_status largest_temporary(const clmla_context *context, cl_command_queue queue,
                                      const clmla_matrix *matrix, const mla__clblast_layout *l,
                                      uint64_t *bytes)
{
    const int32_t sizes[] = {1, FEW_ROWS, TILE, l->slab_rows - TILE, l->slab_rows};
    const int32_t rest = padded_columns(matrix) % l->slab_columns;
    const int32_t columns[] = {l->slab_columns, rest};
    /* batches of float32 weights that are multiplied one by one begin inside the matrix */
    const size_t w_offset = !is_widened(matrix) && matrix->num_batches > 1;
    uint64_t most = 0;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        const int32_t rows = padded_rows(context, sizes[i]);
        for (size_t j = 0; j < sizeof(columns) / sizeof(columns[0]); j++) {
            uint64_t needed;
            if (rows <= 0 || rows > l->slab_rows || columns[j] == 0)
                continue;
            const clmla_status status =
                mla__clblast_temporary_bytes(context, queue, (size_t)columns[j], (size_t)rows,
                                             (size_t)l->k_pad, w_offset, &needed);
            if (status != CLMLA_SUCCESS)
                return status;
            if (needed > most)
                most = needed;
        }
    }
    *bytes = most;
    return CLMLA_SUCCESS;
}

/* Whether a call may have several batches. CLBlast's indirect batched path allocates for all of
 * them what it cannot use as it lies, and knows no offset: it serves where parameters are given
 * that the slabs are padded for. */
static clmla_status batches_fit(const clmla_context *context, cl_command_queue queue,
                                const clmla_matrix *matrix, const mla__clblast_layout *l, bool *out)
{
    const size_t columns = (size_t)l->slab_columns, rows = (size_t)l->slab_rows;
    const size_t k = (size_t)l->k_pad;
    uint64_t temporary = 0;
    bool fit;
    clmla_status status = mla__clblast_is_direct(context, queue, columns, rows, k, &fit);
    if (status == CLMLA_SUCCESS && !fit && is_widened(matrix) &&
        mla__clblast_record_of(context, rows) != NULL) {
        status = mla__clblast_temporary_bytes(context, queue, columns, rows, k, 0, &temporary);
        fit = temporary == 0;
    }
    *out = fit;
    return status;
}

static clmla_status lay_out_with(const clmla_context *context, cl_command_queue queue,
                                 const clmla_matrix *matrix, int32_t max_rows,
                                 mla__clblast_layout *out)
{
    mla__clblast_layout l;
    bool fit = true;
    const uint64_t align = alignment(context);
    cut(context, matrix, max_rows, matrix->num_batches > 1, &l);
    if (l.slab_batches > 1) {
        const clmla_status status = batches_fit(context, queue, matrix, &l, &fit);
        if (status != CLMLA_SUCCESS)
            return status;
    }
    if (!fit)
        cut(context, matrix, max_rows, false, &l);
    const uint64_t floats = 4 * (uint64_t)l.slab_batches;
    const uint64_t rows = (uint64_t)l.slab_rows, columns = (uint64_t)l.slab_columns;
    l.x_bytes = round_up(floats * (uint64_t)l.k_pad * rows, align);
    l.w_bytes = is_widened(matrix) ? round_up(floats * (uint64_t)l.k_pad * columns, align) : 0;
    l.y_bytes = round_up(floats * columns * rows, align);
    const clmla_status status = largest_temporary(context, queue, matrix, &l, &l.temporary_bytes);
    if (status != CLMLA_SUCCESS)
        return status;
    l.temporary_bytes = round_up(l.temporary_bytes, align);
    *out = l;
    return CLMLA_SUCCESS;
}

/* CLBlast wants a queue even for a question; none is at hand when sizes are asked for. */
static clmla_status lay_out(const clmla_context *context, const clmla_matrix *matrix,
                            int32_t max_rows, mla__clblast_layout *out)
{
    const uint64_t elements = (uint64_t)matrix->num_batches * (uint64_t)padded_columns(matrix) *
                              (uint64_t)matrix->in_features;
    if (!is_widened(matrix) && elements > INT32_MAX)
        return mla__fail(context, CLMLA_UNSUPPORTED_CONFIG,
                         "projection: CLBlast's 32-bit offsets do not reach %llu float32 weights",
                         (unsigned long long)elements);
    cl_int error;
    const cl_command_queue queue =
        clCreateCommandQueue(context->context, context->device.id, 0, &error);
    if (error != CL_SUCCESS)
        return mla__fail(context, error, "projection: cannot make a queue for CLBlast's query");
    const clmla_status status = lay_out_with(context, queue, matrix, max_rows, out);
    clReleaseCommandQueue(queue);
    return status;
}

static uint64_t layout_bytes(const mla__clblast_layout *l)
{
    return l->x_bytes + l->w_bytes + l->y_bytes + l->temporary_bytes;
}

clmla_status mla__projection_clblast_workspace(const clmla_context *context,
                                               const clmla_matrix *matrix, int32_t max_rows,
                                               uint64_t *bytes)
{
    mla__clblast_layout l;
    if (max_rows <= 0) {
        *bytes = 0;
        return CLMLA_SUCCESS;
    }
    const clmla_status status = lay_out(context, matrix, max_rows, &l);
    if (status == CLMLA_SUCCESS)
        *bytes = layout_bytes(&l) + alignment(context); /* the workspace may begin anywhere */
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
    const uint64_t align = alignment(op->context), needed = layout_bytes(l) + align;
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
    size_t origin = (size_t)round_up(base + workspace->offset_bytes, align);
    if ((status = take_region(root, &origin, l->x_bytes, &op->x_slab)) != CLMLA_SUCCESS ||
        (status = take_region(root, &origin, l->w_bytes, &op->w_slab)) != CLMLA_SUCCESS ||
        (status = take_region(root, &origin, l->y_bytes, &op->y_slab)) != CLMLA_SUCCESS ||
        (status = take_region(root, &origin, l->temporary_bytes, &op->temporary)) != CLMLA_SUCCESS)
        return mla__fail(op->context, status, "projection: cannot cut the workspace");
    return CLMLA_SUCCESS;
}

/* Float32 weights are used where they lie. Where the device does not let a sub-buffer begin there,
 * CLBlast gets the offset (and makes a copy of its own on the indirect path). */
static clmla_status bind_float_weights(mla__projection_clblast *op)
{
    const clmla_matrix *m = op->matrix;
    cl_mem root;
    size_t base;
    clmla_status status = find_root(m->buffer, &root, &base);
    if (status != CLMLA_SUCCESS)
        return status;
    size_t origin = base + (size_t)m->offset_bytes;
    const uint64_t bytes =
        4 * (uint64_t)m->num_batches * (uint64_t)m->in_features * (uint64_t)padded_columns(m);
    if (origin % alignment(op->context) == 0)
        return take_region(root, &origin, bytes, &op->w_slab);
    if ((m->offset_bytes + bytes) / 4 > INT32_MAX)
        return mla__fail(
            op->context, CLMLA_UNSUPPORTED_CONFIG,
            "projection: weights at offset %llu, CLBlast's 32-bit offsets do not reach",
            (unsigned long long)m->offset_bytes);
    status = clRetainMemObject(m->buffer);
    if (status != CLMLA_SUCCESS)
        return status;
    op->w_slab = m->buffer;
    op->w_offset = m->offset_bytes / 4;
    return CLMLA_SUCCESS;
}

static void bind_kernel_args(mla__projection_clblast *op, const mla__view *x, const mla__view *y)
{
    const clmla_matrix *m = op->matrix;
    mla__arg_view(&op->convert_x, x, 2);
    mla__arg_buffer(&op->convert_x, op->x_slab);
    mla__arg_int(&op->convert_x, m->in_features);
    mla__arg_int(&op->convert_x, op->layout.k_pad);
    mla__arg_view(&op->convert_y, y, 2);
    mla__arg_buffer(&op->convert_y, op->y_slab);
    mla__arg_int(&op->convert_y, m->out_features);
    if (!is_widened(m))
        return;
    mla__arg_buffer(&op->widen_w, m->buffer);
    mla__arg_ulong(&op->widen_w, m->offset_bytes / 4);
    mla__arg_int(&op->widen_w, padded_columns(m) / MLA__PANEL);
    mla__arg_buffer(&op->widen_w, op->w_slab);
    mla__arg_int(&op->widen_w, m->in_features);
    mla__arg_int(&op->widen_w, op->layout.k_pad);
}

static clmla_status bind_kernels(mla__projection_clblast *op, const clmla_projection_params *params,
                                 const mla__view *x, const mla__view *y)
{
    mla__defines defines = {0};
    mla__define_dtype(&defines, "X_DTYPE", x->dtype);
    mla__define_dtype(&defines, "Y_DTYPE", y->dtype);
    mla__define_int(&defines, "PAIR_F16", op->matrix->dtype == CLMLA_DTYPE_F16);
    mla__define_int(&defines, "ACCUMULATE", params->output_mode == CLMLA_ACCUMULATE);
    mla__define_int(&defines, "ITEM_K", CONVERT_K);
    clmla_status status;
    if ((status = mla__kernel_create(op->context, FILES, &defines, "convert_x", &op->convert_x)) !=
            CLMLA_SUCCESS ||
        (status = mla__kernel_create(op->context, FILES, &defines, "convert_y", &op->convert_y)) !=
            CLMLA_SUCCESS)
        return status;
    if (is_widened(op->matrix) &&
        (status = mla__kernel_create(op->context, FILES, &defines, "widen_w", &op->widen_w)) !=
            CLMLA_SUCCESS)
        return status;
    bind_kernel_args(op, x, y);
    if ((status = mla__kernel_ready(&op->convert_x)) != CLMLA_SUCCESS ||
        (status = mla__kernel_ready(&op->convert_y)) != CLMLA_SUCCESS)
        return status;
    return is_widened(op->matrix) ? mla__kernel_ready(&op->widen_w) : CLMLA_SUCCESS;
}

clmla_status mla__projection_clblast_bind(clmla_context *context,
                                          const clmla_projection_params *params, const mla__view *x,
                                          const mla__view *y, mla__projection_clblast *op)
{
    mla__projection_clblast bound = {.context = context, .matrix = params->matrix};
    clmla_status status = lay_out(context, params->matrix, params->num_rows, &bound.layout);
    if (status == CLMLA_SUCCESS)
        status = bind_workspace(&bound, &params->workspace);
    if (status == CLMLA_SUCCESS && !is_widened(bound.matrix))
        status = bind_float_weights(&bound);
    if (status == CLMLA_SUCCESS)
        status = bind_kernels(&bound, params, x, y);
    if (status != CLMLA_SUCCESS) {
        mla__projection_clblast_release(&bound);
        return status;
    }
    *op = bound;
    return CLMLA_SUCCESS;
}

void mla__projection_clblast_release(mla__projection_clblast *op)
{
    const cl_mem buffers[] = {op->x_slab, op->w_slab, op->y_slab, op->temporary};
    for (size_t i = 0; i < sizeof(buffers) / sizeof(buffers[0]); i++) {
        if (buffers[i] != NULL)
            clReleaseMemObject(buffers[i]);
    }
    mla__kernel_release(&op->convert_x);
    mla__kernel_release(&op->widen_w);
    mla__kernel_release(&op->convert_y);
    *op = (mla__projection_clblast){0};
}

/* ---- enqueuing ----------------------------------------------------------------------------- */

/* Sets consecutive int arguments. */
static clmla_status set_ints(mla__kernel *kernel, cl_uint first, const int32_t *values, int count)
{
    clmla_status status = CLMLA_SUCCESS;
    for (int i = 0; i < count && status == CLMLA_SUCCESS; i++)
        status = mla__arg_set_int(kernel, first + (cl_uint)i, values[i]);
    return status;
}

static clmla_status launch_convert_x(mla__projection_clblast *op, mla__stream *stream,
                                     const gemm *g, int32_t x_row, int32_t num_rows)
{
    const int32_t values[] = {g->batch_begin, x_row, num_rows, g->rows};
    const clmla_status status = set_ints(&op->convert_x, X_BATCH_ARG, values, 4);
    if (status != CLMLA_SUCCESS)
        return status;
    const size_t global[] = {(size_t)g->rows,
                             (size_t)mla__ceil_div((uint64_t)op->layout.k_pad, CONVERT_K),
                             (size_t)g->num_batches};
    const size_t local[] = {FEW_TILE, 8, 1};
    return mla__stream_launch(stream, &op->convert_x, 3, global, local);
}

static clmla_status launch_widen_w(mla__projection_clblast *op, mla__stream *stream, const gemm *g,
                                   int32_t column_begin)
{
    const int32_t values[] = {g->batch_begin, column_begin, g->columns};
    const clmla_status status = set_ints(&op->widen_w, W_BATCH_ARG, values, 3);
    if (status != CLMLA_SUCCESS)
        return status;
    const size_t global[] = {(size_t)g->columns, (size_t)op->layout.k_pad / 2,
                             (size_t)g->num_batches};
    const size_t local[] = {MLA__PANEL, 1, 1};
    return mla__stream_launch(stream, &op->widen_w, 3, global, local);
}

static clmla_status launch_convert_y(mla__projection_clblast *op, mla__stream *stream,
                                     const gemm *g, int32_t y_row, int32_t num_rows,
                                     int32_t column_begin)
{
    const int32_t values[] = {g->batch_begin, y_row, num_rows, g->rows, column_begin, g->columns};
    const clmla_status status = set_ints(&op->convert_y, Y_BATCH_ARG, values, 6);
    if (status != CLMLA_SUCCESS)
        return status;
    const size_t global[] = {(size_t)g->columns, (size_t)num_rows, (size_t)g->num_batches};
    const size_t local[] = {MLA__PANEL, 1, 1};
    return mla__stream_launch(stream, &op->convert_y, 3, global, local);
}

/* Elements of w_slab before the call's first weight. */
static size_t w_begin(const mla__projection_clblast *op, const gemm *g)
{
    if (is_widened(op->matrix))
        return 0;
    return (size_t)op->w_offset +
           (size_t)g->batch_begin * (size_t)op->layout.k_pad * (size_t)padded_columns(op->matrix);
}

static clmla_status multiply(mla__projection_clblast *op, mla__stream *stream, const gemm *g)
{
    mla__clblast_gemm call = {.columns = (size_t)g->columns,
                              .rows = (size_t)g->rows,
                              .k = (size_t)op->layout.k_pad,
                              .num_batches = (size_t)g->num_batches,
                              .w = op->w_slab,
                              .x = op->x_slab,
                              .y = op->y_slab,
                              .w_offset = w_begin(op, g)};
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
static clmla_status enqueue_block(mla__projection_clblast *op, mla__stream *stream, gemm *g,
                                  int32_t y_row, int32_t num_rows, bool widen)
{
    const int32_t all_columns = padded_columns(op->matrix);
    for (int32_t c = 0; c < all_columns; c += op->layout.slab_columns) {
        clmla_status status = CLMLA_SUCCESS;
        g->columns = min_int(op->layout.slab_columns, all_columns - c);
        if (widen)
            status = launch_widen_w(op, stream, g, c);
        if (status == CLMLA_SUCCESS)
            status = multiply(op, stream, g);
        if (status == CLMLA_SUCCESS)
            status = launch_convert_y(op, stream, g, y_row, num_rows, c);
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
    const bool one_slab =
        l->slab_batches == num_batches && l->slab_columns == padded_columns(op->matrix);
    for (int32_t row = 0; row < num_rows; row += l->slab_rows) {
        const int32_t rows = min_int(l->slab_rows, num_rows - row);
        const bool widen = is_widened(op->matrix) && (row == 0 || !one_slab);
        for (int32_t b = 0; b < num_batches; b += l->slab_batches) {
            gemm g = {.batch_begin = b,
                      .num_batches = min_int(l->slab_batches, num_batches - b),
                      .rows = padded_rows(op->context, rows)};
            clmla_status status = launch_convert_x(op, stream, &g, x_row + row, rows);
            if (status == CLMLA_SUCCESS)
                status = enqueue_block(op, stream, &g, y_row + row, rows, widen);
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

/* Kernels that see no row: nothing outside the slabs is read or written. */
static clmla_status warm_conversions(mla__projection_clblast *op, mla__stream *stream)
{
    const gemm g = {.num_batches = 1, .columns = op->layout.slab_columns, .rows = FEW_TILE};
    clmla_status status = launch_convert_x(op, stream, &g, 0, 0);
    if (status == CLMLA_SUCCESS && is_widened(op->matrix))
        status = launch_widen_w(op, stream, &g, 0);
    if (status == CLMLA_SUCCESS) {
        const int32_t values[] = {0, 0, 0, FEW_TILE, 0, op->layout.slab_columns};
        const size_t global[] = {MLA__PANEL, 1, 1}, local[] = {MLA__PANEL, 1, 1};
        status = set_ints(&op->convert_y, Y_BATCH_ARG, values, 6);
        if (status == CLMLA_SUCCESS)
            status = mla__stream_launch(stream, &op->convert_y, 3, global, local);
    }
    return status;
}

/* One call of each of CLBlast's kernels that calls of num_batches batches reach: direct and
 * indirect, and each set of parameters. */
static clmla_status warm_calls(mla__projection_clblast *op, mla__stream *stream,
                               int32_t num_batches)
{
    const mla__clblast_layout *l = &op->layout;
    gemm g = {.num_batches = num_batches, .columns = l->slab_columns};
    const mla__clblast_record *last = NULL;
    bool last_direct = false;
    clmla_status status = CLMLA_SUCCESS;
    for (int32_t rows = 1; status == CLMLA_SUCCESS; rows = g.rows + 1) {
        bool direct;
        const bool first = g.rows == 0;
        g.rows = padded_rows(op->context, rows);
        if (g.rows > l->slab_rows)
            break;
        const mla__clblast_record *record = mla__clblast_record_of(op->context, (size_t)g.rows);
        status = mla__clblast_is_direct(op->context, stream->queue, (size_t)g.columns,
                                        (size_t)g.rows, (size_t)l->k_pad, &direct);
        if (status == CLMLA_SUCCESS && (first || record != last || direct != last_direct))
            status = multiply(op, stream, &g);
        last = record;
        last_direct = direct;
    }
    return status;
}

clmla_status mla__projection_clblast_warm(mla__projection_clblast *op, mla__stream *stream)
{
    const mla__clblast_layout *l = &op->layout;
    clmla_status status;
    if ((status = fill_with_zeros(stream, op->x_slab, l->x_bytes)) != CLMLA_SUCCESS ||
        (status = fill_with_zeros(stream, op->y_slab, l->y_bytes)) != CLMLA_SUCCESS ||
        (l->w_bytes > 0 &&
         (status = fill_with_zeros(stream, op->w_slab, l->w_bytes)) != CLMLA_SUCCESS) ||
        (status = warm_conversions(op, stream)) != CLMLA_SUCCESS)
        return status;
    status = warm_calls(op, stream, l->slab_batches);
    if (status == CLMLA_SUCCESS && l->slab_batches > 1 &&
        op->matrix->num_batches % l->slab_batches == 1)
        status = warm_calls(op, stream, 1);
    return status;
}
