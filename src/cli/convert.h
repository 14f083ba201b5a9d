/*
 * Arrays between storage dtypes, and from them to float or double; keys as the records of an FP8
 * cache (core/fp8_cache.h).
 */
#ifndef CLMLA_CLI_CONVERT_H
#define CLMLA_CLI_CONVERT_H

#include <stddef.h>

#include "clmla.h"

/* Elements first .. first + count - 1 of `to` (dtype) from count elements of from_dtype, each rounded
 * once; bf16, f16 or f32. `from` may lie at any address. */
void mla_store_array(const void *from, clmla_dtype from_dtype, size_t count, clmla_dtype dtype,
                     void *to, size_t first);

/* From elements first .. first + count - 1 of `from`. */
void mla_load_floats(const void *from, clmla_dtype dtype, size_t first, size_t count, float *to);
void mla_load_doubles(const void *from, clmla_dtype dtype, size_t first, size_t count, double *to);

size_t mla_record_bytes(const clmla_config *config);
/* A key's record: the latent [kv_lora_rank] rounded to e4m3, and pe [qk_rope_head_dim] of pe_dtype,
 * which may lie at any address, to bf16. */
void mla_store_record(const clmla_config *config, const float *latent, const void *pe,
                      clmla_dtype pe_dtype, unsigned char *record);
/* What a record stands for. */
void mla_load_record(const clmla_config *config, const unsigned char *record, float *latent,
                     float *pe);

#endif
