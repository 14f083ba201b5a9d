/* mkdtemp and strnlen */
#define _POSIX_C_SOURCE 200809L

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fuzz/fuzz.h"

unsigned long fuzz_accepted;
static char folder[64];

void fuzz_touch(const void *data, size_t bytes)
{
    const volatile unsigned char *from = data; /* volatile: each is read */
    for (size_t i = 0; i < bytes; i++)
        (void)from[i];
}

void fuzz_check_error(clmla_status status, const clmla_model_error *error)
{
    const size_t length = strnlen(error->text, sizeof error->text);
    if (length == sizeof error->text || (status == CLMLA_SUCCESS) != (length == 0))
        abort();
    fuzz_accepted += status == CLMLA_SUCCESS;
    for (size_t i = 0; i < length; i++) {
        if ((unsigned char)error->text[i] < ' ' || error->text[i] == 127)
            abort();
    }
}

static void remove_folder(void)
{
    char path[sizeof folder + 256];
    DIR *entries = opendir(folder);
    for (struct dirent *e; entries != NULL && (e = readdir(entries)) != NULL;) {
        (void)snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        (void)unlink(path);
    }
    if (entries != NULL)
        (void)closedir(entries);
    (void)rmdir(folder);
}

const char *fuzz_file(const char *name, const void *data, size_t size)
{
    static char path[sizeof folder + 64];
    if (folder[0] == '\0') {
        const char *const shared = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
        (void)snprintf(folder, sizeof folder, "%s/clmla-fuzz-XXXXXX", shared);
        if (mkdtemp(folder) == NULL || atexit(remove_folder) != 0)
            abort();
    }
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    if (name[0] == '\0')
        return path;
    FILE *const file = fopen(path, "wb");
    if (file == NULL || fwrite(data, 1, size, file) != size || fclose(file) != 0)
        abort();
    return path;
}
