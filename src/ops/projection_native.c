#include "ops/projection_native.h"

#include <stdio.h>

static const char *const CPU_FILES[] = {"cpu/projection.clh", "cpu/projection.cl", NULL};
static const char *const CPU_DOT_FILES[] = {"cpu/projection.clh", "cpu/projection_dot.cl", NULL};
static const char *const GPU_FILES[] = {"gpu/weights.clh", "gpu/projection.cl", NULL};
static const char *const STREAM_FILES[] = {"gpu/weights.clh", "gpu/projection_stream.cl", NULL};

/* Arguments of every kernel that change between calls. */
enum { X_ROW_ARG = 12, Y_ROW_ARG = 13, NUM_ROWS_ARG = 14 };

bool mla__projection_uses_dot(const clmla_context *context, clmla_dtype x, clmla_dtype w)
{
    return context->kernel_class == CLMLA_KERNELS_CPU && context->matrix_units &&
           context->device.has_bf16_dot && x == CLMLA_DTYPE_BF16 && w == CLMLA_DTYPE_BF16;
}

void mla__projection_choose_tile(const clmla_context *context, clmla_dtype x, clmla_dtype w,
                                 int32_t rows, mla__projection_tile *tile)
{
    if (mla__projection_uses_dot(context, x, w))
        mla__projection_tile_dot(rows, tile);
    else
        mla__projection_tile_default(&context->device, context->kernel_class, w, rows, tile);
}

/* The kernel for calls of up to max_rows rows, and its tile. */
typedef struct kernel_choice {
    const char *const *files;
    const char *name;
    mla__projection_tile tile;
} kernel_choice;

static kernel_choice choose(const clmla_context *context, const clmla_matrix *matrix, clmla_dtype x,
                            int32_t max_rows)
{
    const mla__device *device = &context->device;
    const bool cpu = context->kernel_class == CLMLA_KERNELS_CPU;
    const bool dot = mla__projection_uses_dot(context, x, matrix->dtype);
    kernel_choice choice = {.files = dot   ? CPU_DOT_FILES
                                     : cpu ? CPU_FILES
                                           : GPU_FILES,
                            .name = dot ? "projection_dot" : "projection"};
    mla__projection_tile stream = {0};
    if (!cpu)
        mla__projection_stream_tile(device, matrix->num_batches, matrix->out_features, &stream);
    if (max_rows <= mla__projection_stream_rows(context->kernel_class)) {
        choice.files = STREAM_FILES;
        choice.name = "projection_stream";
        choice.tile = stream;
        return choice;
    }
    mla__projection_choose_tile(context, x, matrix->dtype, max_rows, &choice.tile);
    choice.tile.slices = stream.slices; /* one order of the sum, whatever the number of rows */
    return choice;
}

static clmla_status bind_variant(clmla_context *context, const clmla_projection_params *params,
                                 const mla__view *x, const mla__view *y, int32_t max_rows,
                                 mla__projection_variant *variant)
{
    const clmla_matrix *w = params->matrix;
    const kernel_choice choice = choose(context, w, x->dtype, max_rows);
    mla__defines defines = {0};
    variant->tile = choice.tile;
    mla__define_dtype(&defines, "X_DTYPE", x->dtype);
    mla__define_dtype(&defines, "W_DTYPE", w->dtype);
    mla__define_dtype(&defines, "Y_DTYPE", y->dtype);
    mla__define_int(&defines, "PAIRED", w->dtype != CLMLA_DTYPE_F32);
    mla__define_int(&defines, "PAIR_F16", w->dtype == CLMLA_DTYPE_F16);
    mla__define_int(&defines, "ACCUMULATE", params->output_mode == CLMLA_ACCUMULATE);
    mla__define_projection_tile(&defines, &variant->tile);
    const clmla_status status =
        mla__kernel_create(context, choice.files, &defines, choice.name, &variant->kernel);
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
    return mla__kernel_ready(k);
}

clmla_status mla__projection_native_bind(clmla_context *context,
                                         const clmla_projection_params *params, const mla__view *x,
                                         const mla__view *y, mla__projection_native *op)
{
    const int32_t stream = mla__projection_stream_rows(context->kernel_class);
    const int32_t few = mla__projection_few_rows(context->kernel_class);
    mla__projection_native bound = {.kernel_class = context->kernel_class,
                                    .matrix = params->matrix};
    clmla_status status = CLMLA_SUCCESS;
    if (stream > 0)
        status = bind_variant(context, params, x, y, stream, &bound.stream);
    if (status == CLMLA_SUCCESS && (stream == 0 || params->num_rows > stream))
        status = bind_variant(context, params, x, y, few, &bound.few);
    if (status == CLMLA_SUCCESS && params->num_rows > few)
        status = bind_variant(context, params, x, y, params->num_rows, &bound.many);
    if (status != CLMLA_SUCCESS) {
        mla__projection_native_release(&bound);
        return status;
    }
    *op = bound;
    return CLMLA_SUCCESS;
}

int mla__projection_native_text(const clmla_context *context, const clmla_matrix *matrix,
                                clmla_dtype x, int32_t max_rows, char *text, size_t capacity)
{
    const int32_t up_to[] = {mla__projection_stream_rows(context->kernel_class),
                             mla__projection_few_rows(context->kernel_class), INT32_MAX};
    int length =
        snprintf(text, capacity, "native %s%s", clmla_kernel_class_name(context->kernel_class),
                 mla__projection_uses_dot(context, x, matrix->dtype) ? " bf16 dot" : "");
    for (size_t i = 0; i < 3 && (i == 0 || max_rows > up_to[i - 1] || up_to[i - 1] == 0); i++) {
        if (up_to[i] == 0)
            continue;
        const kernel_choice choice = choose(context, matrix, x, up_to[i]);
        char tile[256], rows[32] = " above";
        (void)mla__projection_tile_text(&choice.tile, tile, sizeof(tile));
        if (up_to[i] < INT32_MAX)
            (void)snprintf(rows, sizeof(rows), " up to %d rows", (int)up_to[i]);
        const bool room = (size_t)length < capacity;
        length +=
            snprintf(room ? text + length : NULL, room ? capacity - (size_t)length : 0,
                     "%s%s: %s %s", i > 0 && up_to[i - 1] > 0 ? "," : "", rows, choice.name, tile);
    }
    return length;
}

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
    const mla__projection_tile *tile = &variant->tile;
    const int32_t columns = op->matrix->out_features;
    const int32_t rows = num_rows > 0 ? num_rows : 1;
    const size_t batches = (size_t)op->matrix->num_batches;
    if (op->kernel_class == CLMLA_KERNELS_CPU) {
        const size_t global[] = {divide_up(columns, tile->vector_width * tile->tile_vectors),
                                 divide_up(rows, tile->block_rows), batches};
        const size_t local[] = {1, 1, 1};
        return mla__stream_launch(stream, &variant->kernel, 3, global, local);
    }
    const size_t work_group = variant == &op->stream
                                  ? (size_t)tile->tile_columns * (size_t)tile->slices
                                  : (size_t)(tile->tile_rows / tile->work_rows) *
                                        (size_t)(tile->tile_columns / tile->work_columns);
    const size_t global[] = {divide_up(columns, tile->tile_columns) * work_group,
                             divide_up(rows, tile->tile_rows), batches};
    const size_t local[] = {work_group, 1, 1};
    return mla__stream_launch(stream, &variant->kernel, 3, global, local);
}

clmla_status mla__projection_native_enqueue(mla__projection_native *op, mla__stream *stream,
                                            int32_t x_row, int32_t y_row, int32_t num_rows)
{
    if (num_rows <= 0)
        return CLMLA_SUCCESS;
    mla__projection_variant *variant = &op->many;
    if (num_rows <= mla__projection_stream_rows(op->kernel_class))
        variant = &op->stream;
    else if (num_rows <= mla__projection_few_rows(op->kernel_class))
        variant = &op->few;
    return launch(op, variant, stream, x_row, y_row, num_rows);
}

clmla_status mla__projection_native_warm(mla__projection_native *op, mla__stream *stream)
{
    mla__projection_variant *const variants[] = {&op->stream, &op->few, &op->many};
    clmla_status status = CLMLA_SUCCESS;
    for (size_t i = 0; i < 3 && status == CLMLA_SUCCESS; i++) {
        if (variants[i]->kernel.kernel != NULL)
            status = launch(op, variants[i], stream, 0, 0, 0);
    }
    return status;
}

void mla__projection_native_release(mla__projection_native *op)
{
    mla__kernel_release(&op->stream.kernel);
    mla__kernel_release(&op->few.kernel);
    mla__kernel_release(&op->many.kernel);
}
