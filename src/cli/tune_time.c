/*
 * Device time of a subject: calls wait in the queue behind a user event, so that the host's time for
 * enqueueing them is not in it, and markers on a queue with profiling tell when the first could
 * begin and the last had ended.
 *
 * A call of CLBlast may set its parameters anew, which takes the host about a millisecond, so those
 * are few. CLBlast waits for nothing between its commands.
 */
#include <math.h>

#include "cli/stats.h"
#include "cli/tune.h"

/* A sample shorter than this is of several calls: the clock's ticks would show. */
#define SAMPLE_NS 2e6

enum { MOST_CALLS = 256, MOST_CLBLAST_CALLS = 8, MOST_SAMPLES = 16 };

static cl_int end_ns(cl_event event, cl_ulong *out)
{
    return clGetEventProfilingInfo(event, CL_PROFILING_COMMAND_END, sizeof(*out), out, NULL);
}

static clmla_status enqueue_calls(const mla_subject *subject, clmla_context *clmla, int calls,
                                  cl_event gate, unsigned *turn, cl_event marks[2])
{
    clmla_status status = clEnqueueMarkerWithWaitList(subject->queue, 1, &gate, &marks[0]);
    for (int i = 0; i < calls && status == CLMLA_SUCCESS; i++)
        status = mla_subject_enqueue(subject, clmla, (*turn)++);
    if (status == CLMLA_SUCCESS)
        status = clEnqueueMarkerWithWaitList(subject->queue, 0, NULL, &marks[1]);
    return status;
}

/* Nanoseconds of one of `calls` calls. */
static clmla_status take_sample(const mla_subject *subject, clmla_context *clmla, int calls,
                                unsigned *turn, double *ns)
{
    cl_int status;
    cl_event marks[2] = {NULL, NULL};
    cl_ulong begin = 0, end = 0;
    cl_event gate = clCreateUserEvent(subject->session->context, &status);
    if (status != CL_SUCCESS)
        return status;
    status = enqueue_calls(subject, clmla, calls, gate, turn, marks);
    if (status == CLMLA_SUCCESS)
        status = clFlush(subject->queue);
    /* opened in each case: what was enqueued must come to its end */
    const cl_int opened = clSetUserEventStatus(gate, CL_COMPLETE);
    const cl_int finished = clFinish(subject->queue);
    if (status == CLMLA_SUCCESS)
        status = opened != CL_SUCCESS ? opened : finished;
    if (status == CLMLA_SUCCESS)
        status = end_ns(marks[0], &begin);
    if (status == CLMLA_SUCCESS)
        status = end_ns(marks[1], &end);
    *ns = end > begin ? (double)(end - begin) / (double)calls : 0.0;
    for (int i = 0; i < 2; i++)
        if (marks[i] != NULL)
            (void)clReleaseEvent(marks[i]);
    (void)clReleaseEvent(gate);
    return status;
}

clmla_status mla_tune_time(mla_subject *subject, clmla_context *clmla, int samples, double most_ns,
                           double *ns, double *spread)
{
    double taken[MOST_SAMPLES], first = 0.0, longest = 0.0;
    unsigned turn = 0;
    clmla_status status = take_sample(subject, clmla, 1, &turn, &first); /* warms up */
    if (status == CLMLA_SUCCESS)
        status = take_sample(subject, clmla, 1, &turn, &first);
    if (status != CLMLA_SUCCESS)
        return status;
    *ns = first;
    if (most_ns > 0.0 && first > most_ns)
        return CLMLA_SUCCESS;
    const bool by_clblast = subject->product != NULL && !mla_product_is_native(subject->product);
    const int most = by_clblast ? MOST_CLBLAST_CALLS : MOST_CALLS;
    const double wanted = first > 0.0 ? ceil(SAMPLE_NS / first) : (double)most;
    const int calls = wanted < (double)most ? (int)wanted : most;
    for (int i = 0; i < samples && status == CLMLA_SUCCESS; i++) {
        status = take_sample(subject, clmla, calls, &turn, &taken[i]);
        if (status == CLMLA_SUCCESS)
            longest = fmax(longest, taken[i]);
    }
    if (status != CLMLA_SUCCESS)
        return status;
    const double shortest = mla_minimum(taken, (size_t)samples);
    *ns = mla_median(taken, (size_t)samples);
    if (spread != NULL)
        *spread = *ns > 0.0 ? (longest - shortest) / *ns : 0.0;
    return CLMLA_SUCCESS;
}
