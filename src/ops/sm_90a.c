#include "ops/sm_90a.h"

#include "ops/sm_90a_trial.h"

cl_mem mla__sm_90a_buffer(const mla__sm_90a_trial *trial, size_t bytes, void *data)
{
    const cl_mem_flags flags =
        data == NULL ? CL_MEM_READ_WRITE : CL_MEM_READ_WRITE | CL_MEM_COPY_HOST_PTR;
    cl_int error;
    const cl_mem buffer = clCreateBuffer(trial->opencl, flags, bytes, data, &error);
    return error == CL_SUCCESS ? buffer : NULL;
}

static clmla_status open_apart(mla__sm_90a_trial *trial, const clmla_context *host)
{
    const cl_device_id device = host->device.id;
    const clmla_context_options options = {.struct_size = sizeof(options),
                                           .notify = host->notify,
                                           .notify_user = host->notify_user,
                                           .kernel_directory = host->kernel_directory,
                                           .kernel_class = host->kernel_class,
                                           .cache_directory = host->cache_directory,
                                           .sm_90a = 1};
    cl_context_properties properties[] = {CL_CONTEXT_PLATFORM, 0, 0};
    cl_int status =
        clGetDeviceInfo(device, CL_DEVICE_PLATFORM, sizeof(properties[1]), &properties[1], NULL);
    if (status == CL_SUCCESS)
        trial->opencl = clCreateContext(properties, 1, &device, NULL, NULL, &status);
    if (status == CL_SUCCESS)
        trial->queue = clCreateCommandQueue(trial->opencl, device, 0, &status);
    if (status == CL_SUCCESS)
        status = clmla_context_create(trial->opencl, device, &options, &trial->context);
    if (status == CL_SUCCESS)
        trial->context->device = host->device;
    return status;
}

static void close_apart(mla__sm_90a_trial *trial)
{
    clmla_context_release(trial->context);
    if (trial->queue != NULL)
        (void)clReleaseCommandQueue(trial->queue);
    if (trial->opencl != NULL)
        (void)clReleaseContext(trial->opencl);
}

static void try_part(clmla_context *context, mla__sm_90a_part part,
                     const char *(*try)(const mla__sm_90a_trial *))
{
    if (mla__context_sm_90a(context, part, NULL) != MLA__SM_90A_ASKED)
        return;
    mla__sm_90a_trial trial = {.context = NULL};
    const char *const why =
        open_apart(&trial, context) == CLMLA_SUCCESS ? try(&trial) : "no context to try them in";
    close_apart(&trial);
    if (why == NULL)
        mla__context_accept_sm_90a(context, part);
    else
        mla__context_refuse_sm_90a(context, part, why);
}

void mla__sm_90a_probe(clmla_context *context)
{
    try_part(context, MLA__SM_90A_PROJECTION, mla__sm_90a_try_projection);
    try_part(context, MLA__SM_90A_ATTENTION, mla__sm_90a_try_attention);
}
