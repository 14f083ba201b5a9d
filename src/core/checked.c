#include "core/checked.h"

#include <string.h>

bool mla__checked_add(uint64_t a, uint64_t b, uint64_t *out)
{
    if (b > UINT64_MAX - a)
        return false;
    *out = a + b;
    return true;
}

bool mla__checked_mul(uint64_t a, uint64_t b, uint64_t *out)
{
    if (a != 0 && b > UINT64_MAX / a)
        return false;
    *out = a * b;
    return true;
}

bool mla__checked_round_up(uint64_t a, uint64_t unit, uint64_t *out)
{
    const uint64_t rest = a % unit;
    if (rest == 0) {
        *out = a;
        return true;
    }
    return mla__checked_add(a, unit - rest, out);
}

bool mla__params_copy(void *dst, size_t dst_bytes, size_t first_version_bytes, const void *src)
{
    size_t src_bytes = 0;
    if (src == NULL)
        return false;
    memcpy(&src_bytes, src, sizeof src_bytes);
    if (src_bytes < first_version_bytes || src_bytes > dst_bytes)
        return false;
    memset(dst, 0, dst_bytes);
    memcpy(dst, src, src_bytes);
    memcpy(dst, &dst_bytes, sizeof dst_bytes); /* the copy has every field of this version */
    return true;
}
