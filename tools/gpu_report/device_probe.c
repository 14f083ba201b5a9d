/*
 * Measures what a device and its driver cost, without clmla: one JSON object on stdout.
 *
 *   device_probe [PLATFORM DEVICE]     indices; without them the first GPU, else the first device
 *
 * Launch cost, host clock, a chain of kernels in one in-order queue that each add 1 to a counter:
 *   enqueue_us      host time of one clEnqueueNDRangeKernel in a chain
 *   set_args_us     the same with clSetKernelArg before each
 *   dependent_us    time from one kernel of a chain to the next, the queue kept full
 *   round_trip_us   one kernel and clFinish
 * Bandwidth of buffers filled with pseudo-random bits, far larger than a cache where memory allows:
 *   read_gb_per_s   bytes read; copy_gb_per_s, copy_buffer_gb_per_s   bytes read + bytes written
 * The counter, the sum and the copy are checked; a wrong result is an error, not a number.
 */
#define CL_TARGET_OPENCL_VERSION 120
#define _POSIX_C_SOURCE 200809L
#include <CL/cl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    MAX_ROUNDS = 64,
    GPU_WORK_GROUP = 256,
    GPU_WORK_ITEMS = 1 << 18, /* enough to fill the largest */
    GPU_VECTOR_BYTES = 16,
    CPU_WORK_ITEMS = 64,
    CPU_VECTOR_BYTES = 64
};

struct probe {
    cl_device_id device;
    cl_platform_id platform;
    cl_device_type type;
    int platform_index, device_index;
    cl_context context;
    cl_command_queue queue;
    cl_program program;
    cl_kernel add_one, fill, read, copy;
};

/* fill: a bijection of the index, so that no word repeats. read: a sum modulo 2^32, which is exact
 * in any order. LOOP: neighbouring work-items take neighbouring elements, or, on a CPU (CHUNKS), a
 * work-item takes a range of its own. */
static const char source[] =
    "#ifdef CHUNKS\n"
    "typedef uint16 vector;\n"
    "#define LOOP(i, count)                                                        \\\n"
    "    const ulong part = (count + get_global_size(0) - 1) / get_global_size(0); \\\n"
    "    const ulong end = min(count, (get_global_id(0) + 1) * part);              \\\n"
    "    for (ulong i = get_global_id(0) * part; i < end; i++)\n"
    "#else\n"
    "typedef uint4 vector;\n"
    "#define LOOP(i, count)                                                        \\\n"
    "    for (ulong i = get_global_id(0); i < count; i += get_global_size(0))\n"
    "#endif\n"
    "__kernel void add_one(__global uint *counter) { counter[0] += 1; }\n"
    "__kernel void fill(__global uint *data, ulong count)\n"
    "{\n"
    "    LOOP(i, count) {\n"
    "        uint x = (uint)i;\n"
    "        x ^= x >> 16; x *= 0x7feb352dU; x ^= x >> 15; x *= 0x846ca68bU;\n"
    "        data[i] = x ^ (x >> 16);\n"
    "    }\n"
    "}\n"
    "__kernel void read(__global const vector *data, ulong count, __global vector *sums)\n"
    "{\n"
    "    vector sum = (vector)(0);\n"
    "    LOOP(i, count)\n"
    "        sum += data[i];\n"
    "    sums[get_global_id(0)] = sum;\n"
    "}\n"
    "__kernel void copy(__global const vector *from, __global vector *to, ulong count)\n"
    "{\n"
    "    LOOP(i, count)\n"
    "        to[i] = from[i];\n"
    "}\n";

static uint32_t scramble(uint32_t x)
{
    x ^= x >> 16;
    x *= 0x7feb352dU;
    x ^= x >> 15;
    x *= 0x846ca68bU;
    return x ^ (x >> 16);
}

static bool fail(const char *what, cl_int status)
{
    fprintf(stderr, "device_probe: %s: OpenCL error %d\n", what, (int)status);
    return false;
}

static double now_s(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a;
    const double y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, size_t count)
{
    qsort(values, count, sizeof values[0], compare_doubles);
    return values[count / 2];
}

/* ---- device facts ---- */

static void print_json_string(const char *text)
{
    putchar('"');
    for (; *text != '\0'; text++) {
        if (*text == '"' || *text == '\\')
            printf("\\%c", *text);
        else if ((unsigned char)*text < 0x20)
            printf("\\u%04x", (unsigned)(unsigned char)*text);
        else
            putchar(*text);
    }
    putchar('"');
}

static void print_device_text(cl_device_id device, const char *key, cl_device_info what)
{
    char text[16384] = "";
    printf("  \"%s\": ", key);
    if (clGetDeviceInfo(device, what, sizeof text, text, NULL) != CL_SUCCESS)
        printf("null");
    else
        print_json_string(text);
    printf(",\n");
}

/* Integers of 1 to 8 bytes, little-endian, as every OpenCL host that clmla runs on. */
static void print_device_number(cl_device_id device, const char *key, cl_device_info what)
{
    uint64_t value = 0;
    if (clGetDeviceInfo(device, what, sizeof value, &value, NULL) != CL_SUCCESS)
        printf("  \"%s\": null,\n", key);
    else
        printf("  \"%s\": %llu,\n", key, (unsigned long long)value);
}

static void print_facts(const struct probe *probe)
{
    /* cl_nv_device_attribute_query */
    enum { NV_MAJOR = 0x4000, NV_MINOR = 0x4001, NV_REGISTERS = 0x4002, NV_WARP = 0x4003 };
    static const struct {
        const char *key;
        cl_device_info what;
    } texts[] = {{"name", CL_DEVICE_NAME},       {"vendor", CL_DEVICE_VENDOR},
                 {"version", CL_DEVICE_VERSION}, {"c_version", CL_DEVICE_OPENCL_C_VERSION},
                 {"driver", CL_DRIVER_VERSION},  {"extensions", CL_DEVICE_EXTENSIONS}},
      numbers[] = {{"compute_units", CL_DEVICE_MAX_COMPUTE_UNITS},
                   {"clock_mhz", CL_DEVICE_MAX_CLOCK_FREQUENCY},
                   {"global_memory_bytes", CL_DEVICE_GLOBAL_MEM_SIZE},
                   {"max_allocation_bytes", CL_DEVICE_MAX_MEM_ALLOC_SIZE},
                   {"cache_bytes", CL_DEVICE_GLOBAL_MEM_CACHE_SIZE},
                   {"local_memory_bytes", CL_DEVICE_LOCAL_MEM_SIZE},
                   {"max_work_group_size", CL_DEVICE_MAX_WORK_GROUP_SIZE},
                   {"max_parameter_bytes", CL_DEVICE_MAX_PARAMETER_SIZE},
                   {"base_address_align_bits", CL_DEVICE_MEM_BASE_ADDR_ALIGN},
                   {"timer_resolution_ns", CL_DEVICE_PROFILING_TIMER_RESOLUTION},
                   {"queue_properties", CL_DEVICE_QUEUE_PROPERTIES},
                   {"nv_compute_capability_major", NV_MAJOR},
                   {"nv_compute_capability_minor", NV_MINOR},
                   {"nv_registers_per_block", NV_REGISTERS},
                   {"nv_warp_size", NV_WARP}};

    char text[1024] = "";
    printf("{\n  \"platform_index\": %d,\n  \"device_index\": %d,\n", probe->platform_index,
           probe->device_index);
    clGetPlatformInfo(probe->platform, CL_PLATFORM_NAME, sizeof text, text, NULL);
    printf("  \"platform\": ");
    print_json_string(text);
    text[0] = '\0';
    clGetPlatformInfo(probe->platform, CL_PLATFORM_VERSION, sizeof text, text, NULL);
    printf(",\n  \"platform_version\": ");
    print_json_string(text);
    printf(",\n  \"type\": \"%s\",\n", probe->type & CL_DEVICE_TYPE_GPU           ? "gpu"
                                       : probe->type & CL_DEVICE_TYPE_CPU         ? "cpu"
                                       : probe->type & CL_DEVICE_TYPE_ACCELERATOR ? "accelerator"
                                                                                  : "other");
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        print_device_text(probe->device, texts[i].key, texts[i].what);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        print_device_number(probe->device, numbers[i].key, numbers[i].what);
}

/* ---- launch cost ---- */

struct launch_cost {
    int chain;
    double enqueue_us, set_args_us, dependent_us, round_trip_us;
};

/* One chain of launches from an idle queue: host time of the enqueues, time until all are done. */
static bool run_chain(struct probe *probe, cl_mem counter, int launches, bool set_args,
                      double *enqueue_s, double *total_s)
{
    const size_t one = 1;
    cl_int status = clFinish(probe->queue);
    const double start = now_s();
    for (int i = 0; i < launches && status == CL_SUCCESS; i++) {
        if (set_args)
            status = clSetKernelArg(probe->add_one, 0, sizeof counter, &counter);
        if (status == CL_SUCCESS)
            status = clEnqueueNDRangeKernel(probe->queue, probe->add_one, 1, NULL, &one, &one, 0,
                                            NULL, NULL);
    }
    *enqueue_s = now_s() - start;
    if (status == CL_SUCCESS)
        status = clFinish(probe->queue);
    *total_s = now_s() - start;
    return status == CL_SUCCESS || fail("launch", status);
}

static bool measure_launches(struct probe *probe, int rounds, struct launch_cost *cost)
{
    double enqueue[MAX_ROUNDS], set_args[MAX_ROUNDS], dependent[MAX_ROUNDS], trip[MAX_ROUNDS];
    double unused;
    double total;
    uint32_t value = 0;
    uint32_t expected = 0;
    cl_int status;
    cl_mem counter = clCreateBuffer(probe->context, CL_MEM_READ_WRITE | CL_MEM_COPY_HOST_PTR,
                                    sizeof value, &value, &status);
    if (status != CL_SUCCESS)
        return fail("counter", status);
    bool ok = clSetKernelArg(probe->add_one, 0, sizeof counter, &counter) == CL_SUCCESS;
    for (int i = -1; ok && i < rounds; i++) { /* round -1 warms up */
        const int r = i < 0 ? 0 : i;
        ok = run_chain(probe, counter, cost->chain, false, &enqueue[r], &total) &&
             run_chain(probe, counter, cost->chain, true, &set_args[r], &unused) &&
             run_chain(probe, counter, 1, false, &unused, &trip[r]);
        dependent[r] = (total - trip[r]) / (cost->chain - 1);
        enqueue[r] /= cost->chain;
        set_args[r] /= cost->chain;
        expected += (uint32_t)(2 * cost->chain + 1);
    }
    if (ok) {
        status = clEnqueueReadBuffer(probe->queue, counter, CL_TRUE, 0, sizeof value, &value, 0,
                                     NULL, NULL);
        ok = status == CL_SUCCESS || fail("read counter", status);
    }
    if (ok && value != expected) {
        fprintf(stderr, "device_probe: the counter is %u, should be %u\n", value, expected);
        ok = false;
    }
    if (ok) {
        cost->enqueue_us = 1e6 * median(enqueue, (size_t)rounds);
        cost->set_args_us = 1e6 * median(set_args, (size_t)rounds);
        cost->dependent_us = 1e6 * median(dependent, (size_t)rounds);
        cost->round_trip_us = 1e6 * median(trip, (size_t)rounds);
    }
    clReleaseMemObject(counter);
    return ok;
}

/* ---- bandwidth ---- */

struct bandwidth {
    uint64_t bytes; /* of one buffer */
    int rounds;
    double read, copy, copy_buffer; /* GB/s */
};

struct buffers {
    cl_mem from, to, sums;
    cl_ulong count; /* elements of vector_bytes */
    cl_ulong words; /* of 4 bytes */
    size_t vector_bytes;
    size_t items, group; /* work-items of every kernel and of a work-group */
};

static bool launch(struct probe *probe, const struct buffers *buffers, cl_kernel kernel)
{
    cl_int status = clEnqueueNDRangeKernel(probe->queue, kernel, 1, NULL, &buffers->items,
                                           &buffers->group, 0, NULL, NULL);
    return status == CL_SUCCESS || fail("enqueue", status);
}

/* Sum of all words of a buffer, by the device. */
static bool sum_buffer(struct probe *probe, const struct buffers *buffers, cl_mem data,
                       uint32_t *sum)
{
    const size_t bytes = buffers->items * buffers->vector_bytes;
    uint32_t *sums = malloc(bytes);
    cl_int status = sums == NULL ? CL_OUT_OF_HOST_MEMORY : CL_SUCCESS;
    if (status == CL_SUCCESS)
        status = clSetKernelArg(probe->read, 0, sizeof data, &data);
    if (status == CL_SUCCESS && !launch(probe, buffers, probe->read))
        status = CL_INVALID_OPERATION;
    if (status == CL_SUCCESS)
        status = clEnqueueReadBuffer(probe->queue, buffers->sums, CL_TRUE, 0, bytes, sums, 0, NULL,
                                     NULL);
    *sum = 0;
    for (size_t i = 0; status == CL_SUCCESS && i < bytes / sizeof sums[0]; i++)
        *sum += sums[i];
    free(sums);
    return status == CL_SUCCESS || fail("sum", status);
}

static bool set_bandwidth_args(struct probe *probe, const struct buffers *b)
{
    cl_int status = clSetKernelArg(probe->fill, 0, sizeof b->from, &b->from);
    status |= clSetKernelArg(probe->fill, 1, sizeof b->words, &b->words);
    status |= clSetKernelArg(probe->read, 0, sizeof b->from, &b->from);
    status |= clSetKernelArg(probe->read, 1, sizeof b->count, &b->count);
    status |= clSetKernelArg(probe->read, 2, sizeof b->sums, &b->sums);
    status |= clSetKernelArg(probe->copy, 0, sizeof b->from, &b->from);
    status |= clSetKernelArg(probe->copy, 1, sizeof b->to, &b->to);
    status |= clSetKernelArg(probe->copy, 2, sizeof b->count, &b->count);
    return status == CL_SUCCESS || fail("set arguments", status);
}

/* Times read, copy and clEnqueueCopyBuffer in turn. The first round of each warms up. */
static bool time_transfers(struct probe *probe, const struct buffers *b, struct bandwidth *out)
{
    double read[MAX_ROUNDS], copy[MAX_ROUNDS], copy_buffer[MAX_ROUNDS];
    for (int i = -1; i < out->rounds; i++) {
        const int r = i < 0 ? 0 : i;
        const double start = now_s();
        if (!launch(probe, b, probe->read) || clFinish(probe->queue) != CL_SUCCESS)
            return false;
        const double after_read = now_s();
        if (!launch(probe, b, probe->copy) || clFinish(probe->queue) != CL_SUCCESS)
            return false;
        const double after_copy = now_s();
        cl_int status =
            clEnqueueCopyBuffer(probe->queue, b->from, b->to, 0, 0, out->bytes, 0, NULL, NULL);
        if (status != CL_SUCCESS || clFinish(probe->queue) != CL_SUCCESS)
            return fail("copy buffer", status);
        read[r] = after_read - start;
        copy[r] = after_copy - after_read;
        copy_buffer[r] = now_s() - after_copy;
    }
    const double gb = 1e-9 * (double)out->bytes;
    out->read = gb / median(read, (size_t)out->rounds);
    out->copy = 2 * gb / median(copy, (size_t)out->rounds);
    out->copy_buffer = 2 * gb / median(copy_buffer, (size_t)out->rounds);
    return true;
}

static bool measure_bandwidth(struct probe *probe, struct bandwidth *out)
{
    const bool is_cpu = (probe->type & CL_DEVICE_TYPE_CPU) != 0;
    struct buffers b = {.words = out->bytes / 4,
                        .vector_bytes = is_cpu ? CPU_VECTOR_BYTES : GPU_VECTOR_BYTES,
                        .items = is_cpu ? CPU_WORK_ITEMS : GPU_WORK_ITEMS,
                        .group = is_cpu ? 1 : GPU_WORK_GROUP};
    b.count = out->bytes / b.vector_bytes;
    uint32_t expected = 0;
    uint32_t sum_from = 0;
    uint32_t sum_to = 0;
    cl_int status[3];
    for (uint64_t word = 0; word < b.words; word++)
        expected += scramble((uint32_t)word);
    b.from = clCreateBuffer(probe->context, CL_MEM_READ_WRITE, out->bytes, NULL, &status[0]);
    b.to = clCreateBuffer(probe->context, CL_MEM_READ_WRITE, out->bytes, NULL, &status[1]);
    b.sums = clCreateBuffer(probe->context, CL_MEM_READ_WRITE, b.items * b.vector_bytes, NULL,
                            &status[2]);
    bool ok = b.from != NULL && b.to != NULL && b.sums != NULL;
    if (!ok)
        fail("buffers", status[0] ? status[0] : status[1] ? status[1] : status[2]);
    ok = ok && set_bandwidth_args(probe, &b) && launch(probe, &b, probe->fill) &&
         time_transfers(probe, &b, out) && launch(probe, &b, probe->copy) &&
         sum_buffer(probe, &b, b.from, &sum_from) && sum_buffer(probe, &b, b.to, &sum_to);
    if (ok && (sum_from != expected || sum_to != expected)) {
        fprintf(stderr, "device_probe: sums are %u and %u, should be %u\n", sum_from, sum_to,
                expected);
        ok = false;
    }
    if (b.from != NULL)
        clReleaseMemObject(b.from);
    if (b.to != NULL)
        clReleaseMemObject(b.to);
    if (b.sums != NULL)
        clReleaseMemObject(b.sums);
    return ok;
}

/* A GPU has gigabytes and caches of 50 MB; a CPU's runs stay short. */
static uint64_t choose_bytes(const struct probe *probe)
{
    uint64_t bytes = (probe->type & CL_DEVICE_TYPE_CPU) ? UINT64_C(256) << 20 : UINT64_C(2) << 30;
    cl_ulong limit = 0;
    cl_ulong memory = 0;
    clGetDeviceInfo(probe->device, CL_DEVICE_MAX_MEM_ALLOC_SIZE, sizeof limit, &limit, NULL);
    clGetDeviceInfo(probe->device, CL_DEVICE_GLOBAL_MEM_SIZE, sizeof memory, &memory, NULL);
    while (bytes > 1 << 20 && (bytes > limit || bytes > memory / 8))
        bytes /= 2;
    return bytes;
}

/* ---- set up ---- */

/* platform_index < 0: the first GPU, else the first device. */
static bool choose_device(struct probe *probe, int platform_index, int device_index)
{
    const cl_device_type wanted[] = {CL_DEVICE_TYPE_GPU, CL_DEVICE_TYPE_ALL};
    cl_platform_id platforms[32];
    cl_device_id devices[32];
    cl_uint num_platforms = 0;
    clGetPlatformIDs(32, platforms, &num_platforms);
    for (size_t w = platform_index >= 0 ? 1 : 0; w < 2; w++) {
        for (int p = 0; p < (int)num_platforms && p < 32; p++) {
            cl_uint num_devices = 0;
            if (platform_index >= 0 && p != platform_index)
                continue;
            clGetDeviceIDs(platforms[p], CL_DEVICE_TYPE_ALL, 32, devices, &num_devices);
            for (int d = 0; d < (int)num_devices && d < 32; d++) {
                cl_device_type type = 0;
                clGetDeviceInfo(devices[d], CL_DEVICE_TYPE, sizeof type, &type, NULL);
                if ((platform_index >= 0 && d != device_index) || (type & wanted[w]) == 0)
                    continue;
                probe->platform = platforms[p];
                probe->device = devices[d];
                probe->type = type;
                probe->platform_index = p;
                probe->device_index = d;
                return true;
            }
        }
    }
    fprintf(stderr, "device_probe: no such OpenCL device\n");
    return false;
}

static bool set_up(struct probe *probe)
{
    const char *text = source;
    cl_int status;
    probe->context = clCreateContext(NULL, 1, &probe->device, NULL, NULL, &status);
    if (status != CL_SUCCESS)
        return fail("context", status);
    probe->queue = clCreateCommandQueue(probe->context, probe->device, 0, &status);
    if (status != CL_SUCCESS)
        return fail("queue", status);
    probe->program = clCreateProgramWithSource(probe->context, 1, &text, NULL, &status);
    if (status == CL_SUCCESS)
        status = clBuildProgram(probe->program, 1, &probe->device,
                                probe->type & CL_DEVICE_TYPE_CPU ? "-DCHUNKS" : "", NULL, NULL);
    if (status != CL_SUCCESS)
        return fail("build", status);
    const char *const names[] = {"add_one", "fill", "read", "copy"};
    cl_kernel *const kernels[] = {&probe->add_one, &probe->fill, &probe->read, &probe->copy};
    for (size_t i = 0; i < 4; i++) {
        *kernels[i] = clCreateKernel(probe->program, names[i], &status);
        if (status != CL_SUCCESS)
            return fail(names[i], status);
    }
    return true;
}

int main(int argc, char **argv)
{
    struct probe probe = {0};
    if (argc != 1 && argc != 3) {
        fprintf(stderr, "usage: device_probe [PLATFORM DEVICE]\n");
        return 2;
    }
    const int platform = argc == 3 ? atoi(argv[1]) : -1;
    const int device = argc == 3 ? atoi(argv[2]) : 0;
    if (!choose_device(&probe, platform, device) || !set_up(&probe))
        return EXIT_FAILURE;

    const bool is_cpu = (probe.type & CL_DEVICE_TYPE_CPU) != 0;
    const int rounds = is_cpu ? 5 : 21;
    struct launch_cost cost = {.chain = is_cpu ? 200 : 1000};
    struct bandwidth bandwidth = {.bytes = choose_bytes(&probe), .rounds = rounds};
    if (!measure_launches(&probe, rounds, &cost) || !measure_bandwidth(&probe, &bandwidth))
        return EXIT_FAILURE;

    print_facts(&probe);
    printf("  \"rounds\": %d,\n  \"launch\": {\"chain\": %d, \"enqueue_us\": %.3f, "
           "\"set_args_us\": %.3f, \"dependent_us\": %.3f, \"round_trip_us\": %.3f},\n",
           rounds, cost.chain, cost.enqueue_us, cost.set_args_us, cost.dependent_us,
           cost.round_trip_us);
    printf("  \"bandwidth\": {\"buffer_bytes\": %llu, \"read_gb_per_s\": %.2f, "
           "\"copy_gb_per_s\": %.2f, \"copy_buffer_gb_per_s\": %.2f}\n}\n",
           (unsigned long long)bandwidth.bytes, bandwidth.read, bandwidth.copy,
           bandwidth.copy_buffer);
    clReleaseKernel(probe.add_one);
    clReleaseKernel(probe.fill);
    clReleaseKernel(probe.read);
    clReleaseKernel(probe.copy);
    clReleaseProgram(probe.program);
    clReleaseCommandQueue(probe.queue);
    clReleaseContext(probe.context);
    return EXIT_SUCCESS;
}
