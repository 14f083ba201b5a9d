/*
 * A host application that owns an OpenCL context, a queue and buffers, and lets clmla compute two
 * decode steps of one MLA layer on them. README.md shows the part between the two marks; a test
 * keeps them equal. Exits 0 when the result is finite, not zero, and the same on a second run.
 */
// README begin
#define CL_TARGET_OPENCL_VERSION 120
#include <clmla.h>
#include <stdio.h>

/* A small model: 4 heads, no query LoRA. The fields are named as in config.json. */
static const clmla_config config = {
    .struct_size = sizeof(clmla_config),
    .hidden_size = 256,
    .num_attention_heads = 4,
    .kv_lora_rank = 128,
    .qk_nope_head_dim = 32,
    .qk_rope_head_dim = 16,
    .v_head_dim = 32,
};

enum { NUM_SEQUENCES = 2, MAX_KEYS = 64 };

static void print_note(clmla_status status, const char *text, void *user)
{
    (void)user;
    if (status != CLMLA_SUCCESS)
        fprintf(stderr, "clmla: %s: %s\n", clmla_status_name(status), text);
}

/* Weights stay in host memory, float32, until clmla_weights_create has packed them as bf16. */
static clmla_weight_source from_host(const float *values)
{
    return (clmla_weight_source){.host = values, .tensor = {.dtype = CLMLA_DTYPE_F32}};
}

/* What the application keeps for one model layer. context, layer, plan and workspace can serve all
 * layers of a model; weights and binding are a layer's own. */
struct attention {
    clmla_context *context;
    clmla_layer *layer;
    clmla_plan *plan;
    clmla_weights *weights;
    clmla_binding *binding;
    cl_mem workspace;
};

/* hidden [NUM_SEQUENCES, hidden_size] float32, in and out: outputs are fed back without a copy.
 * kv_cache [NUM_SEQUENCES, MAX_KEYS, kv_lora_rank], pe_cache likewise with qk_rope_head_dim, bf16.
 * Weights: q_proj, kv_a_proj_with_mqa, kv_a_layernorm, kv_b_proj, o_proj. */
static clmla_status attention_create(struct attention *self, cl_context cl, cl_device_id device,
                                     cl_command_queue queue, const float *const weight[5],
                                     cl_mem hidden, const cl_mem cache[2])
{
    const clmla_context_options options = {.struct_size = sizeof options, .notify = print_note};
    clmla_status status = clmla_context_create(cl, device, &options, &self->context);

    const clmla_layer_params limits = {.struct_size = sizeof limits,
                                       .config = &config,
                                       .max_num_sequences = NUM_SEQUENCES,
                                       .max_num_tokens = NUM_SEQUENCES,
                                       .max_cache_seqlen = MAX_KEYS,
                                       .hidden_dtype = CLMLA_DTYPE_F32};
    if (status == CLMLA_SUCCESS)
        status = clmla_layer_create(self->context, &limits, &self->layer);
    if (status == CLMLA_SUCCESS)
        status = clmla_layer_prepare(self->layer, queue); /* compiles now, nothing later */
    if (status == CLMLA_SUCCESS)
        status = clmla_plan_create(self->layer, &self->plan);

    const clmla_weights_params sources = {.struct_size = sizeof sources,
                                          .q_proj = from_host(weight[0]),
                                          .kv_a_proj_with_mqa = from_host(weight[1]),
                                          .kv_a_layernorm = from_host(weight[2]),
                                          .kv_b_proj = from_host(weight[3]),
                                          .o_proj = from_host(weight[4])};
    if (status == CLMLA_SUCCESS)
        status = clmla_weights_create(self->layer, &sources, queue, &self->weights);

    clmla_layer_info info = {.struct_size = sizeof info};
    if (status == CLMLA_SUCCESS)
        status = clmla_layer_get_info(self->layer, &info);
    if (status == CLMLA_SUCCESS && info.workspace_bytes > 0)
        self->workspace =
            clCreateBuffer(cl, CL_MEM_READ_WRITE, info.workspace_bytes, NULL, &status);

    const clmla_binding_params tensors = {.struct_size = sizeof tensors,
                                          .weights = self->weights,
                                          .kv_cache = {.buffer = cache[0]},
                                          .pe_cache = {.buffer = cache[1]},
                                          .hidden_states = {.buffer = hidden},
                                          .output = {.buffer = hidden},
                                          .workspace = {.buffer = self->workspace}};
    if (status == CLMLA_SUCCESS)
        status = clmla_binding_create(self->layer, &tensors, &self->binding);
    return status;
}

/* Two decode steps of sequences that have 16 and 0 tokens in their caches. Nothing here waits. */
static clmla_status attention_decode(struct attention *self, cl_command_queue queue)
{
    const int32_t cu_seqlens_q[NUM_SEQUENCES + 1] = {0, 1, 2};    /* one new token each */
    const int32_t cache_seqlens[NUM_SEQUENCES] = {16 + 1, 0 + 1}; /* new tokens included */
    const clmla_step step = {.struct_size = sizeof step,
                             .num_sequences = NUM_SEQUENCES,
                             .cu_seqlens_q = cu_seqlens_q,
                             .cache_seqlens = cache_seqlens};
    clmla_status status = clmla_enqueue_plan(self->plan, &step, queue, 0, NULL, NULL);
    if (status == CLMLA_SUCCESS)
        status = clmla_enqueue_layer(self->binding, self->plan, queue, 0, NULL, NULL);
    if (status == CLMLA_SUCCESS) /* one token more in every cache */
        status = clmla_enqueue_advance(self->plan, NULL, queue, 0, NULL, NULL);
    if (status == CLMLA_SUCCESS)
        status = clmla_enqueue_layer(self->binding, self->plan, queue, 0, NULL, NULL);
    return status;
}

/* After the queue has finished. */
static void attention_release(struct attention *self)
{
    clmla_binding_release(self->binding);
    clmla_weights_release(self->weights);
    clmla_plan_release(self->plan);
    clmla_layer_release(self->layer);
    clmla_context_release(self->context);
    if (self->workspace != NULL)
        clReleaseMemObject(self->workspace);
}
// README end

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum {
    HEAD_DIM = 32 + 16, /* qk_nope_head_dim + qk_rope_head_dim */
    NUM_HIDDEN = NUM_SEQUENCES * 256,
    NUM_KV = NUM_SEQUENCES * MAX_KEYS * 128,
    NUM_PE = NUM_SEQUENCES * MAX_KEYS * 16
};

/* q_proj, kv_a_proj_with_mqa, kv_a_layernorm, kv_b_proj, o_proj */
static const size_t weight_sizes[5] = {4 * HEAD_DIM * 256, (128 + 16) * 256, 128,
                                       4 * (32 + 32) * 128, 256 * 4 * 32};

/* Uniform in [-1, 1), the same on every run. */
static float next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return (float)(*state >> 8) * (2.0f / 16777216.0f) - 1.0f;
}

/* A GPU if there is one, else any device. */
static cl_device_id choose_device(void)
{
    const cl_device_type types[] = {CL_DEVICE_TYPE_GPU, CL_DEVICE_TYPE_ALL};
    cl_platform_id platforms[16];
    cl_uint num_platforms = 0;
    if (clGetPlatformIDs(16, platforms, &num_platforms) != CL_SUCCESS)
        return NULL;
    for (size_t t = 0; t < 2; t++) {
        for (cl_uint i = 0; i < num_platforms && i < 16; i++) {
            cl_device_id device = NULL;
            if (clGetDeviceIDs(platforms[i], types[t], 1, &device, NULL) == CL_SUCCESS)
                return device;
        }
    }
    return NULL;
}

/* Decodes from the same start and reads the output of the second step. */
static clmla_status run(cl_device_id device, const float *const weight[5], float *output)
{
    static float hidden_start[NUM_HIDDEN];
    static uint16_t kv_start[NUM_KV];
    static uint16_t pe_start[NUM_PE];
    uint32_t seed = 7;
    for (size_t i = 0; i < NUM_HIDDEN; i++)
        hidden_start[i] = next_random(&seed);
    for (size_t i = 0; i < NUM_KV + NUM_PE; i++) { /* bf16: the upper half of a float */
        const float value = next_random(&seed);
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        *(i < NUM_KV ? &kv_start[i] : &pe_start[i - NUM_KV]) = (uint16_t)(bits >> 16);
    }

    cl_int status = CL_SUCCESS;
    cl_command_queue queue = NULL;
    struct attention attention = {0};
    cl_mem buffers[3] = {NULL, NULL, NULL};
    void *const starts[3] = {hidden_start, kv_start, pe_start};
    const size_t sizes[3] = {sizeof hidden_start, sizeof kv_start, sizeof pe_start};
    cl_context cl = clCreateContext(NULL, 1, &device, NULL, NULL, &status);
    if (status == CL_SUCCESS)
        queue = clCreateCommandQueue(cl, device, 0, &status);
    for (size_t i = 0; i < 3 && status == CL_SUCCESS; i++)
        buffers[i] = clCreateBuffer(cl, CL_MEM_READ_WRITE | CL_MEM_COPY_HOST_PTR, sizes[i],
                                    starts[i], &status);
    if (status == CL_SUCCESS)
        status = attention_create(&attention, cl, device, queue, weight, buffers[0], &buffers[1]);
    if (status == CL_SUCCESS)
        status = attention_decode(&attention, queue);
    if (status == CL_SUCCESS)
        status =
            clEnqueueReadBuffer(queue, buffers[0], CL_TRUE, 0, sizes[0], output, 0, NULL, NULL);

    if (queue != NULL)
        clFinish(queue);
    attention_release(&attention);
    for (size_t i = 0; i < 3; i++) {
        if (buffers[i] != NULL)
            clReleaseMemObject(buffers[i]);
    }
    if (queue != NULL)
        clReleaseCommandQueue(queue);
    if (cl != NULL)
        clReleaseContext(cl);
    return status;
}

static bool is_plausible(const float *output)
{
    for (size_t b = 0; b < NUM_SEQUENCES; b++) {
        double sum = 0;
        for (size_t i = 0; i < 256; i++)
            sum += (double)output[b * 256 + i] * (double)output[b * 256 + i];
        if (!isfinite(sum) || sum == 0.0) {
            fprintf(stderr, "embed: the sum of squares of sequence %zu is %g\n", b, sum);
            return false;
        }
    }
    return true;
}

int main(void)
{
    static float first[NUM_HIDDEN];
    static float second[NUM_HIDDEN];
    float *weight[5] = {NULL, NULL, NULL, NULL, NULL};
    int exit_code = EXIT_FAILURE;
    uint32_t seed = 1;
    clmla_status status = CLMLA_SUCCESS;

    cl_device_id device = choose_device();
    if (device == NULL) {
        fprintf(stderr, "embed: no OpenCL device\n");
        return EXIT_FAILURE;
    }
    for (size_t i = 0; i < 5; i++) {
        weight[i] = malloc(weight_sizes[i] * sizeof(float));
        if (weight[i] == NULL)
            goto cleanup;
        for (size_t j = 0; j < weight_sizes[i]; j++)
            weight[i][j] = 0.1f * next_random(&seed);
    }

    status = run(device, (const float *const *)weight, first);
    if (status == CLMLA_SUCCESS)
        status = run(device, (const float *const *)weight, second);
    if (status != CLMLA_SUCCESS) {
        fprintf(stderr, "embed: %s (%s)\n", clmla_status_message(status),
                clmla_status_name(status));
    } else if (memcmp(first, second, sizeof first) != 0) {
        fprintf(stderr, "embed: two runs differ\n");
    } else if (is_plausible(first)) {
        printf("embed: clmla %s, output[0] = %g\n", clmla_version(), (double)first[0]);
        exit_code = EXIT_SUCCESS;
    }

cleanup:
    for (size_t i = 0; i < 5; i++)
        free(weight[i]);
    return exit_code;
}
