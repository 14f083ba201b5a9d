/*
 * Tests over the rows of tables, the main of a program in a few lines.
 */
#ifndef CLMLA_TESTS_TABLE_H
#define CLMLA_TESTS_TABLE_H

#include "support/support.h"

/* A row is a struct that begins with its name, a const char *, and is what *state points to. */
typedef struct test_table {
    CMUnitTestFunction run; /* a row is a test */
    const void *rows;
    size_t num_rows, row_bytes;
} test_table;

#define TEST_COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define TEST_TABLE(run, rows)                                                                      \
    {                                                                                              \
        run, rows, TEST_COUNT(rows), sizeof((rows)[0])                                             \
    }
/* The last two arguments of test_run. */
#define TEST_AND(others) others, TEST_COUNT(others)
#define TEST_NO_OTHERS NULL, 0

/* Runs the rows of the tables and the other tests as one group; argv[1], where there is one, is a
 * pattern (* and ?) of the names of those to run. Gives up the device, and the contexts that fixtures
 * shared. Returns how many failed. */
int test_run(const char *group, int argc, char **argv, const test_table *tables, size_t num_tables,
             const struct CMUnitTest *others, size_t num_others);

#endif
