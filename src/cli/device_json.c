#include "cli/device_json.h"

#include <stdbool.h>
#include <string.h>

/* True when the blank-separated list has the word. */
static bool has_extension(const char *extensions, const char *word)
{
    const size_t length = strlen(word);
    for (const char *found = strstr(extensions, word); found != NULL;
         found = strstr(found + 1, word)) {
        const bool begins = found == extensions || found[-1] == ' ';
        if (begins && (found[length] == ' ' || found[length] == '\0'))
            return true;
    }
    return false;
}

/* The extensions that kernels of this library can use or look for, by short names. */
static json_t *features_of(const mla_device_info *info)
{
    static const struct {
        const char *extension, *name;
    } known[] = {
        {"cl_khr_fp16", "fp16"},
        {"cl_khr_subgroups", "subgroups"},
        {"cl_intel_subgroups", "intel-subgroups"},
        {"cl_khr_integer_dot_product", "int-dot"},
        {"cl_khr_command_buffer", "command-buffer"},
        {"cl_intel_subgroup_matrix_multiply_accumulate", "intel-matrix"},
        {"cl_arm_matrix_multiply", "arm-matrix"},
        {"cl_nv_device_attribute_query", "nv-attributes"},
    };
    json_t *features = json_array();
    for (size_t i = 0; features != NULL && i < sizeof(known) / sizeof(known[0]); i++)
        if (has_extension(info->extensions, known[i].extension))
            (void)json_array_append_new(features, json_string(known[i].name));
    return features;
}

#define GIB ((double)(1 << 30))

json_t *mla_device_json(const mla_inventory *inventory, const mla_device_info *info)
{
    const mla_device_description *d = &info->description;
    json_t *row =
        json_pack("{s:I, s:i, s:s, s:s, s:s, s:s, s:s, s:s}", "index",
                  (json_int_t)(info - inventory->devices), "platform_index", (int)d->platform,
                  "platform", info->platform_name, "name", info->name, "vendor", info->vendor,
                  "type", mla_device_kind_name(d->kind), "class",
                  clmla_kernel_class_name(info->kernel_class), "driver", info->driver_version);
    if (row == NULL)
        return NULL;
    (void)json_object_set_new(row, "version", json_string(info->version));
    (void)json_object_set_new(row, "compute_units", json_integer((json_int_t)info->compute_units));
    (void)json_object_set_new(row, "memory_gib", json_real((double)info->global_mem_bytes / GIB));
    (void)json_object_set_new(row, "max_alloc_gib", json_real((double)info->max_alloc_bytes / GIB));
    (void)json_object_set_new(row, "local_kib",
                              json_integer((json_int_t)(info->local_mem_bytes / 1024)));
    (void)json_object_set_new(row, "features", features_of(info));
    return row;
}
