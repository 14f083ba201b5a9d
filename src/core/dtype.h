/*
 * Storage dtypes on the host: sizes, names, and conversions to and from double/float.
 * All conversions round to nearest, ties to even; NaN stays NaN (quiet), infinities stay.
 */
#ifndef CLMLA_CORE_DTYPE_H
#define CLMLA_CORE_DTYPE_H

#include <stddef.h>
#include <stdint.h>

#include "clmla_ops.h"

/* Rows and columns of FP8 (e4m3) weights that share a scale. */
enum { MLA__FP8_BLOCK = 128 };

/* Bytes per element: bf16, f16 2; f32, i32 4; fp8_ds_mla, f8_e4m3 1; 0 for an unknown dtype. */
size_t mla__dtype_bytes(clmla_dtype dtype);

/* "bf16", "f16", "f32", "i32", "fp8_ds_mla", "f8_e4m3", "default", or "unknown": also the names
 * kernels are built with. */
const char *mla__dtype_name(clmla_dtype dtype);

/* What DEFAULT means where `otherwise` is the default. */
static inline clmla_dtype mla__dtype_or(clmla_dtype dtype, clmla_dtype otherwise)
{
    return dtype == CLMLA_DTYPE_DEFAULT ? otherwise : dtype;
}

float mla__bf16_to_float(uint16_t bits);
uint16_t mla__float_to_bf16(float value);
uint16_t mla__double_to_bf16(double value); /* one rounding, not two */

float mla__f16_to_float(uint16_t bits);
uint16_t mla__float_to_f16(float value);
uint16_t mla__double_to_f16(double value); /* one rounding, not two */

/* e4m3fn: bias 7, no infinities, 0x7f and 0xff are NaN, largest value 448. */
float mla__f8_e4m3_to_float(uint8_t bits);
uint8_t mla__float_to_f8_e4m3(float value); /* past 448: 448; NaN: 0x7f */

/* Element index of an array of dtype (bf16, f16, f32). */
double mla__load(const void *array, clmla_dtype dtype, size_t index);
void mla__store(void *array, clmla_dtype dtype, size_t index, double value);

#endif
