/*
 * Reports: rows of named values as an aligned table, as CSV or as JSON, in one place.
 */
#ifndef CLMLA_CLI_REPORT_H
#define CLMLA_CLI_REPORT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

typedef enum mla_format { MLA_FORMAT_TABLE, MLA_FORMAT_CSV, MLA_FORMAT_JSON } mla_format;

/* A column of the table and of the CSV; JSON shows all members of a row. */
typedef struct mla_column {
    const char *key;     /* member of the row; also the CSV heading */
    const char *heading; /* of the table; NULL: CSV only */
    const char *format;  /* of real numbers, such as "%.3f"; NULL: "%.6g" */
    int width;           /* at least; as wide as needed where rows are not shown at once */
} mla_column;

typedef struct mla_report {
    FILE *stream;
    mla_format format;
    const mla_column *columns;
    size_t num_columns;
    bool at_once; /* table rows are printed as they come, with the columns' widths */
    json_t *rows; /* array of objects */
} mla_report;

/* The columns must outlive the report. False: out of memory. */
bool mla_report_open(FILE *stream, mla_format format, const mla_column *columns, size_t num_columns,
                     bool at_once, mla_report *out);
/* Takes the row (an object). False: out of memory, or row is NULL. */
bool mla_report_add(mla_report *report, json_t *row);
/* Prints what is not printed yet: table or CSV, or `document` with the rows as member `rows_key`.
 * Takes document (NULL with the other formats). False: out of memory or an output error. */
bool mla_report_print(mla_report *report, json_t *document, const char *rows_key);
void mla_report_close(mla_report *report);

/* The document as text with a line break at the end; free() it. NULL: out of memory. */
char *mla_report_text(const json_t *document);

/* A member that is a number, or null where it is not finite (JSON knows no NaN). */
json_t *mla_report_real(double value);

#endif
