#include "cli/user_directory.h"

#include <stdio.h>
#include <string.h>

/* False, and path "": nobody names a directory, or it does not fit. */
static bool find(const char *own, const char *xdg, const char *home, const char *in_home,
                 char path[MLA_PATH_BYTES])
{
    int length = 0;
    if (own != NULL)
        length = snprintf(path, MLA_PATH_BYTES, "%s", own);
    else if (xdg != NULL && xdg[0] == '/')
        length = snprintf(path, MLA_PATH_BYTES, "%s/clmla", xdg);
    else if (home != NULL && home[0] == '/')
        length = snprintf(path, MLA_PATH_BYTES, "%s/%s/clmla", home, in_home);
    const bool found = length > 0 && length < MLA_PATH_BYTES;
    if (!found)
        path[0] = '\0';
    return found;
}

mla_cache_source mla_cache_directory(const char *own, const char *xdg, const char *home,
                                     char path[MLA_PATH_BYTES])
{
    if (!find(own, xdg, home, ".cache", path))
        return MLA_CACHE_NONE;
    return own != NULL ? MLA_CACHE_CHOSEN : MLA_CACHE_DEFAULT;
}

bool mla_tuning_directory(const char *own, const char *xdg, const char *home,
                          char path[MLA_PATH_BYTES])
{
    return find(own, xdg, home, ".local/share", path);
}

/* What may stand in a file's name, whatever the system. */
static void clean(const char *text, char *out, size_t bytes)
{
    static const char kept[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._";
    size_t used = 0;
    for (; *text != '\0' && used + 1 < bytes; text++) {
        const bool keeps = strchr(kept, *text) != NULL;
        if (keeps || (used > 0 && out[used - 1] != '-'))
            out[used++] = (char)(keeps ? *text : '-');
    }
    while (used > 0 && out[used - 1] == '-')
        used--;
    out[used] = '\0';
}

bool mla_tuning_path(const char *directory, const char *device, const char *driver,
                     char path[MLA_PATH_BYTES])
{
    char name[128], version[64]; /* cut: the record itself says in full whose it is */
    clean(device, name, sizeof(name));
    clean(driver, version, sizeof(version));
    const int length = snprintf(path, MLA_PATH_BYTES, "%s/%s--%s.tuning", directory, name, version);
    const bool fits = length > 0 && length < MLA_PATH_BYTES;
    if (!fits)
        path[0] = '\0';
    return fits;
}
