#include "cli/inventory.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/message.h"
#include "core/printable.h"

enum { MAX_PLATFORMS = 64, MAX_PLATFORM_DEVICES = 64 };

/* What the ICD loader returns where no driver is registered (cl_khr_icd). */
#define PLATFORM_NOT_FOUND_KHR (-1001)

/* ---- texts ----------------------------------------------------------------------------------- */

/* Some drivers pad names with blanks. */
static void trim(char *text)
{
    mla__make_printable(text);
    size_t first = 0, length = strlen(text);
    while (length > 0 && isspace((unsigned char)text[length - 1]))
        text[--length] = '\0';
    while (isspace((unsigned char)text[first]))
        first++;
    memmove(text, text + first, length - first + 1);
}

static void platform_text(cl_platform_id platform, cl_platform_info what, char *text, size_t bytes)
{
    text[0] = '\0';
    (void)clGetPlatformInfo(platform, what, bytes - 1, text, NULL);
    text[bytes - 1] = '\0';
    trim(text);
}

static void device_text(cl_device_id device, cl_device_info what, char *text, size_t bytes)
{
    text[0] = '\0';
    (void)clGetDeviceInfo(device, what, bytes - 1, text, NULL);
    text[bytes - 1] = '\0';
    trim(text);
}

/* Extension lists are long and of no fixed size. */
static char *device_extensions(cl_device_id device)
{
    size_t bytes = 0;
    if (clGetDeviceInfo(device, CL_DEVICE_EXTENSIONS, 0, NULL, &bytes) != CL_SUCCESS)
        bytes = 0;
    char *text = calloc(bytes + 1, 1);
    if (text != NULL && bytes > 0 &&
        clGetDeviceInfo(device, CL_DEVICE_EXTENSIONS, bytes, text, NULL) != CL_SUCCESS)
        text[0] = '\0';
    return text;
}

/* ---- devices --------------------------------------------------------------------------------- */

static mla_device_kind kind_of(cl_device_id device)
{
    cl_device_type type = 0;
    (void)clGetDeviceInfo(device, CL_DEVICE_TYPE, sizeof(type), &type, NULL);
    return (type & CL_DEVICE_TYPE_GPU) != 0           ? MLA_DEVICE_GPU
           : (type & CL_DEVICE_TYPE_ACCELERATOR) != 0 ? MLA_DEVICE_ACCELERATOR
           : (type & CL_DEVICE_TYPE_CPU) != 0         ? MLA_DEVICE_CPU
                                                      : MLA_DEVICE_OTHER;
}

#define READ(what, field) (void)clGetDeviceInfo(id, what, sizeof(info->field), &info->field, NULL)

/* A query that fails leaves zero or an empty text: a list shows what it can. */
static clmla_status read_device(cl_platform_id platform, int32_t index, cl_device_id id,
                                mla_device_info *info)
{
    *info = (mla_device_info){.platform = platform, .id = id};
    platform_text(platform, CL_PLATFORM_NAME, info->platform_name, sizeof(info->platform_name));
    platform_text(platform, CL_PLATFORM_VENDOR, info->platform_vendor,
                  sizeof(info->platform_vendor));
    device_text(id, CL_DEVICE_NAME, info->name, sizeof(info->name));
    device_text(id, CL_DEVICE_VENDOR, info->vendor, sizeof(info->vendor));
    device_text(id, CL_DEVICE_VERSION, info->version, sizeof(info->version));
    device_text(id, CL_DRIVER_VERSION, info->driver_version, sizeof(info->driver_version));
    READ(CL_DEVICE_MAX_COMPUTE_UNITS, compute_units);
    READ(CL_DEVICE_MAX_CLOCK_FREQUENCY, clock_mhz);
    READ(CL_DEVICE_GLOBAL_MEM_SIZE, global_mem_bytes);
    READ(CL_DEVICE_MAX_MEM_ALLOC_SIZE, max_alloc_bytes);
    READ(CL_DEVICE_LOCAL_MEM_SIZE, local_mem_bytes);
    READ(CL_DEVICE_SINGLE_FP_CONFIG, float_config);
    (void)clmla_device_kernel_class(id, &info->kernel_class);
    info->description.platform = index;
    info->description.kind = kind_of(id);
    info->extensions = device_extensions(id);
    return info->extensions != NULL ? CLMLA_SUCCESS : CL_OUT_OF_HOST_MEMORY;
}

#undef READ

static clmla_status add_platform(mla_inventory *inventory, cl_platform_id platform, int32_t index)
{
    cl_device_id ids[MAX_PLATFORM_DEVICES];
    cl_uint count = 0;
    if (clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, MAX_PLATFORM_DEVICES, ids, &count) !=
        CL_SUCCESS)
        return CLMLA_SUCCESS; /* a driver without a device */
    if (count > MAX_PLATFORM_DEVICES)
        count = MAX_PLATFORM_DEVICES;
    mla_device_info *devices =
        realloc(inventory->devices, (inventory->num_devices + count) * sizeof(*devices));
    if (devices == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    inventory->devices = devices;
    for (cl_uint i = 0; i < count; i++) {
        const clmla_status status =
            read_device(platform, index, ids[i], &devices[inventory->num_devices]);
        if (status != CLMLA_SUCCESS)
            return status;
        inventory->num_devices++;
    }
    return CLMLA_SUCCESS;
}

clmla_status mla_inventory_create(mla_inventory *out)
{
    mla_inventory inventory = {0};
    cl_platform_id platforms[MAX_PLATFORMS];
    cl_uint count = 0;
    clmla_status status = clGetPlatformIDs(MAX_PLATFORMS, platforms, &count);
    if (status == PLATFORM_NOT_FOUND_KHR) {
        count = 0;
        status = CLMLA_SUCCESS;
    }
    if (count > MAX_PLATFORMS)
        count = MAX_PLATFORMS;
    inventory.num_platforms = count;
    for (cl_uint i = 0; i < count && status == CLMLA_SUCCESS; i++)
        status = add_platform(&inventory, platforms[i], (int32_t)i);
    if (status != CLMLA_SUCCESS) {
        mla_inventory_release(&inventory);
        return status;
    }
    for (size_t i = 0; i < inventory.num_devices; i++) { /* after the last move of the array */
        mla_device_info *info = &inventory.devices[i];
        info->description.platform_name = info->platform_name;
        info->description.platform_vendor = info->platform_vendor;
        info->description.name = info->name;
    }
    *out = inventory;
    return CLMLA_SUCCESS;
}

void mla_inventory_release(mla_inventory *inventory)
{
    for (size_t i = 0; i < inventory->num_devices; i++)
        free(inventory->devices[i].extensions);
    free(inventory->devices);
    *inventory = (mla_inventory){0};
}

/* ---- selection ------------------------------------------------------------------------------- */

void mla_inventory_explain_none(const mla_inventory *inventory)
{
    mla_error(
        "no OpenCL device: %s; install the vendor's OpenCL driver, or package pocl-opencl-icd "
        "for the CPU",
        inventory->num_platforms == 0 ? "no OpenCL platform is installed"
                                      : "the installed OpenCL platforms have none");
}

const mla_device_info *mla_inventory_select(const mla_inventory *inventory,
                                            const mla_device_request *request, int *exit_code)
{
    char why[1536];
    if (inventory->num_devices == 0) {
        mla_inventory_explain_none(inventory);
        *exit_code = MLA_EXIT_FAILED;
        return NULL;
    }
    mla_device_description *descriptions = calloc(inventory->num_devices, sizeof(*descriptions));
    if (descriptions == NULL) {
        mla_error("out of memory");
        *exit_code = MLA_EXIT_FAILED;
        return NULL;
    }
    for (size_t i = 0; i < inventory->num_devices; i++)
        descriptions[i] = inventory->devices[i].description;
    const int32_t chosen =
        mla_select_device(descriptions, inventory->num_devices, request, why, sizeof(why));
    free(descriptions);
    if (chosen < 0) {
        mla_error("%s", why);
        *exit_code = MLA_EXIT_USAGE;
        return NULL;
    }
    return &inventory->devices[chosen];
}
