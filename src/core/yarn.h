/*
 * RoPE frequencies, plain or YaRN.
 *
 *   freq[j] = theta^(-2j/rope), j < rope/2
 *   YaRN: c(n) = rope · ln(original / (2π n)) / (2 ln theta),
 *         low = max(floor(c(beta_fast)), 0), high = min(ceil(c(beta_slow)), rope - 1),
 *         ramp[j] = clamp((j - low) / (high - low), 0, 1)      (0.001 where high == low),
 *         freq[j] = freq[j] · (1 - ramp[j]) + freq[j] / factor · ramp[j]
 *
 * Source: DeepSeek-V3 inference/model.py, precompute_freqs_cis.
 */
#ifndef CLMLA_CORE_YARN_H
#define CLMLA_CORE_YARN_H

#include <stdint.h>

#include "clmla_ops.h"

/* freq[qk_rope_head_dim / 2], radians per position. config resolved. */
void mla__rope_frequencies(const clmla_config *config, double *freq);

/* turns[j] = round(freq[j] / 2π · 2^64): the angle of position p is p · turns[j] modulo 2^64, in
 * units of 2^-64 turns. */
void mla__rope_turns(const clmla_config *config, uint64_t *turns);

#endif
