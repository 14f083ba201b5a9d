#include "cli/hide.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "core/printable.h"

/* What may stand before a path: not "GB/s". */
static bool begins_word(const char *text, const char *at)
{
    return at == text || (!isalnum((unsigned char)at[-1]) && strchr("/._-~", at[-1]) == NULL);
}

static size_t word_length(const char *text) { return strcspn(text, " \t\"'`:;,()[]{}<>=|"); }

static bool looks_like_path(const char *text)
{
    const size_t dots = text[0] == '~' ? 1 : strspn(text, ".");
    size_t slashes = 0;
    for (size_t i = 0; i < word_length(text); i++)
        slashes += text[i] == '/';
    return slashes >= 2 || (dots <= 2 && text[dots] == '/');
}

/* Whether text begins with the path, as core/printable.h would show that. */
static bool begins_with(const char *text, const char *path)
{
    for (; *path != '\0'; text++, path++) {
        const bool shown = (unsigned char)*path < 0x80 && !mla__is_control(*path);
        if (*text != *path && (shown || (*text != '?' && *text != ' ')))
            return false;
    }
    return true;
}

/* The longest of the paths that text begins with, so that a file goes before its folder. */
static const mla_hidden *find_hidden(const char *text, const mla_hidden *hidden, size_t num_hidden)
{
    const mla_hidden *best = NULL;
    size_t best_length = 0;
    for (size_t i = 0; i < num_hidden; i++) {
        const size_t length = hidden[i].path != NULL ? strlen(hidden[i].path) : 0;
        if (length > best_length && begins_with(text, hidden[i].path)) {
            best = &hidden[i];
            best_length = length;
        }
    }
    return best;
}

void mla_hide_paths(const char *text, const mla_hidden *hidden, size_t num_hidden, char *out,
                    size_t bytes)
{
    size_t used = 0;
    out[0] = '\0';
    for (const char *at = text; *at != '\0' && used + 1 < bytes;) {
        const bool begins = begins_word(text, at);
        const mla_hidden *known = begins ? find_hidden(at, hidden, num_hidden) : NULL;
        if (known == NULL && !(begins && looks_like_path(at))) {
            out[used++] = *at++;
            out[used] = '\0';
            continue;
        }
        const int written =
            snprintf(out + used, bytes - used, "%s", known != NULL ? known->shown : "PATH");
        used += written > 0 ? (size_t)written : 0;
        at += known != NULL ? strlen(known->path) : 0;
        at += word_length(at);
    }
}
