/*
 * Everything that goes to stderr: errors of one line, notes, and progress on terminals.
 */
#ifndef CLMLA_CLI_MESSAGE_H
#define CLMLA_CLI_MESSAGE_H

#include <stdbool.h>

/* "clmla: ..." as one line of printable text; of a very long one, both ends. */
void mla_error(const char *format, ...) __attribute__((format(printf, 1, 2)));
void mla_note(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The same without a prefix, for what --verbose asks for. */
void mla_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* From now on every error is also given to take, as one line without prefix; NULL ends that. */
void mla_errors_to(void (*take)(const char *text, void *user), void *user);

/* Replaces the progress line; nothing when stderr is no terminal. Errors and notes clear it. */
void mla_progress(const char *format, ...) __attribute__((format(printf, 1, 2)));
void mla_progress_clear(void);

/* For mla_golden_open: says what is being drawn. */
bool mla_progress_drawing(const char *what, void *user);

#endif
