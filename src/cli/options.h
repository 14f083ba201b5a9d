/*
 * Command-line arguments: one table of what all subcommands share, tables of their own, and typed
 * values with errors that name the argument, the value and what would be accepted.
 */
#ifndef CLMLA_CLI_OPTIONS_H
#define CLMLA_CLI_OPTIONS_H

#include <popt.h>
#include <stdbool.h>
#include <stdint.h>

#include "cli/report.h"
#include "cli/select.h"
#include "cli/user_directory.h"
#include "clmla.h"

/* X(NAME, long name) */
#define MLA_OPTION_MAP(X)                                                                          \
    X(HELP, "help")                                                                                \
    X(PLATFORM, "platform")                                                                        \
    X(DEVICE, "device")                                                                            \
    X(NVIDIA, "nvidia")                                                                            \
    X(AMD, "amd")                                                                                  \
    X(INTEL, "intel")                                                                              \
    X(MOORE, "moore")                                                                              \
    X(METAX, "metax")                                                                              \
    X(ILUVATAR, "iluvatar")                                                                        \
    X(CPU, "cpu")                                                                                  \
    X(DTYPE, "dtype")                                                                              \
    X(WEIGHTS_DTYPE, "weights-dtype")                                                              \
    X(CACHE_DTYPE, "cache-dtype")                                                                  \
    X(PROJECTION, "projection")                                                                    \
    X(MATRIX_UNITS, "matrix-units")                                                                \
    X(CLBLAST_OVERRIDES, "clblast-overrides")                                                      \
    X(SM_90A, "sm-90a")                                                                            \
    X(KERNELS, "kernels")                                                                          \
    X(KERNEL_DIR, "kernel-dir")                                                                    \
    X(ONE_LAUNCH, "one-launch")                                                                    \
    X(BATCH_INVARIANT, "batch-invariant")                                                          \
    X(NO_CACHE, "no-cache")                                                                        \
    X(TUNING, "tuning")                                                                            \
    X(SEED, "seed")                                                                                \
    X(VERBOSE, "verbose")                                                                          \
    X(FORMAT, "format")                                                                            \
    X(MEASURE, "measure")                                                                          \
    X(MODEL, "model")                                                                              \
    X(CASE, "case")                                                                                \
    X(MODE, "mode")                                                                                \
    X(SEQLENS, "seqlens")                                                                          \
    X(PASTLENS, "pastlens")                                                                        \
    X(WARMUP, "warmup")                                                                            \
    X(RUNS, "runs")                                                                                \
    X(MAX_SECONDS, "max-seconds")                                                                  \
    X(LAYERS, "layers")                                                                            \
    X(TP, "tp")                                                                                    \
    X(STAGES, "stages")                                                                            \
    X(CHECK, "check")                                                                              \
    X(PAGE_BLOCK_SIZE, "page-block-size")                                                          \
    X(SWEEP, "sweep")                                                                              \
    X(BATCHES, "batches")                                                                          \
    X(CONTEXTS, "contexts")                                                                        \
    X(HEADS, "heads")                                                                              \
    X(OUTPUT, "output")                                                                            \
    X(WEIGHTS, "weights")                                                                          \
    X(LAYER, "layer")                                                                              \
    X(INPUT, "input")                                                                              \
    X(OPS, "ops")                                                                                  \
    X(ROWS, "rows")                                                                                \
    X(AGAIN, "again")

typedef enum mla_option {
    MLA_OPT_NONE,
#define MLA_OPTION_ENUM(name, text) MLA_OPT_##name,
    MLA_OPTION_MAP(MLA_OPTION_ENUM)
#undef MLA_OPTION_ENUM
        MLA_OPT_COUNT
} mla_option;

/* One line of a popt table: an option with a value, and one without. */
#define MLA_OPTION_VALUE(long_name, id, help, value)                                               \
    {                                                                                              \
        long_name, '\0', POPT_ARG_STRING, NULL, (int)(id), help, value                             \
    }
#define MLA_OPTION_FLAG(long_name, id, help)                                                       \
    {                                                                                              \
        long_name, '\0', POPT_ARG_NONE, NULL, (int)(id), help, NULL                                \
    }

/* A subcommand's interface. */
typedef struct mla_command {
    const char *name;      /* "bench" */
    const char *summary;   /* one line, shown by --help */
    const char *arguments; /* what may follow the options, for --help; NULL: nothing */
    struct poptOption *own;
    bool has_device, has_numerics, has_storage, has_format; /* which shared options it takes */
    bool many_projections;                                  /* --projection takes a list */
} mla_command;

typedef struct mla_options {
    const mla_command *command;
    char *text[MLA_OPT_COUNT]; /* as given; "" for a flag; NULL: not given */
    const char **arguments;    /* the rest */
    int num_arguments;
    poptContext popt; /* owns arguments */
} mla_options;

/* Parses argv (argv[0] is the subcommand's name). Returns -1 to go on, or an exit code: help was
 * printed, or an error. Release in each case. */
int mla_options_parse(const mla_command *command, int argc, char **argv, mla_options *out);
void mla_options_release(mla_options *options);

/* A whole subcommand: parses, calls run, releases. Returns an exit code. */
int mla_command_run(const mla_command *command, int argc, char **argv,
                    int (*run)(const mla_options *options));

bool mla_option_given(const mla_options *options, mla_option id);

/* Each returns false after printing the error. *out keeps its value when the option is not given.
 */
bool mla_option_integer(const mla_options *options, mla_option id, int64_t minimum, int64_t maximum,
                        int64_t *out);
bool mla_option_choice(const mla_options *options, mla_option id, const char *const *names,
                       size_t num_names, int32_t *out);
/* Comma-separated names, each at most once: bit i of *out for names[i]. */
bool mla_option_choices(const mla_options *options, mla_option id, const char *const *names,
                        size_t num_names, uint32_t *out);
/* The same names in the order in which they are given: indices into names. out has room for all;
 * neither out nor count changes when the option is not given. */
bool mla_option_sequence(const mla_options *options, mla_option id, const char *const *names,
                         size_t num_names, int32_t *out, size_t *count);
/* Comma-separated integers; *out is allocated, or NULL when the option is not given. */
bool mla_option_list(const mla_options *options, mla_option id, int32_t minimum, int32_t maximum,
                     int32_t **out, size_t *count);

enum { MLA_MAX_PROJECTIONS = 3 };

/* What --tuning takes in place of a file. */
#define MLA_NO_TUNING "none"

/* The name that --projection takes. */
const char *mla_projection_name(clmla_projection_backend projection);

/* The shared options' values. Texts live as long as the mla_options. */
typedef struct mla_common {
    mla_device_request device;
    clmla_dtype dtype;
    clmla_dtype weights_dtype, cache_dtype; /* dtype, or FP8 where the command takes these */
    clmla_projection_backend projections[MLA_MAX_PROJECTIONS]; /* in the order given */
    size_t num_projections; /* one, but where the command takes many */
    clmla_matrix_units matrix_units;
    int32_t sm_90a;            /* 0, 1 */
    int32_t clblast_overrides; /* 0, 1; the program owns its process: 1 unless told otherwise */
    clmla_kernel_class kernels;
    const char *kernel_directory;
    int32_t one_launch, batch_invariant; /* 0, 1: of clmla_layer_params */
    mla_cache_source cache_source;
    char cache_directory[MLA_PATH_BYTES]; /* "": none */
    const char *tuning; /* --tuning: a record, or MLA_NO_TUNING; NULL: not given */
    char tuning_directory[MLA_PATH_BYTES]; /* of the user's records; "": none */
    int32_t page_block_size;               /* 0: contiguous */
    uint64_t seed;
    bool verbose;
    mla_format format;
} mla_common;

/* Reads CLMLA_PLATFORM, CLMLA_DEVICE and what user_directory.h takes, too. False after printing the
 * error. */
bool mla_options_common(const mla_options *options, mla_common *out);

#endif
