/*
 * Arrays between bf16 patterns, storage dtypes, and float or double.
 */
#ifndef CLMLA_CLI_CONVERT_H
#define CLMLA_CLI_CONVERT_H

#include <stddef.h>
#include <stdint.h>

#include "clmla.h"

/* Elements first .. first + count - 1 of `to` (bf16, f16 or f32) from bf16 patterns. */
void mla_store_bf16(const uint16_t *from, size_t count, clmla_dtype dtype, void *to, size_t first);

/* From elements first .. first + count - 1 of `from`. */
void mla_load_floats(const void *from, clmla_dtype dtype, size_t first, size_t count, float *to);
void mla_load_doubles(const void *from, clmla_dtype dtype, size_t first, size_t count, double *to);

#endif
