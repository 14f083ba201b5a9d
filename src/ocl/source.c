#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ocl/embedded.h"
#include "ocl/program.h"

/* The file of the override directory, or NULL when it has none of that name. */
static clmla_status find_override(const clmla_context *context, const char *name, char **owned)
{
    const size_t bytes = strlen(context->kernel_directory) + 1 + strlen(name) + 1;
    char *path = malloc(bytes);
    if (path == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    (void)snprintf(path, bytes, "%s/%s", context->kernel_directory, name);
    size_t size = 0;
    char *text = NULL;
    const clmla_status status = mla__os_read_file(path, &text, &size);
    free(path);
    if (status == CLMLA_IO)
        return CLMLA_SUCCESS;
    if (status == CLMLA_SUCCESS)
        *owned = text;
    return status;
}

clmla_status mla__source_find(const clmla_context *context, const char *name, const char **text,
                              char **owned)
{
    char *file = NULL;
    if (context->kernel_directory != NULL) {
        const clmla_status status = find_override(context, name, &file);
        if (status != CLMLA_SUCCESS)
            return status;
    }
    if (file != NULL) {
        *text = file;
        *owned = file;
        return CLMLA_SUCCESS;
    }
    for (const struct mla__embedded *kernel = mla__embedded_kernels; kernel->name != NULL;
         kernel++) {
        if (strcmp(kernel->name, name) == 0) {
            *text = kernel->text;
            *owned = NULL;
            return CLMLA_SUCCESS;
        }
    }
    return mla__fail(context, CLMLA_KERNEL_SOURCE_NOT_FOUND,
                     "kernel source %s is neither embedded nor in the kernel directory", name);
}
