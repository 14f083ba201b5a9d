/* What the programs of gpu_report.sh share: JSON text, time, the median. */
#ifndef CLMLA_REPORT_COMMON_H
#define CLMLA_REPORT_COMMON_H

#include <stdbool.h>
#include <stddef.h>

enum { JSON_BYTES = 16384 };

/* One JSON object on one line. */
typedef struct json {
    char text[JSON_BYTES];
    size_t used;
    char closing[8]; /* brackets of what is open */
    int depth;
    bool needs_comma;
} json;

void json_open(json *out, const char *key); /* '{'; key NULL: the outermost */
void json_open_list(json *out, const char *key);
void json_close(json *out);
void json_string(json *out, const char *key, const char *value);
void json_number(json *out, const char *key, double value);
void json_integer(json *out, const char *key, long long value);
void json_bool(json *out, const char *key, bool value);

double report_now_s(void); /* a clock that only counts up */
/* Sorts the values. */
double report_median(double *values, size_t count);

#endif
