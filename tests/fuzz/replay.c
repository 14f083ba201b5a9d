/* Feeds the target every file of the folders that are named: what the fuzzer kept and what once
 * crashed. One at least must be accepted. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

#include "fuzz/fuzz.h"

static int replay(const char *path)
{
    FILE *const file = fopen(path, "rb");
    uint8_t *data = NULL;
    long size = -1;
    if (file != NULL && fseek(file, 0, SEEK_END) == 0 && (size = ftell(file)) >= 0) {
        rewind(file);
        data = malloc((size_t)size + 1);
    }
    const int read = data != NULL && fread(data, 1, (size_t)size, file) == (size_t)size;
    if (read)
        (void)LLVMFuzzerTestOneInput(data, (size_t)size);
    else
        fprintf(stderr, "%s: cannot be read\n", path);
    free(data);
    if (file != NULL)
        (void)fclose(file);
    return read;
}

int main(int argc, char **argv)
{
    int count = 0, failures = 0;
    for (int i = 1; i < argc; i++) {
        DIR *const folder = opendir(argv[i]);
        for (struct dirent *e; folder != NULL && (e = readdir(folder)) != NULL;) {
            char path[1024];
            if (e->d_name[0] == '.')
                continue;
            (void)snprintf(path, sizeof path, "%s/%s", argv[i], e->d_name);
            failures += !replay(path);
            count++;
        }
        if (folder != NULL)
            (void)closedir(folder);
    }
    printf("%d inputs, %lu accepted, %d not read\n", count, fuzz_accepted, failures);
    return fuzz_accepted > 0 && failures == 0 ? 0 : 1;
}
