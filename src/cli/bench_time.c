/*
 * Timing a cell: chains of runs on an in-order queue.
 *
 *   warm-up    `warmup` runs, from which the time of one run is estimated
 *   chain 1    `runs` runs, waited for only at the end: tokens_per_s
 *   chain 2    the same with a wait after every forward: median, minimum, time to first token
 *
 * A prefill run is one forward of each lane; a decode chain takes one lane's steps after another's,
 * output fed back and cache growing.
 */
#include <math.h>
#include <stdlib.h>

#include "cli/bench.h"
#include "cli/message.h"
#include "cli/stats.h"
#include "core/os.h"

/* Less than this and a forward is timed in blocks: the clock and the wait would show. */
#define SHORTEST_FORWARD_SECONDS 20e-6
#define BLOCK_SECONDS 2e-3

/* Shares of the time budget; the rest is for set-up work that estimates cannot see. */
#define WARMUP_SHARE 0.10
#define CHAIN_SHARE 0.45

enum { FEWEST_RUNS = 3 };

/* What the waits of a chain measure. */
typedef struct samples {
    int32_t block;   /* forwards per wait; 0: no waits */
    double *seconds; /* of one forward, or of one sequential prefill run */
    size_t count;
    double *ttft; /* prefill: mean end of the requests since the run's start; one per run */
    size_t num_ttft;
    double *enqueue; /* of one clmla_enqueue_layer; NULL: not taken */
    size_t num_enqueue;
} samples;

static double seconds_since(uint64_t start_ns)
{
    return 1e-9 * (double)(mla__os_now_ns() - start_ns);
}

static cl_command_queue queue_of(const mla_cell *cell) { return cell->backend->session.queue; }

/* A lane's forward, and what its enqueues took the host. */
static clmla_status enqueue_forward(const mla_cell *cell, const mla_lane *lane, samples *out)
{
    const uint64_t start = mla__os_now_ns();
    const clmla_status status = mla_cell_forward(cell, lane, queue_of(cell));
    if (out->enqueue != NULL)
        out->enqueue[out->num_enqueue++] = seconds_since(start) / (double)cell->bench->num_layers;
    return status;
}

/* ---- prefill --------------------------------------------------------------------------------- */

/* One run without waits. */
static clmla_status prefill_run(const mla_cell *cell, samples *out)
{
    clmla_status status = CLMLA_SUCCESS;
    for (int32_t i = 0; i < cell->num_lanes && status == CLMLA_SUCCESS; i++) {
        status = mla_cell_first_step(cell, &cell->lanes[i], queue_of(cell));
        if (status == CLMLA_SUCCESS)
            status = enqueue_forward(cell, &cell->lanes[i], out);
    }
    return status == CLMLA_SUCCESS ? clFlush(queue_of(cell)) : status;
}

/* One run with a wait after each lane: a sample of the run, and the mean end of its requests. */
static clmla_status prefill_run_sampled(const mla_cell *cell, samples *out)
{
    const uint64_t start = mla__os_now_ns();
    double ends = 0.0, requests = 0.0, end = 0.0;
    clmla_status status = CLMLA_SUCCESS;
    for (int32_t i = 0; i < cell->num_lanes && status == CLMLA_SUCCESS; i++) {
        const mla_lane *lane = &cell->lanes[i];
        status = mla_cell_first_step(cell, lane, queue_of(cell));
        if (status == CLMLA_SUCCESS)
            status = enqueue_forward(cell, lane, out);
        if (status == CLMLA_SUCCESS)
            status = clFinish(queue_of(cell));
        end = seconds_since(start);
        ends += end * (double)lane->num_requests;
        requests += (double)lane->num_requests;
    }
    out->seconds[out->count++] = end;
    out->ttft[out->num_ttft++] = ends / requests;
    return status;
}

/* Batched forwards that are too short, several to a wait. */
static clmla_status prefill_block_sampled(const mla_cell *cell, int32_t runs, samples *out)
{
    const uint64_t start = mla__os_now_ns();
    clmla_status status = CLMLA_SUCCESS;
    for (int32_t i = 0; i < runs && status == CLMLA_SUCCESS; i++)
        status = prefill_run(cell, out);
    if (status == CLMLA_SUCCESS)
        status = clFinish(queue_of(cell));
    const double seconds = seconds_since(start) / (double)runs;
    out->seconds[out->count++] = seconds;
    out->ttft[out->num_ttft++] = seconds;
    return status;
}

static clmla_status prefill_chain(const mla_cell *cell, int32_t runs, samples *out)
{
    clmla_status status = CLMLA_SUCCESS;
    for (int32_t run = 0; run < runs && status == CLMLA_SUCCESS;) {
        const int32_t left = runs - run;
        const int32_t block = cell->batched && out->block < left ? out->block : left;
        if (out->block == 0) {
            status = prefill_run(cell, out);
            run++;
        } else if (!cell->batched || out->block == 1) {
            mla_progress("prefill: run %d of %d", (int)run + 1, (int)runs);
            status = prefill_run_sampled(cell, out);
            run++;
        } else {
            status = prefill_block_sampled(cell, block, out);
            run += block;
        }
    }
    return status;
}

/* ---- decode ---------------------------------------------------------------------------------- */

/* `runs` steps of one lane. */
static clmla_status decode_lane(const mla_cell *cell, const mla_lane *lane, int32_t runs,
                                samples *out)
{
    clmla_status status = CLMLA_SUCCESS;
    uint64_t start = mla__os_now_ns();
    int32_t in_block = 0;
    for (int32_t run = 0; run < runs && status == CLMLA_SUCCESS; run++) {
        status = run == 0 ? mla_cell_first_step(cell, lane, queue_of(cell))
                          : mla_cell_next_step(cell, queue_of(cell));
        if (status == CLMLA_SUCCESS)
            status = enqueue_forward(cell, lane, out);
        if (status == CLMLA_SUCCESS)
            status = clFlush(queue_of(cell));
        if (out->block == 0 || status != CLMLA_SUCCESS)
            continue;
        in_block++;
        if (in_block == out->block || run + 1 == runs) {
            status = clFinish(queue_of(cell));
            out->seconds[out->count++] = seconds_since(start) / (double)in_block;
            in_block = 0;
            start = mla__os_now_ns();
        }
    }
    return status;
}

/* ---- chains ---------------------------------------------------------------------------------- */

/* Whether every step in one launch came to its end: one that gave up is a fast one. */
static clmla_status check_launches(const mla_cell *cell)
{
    clmla_status error = CLMLA_SUCCESS;
    if (!cell->bench->common->one_launch)
        return CLMLA_SUCCESS;
    const clmla_status status = clmla_plan_get_error(cell->plan, queue_of(cell), &error);
    return status == CLMLA_SUCCESS ? error : status;
}

/* *seconds: from the first enqueue to the end of the last command. */
static clmla_status run_chain(const mla_cell *cell, int32_t runs, samples *out, double *seconds)
{
    clmla_status status = mla_cell_restore(cell, queue_of(cell));
    if (status == CLMLA_SUCCESS)
        status = clFinish(queue_of(cell));
    const uint64_t start = mla__os_now_ns();
    if (!cell->workload->decode && status == CLMLA_SUCCESS)
        status = prefill_chain(cell, runs, out);
    for (int32_t i = 0; cell->workload->decode && i < cell->num_lanes && status == CLMLA_SUCCESS;
         i++) {
        if (out->block > 0)
            mla_progress("decode: request %d of %d", (int)i + 1, (int)cell->num_lanes);
        status = decode_lane(cell, &cell->lanes[i], runs, out);
    }
    if (status == CLMLA_SUCCESS)
        status = clFinish(queue_of(cell));
    *seconds = seconds_since(start);
    return status == CLMLA_SUCCESS ? check_launches(cell) : status;
}

/* Warms up and estimates the seconds of one run. */
static clmla_status warm_up(const mla_cell *cell, double *run_seconds)
{
    const mla_bench *bench = cell->bench;
    samples none = {.block = 0};
    double seconds;
    /* The first run pays for what drivers put off; the second one tells how many can follow. */
    clmla_status status = run_chain(cell, 1, &none, &seconds);
    if (status == CLMLA_SUCCESS && seconds < WARMUP_SHARE * bench->max_seconds)
        status = run_chain(cell, 1, &none, &seconds);
    if (status != CLMLA_SUCCESS)
        return status;
    const double fitting = floor(WARMUP_SHARE * bench->max_seconds / seconds);
    const int32_t runs = fitting < (double)bench->warmup ? (int32_t)fitting : bench->warmup;
    *run_seconds = seconds;
    if (runs < 1)
        return CLMLA_SUCCESS;
    status = run_chain(cell, runs, &none, &seconds);
    *run_seconds = seconds / (double)runs;
    return status;
}

static int32_t choose_runs(const mla_cell *cell, double run_seconds)
{
    const mla_bench *bench = cell->bench;
    const double fitting = floor(CHAIN_SHARE * bench->max_seconds / run_seconds);
    const int32_t fewest = bench->runs < FEWEST_RUNS ? bench->runs : FEWEST_RUNS;
    const int32_t runs = fitting >= (double)bench->runs ? bench->runs
                         : fitting <= (double)fewest    ? fewest
                                                        : (int32_t)fitting;
    if (runs < bench->runs)
        mla_note("%s: %d runs instead of %d, to stay within --max-seconds %g", cell->what,
                 (int)runs, (int)bench->runs, bench->max_seconds);
    return runs;
}

static bool samples_create(const mla_cell *cell, int32_t runs, double run_seconds, samples *out)
{
    const double forward_seconds = run_seconds / (double)cell->num_lanes;
    const size_t most = (size_t)runs * (cell->workload->decode ? (size_t)cell->num_lanes : 1);
    *out = (samples){.block = 1};
    if (forward_seconds < SHORTEST_FORWARD_SECONDS)
        out->block = (int32_t)ceil(BLOCK_SECONDS / forward_seconds);
    out->seconds = calloc(most, sizeof(*out->seconds));
    out->ttft = calloc((size_t)runs, sizeof(*out->ttft));
    out->enqueue = calloc((size_t)runs * (size_t)cell->num_lanes, sizeof(*out->enqueue));
    return out->seconds != NULL && out->ttft != NULL && out->enqueue != NULL;
}

clmla_status mla_cell_time(const mla_cell *cell, mla_times *out)
{
    mla_times times = {0};
    samples none = {.block = 0}, taken = {0};
    double run_seconds, seconds;
    mla_progress("warming up");
    clmla_status status = warm_up(cell, &run_seconds);
    if (status != CLMLA_SUCCESS)
        return status;
    times.runs = choose_runs(cell, run_seconds);
    mla_progress("%s: %d runs", cell->what, (int)times.runs);
    status = run_chain(cell, times.runs, &none, &times.chain_seconds);
    if (status == CLMLA_SUCCESS && !samples_create(cell, times.runs, run_seconds, &taken))
        status = CL_OUT_OF_HOST_MEMORY;
    if (status == CLMLA_SUCCESS)
        status = run_chain(cell, times.runs, &taken, &seconds);
    mla_progress_clear();
    if (status == CLMLA_SUCCESS) {
        times.median_ms = 1e3 * mla_median(taken.seconds, taken.count);
        times.min_ms = 1e3 * mla_minimum(taken.seconds, taken.count);
        times.enqueue_us = 1e6 * mla_median(taken.enqueue, taken.num_enqueue);
        times.ttft_ms = 1e3 * mla_mean(taken.ttft, taken.num_ttft);
        *out = times;
    }
    free(taken.seconds);
    free(taken.ttft);
    free(taken.enqueue);
    return status;
}
