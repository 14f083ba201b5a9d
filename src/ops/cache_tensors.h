/* The two cache tensors of an op, checked: apart in a floating-point dtype, or FP8 records. */
#ifndef CLMLA_OPS_CACHE_TENSORS_H
#define CLMLA_OPS_CACHE_TENSORS_H

#include "ops/sequences.h"
#include "ops/tensor.h"

typedef struct mla__cache_tensors {
    mla__view kv_cache; /* [pages, page rows, kv_elements] */
    mla__view pe_cache; /* [pages, page rows, rope_dim]; bf16 and in kv_cache's records where fp8 */
    uint64_t kv_elements;
    bool fp8;
} mla__cache_tensors;

/* op: name for messages. */
clmla_status mla__cache_tensors_make(const clmla_context *context, const char *op,
                                     const mla__sequences *sequences, const clmla_tensor *kv_cache,
                                     const clmla_tensor *pe_cache, int32_t kv_lora_rank,
                                     int32_t rope_dim, mla__cache_tensors *out);

#endif
