/*
 * clmla_context: device, options, notify callback and the programs built so far.
 * Public in clmla_ops.h: clmla_context_release, _get_info, _kernel_class; _create is
 * tuning/context_create.c's.
 */
#ifndef CLMLA_OCL_CONTEXT_H
#define CLMLA_OCL_CONTEXT_H

#include <stdbool.h>

#include "clmla_ops.h"
#include "core/os.h"
#include "ocl/device.h"

struct mla__program_entry; /* program.c */
struct mla__record;        /* tuning/record.h */

/* Kernels that a driver builds for target sm_90a by way of ocl/retarget.h. */
typedef enum mla__sm_90a {
    MLA__SM_90A_OFF,
    MLA__SM_90A_ASKED, /* for; whether they work is not known before ops/sm_90a.h */
    MLA__SM_90A_READY,
    MLA__SM_90A_REFUSED
} mla__sm_90a;

/* What such kernels compute. One part may work where another does not. */
typedef enum mla__sm_90a_part {
    MLA__SM_90A_PROJECTION,
    MLA__SM_90A_ATTENTION,
    MLA__SM_90A_PARTS
} mla__sm_90a_part;

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
    struct mla__record
        *record; /* tiles that take the place of built-in ones; one allocation. NULL: none */
    int32_t tuning_entries; /* of record */
    mla__os_mutex *mutex;   /* guards what follows */
    struct mla__program_entry *programs;
    int32_t programs_read, programs_compiled; /* from the cache directory; from source */
    int references;                           /* layers and matrices retain their context */
    mla__sm_90a sm_90a[MLA__SM_90A_PARTS];
    const char *why_not_sm_90a[MLA__SM_90A_PARTS]; /* constant text; when REFUSED */
    /* local_memory.c: the most bytes that a work-group had, and the fewest that it had not; 0: not
     * tried. */
    uint64_t local_proven_bytes, local_refused_bytes;
};

/* What clmla_context_create does but for the tuning record. options is of this version. */
clmla_status mla__context_create(cl_context context, cl_device_id device,
                                 const clmla_context_options *options, clmla_context **out);
void mla__context_retain(clmla_context *context);

/* How things stand; *why, unless NULL, becomes the reason of a refusal. */
mla__sm_90a mla__context_sm_90a(const clmla_context *context, mla__sm_90a_part part,
                                const char **why);
/* Only once: when they were asked for and are not refused. A refusal, for a reason that is constant
 * text, is told to notify; bound ops keep the kernels that they have. */
void mla__context_accept_sm_90a(clmla_context *context, mla__sm_90a_part part);
void mla__context_refuse_sm_90a(clmla_context *context, mla__sm_90a_part part, const char *why);
/* "projections", "attention" */
const char *mla__sm_90a_part_name(mla__sm_90a_part part);

/* Sends formatted detail to the notify callback and returns status, so that a check reads
 *     return mla__fail(context, CLMLA_INVALID_STRIDE, "projection: x row stride %llu < K %d", ...);
 * context may be NULL (no callback). */
clmla_status mla__fail(const clmla_context *context, clmla_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#ifdef __clang_analyzer__ /* it sees one file at a time: it is shown that the status comes back */
#define mla__fail(context, status, ...) (mla__fail((context), (status), __VA_ARGS__), (status))
#endif

#endif
