#include "cli/report.h"
#include "support/support.h"

static const mla_column columns[] = {
    {.key = "name", .heading = "name", .width = 6},
    {.key = "list", .heading = NULL},
    {.key = "value", .heading = "value", .format = "%.2f"},
    {.key = "count", .heading = "n"},
    {.key = "passed", .heading = "ok"},
};

enum { NUM_COLUMNS = sizeof(columns) / sizeof(columns[0]) };

/* Prints two rows and returns what was printed; free it. */
static char *print(mla_format format, bool at_once)
{
    mla_report report;
    char *text = NULL;
    FILE *stream = tmpfile();
    assert_non_null(stream);
    assert_true(mla_report_open(stream, format, columns, NUM_COLUMNS, at_once, &report));
    assert_true(mla_report_add(&report, json_pack("{s:s, s:[i,i], s:f, s:i, s:b}", "name",
                                                  "a, \"b\"", "list", 1, 2, "value", 1.005, "count",
                                                  12345, "passed", 1)));
    assert_true(mla_report_add(
        &report, json_pack("{s:s, s:[], s:o, s:i, s:b}", "name", "longer name", "list", "value",
                           mla_report_real((double)NAN), "count", 7, "passed", 0)));
    assert_false(mla_report_add(&report, NULL));
    assert_true(mla_report_print(
        &report, format == MLA_FORMAT_JSON ? json_pack("{s:s}", "clmla", "x") : NULL, "results"));
    mla_report_close(&report);
    const long bytes = ftell(stream);
    assert_true(bytes > 0);
    rewind(stream);
    text = calloc(1, (size_t)bytes + 1);
    assert_non_null(text);
    assert_int_equal(fread(text, 1, (size_t)bytes, stream), bytes);
    (void)fclose(stream);
    return text;
}

static void a_table_is_as_wide_as_its_cells(void **state)
{
    (void)state;
    char *text = print(MLA_FORMAT_TABLE, false);
    assert_string_equal(text, "name         value      n   ok\n"
                              "a, \"b\"        1.00  12345  yes\n"
                              "longer name      -      7   no\n");
    free(text);
}

static void rows_shown_at_once_keep_the_columns_widths(void **state)
{
    (void)state;
    char *text = print(MLA_FORMAT_TABLE, true);
    assert_string_equal(text, "name    value  n  ok\n"
                              "a, \"b\"   1.00  12345  yes\n"
                              "longer name      -  7  no\n");
    free(text);
}

static void csv_quotes_and_leaves_null_empty(void **state)
{
    (void)state;
    char *text = print(MLA_FORMAT_CSV, false);
    assert_string_equal(text, "name,list,value,count,passed\n"
                              "\"a, \"\"b\"\"\",1 2,1.005,12345,yes\n"
                              "longer name,,,7,no\n");
    free(text);
}

static void json_is_one_document_with_the_rows(void **state)
{
    (void)state;
    char *text = print(MLA_FORMAT_JSON, false);
    json_t *document = json_loads(text, 0, NULL);
    assert_non_null(document);
    assert_string_equal(json_string_value(json_object_get(document, "clmla")), "x");
    const json_t *rows = json_object_get(document, "results");
    assert_int_equal(json_array_size(rows), 2);
    const json_t *first = json_array_get(rows, 0), *second = json_array_get(rows, 1);
    assert_true(fabs(json_real_value(json_object_get(first, "value")) - 1.005) < 1e-8);
    assert_true(json_is_null(json_object_get(second, "value")));
    assert_true(json_is_false(json_object_get(second, "passed")));
    json_decref(document);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_table_is_as_wide_as_its_cells),
        cmocka_unit_test(rows_shown_at_once_keep_the_columns_widths),
        cmocka_unit_test(csv_quotes_and_leaves_null_empty),
        cmocka_unit_test(json_is_one_document_with_the_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
