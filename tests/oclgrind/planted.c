/*
 * Small programs with one fault each, and without, to prove that check.sh sees them.
 *
 *   planted <name>
 *
 * The last line is that of a test that passed, save for `silent`.
 */
#include <CL/cl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ITEMS = 16, BYTES = 4 * ITEMS };

typedef struct fault {
    const char *name, *body;
    int written;   /* of the buffer's ints; the host writes them in two parts */
    size_t global; /* work-items */
} fault;

/* The kernel is fault(global int *x, local int *shared) with i = get_local_id(0), 16 work-items. */
static const fault faults[] = {
    {"none", "shared[i] = x[i]; barrier(CLK_LOCAL_MEM_FENCE); x[i] = shared[15 - i] > 3 ? 1 : 2;",
     ITEMS, ITEMS},
    {"silent", "x[i] = 1;", ITEMS, ITEMS},
    {"failed", "x[i] = 1;", ITEMS, ITEMS},
    {"race", "shared[i] = x[i]; x[i] = shared[15 - i];", ITEMS, ITEMS},
    {"global_race", "x[0] = x[0] + i;", ITEMS, ITEMS},
    {"uninitialised", "if (x[i] > 3) x[i] = 1;", ITEMS - 1, ITEMS},
    {"uninitialised_local", "if (i > 0) shared[i] = x[i]; x[i] = shared[i];", ITEMS, ITEMS},
    {"bounds", "x[i + 1] = 0;", ITEMS, ITEMS},
    {"barrier", "if (i > 3) barrier(CLK_LOCAL_MEM_FENCE);", ITEMS, ITEMS},
    {"api", "x[i] = 1;", ITEMS, ITEMS + 1}, /* no whole work-groups */
};

static cl_int status;

static void check(const char *what)
{
    if (status == CL_SUCCESS)
        return;
    (void)fprintf(stderr, "%s gives %d\n", what, (int)status);
    exit(2);
}

static cl_kernel make_kernel(cl_context context, cl_device_id device, const char *body)
{
    char source[1024];
    (void)snprintf(source, sizeof source,
                   "kernel void fault(global int *x, local int *shared)\n"
                   "{\n    const int i = (int)get_local_id(0);\n    %s\n}\n",
                   body);
    const char *text = source;
    const cl_program program = clCreateProgramWithSource(context, 1, &text, NULL, &status);
    check("clCreateProgramWithSource");
    status = clBuildProgram(program, 1, &device, "", NULL, NULL);
    check("clBuildProgram");
    const cl_kernel kernel = clCreateKernel(program, "fault", &status);
    check("clCreateKernel");
    (void)clReleaseProgram(program);
    return kernel;
}

static void run(const fault *f)
{
    static const int values[ITEMS] = {7, 1, 5, 9, 2, 6, 8, 3};
    const size_t group = ITEMS, half = BYTES / 2, all = 4 * (size_t)f->written;
    cl_platform_id platform = NULL;
    cl_device_id device = NULL;
    status = clGetPlatformIDs(1, &platform, NULL);
    check("clGetPlatformIDs");
    status = clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 1, &device, NULL);
    check("clGetDeviceIDs");
    const cl_context context = clCreateContext(NULL, 1, &device, NULL, NULL, &status);
    check("clCreateContext");
    const cl_command_queue queue = clCreateCommandQueue(context, device, 0, &status);
    check("clCreateCommandQueue");
    const cl_mem x = clCreateBuffer(context, CL_MEM_READ_WRITE, BYTES, NULL, &status);
    check("clCreateBuffer");
    const cl_kernel kernel = make_kernel(context, device, f->body);
    status = clEnqueueWriteBuffer(queue, x, CL_FALSE, 0, half, values, 0, NULL, NULL);
    check("clEnqueueWriteBuffer");
    status =
        clEnqueueWriteBuffer(queue, x, CL_TRUE, half, all - half, values + half / 4, 0, NULL, NULL);
    check("clEnqueueWriteBuffer");
    (void)clSetKernelArg(kernel, 0, sizeof x, &x);
    (void)clSetKernelArg(kernel, 1, BYTES, NULL);
    (void)clEnqueueNDRangeKernel(queue, kernel, 1, NULL, &f->global, &group, 0, NULL, NULL);
    (void)clFinish(queue);
    (void)clReleaseKernel(kernel);
    (void)clReleaseMemObject(x);
    (void)clReleaseCommandQueue(queue);
    (void)clReleaseContext(context);
}

int main(int argc, char **argv)
{
    for (size_t i = 0; argc == 2 && i < sizeof faults / sizeof faults[0]; i++) {
        if (strcmp(faults[i].name, argv[1]) != 0)
            continue;
        run(&faults[i]);
        if (strcmp(argv[1], "silent") != 0)
            (void)puts("[  PASSED  ] 1 test(s).");
        return strcmp(argv[1], "failed") == 0;
    }
    (void)fprintf(stderr, "usage: planted <name>\n");
    return 2;
}
