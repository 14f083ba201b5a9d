/* Lines of a tuning record as the search needs them: a key, and words to change. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/tune.h"

/* "name=value ..." up to a '|' or the end, into the words of a line that has none. */
static bool parse_words(const char *at, mla_tune_line *out)
{
    for (; *at != '\0' && *at != '|' && out->num_words < MLA_MOST_WORDS; out->num_words++) {
        const size_t length = strcspn(at, "=");
        char *end;
        if (at[length] != '=' || length >= MLA_WORD_BYTES)
            return false;
        memcpy(out->words[out->num_words].name, at, length);
        out->words[out->num_words].value = (int32_t)strtol(at + length + 1, &end, 10);
        at = *end == ' ' ? end + 1 : end;
    }
    return out->num_words > 0;
}

bool mla_tune_line_parse(const char *text, mla_tune_line *out)
{
    const char *colon = strstr(text, " : ");
    *out = (mla_tune_line){.num_words = 0};
    if (colon == NULL || (size_t)(colon - text) >= sizeof(out->key))
        return false;
    memcpy(out->key, text, (size_t)(colon - text));
    return parse_words(colon + 3, out);
}

/* "name=value ..." from text + used on. */
static void print_words(const mla_tune_line *line, char text[MLA_LINE_BYTES], size_t used)
{
    for (int i = 0; i < line->num_words && used < MLA_LINE_BYTES; i++) {
        const int length = snprintf(text + used, MLA_LINE_BYTES - used, "%s%s=%d", i > 0 ? " " : "",
                                    line->words[i].name, line->words[i].value);
        used += length > 0 ? (size_t)length : 0;
    }
}

void mla_tune_line_tile(const mla_tune_line *line, char text[MLA_LINE_BYTES])
{
    text[0] = '\0';
    print_words(line, text, 0);
}

void mla_tune_line_print(const mla_tune_line *line, char text[MLA_LINE_BYTES])
{
    const int length = snprintf(text, MLA_LINE_BYTES, "%s : ", line->key);
    print_words(line, text, length > 0 ? (size_t)length : 0);
}

int32_t *mla_tune_line_word(mla_tune_line *line, const char *name)
{
    for (int i = 0; i < line->num_words; i++)
        if (strcmp(line->words[i].name, name) == 0)
            return &line->words[i].value;
    return NULL;
}

void mla_tune_line_set(mla_tune_line *line, const char *words)
{
    mla_tune_line changes = {.num_words = 0};
    (void)parse_words(words, &changes);
    for (int i = 0; i < changes.num_words; i++) {
        int32_t *word = mla_tune_line_word(line, changes.words[i].name);
        if (word != NULL)
            *word = changes.words[i].value;
    }
}

bool mla_tune_line_set_rows(mla_tune_line *line, int32_t max_rows)
{
    static const char name[] = " max_rows=";
    char *at = strstr(line->key, name);
    if (at == NULL)
        return false;
    at += strlen(name); /* the last word of the key */
    if (max_rows == INT32_MAX)
        (void)snprintf(at, sizeof(line->key) - (size_t)(at - line->key), "any");
    else
        (void)snprintf(at, sizeof(line->key) - (size_t)(at - line->key), "%d", (int)max_rows);
    return true;
}

bool mla_tune_has_key(const char *text, const char *key)
{
    const char *end = strstr(key, " :");
    const size_t length = end != NULL ? (size_t)(end - key) : strlen(key);
    return strncmp(text, key, length) == 0 && strncmp(text + length, " :", 2) == 0;
}
