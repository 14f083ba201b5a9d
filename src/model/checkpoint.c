/*
 * A checkpoint's files: config.json, the index of shards, and the shards, mapped when a tensor in
 * them is asked for.
 */
#include "model/checkpoint.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/os.h"
#include "model/error.h"

static const char INDEX_NAME[] = "model.safetensors.index.json";
static const char SINGLE_NAME[] = "model.safetensors";
static const char LAYER_PREFIX[] = "model.layers.";

/* folder + name; NULL: out of memory. */
static char *join(const char *folder, const char *name)
{
    const size_t folder_bytes = strlen(folder);
    const size_t name_bytes = strlen(name) + 1;
    char *path = malloc(folder_bytes + name_bytes);
    if (path == NULL)
        return NULL;
    /* NOLINTNEXTLINE(bugprone-not-null-terminated-result): the name follows, and its end */
    memcpy(path, folder, folder_bytes);
    memcpy(path + folder_bytes, name, name_bytes);
    return path;
}

static clmla_status no_memory(const char *path, clmla_model_error *error)
{
    return mla__model_fail(error, CL_OUT_OF_HOST_MEMORY, "%s: out of memory",
                           mla__model_short_path(path));
}

/* The path itself with a '/', or what stands before the last '/' of a file's path. */
static char *folder_of(const char *path, bool is_folder)
{
    const char *slash = strrchr(path, '/');
    const size_t bytes = strlen(path);
    char *folder;
    if (is_folder)
        return join(path, bytes > 0 && path[bytes - 1] == '/' ? "" : "/");
    folder = join(path, "");
    if (folder != NULL)
        folder[slash != NULL ? (size_t)(slash - path) + 1 : 0] = '\0';
    return folder;
}

/* ---- shards --------------------------------------------------------------------------------- */

/* Takes over path. */
static clmla_status add_shard(clmla_checkpoint *checkpoint, char *path, clmla_model_error *error)
{
    clmla_safetensors *file = NULL;
    clmla_status status;
    mla__shard *shards =
        realloc(checkpoint->shards, (checkpoint->num_shards + 1) * sizeof *checkpoint->shards);
    if (shards == NULL) {
        free(path);
        return no_memory(checkpoint->folder, error);
    }
    checkpoint->shards = shards;
    status = clmla_safetensors_open(path, &file, error);
    if (status != CLMLA_SUCCESS) {
        free(path);
        return status;
    }
    shards += checkpoint->num_shards++;
    shards->path = path;
    shards->file = file;
    return CLMLA_SUCCESS;
}

/* File name of the shard that the index names for a tensor; NULL: none. */
static const char *shard_name(const clmla_checkpoint *checkpoint, const char *tensor)
{
    return json_string_value(json_object_get(checkpoint->weight_map, tensor));
}

static bool is_shard(const clmla_checkpoint *checkpoint, const mla__shard *shard, const char *name)
{
    return strcmp(shard->path + strlen(checkpoint->folder), name) == 0;
}

clmla_status mla__checkpoint_map(clmla_checkpoint *checkpoint, const char *tensor,
                                 clmla_model_error *error)
{
    const char *name = shard_name(checkpoint, tensor);
    char *path;
    if (name == NULL)
        return CLMLA_SUCCESS;
    for (size_t i = 0; i < checkpoint->num_shards; i++)
        if (is_shard(checkpoint, &checkpoint->shards[i], name))
            return CLMLA_SUCCESS;
    path = join(checkpoint->folder, name);
    if (path == NULL)
        return no_memory(checkpoint->folder, error);
    return add_shard(checkpoint, path, error);
}

const char *mla__checkpoint_source(const clmla_checkpoint *checkpoint)
{
    return checkpoint->weight_map != NULL ? INDEX_NAME
                                          : mla__model_short_path(checkpoint->shards[0].path);
}

clmla_status mla__checkpoint_find(const clmla_checkpoint *checkpoint, const char *tensor,
                                  mla__located *out, clmla_model_error *error)
{
    const char *name = shard_name(checkpoint, tensor);
    mla__located located = {.path = mla__checkpoint_source(checkpoint)};
    for (size_t i = 0; i < checkpoint->num_shards; i++) {
        const mla__shard *shard = &checkpoint->shards[i];
        const clmla_safetensors_tensor *found = clmla_safetensors_find(shard->file, tensor);
        if (found == NULL) {
            if (name != NULL && is_shard(checkpoint, shard, name))
                return mla__model_fail(error, CLMLA_BAD_FILE,
                                       "%s: tensor '%.120s' is missing; %s says that it is here",
                                       mla__model_short_path(shard->path), tensor, INDEX_NAME);
            continue;
        }
        if (located.tensor != NULL)
            return mla__model_fail(error, CLMLA_BAD_FILE,
                                   "%.180s: tensor '%.120s' is in %.120s too", located.path, tensor,
                                   shard->path + strlen(checkpoint->folder));
        located.tensor = found;
        located.path = mla__model_short_path(shard->path);
    }
    if (located.tensor != NULL && checkpoint->weight_map != NULL && name == NULL)
        return mla__model_fail(error, CLMLA_BAD_FILE, "%s: tensor '%.120s' is not in %s",
                               located.path, tensor, INDEX_NAME);
    *out = located;
    return CLMLA_SUCCESS;
}

/* ---- layers --------------------------------------------------------------------------------- */

/* Counts "model.layers.{n}.self_attn.…"; numbers that no layer can have count as none. */
static void note_layer(clmla_checkpoint *checkpoint, const char *tensor)
{
    enum { LARGEST = 1000000 };
    const size_t prefix = sizeof LAYER_PREFIX - 1;
    const char *c = tensor + prefix;
    int32_t layer = 0;
    if (strncmp(tensor, LAYER_PREFIX, prefix) != 0 || *c < '0' || *c > '9')
        return;
    for (; *c >= '0' && *c <= '9' && layer < LARGEST; c++)
        layer = layer * 10 + (*c - '0');
    if (strncmp(c, ".self_attn.", sizeof ".self_attn." - 1) != 0)
        return;
    if (checkpoint->num_layers == 0 || layer < checkpoint->first_layer)
        checkpoint->first_layer = layer;
    if (layer >= checkpoint->num_layers)
        checkpoint->num_layers = layer + 1;
}

/* ---- the index ------------------------------------------------------------------------------ */

/* The name of a file in the folder: an index must not reach out of it. */
static bool is_plain_name(const char *name)
{
    return name[0] != '\0' && strpbrk(name, "/\\") == NULL && strstr(name, "..") == NULL &&
           strcmp(name, ".") != 0;
}

static clmla_status check_weight_map(clmla_checkpoint *checkpoint, const char *path,
                                     clmla_model_error *error)
{
    const char *tensor;
    json_t *value;
    const char *source = mla__model_short_path(path);
    if (!json_is_object(checkpoint->weight_map) || json_object_size(checkpoint->weight_map) == 0)
        return mla__model_fail(error, CLMLA_BAD_FILE,
                               "%s: weight_map is not an object of tensor and file names", source);
    json_object_foreach(checkpoint->weight_map, tensor, value)
    {
        const char *name = json_string_value(value);
        if (name == NULL)
            return mla__model_fail(error, CLMLA_BAD_FILE,
                                   "%s: weight_map: the file of '%.120s' is not a string", source,
                                   tensor);
        if (!is_plain_name(name))
            return mla__model_fail(error, CLMLA_BAD_FILE,
                                   "%s: weight_map: '%.120s' is in '%.60s', which is not the name "
                                   "of a file in the folder",
                                   source, tensor, name);
        note_layer(checkpoint, tensor);
    }
    return CLMLA_SUCCESS;
}

static clmla_status parse_index(clmla_checkpoint *checkpoint, const char *path, const char *text,
                                size_t bytes, clmla_model_error *error)
{
    json_error_t json_error;
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &json_error);
    if (root == NULL) {
        const bool memory = json_error_code(&json_error) == json_error_out_of_memory;
        return mla__model_fail(error, memory ? CL_OUT_OF_HOST_MEMORY : CLMLA_BAD_FILE,
                               "%s: line %d, column %d: %s", mla__model_short_path(path),
                               json_error.line, json_error.column, json_error.text);
    }
    checkpoint->weight_map = json_incref(json_object_get(root, "weight_map"));
    json_decref(root);
    return check_weight_map(checkpoint, path, error);
}

static clmla_status read_index(clmla_checkpoint *checkpoint, const char *path,
                               clmla_model_error *error)
{
    char *text = NULL;
    size_t bytes = 0;
    clmla_status status = mla__os_read_file(path, &text, &bytes);
    if (status != CLMLA_SUCCESS)
        return mla__model_fail(error, status, "%s: %s", mla__model_short_path(path),
                               mla__os_last_error());
    status = parse_index(checkpoint, path, text, bytes, error);
    free(text);
    return status;
}

/* ---- opening -------------------------------------------------------------------------------- */

static clmla_status read_config(clmla_checkpoint *checkpoint, clmla_model_error *error)
{
    clmla_status status;
    char *path = join(checkpoint->folder, "config.json");
    if (path == NULL)
        return no_memory(checkpoint->folder, error);
    status = clmla_model_config_read(path, &checkpoint->config, error);
    free(path);
    return status;
}

/* Takes over path. */
static clmla_status open_single(clmla_checkpoint *checkpoint, char *path, clmla_model_error *error)
{
    const clmla_status status = add_shard(checkpoint, path, error);
    if (status != CLMLA_SUCCESS)
        return status;
    for (size_t i = 0; i < clmla_safetensors_count(checkpoint->shards[0].file); i++)
        note_layer(checkpoint, clmla_safetensors_at(checkpoint->shards[0].file, i)->name);
    return CLMLA_SUCCESS;
}

/* model.safetensors before the index, as transformers looks for them. */
static clmla_status open_folder(clmla_checkpoint *checkpoint, clmla_model_error *error)
{
    char *single = join(checkpoint->folder, SINGLE_NAME);
    char *index = join(checkpoint->folder, INDEX_NAME);
    clmla_status status;
    if (single == NULL || index == NULL) {
        status = no_memory(checkpoint->folder, error);
    } else if (mla__os_exists(single)) {
        status = open_single(checkpoint, single, error);
        single = NULL;
    } else if (mla__os_exists(index)) {
        status = read_index(checkpoint, index, error);
    } else {
        status =
            mla__model_fail(error, CLMLA_IO, "%s: has neither %s nor %s",
                            mla__model_short_path(checkpoint->folder), SINGLE_NAME, INDEX_NAME);
    }
    free(single);
    free(index);
    return status;
}

static clmla_status open_at(clmla_checkpoint *checkpoint, const char *path,
                            clmla_model_error *error)
{
    const bool is_folder = mla__os_is_directory(path);
    clmla_status status;
    char *file;
    checkpoint->folder = folder_of(path, is_folder);
    if (checkpoint->folder == NULL)
        return no_memory(path, error);
    status = read_config(checkpoint, error);
    if (status != CLMLA_SUCCESS)
        return status;
    if (is_folder)
        return open_folder(checkpoint, error);
    file = join(path, "");
    return file != NULL ? open_single(checkpoint, file, error) : no_memory(path, error);
}

clmla_status clmla_checkpoint_open(const char *path, clmla_checkpoint **out,
                                   clmla_model_error *error)
{
    clmla_checkpoint *checkpoint;
    clmla_status status;
    if (path == NULL || out == NULL)
        return mla__model_fail(error, CLMLA_INVALID_ARGUMENT, "checkpoint: path or out is NULL");
    if (!mla__os_exists(path))
        return mla__model_fail(error, CLMLA_IO,
                               "%s: %s; a checkpoint's folder or one .safetensors file is accepted",
                               mla__model_short_path(path), mla__os_last_error());
    checkpoint = calloc(1, sizeof *checkpoint);
    if (checkpoint == NULL)
        return no_memory(path, error);
    status = open_at(checkpoint, path, error);
    if (status != CLMLA_SUCCESS) {
        clmla_checkpoint_close(checkpoint);
        return status;
    }
    *out = checkpoint;
    return CLMLA_SUCCESS;
}

void clmla_checkpoint_close(clmla_checkpoint *checkpoint)
{
    if (checkpoint == NULL)
        return;
    for (size_t i = 0; i < checkpoint->num_shards; i++) {
        clmla_safetensors_close(checkpoint->shards[i].file);
        free(checkpoint->shards[i].path);
    }
    free(checkpoint->shards);
    json_decref(checkpoint->weight_map);
    free(checkpoint->folder);
    free(checkpoint);
}

const clmla_config *clmla_checkpoint_config(const clmla_checkpoint *checkpoint)
{
    return checkpoint != NULL ? &checkpoint->config : NULL;
}

int32_t clmla_checkpoint_num_layers(const clmla_checkpoint *checkpoint)
{
    return checkpoint != NULL ? checkpoint->num_layers : 0;
}
