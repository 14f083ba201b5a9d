/*
 * Parts that measure: the rate of mma.sync with mma.cl, and the read bandwidth of a buffer far
 * larger than the caches with stream.cl. Results are checked; a wrong one is an error, not a number.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nvidia_probe.h"

/* ---- files ---- */

static char *read_file(probe *p, const char *name)
{
    char path[1024];
    char *text = NULL;
    long bytes = -1;
    (void)snprintf(path, sizeof(path), "%s/%s", p->root, name);
    FILE *file = fopen(path, "rb");
    if (file != NULL && fseek(file, 0, SEEK_END) == 0)
        bytes = ftell(file);
    if (bytes >= 0)
        text = calloc((size_t)bytes + 1, 1);
    if (text == NULL || fseek(file, 0, SEEK_SET) != 0 ||
        fread(text, 1, (size_t)bytes, file) != (size_t)bytes) {
        (void)probe_fail(p, "cannot read %s", name);
        free(text);
        text = NULL;
    }
    if (file != NULL)
        (void)fclose(file);
    return text;
}

/* ---- tensor cores ---- */

typedef struct mma_variant {
    int row_tiles, column_tiles;
    bool feeds_a, feeds_b;
    int steps; /* of 16 along k */
} mma_variant;

static const mma_variant in_registers[] = {{1, 8, false, false, 1}, {2, 4, false, false, 1}};
static const mma_variant by_ldmatrix[] = {
    {1, 8, false, true, 4}, {2, 4, true, true, 4}, {4, 8, true, true, 4}};
static const int group_sizes[] = {128, 256};
static const int groups_per_unit[] = {1, 2, 4};

enum { MMA_ROUNDS = 5, MMA_CHAIN = 8, MMA_OF_WARP = 65536, MMA_FLOP = 2 * 16 * 8 * 16 };

/* mma.cl's element. */
static double element(uint32_t row, uint32_t k)
{
    uint32_t x = row * UINT32_C(0x9e3779b9) + k * UINT32_C(0x85ebca6b);
    x ^= x >> 15;
    x *= UINT32_C(0x2c1b3c6d);
    x ^= x >> 13;
    return (double)((int)(x >> 24) * 2 - 255) / 256.0;
}

/* What component e of lane's sum is after one round. */
static double expected_sum(const mma_variant *v, uint32_t lane, uint32_t e)
{
    double sum = 0.0;
    for (int i = 0; i < v->row_tiles; i++)
        for (int j = 0; j < v->column_tiles; j++) {
            const uint32_t row = (uint32_t)(16 * i) + lane / 4 + e / 2 * 8;
            const uint32_t column = (uint32_t)(16 * v->row_tiles + 8 * j) + lane % 4 * 2 + e % 2;
            double product = 0.0;
            for (uint32_t k = 0; k < (uint32_t)(16 * v->steps); k++)
                product += element(row, k) * element(column, k);
            sum += (double)(i * v->column_tiles + j + 1) * product;
        }
    return sum;
}

/* The largest error over the largest value. */
static double largest_error(const mma_variant *v, const float *sums, size_t items, int rounds)
{
    double expected[32][4], largest = 0.0, error = 0.0;
    for (uint32_t lane = 0; lane < 32; lane++)
        for (uint32_t e = 0; e < 4; e++) {
            expected[lane][e] = (double)rounds * expected_sum(v, lane, e);
            largest = fmax(largest, fabs(expected[lane][e]));
        }
    for (size_t i = 0; i < items; i++)
        for (size_t e = 0; e < 4; e++) {
            const double one = fabs((double)sums[4 * i + e] - expected[i % 32][e]);
            if (!isfinite(one))
                return INFINITY;
            error = fmax(error, one);
        }
    return error / largest;
}

/* Best time of a chain of launches over its length. */
static bool time_chains(probe *p, cl_kernel kernel, size_t items, size_t group, int chain,
                        double *best_s)
{
    *best_s = INFINITY;
    for (int round = -1; round < (p->generic ? 1 : MMA_ROUNDS); round++) { /* -1 warms up */
        const double start = report_now_s();
        cl_int status = CL_SUCCESS;
        for (int i = 0; i < chain && status == CL_SUCCESS; i++)
            status =
                clEnqueueNDRangeKernel(p->queue, kernel, 1, NULL, &items, &group, 0, NULL, NULL);
        if (!probe_check(p, "clEnqueueNDRangeKernel", status) ||
            !probe_check(p, "clFinish", clFinish(p->queue)))
            return false;
        if (round >= 0)
            *best_s = fmin(*best_s, (report_now_s() - start) / chain);
    }
    return true;
}

/* One number of work-groups: adds a row, raises *best. */
static bool measure_groups(probe *p, const mma_variant *v, cl_kernel kernel, int group_size,
                           int per_unit, json *out, double *best)
{
    const size_t group = (size_t)group_size;
    const size_t items = group * (size_t)per_unit * p->compute_units;
    const size_t bytes = items * 4 * sizeof(float);
    const int tiles = v->row_tiles * v->column_tiles;
    const int rounds = p->generic ? 3 : MMA_OF_WARP / (tiles * v->steps);
    double seconds, error = INFINITY;
    cl_int status;
    float *host = malloc(bytes);
    cl_mem sums = clCreateBuffer(p->context, CL_MEM_READ_WRITE, bytes, NULL, &status);
    if (status == CL_SUCCESS)
        status = clSetKernelArg(kernel, 0, sizeof(sums), &sums);
    if (status == CL_SUCCESS)
        status = clSetKernelArg(kernel, 1, sizeof(rounds), &rounds);
    bool ok =
        host != NULL && probe_check(p, "arguments", status) &&
        time_chains(p, kernel, items, group, p->generic ? 1 : MMA_CHAIN, &seconds) &&
        probe_check(p, "clEnqueueReadBuffer",
                    clEnqueueReadBuffer(p->queue, sums, CL_TRUE, 0, bytes, host, 0, NULL, NULL));
    if (ok) {
        error = largest_error(v, host, items, rounds);
        ok = error < 1e-2 || probe_fail(p, "wrong: relative error %.3g", error);
    }
    if (ok) {
        const double flop = (double)items / 32.0 * tiles * v->steps * rounds * MMA_FLOP;
        json_open(out, NULL);
        json_integer(out, "work_group", group_size);
        json_integer(out, "groups_per_unit", per_unit);
        json_number(out, "tflop_per_s", 1e-12 * flop / seconds);
        json_number(out, "launch_us", 1e6 * seconds);
        json_number(out, "rel_error", error);
        json_close(out);
        *best = fmax(*best, 1e-12 * flop / seconds);
    }
    if (sums != NULL)
        (void)clReleaseMemObject(sums);
    free(host);
    return ok;
}

static bool measure_variant(probe *p, const mma_variant *v, int group_size,
                            const char *const *sources, json *out, double *best)
{
    char options[160];
    (void)snprintf(options, sizeof(options),
                   "-DMT=%d -DNT=%d -DFEED_A=%d -DFEED_B=%d -DSTEPS=%d -DWORK_GROUP=%d "
                   "-DSPLITS_VLOAD=0",
                   v->row_tiles, v->column_tiles, (int)v->feeds_a, (int)v->feeds_b, v->steps,
                   group_size);
    cl_program program = probe_build(p, sources, 3, options);
    cl_kernel kernel = program != NULL ? probe_kernel(p, program, "multiply") : NULL;
    bool ok = kernel != NULL;
    for (size_t i = 0; i < sizeof(groups_per_unit) / sizeof(groups_per_unit[0]) && ok; i++)
        ok = measure_groups(p, v, kernel, group_size, groups_per_unit[i], out, best);
    probe_release(kernel, program);
    return ok;
}

static bool measure_variants(probe *p, const mma_variant *variants, size_t count,
                             const char *const *sources, json *out, double *best)
{
    json_open_list(out, "variants");
    for (size_t i = 0; i < count; i++) {
        const mma_variant *v = &variants[i];
        double best_here = 0.0;
        json_open(out, NULL);
        json_integer(out, "row_tiles", v->row_tiles);
        json_integer(out, "column_tiles", v->column_tiles);
        json_integer(out, "ldmatrix_per_step",
                     (v->feeds_a ? v->row_tiles : 0) + (v->feeds_b ? v->column_tiles / 2 : 0));
        json_integer(out, "mma_per_step", v->row_tiles * v->column_tiles);
        json_open_list(out, "rows");
        for (size_t g = 0; g < sizeof(group_sizes) / sizeof(group_sizes[0]); g++)
            if (!measure_variant(p, v, group_sizes[g], sources, out, &best_here))
                return false;
        json_close(out);
        json_number(out, "best_tflop_per_s", best_here);
        json_close(out);
        *best = fmax(*best, best_here);
    }
    json_close(out);
    return true;
}

/* value 0: fragments stay in registers; 1: they come from local memory. */
bool part_mma(probe *p, int value, json *out)
{
    double best = 0.0;
    if (p->root == NULL)
        return probe_fail(p, "needs --root");
    if (!p->generic && p->capability < 80)
        return probe_fail(p, "for compute capability 8.0 on, this is %d", p->capability);
    char *common = read_file(p, "cl/common.clh");
    char *operations =
        read_file(p, p->generic ? "cl/nvidia/ptx_emulated.clh" : "cl/nvidia/ptx.clh");
    char *kernel = read_file(p, "tools/gpu_report/mma.cl");
    bool ok = common != NULL && operations != NULL && kernel != NULL;
    if (ok) {
        const char *const sources[] = {common, operations, kernel};
        ok = value == 0 ? measure_variants(p, in_registers, 2, sources, out, &best)
                        : measure_variants(p, by_ldmatrix, 3, sources, out, &best);
    }
    if (ok)
        json_number(out, "best_tflop_per_s", best);
    free(common);
    free(operations);
    free(kernel);
    return ok;
}

/* ---- bandwidth ---- */

enum { MAX_BUFFERS = 16, STREAM_GROUP = 256, STREAM_ROUNDS = 15, MOST_GROUPS = 16 };

typedef struct stream {
    cl_kernel fill, read;
    cl_mem data[MAX_BUFFERS], sums;
    cl_uint num_buffers;
    uint64_t buffer_bytes;
} stream;

/* 4 GiB where the device has the memory, in as few buffers as it allows. */
static void choose_buffers(const probe *p, stream *s)
{
    cl_ulong alloc = 0, memory = 0;
    uint64_t total = p->generic ? UINT64_C(64) << 20 : UINT64_C(4) << 30;
    (void)clGetDeviceInfo(p->device, CL_DEVICE_MAX_MEM_ALLOC_SIZE, sizeof(alloc), &alloc, NULL);
    (void)clGetDeviceInfo(p->device, CL_DEVICE_GLOBAL_MEM_SIZE, sizeof(memory), &memory, NULL);
    while (total > memory / 2 && total > UINT64_C(1) << 20)
        total /= 2;
    s->num_buffers = p->generic ? 2 : 1; /* generic: both paths of the sum */
    while (s->num_buffers < MAX_BUFFERS && total / s->num_buffers > alloc)
        s->num_buffers *= 2;
    s->buffer_bytes = total / s->num_buffers;
}

static bool fill_buffers(probe *p, stream *s)
{
    const size_t items = (size_t)STREAM_GROUP * 4 * p->compute_units, group = STREAM_GROUP;
    const cl_uint count = (cl_uint)(s->buffer_bytes / 16);
    cl_int status = CL_SUCCESS;
    for (cl_uint b = 0; b < s->num_buffers && status == CL_SUCCESS; b++) {
        const cl_uint first = (cl_uint)(b * (s->buffer_bytes / 4));
        s->data[b] = clCreateBuffer(p->context, CL_MEM_READ_WRITE, s->buffer_bytes, NULL, &status);
        if (status == CL_SUCCESS)
            status = clSetKernelArg(s->fill, 0, sizeof(s->data[b]), &s->data[b]);
        if (status == CL_SUCCESS)
            status = clSetKernelArg(s->fill, 1, sizeof(first), &first);
        if (status == CL_SUCCESS)
            status = clSetKernelArg(s->fill, 2, sizeof(count), &count);
        if (status == CL_SUCCESS)
            status =
                clEnqueueNDRangeKernel(p->queue, s->fill, 1, NULL, &items, &group, 0, NULL, NULL);
    }
    if (!probe_check(p, "filling", status))
        return false;
    s->sums = clCreateBuffer(p->context, CL_MEM_READ_WRITE, (size_t)MOST_GROUPS * items / 4 * 16,
                             NULL, &status);
    return probe_check(p, "clCreateBuffer", status) &&
           probe_check(p, "clFinish", clFinish(p->queue));
}

/* Reads all buffers once with `items` work-items. */
static bool read_once(probe *p, const stream *s, size_t items, double *seconds)
{
    const size_t group = STREAM_GROUP;
    const cl_uint count = (cl_uint)(s->buffer_bytes / 16);
    const double start = report_now_s();
    cl_int status = CL_SUCCESS;
    for (cl_uint b = 0; b < s->num_buffers && status == CL_SUCCESS; b++) {
        const cl_uint add = b > 0;
        status = clSetKernelArg(s->read, 0, sizeof(s->data[b]), &s->data[b]);
        if (status == CL_SUCCESS)
            status = clSetKernelArg(s->read, 1, sizeof(count), &count);
        if (status == CL_SUCCESS)
            status = clSetKernelArg(s->read, 2, sizeof(s->sums), &s->sums);
        if (status == CL_SUCCESS)
            status = clSetKernelArg(s->read, 3, sizeof(add), &add);
        if (status == CL_SUCCESS)
            status =
                clEnqueueNDRangeKernel(p->queue, s->read, 1, NULL, &items, &group, 0, NULL, NULL);
    }
    if (status == CL_SUCCESS)
        status = clFinish(p->queue);
    *seconds = report_now_s() - start;
    return probe_check(p, "reading", status);
}

static bool check_sums(probe *p, const stream *s, size_t items)
{
    const uint64_t words = s->num_buffers * (s->buffer_bytes / 4);
    const uint32_t expected =
        (uint32_t)(words / 2 * (words - 1)) * UINT32_C(2654435761); /* words is even */
    uint32_t sum = 0;
    uint32_t *sums = malloc(items * 16);
    if (sums == NULL)
        return probe_fail(p, "out of memory");
    const cl_int status =
        clEnqueueReadBuffer(p->queue, s->sums, CL_TRUE, 0, items * 16, sums, 0, NULL, NULL);
    for (size_t i = 0; i < 4 * items && status == CL_SUCCESS; i++)
        sum += sums[i];
    free(sums);
    if (!probe_check(p, "clEnqueueReadBuffer", status))
        return false;
    return sum == expected ||
           probe_fail(p, "wrong: the sum is %u, should be %u", (unsigned)sum, (unsigned)expected);
}

static bool measure_reads(probe *p, const stream *s, json *out)
{
    const double gb = 1e-9 * (double)(s->num_buffers * s->buffer_bytes);
    const size_t rounds = p->generic ? 3 : STREAM_ROUNDS;
    double best = 0.0, best_median = 0.0;
    json_open_list(out, "rows");
    for (size_t groups = 2; groups <= MOST_GROUPS; groups *= 2) {
        const size_t items = groups * p->compute_units * STREAM_GROUP;
        double seconds[STREAM_ROUNDS];
        for (size_t i = 0; i <= rounds; i++) /* the first warms up */
            if (!read_once(p, s, items, &seconds[i > 0 ? i - 1 : 0]))
                return false;
        if (!check_sums(p, s, items))
            return false;
        const double median = gb / report_median(seconds, rounds); /* sorts */
        json_open(out, NULL);
        json_integer(out, "groups_per_unit", (long long)groups);
        json_number(out, "best_gb_per_s", gb / seconds[0]);
        json_number(out, "median_gb_per_s", median);
        json_close(out);
        best = fmax(best, gb / seconds[0]);
        best_median = fmax(best_median, median);
    }
    json_close(out);
    json_number(out, "best_gb_per_s", best);
    json_number(out, "median_gb_per_s", best_median);
    return true;
}

bool part_stream(probe *p, int value, json *out)
{
    stream s = {.num_buffers = 0};
    (void)value;
    if (p->root == NULL)
        return probe_fail(p, "needs --root");
    char *common = read_file(p, "cl/common.clh");
    char *kernels = read_file(p, "tools/gpu_report/stream.cl");
    const char *const sources[] = {common, kernels};
    cl_program program =
        common != NULL && kernels != NULL ? probe_build(p, sources, 2, "-DSPLITS_VLOAD=0") : NULL;
    free(common);
    free(kernels);
    if (program == NULL)
        return false;
    choose_buffers(p, &s);
    json_integer(out, "buffers", (long long)s.num_buffers);
    json_integer(out, "buffer_bytes", (long long)s.buffer_bytes);
    s.fill = probe_kernel(p, program, "fill");
    s.read = s.fill != NULL ? probe_kernel(p, program, "stream") : NULL;
    const bool ok = s.read != NULL && fill_buffers(p, &s) && measure_reads(p, &s, out);
    for (cl_uint b = 0; b < s.num_buffers; b++)
        if (s.data[b] != NULL)
            (void)clReleaseMemObject(s.data[b]);
    if (s.sums != NULL)
        (void)clReleaseMemObject(s.sums);
    probe_release(s.fill, NULL);
    probe_release(s.read, program);
    return ok;
}
