/*
 * The record that a search writes: lines by the key they are for, in groups with remarks on where
 * they come from. Lines of earlier searches stay with their remarks until a better one of their key
 * takes their place.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/message.h"
#include "cli/output.h"
#include "cli/tune.h"
#include "core/os.h"

/* Remarks have a group's number and go before its entries. */
typedef struct record_line {
    char *text; /* no line feed */
    int group;
    bool is_entry;
} record_line;

struct mla_tune_record {
    const mla_session *session;
    const char *path;
    char header[640];
    record_line *lines;
    size_t num_lines;
    int num_groups; /* the last is this search's */
};

/* ---- lines ----------------------------------------------------------------------------------- */

static bool add_line(mla_tune_record *record, const char *text, size_t length, bool is_entry)
{
    record_line *lines = realloc(record->lines, (record->num_lines + 1) * sizeof(*record->lines));
    char *copy = malloc(length + 1);
    if (lines != NULL)
        record->lines = lines;
    if (lines == NULL || copy == NULL) {
        free(copy);
        return false;
    }
    memcpy(copy, text, length);
    copy[length] = '\0';
    lines[record->num_lines++] = (record_line){copy, record->num_groups - 1, is_entry};
    return true;
}

/* Kernels' names have an underscore, remarks' none. */
static bool is_entry_line(const char *line)
{
    return line[0] != '#' && line[strcspn(line, "_ \n")] == '_';
}

/* A remark after an entry begins a group. */
static bool add_text(mla_tune_record *record, const char *text)
{
    bool after_entry = true;
    for (const char *at = text; *at != '\0';) {
        const size_t length = strcspn(at, "\n");
        const bool is_entry = is_entry_line(at);
        if (after_entry && !is_entry)
            record->num_groups++;
        if (length > 0 && !add_line(record, at, length, is_entry))
            return false;
        after_entry = is_entry;
        at += length + (at[length] == '\n');
    }
    return true;
}

/* ---- reading --------------------------------------------------------------------------------- */

/* Whether the library takes the text; prints why not. */
static bool is_accepted(const mla_session *session, const char *path, const char *text)
{
    mla_session tried;
    const clmla_status status = mla_session_open_tuned(session, text, &tried);
    if (status != CLMLA_SUCCESS)
        mla_error("%s: %s", path,
                  tried.detail[0] != '\0' ? tried.detail : clmla_status_name(status));
    mla_session_close(&tried);
    return status == CLMLA_SUCCESS;
}

/* What is there already. */
static bool read_existing(mla_tune_record *record)
{
    char *text = NULL;
    size_t bytes = 0;
    if (!mla__os_exists(record->path))
        return true;
    if (mla__os_is_special_file(record->path) ||
        mla__os_read_file(record->path, &text, &bytes) != CLMLA_SUCCESS) {
        mla_error("%s: cannot be read as a tuning record", record->path);
        return false;
    }
    const size_t header = strlen(record->header);
    bool taken = false;
    if (strlen(text) != bytes || strncmp(text, "clmla-tuning 1\n", 15) != 0)
        mla_error("%s: is no tuning record; --tuning must name one, or a file that does not exist",
                  record->path);
    else if (strncmp(text, record->header, header) != 0)
        mla_error("%s: is of another device or driver version than '%s' %s; --tuning must name "
                  "another file",
                  record->path, record->session->device->name,
                  record->session->device->driver_version);
    else if (is_accepted(record->session, record->path, text))
        taken = add_text(record, text + header);
    free(text);
    return taken;
}

bool mla_tune_record_open(const mla_session *session, const char *path, const char *remarks,
                          mla_tune_record **out)
{
    mla_tune_record *record = calloc(1, sizeof(*record));
    *out = record;
    if (record == NULL) {
        mla_error("out of memory");
        return false;
    }
    record->session = session;
    record->path = path;
    (void)snprintf(record->header, sizeof(record->header), "clmla-tuning 1\ndevice %s\ndriver %s\n",
                   session->device->name, session->device->driver_version);
    return read_existing(record) && add_text(record, remarks);
}

void mla_tune_record_release(mla_tune_record *record)
{
    for (size_t i = 0; record != NULL && i < record->num_lines; i++)
        free(record->lines[i].text);
    if (record != NULL)
        free(record->lines);
    free(record);
}

bool mla_tune_record_has(const mla_tune_record *record, const char *key)
{
    for (size_t i = 0; i < record->num_lines; i++)
        if (record->lines[i].is_entry && mla_tune_has_key(record->lines[i].text, key))
            return true;
    return false;
}

/* ---- writing --------------------------------------------------------------------------------- */

static void append(char *text, size_t *used, const char *line)
{
    const size_t length = strlen(line);
    /* NOLINTNEXTLINE(bugprone-not-null-terminated-result): the caller ends the text */
    memcpy(text + *used, line, length);
    text[*used + length] = '\n';
    *used += length + 1;
}

/* Whether an entry of the group stays beside `line`. */
static bool group_stays(const mla_tune_record *record, int group, const char *line)
{
    bool stays = line != NULL && group == record->num_groups - 1;
    for (size_t i = 0; i < record->num_lines; i++) {
        const record_line *other = &record->lines[i];
        stays = stays || (other->group == group && other->is_entry &&
                          (line == NULL || !mla_tune_has_key(other->text, line)));
    }
    return stays;
}

char *mla_tune_record_text(const mla_tune_record *record, const char *line)
{
    size_t bytes = sizeof(record->header) + (line != NULL ? strlen(line) : 0) + 2;
    for (size_t i = 0; i < record->num_lines; i++)
        bytes += strlen(record->lines[i].text) + 1;
    char *text = malloc(bytes);
    if (text == NULL)
        return NULL;
    size_t used = (size_t)snprintf(text, bytes, "%s", record->header);
    for (size_t i = 0; i < record->num_lines; i++) {
        const record_line *other = &record->lines[i];
        const bool stays = other->is_entry ? line == NULL || !mla_tune_has_key(other->text, line)
                                           : group_stays(record, other->group, line);
        if (stays)
            append(text, &used, other->text);
    }
    if (line != NULL)
        append(text, &used, line); /* of the last group, whose remarks stand last */
    text[used] = '\0';
    return text;
}

clmla_status mla_tune_record_session(const mla_tune_record *record, const mla_session *session,
                                     const char *line, mla_session *out)
{
    char *text = mla_tune_record_text(record, line);
    *out = (mla_session){.common = session->common};
    if (text == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    const clmla_status status = mla_session_open_tuned(session, text, out);
    free(text);
    return status;
}

/* Lines that the new one takes the place of. */
static void drop_key(mla_tune_record *record, const char *line)
{
    size_t kept = 0;
    for (size_t i = 0; i < record->num_lines; i++) {
        if (record->lines[i].is_entry && mla_tune_has_key(record->lines[i].text, line))
            free(record->lines[i].text);
        else
            record->lines[kept++] = record->lines[i];
    }
    record->num_lines = kept;
}

bool mla_tune_record_put(mla_tune_record *record, const char *line)
{
    drop_key(record, line);
    char *text = NULL;
    if (add_line(record, line, strlen(line), true))
        text = mla_tune_record_text(record, NULL);
    if (text == NULL) {
        mla_error("out of memory");
        return false;
    }
    const bool written = is_accepted(record->session, record->path, text) &&
                         mla_output_write(record->path, text, strlen(text));
    free(text);
    return written;
}
