/* Data of cuda_harness on the host: random bf16, packed weights, and comparison with what is
 * expected. */
#ifndef CLMLA_CUDA_DATA_H
#define CLMLA_CUDA_DATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Odd multiples of 2^-8 within (-1, 1), uniform: never zero, and products of two of them are exact
 * in float32. A value follows from the seed and its index. */
void data_draw(uint16_t *to, size_t count, uint64_t seed);
double data_value(uint16_t bf16);
uint16_t data_round(double value); /* to nearest, ties to even; of what a float holds exactly */

/* ---- packed weights: the layout that src/ops/matrix.h gives bf16, one batch ---- */

/* Elements of the packed [N, K], with those that fill panels and pairs, which are zero. */
size_t data_packed_count(size_t N, size_t K);
void data_pack(const uint16_t *W, size_t N, size_t K, uint16_t *packed);
/* Where W[n, k] lies; a uint's low half comes first. */
size_t data_packed_index(size_t K, size_t n, size_t k);

/* ---- comparison ---- */

typedef struct comparison {
    double worst; /* the largest |is - expected| / bound */
    size_t elements, wrong;
    char first[160]; /* wrong one */
} comparison;

/* `what` and two indices name the element where it is wrong. */
void compare(comparison *c, const char *what, size_t i, size_t j, double is, double expected,
             double bound);
/* Counts an element that had to stay as it was. */
void compare_untouched(comparison *c, const char *what, size_t i, size_t j, bool same);

#endif
