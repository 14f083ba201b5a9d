/*
 * Finds out what a driver of NVIDIA lets an OpenCL program do: one JSON object on stdout.
 *
 *   nvidia_probe [--generic] [--seconds S] [--root FOLDER] [PLATFORM DEVICE]
 *
 *   PLATFORM DEVICE  indices; without them the first GPU, else the first device
 *   --seconds        of all parts (default 90); what does not begin in time is skipped
 *   --root           the source tree, whose kernels the parts that measure use
 *   --generic        runs what any device can do, with the warp operations emulated
 *
 * Each part is an object of its own; one that fails has "error". Parts run in a child process, in
 * order, each with a time limit. After a failure, a crash or a hang a new child goes on with the
 * next part, so that a context or a device that a part spoiled does not spoil others. The parent
 * never calls OpenCL. Without NVIDIA's extensions (and --generic): {"skipped": "..."}, exit code 0.
 */
#define _POSIX_C_SOURCE 200809L
#include "nvidia_probe.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* cl_nv_device_attribute_query */
enum { NV_MAJOR = 0x4000, NV_MINOR = 0x4001 };
enum { OPEN_LIMIT_S = 60 }; /* of the driver's start, which may bring up the GPU */

static const struct {
    const char *key;
    probe_part *run;
    int value;
    int limit_s;
    bool any_device;
} parts[] = {
    {"facts", part_facts, 0, 10, true},
    {"ptx", part_ptx, 0, 20, false},
    {"verbose_log", part_verbose_log, 0, 20, false},
    {"static_local_48_kib", part_static_local, 48, 20, true},
    {"static_local_64_kib", part_static_local, 64, 20, true},
    {"static_local_112_kib", part_static_local, 112, 20, true},
    {"static_local_160_kib", part_static_local, 160, 20, true},
    {"static_local_200_kib", part_static_local, 200, 20, true},
    {"argument_local_64_kib", part_argument_local, 64, 20, true},
    {"argument_local_200_kib", part_argument_local, 200, 20, true},
    {"arch_option", part_arch_option, 0, 20, false},
    {"arch_option_equals", part_arch_option, 1, 20, false},
    {"arch_option_wgmma", part_arch_option, 2, 20, false},
    {"retarget", part_retarget, 0, 20, false},
    {"retarget_128_kib", part_retarget, 1, 20, false},
    {"retarget_wgmma", part_retarget, 2, 20, false},
    {"mma_registers", part_mma, 0, 30, true},
    {"mma_ldmatrix", part_mma, 1, 30, true},
    {"stream", part_stream, 0, 30, true},
};

enum { NUM_PARTS = sizeof(parts) / sizeof(parts[0]) };

typedef struct request {
    bool generic;
    int platform, device; /* platform -1: to be chosen */
    double seconds;
    const char *root;
} request;

/* ---- worker ---- */

/* platform < 0: the first GPU, else the first device. */
static bool choose_device(probe *p, int platform, int device)
{
    const cl_device_type wanted[] = {CL_DEVICE_TYPE_GPU, CL_DEVICE_TYPE_ALL};
    cl_platform_id platforms[32];
    cl_device_id devices[32];
    cl_uint num_platforms = 0;
    (void)clGetPlatformIDs(32, platforms, &num_platforms);
    for (int w = platform >= 0 ? 1 : 0; w < 2; w++)
        for (int i = 0; i < (int)num_platforms && i < 32; i++) {
            cl_uint num_devices = 0;
            if (platform >= 0 && i != platform)
                continue;
            (void)clGetDeviceIDs(platforms[i], CL_DEVICE_TYPE_ALL, 32, devices, &num_devices);
            for (int d = 0; d < (int)num_devices && d < 32; d++) {
                (void)clGetDeviceInfo(devices[d], CL_DEVICE_TYPE, sizeof(p->type), &p->type, NULL);
                if ((platform >= 0 && d != device) || (p->type & wanted[w]) == 0)
                    continue;
                p->device = devices[d];
                return true;
            }
        }
    return probe_fail(p, "no such OpenCL device");
}

static bool open_device(probe *p, const request *r)
{
    cl_uint major = 0, minor = 0;
    cl_int status;
    if (!choose_device(p, r->platform, r->device))
        return false;
    if (clGetDeviceInfo(p->device, NV_MAJOR, sizeof(major), &major, NULL) == CL_SUCCESS &&
        clGetDeviceInfo(p->device, NV_MINOR, sizeof(minor), &minor, NULL) == CL_SUCCESS)
        p->capability = (int)(10 * major + minor);
    (void)clGetDeviceInfo(p->device, CL_DEVICE_MAX_COMPUTE_UNITS, sizeof(p->compute_units),
                          &p->compute_units, NULL);
    if (p->capability == 0 && !p->generic)
        return true; /* nothing to do on it */
    p->context = clCreateContext(NULL, 1, &p->device, NULL, NULL, &status);
    if (!probe_check(p, "clCreateContext", status))
        return false;
    p->queue = clCreateCommandQueue(p->context, p->device, 0, &status);
    return probe_check(p, "clCreateCommandQueue", status);
}

static void print_line(json *out)
{
    while (out->depth > 0)
        json_close(out);
    (void)printf("%s\n", out->text);
    (void)fflush(stdout);
}

/* The child: a line for the device, then one for each part from `first`, until one fails. */
static _Noreturn void work(const request *r, int first)
{
    static json out;
    probe p = {.generic = r->generic, .root = r->root};
    json_open(&out, NULL);
    const bool is_open = open_device(&p, r);
    if (!is_open)
        json_string(&out, "error", p.error);
    else if (p.capability == 0 && !p.generic)
        json_string(&out, "skipped", "the device has no cl_nv_device_attribute_query");
    print_line(&out);
    if (!is_open || (p.capability == 0 && !p.generic))
        _exit(EXIT_SUCCESS);
    for (int i = first; i < NUM_PARTS; i++) {
        bool ok = true;
        out = (json){.used = 0};
        json_open(&out, NULL);
        if (p.generic && !parts[i].any_device) {
            json_string(&out, "skipped", "for NVIDIA's driver only");
        } else {
            const double start = report_now_s();
            ok = parts[i].run(&p, parts[i].value, &out);
            while (out.depth > 1)
                json_close(&out); /* that a failing part left open */
            if (!ok)
                json_string(&out, "error", p.error);
            json_number(&out, "seconds", report_now_s() - start);
        }
        print_line(&out);
        if (!ok)
            break; /* its context may be of no use any more */
    }
    _exit(EXIT_SUCCESS); /* exit() may wait for a spoiled device */
}

/* ---- parent ---- */

typedef struct worker {
    pid_t pid;
    int pipe;
    char text[2 * JSON_BYTES]; /* read and not taken yet */
    size_t used;
} worker;

static bool start_worker(const request *r, int first, worker *out)
{
    int ends[2];
    if (pipe(ends) != 0)
        return false;
    (void)fflush(stdout);
    *out = (worker){.pid = fork(), .pipe = ends[0]};
    if (out->pid == 0) {
        (void)close(ends[0]);
        (void)dup2(ends[1], STDOUT_FILENO);
        (void)close(ends[1]);
        work(r, first);
    }
    (void)close(ends[1]);
    return out->pid > 0;
}

/* Ends the child and tells how it ended; one that hangs in the driver is left to itself. */
static int stop_worker(worker *w, bool hard)
{
    int status = 0;
    if (hard)
        (void)kill(w->pid, SIGKILL);
    for (int i = 0; i < 100; i++) {
        const struct timespec pause = {.tv_nsec = 50000000};
        if (waitpid(w->pid, &status, WNOHANG) != 0)
            break;
        (void)nanosleep(&pause, NULL);
        if (i == 60)
            (void)kill(w->pid, SIGKILL);
    }
    (void)close(w->pipe);
    w->pid = 0;
    return status;
}

typedef enum answer { ANSWER_LINE, ANSWER_END, ANSWER_LATE } answer;

/* The next line that begins with '{', without its end; others, a driver's own words, are passed
 * over. */
static answer read_line(worker *w, double limit_s, char *line, size_t bytes)
{
    const double deadline = report_now_s() + limit_s;
    for (;;) {
        char *end = memchr(w->text, '\n', w->used);
        if (end != NULL) {
            const size_t length = (size_t)(end - w->text);
            const bool is_object = length > 1 && w->text[0] == '{' && length < bytes;
            if (is_object) {
                memcpy(line, w->text, length);
                line[length] = '\0';
            }
            w->used -= length + 1;
            memmove(w->text, end + 1, w->used);
            if (is_object)
                return ANSWER_LINE;
            continue;
        }
        const double left = deadline - report_now_s();
        struct pollfd from = {.fd = w->pipe, .events = POLLIN};
        if (left <= 0.0)
            return ANSWER_LATE;
        if (poll(&from, 1, (int)(1e3 * left) + 1) <= 0)
            continue;
        if (w->used == sizeof(w->text))
            w->used = 0; /* no line of ours is that long */
        const ssize_t got = read(w->pipe, w->text + w->used, sizeof(w->text) - w->used);
        if (got == 0 || (got < 0 && errno != EINTR))
            return ANSWER_END;
        w->used += got > 0 ? (size_t)got : 0;
    }
}

static void describe_end(answer how, int status, double limit_s, char *text, size_t bytes)
{
    if (how == ANSWER_LATE)
        (void)snprintf(text, bytes, "{\"error\": \"no answer in %.0f s, ended\"}", limit_s);
    else if (WIFSIGNALED(status))
        (void)snprintf(text, bytes, "{\"error\": \"the process was ended by signal %d\"}",
                       WTERMSIG(status));
    else
        (void)snprintf(text, bytes, "{\"error\": \"the process ended without an answer\"}");
}

/* Starts a worker for part `first` and reads its line about the device. False: line says why. */
static bool begin_worker(const request *r, int first, worker *w, char *line, size_t bytes)
{
    if (!start_worker(r, first, w)) {
        (void)snprintf(line, bytes, "{\"error\": \"fork: %s\"}", strerror(errno));
        return false;
    }
    const answer how = read_line(w, OPEN_LIMIT_S, line, bytes);
    if (how == ANSWER_LINE && strcmp(line, "{}") == 0)
        return true;
    const int status = stop_worker(w, true);
    if (how != ANSWER_LINE)
        describe_end(how, status, OPEN_LIMIT_S, line, bytes);
    return false;
}

/* The object of part i, with a new worker where there is none. */
static void run_part(const request *r, int i, worker *w, char *line, size_t bytes)
{
    if (w->pid == 0 && !begin_worker(r, i, w, line, bytes)) {
        w->pid = 0;
        return;
    }
    const answer how = read_line(w, parts[i].limit_s, line, bytes);
    if (how != ANSWER_LINE) {
        const int status = stop_worker(w, how == ANSWER_LATE);
        describe_end(how, status, parts[i].limit_s, line, bytes);
    } else if (strstr(line, "\"error\": ") != NULL) {
        (void)stop_worker(w, false); /* it ends by itself */
    }
}

static int run_parts(const request *r)
{
    static worker w;
    static char line[JSON_BYTES];
    const double start = report_now_s();
    if (!begin_worker(r, 0, &w, line, sizeof(line))) {
        (void)printf("%s\n", line);
        return strstr(line, "\"skipped\"") != NULL ? EXIT_SUCCESS : EXIT_FAILURE;
    }
    for (int i = 0; i < NUM_PARTS; i++) {
        if (report_now_s() - start > r->seconds)
            (void)snprintf(line, sizeof(line), "{\"skipped\": \"the %.0f s are over\"}",
                           r->seconds);
        else
            run_part(r, i, &w, line, sizeof(line));
        (void)printf("%s  \"%s\": %s", i == 0 ? "{\n" : ",\n", parts[i].key, line);
        (void)fflush(stdout);
    }
    (void)printf("\n}\n");
    if (w.pid != 0)
        (void)stop_worker(&w, false);
    return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    request r = {.platform = -1, .seconds = 90.0};
    int i = 1;
    for (; i < argc && strncmp(argv[i], "--", 2) == 0; i++) {
        if (strcmp(argv[i], "--generic") == 0)
            r.generic = true;
        else if (strcmp(argv[i], "--seconds") == 0 && i + 1 < argc)
            r.seconds = atof(argv[++i]);
        else if (strcmp(argv[i], "--root") == 0 && i + 1 < argc)
            r.root = argv[++i];
        else
            break;
    }
    if (argc - i == 2) {
        r.platform = atoi(argv[i]);
        r.device = atoi(argv[i + 1]);
    } else if (argc != i) {
        (void)fprintf(stderr, "usage: nvidia_probe [--generic] [--seconds S] [--root FOLDER] "
                              "[PLATFORM DEVICE]\n");
        return 2;
    }
    return run_parts(&r);
}
