#include <stddef.h>

#include "clmla_ops.h"

#define TEXT_OF(value) #value
#define TEXT(value) TEXT_OF(value)

const char *clmla_version(void)
{
    return TEXT(CLMLA_VERSION_MAJOR) "." TEXT(CLMLA_VERSION_MINOR) "." TEXT(CLMLA_VERSION_PATCH);
}

typedef struct status_text {
    clmla_status status;
    const char *name;
    const char *message;
} status_text;

/* By value, since the headers name the later ones only for later target versions: OpenCL 1.0 to 3.0
 * and the extensions of the Khronos registry. Where two extensions share a value (-1010 to -1013),
 * the Khronos one is named. */
// clang-format off
static const status_text texts[] = {
#define CLMLA_STATUS_TEXT(name, value, message) {(value), "CLMLA_" #name, (message)},
    CLMLA_STATUS_MAP(CLMLA_STATUS_TEXT)
#undef CLMLA_STATUS_TEXT
    {-1, "CL_DEVICE_NOT_FOUND", "no OpenCL device of the requested type was found"},
    {-2, "CL_DEVICE_NOT_AVAILABLE", "the device exists but is not available"},
    {-3, "CL_COMPILER_NOT_AVAILABLE", "the platform has no OpenCL C compiler"},
    {-4, "CL_MEM_OBJECT_ALLOCATION_FAILURE", "the device could not allocate memory for a buffer"},
    {-5, "CL_OUT_OF_RESOURCES", "the device ran out of resources, or a kernel failed on it"},
    {-6, "CL_OUT_OF_HOST_MEMORY", "the host ran out of memory"},
    {-7, "CL_PROFILING_INFO_NOT_AVAILABLE",
     "the queue was created without profiling, or the command is not complete"},
    {-8, "CL_MEM_COPY_OVERLAP", "source and destination of a copy overlap"},
    {-9, "CL_IMAGE_FORMAT_MISMATCH", "two images differ in format"},
    {-10, "CL_IMAGE_FORMAT_NOT_SUPPORTED", "the image format is not supported"},
    {-11, "CL_BUILD_PROGRAM_FAILURE",
     "a program did not build; the notify callback gets the build log"},
    {-12, "CL_MAP_FAILURE", "a buffer could not be mapped into host memory"},
    {-13, "CL_MISALIGNED_SUB_BUFFER_OFFSET",
     "a sub-buffer's offset is not aligned as the device requires"},
    {-14, "CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST",
     "an event in a wait list ended with an error"},
    {-15, "CL_COMPILE_PROGRAM_FAILURE", "a program did not compile"},
    {-16, "CL_LINKER_NOT_AVAILABLE", "the platform has no linker"},
    {-17, "CL_LINK_PROGRAM_FAILURE", "a program did not link"},
    {-18, "CL_DEVICE_PARTITION_FAILED", "the device could not be partitioned"},
    {-19, "CL_KERNEL_ARG_INFO_NOT_AVAILABLE",
     "the program holds no information about kernel arguments"},
    {-30, "CL_INVALID_VALUE", "a value passed to OpenCL is not valid"},
    {-31, "CL_INVALID_DEVICE_TYPE", "the device type is not valid"},
    {-32, "CL_INVALID_PLATFORM", "the platform is not valid"},
    {-33, "CL_INVALID_DEVICE", "the device is not valid, or not one of the context's"},
    {-34, "CL_INVALID_CONTEXT",
     "the context is not valid, or objects belong to different contexts"},
    {-35, "CL_INVALID_QUEUE_PROPERTIES", "the device does not support these queue properties"},
    {-36, "CL_INVALID_COMMAND_QUEUE", "the command queue is not valid"},
    {-37, "CL_INVALID_HOST_PTR", "a host pointer does not fit the memory flags"},
    {-38, "CL_INVALID_MEM_OBJECT", "a memory object is not valid"},
    {-39, "CL_INVALID_IMAGE_FORMAT_DESCRIPTOR", "the image format descriptor is not valid"},
    {-40, "CL_INVALID_IMAGE_SIZE", "the image size is not supported"},
    {-41, "CL_INVALID_SAMPLER", "the sampler is not valid"},
    {-42, "CL_INVALID_BINARY", "the program binary is not valid for this device"},
    {-43, "CL_INVALID_BUILD_OPTIONS", "the compiler does not accept the build options"},
    {-44, "CL_INVALID_PROGRAM", "the program is not valid"},
    {-45, "CL_INVALID_PROGRAM_EXECUTABLE", "the program was not built for this device"},
    {-46, "CL_INVALID_KERNEL_NAME", "the program has no kernel of this name"},
    {-47, "CL_INVALID_KERNEL_DEFINITION", "the kernel's definition differs between devices"},
    {-48, "CL_INVALID_KERNEL", "the kernel is not valid"},
    {-49, "CL_INVALID_ARG_INDEX", "the kernel has no argument of this index"},
    {-50, "CL_INVALID_ARG_VALUE", "a kernel argument's value is not valid"},
    {-51, "CL_INVALID_ARG_SIZE", "a kernel argument's size does not match"},
    {-52, "CL_INVALID_KERNEL_ARGS", "not all of the kernel's arguments were set"},
    {-53, "CL_INVALID_WORK_DIMENSION", "the number of work dimensions is not supported"},
    {-54, "CL_INVALID_WORK_GROUP_SIZE",
     "the work-group size does not suit the kernel or the device"},
    {-55, "CL_INVALID_WORK_ITEM_SIZE", "a work-group is too long in one dimension"},
    {-56, "CL_INVALID_GLOBAL_OFFSET", "the global offset is not valid"},
    {-57, "CL_INVALID_EVENT_WAIT_LIST", "the wait list is not valid"},
    {-58, "CL_INVALID_EVENT", "an event is not valid"},
    {-59, "CL_INVALID_OPERATION", "the operation is not allowed on this object or device"},
    {-60, "CL_INVALID_GL_OBJECT", "the OpenGL object is not valid"},
    {-61, "CL_INVALID_BUFFER_SIZE",
     "the buffer is empty or larger than the device can allocate at once"},
    {-62, "CL_INVALID_MIP_LEVEL", "the mipmap level is not valid"},
    {-63, "CL_INVALID_GLOBAL_WORK_SIZE", "the global work size is not valid"},
    {-64, "CL_INVALID_PROPERTY", "a property is not known or not valid"},
    {-65, "CL_INVALID_IMAGE_DESCRIPTOR", "the image descriptor is not valid"},
    {-66, "CL_INVALID_COMPILER_OPTIONS", "the compiler does not accept the compile options"},
    {-67, "CL_INVALID_LINKER_OPTIONS", "the linker does not accept the link options"},
    {-68, "CL_INVALID_DEVICE_PARTITION_COUNT", "the number of sub-devices is not supported"},
    {-69, "CL_INVALID_PIPE_SIZE", "the pipe size is not valid"},
    {-70, "CL_INVALID_DEVICE_QUEUE", "the device queue is not valid"},
    {-71, "CL_INVALID_SPEC_ID", "the program has no such specialisation constant"},
    {-72, "CL_MAX_SIZE_RESTRICTION_EXCEEDED",
     "a local memory argument is larger than the kernel allows"},
    {-1000, "CL_INVALID_GL_SHAREGROUP_REFERENCE_KHR", "the OpenGL share group is not valid"},
    {-1001, "CL_PLATFORM_NOT_FOUND_KHR", "no OpenCL platform is installed"},
    {-1002, "CL_INVALID_D3D10_DEVICE_KHR", "the Direct3D 10 device is not valid"},
    {-1003, "CL_INVALID_D3D10_RESOURCE_KHR", "the Direct3D 10 resource is not valid"},
    {-1004, "CL_D3D10_RESOURCE_ALREADY_ACQUIRED_KHR",
     "the Direct3D 10 resource is already acquired"},
    {-1005, "CL_D3D10_RESOURCE_NOT_ACQUIRED_KHR", "the Direct3D 10 resource is not acquired"},
    {-1006, "CL_INVALID_D3D11_DEVICE_KHR", "the Direct3D 11 device is not valid"},
    {-1007, "CL_INVALID_D3D11_RESOURCE_KHR", "the Direct3D 11 resource is not valid"},
    {-1008, "CL_D3D11_RESOURCE_ALREADY_ACQUIRED_KHR",
     "the Direct3D 11 resource is already acquired"},
    {-1009, "CL_D3D11_RESOURCE_NOT_ACQUIRED_KHR", "the Direct3D 11 resource is not acquired"},
    {-1010, "CL_INVALID_DX9_MEDIA_ADAPTER_KHR", "the Direct3D 9 media adapter is not valid"},
    {-1011, "CL_INVALID_DX9_MEDIA_SURFACE_KHR", "the Direct3D 9 media surface is not valid"},
    {-1012, "CL_DX9_MEDIA_SURFACE_ALREADY_ACQUIRED_KHR",
     "the Direct3D 9 media surface is already acquired"},
    {-1013, "CL_DX9_MEDIA_SURFACE_NOT_ACQUIRED_KHR",
     "the Direct3D 9 media surface is not acquired"},
    {-1057, "CL_DEVICE_PARTITION_FAILED_EXT", "the device could not be partitioned"},
    {-1058, "CL_INVALID_PARTITION_COUNT_EXT", "the number of sub-devices is not supported"},
    {-1059, "CL_INVALID_PARTITION_NAME_EXT", "the name of a compute unit is not valid"},
    {-1092, "CL_EGL_RESOURCE_NOT_ACQUIRED_KHR", "the EGL resource is not acquired"},
    {-1093, "CL_INVALID_EGL_OBJECT_KHR", "the EGL object is not valid"},
    {-1094, "CL_INVALID_ACCELERATOR_INTEL", "the accelerator is not valid"},
    {-1095, "CL_INVALID_ACCELERATOR_TYPE_INTEL", "the accelerator type is not valid"},
    {-1096, "CL_INVALID_ACCELERATOR_DESCRIPTOR_INTEL", "the accelerator descriptor is not valid"},
    {-1097, "CL_ACCELERATOR_TYPE_NOT_SUPPORTED_INTEL", "the accelerator type is not supported"},
    {-1098, "CL_INVALID_VA_API_MEDIA_ADAPTER_INTEL", "the VA-API media adapter is not valid"},
    {-1099, "CL_INVALID_VA_API_MEDIA_SURFACE_INTEL", "the VA-API media surface is not valid"},
    {-1100, "CL_VA_API_MEDIA_SURFACE_ALREADY_ACQUIRED_INTEL",
     "the VA-API media surface is already acquired"},
    {-1101, "CL_VA_API_MEDIA_SURFACE_NOT_ACQUIRED_INTEL",
     "the VA-API media surface is not acquired"},
    {-1108, "CL_COMMAND_TERMINATED_ITSELF_WITH_FAILURE_ARM",
     "a command ended itself with a failure"},
    {-1121, "CL_CONTEXT_TERMINATED_KHR", "the context was terminated"},
    {-1138, "CL_INVALID_COMMAND_BUFFER_KHR", "the command buffer is not valid"},
    {-1139, "CL_INVALID_SYNC_POINT_WAIT_LIST_KHR", "the list of sync points is not valid"},
    {-1140, "CL_INCOMPATIBLE_COMMAND_QUEUE_KHR", "the queue does not suit the command buffer"},
    {-1141, "CL_INVALID_MUTABLE_COMMAND_KHR", "the mutable command is not valid"},
    {-1142, "CL_INVALID_SEMAPHORE_KHR", "the semaphore is not valid"},
};
// clang-format on

static const status_text *find_text(clmla_status status)
{
    static const status_text unknown = {
        .name = "unknown status",
        .message = "a status that neither clmla nor OpenCL defines",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        if (texts[i].status == status)
            return &texts[i];
    return &unknown;
}

const char *clmla_status_name(clmla_status status) { return find_text(status)->name; }

const char *clmla_status_message(clmla_status status) { return find_text(status)->message; }
