#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ocl/embedded.h"
#include "ocl/program.h"

/* The file of the override directory; *owned stays NULL when it has none of that name. One that is
 * there and cannot be read is an error: the embedded file would run unnoticed in its place. */
static clmla_status find_override(const clmla_context *context, const char *name, char **owned)
{
    const size_t bytes = strlen(context->kernel_directory) + 1 + strlen(name) + 1;
    char *path = malloc(bytes);
    if (path == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    (void)snprintf(path, bytes, "%s/%s", context->kernel_directory, name);
    size_t size = 0;
    clmla_status status = CLMLA_SUCCESS;
    if (mla__os_exists(path)) {
        status = mla__os_read_file(path, owned, &size);
        if (status == CLMLA_IO)
            status = mla__fail(context, CLMLA_IO, "kernel source %s cannot be read: %s", path,
                               mla__os_last_error());
    }
    free(path);
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
