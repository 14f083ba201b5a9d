#include "cli/report.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CELL_BYTES = 512, JSON_DIGITS = 9 };

#define DUMP_FLAGS (JSON_INDENT(2) | JSON_REAL_PRECISION(JSON_DIGITS))

json_t *mla_report_real(double value) { return isfinite(value) ? json_real(value) : json_null(); }

/* ---- one value as text ----------------------------------------------------------------------- */

static const char *fixed_text(const json_t *value)
{
    if (value == NULL || json_is_null(value))
        return "-";
    if (json_is_string(value))
        return json_string_value(value);
    return json_is_true(value) ? "yes" : json_is_false(value) ? "no" : NULL;
}

/* The column's format is a literal of the program, never data. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
static void print_number(const json_t *value, const char *format, char *text, size_t bytes)
{
    if (json_is_integer(value))
        (void)snprintf(text, bytes, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    else
        (void)snprintf(text, bytes, format != NULL ? format : "%.6g", json_number_value(value));
}
#pragma GCC diagnostic pop

/* Lists of numbers or words stand with blanks between. */
static void cell_text(const json_t *value, const char *format, char *text, size_t bytes)
{
    const char *fixed = fixed_text(value);
    if (fixed != NULL) {
        (void)snprintf(text, bytes, "%s", fixed);
        return;
    }
    if (!json_is_array(value)) {
        print_number(value, format, text, bytes);
        return;
    }
    size_t used = 0;
    text[0] = '\0';
    for (size_t i = 0; i < json_array_size(value) && used + 1 < bytes; i++) {
        char entry[64];
        const char *name = fixed_text(json_array_get(value, i));
        if (name == NULL)
            print_number(json_array_get(value, i), format, entry, sizeof(entry));
        const int written = snprintf(text + used, bytes - used, "%s%s", i > 0 ? " " : "",
                                     name != NULL ? name : entry);
        used += written > 0 ? (size_t)written : 0;
    }
}

/* ---- table ----------------------------------------------------------------------------------- */

static size_t column_width(const mla_report *report, size_t column)
{
    const mla_column *c = &report->columns[column];
    size_t width = strlen(c->heading);
    if ((size_t)c->width > width)
        width = (size_t)c->width;
    for (size_t i = 0; !report->at_once && i < json_array_size(report->rows); i++) {
        char text[CELL_BYTES];
        cell_text(json_object_get(json_array_get(report->rows, i), c->key), c->format, text,
                  sizeof(text));
        if (strlen(text) > width)
            width = strlen(text);
    }
    return width;
}

/* Words to the left, numbers to the right; row NULL: the headings. */
static void print_table_row(const mla_report *report, const json_t *row, const json_t *like)
{
    bool first = true;
    size_t blanks = 0; /* owed before the next cell, so that no line ends in blanks */
    for (size_t i = 0; i < report->num_columns; i++) {
        const mla_column *c = &report->columns[i];
        char text[CELL_BYTES];
        if (c->heading == NULL)
            continue;
        if (row == NULL)
            (void)snprintf(text, sizeof(text), "%s", c->heading);
        else
            cell_text(json_object_get(row, c->key), c->format, text, sizeof(text));
        const json_t *sample = json_object_get(row != NULL ? row : like, c->key);
        const bool left = json_is_string(sample) || json_is_array(sample);
        const size_t width = column_width(report, i), length = strlen(text);
        const size_t padding = length < width ? width - length : 0;
        blanks += (first ? 0 : 2) + (left ? 0 : padding);
        (void)fprintf(report->stream, "%*s%s", (int)blanks, "", text);
        blanks = left ? padding : 0;
        first = false;
    }
    (void)fputc('\n', report->stream);
}

static void print_table(const mla_report *report)
{
    if (json_array_size(report->rows) == 0)
        return;
    print_table_row(report, NULL, json_array_get(report->rows, 0));
    for (size_t i = 0; i < json_array_size(report->rows); i++)
        print_table_row(report, json_array_get(report->rows, i), NULL);
}

/* ---- CSV (RFC 4180)
 * -------------------------------------------------------------------------------- */

static void print_csv_cell(FILE *stream, const char *text)
{
    if (strpbrk(text, ",\"\r\n") == NULL) {
        (void)fputs(text, stream);
        return;
    }
    (void)fputc('"', stream);
    for (const char *c = text; *c != '\0'; c++) {
        if (*c == '"')
            (void)fputc('"', stream);
        (void)fputc(*c, stream);
    }
    (void)fputc('"', stream);
}

static void print_csv_row(const mla_report *report, const json_t *row)
{
    for (size_t i = 0; i < report->num_columns; i++) {
        const mla_column *c = &report->columns[i];
        char text[CELL_BYTES] = "";
        const json_t *value = row != NULL ? json_object_get(row, c->key) : NULL;
        if (value != NULL && !json_is_null(value))
            cell_text(value, NULL, text, sizeof(text));
        if (i > 0)
            (void)fputc(',', report->stream);
        print_csv_cell(report->stream, row != NULL ? text : c->key);
    }
    (void)fputc('\n', report->stream);
}

/* ---- reports --------------------------------------------------------------------------------- */

bool mla_report_open(FILE *stream, mla_format format, const mla_column *columns, size_t num_columns,
                     bool at_once, mla_report *out)
{
    *out = (mla_report){
        .stream = stream,
        .format = format,
        .columns = columns,
        .num_columns = num_columns,
        .at_once = at_once,
        .rows = json_array(),
    };
    return out->rows != NULL;
}

char *mla_report_text(const json_t *document)
{
    char *text = json_dumps(document, DUMP_FLAGS);
    const size_t length = text != NULL ? strlen(text) : 0;
    char *line = text != NULL ? realloc(text, length + 2) : NULL;
    if (line == NULL)
        free(text);
    else
        memcpy(line + length, "\n", 2);
    return line;
}

bool mla_report_add(mla_report *report, json_t *row)
{
    if (row == NULL || json_array_append_new(report->rows, row) != 0)
        return false;
    if (report->format == MLA_FORMAT_CSV) {
        if (json_array_size(report->rows) == 1)
            print_csv_row(report, NULL);
        print_csv_row(report, row);
    } else if (report->format == MLA_FORMAT_TABLE && report->at_once) {
        if (json_array_size(report->rows) == 1)
            print_table_row(report, NULL, row);
        print_table_row(report, row, NULL);
    }
    (void)fflush(report->stream);
    return true;
}

bool mla_report_print(mla_report *report, json_t *document, const char *rows_key)
{
    bool printed = true;
    if (report->format == MLA_FORMAT_JSON) {
        printed = document != NULL && json_object_set(document, rows_key, report->rows) == 0 &&
                  json_dumpf(document, report->stream, DUMP_FLAGS) == 0;
        (void)fputc('\n', report->stream);
    } else if (report->format == MLA_FORMAT_TABLE && !report->at_once) {
        print_table(report);
    }
    json_decref(document);
    return printed && fflush(report->stream) == 0;
}

void mla_report_close(mla_report *report)
{
    json_decref(report->rows);
    report->rows = NULL;
}
