/*
 * safetensors: u64 little-endian header length | JSON header | data. Source of the rules: the
 * format section of huggingface/safetensors' README; the reader refuses whatever that refuses.
 */
#include "model/safetensors.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/checked.h"
#include "core/os.h"
#include "model/error.h"

enum { LENGTH_BYTES = 8, MAX_RANK = 8, MAX_HEADER_BYTES = 100000000, MAX_TENSORS = 1000000 };

typedef struct dtype_info {
    const char *name;
    unsigned bits;
} dtype_info;

static const dtype_info dtypes[] = {
    [CLMLA_ST_BOOL] = {"BOOL", 8},
    [CLMLA_ST_U8] = {"U8", 8},
    [CLMLA_ST_I8] = {"I8", 8},
    [CLMLA_ST_F8_E5M2] = {"F8_E5M2", 8},
    [CLMLA_ST_F8_E4M3] = {"F8_E4M3", 8},
    [CLMLA_ST_I16] = {"I16", 16},
    [CLMLA_ST_U16] = {"U16", 16},
    [CLMLA_ST_F16] = {"F16", 16},
    [CLMLA_ST_BF16] = {"BF16", 16},
    [CLMLA_ST_I32] = {"I32", 32},
    [CLMLA_ST_U32] = {"U32", 32},
    [CLMLA_ST_F32] = {"F32", 32},
    [CLMLA_ST_F64] = {"F64", 64},
    [CLMLA_ST_I64] = {"I64", 64},
    [CLMLA_ST_U64] = {"U64", 64},
    [CLMLA_ST_F8_E8M0] = {"F8_E8M0", 8},
    [CLMLA_ST_F8_E4M3FNUZ] = {"F8_E4M3FNUZ", 8},
    [CLMLA_ST_F8_E5M2FNUZ] = {"F8_E5M2FNUZ", 8},
    [CLMLA_ST_C64] = {"C64", 64},
    [CLMLA_ST_F4] = {"F4", 4},
    [CLMLA_ST_F6_E2M3] = {"F6_E2M3", 6},
    [CLMLA_ST_F6_E3M2] = {"F6_E3M2", 6},
};

enum { NUM_DTYPES = sizeof dtypes / sizeof dtypes[0] };

struct clmla_safetensors {
    const char *name; /* for messages, valid during open only */
    mla__os_map map;  /* data == NULL when the memory is the caller's */
    const unsigned char *data;
    uint64_t data_bytes;
    json_t *header; /* owns the tensors' names and the metadata */
    size_t count;
    clmla_safetensors_tensor *tensors; /* in the order of the header */
    const clmla_safetensors_tensor **by_name;
};

bool mla__safetensors_knows(clmla_safetensors_dtype dtype)
{
    return dtype >= CLMLA_ST_BOOL && dtype < NUM_DTYPES;
}

const char *clmla_safetensors_dtype_name(clmla_safetensors_dtype dtype)
{
    return mla__safetensors_knows(dtype) ? dtypes[dtype].name : "unknown";
}

size_t clmla_safetensors_dtype_bytes(clmla_safetensors_dtype dtype)
{
    return mla__safetensors_knows(dtype) ? dtypes[dtype].bits / 8 : 0;
}

bool mla__safetensors_size(const clmla_safetensors_tensor *tensor, uint64_t *num_elements,
                           uint64_t *bytes)
{
    const unsigned bits = dtypes[tensor->dtype].bits;
    uint64_t count = 1;
    uint64_t size;
    for (int32_t i = 0; i < tensor->rank; i++)
        if (!mla__checked_mul(count, tensor->shape[i], &count))
            return false;
    if (bits % 8 == 0) {
        if (!mla__checked_mul(count, bits / 8, &size))
            return false;
    } else {
        if (!mla__checked_mul(count, bits, &size) || size % 8 != 0)
            return false;
        size /= 8;
    }
    *num_elements = count;
    *bytes = size;
    return true;
}

/* 0: no such dtype. */
static clmla_safetensors_dtype dtype_from_name(const char *name)
{
    for (clmla_safetensors_dtype dtype = CLMLA_ST_BOOL; dtype < NUM_DTYPES; dtype++)
        if (strcmp(dtypes[dtype].name, name) == 0)
            return dtype;
    return 0;
}

static bool is_count(const json_t *value)
{
    return json_is_integer(value) && json_integer_value(value) >= 0;
}

static const char *file_name(const clmla_safetensors *file)
{
    return mla__model_short_path(file->name);
}

static clmla_status bad_tensor(const clmla_safetensors *file, const char *tensor, const char *what,
                               clmla_model_error *error)
{
    return mla__model_fail(error, CLMLA_BAD_FILE, "%s: tensor '%.120s': %s", file_name(file),
                           tensor, what);
}

void clmla_safetensors_describe(const clmla_safetensors_tensor *tensor, char *text, size_t capacity)
{
    size_t at = 0;
    if (capacity > 0)
        text[0] = '\0';
    for (int32_t i = -1; i <= tensor->rank && at < capacity; i++) {
        const char *before = i == 0 ? "" : ", ";
        const int written =
            i == -1 ? snprintf(text, capacity, "%s [", clmla_safetensors_dtype_name(tensor->dtype))
            : i == tensor->rank ? snprintf(text + at, capacity - at, "]")
                                : snprintf(text + at, capacity - at, "%s%llu", before,
                                           (unsigned long long)tensor->shape[i]);
        at += written > 0 ? (size_t)written : 0;
    }
}

static clmla_status read_shape(const clmla_safetensors *file, const json_t *shape,
                               clmla_safetensors_tensor *tensor, clmla_model_error *error)
{
    if (!json_is_array(shape))
        return bad_tensor(file, tensor->name, "shape is not a list of integers >= 0", error);
    if (json_array_size(shape) > MAX_RANK)
        return mla__model_fail(error, CLMLA_BAD_FILE,
                               "%s: tensor '%.120s': %zu dimensions; at most %d are accepted",
                               file_name(file), tensor->name, json_array_size(shape), MAX_RANK);
    tensor->rank = (int32_t)json_array_size(shape);
    for (int32_t i = 0; i < tensor->rank; i++) {
        const json_t *size = json_array_get(shape, (size_t)i);
        if (!is_count(size))
            return bad_tensor(file, tensor->name, "shape is not a list of integers >= 0", error);
        tensor->shape[i] = (uint64_t)json_integer_value(size);
    }
    if (!mla__safetensors_size(tensor, &tensor->num_elements, &tensor->bytes))
        return bad_tensor(file, tensor->name, "its size passes 2^64 or is no number of bytes",
                          error);
    return CLMLA_SUCCESS;
}

static clmla_status read_offsets(const clmla_safetensors *file, const json_t *offsets,
                                 clmla_safetensors_tensor *tensor, clmla_model_error *error)
{
    uint64_t begin;
    uint64_t end;
    if (!json_is_array(offsets) || json_array_size(offsets) != 2 ||
        !is_count(json_array_get(offsets, 0)) || !is_count(json_array_get(offsets, 1)))
        return bad_tensor(file, tensor->name, "data_offsets are not two integers >= 0", error);
    begin = (uint64_t)json_integer_value(json_array_get(offsets, 0));
    end = (uint64_t)json_integer_value(json_array_get(offsets, 1));
    if (begin > end || end > file->data_bytes)
        return mla__model_fail(error, CLMLA_BAD_FILE,
                               "%s: tensor '%.120s': data_offsets [%llu, %llu] do not lie in the "
                               "%llu bytes of data",
                               file_name(file), tensor->name, (unsigned long long)begin,
                               (unsigned long long)end, (unsigned long long)file->data_bytes);
    if (end - begin != tensor->bytes) {
        char is[192];
        clmla_safetensors_describe(tensor, is, sizeof is);
        return mla__model_fail(error, CLMLA_BAD_FILE,
                               "%s: tensor '%.120s': data_offsets [%llu, %llu] do not match %s "
                               "(%llu bytes)",
                               file_name(file), tensor->name, (unsigned long long)begin,
                               (unsigned long long)end, is, (unsigned long long)tensor->bytes);
    }
    tensor->data = file->data + begin;
    return CLMLA_SUCCESS;
}

static clmla_status read_tensor(const clmla_safetensors *file, const char *name, json_t *entry,
                                clmla_safetensors_tensor *tensor, clmla_model_error *error)
{
    const char *key;
    json_t *value;
    clmla_status status;
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));

    memset(tensor, 0, sizeof *tensor);
    tensor->name = name;
    if (!json_is_object(entry))
        return bad_tensor(file, name, "its entry is not an object", error);
    json_object_foreach(entry, key, value)
    {
        if (strcmp(key, "dtype") != 0 && strcmp(key, "shape") != 0 &&
            strcmp(key, "data_offsets") != 0)
            return mla__model_fail(error, CLMLA_BAD_FILE,
                                   "%s: tensor '%.120s': unknown key '%.60s'; a tensor has dtype, "
                                   "shape and data_offsets",
                                   file_name(file), name, key);
    }
    if (dtype == NULL)
        return bad_tensor(file, name, "dtype is missing or no string", error);
    tensor->dtype = dtype_from_name(dtype);
    if (tensor->dtype == 0)
        return mla__model_fail(error, CLMLA_BAD_FILE, "%s: tensor '%.120s': unknown dtype '%.40s'",
                               file_name(file), name, dtype);
    status = read_shape(file, json_object_get(entry, "shape"), tensor, error);
    if (status == CLMLA_SUCCESS)
        status = read_offsets(file, json_object_get(entry, "data_offsets"), tensor, error);
    return status;
}

static clmla_status check_metadata(const clmla_safetensors *file, clmla_model_error *error)
{
    json_t *metadata = json_object_get(file->header, "__metadata__");
    const char *key;
    json_t *value;
    if (metadata == NULL)
        return CLMLA_SUCCESS;
    if (!json_is_object(metadata))
        return mla__model_fail(error, CLMLA_BAD_FILE, "%s: __metadata__ is not an object",
                               file_name(file));
    json_object_foreach(metadata, key, value)
    {
        if (!json_is_string(value))
            return mla__model_fail(error, CLMLA_BAD_FILE,
                                   "%s: __metadata__: the value of '%.120s' is not a string",
                                   file_name(file), key);
    }
    return CLMLA_SUCCESS;
}

static int compare_places(const void *left, const void *right)
{
    const clmla_safetensors_tensor *a = *(const clmla_safetensors_tensor *const *)left;
    const clmla_safetensors_tensor *b = *(const clmla_safetensors_tensor *const *)right;
    const unsigned char *a_data = a->data;
    const unsigned char *b_data = b->data;
    if (a_data != b_data)
        return a_data < b_data ? -1 : 1;
    return a->bytes < b->bytes ? -1 : a->bytes > b->bytes; /* empty ones first */
}

static int compare_names(const void *left, const void *right)
{
    const clmla_safetensors_tensor *a = *(const clmla_safetensors_tensor *const *)left;
    const clmla_safetensors_tensor *b = *(const clmla_safetensors_tensor *const *)right;
    return strcmp(a->name, b->name);
}

/* The tensors must cover the data once: no overlap, no gap. Uses by_name as scratch. */
static clmla_status check_cover(const clmla_safetensors *file, clmla_model_error *error)
{
    uint64_t expected = 0;
    qsort(file->by_name, file->count, sizeof file->by_name[0], compare_places);
    for (size_t i = 0; i < file->count; i++) {
        const clmla_safetensors_tensor *tensor = file->by_name[i];
        const uint64_t begin = (uint64_t)((const unsigned char *)tensor->data - file->data);
        if (begin < expected)
            return mla__model_fail(error, CLMLA_BAD_FILE,
                                   "%s: tensor '%.120s' overlaps tensor '%.120s' at offset %llu",
                                   file_name(file), tensor->name, file->by_name[i - 1]->name,
                                   (unsigned long long)begin);
        if (begin > expected)
            return mla__model_fail(error, CLMLA_BAD_FILE,
                                   "%s: tensor '%.120s': %llu bytes before it belong to no tensor",
                                   file_name(file), tensor->name,
                                   (unsigned long long)(begin - expected));
        expected = begin + tensor->bytes;
    }
    if (expected != file->data_bytes)
        return mla__model_fail(error, CLMLA_BAD_FILE,
                               "%s: %llu bytes after the last tensor belong to no tensor",
                               file_name(file), (unsigned long long)(file->data_bytes - expected));
    return CLMLA_SUCCESS;
}

static clmla_status read_tensors(clmla_safetensors *file, clmla_model_error *error)
{
    const size_t entries = json_object_size(file->header);
    const char *key;
    json_t *entry;
    clmla_status status;

    if (entries > MAX_TENSORS + 1) /* __metadata__ is none */
        return mla__model_fail(error, CLMLA_BAD_FILE,
                               "%s: %zu entries in the header; at most %d tensors are accepted",
                               file_name(file), entries, MAX_TENSORS);
    file->tensors = calloc(entries + 1, sizeof file->tensors[0]);
    file->by_name = calloc(entries + 1, sizeof file->by_name[0]);
    if (file->tensors == NULL || file->by_name == NULL)
        return mla__model_fail(error, CL_OUT_OF_HOST_MEMORY, "%s: no memory for %zu tensors",
                               file_name(file), entries);
    status = check_metadata(file, error);
    if (status != CLMLA_SUCCESS)
        return status;
    json_object_foreach(file->header, key, entry)
    {
        if (strcmp(key, "__metadata__") == 0)
            continue;
        status = read_tensor(file, key, entry, &file->tensors[file->count], error);
        if (status != CLMLA_SUCCESS)
            return status;
        file->by_name[file->count] = &file->tensors[file->count];
        file->count++;
    }
    status = check_cover(file, error);
    if (status == CLMLA_SUCCESS)
        qsort(file->by_name, file->count, sizeof file->by_name[0], compare_names);
    return status;
}

static clmla_status read_header(clmla_safetensors *file, const unsigned char *bytes, size_t size,
                                clmla_model_error *error)
{
    uint64_t length = 0;
    json_error_t json_error;

    if (size < LENGTH_BYTES)
        return mla__model_fail(error, CLMLA_BAD_FILE,
                               "%s: %zu bytes; a safetensors file begins with an 8-byte length",
                               file_name(file), size);
    for (int i = LENGTH_BYTES - 1; i >= 0; i--)
        length = length << 8 | bytes[i];
    if (length > size - LENGTH_BYTES || length > MAX_HEADER_BYTES)
        return mla__model_fail(error, CLMLA_BAD_FILE,
                               "%s: header of %llu bytes; the file holds %zu, and at most %d are "
                               "accepted",
                               file_name(file), (unsigned long long)length, size - LENGTH_BYTES,
                               MAX_HEADER_BYTES);
    file->data = bytes + LENGTH_BYTES + length;
    file->data_bytes = size - LENGTH_BYTES - length;
    if (length == 0 || bytes[LENGTH_BYTES] != '{')
        return mla__model_fail(error, CLMLA_BAD_FILE, "%s: the header does not begin with '{'",
                               file_name(file));
    file->header = json_loadb((const char *)bytes + LENGTH_BYTES, (size_t)length,
                              JSON_REJECT_DUPLICATES, &json_error);
    if (file->header == NULL) {
        const bool memory = json_error_code(&json_error) == json_error_out_of_memory;
        return mla__model_fail(error, memory ? CL_OUT_OF_HOST_MEMORY : CLMLA_BAD_FILE,
                               "%s: header, byte %d: %s", file_name(file), json_error.position,
                               json_error.text);
    }
    return read_tensors(file, error);
}

/* Takes over the map, also when it fails. */
static clmla_status open_bytes(mla__os_map map, const void *data, size_t bytes, const char *name,
                               clmla_safetensors **out, clmla_model_error *error)
{
    clmla_status status;
    clmla_safetensors *file = calloc(1, sizeof *file);
    if (file == NULL) {
        mla__os_unmap_file(&map);
        return mla__model_fail(error, CL_OUT_OF_HOST_MEMORY, "%s: no memory",
                               mla__model_short_path(name));
    }
    file->map = map;
    file->name = name;
    status = read_header(file, data, bytes, error);
    file->name = NULL;
    if (status != CLMLA_SUCCESS) {
        clmla_safetensors_close(file);
        return status;
    }
    *out = file;
    return CLMLA_SUCCESS;
}

clmla_status clmla_safetensors_open(const char *path, clmla_safetensors **out,
                                    clmla_model_error *error)
{
    mla__os_map map = {NULL, 0};
    clmla_status status;
    if (path == NULL || out == NULL)
        return mla__model_fail(error, CLMLA_INVALID_ARGUMENT, "safetensors: path or out is NULL");
    status = mla__os_map_file(path, &map);
    if (status != CLMLA_SUCCESS)
        return mla__model_fail(error, status, "%s: %s", mla__model_short_path(path),
                               mla__os_last_error());
    return open_bytes(map, map.data, map.bytes, path, out, error);
}

clmla_status clmla_safetensors_open_memory(const void *data, size_t bytes, const char *name,
                                           clmla_safetensors **out, clmla_model_error *error)
{
    const mla__os_map none = {NULL, 0};
    if ((data == NULL && bytes != 0) || out == NULL)
        return mla__model_fail(error, CLMLA_INVALID_ARGUMENT, "safetensors: data or out is NULL");
    return open_bytes(none, data, bytes, name != NULL ? name : "memory", out, error);
}

void clmla_safetensors_close(clmla_safetensors *file)
{
    if (file == NULL)
        return;
    json_decref(file->header);
    free(file->by_name);
    free(file->tensors);
    if (file->map.data != NULL)
        mla__os_unmap_file(&file->map);
    free(file);
}

size_t clmla_safetensors_count(const clmla_safetensors *file)
{
    return file != NULL ? file->count : 0;
}

const clmla_safetensors_tensor *clmla_safetensors_at(const clmla_safetensors *file, size_t i)
{
    return i < file->count ? &file->tensors[i] : NULL;
}

const clmla_safetensors_tensor *clmla_safetensors_find(const clmla_safetensors *file,
                                                       const char *name)
{
    clmla_safetensors_tensor key;
    const clmla_safetensors_tensor *const key_pointer = &key;
    const clmla_safetensors_tensor *const *found;
    if (file == NULL || name == NULL)
        return NULL;
    key.name = name;
    found =
        bsearch(&key_pointer, file->by_name, file->count, sizeof file->by_name[0], compare_names);
    return found != NULL ? *found : NULL;
}

const char *clmla_safetensors_metadata(const clmla_safetensors *file, const char *key)
{
    if (file == NULL || key == NULL)
        return NULL;
    return json_string_value(json_object_get(json_object_get(file->header, "__metadata__"), key));
}
