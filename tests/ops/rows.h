/*
 * What the tests of rmsnorm, rope and cache_append share: error bounds of one rounding, and arrays
 * of storage elements with gaps that must stay as they were.
 */
#ifndef CLMLA_TESTS_OPS_ROWS_H
#define CLMLA_TESTS_OPS_ROWS_H

#include "core/dtype.h"
#include "support/device.h"
#include "support/support.h"

static const clmla_kernel_class both_classes[] = {CLMLA_KERNELS_CPU, CLMLA_KERNELS_GPU};

/* Relative error of rounding to a dtype of p significant bits to nearest: 2^-p. */
static inline double unit_roundoff(clmla_dtype dtype)
{
    return dtype == CLMLA_DTYPE_BF16 ? 0x1p-8 : dtype == CLMLA_DTYPE_F16 ? 0x1p-11 : 0x1p-24;
}

/* Absolute error of rounding below the smallest normal number: half a subnormal step. */
static inline double underflow_error(clmla_dtype dtype)
{
    return dtype == CLMLA_DTYPE_F16 ? 0x1p-25 : 0x1p-134;
}

/* |y - t| must be within what one rounding to dtype of a value with `error` absolute allows. */
static inline void check_element(const char *what, size_t row, size_t column, clmla_dtype dtype,
                                 double y, double t, double error)
{
    const double bound = error + unit_roundoff(dtype) * (fabs(t) + error) + underflow_error(dtype);
    if (!(fabs(y - t) <= bound))
        fail_msg("%s: [%zu, %zu] is %.9g, expected %.9g within %.3g", what, row, column, y, t,
                 bound);
}

/* `count` elements of dtype, every byte 0xff: NaN in each float dtype, -1 in i32. */
static inline unsigned char *poisoned(size_t count, clmla_dtype dtype)
{
    unsigned char *bytes = malloc(count * mla__dtype_bytes(dtype) + 1);
    assert_non_null(bytes);
    memset(bytes, 0xff, count * mla__dtype_bytes(dtype));
    return bytes;
}

/* Element `at` of array := a random number rounded to dtype, which is returned. */
static inline double put_random(void *array, clmla_dtype dtype, size_t at, test_random *random)
{
    mla__store(array, dtype, at, test_random_normal(random));
    return mla__load(array, dtype, at);
}

/* Fails unless element `at` still holds poison in array. */
static inline void check_poison(const char *what, const unsigned char *array, clmla_dtype dtype,
                                size_t at)
{
    const size_t bytes = mla__dtype_bytes(dtype);
    for (size_t i = 0; i < bytes; i++) {
        if (array[at * bytes + i] != 0xff)
            fail_msg("%s: element %zu was written and must not be", what, at);
    }
}

static inline double *doubles(size_t count)
{
    double *values = calloc(count > 0 ? count : 1, sizeof *values);
    assert_non_null(values);
    return values;
}

/* The buffer's tensor, `offset` elements into its payload, with these strides (elements). */
static inline clmla_tensor view_of(const test_buffer *buffer, size_t offset, size_t stride0,
                                   size_t stride1)
{
    clmla_tensor tensor = buffer->tensor;
    tensor.offset_bytes += offset * mla__dtype_bytes(tensor.dtype);
    tensor.strides[0] = stride0;
    tensor.strides[1] = stride1;
    return tensor;
}

#endif
