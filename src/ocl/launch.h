/*
 * Kernels, typed arguments, and a stream of dependent launches on a host's queue.
 */
#ifndef CLMLA_OCL_LAUNCH_H
#define CLMLA_OCL_LAUNCH_H

#include <stdbool.h>

#include "ocl/context.h"
#include "ocl/program.h"

/* One kernel object, owned by whoever created it (clSetKernelArg is not thread-safe). */
typedef struct mla__kernel {
    cl_kernel kernel; /* NULL: none */
    cl_uint next_arg;
    clmla_status status; /* first error of the setters below; checked by mla__kernel_ready */
} mla__kernel;

clmla_status mla__kernel_create(clmla_context *context, const char *const *files,
                                const mla__defines *defines, const char *name, mla__kernel *out);
/* Of mla__program_get_sm_90a. */
clmla_status mla__kernel_create_sm_90a(clmla_context *context, const char *const *files,
                                       const mla__defines *defines, const char *name,
                                       mla__kernel *out);
void mla__kernel_release(mla__kernel *kernel); /* accepts a zeroed struct */

/* Set the next argument, in order. Errors stick until mla__kernel_ready. */
void mla__arg_buffer(mla__kernel *kernel, cl_mem buffer); /* NULL buffer: a null pointer */
void mla__arg_int(mla__kernel *kernel, cl_int value);
void mla__arg_ulong(mla__kernel *kernel, cl_ulong value);
void mla__arg_float(mla__kernel *kernel, cl_float value);
void mla__arg_bytes(mla__kernel *kernel, const void *value, size_t bytes);
void mla__arg_local(mla__kernel *kernel, size_t bytes);
/* SUCCESS, or the first error of the setters. */
clmla_status mla__kernel_ready(const mla__kernel *kernel);

/* Change one argument later, by index. */
clmla_status mla__arg_set_int(mla__kernel *kernel, cl_uint index, cl_int value);
clmla_status mla__arg_set_ulong(mla__kernel *kernel, cl_uint index, cl_ulong value);
clmla_status mla__arg_set_buffer(mla__kernel *kernel, cl_uint index, cl_mem buffer);

/* A chain of commands, each depending on the one before.
 *
 * In-order queue: the first command carries the wait list. Out-of-order queue: plain barriers
 * between commands. mla__stream_end gives the event (a marker, only when one is asked for; with an
 * unused wait list the marker waits for it). */
typedef struct mla__stream {
    cl_command_queue queue;
    bool out_of_order;
    bool needs_barrier; /* out-of-order: a command of this stream was enqueued since the last one */
    cl_uint num_events; /* wait list not consumed yet */
    const cl_event *wait_list;
    int kernel_launches;
    int clblast_calls;
} mla__stream;

/* Checks queue and wait list (CL_INVALID_COMMAND_QUEUE, CL_INVALID_EVENT_WAIT_LIST). */
clmla_status mla__stream_begin(mla__stream *stream, cl_command_queue queue, cl_uint num_events,
                               const cl_event *wait_list);

/* Enqueues a kernel; work_dim 1..3; global is rounded up to a multiple of local here, so kernels
 * guard their tails. A global size of 0 in any dimension enqueues nothing. */
clmla_status mla__stream_launch(mla__stream *stream, const mla__kernel *kernel, cl_uint work_dim,
                                const size_t *global, const size_t *local);

/* For commands that a stream does not launch itself. before: consumes the wait list and orders the
 * next command after the former ones (a barrier when needed); after: marks that something was
 * enqueued. CLBlast, which takes no wait list, is called between the two. */
clmla_status mla__stream_before_foreign(mla__stream *stream);
void mla__stream_after_foreign(mla__stream *stream);

/* Copy from host memory that stays valid until *event (may be NULL) completes; never blocks. */
clmla_status mla__stream_write(mla__stream *stream, cl_mem buffer, size_t offset_bytes,
                               size_t bytes, const void *data, cl_event *event);

clmla_status mla__stream_end(mla__stream *stream, cl_event *event);

#endif
