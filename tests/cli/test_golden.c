/*
 * Golden cases are opened whole or refused by name.
 */
#include <dirent.h>
#include <stdbool.h>

#include "cli/golden.h"
#include "golden_cases.h"
#include "support/support.h"

#define OUTPUT TEST_OUTPUT_DIR "/test_golden.safetensors"

/* ---- opening -------------------------------------------------------------------------------- */

static void check_weight(const mla_golden *golden, const char *which,
                         const clmla_checkpoint_weight *weight, int32_t rows, int32_t columns,
                         bool norm)
{
    const bool fp8 = golden->fp8 && !norm;
    if (weight->data == NULL || weight->rows != (uint64_t)rows ||
        weight->columns != (uint64_t)columns ||
        weight->dtype != (fp8 ? CLMLA_ST_F8_E4M3 : CLMLA_ST_BF16) ||
        (weight->scale_inv != NULL) != fp8)
        fail_msg("%s: %s is %llu x %llu", golden->job.name, which, (unsigned long long)weight->rows,
                 (unsigned long long)weight->columns);
}

static void check_weights(const mla_golden *golden)
{
    const clmla_config *c = &golden->job.config;
    const clmla_checkpoint_weights *w = &golden->job.weights;
    const int32_t heads = c->num_attention_heads;
    const int32_t q = heads * (c->qk_nope_head_dim + c->qk_rope_head_dim);
    if (c->q_lora_rank == 0) {
        check_weight(golden, "q_proj", &w->q_proj, q, c->hidden_size, false);
        assert_null(w->q_a_proj.data);
        assert_null(w->q_a_layernorm.data);
        assert_null(w->q_b_proj.data);
    } else {
        assert_null(w->q_proj.data);
        check_weight(golden, "q_a_proj", &w->q_a_proj, c->q_lora_rank, c->hidden_size, false);
        check_weight(golden, "q_a_layernorm", &w->q_a_layernorm, 1, c->q_lora_rank, true);
        check_weight(golden, "q_b_proj", &w->q_b_proj, q, c->q_lora_rank, false);
    }
    check_weight(golden, "kv_a_proj_with_mqa", &w->kv_a_proj_with_mqa,
                 c->kv_lora_rank + c->qk_rope_head_dim, c->hidden_size, false);
    check_weight(golden, "kv_a_layernorm", &w->kv_a_layernorm, 1, c->kv_lora_rank, true);
    check_weight(golden, "kv_b_proj", &w->kv_b_proj, heads * (c->qk_nope_head_dim + c->v_head_dim),
                 c->kv_lora_rank, false);
    check_weight(golden, "o_proj", &w->o_proj, c->hidden_size, heads * c->v_head_dim, false);
}

static void check_case(const char *name)
{
    mla_golden golden;
    open_case(name, &golden);
    assert_string_equal(golden.job.name, name);
    assert_int_equal(clmla_config_validate(&golden.job.config, NULL, 0), CLMLA_SUCCESS);
    assert_true(golden.bound_bf16_rel_l2 > golden.bound_f32_rel_l2);
    assert_true(golden.bound_bf16_max_abs > 0.0);
    assert_int_equal(golden.fp8, strstr(name, "fp8") != NULL);
    assert_int_equal(golden.recipe, strstr(name, "full") != NULL);
    assert_int_equal(golden.probes[0] != NULL && golden.probes[1] != NULL, golden.recipe);
    assert_int_equal(golden.feedback, strstr(name, "autoregressive") != NULL ||
                                          strcmp(name, "30_full_lite_decode") == 0);
    check_weights(&golden);
    for (int32_t r = 0; r < golden.job.num_requests; r++) {
        const mla_request *request = &golden.job.requests[r];
        assert_true(request->batch >= 1 && request->num_steps >= 1);
        assert_int_equal(request->kv_cache.data != NULL, request->past > 0);
        assert_int_equal(request->pe_cache.data != NULL, request->past > 0);
        for (int32_t i = 0; i < request->num_steps; i++)
            assert_non_null(request->hidden[i].data);
    }
    mla_golden_close(&golden);
    assert_null(golden.file);
    mla_golden_close(&golden); /* harmless */
}

static void opens_every_case(void **state)
{
    (void)state;
    for (size_t i = 0; i < NUM_CASES; i++)
        check_case(cases[i]);
}

static void knows_every_file_of_the_directory(void **state)
{
    DIR *directory = opendir(GOLDEN_DIR);
    size_t files = 0;
    (void)state;
    assert_non_null(directory);
    for (const struct dirent *entry = readdir(directory); entry != NULL; entry = readdir(directory))
        files += strstr(entry->d_name, ".safetensors") != NULL;
    assert_int_equal(closedir(directory), 0);
    assert_int_equal(files, NUM_CASES);
}

static void reads_requests_of_each_layout(void **state)
{
    mla_golden golden;
    (void)state;
    open_case("16_chunked_4_b2", &golden);
    assert_int_equal(golden.job.num_requests, 1);
    assert_string_equal(golden.job.requests[0].prefix, "");
    assert_int_equal(golden.job.requests[0].batch, 2);
    assert_int_equal(golden.job.requests[0].past, 0);
    assert_int_equal(golden.job.requests[0].num_steps, 4);
    assert_memory_equal(golden.job.requests[0].steps, ((const int32_t[]){5, 1, 10, 16}), 16);
    mla_golden_close(&golden);

    open_case("20_ragged_prefill", &golden);
    assert_int_equal(golden.job.num_requests, 4);
    assert_string_equal(golden.job.requests[3].prefix, "req3.");
    assert_int_equal(golden.job.requests[2].past, 30);
    assert_int_equal(golden.job.requests[3].steps[0], 9);
    mla_golden_close(&golden);

    open_case("30_full_lite_decode", &golden);
    assert_int_equal(golden.job.num_requests, 16);
    assert_string_equal(golden.job.requests[15].prefix, "req15.");
    assert_int_equal(golden.job.requests[15].past, 400);
    assert_int_equal(golden.job.requests[15].num_steps, 3);
    mla_golden_close(&golden);
}

static bool count_progress(const char *what, void *user)
{
    assert_non_null(strstr(what, "_proj"));
    return ++*(int *)user <= 4;
}

static bool stop_at_second(const char *what, void *user)
{
    (void)what;
    return ++*(int *)user < 2;
}

static void tells_progress_of_large_tensors_only(void **state)
{
    char path[512];
    mla_golden golden;
    int told = 0;
    (void)state;
    case_path("30_full_lite_decode", path, sizeof path);
    assert_int_equal(mla_golden_open(path, count_progress, &told, &golden, NULL), CLMLA_SUCCESS);
    mla_golden_close(&golden);
    assert_int_equal(told, 4); /* q_proj, kv_a_proj_with_mqa, kv_b_proj, o_proj */
}

static void progress_may_end_the_drawing(void **state)
{
    char path[512];
    mla_golden golden = {.file = NULL};
    clmla_model_error error = {""};
    int told = 0;
    (void)state;
    case_path("30_full_lite_decode", path, sizeof path);
    assert_int_equal(mla_golden_open(path, stop_at_second, &told, &golden, &error), CLMLA_BAD_FILE);
    assert_int_equal(told, 2);
    assert_non_null(strstr(error.text, "kv_a_proj_with_mqa.weight' was not to be drawn"));
    assert_null(golden.file);
}

/* ---- broken cases --------------------------------------------------------------------------- */

typedef struct broken_case {
    const char *name;
    const char *of;                /* case that is changed */
    const char *key;               /* metadata key that gets `value`; NULL: none */
    const char *value;             /* NULL: the key is left out */
    const char *tensor;            /* left out, or given another shape or dtype; NULL: none */
    clmla_safetensors_dtype dtype; /* 0: the tensor is left out */
    const char *says;
} broken_case;

static const broken_case broken[] = {
    {.name = "another file", .of = "01_tiny_prefill", .key = "format", .says = "not a golden case"},
    {.name = "another version",
     .of = "01_tiny_prefill",
     .key = "format",
     .value = "mla-golden 2",
     .says = "'format' is mla-golden 2"},
    {.name = "no name", .of = "01_tiny_prefill", .key = "case", .says = "'case' is missing"},
    {.name = "another layout",
     .of = "01_tiny_prefill",
     .key = "layout",
     .value = "round",
     .says = "'layout' is 'round'"},
    {.name = "another dtype",
     .of = "01_tiny_prefill",
     .key = "dtype",
     .value = "int4",
     .says = "'dtype' is 'int4'"},
    {.name = "a bound that is no number",
     .of = "01_tiny_prefill",
     .key = "bound_f32_rel_l2",
     .value = "5e-6x",
     .says = "'bound_f32_rel_l2' is '5e-6x'"},
    {.name = "a bound that is NaN",
     .of = "01_tiny_prefill",
     .key = "bound_bf16_rel_l2",
     .value = "nan",
     .says = "'bound_bf16_rel_l2' is 'nan'"},
    {.name = "a config without sizes",
     .of = "01_tiny_prefill",
     .key = "config",
     .value = "{}",
     .says = "hidden_size is missing"},
    {.name = "requests that are no list",
     .of = "01_tiny_prefill",
     .key = "requests",
     .value = "{}",
     .says = "not a list of 1 to 1 requests"},
    {.name = "two requests without prefix",
     .of = "01_tiny_prefill",
     .key = "requests",
     .value = "[{\"batch\":1,\"past\":0,\"steps\":[5]},{\"batch\":1,\"past\":0,\"steps\":[5]}]",
     .says = "not a list of 1 to 1 requests"},
    {.name = "a request without steps",
     .of = "01_tiny_prefill",
     .key = "requests",
     .value = "[{\"batch\":1,\"past\":0,\"steps\":[]}]",
     .says = "request 0 is not"},
    {.name = "positions past 2^31",
     .of = "01_tiny_prefill",
     .key = "requests",
     .value = "[{\"batch\":1,\"past\":2147483647,\"steps\":[5]}]",
     .says = "request 0 is not"},
    {.name = "more tokens than are stored",
     .of = "01_tiny_prefill",
     .key = "requests",
     .value = "[{\"batch\":1,\"past\":0,\"steps\":[6]}]",
     .says = "'step0.hidden_states' is not BF16 of the shape"},
    {.name = "a start that is not the past",
     .of = "02_tiny_decode",
     .key = "requests",
     .value = "[{\"batch\":1,\"past\":0,\"steps\":[1]}]",
     .says = "'step0.start_pos' is 13, but 0 tokens"},
    {.name = "no weight",
     .of = "01_tiny_prefill",
     .tensor = "model.layers.0.self_attn.o_proj.weight",
     .says = "'model.layers.0.self_attn.o_proj.weight' is missing"},
    {.name = "a weight of another dtype",
     .of = "01_tiny_prefill",
     .tensor = "model.layers.0.self_attn.o_proj.weight",
     .dtype = CLMLA_ST_F16,
     .says = "'model.layers.0.self_attn.o_proj.weight' is not BF16"},
    {.name = "no cache", .of = "02_tiny_decode", .tensor = "init.pe_cache", .says = "is missing"},
    {.name = "no scales",
     .of = "28_fp8_decode",
     .tensor = "model.layers.0.self_attn.q_proj.weight_scale_inv",
     .says = "q_proj.weight_scale_inv' is missing"},
    {.name = "no recipe",
     .of = "30_full_lite_decode",
     .key = "recipe",
     .says = "'recipe' is not an object"},
    {.name = "a recipe without the weights",
     .of = "30_full_lite_decode",
     .key = "recipe",
     .value = "{\"seed\": 130, \"tensors\": {}}",
     .says = "'model.layers.0.self_attn.q_proj.weight' is missing"},
    {.name = "a recipe of another shape",
     .of = "30_full_lite_decode",
     .key = "recipe",
     .value = "{\"seed\": 130, \"tensors\": {\"model.layers.0.self_attn.q_proj.weight\": "
              "{\"shape\": [2048, 3072], \"kind\": \"sym\", \"exp\": -4, \"sum16\": \"0\", "
              "\"wsum16\": \"0\"}}}",
     .says = "recipe of 'model.layers.0.self_attn.q_proj.weight': not the shape"},
    {.name = "a checksum that does not agree",
     .of = "30_full_lite_decode",
     .key = "recipe",
     .value = "{\"seed\": 130, \"tensors\": {\"model.layers.0.self_attn.q_proj.weight\": "
              "{\"shape\": [3072, 2048], \"kind\": \"sym\", \"exp\": -4, \"sum16\": \"ff\", "
              "\"wsum16\": \"0\"}}}",
     .says = "tensor 'model.layers.0.self_attn.q_proj.weight' as drawn has sum16"},
};

/* Writes a changed copy of a case. */
static void write_broken(const broken_case *test)
{
    static const char *const keys[] = {"format",
                                       "case",
                                       "layout",
                                       "dtype",
                                       "feedback",
                                       "config",
                                       "requests",
                                       "bound_bf16_rel_l2",
                                       "bound_f32_rel_l2",
                                       "bound_bf16_max_abs",
                                       "recipe"};
    enum { NUM_KEYS = sizeof keys / sizeof keys[0], MAX_TENSORS = 512 };
    char path[512];
    clmla_safetensors *file = NULL;
    clmla_safetensors_tensor tensors[MAX_TENSORS];
    const char *metadata[2 * NUM_KEYS];
    size_t num_metadata = 0;
    size_t num_tensors = 0;

    case_path(test->of, path, sizeof path);
    assert_int_equal(clmla_safetensors_open(path, &file, NULL), CLMLA_SUCCESS);
    for (size_t i = 0; i < NUM_KEYS; i++) {
        const bool changed = test->key != NULL && strcmp(test->key, keys[i]) == 0;
        const char *value = changed ? test->value : clmla_safetensors_metadata(file, keys[i]);
        if (value == NULL)
            continue;
        metadata[2 * num_metadata] = keys[i];
        metadata[2 * num_metadata + 1] = value;
        num_metadata++;
    }
    assert_true(clmla_safetensors_count(file) <= MAX_TENSORS);
    for (size_t i = 0; i < clmla_safetensors_count(file); i++) {
        clmla_safetensors_tensor tensor = *clmla_safetensors_at(file, i);
        if (test->tensor != NULL && strcmp(test->tensor, tensor.name) == 0) {
            if (test->dtype == 0)
                continue;
            tensor.dtype = test->dtype;
        }
        tensors[num_tensors++] = tensor;
    }
    assert_int_equal(
        clmla_safetensors_write(OUTPUT, tensors, num_tensors, metadata, num_metadata, NULL),
        CLMLA_SUCCESS);
    clmla_safetensors_close(file);
}

static void refuses_broken_cases(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
        mla_golden golden;
        clmla_model_error error = {""};
        clmla_status status;
        write_broken(&broken[i]);
        status = mla_golden_open(OUTPUT, NULL, NULL, &golden, &error);
        if (status == CLMLA_SUCCESS || strstr(error.text, broken[i].says) == NULL)
            fail_msg("%s: status %s, message \"%s\" without \"%s\"", broken[i].name,
                     clmla_status_name(status), error.text, broken[i].says);
        assert_int_equal(mla_golden_open(OUTPUT, NULL, NULL, &golden, NULL), status);
    }
    assert_int_equal(remove(OUTPUT), 0);
}

static void refuses_a_case_whose_truth_is_missing(void **state)
{
    static const broken_case without_truth = {.of = "01_tiny_prefill", .tensor = "step0.output"};
    static const broken_case without_cache = {.of = "01_tiny_prefill", .tensor = "pe_cache"};
    const broken_case *const tests[2] = {&without_truth, &without_cache};
    (void)state;
    for (int i = 0; i < 2; i++) {
        mla_golden golden;
        mla_results results;
        mla_golden_errors errors;
        clmla_model_error error = {""};
        write_broken(tests[i]);
        assert_int_equal(mla_golden_open(OUTPUT, NULL, NULL, &golden, NULL), CLMLA_SUCCESS);
        assert_int_equal(mla_results_create(&golden.job, &results), CLMLA_SUCCESS);
        assert_int_equal(mla_golden_compare(&golden, &results, 1.0, &errors, &error),
                         CLMLA_BAD_FILE);
        assert_non_null(strstr(error.text, tests[i]->tensor));
        mla_results_release(&golden.job, &results);
        mla_golden_close(&golden);
    }
    assert_int_equal(remove(OUTPUT), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opens_every_case),
        cmocka_unit_test(knows_every_file_of_the_directory),
        cmocka_unit_test(reads_requests_of_each_layout),
        cmocka_unit_test(tells_progress_of_large_tensors_only),
        cmocka_unit_test(progress_may_end_the_drawing),
        cmocka_unit_test(refuses_broken_cases),
        cmocka_unit_test(refuses_a_case_whose_truth_is_missing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
