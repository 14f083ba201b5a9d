#include "cli/select.h"

#include <ctype.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

const char *mla_device_kind_name(mla_device_kind kind)
{
    switch (kind) {
    case MLA_DEVICE_GPU:
        return "gpu";
    case MLA_DEVICE_ACCELERATOR:
        return "accelerator";
    case MLA_DEVICE_CPU:
        return "cpu";
    case MLA_DEVICE_OTHER:
        break;
    }
    return "other";
}

/* ---- text ------------------------------------------------------------------------------------ */

static bool contains(const char *text, const char *part)
{
    const size_t length = strlen(part);
    for (; *text != '\0'; text++) {
        size_t i = 0;
        while (i < length && text[i] != '\0' &&
               tolower((unsigned char)text[i]) == tolower((unsigned char)part[i]))
            i++;
        if (i == length)
            return true;
    }
    return length == 0;
}

/* An index: digits only. False for text; INT32_MAX for numbers that are larger. */
static bool parse_index(const char *text, int32_t *index)
{
    int64_t value = 0;
    if (*text == '\0')
        return false;
    for (; *text != '\0'; text++) {
        if (!isdigit((unsigned char)*text))
            return false;
        value = value * 10 + (*text - '0');
        if (value > INT32_MAX)
            value = INT32_MAX;
    }
    *index = (int32_t)value;
    return true;
}

/* ---- what a platform must say ---------------------------------------------------------------- */

typedef struct vendor {
    const char *option, *name;
    const char *words[3]; /* any of them, in the platform's name or vendor */
} vendor;

static const vendor *vendor_of(mla_shorthand shorthand)
{
    static const vendor vendors[] = {
        [MLA_SHORTHAND_NVIDIA] = {"--nvidia", "NVIDIA", {"nvidia"}},
        [MLA_SHORTHAND_AMD] = {"--amd", "AMD", {"amd", "advanced micro devices"}},
        [MLA_SHORTHAND_INTEL] = {"--intel", "Intel", {"intel"}},
        [MLA_SHORTHAND_MOORE] = {"--moore", "Moore Threads", {"moore", "mthreads", "musa"}},
        [MLA_SHORTHAND_METAX] = {"--metax", "MetaX", {"metax"}},
        [MLA_SHORTHAND_ILUVATAR] = {"--iluvatar", "Iluvatar", {"iluvatar", "corex"}},
        [MLA_SHORTHAND_CPU] = {"--cpu", NULL, {NULL}},
    };
    return &vendors[shorthand];
}

static bool platform_says(const mla_device_description *device, const char *word)
{
    return contains(device->platform_name, word) || contains(device->platform_vendor, word);
}

static bool platform_fits(const mla_device_description *device, const mla_device_request *request)
{
    int32_t index;
    if (request->shorthand == MLA_SHORTHAND_CPU)
        return device->kind == MLA_DEVICE_CPU;
    if (request->shorthand != MLA_SHORTHAND_NONE) {
        const vendor *v = vendor_of(request->shorthand);
        for (size_t i = 0; i < sizeof(v->words) / sizeof(v->words[0]); i++)
            if (v->words[i] != NULL && platform_says(device, v->words[i]))
                return true;
        return false;
    }
    if (request->platform == NULL)
        return true;
    if (parse_index(request->platform, &index))
        return device->platform == index;
    return platform_says(device, request->platform);
}

/* ---- preference ------------------------------------------------------------------------------ */

static bool is_software_rasteriser(const mla_device_description *device)
{
    static const char *const names[] = {"llvmpipe", "swrast", "softpipe"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (contains(device->name, names[i]))
            return true;
    return false;
}

/* Smaller is better. */
static int rank_of(const mla_device_description *device)
{
    return is_software_rasteriser(device) ? INT_MAX : (int)device->kind;
}

/* ---- errors
 * ---------------------------------------------------------------------------------------- */

/* "0 'NVIDIA CUDA', 1 'Portable Computing Language'" */
static void list_platforms(const mla_device_description *devices, size_t count, char *text,
                           size_t bytes)
{
    size_t used = 0;
    int32_t last = -1;
    text[0] = '\0';
    for (size_t i = 0; i < count && used < bytes; i++) {
        if (devices[i].platform == last)
            continue;
        last = devices[i].platform;
        const int written = snprintf(text + used, bytes - used, "%s%d '%s'", used > 0 ? ", " : "",
                                     (int)last, devices[i].platform_name);
        used += written > 0 ? (size_t)written : 0;
    }
}

static void explain_platform(const mla_device_description *devices, size_t count,
                             const mla_device_request *request, char *why, size_t why_bytes)
{
    char platforms[512];
    list_platforms(devices, count, platforms, sizeof(platforms));
    if (request->shorthand == MLA_SHORTHAND_CPU)
        (void)snprintf(why, why_bytes,
                       "--cpu: no OpenCL CPU device here; platforms: %s (package pocl-opencl-icd "
                       "provides one)",
                       platforms);
    else if (request->shorthand != MLA_SHORTHAND_NONE)
        (void)snprintf(why, why_bytes,
                       "%s: %s exposes no OpenCL platform here; platforms: %s (the vendor's driver "
                       "would add one)",
                       vendor_of(request->shorthand)->option, vendor_of(request->shorthand)->name,
                       platforms);
    else
        (void)snprintf(why, why_bytes,
                       "%s '%s': no such platform; an index or part of a name of: %s",
                       request->platform_source, request->platform, platforms);
}

/* The candidates, each with the index that --device would take. */
static void list_devices(const mla_device_description *devices, const int32_t *numbers,
                         size_t count, char *text, size_t bytes)
{
    size_t used = 0;
    text[0] = '\0';
    for (size_t i = 0; i < count && used < bytes; i++) {
        if (numbers[i] < 0)
            continue;
        const int written = snprintf(text + used, bytes - used, "%s%d '%s'", used > 0 ? ", " : "",
                                     (int)numbers[i], devices[i].name);
        used += written > 0 ? (size_t)written : 0;
    }
}

/* ---- selection
 * ------------------------------------------------------------------------------------- */

enum { MAX_DEVICES = 256 };

static int32_t find_device(const mla_device_description *devices, const int32_t *numbers,
                           size_t count, const char *device)
{
    int32_t index = 0, best = -1;
    const bool by_index = device != NULL && parse_index(device, &index);
    for (size_t i = 0; i < count; i++) {
        if (numbers[i] < 0)
            continue;
        if (by_index ? numbers[i] != index : device != NULL && !contains(devices[i].name, device))
            continue;
        if (best < 0 || rank_of(&devices[i]) < rank_of(&devices[best]))
            best = (int32_t)i;
    }
    return best;
}

int32_t mla_select_device(const mla_device_description *devices, size_t count,
                          const mla_device_request *request, char *why, size_t why_bytes)
{
    int32_t numbers[MAX_DEVICES]; /* what --device counts; -1: not a candidate */
    int32_t candidates = 0;
    /* --cpu names a type, not a platform: its devices keep their places in the whole list. */
    const bool within = request->platform != NULL || (request->shorthand != MLA_SHORTHAND_NONE &&
                                                      request->shorthand != MLA_SHORTHAND_CPU);
    if (count > MAX_DEVICES)
        count = MAX_DEVICES;
    for (size_t i = 0; i < count; i++) {
        numbers[i] = -1;
        if (platform_fits(&devices[i], request)) {
            numbers[i] = within ? candidates : (int32_t)i;
            candidates++;
        }
    }
    if (candidates == 0) {
        explain_platform(devices, count, request, why, why_bytes);
        return -1;
    }
    const int32_t found = find_device(devices, numbers, count, request->device);
    if (found < 0) {
        char list[512];
        list_devices(devices, numbers, count, list, sizeof(list));
        (void)snprintf(why, why_bytes, "%s '%s': no such device; an index or part of a name of: %s",
                       request->device_source, request->device, list);
    }
    return found;
}
