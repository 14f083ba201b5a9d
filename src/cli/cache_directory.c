#include "cli/cache_directory.h"

#include <stdio.h>

mla_cache_source mla_cache_directory(const char *own, const char *xdg, const char *home,
                                     char path[MLA_PATH_BYTES])
{
    int length = 0;
    if (own != NULL)
        length = snprintf(path, MLA_PATH_BYTES, "%s", own);
    else if (xdg != NULL && xdg[0] == '/')
        length = snprintf(path, MLA_PATH_BYTES, "%s/clmla", xdg);
    else if (home != NULL && home[0] == '/')
        length = snprintf(path, MLA_PATH_BYTES, "%s/.cache/clmla", home);
    if (length <= 0 || length >= MLA_PATH_BYTES) {
        path[0] = '\0';
        return MLA_CACHE_NONE;
    }
    return own != NULL ? MLA_CACHE_CHOSEN : MLA_CACHE_DEFAULT;
}
