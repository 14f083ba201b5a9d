/*
 * Programs: OpenCL C assembled from named source files and a block of macro definitions, built once
 * per context and kept there.
 *
 * The text given to the driver is: the definitions, then for each file `#line 1 "file"` and the
 * file, so that a build log names file and line and no include path is needed.
 */
#ifndef CLMLA_OCL_PROGRAM_H
#define CLMLA_OCL_PROGRAM_H

#include "ocl/context.h"

/* Text of an embedded kernel file ("common.clh", "cpu/attention.cl"), or of the file of the same
 * name in the context's kernel directory. *owned is set when the caller must free it. */
clmla_status mla__source_find(const clmla_context *context, const char *name, const char **text,
                              char **owned);

/* Macro definitions as text, one `#define NAME value` a line, in the order added. */
typedef struct mla__defines {
    char text[4096];
    size_t length;
    int overflow; /* set when a definition did not fit; mla__program_get then fails with INTERNAL */
    double loops; /* mla__define_loops; 0: nobody said */
} mla__defines;

void mla__define_int(mla__defines *defines, const char *name, long long value);
void mla__define_text(mla__defines *defines, const char *name, const char *value);
void mla__define_dtype(mla__defines *defines, const char *name,
                       clmla_dtype dtype); /* bf16 f16 f32 */
/* What the loops of a work-item come to at the most (ops/loops.h), > 0; not a macro. A device with
 * max_loop_iterations gets no kernel that may pass them, or that does not say. */
void mla__define_loops(mla__defines *defines, double iterations);

/* The program of these files (NULL-terminated list; common.clh is put first automatically) and
 * definitions; defines may be NULL. Built on first use, then found; borrowed from the context.
 * Options are "-cl-std=CL1.2" and nothing that relaxes arithmetic. A build failure sends the log to
 * notify and returns CL_BUILD_PROGRAM_FAILURE. Any thread. */
clmla_status mla__program_get(clmla_context *context, const char *const *files,
                              const mla__defines *defines, cl_program *out);

/* The same, rebuilt for target sm_90a by way of retarget.h. A driver that does not go along gives
 * CL_BUILD_PROGRAM_FAILURE, too. */
clmla_status mla__program_get_sm_90a(clmla_context *context, const char *const *files,
                                     const mla__defines *defines, cl_program *out);

/* The same for a program that may fail to build where a device refuses it: the log is dropped. */
clmla_status mla__program_try(clmla_context *context, const char *const *files,
                              const mla__defines *defines, cl_program *out);

/* Frees every program of a context that is going away. */
void mla__program_release_all(clmla_context *context);

#endif
