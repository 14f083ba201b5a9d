/* Runs the mock's kernels from OpenCL C, on the first device that there is. A CPU's driver works on
 * the allocations where they are. */
#include <CL/cl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mock_cuda.h"

enum { MAX_KERNELS = 64 };

static struct {
    cl_device_id device;
    cl_context context;
    cl_command_queue queue;
    const mock_function *functions[MAX_KERNELS];
    cl_kernel kernels[MAX_KERNELS];
    int num_kernels;
} cl;

static const char *open_device(void)
{
    cl_platform_id platform;
    cl_int status;
    if (cl.queue != NULL)
        return NULL;
    if (clGetPlatformIDs(1, &platform, NULL) != CL_SUCCESS ||
        clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 1, &cl.device, NULL) != CL_SUCCESS)
        return "no OpenCL device";
    cl.context = clCreateContext(NULL, 1, &cl.device, NULL, NULL, &status);
    if (status == CL_SUCCESS)
        cl.queue = clCreateCommandQueue(cl.context, cl.device, 0, &status);
    return status == CL_SUCCESS ? NULL : "no OpenCL context or queue";
}

/* PROGRAM.cl for PROGRAM.ptx; to be freed. */
static char *read_source(const char *folder, const char *program)
{
    char path[1024];
    char *text = NULL;
    (void)snprintf(path, sizeof(path), "%s/%.*s.cl", folder, (int)strcspn(program, "."), program);
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        return NULL;
    long bytes = -1;
    if (fseek(file, 0, SEEK_END) == 0)
        bytes = ftell(file);
    if (bytes > 0 && fseek(file, 0, SEEK_SET) == 0)
        text = calloc((size_t)bytes + 1, 1);
    if (text != NULL && fread(text, 1, (size_t)bytes, file) != (size_t)bytes) {
        free(text);
        text = NULL;
    }
    (void)fclose(file);
    return text;
}

static const char *build(const char *folder, const mock_function *function, cl_kernel *kernel)
{
    cl_int status;
    char *text = read_source(folder, function->program);
    if (text == NULL)
        return "its source cannot be read";
    cl_program program =
        clCreateProgramWithSource(cl.context, 1, (const char *[]){text}, NULL, &status);
    if (status == CL_SUCCESS)
        status = clBuildProgram(program, 1, &cl.device, "", NULL, NULL);
    if (status == CL_SUCCESS)
        *kernel = clCreateKernel(program, function->name, &status);
    if (program != NULL)
        (void)clReleaseProgram(program);
    free(text);
    return status == CL_SUCCESS ? NULL : "its source does not build";
}

static const char *find_kernel(const char *folder, const mock_function *function, cl_kernel *kernel)
{
    for (int i = 0; i < cl.num_kernels; i++)
        if (cl.functions[i] == function) {
            *kernel = cl.kernels[i];
            return NULL;
        }
    const char *why = cl.num_kernels < MAX_KERNELS ? build(folder, function, kernel) : "too many";
    if (why == NULL) {
        cl.functions[cl.num_kernels] = function;
        cl.kernels[cl.num_kernels++] = *kernel;
    }
    return why;
}

static cl_int set_argument(cl_kernel kernel, int i, const mock_parameter *parameter, void *value)
{
    cl_int status = CL_SUCCESS;
    uint64_t address;
    if (!parameter->is_pointer)
        return clSetKernelArg(kernel, (cl_uint)i, parameter->bytes, value);
    memcpy(&address, value, sizeof(address));
    mock_allocation *allocation = mock_find(address);
    if (allocation->buffer == NULL)
        allocation->buffer = clCreateBuffer(cl.context, CL_MEM_READ_WRITE | CL_MEM_USE_HOST_PTR,
                                            allocation->bytes, allocation->data, &status);
    const cl_mem buffer = allocation->buffer;
    return status == CL_SUCCESS ? clSetKernelArg(kernel, (cl_uint)i, sizeof(buffer), &buffer)
                                : status;
}

const char *mock_run(const char *folder, const mock_function *function, const unsigned *grid,
                     const unsigned *block, void **arguments)
{
    cl_kernel kernel = NULL;
    cl_int status = CL_SUCCESS;
    const size_t local[] = {block[0], block[1], block[2]};
    const size_t global[] = {grid[0] * local[0], grid[1] * local[1], grid[2] * local[2]};
    const char *why = open_device();
    if (why == NULL)
        why = find_kernel(folder, function, &kernel);
    if (why != NULL)
        return why;
    for (int i = 0; i < function->num_parameters && status == CL_SUCCESS; i++)
        status = set_argument(kernel, i, &function->parameters[i], arguments[i]);
    if (status != CL_SUCCESS)
        return "an argument that its source does not take";
    status = clEnqueueNDRangeKernel(cl.queue, kernel, 3, NULL, global, local, 0, NULL, NULL);
    if (status == CL_SUCCESS)
        status = clFinish(cl.queue);
    return status == CL_SUCCESS ? NULL : "its source does not run";
}

void mock_forget(mock_allocation *allocation)
{
    if (allocation->buffer != NULL)
        (void)clReleaseMemObject(allocation->buffer);
    allocation->buffer = NULL;
}
