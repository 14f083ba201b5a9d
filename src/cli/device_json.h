/*
 * What clmla devices and clmla report say of a device.
 */
#ifndef CLMLA_CLI_DEVICE_JSON_H
#define CLMLA_CLI_DEVICE_JSON_H

#include <jansson.h>

#include "cli/inventory.h"

/* {"index","platform_index","platform","name",...}; NULL: out of memory. */
json_t *mla_device_json(const mla_inventory *inventory, const mla_device_info *info);

#endif
