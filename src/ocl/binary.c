#include "ocl/binary.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/os.h"

/* What a file begins with; the key follows, then the binary, then the end. In the machine's byte
 * order: on another one the lengths do not fit. */
typedef struct header {
    char magic[8];
    uint64_t key_bytes, binary_bytes;
    uint64_t checksum; /* of the binary */
} header;

static const char magic[8] = {'C', 'L', 'M', 'L', 'A', 'B', 'I', 'N'};

/* Larger files are neither read nor written: a program of this library takes less than 1 MiB. */
#define MOST_FILE_BYTES ((size_t)64 << 20)

/* FNV-1a, 64 bits. It names files and finds damage; it does not guard against an attacker, who
 * could write what he likes once he may write to the directory. One changed byte always changes
 * it. */
static uint64_t hash(const char *bytes, size_t count)
{
    uint64_t value = UINT64_C(0xCBF29CE484222325);
    for (size_t i = 0; i < count; i++)
        value = (value ^ (unsigned char)bytes[i]) * UINT64_C(0x100000001B3);
    return value;
}

/* The first problem is the one that explains the others. */
static void note(mla__binary *binary, const char *what, const char *why)
{
    if (binary->note[0] == '\0')
        (void)snprintf(binary->note, sizeof binary->note, "cache: %s %s: %s", what, binary->path,
                       why);
}

clmla_status mla__binary_open_directory(clmla_context *context, const char *directory)
{
    if (mla__os_private_directory(directory) != CLMLA_SUCCESS) {
        (void)mla__fail(context, CLMLA_SUCCESS, "cache: %s is not used: %s", directory,
                        mla__os_last_error());
        return CLMLA_SUCCESS;
    }
    const size_t bytes = strlen(directory) + 1;
    context->cache_directory = malloc(bytes);
    if (context->cache_directory == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    memcpy(context->cache_directory, directory, bytes);
    return CLMLA_SUCCESS;
}

/* ---- the key ------------------------------------------------------------------------------ */

static int print_key(const mla__device *device, const char *options, const char *source, char *text,
                     size_t bytes)
{
    return snprintf(text, bytes,
                    "clmla program, format 1\nclmla %s, pointers of %zu bytes\n"
                    "platform %s\n%s\ndevice %s\n%s\n%s\ndriver %s\noptions %s\n%s",
                    clmla_version(), sizeof(void *), device->platform_name,
                    device->platform_version, device->name, device->vendor, device->version,
                    device->driver_version, options, source);
}

static bool make_key(const clmla_context *context, const char *options, const char *source,
                     mla__binary *binary)
{
    const int length = print_key(&context->device, options, source, NULL, 0);
    if (length < 0)
        return false;
    binary->key_bytes = (size_t)length;
    binary->key = malloc(binary->key_bytes + 1);
    if (binary->key == NULL)
        return false;
    (void)print_key(&context->device, options, source, binary->key, binary->key_bytes + 1);
    return true;
}

static bool make_path(const clmla_context *context, mla__binary *binary)
{
    const size_t bytes = strlen(context->cache_directory) + sizeof "/0123456789abcdef.bin";
    binary->path = malloc(bytes);
    if (binary->path == NULL)
        return false;
    (void)snprintf(binary->path, bytes, "%s/%016llx.bin", context->cache_directory,
                   (unsigned long long)hash(binary->key, binary->key_bytes));
    return true;
}

/* ---- reading ------------------------------------------------------------------------------ */

/* Why the file is not this program's binary; NULL: it is. */
static const char *find_fault(const mla__binary *binary)
{
    header head;
    if (binary->file_bytes < sizeof head)
        return "is too short";
    memcpy(&head, binary->file, sizeof head);
    const size_t rest = binary->file_bytes - sizeof head;
    if (memcmp(head.magic, magic, sizeof magic) != 0)
        return "is not of this program";
    if (head.key_bytes > rest || head.binary_bytes != rest - head.key_bytes)
        return "is not as long as it says";
    const char *key = binary->file + sizeof head;
    if (head.key_bytes != binary->key_bytes || memcmp(key, binary->key, binary->key_bytes) != 0)
        return "is of another device, driver or kernel";
    if (head.checksum != hash(key + binary->key_bytes, (size_t)head.binary_bytes))
        return "is damaged";
    return NULL;
}

static void drop_file(mla__binary *binary)
{
    free(binary->file);
    binary->file = NULL;
}

void mla__binary_find(const clmla_context *context, const char *options, const char *source,
                      mla__binary *binary)
{
    *binary = (mla__binary){0};
    if (context->cache_directory == NULL)
        return;
    if (!make_key(context, options, source, binary) || !make_path(context, binary)) {
        free(binary->key);
        *binary = (mla__binary){0};
        return;
    }
    if (mla__os_read_private_file(binary->path, MOST_FILE_BYTES, &binary->file,
                                  &binary->file_bytes) != CLMLA_SUCCESS) {
        note(binary, "cannot read", mla__os_last_error());
        return;
    }
    const char *fault = binary->file == NULL ? NULL : find_fault(binary);
    if (fault != NULL) {
        note(binary, "will replace", fault);
        drop_file(binary);
    }
}

bool mla__binary_build(const clmla_context *context, const char *options, mla__binary *binary,
                       cl_program *out)
{
    binary->replace = binary->path != NULL;
    if (binary->file == NULL)
        return false;
    const size_t before = sizeof(header) + binary->key_bytes;
    const size_t bytes = binary->file_bytes - before;
    const unsigned char *code = (const unsigned char *)binary->file + before;
    cl_int accepted = CL_SUCCESS, status = CL_SUCCESS;
    cl_program program = clCreateProgramWithBinary(context->context, 1, &context->device.id, &bytes,
                                                   &code, &accepted, &status);
    if (status == CL_SUCCESS && accepted == CL_SUCCESS)
        status = clBuildProgram(program, 1, &context->device.id, options, NULL, NULL);
    if (status == CL_SUCCESS && accepted == CL_SUCCESS) {
        binary->replace = false;
        *out = program;
        return true;
    }
    if (program != NULL)
        (void)clReleaseProgram(program);
    note(binary, "will replace", "the driver does not take it");
    return false;
}

/* ---- writing ------------------------------------------------------------------------------ */

/* The devices of a program, its binaries' sizes and where they go. */
typedef struct parts {
    cl_uint count;
    cl_device_id *devices;
    size_t *sizes;
    unsigned char **places;
} parts;

static clmla_status read_sizes(cl_program program, parts *p)
{
    clmla_status status =
        clGetProgramInfo(program, CL_PROGRAM_NUM_DEVICES, sizeof p->count, &p->count, NULL);
    if (status != CLMLA_SUCCESS)
        return status;
    p->devices = calloc(p->count, sizeof *p->devices);
    p->sizes = calloc(p->count, sizeof *p->sizes);
    p->places = calloc(p->count, sizeof *p->places);
    if (p->devices == NULL || p->sizes == NULL || p->places == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    status = clGetProgramInfo(program, CL_PROGRAM_DEVICES, p->count * sizeof *p->devices,
                              p->devices, NULL);
    return status != CLMLA_SUCCESS ? status
                                   : clGetProgramInfo(program, CL_PROGRAM_BINARY_SIZES,
                                                      p->count * sizeof *p->sizes, p->sizes, NULL);
}

/* Other devices of the OpenCL context have no binary: it was built for this one. */
static clmla_status read_own(const clmla_context *context, cl_program program, size_t before,
                             parts *p, char **out, size_t *bytes)
{
    clmla_status status = read_sizes(program, p);
    if (status != CLMLA_SUCCESS)
        return status;
    cl_uint own = 0;
    while (own < p->count && p->devices[own] != context->device.id)
        own++;
    if (own == p->count || p->sizes[own] == 0)
        return CL_INVALID_BINARY;
    if (before > MOST_FILE_BYTES || p->sizes[own] > MOST_FILE_BYTES - before)
        return CL_INVALID_BINARY;
    char *text = malloc(before + p->sizes[own]);
    if (text == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    p->places[own] = (unsigned char *)text + before;
    status = clGetProgramInfo(program, CL_PROGRAM_BINARIES, p->count * sizeof *p->places, p->places,
                              NULL);
    if (status != CLMLA_SUCCESS) {
        free(text);
        return status;
    }
    *out = text;
    *bytes = p->sizes[own];
    return CLMLA_SUCCESS;
}

clmla_status mla__binary_read(const clmla_context *context, cl_program program, size_t before,
                              char **out, size_t *bytes)
{
    parts p = {0};
    const clmla_status status = read_own(context, program, before, &p, out, bytes);
    free(p.devices);
    free(p.sizes);
    free(p.places);
    return status;
}

/* The whole file: header, key, and the binary behind them. */
static clmla_status assemble_file(const clmla_context *context, const mla__binary *binary,
                                  cl_program program, char **file, size_t *file_bytes)
{
    const size_t before = sizeof(header) + binary->key_bytes;
    size_t bytes = 0;
    const clmla_status status = mla__binary_read(context, program, before, file, &bytes);
    if (status != CLMLA_SUCCESS)
        return status;
    header head = {.key_bytes = binary->key_bytes,
                   .binary_bytes = bytes,
                   .checksum = hash(*file + before, bytes)};
    memcpy(head.magic, magic, sizeof magic);
    memcpy(*file, &head, sizeof head);
    memcpy(*file + sizeof head, binary->key, binary->key_bytes);
    *file_bytes = before + bytes;
    return CLMLA_SUCCESS;
}

static void store(const clmla_context *context, mla__binary *binary, cl_program program)
{
    char *file = NULL;
    size_t bytes = 0;
    const clmla_status status = assemble_file(context, binary, program, &file, &bytes);
    if (status != CLMLA_SUCCESS)
        note(binary, "nothing to write to", clmla_status_name(status));
    else if (mla__os_replace_file(binary->path, file, bytes) != CLMLA_SUCCESS)
        note(binary, "cannot write", mla__os_last_error());
    free(file);
}

void mla__binary_finish(const clmla_context *context, mla__binary *binary, cl_program program)
{
    if (binary->replace && program != NULL)
        store(context, binary, program);
    if (binary->note[0] != '\0')
        (void)mla__fail(context, CLMLA_SUCCESS, "%s", binary->note);
    free(binary->path);
    free(binary->key);
    free(binary->file);
    *binary = (mla__binary){0};
}
