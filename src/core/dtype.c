#include "core/dtype.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

size_t mla__dtype_bytes(clmla_dtype dtype)
{
    switch (dtype) {
    case CLMLA_DTYPE_BF16:
    case CLMLA_DTYPE_F16:
        return 2;
    case CLMLA_DTYPE_F32:
    case CLMLA_DTYPE_I32:
        return 4;
    case CLMLA_DTYPE_FP8_DS_MLA:
    case CLMLA_DTYPE_F8_E4M3:
        return 1;
    default:
        return 0;
    }
}

const char *mla__dtype_name(clmla_dtype dtype)
{
    switch (dtype) {
    case CLMLA_DTYPE_DEFAULT:
        return "default";
    case CLMLA_DTYPE_BF16:
        return "bf16";
    case CLMLA_DTYPE_F16:
        return "f16";
    case CLMLA_DTYPE_F32:
        return "f32";
    case CLMLA_DTYPE_I32:
        return "i32";
    case CLMLA_DTYPE_FP8_DS_MLA:
        return "fp8_ds_mla";
    case CLMLA_DTYPE_F8_E4M3:
        return "f8_e4m3";
    default:
        return "unknown";
    }
}

static float float_from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* A 16-bit IEEE format: sign, exponent of 15 - mantissa_bits bits, mantissa. */
#define F64_MANTISSA_BITS 52
#define F64_BIAS 1023
#define BF16_MANTISSA_BITS 7
#define F16_MANTISSA_BITS 10

/* bits / 2^shift, to nearest, ties to even; 0 < shift < 64 */
static uint64_t shift_right_to_even(uint64_t bits, int shift)
{
    const uint64_t half = UINT64_C(1) << (shift - 1);
    const uint64_t odd = (bits >> shift) & 1u;
    return (bits + half - 1 + odd) >> shift;
}

static uint16_t round_to_16_bits(double value, int mantissa_bits)
{
    const int exponent_max = (1 << (15 - mantissa_bits)) - 1; /* infinity and NaN */
    const int bias = exponent_max / 2;
    const int dropped = F64_MANTISSA_BITS - mantissa_bits;
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);

    const uint64_t sign = (bits >> 63) << 15;
    const uint64_t mantissa = bits & ((UINT64_C(1) << F64_MANTISSA_BITS) - 1);
    const uint64_t infinity = (uint64_t)exponent_max << mantissa_bits;
    if (isnan(value))
        return (uint16_t)(sign | infinity | (UINT64_C(1) << (mantissa_bits - 1)) |
                          (mantissa >> dropped));

    const int exponent = (int)((bits >> F64_MANTISSA_BITS) & 0x7ff) - F64_BIAS + bias;
    if (exponent >= exponent_max)
        return (uint16_t)(sign | infinity);
    if (exponent >= 1) /* a carry out of the mantissa raises the exponent, up to infinity */
        return (uint16_t)(sign | shift_right_to_even(
                                     (uint64_t)exponent << F64_MANTISSA_BITS | mantissa, dropped));

    /* Subnormal: the leading one becomes explicit. Beyond a shift of F64_MANTISSA_BITS + 1 the
     * value is below half of the smallest subnormal; so is every subnormal double. */
    const int shift = dropped + 1 - exponent;
    if (shift > F64_MANTISSA_BITS + 1)
        return (uint16_t)sign;
    return (uint16_t)(sign |
                      shift_right_to_even(UINT64_C(1) << F64_MANTISSA_BITS | mantissa, shift));
}

float mla__bf16_to_float(uint16_t bits) { return float_from_bits((uint32_t)bits << 16); }

uint16_t mla__float_to_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (isnan(value))
        return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

uint16_t mla__double_to_bf16(double value) { return round_to_16_bits(value, BF16_MANTISSA_BITS); }

float mla__f16_to_float(uint16_t bits)
{
    const uint32_t sign = (uint32_t)(bits & 0x8000u) << 16;
    const uint32_t exponent = (bits >> 10) & 0x1fu;
    const uint32_t mantissa = bits & 0x3ffu;
    if (exponent == 0) {
        const float magnitude = (float)mantissa * 0x1p-24f;
        return sign != 0 ? -magnitude : magnitude;
    }
    if (exponent == 0x1f) /* a NaN comes out quiet */
        return float_from_bits(sign | 0x7f800000u | mantissa << 13 |
                               (mantissa != 0 ? 0x400000u : 0));
    return float_from_bits(sign | (exponent + 127 - 15) << 23 | mantissa << 13);
}

uint16_t mla__float_to_f16(float value) { return mla__double_to_f16((double)value); }

uint16_t mla__double_to_f16(double value) { return round_to_16_bits(value, F16_MANTISSA_BITS); }

float mla__f8_e4m3_to_float(uint8_t bits)
{
    const uint32_t sign = (uint32_t)(bits & 0x80u) << 24;
    const uint32_t exponent = (bits >> 3) & 0xfu;
    const uint32_t mantissa = bits & 0x7u;
    if (exponent == 0) {
        const float magnitude = (float)mantissa * 0x1p-9f;
        return sign != 0 ? -magnitude : magnitude;
    }
    if (exponent == 0xf && mantissa == 0x7)
        return float_from_bits(sign | 0x7fc00000u);
    return float_from_bits(sign | (exponent + 127 - 7) << 23 | mantissa << 20);
}

/* Below 2^-6 the codes are multiples of 2^-9, the eighth of which is the first above. */
uint8_t mla__float_to_f8_e4m3(float value)
{
    const uint32_t largest = 0x7e; /* 448 */
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    const uint32_t sign = bits >> 24 & 0x80u;
    if (isnan(value))
        return 0x7f;
    bits &= 0x7fffffffu;
    if (fabsf(value) < 0x1p-6f)
        return (uint8_t)(sign | (uint32_t)lrintf(fabsf(value) * 0x1p9f));
    const uint32_t code = ((bits + 0x7ffffu + (bits >> 20 & 1u)) >> 20) - ((127 - 7) << 3);
    return (uint8_t)(sign | (code < largest ? code : largest));
}

/* memcpy: arrays that come from files need not be aligned. */
double mla__load(const void *array, clmla_dtype dtype, size_t index)
{
    const unsigned char *at = (const unsigned char *)array + index * mla__dtype_bytes(dtype);
    uint16_t half;
    float single;
    switch (dtype) {
    case CLMLA_DTYPE_BF16:
        memcpy(&half, at, sizeof half);
        return (double)mla__bf16_to_float(half);
    case CLMLA_DTYPE_F16:
        memcpy(&half, at, sizeof half);
        return (double)mla__f16_to_float(half);
    case CLMLA_DTYPE_F32:
        memcpy(&single, at, sizeof single);
        return (double)single;
    default:
        return (double)NAN;
    }
}

void mla__store(void *array, clmla_dtype dtype, size_t index, double value)
{
    unsigned char *at = (unsigned char *)array + index * mla__dtype_bytes(dtype);
    const float single = (float)value;
    uint16_t half;
    switch (dtype) {
    case CLMLA_DTYPE_BF16:
        half = mla__double_to_bf16(value);
        memcpy(at, &half, sizeof half);
        break;
    case CLMLA_DTYPE_F16:
        half = mla__double_to_f16(value);
        memcpy(at, &half, sizeof half);
        break;
    case CLMLA_DTYPE_F32:
        memcpy(at, &single, sizeof single);
        break;
    default:
        break;
    }
}
