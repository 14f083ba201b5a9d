/*
 * What the safetensors writer writes, the reader reads back; what it refuses or cannot write leaves
 * the file that was there.
 */
#include <fcntl.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clmla_model.h"
#include "support/support.h"

#define OUTPUT TEST_OUTPUT_DIR "/test_safetensors_write.safetensors"

enum { LENGTH_BYTES = 8 }; /* a file begins with the length of its header */

static const float written_values[6] = {1.0f, -2.5f, 0.0f, 3.25f, 1e30f, -1e-30f};
static const uint16_t written_halves[3] = {0x3f80, 0xffff, 0x0001};

static const clmla_safetensors_tensor written[] = {
    {.name = "step0.output",
     .dtype = CLMLA_ST_F32,
     .rank = 3,
     .shape = {1, 2, 3},
     .data = written_values},
    {.name = "quote \" and \\ and \xc3\xa4",
     .dtype = CLMLA_ST_BF16,
     .rank = 1,
     .shape = {3},
     .data = written_halves},
    {.name = "none", .dtype = CLMLA_ST_F64, .rank = 2, .shape = {0, 5}, .data = NULL},
};

static bool exists(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0;
}

static void writes_what_it_reads_back(void **state)
{
    static const char *const metadata[] = {"format", "test", "line", "a\nb"};
    clmla_safetensors *out = NULL;
    clmla_model_error error = {""};
    (void)state;
    /* the second round replaces the first file */
    for (int round = 0; round < 2; round++) {
        assert_int_equal(
            clmla_safetensors_write(OUTPUT, written, 3, metadata, round == 0 ? 2 : 1, &error),
            CLMLA_SUCCESS);
        assert_int_equal(clmla_safetensors_open(OUTPUT, &out, &error), CLMLA_SUCCESS);
        assert_int_equal(clmla_safetensors_count(out), 3);
        for (size_t i = 0; i < 3; i++) {
            const clmla_safetensors_tensor *tensor = clmla_safetensors_at(out, i);
            assert_string_equal(tensor->name, written[i].name);
            assert_int_equal(tensor->dtype, written[i].dtype);
            assert_int_equal(tensor->rank, written[i].rank);
            assert_memory_equal(tensor->shape, written[i].shape, sizeof tensor->shape);
            if (tensor->bytes != 0)
                assert_memory_equal(tensor->data, written[i].data, tensor->bytes);
        }
        assert_int_equal(clmla_safetensors_at(out, 0)->bytes, 24);
        assert_int_equal(clmla_safetensors_at(out, 1)->bytes, 6);
        assert_int_equal((uintptr_t)clmla_safetensors_at(out, 0)->data % 8, 0);
        assert_string_equal(clmla_safetensors_metadata(out, "format"), "test");
        if (round == 0)
            assert_string_equal(clmla_safetensors_metadata(out, "line"), "a\nb");
        else
            assert_null(clmla_safetensors_metadata(out, "line"));
        clmla_safetensors_close(out);
        assert_false(exists(OUTPUT ".0.tmp"));
    }
    assert_int_equal(remove(OUTPUT), 0);
}

static void writes_a_file_without_tensors(void **state)
{
    clmla_safetensors *out = NULL;
    (void)state;
    assert_int_equal(clmla_safetensors_write(OUTPUT, NULL, 0, NULL, 0, NULL), CLMLA_SUCCESS);
    assert_int_equal(clmla_safetensors_open(OUTPUT, &out, NULL), CLMLA_SUCCESS);
    assert_int_equal(clmla_safetensors_count(out), 0);
    clmla_safetensors_close(out);
    assert_int_equal(remove(OUTPUT), 0);
}

static void rejects_tensors_that_cannot_be_written(void **state)
{
    static const struct {
        const char *name;
        clmla_safetensors_tensor tensor;
        const char *says;
    } cases[] = {
        {"an unknown dtype",
         {.name = "a", .dtype = 99, .rank = 1, .shape = {1}, .data = ""},
         "unknown dtype"},
        {"no name", {.dtype = CLMLA_ST_U8, .rank = 1, .shape = {1}, .data = ""}, "not a name"},
        {"the name of the metadata",
         {.name = "__metadata__", .dtype = CLMLA_ST_U8, .rank = 1, .shape = {1}, .data = ""},
         "not a name"},
        {"the name of another tensor",
         {.name = "step0.output", .dtype = CLMLA_ST_U8, .rank = 1, .shape = {1}, .data = ""},
         "occurs twice"},
        {"a name that is not UTF-8",
         {.name = "\xff", .dtype = CLMLA_ST_U8, .rank = 1, .shape = {1}, .data = ""},
         "not UTF-8"},
        {"a rank of 9", {.name = "a", .dtype = CLMLA_ST_U8, .rank = 9, .data = ""}, "rank"},
        {"a negative rank", {.name = "a", .dtype = CLMLA_ST_U8, .rank = -1, .data = ""}, "rank"},
        {"no data",
         {.name = "a", .dtype = CLMLA_ST_U8, .rank = 1, .shape = {1}, .data = NULL},
         "data is NULL"},
        {"a size past 2^64",
         {.name = "a",
          .dtype = CLMLA_ST_F64,
          .rank = 2,
          .shape = {UINT64_C(1) << 62, 4},
          .data = ""},
         "too large"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const clmla_safetensors_tensor pair[] = {written[0], cases[i].tensor};
        clmla_model_error error = {""};
        const clmla_status status = clmla_safetensors_write(OUTPUT, pair, 2, NULL, 0, &error);
        if (status != CLMLA_INVALID_ARGUMENT || strstr(error.text, cases[i].says) == NULL)
            fail_msg("%s: status %d, message \"%s\"", cases[i].name, status, error.text);
        assert_false(exists(OUTPUT));
    }
}

static void keeps_the_old_file_when_writing_fails(void **state)
{
    static const char *const twice[] = {"k", "1", "k", "2"};
    clmla_safetensors *out = NULL;
    clmla_model_error error = {""};
    (void)state;
    assert_int_equal(clmla_safetensors_write(OUTPUT, written, 1, NULL, 0, NULL), CLMLA_SUCCESS);
    assert_int_equal(clmla_safetensors_write(OUTPUT, written, 2, twice, 2, &error),
                     CLMLA_INVALID_ARGUMENT);
    assert_non_null(strstr(error.text, "metadata key 'k'"));
    assert_int_equal(clmla_safetensors_open(OUTPUT, &out, NULL), CLMLA_SUCCESS);
    assert_int_equal(clmla_safetensors_count(out), 1);
    clmla_safetensors_close(out);
    assert_int_equal(remove(OUTPUT), 0);

    assert_int_equal(
        clmla_safetensors_write(TEST_OUTPUT_DIR "/no_such/dir", written, 1, NULL, 0, &error),
        CLMLA_IO);
    assert_non_null(strstr(error.text, "no_such/dir"));
    /* a directory has the name: the temporary file is gone again */
    assert_int_equal(clmla_safetensors_write(TEST_OUTPUT_DIR, written, 1, NULL, 0, &error),
                     CLMLA_IO);
    assert_false(exists(TEST_OUTPUT_DIR ".0.tmp"));
}

static void writes_pipes_in_place(void **state)
{
    struct stat info;
    unsigned char length[LENGTH_BYTES] = {0};
    int pipe_end;
    (void)state;
    assert_int_equal(mkfifo(OUTPUT, 0600), 0);
    pipe_end = open(OUTPUT, O_RDWR | O_NONBLOCK);
    assert_true(pipe_end >= 0);
    assert_int_equal(clmla_safetensors_write(OUTPUT, written, 3, NULL, 0, NULL), CLMLA_SUCCESS);
    assert_int_equal(stat(OUTPUT, &info), 0);
    assert_true(S_ISFIFO(info.st_mode));
    assert_int_equal(read(pipe_end, length, sizeof length), LENGTH_BYTES);
    assert_int_equal(length[0] % 8, 0);
    assert_int_equal(close(pipe_end), 0);
    assert_int_equal(remove(OUTPUT), 0);
}

static void keeps_a_stray_temporary_file(void **state)
{
    FILE *stream = fopen(OUTPUT ".0.tmp", "wb");
    (void)state;
    assert_non_null(stream);
    assert_int_equal(fclose(stream), 0);
    assert_int_equal(clmla_safetensors_write(OUTPUT, written, 1, NULL, 0, NULL), CLMLA_SUCCESS);
    assert_true(exists(OUTPUT ".0.tmp"));
    assert_false(exists(OUTPUT ".1.tmp"));
    assert_int_equal(remove(OUTPUT ".0.tmp"), 0);
    assert_int_equal(remove(OUTPUT), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(writes_what_it_reads_back),
        cmocka_unit_test(writes_a_file_without_tensors),
        cmocka_unit_test(rejects_tensors_that_cannot_be_written),
        cmocka_unit_test(keeps_the_old_file_when_writing_fails),
        cmocka_unit_test(writes_pipes_in_place),
        cmocka_unit_test(keeps_a_stray_temporary_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
