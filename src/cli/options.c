#include "cli/options.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/message.h"

enum { DEFAULT_PAGE_BLOCK_SIZE = 64, LARGEST_PAGE_BLOCK_SIZE = 1 << 24 };

/* ---- shared tables --------------------------------------------------------------------------- */

static struct poptOption device_table[] = {
    MLA_OPTION_VALUE("platform", MLA_OPT_PLATFORM,
                     "index, or part of the platform's name or vendor", "P"),
    MLA_OPTION_VALUE("device", MLA_OPT_DEVICE,
                     "index within the platform (without one: in the list of clmla devices), or "
                     "part of the device's name",
                     "D"),
    MLA_OPTION_FLAG("nvidia", MLA_OPT_NVIDIA, "a device of NVIDIA's platform"),
    MLA_OPTION_FLAG("amd", MLA_OPT_AMD, "a device of AMD's platform"),
    MLA_OPTION_FLAG("intel", MLA_OPT_INTEL, "a device of Intel's platform"),
    MLA_OPTION_FLAG("moore", MLA_OPT_MOORE, "a device of Moore Threads's platform"),
    MLA_OPTION_FLAG("metax", MLA_OPT_METAX, "a device of MetaX's platform"),
    MLA_OPTION_FLAG("iluvatar", MLA_OPT_ILUVATAR, "a device of Iluvatar's platform"),
    MLA_OPTION_FLAG("cpu", MLA_OPT_CPU, "a CPU device"),
    POPT_TABLEEND,
};

static struct poptOption projection_table[] = {
    MLA_OPTION_VALUE("projection", MLA_OPT_PROJECTION, "who multiplies matrices (default auto)",
                     "auto|native|clblast"),
    POPT_TABLEEND,
};

static struct poptOption projections_table[] = {
    MLA_OPTION_VALUE("projection", MLA_OPT_PROJECTION,
                     "who multiplies matrices (default auto); several, with commas between, are "
                     "measured beside each other",
                     "auto,native,clblast"),
    POPT_TABLEEND,
};

static struct poptOption numerics_table[] = {
    MLA_OPTION_VALUE("dtype", MLA_OPT_DTYPE, "storage of weights, cache and activations",
                     "bf16|f16|f32"),
    MLA_OPTION_VALUE("matrix-units", MLA_OPT_MATRIX_UNITS, "matrix instructions for 16-bit storage",
                     "auto|off"),
    MLA_OPTION_VALUE("clblast-overrides", MLA_OPT_CLBLAST_OVERRIDES,
                     "give CLBlast this program's parameters for the device (default on)",
                     "on|off"),
    MLA_OPTION_FLAG("sm-90a", MLA_OPT_SM_90A,
                    "on NVIDIA's compute capability 9.0 products by warpgroups, where they work"),
    MLA_OPTION_VALUE("kernels", MLA_OPT_KERNELS, "class of the kernels", "auto|cpu|gpu|nvidia"),
    MLA_OPTION_VALUE("kernel-dir", MLA_OPT_KERNEL_DIR,
                     ".cl files found here replace the built-in ones", "DIR"),
    MLA_OPTION_FLAG("one-launch", MLA_OPT_ONE_LAUNCH,
                    "class nvidia: up to 16 tokens in one launch a layer, where the device can"),
    MLA_OPTION_FLAG("batch-invariant", MLA_OPT_BATCH_INVARIANT,
                    "a token has the same bits in any company; native projections"),
    MLA_OPTION_FLAG("no-cache", MLA_OPT_NO_CACHE,
                    "neither read nor keep compiled programs (in CLMLA_CACHE_DIR, default "
                    "~/.cache/clmla)"),
    MLA_OPTION_VALUE("tuning", MLA_OPT_TUNING,
                     "tuning record of the device (default: that of clmla tune, in "
                     "CLMLA_TUNING_DIR, default ~/.local/share/clmla); none: built-in tiles",
                     "FILE.tuning|none"),
    MLA_OPTION_VALUE("page-block-size", MLA_OPT_PAGE_BLOCK_SIZE,
                     "rows per page of the cache, pages shuffled (default 64); 0: contiguous", "N"),
    MLA_OPTION_VALUE("seed", MLA_OPT_SEED, "of drawn data and of page numbers (default 1)", "N"),
    MLA_OPTION_FLAG("verbose", MLA_OPT_VERBOSE,
                    "say which kernels run, and why; where compiled programs are kept"),
    POPT_TABLEEND,
};

static struct poptOption storage_table[] = {
    MLA_OPTION_VALUE("weights-dtype", MLA_OPT_WEIGHTS_DTYPE,
                     "fp8: FP8 weights stay codes with scales; same: as --dtype (default)",
                     "same|fp8"),
    MLA_OPTION_VALUE("cache-dtype", MLA_OPT_CACHE_DTYPE,
                     "fp8: the cache holds FP8 records, one a key; same: as --dtype (default)",
                     "same|fp8"),
    POPT_TABLEEND,
};

static struct poptOption format_table[] = {
    MLA_OPTION_VALUE("format", MLA_OPT_FORMAT, "of the report", "table|csv|json"),
    POPT_TABLEEND,
};

static struct poptOption help_table[] = {
    {"help", '?', POPT_ARG_NONE, NULL, MLA_OPT_HELP, "show this", NULL},
    POPT_TABLEEND,
};

static const char *option_name(mla_option id)
{
    static const char *const names[MLA_OPT_COUNT] = {
#define MLA_OPTION_NAME(name, text) [MLA_OPT_##name] = (text),
        MLA_OPTION_MAP(MLA_OPTION_NAME)
#undef MLA_OPTION_NAME
    };
    return names[id];
}

/* ---- parsing --------------------------------------------------------------------------------- */

static int take_options(mla_options *options)
{
    int id;
    /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): a text stays in text[id], which is freed later */
    while ((id = poptGetNextOpt(options->popt)) > 0) {
        char *text = poptGetOptArg(options->popt);
        if (id == MLA_OPT_HELP) {
            free(text);
            (void)printf("%s\n\n", options->command->summary);
            poptPrintHelp(options->popt, stdout, 0);
            return MLA_EXIT_SUCCESS;
        }
        if (text == NULL)
            text = calloc(1, 1);
        if (text == NULL) {
            mla_error("out of memory");
            return MLA_EXIT_FAILED;
        }
        free(options->text[id]); /* given twice: the last one counts */
        options->text[id] = text;
    }
    if (id == -1)
        return -1;
    mla_error("%s: %s; see clmla %s --help", poptBadOption(options->popt, POPT_BADOPTION_NOALIAS),
              id == POPT_ERROR_BADOPT  ? "unknown option"
              : id == POPT_ERROR_NOARG ? "needs a value"
                                       : poptStrerror(id),
              options->command->name);
    return MLA_EXIT_USAGE;
}

/* The tables that the command takes, with a heading each (those of projections and storage go on
 * under the one before). out has room for all and the end. */
static void collect_tables(const mla_command *command, const char *title, struct poptOption *out)
{
    const struct {
        struct poptOption *table;
        const char *title;
        bool wanted;
    } parts[] = {
        {command->own, title, command->own != NULL},
        {device_table, "Device:", command->has_device},
        {numerics_table, "Computation:", command->has_numerics},
        {command->many_projections ? projections_table : projection_table, NULL,
         command->has_numerics},
        {storage_table, NULL, command->has_storage},
        {format_table, "Report:", command->has_format},
        {help_table, "Help:", true},
    };
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
        if (parts[i].wanted)
            *out++ = (struct poptOption){
                NULL, '\0', POPT_ARG_INCLUDE_TABLE, parts[i].table, 0, parts[i].title, NULL};
    *out = (struct poptOption)POPT_TABLEEND;
}

int mla_options_parse(const mla_command *command, int argc, char **argv, mla_options *out)
{
    struct poptOption tables[8];
    char title[64], name[64];
    (void)snprintf(title, sizeof(title), "Options of %s:", command->name);
    (void)snprintf(name, sizeof(name), "clmla %s", command->name);
    collect_tables(command, title, tables);
    *out = (mla_options){.command = command};
    const char **words = calloc((size_t)argc + 1, sizeof(*words));
    if (words == NULL) {
        mla_error("out of memory");
        return MLA_EXIT_FAILED;
    }
    words[0] = name; /* what --help prints as the program */
    for (int i = 1; i < argc; i++)
        words[i] = argv[i];
    out->popt = poptGetContext(name, argc, words, tables, 0);
    if (command->arguments != NULL)
        poptSetOtherOptionHelp(out->popt, command->arguments);
    int code = take_options(out);
    out->arguments = poptGetArgs(out->popt);
    while (out->arguments != NULL && out->arguments[out->num_arguments] != NULL)
        out->num_arguments++;
    if (code == -1 && command->arguments == NULL && out->arguments != NULL) { /* then not empty */
        mla_error("%s: unexpected argument; clmla %s takes options only", out->arguments[0],
                  command->name);
        code = MLA_EXIT_USAGE;
    }
    free(words);
    return code;
}

void mla_options_release(mla_options *options)
{
    for (int i = 0; i < MLA_OPT_COUNT; i++)
        free(options->text[i]);
    if (options->popt != NULL)
        (void)poptFreeContext(options->popt);
    *options = (mla_options){0};
}

int mla_command_run(const mla_command *command, int argc, char **argv,
                    int (*run)(const mla_options *options))
{
    mla_options options;
    int code = mla_options_parse(command, argc, argv, &options);
    if (code == -1)
        code = run(&options);
    mla_options_release(&options);
    return code;
}

/* ---- typed values ---------------------------------------------------------------------------- */

bool mla_option_given(const mla_options *options, mla_option id)
{
    return options->text[id] != NULL;
}

/* A decimal integer that is the whole text. */
static bool parse_integer(const char *text, int64_t *out)
{
    char *end = NULL;
    if (!isdigit((unsigned char)text[0]) && !(text[0] == '-' && isdigit((unsigned char)text[1])))
        return false;
    errno = 0;
    const long long value = strtoll(text, &end, 10);
    if (errno != 0 || *end != '\0')
        return false;
    *out = value;
    return true;
}

bool mla_option_integer(const mla_options *options, mla_option id, int64_t minimum, int64_t maximum,
                        int64_t *out)
{
    const char *text = options->text[id];
    int64_t value = 0;
    if (text == NULL)
        return true;
    if (!parse_integer(text, &value) || value < minimum || value > maximum) {
        mla_error("--%s '%s': must be an integer from %lld to %lld", option_name(id), text,
                  (long long)minimum, (long long)maximum);
        return false;
    }
    *out = value;
    return true;
}

/* "a, b or c" */
static void join_names(const char *const *names, size_t num_names, char *text, size_t bytes)
{
    size_t used = 0;
    text[0] = '\0';
    for (size_t i = 0; i < num_names && used < bytes; i++) {
        const char *separator = i == 0 ? "" : i + 1 == num_names ? " or " : ", ";
        const int written = snprintf(text + used, bytes - used, "%s%s", separator, names[i]);
        used += written > 0 ? (size_t)written : 0;
    }
}

static int32_t find_name(const char *text, size_t length, const char *const *names,
                         size_t num_names)
{
    for (size_t i = 0; i < num_names; i++)
        if (strlen(names[i]) == length && strncmp(text, names[i], length) == 0)
            return (int32_t)i;
    return -1;
}

bool mla_option_choice(const mla_options *options, mla_option id, const char *const *names,
                       size_t num_names, int32_t *out)
{
    const char *text = options->text[id];
    if (text == NULL)
        return true;
    const int32_t found = find_name(text, strlen(text), names, num_names);
    if (found < 0) {
        char accepted[256];
        join_names(names, num_names, accepted, sizeof(accepted));
        mla_error("--%s '%s': must be %s", option_name(id), text, accepted);
        return false;
    }
    *out = found;
    return true;
}

bool mla_option_sequence(const mla_options *options, mla_option id, const char *const *names,
                         size_t num_names, int32_t *out, size_t *count)
{
    const char *text = options->text[id];
    char accepted[256];
    uint32_t seen = 0;
    size_t n = 0;
    if (text == NULL)
        return true;
    join_names(names, num_names, accepted, sizeof(accepted));
    for (const char *word = text;;) {
        const size_t length = strcspn(word, ",");
        const int32_t found = find_name(word, length, names, num_names);
        if (found < 0) {
            mla_error("--%s '%s': must be %s, or several with commas between", option_name(id),
                      text, accepted);
            return false;
        }
        if ((seen & UINT32_C(1) << found) != 0) {
            mla_error("--%s '%s': %s is given twice; must be %s, or several with commas between",
                      option_name(id), text, names[found], accepted);
            return false;
        }
        seen |= UINT32_C(1) << found;
        out[n++] = found;
        if (word[length] == '\0')
            break;
        word += length + 1;
    }
    *count = n;
    return true;
}

bool mla_option_choices(const mla_options *options, mla_option id, const char *const *names,
                        size_t num_names, uint32_t *out)
{
    int32_t found[32];
    size_t count = 0;
    uint32_t chosen = 0;
    if (!mla_option_sequence(options, id, names, num_names, found, &count))
        return false;
    for (size_t i = 0; i < count; i++)
        chosen |= UINT32_C(1) << found[i];
    if (count > 0)
        *out = chosen;
    return true;
}

/* Entry after entry into values, which has room for all; false when one is not an integer in
 * range. */
static bool parse_list(const char *text, int32_t minimum, int32_t maximum, int32_t *values,
                       size_t *count)
{
    size_t n = 0;
    for (const char *word = text;;) {
        char digits[16];
        int64_t value = 0;
        const size_t length = strcspn(word, ",");
        if (length >= sizeof(digits))
            return false;
        memcpy(digits, word, length);
        digits[length] = '\0';
        if (!parse_integer(digits, &value) || value < minimum || value > maximum)
            return false;
        values[n++] = (int32_t)value;
        if (word[length] == '\0')
            break;
        word += length + 1;
    }
    *count = n;
    return true;
}

bool mla_option_list(const mla_options *options, mla_option id, int32_t minimum, int32_t maximum,
                     int32_t **out, size_t *count)
{
    const char *text = options->text[id];
    *out = NULL;
    *count = 0;
    if (text == NULL)
        return true;
    int32_t *values = calloc(strlen(text) + 1, sizeof(*values)); /* at least one per comma */
    if (values == NULL) {
        mla_error("out of memory");
        return false;
    }
    if (!parse_list(text, minimum, maximum, values, count)) {
        mla_error("--%s '%s': must be integers from %d to %d with commas between", option_name(id),
                  text, (int)minimum, (int)maximum);
        free(values);
        return false;
    }
    *out = values;
    return true;
}

/* ---- the shared options' values -------------------------------------------------------------- */

static bool take_shorthand(const mla_options *options, mla_device_request *request)
{
    static const struct {
        mla_option id;
        mla_shorthand shorthand;
    } shorthands[] = {
        {MLA_OPT_NVIDIA, MLA_SHORTHAND_NVIDIA}, {MLA_OPT_AMD, MLA_SHORTHAND_AMD},
        {MLA_OPT_INTEL, MLA_SHORTHAND_INTEL},   {MLA_OPT_MOORE, MLA_SHORTHAND_MOORE},
        {MLA_OPT_METAX, MLA_SHORTHAND_METAX},   {MLA_OPT_ILUVATAR, MLA_SHORTHAND_ILUVATAR},
        {MLA_OPT_CPU, MLA_SHORTHAND_CPU},
    };
    const char *given = options->text[MLA_OPT_PLATFORM] != NULL ? "platform" : NULL;
    for (size_t i = 0; i < sizeof(shorthands) / sizeof(shorthands[0]); i++) {
        if (options->text[shorthands[i].id] == NULL)
            continue;
        if (given != NULL) {
            mla_error("--%s and --%s: give one of them only", given, option_name(shorthands[i].id));
            return false;
        }
        given = option_name(shorthands[i].id);
        request->shorthand = shorthands[i].shorthand;
    }
    return true;
}

static const char *variable(const char *name)
{
    /* NOLINTNEXTLINE(concurrency-mt-unsafe): read before there is a second thread */
    return getenv(name);
}

/* An empty variable counts as none. */
static const char *from_environment(const char *name)
{
    const char *value = variable(name);
    return value != NULL && value[0] != '\0' ? value : NULL;
}

static bool take_device(const mla_options *options, mla_device_request *request)
{
    *request = (mla_device_request){
        .platform = options->text[MLA_OPT_PLATFORM],
        .device = options->text[MLA_OPT_DEVICE],
        .platform_source = "--platform",
        .device_source = "--device",
    };
    if (!take_shorthand(options, request))
        return false;
    if (request->platform == NULL && request->shorthand == MLA_SHORTHAND_NONE) {
        request->platform = from_environment("CLMLA_PLATFORM");
        request->platform_source = "CLMLA_PLATFORM";
    }
    if (request->device == NULL) {
        request->device = from_environment("CLMLA_DEVICE");
        request->device_source = "CLMLA_DEVICE";
    }
    return true;
}

/* In the order of clmla_projection_backend. */
static const char *const projection_names[MLA_MAX_PROJECTIONS] = {"auto", "native", "clblast"};

const char *mla_projection_name(clmla_projection_backend projection)
{
    return projection_names[projection];
}

static bool take_projections(const mla_options *options, mla_common *common)
{
    int32_t chosen[MLA_MAX_PROJECTIONS] = {CLMLA_PROJECTION_AUTO};
    size_t count = 1;
    const bool taken = options->command->many_projections
                           ? mla_option_sequence(options, MLA_OPT_PROJECTION, projection_names,
                                                 MLA_MAX_PROJECTIONS, chosen, &count)
                           : mla_option_choice(options, MLA_OPT_PROJECTION, projection_names,
                                               MLA_MAX_PROJECTIONS, &chosen[0]);
    for (size_t i = 0; i < count; i++)
        common->projections[i] = chosen[i];
    common->num_projections = count;
    return taken;
}

static bool take_numerics(const mla_options *options, mla_common *common)
{
    static const char *const dtypes[] = {"bf16", "f16", "f32"};
    static const clmla_dtype dtype_values[] = {CLMLA_DTYPE_BF16, CLMLA_DTYPE_F16, CLMLA_DTYPE_F32};
    static const char *const matrix_units[] = {"auto", "off"};
    static const char *const switches[] = {"off", "on"};
    static const char *const kernels[] = {"auto", "cpu", "gpu", "nvidia"};
    static const char *const storages[] = {"same", "fp8"};
    int32_t dtype = 0, weights = 0, cache = 0;
    int64_t seed = 1, page_block_size = DEFAULT_PAGE_BLOCK_SIZE;
    if (!mla_option_choice(options, MLA_OPT_DTYPE, dtypes, 3, &dtype) ||
        !mla_option_choice(options, MLA_OPT_WEIGHTS_DTYPE, storages, 2, &weights) ||
        !mla_option_choice(options, MLA_OPT_CACHE_DTYPE, storages, 2, &cache) ||
        !take_projections(options, common) ||
        !mla_option_choice(options, MLA_OPT_MATRIX_UNITS, matrix_units, 2, &common->matrix_units) ||
        !mla_option_choice(options, MLA_OPT_CLBLAST_OVERRIDES, switches, 2,
                           &common->clblast_overrides) ||
        !mla_option_choice(options, MLA_OPT_KERNELS, kernels, 4, &common->kernels) ||
        !mla_option_integer(options, MLA_OPT_PAGE_BLOCK_SIZE, 0, LARGEST_PAGE_BLOCK_SIZE,
                            &page_block_size) ||
        !mla_option_integer(options, MLA_OPT_SEED, 0, INT64_MAX, &seed))
        return false;
    common->dtype = dtype_values[dtype];
    common->weights_dtype = weights == 1 ? CLMLA_DTYPE_F8_E4M3 : common->dtype;
    common->cache_dtype = cache == 1 ? CLMLA_DTYPE_FP8_DS_MLA : common->dtype;
    common->page_block_size = (int32_t)page_block_size;
    common->seed = (uint64_t)seed;
    common->kernel_directory = options->text[MLA_OPT_KERNEL_DIR];
    common->sm_90a = options->text[MLA_OPT_SM_90A] != NULL;
    common->one_launch = options->text[MLA_OPT_ONE_LAUNCH] != NULL;
    common->batch_invariant = options->text[MLA_OPT_BATCH_INVARIANT] != NULL;
    common->verbose = options->text[MLA_OPT_VERBOSE] != NULL;
    return true;
}

static void take_cache(const mla_options *options, mla_common *common)
{
    if (options->text[MLA_OPT_NO_CACHE] == NULL)
        common->cache_source =
            mla_cache_directory(variable("CLMLA_CACHE_DIR"), variable("XDG_CACHE_HOME"),
                                variable("HOME"), common->cache_directory);
}

/* An empty path would be the folder that the program runs in, or nothing at all; an empty part is one
 * of every name. */
static bool check_empty(const mla_options *options)
{
    static const struct {
        mla_option id;
        const char *wanted;
    } checked[] = {
        {MLA_OPT_PLATFORM, "an index, or part of a name"},
        {MLA_OPT_DEVICE, "an index, or part of a name"},
        {MLA_OPT_KERNEL_DIR, "a directory of .cl files"},
        {MLA_OPT_TUNING, "a file, or none"},
        {MLA_OPT_MODEL, "lite, r1 or a config.json"},
        {MLA_OPT_WEIGHTS, "a folder or a file"},
        {MLA_OPT_INPUT, "a file"},
        {MLA_OPT_OUTPUT, "a file"},
    };
    for (size_t i = 0; i < sizeof(checked) / sizeof(checked[0]); i++) {
        const char *text = options->text[checked[i].id];
        if (text != NULL && text[0] == '\0') {
            mla_error("--%s '': must be %s", option_name(checked[i].id), checked[i].wanted);
            return false;
        }
    }
    for (int i = 0; i < options->num_arguments; i++)
        if (options->arguments[i][0] == '\0') {
            mla_error("%s: an argument is empty; must be a file", options->command->name);
            return false;
        }
    return true;
}

static void take_tuning(const mla_options *options, mla_common *common)
{
    common->tuning = options->text[MLA_OPT_TUNING];
    (void)mla_tuning_directory(variable("CLMLA_TUNING_DIR"), variable("XDG_DATA_HOME"),
                               variable("HOME"), common->tuning_directory);
}

bool mla_options_common(const mla_options *options, mla_common *out)
{
    static const char *const formats[] = {"table", "csv", "json"};
    mla_common common = {.dtype = CLMLA_DTYPE_BF16, .clblast_overrides = 1};
    int32_t format = MLA_FORMAT_TABLE;
    if (!check_empty(options) || !take_device(options, &common.device) ||
        !take_numerics(options, &common) ||
        !mla_option_choice(options, MLA_OPT_FORMAT, formats, 3, &format))
        return false;
    take_cache(options, &common);
    take_tuning(options, &common);
    common.format = (mla_format)format;
    *out = common;
    return true;
}
