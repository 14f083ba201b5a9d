/*
 * One line of explanation for clmla_model's callers.
 */
#ifndef CLMLA_MODEL_ERROR_H
#define CLMLA_MODEL_ERROR_H

#include "clmla_model.h"

#if defined(__GNUC__)
#define MLA__MODEL_PRINTF __attribute__((format(printf, 3, 4)))
#else
#define MLA__MODEL_PRINTF
#endif

/* Writes the text (error may be NULL) and returns status. Control characters become '?': names come
 * from files and end up on terminals. */
clmla_status mla__model_fail(clmla_model_error *error, clmla_status status, const char *format,
                             ...) MLA__MODEL_PRINTF;

#ifdef __clang_analyzer__ /* it sees one file at a time: it is shown that the status comes back */
#define mla__model_fail(error, status, ...)                                                        \
    (mla__model_fail((error), (status), __VA_ARGS__), (status))
#endif

/* The end of a path, short enough to leave room for the rest of the message. */
const char *mla__model_short_path(const char *path);

#endif
