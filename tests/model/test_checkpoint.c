/*
 * Checkpoints in Hugging Face's form are read whole or refused, with the file and the tensor named.
 */
#define FOLDER TEST_OUTPUT_DIR "/test_checkpoint"
#include "checkpoint_model.h"

/* ---- reading -------------------------------------------------------------------------------- */

static clmla_checkpoint *open_checkpoint(const char *path)
{
    clmla_checkpoint *checkpoint = NULL;
    clmla_model_error error = {""};
    if (clmla_checkpoint_open(path, &checkpoint, &error) != CLMLA_SUCCESS)
        fail_msg("%s", error.text);
    return checkpoint;
}

static void read_layer(clmla_checkpoint *checkpoint, int32_t layer, clmla_checkpoint_weights *out)
{
    clmla_model_error error = {""};
    if (clmla_checkpoint_layer(checkpoint, layer, out, &error) != CLMLA_SUCCESS)
        fail_msg("layer %d: %s", (int)layer, error.text);
}

static void check_weight(const clmla_checkpoint_weight *weight, clmla_safetensors_dtype dtype,
                         uint64_t rows, uint64_t columns)
{
    const size_t size = (size_t)(rows * columns) * clmla_safetensors_dtype_bytes(dtype);
    assert_int_equal(weight->dtype, dtype);
    assert_true(weight->rows == rows && weight->columns == columns);
    assert_memory_equal(weight->data, data_bytes, size);
    assert_int_equal(weight->scale_inv != NULL, dtype == CLMLA_ST_F8_E4M3);
}

static void check_layer(const clmla_checkpoint_weights *w, bool lora, clmla_safetensors_dtype dtype)
{
    const clmla_safetensors_dtype norm = dtype == CLMLA_ST_F8_E4M3 ? CLMLA_ST_BF16 : dtype;
    if (lora) {
        assert_null(w->q_proj.data);
        check_weight(&w->q_a_proj, dtype, Q_LORA, HIDDEN);
        check_weight(&w->q_a_layernorm, norm, 1, Q_LORA);
        check_weight(&w->q_b_proj, dtype, HEADS * (NOPE + ROPE), Q_LORA);
    } else {
        assert_null(w->q_a_proj.data);
        assert_null(w->q_a_layernorm.data);
        assert_null(w->q_b_proj.data);
        check_weight(&w->q_proj, dtype, HEADS * (NOPE + ROPE), HIDDEN);
    }
    check_weight(&w->kv_a_proj_with_mqa, dtype, KV_LORA + ROPE, HIDDEN);
    check_weight(&w->kv_a_layernorm, norm, 1, KV_LORA);
    check_weight(&w->kv_b_proj, dtype, HEADS * (NOPE + V), KV_LORA);
    check_weight(&w->o_proj, dtype, HIDDEN, HEADS * V);
}

static void reads_every_dtype_from_two_shards(void **state)
{
    static const clmla_safetensors_dtype dtypes[] = {CLMLA_ST_BF16, CLMLA_ST_F16, CLMLA_ST_F32,
                                                     CLMLA_ST_F8_E4M3};
    (void)state;
    for (size_t i = 0; i < 8; i++) {
        const bool lora = i % 2 == 1;
        model m = {.config = lora ? CONFIG("129", "130") : CONFIG("null", "130")};
        clmla_checkpoint_weights weights;
        add_layer(&m, 7, lora, dtypes[i / 2]);
        write_model(&m);
        clmla_checkpoint *checkpoint = open_checkpoint(i < 4 ? FOLDER : FOLDER "/");
        assert_int_equal(clmla_checkpoint_config(checkpoint)->v_head_dim, V);
        assert_int_equal(clmla_checkpoint_num_layers(checkpoint), 8);
        read_layer(checkpoint, 7, &weights);
        check_layer(&weights, lora, dtypes[i / 2]);
        clmla_checkpoint_close(checkpoint);
    }
    clmla_checkpoint_close(NULL);
}

static void reads_one_file(void **state)
{
    model m = {.config = CONFIG("null", "130")};
    clmla_checkpoint_weights weights;
    (void)state;
    add_layer(&m, 0, false, CLMLA_ST_F8_E4M3);
    (void)add(&m, "model.layers.x.self_attn.a", CLMLA_ST_U8, 0, 1);
    (void)add(&m, "model.layers.99999999999.self_attn.a", CLMLA_ST_U8, 0, 1);
    (void)add(&m, "model.layers.5.mlp.a", CLMLA_ST_U8, 0, 1);
    for (size_t i = 0; i < m.count; i++)
        m.entries[i].shard = 0;
    clear_folder();
    write_text("config.json", m.config);
    write_text(INDEX, "not looked at where model.safetensors is");
    write_shard(&m, 0, "model.safetensors");
    static const char *const paths[] = {FOLDER, FOLDER "/model.safetensors"};
    for (int i = 0; i < 2; i++) {
        clmla_checkpoint *checkpoint = open_checkpoint(paths[i]);
        assert_int_equal(clmla_checkpoint_num_layers(checkpoint), 1);
        read_layer(checkpoint, 0, &weights);
        check_layer(&weights, false, CLMLA_ST_F8_E4M3);
        clmla_checkpoint_close(checkpoint);
    }
}

/* Layer 1's shard does not exist; layer 0 does not need it. */
static void maps_only_the_shards_of_the_layer(void **state)
{
    model m;
    clmla_checkpoint_weights weights;
    clmla_model_error error = {""};
    (void)state;
    make(&m);
    add_layer(&m, 1, true, CLMLA_ST_F8_E4M3);
    for (size_t i = 0; i < m.count; i++)
        if (strncmp(m.entries[i].name, "model.layers.1.", 15) == 0) {
            m.entries[i].shard = -1;
            m.entries[i].indexed = "model-00003-of-00003.safetensors";
        }
    write_model(&m);
    clmla_checkpoint *checkpoint = open_checkpoint(FOLDER);
    read_layer(checkpoint, 0, &weights);
    check_layer(&weights, true, CLMLA_ST_F8_E4M3);
    assert_int_equal(clmla_checkpoint_layer(checkpoint, 1, &weights, &error), CLMLA_IO);
    assert_non_null(strstr(error.text, "/model-00003-of-00003.safetensors: "));
    read_layer(checkpoint, 0, &weights); /* still there */
    clmla_checkpoint_close(checkpoint);
}

static void names_the_range_of_layers(void **state)
{
    model m = {.config = CONFIG("129", "130")};
    clmla_checkpoint_weights weights;
    clmla_model_error error = {""};
    (void)state;
    add_layer(&m, 3, true, CLMLA_ST_BF16);
    add_layer(&m, 12, true, CLMLA_ST_BF16);
    write_model(&m);
    clmla_checkpoint *checkpoint = open_checkpoint(FOLDER);
    static const int32_t outside[] = {-1, 0, 2, 13, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < sizeof outside / sizeof outside[0]; i++) {
        assert_int_equal(clmla_checkpoint_layer(checkpoint, outside[i], &weights, &error),
                         CLMLA_INVALID_ARGUMENT);
        assert_non_null(strstr(error.text, "layers 3 to 12"));
    }
    assert_int_equal(clmla_checkpoint_layer(checkpoint, 5, &weights, &error), CLMLA_BAD_FILE);
    assert_non_null(strstr(error.text, INDEX ": tensor 'model.layers.5.self_attn.q_a_proj.weight' "
                                             "is missing; config.json says q_lora_rank 129"));
    clmla_checkpoint_close(checkpoint);
}

/* ---- what is refused ------------------------------------------------------------------------ */

typedef struct refused_case {
    const char *name;
    void (*change)(model *m);
    clmla_status status;
    const char *says[2];
} refused_case;

static entry *entry_of(model *m, const char *which)
{
    for (size_t i = 0; i < m->count; i++)
        if (strstr(m->entries[i].name, which) != NULL)
            return &m->entries[i];
    fail_msg("the test's model has no %s", which);
    return NULL;
}

#define Q_B "model.layers.0.self_attn.q_b_proj.weight"
#define KV_B "model.layers.0.self_attn.kv_b_proj.weight"
#define O_SCALE "model.layers.0.self_attn.o_proj.weight_scale_inv"

static void other_rows(model *m) { entry_of(m, Q_B)->tensor.shape[0]++; }
static void transposed(model *m)
{
    entry *e = entry_of(m, KV_B);
    e->tensor.shape[0] = KV_LORA;
    e->tensor.shape[1] = HEADS * (NOPE + V);
}
static void three_dimensions(model *m)
{
    entry *e = entry_of(m, KV_B);
    e->tensor.rank = 3;
    e->tensor.shape[2] = 1;
}
static void as_u8(model *m) { entry_of(m, KV_B)->tensor.dtype = CLMLA_ST_U8; }
static void as_e5m2(model *m) { entry_of(m, KV_B)->tensor.dtype = CLMLA_ST_F8_E5M2; }
static void norm_in_fp8(model *m)
{
    entry_of(m, "kv_a_layernorm")->tensor.dtype = CLMLA_ST_F8_E4M3;
}
static void matrix_norm(model *m)
{
    entry *e = entry_of(m, "kv_a_layernorm");
    e->tensor.rank = 2;
    e->tensor.shape[1] = 1;
}
static void drop(model *m, const char *which)
{
    entry *e = entry_of(m, which);
    e->shard = -1;
    e->indexed = NULL;
}
static void no_scale(model *m) { drop(m, O_SCALE); }
static void scale_per_tensor(model *m)
{
    entry *e = entry_of(m, O_SCALE);
    e->tensor.rank = 1;
    e->tensor.shape[0] = 1;
}
static void scale_without_the_partial_block(model *m) { entry_of(m, O_SCALE)->tensor.shape[0] = 1; }
static void scale_in_bf16(model *m) { entry_of(m, O_SCALE)->tensor.dtype = CLMLA_ST_BF16; }
static void scale_not_finite(model *m)
{
    static const float values[4] = {1.0f, 1.0f, 1.0f, INFINITY};
    entry_of(m, O_SCALE)->tensor.data = values;
}
static void scale_beside_bf16(model *m)
{
    entry_of(m, "self_attn.o_proj.weight")->tensor.dtype = CLMLA_ST_BF16;
}
static void bias(model *m)
{
    (void)add(m, "model.layers.0.self_attn.o_proj.bias", CLMLA_ST_BF16, 0, HIDDEN);
}
static void no_tensor(model *m) { drop(m, KV_B); }
static void not_in_its_shard(model *m) { entry_of(m, KV_B)->shard = -1; }
static void other_shard(model *m)
{
    entry *e = entry_of(m, KV_B);
    e->indexed = e->shard == 0 ? SHARD_2 : SHARD_1;
}
static void in_both_shards(model *m) { entry_of(m, KV_B)->shard = 2; }
static void not_in_the_index(model *m) { entry_of(m, KV_B)->indexed = NULL; }
static void no_shard(model *m)
{
    for (size_t i = 0; i < m->count; i++)
        if (m->entries[i].shard == 0)
            m->entries[i].indexed = "nosuch.safetensors";
}
static void shard_is_no_safetensors(model *m) { entry_of(m, KV_B)->indexed = "config.json"; }
static void parent(model *m) { entry_of(m, KV_B)->indexed = "../test_checkpoint/" SHARD_1; }
static void absolute(model *m) { entry_of(m, KV_B)->indexed = "/dev/zero"; }
static void subfolder(model *m) { entry_of(m, KV_B)->indexed = "a/b.safetensors"; }
static void dots(model *m) { entry_of(m, "odd.0")->indexed = ".."; }
static void dot(model *m) { entry_of(m, KV_B)->indexed = "."; }
static void backslash(model *m) { entry_of(m, KV_B)->indexed = "..\\\\x.safetensors"; }
static void empty_name(model *m) { entry_of(m, KV_B)->indexed = ""; }
static void no_map(model *m) { m->index = "{\"metadata\": {}}"; }
static void map_is_a_list(model *m) { m->index = "{\"weight_map\": [\"" SHARD_1 "\"]}"; }
static void empty_map(model *m) { m->index = "{\"weight_map\": {}}"; }
static void index_is_a_list(model *m) { m->index = "[]"; }
static void index_cut_off(model *m) { m->index = "{\"weight_map\": {\"a\": \"b\""; }
static void file_is_a_number(model *m) { m->index = "{\"weight_map\": {\"" Q_B "\": 1}}"; }
static void twice_in_the_index(model *m)
{
    m->index = "{\"weight_map\": {\"a\": \"" SHARD_1 "\", \"a\": \"" SHARD_2 "\"}}";
}
static void no_attention(model *m) { m->index = "{\"weight_map\": {\"a\": \"" SHARD_1 "\"}}"; }
static const char *nested(void)
{
    static char text[20000];
    memset(text, '[', sizeof text - 1);
    memcpy(text, "{\"weight_map\":", 14);
    return text;
}
static void deep_index(model *m) { m->index = nested(); }
static void deep_config(model *m) { m->config = nested(); }
static void no_lora(model *m) { m->config = CONFIG("null", "130"); }
static void other_lora(model *m) { m->config = CONFIG("64", "130"); }
static void other_kv_lora(model *m) { m->config = CONFIG("129", "128"); }
static void bad_config(model *m) { m->config = "{\"hidden_size\": 0}"; }

static const refused_case refused[] = {
    {"one row more",
     other_rows,
     CLMLA_BAD_FILE,
     {".safetensors: tensor '" Q_B "' is F8_E4M3 [169, 129]",
      "asks for [168, 129] of BF16, F16, F32 or F8_E4M3"}},
    {"a transposed matrix", transposed, CLMLA_BAD_FILE, {"[130, 252]", "asks for [252, 130]"}},
    {"three dimensions", three_dimensions, CLMLA_BAD_FILE, {"[252, 130, 1]", "[252, 130]"}},
    {"a matrix of U8", as_u8, CLMLA_BAD_FILE, {"'" KV_B "' is U8 [252, 130]", "BF16"}},
    {"a matrix of F8_E5M2", as_e5m2, CLMLA_BAD_FILE, {"'" KV_B "' is F8_E5M2", "F8_E4M3"}},
    {"a norm in FP8",
     norm_in_fp8,
     CLMLA_BAD_FILE,
     {"kv_a_layernorm.weight' is F8_E4M3 [130]", "[130] of BF16, F16 or F32"}},
    {"a norm with two dimensions", matrix_norm, CLMLA_BAD_FILE, {"is BF16 [130, 1]", "[130] of"}},
    {"no scales",
     no_scale,
     CLMLA_BAD_FILE,
     {INDEX ": tensor '" O_SCALE "' is missing", "F8_E4M3 needs F32 [2, 2]"}},
    {"one scale for all",
     scale_per_tensor,
     CLMLA_BAD_FILE,
     {"'" O_SCALE "' is F32 [1]", "must be F32 [2, 2]"}},
    {"no scale for the partial block",
     scale_without_the_partial_block,
     CLMLA_BAD_FILE,
     {"'" O_SCALE "' is F32 [1, 2]", "must be F32 [2, 2]"}},
    {"scales in BF16", scale_in_bf16, CLMLA_BAD_FILE, {"is BF16 [2, 2]", "must be F32 [2, 2]"}},
    {"a scale that is not finite",
     scale_not_finite,
     CLMLA_BAD_FILE,
     {"'" O_SCALE "': element 3 is inf", "must be finite"}},
    {"scales of a BF16 weight",
     scale_beside_bf16,
     CLMLA_BAD_FILE,
     {"o_proj.weight' is BF16", "weight_scale_inv"}},
    {"a bias", bias, CLMLA_UNSUPPORTED_CONFIG, {"'model.layers.0.self_attn.o_proj.bias'", "bias"}},
    {"a tensor that is nowhere",
     no_tensor,
     CLMLA_BAD_FILE,
     {INDEX ": tensor '" KV_B "' is missing", ""}},
    {"a tensor that its shard does not have",
     not_in_its_shard,
     CLMLA_BAD_FILE,
     {".safetensors: tensor '" KV_B "' is missing", INDEX " says"}},
    {"a tensor in another shard",
     other_shard,
     CLMLA_BAD_FILE,
     {".safetensors: tensor '" KV_B "' is missing", INDEX " says"}},
    {"a tensor in two shards",
     in_both_shards,
     CLMLA_BAD_FILE,
     {SHARD_1 ": tensor '" KV_B "' is in", SHARD_2}},
    {"a tensor that the index leaves out",
     not_in_the_index,
     CLMLA_BAD_FILE,
     {"tensor '" KV_B "' is not in " INDEX, ""}},
    {"a missing shard", no_shard, CLMLA_IO, {"/nosuch.safetensors: No such file", ""}},
    {"a shard that is no safetensors file",
     shard_is_no_safetensors,
     CLMLA_BAD_FILE,
     {"/config.json: ", ""}},
    {"the parent folder", parent, CLMLA_BAD_FILE, {"'../test_checkpoint/", "'" KV_B "'"}},
    {"an absolute path", absolute, CLMLA_BAD_FILE, {"'/dev/zero'", "not the name of a file"}},
    {"a folder inside", subfolder, CLMLA_BAD_FILE, {"'a/b.safetensors'", "not the name of a file"}},
    {"dots, of a tensor that nobody asks for", dots, CLMLA_BAD_FILE, {"'..'", "'odd.0'"}},
    {"a dot", dot, CLMLA_BAD_FILE, {"is in '.'", ""}},
    {"a backslash", backslash, CLMLA_BAD_FILE, {"x.safetensors', which is not", ""}},
    {"no file name", empty_name, CLMLA_BAD_FILE, {"is in ''", ""}},
    {"no weight_map", no_map, CLMLA_BAD_FILE, {INDEX ": weight_map is not an object", ""}},
    {"a weight_map that is a list", map_is_a_list, CLMLA_BAD_FILE, {"weight_map is not", ""}},
    {"an empty weight_map", empty_map, CLMLA_BAD_FILE, {"weight_map is not", ""}},
    {"an index that is a list", index_is_a_list, CLMLA_BAD_FILE, {"weight_map is not", ""}},
    {"an index that is cut off", index_cut_off, CLMLA_BAD_FILE, {INDEX ": line 1", ""}},
    {"a file that is a number",
     file_is_a_number,
     CLMLA_BAD_FILE,
     {"the file of '" Q_B "' is not a string", ""}},
    {"a tensor twice in the index", twice_in_the_index, CLMLA_BAD_FILE, {INDEX, "duplicate"}},
    {"no attention weights", no_attention, CLMLA_BAD_FILE, {INDEX, "model.layers.N.self_attn"}},
    {"an index of brackets", deep_index, CLMLA_BAD_FILE, {INDEX ": line 1", "depth"}},
    {"a config.json of brackets", deep_config, CLMLA_BAD_FILE, {"config.json: line 1", "depth"}},
    {"a config without query LoRA",
     no_lora,
     CLMLA_BAD_FILE,
     {"self_attn.q_proj.weight' is missing", "config.json says q_lora_rank 0"}},
    {"a config with another query LoRA",
     other_lora,
     CLMLA_BAD_FILE,
     {"q_a_proj.weight' is F8_E4M3 [129, 200]", "config.json asks for [64, 200]"}},
    {"a config with another rank",
     other_kv_lora,
     CLMLA_BAD_FILE,
     {"kv_a_proj_with_mqa.weight' is F8_E4M3 [146, 200]", "[144, 200]"}},
    {"a config that is none",
     bad_config,
     CLMLA_INVALID_CONFIG,
     {"config.json: hidden_size is 0", ""}},
};

static void refuses_by_file_and_tensor(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        const refused_case *test = &refused[i];
        model m;
        clmla_checkpoint *checkpoint = NULL;
        clmla_checkpoint_weights weights;
        clmla_checkpoint_weights untouched;
        clmla_model_error error = {""};
        make(&m);
        test->change(&m);
        write_model(&m);
        memset(&weights, 0xa5, sizeof weights);
        untouched = weights;
        clmla_status status = clmla_checkpoint_open(FOLDER, &checkpoint, &error);
        if (status == CLMLA_SUCCESS)
            status = clmla_checkpoint_layer(checkpoint, 0, &weights, &error);
        else
            assert_null(checkpoint);
        if (status != test->status || strstr(error.text, test->says[0]) == NULL ||
            strstr(error.text, test->says[1]) == NULL)
            fail_msg("%s: status %s, message \"%s\" without \"%s\" or \"%s\"", test->name,
                     clmla_status_name(status), error.text, test->says[0], test->says[1]);
        assert_memory_equal(&weights, &untouched, sizeof weights);
        clmla_checkpoint_close(checkpoint);
    }
}

static void refuses_paths(void **state)
{
    model m;
    clmla_checkpoint *checkpoint = NULL;
    clmla_model_error error = {""};
    (void)state;
    assert_int_equal(clmla_checkpoint_open(FOLDER "/nosuch", &checkpoint, &error), CLMLA_IO);
    assert_non_null(strstr(error.text, "/nosuch: No such file"));
    make(&m);
    write_model(&m);
    assert_int_equal(clmla_checkpoint_open(FOLDER "/config.json", &checkpoint, &error),
                     CLMLA_BAD_FILE);
    assert_non_null(strstr(error.text, "/config.json: "));
    assert_int_equal(remove(FOLDER "/" INDEX), 0);
    assert_int_equal(clmla_checkpoint_open(FOLDER, &checkpoint, &error), CLMLA_IO);
    assert_non_null(strstr(error.text, "neither model.safetensors nor " INDEX));
    assert_int_equal(remove(FOLDER "/config.json"), 0);
    assert_int_equal(clmla_checkpoint_open(FOLDER "/" SHARD_1, &checkpoint, &error), CLMLA_IO);
    assert_non_null(strstr(error.text, "test_checkpoint/config.json: No such file"));
    assert_null(checkpoint);
    assert_int_equal(clmla_checkpoint_open(NULL, &checkpoint, NULL), CLMLA_INVALID_ARGUMENT);
    assert_int_equal(clmla_checkpoint_open(FOLDER, NULL, NULL), CLMLA_INVALID_ARGUMENT);
    assert_int_equal(clmla_checkpoint_layer(NULL, 0, NULL, NULL), CLMLA_INVALID_ARGUMENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_every_dtype_from_two_shards),
        cmocka_unit_test(reads_one_file),
        cmocka_unit_test(maps_only_the_shards_of_the_layer),
        cmocka_unit_test(names_the_range_of_layers),
        cmocka_unit_test(refuses_by_file_and_tensor),
        cmocka_unit_test(refuses_paths),
    };
    draw_data();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
