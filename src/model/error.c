#include "model/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/printable.h"

/* In parentheses: error.h gives the analyzer a macro of this name. */
clmla_status(mla__model_fail)(clmla_model_error *error, clmla_status status, const char *format,
                              ...)
{
    va_list arguments;
    if (error == NULL)
        return status;
    va_start(arguments, format);
    if (vsnprintf(error->text, sizeof error->text, format, arguments) < 0)
        error->text[0] = '\0';
    va_end(arguments);
    mla__make_printable(error->text);
    return status;
}

const char *mla__model_short_path(const char *path)
{
    enum { LONGEST = 200 };
    const size_t length = strlen(path);
    return length > LONGEST ? path + (length - LONGEST) : path;
}
