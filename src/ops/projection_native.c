#include "ops/projection_native.h"

#include <stdarg.h>
#include <stdio.h>

#include "ops/loops.h"

/* Arguments of every kernel that change between calls. */
enum { X_ROW_ARG = 12, Y_ROW_ARG = 13, NUM_ROWS_ARG = 14 };

mla__projection_shape mla__projection_shape_of(const clmla_matrix *matrix, clmla_dtype x,
                                               clmla_dtype y, bool batch_invariant)
{
    return (mla__projection_shape){.x = x,
                                   .w = matrix->dtype,
                                   .y = y,
                                   .num_batches = matrix->num_batches,
                                   .out_features = matrix->out_features,
                                   .in_features = matrix->in_features,
                                   .batch_invariant = batch_invariant};
}

/* ---- bind ----------------------------------------------------------------------------------- */

static bool on_tensor_cores(enum mla__projection_kind kind)
{
    return kind == MLA__PROJECTION_FEW || kind == MLA__PROJECTION_TILED ||
           kind == MLA__PROJECTION_WGMMA;
}

/* Rows and batches begin at multiples of 16 bytes of bf16. */
static bool is_aligned(const mla__view *view) { return mla__view_is_multiple(view, 8); }

/* SECOND, Y2_DTYPE and how rows lie, for the kernels of tensor cores. */
static void define_mma(mla__defines *defines, enum mla__projection_kind kind, const clmla_matrix *w,
                       const mla__view *x, const mla__view *y, const mla__projection_second *second)
{
    bool aligned_y = is_aligned(y) && w->out_features % 8 == 0;
    if (second != NULL)
        aligned_y = aligned_y && is_aligned(&second->y) && second->matrix->out_features % 8 == 0;
    mla__define_int(defines, "SECOND", second != NULL);
    mla__define_dtype(defines, "Y2_DTYPE", second != NULL ? second->y.dtype : y->dtype);
    mla__define_int(defines, "ALIGNED_X", is_aligned(x));
    if (kind != MLA__PROJECTION_FEW)
        mla__define_int(defines, "ALIGNED_Y", aligned_y);
}

/* second: NULL, or another product. */
static clmla_status bind_variant(clmla_context *context, const clmla_projection_params *params,
                                 const mla__view *x, const mla__view *y,
                                 const mla__projection_second *second,
                                 const mla__projection_choice *choice,
                                 mla__projection_variant *variant)
{
    const clmla_matrix *w = params->matrix;
    const mla__projection_source source = mla__projection_source_of(context, choice->kind);
    const bool rebuilt = choice->kind == MLA__PROJECTION_WGMMA && context->device.has_ptx;
    mla__defines defines = {0};
    variant->choice = *choice;
    mla__define_dtype(&defines, "X_DTYPE", x->dtype);
    mla__define_dtype(&defines, "W_DTYPE", w->dtype);
    mla__define_dtype(&defines, "Y_DTYPE", y->dtype);
    mla__define_int(&defines, "PAIRED", w->dtype != CLMLA_DTYPE_F32);
    mla__define_int(&defines, "PAIR_F16", w->dtype == CLMLA_DTYPE_F16);
    mla__define_int(&defines, "PAIR_F8", w->dtype == CLMLA_DTYPE_F8_E4M3);
    mla__define_int(&defines, "ACCUMULATE", params->output_mode == CLMLA_ACCUMULATE);
    mla__define_projection_tile(&defines, &choice->tile);
    mla__define_loops(&defines, mla__loops_projection(choice, w->dtype, w->in_features));
    if (on_tensor_cores(choice->kind))
        define_mma(&defines, choice->kind, w, x, y, second);
    const clmla_status status = (rebuilt ? mla__kernel_create_sm_90a : mla__kernel_create)(
        context, source.files, &defines, source.name, &variant->kernel);
    if (status != CLMLA_SUCCESS)
        return status;
    mla__kernel *k = &variant->kernel;
    mla__arg_view(k, x, 2);
    mla__arg_buffer(k, w->buffer);
    mla__arg_ulong(k, w->offset_bytes / 4);
    mla__arg_view(k, y, 2);
    mla__arg_int(k, w->out_features);
    mla__arg_int(k, w->in_features);
    variant->x_row = variant->y_row = variant->num_rows = -1;
    if (second != NULL) { /* behind the rows, which every launch sets */
        const cl_int rows[] = {0, 0, 0};
        for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
            mla__arg_int(k, rows[i]);
        mla__arg_view(k, &second->y, 1);
        mla__arg_int(k, second->matrix->out_features);
    }
    return mla__kernel_ready(k);
}

/* The shape's kernels. Leaves none of them after a failure, which was at a kernel of kind *last. */
static clmla_status bind_variants(clmla_context *context, const clmla_projection_params *params,
                                  const mla__view *x, const mla__view *y,
                                  const mla__projection_second *second,
                                  const mla__projection_choices *choices,
                                  mla__projection_native *op, enum mla__projection_kind *last)
{
    clmla_status status = CLMLA_SUCCESS;
    for (int i = 0; i < choices->count && status == CLMLA_SUCCESS; i++) {
        status = bind_variant(context, params, x, y, second, &choices->list[i], &op->variants[i]);
        op->num_variants = i + 1;
        *last = choices->list[i].kind;
    }
    if (status != CLMLA_SUCCESS)
        mla__projection_native_release(op);
    return status;
}

/* The kernels that are chosen for the shape; where one for sm_90a does not build, the ones that are
 * chosen without such. *last as above. */
static clmla_status bind_chosen(clmla_context *context, const mla__projection_shape *shape,
                                const clmla_projection_params *params, const mla__view *x,
                                const mla__view *y, const mla__projection_second *second,
                                mla__projection_native *op, enum mla__projection_kind *last)
{
    mla__projection_choices choices;
    mla__projection_choose(context, shape, params->num_rows, &choices);
    const clmla_status status = bind_variants(context, params, x, y, second, &choices, op, last);
    if (status != CL_BUILD_PROGRAM_FAILURE || *last != MLA__PROJECTION_WGMMA)
        return status;
    mla__context_refuse_sm_90a(context, MLA__SM_90A_PROJECTION,
                               "the driver does not build one of them");
    mla__projection_choose(context, shape, params->num_rows, &choices);
    return bind_variants(context, params, x, y, second, &choices, op, last);
}

clmla_status mla__projection_native_bind(clmla_context *context,
                                         const clmla_projection_params *params, const mla__view *x,
                                         const mla__view *y, bool batch_invariant,
                                         mla__projection_native *op)
{
    mla__projection_shape shape =
        mla__projection_shape_of(params->matrix, x->dtype, y->dtype, batch_invariant);
    mla__projection_native bound = {.matrix = params->matrix,
                                    .columns = params->matrix->out_features};
    enum mla__projection_kind last;
    clmla_status status = bind_chosen(context, &shape, params, x, y, NULL, &bound, &last);
    if (status == CL_BUILD_PROGRAM_FAILURE &&
        (on_tensor_cores(last) || mla__projection_by_dot(last))) {
        (void)mla__fail(context, CLMLA_SUCCESS,
                        "projection: a kernel for %s does not build here; the portable ones take "
                        "its place",
                        mla__projection_by_dot(last) ? "bf16 dot products" : "tensor cores");
        shape.portable = true;
        status = bind_chosen(context, &shape, params, x, y, NULL, &bound, &last);
    }
    if (status == CLMLA_SUCCESS)
        *op = bound;
    return status;
}

clmla_status mla__projection_native_bind_pair(clmla_context *context,
                                              const clmla_projection_params *params,
                                              const mla__view *x, const mla__view *y,
                                              const mla__projection_second *second,
                                              bool batch_invariant, mla__projection_native *op)
{
    const int32_t first =
        (int32_t)mla__ceil_div((uint64_t)params->matrix->out_features, (uint64_t)MLA__PANEL) *
        MLA__PANEL;
    mla__projection_shape shape =
        mla__projection_shape_of(params->matrix, x->dtype, y->dtype, batch_invariant);
    shape.out_features = first + second->matrix->out_features;
    mla__projection_native bound = {.matrix = params->matrix, .columns = shape.out_features};
    enum mla__projection_kind last;
    const clmla_status status = bind_chosen(context, &shape, params, x, y, second, &bound, &last);
    if (status == CLMLA_SUCCESS)
        *op = bound;
    return status;
}

clmla_status mla__projection_native_bind_choice(clmla_context *context, const clmla_matrix *matrix,
                                                const mla__view *x, const mla__view *y,
                                                const mla__projection_choice *choice,
                                                mla__projection_native *op)
{
    const clmla_projection_params params = {.struct_size = sizeof(params), .matrix = matrix};
    const mla__projection_choices choices = {.list = {*choice}, .count = 1};
    mla__projection_native bound = {.matrix = matrix, .columns = matrix->out_features};
    enum mla__projection_kind last;
    const clmla_status status =
        bind_variants(context, &params, x, y, NULL, &choices, &bound, &last);
    if (status == CLMLA_SUCCESS)
        *op = bound;
    return status;
}

/* ---- text ----------------------------------------------------------------------------------- */

/* Appends to text of *length bytes, as snprintf where it does not fit. */
static void append(char *text, size_t capacity, int *length, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
static void append(char *text, size_t capacity, int *length, const char *format, ...)
{
    const bool room = (size_t)*length < capacity;
    va_list arguments;
    va_start(arguments, format);
    *length += vsnprintf(room ? text + *length : NULL, room ? capacity - (size_t)*length : 0,
                         format, arguments);
    va_end(arguments);
}

int mla__projection_native_text(const clmla_context *context, const mla__projection_shape *shape,
                                int32_t max_rows, char *text, size_t capacity)
{
    mla__projection_choices choices;
    int length = 0;
    mla__projection_choose(context, shape, max_rows, &choices);
    const enum mla__projection_kind kind = choices.list[0].kind;
    append(text, capacity, &length, "native %s%s", clmla_kernel_class_name(context->kernel_class),
           mla__projection_by_dot(kind) ? " bf16 dot"
           : on_tensor_cores(kind)      ? " tensor cores"
                                        : "");
    if (choices.why_portable != NULL)
        append(text, capacity, &length, " not by tensor cores, %s:", choices.why_portable);
    for (int i = 0; i < choices.count; i++) {
        const mla__projection_choice *choice = &choices.list[i];
        char tile[256];
        (void)mla__projection_tile_text(&choice->tile, tile, sizeof(tile));
        append(text, capacity, &length, i > 0 ? ", " : " ");
        if (choice->max_rows < INT32_MAX)
            append(text, capacity, &length, "up to %d rows: ", (int)choice->max_rows);
        else
            append(text, capacity, &length, "above: ");
        append(text, capacity, &length, "%s %s%s",
               mla__projection_source_of(context, choice->kind).name, tile,
               choice->recorded ? " (tuning record)" : "");
    }
    return length;
}

/* ---- enqueue -------------------------------------------------------------------------------- */

static clmla_status set_arg(mla__kernel *kernel, cl_uint index, int32_t value, int32_t *current)
{
    if (value == *current)
        return CLMLA_SUCCESS;
    const clmla_status status = mla__arg_set_int(kernel, index, value);
    if (status == CLMLA_SUCCESS)
        *current = value;
    return status;
}

static size_t divide_up(int32_t a, int32_t b)
{
    return (size_t)mla__ceil_div((uint64_t)a, (uint64_t)b);
}

/* Columns and rows of y per work-group, and its work-items. */
typedef struct launch_tile {
    int32_t columns, rows;
    size_t work_group;
} launch_tile;

static launch_tile launch_tile_of(const mla__projection_choice *choice)
{
    const mla__projection_tile *t = &choice->tile;
    launch_tile launch = {.columns = t->tile_columns, .rows = t->tile_rows};
    switch (choice->kind) {
    case MLA__PROJECTION_CPU:
    case MLA__PROJECTION_DOT:
    case MLA__PROJECTION_DOT_F8:
        return (launch_tile){t->vector_width * t->tile_vectors, t->block_rows, 1};
    case MLA__PROJECTION_GPU:
        launch.work_group =
            (size_t)(t->tile_rows / t->work_rows) * (size_t)(t->tile_columns / t->work_columns);
        break;
    case MLA__PROJECTION_STREAM:
        launch.work_group = (size_t)t->tile_columns * (size_t)t->slices;
        break;
    case MLA__PROJECTION_FEW:
        launch.work_group = 32 * (size_t)t->slices;
        break;
    case MLA__PROJECTION_TILED: /* warps of work_rows x 32 */
        launch.work_group = (size_t)(t->tile_rows / t->work_rows) * (size_t)t->tile_columns;
        break;
    case MLA__PROJECTION_WGMMA: /* warps of tile_rows x 32 */
        launch.work_group = (size_t)t->tile_columns;
        break;
    }
    return launch;
}

/* num_rows may be 0 (warming up): the kernel then returns at once. */
static clmla_status launch(const mla__projection_native *op, mla__projection_variant *variant,
                           mla__stream *stream, int32_t x_row, int32_t y_row, int32_t num_rows)
{
    clmla_status status = set_arg(&variant->kernel, X_ROW_ARG, x_row, &variant->x_row);
    if (status == CLMLA_SUCCESS)
        status = set_arg(&variant->kernel, Y_ROW_ARG, y_row, &variant->y_row);
    if (status == CLMLA_SUCCESS)
        status = set_arg(&variant->kernel, NUM_ROWS_ARG, num_rows, &variant->num_rows);
    if (status != CLMLA_SUCCESS)
        return status;
    const launch_tile tile = launch_tile_of(&variant->choice);
    const size_t columns = divide_up(op->columns, tile.columns);
    const size_t rows = divide_up(num_rows > 0 ? num_rows : 1, tile.rows);
    const bool rows_first = variant->choice.kind == MLA__PROJECTION_TILED ||
                            variant->choice.kind == MLA__PROJECTION_WGMMA;
    const size_t global[] = {(rows_first ? rows : columns) * tile.work_group,
                             rows_first ? columns : rows, (size_t)op->matrix->num_batches};
    const size_t local[] = {tile.work_group, 1, 1};
    return mla__stream_launch(stream, &variant->kernel, 3, global, local);
}

clmla_status mla__projection_native_enqueue(mla__projection_native *op, mla__stream *stream,
                                            int32_t x_row, int32_t y_row, int32_t num_rows)
{
    int i = 0;
    if (num_rows <= 0)
        return CLMLA_SUCCESS;
    while (i + 1 < op->num_variants && num_rows > op->variants[i].choice.max_rows)
        i++;
    return launch(op, &op->variants[i], stream, x_row, y_row, num_rows);
}

clmla_status mla__projection_native_warm(mla__projection_native *op, mla__stream *stream)
{
    clmla_status status = CLMLA_SUCCESS;
    for (int i = 0; i < op->num_variants && status == CLMLA_SUCCESS; i++)
        status = launch(op, &op->variants[i], stream, 0, 0, 0);
    return status;
}

void mla__projection_native_release(mla__projection_native *op)
{
    for (int i = 0; i < op->num_variants; i++)
        mla__kernel_release(&op->variants[i].kernel);
    op->num_variants = 0;
}
