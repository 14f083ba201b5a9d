/*
 * OpenCL and CLBlast as the library calls them, wrapped at link time: the n-th call fails, and every
 * object that is created, retained and released is counted. CMakeLists.txt has the list of the
 * functions; check_list.sh compares it with what the library refers to.
 *
 * Releases never fail. What fails does nothing, gives the status that it was armed with and no
 * object.
 */
#ifndef CLMLA_TESTS_FAULTS_OPENCL_H
#define CLMLA_TESTS_FAULTS_OPENCL_H

#include <stdbool.h>

#include "clmla.h"

/* Call number n from here on fails with this status, 1 the next; 0: none. */
void faults_arm(int n, cl_int status);
/* No call fails any more; the function that did, NULL if there was none. */
const char *faults_disarm(void);

/* From now on every enqueued command has an event, which lives until this ends it. PoCL 3.1 aborts
 * when a command fails whose event nobody holds and another one waits for it. */
void faults_keep_events(bool on);

/* Holds on objects, by kind. */
enum {
    FAULTS_CONTEXT,
    FAULTS_DEVICE,
    FAULTS_QUEUE,
    FAULTS_MEMORY,
    FAULTS_PROGRAM,
    FAULTS_KERNEL,
    FAULTS_EVENT,
    FAULTS_KINDS
};
typedef struct faults_holds {
    int of[FAULTS_KINDS];
} faults_holds;
faults_holds faults_count(void);
const char *faults_kind_name(int kind);

#endif
