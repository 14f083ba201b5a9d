#include "cli/pages.h"
#include "support/support.h"

typedef struct pages_case {
    const char *name;
    int32_t num_sequences, max_keys, page_block_size;
    int32_t pages_per_sequence; /* expected */
} pages_case;

static const pages_case cases[] = {
    {"one key", 1, 1, 64, 1},          {"pages of one row", 3, 17, 1, 17},
    {"exactly two pages", 2, 8, 4, 2}, {"a page begun", 2, 9, 4, 3},
    {"contiguous", 4, 33, 0, 1},       {"many pages", 16, 500, 7, 72},
};

/* Each key of each sequence has a row of its own inside the cache. */
static void gives_every_key_its_own_row(void **state)
{
    const pages_case *c = *state;
    mla_pages pages;
    assert_true(
        mla_pages_create(c->num_sequences, c->max_keys, NULL, c->page_block_size, 3, &pages));
    assert_int_equal(pages.pages_per_sequence, c->pages_per_sequence);
    const size_t rows = mla_pages_rows(&pages);
    char *used = calloc(rows, 1);
    assert_non_null(used);
    for (int32_t b = 0; b < c->num_sequences; b++)
        for (int32_t key = 0; key < c->max_keys; key++) {
            const size_t row = mla_pages_row(&pages, b, key);
            assert_true(row < rows);
            assert_false(used[row]);
            used[row] = 1;
        }
    free(used);
    mla_pages_release(&pages);
}

static void entries_past_the_keys_are_absurd(void **state)
{
    (void)state;
    const int32_t keys[] = {0, 5, 8};
    mla_pages pages;
    assert_true(mla_pages_create(3, 8, keys, 4, 1, &pages));
    for (int32_t b = 0; b < 3; b++)
        for (int32_t i = 0; i < pages.pages_per_sequence; i++) {
            const int32_t entry = pages.block_table[b * pages.pages_per_sequence + i];
            if (4 * i < keys[b])
                assert_in_range(entry, 0, pages.num_pages - 1);
            else
                assert_true(entry >= pages.num_pages);
        }
    mla_pages_release(&pages);
}

static void seeds_shuffle_differently(void **state)
{
    (void)state;
    mla_pages first, same, other;
    assert_true(mla_pages_create(4, 64, NULL, 4, 1, &first));
    assert_true(mla_pages_create(4, 64, NULL, 4, 1, &same));
    assert_true(mla_pages_create(4, 64, NULL, 4, 2, &other));
    const size_t bytes = (size_t)first.num_pages * sizeof(*first.block_table);
    assert_memory_equal(first.block_table, same.block_table, bytes);
    assert_memory_not_equal(first.block_table, other.block_table, bytes);
    mla_pages_release(&first);
    mla_pages_release(&same);
    mla_pages_release(&other);
}

static void too_many_pages_are_refused(void **state)
{
    (void)state;
    mla_pages pages;
    assert_false(mla_pages_create(INT32_MAX, INT32_MAX, NULL, 1, 1, &pages));
}

int main(void)
{
    enum { NUM_CASES = sizeof(cases) / sizeof(cases[0]) };
    struct CMUnitTest tests[NUM_CASES + 3];
    for (size_t i = 0; i < NUM_CASES; i++)
        tests[i] = (struct CMUnitTest){cases[i].name, gives_every_key_its_own_row, NULL, NULL,
                                       (void *)(uintptr_t)&cases[i]};
    tests[NUM_CASES] = (struct CMUnitTest)cmocka_unit_test(entries_past_the_keys_are_absurd);
    tests[NUM_CASES + 1] = (struct CMUnitTest)cmocka_unit_test(seeds_shuffle_differently);
    tests[NUM_CASES + 2] = (struct CMUnitTest)cmocka_unit_test(too_many_pages_are_refused);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
