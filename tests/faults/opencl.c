#include "faults/opencl.h"

#include <clblast_c.h>
#include <stddef.h>

static int calls_left; /* 0: none fails */
static cl_int fault_status;
static const char *failed;
static faults_holds holds;

void faults_arm(int n, cl_int status)
{
    calls_left = n;
    fault_status = status;
    failed = NULL;
}

const char *faults_disarm(void)
{
    calls_left = 0;
    return failed;
}

faults_holds faults_count(void) { return holds; }

const char *faults_kind_name(int kind)
{
    static const char *const names[] = {"contexts", "devices", "queues", "buffers",
                                        "programs", "kernels", "events"};
    return names[kind];
}

static bool fails(const char *function)
{
    if (calls_left == 0 || --calls_left > 0)
        return false;
    failed = function;
    return true;
}

/* A call that gives a status, of OpenCL or of CLBlast, whose codes are the same. */
#define CALL_OF(type, name, parameters, arguments)                                                 \
    type __real_##name parameters;                                                                 \
    type __wrap_##name parameters;                                                                 \
    type __wrap_##name parameters                                                                  \
    {                                                                                              \
        return fails(#name) ? (type)fault_status : __real_##name arguments;                        \
    }

/* ---- events that are kept --------------------------------------------------------------------- */

enum { MOST_KEPT = 4096 };
static bool keeps;
static cl_event kept[MOST_KEPT];
static int num_kept;

/* Where a command's event goes: what the library asked for, or a place of our own. */
static cl_event *place_of(cl_event *event, cl_event *own)
{
    return keeps && event == NULL ? own : event;
}

static void keep(cl_event event)
{
    if (!keeps || event == NULL || num_kept == MOST_KEPT)
        return;
    kept[num_kept++] = event;
}

cl_int __real_clReleaseEvent(cl_event event);

void faults_keep_events(bool on)
{
    keeps = on;
    while (num_kept > 0)
        (void)__real_clReleaseEvent(kept[--num_kept]);
}

/* The same, with an event at the end where one is asked for. */
#define ENQUEUE_OF(type, name, parameters, arguments)                                              \
    type __real_##name parameters;                                                                 \
    type __wrap_##name parameters;                                                                 \
    type __wrap_##name parameters                                                                  \
    {                                                                                              \
        if (fails(#name))                                                                          \
            return (type)fault_status;                                                             \
        cl_event own = NULL, *const asked = event;                                                 \
        event = place_of(event, &own);                                                             \
        type const status = __real_##name arguments;                                               \
        holds.of[FAULTS_EVENT] += (cl_int)status == CL_SUCCESS && asked != NULL;                   \
        if ((cl_int)status == CL_SUCCESS && keeps && asked != NULL)                                \
            (void)clRetainEvent(*asked); /* not counted */                                         \
        keep((cl_int)status != CL_SUCCESS ? NULL : asked != NULL ? *asked : own);                  \
        return status;                                                                             \
    }

#define CALL(name, parameters, arguments) CALL_OF(cl_int, name, parameters, arguments)
#define ENQUEUE(name, parameters, arguments) ENQUEUE_OF(cl_int, name, parameters, arguments)

/* A call that gives an object. */
#define CREATE(type, name, kind, parameters, arguments)                                            \
    type __real_##name parameters;                                                                 \
    type __wrap_##name parameters;                                                                 \
    type __wrap_##name parameters                                                                  \
    {                                                                                              \
        if (fails(#name)) {                                                                        \
            if (error != NULL)                                                                     \
                *error = fault_status;                                                             \
            return NULL;                                                                           \
        }                                                                                          \
        type const made = __real_##name arguments;                                                 \
        holds.of[kind] += made != NULL;                                                            \
        return made;                                                                               \
    }

#define RETAIN(type, name, kind)                                                                   \
    cl_int __real_##name(type object);                                                             \
    cl_int __wrap_##name(type object);                                                             \
    cl_int __wrap_##name(type object)                                                              \
    {                                                                                              \
        if (fails(#name))                                                                          \
            return fault_status;                                                                   \
        holds.of[kind]++;                                                                          \
        return __real_##name(object);                                                              \
    }

#define RELEASE(type, name, kind)                                                                  \
    cl_int __real_##name(type object);                                                             \
    cl_int __wrap_##name(type object);                                                             \
    cl_int __wrap_##name(type object)                                                              \
    {                                                                                              \
        holds.of[kind]--;                                                                          \
        return __real_##name(object);                                                              \
    }

RETAIN(cl_context, clRetainContext, FAULTS_CONTEXT)
RETAIN(cl_device_id, clRetainDevice, FAULTS_DEVICE)
RETAIN(cl_mem, clRetainMemObject, FAULTS_MEMORY)
RELEASE(cl_context, clReleaseContext, FAULTS_CONTEXT)
RELEASE(cl_device_id, clReleaseDevice, FAULTS_DEVICE)
RELEASE(cl_command_queue, clReleaseCommandQueue, FAULTS_QUEUE)
RELEASE(cl_mem, clReleaseMemObject, FAULTS_MEMORY)
RELEASE(cl_program, clReleaseProgram, FAULTS_PROGRAM)
RELEASE(cl_kernel, clReleaseKernel, FAULTS_KERNEL)
RELEASE(cl_event, clReleaseEvent, FAULTS_EVENT)

typedef void (*context_notify)(const char *, const void *, size_t, void *);
typedef void (*build_notify)(cl_program, void *);

CREATE(cl_context, clCreateContext, FAULTS_CONTEXT,
       (const cl_context_properties *properties, cl_uint count, const cl_device_id *devices,
        context_notify notify, void *user, cl_int *error),
       (properties, count, devices, notify, user, error))
CREATE(cl_command_queue, clCreateCommandQueue, FAULTS_QUEUE,
       (cl_context context, cl_device_id device, cl_command_queue_properties properties,
        cl_int *error),
       (context, device, properties, error))
CREATE(cl_mem, clCreateBuffer, FAULTS_MEMORY,
       (cl_context context, cl_mem_flags flags, size_t bytes, void *host, cl_int *error),
       (context, flags, bytes, host, error))
CREATE(cl_mem, clCreateSubBuffer, FAULTS_MEMORY,
       (cl_mem buffer, cl_mem_flags flags, cl_buffer_create_type create, const void *region,
        cl_int *error),
       (buffer, flags, create, region, error))
CREATE(cl_program, clCreateProgramWithSource, FAULTS_PROGRAM,
       (cl_context context, cl_uint count, const char **texts, const size_t *lengths,
        cl_int *error),
       (context, count, texts, lengths, error))
CREATE(cl_program, clCreateProgramWithBinary, FAULTS_PROGRAM,
       (cl_context context, cl_uint count, const cl_device_id *devices, const size_t *lengths,
        const unsigned char **binaries, cl_int *statuses, cl_int *error),
       (context, count, devices, lengths, binaries, statuses, error))
CREATE(cl_kernel, clCreateKernel, FAULTS_KERNEL,
       (cl_program program, const char *name, cl_int *error), (program, name, error))

CALL(clBuildProgram,
     (cl_program program, cl_uint count, const cl_device_id *devices, const char *options,
      build_notify notify, void *user),
     (program, count, devices, options, notify, user))
CALL(clSetKernelArg, (cl_kernel kernel, cl_uint index, size_t bytes, const void *value),
     (kernel, index, bytes, value))
CALL(clFinish, (cl_command_queue queue), (queue))
CALL(clWaitForEvents, (cl_uint count, const cl_event *events), (count, events))
CALL(clGetCommandQueueInfo,
     (cl_command_queue queue, cl_command_queue_info name, size_t size, void *value, size_t *bytes),
     (queue, name, size, value, bytes))
CALL(clGetContextInfo,
     (cl_context context, cl_context_info name, size_t size, void *value, size_t *bytes),
     (context, name, size, value, bytes))
CALL(clGetDeviceInfo,
     (cl_device_id device, cl_device_info name, size_t size, void *value, size_t *bytes),
     (device, name, size, value, bytes))
CALL(clGetEventInfo, (cl_event event, cl_event_info name, size_t size, void *value, size_t *bytes),
     (event, name, size, value, bytes))
CALL(clGetMemObjectInfo, (cl_mem memory, cl_mem_info name, size_t size, void *value, size_t *bytes),
     (memory, name, size, value, bytes))
CALL(clGetPlatformInfo,
     (cl_platform_id platform, cl_platform_info name, size_t size, void *value, size_t *bytes),
     (platform, name, size, value, bytes))
CALL(clGetProgramBuildInfo,
     (cl_program program, cl_device_id device, cl_program_build_info name, size_t size, void *value,
      size_t *bytes),
     (program, device, name, size, value, bytes))
CALL(clGetProgramInfo,
     (cl_program program, cl_program_info name, size_t size, void *value, size_t *bytes),
     (program, name, size, value, bytes))

ENQUEUE(clEnqueueBarrierWithWaitList,
        (cl_command_queue queue, cl_uint count, const cl_event *list, cl_event *event),
        (queue, count, list, event))
ENQUEUE(clEnqueueMarkerWithWaitList,
        (cl_command_queue queue, cl_uint count, const cl_event *list, cl_event *event),
        (queue, count, list, event))
ENQUEUE(clEnqueueFillBuffer,
        (cl_command_queue queue, cl_mem buffer, const void *pattern, size_t size, size_t offset,
         size_t bytes, cl_uint count, const cl_event *list, cl_event *event),
        (queue, buffer, pattern, size, offset, bytes, count, list, event))
ENQUEUE(clEnqueueNDRangeKernel,
        (cl_command_queue queue, cl_kernel kernel, cl_uint dims, const size_t *offset,
         const size_t *global, const size_t *local, cl_uint count, const cl_event *list,
         cl_event *event),
        (queue, kernel, dims, offset, global, local, count, list, event))
ENQUEUE(clEnqueueReadBuffer,
        (cl_command_queue queue, cl_mem buffer, cl_bool blocking, size_t offset, size_t bytes,
         void *data, cl_uint count, const cl_event *list, cl_event *event),
        (queue, buffer, blocking, offset, bytes, data, count, list, event))
ENQUEUE(clEnqueueWriteBuffer,
        (cl_command_queue queue, cl_mem buffer, cl_bool blocking, size_t offset, size_t bytes,
         const void *data, cl_uint count, const cl_event *list, cl_event *event),
        (queue, buffer, blocking, offset, bytes, data, count, list, event))
ENQUEUE(clEnqueueWriteBufferRect,
        (cl_command_queue queue, cl_mem buffer, cl_bool blocking, const size_t *origin,
         const size_t *host_origin, const size_t *region, size_t row, size_t slice, size_t host_row,
         size_t host_slice, const void *data, cl_uint count, const cl_event *list, cl_event *event),
        (queue, buffer, blocking, origin, host_origin, region, row, slice, host_row, host_slice,
         data, count, list, event))

/* ---- CLBlast ------------------------------------------------------------------------------------ */

#define CLBLAST(name, parameters, arguments) CALL_OF(CLBlastStatusCode, name, parameters, arguments)
#define CLBLAST_ENQUEUE(name, parameters, arguments)                                               \
    ENQUEUE_OF(CLBlastStatusCode, name, parameters, arguments)

CLBLAST(CLBlastOverrideParameters,
        (const cl_device_id device, const char *kernel, const CLBlastPrecision precision,
         const size_t count, const char **names, const size_t *values),
        (device, kernel, precision, count, names, values))
CLBLAST(CLBlastSGemmTempBufferSize,
        (const CLBlastLayout layout, const CLBlastTranspose a_transpose,
         const CLBlastTranspose b_transpose, const size_t m, const size_t n, const size_t k,
         const size_t a_offset, const size_t a_ld, const size_t b_offset, const size_t b_ld,
         const size_t c_offset, const size_t c_ld, cl_command_queue *queue, size_t *bytes),
        (layout, a_transpose, b_transpose, m, n, k, a_offset, a_ld, b_offset, b_ld, c_offset, c_ld,
         queue, bytes))
CLBLAST_ENQUEUE(CLBlastSgemm,
                (const CLBlastLayout layout, const CLBlastTranspose a_transpose,
                 const CLBlastTranspose b_transpose, const size_t m, const size_t n, const size_t k,
                 const float alpha, const cl_mem a, const size_t a_offset, const size_t a_ld,
                 const cl_mem b, const size_t b_offset, const size_t b_ld, const float beta,
                 cl_mem c, const size_t c_offset, const size_t c_ld, cl_command_queue *queue,
                 cl_event *event),
                (layout, a_transpose, b_transpose, m, n, k, alpha, a, a_offset, a_ld, b, b_offset,
                 b_ld, beta, c, c_offset, c_ld, queue, event))
CLBLAST_ENQUEUE(CLBlastSgemmWithTempBuffer,
                (const CLBlastLayout layout, const CLBlastTranspose a_transpose,
                 const CLBlastTranspose b_transpose, const size_t m, const size_t n, const size_t k,
                 const float alpha, const cl_mem a, const size_t a_offset, const size_t a_ld,
                 const cl_mem b, const size_t b_offset, const size_t b_ld, const float beta,
                 cl_mem c, const size_t c_offset, const size_t c_ld, cl_command_queue *queue,
                 cl_event *event, cl_mem temporary),
                (layout, a_transpose, b_transpose, m, n, k, alpha, a, a_offset, a_ld, b, b_offset,
                 b_ld, beta, c, c_offset, c_ld, queue, event, temporary))
CLBLAST_ENQUEUE(CLBlastSgemmStridedBatched,
                (const CLBlastLayout layout, const CLBlastTranspose a_transpose,
                 const CLBlastTranspose b_transpose, const size_t m, const size_t n, const size_t k,
                 const float alpha, const cl_mem a, const size_t a_offset, const size_t a_ld,
                 const size_t a_stride, const cl_mem b, const size_t b_offset, const size_t b_ld,
                 const size_t b_stride, const float beta, cl_mem c, const size_t c_offset,
                 const size_t c_ld, const size_t c_stride, const size_t batches,
                 cl_command_queue *queue, cl_event *event),
                (layout, a_transpose, b_transpose, m, n, k, alpha, a, a_offset, a_ld, a_stride, b,
                 b_offset, b_ld, b_stride, beta, c, c_offset, c_ld, c_stride, batches, queue,
                 event))
