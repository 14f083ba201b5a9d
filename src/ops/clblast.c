#include "ops/clblast.h"

#include <clblast_c.h>
#include <string.h>

#include "tuning/record.h"

static const CLBlastLayout LAYOUT = CLBlastLayoutColMajor;
static const CLBlastTranspose W_ROTATION = CLBlastTransposeNo, X_ROTATION = CLBlastTransposeYes;

static const char OVERRIDE[] = "CLBlastOverrideParameters";

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

#define NAME_OF(field, name, meaning) #name,
#define VALUE_OF(field, name, meaning) (size_t) record->xgemm.field,

/* Gives CLBlast the record's parameters; the next call of it on this device takes them. */
static CLBlastStatusCode override(cl_device_id device, const mla__clblast_record *record)
{
    const char *names[] = {MLA__CLBLAST_XGEMM(NAME_OF)};
    const size_t values[] = {MLA__CLBLAST_XGEMM(VALUE_OF)};
    const char *routine_names[] = {"XGEMM_MIN_INDIRECT_SIZE"};
    const size_t routine_values[] = {(size_t)record->min_indirect_size};
    const CLBlastStatusCode code = CLBlastOverrideParameters(
        device, "Xgemm", CLBlastPrecisionSingle, sizeof(values) / sizeof(values[0]), names, values);
    return code != CLBlastSuccess
               ? code
               : CLBlastOverrideParameters(device, "GemmRoutine", CLBlastPrecisionSingle, 1,
                                           routine_names, routine_values);
}

const mla__clblast_record *mla__clblast_record_of(const clmla_context *context, size_t rows)
{
    const mla__record_key key = {.kernel = MLA__RECORD_CLBLAST_XGEMM};
    if (!context->clblast_overrides)
        return NULL;
    const mla__record_entry *entry = mla__record_find(context->record, &key, (int32_t)rows);
    return entry != NULL ? &entry->clblast
                         : mla__clblast_record_find(&context->device, (int32_t)rows);
}

/* Sets the parameters for calls of so many rows, where the context allows it. An override takes
 * CLBlast about a millisecond, so what this library set last is remembered: like the override
 * itself, for the process, under the lock, which is held. Where the host has set others since,
 * results stay right. CLBlast keeps the compiled kernels of every set. */
static CLBlastStatusCode choose_parameters(const clmla_context *context, size_t rows)
{
    static cl_device_id last_device; /* NULL: nothing was set */
    static mla__clblast_record last; /* values: the record that they are from may be gone */
    const mla__clblast_record *record = mla__clblast_record_of(context, rows);
    if (record == NULL ||
        (context->device.id == last_device && record->min_indirect_size == last.min_indirect_size &&
         memcmp(&record->xgemm, &last.xgemm, sizeof last.xgemm) == 0))
        return CLBlastSuccess;
    const CLBlastStatusCode code = override(context->device.id, record);
    last_device = code == CLBlastSuccess ? context->device.id : NULL;
    last = *record;
    return code;
}

clmla_status mla__clblast_temporary_bytes(const clmla_context *context, cl_command_queue queue,
                                          size_t columns, size_t rows, size_t k, size_t w_offset,
                                          uint64_t *bytes)
{
    size_t temporary = 0;
    const char *call = OVERRIDE;
    mla__os_clblast_lock();
    CLBlastStatusCode code = choose_parameters(context, rows);
    if (code == CLBlastSuccess) {
        call = "CLBlastSGemmTempBufferSize";
        code =
            CLBlastSGemmTempBufferSize(LAYOUT, W_ROTATION, X_ROTATION, columns, rows, k, w_offset,
                                       columns, 0, rows, 0, columns, &queue, &temporary);
    }
    mla__os_clblast_unlock();
    const clmla_status status = from_clblast(context, call, code);
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
    const char *call = OVERRIDE;
    mla__os_clblast_lock();
    CLBlastStatusCode code = choose_parameters(context, gemm->rows);
    if (code == CLBlastSuccess) {
        call = gemm->num_batches > 1 ? "CLBlastSgemmStridedBatched" : "CLBlastSgemm";
        code = multiply(queue, gemm);
    }
    mla__os_clblast_unlock();
    return from_clblast(context, call, code);
}
