#include "cli/measure.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/os.h"

/*
 * What a device can do is the best that it is seen to do: a launch can only be held up (a core still
 * asleep, both workers on one core, neighbours on the same memory), never run ahead. So each figure is
 * the shortest of many launches, spread over enough time that one such moment does not cover them all.
 *
 * fill        data[i] = i · 2654435761 (a well-spread pattern, modulo 2^32)
 * read_sum    sums[item] = Σ of that item's vectors; one work-item adds STREAMS · VECTORS uint4, from
 *             STREAMS places at a time. On a CPU an item reads runs of its own, on a GPU neighbours
 *             read neighbours.
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
    "    const size_t item = get_global_id(0), items = get_global_size(0);\n"
    "    const size_t first = CONTIGUOUS ? item * STREAMS * VECTORS : item;\n"
    "    const size_t next = CONTIGUOUS ? 1 : items * STREAMS;\n"
    "    const size_t stream = CONTIGUOUS ? VECTORS : items;\n"
    "    uint4 sum[STREAMS];\n"
    "    #pragma unroll\n"
    "    for (uint s = 0; s < STREAMS; s++)\n"
    "        sum[s] = (uint4)(0u);\n"
    "    for (uint i = 0; i < VECTORS; i++) {\n"
    "        #pragma unroll\n"
    "        for (uint s = 0; s < STREAMS; s++)\n"
    "            sum[s] += data[first + i * next + s * stream];\n"
    "    }\n"
    "    for (uint s = 1; s < STREAMS; s++)\n"
    "        sum[0] += sum[s];\n"
    "    sums[item] = sum[0].x + sum[0].y + sum[0].z + sum[0].w;\n"
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
    FEWEST_LAUNCHES = 7,
    STREAMS = 4,
    CPU_VECTORS = 8192, /* a stream of 128 KiB */
    GPU_VECTORS = 16,
    CHAINS = 8,
    MIN_ROUNDS = 1024,
    OUT_FLOATS = 16 /* stored per item, whatever the vector */
};

#define LEAST_SECONDS 0.005  /* a launch this long hides its own cost */
#define MEASURED_SECONDS 1.0 /* over which the launches of a figure are spread */
#define LARGEST_BUFFER ((uint64_t)256 << 20)

typedef struct bench_device {
    const mla_device_info *info;
    bool is_cpu;
    size_t group;        /* work-items of a group */
    size_t read_vectors; /* of each stream of a work-item of read_sum */
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
                   "-D VECTORS=%zuu -D STREAMS=%du -D CHAINS=%d -D CONTIGUOUS=%d -D FLOATS=%s "
                   "-D MULTIPLY_ADD=%s",
                   d->read_vectors, STREAMS, CHAINS, d->is_cpu, d->is_cpu ? "float16" : "float",
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

/* The shortest of the launches that MEASURED_SECONDS hold, after one that warms up. */
static clmla_status best_launch(const bench_device *d, cl_kernel kernel, size_t items,
                                double *seconds)
{
    double one, total = 0.0;
    clmla_status status = launch(d, kernel, items, d->group, &one);
    for (int i = 0; status == CLMLA_SUCCESS && (i < FEWEST_LAUNCHES || total < MEASURED_SECONDS);
         i++) {
        status = launch(d, kernel, items, d->group, &one);
        *seconds = i == 0 ? one : fmin(one, *seconds);
        total += one;
    }
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

/* What one work-item of read_sum reads. */
static uint64_t item_bytes(const bench_device *d)
{
    return (uint64_t)STREAMS * d->read_vectors * sizeof(cl_uint4);
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
    const size_t items = (size_t)(bytes / item_bytes(d));
    double seconds;
    clmla_status status = clSetKernelArg(fill, 0, sizeof(cl_mem), &d->data);
    if (status == CLMLA_SUCCESS)
        status = clSetKernelArg(read_sum, 0, sizeof(cl_mem), &d->data);
    if (status == CLMLA_SUCCESS)
        status = clSetKernelArg(read_sum, 1, sizeof(cl_mem), &d->out);
    if (status == CLMLA_SUCCESS)
        status = launch(d, fill, words, 64, &seconds);
    if (status == CLMLA_SUCCESS)
        status = best_launch(d, read_sum, items, &seconds);
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
    if (bytes < item_bytes(d) * d->group)
        return CL_OUT_OF_RESOURCES;
    d->data = clCreateBuffer(d->context, CL_MEM_READ_WRITE, (size_t)bytes, NULL, &status);
    if (status == CL_SUCCESS)
        d->out = clCreateBuffer(d->context, CL_MEM_READ_WRITE,
                                (size_t)(bytes / item_bytes(d)) * sizeof(cl_uint), NULL, &status);
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

static clmla_status run_chains(const bench_device *d, cl_kernel kernel, size_t items,
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
            status = launch(d, kernel, items, d->group, &seconds);
    }
    if (status == CLMLA_SUCCESS)
        status = best_launch(d, kernel, items, &seconds);
    if (status == CLMLA_SUCCESS)
        status = check_chains(d, items);
    if (status == CLMLA_SUCCESS)
        *gflop_per_s = 1e-9 * 2.0 * (double)items * lanes * CHAINS * (double)rounds / seconds;
    return status;
}

static clmla_status measure_chains(bench_device *d, double *gflop_per_s)
{
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
    status = run_chains(d, kernel, items, gflop_per_s);
    (void)clReleaseKernel(kernel);
    return status;
}

clmla_status mla_measure_device(const mla_device_info *device, mla_measured *out)
{
    const bool is_cpu = device->description.kind == MLA_DEVICE_CPU;
    bench_device d = {.info = device,
                      .is_cpu = is_cpu,
                      .group = is_cpu ? 1 : 64,
                      .read_vectors = is_cpu ? CPU_VECTORS : GPU_VECTORS};
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
