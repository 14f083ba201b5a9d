/* Lines of tuning records as clmla tune changes them, and its search space. */
#include "cli/tune.h"
#include "support/support.h"

#define KEY "projection_cpu weights=bf16 batches=1 out_features=8 in_features=4"

static mla_tune_line parse(const char *text)
{
    mla_tune_line line;
    assert_true(mla_tune_line_parse(text, &line));
    return line;
}

static void a_line_comes_apart_and_together(void **state)
{
    (void)state;
    char text[MLA_LINE_BYTES];
    const mla_tune_line line = parse(KEY " max_rows=16 : tile_rows=4 block_rows=64");
    assert_string_equal(line.key, KEY " max_rows=16");
    assert_int_equal(line.num_words, 2);
    mla_tune_line_print(&line, text);
    assert_string_equal(text, KEY " max_rows=16 : tile_rows=4 block_rows=64");
    mla_tune_line_tile(&line, text);
    assert_string_equal(text, "tile_rows=4 block_rows=64");
    const mla_tune_line measured = parse(KEY " max_rows=1 : tile_rows=4 | before_ns=3");
    assert_int_equal(measured.num_words, 1);
}

static void what_is_no_line_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",        "projection_cpu",   KEY " :",
        KEY " : ", KEY " : tile_rows", KEY " : a_name_that_is_longer_than_any=1"};
    mla_tune_line line;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        if (mla_tune_line_parse(bad[i], &line))
            fail_msg("'%s' is a line", bad[i]);
}

static void rows_change_in_the_key(void **state)
{
    (void)state;
    mla_tune_line line = parse(KEY " max_rows=3 : tile_rows=4");
    mla_tune_line_set_rows(&line, INT32_MAX);
    assert_string_equal(line.key, KEY " max_rows=any");
    mla_tune_line_set_rows(&line, 256);
    assert_string_equal(line.key, KEY " max_rows=256");
    mla_tune_line stream = parse("projection_stream weights=bf16 batches=1 : slices=4");
    mla_tune_line_set_rows(&stream, 1);
    assert_string_equal(stream.key, "projection_stream weights=bf16 batches=1");
}

static void keys_are_compared_whole(void **state)
{
    (void)state;
    assert_true(mla_tune_has_key(KEY " max_rows=1 : tile_rows=4", KEY " max_rows=1"));
    assert_false(mla_tune_has_key(KEY " max_rows=16 : tile_rows=4", KEY " max_rows=1"));
    assert_false(mla_tune_has_key(KEY " max_rows=1", KEY " max_rows=1"));
}

/* Whatever changes, what depends on it follows: the rules of the kernels' sources. */
static void changes_keep_multiples(void **state)
{
    (void)state;
    const char *const lines[] = {
        /* NOLINTNEXTLINE(bugprone-suspicious-missing-comma): KEY is the beginning of the line */
        KEY " max_rows=1 : tile_rows=4 vector_width=16 tile_vectors=4 block_rows=64",
        "projection_dot weights=bf16 : tile_rows=6 vector_width=16 tile_vectors=4 block_rows=96",
        "attention_cpu cache=bf16 : row_vectors=2 block_tokens=32 tile_tokens=8 tile_values=8",
        "attention_dot cache=bf16 : row_vectors=3 block_tokens=24 tile_tokens=4 tile_values=4",
        "attention_gpu cache=bf16 : tile_rows=16 block_tokens=8 work_group=256",
        "projection_gpu weights=bf16 : tile_rows=16 tile_columns=32 work_rows=2 work_columns=1",
        ("projection_stream weights=bf16 batches=1 out_features=8 : tile_columns=32 tile_k=32 "
         "slices=8")};
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        const mla_tune_line line = parse(lines[i]);
        const int moves = mla_tune_num_moves(&line);
        int changed = 0;
        assert_true(moves > 5);
        for (int m = 0; m < moves; m++) {
            mla_tune_line other;
            if (!mla_tune_move(&line, m, &other))
                continue;
            changed++;
            assert_string_equal(other.key, line.key);
            const int32_t *rows = mla_tune_line_word(&other, "tile_rows");
            const int32_t *block = mla_tune_line_word(&other, "block_rows");
            if (block != NULL)
                assert_true(*block > 0 && *block % *rows == 0);
            const int32_t *vectors = mla_tune_line_word(&other, "row_vectors");
            if (vectors != NULL)
                assert_int_equal(*mla_tune_line_word(&other, "block_tokens") %
                                     (*vectors * *mla_tune_line_word(&other, "tile_tokens")),
                                 0);
            for (int w = 0; w < other.num_words; w++)
                assert_true(other.words[w].value > 0);
        }
        assert_true(changed >= moves - 4); /* values that the line has already are no change */
    }
    const mla_tune_line unknown = parse("projection_fpga weights=bf16 : tile_rows=1");
    assert_int_equal(mla_tune_num_moves(&unknown), 0);
}

/* [heads x ...] matrices, W_UV among them. */
static void batches_keep_slices_that_the_fused_kernel_takes(void **state)
{
    (void)state;
    const char *const tile = " : tile_columns=32 tile_k=32 slices=8";
    for (int batches = 1; batches <= 16; batches += 15) {
        char text[MLA_LINE_BYTES];
        bool few = false;
        (void)snprintf(text, sizeof(text),
                       "projection_stream weights=bf16 batches=%d out_features=128%s", batches,
                       tile);
        const mla_tune_line line = parse(text);
        for (int m = 0; m < mla_tune_num_moves(&line); m++) {
            mla_tune_line other;
            if (mla_tune_move(&line, m, &other))
                few = few || *mla_tune_line_word(&other, "slices") % 4 != 0;
        }
        assert_int_equal(few, batches == 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_line_comes_apart_and_together),
        cmocka_unit_test(what_is_no_line_is_refused),
        cmocka_unit_test(rows_change_in_the_key),
        cmocka_unit_test(keys_are_compared_whole),
        cmocka_unit_test(changes_keep_multiples),
        cmocka_unit_test(batches_keep_slices_that_the_fused_kernel_takes),
    };
    return cmocka_run_group_tests_name("tune lines", tests, NULL, NULL);
}
