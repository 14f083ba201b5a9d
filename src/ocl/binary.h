/*
 * Binaries of programs on disk, so that a later process need not compile: one file per program in
 * the context's cache directory.
 *
 * A file is named by a hash of its key and holds the whole key, which is compared: all that the
 * binary depends on, namely version of file and library, device, driver, platform, build options
 * and source text. Whatever is in doubt is compiled and replaced. A file is put in place by one
 * rename, so that processes at once see whole files only; who comes last stays. No problem here
 * fails a call: it becomes a line of information to notify.
 */
#ifndef CLMLA_OCL_BINARY_H
#define CLMLA_OCL_BINARY_H

#include "ocl/context.h"

/* One program's place in the cache, from _find to _finish. All zero: the context has no cache. */
typedef struct mla__binary {
    char *path, *key;
    char *file; /* as read; NULL: nothing fit to use */
    size_t key_bytes, file_bytes;
    bool replace;    /* finish writes what was compiled instead */
    char note[1024]; /* the first problem, for notify; "" none */
} mla__binary;

/* Makes the directory and checks that it is the user's own. On a problem notify is told, and the
 * context goes without a cache. CL_OUT_OF_HOST_MEMORY or success. */
clmla_status mla__binary_open_directory(clmla_context *context, const char *directory);

/* Reads the program's file, if there is one. */
void mla__binary_find(const clmla_context *context, const char *options, const char *source,
                      mla__binary *binary);

/* The program from what was found; false: compile it. */
bool mla__binary_build(const clmla_context *context, const char *options, mla__binary *binary,
                       cl_program *out);

/* The program's binary for the context's device behind `before` bytes of room, free() it. */
clmla_status mla__binary_read(const clmla_context *context, cl_program program, size_t before,
                              char **out, size_t *bytes);

/* Writes the file where `replace` is set, tells notify of a problem, frees. program NULL: there is
 * none. Takes as long as a compilation with some drivers: outside the context's mutex. */
void mla__binary_finish(const clmla_context *context, mla__binary *binary, cl_program program);

#endif
