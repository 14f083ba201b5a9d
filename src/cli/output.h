/*
 * --output: the file that a command writes.
 */
#ifndef CLMLA_CLI_OUTPUT_H
#define CLMLA_CLI_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>

/* Whether such a file can be: asked before the work, so that a mistyped path does not cost the run.
 * False after printing the error. */
bool mla_output_is_possible(const char *path);

/* Replaces the file in one step: it is the old one or all of the new one. A device or a pipe is
 * written to. False after printing the error. */
bool mla_output_write(const char *path, const char *data, size_t bytes);

#endif
