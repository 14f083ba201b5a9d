/*
 * Runs class nvidia's kernels through the CUDA driver API, not OpenCL: for machines with NVIDIA's
 * driver and without its OpenCL library. Checks every kernel, then times those that are right.
 *
 *   cuda_harness [--seconds S] [--small] FOLDER
 *   cuda_harness --device       the device's name, nothing else
 *
 *   FOLDER      what build_ptx.sh wrote; the driver compiles it for the device
 *   --seconds   of all measurements, default 120; what does not begin in time is skipped
 *   --small     shapes of tests
 *
 * One JSON object on stdout. Exit code 0; 1: something failed, a record says what; 2: usage or an
 * unreadable FOLDER; 3: there is no CUDA driver or no device.
 */
#include "cuda_harness.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EXIT_USAGE = 2, EXIT_NO_DRIVER = 3 };

/* ---- records -------------------------------------------------------------------------------- */

void harness_record(const harness *h, const char *kind, const cuda_kernel *kernel, json *record)
{
    *record = (json){.used = 0};
    json_open(record, NULL);
    json_string(record, "api", CUDA_API_LABEL);
    json_string(record, "kind", kind);
    json_string(record, "device", h->driver.name);
    if (kernel == NULL)
        return;
    static const char *const parameters[] = {"TILE_ROWS", "TILE_COLUMNS",   "SLICES", "STAGES",
                                             "WORK_ROWS", "PARTIAL_STATES", "SECOND"};
    json_string(record, "kernel", kernel->about->name);
    json_string(record, "program", kernel->program->file);
    for (size_t i = 0; i < sizeof(parameters) / sizeof(parameters[0]); i++) {
        char key[32];
        size_t c = 0;
        for (; parameters[i][c] != '\0'; c++)
            key[c] = parameters[i][c] == '_' ? '_' : (char)(parameters[i][c] + 'a' - 'A');
        key[c] = '\0';
        if (manifest_value(kernel->program, parameters[i]) > 0)
            json_integer(record, key, manifest_value(kernel->program, parameters[i]));
    }
}

void harness_print(harness *h, json *record, bool ok)
{
    if (!ok) {
        json_string(record, "error", h->driver.error);
        h->num_failures++;
    }
    while (record->depth > 0)
        json_close(record);
    (void)printf("%s%s", h->num_records++ == 0 ? "" : ",\n", record->text);
    (void)fflush(stdout);
}

bool harness_has_time(const harness *h) { return report_now_s() < h->deadline_s; }

bool harness_judge(harness *h, const comparison *c, json *record)
{
    json_integer(record, "checked_elements", (long long)c->elements);
    json_number(record, "error_of_bound", c->worst);
    if (c->wrong == 0)
        return true;
    json_integer(record, "wrong_elements", (long long)c->wrong);
    return cuda_fail(&h->driver, "%s", c->first);
}

void harness_timing(const cuda_timing *timing, json *record)
{
    json_number(record, "median_us", 1e6 * timing->median_s);
    json_number(record, "min_us", 1e6 * timing->min_s);
    json_number(record, "max_us", 1e6 * timing->max_s);
    json_integer(record, "rounds", timing->rounds);
    json_integer(record, "chain", timing->chain);
}

const cuda_kernel *harness_verified(const harness *h, const char *name)
{
    for (int i = 0; i < h->num_kernels; i++)
        if (h->kernels[i].verified && strcmp(h->kernels[i].about->name, name) == 0)
            return &h->kernels[i];
    return NULL;
}

/* ---- kernels -------------------------------------------------------------------------------- */

static bool verify(harness *h, const cuda_kernel *kernel, json *record)
{
    static const struct {
        const char *name;
        bool (*verify)(harness *h, const cuda_kernel *kernel, json *record);
    } checks[] = {{"attention__mma", attention_verify},
                  {"projection_few", projection_verify},
                  {"projection_tiled", projection_verify},
                  {"merge", merge_verify},
                  {"fill", fill_verify},
                  {"stream", stream_verify},
                  {"add_one", add_one_verify}};
    for (size_t i = 0; i < sizeof(checks) / sizeof(checks[0]); i++)
        if (strcmp(checks[i].name, kernel->about->name) == 0)
            return checks[i].verify(h, kernel, record);
    return cuda_fail(&h->driver, "this harness knows no kernel of that name");
}

/* Adds the program's kernels and a record of each. Nothing is unloaded before the end. */
static void check_program(harness *h, const manifest_program *program)
{
    json record;
    cuda_handle module = NULL;
    char *text = manifest_file(h->folder, program->file);
    const bool loaded = text != NULL ? cuda_load_program(&h->driver, text, &module)
                                     : cuda_fail(&h->driver, "cannot read %s", program->file);
    free(text);
    for (int i = 0; i < program->num_kernels; i++) {
        cuda_kernel kernel = {.program = program, .about = &program->kernels[i]};
        harness_record(h, "check", &kernel, &record);
        bool ok = loaded && cuda_load_kernel(&h->driver, module, &kernel);
        if (ok) {
            json_integer(&record, "work_items", kernel.about->work_items);
            json_integer(&record, "registers", kernel.registers);
            json_integer(&record, "local_bytes", kernel.local_bytes);
            json_integer(&record, "stack_bytes", kernel.stack_bytes);
            ok = verify(h, &kernel, &record);
        }
        kernel.verified = ok;
        json_bool(&record, "verified", ok);
        harness_print(h, &record, ok);
        if (h->num_kernels < HARNESS_MAX_KERNELS)
            h->kernels[h->num_kernels++] = kernel;
    }
}

/* ---- program -------------------------------------------------------------------------------- */

static void put_line(const char *key, const char *value)
{
    json line = {.used = 0};
    json_string(&line, key, value);
    (void)printf("%s,\n", line.text);
}

static void print_head(const harness *h)
{
    const cuda *c = &h->driver;
    const char *commit = getenv("CLMLA_COMMIT");
    char version[32];
    json line = {.used = 0};
    (void)snprintf(version, sizeof(version), "%d.%d", c->driver / 1000, c->driver % 1000 / 10);
    (void)printf("{");
    put_line("api", CUDA_API_LABEL);
    put_line("device", c->name);
    put_line("driver_cuda_version", version);
    put_line("commit", commit != NULL ? commit : "unknown");
    put_line("ptx_commit", h->manifest.commit);
    put_line("ptx_target", h->manifest.target);
    json_integer(&line, "compute_capability", c->capability);
    json_integer(&line, "multiprocessors", c->multiprocessors);
    json_integer(&line, "l2_bytes", c->l2_bytes);
    json_integer(&line, "clock_khz", c->clock_khz);
    json_integer(&line, "memory_clock_khz", c->memory_clock_khz);
    json_integer(&line, "memory_bus_bits", c->bus_bits);
    json_number(&line, "memory_bytes", c->memory_bytes);
    (void)printf("%s,\n\"results\": [\n", line.text);
}

static int usage(void)
{
    (void)fprintf(stderr, "usage: cuda_harness [--seconds S] [--small] FOLDER | --device\n");
    return EXIT_USAGE;
}

static int open_device(harness *h)
{
    if (cuda_open(&h->driver))
        return EXIT_SUCCESS;
    (void)fprintf(stderr, "cuda_harness: no CUDA driver: %s\n", h->driver.error);
    return EXIT_NO_DRIVER;
}

static int name_device(harness *h)
{
    const int code = open_device(h);
    if (code == EXIT_SUCCESS)
        (void)puts(h->driver.name);
    return code;
}

static int run(harness *h, double seconds)
{
    char error[512];
    if (!manifest_read(h->folder, &h->manifest, error, sizeof(error))) {
        (void)fprintf(stderr, "cuda_harness: %s\n", error);
        return EXIT_USAGE;
    }
    const int code = open_device(h);
    if (code != EXIT_SUCCESS)
        return code;
    print_head(h);
    for (int i = 0; i < h->manifest.num_programs; i++)
        check_program(h, &h->manifest.programs[i]);
    h->deadline_s = report_now_s() + seconds;
    launch_measure(h);
    memory_measure(h);
    attention_measure(h);
    projection_measure(h);
    (void)printf("\n]}\n");
    (void)fprintf(stderr, "%s: %s, %d records, %d failures\n", CUDA_API_LABEL, h->driver.name,
                  h->num_records, h->num_failures);
    cuda_close(&h->driver);
    return h->num_failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

int main(int argc, char **argv)
{
    static harness h;
    double seconds = 120.0;
    h.round_s = 0.02;
    if (argc == 2 && strcmp(argv[1], "--device") == 0)
        return name_device(&h);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--seconds") == 0 && i + 1 < argc) {
            seconds = atof(argv[++i]);
        } else if (strcmp(argv[i], "--small") == 0) {
            h.small = true;
            h.round_s = 0.0;
        } else if (argv[i][0] != '-' && h.folder == NULL) {
            h.folder = argv[i];
        } else {
            return usage();
        }
    }
    return h.folder != NULL ? run(&h, seconds) : usage();
}
