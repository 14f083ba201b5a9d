/* Steps and ops while a call of OpenCL or CLBlast fails: what was computed stays, what was not can be
 * tried again. */
#include "core/dtype.h"
#include "faults/ops.h"
#include "faults/scenario.h"
#include "support/attention_batch.h"
#include "support/layer_fixture.h"
#include "support/table.h"

/* ---- a layer's step -------------------------------------------------------------------------- */

enum { NUM_SEQUENCES = 2, TOKENS = 4 };

static const int32_t past[NUM_SEQUENCES] = {5, 0}, new_tokens[NUM_SEQUENCES] = {1, 3};
static const int32_t later[NUM_SEQUENCES] = {6, 3}; /* after an advance */

typedef struct world {
    fixture f;
    size_t width, tokens; /* of the step that is computed */
    double *expected;     /* of a step at past, of one at later; [2][tokens, width] */
    double *kv, *pe;      /* rows of the past */
    const char *of_what;
} world;

static void fill_plan(void *at)
{
    world *w = at;
    assert_int_equal(fixture_plan(&w->f, NUM_SEQUENCES, past, new_tokens), CLMLA_SUCCESS);
}

static clmla_status later_plan(void *at)
{
    world *w = at;
    return fixture_plan(&w->f, NUM_SEQUENCES, later, new_tokens);
}

static clmla_status advance(void *at)
{
    world *w = at;
    cl_event event = NULL;
    const clmla_status status =
        clmla_enqueue_advance(w->f.plan, NULL, test_device_get()->queue, 0, NULL, &event);
    assert_true((event != NULL) == (status == CLMLA_SUCCESS));
    if (event != NULL)
        assert_int_equal(clReleaseEvent(event), CL_SUCCESS);
    return status;
}

static clmla_status forward(void *at)
{
    world *w = at;
    cl_event event = NULL;
    const clmla_status status =
        clmla_enqueue_layer(w->f.binding, w->f.plan, test_device_get()->queue, 0, NULL, &event);
    assert_true((event != NULL) == (status == CLMLA_SUCCESS));
    if (event != NULL)
        assert_int_equal(clReleaseEvent(event), CL_SUCCESS);
    return status;
}

static void read_output(const world *w, double *values)
{
    fixture_get_output(&w->f, values, 0, w->tokens);
}

static void expect_output(const world *w, size_t which)
{
    double *values = malloc(w->tokens * w->width * sizeof(double));
    assert_non_null(values);
    read_output(w, values);
    if (memcmp(values, w->expected + which * w->tokens * w->width,
               w->tokens * w->width * sizeof(double)) != 0)
        fail_msg("%s: the step's output is another", w->of_what);
    free(values);
}

/* The output is that of the step at `past`, or, after an advance, at `later`. */
static void compute_and_expect(world *w, size_t which)
{
    assert_int_equal(forward(w), CLMLA_SUCCESS);
    assert_int_equal(clFinish(test_device_get()->queue), CL_SUCCESS);
    expect_output(w, which);
}

static void output_is_right(void *at) { expect_output(at, 0); }
static void planned_output_is_right(void *at) { compute_and_expect(at, 0); }
static void advanced_output_is_right(void *at) { compute_and_expect(at, 1); }

/* Cache rows below the old length are as they were. */
static void past_is_intact(void *at)
{
    world *w = at;
    const clmla_config *c = &w->f.options.config;
    const size_t latent = (size_t)c->kv_lora_rank, rope = (size_t)c->qk_rope_head_dim;
    double *kv = malloc((size_t)past[0] * latent * sizeof(double));
    double *pe = malloc((size_t)past[0] * rope * sizeof(double));
    fixture_get_cache(&w->f, 0, past[0], kv, pe);
    assert_memory_equal(kv, w->kv, (size_t)past[0] * latent * sizeof(double));
    assert_memory_equal(pe, w->pe, (size_t)past[0] * rope * sizeof(double));
    free(kv);
    free(pe);
}

typedef struct step_case {
    const char *name;
    clmla_kernel_class kernel_class;
    clmla_projection_backend projection;
    clmla_dtype dtype;
    int32_t num_splits;
    uint64_t workspace_limit_bytes;
} step_case;

static const step_case cases[] = {
    {"cpu bf16", CLMLA_KERNELS_CPU, CLMLA_PROJECTION_NATIVE, CLMLA_DTYPE_BF16, 0, 0},
    {"cpu bf16, CLBlast", CLMLA_KERNELS_CPU, CLMLA_PROJECTION_CLBLAST, CLMLA_DTYPE_BF16, 0, 0},
    {"cpu f32, CLBlast", CLMLA_KERNELS_CPU, CLMLA_PROJECTION_CLBLAST, CLMLA_DTYPE_F32, 0, 0},
    {"cpu bf16, token by token", CLMLA_KERNELS_CPU, CLMLA_PROJECTION_NATIVE, CLMLA_DTYPE_BF16, 0,
     8192},
    {"gpu f16, two splits", CLMLA_KERNELS_GPU, CLMLA_PROJECTION_NATIVE, CLMLA_DTYPE_F16, 2, 0},
    {"nvidia bf16, two splits", CLMLA_KERNELS_NVIDIA, CLMLA_PROJECTION_NATIVE, CLMLA_DTYPE_BF16, 2,
     0},
};

static world make_world(const step_case *c)
{
    const fixture_options options = {.config = fixture_config_of(c->kernel_class, 36),
                                     .kernel_class = c->kernel_class,
                                     .projection = c->projection,
                                     .dtype = c->dtype,
                                     .page_block_size = 16,
                                     .num_splits = c->num_splits,
                                     .workspace_limit_bytes = c->workspace_limit_bytes};
    world w = {.f = fixture_create(&options), .tokens = TOKENS, .of_what = c->name};
    const clmla_config *config = &w.f.options.config;
    w.width = (size_t)config->hidden_size;
    w.expected = malloc(2 * TOKENS * w.width * sizeof(double));
    w.kv = malloc((size_t)past[0] * (size_t)config->kv_lora_rank * sizeof(double));
    w.pe = malloc((size_t)past[0] * (size_t)config->qk_rope_head_dim * sizeof(double));
    assert_true(w.expected != NULL && w.kv != NULL && w.pe != NULL);
    double *hidden = fixture_draw_hidden(&w.f, TOKENS, 5);
    fixture_set_hidden(&w.f, hidden, 0, TOKENS);
    free(hidden);
    fixture_set_past(&w.f, 0, past[0], 100);
    fixture_get_cache(&w.f, 0, past[0], w.kv, w.pe);
    const int32_t *const lengths[] = {past, later};
    for (size_t i = 0; i < 2; i++) { /* the first one's new rows are the second one's past */
        assert_int_equal(fixture_plan(&w.f, NUM_SEQUENCES, lengths[i], new_tokens), CLMLA_SUCCESS);
        assert_int_equal(forward(&w), CLMLA_SUCCESS);
        assert_int_equal(clFinish(test_device_get()->queue), CL_SUCCESS);
        read_output(&w, w.expected + i * TOKENS * w.width);
    }
    return w;
}

static void steps(void **state)
{
    const step_case *c = *state;
    /* What is not known to be free of the staging memory is not used; there is more. */
    static const char *const staged[] = {"clGetEventInfo", NULL};
    const scenario scenarios[] = {
        {.name = "a plan",
         .before = fill_plan,
         .run = later_plan,
         .check = advanced_output_is_right,
         .check_failed = planned_output_is_right,
         .overcome = staged,
         .keeps_events = true},
        {.name = "an advance",
         .before = fill_plan,
         .run = advance,
         .check = advanced_output_is_right,
         .check_failed = planned_output_is_right,
         .overcome = staged,
         .keeps_events = true},
        {.name = "a forward",
         .before = fill_plan,
         .run = forward,
         .check = output_is_right,
         .check_failed = past_is_intact,
         .keeps_events = true}, /* the plan's, in `before` */
    };
    (void)test_device_get();
    const faults_holds before = faults_count();
    world w = make_world(c);
    for (size_t i = 0; i < sizeof scenarios / sizeof scenarios[0]; i++)
        scenario_run(&scenarios[i], &w);
    free(w.expected);
    free(w.kv);
    free(w.pe);
    fixture_release(&w.f);
    scenario_expect_holds(&before);
}

/* ---- ops ------------------------------------------------------------------------------------- */

static void try_ops(clmla_kernel_class kernel_class, clmla_projection_backend backend)
{
    op_world w = ops_make(kernel_class, backend);
    for (int i = 0; i < NUM_OPS; i++) {
        const scenario s = {
            .name = ops_choose(&w, i), .before = ops_reset, .run = ops_run, .check = ops_check};
        scenario_run(&s, &w);
    }
    ops_release(&w);
}

static void ops_of_class_cpu(void **state)
{
    (void)state;
    try_ops(CLMLA_KERNELS_CPU, CLMLA_PROJECTION_NATIVE);
}

static void ops_of_class_gpu(void **state)
{
    (void)state;
    try_ops(CLMLA_KERNELS_GPU, CLMLA_PROJECTION_NATIVE);
}

static void projection_by_clblast(void **state)
{
    (void)state;
    try_ops(CLMLA_KERNELS_CPU, CLMLA_PROJECTION_CLBLAST);
}

/* ---- attention ------------------------------------------------------------------------------- */

typedef struct attention_world {
    clmla_context *context;
    attention_problem problem;
    double *expected;
} attention_world;

static clmla_status attention(void *at)
{
    attention_world *w = at;
    cl_event event = NULL;
    const clmla_status status = clmla_enqueue_attention(w->context, &w->problem.params,
                                                        test_device_get()->queue, 0, NULL, &event);
    assert_true((event != NULL) == (status == CLMLA_SUCCESS));
    if (event != NULL)
        assert_int_equal(clReleaseEvent(event), CL_SUCCESS);
    return status;
}

static void attention_is_right(void *at)
{
    attention_world *w = at;
    const attention_batch *b = &w->problem.batch;
    const size_t count =
        (size_t)w->problem.num_tokens * (size_t)b->num_heads * (size_t)b->kv_lora_rank;
    double *out = malloc(count * sizeof(double));
    assert_non_null(out);
    attention_problem_read(&w->problem, out, NULL);
    if (w->expected == NULL) {
        w->expected = out;
        return;
    }
    assert_memory_equal(out, w->expected, count * sizeof(double));
    free(out);
}

static void attention_in_splits(void **state)
{
    (void)state;
    static const attention_sequence sequences[] = {{1, 2, 20}, {2, 1, 70}};
    static const attention_batch batch = {.num_heads = 3,
                                          .kv_lora_rank = 64,
                                          .rope_dim = 16,
                                          .num_sequences = 2,
                                          .sequences = sequences,
                                          .page_block_size = 16,
                                          .num_splits = 2};
    for (clmla_kernel_class c = CLMLA_KERNELS_CPU; c <= CLMLA_KERNELS_NVIDIA; c++) {
        const scenario s = {
            .name = clmla_kernel_class_name(c), .run = attention, .check = attention_is_right};
        attention_world w = {.context = test_context(c, CLMLA_PROJECTION_NATIVE)};
        w.problem = attention_problem_make(w.context, &batch);
        scenario_run(&s, &w);
        free(w.expected);
        attention_problem_release(&w.problem);
        clmla_context_release(w.context);
    }
}

int main(int argc, char **argv)
{
    const test_table table = TEST_TABLE(steps, cases);
    const struct CMUnitTest others[] = {
        cmocka_unit_test(ops_of_class_cpu),
        cmocka_unit_test(ops_of_class_gpu),
        cmocka_unit_test(projection_by_clblast),
        cmocka_unit_test(attention_in_splits),
    };
    return test_run("steps", argc, argv, &table, 1, TEST_AND(others));
}
