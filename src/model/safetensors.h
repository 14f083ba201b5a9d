/*
 * What reader and writer of safetensors files share.
 */
#ifndef CLMLA_MODEL_SAFETENSORS_H
#define CLMLA_MODEL_SAFETENSORS_H

#include <stdbool.h>

#include "clmla_model.h"

/* Whether the format has this dtype. */
bool mla__safetensors_knows(clmla_safetensors_dtype dtype);

/* Elements and bytes of a tensor by its dtype, rank and shape. False: one of them passes 2^64, or
 * elements of less than a byte do not fill their last byte. */
bool mla__safetensors_size(const clmla_safetensors_tensor *tensor, uint64_t *num_elements,
                           uint64_t *bytes);

#endif
