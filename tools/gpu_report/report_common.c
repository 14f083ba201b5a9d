#define _POSIX_C_SOURCE 200809L
#include "report_common.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- JSON ---- */

/* Leaves room for the brackets that must still follow. */
static void put(json *out, const char *text)
{
    const size_t length = strlen(text);
    if (out->used + length + 64 < sizeof(out->text)) {
        memcpy(out->text + out->used, text, length + 1);
        out->used += length;
    }
}

static void put_quoted(json *out, const char *value)
{
    char piece[8];
    put(out, "\"");
    for (; *value != '\0'; value++) {
        const unsigned char c = (unsigned char)*value;
        if (out->used + 256 > sizeof(out->text))
            break; /* cut */
        if (c == '"' || c == '\\')
            (void)snprintf(piece, sizeof(piece), "\\%c", c);
        else if (c < 0x20 || c > 0x7e)
            (void)snprintf(piece, sizeof(piece), "\\u%04x", c);
        else
            (void)snprintf(piece, sizeof(piece), "%c", c);
        put(out, piece);
    }
    put(out, "\"");
}

static void put_key(json *out, const char *key)
{
    if (out->needs_comma)
        put(out, ", ");
    if (key != NULL) {
        put_quoted(out, key);
        put(out, ": ");
    }
    out->needs_comma = true;
}

static void open_with(json *out, const char *key, const char *bracket, char closing)
{
    put_key(out, key);
    put(out, bracket);
    out->closing[out->depth++] = closing;
    out->needs_comma = false;
}

void json_open(json *out, const char *key) { open_with(out, key, "{", '}'); }

void json_open_list(json *out, const char *key) { open_with(out, key, "[", ']'); }

void json_close(json *out)
{
    out->text[out->used++] = out->closing[--out->depth];
    out->text[out->used] = '\0';
    out->needs_comma = true;
}

void json_string(json *out, const char *key, const char *value)
{
    put_key(out, key);
    put_quoted(out, value);
}

void json_number(json *out, const char *key, double value)
{
    char text[40] = "null";
    if (isfinite(value))
        (void)snprintf(text, sizeof(text), "%.6g", value);
    put_key(out, key);
    put(out, text);
}

void json_integer(json *out, const char *key, long long value)
{
    char text[40];
    (void)snprintf(text, sizeof(text), "%lld", value);
    put_key(out, key);
    put(out, text);
}

void json_bool(json *out, const char *key, bool value)
{
    put_key(out, key);
    put(out, value ? "true" : "false");
}

/* ---- time ---- */

double report_now_s(void)
{
    struct timespec time;
    (void)clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a;
    const double y = *(const double *)b;
    return (x > y) - (x < y);
}

double report_median(double *values, size_t count)
{
    qsort(values, count, sizeof(values[0]), compare_doubles);
    return values[count / 2];
}
