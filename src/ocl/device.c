#include "ocl/device.h"

#include <stdlib.h>
#include <string.h>

#include "core/os.h"

/* cl_nv_device_attribute_query; named here because not every cl_ext.h has them. */
enum { NV_COMPUTE_CAPABILITY_MAJOR = 0x4000, NV_COMPUTE_CAPABILITY_MINOR = 0x4001 };

/* mma.sync on bf16 and cp.async (PTX ISA): Ampere. */
enum { FIRST_COMPUTE_CAPABILITY = 80 };

typedef cl_int (*info_fn)(void *object, cl_uint name, size_t bytes, void *value, size_t *needed);

static cl_int device_info(void *object, cl_uint name, size_t bytes, void *value, size_t *needed)
{
    return clGetDeviceInfo((cl_device_id)object, name, bytes, value, needed);
}

static cl_int platform_info(void *object, cl_uint name, size_t bytes, void *value, size_t *needed)
{
    return clGetPlatformInfo((cl_platform_id)object, name, bytes, value, needed);
}

/* A string of any length, free() it. */
static clmla_status read_text(info_fn info, void *object, cl_uint name, char **out)
{
    size_t bytes = 0;
    clmla_status status = info(object, name, 0, NULL, &bytes);
    if (status != CLMLA_SUCCESS)
        return status;
    char *text = calloc(bytes + 1, 1);
    if (text == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    status = bytes == 0 ? CLMLA_SUCCESS : info(object, name, bytes, text, NULL);
    if (status != CLMLA_SUCCESS) {
        free(text);
        return status;
    }
    *out = text;
    return CLMLA_SUCCESS;
}

/* A string into a field of fixed size, cut where it is longer: a short field is an error to
 * clGet*Info. */
static clmla_status read_field(info_fn info, void *object, cl_uint name, char *field, size_t bytes)
{
    char *text = NULL;
    const clmla_status status = read_text(info, object, name, &text);
    if (status != CLMLA_SUCCESS)
        return status;
    const size_t length = strlen(text);
    const size_t kept = length < bytes ? length : bytes - 1;
    memcpy(field, text, kept);
    field[kept] = '\0';
    free(text);
    return CLMLA_SUCCESS;
}

/* Whole words only: cl_khr_fp16 is not in "cl_khr_fp16_extra". */
static bool has_word(const char *words, const char *word)
{
    const size_t length = strlen(word);
    for (const char *at = strstr(words, word); at != NULL; at = strstr(at + length, word)) {
        const bool begins = at == words || at[-1] == ' ';
        const bool ends = at[length] == '\0' || at[length] == ' ';
        if (begins && ends)
            return true;
    }
    return false;
}

static clmla_status read_texts(mla__device *device)
{
    cl_platform_id platform = NULL;
    clmla_status status =
        clGetDeviceInfo(device->id, CL_DEVICE_PLATFORM, sizeof platform, &platform, NULL);
    if (status != CLMLA_SUCCESS)
        return status;
    const struct {
        info_fn info;
        void *object;
        cl_uint name;
        char *field;
    } texts[] = {
        {device_info, device->id, CL_DEVICE_NAME, device->name},
        {device_info, device->id, CL_DEVICE_VENDOR, device->vendor},
        {device_info, device->id, CL_DEVICE_VERSION, device->version},
        {device_info, device->id, CL_DRIVER_VERSION, device->driver_version},
        {platform_info, platform, CL_PLATFORM_NAME, device->platform_name},
        {platform_info, platform, CL_PLATFORM_VERSION, device->platform_version},
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        status = read_field(texts[i].info, texts[i].object, texts[i].name, texts[i].field,
                            sizeof device->name);
        if (status != CLMLA_SUCCESS)
            return status;
    }
    return CLMLA_SUCCESS;
}

int32_t mla__float_vector_width(cl_uint native, cl_uint preferred)
{
    const cl_uint width = native > 0 ? native : preferred;
    return width >= 16 ? 16 : width >= 8 ? 8 : 4;
}

static clmla_status read_numbers(mla__device *device)
{
    cl_uint align_bits = 0, native_width = 0, preferred_width = 0;
    const struct {
        cl_device_info name;
        size_t bytes;
        void *field;
    } numbers[] = {
        {CL_DEVICE_MAX_COMPUTE_UNITS, sizeof device->compute_units, &device->compute_units},
        {CL_DEVICE_NATIVE_VECTOR_WIDTH_FLOAT, sizeof native_width, &native_width},
        {CL_DEVICE_PREFERRED_VECTOR_WIDTH_FLOAT, sizeof preferred_width, &preferred_width},
        {CL_DEVICE_GLOBAL_MEM_SIZE, sizeof device->global_mem_bytes, &device->global_mem_bytes},
        {CL_DEVICE_MAX_MEM_ALLOC_SIZE, sizeof device->max_alloc_bytes, &device->max_alloc_bytes},
        {CL_DEVICE_LOCAL_MEM_SIZE, sizeof device->local_mem_bytes, &device->local_mem_bytes},
        {CL_DEVICE_MAX_WORK_GROUP_SIZE, sizeof device->max_work_group_size,
         &device->max_work_group_size},
        {CL_DEVICE_MEM_BASE_ADDR_ALIGN, sizeof align_bits, &align_bits},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        const clmla_status status =
            clGetDeviceInfo(device->id, numbers[i].name, numbers[i].bytes, numbers[i].field, NULL);
        if (status != CLMLA_SUCCESS)
            return status;
    }
    device->float_vector_width = mla__float_vector_width(native_width, preferred_width);
    device->mem_base_addr_align_bytes = align_bits / 8;
    return CLMLA_SUCCESS;
}

/* A device may have more than the three dimensions that OpenCL C can use. */
static clmla_status read_work_item_sizes(mla__device *device)
{
    size_t bytes = 0;
    clmla_status status =
        clGetDeviceInfo(device->id, CL_DEVICE_MAX_WORK_ITEM_SIZES, 0, NULL, &bytes);
    if (status != CLMLA_SUCCESS)
        return status;
    if (bytes < sizeof device->max_work_item_sizes)
        return CLMLA_UNSUPPORTED_DEVICE; /* a custom device: no three-dimensional ranges */
    size_t *sizes = malloc(bytes);
    if (sizes == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    status = clGetDeviceInfo(device->id, CL_DEVICE_MAX_WORK_ITEM_SIZES, bytes, sizes, NULL);
    if (status == CLMLA_SUCCESS)
        memcpy(device->max_work_item_sizes, sizes, sizeof device->max_work_item_sizes);
    free(sizes);
    return status;
}

/* type, has_fp16, compute_capability and what follows from them: all that clmla_device_kernel_class
 * needs. */
static clmla_status read_capabilities(mla__device *device)
{
    char *extensions = NULL;
    clmla_status status =
        clGetDeviceInfo(device->id, CL_DEVICE_TYPE, sizeof device->type, &device->type, NULL);
    if (status == CLMLA_SUCCESS)
        status = read_text(device_info, device->id, CL_DEVICE_EXTENSIONS, &extensions);
    if (status != CLMLA_SUCCESS)
        return status;
    device->has_fp16 = has_word(extensions, "cl_khr_fp16");
    if (has_word(extensions, "cl_nv_device_attribute_query")) {
        cl_uint major = 0, minor = 0;
        status =
            clGetDeviceInfo(device->id, NV_COMPUTE_CAPABILITY_MAJOR, sizeof major, &major, NULL);
        if (status == CLMLA_SUCCESS)
            status = clGetDeviceInfo(device->id, NV_COMPUTE_CAPABILITY_MINOR, sizeof minor, &minor,
                                     NULL);
        device->compute_capability = (int)(10 * major + minor);
    }
    free(extensions);
    device->has_ptx = device->compute_capability >= FIRST_COMPUTE_CAPABILITY;
    device->kernel_class = (device->type & CL_DEVICE_TYPE_CPU) != 0 ? CLMLA_KERNELS_CPU
                           : device->has_ptx                        ? CLMLA_KERNELS_NVIDIA
                                                                    : CLMLA_KERNELS_GPU;
    return status;
}

/* Mesa's compiler for processors (gallivm) ends every loop of a work-item once they have come to
 * LP_MAX_TGSI_LOOP_ITERATIONS together, up to Mesa 22.3 at least, and the kernel goes on. Mesa's
 * other drivers are not CPUs. */
static cl_uint loop_iterations(const mla__device *device)
{
    enum { MESA_LOOP_ITERATIONS = 65535 };
    const bool mesa = strcmp(device->platform_name, "rusticl") == 0 ||
                      strcmp(device->platform_name, "Clover") == 0;
    return mesa && (device->type & CL_DEVICE_TYPE_CPU) != 0 ? MESA_LOOP_ITERATIONS : 0;
}

clmla_status mla__device_read(cl_device_id id, mla__device *out)
{
    mla__device device = {.id = id};
    clmla_status status = read_texts(&device);
    if (status == CLMLA_SUCCESS)
        status = read_numbers(&device);
    if (status == CLMLA_SUCCESS)
        status = read_work_item_sizes(&device);
    if (status == CLMLA_SUCCESS)
        status = read_capabilities(&device);
    if (status != CLMLA_SUCCESS)
        return status;
    /* PoCL compiles a kernel anew for every local size that it meets. */
    device.is_pocl = strcmp(device.platform_name, "Portable Computing Language") == 0;
    /* Inline assembly reaches the processor only where this process compiles for itself. */
    const bool is_this_processor = device.is_pocl && (device.type & CL_DEVICE_TYPE_CPU) != 0;
    device.splits_vload = is_this_processor;
    device.has_bf16_dot = is_this_processor && mla__os_cpu_has_bf16_dot();
    device.has_byte_tables = is_this_processor && mla__os_cpu_has_byte_tables();
    device.max_loop_iterations = loop_iterations(&device);
    *out = device;
    return CLMLA_SUCCESS;
}

clmla_status clmla_device_kernel_class(cl_device_id device, clmla_kernel_class *out)
{
    if (device == NULL || out == NULL)
        return CLMLA_INVALID_ARGUMENT;
    mla__device read = {.id = device};
    const clmla_status status = read_capabilities(&read);
    if (status == CLMLA_SUCCESS)
        *out = read.kernel_class;
    return status;
}

const char *clmla_kernel_class_name(clmla_kernel_class kernel_class)
{
    switch (kernel_class) {
    case CLMLA_KERNELS_AUTO:
        return "auto";
    case CLMLA_KERNELS_CPU:
        return "cpu";
    case CLMLA_KERNELS_GPU:
        return "gpu";
    case CLMLA_KERNELS_NVIDIA:
        return "nvidia";
    default:
        return "unknown";
    }
}
