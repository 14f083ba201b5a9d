#include "ops/clblast_convert.h"

/* Arguments of the kernels that change between launches. */
enum { X_BATCH_ARG = 7, W_BATCH_ARG = 6, Y_BATCH_ARG = 6 };

/* rows × input features; columns × pairs of input features; columns × rows. On a CPU a work-item
 * takes long runs in vectors, and 8 is what the kernel transposes at a time; elsewhere neighbours
 * take neighbouring elements. */
static const mla__clblast_mapping CPU_X = {{8, 64}, {1, 1}}, GPU_X = {{1, 8}, {8, 8}};
static const mla__clblast_mapping CPU_W = {{MLA__PANEL, 128}, {1, 1}},
                                  GPU_W = {{1, 1}, {MLA__PANEL, 1}};
static const mla__clblast_mapping CPU_Y = {{256, 1}, {1, 1}}, GPU_Y = {{1, 1}, {MLA__PANEL, 1}};

static void bind_arguments(mla__clblast_convert *op, const clmla_matrix *m, const mla__view *x,
                           const mla__view *y, const mla__clblast_slabs *slabs)
{
    mla__arg_view(&op->x, x, 2);
    mla__arg_buffer(&op->x, slabs->x);
    mla__arg_int(&op->x, m->in_features);
    mla__arg_int(&op->x, op->k_pad);
    mla__arg_view(&op->y, y, 2);
    mla__arg_buffer(&op->y, slabs->y);
    mla__arg_int(&op->y, m->out_features);
    if (!mla__clblast_is_widened(m))
        return;
    mla__arg_buffer(&op->w, m->buffer);
    mla__arg_ulong(&op->w, m->offset_bytes / 4);
    mla__arg_int(&op->w, mla__clblast_padded_columns(m) / MLA__PANEL);
    mla__arg_buffer(&op->w, slabs->w);
    mla__arg_int(&op->w, m->in_features);
    mla__arg_int(&op->w, op->k_pad);
}

static clmla_status create_kernels(clmla_context *context, const clmla_projection_params *params,
                                   const mla__view *x, const mla__view *y, mla__clblast_convert *op)
{
    const bool cpu = context->kernel_class == CLMLA_KERNELS_CPU;
    const char *const files[] = {cpu ? "cpu/clblast_convert.cl" : "gpu/clblast_convert.cl", NULL};
    mla__defines defines = {0};
    mla__define_dtype(&defines, "X_DTYPE", x->dtype);
    mla__define_dtype(&defines, "Y_DTYPE", y->dtype);
    mla__define_int(&defines, "PAIR_F16", params->matrix->dtype == CLMLA_DTYPE_F16);
    mla__define_int(&defines, "ACCUMULATE", params->output_mode == CLMLA_ACCUMULATE);
    mla__define_int(&defines, "ITEM_K", (long long)op->x_mapping.item[1]);
    if (cpu) {
        mla__define_int(&defines, "ITEM_PAIRS", (long long)op->w_mapping.item[1]);
        mla__define_int(&defines, "ITEM_COLUMNS", (long long)op->y_mapping.item[0]);
    }
    clmla_status status = mla__kernel_create(context, files, &defines, "convert_x", &op->x);
    if (status == CLMLA_SUCCESS)
        status = mla__kernel_create(context, files, &defines, "convert_y", &op->y);
    if (status == CLMLA_SUCCESS && mla__clblast_is_widened(params->matrix))
        status = mla__kernel_create(context, files, &defines, "widen_w", &op->w);
    return status;
}

clmla_status mla__clblast_convert_bind(clmla_context *context,
                                       const clmla_projection_params *params, const mla__view *x,
                                       const mla__view *y, const mla__clblast_slabs *slabs,
                                       int32_t k_pad, mla__clblast_convert *op)
{
    const bool cpu = context->kernel_class == CLMLA_KERNELS_CPU;
    mla__clblast_convert made = {.x_mapping = cpu ? CPU_X : GPU_X,
                                 .w_mapping = cpu ? CPU_W : GPU_W,
                                 .y_mapping = cpu ? CPU_Y : GPU_Y,
                                 .k_pad = k_pad};
    clmla_status status = create_kernels(context, params, x, y, &made);
    if (status == CLMLA_SUCCESS) {
        bind_arguments(&made, params->matrix, x, y, slabs);
        if ((status = mla__kernel_ready(&made.x)) == CLMLA_SUCCESS &&
            (status = mla__kernel_ready(&made.y)) == CLMLA_SUCCESS && made.w.kernel != NULL)
            status = mla__kernel_ready(&made.w);
    }
    if (status == CLMLA_SUCCESS)
        *op = made;
    else
        mla__clblast_convert_release(&made);
    return status;
}

/* Sets consecutive int arguments. */
static clmla_status set_ints(mla__kernel *kernel, cl_uint first, const int32_t *values, int count)
{
    clmla_status status = CLMLA_SUCCESS;
    for (int i = 0; i < count && status == CLMLA_SUCCESS; i++)
        status = mla__arg_set_int(kernel, first + (cl_uint)i, values[i]);
    return status;
}

/* first × second elements of each of num_batches batches. */
static clmla_status launch(mla__stream *stream, const mla__kernel *kernel,
                           const mla__clblast_mapping *mapping, int32_t first, int32_t second,
                           int32_t num_batches)
{
    const size_t global[] = {(size_t)mla__ceil_div((uint64_t)first, mapping->item[0]),
                             (size_t)mla__ceil_div((uint64_t)second, mapping->item[1]),
                             (size_t)num_batches};
    const size_t local[] = {mapping->group[0], mapping->group[1], 1};
    return mla__stream_launch(stream, kernel, 3, global, local);
}

clmla_status mla__clblast_convert_x(mla__clblast_convert *op, mla__stream *stream,
                                    const mla__clblast_part *part, int32_t x_row, int32_t num_rows)
{
    const int32_t values[] = {part->batch_begin, x_row, num_rows, part->rows};
    const clmla_status status = set_ints(&op->x, X_BATCH_ARG, values, 4);
    if (status != CLMLA_SUCCESS)
        return status;
    return launch(stream, &op->x, &op->x_mapping, part->rows, op->k_pad, part->num_batches);
}

clmla_status mla__clblast_convert_w(mla__clblast_convert *op, mla__stream *stream,
                                    const mla__clblast_part *part, int32_t column_begin)
{
    const int32_t values[] = {part->batch_begin, column_begin, part->columns};
    const clmla_status status = set_ints(&op->w, W_BATCH_ARG, values, 3);
    if (status != CLMLA_SUCCESS)
        return status;
    return launch(stream, &op->w, &op->w_mapping, part->columns, op->k_pad / 2, part->num_batches);
}

/* launch_rows differs from num_rows where the kernel runs without a row. */
static clmla_status launch_y(mla__clblast_convert *op, mla__stream *stream,
                             const mla__clblast_part *part, int32_t y_row, int32_t num_rows,
                             int32_t launch_rows, int32_t column_begin)
{
    const int32_t values[] = {part->batch_begin, y_row,        num_rows,
                              part->rows,        column_begin, part->columns};
    const clmla_status status = set_ints(&op->y, Y_BATCH_ARG, values, 6);
    if (status != CLMLA_SUCCESS)
        return status;
    return launch(stream, &op->y, &op->y_mapping, part->columns, launch_rows, part->num_batches);
}

clmla_status mla__clblast_convert_y(mla__clblast_convert *op, mla__stream *stream,
                                    const mla__clblast_part *part, int32_t y_row, int32_t num_rows,
                                    int32_t column_begin)
{
    return launch_y(op, stream, part, y_row, num_rows, num_rows, column_begin);
}

clmla_status mla__clblast_convert_warm(mla__clblast_convert *op, mla__stream *stream,
                                       int32_t columns)
{
    const mla__clblast_part part = {
        .num_batches = 1, .columns = columns, .rows = MLA__CLBLAST_FEW_TILE};
    clmla_status status = mla__clblast_convert_x(op, stream, &part, 0, 0);
    if (status == CLMLA_SUCCESS && op->w.kernel != NULL)
        status = mla__clblast_convert_w(op, stream, &part, 0);
    return status == CLMLA_SUCCESS ? launch_y(op, stream, &part, 0, 0, 1, 0) : status;
}

void mla__clblast_convert_release(mla__clblast_convert *op)
{
    mla__kernel_release(&op->x);
    mla__kernel_release(&op->w);
    mla__kernel_release(&op->y);
    *op = (mla__clblast_convert){0};
}
