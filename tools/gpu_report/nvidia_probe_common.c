/*
 * JSON text, and building OpenCL programs with reasons that can be read in a report.
 */
#define _POSIX_C_SOURCE 200809L
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "nvidia_probe.h"

/* ---- JSON ---- */

/* Leaves room for the brackets that must still follow. */
static void put(json *out, const char *text)
{
    const size_t length = strlen(text);
    if (out->used + length + 64 < sizeof(out->text)) {
        memcpy(out->text + out->used, text, length + 1);
        out->used += length;
    }
}

static void put_quoted(json *out, const char *value)
{
    char piece[8];
    put(out, "\"");
    for (; *value != '\0'; value++) {
        const unsigned char c = (unsigned char)*value;
        if (out->used + 256 > sizeof(out->text))
            break; /* cut */
        if (c == '"' || c == '\\')
            (void)snprintf(piece, sizeof(piece), "\\%c", c);
        else if (c < 0x20 || c > 0x7e)
            (void)snprintf(piece, sizeof(piece), "\\u%04x", c);
        else
            (void)snprintf(piece, sizeof(piece), "%c", c);
        put(out, piece);
    }
    put(out, "\"");
}

static void put_key(json *out, const char *key)
{
    if (out->needs_comma)
        put(out, ", ");
    if (key != NULL) {
        put_quoted(out, key);
        put(out, ": ");
    }
    out->needs_comma = true;
}

static void open_with(json *out, const char *key, const char *bracket, char closing)
{
    put_key(out, key);
    put(out, bracket);
    out->closing[out->depth++] = closing;
    out->needs_comma = false;
}

void json_open(json *out, const char *key) { open_with(out, key, "{", '}'); }

void json_open_list(json *out, const char *key) { open_with(out, key, "[", ']'); }

void json_close(json *out)
{
    out->text[out->used++] = out->closing[--out->depth];
    out->text[out->used] = '\0';
    out->needs_comma = true;
}

void json_string(json *out, const char *key, const char *value)
{
    put_key(out, key);
    put_quoted(out, value);
}

void json_number(json *out, const char *key, double value)
{
    char text[40] = "null";
    if (isfinite(value))
        (void)snprintf(text, sizeof(text), "%.6g", value);
    put_key(out, key);
    put(out, text);
}

void json_integer(json *out, const char *key, long long value)
{
    char text[40];
    (void)snprintf(text, sizeof(text), "%lld", value);
    put_key(out, key);
    put(out, text);
}

void json_bool(json *out, const char *key, bool value)
{
    put_key(out, key);
    put(out, value ? "true" : "false");
}

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

/* ---- time ---- */

double probe_now_s(void)
{
    struct timespec time;
    (void)clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a;
    const double y = *(const double *)b;
    return (x > y) - (x < y);
}

double probe_median(double *values, size_t count)
{
    qsort(values, count, sizeof(values[0]), compare_doubles);
    return values[count / 2];
}
