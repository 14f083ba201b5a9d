#include "cli/measure.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/stats.h"
#include "core/os.h"

/*
 * fill        data[i] = i · 2654435761 (a well-spread pattern, modulo 2^32)
 * read_sum    sums[item] = Σ of that item's vectors; one work-item adds VECTORS uint4. On a CPU an
 *             item reads a run of its own, on a GPU neighbours read neighbours.
 * multiply_add CHAINS independent chains x = x · 0.5 + 1 from different starts; each converges to
 *             exactly 2, which is what the host checks. One work-item is CHAINS vectors FLOATS.
 */
static const char source[] =
    "__kernel void fill(__global uint *data)\n"
    "{\n"
    "    data[get_global_id(0)] = (uint)get_global_id(0) * 2654435761u;\n"
    "}\n"
    "__kernel void read_sum(__global const uint4 *data, __global uint *sums)\n"
    "{\n"
    "    const size_t item = get_global_id(0);\n"
    "    uint4 sum = (uint4)(0u);\n"
    "    for (uint i = 0; i < VECTORS; i++)\n"
    "        sum += data[CONTIGUOUS ? item * VECTORS + i : i * get_global_size(0) + item];\n"
    "    sums[item] = sum.x + sum.y + sum.z + sum.w;\n"
    "}\n"
    "__kernel void multiply_add(__global float *out, float half_, float one, uint rounds)\n"
    "{\n"
    "    FLOATS x[CHAINS];\n"
    "    #pragma unroll\n"
    "    for (uint c = 0; c < CHAINS; c++)\n"
    "        x[c] = (FLOATS)((float)c + (float)get_local_id(0));\n"
    "    for (uint round = 0; round < rounds; round++) {\n"
    "        #pragma unroll\n"
    "        for (uint c = 0; c < CHAINS; c++)\n"
    "            x[c] = MULTIPLY_ADD(x[c], (FLOATS)(half_), (FLOATS)(one));\n"
    "    }\n"
    "    FLOATS sum = (FLOATS)(0.0f);\n"
    "    #pragma unroll\n"
    "    for (uint c = 0; c < CHAINS; c++)\n"
    "        sum += x[c];\n"
    "    vstore16((float16)(sum), get_global_id(0), out);\n"
    "}\n";

enum {
    LAUNCHES = 7,
    VECTORS = 64,
    CHAINS = 8,
    MIN_ROUNDS = 1024,
    OUT_FLOATS = 16 /* stored per item, whatever the vector */
};

#define LEAST_SECONDS 0.02 /* a launch this long hides its own cost */
#define LARGEST_BUFFER ((uint64_t)256 << 20)

typedef struct bench_device {
    const mla_device_info *info;
    bool is_cpu;
    cl_context context;
    cl_command_queue queue;
    cl_program program;
    cl_mem data, out;
} bench_device;

static clmla_status open_device(bench_device *d)
{
    char options[256];
    cl_int error;
    const char *text = source;
    const bool has_fma = (d->info->float_config & CL_FP_FMA) != 0;
    d->context = clCreateContext(NULL, 1, &d->info->id, NULL, NULL, &error);
    if (error != CL_SUCCESS)
        return error;
    d->queue = clCreateCommandQueue(d->context, d->info->id, 0, &error);
    if (error != CL_SUCCESS)
        return error;
    d->program = clCreateProgramWithSource(d->context, 1, &text, NULL, &error);
    if (error != CL_SUCCESS)
        return error;
    (void)snprintf(options, sizeof(options),
                   "-D VECTORS=%du -D CHAINS=%d -D CONTIGUOUS=%d -D FLOATS=%s "
                   "-D MULTIPLY_ADD=%s",
                   VECTORS, CHAINS, d->is_cpu, d->is_cpu ? "float16" : "float",
                   has_fma ? "fma" : "mad");
    return clBuildProgram(d->program, 1, &d->info->id, options, NULL, NULL);
}

static void close_device(bench_device *d)
{
    if (d->data != NULL)
        (void)clReleaseMemObject(d->data);
    if (d->out != NULL)
        (void)clReleaseMemObject(d->out);
    if (d->program != NULL)
        (void)clReleaseProgram(d->program);
    if (d->queue != NULL)
        (void)clReleaseCommandQueue(d->queue);
    if (d->context != NULL)
        (void)clReleaseContext(d->context);
}

/* Seconds of one launch, waited for. */
static clmla_status launch(const bench_device *d, cl_kernel kernel, size_t items, size_t group,
                           double *seconds)
{
    const uint64_t start = mla__os_now_ns();
    cl_int error = clEnqueueNDRangeKernel(d->queue, kernel, 1, NULL, &items, &group, 0, NULL, NULL);
    if (error == CL_SUCCESS)
        error = clFinish(d->queue);
    *seconds = 1e-9 * (double)(mla__os_now_ns() - start);
    return error;
}

/* Median of LAUNCHES after one that warms up. */
static clmla_status median_launch(const bench_device *d, cl_kernel kernel, size_t items,
                                  size_t group, double *seconds)
{
    double samples[LAUNCHES];
    double ignored;
    clmla_status status = launch(d, kernel, items, group, &ignored);
    for (int i = 0; i < LAUNCHES && status == CLMLA_SUCCESS; i++)
        status = launch(d, kernel, items, group, &samples[i]);
    if (status == CLMLA_SUCCESS)
        *seconds = mla_median(samples, LAUNCHES);
    return status;
}

/* ---- bandwidth ------------------------------------------------------------------------------- */

/* A power of two of bytes, large against caches, small against the device's memory. */
static uint64_t buffer_bytes(const mla_device_info *info)
{
    uint64_t bytes = LARGEST_BUFFER;
    while (bytes > info->max_alloc_bytes / 2 || bytes > info->global_mem_bytes / 8)
        bytes /= 2;
    return bytes;
}

/* Sums of all items against the pattern's sum, both modulo 2^32. */
static clmla_status check_sums(const bench_device *d, size_t items, uint64_t words)
{
    cl_uint *sums = malloc(items * sizeof(*sums));
    uint32_t sum = 0, expected = 0;
    if (sums == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    clmla_status status = clEnqueueReadBuffer(d->queue, d->out, CL_TRUE, 0, items * sizeof(*sums),
                                              sums, 0, NULL, NULL);
    for (size_t i = 0; i < items && status == CLMLA_SUCCESS; i++)
        sum += sums[i];
    for (uint64_t i = 0; i < words; i++)
        expected += (uint32_t)i * UINT32_C(2654435761);
    free(sums);
    return status != CLMLA_SUCCESS || sum == expected ? status : CLMLA_INTERNAL;
}

static clmla_status run_read(const bench_device *d, cl_kernel fill, cl_kernel read_sum,
                             uint64_t bytes, double *gb_per_s)
{
    const size_t words = (size_t)(bytes / sizeof(cl_uint));
    const size_t items = words / 4 / VECTORS;
    const size_t group = d->is_cpu ? 1 : 64;
    double seconds;
    clmla_status status = clSetKernelArg(fill, 0, sizeof(cl_mem), &d->data);
    if (status == CLMLA_SUCCESS)
        status = clSetKernelArg(read_sum, 0, sizeof(cl_mem), &d->data);
    if (status == CLMLA_SUCCESS)
        status = clSetKernelArg(read_sum, 1, sizeof(cl_mem), &d->out);
    if (status == CLMLA_SUCCESS)
        status = launch(d, fill, words, 64, &seconds);
    if (status == CLMLA_SUCCESS)
        status = median_launch(d, read_sum, items, group, &seconds);
    if (status == CLMLA_SUCCESS)
        status = check_sums(d, items, words);
    if (status == CLMLA_SUCCESS)
        *gb_per_s = 1e-9 * (double)bytes / seconds;
    return status;
}

static clmla_status measure_read(bench_device *d, double *gb_per_s)
{
    const uint64_t bytes = buffer_bytes(d->info);
    cl_kernel fill = NULL, read_sum = NULL;
    cl_int status = CL_OUT_OF_RESOURCES;
    if (bytes < 64 * VECTORS * sizeof(cl_uint4))
        return CL_OUT_OF_RESOURCES;
    d->data = clCreateBuffer(d->context, CL_MEM_READ_WRITE, (size_t)bytes, NULL, &status);
    if (status == CL_SUCCESS)
        d->out = clCreateBuffer(d->context, CL_MEM_READ_WRITE, (size_t)(bytes / 4 / VECTORS), NULL,
                                &status);
    if (status == CL_SUCCESS)
        fill = clCreateKernel(d->program, "fill", &status);
    if (status == CL_SUCCESS)
        read_sum = clCreateKernel(d->program, "read_sum", &status);
    if (status == CL_SUCCESS)
        status = run_read(d, fill, read_sum, bytes, gb_per_s);
    if (fill != NULL)
        (void)clReleaseKernel(fill);
    if (read_sum != NULL)
        (void)clReleaseKernel(read_sum);
    return status;
}

/* ---- multiply-adds --------------------------------------------------------------------------- */

/* Every chain has reached 2, so every stored float is 2 · CHAINS. */
static clmla_status check_chains(const bench_device *d, size_t items)
{
    float *values = malloc(items * OUT_FLOATS * sizeof(*values));
    if (values == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    clmla_status status = clEnqueueReadBuffer(
        d->queue, d->out, CL_TRUE, 0, items * OUT_FLOATS * sizeof(*values), values, 0, NULL, NULL);
    for (size_t i = 0; i < items * OUT_FLOATS && status == CLMLA_SUCCESS; i++)
        if (!(values[i] == 2.0f * CHAINS))
            status = CLMLA_INTERNAL;
    free(values);
    return status;
}

static clmla_status run_chains(const bench_device *d, cl_kernel kernel, size_t items, size_t group,
                               double *gflop_per_s)
{
    const cl_float half_ = 0.5f, one = 1.0f;
    const double lanes = d->is_cpu ? 16.0 : 1.0;
    cl_uint rounds = MIN_ROUNDS / 2;
    double seconds = 0.0;
    clmla_status status = clSetKernelArg(kernel, 0, sizeof(cl_mem), &d->out);
    if (status == CLMLA_SUCCESS)
        status = clSetKernelArg(kernel, 1, sizeof(half_), &half_);
    if (status == CLMLA_SUCCESS)
        status = clSetKernelArg(kernel, 2, sizeof(one), &one);
    while (status == CLMLA_SUCCESS && seconds < LEAST_SECONDS && rounds < UINT32_C(1) << 30) {
        rounds *= 2;
        status = clSetKernelArg(kernel, 3, sizeof(rounds), &rounds);
        if (status == CLMLA_SUCCESS)
            status = launch(d, kernel, items, group, &seconds);
    }
    if (status == CLMLA_SUCCESS)
        status = median_launch(d, kernel, items, group, &seconds);
    if (status == CLMLA_SUCCESS)
        status = check_chains(d, items);
    if (status == CLMLA_SUCCESS)
        *gflop_per_s = 1e-9 * 2.0 * (double)items * lanes * CHAINS * (double)rounds / seconds;
    return status;
}

static clmla_status measure_chains(bench_device *d, double *gflop_per_s)
{
    const size_t group = d->is_cpu ? 1 : 64;
    const size_t items = (size_t)d->info->compute_units * (d->is_cpu ? 8 : 2048);
    cl_int status;
    if (d->out != NULL)
        (void)clReleaseMemObject(d->out);
    d->out = clCreateBuffer(d->context, CL_MEM_READ_WRITE, items * OUT_FLOATS * sizeof(cl_float),
                            NULL, &status);
    if (status != CL_SUCCESS)
        return status;
    cl_kernel kernel = clCreateKernel(d->program, "multiply_add", &status);
    if (status != CL_SUCCESS)
        return status;
    status = run_chains(d, kernel, items, group, gflop_per_s);
    (void)clReleaseKernel(kernel);
    return status;
}

clmla_status mla_measure_device(const mla_device_info *device, mla_measured *out)
{
    bench_device d = {.info = device, .is_cpu = device->description.kind == MLA_DEVICE_CPU};
    mla_measured measured = {0};
    clmla_status status = open_device(&d);
    if (status == CLMLA_SUCCESS)
        status = measure_read(&d, &measured.read_gb_per_s);
    if (status == CLMLA_SUCCESS)
        status = measure_chains(&d, &measured.fma_gflop_per_s);
    close_device(&d);
    if (status == CLMLA_SUCCESS)
        *out = measured;
    return status;
}
