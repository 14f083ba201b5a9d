#include "ocl/retarget.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char mark[] = "//@sm_90a ";
static const char local_mark[] = "//@sm_90a.local ";

enum {
    ALIGNMENT = 1024,             /* of matrices whose rows are swizzled by 128 bytes */
    MOST_LOCAL_BYTES = 227 << 10, /* of a work-group on compute capability 9.0 */
    ROOM = 64                     /* by which target and array may grow */
};

typedef struct rewriter {
    char *out;
    size_t length;
    unsigned local_bytes; /* 0: not said yet */
    int marks, targets, arrays;
    const char *why; /* first reason against */
} rewriter;

static void refuse(rewriter *r, const char *why)
{
    if (r->why == NULL)
        r->why = why;
}

static void put(rewriter *r, const char *text, size_t length)
{
    memcpy(r->out + r->length, text, length);
    r->length += length;
}

/* The place of `word` in the line, or NULL. */
static const char *find(const char *line, size_t length, const char *word)
{
    const size_t word_length = strlen(word);
    for (size_t at = 0; at + word_length <= length; at++) {
        if (memcmp(line + at, word, word_length) == 0)
            return line + at;
    }
    return NULL;
}

/* Starts of lines as text that ends: what is of interest in them is short. */
typedef struct head {
    char text[256];
} head;

static head head_of(const char *from, const char *end)
{
    head h = {""};
    const size_t length = (size_t)(end - from);
    const size_t taken = length < sizeof h.text - 1 ? length : sizeof h.text - 1;
    memcpy(h.text, from, taken);
    return h;
}

/* ".target sm_90, texmode_independent" */
static void rewrite_target(rewriter *r, const char *line, const char *end, const char *target)
{
    static const char plain[] = ".target sm_90";
    const head h = head_of(target, end);
    const char after = h.text[sizeof plain - 1];
    const bool same = strncmp(h.text, plain, sizeof plain - 1) == 0;
    if (same && after == 'a')
        refuse(r, "the driver's PTX is for sm_90a already");
    else if (!same || strchr(", \t\r\n", after) == NULL) /* finds the end, too */
        refuse(r, "the driver's PTX is not for target sm_90");
    const char *rest = target + (same ? sizeof plain - 1 : 0);
    put(r, line, (size_t)(rest - line));
    put(r, "a", 1);
    put(r, rest, (size_t)(end - rest));
    r->targets++;
}

/* ".shared .align 16 .b8 name[1024];" */
static void rewrite_array(rewriter *r, const char *line, const char *end, const char *shared)
{
    const head h = head_of(shared, end);
    char name[128];
    unsigned align, bytes;
    /* NOLINTNEXTLINE(cert-err34-c): nine digits always fit */
    if (sscanf(h.text, ".shared .align %9u .b8 %127[^[ \t][%9u];", &align, name, &bytes) != 3 ||
        r->local_bytes < bytes) {
        refuse(r, "the driver's PTX has a local array of another form");
        return;
    }
    char array[ROOM + sizeof h.text];
    const int length = snprintf(array, sizeof array, ".shared .align %u .b8 %s[%u];\n",
                                align > ALIGNMENT ? align : ALIGNMENT, name, r->local_bytes);
    put(r, line, (size_t)(shared - line));
    put(r, array, (size_t)length);
    r->arrays++;
}

/* A line and its end. */
static void rewrite_line(rewriter *r, const char *line, const char *end)
{
    const size_t length = (size_t)(end - line);
    const char *at = find(line, length, mark);
    if (at != NULL) {
        put(r, line, (size_t)(at - line));
        put(r, at + sizeof mark - 1, (size_t)(end - at) - (sizeof mark - 1));
        r->marks++;
    } else if ((at = find(line, length, ".target ")) != NULL) {
        rewrite_target(r, line, end, at);
    } else if ((at = find(line, length, ".shared .align ")) != NULL &&
               find(line, length, "[") != NULL) {
        rewrite_array(r, line, end, at);
    } else {
        put(r, line, length);
    }
}

/* What has to be known before any line is rewritten. */
static void read_ahead(rewriter *r, const char *text, size_t length)
{
    const char *const end = text + length;
    const char *const version = find(text, length, ".version ");
    const char *const local = find(text, length, local_mark);
    unsigned major = 0;
    /* Nine digits always fit. NOLINTBEGIN(cert-err34-c) */
    if (version == NULL || memchr(text, '\0', length) != NULL ||
        sscanf(head_of(version, end).text, ".version %9u.", &major) != 1)
        refuse(r, "the driver's program binary is not PTX");
    else if (major < 8)
        refuse(r, "the driver's PTX is older than version 8.0");
    else if (local == NULL ||
             sscanf(head_of(local, end).text, "//@sm_90a.local %9u", &r->local_bytes) != 1)
        refuse(r, "the driver's PTX lacks the marks of instructions for sm_90a");
    else if (r->local_bytes > MOST_LOCAL_BYTES)
        refuse(r, "the kernel's local memory is more than sm_90a has");
    /* NOLINTEND(cert-err34-c) */
}

char *mla__retarget_sm_90a(const char *binary, size_t bytes, const char **why)
{
    rewriter r = {.why = NULL};
    while (bytes > 0 && binary[bytes - 1] == '\0')
        bytes--;
    read_ahead(&r, binary, bytes);
    r.out = r.why == NULL ? malloc(bytes + ROOM) : NULL;
    if (r.why == NULL && r.out == NULL)
        refuse(&r, "no host memory for the driver's PTX");
    const char *const end = binary + bytes;
    for (const char *line = binary, *next; line < end && r.why == NULL; line = next) {
        const char *const newline = memchr(line, '\n', (size_t)(end - line));
        next = newline == NULL ? end : newline + 1;
        rewrite_line(&r, line, next);
        if (r.targets > 1 || r.arrays > 1)
            refuse(&r, "the driver's PTX has more than one target or local array");
    }
    if (r.marks == 0)
        refuse(&r, "the driver's PTX lacks the marks of instructions for sm_90a");
    if (r.targets == 0)
        refuse(&r, "the driver's PTX is not for target sm_90");
    if (r.arrays == 0)
        refuse(&r, "the driver's PTX has no local array");
    if (r.why != NULL) {
        *why = r.why;
        free(r.out);
        return NULL;
    }
    r.out[r.length] = '\0';
    return r.out;
}
