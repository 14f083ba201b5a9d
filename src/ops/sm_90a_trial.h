/* A context to try kernels for target sm_90a in, and what is tried there. For sm_90a.c. */
#ifndef CLMLA_OPS_SM_90A_TRIAL_H
#define CLMLA_OPS_SM_90A_TRIAL_H

#include "ocl/context.h"

/* All of OpenCL that a trial has, apart from the host's: a kernel that faults takes the whole context
 * with it. The device is as the host's context sees it. */
typedef struct mla__sm_90a_trial {
    cl_context opencl;
    cl_command_queue queue;
    clmla_context *context; /* asked for such kernels, in every part */
} mla__sm_90a_trial;

/* A buffer with a copy of data, or without contents where that is NULL; NULL after a failure. */
cl_mem mla__sm_90a_buffer(const mla__sm_90a_trial *trial, size_t bytes, void *data);

/* Each: why the kernels do not work, or NULL. */
const char *mla__sm_90a_try_projection(const mla__sm_90a_trial *trial);
const char *mla__sm_90a_try_attention(const mla__sm_90a_trial *trial);

#endif
