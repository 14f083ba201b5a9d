#include "ocl/program.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/dtype.h"
#include "ocl/binary.h"
#include "ocl/retarget.h"

static const char source_options[] = "-cl-std=CL1.2";

/* How a program is made. */
typedef struct recipe {
    const char *const *files;
    bool sm_90a;  /* rebuilt from rewritten PTX, see retarget.h */
    bool reports; /* a failed build's log goes to notify */
} recipe;

/* Of what the driver builds last: the source, or PTX, for which there are none. */
static const char *options_of(const recipe *r) { return r->sm_90a ? "" : source_options; }

/* A context holds a few dozen programs, looked up when objects are made: a list will do. */
struct mla__program_entry {
    char *key;
    cl_program program;
    struct mla__program_entry *next;
};

/* Text that grows; status keeps the first failure. */
typedef struct builder {
    char *text;
    size_t length, capacity;
    clmla_status status;
} builder;

static void append_bytes(builder *b, const char *bytes, size_t count)
{
    if (b->status != CLMLA_SUCCESS)
        return;
    if (b->length + count + 1 > b->capacity) {
        const size_t capacity = 2 * b->capacity + count + 1;
        char *text = realloc(b->text, capacity);
        if (text == NULL) {
            b->status = CL_OUT_OF_HOST_MEMORY;
            return;
        }
        b->text = text;
        b->capacity = capacity;
    }
    memcpy(b->text + b->length, bytes, count);
    b->length += count;
    b->text[b->length] = '\0';
}

static void append(builder *b, const char *text) { append_bytes(b, text, strlen(text)); }

/* ---- definitions -------------------------------------------------------------------------- */

void mla__define_text(mla__defines *defines, const char *name, const char *value)
{
    const size_t room = sizeof defines->text - defines->length;
    const int written =
        snprintf(defines->text + defines->length, room, "#define %s %s\n", name, value);
    if (written < 0 || (size_t)written >= room) {
        defines->text[defines->length] = '\0';
        defines->overflow = 1;
        return;
    }
    defines->length += (size_t)written;
}

void mla__define_loops(mla__defines *defines, double iterations) { defines->loops = iterations; }

void mla__define_int(mla__defines *defines, const char *name, long long value)
{
    char digits[32];
    (void)snprintf(digits, sizeof digits, "%lld", value);
    mla__define_text(defines, name, digits);
}

void mla__define_dtype(mla__defines *defines, const char *name, clmla_dtype dtype)
{
    mla__define_text(defines, name, mla__dtype_name(dtype));
}

/* ---- source text -------------------------------------------------------------------------- */

static void append_file(builder *b, const clmla_context *context, const char *name)
{
    const char *text = NULL;
    char *owned = NULL;
    if (b->status != CLMLA_SUCCESS)
        return;
    b->status = mla__source_find(context, name, &text, &owned);
    if (b->status != CLMLA_SUCCESS)
        return;
    append(b, "#line 1 \"");
    append(b, name);
    append(b, "\"\n");
    append(b, text);
    append(b, "\n"); /* a last line without its end would swallow the next #line */
    free(owned);
}

static clmla_status assemble(const clmla_context *context, const char *const *files,
                             const char *definitions, builder *source)
{
    append(source, definitions);
    append(source,
           context->device.splits_vload ? "#define SPLITS_VLOAD 1\n" : "#define SPLITS_VLOAD 0\n");
    append_file(source, context, "common.clh");
    for (const char *const *file = files; *file != NULL; file++)
        append_file(source, context, *file);
    return source->status;
}

/* Names cannot hold a newline in this project, so the key is unambiguous. */
static clmla_status make_key(const char *const *files, const char *definitions, bool sm_90a,
                             builder *key)
{
    append(key, sm_90a ? "sm_90a\n" : "");
    for (const char *const *file = files; *file != NULL; file++) {
        append(key, *file);
        append(key, "\n");
    }
    append(key, definitions);
    return key->status;
}

/* ---- building ----------------------------------------------------------------------------- */

static void append_names(const char *const *files, builder *text)
{
    for (const char *const *file = files; *file != NULL; file++) {
        append(text, file == files ? "" : ", ");
        append(text, *file);
    }
}

/* "rmsnorm.cl: clBuildProgram: CL_BUILD_PROGRAM_FAILURE (-11)", then the driver's log. */
static void describe_failure(const clmla_context *context, const char *const *files,
                             cl_program program, clmla_status status, builder *text)
{
    append_names(files, text);
    char line[128];
    (void)snprintf(line, sizeof line, ": clBuildProgram: %s (%d)\n", clmla_status_name(status),
                   (int)status);
    append(text, line);
    size_t bytes = 0;
    if (clGetProgramBuildInfo(program, context->device.id, CL_PROGRAM_BUILD_LOG, 0, NULL, &bytes) !=
        CL_SUCCESS)
        return;
    char *log = calloc(bytes + 1, 1);
    if (log == NULL)
        return;
    if (bytes > 0 && clGetProgramBuildInfo(program, context->device.id, CL_PROGRAM_BUILD_LOG, bytes,
                                           log, NULL) == CL_SUCCESS)
        append(text, log);
    free(log);
}

/* Builds a program that was made, and releases it where that fails; *report then holds text for
 * notify. */
static clmla_status build_made(const clmla_context *context, const char *const *files,
                               cl_program program, const char *options, builder *report)
{
    const cl_device_id device = context->device.id;
    const clmla_status status = clBuildProgram(program, 1, &device, options, NULL, NULL);
    if (status == CLMLA_SUCCESS)
        return CLMLA_SUCCESS;
    describe_failure(context, files, program, status, report);
    (void)clReleaseProgram(program);
    /* Drivers also say CL_INVALID_BINARY, -9999 or CL_OUT_OF_RESOURCES for source that they
     * cannot compile, such as one with too much local memory. */
    return status == CL_OUT_OF_HOST_MEMORY ? status : CL_BUILD_PROGRAM_FAILURE;
}

static clmla_status build_source(const clmla_context *context, const char *const *files,
                                 const char *source, cl_program *out, builder *report)
{
    clmla_status status = CLMLA_SUCCESS;
    const cl_program program =
        clCreateProgramWithSource(context->context, 1, &source, NULL, &status);
    if (status == CLMLA_SUCCESS)
        status = build_made(context, files, program, source_options, report);
    if (status == CLMLA_SUCCESS)
        *out = program;
    return status;
}

/* Builds PTX that this library rewrote. */
static clmla_status build_ptx(const clmla_context *context, const char *const *files,
                              const char *ptx, cl_program *out, builder *report)
{
    clmla_status status = CLMLA_SUCCESS;
    const cl_device_id device = context->device.id;
    const size_t bytes = strlen(ptx) + 1;
    const unsigned char *binary = (const unsigned char *)ptx;
    const cl_program program =
        clCreateProgramWithBinary(context->context, 1, &device, &bytes, &binary, NULL, &status);
    if (status != CLMLA_SUCCESS) {
        append_names(files, report);
        append(report, ": the driver does not take PTX for sm_90a");
        return CL_BUILD_PROGRAM_FAILURE;
    }
    status = build_made(context, files, program, "", report);
    if (status == CLMLA_SUCCESS)
        *out = program;
    return status;
}

/* See retarget.h. The source's own program is of no use. */
static clmla_status build_sm_90a(const clmla_context *context, const char *const *files,
                                 const char *source, cl_program *out, builder *report)
{
    cl_program plain = NULL;
    char *binary = NULL;
    size_t bytes = 0;
    clmla_status status = build_source(context, files, source, &plain, report);
    if (status != CLMLA_SUCCESS)
        return status;
    status = mla__binary_read(context, plain, 0, &binary, &bytes);
    (void)clReleaseProgram(plain);
    if (status != CLMLA_SUCCESS)
        return status;
    const char *why = NULL;
    char *const ptx = mla__retarget_sm_90a(binary, bytes, &why);
    if (ptx == NULL) {
        append_names(files, report);
        append(report, ": ");
        append(report, why);
        status = CL_BUILD_PROGRAM_FAILURE;
    } else {
        status = build_ptx(context, files, ptx, out, report);
    }
    free(ptx);
    free(binary);
    return status;
}

static struct mla__program_entry *find(const clmla_context *context, const char *key)
{
    struct mla__program_entry *entry = context->programs;
    while (entry != NULL && strcmp(entry->key, key) != 0)
        entry = entry->next;
    return entry;
}

/* Under the context's mutex: two threads that want one program build it once. Takes over the key's
 * text when it makes an entry. */
static clmla_status find_or_build(clmla_context *context, const recipe *r, builder *key,
                                  const char *source, mla__binary *binary, cl_program *out,
                                  builder *report)
{
    struct mla__program_entry *entry = find(context, key->text);
    if (entry != NULL) {
        *out = entry->program;
        return CLMLA_SUCCESS;
    }
    entry = calloc(1, sizeof *entry);
    if (entry == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    if (mla__binary_build(context, options_of(r), binary, &entry->program)) {
        context->programs_read++;
    } else {
        const clmla_status status = (r->sm_90a ? build_sm_90a : build_source)(
            context, r->files, source, &entry->program, report);
        if (status != CLMLA_SUCCESS) {
            free(entry);
            return status;
        }
        context->programs_compiled++;
    }
    entry->key = key->text;
    key->text = NULL;
    entry->next = context->programs;
    context->programs = entry;
    *out = entry->program;
    return CLMLA_SUCCESS;
}

static clmla_status get(clmla_context *context, const recipe *r, const mla__defines *defines,
                        cl_program *out)
{
    const char *definitions = defines == NULL ? "" : defines->text;
    builder key = {0}, source = {0}, report = {0};
    cl_program program = NULL;
    clmla_status status = CLMLA_SUCCESS;

    if (defines != NULL && defines->overflow)
        return mla__fail(context, CLMLA_INTERNAL, "%s: definitions longer than %zu bytes",
                         r->files[0] == NULL ? "program" : r->files[0], sizeof defines->text);
    status = make_key(r->files, definitions, r->sm_90a, &key);
    if (status != CLMLA_SUCCESS)
        goto cleanup;

    mla__os_mutex_lock(context->mutex);
    const struct mla__program_entry *entry = find(context, key.text);
    program = entry == NULL ? NULL : entry->program;
    mla__os_mutex_unlock(context->mutex);

    if (program == NULL) {
        /* Files are read, and notify is called, outside the mutex. */
        status = assemble(context, r->files, definitions, &source);
        if (status != CLMLA_SUCCESS)
            goto cleanup;
        mla__binary binary;
        mla__binary_find(context, options_of(r), source.text, &binary);
        mla__os_mutex_lock(context->mutex);
        status = find_or_build(context, r, &key, source.text, &binary, &program, &report);
        mla__os_mutex_unlock(context->mutex);
        mla__binary_finish(context, &binary, program);
        if (report.text != NULL && r->reports && context->notify != NULL)
            context->notify(status, report.text, context->notify_user);
    }
    if (status == CLMLA_SUCCESS)
        *out = program;

cleanup:
    free(key.text);
    free(source.text);
    free(report.text);
    return status;
}

clmla_status mla__program_get(clmla_context *context, const char *const *files,
                              const mla__defines *defines, cl_program *out)
{
    return get(context, &(recipe){.files = files, .reports = true}, defines, out);
}

clmla_status mla__program_get_sm_90a(clmla_context *context, const char *const *files,
                                     const mla__defines *defines, cl_program *out)
{
    return get(context, &(recipe){.files = files, .sm_90a = true, .reports = true}, defines, out);
}

clmla_status mla__program_try(clmla_context *context, const char *const *files,
                              const mla__defines *defines, cl_program *out)
{
    return get(context, &(recipe){.files = files}, defines, out);
}

void mla__program_release_all(clmla_context *context)
{
    struct mla__program_entry *entry = context->programs;
    while (entry != NULL) {
        struct mla__program_entry *next = entry->next;
        (void)clReleaseProgram(entry->program);
        free(entry->key);
        free(entry);
        entry = next;
    }
    context->programs = NULL;
}
