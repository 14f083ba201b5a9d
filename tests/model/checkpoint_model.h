/*
 * A small checkpoint as a list of tensors that a test may change before it is written to FOLDER,
 * which the test defines. For the tests of src/model/checkpoint*.c.
 */
#ifndef CLMLA_TESTS_CHECKPOINT_MODEL_H
#define CLMLA_TESTS_CHECKPOINT_MODEL_H

#include <stdbool.h>
#include <sys/stat.h>

#include "clmla_model.h"
#include "support/support.h"

#define SHARD_1 "model-00001-of-00002.safetensors"
#define SHARD_2 "model-00002-of-00002.safetensors"
#define INDEX "model.safetensors.index.json"

/* Sizes that leave partial blocks of 128 at every edge. */
enum {
    HIDDEN = 200,
    HEADS = 3,
    NOPE = 40,
    ROPE = 16,
    V = 44,
    KV_LORA = 130,
    Q_LORA = 129,
    LARGEST = HIDDEN * HEADS * (NOPE + V) * 4, /* bytes of any weight below */
    MAX_ENTRIES = 40,
    NAME_BYTES = 96
};

#define CONFIG(q_lora, kv_lora)                                                                    \
    "{\"hidden_size\": 200, \"num_attention_heads\": 3, \"q_lora_rank\": " q_lora                  \
    ", \"kv_lora_rank\": " kv_lora ", \"qk_nope_head_dim\": 40, \"qk_rope_head_dim\": 16, "        \
    "\"v_head_dim\": 44}"

typedef struct entry {
    char name[NAME_BYTES];
    clmla_safetensors_tensor tensor; /* its name is set when it is written */
    int shard;                       /* 0, 1; 2: both; -1: in the index only */
    const char *indexed;             /* the index's file name; NULL: not in the index */
} entry;

/* A checkpoint before it is written. */
typedef struct model {
    const char *config;
    const char *index; /* instead of the one that the entries make */
    entry entries[MAX_ENTRIES];
    size_t count;
} model;

static unsigned char data_bytes[LARGEST]; /* of every weight: any code but NaN */
static float scales[64];

static inline void draw_data(void)
{
    test_random random = {1};
    for (size_t i = 0; i < sizeof data_bytes; i++)
        data_bytes[i] = (unsigned char)(test_random_u64(&random) % 0x7f);
    for (size_t i = 0; i < sizeof scales / sizeof scales[0]; i++)
        scales[i] = (float)test_random_uniform(&random, 1e-4, 2.0);
}

/* ---- writing -------------------------------------------------------------------------------- */

static inline entry *add(model *m, const char *name, clmla_safetensors_dtype dtype, uint64_t rows,
                         uint64_t columns)
{
    entry *e = &m->entries[m->count];
    assert_true(m->count < MAX_ENTRIES);
    (void)snprintf(e->name, sizeof e->name, "%s", name);
    e->tensor = (clmla_safetensors_tensor){.dtype = dtype, .data = data_bytes};
    e->tensor.rank = rows > 0 ? 2 : 1;
    e->tensor.shape[0] = rows > 0 ? rows : columns;
    e->tensor.shape[1] = rows > 0 ? columns : 0;
    e->shard = (int)(m->count % 2);
    e->indexed = e->shard == 0 ? SHARD_1 : SHARD_2;
    m->count++;
    return e;
}

/* A matrix, with its scales where it is FP8. */
static inline void add_matrix(model *m, int layer, const char *which, clmla_safetensors_dtype dtype,
                              uint64_t rows, uint64_t columns)
{
    char name[NAME_BYTES];
    (void)snprintf(name, sizeof name, "model.layers.%d.self_attn.%s.weight", layer, which);
    (void)add(m, name, dtype, rows, columns);
    if (dtype != CLMLA_ST_F8_E4M3)
        return;
    (void)snprintf(name, sizeof name, "model.layers.%d.self_attn.%s.weight_scale_inv", layer,
                   which);
    add(m, name, CLMLA_ST_F32, (rows + 127) / 128, (columns + 127) / 128)->tensor.data = scales;
}

static inline void add_norm(model *m, int layer, const char *which, clmla_safetensors_dtype dtype,
                            uint64_t columns)
{
    char name[NAME_BYTES];
    (void)snprintf(name, sizeof name, "model.layers.%d.self_attn.%s.weight", layer, which);
    (void)add(m, name, dtype, 0, columns);
}

static inline void add_layer(model *m, int layer, bool lora, clmla_safetensors_dtype dtype)
{
    const clmla_safetensors_dtype norm = dtype == CLMLA_ST_F8_E4M3 ? CLMLA_ST_BF16 : dtype;
    if (lora) {
        add_matrix(m, layer, "q_a_proj", dtype, Q_LORA, HIDDEN);
        add_norm(m, layer, "q_a_layernorm", norm, Q_LORA);
        add_matrix(m, layer, "q_b_proj", dtype, HEADS * (NOPE + ROPE), Q_LORA);
    } else {
        add_matrix(m, layer, "q_proj", dtype, HEADS * (NOPE + ROPE), HIDDEN);
    }
    add_matrix(m, layer, "kv_a_proj_with_mqa", dtype, KV_LORA + ROPE, HIDDEN);
    add_norm(m, layer, "kv_a_layernorm", norm, KV_LORA);
    add_matrix(m, layer, "kv_b_proj", dtype, HEADS * (NOPE + V), KV_LORA);
    add_matrix(m, layer, "o_proj", dtype, HIDDEN, HEADS * V);
}

/* Layer 0 in FP8 with query LoRA; one byte before all else puts every tensor at an odd address. */
static inline void make(model *m)
{
    memset(m, 0, sizeof *m);
    m->config = CONFIG("129", "130");
    (void)add(m, "odd.0", CLMLA_ST_U8, 0, 1);
    (void)add(m, "odd.1", CLMLA_ST_U8, 0, 1);
    add_layer(m, 0, true, CLMLA_ST_F8_E4M3);
}

static inline void write_text(const char *name, const char *text)
{
    char path[512];
    (void)snprintf(path, sizeof path, FOLDER "/%s", name);
    FILE *stream = fopen(path, "wb");
    assert_non_null(stream);
    assert_true(fputs(text, stream) >= 0);
    assert_int_equal(fclose(stream), 0);
}

static inline void write_shard(model *m, int shard, const char *name)
{
    clmla_safetensors_tensor tensors[MAX_ENTRIES];
    clmla_model_error error = {""};
    char path[512];
    size_t count = 0;
    for (size_t i = 0; i < m->count; i++) {
        entry *e = &m->entries[i];
        if (e->shard != shard && e->shard != 2)
            continue;
        e->tensor.name = e->name;
        tensors[count++] = e->tensor;
    }
    (void)snprintf(path, sizeof path, FOLDER "/%s", name);
    if (clmla_safetensors_write(path, tensors, count, NULL, 0, &error) != CLMLA_SUCCESS)
        fail_msg("%s", error.text);
}

static inline void write_index(const model *m)
{
    static char text[MAX_ENTRIES * 256];
    int at = snprintf(text, sizeof text, "{\"metadata\": {\"total_size\": -1}, \"weight_map\": {");
    for (size_t i = 0; i < m->count; i++)
        if (m->entries[i].indexed != NULL)
            at += snprintf(text + at, sizeof text - (size_t)at, "%s\"%s\": \"%s\"",
                           text[at - 1] == '{' ? "" : ", ", m->entries[i].name,
                           m->entries[i].indexed);
    (void)snprintf(text + at, sizeof text - (size_t)at, "}}");
    write_text(INDEX, m->index != NULL ? m->index : text);
}

static inline void clear_folder(void)
{
    static const char *const names[] = {"config.json", INDEX, SHARD_1, SHARD_2,
                                        "model.safetensors"};
    (void)mkdir(FOLDER, 0700);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[512];
        (void)snprintf(path, sizeof path, FOLDER "/%s", names[i]);
        (void)remove(path);
    }
}

static inline void write_model(model *m)
{
    clear_folder();
    write_text("config.json", m->config);
    write_index(m);
    write_shard(m, 0, SHARD_1);
    write_shard(m, 1, SHARD_2);
}

#endif
