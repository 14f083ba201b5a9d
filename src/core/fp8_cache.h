/*
 * The record of a key in an FP8 cache, which FlashMLA and vLLM (fp8_ds_mla) share:
 *
 *     kv_lora_rank e4m3 codes | kv_lora_rank / 128 float32 scales | rope_dim bf16
 *
 * little-endian, 656 bytes for 512 + 64. Latent element i is code i · scale i / 128. A scale is the
 * smallest power of two, at least 2^-13, with 448 · scale >= the largest magnitude of its 128
 * elements; code · scale is then exact in bf16.
 *
 * Source of layout and scale: FlashMLA, tests/quant.py (V32_FP8Sparse; there 1e-4 is the least
 * quotient, which rounds up to 2^-13).
 */
#ifndef CLMLA_CORE_FP8_CACHE_H
#define CLMLA_CORE_FP8_CACHE_H

#include <stdbool.h>
#include <stdint.h>

enum { MLA__FP8_GROUP = 128, MLA__FP8_MIN_EXPONENT = -13 };

/* Whether there is a record for these dims. */
bool mla__fp8_cache_fits(int32_t kv_lora_rank, int32_t rope_dim);
uint64_t mla__fp8_record_bytes(int32_t kv_lora_rank, int32_t rope_dim);
/* Bytes in front of the rope part. */
uint64_t mla__fp8_latent_bytes(int32_t kv_lora_rank);

/* The scale of a group whose largest magnitude this is. */
float mla__fp8_scale(float largest);

/* Writes codes and scales of a record, or reads the values they stand for. */
void mla__fp8_encode_latent(const float *latent, int32_t kv_lora_rank, unsigned char *record);
void mla__fp8_decode_latent(const unsigned char *record, int32_t kv_lora_rank, float *latent);

#endif
