/* The layer in one launch (cl/nvidia/decode_layer.cl) against the launches of its stages, to the same
 * bits where those split the keys and merge them in W_UV's launch, and against the double reference;
 * and what happens where its work-groups do not meet. */
#include "ocl/context.h"
#include "ocl/program.h"
#include "support/layer_fixture.h"
#include "support/table.h"

typedef struct one_launch_case {
    const char *name;
    int32_t q_lora_rank, page_block_size, fused, num_splits;
    int32_t num_heads; /* 0: four */
    clmla_dtype output_dtype;
    clmla_output_mode output_mode;
    int32_t num_sequences;
    int32_t past[FIXTURE_MAX_SEQUENCES];
    int32_t new_tokens[FIXTURE_MAX_SEQUENCES];
} one_launch_case;

static const one_launch_case cases[] = {
    {"q LoRA, three splits, one token of each of five sequences", 36, 16, .num_splits = 3,
     .num_sequences = 5, .past = {9, 1, 31, 80, 64}, .new_tokens = {1, 1, 1, 1, 1}},
    {"without q LoRA, two splits, fused cache, three heads, one token", 0, 7, .fused = 1,
     .num_splits = 2, .num_heads = 3, .num_sequences = 1, .past = {50}, .new_tokens = {1}},
    {"q LoRA, five splits, sixteen tokens, sequences without new ones and without any", 40, 16,
     .num_splits = 5, .num_sequences = 7, .past = {9, 0, 31, 0, 70, 5, 2},
     .new_tokens = {1, 7, 3, 0, 1, 0, 4}},
    {"without q LoRA, contiguous, two splits, float32 output is added to", 0, 0, .num_splits = 2,
     .output_dtype = CLMLA_DTYPE_F32, .output_mode = CLMLA_ACCUMULATE, .num_sequences = 3,
     .past = {3, 40, 17}, .new_tokens = {2, 1, 3}},
    {"q LoRA, keys not split", 36, 16, .num_splits = 1, .num_sequences = 3, .past = {9, 70, 0},
     .new_tokens = {1, 1, 2}},
};

static fixture_options options_of(const one_launch_case *c, int32_t one_launch)
{
    fixture_options options = {.config = fixture_config_of(CLMLA_KERNELS_NVIDIA, c->q_lora_rank),
                               .kernel_class = CLMLA_KERNELS_NVIDIA,
                               .projection = CLMLA_PROJECTION_NATIVE,
                               .output_dtype = c->output_dtype,
                               .page_block_size = c->page_block_size,
                               .max_num_tokens = 20,
                               .num_splits = c->num_splits,
                               .fused = c->fused,
                               .output_mode = c->output_mode,
                               .one_launch = one_launch};
    if (c->num_heads > 0)
        options.config.num_attention_heads = c->num_heads;
    return options;
}

static int32_t launches(const fixture *f)
{
    clmla_binding_stats stats = {.struct_size = sizeof(stats)};
    assert_int_equal(clmla_binding_get_stats(f->binding, &stats), CLMLA_SUCCESS);
    return stats.kernel_launches;
}

static clmla_status plan_error(const fixture *f)
{
    clmla_status error = CLMLA_INTERNAL;
    assert_int_equal(clmla_plan_get_error(f->plan, test_device_get()->queue, &error),
                     CLMLA_SUCCESS);
    return error;
}

static bool describes(const fixture *f, const char *words)
{
    char text[8192];
    assert_int_equal(clmla_layer_describe(f->layer, text, sizeof(text), NULL), CLMLA_SUCCESS);
    return strstr(text, words) != NULL;
}

static size_t count_tokens(const one_launch_case *c)
{
    size_t total = 0;
    for (int32_t b = 0; b < c->num_sequences; b++)
        total += (size_t)c->new_tokens[b];
    return total;
}

static void fill(fixture *f, const one_launch_case *c)
{
    for (int32_t b = 0; b < c->num_sequences; b++)
        fixture_set_past(f, b, c->past[b], 100 + (uint64_t)b);
    assert_int_equal(fixture_plan(f, c->num_sequences, c->past, c->new_tokens), CLMLA_SUCCESS);
}

/* What ACCUMULATE adds to: quarters. */
static void start_output(const fixture *f, size_t count)
{
    float *values = malloc(count * sizeof(float));
    assert_non_null(values);
    for (size_t i = 0; i < count; i++)
        values[i] = 0.25f;
    assert_int_equal(clEnqueueWriteBuffer(test_device_get()->queue, f->output.tensor.buffer,
                                          CL_TRUE, (size_t)f->output.tensor.offset_bytes,
                                          count * sizeof(float), values, 0, NULL, NULL),
                     CL_SUCCESS);
    free(values);
}

/* The output of a step with hidden states of its own; the caller frees it. */
static double *run_step(fixture *f, const one_launch_case *c, uint64_t seed)
{
    const size_t total = count_tokens(c), width = (size_t)f->options.config.hidden_size;
    double *hidden = fixture_draw_hidden(f, total, seed);
    double *output = malloc(total * width * sizeof(double));
    assert_non_null(output);
    fixture_set_hidden(f, hidden, 0, total);
    if (c->output_mode == CLMLA_ACCUMULATE)
        start_output(f, total * width);
    assert_int_equal(
        clmla_enqueue_layer(f->binding, f->plan, test_device_get()->queue, 0, NULL, NULL),
        CLMLA_SUCCESS);
    fixture_get_output(f, output, 0, total);
    free(hidden);
    return output;
}

static void advance(fixture *f)
{
    assert_int_equal(clmla_enqueue_advance(f->plan, NULL, test_device_get()->queue, 0, NULL, NULL),
                     CLMLA_SUCCESS);
}

static void check_same_caches(const one_launch_case *c, int steps, const fixture *one,
                              const fixture *many)
{
    enum { LATENT = 64, ROPE = 16 }; /* of fixture_config_of */
    static double kv[2][FIXTURE_MAX_KEYS * LATENT], pe[2][FIXTURE_MAX_KEYS * ROPE];
    for (int32_t b = 0; b < c->num_sequences; b++) {
        const int32_t keys = c->past[b] + steps * c->new_tokens[b];
        fixture_get_cache(one, b, keys, kv[0], pe[0]);
        fixture_get_cache(many, b, keys, kv[1], pe[1]);
        assert_memory_equal(kv[0], kv[1], (size_t)keys * LATENT * sizeof(double));
        assert_memory_equal(pe[0], pe[1], (size_t)keys * ROPE * sizeof(double));
    }
}

/* Two steps one after the other: the second finds the barriers' words as the first left them. */
static void equals_the_launches_of_its_stages(void **state)
{
    const one_launch_case *c = *state;
    const fixture_options as_one = options_of(c, 1), as_many = options_of(c, 0);
    fixture one = fixture_create(&as_one), many = fixture_create(&as_many);
    const size_t count = count_tokens(c) * (size_t)one.options.config.hidden_size;
    assert_true(describes(&one, "in one launch: decode_layer"));
    fill(&one, c);
    fill(&many, c);
    for (int i = 0; i < 2; i++) {
        double *actual = run_step(&one, c, 7 + (uint64_t)i);
        double *expected = run_step(&many, c, 7 + (uint64_t)i);
        assert_int_equal(launches(&one), 1);
        assert_true(launches(&many) > 1);
        assert_int_equal(plan_error(&one), CLMLA_SUCCESS);
        if (c->num_splits > 1)
            assert_memory_equal(actual, expected, count * sizeof(double));
        else
            test_close(c->name, actual, expected, count, 5e-3);
        check_same_caches(c, i + 1, &one, &many);
        free(actual);
        free(expected);
        advance(&one);
        advance(&many);
    }
    fixture_release(&one);
    fixture_release(&many);
}

/* ---- where it is refused ----------------------------------------------------------------------- */

/* A layer that was asked for one launch and does without: right, and it says why. */
static void check_refused(const fixture_options *options, const one_launch_case *c, const char *why)
{
    fixture f = fixture_create(options);
    const size_t width = (size_t)f.options.config.hidden_size;
    if (!describes(&f, why))
        fail_msg("clmla_layer_describe does not say '%s'", why);
    assert_non_null(strstr(test_last_notify(), why));
    fill(&f, c);
    double *actual = run_step(&f, c, 7),
           *expected = malloc(count_tokens(c) * width * sizeof(double));
    double *hidden = fixture_draw_hidden(&f, count_tokens(c), 7);
    size_t first = 0;
    for (int32_t b = 0; b < c->num_sequences; b++) {
        fixture_reference(&f, b, c->past[b], c->new_tokens[b], hidden + first * width,
                          expected + first * width);
        first += (size_t)c->new_tokens[b];
    }
    test_close(why, actual, expected, first * width, 1e-2);
    assert_true(launches(&f) > 1);
    assert_int_equal(plan_error(&f), CLMLA_SUCCESS);
    free(actual);
    free(expected);
    free(hidden);
    fixture_release(&f);
}

static void a_kernel_that_does_not_build_is_refused(void **state)
{
    const char *const directory = TEST_OUTPUT_DIR "/no_one_launch";
    (void)state;
    fixture_options options = options_of(&cases[0], 1);
    test_write_kernel(directory, "nvidia/decode_layer.cl", "#error not here\n");
    options.kernel_directory = directory;
    options.projection = CLMLA_PROJECTION_AUTO;
    check_refused(&options, &cases[0], "its kernel did not build");
}

static void another_class_is_refused(void **state)
{
    (void)state;
    fixture_options options = options_of(&cases[0], 1);
    options.kernel_class = CLMLA_KERNELS_GPU;
    check_refused(&options, &cases[0], "not of this class");
}

static void batch_invariance_refuses(void **state)
{
    (void)state;
    fixture_options options = options_of(&cases[4], 1);
    options.batch_invariant = 1;
    check_refused(&options, &cases[4], "batch_invariant asks for the same bits");
}

/* The barriers' source with `lines` in front of it. */
static void write_grid(const char *directory, const char *lines)
{
    clmla_context *context = test_context(CLMLA_KERNELS_NVIDIA, CLMLA_PROJECTION_AUTO);
    const char *text = NULL;
    char *owned = NULL;
    assert_int_equal(mla__source_find(context, "nvidia/grid.clh", &text, &owned), CLMLA_SUCCESS);
    char *changed = malloc(strlen(lines) + strlen(text) + 1);
    assert_non_null(changed);
    (void)strcpy(changed, lines);
    (void)strcat(changed, text);
    test_write_kernel(directory, "nvidia/grid.clh", changed);
    free(changed);
    free(owned);
    clmla_context_release(context);
}

/* No group is ever the last one. */
static void groups_that_do_not_meet_are_refused(void **state)
{
    const char *const directory = TEST_OUTPUT_DIR "/groups_missing";
    (void)state;
    fixture_options options = options_of(&cases[0], 1);
    write_grid(directory, "#define device_increment(word) (device_increment(word) + 100)\n");
    options.kernel_directory = directory;
    options.projection = CLMLA_PROJECTION_AUTO;
    check_refused(&options, &cases[0], "its work-groups are not on the device at once");
}

/* The same with the patience of steps that have tokens: the device kept its word in
 * clmla_layer_prepare only. */
static void groups_that_no_longer_meet_end_the_step_with_an_error(void **state)
{
    const char *const directory = TEST_OUTPUT_DIR "/groups_missing_later";
    const one_launch_case *c = &cases[0];
    (void)state;
    fixture_options options = options_of(c, 1);
    write_grid(directory, "#undef GRID_POLLS\n#define GRID_POLLS (1u << 20)\n"
                          "#define device_increment(word) \\\n"
                          "    (device_increment(word) + (max_polls == GRID_POLLS ? 100 : 0))\n");
    options.kernel_directory = directory;
    options.projection = CLMLA_PROJECTION_AUTO;
    fixture f = fixture_create(&options);
    assert_true(describes(&f, "in one launch: decode_layer"));
    fill(&f, c);
    for (int i = 0; i < 2; i++) { /* the second does not begin */
        free(run_step(&f, c, 7));
        assert_int_equal(launches(&f), 1);
        assert_int_equal(plan_error(&f), CLMLA_UNSUPPORTED_DEVICE);
        assert_int_equal(plan_error(&f), CLMLA_SUCCESS);
    }
    fixture_release(&f);
}

/* ---- when it is taken -------------------------------------------------------------------------- */

static void more_tokens_take_the_launches_of_the_stages(void **state)
{
    const one_launch_case c = {.num_sequences = 2, .past = {3, 40}, .new_tokens = {16, 1}};
    const one_launch_case sixteen = {.num_sequences = 2, .past = {3, 40}, .new_tokens = {15, 1}};
    (void)state;
    const fixture_options options = options_of(&c, 1);
    fixture f = fixture_create(&options);
    fill(&f, &c);
    free(run_step(&f, &c, 1));
    assert_true(launches(&f) > 1);
    fill(&f, &sixteen);
    free(run_step(&f, &sixteen, 1));
    assert_int_equal(launches(&f), 1);
    fixture_release(&f);
}

static void nothing_changes_without_prepare(void **state)
{
    (void)state;
    const clmla_config config = fixture_config_of(CLMLA_KERNELS_NVIDIA, 36);
    clmla_context *context = test_context(CLMLA_KERNELS_NVIDIA, CLMLA_PROJECTION_NATIVE);
    const clmla_layer_params params = {.struct_size = sizeof(params),
                                       .config = &config,
                                       .max_num_sequences = 1,
                                       .max_num_tokens = 1,
                                       .max_cache_seqlen = 1,
                                       .one_launch = 1};
    char text[8192];
    clmla_layer *layer;
    assert_int_equal(clmla_layer_create(context, &params, &layer), CLMLA_SUCCESS);
    assert_int_equal(clmla_layer_describe(layer, text, sizeof(text), NULL), CLMLA_SUCCESS);
    assert_non_null(strstr(text, "in one launch: no, not before clmla_layer_prepare"));
    clmla_layer_release(layer);
    clmla_context_release(context);
}

static void stage(const char *name, cl_event end, void *user)
{
    (void)end;
    *(const char **)user = name;
}

static void it_is_one_stage(void **state)
{
    const char *last = NULL;
    (void)state;
    const fixture_options options = options_of(&cases[1], 1);
    fixture f = fixture_create(&options);
    fill(&f, &cases[1]);
    assert_int_equal(clmla_binding_set_stage_fn(f.binding, stage, &last), CLMLA_SUCCESS);
    free(run_step(&f, &cases[1], 1));
    assert_string_equal(last, "layer");
    fixture_release(&f);
}

int main(int argc, char **argv)
{
    const test_table table = TEST_TABLE(equals_the_launches_of_its_stages, cases);
    const struct CMUnitTest others[] = {
        cmocka_unit_test(a_kernel_that_does_not_build_is_refused),
        cmocka_unit_test(another_class_is_refused),
        cmocka_unit_test(batch_invariance_refuses),
        cmocka_unit_test(groups_that_do_not_meet_are_refused),
        cmocka_unit_test(groups_that_no_longer_meet_end_the_step_with_an_error),
        cmocka_unit_test(more_tokens_take_the_launches_of_the_stages),
        cmocka_unit_test(nothing_changes_without_prepare),
        cmocka_unit_test(it_is_one_stage),
    };
    return test_run("one launch", argc, argv, &table, 1, TEST_AND(others));
}
