/* The device that texts in the tests of tuning records are of. */
#ifndef CLMLA_TESTS_TUNING_RECORD_DEVICE_H
#define CLMLA_TESTS_TUNING_RECORD_DEVICE_H

#include "ocl/context.h"

/* How a record of it begins. */
#define RECORD_HEADER "clmla-tuning 1\ndevice Test device\ndriver 3.1\n"

static inline clmla_context record_context(clmla_notify_fn notify)
{
    return (clmla_context){.notify = notify,
                           .device = {.name = "Test device",
                                      .driver_version = "3.1",
                                      .compute_units = 2,
                                      .float_vector_width = 16,
                                      .max_work_group_size = 256,
                                      .local_mem_bytes = 32 * 1024}};
}

#endif
