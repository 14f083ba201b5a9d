#include "cli/output.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/message.h"
#include "core/os.h"

bool mla_output_is_possible(const char *path)
{
    if (mla__os_is_directory(path)) {
        mla_error("--output '%s': is a directory", path);
        return false;
    }
    const char *slash = strrchr(path, '/');
    if (slash == NULL)
        return true;
    char *folder = calloc(1, (size_t)(slash - path) + 2);
    if (folder != NULL)
        memcpy(folder, path, (size_t)(slash - path) + 1);
    const bool exists = folder != NULL && mla__os_is_directory(folder);
    free(folder);
    if (!exists)
        mla_error("--output '%s': its folder does not exist", path);
    return exists;
}

static bool write_in_place(const char *path, const char *data, size_t bytes)
{
    FILE *stream = fopen(path, "wb");
    const bool written = stream != NULL && fwrite(data, 1, bytes, stream) == bytes;
    return stream != NULL && fclose(stream) == 0 && written;
}

bool mla_output_write(const char *path, const char *data, size_t bytes)
{
    if (mla__os_is_special_file(path)) {
        if (write_in_place(path, data, bytes))
            return true;
        mla_error("--output '%s': could not be written", path);
        return false;
    }
    if (mla__os_replace_file(path, data, bytes) == CLMLA_SUCCESS)
        return true;
    mla_error("--output '%s': %s", path, mla__os_last_error());
    return false;
}
