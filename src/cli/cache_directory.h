/*
 * Where the program clmla keeps compiled OpenCL programs.
 */
#ifndef CLMLA_CLI_CACHE_DIRECTORY_H
#define CLMLA_CLI_CACHE_DIRECTORY_H

#include <stddef.h>

enum { MLA_PATH_BYTES = 4096 };

/* Who names the directory. */
typedef enum mla_cache_source {
    MLA_CACHE_NONE, /* nobody: no cache */
    MLA_CACHE_DEFAULT,
    MLA_CACHE_CHOSEN /* CLMLA_CACHE_DIR */
} mla_cache_source;

/* `own` (CLMLA_CACHE_DIR), else "clmla" in `xdg` (XDG_CACHE_HOME), else ".cache/clmla" in `home`
 * (HOME). Each may be NULL. An empty own means no cache; an empty or relative xdg or home counts as
 * not set, as the XDG specification says. No cache either when the path does not fit. */
mla_cache_source mla_cache_directory(const char *own, const char *xdg, const char *home,
                                     char path[MLA_PATH_BYTES]);

#endif
