#include "ops/matrix.h"

#include <stdlib.h>

#include "core/dtype.h"
#include "ops/sm_90a.h"

enum { STAGING_BYTES = 32 << 20, ITEM_K = 16, ALIGNMENT = 256, WANTED_WORK_GROUP = 64 };

static const char *const FILES[] = {"matrix.cl", NULL};

/* ---- size ---------------------------------------------------------------------------------- */

static bool is_float(clmla_dtype dtype)
{
    return dtype >= CLMLA_DTYPE_BF16 && dtype <= CLMLA_DTYPE_F32;
}

static bool is_fp8(clmla_dtype dtype) { return dtype == CLMLA_DTYPE_F8_E4M3; }

static int32_t divide_up(int32_t a, int32_t b) { return (a - 1) / b + 1; }

/* Rows of a batch's scales. */
static uint64_t scale_rows(int32_t in_features)
{
    return (uint64_t)divide_up(in_features, MLA__FP8_BLOCK);
}

clmla_status mla__matrix_bytes(const clmla_context *context, int32_t num_batches,
                               int32_t out_features, int32_t in_features, clmla_dtype dtype,
                               uint64_t *bytes)
{
    /* padded sizes must fit int32 as well */
    const int32_t most = INT32_MAX - MLA__PANEL;
    if (num_batches < 1 || out_features < 1 || in_features < 1 || out_features > most ||
        in_features > most)
        return mla__fail(context, CLMLA_INVALID_TENSOR_SHAPE,
                         "matrix: shape is [%d, %d, %d], sizes must be 1 .. %d", (int)num_batches,
                         (int)out_features, (int)in_features, (int)most);
    if (!is_float(dtype) && !is_fp8(dtype))
        return mla__fail(context, CLMLA_INVALID_TENSOR_DTYPE,
                         "matrix: dtype is %s (%d), must be bf16, f16, f32 or f8_e4m3",
                         mla__dtype_name(dtype), (int)dtype);
    const uint64_t columns = mla__ceil_div((uint64_t)out_features, MLA__PANEL) * MLA__PANEL;
    const uint64_t k = (uint64_t)in_features;
    /* all layouts are made of 4-byte words: floats, pairs of 16-bit values, two pairs of codes (there
     * is an even number of columns) */
    const uint64_t pairs = mla__ceil_div(k, 2);
    const uint64_t words = is_fp8(dtype) ? columns * scale_rows(in_features) + columns / 2 * pairs
                                         : columns * (dtype == CLMLA_DTYPE_F32 ? k : pairs);
    uint64_t total;
    if (!mla__checked_mul(words, 4 * (uint64_t)num_batches, &total) ||
        !mla__checked_round_up(total, ALIGNMENT, &total))
        return mla__fail(context, CLMLA_INVALID_TENSOR_SHAPE,
                         "matrix: [%d, %d, %d] is larger than 2^64 bytes", (int)num_batches,
                         (int)out_features, (int)in_features);
    *bytes = total;
    return CLMLA_SUCCESS;
}

/* ---- the source ---------------------------------------------------------------------------- */

/* A matrix source as the pack kernel sees it: element strides along b, n, k. */
typedef struct source_view {
    const unsigned char *host; /* first element; NULL: device */
    const float *scale_inv;    /* of FP8 */
    uint64_t first;            /* element of the scales' matrix that is the first here */
    mla__view view;            /* device: buffer and offset; both: dtype */
    uint64_t batch_stride, n_stride, k_stride;
} source_view;

static uint64_t stride_or(uint64_t stride, uint64_t dense) { return stride > 0 ? stride : dense; }

/* FP8 keeps its codes: both sides have it, or neither. */
static clmla_status check_host_dtype(const clmla_context *context, const clmla_matrix_params *p,
                                     clmla_dtype dtype)
{
    if (is_fp8(dtype) ? !is_fp8(p->dtype) : !is_float(dtype) || is_fp8(p->dtype))
        return mla__fail(
            context, CLMLA_INVALID_TENSOR_DTYPE,
            "matrix: source dtype is %s for storage in %s; must be bf16, f16 or f32, or "
            "f8_e4m3 for f8_e4m3",
            mla__dtype_name(dtype), mla__dtype_name(p->dtype));
    if (is_fp8(dtype) != (p->source.scale_inv != NULL))
        return mla__fail(context, CLMLA_INVALID_ARGUMENT, "matrix: source of %s %s scale_inv",
                         mla__dtype_name(dtype), is_fp8(dtype) ? "without" : "with");
    return CLMLA_SUCCESS;
}

/* [num_batches, rows, columns] in memory order. With one batch and no strides[1] the source is a
 * plain [rows, columns] and strides[0] its row stride. */
static clmla_status view_source(const clmla_context *context, const clmla_matrix_params *p,
                                source_view *out)
{
    const uint64_t rows = (uint64_t)(p->transposed ? p->in_features : p->out_features);
    const uint64_t columns = (uint64_t)(p->transposed ? p->out_features : p->in_features);
    mla__tensor_spec spec = {.name = "matrix: source",
                             .shape = {(uint64_t)p->num_batches, rows, columns},
                             .rank = 3,
                             .dtypes = MLA__FLOATS,
                             .otherwise = CLMLA_DTYPE_BF16};
    clmla_tensor tensor = p->source.tensor;
    if (p->num_batches == 1 && tensor.strides[1] == 0) {
        tensor.strides[1] = tensor.strides[0];
        tensor.strides[0] = 0;
    }
    source_view view = {.host = p->source.host};
    if (p->source.host == NULL && is_fp8(p->dtype))
        return mla__fail(context, CLMLA_INVALID_ARGUMENT,
                         "matrix: a source for f8_e4m3 must be in host memory");
    if (p->source.host == NULL) {
        const clmla_status status = mla__view_make(context, &tensor, &spec, &view.view);
        if (status != CLMLA_SUCCESS)
            return status;
        view.batch_stride = view.view.strides[0];
    } else {
        if (tensor.buffer != NULL)
            return mla__fail(context, CLMLA_INVALID_ARGUMENT,
                             "matrix: source has both host memory and a buffer");
        view.view.dtype = mla__dtype_or(tensor.dtype, CLMLA_DTYPE_BF16);
        view.scale_inv = p->source.scale_inv;
        view.first = tensor.offset_bytes;
        const clmla_status status = check_host_dtype(context, p, view.view.dtype);
        if (status != CLMLA_SUCCESS)
            return status;
        view.view.strides[1] = stride_or(tensor.strides[1], columns);
        view.batch_stride = stride_or(tensor.strides[0], rows * view.view.strides[1]);
        if ((rows > 1 && view.view.strides[1] < columns) ||
            (p->num_batches > 1 && view.batch_stride < (rows - 1) * view.view.strides[1] + columns))
            return mla__fail(context, CLMLA_INVALID_STRIDE,
                             "matrix: source strides [%llu, %llu] do not span [%llu, %llu]",
                             (unsigned long long)view.batch_stride,
                             (unsigned long long)view.view.strides[1], (unsigned long long)rows,
                             (unsigned long long)columns);
        view.host += tensor.offset_bytes;
    }
    view.n_stride = p->transposed ? 1 : view.view.strides[1];
    view.k_stride = p->transposed ? view.view.strides[1] : 1;
    *out = view;
    return CLMLA_SUCCESS;
}

/* ---- packing ------------------------------------------------------------------------------- */

/* What a pack needs from slab to slab. */
typedef struct pack {
    clmla_context *context;
    const struct clmla_matrix *matrix;
    source_view source;
    bool transposed;
    mla__kernel kernel;
    mla__stream stream;
    cl_mem staging; /* host sources */
} pack;

/* Features [n_begin, n_begin + n_count) x [k_begin, k_begin + k_count) of batches from batch_begin;
 * counts without padding. */
typedef struct slab {
    int32_t batch_begin, num_batches, n_begin, n_count, k_begin, k_count;
} slab;

static clmla_status create_kernel(pack *p)
{
    mla__defines defines = {0};
    mla__define_dtype(&defines, "SOURCE_DTYPE", p->source.view.dtype);
    mla__define_dtype(&defines, "W_DTYPE", p->matrix->dtype);
    mla__define_int(&defines, "PAIRED", p->matrix->dtype != CLMLA_DTYPE_F32);
    mla__define_int(&defines, "CODES", is_fp8(p->matrix->dtype));
    mla__define_int(&defines, "ITEM_K", ITEM_K);
    mla__define_loops(&defines, ITEM_K + 1);
    return mla__kernel_create(p->context, FILES, &defines, "matrix_pack", &p->kernel);
}

static size_t work_group(const clmla_context *context)
{
    const size_t most = context->device.max_work_group_size;
    return WANTED_WORK_GROUP < most ? WANTED_WORK_GROUP : most;
}

/* Packs a slab whose first element is element offset of a buffer with the given strides. */
static clmla_status launch(pack *p, const slab *s, cl_mem buffer, uint64_t offset,
                           uint64_t n_stride, uint64_t k_stride)
{
    const struct clmla_matrix *m = p->matrix;
    const bool paired = m->dtype != CLMLA_DTYPE_F32;
    /* the slabs at the edges also zero the padding */
    const int32_t last_n = s->n_begin + s->n_count == m->out_features;
    const int32_t last_k = s->k_begin + s->k_count == m->in_features;
    const int32_t n_count =
        last_n ? (s->n_count + MLA__PANEL - 1) / MLA__PANEL * MLA__PANEL : s->n_count;
    const int32_t k_count = last_k && paired ? s->k_count + s->k_count % 2 : s->k_count;
    mla__kernel *k = &p->kernel;
    k->next_arg = 0;
    mla__arg_buffer(k, buffer);
    mla__arg_ulong(k, offset);
    mla__arg_ulong(k, p->source.batch_stride);
    mla__arg_ulong(k, n_stride);
    mla__arg_ulong(k, k_stride);
    mla__arg_buffer(k, m->buffer);
    mla__arg_ulong(k, m->offset_bytes / mla__dtype_bytes(m->dtype));
    mla__arg_int(k, m->out_features);
    mla__arg_int(k, m->in_features);
    mla__arg_int(k, s->batch_begin);
    mla__arg_int(k, s->n_begin);
    mla__arg_int(k, n_count);
    mla__arg_int(k, s->k_begin);
    mla__arg_int(k, k_count);
    const size_t global[] = {(size_t)n_count, ((size_t)k_count + ITEM_K - 1) / ITEM_K,
                             (size_t)s->num_batches};
    const size_t local[] = {work_group(p->context), 1, 1};
    return mla__stream_launch(&p->stream, k, 3, global, local);
}

/* Rows and columns below are the source's: rows are k and columns n in a transposed one. */
static clmla_status upload(pack *p, const slab *s)
{
    const size_t element = mla__dtype_bytes(p->source.view.dtype);
    const uint64_t row_stride = p->source.view.strides[1];
    const size_t rows = (size_t)(p->transposed ? s->k_count : s->n_count);
    const size_t columns = (size_t)(p->transposed ? s->n_count : s->k_count);
    const uint64_t first = (uint64_t)s->batch_begin * p->source.batch_stride +
                           (uint64_t)s->n_begin * p->source.n_stride +
                           (uint64_t)s->k_begin * p->source.k_stride;
    const unsigned char *from = p->source.host + first * element;
    clmla_status status = mla__stream_before_foreign(&p->stream);
    if (status != CLMLA_SUCCESS)
        return status;
    if (row_stride == columns || rows == 1) {
        status = clEnqueueWriteBuffer(p->stream.queue, p->staging, CL_FALSE, 0,
                                      rows * columns * element, from, 0, NULL, NULL);
    } else {
        const size_t origin[3] = {0, 0, 0}, region[3] = {columns * element, rows, 1};
        status = clEnqueueWriteBufferRect(p->stream.queue, p->staging, CL_FALSE, origin, origin,
                                          region, columns * element, 0, row_stride * element, 0,
                                          from, 0, NULL, NULL);
    }
    if (status != CLMLA_SUCCESS)
        return status;
    mla__stream_after_foreign(&p->stream);
    return p->transposed ? launch(p, s, p->staging, 0, 1, columns)
                         : launch(p, s, p->staging, 0, columns, 1);
}

static int32_t min_int(int32_t a, int32_t b) { return a < b ? a : b; }

/* Slabs of whole source rows where they fit the staging buffer, else of parts of rows. n is cut at
 * multiples of 64 and k at multiples of 2, so that slabs meet at panel and pair boundaries. */
static clmla_status pack_host(pack *p)
{
    const struct clmla_matrix *m = p->matrix;
    const int32_t capacity = STAGING_BYTES / (int32_t)mla__dtype_bytes(p->source.view.dtype);
    int32_t n_slab, k_slab;
    if (p->transposed) {
        n_slab = min_int(m->out_features, capacity / 2 / MLA__PANEL * MLA__PANEL);
        k_slab = min_int(m->in_features, capacity / n_slab / 2 * 2);
    } else {
        k_slab = min_int(m->in_features, capacity / MLA__PANEL / 2 * 2);
        n_slab = min_int(m->out_features, capacity / k_slab / MLA__PANEL * MLA__PANEL);
    }
    cl_int error;
    const size_t bytes = (size_t)n_slab * (size_t)k_slab * mla__dtype_bytes(p->source.view.dtype);
    p->staging = clCreateBuffer(p->context->context, CL_MEM_READ_ONLY, bytes, NULL, &error);
    if (error != CL_SUCCESS)
        return mla__fail(p->context, error, "matrix: cannot allocate %zu bytes for staging", bytes);
    for (int32_t b = 0; b < m->num_batches; b++) {
        for (int32_t n = 0; n < m->out_features; n += n_slab) {
            for (int32_t k = 0; k < m->in_features; k += k_slab) {
                const slab s = {.batch_begin = b,
                                .num_batches = 1,
                                .n_begin = n,
                                .n_count = min_int(n_slab, m->out_features - n),
                                .k_begin = k,
                                .k_count = min_int(k_slab, m->in_features - k)};
                const clmla_status status = upload(p, &s);
                if (status != CLMLA_SUCCESS)
                    return status;
            }
        }
    }
    return CLMLA_SUCCESS;
}

/* ---- scales -------------------------------------------------------------------------------- */

/* The scale of weight [b, n, k], which is an element of the matrix that scale_inv is for. */
static float scale_of(const source_view *source, uint64_t b, uint64_t n, uint64_t k)
{
    const uint64_t row_stride = source->view.strides[1];
    const uint64_t at =
        source->first + b * source->batch_stride + n * source->n_stride + k * source->k_stride;
    const uint64_t columns = mla__ceil_div(row_stride, MLA__FP8_BLOCK);
    return source
        ->scale_inv[at / row_stride / MLA__FP8_BLOCK * columns + at % row_stride / MLA__FP8_BLOCK];
}

/* A transposed source's k are rows of scale_inv's matrix: a group of them must lie in one block. */
static bool groups_lie_in_blocks(const pack *p)
{
    const struct clmla_matrix *m = p->matrix;
    const uint64_t row_stride = p->source.view.strides[1];
    const uint64_t rows =
        (uint64_t)(m->in_features < MLA__FP8_BLOCK ? m->in_features : MLA__FP8_BLOCK);
    for (uint64_t b = 0; p->transposed && b < (uint64_t)m->num_batches; b++) {
        const uint64_t first = (p->source.first + b * p->source.batch_stride) / row_stride;
        if (first % MLA__FP8_BLOCK + rows > MLA__FP8_BLOCK)
            return false;
    }
    return p->transposed || p->source.first % row_stride % MLA__FP8_BLOCK == 0;
}

/* A column of a view, too, may begin only where a block does. */
static clmla_status pack_scales(pack *p)
{
    const struct clmla_matrix *m = p->matrix;
    const uint64_t rows = scale_rows(m->in_features);
    const uint64_t columns = (uint64_t)divide_up(m->out_features, MLA__PANEL) * MLA__PANEL;
    const uint64_t pairs = mla__ceil_div((uint64_t)m->in_features, 2);
    const uint64_t batch_bytes = 4 * rows * columns + 2 * columns * pairs;
    if (!groups_lie_in_blocks(p))
        return mla__fail(p->context, CLMLA_UNSUPPORTED_CONFIG,
                         "matrix: FP8 weights [%d, %d] begin inside a block of %d x %d scales",
                         (int)m->out_features, (int)m->in_features, MLA__FP8_BLOCK, MLA__FP8_BLOCK);
    float *scales = calloc((size_t)(rows * columns), sizeof(*scales));
    clmla_status status = scales != NULL ? CLMLA_SUCCESS : CL_OUT_OF_HOST_MEMORY;
    for (uint64_t b = 0; b < (uint64_t)m->num_batches && status == CLMLA_SUCCESS; b++) {
        for (uint64_t row = 0; row < rows; row++)
            for (uint64_t n = 0; n < (uint64_t)m->out_features; n++)
                scales[row * columns + n] = scale_of(&p->source, b, n, row * MLA__FP8_BLOCK);
        status = clEnqueueWriteBuffer(
            p->stream.queue, m->buffer, CL_TRUE, (size_t)(m->offset_bytes + b * batch_bytes),
            (size_t)(rows * columns) * sizeof(*scales), scales, 0, NULL, NULL);
    }
    free(scales);
    return status;
}

static clmla_status pack_device(pack *p)
{
    const struct clmla_matrix *m = p->matrix;
    const slab s = {
        .num_batches = m->num_batches, .n_count = m->out_features, .k_count = m->in_features};
    return launch(p, &s, p->source.view.buffer, p->source.view.offset, p->source.n_stride,
                  p->source.k_stride);
}

/* The packed form lies inside its buffer. */
static clmla_status check_target(const clmla_context *context, const struct clmla_matrix *m)
{
    uint64_t bytes;
    clmla_status status = mla__matrix_bytes(context, m->num_batches, m->out_features,
                                            m->in_features, m->dtype, &bytes);
    if (status != CLMLA_SUCCESS)
        return status;
    if (m->offset_bytes % ALIGNMENT != 0)
        return mla__fail(context, CLMLA_INVALID_ARGUMENT,
                         "matrix: offset_bytes is %llu, must be a multiple of %d",
                         (unsigned long long)m->offset_bytes, ALIGNMENT);
    const clmla_tensor tensor = {
        .buffer = m->buffer, .offset_bytes = m->offset_bytes, .dtype = CLMLA_DTYPE_F32};
    const mla__tensor_spec spec = {.name = "matrix: buffer",
                                   .shape = {bytes / 4},
                                   .rank = 1,
                                   .dtypes = MLA__F32,
                                   .otherwise = CLMLA_DTYPE_F32};
    mla__view view;
    return mla__view_make(context, &tensor, &spec, &view);
}

/* num_batches and dtype with their defaults. */
static void resolve(clmla_matrix_params *p)
{
    if (p->num_batches == 0)
        p->num_batches = 1;
    if (p->dtype == CLMLA_DTYPE_DEFAULT)
        p->dtype = CLMLA_DTYPE_BF16;
}

clmla_status mla__matrix_pack(clmla_context *context, const clmla_matrix_params *params,
                              cl_command_queue queue, struct clmla_matrix *out)
{
    clmla_matrix_params p = *params;
    resolve(&p);
    const struct clmla_matrix matrix = {.buffer = p.buffer,
                                        .offset_bytes = p.offset_bytes,
                                        .num_batches = p.num_batches,
                                        .out_features = p.out_features,
                                        .in_features = p.in_features,
                                        .dtype = p.dtype};
    pack work = {.context = context, .matrix = &matrix, .transposed = p.transposed != 0};
    clmla_status status = check_target(context, &matrix);
    if (status == CLMLA_SUCCESS)
        status = view_source(context, &p, &work.source);
    if (status == CLMLA_SUCCESS)
        status = mla__stream_begin(&work.stream, queue, 0, NULL);
    if (status == CLMLA_SUCCESS)
        status = create_kernel(&work);
    if (status == CLMLA_SUCCESS && is_fp8(matrix.dtype))
        status = pack_scales(&work);
    if (status == CLMLA_SUCCESS) {
        status = work.source.host != NULL ? pack_host(&work) : pack_device(&work);
        /* also after a failure: writes may still read the caller's memory */
        const cl_int finished = clFinish(queue);
        if (status == CLMLA_SUCCESS)
            status = finished;
    }
    if (work.staging != NULL)
        clReleaseMemObject(work.staging);
    mla__kernel_release(&work.kernel);
    if (status == CLMLA_SUCCESS)
        *out = matrix;
    return status;
}

/* ---- vectors ------------------------------------------------------------------------------- */

static clmla_status pack_host_vector(const clmla_weight_source *source, clmla_dtype dtype,
                                     int32_t num, cl_mem buffer, uint64_t offset_bytes,
                                     cl_command_queue queue)
{
    const unsigned char *from = (const unsigned char *)source->host + source->tensor.offset_bytes;
    float *values = malloc((size_t)num * sizeof(*values));
    if (values == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    for (int32_t i = 0; i < num; i++)
        values[i] = (float)mla__load(from, dtype, (size_t)i);
    const clmla_status status = clEnqueueWriteBuffer(
        queue, buffer, CL_TRUE, offset_bytes, (size_t)num * sizeof(*values), values, 0, NULL, NULL);
    free(values);
    return status;
}

static clmla_status pack_device_vector(clmla_context *context, const mla__view *x,
                                       const mla__view *y, int32_t num, cl_command_queue queue)
{
    mla__kernel kernel = {0};
    mla__stream stream;
    mla__defines defines = {0};
    mla__define_dtype(&defines, "SOURCE_DTYPE", x->dtype);
    mla__define_dtype(&defines, "W_DTYPE", CLMLA_DTYPE_F32);
    mla__define_int(&defines, "PAIRED", 0);
    mla__define_int(&defines, "CODES", 0);
    mla__define_int(&defines, "ITEM_K", ITEM_K);
    mla__define_loops(&defines, 1); /* it has none */
    clmla_status status = mla__stream_begin(&stream, queue, 0, NULL);
    if (status == CLMLA_SUCCESS)
        status = mla__kernel_create(context, FILES, &defines, "vector_pack", &kernel);
    if (status == CLMLA_SUCCESS) {
        const size_t global[] = {(size_t)num}, local[] = {work_group(context)};
        mla__arg_view(&kernel, x, 0);
        mla__arg_view(&kernel, y, 0);
        mla__arg_int(&kernel, num);
        status = mla__stream_launch(&stream, &kernel, 1, global, local);
    }
    if (status == CLMLA_SUCCESS)
        status = clFinish(queue);
    mla__kernel_release(&kernel);
    return status;
}

clmla_status mla__vector_pack(clmla_context *context, const clmla_weight_source *source,
                              const char *name, int32_t num, cl_mem buffer, uint64_t offset_bytes,
                              cl_command_queue queue)
{
    const clmla_tensor target = {
        .buffer = buffer, .offset_bytes = offset_bytes, .dtype = CLMLA_DTYPE_F32};
    mla__tensor_spec spec = {.name = name,
                             .shape = {(uint64_t)num},
                             .rank = 1,
                             .dtypes = MLA__F32,
                             .otherwise = CLMLA_DTYPE_F32};
    mla__view x, y;
    clmla_status status = mla__view_make(context, &target, &spec, &y);
    if (status != CLMLA_SUCCESS)
        return status;
    const clmla_dtype dtype = mla__dtype_or(source->tensor.dtype, CLMLA_DTYPE_BF16);
    if (!is_float(dtype))
        return mla__fail(context, CLMLA_INVALID_TENSOR_DTYPE,
                         "%s: dtype is %s, must be bf16, f16 or f32", name, mla__dtype_name(dtype));
    if (source->host != NULL && source->tensor.buffer != NULL)
        return mla__fail(context, CLMLA_INVALID_ARGUMENT,
                         "%s: source has both host memory and a buffer", name);
    if (source->host != NULL)
        return pack_host_vector(source, dtype, num, buffer, offset_bytes, queue);
    spec.dtypes = MLA__FLOATS;
    spec.otherwise = CLMLA_DTYPE_BF16;
    status = mla__view_make(context, &source->tensor, &spec, &x);
    return status == CLMLA_SUCCESS ? pack_device_vector(context, &x, &y, num, queue) : status;
}

/* ---- public -------------------------------------------------------------------------------- */

clmla_status clmla_matrix_size(clmla_context *context, const clmla_matrix_params *params,
                               uint64_t *bytes)
{
    clmla_matrix_params p;
    if (context == NULL || bytes == NULL)
        return CLMLA_INVALID_ARGUMENT;
    const clmla_status status = MLA__PARAMS_COPY(context, "matrix", p, params);
    if (status != CLMLA_SUCCESS)
        return status;
    resolve(&p);
    return mla__matrix_bytes(context, p.num_batches, p.out_features, p.in_features, p.dtype, bytes);
}

/* The caller's buffer retained, or one of our own. */
static clmla_status take_buffer(clmla_context *context, clmla_matrix_params *p)
{
    uint64_t bytes;
    cl_int error;
    if (p->buffer != NULL)
        return clRetainMemObject(p->buffer);
    const clmla_status status = mla__matrix_bytes(context, p->num_batches, p->out_features,
                                                  p->in_features, p->dtype, &bytes);
    if (status != CLMLA_SUCCESS)
        return status;
    const cl_mem buffer =
        clCreateBuffer(context->context, CL_MEM_READ_WRITE, (size_t)bytes, NULL, &error);
    if (error != CL_SUCCESS)
        return mla__fail(context, error, "matrix: cannot allocate %llu bytes",
                         (unsigned long long)bytes);
    p->buffer = buffer;
    p->offset_bytes = 0;
    return CLMLA_SUCCESS;
}

clmla_status clmla_matrix_create(clmla_context *context, const clmla_matrix_params *params,
                                 cl_command_queue queue, clmla_matrix **out)
{
    clmla_matrix_params p;
    if (context == NULL || out == NULL)
        return CLMLA_INVALID_ARGUMENT;
    if (queue == NULL)
        return CL_INVALID_COMMAND_QUEUE;
    clmla_status status = MLA__PARAMS_COPY(context, "matrix", p, params);
    if (status != CLMLA_SUCCESS)
        return status;
    clmla_matrix *matrix = calloc(1, sizeof(*matrix));
    if (matrix == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    resolve(&p);
    status = take_buffer(context, &p);
    if (status != CLMLA_SUCCESS) {
        free(matrix);
        return status;
    }
    mla__sm_90a_probe(context);
    status = mla__matrix_pack(context, &p, queue, matrix);
    if (status != CLMLA_SUCCESS) {
        clReleaseMemObject(p.buffer);
        free(matrix);
        return status;
    }
    mla__context_retain(context);
    matrix->context = context;
    *out = matrix;
    return CLMLA_SUCCESS;
}

void clmla_matrix_release(clmla_matrix *matrix)
{
    if (matrix == NULL)
        return;
    clReleaseMemObject(matrix->buffer);
    clmla_context_release(matrix->context);
    free(matrix);
}
