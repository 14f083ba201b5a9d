#include "cli/convert.h"

#include <string.h>

#include "core/dtype.h"
#include "core/fp8_cache.h"

void mla_store_array(const void *from, clmla_dtype from_dtype, size_t count, clmla_dtype dtype,
                     void *to, size_t first)
{
    const size_t bytes = mla__dtype_bytes(dtype);
    if (dtype == from_dtype) {
        memcpy((unsigned char *)to + first * bytes, from, count * bytes);
        return;
    }
    for (size_t i = 0; i < count; i++)
        mla__store(to, dtype, first + i, mla__load(from, from_dtype, i));
}

void mla_load_floats(const void *from, clmla_dtype dtype, size_t first, size_t count, float *to)
{
    for (size_t i = 0; i < count; i++)
        to[i] = (float)mla__load(from, dtype, first + i);
}

void mla_load_doubles(const void *from, clmla_dtype dtype, size_t first, size_t count, double *to)
{
    for (size_t i = 0; i < count; i++)
        to[i] = mla__load(from, dtype, first + i);
}

size_t mla_record_bytes(const clmla_config *config)
{
    return (size_t)mla__fp8_record_bytes(config->kv_lora_rank, config->qk_rope_head_dim);
}

void mla_store_record(const clmla_config *config, const float *latent, const void *pe,
                      clmla_dtype pe_dtype, unsigned char *record)
{
    const size_t rope = (size_t)config->qk_rope_head_dim;
    mla__fp8_encode_latent(latent, config->kv_lora_rank, record);
    if (rope > 0)
        mla_store_array(pe, pe_dtype, rope, CLMLA_DTYPE_BF16,
                        record + mla__fp8_latent_bytes(config->kv_lora_rank), 0);
}

void mla_load_record(const clmla_config *config, const unsigned char *record, float *latent,
                     float *pe)
{
    mla__fp8_decode_latent(record, config->kv_lora_rank, latent);
    mla_load_floats(record + mla__fp8_latent_bytes(config->kv_lora_rank), CLMLA_DTYPE_BF16, 0,
                    (size_t)config->qk_rope_head_dim, pe);
}
