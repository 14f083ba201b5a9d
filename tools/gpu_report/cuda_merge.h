/* merge (cl/merge.cl): the partial states of attention's splits become one result. */
#ifndef CLMLA_CUDA_MERGE_H
#define CLMLA_CUDA_MERGE_H

#include "cuda_driver.h"

/* States [splits, tokens, heads, dim] float32 and their lse to out [tokens, heads, dim] bf16 and lse. */
typedef struct merge_operands {
    cuda_buffer states, state_lse, out, lse;
    int splits, tokens, heads, dim;
} merge_operands;

cuda_launch merge_launch(const cuda_kernel *kernel, const merge_operands *operands);

#endif
