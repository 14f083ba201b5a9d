/*
 * --stages: where the time of one layer's forward goes, from the markers that the library puts
 * after each stage, on a queue of its own with profiling (which may cost: the other figures are
 * taken without).
 */
#include <stdlib.h>

#include "cli/bench.h"
#include "cli/message.h"
#include "cli/stats.h"

enum { MAX_STAGES = 64, STAGE_RUNS = 7 };

typedef struct stage_record {
    const char *names[MAX_STAGES]; /* constants of the library */
    cl_event ends[MAX_STAGES];
    double samples_ms[MAX_STAGES][STAGE_RUNS];
    int num_stages;
} stage_record;

static void take_stage(const char *stage, cl_event end, void *user)
{
    stage_record *record = user;
    if (record->num_stages == MAX_STAGES || clRetainEvent(end) != CL_SUCCESS)
        return;
    record->names[record->num_stages] = stage;
    record->ends[record->num_stages] = end;
    record->num_stages++;
}

static void release_events(stage_record *record)
{
    for (int i = 0; i < record->num_stages; i++)
        (void)clReleaseEvent(record->ends[i]);
    record->num_stages = 0;
}

static cl_int end_ns(cl_event event, cl_ulong *out)
{
    return clGetEventProfilingInfo(event, CL_PROFILING_COMMAND_END, sizeof(*out), out, NULL);
}

/* One forward of the first layer in the first lane, after those of the others: its weights come
 * from memory as they do in the whole chain. */
static clmla_status run_once(const mla_cell *cell, cl_command_queue queue, int run,
                             stage_record *record)
{
    const mla_lane *lane = &cell->lanes[0];
    cl_event begin = NULL;
    cl_ulong last = 0, now = 0;
    release_events(record);
    clmla_status status = mla_cell_restore(cell, queue);
    if (status == CLMLA_SUCCESS)
        status = mla_cell_first_step(cell, lane, queue);
    for (int32_t i = 1; i < cell->bench->num_layers && status == CLMLA_SUCCESS; i++)
        status = clmla_enqueue_layer(lane->bindings[i], cell->plan, queue, 0, NULL, NULL);
    if (status == CLMLA_SUCCESS)
        status = clEnqueueMarkerWithWaitList(queue, 0, NULL, &begin);
    if (status == CLMLA_SUCCESS)
        status = clmla_enqueue_layer(lane->bindings[0], cell->plan, queue, 0, NULL, NULL);
    if (status == CLMLA_SUCCESS)
        status = clFinish(queue);
    if (status == CLMLA_SUCCESS)
        status = end_ns(begin, &last);
    for (int i = 0; i < record->num_stages && status == CLMLA_SUCCESS; i++) {
        status = end_ns(record->ends[i], &now);
        record->samples_ms[i][run] = now > last ? 1e-6 * (double)(now - last) : 0.0;
        last = now;
    }
    if (begin != NULL)
        (void)clReleaseEvent(begin);
    return status;
}

static json_t *stages_json(stage_record *record)
{
    json_t *stages = json_array();
    for (int i = 0; stages != NULL && i < record->num_stages; i++)
        (void)json_array_append_new(stages,
                                    json_pack("{s:s, s:f}", "stage", record->names[i], "median_ms",
                                              mla_median(record->samples_ms[i], STAGE_RUNS)));
    return stages;
}

clmla_status mla_cell_stages(const mla_cell *cell, json_t **out)
{
    const mla_session *session = &cell->backend->session;
    clmla_binding *binding = cell->lanes[0].bindings[0];
    stage_record *record = calloc(1, sizeof(*record));
    cl_int status = CL_OUT_OF_HOST_MEMORY;
    if (record == NULL)
        return status;
    mla_progress("timing stages");
    cl_command_queue queue = clCreateCommandQueue(session->context, session->device->id,
                                                  CL_QUEUE_PROFILING_ENABLE, &status);
    if (status == CL_SUCCESS)
        status = clmla_binding_set_stage_fn(binding, take_stage, record);
    for (int run = -1; run < STAGE_RUNS && status == CLMLA_SUCCESS; run++)
        status = run_once(cell, queue, run < 0 ? 0 : run, record); /* the first one warms up */
    (void)clmla_binding_set_stage_fn(binding, NULL, NULL);
    if (status == CLMLA_SUCCESS) {
        *out = stages_json(record);
        if (*out == NULL)
            status = CL_OUT_OF_HOST_MEMORY;
    }
    release_events(record);
    if (queue != NULL)
        (void)clReleaseCommandQueue(queue);
    free(record);
    mla_progress_clear();
    return status;
}
