#define _POSIX_C_SOURCE 200809L /* setenv */

#include "cli/options.h"
#include "support/support.h"

static struct poptOption own_options[] = {
    MLA_OPTION_VALUE("runs", MLA_OPT_RUNS, "runs", "N"),
    MLA_OPTION_VALUE("seqlens", MLA_OPT_SEQLENS, "lengths", "L"),
    MLA_OPTION_VALUE("case", MLA_OPT_CASE, "cases", "C"),
    MLA_OPTION_FLAG("stages", MLA_OPT_STAGES, "stages"),
    POPT_TABLEEND,
};

static const mla_command takes_options_only = {.name = "test",
                                               .summary = "A test.",
                                               .own = own_options,
                                               .has_device = true,
                                               .has_numerics = true,
                                               .has_format = true};
static const mla_command takes_projections = {
    .name = "test", .summary = "A test.", .has_numerics = true, .many_projections = true};
static const mla_command takes_files = {.name = "test", .summary = "A test.", .arguments = "FILE"};

/* Parses "test" and up to six words, into *options. */
static int parse(const mla_command *command, const char *const words[6], mla_options *options)
{
    char text[7][64] = {"test"};
    char *argv[8] = {text[0]};
    int argc = 1;
    for (int i = 0; i < 6 && words[i] != NULL; i++, argc++) {
        (void)snprintf(text[argc], sizeof(text[argc]), "%s", words[i]);
        argv[argc] = text[argc];
    }
    return mla_options_parse(command, argc, argv, options);
}

typedef struct parse_case {
    const char *name;
    const mla_command *command;
    const char *words[6];
    int code; /* -1: goes on */
} parse_case;

static const parse_case parse_cases[] = {
    {"nothing", &takes_options_only, {NULL}, -1},
    {"values with and without an equals sign",
     &takes_options_only,
     {"--runs=3", "--seqlens", "1,2"},
     -1},
    {"help", &takes_options_only, {"--help"}, 0},
    {"an unknown option", &takes_options_only, {"--nosuch"}, 2},
    {"an option of another command", &takes_files, {"--runs", "3"}, 2},
    {"a value that is missing", &takes_options_only, {"--runs"}, 2},
    {"a flag with a value", &takes_options_only, {"--stages=yes"}, 2},
    {"an argument where none is taken", &takes_options_only, {"file"}, 2},
    {"arguments where some are taken", &takes_files, {"a", "b"}, -1},
};

static void parses(void **state)
{
    const parse_case *c = *state;
    mla_options options;
    assert_int_equal(parse(c->command, c->words, &options), c->code);
    mla_options_release(&options);
}

typedef struct value_case {
    const char *name;
    const char *text; /* NULL: the option is not given */
    bool accepted;
    int64_t value; /* of an integer; bits of choices */
} value_case;

static const value_case integer_cases[] = {
    {"not given: the default stays", NULL, true, 42},
    {"the smallest", "1", true, 1},
    {"the largest", "1000", true, 1000},
    {"leading zeros", "007", true, 7},
    {"below the smallest", "0", false, 42},
    {"above the largest", "1001", false, 42},
    {"more than 64 bits", "99999999999999999999", false, 42},
    {"negative", "-5", false, 42},
    {"no number", "x", false, 42},
    {"a number and more", "5x", false, 42},
    {"a fraction", "1.5", false, 42},
    {"nothing", "", false, 42},
    {"a blank before it", " 5", false, 42},
};

static void reads_an_integer(void **state)
{
    const value_case *c = *state;
    mla_options options;
    int64_t value = 42;
    assert_int_equal(parse(&takes_options_only,
                           (const char *const[6]){c->text != NULL ? "--runs" : NULL, c->text},
                           &options),
                     -1);
    assert_int_equal(mla_option_integer(&options, MLA_OPT_RUNS, 1, 1000, &value), c->accepted);
    assert_int_equal(value, c->value);
    mla_options_release(&options);
}

static const value_case choices_cases[] = {
    {"not given: the default stays", NULL, true, 42},
    {"one of them", "decode", true, 2},
    {"both, in any order", "decode,prefill", true, 3},
    {"one of them twice", "prefill,prefill", false, 42},
    {"an unknown one", "prefill,nosuch", false, 42},
    {"a part of one", "pre", false, 42},
    {"an empty one", "prefill,", false, 42},
    {"nothing", "", false, 42},
};

static void reads_choices(void **state)
{
    static const char *const names[] = {"prefill", "decode"};
    const value_case *c = *state;
    mla_options options;
    uint32_t chosen = 42;
    assert_int_equal(parse(&takes_options_only,
                           (const char *const[6]){c->text != NULL ? "--case" : NULL, c->text},
                           &options),
                     -1);
    assert_int_equal(mla_option_choices(&options, MLA_OPT_CASE, names, 2, &chosen), c->accepted);
    assert_int_equal(chosen, c->value);
    mla_options_release(&options);
}

typedef struct list_case {
    const char *name, *text;
    bool accepted;
    size_t count;
    int32_t values[4];
} list_case;

static const list_case list_cases[] = {
    {"one entry", "7", true, 1, {7}},
    {"several entries", "64,128,0,256", true, 4, {64, 128, 0, 256}},
    {"an empty entry", "1,,2", false},
    {"a comma at the end", "1,2,", false},
    {"an entry above the largest", "1,1001", false},
    {"a negative entry", "1,-2", false},
    {"a blank", "1, 2", false},
    {"an entry of many digits", "1,00000000000000000000000000001", false},
};

static void reads_a_list(void **state)
{
    const list_case *c = *state;
    mla_options options;
    int32_t *values = NULL;
    size_t count = 0;
    assert_int_equal(
        parse(&takes_options_only, (const char *const[6]){"--seqlens", c->text}, &options), -1);
    assert_int_equal(mla_option_list(&options, MLA_OPT_SEQLENS, 0, 1000, &values, &count),
                     c->accepted);
    if (c->accepted) {
        assert_int_equal(count, c->count);
        assert_memory_equal(values, c->values, count * sizeof(*values));
    } else {
        assert_null(values);
    }
    free(values);
    mla_options_release(&options);
}

static void the_last_of_repeated_options_counts(void **state)
{
    (void)state;
    mla_options options;
    int64_t value = 0;
    assert_int_equal(
        parse(&takes_options_only, (const char *const[6]){"--runs=1", "--runs=2"}, &options), -1);
    assert_true(mla_option_integer(&options, MLA_OPT_RUNS, 0, 9, &value));
    assert_int_equal(value, 2);
    mla_options_release(&options);
}

typedef struct common_case {
    const char *name;
    const char *words[6];
    const char *env_platform, *env_device;
    bool accepted;
    const char *platform, *device;
    mla_shorthand shorthand;
    clmla_dtype dtype;
    clmla_projection_backend projection;
    int32_t page_block_size; /* 0: the default, 64 */
    clmla_kernel_class kernels;
    int32_t sm_90a;
    mla_format format;
} common_case;

static const common_case common_cases[] = {
    {.name = "defaults", .accepted = true, .dtype = CLMLA_DTYPE_BF16},
    {.name = "everything given",
     .words = {"--dtype=f32", "--projection=clblast", "--kernels=gpu", "--page-block-size=16",
               "--platform=P", "--device=D"},
     .accepted = true,
     .platform = "P",
     .device = "D",
     .dtype = CLMLA_DTYPE_F32,
     .projection = CLMLA_PROJECTION_CLBLAST,
     .kernels = CLMLA_KERNELS_GPU,
     .page_block_size = 16},
    {.name = "a class of one vendor, and kernels for one target",
     .words = {"--kernels=nvidia", "--sm-90a"},
     .accepted = true,
     .sm_90a = 1,
     .dtype = CLMLA_DTYPE_BF16,
     .kernels = CLMLA_KERNELS_NVIDIA},
    {.name = "a format",
     .words = {"--format=json"},
     .accepted = true,
     .dtype = CLMLA_DTYPE_BF16,
     .format = MLA_FORMAT_JSON},
    {.name = "the environment where nothing is given",
     .env_platform = "E",
     .env_device = "1",
     .accepted = true,
     .platform = "E",
     .device = "1",
     .dtype = CLMLA_DTYPE_BF16},
    {.name = "arguments before the environment",
     .words = {"--platform=P", "--device=D"},
     .env_platform = "E",
     .env_device = "1",
     .accepted = true,
     .platform = "P",
     .device = "D",
     .dtype = CLMLA_DTYPE_BF16},
    {.name = "a shorthand before CLMLA_PLATFORM",
     .words = {"--intel"},
     .env_platform = "E",
     .accepted = true,
     .shorthand = MLA_SHORTHAND_INTEL,
     .dtype = CLMLA_DTYPE_BF16},
    {.name = "an empty variable is none",
     .env_platform = "",
     .env_device = "",
     .accepted = true,
     .dtype = CLMLA_DTYPE_BF16},
    {.name = "a shorthand with --platform", .words = {"--amd", "--platform=P"}},
    {.name = "two shorthands", .words = {"--amd", "--cpu"}},
    {.name = "an unknown dtype", .words = {"--dtype=fp8"}},
    {.name = "an unknown projection", .words = {"--projection=blas"}},
    {.name = "two projections for a command that takes one",
     .words = {"--projection=native,clblast"}},
    {.name = "a negative page size", .words = {"--page-block-size=-1"}},
    {.name = "an unknown class", .words = {"--kernels=tpu"}},
    {.name = "an unknown format", .words = {"--format=xml"}},
    {.name = "a negative seed", .words = {"--seed=-1"}},
};

static void set_environment(const char *name, const char *value)
{
    assert_int_equal(value != NULL ? setenv(name, value, 1) : unsetenv(name), 0);
}

static void same_text(const char *text, const char *expected)
{
    if (expected == NULL)
        assert_null(text);
    else
        assert_string_equal(text, expected);
}

static void reads_shared_options(void **state)
{
    const common_case *c = *state;
    mla_options options;
    mla_common common;
    set_environment("CLMLA_PLATFORM", c->env_platform);
    set_environment("CLMLA_DEVICE", c->env_device);
    assert_int_equal(parse(&takes_options_only, c->words, &options), -1);
    assert_int_equal(mla_options_common(&options, &common), c->accepted);
    if (c->accepted) {
        same_text(common.device.platform, c->platform);
        same_text(common.device.device, c->device);
        assert_int_equal(common.device.shorthand, c->shorthand);
        assert_int_equal(common.dtype, c->dtype);
        assert_int_equal(common.num_projections, 1);
        assert_int_equal(common.projections[0], c->projection);
        assert_int_equal(common.page_block_size, c->page_block_size > 0 ? c->page_block_size : 64);
        assert_int_equal(common.kernels, c->kernels);
        assert_int_equal(common.sm_90a, c->sm_90a);
        assert_int_equal(common.format, c->format);
        assert_int_equal(common.seed, 1);
    }
    mla_options_release(&options);
}

typedef struct projections_case {
    const char *name, *text;
    bool accepted;
    size_t count;
    clmla_projection_backend projections[MLA_MAX_PROJECTIONS];
} projections_case;

static const projections_case projections_cases[] = {
    {"no projection: auto", NULL, true, 1, {CLMLA_PROJECTION_AUTO}},
    {"one projection", "native", true, 1, {CLMLA_PROJECTION_NATIVE}},
    {"projections in the order given",
     "clblast,auto,native",
     true,
     3,
     {CLMLA_PROJECTION_CLBLAST, CLMLA_PROJECTION_AUTO, CLMLA_PROJECTION_NATIVE}},
    {"a projection twice", "native,clblast,native", false},
    {"an unknown projection in a list", "native,blas", false},
    {"an empty projection in a list", "native,", false},
};

static void reads_projections(void **state)
{
    const projections_case *c = *state;
    mla_options options;
    mla_common common;
    assert_int_equal(parse(&takes_projections,
                           (const char *const[6]){c->text != NULL ? "--projection" : NULL, c->text},
                           &options),
                     -1);
    assert_int_equal(mla_options_common(&options, &common), c->accepted);
    if (c->accepted) {
        assert_int_equal(common.num_projections, c->count);
        for (size_t i = 0; i < c->count; i++)
            assert_int_equal(common.projections[i], c->projections[i]);
    }
    mla_options_release(&options);
}

/* ---- the cache's directory ------------------------------------------------------------------ */

typedef struct cache_case {
    const char *name, *own, *xdg, *home;
    mla_cache_source source;
    const char *path;
} cache_case;

static const cache_case cache_cases[] = {
    {"CLMLA_CACHE_DIR before all", "/a", "/x", "/h", MLA_CACHE_CHOSEN, "/a"},
    {"CLMLA_CACHE_DIR may be relative", "a/b", NULL, NULL, MLA_CACHE_CHOSEN, "a/b"},
    {"an empty CLMLA_CACHE_DIR switches off", "", "/x", "/h", MLA_CACHE_NONE, ""},
    {"XDG_CACHE_HOME before HOME", NULL, "/x", "/h", MLA_CACHE_DEFAULT, "/x/clmla"},
    {"an empty XDG_CACHE_HOME is not set", NULL, "", "/h", MLA_CACHE_DEFAULT, "/h/.cache/clmla"},
    {"nor is a relative one", NULL, "x", "/h", MLA_CACHE_DEFAULT, "/h/.cache/clmla"},
    {"HOME last", NULL, NULL, "/h", MLA_CACHE_DEFAULT, "/h/.cache/clmla"},
    {"an empty HOME: no cache", NULL, NULL, "", MLA_CACHE_NONE, ""},
    {"a relative HOME: no cache", NULL, NULL, "h", MLA_CACHE_NONE, ""},
    {"nothing set: no cache", NULL, NULL, NULL, MLA_CACHE_NONE, ""},
};

static void finds_the_cache_directory(void **state)
{
    const cache_case *c = *state;
    char path[MLA_PATH_BYTES];
    assert_int_equal(mla_cache_directory(c->own, c->xdg, c->home, path), c->source);
    assert_string_equal(path, c->path);
}

static void a_cache_directory_that_does_not_fit_is_none(void **state)
{
    (void)state;
    static char home[MLA_PATH_BYTES];
    char path[MLA_PATH_BYTES];
    memset(home, '/', sizeof(home) - 1);
    assert_int_equal(mla_cache_directory(NULL, NULL, home, path), MLA_CACHE_NONE);
    assert_string_equal(path, "");
}

static void finds_the_directory_of_tuning_records(void **state)
{
    (void)state;
    char path[MLA_PATH_BYTES];
    assert_true(mla_tuning_directory("/a", "/x", "/h", path));
    assert_string_equal(path, "/a");
    assert_true(mla_tuning_directory(NULL, "/x", "/h", path));
    assert_string_equal(path, "/x/clmla");
    assert_true(mla_tuning_directory(NULL, "relative", "/h", path));
    assert_string_equal(path, "/h/.local/share/clmla");
    assert_false(mla_tuning_directory("", "/x", "/h", path));
    assert_string_equal(path, "");
    assert_false(mla_tuning_directory(NULL, NULL, NULL, path));
}

static void a_record_is_named_for_device_and_driver(void **state)
{
    (void)state;
    char path[MLA_PATH_BYTES];
    static char long_name[600], directory[MLA_PATH_BYTES];
    assert_true(mla_tuning_path("/d", "Test(R) GPU  1/2 ", "3.1+debian", path));
    assert_string_equal(path, "/d/Test-R-GPU-1-2--3.1-debian.tuning");
    memset(long_name, 'n', sizeof(long_name) - 1);
    assert_true(mla_tuning_path("/d", long_name, "1", path));
    assert_true(strlen(path) < 255); /* of a file's name on usual systems */
    memset(directory, 'd', sizeof(directory) - 1);
    assert_false(mla_tuning_path(directory, "GPU", "1", path));
    assert_string_equal(path, "");
}

static void an_empty_tuning_file_is_refused(void **state)
{
    (void)state;
    mla_options options;
    mla_common common;
    assert_int_equal(parse(&takes_projections, (const char *const[6]){"--tuning="}, &options), -1);
    assert_false(mla_options_common(&options, &common));
    mla_options_release(&options);
    assert_int_equal(parse(&takes_projections, (const char *const[6]){"--tuning=f"}, &options), -1);
    assert_true(mla_options_common(&options, &common));
    assert_string_equal(common.tuning, "f");
    mla_options_release(&options);
}

static void no_cache_switches_it_off(void **state)
{
    (void)state;
    mla_options options;
    mla_common common;
    assert_int_equal(parse(&takes_projections, (const char *const[6]){"--no-cache"}, &options), -1);
    assert_true(mla_options_common(&options, &common));
    assert_int_equal(common.cache_source, MLA_CACHE_NONE);
    assert_string_equal(common.cache_directory, "");
    mla_options_release(&options);
}

#define COUNT(cases) (sizeof(cases) / sizeof((cases)[0]))
#define ADD_CASES(cases, function)                                                                 \
    for (size_t i = 0; i < COUNT(cases); i++)                                                      \
        tests[count++] = (struct CMUnitTest)                                                       \
        {                                                                                          \
            cases[i].name, function, NULL, NULL, (void *)(uintptr_t)&cases[i]                      \
        }

int main(void)
{
    struct CMUnitTest tests[COUNT(parse_cases) + COUNT(integer_cases) + COUNT(choices_cases) +
                            COUNT(list_cases) + COUNT(common_cases) + COUNT(projections_cases) +
                            COUNT(cache_cases) + 6];
    size_t count = 0;
    ADD_CASES(parse_cases, parses);
    ADD_CASES(integer_cases, reads_an_integer);
    ADD_CASES(choices_cases, reads_choices);
    ADD_CASES(list_cases, reads_a_list);
    ADD_CASES(common_cases, reads_shared_options);
    ADD_CASES(projections_cases, reads_projections);
    ADD_CASES(cache_cases, finds_the_cache_directory);
    tests[count++] =
        (struct CMUnitTest)cmocka_unit_test(a_cache_directory_that_does_not_fit_is_none);
    tests[count++] = (struct CMUnitTest)cmocka_unit_test(no_cache_switches_it_off);
    tests[count++] = (struct CMUnitTest)cmocka_unit_test(finds_the_directory_of_tuning_records);
    tests[count++] = (struct CMUnitTest)cmocka_unit_test(a_record_is_named_for_device_and_driver);
    tests[count++] = (struct CMUnitTest)cmocka_unit_test(an_empty_tuning_file_is_refused);
    tests[count++] = (struct CMUnitTest)cmocka_unit_test(the_last_of_repeated_options_counts);
    return cmocka_run_group_tests_name("options", tests, NULL, NULL);
}
