#define _POSIX_C_SOURCE 200809L /* mkdir */

#include "support/device.h"

#include <errno.h>
#include <sys/stat.h>

#include "core/dtype.h"
#include "ocl/launch.h"
#include "support/support.h"

enum { CANARY_BYTES = 256, NOTIFY_BYTES = 1 << 16 };

static test_device device;
static char last_notify[NOTIFY_BYTES];

/* ---- device ------------------------------------------------------------------------------- */

static cl_platform_id platforms[16];

/* The first device of the first platform whose name contains `part`. */
static cl_device_id find_device(const char *part)
{
    cl_uint count = 0;
    if (clGetPlatformIDs(16, platforms, &count) != CL_SUCCESS)
        return NULL;
    for (cl_uint i = 0; i < count && i < 16; i++) {
        char name[256] = "";
        cl_device_id found = NULL;
        if (clGetPlatformInfo(platforms[i], CL_PLATFORM_NAME, sizeof name, name, NULL) ==
                CL_SUCCESS &&
            strstr(name, part) != NULL &&
            clGetDeviceIDs(platforms[i], CL_DEVICE_TYPE_ALL, 1, &found, NULL) == CL_SUCCESS)
            return found;
    }
    return NULL;
}

test_device *test_device_get(void)
{
    if (device.id != NULL)
        return &device;
    const char *part = getenv("CLMLA_TEST_PLATFORM");
    const cl_device_id id = find_device(part == NULL ? "" : part);
    if (id == NULL)
        fail_msg("no OpenCL device (CLMLA_TEST_PLATFORM is %s)", part == NULL ? "not set" : part);
    cl_int status = CL_SUCCESS;
    device.context = clCreateContext(NULL, 1, &id, NULL, NULL, &status);
    assert_int_equal(status, CL_SUCCESS);
    device.queue = clCreateCommandQueue(device.context, id, 0, &status);
    assert_int_equal(status, CL_SUCCESS);
    device.out_of_order =
        clCreateCommandQueue(device.context, id, CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE, &status);
    if (status != CL_SUCCESS)
        device.out_of_order = NULL;
    device.id = id;
    return &device;
}

void test_device_close(void)
{
    if (device.id == NULL)
        return;
    if (device.out_of_order != NULL)
        clReleaseCommandQueue(device.out_of_order);
    clReleaseCommandQueue(device.queue);
    clReleaseContext(device.context);
    device = (test_device){0};
}

int test_device_teardown(void **state)
{
    (void)state;
    test_device_close();
    return 0;
}

/* ---- context ------------------------------------------------------------------------------ */

static void remember(clmla_status status, const char *text, void *user)
{
    (void)status;
    (void)user;
    (void)snprintf(last_notify, sizeof last_notify, "%s", text);
}

static clmla_context *create_context(const clmla_context_options *options)
{
    const test_device *on = test_device_get();
    clmla_context *context = NULL;
    const clmla_status status = clmla_context_create(on->context, on->id, options, &context);
    if (status != CLMLA_SUCCESS)
        fail_msg("clmla_context_create: %s: %s", clmla_status_name(status), last_notify);
    return context;
}

clmla_context *test_context(clmla_kernel_class kernel_class, clmla_projection_backend projection)
{
    return create_context(&(clmla_context_options){.struct_size = sizeof(clmla_context_options),
                                                   .notify = remember,
                                                   .kernel_class = kernel_class,
                                                   .projection = projection});
}

clmla_context *test_context_with_units(clmla_kernel_class kernel_class,
                                       clmla_matrix_units matrix_units)
{
    return create_context(&(clmla_context_options){.struct_size = sizeof(clmla_context_options),
                                                   .notify = remember,
                                                   .kernel_class = kernel_class,
                                                   .matrix_units = matrix_units});
}

clmla_context *test_context_with_kernels(clmla_kernel_class kernel_class,
                                         const char *kernel_directory)
{
    return create_context(&(clmla_context_options){.struct_size = sizeof(clmla_context_options),
                                                   .notify = remember,
                                                   .kernel_class = kernel_class,
                                                   .kernel_directory = kernel_directory});
}

clmla_context *test_context_with_tuning(clmla_kernel_class kernel_class,
                                        clmla_matrix_units matrix_units, const char *text)
{
    return create_context(&(clmla_context_options){.struct_size = sizeof(clmla_context_options),
                                                   .notify = remember,
                                                   .kernel_class = kernel_class,
                                                   .projection = CLMLA_PROJECTION_NATIVE,
                                                   .matrix_units = matrix_units,
                                                   .tuning_text = text});
}

char *test_tuning_text(const char *entries)
{
    char name[256] = "", driver[256] = "";
    const cl_device_id id = test_device_get()->id;
    assert_int_equal(clGetDeviceInfo(id, CL_DEVICE_NAME, sizeof name, name, NULL), CL_SUCCESS);
    assert_int_equal(clGetDeviceInfo(id, CL_DRIVER_VERSION, sizeof driver, driver, NULL),
                     CL_SUCCESS);
    const size_t bytes = strlen(entries) + sizeof name + sizeof driver + 64;
    char *text = malloc(bytes);
    assert_non_null(text);
    (void)snprintf(text, bytes, "clmla-tuning 1\ndevice %s\ndriver %s\n%s", name, driver, entries);
    return text;
}

static void make_directory(const char *path)
{
    if (mkdir(path, 0777) != 0 && errno != EEXIST)
        fail_msg("mkdir %s: %s", path, strerror(errno));
}

void test_write_kernel(const char *directory, const char *name, const char *text)
{
    char path[1024];
    make_directory(directory);
    const char *slash = strchr(name, '/');
    if (slash != NULL) {
        (void)snprintf(path, sizeof path, "%s/%.*s", directory, (int)(slash - name), name);
        make_directory(path);
    }
    (void)snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "wb");
    if (file == NULL)
        fail_msg("%s: %s", path, strerror(errno));
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

int test_answer(clmla_context *context, const char *file, const mla__defines *defines)
{
    const char *const files[] = {file, NULL};
    const test_device *on = test_device_get();
    mla__kernel kernel = {0};
    test_buffer out = test_buffer_poisoned(sizeof(int), CLMLA_DTYPE_I32);
    assert_int_equal(mla__kernel_create(context, files, defines, "answer", &kernel), CLMLA_SUCCESS);
    mla__arg_buffer(&kernel, out.tensor.buffer);
    mla__arg_ulong(&kernel, out.tensor.offset_bytes / sizeof(int));
    mla__stream stream;
    assert_int_equal(mla__stream_begin(&stream, on->queue, 0, NULL), CLMLA_SUCCESS);
    assert_int_equal(mla__stream_launch(&stream, &kernel, 1, (size_t[]){1}, (size_t[]){1}),
                     CLMLA_SUCCESS);
    int value = 0;
    test_buffer_read(&out, &value);
    test_buffer_release(&out);
    mla__kernel_release(&kernel);
    return value;
}

const char *test_last_notify(void) { return last_notify; }

void test_clear_notify(void) { last_notify[0] = '\0'; }

/* ---- buffers ------------------------------------------------------------------------------ */

/* 0x7fff in every half-word: NaN in bf16, f16 and f32, an absurd index in i32, and not what a
 * poisoned payload holds, so that a copy of poison shows too. Depends on the place in the buffer.
 */
static unsigned char canary(size_t at) { return at % 2 == 0 ? 0xff : 0x7f; }

static test_buffer make(const void *data, size_t bytes, clmla_dtype dtype)
{
    const test_device *on = test_device_get();
    const size_t total = bytes + 2 * CANARY_BYTES;
    unsigned char *image = malloc(total);
    assert_non_null(image);
    for (size_t i = 0; i < total; i++)
        image[i] = canary(i);
    if (data == NULL)
        memset(image + CANARY_BYTES, 0xff, bytes);
    else if (bytes > 0)
        memcpy(image + CANARY_BYTES, data, bytes);
    cl_int status = CL_SUCCESS;
    const cl_mem buffer = clCreateBuffer(on->context, CL_MEM_READ_WRITE, total, NULL, &status);
    assert_int_equal(status, CL_SUCCESS);
    status = clEnqueueWriteBuffer(on->queue, buffer, CL_TRUE, 0, total, image, 0, NULL, NULL);
    assert_int_equal(status, CL_SUCCESS);
    free(image);
    return (test_buffer){.tensor = {.buffer = buffer, .offset_bytes = CANARY_BYTES, .dtype = dtype},
                         .bytes = bytes};
}

test_buffer test_buffer_poisoned(size_t bytes, clmla_dtype dtype)
{
    return make(NULL, bytes, dtype);
}

test_buffer test_buffer_of(const void *data, size_t bytes, clmla_dtype dtype)
{
    assert_true(data != NULL || bytes == 0);
    return make(data, bytes, dtype);
}

test_buffer test_buffer_of_doubles(const double *values, size_t count, clmla_dtype dtype)
{
    const size_t bytes = count * mla__dtype_bytes(dtype);
    void *data = malloc(bytes + 1);
    assert_non_null(data);
    for (size_t i = 0; i < count; i++)
        mla__store(data, dtype, i, values[i]);
    const test_buffer made = make(data, bytes, dtype);
    free(data);
    return made;
}

void test_buffer_read(const test_buffer *buffer, void *data)
{
    const test_device *on = test_device_get();
    const size_t total = buffer->bytes + 2 * CANARY_BYTES;
    unsigned char *image = malloc(total);
    assert_non_null(image);
    const cl_int status = clEnqueueReadBuffer(on->queue, buffer->tensor.buffer, CL_TRUE, 0, total,
                                              image, 0, NULL, NULL);
    assert_int_equal(status, CL_SUCCESS);
    for (size_t i = 0; i < CANARY_BYTES; i++) {
        const size_t after = CANARY_BYTES + buffer->bytes + i;
        if (image[i] != canary(i))
            fail_msg("written %zu bytes before the payload", CANARY_BYTES - i);
        if (image[after] != canary(after))
            fail_msg("written %zu bytes past the payload of %zu", i + 1, buffer->bytes);
    }
    if (buffer->bytes > 0)
        memcpy(data, image + CANARY_BYTES, buffer->bytes);
    free(image);
}

void test_buffer_read_doubles(const test_buffer *buffer, double *values, size_t count)
{
    const clmla_dtype dtype = buffer->tensor.dtype;
    assert_true(count * mla__dtype_bytes(dtype) <= buffer->bytes);
    void *data = malloc(buffer->bytes + 1);
    assert_non_null(data);
    test_buffer_read(buffer, data);
    for (size_t i = 0; i < count; i++)
        values[i] = mla__load(data, dtype, i);
    free(data);
}

void test_buffer_unchanged(const char *what, const test_buffer *buffer, const void *data)
{
    unsigned char *now = malloc(buffer->bytes + 1);
    assert_non_null(now);
    test_buffer_read(buffer, now);
    const unsigned char *before = data;
    for (size_t i = 0; i < buffer->bytes; i++)
        if (now[i] != before[i])
            fail_msg("%s: byte %zu changed from 0x%02x to 0x%02x", what, i, before[i], now[i]);
    free(now);
}

void test_buffer_release(test_buffer *buffer)
{
    if (buffer->tensor.buffer != NULL)
        clReleaseMemObject(buffer->tensor.buffer);
    *buffer = (test_buffer){0};
}
