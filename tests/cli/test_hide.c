#include "cli/hide.h"
#include "support/support.h"

typedef struct hide_case {
    const char *name, *text, *shown;
} hide_case;

static const mla_hidden hidden[] = {{"golden", "FILE 1"},
                                    {"golden/jane.safetensors", "FILE 2"},
                                    {NULL, "unused"},
                                    {"", "unused"},
                                    {"jane\n\xff", "FILE 3"}};

static const hide_case cases[] = {
    {"leaves a text without paths", "decode: 12 GB/s, a/b, 1.5", "decode: 12 GB/s, a/b, 1.5"},
    {"hides an absolute path", "open '/home/jane/x.json': no", "open 'PATH': no"},
    {"hides a path at either end", "/home/jane", "PATH"},
    {"hides paths relative to folders", "~/x ./y ../z", "PATH PATH PATH"},
    {"keeps the place in a file", "/tmp/jane/x.cl:4:2: error", "PATH:4:2: error"},
    {"hides paths in options", "-I/home/jane -D X=/home", "PATH -D X=PATH"},
    {"replaces what it is told", "golden: is a directory", "FILE 1: is a directory"},
    {"takes the longest", "golden/jane.safetensors: no", "FILE 2: no"},
    {"takes a file in a known folder with it", "golden/other.cl: no", "FILE 1: no"},
    {"leaves words that only contain it", "marigolden", "marigolden"},
    {"knows a path by its printable form", "jane ?: no, jane\n\xff: no", "FILE 3: no, FILE 3: no"},
    {"leaves what is only like it", "jane x", "jane x"},
};

static void replaces_paths(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char out[128];
        mla_hide_paths(cases[i].text, hidden, sizeof(hidden) / sizeof(hidden[0]), out, sizeof(out));
        if (strcmp(out, cases[i].shown) != 0)
            fail_msg("%s: '%s' became '%s'", cases[i].name, cases[i].text, out);
    }
}

static void stays_within_its_room(void **state)
{
    char out[8] = "#######";
    (void)state;
    mla_hide_paths("abcdef /home/jane golden", hidden, 1, out, sizeof(out));
    assert_string_equal(out, "abcdef ");
    mla_hide_paths("abcde /home/jane golden", hidden, 1, out, sizeof(out));
    assert_string_equal(out, "abcde P");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replaces_paths),
        cmocka_unit_test(stays_within_its_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
