/*
 * Building OpenCL programs with reasons that can be read in a report.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nvidia_probe.h"

/* ---- errors ---- */

bool probe_fail(probe *p, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(p->error, sizeof(p->error), format, arguments);
    va_end(arguments);
    return false;
}

bool probe_check(probe *p, const char *what, cl_int status)
{
    return status == CL_SUCCESS || probe_fail(p, "%s: OpenCL error %d", what, (int)status);
}

/* ---- programs ---- */

char *probe_build_log(const probe *p, cl_program program)
{
    size_t bytes = 0;
    if (clGetProgramBuildInfo(program, p->device, CL_PROGRAM_BUILD_LOG, 0, NULL, &bytes) !=
        CL_SUCCESS)
        return NULL;
    char *log = calloc(bytes + 1, 1);
    if (log != NULL && clGetProgramBuildInfo(program, p->device, CL_PROGRAM_BUILD_LOG, bytes, log,
                                             NULL) != CL_SUCCESS) {
        free(log);
        return NULL;
    }
    return log;
}

/* The program, or NULL with status and the log's first characters as the reason. */
static cl_program built(probe *p, cl_program program, const char *what, cl_int status)
{
    if (status == CL_SUCCESS)
        return program;
    char *log = program != NULL ? probe_build_log(p, program) : NULL;
    (void)probe_fail(p, "%s: OpenCL error %d: %.700s", what, (int)status, log != NULL ? log : "");
    free(log);
    if (program != NULL)
        (void)clReleaseProgram(program);
    return NULL;
}

cl_program probe_build(probe *p, const char *const *sources, cl_uint num_sources,
                       const char *options)
{
    cl_int status;
    cl_program program = clCreateProgramWithSource(
        p->context, num_sources, (const char **)(uintptr_t)sources, NULL, &status);
    if (status == CL_SUCCESS)
        status = clBuildProgram(program, 1, &p->device, options, NULL, NULL);
    return built(p, program, "clBuildProgram", status);
}

cl_program probe_build_binary(probe *p, const unsigned char *binary, size_t bytes)
{
    cl_int status;
    cl_int loaded = CL_SUCCESS;
    cl_program program =
        clCreateProgramWithBinary(p->context, 1, &p->device, &bytes, &binary, &loaded, &status);
    if (status == CL_SUCCESS)
        status = loaded;
    if (status != CL_SUCCESS)
        return built(p, program, "clCreateProgramWithBinary", status);
    status = clBuildProgram(program, 1, &p->device, "", NULL, NULL);
    return built(p, program, "clBuildProgram of a binary", status);
}

char *probe_binary(probe *p, cl_program program, size_t *bytes)
{
    *bytes = 0;
    cl_int status = clGetProgramInfo(program, CL_PROGRAM_BINARY_SIZES, sizeof(*bytes), bytes, NULL);
    if (!probe_check(p, "CL_PROGRAM_BINARY_SIZES", status))
        return NULL;
    char *binary = calloc(*bytes + 1, 1);
    unsigned char *to = (unsigned char *)binary;
    if (binary == NULL || *bytes == 0) {
        (void)probe_fail(p, "the program has no binary");
        free(binary);
        return NULL;
    }
    status = clGetProgramInfo(program, CL_PROGRAM_BINARIES, sizeof(to), &to, NULL);
    if (probe_check(p, "CL_PROGRAM_BINARIES", status))
        return binary;
    free(binary);
    return NULL;
}

cl_kernel probe_kernel(probe *p, cl_program program, const char *name)
{
    cl_int status;
    cl_kernel kernel = clCreateKernel(program, name, &status);
    return probe_check(p, "clCreateKernel", status) ? kernel : NULL;
}

bool probe_line_with(const char *text, const char *what, char *line, size_t bytes)
{
    const char *found = text != NULL ? strstr(text, what) : NULL;
    line[0] = '\0';
    if (found == NULL)
        return false;
    const char *begin = found;
    while (begin > text && begin[-1] != '\n')
        begin--;
    begin += strspn(begin, " \t");
    const size_t length = strcspn(begin, "\r\n");
    (void)snprintf(line, bytes, "%.*s", (int)(length < bytes ? length : bytes - 1), begin);
    return true;
}

void probe_release(cl_kernel kernel, cl_program program)
{
    if (kernel != NULL)
        (void)clReleaseKernel(kernel);
    if (program != NULL)
        (void)clReleaseProgram(program);
}
