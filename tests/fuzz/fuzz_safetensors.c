/* A safetensors file: the header's length, its JSON, data. */
#include <stdlib.h>
#include <string.h>

#include "fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    clmla_safetensors *file = NULL;
    clmla_model_error error = {""};
    const clmla_status status = clmla_safetensors_open_memory(data, size, "input", &file, &error);
    fuzz_check_error(status, &error);
    if (status != CLMLA_SUCCESS)
        return 0;
    uint64_t total = 0;
    for (size_t i = 0; i < clmla_safetensors_count(file); i++) {
        const clmla_safetensors_tensor *const tensor = clmla_safetensors_at(file, i);
        char text[64];
        clmla_safetensors_describe(tensor, text, sizeof text);
        if (strlen(text) >= sizeof text || clmla_safetensors_find(file, tensor->name) != tensor)
            abort();
        fuzz_touch(tensor->data, (size_t)tensor->bytes);
        total += tensor->bytes;
    }
    if (total > size)
        abort();
    (void)clmla_safetensors_metadata(file, "format");
    (void)clmla_safetensors_find(file, "__metadata__");
    clmla_safetensors_close(file);
    return 0;
}
