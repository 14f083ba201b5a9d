/*
 * The calls into CLBlast, each under the process-wide lock, with its statuses mapped: OpenCL's
 * codes pass through, CLBlast's own become CLMLA_CLBLAST_FAILED with the number in the notify text.
 */
#ifndef CLMLA_OPS_CLBLAST_H
#define CLMLA_OPS_CLBLAST_H

#include "ocl/context.h"
#include "tuning/clblast_records.h"

/* y[b][columns, rows] = W[b][columns, k] · x[b][rows, k]ᵀ in column-major float32, A not rotated
 * and B rotated: element (c, r) of y at r · columns + c, (c, k) of W at k · columns + c, (r, k) of
 * x at k · rows + r; batches follow one another without a gap. */
typedef struct mla__clblast_gemm {
    size_t columns, rows, k, num_batches;
    cl_mem w, x, y;
    size_t w_offset;  /* elements */
    cl_mem temporary; /* one batch: NULL leaves it to CLBlast to allocate what it needs */
} mla__clblast_gemm;

/* The parameters that CLBlast is given for calls of so many rows; NULL: it is left as it is. */
const mla__clblast_record *mla__clblast_record_of(const clmla_context *context, size_t rows);

/* Bytes of the temporary that one batch of these sizes needs. */
clmla_status mla__clblast_temporary_bytes(const clmla_context *context, cl_command_queue queue,
                                          size_t columns, size_t rows, size_t k, size_t w_offset,
                                          uint64_t *bytes);

/* Whether these sizes take CLBlast's direct kernel, which needs no temporary whatever the operands.
 */
clmla_status mla__clblast_is_direct(const clmla_context *context, cl_command_queue queue,
                                    size_t columns, size_t rows, size_t k, bool *direct);

/* Enqueues the product. Several batches must be direct, or need no temporary and begin at offset 0:
 * CLBlast 1.5.3's indirect batched path ignores w_offset, and allocates for all batches what it
 * needs. */
clmla_status mla__clblast_enqueue(const clmla_context *context, cl_command_queue queue,
                                  const mla__clblast_gemm *gemm);

#endif
