/*
 * What the parts of nvidia_probe share: a worker's device, and helpers for OpenCL.
 *
 * A part returns false after setting probe->error; what it added to its object before stays.
 */
#ifndef CLMLA_NVIDIA_PROBE_H
#define CLMLA_NVIDIA_PROBE_H

#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "report_common.h"

enum { ERROR_BYTES = 1024 };

typedef struct probe {
    cl_device_id device;
    cl_device_type type;
    cl_context context;
    cl_command_queue queue;
    bool generic;   /* any device: parts of NVIDIA's extensions are left out */
    int capability; /* 90 for 9.0; 0 without the extension */
    cl_uint compute_units;
    const char *root; /* of the source tree, for the kernels' operations; or NULL */
    char error[ERROR_BYTES];
} probe;

__attribute__((format(printf, 2, 3))) bool probe_fail(probe *p, const char *format, ...);
/* True for CL_SUCCESS. */
bool probe_check(probe *p, const char *what, cl_int status);

/* A part: value is that of its line in the table of parts. */
typedef bool probe_part(probe *p, int value, json *out);

/* ---- programs ---- */

/* Each builds for the probe's device. NULL with the reason, which holds the start of the log. */
cl_program probe_build(probe *p, const char *const *sources, cl_uint num_sources,
                       const char *options);
cl_program probe_build_binary(probe *p, const unsigned char *binary, size_t bytes);
/* The build log, or NULL; to be freed. */
char *probe_build_log(const probe *p, cl_program program);
/* The program's binary with a NUL behind, or NULL with the reason; to be freed. */
char *probe_binary(probe *p, cl_program program, size_t *bytes);
cl_kernel probe_kernel(probe *p, cl_program program, const char *name);
/* The line of `text` that holds `what`, cut to fit. False: there is none. */
bool probe_line_with(const char *text, const char *what, char *line, size_t bytes);

void probe_release(cl_kernel kernel, cl_program program);

/* ---- parts ---- */

probe_part part_facts, part_ptx, part_verbose_log, part_static_local, part_argument_local,
    part_arch_option, part_retarget, part_mma, part_stream;

#endif
