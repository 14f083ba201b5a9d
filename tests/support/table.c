#include "support/table.h"

#include "support/layer_fixture.h"

int test_run(const char *group, int argc, char **argv, const test_table *tables, size_t num_tables,
             const struct CMUnitTest *others, size_t num_others)
{
    size_t count = num_others;
    for (size_t t = 0; t < num_tables; t++)
        count += tables[t].num_rows;
    struct CMUnitTest *tests = calloc(count, sizeof(*tests)), *test = tests;
    if (tests == NULL)
        return 1;
    for (size_t t = 0; t < num_tables; t++)
        for (size_t i = 0; i < tables[t].num_rows; i++, test++) {
            const void *row = (const char *)tables[t].rows + i * tables[t].row_bytes;
            test->name = *(const char *const *)row;
            test->test_func = tables[t].run;
            test->initial_state = (void *)(uintptr_t)row; /* const all the same */
        }
    if (num_others > 0)
        memcpy(test, others, num_others * sizeof(*others));
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    /* What cmocka_run_group_tests_name expands to; that takes arrays only. */
    const int failed = _cmocka_run_group_tests(group, tests, count, NULL, NULL);
    free(tests);
    fixture_release_contexts();
    test_device_close();
    return failed;
}
