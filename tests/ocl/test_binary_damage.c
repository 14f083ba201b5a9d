/* Files in the place of a binary that may not be taken, damaged, foreign or no files at all: the
 * program is compiled, and the file replaced where it is one. */
#define _POSIX_C_SOURCE 200809L

#define KERNELS TEST_OUTPUT_DIR "/kernels-test-binary-damage"
#define ROOT TEST_OUTPUT_DIR "/cache-test-binary-damage"
#include "ocl/binary_cache.h"

/* ---- doubt -------------------------------------------------------------------------------- */

/* Every byte of the header and many of key and binary, a bit of each. */
static void a_changed_bit_means_compiling(void **state)
{
    (void)state;
    enum { SAMPLES = 24 };
    char path[PATH_BYTES];
    size_t bytes = 0;
    char *data = make_file(path, &bytes);
    const size_t key = (size_t)field(data, KEY_BYTES_AT), rest = bytes - KEY_AT;
    assert_int_equal(key + field(data, BINARY_BYTES_AT), rest);
    for (size_t i = 0; i < KEY_AT + SAMPLES; i++) {
        const size_t at = i < KEY_AT ? i : KEY_AT + (i - KEY_AT) * (rest - 1) / (SAMPLES - 1);
        data[at] ^= (char)(1 << i % 8);
        write_file(path, data, bytes);
        use(1, false);
        expect_note("will replace");
        data[at] ^= (char)(1 << i % 8);
    }
    use(1, true); /* the last one was replaced */
    free(data);
}

static void another_length_means_compiling(void **state)
{
    (void)state;
    char path[PATH_BYTES];
    size_t bytes = 0;
    char *data = make_file(path, &bytes);
    const size_t key_end = KEY_AT + (size_t)field(data, KEY_BYTES_AT);
    const size_t lengths[] = {0, 1, KEY_AT - 1, KEY_AT, key_end - 1, key_end, bytes - 1, bytes + 1};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        write_file(path, data, lengths[i]); /* read_file ends what it reads with a zero */
        use(1, false);
        expect_note("will replace");
        use(1, true);
    }
    free(data);
}

static void another_programs_file_is_not_taken(void **state)
{
    (void)state;
    char one[PATH_BYTES], two[PATH_BYTES];
    size_t bytes = 0;
    char *data = make_file(one, &bytes);
    assert_int_equal(unlink(one), 0);
    use(2, false);
    assert_int_equal(list_cache(two), 1);
    write_file(two, data, bytes);
    use(2, false);
    expect_note("another device, driver or kernel");
    use(2, true);
    free(data);
}

static void a_binary_that_the_driver_refuses_is_replaced(void **state)
{
    (void)state;
    char path[PATH_BYTES];
    size_t bytes = 0;
    char *data = make_file(path, &bytes);
    uint64_t checksum = UINT64_C(0xCBF29CE484222325);
    for (size_t i = KEY_AT + (size_t)field(data, KEY_BYTES_AT); i < bytes; i++) {
        data[i] = 'x';
        checksum = (checksum ^ 'x') * UINT64_C(0x100000001B3);
    }
    memcpy(data + CHECKSUM_AT, &checksum, sizeof checksum);
    write_file(path, data, bytes);
    use(1, false);
    expect_note("the driver does not take it");
    use(1, true);
    free(data);
}

/* ---- what lies in the way ----------------------------------------------------------------- */

static void a_link_is_not_followed(void **state)
{
    (void)state;
    char path[PATH_BYTES];
    size_t bytes = 0;
    struct stat info;
    free(make_file(path, &bytes));
    assert_int_equal(rename(path, ROOT "/elsewhere"), 0);
    assert_int_equal(symlink("../elsewhere", path), 0);
    use(1, false);
    expect_note("symbolic link");
    assert_int_equal(lstat(path, &info), 0);
    assert_true(S_ISREG(info.st_mode)); /* in the link's place */
    use(1, true);
}

static void what_others_may_write_is_not_read(void **state)
{
    (void)state;
    char path[PATH_BYTES];
    size_t bytes = 0;
    free(make_file(path, &bytes));
    assert_int_equal(chmod(path, 0620), 0);
    use(1, false);
    expect_note("can be written by other users");
    use(1, true);
    if (geteuid() != 0) {
        print_message("skipped: only root can give a file away\n");
        return;
    }
    assert_int_equal(chown(path, NOBODY, NOBODY), 0);
    use(1, false);
    expect_note("is owned by another user");
    use(1, true);
}

static void a_directory_or_a_pipe_in_a_files_place_is_left_alone(void **state)
{
    (void)state;
    char path[PATH_BYTES];
    size_t bytes = 0;
    free(make_file(path, &bytes));
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    use(1, false);
    expect_note("is not a regular file");
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    use(1, false); /* without waiting for somebody to write to it */
    expect_note("is not a regular file");
    use(1, true);
}

static void a_file_that_is_too_large_is_not_read(void **state)
{
    (void)state;
    char path[PATH_BYTES];
    size_t bytes = 0;
    free(make_file(path, &bytes));
    assert_int_equal(truncate(path, (off_t)1 << 40), 0);
    use(1, false);
    expect_note("is too large");
    use(1, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_changed_bit_means_compiling, set_up),
        cmocka_unit_test_setup(another_length_means_compiling, set_up),
        cmocka_unit_test_setup(another_programs_file_is_not_taken, set_up),
        cmocka_unit_test_setup(a_binary_that_the_driver_refuses_is_replaced, set_up),
        cmocka_unit_test_setup(a_link_is_not_followed, set_up),
        cmocka_unit_test_setup(what_others_may_write_is_not_read, set_up),
        cmocka_unit_test_setup(a_directory_or_a_pipe_in_a_files_place_is_left_alone, set_up),
        cmocka_unit_test_setup(a_file_that_is_too_large_is_not_read, set_up),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    test_device_close();
    return failed;
}
