/*
 * What the checkpoint*.c files share.
 */
#ifndef CLMLA_MODEL_CHECKPOINT_H
#define CLMLA_MODEL_CHECKPOINT_H

#include <jansson.h>

#include "clmla_model.h"

/* A file of tensors, mapped. */
typedef struct mla__shard {
    char *path;
    clmla_safetensors *file;
} mla__shard;

struct clmla_checkpoint {
    char *folder; /* with its '/'; "" for the current one */
    clmla_config config;
    json_t *weight_map; /* tensor -> file name in folder; NULL: everything is in shards[0] */
    mla__shard *shards; /* opened so far */
    size_t num_shards;
    int32_t first_layer, num_layers; /* with attention weights; num_layers 0: none */
};

/* A tensor and the file it is in. tensor NULL: the checkpoint has none of that name. */
typedef struct mla__located {
    const clmla_safetensors_tensor *tensor;
    const char *path; /* for messages, shortened; mla__checkpoint_source where there is no tensor */
} mla__located;

/* The file that says which tensors there are, for messages: the index, or the only file. */
const char *mla__checkpoint_source(const clmla_checkpoint *checkpoint);

/* Maps the shard that is to hold a tensor, unless it is mapped. */
clmla_status mla__checkpoint_map(clmla_checkpoint *checkpoint, const char *tensor,
                                 clmla_model_error *error);

/* Looks in the mapped shards. BAD_FILE: the index names a shard that does not have it, or two
 * mapped shards have it. */
clmla_status mla__checkpoint_find(const clmla_checkpoint *checkpoint, const char *tensor,
                                  mla__located *out, clmla_model_error *error);

#endif
