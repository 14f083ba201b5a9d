/*
 * Arguments of the program by table (arguments.h): hostile values of every option of every subcommand,
 * values that are missing, options of other commands, command lines that are wrong as a whole. Each
 * ends with its exit code, nothing on stdout, and one line on stderr that says what is wrong and is
 * printable whatever was given, before anything is computed. The tables have every option that --help
 * lists, and no other. By default every third hostile value of an option is tried, another third of the
 * next option's; with CLMLA_TEST_ALL in the environment all of them.
 */
#define _POSIX_C_SOURCE 200809L

#include <fcntl.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/arguments.h"
#include "core/os.h"
#include "core/printable.h"
#include "support/support.h"

extern char **environ;

#define FOLDER TEST_OUTPUT_DIR "/arguments"

enum { MOST_WORDS = 12, LONG_BYTES = 120000 /* the system takes 128 KiB */, MOST_LINE = 2100 };

static const char *const commands[] = {"devices", "bench", "verify", "run", "report", "tune"};
enum { NUM_COMMANDS = sizeof commands / sizeof commands[0] };
#define NUM_OPTIONS (sizeof option_rows / sizeof option_rows[0])
#define NUM_LINES (sizeof line_rows / sizeof line_rows[0])

/* ---- one command line ------------------------------------------------------------------------ */

/* Words as the program gets them. */
typedef struct line {
    char *words[MOST_WORDS + 1];
    int count;
} line;

static void add(line *l, const char *word)
{
    assert_true(l->count < MOST_WORDS);
    l->words[l->count++] = (char *)(uintptr_t)word;
    l->words[l->count] = NULL;
}

/* The exit code; 128 and more: ended by a signal. stdout and stderr go to the files "out", "error". */
static int run_program(line *l)
{
    posix_spawn_file_actions_t actions;
    const int mode = O_WRONLY | O_CREAT | O_TRUNC;
    pid_t child = 0;
    int status = 0;
    assert_int_equal(posix_spawn_file_actions_init(&actions), 0);
    assert_int_equal(posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0), 0);
    assert_int_equal(posix_spawn_file_actions_addopen(&actions, 1, "out", mode, 0600), 0);
    assert_int_equal(posix_spawn_file_actions_addopen(&actions, 2, "error", mode, 0600), 0);
    assert_int_equal(posix_spawn(&child, CLMLA_PROGRAM, &actions, NULL, l->words, environ), 0);
    assert_int_equal(posix_spawn_file_actions_destroy(&actions), 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static char *read_text(const char *path)
{
    char *text = NULL;
    size_t bytes = 0;
    assert_int_equal(mla__os_read_file(path, &text, &bytes), CLMLA_SUCCESS);
    if (strlen(text) != bytes)
        fail_msg("%s has a zero byte", path);
    return text;
}

/* What is wrong with an error; NULL: nothing. */
static const char *find_fault(const char *error, const char *text, const char *more)
{
    char shown[MOST_LINE + 2];
    const size_t length = strlen(error);
    if (length == 0 || error[length - 1] != '\n' || strchr(error, '\n') != error + length - 1)
        return "not one line on stderr";
    if (length > MOST_LINE)
        return "a line too long";
    (void)snprintf(shown, sizeof shown, "%.*s", (int)length - 1, error);
    mla__make_printable(shown);
    if (strncmp(shown, error, length - 1) != 0)
        return "not printable";
    if (strncmp(error, "clmla: ", strlen("clmla: ")) != 0)
        return "no 'clmla: ' before the error";
    return strstr(error, text) == NULL || strstr(error, more) == NULL ? "not what is wrong" : NULL;
}

static int failures, lines_run;

/* Runs a line. Its error must hold both texts. */
static void expect(line *l, int code, const char *text, const char *more)
{
    const int ended = run_program(l);
    char *out = read_text("out"), *error = read_text("error");
    const char *fault = ended != code    ? "another exit code"
                        : out[0] != '\0' ? "something on stdout"
                                         : find_fault(error, text, more);
    lines_run++;
    if (fault != NULL) {
        failures++;
        for (int i = 0; i < l->count; i++)
            print_error("%s'%.60s'", i > 0 ? " " : "", l->words[i]);
        print_error("\n  %s: exit code %d (%d is right); '%s', '%s' must be in: %.400s\n", fault,
                    ended, code, text, more, error);
    }
    free(out);
    free(error);
}

static void expect_no_failures(void)
{
    print_message("%d command lines\n", lines_run);
    assert_true(lines_run > 0);
    lines_run = 0;
    const int failed = failures;
    failures = 0;
    assert_int_equal(failed, 0);
}

/* ---- options --------------------------------------------------------------------------------- */

static bool takes(const option_row *row, const char *command)
{
    const size_t length = strlen(command);
    for (const char *at = row->commands; at != NULL; at = strchr(at, ',')) {
        at += *at == ',';
        if (strncmp(at, command, length) == 0 && (at[length] == ',' || at[length] == '\0'))
            return true;
    }
    return false;
}

static const option_row *find_row(const char *name, const char *command)
{
    for (size_t i = 0; i < NUM_OPTIONS; i++)
        if (strcmp(option_rows[i].name, name) == 0 && takes(&option_rows[i], command))
            return &option_rows[i];
    return NULL;
}

/* One line of --help: "      --runs=N    timed runs". False when it is of no option. */
static bool read_help(const char *text, char name[64], bool *has_value)
{
    const char *dashes = strstr(text, "--");
    if (dashes == NULL || (size_t)(dashes - text) != 6 ||
        (strncmp(text, "      ", 6) != 0 && strncmp(text, "  -?, ", 6) != 0))
        return false;
    const size_t length = strcspn(dashes + 2, "= \n");
    (void)snprintf(name, 64, "%.*s", (int)length, dashes + 2);
    *has_value = dashes[2 + length] == '=';
    return true;
}

static void the_tables_have_every_option_and_no_other(void **state)
{
    (void)state;
    for (int i = 0; i < NUM_COMMANDS; i++) {
        line l = {.count = 0};
        size_t listed = 0, tabled = 0;
        add(&l, "clmla");
        add(&l, commands[i]);
        add(&l, "--help");
        assert_int_equal(run_program(&l), 0);
        char *help = read_text("out");
        for (const char *at = help; *at != '\0'; at += strcspn(at, "\n"), at += *at == '\n') {
            char name[64];
            bool has_value = false;
            if (!read_help(at, name, &has_value))
                continue;
            const option_row *row = find_row(name, commands[i]);
            listed++;
            if (row == NULL || (row->kind != FLAG) != has_value)
                fail_msg("%s --%s is not in the table as --help has it", commands[i], name);
        }
        for (size_t o = 0; o < NUM_OPTIONS; o++)
            tabled += takes(&option_rows[o], commands[i]);
        if (listed != tabled)
            fail_msg("%s: %zu options in --help, %zu in the table", commands[i], listed, tabled);
        free(help);
    }
}

/* ---- values ---------------------------------------------------------------------------------- */

/* In place of any value that is looked at when the arguments are. */
static char long_digits[LONG_BYTES], long_text[LONG_BYTES], long_list[LONG_BYTES];
static const char *const anything[] = {
    "",
    " ",
    "\n",
    "\x01",
    "\xff",
    "\302\23331m", /* C1 */
    /* NOLINTNEXTLINE(misc-misleading-bidirectional): on purpose */
    "\xe2\x80\xae", /* right to left */
    "%s%n",
    "\x1b[31m",
    ",",
    long_digits,
    long_text,
    long_list,
};
static const char *const not_integers[] = {
    "1.5",
    "1e3",
    "1e309",
    "nan",
    "inf",
    "-inf",
    "+1",
    " 1",
    "1 ",
    "1x",
    "0x10",
    "1,2",
    "\xef\xbc\x91" /* a wide 1 */,
    "1e",
    "--",
    "-",
    "-0x1",
    "-9223372036854775809",
    "9223372036854775808",
    "18446744073709551616",
    "18446744073709551617",
    "340282366920938463463374607431768211457",
};
static const char *const not_lists[] = {
    "1,",
    ",1",
    "1,,2",
    "1, 2",
    "1 2",
    "1;2",
    "1.5",
    "1,nan",
    "inf",
    "1,+1",
    "1x",
    "1,0x1",
    "1,1e309",
    "1,4294967297",
    "9223372036854775808",
    "18446744073709551617",
    "1,00000000000000000000000001",
};
static const char *const not_models[] = {
    "LITE",   "lite ",         "r",         "nosuch",        ".", "..", "/",
    "folder", "nosuch/x.json", "/dev/null", "g.safetensors",
};

#define EACH(list, at)                                                                             \
    size_t at = 0;                                                                                 \
    at < sizeof(list) / sizeof((list)[0]);                                                         \
    at++

/* "--name=value", and what the first command that takes it needs besides. accepted is part of the
 * error. */
static void try_value(const option_row *row, const char *command, const char *value,
                      const char *accepted)
{
    static char text[LONG_BYTES + 64];
    char named[80];
    line l = {.count = 0};
    const bool first = strncmp(row->commands, command, strlen(command)) == 0;
    (void)snprintf(text, sizeof text, "--%s=%s", row->name, value);
    (void)snprintf(named, sizeof named, "--%s '", row->name);
    add(&l, "clmla");
    add(&l, command);
    for (int i = 0; first && row->besides[i] != NULL; i++)
        add(&l, row->besides[i]);
    add(&l, text);
    expect(&l, 2, named, accepted);
}

/* By default whether this is one of the thirds' values. */
static bool is_tried(const option_row *row, size_t value)
{
    return getenv("CLMLA_TEST_ALL") != NULL || (value + (size_t)(row - option_rows)) % 3 == 0;
}

static void try_list(const option_row *row, const char *command, const char *const *values,
                     size_t count, const char *accepted)
{
    for (size_t i = 0; i < count; i++)
        if (is_tried(row, i))
            try_value(row, command, values[i], accepted);
}

#define TRY_LIST(row, command, list, accepted)                                                     \
    try_list(row, command, list, sizeof(list) / sizeof((list)[0]), accepted)

static void try_integer(const option_row *row, const char *command, int64_t value,
                        const char *accepted)
{
    char text[32];
    (void)snprintf(text, sizeof text, "%lld", (long long)value);
    try_value(row, command, text, accepted);
}

static void try_numbers(const option_row *row, const char *command)
{
    char accepted[96];
    (void)snprintf(accepted, sizeof accepted, "must be %s from %lld to %lld%s",
                   row->kind == LIST ? "integers" : "an integer", (long long)row->minimum,
                   (long long)row->maximum, row->kind == LIST ? " with commas between" : "");
    TRY_LIST(row, command, anything, accepted);
    if (row->kind == INTEGER)
        TRY_LIST(row, command, not_integers, accepted);
    else
        TRY_LIST(row, command, not_lists, accepted);
    try_integer(row, command, row->minimum - 1, accepted);
    try_integer(row, command, INT64_MIN, accepted);
    if (row->maximum == INT64_MAX)
        return;
    try_integer(row, command, row->maximum + 1, accepted);
    try_integer(row, command, INT64_C(1) << 32 | 1, accepted);
    try_integer(row, command, INT64_MAX, accepted);
}

/* Near misses of the first and the last name. */
static void try_names(const option_row *row, const char *command)
{
    char text[256];
    const char *first = row->names[0], *last = first;
    for (int i = 0; i < 4 && row->names[i] != NULL; i++)
        last = row->names[i];
    const struct {
        const char *before, *a, *between, *b, *behind;
    } misses[] = {
        {"", "", "no", "such", ""},   {" ", first, "", "", ""},    {"", first, "", "", " "},
        {"", first, "", "", "x"},     {"", first, "x", last, ""},  {"", first, ",", "", ""},
        {",", first, "", "", ""},     {"", first, ",,", last, ""}, {"", first, ", ", last, ""},
        {"", first, ",", first, ""},  {"", "0", "", "", ""},       {"", "-", "1", "", ""},
        {"", first, ",", last, ",x"}, {"", first, "\n", last, ""},
    };
    TRY_LIST(row, command, anything, last);
    for (size_t i = 0; i < sizeof misses / sizeof misses[0]; i++) {
        if (!is_tried(row, i))
            continue;
        (void)snprintf(text, sizeof text, "%s%s%s%s%s", misses[i].before, misses[i].a,
                       misses[i].between, misses[i].b, misses[i].behind);
        try_value(row, command, text, last);
    }
    (void)snprintf(text, sizeof text, "%.1s", first);
    try_value(row, command, text, last);
    (void)snprintf(text, sizeof text, "%s", first);
    text[0] = (char)(text[0] - 'a' + 'A');
    try_value(row, command, text, last);
    if (row->kind == CHOICE) {
        (void)snprintf(text, sizeof text, "%s,%s", first, last);
        try_value(row, command, text, last);
    }
}

static void hostile_values_of_every_option(void **state)
{
    (void)state;
    for (size_t i = 0; i < NUM_OPTIONS; i++) {
        const option_row *row = &option_rows[i];
        bool whole = true; /* the first command gets all, the others one: the code is shared */
        for (int c = 0; c < NUM_COMMANDS && row->kind != FLAG; c++) {
            if (!takes(row, commands[c]))
                continue;
            if (!whole || row->kind == OTHER)
                try_value(row, commands[c], "", row->accepted != NULL ? row->accepted : "must be");
            else if (row->kind == INTEGER || row->kind == LIST)
                try_numbers(row, commands[c]);
            else if (row->kind == CHOICE || row->kind == CHOICES)
                try_names(row, commands[c]);
            else
                TRY_LIST(row, commands[c], not_models, row->accepted);
            whole = false;
        }
    }
    expect_no_failures();
}

/* ---- options that are none, or not whole ------------------------------------------------------- */

static void options_without_values_and_flags_with_one(void **state)
{
    (void)state;
    for (size_t i = 0; i < NUM_OPTIONS; i++)
        for (int c = 0; c < NUM_COMMANDS; c++) {
            const option_row *row = &option_rows[i];
            char text[64];
            line l = {.count = 0};
            if (!takes(row, commands[c]))
                continue;
            (void)snprintf(text, sizeof text, "--%s%s", row->name, row->kind == FLAG ? "=1" : "");
            add(&l, "clmla");
            add(&l, commands[c]);
            add(&l, text);
            expect(&l, 2, text, row->kind == FLAG ? "; see clmla" : ": needs a value");
        }
    expect_no_failures();
}

static void options_of_other_commands(void **state)
{
    (void)state;
    for (size_t i = 0; i < NUM_OPTIONS; i++)
        for (int c = 0; c < NUM_COMMANDS; c++) {
            char text[64];
            line l = {.count = 0};
            if (find_row(option_rows[i].name, commands[c]) != NULL)
                continue;
            (void)snprintf(text, sizeof text, "--%s", option_rows[i].name);
            add(&l, "clmla");
            add(&l, commands[c]);
            add(&l, text);
            add(&l, "1");
            expect(&l, 2, text, ": unknown option");
        }
    expect_no_failures();
}

static void lines_that_are_wrong_as_a_whole(void **state)
{
    (void)state;
    for (size_t i = 0; i < NUM_LINES; i++) {
        line l = {.count = 0};
        add(&l, "clmla");
        for (int w = 0; line_rows[i].words[w] != NULL; w++)
            add(&l, line_rows[i].words[w]);
        expect(&l, line_rows[i].code, line_rows[i].text, "");
    }
    expect_no_failures();
}

/* ---- the folder ------------------------------------------------------------------------------ */

static void write_text(const char *path, const char *text, size_t bytes)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

static int set_up(void **state)
{
    static const char model[] =
        "{\"model_type\": \"deepseek_v2\", \"hidden_size\": 64, \"num_attention_heads\": 4,\n"
        " \"q_lora_rank\": null, \"kv_lora_rank\": 32, \"qk_nope_head_dim\": 16,\n"
        " \"qk_rope_head_dim\": 8, \"v_head_dim\": 16, \"rms_norm_eps\": 1e-6,\n"
        " \"rope_theta\": 10000.0, \"rope_scaling\": null, \"max_position_embeddings\": 4096}\n";
    char *golden = NULL;
    size_t bytes = 0;
    (void)state;
    (void)mkdir(FOLDER, 0700);
    (void)mkdir(FOLDER "/folder", 0700);
    assert_int_equal(chdir(FOLDER), 0);
    assert_int_equal(mla__os_read_file(GOLDEN_DIR "/01_tiny_prefill.safetensors", &golden, &bytes),
                     CLMLA_SUCCESS);
    write_text("g.safetensors", golden, bytes);
    free(golden);
    write_text("tiny.json", model, sizeof model - 1);
    memset(long_digits, '1', sizeof long_digits - 1);
    memset(long_text, 'x', sizeof long_text - 1);
    for (size_t i = 0; i + 1 < sizeof long_list; i++)
        long_list[i] = i + 2 == sizeof long_list ? 'x' : i % 2 == 0 ? '1' : ',';
    assert_int_equal(unsetenv("CLMLA_PLATFORM"), 0);
    assert_int_equal(unsetenv("CLMLA_DEVICE"), 0);
    assert_int_equal(setenv("CLMLA_CACHE_DIR", "", 1), 0);
    assert_int_equal(setenv("CLMLA_TUNING_DIR", "", 1), 0);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_tables_have_every_option_and_no_other),
        cmocka_unit_test(hostile_values_of_every_option),
        cmocka_unit_test(options_without_values_and_flags_with_one),
        cmocka_unit_test(options_of_other_commands),
        cmocka_unit_test(lines_that_are_wrong_as_a_whole),
    };
    return cmocka_run_group_tests_name("arguments", tests, set_up, NULL);
}
