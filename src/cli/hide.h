/*
 * Texts without paths: for what is sent to others.
 */
#ifndef CLMLA_CLI_HIDE_H
#define CLMLA_CLI_HIDE_H

#include <stddef.h>

/* A path that a text may hold, and what to show in its place. */
typedef struct mla_hidden {
    const char *path; /* NULL, "": nothing to look for */
    char shown[24];
} mla_hidden;

/* Copies text with each of the paths replaced, and "PATH" for other words that begin with "/", "~/",
 * "./" or "../" or have two slashes. A path goes on to the word's end, so names in a directory go
 * with it. Cut off where out ends. */
void mla_hide_paths(const char *text, const mla_hidden *hidden, size_t num_hidden, char *out,
                    size_t bytes);

#endif
