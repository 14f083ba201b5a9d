/*
 * The program `clmla`: one subcommand per file, cmd_*.c.
 */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/message.h"
#include "clmla.h"
#include "core/os.h"

typedef struct subcommand {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary;
} subcommand;

static const subcommand subcommands[] = {
    {"devices", mla_cmd_devices, "every OpenCL platform and device"},
    {"bench", mla_cmd_bench, "prefill latency and decode throughput of an MLA layer"},
    {"verify", mla_cmd_verify, "golden cases: error against their bounds"},
    {"run", mla_cmd_run,
     "compute a golden case, or a layer of a checkpoint, and write the outputs"},
    {"report", mla_cmd_report, "one JSON with devices, versions, verify and bench, for sending in"},
    {"tune", mla_cmd_tune, "search tiles for this device, verified before they are timed"},
};

enum { NUM_SUBCOMMANDS = sizeof(subcommands) / sizeof(subcommands[0]) };

static void print_help(void)
{
    (void)printf("clmla %s: DeepSeek Multi-head Latent Attention in OpenCL\n\n"
                 "Usage: clmla SUBCOMMAND [OPTION...]\n\n",
                 clmla_version());
    for (size_t i = 0; i < NUM_SUBCOMMANDS; i++)
        (void)printf("  %-9s %s\n", subcommands[i].name, subcommands[i].summary);
    (void)printf("\n  clmla SUBCOMMAND --help   its options\n"
                 "  clmla --version           version of program and library\n"
                 "\nExit code: 0 all passed, 1 failure at work, 2 wrong arguments.\n");
}

static int dispatch(int argc, char **argv)
{
    if (argc < 2) {
        mla_error("a subcommand is missing: devices, bench, verify, run, report or tune; see clmla "
                  "--help");
        return MLA_EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-?") == 0 ||
        strcmp(argv[1], "help") == 0) {
        print_help();
        return MLA_EXIT_SUCCESS;
    }
    if (strcmp(argv[1], "--version") == 0) {
        (void)printf("clmla %s\n", clmla_version());
        return MLA_EXIT_SUCCESS;
    }
    for (size_t i = 0; i < NUM_SUBCOMMANDS; i++)
        if (strcmp(argv[1], subcommands[i].name) == 0)
            return subcommands[i].run(argc - 1, argv + 1);
    mla_error("%s: unknown %s; must be devices, bench, verify, run, report or tune", argv[1],
              argv[1][0] == '-' ? "option" : "subcommand");
    return MLA_EXIT_USAGE;
}

int main(int argc, char **argv)
{
    /* PoCL then pins its threads to cores: without it short kernels share one (before the first
     * OpenCL call). */
    mla__os_default_environment("POCL_AFFINITY", "1");
    int code = dispatch(argc, argv);
    if ((fflush(stdout) != 0 || ferror(stdout) != 0) && code == MLA_EXIT_SUCCESS) {
        mla_error("could not write to standard output");
        code = MLA_EXIT_FAILED;
    }
    return code;
}
