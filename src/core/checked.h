/*
 * Arithmetic on sizes that come from a caller or a file: every function returns false, and leaves
 * *out alone, when the result does not fit.
 */
#ifndef CLMLA_CORE_CHECKED_H
#define CLMLA_CORE_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

bool mla__checked_add(uint64_t a, uint64_t b, uint64_t *out);
bool mla__checked_mul(uint64_t a, uint64_t b, uint64_t *out);
/* Smallest multiple of unit (> 0) that is >= a. */
bool mla__checked_round_up(uint64_t a, uint64_t unit, uint64_t *out);

/* Copies a caller's params struct (which begins with size_t struct_size) into a zeroed struct of
 * this library's size. False when struct_size is smaller than the first published version's or
 * larger than ours. */
bool mla__params_copy(void *dst, size_t dst_bytes, size_t first_version_bytes, const void *src);

/* ceil(a / b) for a >= 0, b > 0, no overflow. */
static inline uint64_t mla__ceil_div(uint64_t a, uint64_t b) { return a / b + (a % b != 0); }

#endif
