/*
 * Figures of a list of samples. An empty list gives NaN.
 */
#ifndef CLMLA_CLI_STATS_H
#define CLMLA_CLI_STATS_H

#include <stddef.h>

/* The middle sample, the mean of the two middle ones for an even count. Sorts the samples. */
double mla_median(double *samples, size_t count);
double mla_minimum(const double *samples, size_t count);
double mla_mean(const double *samples, size_t count);

#endif
