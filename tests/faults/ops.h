/*
 * Single ops on small tensors of their own, for tests in which something fails.
 */
#ifndef CLMLA_TESTS_FAULTS_OPS_H
#define CLMLA_TESTS_FAULTS_OPS_H

#include "support/device.h"
#include "support/support.h"

typedef struct op_world {
    clmla_context *context;
    clmla_matrix *matrix;
    test_buffer x, weight, y, table, cache, pe, cu, lengths;
    unsigned char *start, *expected; /* of y: before and after */
    clmla_status (*enqueue)(struct op_world *w, cl_event *event);
    cl_command_queue queue;
    const cl_event *wait; /* NULL: none */
} op_world;

enum { NUM_OPS = 5 };

op_world ops_make(clmla_kernel_class kernel_class, clmla_projection_backend backend);
void ops_release(op_world *w);
/* The op that is run from now on; returns its name. */
const char *ops_choose(op_world *w, int op);

/* The rest is of a scenario: at points to the world. y as it was before; numbers, so that rope in
 * place has some to turn. */
void ops_reset(void *at);
/* An event comes with success, and with it alone. */
clmla_status ops_run(void *at);
/* The first result is what all others are compared with. */
void ops_check(void *at);
void ops_check_untouched(void *at);

#endif
