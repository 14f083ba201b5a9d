#include "cli/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/message.h"
#include "core/os.h"

#define GIB ((double)(1 << 30))

/* Keeps the first line of a failure; a build log's other lines are shown with --verbose. That a
 * record which the user named is not used is no secret either. */
static void remember(clmla_status status, const char *text, void *user)
{
    mla_session *session = user;
    if (status == CLMLA_SUCCESS && strncmp(text, "tuning: ", strlen("tuning: ")) == 0 &&
        session->common->tuning != NULL) {
        mla_note("%s", text);
        return;
    }
    if (status != CLMLA_SUCCESS)
        (void)snprintf(session->detail, sizeof(session->detail), "%.*s", (int)strcspn(text, "\n"),
                       text);
    if (session->common->verbose) {
        mla_progress_clear();
        (void)fprintf(stderr, "%s\n", text);
    }
}

static clmla_status open_opencl(mla_session *session)
{
    const cl_context_properties properties[] = {
        CL_CONTEXT_PLATFORM, (cl_context_properties)session->device->platform, 0};
    cl_int error;
    session->context = clCreateContext(properties, 1, &session->device->id, NULL, NULL, &error);
    if (error == CL_SUCCESS)
        session->queue = clCreateCommandQueue(session->context, session->device->id, 0, &error);
    return error;
}

/* PoCL keeps what it compiles on disk by itself, and compiles every kernel once more, for any size
 * of work-group, before it hands out a binary: twice the first start's time and more. There a cache
 * must be asked for. */
static bool has_own_cache(const mla_session *session)
{
    return strcmp(session->device->platform_name, "Portable Computing Language") == 0;
}

static const char *cache_directory(const mla_session *session)
{
    const mla_common *common = session->common;
    const bool wanted = common->cache_source == MLA_CACHE_CHOSEN ||
                        (common->cache_source == MLA_CACHE_DEFAULT && !has_own_cache(session));
    return wanted ? common->cache_directory : NULL;
}

void mla_session_tuning_path(const mla_common *common, const mla_device_info *device,
                             char path[MLA_PATH_BYTES])
{
    path[0] = '\0';
    if (common->tuning != NULL && strcmp(common->tuning, MLA_NO_TUNING) != 0)
        (void)snprintf(path, MLA_PATH_BYTES, "%s", common->tuning);
    else if (common->tuning == NULL && common->tuning_directory[0] != '\0')
        (void)mla_tuning_path(common->tuning_directory, device->name, device->driver_version, path);
}

static clmla_status create_clmla(mla_session *session, clmla_projection_backend projection,
                                 const char *tuning_file, const char *tuning_text)
{
    const mla_common *common = session->common;
    const clmla_context_options options = {
        .struct_size = sizeof(options),
        .notify = remember,
        .notify_user = session,
        .kernel_directory = common->kernel_directory,
        .cache_directory = cache_directory(session),
        .kernel_class = common->kernels,
        .projection = projection,
        .matrix_units = common->matrix_units,
        .allow_clblast_overrides = common->clblast_overrides,
        .sm_90a = common->sm_90a,
        .tuning_file = tuning_file,
        .tuning_text = tuning_text,
    };
    return clmla_context_create(session->context, session->device->id, &options, &session->clmla);
}

/* --verbose: the record, and whether it is there. */
static void describe_tuning(const mla_session *session)
{
    clmla_context_info info = {.struct_size = sizeof(info)};
    if (!session->common->verbose || session->tuning_path[0] == '\0' ||
        clmla_context_get_info(session->clmla, &info) != CLMLA_SUCCESS)
        return;
    if (info.tuning_entries > 0 || mla__os_exists(session->tuning_path))
        mla_say("tuning: %s; %d tiles", session->tuning_path, (int)info.tuning_entries);
    else
        mla_say("tuning: none; no %s (clmla tune makes it)", session->tuning_path);
}

/* A record that nobody named must not keep the program from working. */
static clmla_status create_with_record(mla_session *session, clmla_projection_backend projection)
{
    const bool named = session->common->tuning != NULL;
    mla_session_tuning_path(session->common, session->device, session->tuning_path);
    const char *path = session->tuning_path;
    if (path[0] == '\0' || (!named && !mla__os_exists(path)))
        return create_clmla(session, projection, NULL, NULL);
    const clmla_status status = create_clmla(session, projection, path, NULL);
    if (named || (status != CLMLA_IO && status != CLMLA_INVALID_TUNING))
        return status;
    mla_note("%s: not used", session->detail);
    session->detail[0] = '\0';
    return create_clmla(session, projection, NULL, NULL);
}

/* Returns -1 to go on, or an exit code after printing the error. */
static int open_clmla(mla_session *session, clmla_projection_backend projection)
{
    const mla_common *common = session->common;
    const clmla_status status = create_with_record(session, projection);
    if (status == CLMLA_SUCCESS) {
        describe_tuning(session);
        return -1;
    }
    if (status == CLMLA_KERNEL_SOURCE_NOT_FOUND) {
        mla_error("--kernel-dir '%s': must be a directory of .cl files", common->kernel_directory);
        return MLA_EXIT_USAGE;
    }
    return mla_session_fail(session, session->device->name, status);
}

int mla_session_open(const mla_common *common, mla_session *out)
{
    int code = -1;
    *out = (mla_session){.common = common};
    clmla_status status = mla_inventory_create(&out->inventory);
    if (status != CLMLA_SUCCESS)
        return mla_session_fail(out, "OpenCL platforms", status);
    out->device = mla_inventory_select(&out->inventory, &common->device, &code);
    if (out->device == NULL)
        return code;
    status = open_opencl(out);
    if (status != CLMLA_SUCCESS)
        return mla_session_fail(out, out->device->name, status);
    return open_clmla(out, common->projections[0]);
}

static clmla_status share_opencl(const mla_session *first, mla_session *out)
{
    *out = (mla_session){.common = first->common, .device = first->device};
    clmla_status status = clRetainContext(first->context);
    if (status == CL_SUCCESS) {
        out->context = first->context;
        status = clRetainCommandQueue(first->queue);
    }
    if (status == CL_SUCCESS)
        out->queue = first->queue;
    return status;
}

int mla_session_open_beside(const mla_session *first, clmla_projection_backend projection,
                            mla_session *out)
{
    const clmla_status status = share_opencl(first, out);
    return status == CL_SUCCESS ? open_clmla(out, projection)
                                : mla_session_fail(out, out->device->name, status);
}

clmla_status mla_session_open_tuned(const mla_session *first, const char *tuning_text,
                                    mla_session *out)
{
    const clmla_status status = share_opencl(first, out);
    return status == CL_SUCCESS
               ? create_clmla(out, first->common->projections[0], NULL, tuning_text)
               : status;
}

/* --verbose: what the cache was good for. */
static void describe_cache(const mla_session *session)
{
    clmla_context_info info = {.struct_size = sizeof(info)};
    if (session->clmla == NULL || !session->common->verbose ||
        clmla_context_get_info(session->clmla, &info) != CLMLA_SUCCESS)
        return;
    const char *where =
        info.cache_directory != NULL ? info.cache_directory
        : session->common->cache_source == MLA_CACHE_DEFAULT && has_own_cache(session)
            ? "PoCL's own (CLMLA_CACHE_DIR adds one)"
            : "none";
    mla_say("cache: %s; %d programs read, %d compiled", where, (int)info.programs_read,
            (int)info.programs_compiled);
}

void mla_session_close(mla_session *session)
{
    describe_cache(session);
    clmla_context_release(session->clmla);
    if (session->queue != NULL)
        (void)clReleaseCommandQueue(session->queue);
    if (session->context != NULL)
        (void)clReleaseContext(session->context);
    mla_inventory_release(&session->inventory);
    *session = (mla_session){0};
}

/* What a failure for want of the device's memory adds; "" for others. */
static void describe_memory(const mla_session *session, clmla_status status, char *text,
                            size_t bytes)
{
    const bool is_full =
        status == CL_MEM_OBJECT_ALLOCATION_FAILURE || status == CL_INVALID_BUFFER_SIZE;
    text[0] = '\0';
    if (is_full && session->device != NULL)
        (void)snprintf(text, bytes,
                       "; the device has %.4g GiB, at most %.4g GiB in one buffer: fewer tokens or "
                       "layers, a smaller model or another --device need less",
                       (double)session->device->global_mem_bytes / GIB,
                       (double)session->device->max_alloc_bytes / GIB);
}

int mla_session_fail(mla_session *session, const char *what, clmla_status status)
{
    char memory[192];
    describe_memory(session, status, memory, sizeof(memory));
    mla_error("%s: %s%s (%s)", what,
              session->detail[0] != '\0' ? session->detail : clmla_status_message(status), memory,
              clmla_status_name(status));
    session->detail[0] = '\0';
    return MLA_EXIT_FAILED;
}

json_t *mla_session_device_json(const mla_session *session)
{
    clmla_context_info info = {.struct_size = sizeof(info)};
    (void)clmla_context_get_info(session->clmla, &info);
    return json_pack("{s:s, s:s, s:s, s:s, s:i}", "platform", session->device->platform_name,
                     "name", session->device->name, "driver", session->device->driver_version,
                     "class", clmla_kernel_class_name(clmla_context_kernel_class(session->clmla)),
                     "tuning", (int)info.tuning_entries);
}

void mla_session_describe(const mla_session *session, const clmla_layer *layer)
{
    size_t length = 0;
    if (!session->common->verbose || clmla_layer_describe(layer, NULL, 0, &length) != CLMLA_SUCCESS)
        return;
    char *text = malloc(length + 1);
    if (text != NULL && clmla_layer_describe(layer, text, length + 1, NULL) == CLMLA_SUCCESS) {
        mla_progress_clear();
        (void)fputs(text, stderr);
    }
    free(text);
}

static clmla_status fail_buffer(mla_session *session, uint64_t bytes, clmla_status status)
{
    (void)snprintf(session->detail, sizeof(session->detail),
                   "cannot allocate a buffer of %llu bytes", (unsigned long long)bytes);
    return status;
}

clmla_status mla_session_check_buffer(mla_session *session, uint64_t bytes)
{
    return bytes <= session->device->max_alloc_bytes
               ? CLMLA_SUCCESS
               : fail_buffer(session, bytes, CL_INVALID_BUFFER_SIZE);
}

clmla_status mla_session_buffer(mla_session *session, const void *host, uint64_t bytes, cl_mem *out)
{
    static const cl_uchar poison = 0xff;
    cl_int status;
    *out = NULL;
    if (bytes == 0)
        return CLMLA_SUCCESS;
    cl_mem buffer =
        clCreateBuffer(session->context, CL_MEM_READ_WRITE, (size_t)bytes, NULL, &status);
    if (status != CL_SUCCESS)
        return fail_buffer(session, bytes, status);
    if (host != NULL)
        status = clEnqueueWriteBuffer(session->queue, buffer, CL_TRUE, 0, (size_t)bytes, host, 0,
                                      NULL, NULL);
    else
        status = clEnqueueFillBuffer(session->queue, buffer, &poison, sizeof(poison), 0,
                                     (size_t)bytes, 0, NULL, NULL);
    if (status != CL_SUCCESS) { /* some drivers allocate with the first use */
        (void)clReleaseMemObject(buffer);
        return fail_buffer(session, bytes, status);
    }
    *out = buffer;
    return CLMLA_SUCCESS;
}

void mla_buffer_release(cl_mem buffer)
{
    if (buffer != NULL)
        (void)clReleaseMemObject(buffer);
}
