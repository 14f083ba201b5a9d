/* Layers, weights and bindings: what is refused, with which words; sizes, stages and descriptions.
 */
#include "core/dtype.h"
#include "layer/binding.h"
#include "layer/layer.h"
#include "support/layer_fixture.h"
#include "support/table.h"

/* ---- layers ---------------------------------------------------------------------------------- */

static clmla_layer_params good_layer(const clmla_config *config)
{
    const clmla_layer_params params = {.struct_size = sizeof(params),
                                       .config = config,
                                       .max_num_sequences = 2,
                                       .max_num_tokens = 8,
                                       .max_cache_seqlen = 32};
    return params;
}

typedef struct bad_layer {
    const char *name;
    void (*spoil)(clmla_layer_params *params, clmla_config *config);
    clmla_status status;
    const char *text;
} bad_layer;

#define SPOIL(name, statement)                                                                     \
    static void name(clmla_layer_params *p, clmla_config *c)                                       \
    {                                                                                              \
        (void)p;                                                                                   \
        (void)c;                                                                                   \
        statement;                                                                                 \
    }

SPOIL(future_struct, p->struct_size += 8)
SPOIL(no_config, p->config = NULL)
SPOIL(negative_rank, c->kv_lora_rank = -1)
SPOIL(odd_rope, c->qk_rope_head_dim = 11)
SPOIL(no_sequences, p->max_num_sequences = 0)
SPOIL(negative_page, p->page_block_size = -1)
SPOIL(no_pages, p->page_block_size = 16)
SPOIL(bad_dtype, p->cache_dtype = CLMLA_DTYPE_I32)
SPOIL(bad_form, p->attention_form = 7)
SPOIL(tiny_workspace, p->workspace_limit_bytes = 100)
SPOIL(splits_and_invariant, (p->batch_invariant = 1, p->num_splits = 2))

static const bad_layer bad_layers[] = {
    {"a struct of the future", future_struct, CLMLA_INVALID_ARGUMENT, "struct_size"},
    {"no configuration", no_config, CLMLA_INVALID_ARGUMENT, "config is null"},
    {"a negative rank", negative_rank, CLMLA_INVALID_CONFIG, "kv_lora_rank is -1"},
    {"an odd rope dim", odd_rope, CLMLA_INVALID_CONFIG, "qk_rope_head_dim is 11"},
    {"no sequences", no_sequences, CLMLA_INVALID_ARGUMENT, "max_num_sequences is 0"},
    {"a negative page size", negative_page, CLMLA_INVALID_ARGUMENT, "page_block_size is -1"},
    {"pages of unknown number", no_pages, CLMLA_INVALID_ARGUMENT, "num_pages is 0"},
    {"an integer cache", bad_dtype, CLMLA_INVALID_TENSOR_DTYPE, "cache_dtype"},
    {"an unknown form", bad_form, CLMLA_UNSUPPORTED_CONFIG, "attention_form is 7"},
    {"a workspace for no token", tiny_workspace, CLMLA_WORKSPACE_TOO_SMALL, "one token needs"},
    {"batch-invariant splits", splits_and_invariant, CLMLA_UNSUPPORTED_CONFIG, "num_splits is 2"},
};

static void refuses_layer(void **state)
{
    const bad_layer *b = *state;
    clmla_context *context = test_context(CLMLA_KERNELS_CPU, CLMLA_PROJECTION_NATIVE);
    clmla_config config = fixture_config(36);
    clmla_layer_params params = good_layer(&config);
    clmla_layer *layer = NULL;
    b->spoil(&params, &config);
    test_clear_notify();
    assert_int_equal(clmla_layer_create(context, &params, &layer), b->status);
    assert_null(layer);
    if (strstr(test_last_notify(), b->text) == NULL)
        fail_msg("notify says '%s', not '%s'", test_last_notify(), b->text);
    clmla_context_release(context);
}

/* ---- bindings -------------------------------------------------------------------------------- */

typedef struct bad_binding {
    const char *name;
    void (*spoil)(clmla_binding_params *params);
    clmla_status status;
    const char *text;
} bad_binding;

#define SPOIL_BINDING(name, statement)                                                             \
    static void name(clmla_binding_params *p) { statement; }

SPOIL_BINDING(future_binding, p->struct_size += 8)
SPOIL_BINDING(no_weights, p->weights = NULL)
SPOIL_BINDING(no_workspace, p->workspace.buffer = NULL)
SPOIL_BINDING(workspace_at_the_end, p->workspace.offset_bytes += 1024)
SPOIL_BINDING(odd_workspace, p->workspace.offset_bytes += 8)
SPOIL_BINDING(cache_too_small, p->kv_cache.offset_bytes += 2)
SPOIL_BINDING(cache_stride, p->kv_cache.strides[1] = 39)
SPOIL_BINDING(wrong_dtype, p->hidden_states.dtype = CLMLA_DTYPE_F32)
SPOIL_BINDING(output_too_small, p->output.offset_bytes += 2)
SPOIL_BINDING(odd_offset, p->output.offset_bytes += 1)

static const bad_binding bad_bindings[] = {
    {"a struct of the future", future_binding, CLMLA_INVALID_ARGUMENT, "struct_size"},
    {"no weights", no_weights, CLMLA_INVALID_ARGUMENT, "weights"},
    {"no workspace", no_workspace, CLMLA_WORKSPACE_TOO_SMALL, "bytes are needed"},
    {"a workspace that is too small", workspace_at_the_end, CLMLA_WORKSPACE_TOO_SMALL, "needed"},
    {"a misaligned workspace", odd_workspace, CLMLA_INVALID_ARGUMENT, "multiple of 256"},
    {"a cache that is too small", cache_too_small, CLMLA_BUFFER_TOO_SMALL, "kv_cache"},
    {"cache rows that overlap", cache_stride, CLMLA_INVALID_STRIDE, "kv_cache"},
    {"hidden states of another dtype", wrong_dtype, CLMLA_INVALID_TENSOR_DTYPE, "hidden_states"},
    {"an output that is too small", output_too_small, CLMLA_BUFFER_TOO_SMALL, "output"},
    {"an output between elements", odd_offset, CLMLA_INVALID_STRIDE, "output"},
};

/* Buffers of exactly the sizes that are needed, without canaries behind them. */
static cl_mem exact(size_t bytes)
{
    cl_int error;
    const cl_mem buffer =
        clCreateBuffer(test_device_get()->context, CL_MEM_READ_WRITE, bytes, NULL, &error);
    assert_int_equal(error, CL_SUCCESS);
    return buffer;
}

typedef struct parts {
    clmla_context *context;
    clmla_layer *layer;
    fixture_weights host;
    clmla_weights *weights;
    cl_mem kv, pe, hidden, output, workspace;
    clmla_binding_params params;
} parts;

static parts make_parts(void)
{
    parts p = {.context = test_context(CLMLA_KERNELS_CPU, CLMLA_PROJECTION_NATIVE)};
    const clmla_config config = fixture_config(36);
    const clmla_layer_params layer = good_layer(&config);
    clmla_layer_info info = {.struct_size = sizeof(info)};
    assert_int_equal(clmla_layer_create(p.context, &layer, &p.layer), CLMLA_SUCCESS);
    assert_int_equal(clmla_layer_get_info(p.layer, &info), CLMLA_SUCCESS);
    p.host = fixture_weights_create(&config, 5);
    const clmla_weights_params weights = fixture_weights_params(&p.host);
    assert_int_equal(clmla_weights_create(p.layer, &weights, test_device_get()->queue, &p.weights),
                     CLMLA_SUCCESS);
    p.kv = exact(2 * 32 * 40 * 2);
    p.pe = exact(2 * 32 * 12 * 2);
    p.hidden = exact(8 * 88 * 2);
    p.output = exact(8 * 88 * 2);
    p.workspace = exact((size_t)info.workspace_bytes);
    const clmla_binding_params params = {.struct_size = sizeof(params),
                                         .weights = p.weights,
                                         .kv_cache = {.buffer = p.kv},
                                         .pe_cache = {.buffer = p.pe},
                                         .hidden_states = {.buffer = p.hidden},
                                         .output = {.buffer = p.output},
                                         .workspace = {.buffer = p.workspace}};
    p.params = params;
    return p;
}

static void release_parts(parts *p)
{
    clReleaseMemObject(p->kv);
    clReleaseMemObject(p->pe);
    clReleaseMemObject(p->hidden);
    clReleaseMemObject(p->output);
    clReleaseMemObject(p->workspace);
    clmla_weights_release(p->weights);
    clmla_layer_release(p->layer);
    clmla_context_release(p->context);
    fixture_weights_release(&p->host);
}

static cl_uint references(cl_mem buffer)
{
    cl_uint count = 0;
    assert_int_equal(
        clGetMemObjectInfo(buffer, CL_MEM_REFERENCE_COUNT, sizeof(count), &count, NULL),
        CL_SUCCESS);
    return count;
}

static void refuses_binding(void **state)
{
    const bad_binding *b = *state;
    parts p = make_parts();
    clmla_binding *binding = NULL;
    clmla_binding_params params = p.params;
    b->spoil(&params);
    test_clear_notify();
    assert_int_equal(clmla_binding_create(p.layer, &params, &binding), b->status);
    assert_null(binding);
    if (strstr(test_last_notify(), b->text) == NULL)
        fail_msg("notify says '%s', not '%s'", test_last_notify(), b->text);
    const cl_mem buffers[] = {p.kv, p.pe, p.hidden, p.output, p.workspace};
    for (size_t i = 0; i < sizeof(buffers) / sizeof(buffers[0]); i++)
        assert_int_equal(references(buffers[i]), 1); /* nothing retained is left behind */
    release_parts(&p);
}

static void a_binding_outlives_what_it_was_made_of(void **state)
{
    (void)state;
    parts p = make_parts();
    clmla_binding *binding;
    clmla_plan *plan;
    const cl_command_queue queue = test_device_get()->queue;
    const int32_t cu[2] = {0, 1}, lengths[1] = {1};
    const clmla_step step = {.struct_size = sizeof(step),
                             .num_sequences = 1,
                             .cu_seqlens_q = cu,
                             .cache_seqlens = lengths};
    assert_int_equal(clmla_binding_create(p.layer, &p.params, &binding), CLMLA_SUCCESS);
    assert_int_equal(clmla_plan_create(p.layer, &plan), CLMLA_SUCCESS);
    release_parts(&p);
    assert_int_equal(clmla_enqueue_plan(plan, &step, queue, 0, NULL, NULL), CLMLA_SUCCESS);
    assert_int_equal(clmla_enqueue_layer(binding, plan, queue, 0, NULL, NULL), CLMLA_SUCCESS);
    assert_int_equal(clFinish(queue), CL_SUCCESS);
    clmla_binding_release(binding);
    clmla_plan_release(plan);
}

static void refuses_a_plan_of_another_layer_or_none(void **state)
{
    (void)state;
    parts p = make_parts(), other = make_parts();
    clmla_binding *binding;
    clmla_plan *plan, *foreign;
    const cl_command_queue queue = test_device_get()->queue;
    assert_int_equal(clmla_binding_create(p.layer, &p.params, &binding), CLMLA_SUCCESS);
    assert_int_equal(clmla_plan_create(p.layer, &plan), CLMLA_SUCCESS);
    assert_int_equal(clmla_plan_create(other.layer, &foreign), CLMLA_SUCCESS);
    assert_int_equal(clmla_enqueue_layer(binding, plan, queue, 0, NULL, NULL),
                     CLMLA_INVALID_STATE); /* never filled */
    assert_int_equal(clmla_enqueue_layer(binding, foreign, queue, 0, NULL, NULL),
                     CLMLA_INVALID_STATE);
    assert_int_equal(clmla_enqueue_layer(binding, NULL, queue, 0, NULL, NULL),
                     CLMLA_INVALID_ARGUMENT);
    clmla_binding_release(binding);
    clmla_plan_release(plan);
    clmla_plan_release(foreign);
    release_parts(&p);
    release_parts(&other);
}

static void weights_serve_layers_of_other_limits_only(void **state)
{
    (void)state;
    parts p = make_parts();
    const clmla_config config = fixture_config(36), other = fixture_config(0);
    clmla_layer_params fewer = good_layer(&config), wider = fewer, different = good_layer(&other);
    clmla_layer *layers[3];
    clmla_binding *binding = NULL;
    fewer.max_num_tokens = 4;
    wider.weights_dtype = CLMLA_DTYPE_F32;
    assert_int_equal(clmla_layer_create(p.context, &fewer, &layers[0]), CLMLA_SUCCESS);
    assert_int_equal(clmla_layer_create(p.context, &wider, &layers[1]), CLMLA_SUCCESS);
    assert_int_equal(clmla_layer_create(p.context, &different, &layers[2]), CLMLA_SUCCESS);
    assert_int_equal(clmla_binding_create(layers[1], &p.params, &binding), CLMLA_INVALID_ARGUMENT);
    assert_non_null(strstr(test_last_notify(), "configuration or dtype"));
    assert_int_equal(clmla_binding_create(layers[2], &p.params, &binding), CLMLA_INVALID_ARGUMENT);
    assert_int_equal(clmla_binding_create(layers[0], &p.params, &binding), CLMLA_SUCCESS);
    clmla_binding_release(binding);
    for (int i = 0; i < 3; i++)
        clmla_layer_release(layers[i]);
    release_parts(&p);
}

static void weights_want_exactly_their_sources(void **state)
{
    (void)state;
    parts p = make_parts();
    clmla_weights *weights = NULL;
    const cl_command_queue queue = test_device_get()->queue;
    clmla_weights_params missing = fixture_weights_params(&p.host), extra = missing,
                         misplaced = missing;
    missing.q_b_proj.host = NULL;
    extra.q_proj.host = p.host.bits[7];
    misplaced.buffer = p.kv;
    assert_int_equal(clmla_weights_create(p.layer, &missing, queue, &weights),
                     CLMLA_INVALID_ARGUMENT);
    assert_non_null(strstr(test_last_notify(), "q_b_proj is missing"));
    assert_int_equal(clmla_weights_create(p.layer, &extra, queue, &weights),
                     CLMLA_INVALID_ARGUMENT);
    assert_non_null(strstr(test_last_notify(), "q_proj is given"));
    assert_int_equal(clmla_weights_create(p.layer, &misplaced, queue, &weights),
                     CLMLA_BUFFER_TOO_SMALL);
    assert_null(weights);
    assert_int_equal(references(p.kv), 1);
    release_parts(&p);
}

/* ---- queries --------------------------------------------------------------------------------- */

typedef struct stage_log {
    int count;
    char names[512];
} stage_log;

static void log_stage(const char *stage, cl_event end, void *user)
{
    stage_log *log = user;
    assert_non_null(end);
    strncat(log->names, stage, sizeof(log->names) - strlen(log->names) - 1);
    strncat(log->names, " ", sizeof(log->names) - strlen(log->names) - 1);
    log->count++;
}

static void names_every_stage_in_the_order_of_the_equation(void **state)
{
    (void)state;
    const fixture_options options = {.config = fixture_config(36),
                                     .kernel_class = CLMLA_KERNELS_CPU,
                                     .projection = CLMLA_PROJECTION_NATIVE};
    fixture f = fixture_create(&options);
    const int32_t past[1] = {0}, n[1] = {2};
    stage_log log = {0};
    clmla_binding_stats stats = {.struct_size = sizeof(stats)};
    double *hidden = fixture_draw_hidden(&f, 2, 1);
    fixture_set_hidden(&f, hidden, 0, 2);
    assert_int_equal(fixture_plan(&f, 1, past, n), CLMLA_SUCCESS);
    assert_int_equal(clmla_binding_set_stage_fn(f.binding, log_stage, &log), CLMLA_SUCCESS);
    assert_int_equal(
        clmla_enqueue_layer(f.binding, f.plan, test_device_get()->queue, 0, NULL, NULL),
        CLMLA_SUCCESS);
    assert_int_equal(clFinish(test_device_get()->queue), CL_SUCCESS);
    assert_string_equal(log.names, "q_a_proj kv_a_proj_with_mqa q_a_layernorm q_b_proj "
                                   "rope_append absorb attention v_up o_proj ");
    assert_int_equal(clmla_binding_get_stats(f.binding, &stats), CLMLA_SUCCESS);
    assert_int_equal(stats.kernel_launches, 9);
    assert_int_equal(stats.clblast_calls, 0);
    free(hidden);
    fixture_release(&f);
}

/* Stages and launches of one step of class gpu with two splits. */
static void expect_stages(fixture *f, int32_t num_tokens, const char *stages, int launches)
{
    const int32_t past[1] = {9};
    stage_log log = {0};
    clmla_binding_stats stats = {.struct_size = sizeof(stats)};
    assert_int_equal(fixture_plan(f, 1, past, &num_tokens), CLMLA_SUCCESS);
    assert_int_equal(clmla_binding_set_stage_fn(f->binding, log_stage, &log), CLMLA_SUCCESS);
    assert_int_equal(
        clmla_enqueue_layer(f->binding, f->plan, test_device_get()->queue, 0, NULL, NULL),
        CLMLA_SUCCESS);
    assert_int_equal(clFinish(test_device_get()->queue), CL_SUCCESS);
    assert_string_equal(log.names, stages);
    assert_int_equal(clmla_binding_get_stats(f->binding, &stats), CLMLA_SUCCESS);
    assert_int_equal(stats.kernel_launches, launches);
}

/* Class nvidia: both projections of x in one launch, the norms and the append in one, the query
 * rotated by attention. */
static void tensor_cores_take_fewer_launches(void **state)
{
    (void)state;
    fixture_options options = {.config = fixture_config_of(CLMLA_KERNELS_NVIDIA, 40),
                               .kernel_class = CLMLA_KERNELS_NVIDIA,
                               .projection = CLMLA_PROJECTION_NATIVE,
                               .dtype = CLMLA_DTYPE_BF16,
                               .page_block_size = 16,
                               .num_splits = 2};
    fixture f = fixture_create(&options);
    double *hidden = fixture_draw_hidden(&f, 2, 7);
    fixture_set_hidden(&f, hidden, 0, 2);
    expect_stages(&f, 2,
                  "qkv_a_proj norm_append q_b_proj absorb attention "
                  "merge_v_up o_proj ",
                  7);
    free(hidden);
    fixture_release(&f);
    options.config = fixture_config_of(CLMLA_KERNELS_NVIDIA, 0);
    f = fixture_create(&options);
    hidden = fixture_draw_hidden(&f, 2, 7);
    fixture_set_hidden(&f, hidden, 0, 2);
    expect_stages(&f, 2, "qkv_a_proj norm_append absorb attention merge_v_up o_proj ", 6);
    free(hidden);
    fixture_release(&f);
}

/* Of 4 heads up to 32 tokens: 128 rows. Without the saved launch it would be one more. */
static void merges_and_projects_few_tokens_in_one_launch(void **state)
{
    (void)state;
    const fixture_options options = {.config = fixture_config(0),
                                     .kernel_class = CLMLA_KERNELS_GPU,
                                     .projection = CLMLA_PROJECTION_NATIVE,
                                     .num_splits = 2};
    fixture f = fixture_create(&options);
    double *hidden = fixture_draw_hidden(&f, 33, 1);
    char text[4096];
    fixture_set_hidden(&f, hidden, 0, 33);
    fixture_set_past(&f, 0, 9, 2);
    expect_stages(&f, 1,
                  "kv_a_proj_with_mqa q_proj rope_append absorb attention merge_v_up o_proj ", 7);
    expect_stages(&f, 32,
                  "kv_a_proj_with_mqa q_proj rope_append absorb attention merge_v_up o_proj ", 7);
    expect_stages(&f, 33, "kv_a_proj_with_mqa q_proj rope_append absorb attention v_up o_proj ", 8);
    assert_int_equal(clmla_layer_describe(f.layer, text, sizeof(text), NULL), CLMLA_SUCCESS);
    assert_non_null(strstr(text, "up to 4 rows: projection_stream tile_rows=4"));
    assert_non_null(strstr(text, "merge and W_UV in one: merge_up tile_columns=64"));
    assert_non_null(strstr(text, "up to 32 tokens"));
    free(hidden);
    fixture_release(&f);
}

/* The reason stands in the description, and nothing is bound. */
static void tells_why_merge_and_projection_stay_apart(void **state)
{
    (void)state;
    const struct {
        fixture_options options;
        const char *reason;
    } apart[] = {
        {{.kernel_class = CLMLA_KERNELS_CPU, .num_splits = 2}, "no, not of this class"},
        {{.kernel_class = CLMLA_KERNELS_GPU, .num_splits = 1}, "no, attention has one split"},
        {{.kernel_class = CLMLA_KERNELS_GPU, .batch_invariant = 1}, "no, attention has one split"},
        {{.kernel_class = CLMLA_KERNELS_GPU,
          .num_splits = 2,
          .projection = CLMLA_PROJECTION_CLBLAST},
         "no, CLBlast projects"},
    };
    for (size_t i = 0; i < sizeof(apart) / sizeof(apart[0]); i++) {
        fixture_options options = apart[i].options;
        char text[4096];
        options.config = fixture_config(0);
        fixture f = fixture_create(&options);
        assert_int_equal(clmla_layer_describe(f.layer, text, sizeof(text), NULL), CLMLA_SUCCESS);
        if (strstr(text, apart[i].reason) == NULL)
            fail_msg("expected \"%s\" in\n%s", apart[i].reason, text);
        assert_int_equal(mla__layer_merge_up_tokens(f.layer, NULL), 0);
        fixture_release(&f);
    }
}

static void describes_its_choices(void **state)
{
    (void)state;
    parts p = make_parts();
    char text[2048], little[8];
    size_t length = 0;
    assert_int_equal(clmla_layer_describe(p.layer, text, sizeof(text), &length), CLMLA_SUCCESS);
    assert_int_equal(length, strlen(text));
    assert_non_null(strstr(text, "kernels: cpu"));
    assert_non_null(strstr(text, "vectors: "));
    assert_non_null(strstr(text, "o_proj: [1 x 88, 76] native cpu"));
    assert_non_null(strstr(text, "attention: cpu"));
    assert_int_equal(clmla_layer_describe(p.layer, little, sizeof(little), &length), CLMLA_SUCCESS);
    assert_memory_equal(little, text, sizeof(little) - 1);
    assert_int_equal(little[7], 0);
    assert_int_equal(length, strlen(text));
    assert_int_equal(clmla_layer_describe(p.layer, NULL, 0, &length), CLMLA_SUCCESS);
    release_parts(&p);
}

static void prepares_without_leaving_anything_behind(void **state)
{
    static const struct {
        clmla_kernel_class kernel_class;
        clmla_projection_backend projection;
        clmla_dtype dtype;
    } layers[] = {{CLMLA_KERNELS_CPU, CLMLA_PROJECTION_NATIVE, CLMLA_DTYPE_BF16},
                  {CLMLA_KERNELS_GPU, CLMLA_PROJECTION_NATIVE, CLMLA_DTYPE_F32},
                  {CLMLA_KERNELS_CPU, CLMLA_PROJECTION_CLBLAST, CLMLA_DTYPE_BF16},
                  {CLMLA_KERNELS_CPU, CLMLA_PROJECTION_CLBLAST, CLMLA_DTYPE_F32}};
    (void)state;
    for (size_t i = 0; i < sizeof(layers) / sizeof(layers[0]); i++) {
        clmla_context *context = test_context(layers[i].kernel_class, layers[i].projection);
        const clmla_config config = fixture_config(36);
        clmla_layer_params params = good_layer(&config);
        params.page_block_size = 16;
        params.num_pages = 4;
        params.weights_dtype = params.cache_dtype = params.hidden_dtype = layers[i].dtype;
        clmla_layer *layer;
        assert_int_equal(clmla_layer_create(context, &params, &layer), CLMLA_SUCCESS);
        assert_int_equal(clmla_layer_prepare(layer, test_device_get()->queue), CLMLA_SUCCESS);
        assert_int_equal(clmla_layer_prepare(layer, NULL), CL_INVALID_COMMAND_QUEUE);
        clmla_layer_release(layer);
        clmla_context_release(context);
    }
}

/* The promise of the README: DeepSeek-R1, 704 tokens of bf16. */
static void r1_workspace_is_bounded(void **state)
{
    const clmla_config r1 = {.struct_size = sizeof(r1),
                             .hidden_size = 7168,
                             .num_attention_heads = 128,
                             .q_lora_rank = 1536,
                             .kv_lora_rank = 512,
                             .qk_nope_head_dim = 128,
                             .qk_rope_head_dim = 64,
                             .v_head_dim = 128};
    static const struct {
        clmla_projection_backend projection;
        uint64_t mib;
    } limits[] = {{CLMLA_PROJECTION_NATIVE, 160}, {CLMLA_PROJECTION_CLBLAST, 320}};
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        clmla_context *context = test_context(CLMLA_KERNELS_CPU, limits[i].projection);
        const clmla_layer_params params = {.struct_size = sizeof(params),
                                           .config = &r1,
                                           .max_num_sequences = 16,
                                           .max_num_tokens = 704,
                                           .max_cache_seqlen = 163840};
        clmla_layer_info info = {.struct_size = sizeof(info)};
        clmla_layer *layer;
        assert_int_equal(clmla_layer_create(context, &params, &layer), CLMLA_SUCCESS);
        assert_int_equal(clmla_layer_get_info(layer, &info), CLMLA_SUCCESS);
        print_message("r1, 704 tokens: %.1f MiB of workspace, limit %d\n",
                      (double)info.workspace_bytes / 1048576.0, (int)limits[i].mib);
        assert_true(info.workspace_bytes <= limits[i].mib << 20);
        assert_int_equal(info.tokens_per_block, 704);
        clmla_layer_release(layer);
        clmla_context_release(context);
    }
}

/* Class nvidia: the tiles of many rows, but in batch-invariant mode, where bits must not depend on
 * the number of rows; the description says so and the binding does so. */
static void batch_invariant_layer_keeps_to_one_order(void **state)
{
    (void)state;
    for (int invariant = 0; invariant < 2; invariant++) {
        const fixture_options options = {.config = fixture_config(0),
                                         .kernel_class = CLMLA_KERNELS_NVIDIA,
                                         .max_num_tokens = 65,
                                         .batch_invariant = invariant};
        char text[4096];
        fixture f = fixture_create(&options);
        const mla__projection_native *op = &f.binding->qkv_a_proj;
        assert_int_equal(op->variants[op->num_variants - 1].choice.kind,
                         invariant ? MLA__PROJECTION_FEW : MLA__PROJECTION_TILED);
        assert_int_equal(clmla_layer_describe(f.layer, text, sizeof(text), NULL), CLMLA_SUCCESS);
        assert_non_null(strstr(text, "kv_a_proj_with_mqa: [1 x 52, 88] native nvidia tensor cores "
                                     "up to 16 rows: projection_few "));
        assert_int_equal(strstr(text, "projection_tiled") == NULL, invariant);
        assert_non_null(strstr(text, "o_proj: [1 x 88, 76] native nvidia not by tensor cores, "
                                     "in_features must be a multiple of 8: "));
        fixture_release(&f);
    }
}

int main(int argc, char **argv)
{
    const test_table tables[] = {TEST_TABLE(refuses_layer, bad_layers),
                                 TEST_TABLE(refuses_binding, bad_bindings)};
    const struct CMUnitTest others[] = {
        cmocka_unit_test(a_binding_outlives_what_it_was_made_of),
        cmocka_unit_test(refuses_a_plan_of_another_layer_or_none),
        cmocka_unit_test(weights_serve_layers_of_other_limits_only),
        cmocka_unit_test(weights_want_exactly_their_sources),
        cmocka_unit_test(names_every_stage_in_the_order_of_the_equation),
        cmocka_unit_test(tensor_cores_take_fewer_launches),
        cmocka_unit_test(merges_and_projects_few_tokens_in_one_launch),
        cmocka_unit_test(tells_why_merge_and_projection_stay_apart),
        cmocka_unit_test(describes_its_choices),
        cmocka_unit_test(batch_invariant_layer_keeps_to_one_order),
        cmocka_unit_test(prepares_without_leaving_anything_behind),
        cmocka_unit_test(r1_workspace_is_bounded),
    };
    return test_run("layer errors", argc, argv, tables, TEST_COUNT(tables), TEST_AND(others));
}
