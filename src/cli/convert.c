#include "cli/convert.h"

#include <string.h>

#include "core/dtype.h"

void mla_store_bf16(const uint16_t *from, size_t count, clmla_dtype dtype, void *to, size_t first)
{
    if (dtype == CLMLA_DTYPE_BF16) {
        memcpy((uint16_t *)to + first, from, count * sizeof(*from));
        return;
    }
    for (size_t i = 0; i < count; i++)
        mla__store(to, dtype, first + i, (double)mla__bf16_to_float(from[i]));
}

void mla_load_floats(const void *from, clmla_dtype dtype, size_t first, size_t count, float *to)
{
    for (size_t i = 0; i < count; i++)
        to[i] = (float)mla__load(from, dtype, first + i);
}

void mla_load_doubles(const void *from, clmla_dtype dtype, size_t first, size_t count, double *to)
{
    for (size_t i = 0; i < count; i++)
        to[i] = mla__load(from, dtype, first + i);
}
