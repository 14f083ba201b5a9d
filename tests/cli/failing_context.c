/*
 * Loaded before OpenCL: a driver that lists its devices and opens none of them.
 */
#include <CL/cl.h>

cl_context CL_API_CALL clCreateContext(const cl_context_properties *properties, cl_uint num_devices,
                                       const cl_device_id *devices,
                                       void(CL_CALLBACK *notify)(const char *, const void *, size_t,
                                                                 void *),
                                       void *user, cl_int *status)
{
    (void)properties;
    (void)num_devices;
    (void)devices;
    (void)notify;
    (void)user;
    if (status != NULL)
        *status = CL_DEVICE_NOT_AVAILABLE;
    return NULL;
}
