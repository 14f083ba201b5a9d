/*
 * Where the program clmla keeps what is the user's: compiled OpenCL programs, and tuning records.
 */
#ifndef CLMLA_CLI_USER_DIRECTORY_H
#define CLMLA_CLI_USER_DIRECTORY_H

#include <stdbool.h>
#include <stddef.h>

enum { MLA_PATH_BYTES = 4096 };

/* Who names the directory of compiled programs. */
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

/* The same of tuning records: `own` (CLMLA_TUNING_DIR), else "clmla" in `xdg` (XDG_DATA_HOME), else
 * ".local/share/clmla" in `home`. False, and path "": none. */
bool mla_tuning_directory(const char *own, const char *xdg, const char *home,
                          char path[MLA_PATH_BYTES]);
/* A device's record in that directory: "DEVICE--DRIVER.tuning", letters and digits as they are,
 * other characters as single '-'. False, and path "", when it does not fit. */
bool mla_tuning_path(const char *directory, const char *device, const char *driver,
                     char path[MLA_PATH_BYTES]);

#endif
