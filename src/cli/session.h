/*
 * The device a command works on: OpenCL context, in-order queue and clmla context, with the last
 * detail that the library gave.
 */
#ifndef CLMLA_CLI_SESSION_H
#define CLMLA_CLI_SESSION_H

#include <jansson.h>

#include "cli/inventory.h"
#include "cli/options.h"

typedef struct mla_session {
    const mla_common *common;
    mla_inventory inventory;
    const mla_device_info *device; /* in inventory, its own or the first session's */
    cl_context context;
    cl_command_queue queue;
    clmla_context *clmla;
    char detail[2048];                /* of the last failure inside the library; "" none */
    char tuning_path[MLA_PATH_BYTES]; /* of the record that was looked for; "" none */
} mla_session;

/* Opens the device that the options ask for. The session must not move afterwards; common must
 * outlive it. Returns -1 to go on, or an exit code after printing the error. */
int mla_session_open(const mla_common *common, mla_session *out);
/* Another clmla context, of another projection backend, on an open session's device, OpenCL context
 * and queue. first must outlive it. Returns as above. */
int mla_session_open_beside(const mla_session *first, clmla_projection_backend projection,
                            mla_session *out);
/* The same with a tuning record as text, and without the one of the options. Nothing is printed:
 * returns clmla_context_create's status, with the detail. */
clmla_status mla_session_open_tuned(const mla_session *first, const char *tuning_text,
                                    mla_session *out);
void mla_session_close(mla_session *session);
/* The record that --tuning names, or that the device has in the user's directory, whether it exists
 * or not; "": none. */
void mla_session_tuning_path(const mla_common *common, const mla_device_info *device,
                             char path[MLA_PATH_BYTES]);

/* Prints "what: detail (NAME)" and returns MLA_EXIT_FAILED. Uses up the detail. Where the device's
 * memory did not suffice, it says how much there is, and what needs less. */
int mla_session_fail(mla_session *session, const char *what, clmla_status status);

/* {"platform","name","driver","class","tuning"}: the last is how many tiles a record gave. */
json_t *mla_session_device_json(const mla_session *session);

/* --verbose: which kernels the layer runs, on stderr. */
void mla_session_describe(const mla_session *session, const clmla_layer *layer);

/* A buffer of the session's device. host NULL: every byte 0xff, which reads as NaN, so that a use
 * of memory that nobody wrote shows. *out NULL and success for 0 bytes. */
clmla_status mla_session_buffer(mla_session *session, const void *host, uint64_t bytes,
                                cl_mem *out);
/* Whether the device can have a buffer of so many bytes at all, asked before it is filled on the host.
 * CL_INVALID_BUFFER_SIZE with the detail, or success. */
clmla_status mla_session_check_buffer(mla_session *session, uint64_t bytes);
/* clReleaseMemObject that accepts NULL. */
void mla_buffer_release(cl_mem buffer);

#endif
