#include "ref/draw.h"

#include <math.h>

#include "core/dtype.h"

/* splitmix64's finaliser; FNV-1a; both as tests/golden/README.md states the recipe. */
static uint64_t mix64(uint64_t z)
{
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

uint64_t mla_draw_base(const char *name, uint64_t seed)
{
    uint64_t hash = UINT64_C(0xCBF29CE484222325);
    for (const char *c = name; *c != '\0'; c++)
        hash = (hash ^ (unsigned char)*c) * UINT64_C(0x100000001B3);
    return mix64(hash ^ seed);
}

/* The top eight bits that element i of the stream is made from. */
static unsigned top_bits(uint64_t base, uint64_t i)
{
    return (unsigned)(mix64(base + (i + 1) * UINT64_C(0x9E3779B97F4A7C15)) >> 56);
}

static uint16_t value_of(unsigned top, mla_draw_kind kind, int exp)
{
    float value = 0.0f;
    switch (kind) {
    case MLA_DRAW_SYM:
        value = ldexpf((float)(2 * (int)top - 255), exp - 8);
        break;
    case MLA_DRAW_UNIT:
        value = ldexpf((float)top, -8);
        break;
    case MLA_DRAW_NORM:
        value = ldexpf((float)(64 + (top >> 1)), -7);
        break;
    }
    return mla__float_to_bf16(value); /* exact: at most eight significant bits */
}

int mla_draw_weight_exp(int32_t fan_in) { return (int)lround(-log2(sqrt((double)fan_in / 3.0))); }

uint16_t mla_draw_bf16(uint64_t base, uint64_t i, mla_draw_kind kind, int exp)
{
    return value_of(top_bits(base, i), kind, exp);
}

void mla_draw(uint64_t base, uint64_t first, size_t count, mla_draw_kind kind, int exp,
              uint16_t *out)
{
    uint16_t values[256]; /* an element takes one of these: full-size models draw 2^28 elements */
    for (unsigned top = 0; top < 256; top++)
        values[top] = value_of(top, kind, exp);
    for (size_t i = 0; i < count; i++)
        out[i] = values[top_bits(base, first + i)];
}

void mla_draw_sums(const uint16_t *patterns, size_t count, uint64_t *sum, uint64_t *weighted_sum)
{
    uint64_t plain = 0, weighted = 0;
    for (size_t i = 0; i < count; i++) {
        plain += patterns[i];
        weighted += ((uint64_t)i + 1) * patterns[i];
    }
    *sum = plain;
    *weighted_sum = weighted;
}
