/*
 * Writes a safetensors file: header padded with blanks to a multiple of 8, data in the caller's
 * order without gaps. The file is complete under a temporary name beside it before it takes the
 * name that was asked for; a device or pipe is written in place.
 */
#include <errno.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/checked.h"
#include "core/os.h"
#include "model/error.h"
#include "model/safetensors.h"

enum { LENGTH_BYTES = 8, MAX_RANK = 8 };

static clmla_status no_memory(const char *path, clmla_model_error *error)
{
    return mla__model_fail(error, CL_OUT_OF_HOST_MEMORY, "%s: no memory for its header",
                           mla__model_short_path(path));
}

static clmla_status bad_tensor(const char *path, const clmla_safetensors_tensor *tensor,
                               const char *what, clmla_model_error *error)
{
    return mla__model_fail(error, CLMLA_INVALID_ARGUMENT, "%s: tensor '%.120s': %s",
                           mla__model_short_path(path),
                           tensor->name != NULL ? tensor->name : "(null)", what);
}

/* Bytes of a tensor that fit into memory. */
static bool tensor_bytes(const clmla_safetensors_tensor *tensor, uint64_t *bytes)
{
    uint64_t num_elements;
    return mla__safetensors_size(tensor, &num_elements, bytes) && *bytes <= SIZE_MAX;
}

/* A tensor's entry in the header; NULL: no memory. Integers beyond 2^63 cannot be written. */
static json_t *tensor_entry(const clmla_safetensors_tensor *tensor, uint64_t begin, uint64_t end)
{
    json_t *shape = json_array();
    for (int32_t i = 0; i < tensor->rank && shape != NULL; i++) {
        if (json_array_append_new(shape, json_integer((json_int_t)tensor->shape[i])) != 0) {
            json_decref(shape);
            shape = NULL;
        }
    }
    if (shape == NULL)
        return NULL;
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", clmla_safetensors_dtype_name(tensor->dtype),
                     "shape", shape, "data_offsets", (json_int_t)begin, (json_int_t)end);
}

static clmla_status add_tensor(const char *path, const clmla_safetensors_tensor *tensor,
                               json_t *header, uint64_t *offset, clmla_model_error *error)
{
    uint64_t bytes;
    uint64_t end;
    json_t *entry;
    json_t *name;

    if (tensor->name == NULL || strcmp(tensor->name, "__metadata__") == 0)
        return bad_tensor(path, tensor, "not a name a tensor can have", error);
    if (json_object_get(header, tensor->name) != NULL)
        return bad_tensor(path, tensor, "the name occurs twice", error);
    if (!mla__safetensors_knows(tensor->dtype))
        return bad_tensor(path, tensor, "unknown dtype", error);
    if (tensor->rank < 0 || tensor->rank > MAX_RANK)
        return bad_tensor(path, tensor, "rank is not 0 to 8", error);
    for (int32_t i = 0; i < tensor->rank; i++)
        if (tensor->shape[i] > INT64_MAX)
            return bad_tensor(path, tensor, "a dimension passes 2^63", error);
    if (!tensor_bytes(tensor, &bytes) || !mla__checked_add(*offset, bytes, &end) || end > INT64_MAX)
        return bad_tensor(path, tensor, "too large, or no number of bytes", error);
    if (tensor->data == NULL && bytes != 0)
        return bad_tensor(path, tensor, "data is NULL", error);

    name = json_string(tensor->name); /* fails on text that is not UTF-8 */
    if (name == NULL)
        return bad_tensor(path, tensor, "the name is not UTF-8", error);
    json_decref(name);
    entry = tensor_entry(tensor, *offset, end);
    if (entry == NULL || json_object_set_new(header, tensor->name, entry) != 0)
        return no_memory(path, error);
    *offset = end;
    return CLMLA_SUCCESS;
}

static clmla_status add_metadata(const char *path, const char *const *pairs, size_t num_pairs,
                                 json_t *header, clmla_model_error *error)
{
    json_t *metadata;
    if (num_pairs == 0)
        return CLMLA_SUCCESS;
    metadata = json_object();
    if (metadata == NULL || json_object_set_new(header, "__metadata__", metadata) != 0)
        return no_memory(path, error);
    for (size_t i = 0; i < num_pairs; i++) {
        const char *key = pairs[2 * i];
        const char *value = pairs[2 * i + 1];
        json_t *text = value != NULL ? json_string(value) : NULL;
        if (key == NULL || text == NULL || json_object_get(metadata, key) != NULL ||
            json_object_set(metadata, key, text) != 0) {
            json_decref(text);
            return mla__model_fail(error, CLMLA_INVALID_ARGUMENT,
                                   "%s: metadata key '%.120s': missing, twice, or not UTF-8",
                                   mla__model_short_path(path), key != NULL ? key : "(null)");
        }
        json_decref(text);
    }
    return CLMLA_SUCCESS;
}

/* The header's JSON; the caller frees it. */
static clmla_status make_header(const char *path, const clmla_safetensors_tensor *tensors,
                                size_t num_tensors, const char *const *metadata,
                                size_t num_metadata, char **text, clmla_model_error *error)
{
    clmla_status status;
    uint64_t offset = 0;
    json_t *header = json_object();
    if (header == NULL)
        return no_memory(path, error);
    status = add_metadata(path, metadata, num_metadata, header, error);
    for (size_t i = 0; i < num_tensors && status == CLMLA_SUCCESS; i++)
        status = add_tensor(path, &tensors[i], header, &offset, error);
    if (status == CLMLA_SUCCESS) {
        *text = json_dumps(header, JSON_COMPACT);
        if (*text == NULL)
            status = no_memory(path, error);
    }
    json_decref(header);
    return status;
}

static bool write_all(FILE *stream, const char *header, const clmla_safetensors_tensor *tensors,
                      size_t num_tensors)
{
    static const char blanks[8] = "        ";
    const size_t length = strlen(header);
    const size_t padding = (8 - length % 8) % 8;
    unsigned char length_bytes[LENGTH_BYTES];

    for (int i = 0; i < LENGTH_BYTES; i++)
        length_bytes[i] = (unsigned char)((uint64_t)(length + padding) >> (8 * i));
    if (fwrite(length_bytes, 1, LENGTH_BYTES, stream) != LENGTH_BYTES ||
        fwrite(header, 1, length, stream) != length ||
        fwrite(blanks, 1, padding, stream) != padding)
        return false;
    for (size_t i = 0; i < num_tensors; i++) {
        uint64_t bytes = 0;
        if (!tensor_bytes(&tensors[i], &bytes))
            return false;
        if (bytes != 0 && fwrite(tensors[i].data, 1, (size_t)bytes, stream) != (size_t)bytes)
            return false;
    }
    return fflush(stream) == 0;
}

/* Opens a new file beside path under a name that nothing has yet; temporary has room for it. */
static FILE *open_temporary(const char *path, char *temporary, size_t bytes)
{
    enum { ATTEMPTS = 100 };
    FILE *stream = NULL;
    for (int i = 0; i < ATTEMPTS && stream == NULL; i++) {
        (void)snprintf(temporary, bytes, "%s.%d.tmp", path, i);
        errno = 0;
        stream = fopen(temporary, "wbx");
        if (stream == NULL && errno != EEXIST)
            break;
    }
    return stream;
}

static clmla_status write_file(const char *path, const char *header,
                               const clmla_safetensors_tensor *tensors, size_t num_tensors,
                               clmla_model_error *error)
{
    const size_t name_bytes = strlen(path) + sizeof ".100.tmp";
    char *temporary = malloc(name_bytes);
    const bool in_place = mla__os_is_special_file(path);
    FILE *stream;
    bool complete;
    int code;

    if (temporary == NULL)
        return no_memory(path, error);
    stream = in_place ? fopen(path, "wb") : open_temporary(path, temporary, name_bytes);
    complete = stream != NULL && write_all(stream, header, tensors, num_tensors);
    code = errno;
    if (stream != NULL) {
        if (fclose(stream) != 0) {
            code = complete ? errno : code;
            complete = false;
        }
        if (complete && !in_place && rename(temporary, path) != 0) {
            code = errno;
            complete = false;
        }
        if (!complete && !in_place)
            (void)remove(temporary);
    }
    free(temporary);
    if (!complete)
        return mla__model_fail(error, CLMLA_IO, "%s: cannot be written: %s",
                               mla__model_short_path(path), mla__os_error_text(code));
    return CLMLA_SUCCESS;
}

clmla_status clmla_safetensors_write(const char *path, const clmla_safetensors_tensor *tensors,
                                     size_t num_tensors, const char *const *metadata,
                                     size_t num_metadata, clmla_model_error *error)
{
    char *header = NULL;
    clmla_status status;
    if (path == NULL || (tensors == NULL && num_tensors != 0) ||
        (metadata == NULL && num_metadata != 0))
        return mla__model_fail(error, CLMLA_INVALID_ARGUMENT,
                               "safetensors: path, tensors or metadata is NULL");
    status = make_header(path, tensors, num_tensors, metadata, num_metadata, &header, error);
    if (status == CLMLA_SUCCESS)
        status = write_file(path, header, tensors, num_tensors, error);
    free(header);
    return status;
}
