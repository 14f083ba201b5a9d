#include "core/printable.h"
#include "support/support.h"

typedef struct text_case {
    const char *name, *text, *shown;
} text_case;

static const text_case cases[] = {
    {"nothing", "", ""},
    {"ASCII stays", " !az~", " !az~"},
    {"letters of two, three and four bytes stay", "\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80",
     "\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80"},
    {"line breaks and tabs become blanks", "a\nb\r\n\tc\v\f", "a b   c  "},
    {"a colour of a terminal", "\x1b[31mred\x1b[0m", "?[31mred?[0m"},
    {"the bell, a backspace and DEL", "\a\b\x7f", "???"},
    {"the control sequence introducer as one character",
     "\xc2\x9b"
     "31m",
     "??31m"},
    {"the first character after C1", "\xc2\xa0", "\xc2\xa0"},
    {"and as one byte, which is no UTF-8",
     "\x9b"
     "31m",
     "?31m"},
    {"a byte that begins nothing",
     "a\xff"
     "b\xf8\x80\x80",
     "a?b???"},
    {"a sequence that breaks off", "a\xe2\x82z", "a??z"},
    {"a text that breaks off", "a\xf0\x9f\x98", "a???"},
    {"a slash in two bytes", "\xc0\xaf", "??"},
    {"a slash in three", "\xe0\x80\xaf", "???"},
    {"an escape in four", "\xf0\x80\x80\x9b", "????"},
    {"a surrogate", "\xed\xa0\x80", "???"},
    {"past the last character", "\xf4\x90\x80\x80 \xf4\x8f\xbf\xbf", "???? \xf4\x8f\xbf\xbf"},
    {"a mark that turns text round",
     /* NOLINTNEXTLINE(misc-misleading-bidirectional): on purpose */
     "\xe2\x80\xae"
     "exe.txt",
     "???exe.txt"},
    /* NOLINTNEXTLINE(misc-misleading-bidirectional): on purpose */
    {"an isolated direction", "\xe2\x81\xa7", "???"},
    {"a line separator", "\xe2\x80\xa8", "???"},
};

static void shows(void **state)
{
    const text_case *c = *state;
    char text[64];
    (void)snprintf(text, sizeof(text), "%s", c->text);
    mla__make_printable(text);
    assert_string_equal(text, c->shown);
    mla__make_printable(text); /* nothing is left to do */
    assert_string_equal(text, c->shown);
}

int main(void)
{
    enum { NUM_CASES = sizeof(cases) / sizeof(cases[0]) };
    struct CMUnitTest tests[NUM_CASES];
    for (size_t i = 0; i < NUM_CASES; i++)
        tests[i] =
            (struct CMUnitTest){cases[i].name, shows, NULL, NULL, (void *)(uintptr_t)&cases[i]};
    return cmocka_run_group_tests_name("printable", tests, NULL, NULL);
}
