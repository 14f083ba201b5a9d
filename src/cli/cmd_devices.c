#include <stdio.h>

#include "cli/cli.h"
#include "cli/device_json.h"
#include "cli/inventory.h"
#include "cli/measure.h"
#include "cli/message.h"
#include "cli/options.h"
#include "cli/report.h"

static struct poptOption own_options[] = {
    MLA_OPTION_FLAG("measure", MLA_OPT_MEASURE, "measure read bandwidth and float32 multiply-adds"),
    POPT_TABLEEND,
};

static const mla_command command = {
    .name = "devices",
    .summary = "Lists every OpenCL platform and device, or the one that the options choose.",
    .own = own_options,
    .has_device = true,
    .has_format = true,
};

static const mla_column columns[] = {
    {.key = "index", .heading = "#"},
    {.key = "platform_index", .heading = "platform"},
    {.key = "platform", .heading = ""},
    {.key = "name", .heading = "device"},
    {.key = "type", .heading = "type"},
    {.key = "class", .heading = "class"},
    {.key = "compute_units", .heading = "units"},
    {.key = "memory_gib", .heading = "GiB", .format = "%.1f"},
    {.key = "max_alloc_gib", .heading = "buffer GiB", .format = "%.1f"},
    {.key = "local_kib", .heading = "local KiB"},
    {.key = "driver", .heading = "driver"},
    {.key = "version", .heading = NULL},
    {.key = "features", .heading = "features"},
    {.key = "read_gb_per_s", .heading = "read GB/s", .format = "%.1f"},
    {.key = "fma_gflop_per_s", .heading = "f32 GFLOP/s", .format = "%.1f"},
};

/* What follows the measured figures is left out where nothing is measured. */
enum { NUM_COLUMNS = sizeof(columns) / sizeof(columns[0]), MEASURED_COLUMNS = 2 };

static bool measure(const mla_device_info *info, json_t *row)
{
    mla_measured measured;
    mla_progress("measuring %s", info->name);
    const clmla_status status = mla_measure_device(info, &measured);
    mla_progress_clear();
    if (status != CLMLA_SUCCESS) {
        mla_error("%s: measuring failed: %s (%s)", info->name, clmla_status_message(status),
                  clmla_status_name(status));
        (void)json_object_set_new(row, "read_gb_per_s", json_null());
        (void)json_object_set_new(row, "fma_gflop_per_s", json_null());
        return false;
    }
    (void)json_object_set_new(row, "read_gb_per_s", mla_report_real(measured.read_gb_per_s));
    (void)json_object_set_new(row, "fma_gflop_per_s", mla_report_real(measured.fma_gflop_per_s));
    return true;
}

/* One row per device, or only the chosen one's. */
static int list_devices(const mla_inventory *inventory, const mla_device_info *only,
                        bool with_figures, mla_report *report)
{
    int code = MLA_EXIT_SUCCESS;
    for (size_t i = 0; i < inventory->num_devices; i++) {
        const mla_device_info *info = &inventory->devices[i];
        if (only != NULL && only != info)
            continue;
        json_t *row = mla_device_json(inventory, info);
        if (row != NULL && with_figures && !measure(info, row))
            code = MLA_EXIT_FAILED;
        if (!mla_report_add(report, row)) {
            mla_error("out of memory");
            return MLA_EXIT_FAILED;
        }
    }
    json_t *document =
        report->format == MLA_FORMAT_JSON ? json_pack("{s:s}", "clmla", clmla_version()) : NULL;
    if (!mla_report_print(report, document, "devices")) {
        mla_error("could not write the report");
        return MLA_EXIT_FAILED;
    }
    return code;
}

static int list(const mla_options *options, const mla_inventory *inventory)
{
    mla_common common;
    mla_report report;
    const mla_device_info *only = NULL;
    int code = MLA_EXIT_SUCCESS;
    if (!mla_options_common(options, &common))
        return MLA_EXIT_USAGE;
    if (inventory->num_devices == 0) {
        mla_inventory_explain_none(inventory);
        return MLA_EXIT_FAILED;
    }
    const mla_device_request *request = &common.device;
    if (request->platform != NULL || request->device != NULL ||
        request->shorthand != MLA_SHORTHAND_NONE) {
        only = mla_inventory_select(inventory, request, &code);
        if (only == NULL)
            return code;
    }
    const bool with_figures = mla_option_given(options, MLA_OPT_MEASURE);
    if (!mla_report_open(stdout, common.format, columns,
                         with_figures ? NUM_COLUMNS : NUM_COLUMNS - MEASURED_COLUMNS, false,
                         &report)) {
        mla_error("out of memory");
        return MLA_EXIT_FAILED;
    }
    code = list_devices(inventory, only, with_figures, &report);
    mla_report_close(&report);
    return code;
}

static int run(const mla_options *options)
{
    mla_inventory inventory = {0};
    const clmla_status status = mla_inventory_create(&inventory);
    int code = MLA_EXIT_FAILED;
    if (status == CLMLA_SUCCESS)
        code = list(options, &inventory);
    else
        mla_error("OpenCL platforms: %s (%s)", clmla_status_message(status),
                  clmla_status_name(status));
    mla_inventory_release(&inventory);
    return code;
}

int mla_cmd_devices(int argc, char **argv) { return mla_command_run(&command, argc, argv, run); }
