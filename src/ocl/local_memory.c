#include "ocl/local_memory.h"

#include <stdlib.h>

/* More was refused where less was, and less is there where more is. */
enum mla__local_state mla__local_memory_state(const clmla_context *context, uint64_t bytes)
{
    enum mla__local_state state = MLA__LOCAL_UNTRIED;
    mla__os_mutex_lock(context->mutex);
    if (context->local_refused_bytes > 0 && bytes >= context->local_refused_bytes)
        state = MLA__LOCAL_REFUSED;
    else if (bytes <= context->local_proven_bytes)
        state = MLA__LOCAL_PROVEN;
    mla__os_mutex_unlock(context->mutex);
    return state;
}

void mla__local_memory_refuse(clmla_context *context, uint64_t bytes)
{
    mla__os_mutex_lock(context->mutex);
    if (context->local_refused_bytes == 0 || bytes < context->local_refused_bytes)
        context->local_refused_bytes = bytes;
    mla__os_mutex_unlock(context->mutex);
}

static void prove(clmla_context *context, uint64_t bytes)
{
    mla__os_mutex_lock(context->mutex);
    if (bytes > context->local_proven_bytes)
        context->local_proven_bytes = bytes;
    mla__os_mutex_unlock(context->mutex);
}

/* The pattern of cl/local_memory.cl. */
static bool is_right(const uint32_t *words, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (words[i] != (uint32_t)(count - 1 - i) * 2654435761u)
            return false;
    }
    return true;
}

/* False: it does not build, does not run, or the words are wrong. */
static bool build_and_run(clmla_context *context, uint64_t bytes, int32_t work_group,
                          mla__stream *stream, cl_mem buffer, uint32_t *words)
{
    static const char *const files[] = {"local_memory.cl", NULL};
    const size_t size = (size_t)work_group;
    mla__defines defines = {.length = 0};
    mla__kernel kernel = {.kernel = NULL};
    cl_program program = NULL;
    mla__define_int(&defines, "LOCAL_BYTES", (long long)bytes);
    mla__define_int(&defines, "WORK_GROUP", work_group);
    clmla_status status = mla__program_try(context, files, &defines, &program);
    if (status == CLMLA_SUCCESS)
        status = mla__kernel_create(context, files, &defines, "local_memory", &kernel);
    if (status != CLMLA_SUCCESS)
        return false;
    mla__arg_buffer(&kernel, buffer);
    status = mla__stream_launch(stream, &kernel, 1, &size, &size);
    if (status == CLMLA_SUCCESS)
        status = mla__stream_before_foreign(stream);
    if (status == CLMLA_SUCCESS)
        status = clEnqueueReadBuffer(stream->queue, buffer, CL_TRUE, 0, (size_t)bytes, words, 0,
                                     NULL, NULL);
    mla__kernel_release(&kernel);
    return status == CLMLA_SUCCESS && is_right(words, (size_t)bytes / sizeof(*words));
}

clmla_status mla__local_memory_try(clmla_context *context, uint64_t bytes, int32_t work_group,
                                   mla__stream *stream)
{
    cl_int status = CL_SUCCESS;
    if (mla__local_memory_state(context, bytes) != MLA__LOCAL_UNTRIED)
        return CLMLA_SUCCESS;
    uint32_t *const words = calloc(1, (size_t)bytes);
    if (words == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    const cl_mem buffer =
        clCreateBuffer(context->context, CL_MEM_READ_WRITE, (size_t)bytes, NULL, &status);
    if (status != CL_SUCCESS) {
        free(words);
        return mla__fail(context, status, "cannot allocate %llu bytes to try local memory with",
                         (unsigned long long)bytes);
    }
    if (build_and_run(context, bytes, work_group, stream, buffer, words)) {
        prove(context, bytes);
    } else {
        mla__local_memory_refuse(context, bytes);
        (void)mla__fail(
            context, CLMLA_SUCCESS,
            "local memory: no %llu bytes of it for a work-group here; kernels that take "
            "less remain",
            (unsigned long long)bytes);
    }
    (void)clReleaseMemObject(buffer);
    free(words);
    return CLMLA_SUCCESS;
}
