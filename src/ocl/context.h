/*
 * clmla_context: device, options, notify callback and the programs built so far.
 * Public in clmla.h: clmla_context_create, _release, _get_info, _kernel_class.
 */
#ifndef CLMLA_OCL_CONTEXT_H
#define CLMLA_OCL_CONTEXT_H

#include <stdbool.h>

#include "clmla.h"
#include "core/os.h"
#include "ocl/device.h"

struct mla__program_entry; /* program.c */

struct clmla_context {
    cl_context context; /* retained */
    mla__device device;
    clmla_kernel_class kernel_class;     /* resolved */
    clmla_projection_backend projection; /* as asked for; AUTO is resolved per op */
    bool clblast_overrides; /* CLBlast's parameters may be overridden, for the whole process */
    bool matrix_units;      /* may be used on 16-bit storage, where the device has them */
    clmla_notify_fn notify; /* may be NULL */
    void *notify_user;
    char *kernel_directory; /* may be NULL */
    char *cache_directory;  /* of program binaries, checked; NULL: none */
    mla__os_mutex *mutex;   /* guards what follows */
    struct mla__program_entry *programs;
    int32_t programs_read, programs_compiled; /* from the cache directory; from source */
    int references;                           /* layers and matrices retain their context */
    /* local_memory.c: the most bytes that a work-group had, and the fewest that it had not; 0: not
     * tried. */
    uint64_t local_proven_bytes, local_refused_bytes;
};

void mla__context_retain(clmla_context *context);

/* Sends formatted detail to the notify callback and returns status, so that a check reads
 *     return mla__fail(context, CLMLA_INVALID_STRIDE, "projection: x row stride %llu < K %d", ...);
 * context may be NULL (no callback). */
clmla_status mla__fail(const clmla_context *context, clmla_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
