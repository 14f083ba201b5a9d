#define _POSIX_C_SOURCE 200809L

#include <dirent.h>
#include <errno.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/os.h"
#include "support/support.h"

#define FILE_PATH TEST_OUTPUT_DIR "/test_os.bin"
#define OWN_DIRECTORY TEST_OUTPUT_DIR "/test_os_own"
#define MISSING_PATH TEST_OUTPUT_DIR "/no/such/file"

static void write_file(const char *data, size_t bytes)
{
    FILE *stream = fopen(FILE_PATH, "wb");
    assert_non_null(stream);
    assert_int_equal(fwrite(data, 1, bytes, stream), bytes);
    assert_int_equal(fclose(stream), 0);
}

/* Sizes around the buffer that reading starts with, zeros included. */
static void reads_whole_files_of_any_size(void **state)
{
    (void)state;
    const size_t sizes[] = {0, 1, 65534, 65535, 65536, 131071, 131072, 300000};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        char *expected = malloc(sizes[i] + 1), *data = NULL;
        size_t bytes = 7;
        assert_non_null(expected);
        for (size_t k = 0; k < sizes[i]; k++)
            expected[k] = (char)(k * 31 % 127);
        write_file(expected, sizes[i]);
        assert_int_equal(mla__os_read_file(FILE_PATH, &data, &bytes), CLMLA_SUCCESS);
        assert_int_equal(bytes, sizes[i]);
        assert_memory_equal(data, expected, bytes);
        assert_int_equal(data[bytes], 0);
        free(data);
        free(expected);
    }
    (void)remove(FILE_PATH);
}

static void maps_files_and_empty_files(void **state)
{
    (void)state;
    mla__os_map map = {0};
    write_file("latent", 6);
    assert_int_equal(mla__os_map_file(FILE_PATH, &map), CLMLA_SUCCESS);
    assert_int_equal(map.bytes, 6);
    assert_memory_equal(map.data, "latent", 6);
    mla__os_unmap_file(&map);
    assert_null(map.data);
    assert_int_equal(map.bytes, 0);
    mla__os_unmap_file(&map); /* again: nothing */

    write_file("", 0);
    map = (mla__os_map){.data = (const unsigned char *)"x", .bytes = 1};
    assert_int_equal(mla__os_map_file(FILE_PATH, &map), CLMLA_SUCCESS);
    assert_null(map.data);
    assert_int_equal(map.bytes, 0);
    mla__os_unmap_file(&map);
    (void)remove(FILE_PATH);
}

static void says_why_a_file_cannot_be_read_and_leaves_outputs_alone(void **state)
{
    (void)state;
    char *data = NULL;
    size_t bytes = 7;
    mla__os_map map = {.bytes = 7};
    assert_int_equal(mla__os_read_file(MISSING_PATH, &data, &bytes), CLMLA_IO);
    assert_true(strlen(mla__os_last_error()) > 0);
    assert_int_equal(mla__os_read_file(TEST_OUTPUT_DIR, &data, &bytes), CLMLA_IO);
    assert_null(data);
    assert_int_equal(bytes, 7);
    assert_int_equal(mla__os_map_file(MISSING_PATH, &map), CLMLA_IO);
    assert_int_equal(mla__os_map_file(TEST_OUTPUT_DIR, &map), CLMLA_IO);
    assert_string_equal(mla__os_last_error(), "is a directory");
    assert_int_equal(map.bytes, 7);
}

static void the_text_of_an_errno_is_that_of_strerror(void **state)
{
    (void)state;
    static const int codes[] = {ENOENT, EACCES, ENOSPC};
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        assert_string_equal(mla__os_error_text(codes[i]), strerror(codes[i]));
        assert_string_equal(mla__os_last_error(), strerror(codes[i]));
    }
    assert_true(strlen(mla__os_error_text(-1)) > 0);
}

static void does_not_read_a_file_without_end(void **state)
{
    (void)state;
    static const char endless[] = "/dev/zero";
    char *data = NULL;
    size_t bytes = 7;
    FILE *const exists = fopen(endless, "rb");
    if (exists == NULL) {
        print_message("skipped: there is no %s\n", endless);
        skip();
    }
    (void)fclose(exists);
    assert_int_equal(mla__os_read_file(endless, &data, &bytes), CLMLA_IO);
    assert_string_equal(mla__os_last_error(), strerror(EFBIG));
    assert_null(data);
    assert_int_equal(bytes, 7);
}

static void tells_directories_from_files(void **state)
{
    (void)state;
    write_file("x", 1);
    assert_true(mla__os_is_directory(TEST_OUTPUT_DIR));
    assert_false(mla__os_is_directory(FILE_PATH));
    assert_false(mla__os_is_directory(MISSING_PATH));
    (void)remove(FILE_PATH);
}

static void tells_what_is_there_from_what_is_not(void **state)
{
    (void)state;
    write_file("x", 1);
    assert_true(mla__os_exists(FILE_PATH));
    assert_true(mla__os_exists(TEST_OUTPUT_DIR));
    assert_false(mla__os_exists(MISSING_PATH));
    assert_false(mla__os_exists(FILE_PATH "/below-a-file"));
    (void)remove(FILE_PATH);
    assert_false(mla__os_exists(FILE_PATH));
}

/* ---- files of the user's own --------------------------------------------------------------- */

static mode_t mode_of(const char *path)
{
    struct stat info;
    assert_int_equal(lstat(path, &info), 0);
    return info.st_mode & 07777;
}

static void makes_private_directories_and_refuses_others(void **state)
{
    (void)state;
    const mode_t mask = umask(0); /* the mode is not the mask's doing */
    (void)rmdir(OWN_DIRECTORY "/a/b");
    (void)rmdir(OWN_DIRECTORY "/a");
    (void)rmdir(OWN_DIRECTORY);
    assert_int_equal(mla__os_private_directory(OWN_DIRECTORY "/a//b/"), CLMLA_SUCCESS);
    (void)umask(mask);
    assert_int_equal(mode_of(OWN_DIRECTORY), 0700);
    assert_int_equal(mode_of(OWN_DIRECTORY "/a"), 0700);
    assert_int_equal(mode_of(OWN_DIRECTORY "/a/b"), 0700);
    assert_int_equal(mla__os_private_directory(OWN_DIRECTORY "/a/b"), CLMLA_SUCCESS);
    assert_int_equal(chmod(OWN_DIRECTORY "/a/b", 0770), 0);
    assert_int_equal(mla__os_private_directory(OWN_DIRECTORY "/a/b"), CLMLA_IO);
    assert_string_equal(mla__os_last_error(), "can be written by other users");
    assert_int_equal(mla__os_private_directory(""), CLMLA_IO);
    write_file("x", 1);
    assert_int_equal(mla__os_private_directory(FILE_PATH), CLMLA_IO);
    assert_int_equal(mla__os_private_directory(FILE_PATH "/below"), CLMLA_IO);
    (void)remove(FILE_PATH);
}

static void replaces_files_whole_and_reads_them_back(void **state)
{
    (void)state;
    char *data = NULL;
    size_t bytes = 7;
    write_file("older and longer", 16);
    assert_int_equal(mla__os_replace_file(FILE_PATH, "new", 3), CLMLA_SUCCESS);
    assert_int_equal(mode_of(FILE_PATH), 0600);
    assert_int_equal(mla__os_read_private_file(FILE_PATH, 3, &data, &bytes), CLMLA_SUCCESS);
    assert_int_equal(bytes, 3);
    assert_string_equal(data, "new");
    free(data);
    data = NULL;
    assert_int_equal(mla__os_read_private_file(FILE_PATH, 2, &data, &bytes), CLMLA_IO);
    assert_string_equal(mla__os_last_error(), "is too large");
    assert_null(data);
    assert_int_equal(chmod(FILE_PATH, 0602), 0);
    assert_int_equal(mla__os_read_private_file(FILE_PATH, 3, &data, &bytes), CLMLA_IO);
    (void)remove(FILE_PATH);
    assert_int_equal(symlink("/dev/null", FILE_PATH), 0);
    assert_int_equal(mla__os_read_private_file(FILE_PATH, 3, &data, &bytes), CLMLA_IO);
    assert_string_equal(mla__os_last_error(), "is a symbolic link");
    (void)remove(FILE_PATH);
    assert_null(data);
    data = FILE_PATH;
    assert_int_equal(mla__os_read_private_file(MISSING_PATH, 3, &data, &bytes), CLMLA_SUCCESS);
    assert_null(data);
    assert_int_equal(bytes, 0);
    assert_int_equal(mla__os_replace_file(MISSING_PATH, "new", 3), CLMLA_IO);
    assert_int_equal(mla__os_read_private_file(TEST_OUTPUT_DIR, 3, &data, &bytes), CLMLA_IO);
}

/* The system would end a process that writes past its limit. */
static void a_write_past_the_limit_fails_and_leaves_nothing(void **state)
{
    (void)state;
    enum { LIMIT = 1000 };
    struct stat info;
    int status = 0;
    DIR *directory;
    const struct dirent *entry;
    (void)remove(FILE_PATH);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        static char data[LIMIT + 1];
        const struct rlimit limit = {.rlim_cur = LIMIT, .rlim_max = LIMIT};
        const bool kept = setrlimit(RLIMIT_FSIZE, &limit) == 0 &&
                          mla__os_replace_file(FILE_PATH, data, LIMIT) == CLMLA_SUCCESS &&
                          mla__os_replace_file(FILE_PATH, data, LIMIT + 1) == CLMLA_IO;
        _exit(kept ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    assert_int_equal(stat(FILE_PATH, &info), 0);
    assert_int_equal(info.st_size, LIMIT);
    (void)remove(FILE_PATH);
    assert_non_null(directory = opendir(TEST_OUTPUT_DIR));
    while ((entry = readdir(directory)) != NULL) /* no temporary file stays */
        assert_null(strstr(entry->d_name, "test_os.bin"));
    assert_int_equal(closedir(directory), 0);
}

static void the_clock_does_not_go_back(void **state)
{
    (void)state;
    const uint64_t start = mla__os_now_ns();
    uint64_t last = start;
    while (last < start + 1000000) { /* a millisecond passes */
        const uint64_t now = mla__os_now_ns();
        assert_true(now >= last);
        last = now;
    }
}

static void locks_can_be_taken_again_once_released(void **state)
{
    (void)state;
    mla__os_mutex *mutex = mla__os_mutex_create();
    assert_non_null(mutex);
    for (int i = 0; i < 2; i++) {
        mla__os_mutex_lock(mutex);
        mla__os_clblast_lock();
        mla__os_clblast_unlock();
        mla__os_mutex_unlock(mutex);
    }
    mla__os_mutex_destroy(mutex);
    mla__os_mutex_destroy(NULL);
}

static void a_default_does_not_replace_a_set_variable(void **state)
{
    (void)state;
    mla__os_default_environment("CLMLA_TEST_OS_VARIABLE", "first");
    assert_string_equal(getenv("CLMLA_TEST_OS_VARIABLE"), "first");
    mla__os_default_environment("CLMLA_TEST_OS_VARIABLE", "second");
    assert_string_equal(getenv("CLMLA_TEST_OS_VARIABLE"), "first");
}

static void describes_the_machine_without_naming_it(void **state)
{
    mla__os_facts facts;
    (void)state;
    mla__os_describe(&facts);
    assert_true(facts.system[0] != '\0' && facts.machine[0] != '\0');
    assert_int_equal(strspn(facts.release, "0123456789."), strlen(facts.release));
    const char *const texts[] = {facts.system, facts.distribution, facts.machine, facts.processor};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        assert_int_equal(strcspn(texts[i], "\n\"\t"), strlen(texts[i]));
    assert_true(facts.num_processors >= 1);
    assert_true(facts.memory_bytes > 1 << 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_whole_files_of_any_size),
        cmocka_unit_test(maps_files_and_empty_files),
        cmocka_unit_test(says_why_a_file_cannot_be_read_and_leaves_outputs_alone),
        cmocka_unit_test(the_text_of_an_errno_is_that_of_strerror),
        cmocka_unit_test(does_not_read_a_file_without_end),
        cmocka_unit_test(tells_directories_from_files),
        cmocka_unit_test(tells_what_is_there_from_what_is_not),
        cmocka_unit_test(makes_private_directories_and_refuses_others),
        cmocka_unit_test(replaces_files_whole_and_reads_them_back),
        cmocka_unit_test(a_write_past_the_limit_fails_and_leaves_nothing),
        cmocka_unit_test(the_clock_does_not_go_back),
        cmocka_unit_test(locks_can_be_taken_again_once_released),
        cmocka_unit_test(describes_the_machine_without_naming_it),
        cmocka_unit_test(a_default_does_not_replace_a_set_variable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
