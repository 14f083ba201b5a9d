/* A tuning record. What is accepted gives every entry once more as its own line, and a tile that no
 * kernel would refuse. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz/fuzz.h"
#include "tuning/record.h"
#include "tuning/record_device.h"

static char notified[2400];

static void remember(clmla_status status, const char *text, void *user)
{
    (void)status;
    (void)user;
    (void)snprintf(notified, sizeof notified, "%s", text);
}

/* The entry, written and read again, is the same line. */
static void check_entry(const clmla_context *context, const mla__record_entry *entry)
{
    static const char head[] = RECORD_HEADER;
    char line[1024], text[sizeof head + sizeof line + 1], again[sizeof line];
    const int length = mla__record_line(entry, line, sizeof line);
    if (length <= 0 || (size_t)length >= sizeof line)
        abort();
    const int bytes = snprintf(text, sizeof text, "%s%s\n", head, line);
    mla__record *record = NULL;
    if (mla__record_read(context, "again", text, (size_t)bytes, &record) != CLMLA_SUCCESS ||
        record == NULL || record->count != 1)
        abort();
    (void)mla__record_line(&record->entries[0], again, sizeof again);
    if (strcmp(line, again) != 0 || mla__record_find(record, &entry->key, 1) == NULL)
        abort();
    free(record);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const clmla_context context = record_context(remember);
    mla__record *record = NULL;
    notified[0] = '\0';
    const clmla_status status =
        mla__record_read(&context, "input", (const char *)data, size, &record);
    if (status != CLMLA_SUCCESS || record == NULL) { /* refused, or of another device */
        if (notified[0] == '\0' || (status != CLMLA_SUCCESS && record != NULL))
            abort();
        return 0;
    }
    fuzz_accepted++;
    for (int32_t i = 0; i < record->count; i++) {
        if (mla__record_fault(&context.device, &record->entries[i]) != NULL)
            abort();
        check_entry(&context, &record->entries[i]);
    }
    free(record);
    return 0;
}
