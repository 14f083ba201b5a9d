/*
 * Loaded before OpenCL: a device that is full. The CLMLA_FAIL_BUFFER-th buffer, 1 the first, and every
 * one after it cannot be allocated.
 */
#define _GNU_SOURCE /* RTLD_NEXT */

#include <CL/cl.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

typedef cl_mem(CL_API_CALL *create_buffer)(cl_context, cl_mem_flags, size_t, void *, cl_int *);

cl_mem CL_API_CALL clCreateBuffer(cl_context context, cl_mem_flags flags, size_t bytes, void *host,
                                  cl_int *status)
{
    static int count;
    const char *first = getenv("CLMLA_FAIL_BUFFER");
    void *const symbol = dlsym(RTLD_NEXT, "clCreateBuffer");
    create_buffer real;
    memcpy(&real, &symbol, sizeof real); /* C has no cast from data to functions */
    if (first == NULL || ++count < atoi(first))
        return real(context, flags, bytes, host, status);
    if (status != NULL)
        *status = CL_MEM_OBJECT_ALLOCATION_FAILURE;
    return NULL;
}
