/*
 * A scenario calls the library with every n-th call of OpenCL or CLBlast failing in turn, n = 1, 2,
 * ... until none is left to fail; then with every n-th allocation of host memory failing. Each time:
 * the status with which the call failed, or CL_OUT_OF_HOST_MEMORY (but where the failure may be
 * overcome, and the result is then right), no hold on an object or memory kept or given up too often,
 * and the same call succeeds afterwards, with the right result. The statuses are those of devices and
 * hosts that are full, in turns.
 */
#ifndef CLMLA_TESTS_FAULTS_SCENARIO_H
#define CLMLA_TESTS_FAULTS_SCENARIO_H

#include "faults/opencl.h"
#include "support/support.h"

typedef struct scenario {
    const char *name;
    /* Sets things up; no call fails here. May be NULL. */
    void (*before)(void *world);
    /* What is tried. Leaves no objects behind, whatever happens. */
    clmla_status (*run)(void *world);
    /* Fails the test unless the result is right. May be NULL. */
    void (*check)(void *world);
    /* Fails the test unless nothing was changed by a run that failed. May be NULL. */
    void (*check_failed)(void *world);
    /* Functions whose failure may be overcome, ending in NULL; NULL: none. "malloc" is any of those
     * that allocate. */
    const char *const *overcome;
    bool keeps_events; /* and memory: more of them from time to time, until the world ends */
    /* Of n, once past `dense`; 0: every call. With CLMLA_FAULTS_ALL in the environment every call. */
    int stride, dense;
} scenario;

/* Fails the test unless holds are what they were: for the end of a world. */
void scenario_expect_holds(const faults_holds *before);

void scenario_run(const scenario *s, void *world);

#endif
