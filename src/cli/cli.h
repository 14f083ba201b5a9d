/*
 * What every subcommand shares: exit codes, and the entry points that main.c dispatches to.
 */
#ifndef CLMLA_CLI_CLI_H
#define CLMLA_CLI_CLI_H

enum {
    MLA_EXIT_SUCCESS = 0,
    MLA_EXIT_FAILED = 1, /* data file, bound exceeded, OpenCL, input or output, no OpenCL device */
    MLA_EXIT_USAGE = 2   /* wrong arguments, no such device, a --model file that is no config */
};

/* The commit that the program was built from, "-dirty" after it where files differed; "" unknown.
 * Written by tools/commit.cmake. */
extern const char mla_commit[];

/* argv[0] is the subcommand's name. Each returns an exit code. */
int mla_cmd_devices(int argc, char **argv);
int mla_cmd_bench(int argc, char **argv);
int mla_cmd_verify(int argc, char **argv);
int mla_cmd_run(int argc, char **argv);
int mla_cmd_report(int argc, char **argv);
int mla_cmd_tune(int argc, char **argv);

#endif
