/*
 * A device for tests: the one that CLMLA_TEST_PLATFORM (part of the platform's name) picks, else
 * the first. Buffers come with canaries on both sides and are filled with a byte pattern that reads
 * as NaN in every storage dtype, so that stray reads and writes show.
 */
#ifndef CLMLA_TESTS_DEVICE_H
#define CLMLA_TESTS_DEVICE_H

#include <stddef.h>

#include "clmla.h"
#include "ocl/program.h"

typedef struct test_device {
    cl_device_id id;
    cl_context context;
    cl_command_queue queue;        /* in order */
    cl_command_queue out_of_order; /* NULL where not supported */
} test_device;

/* Opens the device once per program (fails the test without one) and returns it. */
test_device *test_device_get(void);
void test_device_close(void);
int test_device_teardown(void **state); /* the same, for a group of cmocka's */

/* A clmla context of a class on the test device, with a notify callback that remembers the last
 * text. */
clmla_context *test_context(clmla_kernel_class kernel_class, clmla_projection_backend projection);
clmla_context *test_context_with_units(clmla_kernel_class kernel_class,
                                       clmla_matrix_units matrix_units);
/* The same with a kernel directory (NULL: none), automatic class and backend. */
clmla_context *test_context_with_kernels(clmla_kernel_class kernel_class,
                                         const char *kernel_directory);
/* The same with a tuning record, native projections. */
clmla_context *test_context_with_tuning(clmla_kernel_class kernel_class,
                                        clmla_matrix_units matrix_units, const char *text);
/* A record for the test device: its header, then `entries`. free() it. */
char *test_tuning_text(const char *entries);
/* Makes directory/name with this text; directory is created, as is one folder level in name. */
void test_write_kernel(const char *directory, const char *name, const char *text);
/* The single int that a kernel answer(global int *out, ulong at) of this file writes to out[at]. */
int test_answer(clmla_context *context, const char *file, const mla__defines *defines);
const char *test_last_notify(void);
void test_clear_notify(void);

/* A device buffer of `bytes` between two canaries of 256 bytes: the payload starts at
 * test_buffer.tensor.offset_bytes. */
typedef struct test_buffer {
    clmla_tensor tensor;
    size_t bytes;
} test_buffer;

/* Payload filled with 0xff (NaN in bf16, f16, f32; -1 in i32). */
test_buffer test_buffer_poisoned(size_t bytes, clmla_dtype dtype);
/* Payload copied from host memory. */
test_buffer test_buffer_of(const void *data, size_t bytes, clmla_dtype dtype);
/* Elements converted from double to dtype (bf16, f16, f32). */
test_buffer test_buffer_of_doubles(const double *values, size_t count, clmla_dtype dtype);
/* Reads the payload back; fails the test when a canary changed. */
void test_buffer_read(const test_buffer *buffer, void *data);
void test_buffer_read_doubles(const test_buffer *buffer, double *values, size_t count);
/* Fails the test unless the payload still equals data. */
void test_buffer_unchanged(const char *what, const test_buffer *buffer, const void *data);
void test_buffer_release(test_buffer *buffer);

#endif
