#include "ocl/launch.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

/* ---- kernels ------------------------------------------------------------------------------ */

static clmla_status create(clmla_context *context, cl_program program, const char *const *files,
                           const char *name, mla__kernel *out)
{
    clmla_status status = CLMLA_SUCCESS;
    cl_kernel kernel = clCreateKernel(program, name, &status);
    if (status != CLMLA_SUCCESS)
        return mla__fail(context, status, "%s: kernel %s: %s", files[0] == NULL ? "" : files[0],
                         name, clmla_status_name(status));
    *out = (mla__kernel){.kernel = kernel};
    return CLMLA_SUCCESS;
}

static clmla_status check_loops(const clmla_context *context, const mla__defines *defines,
                                const char *name)
{
    const cl_uint most = context->device.max_loop_iterations;
    const double loops = defines == NULL ? 0 : defines->loops;
    if (most == 0 || (loops > 0 && loops <= most))
        return CLMLA_SUCCESS;
    if (loops > 0 && isfinite(loops))
        return mla__fail(
            context, CLMLA_UNSUPPORTED_DEVICE,
            "kernel %s: a work-item's loops may take %.0f iterations; this device ends "
            "them after %u without an error",
            name, loops, (unsigned)most);
    return mla__fail(context, CLMLA_UNSUPPORTED_DEVICE,
                     "kernel %s is not for a device that ends loops after %u iterations without an "
                     "error",
                     name, (unsigned)most);
}

clmla_status mla__kernel_create(clmla_context *context, const char *const *files,
                                const mla__defines *defines, const char *name, mla__kernel *out)
{
    cl_program program = NULL;
    clmla_status status = check_loops(context, defines, name);
    if (status == CLMLA_SUCCESS)
        status = mla__program_get(context, files, defines, &program);
    return status == CLMLA_SUCCESS ? create(context, program, files, name, out) : status;
}

clmla_status mla__kernel_create_sm_90a(clmla_context *context, const char *const *files,
                                       const mla__defines *defines, const char *name,
                                       mla__kernel *out)
{
    cl_program program = NULL;
    const clmla_status status = mla__program_get_sm_90a(context, files, defines, &program);
    return status == CLMLA_SUCCESS ? create(context, program, files, name, out) : status;
}

void mla__kernel_release(mla__kernel *kernel)
{
    if (kernel->kernel != NULL)
        (void)clReleaseKernel(kernel->kernel);
    *kernel = (mla__kernel){0};
}

static clmla_status set(const mla__kernel *kernel, cl_uint index, size_t bytes, const void *value)
{
    return kernel->kernel == NULL ? CLMLA_INTERNAL
                                  : clSetKernelArg(kernel->kernel, index, bytes, value);
}

static void set_next(mla__kernel *kernel, size_t bytes, const void *value)
{
    if (kernel->status == CLMLA_SUCCESS)
        kernel->status = set(kernel, kernel->next_arg, bytes, value);
    kernel->next_arg++;
}

void mla__arg_buffer(mla__kernel *kernel, cl_mem buffer)
{
    set_next(kernel, sizeof buffer, &buffer);
}

void mla__arg_int(mla__kernel *kernel, cl_int value) { set_next(kernel, sizeof value, &value); }

void mla__arg_ulong(mla__kernel *kernel, cl_ulong value) { set_next(kernel, sizeof value, &value); }

void mla__arg_float(mla__kernel *kernel, cl_float value) { set_next(kernel, sizeof value, &value); }

void mla__arg_bytes(mla__kernel *kernel, const void *value, size_t bytes)
{
    set_next(kernel, bytes, value);
}

void mla__arg_local(mla__kernel *kernel, size_t bytes) { set_next(kernel, bytes, NULL); }

clmla_status mla__kernel_ready(const mla__kernel *kernel)
{
    return kernel->kernel == NULL ? CLMLA_INTERNAL : kernel->status;
}

clmla_status mla__arg_set_int(mla__kernel *kernel, cl_uint index, cl_int value)
{
    return set(kernel, index, sizeof value, &value);
}

clmla_status mla__arg_set_ulong(mla__kernel *kernel, cl_uint index, cl_ulong value)
{
    return set(kernel, index, sizeof value, &value);
}

clmla_status mla__arg_set_buffer(mla__kernel *kernel, cl_uint index, cl_mem buffer)
{
    return set(kernel, index, sizeof buffer, &buffer);
}

/* ---- streams ------------------------------------------------------------------------------ */

static clmla_status check_wait_list(cl_context context, cl_uint num_events,
                                    const cl_event *wait_list)
{
    if ((num_events == 0) != (wait_list == NULL))
        return CL_INVALID_EVENT_WAIT_LIST;
    for (cl_uint i = 0; i < num_events; i++) {
        cl_context of_event = NULL;
        if (wait_list[i] == NULL || clGetEventInfo(wait_list[i], CL_EVENT_CONTEXT, sizeof of_event,
                                                   &of_event, NULL) != CL_SUCCESS)
            return CL_INVALID_EVENT_WAIT_LIST;
        if (of_event != context)
            return CL_INVALID_CONTEXT;
    }
    return CLMLA_SUCCESS;
}

clmla_status mla__stream_begin(mla__stream *stream, cl_command_queue queue, cl_uint num_events,
                               const cl_event *wait_list)
{
    if (queue == NULL)
        return CL_INVALID_COMMAND_QUEUE;
    cl_command_queue_properties properties = 0;
    cl_context context = NULL;
    clmla_status status =
        clGetCommandQueueInfo(queue, CL_QUEUE_PROPERTIES, sizeof properties, &properties, NULL);
    if (status == CLMLA_SUCCESS)
        status = clGetCommandQueueInfo(queue, CL_QUEUE_CONTEXT, sizeof context, &context, NULL);
    if (status == CLMLA_SUCCESS)
        status = check_wait_list(context, num_events, wait_list);
    if (status != CLMLA_SUCCESS)
        return status;
    *stream = (mla__stream){
        .queue = queue,
        .out_of_order = (properties & CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE) != 0,
        .num_events = num_events,
        .wait_list = wait_list,
    };
    return CLMLA_SUCCESS;
}

/* The former commands of this stream come before the next one. While the wait list is pending there
 * are none, so a barrier never has to carry both. */
static clmla_status order_after_former(mla__stream *stream)
{
    if (!stream->needs_barrier)
        return CLMLA_SUCCESS;
    const clmla_status status = clEnqueueBarrierWithWaitList(stream->queue, 0, NULL, NULL);
    if (status == CLMLA_SUCCESS)
        stream->needs_barrier = false;
    return status;
}

static void command_enqueued(mla__stream *stream)
{
    stream->num_events = 0;
    stream->wait_list = NULL;
    stream->needs_barrier = stream->out_of_order;
}

clmla_status mla__stream_launch(mla__stream *stream, const mla__kernel *kernel, cl_uint work_dim,
                                const size_t *global, const size_t *local)
{
    clmla_status status = mla__kernel_ready(kernel);
    if (status != CLMLA_SUCCESS)
        return status;
    if (work_dim < 1 || work_dim > 3 || global == NULL || local == NULL)
        return CLMLA_INTERNAL;
    size_t rounded[3];
    for (cl_uint i = 0; i < work_dim; i++) {
        if (global[i] == 0)
            return CLMLA_SUCCESS;
        if (local[i] == 0 || global[i] > SIZE_MAX - (local[i] - 1))
            return CLMLA_INTERNAL;
        rounded[i] = (global[i] + local[i] - 1) / local[i] * local[i];
    }
    status = order_after_former(stream);
    if (status != CLMLA_SUCCESS)
        return status;
    status = clEnqueueNDRangeKernel(stream->queue, kernel->kernel, work_dim, NULL, rounded, local,
                                    stream->num_events, stream->wait_list, NULL);
    if (status != CLMLA_SUCCESS)
        return status;
    command_enqueued(stream);
    stream->kernel_launches++;
    return CLMLA_SUCCESS;
}

clmla_status mla__stream_before_foreign(mla__stream *stream)
{
    if (stream->num_events == 0)
        return order_after_former(stream);
    const clmla_status status =
        clEnqueueBarrierWithWaitList(stream->queue, stream->num_events, stream->wait_list, NULL);
    if (status == CLMLA_SUCCESS) {
        stream->num_events = 0;
        stream->wait_list = NULL;
    }
    return status;
}

void mla__stream_after_foreign(mla__stream *stream) { command_enqueued(stream); }

clmla_status mla__stream_write(mla__stream *stream, cl_mem buffer, size_t offset_bytes,
                               size_t bytes, const void *data, cl_event *event)
{
    if (bytes == 0)
        return event == NULL ? CLMLA_SUCCESS : mla__stream_end(stream, event);
    clmla_status status = order_after_former(stream);
    if (status != CLMLA_SUCCESS)
        return status;
    status = clEnqueueWriteBuffer(stream->queue, buffer, CL_FALSE, offset_bytes, bytes, data,
                                  stream->num_events, stream->wait_list, event);
    if (status == CLMLA_SUCCESS)
        command_enqueued(stream);
    return status;
}

clmla_status mla__stream_end(mla__stream *stream, cl_event *event)
{
    /* A list that no command took still holds back what an in-order queue gets afterwards; on an
     * out-of-order queue only the event could show it. */
    const bool list_matters = stream->num_events > 0 && !stream->out_of_order;
    if (event == NULL && !list_matters)
        return CLMLA_SUCCESS;
    const clmla_status status =
        clEnqueueMarkerWithWaitList(stream->queue, stream->num_events, stream->wait_list, event);
    if (status == CLMLA_SUCCESS)
        command_enqueued(stream);
    return status;
}
