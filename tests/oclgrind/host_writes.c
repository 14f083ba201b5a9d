/*
 * Loaded in front of oclgrind's OpenCL, for its plugin that looks for uninitialised values.
 *
 * oclgrind 21.10 keeps a shadow of every buffer that says which bytes are initialised. A write by
 * the host replaces the shadow of the whole buffer by one of the write's size, filled only where
 * the write begins at byte 0; fills and copies count as such writes. A buffer that takes the place
 * of a released one also takes its shadow. So here
 *   - a new buffer is an argument of a kernel at once, which makes its shadow, all uninitialised;
 *   - writes and fills by the host become copies by a kernel, which the shadow follows byte by
 *     byte; buffers that kernels may only read lose that mark;
 *   - buffers are never released: each test is short.
 * Whole buffers are written as they are. CLBlast's and clmla's copies between buffers do not occur.
 *
 * CLMLA_OCLGRIND_KERNELS names a file that gets a line for every kernel that was enqueued: the last
 * file of its program and its name.
 */
#define _GNU_SOURCE /* RTLD_NEXT */

#include <CL/cl.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check(cl_int status, const char *what)
{
    if (status == CL_SUCCESS)
        return;
    (void)fprintf(stderr, "FATAL: host_writes: %s gives %d\n", what, (int)status);
    abort();
}

/* oclgrind's own. */
static struct {
    __typeof__(&clCreateBuffer) create;
    __typeof__(&clEnqueueWriteBuffer) write;
    __typeof__(&clEnqueueFillBuffer) fill;
    __typeof__(&clEnqueueNDRangeKernel) launch;
} real;

static void find(const char *name, void *function)
{
    void *const found = dlsym(RTLD_NEXT, name);
    check(found != NULL ? CL_SUCCESS : CL_INVALID_VALUE, name);
    memcpy(function, (const void *)&found, sizeof found);
}

__attribute__((constructor)) static void find_all(void)
{
    find("clCreateBuffer", (void *)&real.create);
    find("clEnqueueWriteBuffer", (void *)&real.write);
    find("clEnqueueFillBuffer", (void *)&real.fill);
    find("clEnqueueNDRangeKernel", (void *)&real.launch);
}

/* ---- the kernels that write --------------------------------------------------------------- */

/* One work-item: 1024 bytes. */
static const char source[] =
    "kernel void touch(global uchar *buffer) {}\n"
    "typedef ulong16 __attribute__((aligned(1))) block;\n"
    "kernel void put(global const uchar *from, global uchar *to, ulong at, ulong bytes)\n"
    "{\n"
    "    ulong i = get_global_id(0) * 1024;\n"
    "    const ulong end = min(i + 1024, bytes);\n"
    "    for (; i + 128 <= end; i += 128)\n"
    "        *(global block *)(to + at + i) = *(global const block *)(from + i);\n"
    "    for (; i < end; i++)\n"
    "        to[at + i] = from[i];\n"
    "}\n";
enum { ITEM_BYTES = 1024, MAX_CONTEXTS = 256 };

typedef struct helper {
    cl_context context; /* retained for good, so that no other one gets its address */
    cl_command_queue queue;
    cl_kernel touch, put;
} helper;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static helper helpers[MAX_CONTEXTS];

static helper make_helper(cl_context context)
{
    cl_device_id device = NULL;
    cl_int status = CL_SUCCESS;
    check(clGetContextInfo(context, CL_CONTEXT_DEVICES, sizeof device, &device, NULL), "devices");
    check(clRetainContext(context), "clRetainContext");
    helper made = {.context = context};
    made.queue = clCreateCommandQueue(context, device, 0, &status);
    check(status, "clCreateCommandQueue");
    const char *text = source;
    const cl_program program = clCreateProgramWithSource(context, 1, &text, NULL, &status);
    check(status, "clCreateProgramWithSource");
    check(clBuildProgram(program, 1, &device, "", NULL, NULL), "clBuildProgram");
    made.touch = clCreateKernel(program, "touch", &status);
    check(status, "clCreateKernel");
    made.put = clCreateKernel(program, "put", &status);
    check(status, "clCreateKernel");
    return made;
}

/* Of a context; the lock is held. */
static helper *find_helper(cl_context context)
{
    size_t i = 0;
    while (i < MAX_CONTEXTS && helpers[i].context != NULL && helpers[i].context != context)
        i++;
    check(i < MAX_CONTEXTS ? CL_SUCCESS : CL_OUT_OF_RESOURCES, "a context too many");
    if (helpers[i].context == NULL)
        helpers[i] = make_helper(context);
    return &helpers[i];
}

/* ---- buffers ------------------------------------------------------------------------------ */

cl_mem clCreateBuffer(cl_context context, cl_mem_flags flags, size_t size, void *host,
                      cl_int *status)
{
    const cl_mem made =
        real.create(context, flags & ~(cl_mem_flags)CL_MEM_READ_ONLY, size, host, status);
    if (made == NULL)
        return NULL;
    (void)pthread_mutex_lock(&lock);
    const helper *const with = find_helper(context);
    check(clRetainMemObject(made), "clRetainMemObject");
    if (host != NULL) {
        check(real.write(with->queue, made, CL_TRUE, 0, size, host, 0, NULL, NULL),
              "clEnqueueWriteBuffer");
    } else {
        const size_t one = 1;
        check(clSetKernelArg(with->touch, 0, sizeof made, &made), "clSetKernelArg");
        check(real.launch(with->queue, with->touch, 1, NULL, &one, &one, 0, NULL, NULL),
              "clEnqueueNDRangeKernel");
        check(clFinish(with->queue), "clFinish");
    }
    (void)pthread_mutex_unlock(&lock);
    return made;
}

static int is_whole(cl_mem buffer, size_t offset, size_t size)
{
    size_t all = 0;
    cl_mem parent = NULL;
    check(clGetMemObjectInfo(buffer, CL_MEM_SIZE, sizeof all, &all, NULL), "clGetMemObjectInfo");
    check(clGetMemObjectInfo(buffer, CL_MEM_ASSOCIATED_MEMOBJECT, sizeof parent, &parent, NULL),
          "clGetMemObjectInfo");
    return parent == NULL && offset == 0 && size == all;
}

/* By a kernel, from a copy of the data. */
static cl_int put(cl_command_queue queue, cl_mem buffer, cl_bool blocking, size_t offset,
                  size_t size, const void *data, cl_uint num_events, const cl_event *events,
                  cl_event *event)
{
    cl_context context = NULL;
    cl_int status = CL_SUCCESS;
    cl_event written = NULL;
    check(clGetCommandQueueInfo(queue, CL_QUEUE_CONTEXT, sizeof context, &context, NULL),
          "clGetCommandQueueInfo");
    const cl_mem from = real.create(context, CL_MEM_READ_WRITE, size, NULL, &status);
    check(status, "clCreateBuffer"); /* and never released */
    (void)pthread_mutex_lock(&lock);
    const helper *const with = find_helper(context);
    check(real.write(with->queue, from, CL_TRUE, 0, size, data, 0, NULL, NULL),
          "clEnqueueWriteBuffer");
    const cl_ulong at = offset, bytes = size;
    check(clSetKernelArg(with->put, 0, sizeof from, &from), "clSetKernelArg");
    check(clSetKernelArg(with->put, 1, sizeof buffer, &buffer), "clSetKernelArg");
    check(clSetKernelArg(with->put, 2, sizeof at, &at), "clSetKernelArg");
    check(clSetKernelArg(with->put, 3, sizeof bytes, &bytes), "clSetKernelArg");
    const size_t items = (size + ITEM_BYTES - 1) / ITEM_BYTES, one = 1;
    status = real.launch(queue, with->put, 1, NULL, &items, &one, num_events, events, &written);
    (void)pthread_mutex_unlock(&lock);
    if (status == CL_SUCCESS && blocking)
        status = clWaitForEvents(1, &written);
    if (status != CL_SUCCESS)
        return status;
    if (event != NULL)
        *event = written;
    else
        check(clReleaseEvent(written), "clReleaseEvent");
    return CL_SUCCESS;
}

static int fits(cl_mem buffer, size_t offset, size_t size)
{
    size_t all = 0;
    return buffer != NULL &&
           clGetMemObjectInfo(buffer, CL_MEM_SIZE, sizeof all, &all, NULL) == CL_SUCCESS &&
           size > 0 && offset <= all && size <= all - offset;
}

/* Calls that are wrong, and whole buffers, go on as they are. */
cl_int clEnqueueWriteBuffer(cl_command_queue queue, cl_mem buffer, cl_bool blocking, size_t offset,
                            size_t size, const void *data, cl_uint num_events,
                            const cl_event *events, cl_event *event)
{
    if (queue == NULL || data == NULL || !fits(buffer, offset, size) ||
        is_whole(buffer, offset, size))
        return real.write(queue, buffer, blocking, offset, size, data, num_events, events, event);
    return put(queue, buffer, blocking, offset, size, data, num_events, events, event);
}

cl_int clEnqueueFillBuffer(cl_command_queue queue, cl_mem buffer, const void *pattern,
                           size_t pattern_size, size_t offset, size_t size, cl_uint num_events,
                           const cl_event *events, cl_event *event)
{
    if (queue == NULL || pattern == NULL || pattern_size == 0 || size % pattern_size != 0 ||
        !fits(buffer, offset, size))
        return real.fill(queue, buffer, pattern, pattern_size, offset, size, num_events, events,
                         event);
    unsigned char *const data = malloc(size);
    check(data != NULL ? CL_SUCCESS : CL_OUT_OF_HOST_MEMORY, "malloc");
    for (size_t i = 0; i < size; i += pattern_size)
        memcpy(data + i, pattern, pattern_size);
    const cl_int status =
        put(queue, buffer, CL_FALSE, offset, size, data, num_events, events, event);
    free(data);
    return status;
}

/* Row by row, each after the one before. */
cl_int clEnqueueWriteBufferRect(cl_command_queue queue, cl_mem buffer, cl_bool blocking,
                                const size_t *buffer_origin, const size_t *host_origin,
                                const size_t *region, size_t buffer_row, size_t buffer_slice,
                                size_t host_row, size_t host_slice, const void *data,
                                cl_uint num_events, const cl_event *events, cl_event *event)
{
    const size_t bytes = region[0], rows = region[1], count = rows * region[2];
    const size_t to_row = buffer_row == 0 ? bytes : buffer_row;
    const size_t from_row = host_row == 0 ? bytes : host_row;
    const size_t to_slice = buffer_slice == 0 ? rows * to_row : buffer_slice;
    const size_t from_slice = host_slice == 0 ? rows * from_row : host_slice;
    cl_event former = NULL;
    for (size_t i = 0; i < count; i++) {
        const size_t z = i / rows, y = i % rows;
        const size_t to =
            buffer_origin[0] + (buffer_origin[1] + y) * to_row + (buffer_origin[2] + z) * to_slice;
        const size_t from =
            host_origin[0] + (host_origin[1] + y) * from_row + (host_origin[2] + z) * from_slice;
        cl_event written = NULL;
        const cl_int status = put(queue, buffer, i + 1 == count ? blocking : CL_FALSE, to, bytes,
                                  (const unsigned char *)data + from, i == 0 ? num_events : 1,
                                  i == 0 ? events : &former, &written);
        if (former != NULL)
            check(clReleaseEvent(former), "clReleaseEvent");
        if (status != CL_SUCCESS)
            return status;
        former = written;
    }
    if (event != NULL)
        *event = former;
    else
        check(clReleaseEvent(former), "clReleaseEvent");
    return CL_SUCCESS;
}

/* ---- names -------------------------------------------------------------------------------- */

/* The file of the last #line in a program's text, without quotes; "-": none. */
static void last_file(cl_program program, char *file, size_t bytes)
{
    size_t length = 0;
    (void)snprintf(file, bytes, "-");
    if (clGetProgramInfo(program, CL_PROGRAM_SOURCE, 0, NULL, &length) != CL_SUCCESS || length == 0)
        return;
    char *const text = calloc(1, length + 1);
    check(text != NULL ? CL_SUCCESS : CL_OUT_OF_HOST_MEMORY, "calloc");
    check(clGetProgramInfo(program, CL_PROGRAM_SOURCE, length, text, NULL), "clGetProgramInfo");
    static const char mark[] = "#line 1 \"";
    for (const char *at = strstr(text, mark); at != NULL; at = strstr(at, mark)) {
        at += sizeof mark - 1;
        (void)snprintf(file, bytes, "%.*s", (int)strcspn(at, "\""), at);
    }
    free(text);
}

static void note_name(cl_kernel kernel)
{
    const char *const path = getenv("CLMLA_OCLGRIND_KERNELS");
    cl_program program = NULL;
    char name[256] = "", file[256] = "";
    if (path == NULL ||
        clGetKernelInfo(kernel, CL_KERNEL_PROGRAM, sizeof program, &program, NULL) != CL_SUCCESS)
        return;
    check(clGetKernelInfo(kernel, CL_KERNEL_FUNCTION_NAME, sizeof name, name, NULL),
          "clGetKernelInfo");
    last_file(program, file, sizeof file);
    FILE *const out = fopen(path, "a");
    check(out != NULL ? CL_SUCCESS : CL_INVALID_VALUE, path);
    (void)fprintf(out, "%s %s\n", file, name);
    (void)fclose(out);
}

cl_int clEnqueueNDRangeKernel(cl_command_queue queue, cl_kernel kernel, cl_uint work_dim,
                              const size_t *offset, const size_t *global, const size_t *local,
                              cl_uint num_events, const cl_event *events, cl_event *event)
{
    if (kernel != NULL)
        note_name(kernel);
    return real.launch(queue, kernel, work_dim, offset, global, local, num_events, events, event);
}
