/*
 * What the tests of src/ocl/binary.c share: a kernel in KERNELS, contexts whose cache is CACHE below
 * ROOT, and its files. A test defines KERNELS and ROOT, folders of its own, and _POSIX_C_SOURCE.
 */
#ifndef CLMLA_TESTS_BINARY_CACHE_H
#define CLMLA_TESTS_BINARY_CACHE_H

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clmla.h"
#include "ocl/binary.h"
#include "support/device.h"
#include "support/support.h"

#define CACHE ROOT "/clmla"

/* As binary.c lays a file out. */
enum { KEY_BYTES_AT = 8, BINARY_BYTES_AT = 16, CHECKSUM_AT = 24, KEY_AT = 32 };

enum { PATH_BYTES = 512, NOBODY = 65534 };

/* ---- files -------------------------------------------------------------------------------- */

static inline void remove_tree(const char *path)
{
    DIR *directory = opendir(path);
    struct dirent *entry;
    if (directory == NULL) {
        (void)unlink(path);
        return;
    }
    while ((entry = readdir(directory)) != NULL) {
        char inner[PATH_BYTES];
        struct stat info;
        assert_true(snprintf(inner, sizeof inner, "%s/%s", path, entry->d_name) < PATH_BYTES);
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
            lstat(inner, &info) != 0)
            continue;
        if (S_ISDIR(info.st_mode))
            remove_tree(inner);
        else
            assert_int_equal(unlink(inner), 0);
    }
    assert_int_equal(closedir(directory), 0);
    assert_int_equal(rmdir(path), 0);
}

/* How many entries CACHE has; the last one's path. -1: no such directory. */
static inline int list_cache(char path[PATH_BYTES])
{
    DIR *directory = opendir(CACHE);
    struct dirent *entry;
    int count = 0;
    if (directory == NULL)
        return -1;
    while ((entry = readdir(directory)) != NULL) {
        if (entry->d_name[0] == '.')
            continue;
        assert_non_null(strstr(entry->d_name, ".bin"));
        assert_string_equal(strstr(entry->d_name, ".bin"), ".bin"); /* not a temporary file */
        (void)snprintf(path, PATH_BYTES, CACHE "/%s", entry->d_name);
        count++;
    }
    assert_int_equal(closedir(directory), 0);
    return count;
}

static inline void write_file(const char *path, const char *data, size_t bytes)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(chmod(path, 0600), 0);
}

/* ---- programs ----------------------------------------------------------------------------- */

static char notes[4096]; /* all since the last use() began */

static inline void remember(clmla_status status, const char *text, void *user)
{
    (void)user;
    assert_int_equal(status, CLMLA_SUCCESS);
    (void)strncat(notes, text, sizeof notes - strlen(notes) - 2);
    (void)strcat(notes, "\n");
}

static inline clmla_context_info info_of(clmla_context *context)
{
    clmla_context_info info = {.struct_size = sizeof info};
    assert_int_equal(clmla_context_get_info(context, &info), CLMLA_SUCCESS);
    return info;
}

/* A new context with this cache, and the program that answers `value` in it. */
static inline clmla_context *use_in(const char *cache, int value)
{
    const test_device *on = test_device_get();
    clmla_context *context = NULL;
    const clmla_context_options options = {.struct_size = sizeof options,
                                           .notify = remember,
                                           .kernel_directory = KERNELS,
                                           .cache_directory = cache};
    mla__defines defines = {0};
    notes[0] = '\0';
    assert_int_equal(clmla_context_create(on->context, on->id, &options, &context), CLMLA_SUCCESS);
    mla__define_int(&defines, "VALUE", value);
    assert_int_equal(test_answer(context, "answer.cl", &defines), value);
    return context;
}

/* The same, of CACHE; fails the test unless the program was read (or compiled). */
static inline void use(int value, bool read)
{
    clmla_context *context = use_in(CACHE, value);
    const clmla_context_info info = info_of(context);
    if (info.programs_read != (read ? 1 : 0) || info.programs_compiled != (read ? 0 : 1))
        fail_msg("%d read, %d compiled; %s", (int)info.programs_read, (int)info.programs_compiled,
                 notes);
    clmla_context_release(context);
}

static inline void expect_note(const char *text)
{
    if (strstr(notes, text) == NULL)
        fail_msg("'%s' is not in '%s'", text, notes);
}

/* No cache, and the kernel that answers VALUE. */
static inline int set_up(void **state)
{
    (void)state;
    (void)chmod(CACHE, 0700);
    remove_tree(ROOT);
    test_write_kernel(
        KERNELS, "answer.cl",
        "kernel void answer(global int *out, ulong at)\n{\n    out[at] = VALUE;\n}\n");
    return 0;
}

/* The file of the program that answers 1, fresh; free() it. */
static inline char *make_file(char path[PATH_BYTES], size_t *bytes)
{
    char *data = NULL;
    use(1, false);
    assert_int_equal(list_cache(path), 1);
    assert_int_equal(mla__os_read_file(path, &data, bytes), CLMLA_SUCCESS);
    return data;
}

static inline uint64_t field(const char *data, size_t at)
{
    uint64_t value = 0;
    memcpy(&value, data + at, sizeof value);
    return value;
}

#endif
