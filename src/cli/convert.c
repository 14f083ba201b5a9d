#include "cli/convert.h"

#include <string.h>

#include "core/dtype.h"

void mla_store_array(const void *from, clmla_dtype from_dtype, size_t count, clmla_dtype dtype,
                     void *to, size_t first)
{
    const size_t bytes = mla__dtype_bytes(dtype);
    if (dtype == from_dtype) {
        memcpy((unsigned char *)to + first * bytes, from, count * bytes);
        return;
    }
    for (size_t i = 0; i < count; i++)
        mla__store(to, dtype, first + i, mla__load(from, from_dtype, i));
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
