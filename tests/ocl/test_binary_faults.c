/* Binaries on disks that are full and may not be written, and of drivers that came or went: the
 * program works all the same, and what is left on disk is right or not there. What the system and the
 * driver answer is wrapped at link time. */
#define _GNU_SOURCE /* syscall */

#include <errno.h>
#if defined(__linux__)
#include <linux/capability.h>
#include <sys/syscall.h>
#endif

#define KERNELS TEST_OUTPUT_DIR "/kernels-test-binary-faults"
#define ROOT TEST_OUTPUT_DIR "/cache-test-binary-faults"
#include "ocl/binary_cache.h"

/* What the library's next calls get: nothing set, the system's and the driver's own answers. */
static struct {
    int write_error, close_error, rename_error, create_error; /* errno */
    size_t room;                                              /* bytes until write_error */
    int interruptions;                                        /* of write, before it works */
    const char *driver_version;
    cl_int create_status, accept_status, build_status; /* of binaries */
    bool of_binary; /* the program that is built next was made from a binary */
} faults;

ssize_t __real_write(int descriptor, const void *data, size_t bytes);
ssize_t __wrap_write(int descriptor, const void *data, size_t bytes);
int __real_close(int descriptor);
int __wrap_close(int descriptor);
int __real_rename(const char *from, const char *to);
int __wrap_rename(const char *from, const char *to);
int __real_mkstemp(char *path);
int __wrap_mkstemp(char *path);
cl_int __real_clGetDeviceInfo(cl_device_id device, cl_device_info name, size_t size, void *value,
                              size_t *bytes);
cl_int __wrap_clGetDeviceInfo(cl_device_id device, cl_device_info name, size_t size, void *value,
                              size_t *bytes);
cl_program __real_clCreateProgramWithBinary(cl_context context, cl_uint count,
                                            const cl_device_id *devices, const size_t *lengths,
                                            const unsigned char **binaries, cl_int *statuses,
                                            cl_int *error);
cl_program __wrap_clCreateProgramWithBinary(cl_context context, cl_uint count,
                                            const cl_device_id *devices, const size_t *lengths,
                                            const unsigned char **binaries, cl_int *statuses,
                                            cl_int *error);
cl_int __real_clBuildProgram(cl_program program, cl_uint count, const cl_device_id *devices,
                             const char *options, void (*notify)(cl_program, void *), void *user);
cl_int __wrap_clBuildProgram(cl_program program, cl_uint count, const cl_device_id *devices,
                             const char *options, void (*notify)(cl_program, void *), void *user);

static int answer(int code)
{
    errno = code;
    return -1;
}

/* As a disk that is nearly full: the last write is a short one. */
ssize_t __wrap_write(int descriptor, const void *data, size_t bytes)
{
    if (faults.interruptions > 0) {
        faults.interruptions--;
        return answer(EINTR);
    }
    if (faults.write_error == 0)
        return __real_write(descriptor, data, bytes);
    if (faults.room == 0)
        return answer(faults.write_error);
    if (bytes > faults.room)
        bytes = faults.room;
    faults.room -= bytes;
    return __real_write(descriptor, data, bytes);
}

/* Network file systems say so late that a disk is full. */
int __wrap_close(int descriptor)
{
    const int closed = __real_close(descriptor);
    return faults.close_error != 0 ? answer(faults.close_error) : closed;
}

int __wrap_rename(const char *from, const char *to)
{
    return faults.rename_error != 0 ? answer(faults.rename_error) : __real_rename(from, to);
}

int __wrap_mkstemp(char *path)
{
    return faults.create_error != 0 ? answer(faults.create_error) : __real_mkstemp(path);
}

cl_int __wrap_clGetDeviceInfo(cl_device_id device, cl_device_info name, size_t size, void *value,
                              size_t *bytes)
{
    if (name != CL_DRIVER_VERSION || faults.driver_version == NULL)
        return __real_clGetDeviceInfo(device, name, size, value, bytes);
    const size_t length = strlen(faults.driver_version) + 1;
    if (bytes != NULL)
        *bytes = length;
    if (value == NULL)
        return CL_SUCCESS;
    if (size < length)
        return CL_INVALID_VALUE;
    memcpy(value, faults.driver_version, length);
    return CL_SUCCESS;
}

cl_program __wrap_clCreateProgramWithBinary(cl_context context, cl_uint count,
                                            const cl_device_id *devices, const size_t *lengths,
                                            const unsigned char **binaries, cl_int *statuses,
                                            cl_int *error)
{
    if (faults.create_status != CL_SUCCESS) {
        *error = faults.create_status;
        return NULL;
    }
    const cl_program program = __real_clCreateProgramWithBinary(context, count, devices, lengths,
                                                                binaries, statuses, error);
    faults.of_binary = program != NULL;
    if (program != NULL && faults.accept_status != CL_SUCCESS)
        *statuses = faults.accept_status;
    return program;
}

cl_int __wrap_clBuildProgram(cl_program program, cl_uint count, const cl_device_id *devices,
                             const char *options, void (*notify)(cl_program, void *), void *user)
{
    const bool refused = faults.of_binary && faults.build_status != CL_SUCCESS;
    faults.of_binary = false;
    return refused ? faults.build_status
                   : __real_clBuildProgram(program, count, devices, options, notify, user);
}

static int set_up_sound(void **state)
{
    memset(&faults, 0, sizeof faults);
    return set_up(state);
}

/* ---- full disks ---------------------------------------------------------------------------- */

static int count_notes(void)
{
    int count = 0;
    for (const char *c = notes; *c != '\0'; c++)
        count += *c == '\n';
    return count;
}

/* Compiled, one note that says why nothing is kept, and no part of a file left behind. */
static void expect_nothing_written(const char *why)
{
    char path[PATH_BYTES];
    use(1, false);
    expect_note("cannot write");
    expect_note(why);
    assert_int_equal(count_notes(), 1);
    assert_int_equal(list_cache(path), 0);
}

static void a_full_disk_keeps_nothing_and_harms_nothing(void **state)
{
    (void)state;
    char path[PATH_BYTES];
    size_t bytes = 0;
    char *whole = make_file(path, &bytes);
    free(whole);
    assert_int_equal(unlink(path), 0);
    const size_t rooms[] = {0, 1, KEY_AT, 4096, bytes - 1};
    for (size_t i = 0; i < sizeof rooms / sizeof rooms[0]; i++) {
        faults.write_error = ENOSPC;
        faults.room = rooms[i];
        expect_nothing_written(strerror(ENOSPC));
    }
    faults.write_error = 0; /* room again */
    use(1, false);
    use(1, true);
}

static void quotas_and_late_errors_keep_nothing_either(void **state)
{
    (void)state;
    faults.write_error = EDQUOT;
    expect_nothing_written(strerror(EDQUOT));
    faults.write_error = 0;
    faults.close_error = EIO;
    expect_nothing_written(strerror(EIO));
    faults.close_error = 0;
    faults.create_error = ENOSPC; /* no room for a name */
    expect_nothing_written(strerror(ENOSPC));
    faults.create_error = 0;
    faults.rename_error = ENOSPC;
    expect_nothing_written(strerror(ENOSPC));
    faults.rename_error = 0;
    use(1, false);
    use(1, true);
}

/* What was to be replaced stays as it was, is not taken, and is replaced once there is room. */
static void a_damaged_file_stays_while_the_disk_is_full(void **state)
{
    (void)state;
    char path[PATH_BYTES];
    size_t bytes = 0;
    char *data = make_file(path, &bytes);
    write_file(path, data, bytes / 2);
    faults.write_error = ENOSPC;
    faults.room = bytes / 2 + 1; /* a longer part than what is there */
    for (int i = 0; i < 2; i++) {
        use(1, false);
        expect_note("will replace");
        assert_int_equal(list_cache(path), 1);
    }
    faults.write_error = 0;
    use(1, false);
    use(1, true);
    free(data);
}

static void an_interrupted_write_goes_on(void **state)
{
    (void)state;
    faults.interruptions = 3;
    use(1, false);
    assert_int_equal(faults.interruptions, 0);
    assert_string_equal(notes, "");
    use(1, true);
}

/* ---- no permission -------------------------------------------------------------------------- */

/* Whether this thread, root's maybe, is bound to the modes of files, as others are. */
static bool obey_modes(bool on)
{
    if (geteuid() != 0)
        return true;
#if defined(__linux__)
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
    const uint32_t bits = UINT32_C(1) << CAP_DAC_OVERRIDE | UINT32_C(1) << CAP_DAC_READ_SEARCH;
    if (syscall(SYS_capget, &header, data) != 0)
        return false;
    data[0].effective =
        on ? data[0].effective & ~bits : data[0].effective | (data[0].permitted & bits);
    return syscall(SYS_capset, &header, data) == 0;
#else
    return !on;
#endif
}

static void a_directory_without_permission_to_write_is_read_only(void **state)
{
    (void)state;
    char path[PATH_BYTES];
    use(1, false);
    assert_int_equal(chmod(CACHE, 0500), 0);
    if (!obey_modes(true)) {
        print_message("skipped: root may write everywhere, and cannot do without here\n");
        skip();
    }
    use(1, true);
    use(2, false);
    expect_note("cannot write");
    assert_int_equal(count_notes(), 1);
    assert_int_equal(list_cache(path), 1);
    assert_int_equal(chmod(CACHE, 0000), 0); /* nor read */
    use(1, false);
    expect_note("cannot read");
    assert_int_equal(chmod(CACHE, 0700), 0);
    assert_true(obey_modes(false));
    use(1, true);
}

/* A file that its owner may not read is no binary; it is replaced. */
static void a_file_without_permission_to_read_is_replaced(void **state)
{
    (void)state;
    char path[PATH_BYTES];
    size_t bytes = 0;
    free(make_file(path, &bytes));
    assert_int_equal(chmod(path, 0), 0);
    if (!obey_modes(true)) {
        print_message("skipped: root may read everything, and cannot do without here\n");
        skip();
    }
    use(1, false);
    expect_note("cannot read");
    use(1, true);
    assert_true(obey_modes(false));
}

/* ---- drivers -------------------------------------------------------------------------------- */

static void another_drivers_binary_is_not_used(void **state)
{
    (void)state;
    char path[PATH_BYTES];
    use(1, false);
    use(1, true);
    faults.driver_version = "after the update";
    use(1, false);
    assert_string_equal(notes, ""); /* a file of its own */
    assert_int_equal(list_cache(path), 2);
    use(1, true);
    faults.driver_version = NULL; /* and back */
    use(1, true);
    assert_int_equal(list_cache(path), 2);
}

/* The old driver's file under the new one's name, as after a hash that collides. */
static void another_drivers_binary_in_this_ones_place_is_replaced(void **state)
{
    (void)state;
    char path[PATH_BYTES];
    size_t bytes = 0;
    char *old = make_file(path, &bytes);
    assert_int_equal(unlink(path), 0);
    faults.driver_version = "after the update";
    use(1, false);
    assert_int_equal(list_cache(path), 1);
    write_file(path, old, bytes);
    use(1, false);
    expect_note("is of another device, driver or kernel");
    use(1, true);
    free(old);
}

typedef struct refusal_case {
    const char *name;
    cl_int create, accept, build;
} refusal_case;

static const refusal_case refusals[] = {
    {"when the program is made", CL_INVALID_BINARY, CL_SUCCESS, CL_SUCCESS},
    {"in the device's status", CL_SUCCESS, CL_INVALID_BINARY, CL_SUCCESS},
    {"when it is built", CL_SUCCESS, CL_SUCCESS, CL_INVALID_BINARY},
    {"by a failed build", CL_SUCCESS, CL_SUCCESS, CL_BUILD_PROGRAM_FAILURE},
    {"for want of memory", CL_OUT_OF_HOST_MEMORY, CL_SUCCESS, CL_SUCCESS},
};

/* The same version, and a binary that it takes no more: compiled from source, the file replaced. */
static void a_refused_binary_is_compiled_anew(void **state)
{
    char path[PATH_BYTES];
    struct stat before, after;
    (void)state;
    use(1, false);
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        const refusal_case *c = &refusals[i];
        print_message("  refused %s\n", c->name);
        assert_int_equal(list_cache(path), 1);
        assert_int_equal(stat(path, &before), 0);
        faults.create_status = c->create;
        faults.accept_status = c->accept;
        faults.build_status = c->build;
        use(1, false);
        expect_note("will replace");
        expect_note("the driver does not take it");
        assert_int_equal(count_notes(), 1);
        assert_int_equal(list_cache(path), 1);
        assert_int_equal(stat(path, &after), 0);
        assert_true(after.st_ino != before.st_ino ||
                    after.st_mtim.tv_nsec != before.st_mtim.tv_nsec);
        memset(&faults, 0, sizeof faults);
        use(1, true);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_full_disk_keeps_nothing_and_harms_nothing, set_up_sound),
        cmocka_unit_test_setup(quotas_and_late_errors_keep_nothing_either, set_up_sound),
        cmocka_unit_test_setup(a_damaged_file_stays_while_the_disk_is_full, set_up_sound),
        cmocka_unit_test_setup(an_interrupted_write_goes_on, set_up_sound),
        cmocka_unit_test_setup(a_directory_without_permission_to_write_is_read_only, set_up_sound),
        cmocka_unit_test_setup(a_file_without_permission_to_read_is_replaced, set_up_sound),
        cmocka_unit_test_setup(another_drivers_binary_is_not_used, set_up_sound),
        cmocka_unit_test_setup(another_drivers_binary_in_this_ones_place_is_replaced, set_up_sound),
        cmocka_unit_test_setup(a_refused_binary_is_compiled_anew, set_up_sound),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    test_device_close();
    return failed;
}
