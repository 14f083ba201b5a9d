/*
 * Local memory beyond what a device reports. NVIDIA's OpenCL reports 48 KiB of a work-group, its
 * compiler may take more: only a kernel that was built, ran and came back right tells.
 */
#ifndef CLMLA_OCL_LOCAL_MEMORY_H
#define CLMLA_OCL_LOCAL_MEMORY_H

#include "ocl/launch.h"

enum mla__local_state { MLA__LOCAL_UNTRIED, MLA__LOCAL_PROVEN, MLA__LOCAL_REFUSED };

/* What the context knows of work-groups with so many bytes. Any thread. */
enum mla__local_state mla__local_memory_state(const clmla_context *context, uint64_t bytes);

/* Finds out, once per context: builds and runs cl/local_memory.cl in a work-group of that size, and
 * waits for the stream's queue. What the device refuses is no error, but remembered; notify gets a
 * line. Errors: no memory for the result. Any thread. */
clmla_status mla__local_memory_try(clmla_context *context, uint64_t bytes, int32_t work_group,
                                   mla__stream *stream);

/* A kernel with so many bytes fails after all. */
void mla__local_memory_refuse(clmla_context *context, uint64_t bytes);

#endif
