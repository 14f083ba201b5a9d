#include "cli/message.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

#include "core/os.h"

static bool progress_shown;

void mla_progress_clear(void)
{
    if (progress_shown)
        (void)fputs("\r\033[K", stderr);
    progress_shown = false;
}

static void print_line(const char *prefix, const char *format, va_list arguments)
{
    char text[2048];
    (void)vsnprintf(text, sizeof(text), format, arguments);
    for (char *c = text; *c != '\0'; c++)
        if ((unsigned char)*c < ' ')
            *c = ' ';
    mla_progress_clear();
    (void)fflush(stdout); /* what was printed before stays before, where both are one terminal */
    (void)fprintf(stderr, "%s%s\n", prefix, text);
}

void mla_error(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    print_line("clmla: ", format, arguments);
    va_end(arguments);
}

void mla_note(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    print_line("clmla: note: ", format, arguments);
    va_end(arguments);
}

void mla_progress(const char *format, ...)
{
    if (!mla__os_stderr_is_terminal())
        return;
    va_list arguments;
    va_start(arguments, format);
    mla_progress_clear();
    (void)vfprintf(stderr, format, arguments);
    va_end(arguments);
    (void)fflush(stderr);
    progress_shown = true;
}

void mla_progress_drawing(const char *what, void *user)
{
    (void)user;
    mla_progress("drawing %s", what);
}
