/*
 * A job through the library: all of its sequences together as one ragged batch, step by
 * step, each step fed with the stored hidden states.
 */
#ifndef CLMLA_CLI_RUNNER_H
#define CLMLA_CLI_RUNNER_H

#include "cli/job.h"
#include "cli/session.h"

typedef struct mla_run_choices {
    char projection[16]; /* as the layer resolved it */
    clmla_kernel_class kernels;
} mla_run_choices;

/* Runs every step and fills results (made by mla_results_create). Storage and pages (in
 * shuffled order) as session->common says.
 * Returns SUCCESS, or what the library or OpenCL said (the session has the detail). */
clmla_status mla_run_job(mla_session *session, const mla_job *job, mla_results *results,
                         mla_run_choices *choices);

#endif
