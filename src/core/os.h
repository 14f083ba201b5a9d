/*
 * Everything that asks the operating system for something: porting clmla means porting os.c.
 */
#ifndef CLMLA_CORE_OS_H
#define CLMLA_CORE_OS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "clmla_ops.h"

/* Monotonic clock, nanoseconds. */
uint64_t mla__os_now_ns(void);

typedef struct mla__os_mutex mla__os_mutex;
mla__os_mutex *mla__os_mutex_create(void); /* NULL: out of memory */
void mla__os_mutex_destroy(mla__os_mutex *mutex);
void mla__os_mutex_lock(mla__os_mutex *mutex);
void mla__os_mutex_unlock(mla__os_mutex *mutex);

/* The process-wide lock that serialises calls into CLBlast. */
void mla__os_clblast_lock(void);
void mla__os_clblast_unlock(void);

/* No text that clmla reads whole, kernels and JSON, comes near this. */
#define MLA__MOST_FILE_BYTES ((size_t)1 << 28)

/* A whole file in memory with a terminating zero that is not counted; free() it. CLMLA_IO when it
 * cannot be read or has MLA__MOST_FILE_BYTES or more. */
clmla_status mla__os_read_file(const char *path, char **data, size_t *bytes);

/* A directory that is this user's own: made with mode 0700 where it is missing, parents too.
 * CLMLA_IO when it cannot be made, another user owns it, or others may write to it. */
clmla_status mla__os_private_directory(const char *path);

/* The same as _read_file for a file that nobody else can have written: regular, this user's, not to
 * be written by others, no link, and of most_bytes at most. SUCCESS with *data NULL: there is no
 * such file. */
clmla_status mla__os_read_private_file(const char *path, size_t most_bytes, char **data,
                                       size_t *bytes);

/* Puts a file in place in one step: whoever opens path meanwhile finds what was there before or all
 * of data. Mode 0600. On CLMLA_IO path is as it was. */
clmla_status mla__os_replace_file(const char *path, const char *data, size_t bytes);

/* A file mapped read-only. A file of zero bytes maps to data == NULL, bytes == 0. */
typedef struct mla__os_map {
    const unsigned char *data;
    size_t bytes;
} mla__os_map;
clmla_status mla__os_map_file(const char *path, mla__os_map *map);
void mla__os_unmap_file(mla__os_map *map);

/* What kind of machine this is, for reports: nothing that names it or who uses it. Texts are empty
 * and numbers 0 where the system does not say. */
typedef struct mla__os_facts {
    char system[96];        /* "Linux" */
    char release[96];       /* of the kernel, its numbers only */
    char distribution[128]; /* "Debian GNU/Linux 12 (bookworm)" */
    char machine[96];       /* "x86_64" */
    char processor[128];    /* the model's name */
    int32_t num_processors; /* online */
    uint64_t memory_bytes;
} mla__os_facts;
void mla__os_describe(mla__os_facts *out);

/* This processor has AVX512_BF16, and the operating system keeps its registers. */
bool mla__os_cpu_has_bf16_dot(void);
/* The same of AVX512_VBMI. */
bool mla__os_cpu_has_byte_tables(void);

/* From now on SIGINT and SIGTERM are remembered instead of ending the process; a second one ends it.
 * A SIGINT that was ignored at the start stays so. For the program, never for the library. */
void mla__os_watch_interrupts(void);
bool mla__os_interrupted(void);

/* Something has this name, whether it can be read or not: false only where the system says that
 * there is nothing. */
bool mla__os_exists(const char *path);
bool mla__os_is_directory(const char *path);
/* A device, pipe or socket: to be written in place, never replaced by a new file. */
bool mla__os_is_special_file(const char *path);
bool mla__os_stderr_is_terminal(void);

/* What an errno means, until the next failed call above. strerror's text is shared by all
 * threads. */
const char *mla__os_error_text(int code);

/* errno of the last failed call above as text, for messages. */
const char *mla__os_last_error(void);

/* setenv without replacing an existing value; for the program, never for the library. */
void mla__os_default_environment(const char *name, const char *value);

#endif
