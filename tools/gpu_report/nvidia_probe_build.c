/*
 * Parts that ask what the driver's compiler takes: facts, the PTX that it makes, local memory beyond
 * what is reported, sm_90a by a build option, and PTX changed by hand.
 *
 * The kernel of most parts fills local memory with words that depend on place and work-group, then
 * sums what other work-items wrote, weighted by place, modulo 2^32.
 */
#define _POSIX_C_SOURCE 200809L
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "nvidia_probe.h"

enum {
    WORK_GROUP = 256,
    WORDS_OF_KIB = 256,
    GROUPS_PER_UNIT = 2,
    PTX_KIB = 16,
    GROWN_KIB = 128,
    TEXT_BYTES = 400
};

/* WORDS of static local memory, or, without, an argument. MARKER: replaced in PTX. */
static const char source[] =
    "#ifdef WORDS\n"
    "#define LOCAL_ARGUMENT\n"
    "#define LOCAL_ARRAY __local uint data[WORDS];\n"
    "#else\n"
    "#define LOCAL_ARGUMENT , __local uint *data\n"
    "#define LOCAL_ARRAY\n"
    "#endif\n"
    "#ifdef WGMMA\n"
    "#define MIDDLE __asm__ volatile(\"wgmma.fence.sync.aligned;\" : : : \"memory\");\n"
    "#elif defined(MARKER)\n"
    "#define MIDDLE __asm__ volatile(\"// probe_marker\" : : : \"memory\");\n"
    "#else\n"
    "#define MIDDLE\n"
    "#endif\n"
    "__kernel __attribute__((reqd_work_group_size(256, 1, 1)))\n"
    "void exchange(__global uint *sums, const uint words LOCAL_ARGUMENT)\n"
    "{\n"
    "    LOCAL_ARRAY\n"
    "    const uint item = (uint)get_local_id(0), group = (uint)get_group_id(0);\n"
    "    uint sum = 0;\n"
    "    for (uint i = item; i < words; i += 256)\n"
    "        data[i] = (i + 1) * 2654435761u + group * 40503u;\n"
    "    barrier(CLK_LOCAL_MEM_FENCE);\n"
    "    MIDDLE\n"
    "    for (uint i = item; i < words; i += 256)\n"
    "        sum += data[words - 1 - i] * (i | 1);\n"
    "    sums[get_global_id(0)] = sum;\n"
    "}\n";

static const char *const sources[] = {source};

/* ---- facts ---- */

bool part_facts(probe *p, int value, json *out)
{
    static const struct {
        const char *key;
        cl_device_info what;
    } facts[] = {{"compute_capability_major", 0x4000},
                 {"compute_capability_minor", 0x4001},
                 {"registers_per_block", 0x4002},
                 {"warp_size", 0x4003},
                 {"gpu_overlap", 0x4004},
                 {"kernel_exec_timeout", 0x4005},
                 {"integrated_memory", 0x4006},
                 {"async_engine_count", 0x4007},
                 {"compute_units", CL_DEVICE_MAX_COMPUTE_UNITS},
                 {"max_work_group_size", CL_DEVICE_MAX_WORK_GROUP_SIZE},
                 {"local_mem_bytes", CL_DEVICE_LOCAL_MEM_SIZE},
                 {"constant_buffer_bytes", CL_DEVICE_MAX_CONSTANT_BUFFER_SIZE},
                 {"global_cache_bytes", CL_DEVICE_GLOBAL_MEM_CACHE_SIZE},
                 {"global_cache_line_bytes", CL_DEVICE_GLOBAL_MEM_CACHELINE_SIZE},
                 {"max_alloc_bytes", CL_DEVICE_MAX_MEM_ALLOC_SIZE},
                 {"global_mem_bytes", CL_DEVICE_GLOBAL_MEM_SIZE}};
    char text[TEXT_BYTES] = "";
    cl_ulong alloc = 0, memory = 0;
    (void)value;
    for (size_t i = 0; i < sizeof(facts) / sizeof(facts[0]); i++) {
        uint64_t number = 0; /* of 1 to 8 bytes, little-endian */
        if (clGetDeviceInfo(p->device, facts[i].what, sizeof(number), &number, NULL) == CL_SUCCESS)
            json_integer(out, facts[i].key, (long long)number);
    }
    (void)clGetDeviceInfo(p->device, CL_DEVICE_MAX_MEM_ALLOC_SIZE, sizeof(alloc), &alloc, NULL);
    (void)clGetDeviceInfo(p->device, CL_DEVICE_GLOBAL_MEM_SIZE, sizeof(memory), &memory, NULL);
    json_number(out, "max_alloc_share", (double)alloc / (double)memory);
    if (clGetDeviceInfo(p->device, CL_DRIVER_VERSION, sizeof(text), text, NULL) == CL_SUCCESS)
        json_string(out, "driver", text);
    return true;
}

/* ---- running the kernel ---- */

static uint32_t expected_sum(uint32_t group, uint32_t item, uint32_t words)
{
    uint32_t sum = 0;
    for (uint32_t i = item; i < words; i += WORK_GROUP)
        sum += ((words - i) * UINT32_C(2654435761) + group * UINT32_C(40503)) * (i | 1);
    return sum;
}

/* Runs with an argument of local_bytes, if not 0, and compares every sum. */
static bool run_kernel(probe *p, cl_kernel kernel, cl_mem sums, uint32_t *host, uint32_t words,
                       size_t local_bytes)
{
    const size_t group = WORK_GROUP, items = GROUPS_PER_UNIT * p->compute_units * group;
    cl_int status = clSetKernelArg(kernel, 0, sizeof(sums), &sums);
    if (status == CL_SUCCESS)
        status = clSetKernelArg(kernel, 1, sizeof(words), &words);
    if (status == CL_SUCCESS && local_bytes > 0)
        status = clSetKernelArg(kernel, 2, local_bytes, NULL);
    if (!probe_check(p, "clSetKernelArg", status))
        return false;
    status = clEnqueueNDRangeKernel(p->queue, kernel, 1, NULL, &items, &group, 0, NULL, NULL);
    if (!probe_check(p, "clEnqueueNDRangeKernel", status) ||
        !probe_check(p, "clFinish", clFinish(p->queue)))
        return false;
    status =
        clEnqueueReadBuffer(p->queue, sums, CL_TRUE, 0, items * sizeof(*host), host, 0, NULL, NULL);
    if (!probe_check(p, "clEnqueueReadBuffer", status))
        return false;
    for (size_t i = 0; i < items; i++) {
        const uint32_t right =
            expected_sum((uint32_t)(i / WORK_GROUP), (uint32_t)(i % WORK_GROUP), words);
        if (host[i] != right)
            return probe_fail(p, "wrong: sum %zu of %zu is %u, should be %u", i, items,
                              (unsigned)host[i], (unsigned)right);
    }
    return true;
}

/* Adds "runs": builds were reported before. */
static bool run_program(probe *p, cl_program program, uint32_t words, size_t local_bytes, json *out)
{
    const size_t bytes = GROUPS_PER_UNIT * p->compute_units * WORK_GROUP * sizeof(uint32_t);
    cl_kernel kernel = probe_kernel(p, program, "exchange");
    uint32_t *host = malloc(bytes);
    cl_ulong reported = 0;
    cl_int status = CL_OUT_OF_HOST_MEMORY;
    cl_mem sums =
        host != NULL ? clCreateBuffer(p->context, CL_MEM_READ_WRITE, bytes, NULL, &status) : NULL;
    bool ok = kernel != NULL && probe_check(p, "clCreateBuffer", status) &&
              run_kernel(p, kernel, sums, host, words, local_bytes);
    json_bool(out, "runs_right", ok);
    if (kernel != NULL && clGetKernelWorkGroupInfo(kernel, p->device, CL_KERNEL_LOCAL_MEM_SIZE,
                                                   sizeof(reported), &reported, NULL) == CL_SUCCESS)
        json_integer(out, "kernel_local_mem_bytes", (long long)reported);
    if (sums != NULL)
        (void)clReleaseMemObject(sums);
    free(host);
    probe_release(kernel, NULL);
    return ok;
}

/* ---- local memory ---- */

bool part_static_local(probe *p, int value, json *out)
{
    char options[64];
    const uint32_t words = (uint32_t)value * WORDS_OF_KIB;
    (void)snprintf(options, sizeof(options), "-DWORDS=%u", (unsigned)words);
    cl_program program = probe_build(p, sources, 1, options);
    json_bool(out, "builds", program != NULL);
    const bool ok = program != NULL && run_program(p, program, words, 0, out);
    probe_release(NULL, program);
    return ok;
}

bool part_argument_local(probe *p, int value, json *out)
{
    const uint32_t words = (uint32_t)value * WORDS_OF_KIB;
    cl_program program = probe_build(p, sources, 1, "");
    json_bool(out, "builds", program != NULL);
    const bool ok =
        program != NULL && run_program(p, program, words, words * sizeof(uint32_t), out);
    probe_release(NULL, program);
    return ok;
}

/* ---- PTX ---- */

/* The driver's PTX of the kernel with PTX_KIB of local memory; to be freed. */
static char *driver_ptx(probe *p, const char *more_options)
{
    char options[96];
    size_t bytes = 0;
    (void)snprintf(options, sizeof(options), "-DWORDS=%d%s", PTX_KIB * WORDS_OF_KIB, more_options);
    cl_program program = probe_build(p, sources, 1, options);
    char *ptx = program != NULL ? probe_binary(p, program, &bytes) : NULL;
    probe_release(NULL, program);
    if (ptx != NULL && strstr(ptx, ".target") == NULL) {
        (void)probe_fail(p, "the binary of %zu bytes is no PTX text", bytes);
        free(ptx);
        return NULL;
    }
    return ptx;
}

static void add_ptx_facts(const char *ptx, json *out)
{
    static const struct {
        const char *key, *what;
    } lines[] = {{"version", ".version"}, {"target", ".target"},    {"reqntid", ".reqntid"},
                 {"shared", ".shared"},   {"compiler", "Build ID"}, {"nvvm", "NVVM 7"}};
    char line[TEXT_BYTES];
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
        if (probe_line_with(ptx, lines[i].what, line, sizeof(line)))
            json_string(out, lines[i].key, line);
    json_bool(out, "has_reqntid", strstr(ptx, ".reqntid") != NULL);
}

bool part_ptx(probe *p, int value, json *out)
{
    char *ptx = driver_ptx(p, "");
    (void)value;
    if (ptx == NULL)
        return false;
    add_ptx_facts(ptx, out);
    json_integer(out, "characters", (long long)strlen(ptx));
    free(ptx);
    return true;
}

bool part_verbose_log(probe *p, int value, json *out)
{
    char options[128], line[TEXT_BYTES];
    (void)value;
    /* never seen before, so that the driver's cache of programs does not answer, without a log */
    (void)snprintf(options, sizeof(options), "-cl-nv-verbose -DWORDS=%d -DUNIQUE=%lld%ld",
                   PTX_KIB * WORDS_OF_KIB, (long long)time(NULL), (long)getpid());
    cl_program program = probe_build(p, sources, 1, options);
    if (program == NULL)
        return false;
    char *log = probe_build_log(p, program);
    const bool found = probe_line_with(log, "registers", line, sizeof(line));
    if (found)
        json_string(out, "registers", line);
    if (probe_line_with(log, "spill", line, sizeof(line)))
        json_string(out, "spills", line);
    if (log != NULL)
        json_integer(out, "log_characters", (long long)strlen(log));
    const bool ok = found || probe_fail(p, "no line with registers in the log: %.300s",
                                        log != NULL ? log : "(none)");
    free(log);
    probe_release(NULL, program);
    return ok;
}

/* ---- sm_90a ---- */

/* value 0: "-cl-nv-arch sm_90a"; 1: with '='; 2: as 0, with a wgmma instruction. */
bool part_arch_option(probe *p, int value, json *out)
{
    char options[128], line[TEXT_BYTES];
    size_t bytes = 0;
    if (p->capability != 90)
        return probe_fail(p, "for compute capability 9.0, this is %d", p->capability);
    (void)snprintf(options, sizeof(options), "-cl-nv-arch%ssm_90a -DWORDS=%d%s",
                   value == 1 ? "=" : " ", PTX_KIB * WORDS_OF_KIB, value == 2 ? " -DWGMMA" : "");
    json_string(out, "options", options);
    cl_program program = probe_build(p, sources, 1, options);
    json_bool(out, "builds", program != NULL);
    if (program == NULL)
        return false;
    char *ptx = probe_binary(p, program, &bytes);
    if (ptx != NULL && probe_line_with(ptx, ".target", line, sizeof(line)))
        json_string(out, "target", line);
    free(ptx);
    const bool ok = run_program(p, program, PTX_KIB * WORDS_OF_KIB, 0, out);
    probe_release(NULL, program);
    return ok;
}

/* A copy of text with the first `from` (after `after`, if not NULL) replaced; NULL: not found. */
static char *replaced(const char *text, const char *after, const char *from, const char *to)
{
    const char *begin = after != NULL ? strstr(text, after) : text;
    const char *found = begin != NULL ? strstr(begin, from) : NULL;
    if (found == NULL)
        return NULL;
    const size_t bytes = strlen(text) + strlen(to) + 1;
    char *copy = malloc(bytes);
    if (copy != NULL)
        (void)snprintf(copy, bytes, "%.*s%s%s", (int)(found - text), text, to,
                       found + strlen(from));
    return copy;
}

/* One edit of *text, which is replaced. */
static bool edit(probe *p, char **text, const char *after, const char *from, const char *to)
{
    char *copy = replaced(*text, after, from, to);
    if (copy == NULL)
        return probe_fail(p, "the PTX has no '%s'%s%s", from, after != NULL ? " after " : "",
                          after != NULL ? after : "");
    free(*text);
    *text = copy;
    return true;
}

/* value 0: the target alone; 1: local memory grown to GROWN_KIB; 2: a marker becomes wgmma. */
static bool edit_ptx(probe *p, int value, char **ptx)
{
    char from[32], to[32];
    const char *target = strstr(*ptx, ".target sm_90");
    if (target == NULL || isalnum((unsigned char)target[strlen(".target sm_90")]))
        return probe_fail(p, "the PTX is not for sm_90");
    if (!edit(p, ptx, NULL, ".target sm_90", ".target sm_90a"))
        return false;
    (void)snprintf(from, sizeof(from), "[%d]", PTX_KIB * 1024);
    (void)snprintf(to, sizeof(to), "[%d]", GROWN_KIB * 1024);
    if (value == 1)
        return edit(p, ptx, ".shared", from, to);
    if (value == 2)
        return edit(p, ptx, NULL, "// probe_marker", "wgmma.fence.sync.aligned;");
    return true;
}

bool part_retarget(probe *p, int value, json *out)
{
    char *ptx = driver_ptx(p, value == 2 ? " -DMARKER" : "");
    const int kib = value == 1 ? GROWN_KIB : PTX_KIB;
    cl_program program = NULL;
    char line[TEXT_BYTES];
    if (ptx != NULL && edit_ptx(p, value, &ptx)) {
        if (probe_line_with(ptx, ".target", line, sizeof(line)))
            json_string(out, "target", line);
        if (probe_line_with(ptx, ".shared", line, sizeof(line)))
            json_string(out, "shared", line);
        program = probe_build_binary(p, (const unsigned char *)ptx, strlen(ptx) + 1);
        json_bool(out, "builds", program != NULL);
    }
    free(ptx);
    const bool ok =
        program != NULL && run_program(p, program, (uint32_t)kib * WORDS_OF_KIB, 0, out);
    probe_release(NULL, program);
    return ok;
}
