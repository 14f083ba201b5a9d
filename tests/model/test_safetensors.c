/*
 * The safetensors reader refuses every malformed file and names what is wrong. The writer's tests
 * are in test_safetensors_write.c.
 */
#include "clmla_model.h"
#include "support/support.h"

#define OUTPUT TEST_OUTPUT_DIR "/test_safetensors.safetensors"

enum { LENGTH_BYTES = 8, MAX_FILE = 4096 };

/* A file in memory: length, header text, data bytes 0, 1, 2 ... Returns its size. */
static size_t make_file(unsigned char *file, const char *header, size_t data_bytes)
{
    const size_t length = strlen(header);
    assert_true(LENGTH_BYTES + length + data_bytes <= MAX_FILE);
    for (int i = 0; i < LENGTH_BYTES; i++)
        file[i] = (unsigned char)(length >> (8 * i));
    memcpy(file + LENGTH_BYTES, header, length);
    for (size_t i = 0; i < data_bytes; i++)
        file[LENGTH_BYTES + length + i] = (unsigned char)i;
    return LENGTH_BYTES + length + data_bytes;
}

/* ---- files that are refused ----------------------------------------------------------------- */

typedef struct broken_case {
    const char *name;
    const char *header;
    size_t data_bytes;
    const char *says; /* part of the message */
} broken_case;

static const broken_case broken[] = {
    {.name = "an empty header", .header = "", .says = "does not begin with '{'"},
    {.name = "a header that is a list", .header = "[]", .says = "does not begin with '{'"},
    {.name = "a header with blanks before it", .header = " {}", .says = "does not begin"},
    {.name = "text that is not JSON", .header = "{nonsense", .says = "header, byte"},
    {.name = "text after the object", .header = "{} x", .says = "header, byte"},
    {.name = "text that is not UTF-8", .header = "{\"\xff\": 1}", .says = "decode byte 0xff"},
    {.name = "a tensor that is no object", .header = "{\"a\": 1}", .says = "'a': its entry"},
    {.name = "the same name twice",
     .header = "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
               "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
     .data_bytes = 2,
     .says = "duplicate"},
    {.name = "an unknown key in a tensor",
     .header = "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"stride\":1}}",
     .data_bytes = 1,
     .says = "'a': unknown key 'stride'"},
    {.name = "no dtype",
     .header = "{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}",
     .data_bytes = 1,
     .says = "'a': dtype is missing"},
    {.name = "a dtype that is a number",
     .header = "{\"a\":{\"dtype\":3,\"shape\":[1],\"data_offsets\":[0,1]}}",
     .data_bytes = 1,
     .says = "dtype is missing or no string"},
    {.name = "an unknown dtype",
     .header = "{\"a\":{\"dtype\":\"F7\",\"shape\":[1],\"data_offsets\":[0,1]}}",
     .data_bytes = 1,
     .says = "'a': unknown dtype 'F7'"},
    {.name = "a dtype in lower case",
     .header = "{\"a\":{\"dtype\":\"bf16\",\"shape\":[1],\"data_offsets\":[0,2]}}",
     .data_bytes = 2,
     .says = "unknown dtype 'bf16'"},
    {.name = "no shape",
     .header = "{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}",
     .data_bytes = 1,
     .says = "'a': shape is not a list"},
    {.name = "a negative dimension",
     .header = "{\"a\":{\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,1]}}",
     .data_bytes = 1,
     .says = "'a': shape is not a list of integers >= 0"},
    {.name = "a fractional dimension",
     .header = "{\"a\":{\"dtype\":\"U8\",\"shape\":[1.0],\"data_offsets\":[0,1]}}",
     .data_bytes = 1,
     .says = "'a': shape is not a list of integers >= 0"},
    {.name = "nine dimensions",
     .header = "{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}",
     .data_bytes = 1,
     .says = "'a': 9 dimensions"},
    {.name = "a dimension of 2^63",
     .header = "{\"a\":{\"dtype\":\"U8\",\"shape\":[9223372036854775808],\"data_offsets\":[0,0]}}",
     .says = "integer"},
    {.name = "a product of dimensions past 2^64",
     .header = "{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],"
               "\"data_offsets\":[0,0]}}",
     .says = "'a': its size passes 2^64"},
    {.name = "a size past 2^64 bytes",
     .header = "{\"a\":{\"dtype\":\"F64\",\"shape\":[4294967296,2147483648],"
               "\"data_offsets\":[0,0]}}",
     .says = "'a': its size passes 2^64"},
    {.name = "three elements of four bits",
     .header = "{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,1]}}",
     .data_bytes = 1,
     .says = "'a': its size passes 2^64 or is no number of bytes"},
    {.name = "two elements of six bits",
     .header = "{\"a\":{\"dtype\":\"F6_E2M3\",\"shape\":[1,2],\"data_offsets\":[0,2]}}",
     .data_bytes = 2,
     .says = "no number of bytes"},
    {.name = "a product past 2^64 of packed elements",
     .header = "{\"a\":{\"dtype\":\"F4\",\"shape\":[4294967296,4294967296],"
               "\"data_offsets\":[0,0]}}",
     .says = "its size passes 2^64"},
    {.name = "no offsets",
     .header = "{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}",
     .data_bytes = 1,
     .says = "'a': data_offsets are not two integers"},
    {.name = "one offset",
     .header = "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1]}}",
     .data_bytes = 1,
     .says = "'a': data_offsets are not two integers"},
    {.name = "a negative offset",
     .header = "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[-1,0]}}",
     .data_bytes = 1,
     .says = "'a': data_offsets are not two integers >= 0"},
    {.name = "offsets in the wrong order",
     .header = "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,0]}}",
     .data_bytes = 1,
     .says = "'a': data_offsets [1, 0] do not lie in the 1 bytes"},
    {.name = "an end past the data",
     .header = "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}",
     .data_bytes = 1,
     .says = "'a': data_offsets [0, 2] do not lie in the 1 bytes"},
    {.name = "a size that is not the shape's",
     .header = "{\"a\":{\"dtype\":\"BF16\",\"shape\":[4, 4],\"data_offsets\":[0,64]}}",
     .data_bytes = 64,
     .says = "t.safetensors: tensor 'a': data_offsets [0, 64] do not match BF16 [4, 4] "
             "(32 bytes)"},
    {.name = "two tensors that overlap",
     .header = "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
               "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}",
     .data_bytes = 3,
     .says = "'b' overlaps tensor 'a' at offset 1"},
    {.name = "two tensors at the same place",
     .header = "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
               "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}",
     .data_bytes = 2,
     .says = "overlaps"},
    {.name = "an empty tensor inside another",
     .header = "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
               "\"b\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[1,1]}}",
     .data_bytes = 2,
     .says = "'b' overlaps"},
    {.name = "a gap between tensors",
     .header = "{\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[2,3]},"
               "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
     .data_bytes = 3,
     .says = "'b': 1 bytes before it belong to no tensor"},
    {.name = "a gap before the first tensor",
     .header = "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
     .data_bytes = 2,
     .says = "'a': 1 bytes before it"},
    {.name = "bytes after the last tensor",
     .header = "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
     .data_bytes = 3,
     .says = "2 bytes after the last tensor"},
    {.name = "data without tensors", .header = "{}", .data_bytes = 1, .says = "1 bytes after"},
    {.name = "metadata that is no object",
     .header = "{\"__metadata__\":[]}",
     .says = "__metadata__ is not an object"},
    {.name = "metadata whose values are no strings",
     .header = "{\"__metadata__\":{\"k\":1}}",
     .says = "the value of 'k' is not a string"},
};

static void check_refused(const char *name, const unsigned char *file, size_t bytes,
                          const char *says)
{
    /* A copy of the exact size, so that a sanitizer sees a read past its end. */
    unsigned char *exact = malloc(bytes > 0 ? bytes : 1);
    clmla_model_error error = {"untouched"};
    clmla_safetensors *const untouched = (clmla_safetensors *)&error;
    clmla_safetensors *out = untouched;
    clmla_status status;
    assert_non_null(exact);
    memcpy(exact, file, bytes);
    status = clmla_safetensors_open_memory(exact, bytes, "t.safetensors", &out, &error);
    if (status != CLMLA_BAD_FILE || out != untouched || strstr(error.text, says) == NULL ||
        strstr(error.text, "t.safetensors") != error.text)
        fail_msg("%s: status %d, message \"%s\" without \"%s\"", name, status, error.text, says);
    /* without room for a message it is the same */
    assert_int_equal(clmla_safetensors_open_memory(exact, bytes, NULL, &out, NULL), CLMLA_BAD_FILE);
    assert_ptr_equal(out, untouched);
    free(exact);
}

static void rejects_malformed_headers(void **state)
{
    unsigned char file[MAX_FILE];
    (void)state;
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
        const size_t bytes = make_file(file, broken[i].header, broken[i].data_bytes);
        check_refused(broken[i].name, file, bytes, broken[i].says);
    }
}

/* Every proper prefix of a valid file is refused, whichever part it ends in. */
static void rejects_every_truncation(void **state)
{
    static const char header[] = "{\"a\":{\"dtype\":\"U16\",\"shape\":[4],\"data_offsets\":[0,8]}}";
    unsigned char file[MAX_FILE];
    const size_t bytes = make_file(file, header, 8);
    clmla_safetensors *out = NULL;
    (void)state;
    assert_int_equal(clmla_safetensors_open_memory(file, bytes, "t", &out, NULL), CLMLA_SUCCESS);
    clmla_safetensors_close(out);
    for (size_t end = 0; end < bytes; end++)
        check_refused("truncated", file, end,
                      end < LENGTH_BYTES                       ? "begins with an 8-byte length"
                      : end < LENGTH_BYTES + sizeof header - 1 ? "header of"
                                                               : "do not lie in");
}

static void rejects_lying_lengths(void **state)
{
    static const uint64_t lies[] = {3,          100000001,     UINT64_C(1) << 32, UINT64_C(1) << 63,
                                    UINT64_MAX, UINT64_MAX - 7};
    unsigned char file[MAX_FILE];
    const size_t bytes = make_file(file, "{}", 0);
    (void)state;
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        char says[48];
        for (int b = 0; b < LENGTH_BYTES; b++)
            file[b] = (unsigned char)(lies[i] >> (8 * b));
        (void)snprintf(says, sizeof says, "header of %llu bytes", (unsigned long long)lies[i]);
        check_refused("a length past the file", file, bytes, says);
    }
}

static void rejects_deeply_nested_json(void **state)
{
    char header[MAX_FILE - LENGTH_BYTES];
    unsigned char file[MAX_FILE];
    (void)state;
    memcpy(header, "{\"a\":", 5);
    memset(header + 5, '[', sizeof header - 6);
    header[sizeof header - 1] = '\0';
    check_refused("nested 4000 deep", file, make_file(file, header, 0), "header, byte");
}

/* Entries that are no tensors: they are counted before they are looked at. */
static void rejects_more_tensors_than_the_limit(void **state)
{
    enum { COUNT = 1000002, ENTRY_BYTES = 12 };
    (void)state;
    unsigned char *file = malloc(LENGTH_BYTES + COUNT * ENTRY_BYTES + 2);
    assert_non_null(file);
    size_t length = 0;
    for (int i = 0; i < COUNT; i++)
        length += (size_t)sprintf((char *)file + LENGTH_BYTES + length, "%c\"%d\":0",
                                  i == 0 ? '{' : ',', i);
    file[LENGTH_BYTES + length++] = '}';
    for (int i = 0; i < LENGTH_BYTES; i++)
        file[i] = (unsigned char)(length >> (8 * i));
    check_refused("a million and two tensors", file, LENGTH_BYTES + length,
                  "1000002 entries in the header; at most 1000000 tensors");
    free(file);
}

static void rejects_a_header_above_the_limit(void **state)
{
    /* 100 MB and one blank: valid JSON, only too long */
    const size_t length = 100000001;
    unsigned char *file = malloc(LENGTH_BYTES + length);
    clmla_model_error error = {""};
    clmla_safetensors *out = NULL;
    (void)state;
    assert_non_null(file);
    for (int i = 0; i < LENGTH_BYTES; i++)
        file[i] = (unsigned char)(length >> (8 * i));
    memset(file + LENGTH_BYTES, ' ', length);
    memcpy(file + LENGTH_BYTES, "{}", 2);
    assert_int_equal(clmla_safetensors_open_memory(file, LENGTH_BYTES + length, "t", &out, &error),
                     CLMLA_BAD_FILE);
    assert_non_null(strstr(error.text, "at most 100000000"));
    free(file);
}

static void keeps_control_characters_out_of_messages(void **state)
{
    unsigned char file[MAX_FILE];
    (void)state;
    check_refused("a name with an escape sequence", file,
                  make_file(file, "{\"\\u001b[31m\\n\": 1}", 0), "tensor '?[31m ': its entry");
}

static void rejects_files_that_cannot_be_read(void **state)
{
    clmla_model_error error = {""};
    clmla_safetensors *out = NULL;
    (void)state;
    assert_int_equal(clmla_safetensors_open(TEST_OUTPUT_DIR "/no_such_file", &out, &error),
                     CLMLA_IO);
    assert_non_null(strstr(error.text, "no_such_file"));
    assert_int_equal(clmla_safetensors_open(TEST_OUTPUT_DIR, &out, &error), CLMLA_IO);
    assert_int_equal(clmla_safetensors_open(NULL, &out, &error), CLMLA_INVALID_ARGUMENT);
    assert_int_equal(clmla_safetensors_open_memory("", 0, "t", NULL, &error),
                     CLMLA_INVALID_ARGUMENT);
    assert_int_equal(clmla_safetensors_open_memory(NULL, 8, "t", &out, &error),
                     CLMLA_INVALID_ARGUMENT);
    assert_null(out);
}

static void rejects_an_empty_file(void **state)
{
    FILE *stream = fopen(OUTPUT, "wb");
    clmla_model_error error = {""};
    clmla_safetensors *out = NULL;
    (void)state;
    assert_non_null(stream);
    assert_int_equal(fclose(stream), 0);
    assert_int_equal(clmla_safetensors_open(OUTPUT, &out, &error), CLMLA_BAD_FILE);
    assert_non_null(strstr(error.text, "0 bytes"));
    assert_int_equal(remove(OUTPUT), 0);
}

/* ---- files that are accepted ---------------------------------------------------------------- */

static void reads_what_the_format_allows(void **state)
{
    /* not in the order of the data, empty tensors, a scalar, an unusual name, blanks at the end */
    static const char header[] =
        "{\"b\":{\"shape\":[2,1],\"data_offsets\":[2,6],\"dtype\":\"I16\"},"
        "\"__metadata__\":{\"k\":\"v\",\"\":\"\"},"
        "\"empty\":{\"dtype\":\"F64\",\"shape\":[3,0],\"data_offsets\":[2,2]},"
        "\"\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]},"
        "\"\xc3\xa4\":{\"dtype\":\"BOOL\",\"shape\":[1],\"data_offsets\":[1,2]}}    ";
    static const char *const order[] = {"b", "empty", "", "\xc3\xa4"};
    unsigned char file[MAX_FILE];
    clmla_safetensors *out = NULL;
    const clmla_safetensors_tensor *tensor;
    (void)state;
    assert_int_equal(
        clmla_safetensors_open_memory(file, make_file(file, header, 6), "t", &out, NULL),
        CLMLA_SUCCESS);
    assert_int_equal(clmla_safetensors_count(out), 4);
    for (size_t i = 0; i < 4; i++) {
        assert_string_equal(clmla_safetensors_at(out, i)->name, order[i]);
        assert_ptr_equal(clmla_safetensors_find(out, order[i]), clmla_safetensors_at(out, i));
    }
    tensor = clmla_safetensors_find(out, "b");
    assert_int_equal(tensor->dtype, CLMLA_ST_I16);
    assert_int_equal(tensor->rank, 2);
    assert_int_equal(tensor->shape[0], 2);
    assert_int_equal(tensor->shape[1], 1);
    assert_int_equal(tensor->num_elements, 2);
    assert_int_equal(tensor->bytes, 4);
    assert_memory_equal(tensor->data, "\2\3\4\5", 4);
    assert_int_equal(clmla_safetensors_find(out, "")->num_elements, 1);
    assert_int_equal(clmla_safetensors_find(out, "empty")->num_elements, 0);
    assert_null(clmla_safetensors_find(out, "c"));
    assert_null(clmla_safetensors_find(out, "__metadata__"));
    assert_null(clmla_safetensors_at(out, 4));
    assert_string_equal(clmla_safetensors_metadata(out, "k"), "v");
    assert_string_equal(clmla_safetensors_metadata(out, ""), "");
    assert_null(clmla_safetensors_metadata(out, "none"));
    clmla_safetensors_close(out);
    clmla_safetensors_close(NULL);

    assert_int_equal(clmla_safetensors_open_memory(file, make_file(file, "{}", 0), "t", &out, NULL),
                     CLMLA_SUCCESS);
    assert_int_equal(clmla_safetensors_count(out), 0);
    assert_null(clmla_safetensors_find(out, "a"));
    assert_null(clmla_safetensors_metadata(out, "a"));
    clmla_safetensors_close(out);
}

static void knows_every_dtype(void **state)
{
    static const struct {
        clmla_safetensors_dtype dtype;
        const char *name;
        size_t bytes; /* of one; 0: see of_four */
        size_t of_four;
    } all[] = {
        {CLMLA_ST_BOOL, "BOOL", 1},
        {CLMLA_ST_U8, "U8", 1},
        {CLMLA_ST_I8, "I8", 1},
        {CLMLA_ST_F8_E5M2, "F8_E5M2", 1},
        {CLMLA_ST_F8_E4M3, "F8_E4M3", 1},
        {CLMLA_ST_I16, "I16", 2},
        {CLMLA_ST_U16, "U16", 2},
        {CLMLA_ST_F16, "F16", 2},
        {CLMLA_ST_BF16, "BF16", 2},
        {CLMLA_ST_I32, "I32", 4},
        {CLMLA_ST_U32, "U32", 4},
        {CLMLA_ST_F32, "F32", 4},
        {CLMLA_ST_F64, "F64", 8},
        {CLMLA_ST_I64, "I64", 8},
        {CLMLA_ST_U64, "U64", 8},
        {CLMLA_ST_F8_E8M0, "F8_E8M0", 1},
        {CLMLA_ST_F8_E4M3FNUZ, "F8_E4M3FNUZ", 1},
        {CLMLA_ST_F8_E5M2FNUZ, "F8_E5M2FNUZ", 1},
        {CLMLA_ST_C64, "C64", 8},
        {CLMLA_ST_F4, "F4", 0, 2},
        {CLMLA_ST_F6_E2M3, "F6_E2M3", 0, 3},
        {CLMLA_ST_F6_E3M2, "F6_E3M2", 0, 3},
    };
    (void)state;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        const size_t bytes = all[i].bytes > 0 ? 4 * all[i].bytes : all[i].of_four;
        char header[128];
        unsigned char file[MAX_FILE];
        clmla_safetensors *out = NULL;
        assert_string_equal(clmla_safetensors_dtype_name(all[i].dtype), all[i].name);
        assert_int_equal(clmla_safetensors_dtype_bytes(all[i].dtype), all[i].bytes);
        (void)snprintf(header, sizeof header,
                       "{\"a\":{\"dtype\":\"%s\",\"shape\":[4],\"data_offsets\":[0,%zu]}}",
                       all[i].name, bytes);
        assert_int_equal(
            clmla_safetensors_open_memory(file, make_file(file, header, bytes), "t", &out, NULL),
            CLMLA_SUCCESS);
        assert_int_equal(clmla_safetensors_at(out, 0)->bytes, bytes);
        assert_int_equal(clmla_safetensors_at(out, 0)->dtype, all[i].dtype);
        clmla_safetensors_close(out);
    }
    assert_string_equal(clmla_safetensors_dtype_name(0), "unknown");
    assert_string_equal(clmla_safetensors_dtype_name(CLMLA_ST_F6_E3M2 + 1), "unknown");
    assert_int_equal(clmla_safetensors_dtype_bytes(-1), 0);
}

static void describes_tensors_in_any_room(void **state)
{
    static const struct {
        clmla_safetensors_tensor tensor;
        const char *text;
    } cases[] = {
        {{.dtype = CLMLA_ST_BF16, .rank = 2, .shape = {4, 128}}, "BF16 [4, 128]"},
        {{.dtype = CLMLA_ST_F8_E4M3, .rank = 1, .shape = {7}}, "F8_E4M3 [7]"},
        {{.dtype = CLMLA_ST_I64, .rank = 0}, "I64 []"},
        {{.rank = 1, .shape = {UINT64_MAX}}, "unknown [18446744073709551615]"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (size_t capacity = 0; capacity <= strlen(cases[i].text) + 1; capacity++) {
            char text[64];
            memset(text, '#', sizeof text);
            clmla_safetensors_describe(&cases[i].tensor, text, capacity);
            assert_int_equal(text[capacity], '#');
            if (capacity > 0) {
                assert_int_equal(strlen(text), capacity - 1);
                assert_memory_equal(text, cases[i].text, capacity - 1);
            }
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rejects_malformed_headers),
        cmocka_unit_test(rejects_every_truncation),
        cmocka_unit_test(rejects_lying_lengths),
        cmocka_unit_test(rejects_deeply_nested_json),
        cmocka_unit_test(rejects_more_tensors_than_the_limit),
        cmocka_unit_test(rejects_a_header_above_the_limit),
        cmocka_unit_test(keeps_control_characters_out_of_messages),
        cmocka_unit_test(rejects_files_that_cannot_be_read),
        cmocka_unit_test(rejects_an_empty_file),
        cmocka_unit_test(reads_what_the_format_allows),
        cmocka_unit_test(knows_every_dtype),
        cmocka_unit_test(describes_tensors_in_any_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
