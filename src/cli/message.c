#include "cli/message.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/os.h"
#include "core/printable.h"

static bool progress_shown;
static void (*take_error)(const char *text, void *user);
static void *take_error_user;

void mla_errors_to(void (*take)(const char *text, void *user), void *user)
{
    take_error = take;
    take_error_user = user;
}

void mla_progress_clear(void)
{
    if (progress_shown)
        (void)fputs("\r\033[K", stderr);
    progress_shown = false;
}

enum { LINE_BYTES = 2048 };

/* Puts what a text of so many bytes ends with in the place of the line's second half: what would be
 * accepted stands behind a value of any length. */
static void keep_end(char text[LINE_BYTES], size_t length, const char *format, va_list arguments)
    __attribute__((format(printf, 3, 0)));
static void keep_end(char text[LINE_BYTES], size_t length, const char *format, va_list arguments)
{
    static const char left_out[] = " ... ";
    char *whole = malloc(length + 1);
    if (whole == NULL)
        return;
    (void)vsnprintf(whole, length + 1, format, arguments);
    char *middle = text + LINE_BYTES / 2;
    const size_t rest = LINE_BYTES / 2 - (sizeof(left_out) - 1);
    memcpy(middle, left_out, sizeof(left_out) - 1);
    memcpy(middle + sizeof(left_out) - 1, whole + length + 1 - rest, rest);
    free(whole);
}

static void print_line(const char *prefix, char text[LINE_BYTES], const char *format,
                       va_list arguments) __attribute__((format(printf, 3, 0)));
static void print_line(const char *prefix, char text[LINE_BYTES], const char *format,
                       va_list arguments)
{
    va_list again;
    va_copy(again, arguments);
    const int length = vsnprintf(text, LINE_BYTES, format, arguments);
    if (length >= LINE_BYTES)
        keep_end(text, (size_t)length, format, again);
    va_end(again);
    mla__make_printable(text);
    mla_progress_clear();
    (void)fflush(stdout); /* what was printed before stays before, where both are one terminal */
    (void)fprintf(stderr, "%s%s\n", prefix, text);
}

void mla_error(const char *format, ...)
{
    char text[LINE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    print_line("clmla: ", text, format, arguments);
    va_end(arguments);
    if (take_error != NULL)
        take_error(text, take_error_user);
}

void mla_note(const char *format, ...)
{
    char text[LINE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    print_line("clmla: note: ", text, format, arguments);
    va_end(arguments);
}

void mla_say(const char *format, ...)
{
    char text[LINE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    print_line("", text, format, arguments);
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

bool mla_progress_drawing(const char *what, void *user)
{
    (void)user;
    mla_progress("drawing %s", what);
    return true;
}
