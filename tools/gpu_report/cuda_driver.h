/*
 * The few entries of the CUDA driver API that cuda_harness calls, found in libcuda at run time: no
 * header and no library of CUDA is needed to build it.
 *
 * Functions return false after setting cuda->error.
 *
 * Source: NVIDIA, CUDA Driver API: the values and the _v2 names are those of its ABI.
 */
#ifndef CLMLA_CUDA_DRIVER_H
#define CLMLA_CUDA_DRIVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cuda_manifest.h"

/* What every record of cuda_harness says. */
#define CUDA_API_LABEL "CUDA driver API, not OpenCL"

typedef uint64_t cuda_address; /* of device memory */
typedef void *cuda_handle;     /* context, module, function, stream, event */

/* X(field, name in libcuda, parameters); results are CUresult, 0 for success */
#define CUDA_FUNCTIONS(X)                                                                          \
    X(init, "cuInit", (unsigned flags))                                                            \
    X(error_string, "cuGetErrorString", (int result, const char **text))                           \
    X(driver_version, "cuDriverGetVersion", (int *version))                                        \
    X(device_get, "cuDeviceGet", (int *device, int ordinal))                                       \
    X(device_name, "cuDeviceGetName", (char *name, int bytes, int device))                         \
    X(device_attribute, "cuDeviceGetAttribute", (int *value, int attribute, int device))           \
    X(retain_context, "cuDevicePrimaryCtxRetain", (cuda_handle * context, int device))             \
    X(release_context, "cuDevicePrimaryCtxRelease_v2", (int device))                               \
    X(set_context, "cuCtxSetCurrent", (cuda_handle context))                                       \
    X(synchronize, "cuCtxSynchronize", (void))                                                     \
    X(load_module, "cuModuleLoadDataEx",                                                           \
      (cuda_handle * module, const void *image, unsigned num_options, int *options,                \
       void **values))                                                                             \
    X(get_function, "cuModuleGetFunction",                                                         \
      (cuda_handle * function, cuda_handle module, const char *name))                              \
    X(function_attribute, "cuFuncGetAttribute", (int *value, int attribute, cuda_handle function)) \
    X(memory_info, "cuMemGetInfo_v2", (size_t * free_bytes, size_t * total_bytes))                 \
    X(allocate, "cuMemAlloc_v2", (cuda_address * address, size_t bytes))                           \
    X(free, "cuMemFree_v2", (cuda_address address))                                                \
    X(set_bytes, "cuMemsetD8_v2", (cuda_address to, unsigned char value, size_t bytes))            \
    X(copy_in, "cuMemcpyHtoD_v2", (cuda_address to, const void *from, size_t bytes))               \
    X(copy_out, "cuMemcpyDtoH_v2", (void *to, cuda_address from, size_t bytes))                    \
    X(copy, "cuMemcpyDtoD_v2", (cuda_address to, cuda_address from, size_t bytes))                 \
    X(launch, "cuLaunchKernel",                                                                    \
      (cuda_handle function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,  \
       unsigned block_y, unsigned block_z, unsigned shared_bytes, cuda_handle stream,              \
       void **arguments, void **extra))                                                            \
    X(create_event, "cuEventCreate", (cuda_handle * event, unsigned flags))                        \
    X(record_event, "cuEventRecord", (cuda_handle event, cuda_handle stream))                      \
    X(wait_event, "cuEventSynchronize", (cuda_handle event))                                       \
    X(elapsed, "cuEventElapsedTime", (float *ms, cuda_handle start, cuda_handle end))

typedef struct cuda {
#define CUDA_FIELD(field, name, parameters) int(*field) parameters;
    CUDA_FUNCTIONS(CUDA_FIELD)
#undef CUDA_FIELD
    void *library;
    cuda_handle start, end; /* events */
    int device;             /* the first that CUDA_VISIBLE_DEVICES leaves */
    char name[256];
    int driver;     /* 12080 for 12.8 */
    int capability; /* 90 for 9.0 */
    int multiprocessors, l2_bytes, clock_khz, memory_clock_khz, bus_bits;
    double memory_bytes;
    char error[1024];
} cuda;

__attribute__((format(printf, 2, 3))) bool cuda_fail(cuda *c, const char *format, ...);

/* False where there is no driver or no device. */
bool cuda_open(cuda *c);
void cuda_close(cuda *c);

/* ---- memory ---- */

/* A buffer filled with bytes 0xff: a NaN in each float dtype, -1 as an integer. */
typedef struct cuda_buffer {
    cuda_address address;
    size_t bytes;
} cuda_buffer;

bool cuda_buffer_make(cuda *c, size_t bytes, cuda_buffer *out);
/* The same with these bytes in front. */
bool cuda_buffer_of(cuda *c, const void *data, size_t bytes, cuda_buffer *out);
/* Repeats the data as often as the buffer has room. */
bool cuda_buffer_repeat(cuda *c, const void *data, size_t data_bytes, size_t bytes,
                        cuda_buffer *out);
bool cuda_read(cuda *c, const cuda_buffer *buffer, size_t offset, void *to, size_t bytes);
void cuda_buffer_free(cuda *c, cuda_buffer *buffer); /* may be empty */
bool cuda_fits(cuda *c, double bytes);               /* with some room left */

/* ---- kernels ---- */

typedef struct cuda_kernel {
    const manifest_program *program;
    const manifest_kernel *about;
    cuda_handle function;
    int registers, local_bytes, stack_bytes; /* local: shared by a work-group */
    bool verified;
} cuda_kernel;

/* The driver compiles the program's PTX, at `text`; its kernels then by name. */
bool cuda_load_program(cuda *c, const char *text, cuda_handle *module);
bool cuda_load_kernel(cuda *c, cuda_handle module, cuda_kernel *kernel);

/* A kernel with its arguments and its grid of work-groups. */
typedef struct cuda_launch {
    const cuda_kernel *kernel;
    unsigned grid[3], work_items;
    uint64_t values[MANIFEST_MAX_ARGUMENTS];
    bool is_set[MANIFEST_MAX_ARGUMENTS];
    /* In a chain launch i takes values[turning] = i % turns · turn_step, so that it finds none of
     * its data in a cache; turns 0: no argument does. */
    int turning, turns;
    uint64_t turn_step;
    char unfit[128]; /* what cuda_set_* found wrong first */
} cuda_launch;

cuda_launch cuda_launch_of(const cuda_kernel *kernel, unsigned grid_x, unsigned grid_y);
/* By the argument's name; arguments that the kernel does not have are passed over, and those that
 * nobody set fail the launch. */
void cuda_set_buffer(cuda_launch *launch, const char *name, const cuda_buffer *buffer);
void cuda_set_integer(cuda_launch *launch, const char *name, int64_t value);
void cuda_set_float(cuda_launch *launch, const char *name, float value);
bool cuda_turn(cuda_launch *launch, const char *name, int turns, uint64_t step);

/* Enqueues; cuda_run waits, too. */
bool cuda_enqueue(cuda *c, cuda_launch *launch, int i);
bool cuda_run(cuda *c, cuda_launch *launch);

enum { CUDA_ROUNDS = 7 };

typedef struct cuda_timing {
    double median_s, min_s, max_s; /* of one launch, over the rounds */
    int rounds, chain;             /* launches between two events */
} cuda_timing;

/* Launches that follow each other, as one. A round is a chain of about `round_s` seconds, one at
 * least. */
bool cuda_time(cuda *c, cuda_launch *launches, int num_launches, double round_s,
               cuda_timing *timing);

#endif
