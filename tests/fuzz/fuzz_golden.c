/*
 * The __metadata__ of a golden case, as JSON, in front of the tensors of
 * tests/golden/02_tiny_decode.safetensors. What is drawn by a recipe is of sizes that the metadata
 * says, so that of large ones is stopped.
 */
#include <stdlib.h>
#include <string.h>

#include "cli/golden.h"
#include "core/os.h"
#include "fuzz/fuzz.h"

static const char metadata_key[] = "{\"__metadata__\":";

/* The base file in parts: its header from the first tensor's key on, and its data. */
typedef struct base_file {
    const char *entries;
    size_t entries_bytes;
    const char *data;
    size_t data_bytes;
} base_file;

static base_file read_base(void)
{
    static char *file;
    size_t bytes;
    if (mla__os_read_file(FUZZ_GOLDEN, &file, &bytes) != CLMLA_SUCCESS || bytes < 8)
        abort();
    size_t length = 0;
    for (int i = 7; i >= 0; i--)
        length = length << 8 | (unsigned char)file[i];
    char *const header = file + 8;
    const char *const data = header + length;
    header[length - 1] = '\0'; /* a blank: headers are filled up */
    const char *const end = strstr(header, "\"},\""), *const last = strrchr(header, '}');
    if (strncmp(header, metadata_key, sizeof metadata_key - 1) != 0 || end == NULL || last == NULL)
        abort();
    return (base_file){end + 2, (size_t)(last - (end + 2)), data, bytes - 8 - length};
}

/* Such a file of this metadata; NULL: out of memory. To be freed. */
static uint8_t *compose(const base_file *base, const uint8_t *metadata, size_t size, size_t *bytes)
{
    const size_t key = sizeof metadata_key - 1;
    const size_t used = key + size + base->entries_bytes + 1;
    const size_t length = (used + 7) / 8 * 8; /* data are aligned as in the base file */
    uint8_t *const file = malloc(8 + length + base->data_bytes);
    if (file == NULL)
        return NULL;
    for (size_t i = 0; i < 8; i++)
        file[i] = (uint8_t)(length >> 8 * i);
    memcpy(file + 8, metadata_key, key);
    if (size > 0)
        memcpy(file + 8 + key, metadata, size);
    memcpy(file + 8 + key + size, base->entries, base->entries_bytes);
    memset(file + 8 + used - 1, ' ', length - used + 1);
    file[8 + used - 1] = '}';
    memcpy(file + 8 + length, base->data, base->data_bytes);
    *bytes = 8 + length + base->data_bytes;
    return file;
}

static bool not_much(const char *what, void *user)
{
    (void)what;
    (void)user;
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static base_file base;
    if (base.entries == NULL)
        base = read_base();
    size_t bytes = 0;
    uint8_t *const file = compose(&base, data, size, &bytes);
    if (file == NULL)
        return 0;
    mla_golden golden = {.file = NULL};
    clmla_model_error error = {""};
    const clmla_status status = mla_golden_open(fuzz_file("case.safetensors", file, bytes),
                                                not_much, NULL, &golden, &error);
    free(file);
    fuzz_check_error(status, &error);
    if (status != CLMLA_SUCCESS)
        return 0;
    for (int32_t r = 0; r < golden.job.num_requests; r++) {
        const mla_request *const request = &golden.job.requests[r];
        for (int32_t i = 0; i < request->num_steps; i++)
            fuzz_touch(request->hidden[i].data, (size_t)request->batch * (size_t)request->steps[i] *
                                                    (size_t)golden.job.config.hidden_size * 2);
    }
    mla_golden_close(&golden);
    return 0;
}
