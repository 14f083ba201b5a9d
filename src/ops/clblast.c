#include "ops/clblast.h"

#include <clblast_c.h>

static const CLBlastLayout LAYOUT = CLBlastLayoutColMajor;
static const CLBlastTranspose W_ROTATION = CLBlastTransposeNo, X_ROTATION = CLBlastTransposeYes;

static clmla_status from_clblast(const clmla_context *context, const char *call,
                                 CLBlastStatusCode code)
{
    enum { OPENCL_CODES_ABOVE = -1000 };
    const int value = (int)code;
    if (value == 0)
        return CLMLA_SUCCESS;
    const clmla_status status = value > OPENCL_CODES_ABOVE ? value : CLMLA_CLBLAST_FAILED;
    return mla__fail(context, status, "projection: %s returned %d", call, value);
}

clmla_status mla__clblast_temporary_bytes(const clmla_context *context, cl_command_queue queue,
                                          size_t columns, size_t rows, size_t k, size_t w_offset,
                                          uint64_t *bytes)
{
    size_t temporary = 0;
    mla__os_clblast_lock();
    const CLBlastStatusCode code =
        CLBlastSGemmTempBufferSize(LAYOUT, W_ROTATION, X_ROTATION, columns, rows, k, w_offset,
                                   columns, 0, rows, 0, columns, &queue, &temporary);
    mla__os_clblast_unlock();
    const clmla_status status = from_clblast(context, "CLBlastSGemmTempBufferSize", code);
    if (status == CLMLA_SUCCESS)
        *bytes = temporary;
    return status;
}

/* The indirect path copies an operand that does not begin at offset 0, so the temporary of such a
 * call tells the two apart. */
clmla_status mla__clblast_is_direct(const clmla_context *context, cl_command_queue queue,
                                    size_t columns, size_t rows, size_t k, bool *direct)
{
    uint64_t bytes;
    const clmla_status status =
        mla__clblast_temporary_bytes(context, queue, columns, rows, k, 1, &bytes);
    if (status == CLMLA_SUCCESS)
        *direct = bytes == 0;
    return status;
}

static CLBlastStatusCode multiply(cl_command_queue queue, const mla__clblast_gemm *g)
{
    if (g->num_batches > 1)
        return CLBlastSgemmStridedBatched(
            LAYOUT, W_ROTATION, X_ROTATION, g->columns, g->rows, g->k, 1.0f, g->w, g->w_offset,
            g->columns, g->k * g->columns, g->x, 0, g->rows, g->k * g->rows, 0.0f, g->y, 0,
            g->columns, g->columns * g->rows, g->num_batches, &queue, NULL);
    if (g->temporary != NULL)
        return CLBlastSgemmWithTempBuffer(LAYOUT, W_ROTATION, X_ROTATION, g->columns, g->rows, g->k,
                                          1.0f, g->w, g->w_offset, g->columns, g->x, 0, g->rows,
                                          0.0f, g->y, 0, g->columns, &queue, NULL, g->temporary);
    return CLBlastSgemm(LAYOUT, W_ROTATION, X_ROTATION, g->columns, g->rows, g->k, 1.0f, g->w,
                        g->w_offset, g->columns, g->x, 0, g->rows, 0.0f, g->y, 0, g->columns,
                        &queue, NULL);
}

clmla_status mla__clblast_enqueue(const clmla_context *context, cl_command_queue queue,
                                  const mla__clblast_gemm *gemm)
{
    mla__os_clblast_lock();
    const CLBlastStatusCode code = multiply(queue, gemm);
    mla__os_clblast_unlock();
    return from_clblast(
        context, gemm->num_batches > 1 ? "CLBlastSgemmStridedBatched" : "CLBlastSgemm", code);
}
