#include "device.h"

#include <string.h>

enum { MAX_PLATFORMS = 16, MAX_DEVICES = 16 };

cl_device_id choose_device(int index)
{
    const cl_device_type types[] = {CL_DEVICE_TYPE_GPU, CL_DEVICE_TYPE_ALL};
    cl_platform_id platforms[MAX_PLATFORMS];
    cl_uint num_platforms = 0;
    if (clGetPlatformIDs(MAX_PLATFORMS, platforms, &num_platforms) != CL_SUCCESS)
        return NULL;
    for (size_t t = 0; t < 2; t++) {
        for (cl_uint i = 0; i < num_platforms && i < MAX_PLATFORMS; i++) {
            cl_device_id devices[MAX_DEVICES];
            cl_uint count = 0;
            if (clGetDeviceIDs(platforms[i], types[t], MAX_DEVICES, devices, &count) == CL_SUCCESS)
                return devices[(cl_uint)index % (count < MAX_DEVICES ? count : MAX_DEVICES)];
        }
    }
    return NULL;
}

bool parse_kernel_class(const char *name, clmla_kernel_class *out)
{
    for (clmla_kernel_class k = CLMLA_KERNELS_AUTO; k <= CLMLA_KERNELS_NVIDIA; k++) {
        if (strcmp(name, clmla_kernel_class_name(k)) == 0) {
            *out = k;
            return true;
        }
    }
    return false;
}
