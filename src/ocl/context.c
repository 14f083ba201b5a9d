#include "ocl/context.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ocl/binary.h"
#include "ocl/program.h"

/* In parentheses: context.h gives the analyzer a macro of this name. */
clmla_status(mla__fail)(const clmla_context *context, clmla_status status, const char *format, ...)
{
    if (context == NULL || context->notify == NULL)
        return status;
    char text[2048]; /* a line; longer ones are cut. Build logs do not pass here. */
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    context->notify(status, text, context->notify_user);
    return status;
}

/* ---- target sm_90a ------------------------------------------------------------------------ */

const char *mla__sm_90a_part_name(mla__sm_90a_part part)
{
    return part == MLA__SM_90A_ATTENTION ? "attention" : "projections";
}

mla__sm_90a mla__context_sm_90a(const clmla_context *context, mla__sm_90a_part part,
                                const char **why)
{
    mla__os_mutex_lock(context->mutex);
    const mla__sm_90a now = context->sm_90a[part];
    if (why != NULL)
        *why = context->why_not_sm_90a[part];
    mla__os_mutex_unlock(context->mutex);
    return now;
}

void mla__context_accept_sm_90a(clmla_context *context, mla__sm_90a_part part)
{
    mla__os_mutex_lock(context->mutex);
    if (context->sm_90a[part] == MLA__SM_90A_ASKED)
        context->sm_90a[part] = MLA__SM_90A_READY;
    mla__os_mutex_unlock(context->mutex);
}

/* Whether it was not refused before. */
static bool refuse(clmla_context *context, mla__sm_90a_part part, const char *why)
{
    mla__os_mutex_lock(context->mutex);
    const mla__sm_90a before = context->sm_90a[part];
    const bool first = before == MLA__SM_90A_ASKED || before == MLA__SM_90A_READY;
    if (first) {
        context->sm_90a[part] = MLA__SM_90A_REFUSED;
        context->why_not_sm_90a[part] = why;
    }
    mla__os_mutex_unlock(context->mutex);
    return first;
}

void mla__context_refuse_sm_90a(clmla_context *context, mla__sm_90a_part part, const char *why)
{
    if (refuse(context, part, why))
        (void)mla__fail(context, CLMLA_SUCCESS,
                        "sm_90a, %s: %s; kernels for sm_90 take the place of those for sm_90a",
                        mla__sm_90a_part_name(part), why);
}

/* What is known without a build. */
static void consider_sm_90a(clmla_context *context)
{
    const mla__device *device = &context->device;
    const char *const why = context->kernel_class != CLMLA_KERNELS_NVIDIA
                                ? "the kernels are not of class nvidia"
                            : !context->matrix_units ? "matrix units are off"
                            : device->has_ptx && device->compute_capability != 90
                                ? "the device's compute capability is not 9.0"
                                : NULL;
    bool refused = false;
    for (int part = 0; why != NULL && part < MLA__SM_90A_PARTS; part++)
        refused = refuse(context, (mla__sm_90a_part)part, why);
    if (refused)
        (void)mla__fail(context, CLMLA_SUCCESS, "sm_90a: %s; other kernels run", why);
}

/* ---- creation ----------------------------------------------------------------------------- */

static void destroy(clmla_context *context)
{
    mla__program_release_all(context);
    if (context->device.id != NULL)
        (void)clReleaseDevice(context->device.id);
    if (context->context != NULL)
        (void)clReleaseContext(context->context);
    if (context->mutex != NULL)
        mla__os_mutex_destroy(context->mutex);
    free(context->kernel_directory);
    free(context->cache_directory);
    free(context->record);
    free(context);
}

/* device must be one of the cl_context's. */
static clmla_status check_membership(const clmla_context *context, cl_context cl,
                                     cl_device_id device)
{
    size_t bytes = 0;
    clmla_status status = clGetContextInfo(cl, CL_CONTEXT_DEVICES, 0, NULL, &bytes);
    if (status != CLMLA_SUCCESS)
        return mla__fail(context, status, "context: clGetContextInfo(CL_CONTEXT_DEVICES) failed");
    cl_device_id *devices = malloc(bytes + 1);
    if (devices == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    status = clGetContextInfo(cl, CL_CONTEXT_DEVICES, bytes, devices, NULL);
    bool found = false;
    for (size_t i = 0; status == CLMLA_SUCCESS && i < bytes / sizeof *devices; i++)
        found = found || devices[i] == device;
    free(devices);
    if (status == CLMLA_SUCCESS && !found)
        status = mla__fail(context, CLMLA_INVALID_ARGUMENT,
                           "context: the device is not of this context");
    return status;
}

static clmla_status check_device(const clmla_context *context, cl_device_id device)
{
    cl_bool compiler = CL_FALSE, little_endian = CL_FALSE;
    clmla_status status =
        clGetDeviceInfo(device, CL_DEVICE_COMPILER_AVAILABLE, sizeof compiler, &compiler, NULL);
    if (status == CLMLA_SUCCESS)
        status = clGetDeviceInfo(device, CL_DEVICE_ENDIAN_LITTLE, sizeof little_endian,
                                 &little_endian, NULL);
    if (status != CLMLA_SUCCESS)
        return mla__fail(context, status, "context: clGetDeviceInfo failed");
    if (!compiler)
        return mla__fail(context, CLMLA_UNSUPPORTED_DEVICE,
                         "context: the device has no OpenCL C compiler");
    if (!little_endian)
        return mla__fail(context, CLMLA_UNSUPPORTED_DEVICE,
                         "context: the device is not little-endian");
    return CLMLA_SUCCESS;
}

static clmla_status check_options(const clmla_context *context,
                                  const clmla_context_options *options)
{
    if (options->kernel_class < CLMLA_KERNELS_AUTO || options->kernel_class > CLMLA_KERNELS_NVIDIA)
        return mla__fail(context, CLMLA_INVALID_ARGUMENT, "context: kernel_class %d is unknown",
                         (int)options->kernel_class);
    if (options->projection < CLMLA_PROJECTION_AUTO ||
        options->projection > CLMLA_PROJECTION_CLBLAST)
        return mla__fail(context, CLMLA_INVALID_ARGUMENT, "context: projection %d is unknown",
                         (int)options->projection);
    if (options->matrix_units != CLMLA_MATRIX_UNITS_AUTO &&
        options->matrix_units != CLMLA_MATRIX_UNITS_OFF)
        return mla__fail(context, CLMLA_INVALID_ARGUMENT, "context: matrix_units %d is unknown",
                         (int)options->matrix_units);
    if (options->allow_clblast_overrides != 0 && options->allow_clblast_overrides != 1)
        return mla__fail(context, CLMLA_INVALID_ARGUMENT,
                         "context: allow_clblast_overrides is %d, must be 0 or 1",
                         (int)options->allow_clblast_overrides);
    if (options->sm_90a != 0 && options->sm_90a != 1)
        return mla__fail(context, CLMLA_INVALID_ARGUMENT, "context: sm_90a is %d, must be 0 or 1",
                         (int)options->sm_90a);
    if (options->kernel_directory != NULL && !mla__os_is_directory(options->kernel_directory))
        return mla__fail(context, CLMLA_KERNEL_SOURCE_NOT_FOUND,
                         "context: kernel_directory %s is not a directory",
                         options->kernel_directory);
    return CLMLA_SUCCESS;
}

/* Takes the references, and reads what the device is. */
static clmla_status adopt(clmla_context *context, cl_context cl, cl_device_id device,
                          const clmla_context_options *options)
{
    mla__device read;
    clmla_status status = mla__device_read(device, &read);
    if (status != CLMLA_SUCCESS)
        return mla__fail(context, status, "context: the device's properties cannot be read");
    status = clRetainContext(cl);
    if (status != CLMLA_SUCCESS)
        return status;
    context->context = cl;
    status = clRetainDevice(device);
    if (status != CLMLA_SUCCESS)
        return status;
    context->device = read;
    context->kernel_class =
        options->kernel_class == CLMLA_KERNELS_AUTO ? read.kernel_class : options->kernel_class;
    context->projection = options->projection;
    context->clblast_overrides = options->allow_clblast_overrides != 0;
    context->matrix_units = options->matrix_units == CLMLA_MATRIX_UNITS_AUTO;
    for (int part = 0; part < MLA__SM_90A_PARTS; part++)
        context->sm_90a[part] = options->sm_90a != 0 ? MLA__SM_90A_ASKED : MLA__SM_90A_OFF;
    context->mutex = mla__os_mutex_create();
    if (context->mutex == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    consider_sm_90a(context);
    if (options->kernel_directory != NULL) {
        const size_t bytes = strlen(options->kernel_directory) + 1;
        context->kernel_directory = malloc(bytes);
        if (context->kernel_directory == NULL)
            return CL_OUT_OF_HOST_MEMORY;
        memcpy(context->kernel_directory, options->kernel_directory, bytes);
    }
    return options->cache_directory == NULL
               ? CLMLA_SUCCESS
               : mla__binary_open_directory(context, options->cache_directory);
}

clmla_status mla__context_create(cl_context context, cl_device_id device,
                                 const clmla_context_options *options, clmla_context **out)
{
    clmla_context *made = calloc(1, sizeof *made);
    if (made == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    made->references = 1;
    made->notify = options->notify;
    made->notify_user = options->notify_user;

    clmla_status status = check_options(made, options);
    if (status == CLMLA_SUCCESS)
        status = check_membership(made, context, device);
    if (status == CLMLA_SUCCESS)
        status = check_device(made, device);
    if (status == CLMLA_SUCCESS)
        status = adopt(made, context, device, options);
    if (status != CLMLA_SUCCESS) {
        destroy(made);
        return status;
    }
    *out = made;
    return CLMLA_SUCCESS;
}

void mla__context_retain(clmla_context *context)
{
    mla__os_mutex_lock(context->mutex);
    context->references++;
    mla__os_mutex_unlock(context->mutex);
}

void clmla_context_release(clmla_context *context)
{
    if (context == NULL)
        return;
    mla__os_mutex_lock(context->mutex);
    const int left = --context->references;
    mla__os_mutex_unlock(context->mutex);
    if (left == 0)
        destroy(context);
}

clmla_kernel_class clmla_context_kernel_class(const clmla_context *context)
{
    return context->kernel_class;
}

clmla_status clmla_context_get_info(const clmla_context *context, clmla_context_info *info)
{
    if (context == NULL || info == NULL || info->struct_size != sizeof *info)
        return CLMLA_INVALID_ARGUMENT;
    mla__os_mutex_lock(context->mutex);
    info->cache_directory = context->cache_directory;
    info->programs_read = context->programs_read;
    info->programs_compiled = context->programs_compiled;
    info->tuning_entries = context->tuning_entries;
    mla__os_mutex_unlock(context->mutex);
    return CLMLA_SUCCESS;
}
