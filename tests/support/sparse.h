/*
 * A buffer larger than any device's largest allocation, for offsets past 2^31 elements: a small
 * cl_mem at the begin of a huge range of the process' addresses, of which only pages that are
 * touched take memory. clGetMemObjectInfo, wrapped when the test is linked, tells the library the
 * range's size. Works where a device computes in the process' own memory, such as PoCL's CPUs.
 */
#ifndef CLMLA_TESTS_SPARSE_H
#define CLMLA_TESTS_SPARSE_H

#include "support/device.h"

typedef struct sparse {
    cl_mem buffer;
    unsigned char *data; /* the same memory for the host, once commands have completed */
    size_t bytes;
} sparse;

/* NULL, or why there is none here. */
const char *sparse_create(size_t bytes, sparse *out);
void sparse_release(sparse *region);

#endif
