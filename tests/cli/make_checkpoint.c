/*
 * Writes a golden case as users have it: a checkpoint in Hugging Face's form and an input file.
 *
 *   make_checkpoint GOLDEN DIR [LAYER [stored|bf16|f16|f32|fp8|fp8_decoded [1|2]]]
 *
 * DIR (which exists) gets config.json; the case's weights as layer LAYER (default 0) in two shards
 * with model.safetensors.index.json, an FP8 weight's scales in the other shard than its codes, or
 * with 1 in one model.safetensors; and input.safetensors with step 0 of the case's first request.
 * Weights and input are stored in the dtype given; the default is the case's own. fp8 rounds the
 * matrices to F8_E4M3, each block of 128 x 128 scaled to its largest element, and leaves the rest;
 * fp8_decoded stores what those stand for as BF16.
 */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/golden.h"
#include "core/checked.h"
#include "core/dtype.h"

enum { NUM_SHARDS = 2, MAX_TENSORS = 24, NAME_BYTES = 96, PATH_BYTES = 1024 };

typedef struct shard {
    clmla_safetensors_tensor tensors[MAX_TENSORS];
    char names[MAX_TENSORS][NAME_BYTES];
    size_t count;
} shard;

typedef struct maker {
    const char *folder;
    int layer;
    clmla_safetensors_dtype dtype; /* 0: as stored */
    int num_shards;
    bool fp8; /* matrices are rounded to FP8, and stored so where dtype is 0 */
    shard shards[NUM_SHARDS];
    json_t *weight_map;
    void *converted[MAX_TENSORS];
    size_t num_converted;
} maker;

static const char *shard_name(int index)
{
    static const char *const names[NUM_SHARDS] = {"model-00001-of-00002.safetensors",
                                                  "model-00002-of-00002.safetensors"};
    return names[index];
}

static int fail(const char *text)
{
    (void)fprintf(stderr, "make_checkpoint: %s\n", text);
    return 1;
}

/* rows 0: one dimension. */
static void add(shard *s, const char *name, clmla_safetensors_dtype dtype, uint64_t rows,
                uint64_t columns, const void *data)
{
    clmla_safetensors_tensor *t = &s->tensors[s->count];
    (void)snprintf(s->names[s->count], NAME_BYTES, "%s", name);
    *t = (clmla_safetensors_tensor){
        .name = s->names[s->count], .dtype = dtype, .rank = rows > 0 ? 2 : 1, .data = data};
    t->shape[0] = rows > 0 ? rows : columns;
    t->shape[1] = rows > 0 ? columns : 0;
    s->count++;
}

/* In the dtype that was asked for, until the maker is done; NULL: out of memory. */
static const void *convert(maker *m, const clmla_checkpoint_weight *weight)
{
    const clmla_dtype to = m->dtype == CLMLA_ST_F32   ? CLMLA_DTYPE_F32
                           : m->dtype == CLMLA_ST_F16 ? CLMLA_DTYPE_F16
                                                      : CLMLA_DTYPE_BF16;
    void *memory = malloc((size_t)(weight->rows * weight->columns) * mla__dtype_bytes(to));
    if (memory == NULL || clmla_checkpoint_decode(weight, 0, weight->rows, to, memory) != 0) {
        free(memory);
        return NULL;
    }
    m->converted[m->num_converted++] = memory;
    return memory;
}

/* ---- FP8 ------------------------------------------------------------------------------------- */

enum { BLOCK = 128, LARGEST_CODE = 0x7e };

/* The code whose value is next to a magnitude of at most 448: codes grow with their values. */
static uint8_t nearest_code(float magnitude)
{
    int low = 0, high = LARGEST_CODE;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (mla__f8_e4m3_to_float((uint8_t)middle) <= magnitude)
            low = middle;
        else
            high = middle;
    }
    const float below = magnitude - mla__f8_e4m3_to_float((uint8_t)low);
    const float above = mla__f8_e4m3_to_float((uint8_t)high) - magnitude;
    return (uint8_t)(below < above ? low : high);
}

/* One block: its scale, and its codes. values [rows, columns] of the whole matrix. */
static float quantise_block(const float *values, uint64_t columns, uint64_t block_rows,
                            uint64_t block_columns, uint8_t *codes)
{
    float largest = 0.0f;
    for (uint64_t r = 0; r < block_rows; r++)
        for (uint64_t c = 0; c < block_columns; c++)
            largest = fmaxf(largest, fabsf(values[r * columns + c]));
    const float scale = largest > 0.0f ? largest / 448.0f : 1.0f;
    for (uint64_t r = 0; r < block_rows; r++)
        for (uint64_t c = 0; c < block_columns; c++) {
            const float value = values[r * columns + c] / scale;
            codes[r * columns + c] =
                (uint8_t)(nearest_code(fminf(fabsf(value), 448.0f)) | (value < 0.0f ? 0x80 : 0));
        }
    return scale;
}

/* A matrix as FP8, until the maker is done; data NULL: out of memory. */
static clmla_checkpoint_weight quantise(maker *m, const clmla_checkpoint_weight *weight)
{
    const uint64_t rows = weight->rows, columns = weight->columns;
    const uint64_t blocks = mla__ceil_div(columns, BLOCK);
    float *values = malloc((size_t)(BLOCK * columns) * sizeof(*values));
    float *scales = malloc((size_t)(mla__ceil_div(rows, BLOCK) * blocks) * sizeof(*scales));
    uint8_t *codes = malloc((size_t)(rows * columns));
    const bool room = values != NULL && scales != NULL && codes != NULL;
    for (uint64_t row = 0; row < rows && room; row += BLOCK) {
        const uint64_t count = rows - row < BLOCK ? rows - row : BLOCK;
        (void)clmla_checkpoint_decode(weight, row, count, CLMLA_DTYPE_F32, values);
        for (uint64_t column = 0; column < columns; column += BLOCK)
            scales[row / BLOCK * blocks + column / BLOCK] =
                quantise_block(values + column, columns, count,
                               columns - column < BLOCK ? columns - column : BLOCK,
                               codes + row * columns + column);
    }
    free(values);
    m->converted[m->num_converted++] = scales;
    m->converted[m->num_converted++] = codes;
    return (clmla_checkpoint_weight){.data = room ? codes : NULL,
                                     .dtype = CLMLA_ST_F8_E4M3,
                                     .rows = rows,
                                     .columns = columns,
                                     .scale_inv = scales};
}

/* ---- weights --------------------------------------------------------------------------------- */

static bool add_weight(maker *m, int in_shard, const char *which, bool norm,
                       const clmla_checkpoint_weight *weight)
{
    clmla_checkpoint_weight quantised;
    if (m->fp8 && !norm && weight->data != NULL) {
        quantised = quantise(m, weight);
        if (quantised.data == NULL)
            return false;
        weight = &quantised;
    }
    clmla_safetensors_dtype dtype = m->dtype != 0 ? m->dtype : weight->dtype;
    const void *data = weight->data;
    char name[NAME_BYTES];
    if (data == NULL)
        return true;
    (void)snprintf(name, sizeof(name), "model.layers.%d.self_attn.%s.weight", m->layer, which);
    if (dtype != weight->dtype)
        data = convert(m, weight);
    if (data == NULL)
        return false;
    in_shard %= m->num_shards;
    add(&m->shards[in_shard], name, dtype, norm ? 0 : weight->rows, weight->columns, data);
    json_object_set_new(m->weight_map, name, json_string(shard_name(in_shard)));
    if (dtype == CLMLA_ST_F8_E4M3) {
        const int other = m->num_shards - 1 - in_shard;
        (void)snprintf(name, sizeof(name), "model.layers.%d.self_attn.%s.weight_scale_inv",
                       m->layer, which);
        add(&m->shards[other], name, CLMLA_ST_F32, mla__ceil_div(weight->rows, 128),
            mla__ceil_div(weight->columns, 128), weight->scale_inv);
        json_object_set_new(m->weight_map, name, json_string(shard_name(other)));
    }
    return true;
}

static bool add_weights(maker *m, const clmla_checkpoint_weights *w)
{
    return add_weight(m, 0, "q_proj", false, &w->q_proj) &&
           add_weight(m, 0, "q_a_proj", false, &w->q_a_proj) &&
           add_weight(m, 1, "q_a_layernorm", true, &w->q_a_layernorm) &&
           add_weight(m, 1, "q_b_proj", false, &w->q_b_proj) &&
           add_weight(m, 0, "kv_a_proj_with_mqa", false, &w->kv_a_proj_with_mqa) &&
           add_weight(m, 0, "kv_a_layernorm", true, &w->kv_a_layernorm) &&
           add_weight(m, 1, "kv_b_proj", false, &w->kv_b_proj) &&
           add_weight(m, 0, "o_proj", false, &w->o_proj);
}

/* ---- files ----------------------------------------------------------------------------------- */

static void file_path(const maker *m, const char *name, char path[PATH_BYTES])
{
    (void)snprintf(path, PATH_BYTES, "%s/%s", m->folder, name);
}

static bool write_tensors(const maker *m, const char *name, const clmla_safetensors_tensor *tensors,
                          size_t count)
{
    char path[PATH_BYTES];
    clmla_model_error error = {{0}};
    file_path(m, name, path);
    if (clmla_safetensors_write(path, tensors, count, NULL, 0, &error) == CLMLA_SUCCESS)
        return true;
    (void)fail(error.text);
    return false;
}

static bool write_index(const maker *m)
{
    char path[PATH_BYTES];
    json_t *index =
        json_pack("{s:{s:i}, s:O}", "metadata", "total_size", 0, "weight_map", m->weight_map);
    file_path(m, "model.safetensors.index.json", path);
    const bool written = index != NULL && json_dump_file(index, path, JSON_INDENT(2)) == 0;
    json_decref(index);
    return written;
}

static bool write_config(const maker *m, const char *config)
{
    char path[PATH_BYTES];
    file_path(m, "config.json", path);
    FILE *stream = fopen(path, "wb");
    if (stream == NULL)
        return false;
    const bool written = fputs(config, stream) >= 0;
    return fclose(stream) == 0 && written;
}

static bool write_input(maker *m, const mla_golden *golden)
{
    const mla_request *request = &golden->job.requests[0];
    const uint64_t batch = (uint64_t)request->batch, past = (uint64_t)request->past;
    const struct {
        const char *name;
        uint64_t rows;
        int32_t width;
        const void *data;
    } arrays[] = {
        {"hidden_states", (uint64_t)request->steps[0], golden->job.config.hidden_size,
         request->hidden[0].data},
        {"init.kv_cache", past, golden->job.config.kv_lora_rank, request->kv_cache.data},
        {"init.pe_cache", past, golden->job.config.qk_rope_head_dim, request->pe_cache.data},
    };
    clmla_safetensors_tensor tensors[4];
    size_t count = 0;
    for (size_t i = 0; i < 3; i++) {
        const clmla_checkpoint_weight rows = {arrays[i].data, CLMLA_ST_BF16, batch * arrays[i].rows,
                                              (uint64_t)arrays[i].width, NULL};
        if (arrays[i].data == NULL)
            continue;
        tensors[count] =
            (clmla_safetensors_tensor){.name = arrays[i].name,
                                       .dtype = m->dtype != 0 ? m->dtype : CLMLA_ST_BF16,
                                       .rank = 3,
                                       .shape = {batch, arrays[i].rows, (uint64_t)arrays[i].width},
                                       .data = m->dtype != 0 ? convert(m, &rows) : arrays[i].data};
        if (tensors[count++].data == NULL)
            return false;
    }
    tensors[count++] = (clmla_safetensors_tensor){.name = "start_pos",
                                                  .dtype = CLMLA_ST_I32,
                                                  .rank = 1,
                                                  .shape = {1},
                                                  .data = &request->past};
    return write_tensors(m, "input.safetensors", tensors, count);
}

static bool write_all(maker *m, const mla_golden *golden)
{
    const char *config = clmla_safetensors_metadata(golden->file, "config");
    bool written = config != NULL && write_config(m, config) && write_input(m, golden) &&
                   add_weights(m, &golden->job.weights);
    if (m->num_shards == 1)
        return written &&
               write_tensors(m, "model.safetensors", m->shards[0].tensors, m->shards[0].count);
    for (int i = 0; i < NUM_SHARDS && written; i++)
        written = write_tensors(m, shard_name(i), m->shards[i].tensors, m->shards[i].count);
    return written && write_index(m);
}

static bool parse_dtype(const char *text, clmla_safetensors_dtype *out)
{
    static const struct {
        const char *name;
        clmla_safetensors_dtype dtype;
    } dtypes[] = {
        {"stored", 0}, {"bf16", CLMLA_ST_BF16},       {"f16", CLMLA_ST_F16}, {"f32", CLMLA_ST_F32},
        {"fp8", 0},    {"fp8_decoded", CLMLA_ST_BF16}};
    for (size_t i = 0; i < sizeof(dtypes) / sizeof(dtypes[0]); i++)
        if (strcmp(dtypes[i].name, text) == 0) {
            *out = dtypes[i].dtype;
            return true;
        }
    return false;
}

int main(int argc, char **argv)
{
    static maker m;
    mla_golden golden;
    clmla_model_error error = {{0}};
    if (argc < 3 || argc > 6 || (argc > 4 && !parse_dtype(argv[4], &m.dtype)))
        return fail("see make_checkpoint.c");
    m.fp8 = argc > 4 && strncmp(argv[4], "fp8", 3) == 0;
    m.folder = argv[2];
    m.layer = argc > 3 ? atoi(argv[3]) : 0;
    m.num_shards = argc > 5 && strcmp(argv[5], "1") == 0 ? 1 : NUM_SHARDS;
    m.weight_map = json_object();
    if (m.weight_map == NULL)
        return fail("out of memory");
    if (mla_golden_open(argv[1], NULL, NULL, &golden, &error) != CLMLA_SUCCESS)
        return fail(error.text);
    const int code = write_all(&m, &golden) ? 0 : fail("could not write the checkpoint");
    mla_golden_close(&golden);
    json_decref(m.weight_map);
    for (size_t i = 0; i < m.num_converted; i++)
        free(m.converted[i]);
    return code;
}
