/*
 * Deterministic data: the counter-based generator of tests/golden/README.md ("The recipe").
 * Element i of a tensor depends only on the tensor's name, the seed and i.
 */
#ifndef CLMLA_REF_DRAW_H
#define CLMLA_REF_DRAW_H

#include <stddef.h>
#include <stdint.h>

typedef enum mla_draw_kind {
    MLA_DRAW_SYM,  /* uniform over (-2^exp, 2^exp), odd multiples of 2^(exp-8) */
    MLA_DRAW_UNIT, /* uniform over [0, 1) */
    MLA_DRAW_NORM  /* uniform over [0.5, 1.5): norm weights */
} mla_draw_kind;

/* Exponents of what is drawn for measuring: hidden states, queries and caches over (-2, 2), as in the
 * golden recipe; weights of fan_in columns so that outputs stay near 1, for values over (-2^e, 2^e)
 * have the standard deviation 2^e / √3. */
enum { MLA_DRAW_INPUT_EXP = 1 };
int mla_draw_weight_exp(int32_t fan_in);

uint64_t mla_draw_base(const char *name, uint64_t seed);

/* bf16 pattern of element i. */
uint16_t mla_draw_bf16(uint64_t base, uint64_t i, mla_draw_kind kind, int exp);

/* Elements first .. first + count - 1. */
void mla_draw(uint64_t base, uint64_t first, size_t count, mla_draw_kind kind, int exp,
              uint16_t *out);

/* Checksums of the recipe, modulo 2^64: Σ p[i] and Σ (i + 1) · p[i]. */
void mla_draw_sums(const uint16_t *patterns, size_t count, uint64_t *sum, uint64_t *weighted_sum);

#endif
