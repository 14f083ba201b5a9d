#include "core/yarn.h"

#include <math.h>

#define TWO_PI 6.283185307179586476925286766559

/* The dimension whose wave turns n times over the original context: c(n) of yarn.h. */
static double correction_dim(double n, double rope, double theta, double original)
{
    return rope * log(original / (TWO_PI * n)) / (2.0 * log(theta));
}

/* Where YaRN blends from the plain frequency (ramp 0) to the interpolated one (ramp 1). */
typedef struct yarn_ramp {
    double low;
    double span;
} yarn_ramp;

static yarn_ramp ramp_of(const clmla_config *config)
{
    const clmla_rope_scaling *yarn = &config->rope_scaling;
    const double rope = config->qk_rope_head_dim;
    const double theta = config->rope_theta;
    const double original = yarn->original_max_position_embeddings;
    const double low = fmax(floor(correction_dim(yarn->beta_fast, rope, theta, original)), 0.0);
    const double high =
        fmin(ceil(correction_dim(yarn->beta_slow, rope, theta, original)), rope - 1.0);
    /* high < low is possible for extreme contexts; the official code has no special case for it. */
    return (yarn_ramp){.low = low, .span = high != low ? high - low : 0.001};
}

static double frequency(const clmla_config *config, yarn_ramp ramp, int32_t j)
{
    const double factor = config->rope_scaling.factor;
    const double plain = pow(config->rope_theta, -2.0 * j / config->qk_rope_head_dim);
    if (!(factor > 0.0))
        return plain;
    const double weight = fmin(fmax((j - ramp.low) / ramp.span, 0.0), 1.0);
    return plain * (1.0 - weight) + plain / factor * weight;
}

void mla__rope_frequencies(const clmla_config *config, double *freq)
{
    const yarn_ramp ramp = ramp_of(config);
    for (int32_t j = 0; j < config->qk_rope_head_dim / 2; j++)
        freq[j] = frequency(config, ramp, j);
}

void mla__rope_turns(const clmla_config *config, uint64_t *turns)
{
    const yarn_ramp ramp = ramp_of(config);
    for (int32_t j = 0; j < config->qk_rope_head_dim / 2; j++) {
        const double full = frequency(config, ramp, j) / TWO_PI; /* turns per position */
        const double units = round(ldexp(full - floor(full), 64));
        turns[j] = units < 0x1p64 ? (uint64_t)units : 0; /* a whole turn is none */
    }
}
