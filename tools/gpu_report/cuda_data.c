#include "cuda_data.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* splitmix64 */
static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

void data_draw(uint16_t *to, size_t count, uint64_t seed)
{
    uint16_t values[256]; /* an element takes one of these */
    for (int i = 0; i < 256; i++)
        values[i] = data_round((double)(2 * i - 255) / 256.0);
    for (size_t i = 0; i < count; i += 8) {
        uint64_t bits =
            mix(seed * UINT64_C(0x2545F4914F6CDD1D) + (i / 8 + 1) * UINT64_C(0x9E3779B97F4A7C15));
        for (size_t j = i; j < i + 8 && j < count; j++, bits >>= 8)
            to[j] = values[bits & 0xff];
    }
}

double data_value(uint16_t bf16)
{
    const uint32_t bits = (uint32_t)bf16 << 16;
    float value;
    memcpy(&value, &bits, sizeof(value));
    return (double)value;
}

uint16_t data_round(double value)
{
    const float single = (float)value;
    uint32_t bits;
    memcpy(&bits, &single, sizeof(bits));
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/* ---- packed weights ------------------------------------------------------------------------- */

enum { PANEL = 64 };

size_t data_packed_count(size_t N, size_t K)
{
    return (N + PANEL - 1) / PANEL * PANEL * ((K + 1) / 2 * 2);
}

size_t data_packed_index(size_t K, size_t n, size_t k)
{
    return ((n / PANEL * ((K + 1) / 2) + k / 2) * PANEL + n % PANEL) * 2 + k % 2;
}

void data_pack(const uint16_t *W, size_t N, size_t K, uint16_t *packed)
{
    memset(packed, 0, data_packed_count(N, K) * sizeof(*packed));
    for (size_t n = 0; n < N; n++)
        for (size_t k = 0; k < K; k++)
            packed[data_packed_index(K, n, k)] = W[n * K + k];
}

/* ---- comparison ----------------------------------------------------------------------------- */

void compare(comparison *c, const char *what, size_t i, size_t j, double is, double expected,
             double bound)
{
    const double error = fabs(is - expected);
    const bool equal = is == expected; /* infinities, too */
    c->elements++;
    if (equal || error <= bound) {
        c->worst = equal ? c->worst : fmax(c->worst, error / bound);
        return;
    }
    c->worst = isfinite(error) && bound > 0.0 ? fmax(c->worst, error / bound) : HUGE_VAL;
    if (c->wrong++ == 0)
        (void)snprintf(c->first, sizeof(c->first),
                       "wrong: %s[%zu, %zu] is %.7g, should be %.7g within %.2g", what, i, j, is,
                       expected, bound);
}

void compare_untouched(comparison *c, const char *what, size_t i, size_t j, bool same)
{
    c->elements++;
    if (!same && c->wrong++ == 0)
        (void)snprintf(c->first, sizeof(c->first),
                       "wrong: %s[%zu, %zu] was written and must not be", what, i, j);
}
