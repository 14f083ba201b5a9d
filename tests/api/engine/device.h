/* The device that the programs of this folder run on, and how a user names its kernels. */
#ifndef ENGINE_DEVICE_H
#define ENGINE_DEVICE_H

#define CL_TARGET_OPENCL_VERSION 120
#include <clmla.h>
#include <stdbool.h>

/* A GPU if there is one, else any device. Of a platform's several, the index modulo their number.
 * NULL: there is none. */
cl_device_id choose_device(int index);

/* "auto", "cpu", "gpu" or "nvidia". */
bool parse_kernel_class(const char *name, clmla_kernel_class *out);

#endif
