/* Binaries on disk: found again by other contexts, threads and processes, in a directory that is
 * safe to use or not at all. Files that may not be taken are in test_binary_damage.c, what system and
 * driver refuse in test_binary_faults.c. */
#define _POSIX_C_SOURCE 200809L

#include <pthread.h>
#include <spawn.h>
#include <sys/wait.h>

#define KERNELS TEST_OUTPUT_DIR "/kernels-test-binary"
#define ROOT TEST_OUTPUT_DIR "/cache-test-binary"
#include "ocl/binary_cache.h"

extern char **environ;

static mode_t mode_of(const char *path)
{
    struct stat info;
    assert_int_equal(lstat(path, &info), 0);
    return info.st_mode & 07777;
}

/* ---- hits --------------------------------------------------------------------------------- */

static void another_context_reads_what_the_first_compiled(void **state)
{
    (void)state;
    char path[PATH_BYTES];
    use(1, false);
    assert_string_equal(notes, "");
    assert_int_equal(list_cache(path), 1);
    use(1, true);
    assert_string_equal(notes, "");
    use(2, false); /* other definitions: another program */
    assert_int_equal(list_cache(path), 2);
    use(2, true);
    use(1, true);
    assert_int_equal(mode_of(path), 0600);
    assert_int_equal(mode_of(CACHE), 0700);
    assert_int_equal(mode_of(ROOT), 0700); /* a parent that was missing, too */
}

static void a_changed_source_is_another_program(void **state)
{
    (void)state;
    use(1, false);
    test_write_kernel(
        KERNELS, "answer.cl",
        "kernel void answer(global int *out, ulong at)\n{\n    out[at] = VALUE;;\n}\n");
    use(1, false);
    use(1, true);
}

static void without_a_directory_nothing_is_kept(void **state)
{
    (void)state;
    char path[PATH_BYTES];
    clmla_context *context = use_in(NULL, 1);
    const clmla_context_info info = info_of(context);
    assert_null(info.cache_directory);
    assert_int_equal(info.programs_read, 0);
    assert_int_equal(info.programs_compiled, 1);
    assert_int_equal(list_cache(path), -1);
    clmla_context_release(context);
}

static void a_failed_build_leaves_nothing(void **state)
{
    (void)state;
    const test_device *on = test_device_get();
    const char *const files[] = {"broken.cl", NULL};
    char path[PATH_BYTES];
    clmla_context *context = NULL;
    cl_program program = NULL;
    const clmla_context_options options = {
        .struct_size = sizeof options, .kernel_directory = KERNELS, .cache_directory = CACHE};
    test_write_kernel(KERNELS, "broken.cl", "kernel void answer(\n");
    assert_int_equal(clmla_context_create(on->context, on->id, &options, &context), CLMLA_SUCCESS);
    assert_int_equal(mla__program_get(context, files, NULL, &program), CL_BUILD_PROGRAM_FAILURE);
    assert_int_equal(info_of(context).programs_compiled, 0);
    assert_int_equal(list_cache(path), 0);
    clmla_context_release(context);
}

static void the_key_names_all_that_a_binary_depends_on(void **state)
{
    (void)state;
    char path[PATH_BYTES];
    size_t bytes = 0;
    char *data = make_file(path, &bytes);
    clmla_context *context = use_in(NULL, 1);
    const mla__device *device = &context->device;
    const char *const parts[] = {
        clmla_version(),          device->name,           device->vendor,
        device->version,          device->driver_version, device->platform_name,
        device->platform_version, "-cl-std=CL1.2",        "#define VALUE 1\n",
        "#line 1 \"common.clh\"", "out[at] = VALUE;\n}"};
    data[KEY_AT + field(data, KEY_BYTES_AT)] = '\0';
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        if (strstr(data + KEY_AT, parts[i]) == NULL)
            fail_msg("'%s' is not in the key", parts[i]);
    clmla_context_release(context);
    free(data);
}

static void info_wants_its_size(void **state)
{
    (void)state;
    clmla_context *context = use_in(CACHE, 1);
    clmla_context_info info = {.struct_size = sizeof info - 1};
    assert_string_equal(info_of(context).cache_directory, CACHE);
    assert_int_equal(clmla_context_get_info(context, &info), CLMLA_INVALID_ARGUMENT);
    assert_int_equal(clmla_context_get_info(context, NULL), CLMLA_INVALID_ARGUMENT);
    assert_int_equal(clmla_context_get_info(NULL, &info), CLMLA_INVALID_ARGUMENT);
    clmla_context_release(context);
}

/* ---- directories --------------------------------------------------------------------------- */

static void a_directory_that_vanishes_is_not_missed(void **state)
{
    (void)state;
    mla__defines defines = {0};
    clmla_context *context = use_in(CACHE, 1);
    remove_tree(CACHE);
    mla__define_int(&defines, "VALUE", 2);
    assert_int_equal(test_answer(context, "answer.cl", &defines), 2);
    expect_note("cannot write");
    clmla_context_release(context);
}

static void expect_no_cache(const char *directory, const char *why)
{
    clmla_context *context = use_in(directory, 1);
    print_message("  %s: %s\n", directory, why);
    assert_null(info_of(context).cache_directory);
    expect_note(directory);
    expect_note(why);
    clmla_context_release(context);
}

static void directories_of_others_are_refused(void **state)
{
    (void)state;
    char path[PATH_BYTES];
    const mode_t modes[] = {0770, 0702, 0777, 01777};
    assert_int_equal(mkdir(ROOT, 0700), 0);
    assert_int_equal(mkdir(CACHE, 0700), 0);
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
        assert_int_equal(chmod(CACHE, modes[i]), 0);
        expect_no_cache(CACHE, "can be written by other users");
    }
    assert_int_equal(list_cache(path), 0);
    assert_int_equal(chmod(CACHE, 0755), 0);
    use(1, false); /* others may read */
    assert_int_equal(list_cache(path), 1);
    if (geteuid() != 0) {
        expect_no_cache("/usr", "is owned by another user");
    } else {
        assert_int_equal(chown(CACHE, NOBODY, NOBODY), 0);
        expect_no_cache(CACHE, "is owned by another user");
    }
}

static void directories_that_cannot_be_made_are_done_without(void **state)
{
    (void)state;
    assert_int_equal(mkdir(ROOT, 0700), 0);
    write_file(CACHE, "x", 1);
    expect_no_cache(CACHE, "is not a directory");
    expect_no_cache(CACHE "/below", "Not a directory");
    expect_no_cache("/proc/no/such", "No such file or directory");
    expect_no_cache("", "No such file or directory");
}

/* ---- other threads and processes ------------------------------------------------------------ */

enum { THREADS = 4 };

struct racer {
    clmla_context *context;
    pthread_barrier_t *start;
    clmla_status status;
};

static void *race(void *argument)
{
    struct racer *racer = argument;
    const char *const files[] = {"answer.cl", NULL};
    mla__defines defines = {0};
    cl_program program = NULL;
    mla__define_int(&defines, "VALUE", 2);
    (void)pthread_barrier_wait(racer->start);
    racer->status = mla__program_get(racer->context, files, &defines, &program);
    return NULL;
}

static void threads_read_and_write_a_program_once(void **state)
{
    (void)state;
    for (int round = 0; round < 2; round++) { /* written in the first, read in the second */
        clmla_context *context = use_in(CACHE, 1);
        const clmla_context_info before = info_of(context);
        pthread_barrier_t start;
        pthread_t threads[THREADS];
        struct racer racers[THREADS];
        assert_int_equal(pthread_barrier_init(&start, NULL, THREADS), 0);
        for (int i = 0; i < THREADS; i++) {
            racers[i] = (struct racer){.context = context, .start = &start, .status = -1};
            assert_int_equal(pthread_create(&threads[i], NULL, race, &racers[i]), 0);
        }
        for (int i = 0; i < THREADS; i++)
            assert_int_equal(pthread_join(threads[i], NULL), 0);
        for (int i = 0; i < THREADS; i++)
            assert_int_equal(racers[i].status, CLMLA_SUCCESS);
        const clmla_context_info after = info_of(context);
        assert_int_equal(after.programs_read - before.programs_read, round);
        assert_int_equal(after.programs_compiled - before.programs_compiled, 1 - round);
        assert_int_equal(pthread_barrier_destroy(&start), 0);
        clmla_context_release(context);
    }
    assert_string_equal(notes, "");
}

static const char *own_path; /* argv[0] */

/* PoCL's own cache is not what is tested, and PoCL 3.1 does not unpack into one that others fill at the
 * same time without harm: of 90 processes on a shared one a child died of a segmentation fault, of
 * 240 with one each none. */
static pid_t start(const char *mode, int number)
{
    char cache[PATH_BYTES];
    pid_t child = 0;
    (void)snprintf(cache, sizeof cache, ROOT "/pocl-%d", number);
    assert_int_equal(setenv("POCL_CACHE_DIR", cache, 1), 0); /* this process has read its own */
    char *const arguments[] = {(char *)(uintptr_t)own_path, (char *)(uintptr_t)mode, NULL};
    assert_int_equal(posix_spawn(&child, own_path, NULL, NULL, arguments, environ), 0);
    return child;
}

static void expect_success(pid_t child)
{
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* In the child: three programs, again and again, in contexts of their own. */
static void use_many(void **state)
{
    (void)state;
    for (int i = 0; i < 12; i++)
        clmla_context_release(use_in(CACHE, i % 3));
    assert_string_equal(notes, "");
}

static void processes_at_once_do_not_disturb_each_other(void **state)
{
    (void)state;
    enum { CHILDREN = 4 };
    pid_t children[CHILDREN];
    char path[PATH_BYTES];
    for (int i = 0; i < CHILDREN; i++)
        children[i] = start("many", i);
    for (int i = 0; i < CHILDREN; i++)
        expect_success(children[i]);
    assert_int_equal(list_cache(path), 3);
    for (int i = 0; i < 3; i++)
        use(i, true);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(another_context_reads_what_the_first_compiled, set_up),
        cmocka_unit_test_setup(a_changed_source_is_another_program, set_up),
        cmocka_unit_test_setup(without_a_directory_nothing_is_kept, set_up),
        cmocka_unit_test_setup(a_failed_build_leaves_nothing, set_up),
        cmocka_unit_test_setup(the_key_names_all_that_a_binary_depends_on, set_up),
        cmocka_unit_test_setup(info_wants_its_size, set_up),
        cmocka_unit_test_setup(a_directory_that_vanishes_is_not_missed, set_up),
        cmocka_unit_test_setup(directories_of_others_are_refused, set_up),
        cmocka_unit_test_setup(directories_that_cannot_be_made_are_done_without, set_up),
        cmocka_unit_test_setup(threads_read_and_write_a_program_once, set_up),
        cmocka_unit_test_setup(processes_at_once_do_not_disturb_each_other, set_up),
    };
    const struct CMUnitTest many[] = {cmocka_unit_test(use_many)};
    own_path = argv[0];
    const int failed = argc > 1 && strcmp(argv[1], "many") == 0
                           ? cmocka_run_group_tests(many, NULL, NULL)
                           : cmocka_run_group_tests(tests, NULL, NULL);
    test_device_close();
    return failed;
}
