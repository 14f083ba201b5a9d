/*
 * clmla verify: what clmla report does, too.
 */
#ifndef CLMLA_CLI_VERIFY_H
#define CLMLA_CLI_VERIFY_H

#include "cli/report.h"
#include "cli/session.h"

/* Computes every golden file among the arguments, also after a failure, and adds a row for each one
 * that could be computed. Returns an exit code, after printing the errors. */
int mla_verify_files(mla_session *session, const mla_options *options, mla_report *report);

#endif
