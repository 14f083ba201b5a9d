#include "cuda_manifest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

char *manifest_file(const char *folder, const char *name)
{
    char path[4096];
    char *text = NULL;
    long bytes = -1;
    if (snprintf(path, sizeof(path), "%s/%s", folder, name) >= (int)sizeof(path))
        return NULL;
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        return NULL;
    if (fseek(file, 0, SEEK_END) == 0)
        bytes = ftell(file);
    if (bytes >= 0 && fseek(file, 0, SEEK_SET) == 0)
        text = calloc((size_t)bytes + 1, 1);
    if (text != NULL && fread(text, 1, (size_t)bytes, file) != (size_t)bytes) {
        free(text);
        text = NULL;
    }
    (void)fclose(file);
    return text;
}

/* ---- definitions ---- */

/* The value behind NAME=, up to a space or the end; NULL where there is none. */
static const char *definition(const manifest_program *program, const char *name)
{
    const size_t length = strlen(name);
    const char *at = program->defines;
    while (at != NULL && *at != '\0') {
        if (strncmp(at, name, length) == 0 && at[length] == '=')
            return at + length + 1;
        at = strchr(at, ' ');
        at = at != NULL ? at + 1 : NULL;
    }
    return NULL;
}

int manifest_value(const manifest_program *program, const char *name)
{
    const char *value = definition(program, name);
    return value != NULL ? atoi(value) : 0;
}

bool manifest_has(const manifest_program *program, const char *name, const char *value)
{
    const char *is = definition(program, name);
    return is != NULL && strcspn(is, " ") == strlen(value) &&
           strncmp(is, value, strlen(value)) == 0;
}

/* ---- reading ---- */

/* Copies text; false where it does not fit. */
static bool copy(char *to, size_t bytes, const char *text)
{
    const size_t length = strlen(text);
    if (length >= bytes)
        return false;
    memcpy(to, text, length + 1);
    return true;
}

static bool add_program(manifest *out, const char *file)
{
    if (out->num_programs == MANIFEST_MAX_PROGRAMS)
        return false;
    manifest_program *program = &out->programs[out->num_programs++];
    *program = (manifest_program){.num_kernels = 0};
    return copy(program->file, sizeof(program->file), file);
}

static bool add_kernel(manifest_program *program, const char *text)
{
    if (program->num_kernels == MANIFEST_MAX_KERNELS)
        return false;
    manifest_kernel *kernel = &program->kernels[program->num_kernels++];
    *kernel = (manifest_kernel){.num_arguments = 0};
    return sscanf(text, "%63s %d", kernel->name, &kernel->work_items) == 2;
}

static bool add_argument(manifest_kernel *kernel, const char *text)
{
    if (kernel->num_arguments == MANIFEST_MAX_ARGUMENTS)
        return false;
    manifest_argument *argument = &kernel->arguments[kernel->num_arguments++];
    return sscanf(text, "%15s %63s", argument->type, argument->name) == 2;
}

/* One line: its first word and the text behind. */
static bool add_line(manifest *out, const char *word, const char *text)
{
    manifest_program *program =
        out->num_programs > 0 ? &out->programs[out->num_programs - 1] : NULL;
    if (strcmp(word, "commit") == 0)
        return copy(out->commit, sizeof(out->commit), text);
    if (strcmp(word, "target") == 0)
        return copy(out->target, sizeof(out->target), text);
    if (strcmp(word, "compiler") == 0 || strcmp(word, "files") == 0)
        return true;
    if (strcmp(word, "program") == 0)
        return add_program(out, text);
    if (program == NULL)
        return false;
    if (strcmp(word, "define") == 0)
        return copy(program->defines, sizeof(program->defines), text);
    if (strcmp(word, "kernel") == 0)
        return add_kernel(program, text);
    return strcmp(word, "argument") == 0 && program->num_kernels > 0 &&
           add_argument(&program->kernels[program->num_kernels - 1], text);
}

bool manifest_read(const char *folder, manifest *out, char *error, size_t bytes)
{
    char *text = manifest_file(folder, "manifest");
    bool ok = true;
    *out = (manifest){.num_programs = 0};
    if (text == NULL) {
        (void)snprintf(error, bytes, "cannot read %s/manifest; build_ptx.sh writes it", folder);
        return false;
    }
    int number = 1;
    for (char *line = text, *next; *line != '\0' && ok; line = next, number++) {
        next = line + strcspn(line, "\n");
        if (*next != '\0')
            *next++ = '\0';
        char *rest = line + strcspn(line, " ");
        if (*rest != '\0')
            *rest++ = '\0';
        ok = add_line(out, line, rest);
    }
    if (!ok)
        (void)snprintf(error, bytes, "%s/manifest: line %d is not understood", folder, number - 1);
    else if (out->num_programs == 0)
        (void)snprintf(error, bytes, "%s/manifest has no programs", folder);
    free(text);
    return ok && out->num_programs > 0;
}
