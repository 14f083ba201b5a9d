#include "cuda_driver.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "report_common.h"

/* CUdevice_attribute, CUfunction_attribute, CUjit_option */
enum {
    DEVICE_CLOCK = 13,
    DEVICE_MULTIPROCESSORS = 16,
    DEVICE_MEMORY_CLOCK = 36,
    DEVICE_BUS_BITS = 37,
    DEVICE_L2_BYTES = 38,
    DEVICE_MAJOR = 75,
    DEVICE_MINOR = 76,
    FUNCTION_SHARED_BYTES = 1,
    FUNCTION_LOCAL_BYTES = 3, /* of a thread, in memory: its stack frame */
    FUNCTION_REGISTERS = 4,
    JIT_ERROR_LOG = 5,
    JIT_ERROR_LOG_BYTES = 6
};

bool cuda_fail(cuda *c, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(c->error, sizeof(c->error), format, arguments);
    va_end(arguments);
    return false;
}

/* True for CUDA_SUCCESS. */
static bool check(cuda *c, const char *what, int result)
{
    const char *text = NULL;
    if (result == 0)
        return true;
    if (c->error_string == NULL || c->error_string(result, &text) != 0 || text == NULL)
        text = "unknown";
    return cuda_fail(c, "%s: CUDA error %d: %s", what, result, text);
}

/* ---- driver ---- */

static bool find_functions(cuda *c)
{
#define CUDA_ENTRY(field, name, parameters) {name, offsetof(cuda, field)},
    static const struct {
        const char *name;
        size_t offset;
    } entries[] = {CUDA_FUNCTIONS(CUDA_ENTRY)};
#undef CUDA_ENTRY
    c->library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (c->library == NULL)
        return cuda_fail(c, "%s", dlerror());
    for (size_t i = 0; i < sizeof(entries) / sizeof(entries[0]); i++) {
        void *entry = dlsym(c->library, entries[i].name);
        if (entry == NULL)
            return cuda_fail(c, "libcuda.so.1 has no %s", entries[i].name);
        /* POSIX lets a pointer to an object be one to a function; ISO C has no conversion */
        memcpy((char *)c + entries[i].offset, &entry, sizeof(entry));
    }
    return true;
}

static bool describe_device(cuda *c)
{
    const struct {
        int attribute;
        int *value;
    } facts[] = {{DEVICE_L2_BYTES, &c->l2_bytes},
                 {DEVICE_CLOCK, &c->clock_khz},
                 {DEVICE_MEMORY_CLOCK, &c->memory_clock_khz},
                 {DEVICE_BUS_BITS, &c->bus_bits}};
    const char *const what = "cuDeviceGetAttribute";
    int major = 0, minor = 0;
    size_t free_bytes = 0, total_bytes = 0;
    for (size_t i = 0; i < sizeof(facts) / sizeof(facts[0]); i++) /* 0 where it has none */
        (void)c->device_attribute(facts[i].value, facts[i].attribute, c->device);
    if (!check(c, what,
               c->device_attribute(&c->multiprocessors, DEVICE_MULTIPROCESSORS, c->device)) ||
        !check(c, what, c->device_attribute(&major, DEVICE_MAJOR, c->device)) ||
        !check(c, what, c->device_attribute(&minor, DEVICE_MINOR, c->device)) ||
        !check(c, "cuDeviceGetName", c->device_name(c->name, (int)sizeof(c->name), c->device)) ||
        !check(c, "cuMemGetInfo", c->memory_info(&free_bytes, &total_bytes)))
        return false;
    c->capability = 10 * major + minor;
    c->memory_bytes = (double)total_bytes;
    return true;
}

bool cuda_open(cuda *c)
{
    cuda_handle context = NULL;
    *c = (cuda){.device = 0};
    return find_functions(c) && check(c, "cuInit", c->init(0)) &&
           check(c, "cuDriverGetVersion", c->driver_version(&c->driver)) &&
           check(c, "cuDeviceGet", c->device_get(&c->device, 0)) &&
           check(c, "cuDevicePrimaryCtxRetain", c->retain_context(&context, c->device)) &&
           check(c, "cuCtxSetCurrent", c->set_context(context)) && describe_device(c) &&
           check(c, "cuEventCreate", c->create_event(&c->start, 0)) &&
           check(c, "cuEventCreate", c->create_event(&c->end, 0));
}

void cuda_close(cuda *c)
{
    (void)c->release_context(c->device); /* with all that was made in it */
    (void)dlclose(c->library);
}

/* ---- memory ---- */

bool cuda_fits(cuda *c, double bytes)
{
    size_t free_bytes = 0, total_bytes = 0;
    return c->memory_info(&free_bytes, &total_bytes) == 0 && bytes < 0.9 * (double)free_bytes;
}

bool cuda_buffer_make(cuda *c, size_t bytes, cuda_buffer *out)
{
    *out = (cuda_buffer){.bytes = bytes};
    return check(c, "cuMemAlloc", c->allocate(&out->address, bytes)) &&
           check(c, "cuMemsetD8", c->set_bytes(out->address, 0xff, bytes));
}

bool cuda_buffer_of(cuda *c, const void *data, size_t bytes, cuda_buffer *out)
{
    return cuda_buffer_make(c, bytes, out) &&
           check(c, "cuMemcpyHtoD", c->copy_in(out->address, data, bytes));
}

bool cuda_buffer_repeat(cuda *c, const void *data, size_t data_bytes, size_t bytes,
                        cuda_buffer *out)
{
    size_t done = data_bytes < bytes ? data_bytes : bytes;
    if (!cuda_buffer_make(c, bytes, out) ||
        !check(c, "cuMemcpyHtoD", c->copy_in(out->address, data, done)))
        return false;
    while (done < bytes) { /* what is there twice, each time */
        const size_t more = done < bytes - done ? done : bytes - done;
        if (!check(c, "cuMemcpyDtoD", c->copy(out->address + done, out->address, more)))
            return false;
        done += more;
    }
    return true;
}

bool cuda_read(cuda *c, const cuda_buffer *buffer, size_t offset, void *to, size_t bytes)
{
    return check(c, "cuMemcpyDtoH", c->copy_out(to, buffer->address + offset, bytes));
}

void cuda_buffer_free(cuda *c, cuda_buffer *buffer)
{
    if (buffer->address != 0)
        (void)c->free(buffer->address);
    *buffer = (cuda_buffer){.bytes = 0};
}

/* ---- kernels ---- */

bool cuda_load_program(cuda *c, const char *text, cuda_handle *module)
{
    char log[512] = "";
    int options[] = {JIT_ERROR_LOG, JIT_ERROR_LOG_BYTES};
    void *values[] = {log, (void *)(uintptr_t)sizeof(log)};
    const int result = c->load_module(module, text, 2, options, values);
    if (check(c, "cuModuleLoadDataEx", result))
        return true;
    const size_t used = strlen(c->error);
    log[sizeof(log) - 1] = '\0';
    (void)snprintf(c->error + used, sizeof(c->error) - used, ": %s", log);
    return false;
}

bool cuda_load_kernel(cuda *c, cuda_handle module, cuda_kernel *kernel)
{
    const struct {
        int attribute;
        int *value;
    } wanted[] = {{FUNCTION_REGISTERS, &kernel->registers},
                  {FUNCTION_SHARED_BYTES, &kernel->local_bytes},
                  {FUNCTION_LOCAL_BYTES, &kernel->stack_bytes}};
    if (!check(c, "cuModuleGetFunction",
               c->get_function(&kernel->function, module, kernel->about->name)))
        return false;
    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++)
        if (!check(c, "cuFuncGetAttribute",
                   c->function_attribute(wanted[i].value, wanted[i].attribute, kernel->function)))
            return false;
    return true;
}

/* ---- arguments ---- */

cuda_launch cuda_launch_of(const cuda_kernel *kernel, unsigned grid_x, unsigned grid_y)
{
    enum { ANY_SIZE = 256 }; /* for kernels without a size of their own */
    const int work_items = kernel->about->work_items;
    return (cuda_launch){.kernel = kernel,
                         .grid = {grid_x, grid_y, 1},
                         .work_items = work_items > 0 ? (unsigned)work_items : ANY_SIZE};
}

/* The argument's index, -1 where the kernel has none of that name. */
static int find_argument(const cuda_launch *launch, const char *name)
{
    const manifest_kernel *about = launch->kernel->about;
    for (int i = 0; i < about->num_arguments; i++)
        if (strcmp(about->arguments[i].name, name) == 0)
            return i;
    return -1;
}

/* The bytes of a value of a type, which the driver takes from where it lies. types: those that suit
 * it, in spaces. */
static void set(cuda_launch *launch, const char *name, const char *types, const void *value,
                size_t bytes)
{
    const int i = find_argument(launch, name);
    if (i < 0)
        return;
    const char *type = launch->kernel->about->arguments[i].type;
    const char *found = strstr(types, type);
    if (found == NULL && launch->unfit[0] == '\0')
        (void)snprintf(launch->unfit, sizeof(launch->unfit), "%.60s is of type %s", name, type);
    launch->is_set[i] = true;
    memcpy(&launch->values[i], value, bytes);
}

void cuda_set_buffer(cuda_launch *launch, const char *name, const cuda_buffer *buffer)
{
    set(launch, name, "pointer", &buffer->address, sizeof(buffer->address));
}

/* A little-endian processor's low bytes are those of the shorter types. */
void cuda_set_integer(cuda_launch *launch, const char *name, int64_t value)
{
    set(launch, name, "int uint long ulong", &value, sizeof(value));
}

void cuda_set_float(cuda_launch *launch, const char *name, float value)
{
    set(launch, name, "float", &value, sizeof(value));
}

bool cuda_turn(cuda_launch *launch, const char *name, int turns, uint64_t step)
{
    launch->turning = find_argument(launch, name);
    launch->turns = launch->turning >= 0 ? turns : 0;
    launch->turn_step = step;
    return launch->turning >= 0;
}

/* ---- launches ---- */

bool cuda_enqueue(cuda *c, cuda_launch *launch, int i)
{
    const manifest_kernel *about = launch->kernel->about;
    void *arguments[MANIFEST_MAX_ARGUMENTS];
    if (launch->unfit[0] != '\0')
        return cuda_fail(c, "%s: %s", about->name, launch->unfit);
    if (launch->turns > 0)
        launch->values[launch->turning] = (uint64_t)(i % launch->turns) * launch->turn_step;
    for (int a = 0; a < about->num_arguments; a++) {
        if (!launch->is_set[a])
            return cuda_fail(c, "%s: no value for argument %d, %s", about->name, a,
                             about->arguments[a].name);
        arguments[a] = &launch->values[a];
    }
    return check(c, "cuLaunchKernel",
                 c->launch(launch->kernel->function, launch->grid[0], launch->grid[1],
                           launch->grid[2], launch->work_items, 1, 1, 0, NULL, arguments, NULL));
}

bool cuda_run(cuda *c, cuda_launch *launch)
{
    return cuda_enqueue(c, launch, 0) && check(c, "cuCtxSynchronize", c->synchronize());
}

/* Seconds of a chain by events. */
static bool time_chain(cuda *c, cuda_launch *launches, int num_launches, int first, int chain,
                       double *seconds)
{
    float ms = 0.0f;
    if (!check(c, "cuEventRecord", c->record_event(c->start, NULL)))
        return false;
    for (int i = 0; i < chain; i++)
        for (int l = 0; l < num_launches; l++)
            if (!cuda_enqueue(c, &launches[l], first + i))
                return false;
    if (!check(c, "cuEventRecord", c->record_event(c->end, NULL)) ||
        !check(c, "cuEventSynchronize", c->wait_event(c->end)) ||
        !check(c, "cuEventElapsedTime", c->elapsed(&ms, c->start, c->end)))
        return false;
    *seconds = 1e-3 * (double)ms;
    return true;
}

bool cuda_time(cuda *c, cuda_launch *launches, int num_launches, double round_s,
               cuda_timing *timing)
{
    enum { WARM_UP = 3, MAX_CHAIN = 4000 }; /* launches */
    double seconds[CUDA_ROUNDS], one;
    if (!time_chain(c, launches, num_launches, 0, 1, &one) ||
        !time_chain(c, launches, num_launches, 0, WARM_UP, &one))
        return false;
    const double wanted = round_s / (one / (double)WARM_UP + 1e-9);
    const int chain = wanted > (double)MAX_CHAIN ? MAX_CHAIN : wanted < 1.0 ? 1 : (int)wanted;
    for (int r = 0; r < CUDA_ROUNDS; r++) {
        if (!time_chain(c, launches, num_launches, r * chain, chain, &seconds[r]))
            return false;
        seconds[r] /= chain;
    }
    timing->median_s = report_median(seconds, CUDA_ROUNDS); /* sorts */
    timing->min_s = seconds[0];
    timing->max_s = seconds[CUDA_ROUNDS - 1];
    timing->rounds = CUDA_ROUNDS;
    timing->chain = chain;
    return true;
}
