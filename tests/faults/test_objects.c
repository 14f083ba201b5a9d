/* Objects are made although a call of OpenCL fails, or are not, and then nothing is left of them. */
#include "faults/scenario.h"
#include "support/layer_fixture.h"
#include "support/table.h"

typedef struct world {
    fixture f;
    clmla_context *context; /* prepare's, of its own */
    clmla_layer *layer;
} world;

/* The driver's log; and kernels for bf16 dot products, to which the portable ones are second. */
static const char *const logs[] = {"clGetProgramBuildInfo", NULL};
static const char *const builds[] = {"clBuildProgram", "clGetProgramBuildInfo", NULL};

static clmla_layer_params layer_params(const world *w)
{
    return (clmla_layer_params){.struct_size = sizeof(clmla_layer_params),
                                .config = &w->f.options.config,
                                .max_num_sequences = 4,
                                .max_num_tokens = 16,
                                .max_cache_seqlen = 32,
                                .page_block_size = 16,
                                .num_pages = 8,
                                .num_splits = w->f.options.num_splits,
                                .weights_dtype = w->f.options.dtype,
                                .cache_dtype = w->f.options.dtype,
                                .hidden_dtype = w->f.options.dtype};
}

/* ---- scenarios ------------------------------------------------------------------------------ */

static clmla_status make_context(const world *w, clmla_context **out)
{
    const test_device *on = test_device_get();
    const clmla_context_options options = {.struct_size = sizeof options,
                                           .kernel_class = w->f.options.kernel_class,
                                           .projection = w->f.options.projection,
                                           .sm_90a = w->f.options.sm_90a};
    return clmla_context_create(on->context, on->id, &options, out);
}

static clmla_status a_context(void *at)
{
    clmla_context *context = NULL;
    const clmla_status status = make_context(at, &context);
    assert_true((context != NULL) == (status == CLMLA_SUCCESS));
    clmla_context_release(context);
    return status;
}

static clmla_status a_layer(void *at)
{
    world *w = at;
    clmla_layer *layer = NULL;
    const clmla_layer_params params = layer_params(w);
    const clmla_status status = clmla_layer_create(w->f.context, &params, &layer);
    assert_true((layer != NULL) == (status == CLMLA_SUCCESS));
    clmla_layer_release(layer);
    return status;
}

static clmla_status weights(void *at)
{
    world *w = at;
    clmla_weights *made = NULL;
    const clmla_weights_params params = fixture_weights_params(&w->f.host_weights);
    const clmla_status status =
        clmla_weights_create(w->f.layer, &params, test_device_get()->queue, &made);
    assert_true((made != NULL) == (status == CLMLA_SUCCESS));
    clmla_weights_release(made);
    return status;
}

static clmla_status a_plan(void *at)
{
    world *w = at;
    clmla_plan *plan = NULL;
    const clmla_status status = clmla_plan_create(w->f.layer, &plan);
    assert_true((plan != NULL) == (status == CLMLA_SUCCESS));
    clmla_plan_release(plan);
    return status;
}

static clmla_status a_binding(void *at)
{
    world *w = at;
    clmla_binding *binding = NULL;
    const clmla_binding_params params = {.struct_size = sizeof params,
                                         .weights = w->f.weights,
                                         .kv_cache = w->f.kv_cache.tensor,
                                         .pe_cache = w->f.pe_cache.tensor,
                                         .hidden_states = w->f.hidden.tensor,
                                         .output = w->f.output.tensor,
                                         .workspace = w->f.workspace.tensor};
    const clmla_status status = clmla_binding_create(w->f.layer, &params, &binding);
    assert_true((binding != NULL) == (status == CLMLA_SUCCESS));
    clmla_binding_release(binding);
    return status;
}

/* Kernels that nobody has built yet. */
static clmla_status a_prepared_layer(void *at)
{
    world *w = at;
    clmla_context *context = NULL;
    clmla_layer *layer = NULL;
    const clmla_layer_params params = layer_params(w);
    clmla_status status = make_context(w, &context);
    if (status == CLMLA_SUCCESS)
        status = clmla_layer_create(context, &params, &layer);
    if (status == CLMLA_SUCCESS)
        status = clmla_layer_prepare(layer, test_device_get()->queue);
    clmla_layer_release(layer);
    clmla_context_release(context);
    return status;
}

/* What class nvidia tries beyond what is promised, and does without. */
static const char *const trials[] = {"clBuildProgram",
                                     "clCreateBuffer",
                                     "clCreateCommandQueue",
                                     "clCreateContext",
                                     "clCreateKernel",
                                     "clCreateProgramWithSource",
                                     "clEnqueueFillBuffer",
                                     "clEnqueueNDRangeKernel",
                                     "clEnqueueReadBuffer",
                                     "clEnqueueWriteBuffer",
                                     "clEnqueueWriteBufferRect",
                                     "clFinish",
                                     "clGetCommandQueueInfo",
                                     "clGetContextInfo",
                                     "clGetDeviceInfo",
                                     "clGetEventInfo",
                                     "clGetMemObjectInfo",
                                     "clGetPlatformInfo",
                                     "clGetProgramBuildInfo",
                                     "clRetainContext",
                                     "clRetainDevice",
                                     "clRetainMemObject",
                                     "clSetKernelArg",
                                     "clWaitForEvents",
                                     "malloc",
                                     NULL};

/* ---- the layers that are made ---------------------------------------------------------------- */

typedef struct object_case {
    const char *name;
    clmla_kernel_class kernel_class;
    clmla_projection_backend projection;
    clmla_dtype dtype;
    int32_t num_splits;
    bool sm_90a;
} object_case;

static const object_case cases[] = {
    {"cpu bf16", CLMLA_KERNELS_CPU, CLMLA_PROJECTION_NATIVE, CLMLA_DTYPE_BF16, 0, false},
    {"cpu bf16, CLBlast", CLMLA_KERNELS_CPU, CLMLA_PROJECTION_CLBLAST, CLMLA_DTYPE_BF16, 0, false},
    {"gpu f32, two splits", CLMLA_KERNELS_GPU, CLMLA_PROJECTION_NATIVE, CLMLA_DTYPE_F32, 2, false},
    {"nvidia bf16, two splits", CLMLA_KERNELS_NVIDIA, CLMLA_PROJECTION_NATIVE, CLMLA_DTYPE_BF16, 2,
     false},
    {"nvidia bf16, kernels for sm_90a", CLMLA_KERNELS_NVIDIA, CLMLA_PROJECTION_NATIVE,
     CLMLA_DTYPE_BF16, 0, true},
};

static void objects(void **state)
{
    const object_case *c = *state;
    const fixture_options options = {.config = fixture_config_of(c->kernel_class, 36),
                                     .kernel_class = c->kernel_class,
                                     .projection = c->projection,
                                     .dtype = c->dtype,
                                     .page_block_size = 16,
                                     .num_splits = c->num_splits};
    const bool may_dot =
        c->kernel_class == CLMLA_KERNELS_CPU && c->projection == CLMLA_PROJECTION_NATIVE;
    const char *const *overcome = may_dot ? builds : logs;
    if (c->kernel_class == CLMLA_KERNELS_NVIDIA)
        overcome = trials;
    const scenario scenarios[] = {
        {.name = "a context", .run = a_context},
        {.name = "a layer", .run = a_layer},
        {.name = "weights", .run = weights},
        {.name = "a plan", .run = a_plan},
        {.name = "a binding", .run = a_binding, .stride = 19, .dense = 20},
        {.name = "a prepared layer",
         .run = a_prepared_layer,
         .overcome = overcome,
         .stride = 71,
         .dense = 5}, /* each makes all kernels anew */
    };
    (void)test_device_get();
    const faults_holds before = faults_count();
    world w = {.f = fixture_create(&options)};
    w.f.options.sm_90a = c->sm_90a;
    for (size_t i = c->sm_90a ? 5 : 0; i < sizeof scenarios / sizeof scenarios[0]; i++)
        scenario_run(&scenarios[i], &w);
    fixture_release(&w.f);
    scenario_expect_holds(&before);
}

int main(int argc, char **argv)
{
    const test_table table = TEST_TABLE(objects, cases);
    return test_run("objects", argc, argv, &table, 1, TEST_NO_OTHERS);
}
