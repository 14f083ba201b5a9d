#include "cli/stats.h"

#include <math.h>
#include <stdlib.h>

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double mla_median(double *samples, size_t count)
{
    if (count == 0)
        return (double)NAN;
    qsort(samples, count, sizeof(*samples), ascending);
    const double upper = samples[count / 2];
    return count % 2 == 1 ? upper : 0.5 * (samples[count / 2 - 1] + upper);
}

double mla_minimum(const double *samples, size_t count)
{
    double minimum = (double)NAN;
    for (size_t i = 0; i < count; i++)
        minimum = fmin(minimum, samples[i]);
    return minimum;
}

double mla_mean(const double *samples, size_t count)
{
    double sum = 0.0;
    for (size_t i = 0; i < count; i++)
        sum += samples[i];
    return count > 0 ? sum / (double)count : (double)NAN;
}
