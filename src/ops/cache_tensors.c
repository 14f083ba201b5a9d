#include "ops/cache_tensors.h"

#include <stdio.h>

#include "core/fp8_cache.h"

static clmla_status make_view(const clmla_context *context, const char *op, const char *name,
                              const mla__sequences *sequences, uint64_t elements, int dtypes,
                              const clmla_tensor *tensor, mla__view *view)
{
    char text[64];
    (void)snprintf(text, sizeof(text), "%s: %s", op, name);
    const mla__tensor_spec spec = {
        .name = text,
        .shape = {(uint64_t)sequences->num_pages, (uint64_t)sequences->page_block_size, elements},
        .rank = 3,
        .dtypes = dtypes,
        .otherwise = CLMLA_DTYPE_BF16};
    return mla__view_make(context, tensor, &spec, view);
}

static clmla_status make_records(const clmla_context *context, const char *op,
                                 const mla__sequences *sequences, const clmla_tensor *kv_cache,
                                 const clmla_tensor *pe_cache, int32_t kv_lora_rank,
                                 int32_t rope_dim, mla__cache_tensors *made)
{
    enum { WORD = sizeof(float) };
    if (!mla__fp8_cache_fits(kv_lora_rank, rope_dim))
        return mla__fail(context, CLMLA_INVALID_TENSOR_SHAPE,
                         "%s: kv_cache of FP8 records needs a kv_lora_rank that is a multiple of "
                         "%d and an even rope_dim, not %d and %d",
                         op, MLA__FP8_GROUP, (int)kv_lora_rank, (int)rope_dim);
    if (pe_cache->buffer != NULL)
        return mla__fail(context, CLMLA_INVALID_ARGUMENT,
                         "%s: pe_cache is given, but the records of kv_cache hold the rope part",
                         op);
    made->fp8 = true;
    made->kv_elements = mla__fp8_record_bytes(kv_lora_rank, rope_dim);
    mla__view *const kv = &made->kv_cache;
    const clmla_status status = make_view(context, op, "kv_cache", sequences, made->kv_elements,
                                          1 << CLMLA_DTYPE_FP8_DS_MLA, kv_cache, kv);
    if (status != CLMLA_SUCCESS)
        return status;
    if (kv->offset % WORD != 0 || kv->strides[0] % WORD != 0 || kv->strides[1] % WORD != 0)
        return mla__fail(context, CLMLA_INVALID_STRIDE,
                         "%s: kv_cache: offset %llu and strides %llu, %llu of FP8 records must be "
                         "multiples of %d bytes",
                         op, (unsigned long long)kv->offset, (unsigned long long)kv->strides[0],
                         (unsigned long long)kv->strides[1], WORD);
    const uint64_t bf16 = sizeof(uint16_t);
    made->pe_cache =
        (mla__view){.buffer = kv->buffer,
                    .offset = (kv->offset + mla__fp8_latent_bytes(kv_lora_rank)) / bf16,
                    .strides = {kv->strides[0] / bf16, kv->strides[1] / bf16},
                    .dtype = CLMLA_DTYPE_BF16};
    return CLMLA_SUCCESS;
}

clmla_status mla__cache_tensors_make(const clmla_context *context, const char *op,
                                     const mla__sequences *sequences, const clmla_tensor *kv_cache,
                                     const clmla_tensor *pe_cache, int32_t kv_lora_rank,
                                     int32_t rope_dim, mla__cache_tensors *out)
{
    mla__cache_tensors made = {.kv_elements = (uint64_t)kv_lora_rank};
    clmla_status status;
    if (kv_cache->dtype == CLMLA_DTYPE_FP8_DS_MLA) {
        status =
            make_records(context, op, sequences, kv_cache, pe_cache, kv_lora_rank, rope_dim, &made);
    } else {
        status = make_view(context, op, "kv_cache", sequences, made.kv_elements, MLA__FLOATS,
                           kv_cache, &made.kv_cache);
        if (status == CLMLA_SUCCESS)
            status = make_view(context, op, "pe_cache", sequences, (uint64_t)rope_dim, MLA__FLOATS,
                               pe_cache, &made.pe_cache);
    }
    if (status == CLMLA_SUCCESS)
        *out = made;
    return status;
}
