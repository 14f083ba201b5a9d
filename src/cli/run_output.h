/*
 * The file that clmla run writes.
 */
#ifndef CLMLA_CLI_RUN_OUTPUT_H
#define CLMLA_CLI_RUN_OUTPUT_H

#include "cli/job.h"

/* Writes every output and the appended cache rows as F32 [batch, rows, width], under the names of
 * the job's tensors, with key = value in the metadata. Returns an exit code after printing the
 * error. */
int mla_run_output_write(const mla_job *job, const mla_results *results, const char *key,
                         const char *value, const char *path);

#endif
