/*
 * libcuda.so.1 for tests: reads the parameters of kernels from their PTX and holds every launch
 * against them. Memory is the host's.
 *
 *   MOCK_CUDA_LOG      a line for every launch and for what was wrong with it
 *   MOCK_CUDA_SOURCES  folder of the programs in OpenCL C, to run them; without it nothing is
 *                      computed, so that whoever checks results must find them wrong
 */
#define _POSIX_C_SOURCE 200809L
#include "mock_cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    INVALID_PTX = 218,
    NOT_FOUND = 500,
    LAUNCH_FAILED = 719,
    MAX_ALLOCATIONS = 64,
    MAX_FUNCTIONS = 64,
    MAX_MODULES = 64,
    ALIGNMENT = 256
};

static mock_allocation allocations[MAX_ALLOCATIONS];
static mock_function functions[MAX_FUNCTIONS];
static int num_functions;
static char *modules[MAX_MODULES]; /* their PTX */
static int num_modules;

static void note(const char *what, const char *kernel, const char *why)
{
    const char *path = getenv("MOCK_CUDA_LOG");
    FILE *file = path != NULL ? fopen(path, "a") : NULL;
    if (file != NULL) {
        (void)fprintf(file, "%s %s %s\n", what, kernel, why);
        (void)fclose(file);
    }
}

static int bad(const char *kernel, const char *why, int result)
{
    note("BAD", kernel, why);
    return result;
}

/* ---- device --------------------------------------------------------------------------------- */

int cuInit(unsigned flags);
int cuInit(unsigned flags) { return flags == 0 ? SUCCESS : INVALID_VALUE; }

int cuGetErrorString(int result, const char **text);
int cuGetErrorString(int result, const char **text)
{
    *text = "from the mock";
    return result == SUCCESS ? INVALID_VALUE : SUCCESS;
}

int cuDriverGetVersion(int *version);
int cuDriverGetVersion(int *version)
{
    *version = 12040;
    return SUCCESS;
}

int cuDeviceGet(int *device, int ordinal);
int cuDeviceGet(int *device, int ordinal)
{
    *device = ordinal;
    return SUCCESS;
}

int cuDeviceGetName(char *name, int bytes, int device);
int cuDeviceGetName(char *name, int bytes, int device)
{
    (void)snprintf(name, (size_t)bytes, "mock %d", device);
    return SUCCESS;
}

/* Every attribute, the number of multiprocessors among them. */
int cuDeviceGetAttribute(int *value, int attribute, int device);
int cuDeviceGetAttribute(int *value, int attribute, int device)
{
    *value = 2;
    return attribute > 0 && device == 0 ? SUCCESS : INVALID_VALUE;
}

int cuDevicePrimaryCtxRetain(void **context, int device);
int cuDevicePrimaryCtxRetain(void **context, int device)
{
    *context = functions;
    return device == 0 ? SUCCESS : INVALID_VALUE;
}

int cuDevicePrimaryCtxRelease_v2(int device);
int cuDevicePrimaryCtxRelease_v2(int device)
{
    while (num_modules > 0)
        free(modules[--num_modules]);
    return device == 0 ? SUCCESS : INVALID_VALUE;
}

int cuCtxSetCurrent(void *context);
int cuCtxSetCurrent(void *context) { return context == functions ? SUCCESS : INVALID_VALUE; }

int cuCtxSynchronize(void);
int cuCtxSynchronize(void) { return SUCCESS; }

/* ---- memory --------------------------------------------------------------------------------- */

mock_allocation *mock_find(uint64_t address)
{
    for (int i = 0; i < MAX_ALLOCATIONS; i++)
        if (allocations[i].data != NULL && (uint64_t)(uintptr_t)allocations[i].data == address)
            return &allocations[i];
    return NULL;
}

/* The bytes from there, where they lie within an allocation. */
static unsigned char *inside(uint64_t address, size_t bytes)
{
    for (int i = 0; i < MAX_ALLOCATIONS; i++) {
        const uint64_t begin = (uint64_t)(uintptr_t)allocations[i].data;
        if (allocations[i].data != NULL && address >= begin &&
            address + bytes <= begin + allocations[i].bytes)
            return allocations[i].data + (address - begin);
    }
    note("BAD", "memory", "an access outside");
    return NULL;
}

int cuMemGetInfo_v2(size_t *free_bytes, size_t *total_bytes);
int cuMemGetInfo_v2(size_t *free_bytes, size_t *total_bytes)
{
    *free_bytes = *total_bytes = (size_t)1 << 30;
    return SUCCESS;
}

int cuMemAlloc_v2(uint64_t *address, size_t bytes);
int cuMemAlloc_v2(uint64_t *address, size_t bytes)
{
    for (int i = 0; i < MAX_ALLOCATIONS && bytes > 0; i++) {
        if (allocations[i].data != NULL)
            continue;
        void *data = NULL;
        if (posix_memalign(&data, ALIGNMENT, bytes) != 0)
            break;
        allocations[i] = (mock_allocation){.data = data, .bytes = bytes};
        *address = (uint64_t)(uintptr_t)data;
        return SUCCESS;
    }
    return INVALID_VALUE;
}

int cuMemFree_v2(uint64_t address);
int cuMemFree_v2(uint64_t address)
{
    mock_allocation *found = mock_find(address);
    if (found == NULL)
        return bad("memory", "freed and not allocated", INVALID_VALUE);
    mock_forget(found);
    free(found->data);
    *found = (mock_allocation){.bytes = 0};
    return SUCCESS;
}

int cuMemsetD8_v2(uint64_t to, unsigned char value, size_t bytes);
int cuMemsetD8_v2(uint64_t to, unsigned char value, size_t bytes)
{
    unsigned char *data = inside(to, bytes);
    if (data != NULL)
        memset(data, value, bytes);
    return data != NULL ? SUCCESS : INVALID_VALUE;
}

int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t bytes);
int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t bytes)
{
    unsigned char *data = inside(to, bytes);
    if (data != NULL)
        memcpy(data, from, bytes);
    return data != NULL ? SUCCESS : INVALID_VALUE;
}

int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t bytes);
int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t bytes)
{
    const unsigned char *data = inside(from, bytes);
    if (data != NULL)
        memcpy(to, data, bytes);
    return data != NULL ? SUCCESS : INVALID_VALUE;
}

int cuMemcpyDtoD_v2(uint64_t to, uint64_t from, size_t bytes);
int cuMemcpyDtoD_v2(uint64_t to, uint64_t from, size_t bytes)
{
    unsigned char *data = inside(to, bytes);
    const unsigned char *source = inside(from, bytes);
    if (data != NULL && source != NULL)
        memcpy(data, source, bytes);
    return data != NULL && source != NULL ? SUCCESS : INVALID_VALUE;
}

/* ---- kernels -------------------------------------------------------------------------------- */

/* A module is a copy of its PTX; nobody unloads one before the end. */
int cuModuleLoadDataEx(void **module, const void *image, unsigned num_options, int *options,
                       void **values);
int cuModuleLoadDataEx(void **module, const void *image, unsigned num_options, int *options,
                       void **values)
{
    const char *text = image;
    (void)num_options;
    (void)options;
    (void)values;
    if (strncmp(text, "// clmla ", 9) != 0 || strstr(text, "\n.version ") == NULL ||
        strstr(text, "\n.target sm_80\n") == NULL || strstr(text, "texmode") != NULL)
        return bad("module", "PTX that is not build_ptx.sh's", INVALID_PTX);
    char *copy = num_modules < MAX_MODULES ? strdup(text) : NULL;
    if (copy == NULL)
        return INVALID_VALUE;
    modules[num_modules++] = copy;
    *module = copy;
    return SUCCESS;
}

/* "	.param .u64 .ptr .global .align 4 name_param_0,": false for types that are not known. */
static bool parse_parameter(const char *line, mock_parameter *out)
{
    static const struct {
        const char *type;
        size_t bytes;
    } types[] = {{".u64", 8}, {".s64", 8}, {".u32", 4}, {".s32", 4}, {".f32", 4}, {".b64", 8}};
    const char *type = line + strlen(".param ");
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
        if (strncmp(type, types[i].type, 4) == 0) {
            out->bytes = types[i].bytes;
            out->is_pointer = strncmp(type + 4, " .ptr .global ", 14) == 0;
            return true;
        }
    return false;
}

/* The head of the entry, behind its opening bracket. */
static bool parse_entry(const char *head, mock_function *out)
{
    const char *body = strchr(head, '{');
    const char *at = head;
    while ((at = strstr(at, ".param ")) != NULL && at < body) {
        if (out->num_parameters == MOCK_MAX_PARAMETERS ||
            !parse_parameter(at, &out->parameters[out->num_parameters++]))
            return false;
        at++;
    }
    const char *size = strstr(head, ".reqntid ");
    if (size != NULL && size < body)
        return sscanf(size, ".reqntid %u, %u, %u", &out->required[0], &out->required[1],
                      &out->required[2]) == 3;
    return body != NULL;
}

int cuModuleGetFunction(void **function, void *module, const char *name);
int cuModuleGetFunction(void **function, void *module, const char *name)
{
    char entry[2 * MOCK_WORD];
    if (num_functions == MAX_FUNCTIONS)
        return INVALID_VALUE;
    mock_function *out = &functions[num_functions];
    *out = (mock_function){.num_parameters = 0};
    (void)snprintf(entry, sizeof(entry), "\n.visible .entry %s(", name);
    const char *found = strstr(module, entry);
    if (found == NULL)
        return bad(name, "is not in its module", NOT_FOUND);
    (void)sscanf(module, "// clmla %63s", out->program);
    (void)snprintf(out->name, sizeof(out->name), "%s", name);
    if (!parse_entry(found + strlen(entry), out))
        return bad(name, "has parameters that the mock does not know", INVALID_PTX);
    *function = out;
    num_functions++;
    return SUCCESS;
}

int cuFuncGetAttribute(int *value, int attribute, void *function);
int cuFuncGetAttribute(int *value, int attribute, void *function)
{
    *value = attribute;
    return function != NULL ? SUCCESS : INVALID_VALUE;
}

/* What is wrong with a launch, or NULL. */
static const char *check_launch(const mock_function *function, const unsigned *grid,
                                const unsigned *block, void **arguments)
{
    for (int i = 0; i < 3; i++) {
        if (grid[i] < 1 || block[i] < 1 || (i > 0 && grid[i] > 65535))
            return "the grid is not a grid";
        if (function->required[0] > 0 && block[i] != function->required[i])
            return "the work-group is not .reqntid's";
    }
    for (int i = 0; i < function->num_parameters; i++) {
        uint64_t value = 0;
        if (arguments[i] == NULL)
            return "an argument is missing";
        memcpy(&value, arguments[i], function->parameters[i].bytes);
        if (function->parameters[i].is_pointer && mock_find(value) == NULL)
            return "a pointer that was not allocated";
        if (!function->parameters[i].is_pointer && function->parameters[i].bytes == 8 &&
            value > (uint64_t)1 << 32)
            return "an offset or a stride that is none";
    }
    return NULL;
}

int cuLaunchKernel(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                   unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
                   void *stream, void **arguments, void **extra);
int cuLaunchKernel(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                   unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
                   void *stream, void **arguments, void **extra)
{
    const mock_function *f = function;
    const unsigned grid[] = {grid_x, grid_y, grid_z}, block[] = {block_x, block_y, block_z};
    const char *folder = getenv("MOCK_CUDA_SOURCES");
    const char *why = shared_bytes == 0 && stream == NULL && extra == NULL
                          ? check_launch(f, grid, block, arguments)
                          : "more than the harness should ask for";
    if (why == NULL && folder != NULL)
        why = mock_run(folder, f, grid, block, arguments);
    if (why != NULL)
        return bad(f->name, why, LAUNCH_FAILED);
    note("launch", f->name, f->program);
    return SUCCESS;
}

/* ---- events --------------------------------------------------------------------------------- */

int cuEventCreate(void **event, unsigned flags);
int cuEventCreate(void **event, unsigned flags)
{
    static struct timespec events[4];
    static int num_events;
    if (flags != 0 || num_events == 4)
        return INVALID_VALUE;
    *event = &events[num_events++];
    return SUCCESS;
}

int cuEventRecord(void *event, void *stream);
int cuEventRecord(void *event, void *stream)
{
    return stream == NULL && clock_gettime(CLOCK_MONOTONIC, event) == 0 ? SUCCESS : INVALID_VALUE;
}

int cuEventSynchronize(void *event);
int cuEventSynchronize(void *event) { return event != NULL ? SUCCESS : INVALID_VALUE; }

int cuEventElapsedTime(float *ms, void *start, void *end);
int cuEventElapsedTime(float *ms, void *start, void *end)
{
    const struct timespec *a = start, *b = end;
    *ms = (float)(b->tv_sec - a->tv_sec) * 1e3f + (float)(b->tv_nsec - a->tv_nsec) * 1e-6f;
    return SUCCESS;
}
