#define _POSIX_C_SOURCE 200809L

#include "core/os.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

struct mla__os_mutex {
    pthread_mutex_t handle;
};

static pthread_mutex_t clblast_mutex = PTHREAD_MUTEX_INITIALIZER;

static _Thread_local char last_error[256] = "no error";

static void remember(const char *text)
{
    (void)snprintf(last_error, sizeof last_error, "%s", text);
}

static void remember_errno(int code)
{
    if (strerror_r(code, last_error, sizeof last_error) != 0)
        (void)snprintf(last_error, sizeof last_error, "error %d", code);
}

const char *mla__os_error_text(int code)
{
    remember_errno(code);
    return last_error;
}

const char *mla__os_last_error(void) { return last_error; }

uint64_t mla__os_now_ns(void)
{
    struct timespec now = {0};
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

mla__os_mutex *mla__os_mutex_create(void)
{
    mla__os_mutex *mutex = malloc(sizeof *mutex);
    if (mutex == NULL)
        return NULL;
    if (pthread_mutex_init(&mutex->handle, NULL) != 0) {
        free(mutex);
        return NULL;
    }
    return mutex;
}

void mla__os_mutex_destroy(mla__os_mutex *mutex)
{
    if (mutex == NULL)
        return;
    (void)pthread_mutex_destroy(&mutex->handle);
    free(mutex);
}

/* Locking a valid, non-recursive mutex that this thread does not hold cannot fail. */
void mla__os_mutex_lock(mla__os_mutex *mutex) { (void)pthread_mutex_lock(&mutex->handle); }
void mla__os_mutex_unlock(mla__os_mutex *mutex) { (void)pthread_mutex_unlock(&mutex->handle); }

void mla__os_clblast_lock(void) { (void)pthread_mutex_lock(&clblast_mutex); }
void mla__os_clblast_unlock(void) { (void)pthread_mutex_unlock(&clblast_mutex); }

#define FIRST_READ_BYTES ((size_t)1 << 16)

/* Reads to the end rather than asking for the size, so that pipes work; those need not end. */
static clmla_status read_stream(FILE *stream, char **data, size_t *bytes)
{
    size_t capacity = FIRST_READ_BYTES, used = 0;
    char *text = malloc(capacity);
    while (text != NULL) {
        used += fread(text + used, 1, capacity - 1 - used, stream);
        if (used < capacity - 1)
            break;
        if (capacity >= MLA__MOST_FILE_BYTES) {
            remember_errno(EFBIG);
            free(text);
            return CLMLA_IO;
        }
        char *larger = realloc(text, capacity * 2);
        if (larger == NULL)
            free(text);
        text = larger;
        capacity *= 2;
    }
    if (text == NULL) {
        remember_errno(ENOMEM);
        return CL_OUT_OF_HOST_MEMORY;
    }
    if (ferror(stream)) {
        remember_errno(errno);
        free(text);
        return CLMLA_IO;
    }
    text[used] = '\0';
    *data = text;
    *bytes = used;
    return CLMLA_SUCCESS;
}

clmla_status mla__os_read_file(const char *path, char **data, size_t *bytes)
{
    FILE *stream = fopen(path, "rb");
    if (stream == NULL) {
        remember_errno(errno);
        return CLMLA_IO;
    }
    const clmla_status status = read_stream(stream, data, bytes);
    (void)fclose(stream);
    return status;
}

/* ---- files of the user's own --------------------------------------------------------------- */

/* What makes a file or directory unfit to be trusted; NULL: nothing. */
static const char *find_stranger(const struct stat *info)
{
    if (info->st_uid != geteuid())
        return "is owned by another user";
    return (info->st_mode & (S_IWGRP | S_IWOTH)) != 0 ? "can be written by other users" : NULL;
}

/* mkdir -p. Another process may make the same directories at the same time. */
static bool make_directories(char *path)
{
    for (char *end = path + 1; path[0] != '\0' && *end != '\0'; end++) {
        if (*end != '/')
            continue;
        *end = '\0';
        const bool made = mkdir(path, S_IRWXU) == 0 || errno == EEXIST;
        *end = '/';
        if (!made)
            return false;
    }
    return mkdir(path, S_IRWXU) == 0 || errno == EEXIST;
}

clmla_status mla__os_private_directory(const char *path)
{
    struct stat info;
    char *copy = strdup(path);
    if (copy == NULL) {
        remember_errno(ENOMEM);
        return CLMLA_IO;
    }
    const bool there = stat(path, &info) == 0 || (make_directories(copy) && stat(path, &info) == 0);
    const int code = errno;
    free(copy);
    if (!there) {
        remember_errno(code);
        return CLMLA_IO;
    }
    const char *fault = S_ISDIR(info.st_mode) ? find_stranger(&info) : "is not a directory";
    if (fault == NULL)
        return CLMLA_SUCCESS;
    remember(fault);
    return CLMLA_IO;
}

/* read() until `bytes` have come; false when the file has become shorter. */
static bool read_descriptor(int descriptor, char *data, size_t bytes)
{
    for (size_t done = 0; done < bytes;) {
        const ssize_t got = read(descriptor, data + done, bytes - done);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            remember_errno(got < 0 ? errno : EIO);
            return false;
        }
        done += (size_t)got;
    }
    return true;
}

static clmla_status read_private(int descriptor, size_t most_bytes, char **data, size_t *bytes)
{
    struct stat info;
    if (fstat(descriptor, &info) != 0) {
        remember_errno(errno);
        return CLMLA_IO;
    }
    const char *fault = S_ISREG(info.st_mode) ? find_stranger(&info) : "is not a regular file";
    if (fault == NULL && (uintmax_t)info.st_size > most_bytes)
        fault = "is too large";
    if (fault != NULL) {
        remember(fault);
        return CLMLA_IO;
    }
    const size_t length = (size_t)info.st_size;
    char *text = malloc(length + 1);
    if (text == NULL) {
        remember_errno(ENOMEM);
        return CLMLA_IO;
    }
    if (!read_descriptor(descriptor, text, length)) {
        free(text);
        return CLMLA_IO;
    }
    text[length] = '\0';
    *data = text;
    *bytes = length;
    return CLMLA_SUCCESS;
}

clmla_status mla__os_read_private_file(const char *path, size_t most_bytes, char **data,
                                       size_t *bytes)
{
    /* O_NONBLOCK: opening a pipe must not wait for a writer. */
    const int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (descriptor < 0 && errno == ENOENT) {
        *data = NULL;
        *bytes = 0;
        return CLMLA_SUCCESS;
    }
    if (descriptor < 0) {
        const int code = errno;
        if (code == ELOOP)
            remember("is a symbolic link");
        else
            remember_errno(code);
        return CLMLA_IO;
    }
    const clmla_status status = read_private(descriptor, most_bytes, data, bytes);
    (void)close(descriptor);
    return status;
}

/* Past RLIMIT_FSIZE the system would end the process instead of failing the write. */
static bool within_file_limit(size_t bytes)
{
    struct rlimit limit;
    return getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY ||
           bytes <= limit.rlim_cur;
}

/* Returns 0 or an errno; closes the descriptor. */
static int write_descriptor(int descriptor, const char *data, size_t bytes)
{
    int code = within_file_limit(bytes) ? 0 : EFBIG;
    for (size_t done = 0; done < bytes && code == 0;) {
        const ssize_t put = write(descriptor, data + done, bytes - done);
        if (put >= 0)
            done += (size_t)put;
        else if (errno != EINTR)
            code = errno;
    }
    if (close(descriptor) != 0 && code == 0)
        code = errno;
    return code;
}

clmla_status mla__os_replace_file(const char *path, const char *data, size_t bytes)
{
    static const char suffix[] = ".XXXXXX";
    const size_t length = strlen(path);
    int code = ENOMEM;
    char *temporary = malloc(length + sizeof suffix);
    if (temporary != NULL) {
        memcpy(temporary, path, length);
        memcpy(temporary + length, suffix, sizeof suffix);
        const int descriptor = mkstemp(temporary);
        code = descriptor < 0 ? errno : write_descriptor(descriptor, data, bytes);
        if (code == 0 && rename(temporary, path) != 0)
            code = errno;
        if (code != 0 && descriptor >= 0)
            (void)unlink(temporary);
    }
    free(temporary);
    if (code == 0)
        return CLMLA_SUCCESS;
    remember_errno(code);
    return CLMLA_IO;
}

/* ---- maps and questions --------------------------------------------------------------------- */

static clmla_status map_descriptor(int descriptor, mla__os_map *map)
{
    struct stat info;
    if (fstat(descriptor, &info) != 0) {
        remember_errno(errno);
        return CLMLA_IO;
    }
    if (!S_ISREG(info.st_mode)) {
        remember(S_ISDIR(info.st_mode) ? "is a directory" : "is not a regular file");
        return CLMLA_IO;
    }
    if (info.st_size == 0) {
        *map = (mla__os_map){0};
        return CLMLA_SUCCESS;
    }
    if ((uintmax_t)info.st_size > SIZE_MAX) {
        remember_errno(EFBIG);
        return CLMLA_IO;
    }
    const size_t bytes = (size_t)info.st_size;
    void *data = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (data == MAP_FAILED) {
        remember_errno(errno);
        return CLMLA_IO;
    }
    *map = (mla__os_map){.data = data, .bytes = bytes};
    return CLMLA_SUCCESS;
}

clmla_status mla__os_map_file(const char *path, mla__os_map *map)
{
    /* O_NONBLOCK: opening a pipe must not wait for a writer; regular files ignore it. */
    const int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0) {
        remember_errno(errno);
        return CLMLA_IO;
    }
    const clmla_status status = map_descriptor(descriptor, map);
    (void)close(descriptor);
    return status;
}

void mla__os_unmap_file(mla__os_map *map)
{
    if (map->data != NULL)
        (void)munmap((void *)(uintptr_t)map->data, map->bytes); /* drops const */
    *map = (mla__os_map){0};
}

bool mla__os_exists(const char *path)
{
    struct stat info;
    if (lstat(path, &info) == 0)
        return true;
    const int code = errno;
    remember_errno(code);
    return code != ENOENT && code != ENOTDIR;
}

bool mla__os_is_directory(const char *path)
{
    struct stat info;
    if (stat(path, &info) != 0) {
        remember_errno(errno);
        return false;
    }
    return S_ISDIR(info.st_mode);
}

bool mla__os_is_special_file(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && !S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode);
}

bool mla__os_stderr_is_terminal(void) { return isatty(STDERR_FILENO) == 1; }

void mla__os_default_environment(const char *name, const char *value)
{
    /* NOLINTNEXTLINE(concurrency-mt-unsafe): main calls it before there is a second thread */
    (void)setenv(name, value, 0);
}

/* ---- the machine ----------------------------------------------------------------------------- */

/* The value of the first line that begins with key, from its first character that is none of
 * `before` on. text stays as it is when there is none. */
static void find_line(const char *path, const char *key, const char *before, char *text,
                      size_t bytes)
{
    char line[512];
    FILE *stream = fopen(path, "r");
    while (stream != NULL && fgets(line, sizeof line, stream) != NULL) {
        if (strncmp(line, key, strlen(key)) != 0)
            continue;
        const char *value = line + strlen(key);
        value += strspn(value, before);
        (void)snprintf(text, bytes, "%.*s", (int)strcspn(value, "\"\n"), value);
        break;
    }
    if (stream != NULL)
        (void)fclose(stream);
}

void mla__os_describe(mla__os_facts *out)
{
    struct utsname names;
    mla__os_facts facts = {0};
    if (uname(&names) == 0) {
        (void)snprintf(facts.system, sizeof facts.system, "%s", names.sysname);
        /* What follows the numbers may be a name that somebody gave to their kernel. */
        (void)snprintf(facts.release, sizeof facts.release, "%.*s",
                       (int)strspn(names.release, "0123456789."), names.release);
        (void)snprintf(facts.machine, sizeof facts.machine, "%s", names.machine);
    }
    find_line("/etc/os-release", "PRETTY_NAME=", "\"", facts.distribution,
              sizeof facts.distribution);
    find_line("/proc/cpuinfo", "model name", "\t :", facts.processor, sizeof facts.processor);
    const long processors = sysconf(_SC_NPROCESSORS_ONLN);
    const long pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);
    if (processors > 0)
        facts.num_processors = (int32_t)processors;
    if (pages > 0 && page_bytes > 0)
        facts.memory_bytes = (uint64_t)pages * (uint64_t)page_bytes;
    *out = facts;
}

bool mla__os_cpu_has_bf16_dot(void)
{
#if defined(__GNUC__) && defined(__x86_64__)
    return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512f");
#else
    return false;
#endif
}

bool mla__os_cpu_has_byte_tables(void)
{
#if defined(__GNUC__) && defined(__x86_64__)
    return __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512bw");
#else
    return false;
#endif
}

/* ---- interrupts ----------------------------------------------------------------------------- */

static volatile sig_atomic_t interrupted;

/* SA_RESETHAND has put the default action back: the next one ends the process. */
static void remember_interrupt(int signal_number)
{
    (void)signal_number;
    interrupted = 1;
}

void mla__os_watch_interrupts(void)
{
    static const int signals[] = {SIGINT, SIGTERM};
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) {
        struct sigaction action = {.sa_handler = remember_interrupt,
                                   .sa_flags = (int)SA_RESETHAND | SA_RESTART};
        struct sigaction before;
        (void)sigemptyset(&action.sa_mask);
        if (sigaction(signals[i], NULL, &before) == 0 && before.sa_handler == SIG_IGN)
            continue;
        (void)sigaction(signals[i], &action, NULL);
    }
}

bool mla__os_interrupted(void) { return interrupted != 0; }
