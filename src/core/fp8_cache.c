#include "core/fp8_cache.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "core/dtype.h"

bool mla__fp8_cache_fits(int32_t kv_lora_rank, int32_t rope_dim)
{
    return kv_lora_rank > 0 && kv_lora_rank % MLA__FP8_GROUP == 0 && rope_dim % 2 == 0;
}

uint64_t mla__fp8_latent_bytes(int32_t kv_lora_rank)
{
    return (uint64_t)kv_lora_rank + (uint64_t)(kv_lora_rank / MLA__FP8_GROUP) * sizeof(float);
}

uint64_t mla__fp8_record_bytes(int32_t kv_lora_rank, int32_t rope_dim)
{
    return mla__fp8_latent_bytes(kv_lora_rank) + (uint64_t)rope_dim * sizeof(uint16_t);
}

/* largest = f · 2^e, f in [0.5, 1); 448 = 0.875 · 2^9 */
float mla__fp8_scale(float largest)
{
    int exponent;
    const float fraction = frexpf(fminf(largest, FLT_MAX), &exponent);
    const int wanted = exponent - 9 + (fraction > 0.875f ? 1 : 0);
    const bool least = !(largest > 0.0f) || wanted < MLA__FP8_MIN_EXPONENT;
    return ldexpf(1.0f, least ? MLA__FP8_MIN_EXPONENT : wanted);
}

void mla__fp8_encode_latent(const float *latent, int32_t kv_lora_rank, unsigned char *record)
{
    for (int32_t group = 0; group < kv_lora_rank / MLA__FP8_GROUP; group++) {
        const size_t first = (size_t)group * MLA__FP8_GROUP;
        const float *values = latent + first;
        float largest = 0.0f;
        for (int32_t i = 0; i < MLA__FP8_GROUP; i++)
            largest = fmaxf(largest, fabsf(values[i]));
        const float scale = mla__fp8_scale(largest);
        for (int32_t i = 0; i < MLA__FP8_GROUP; i++)
            record[first + (size_t)i] = mla__float_to_f8_e4m3(values[i] / scale);
        memcpy(record + kv_lora_rank + (size_t)group * sizeof(scale), &scale, sizeof(scale));
    }
}

void mla__fp8_decode_latent(const unsigned char *record, int32_t kv_lora_rank, float *latent)
{
    for (int32_t i = 0; i < kv_lora_rank; i++) {
        float scale;
        const size_t group = (size_t)(i / MLA__FP8_GROUP);
        memcpy(&scale, record + kv_lora_rank + group * sizeof(scale), sizeof(scale));
        latent[i] = mla__f8_e4m3_to_float(record[i]) * scale;
    }
}
