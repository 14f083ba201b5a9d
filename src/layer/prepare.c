/*
 * clmla_layer_prepare: every kernel of the layer launched once, so that nothing compiles later.
 *
 * A binding of a twin layer is made: same configuration, dtypes, block of tokens and kernels, but a
 * cache of one row, on buffers that live for this call only. Its kernels run without rows, except
 * CLBlast's, which has no such call.
 */
#include <stdlib.h>

#include "core/dtype.h"
#include "layer/binding.h"
#include "ops/sm_90a.h"

typedef struct rehearsal {
    clmla_layer *layer; /* the twin */
    clmla_weights *weights;
    clmla_plan *plan;
    clmla_binding *binding;
    cl_mem cache, rows, workspace;
} rehearsal;

static clmla_layer *make_twin(const clmla_layer *layer)
{
    clmla_layer *twin = malloc(sizeof(*twin));
    if (twin == NULL)
        return NULL;
    *twin = *layer;
    twin->references = 1;
    twin->max_num_sequences = 1;
    twin->max_cache_seqlen = 1;
    twin->page_block_size = 1;
    twin->num_pages = 1;
    twin->pages_per_sequence = layer->pages_per_sequence > 0 ? 1 : 0;
    twin->one_launch_groups = layer->one_launch ? 1 : 0; /* bound, and then asked about */
    mla__context_retain(twin->context);
    return twin;
}

static clmla_status allocate(const clmla_layer *layer, uint64_t bytes, cl_mem *out)
{
    cl_int error;
    const cl_mem buffer =
        clCreateBuffer(layer->context->context, CL_MEM_READ_WRITE, (size_t)bytes, NULL, &error);
    if (error != CL_SUCCESS)
        return mla__fail(layer->context, error,
                         "prepare: cannot allocate %llu bytes of temporary memory",
                         (unsigned long long)bytes);
    *out = buffer;
    return CLMLA_SUCCESS;
}

static clmla_status make_buffers(rehearsal *r)
{
    const clmla_layer *layer = r->layer;
    const uint64_t hidden = (uint64_t)layer->max_num_tokens * (uint64_t)layer->config.hidden_size;
    const uint64_t cache_row =
        (uint64_t)layer->config.kv_lora_rank + (uint64_t)layer->config.qk_rope_head_dim;
    clmla_status status = allocate(layer, 4 * cache_row, &r->cache);
    if (status ==
        CLMLA_SUCCESS) /* twice four bytes, which hold any dtype; output follows hidden_states */
        status = allocate(layer, 8 * hidden, &r->rows);
    if (status == CLMLA_SUCCESS)
        status = allocate(layer, layer->workspace.bytes, &r->workspace);
    return status;
}

static clmla_status make_binding(rehearsal *r)
{
    const clmla_layer *layer = r->layer;
    const uint64_t hidden = (uint64_t)layer->max_num_tokens * (uint64_t)layer->config.hidden_size;
    const clmla_tensor none = {.buffer = NULL};
    const clmla_tensor pe_cache = {.buffer = r->cache,
                                   .offset_bytes = (uint64_t)layer->config.kv_lora_rank *
                                                   mla__dtype_bytes(layer->cache_dtype)};
    const clmla_binding_params params = {
        .struct_size = sizeof(params),
        .weights = r->weights,
        .kv_cache = {.buffer = r->cache},
        .pe_cache = layer->cache_dtype == CLMLA_DTYPE_FP8_DS_MLA ? none : pe_cache,
        .hidden_states = {.buffer = r->rows},
        .output = {.buffer = r->rows, .offset_bytes = 4 * hidden},
        .workspace = {.buffer = r->workspace}};
    return clmla_binding_create(r->layer, &params, &r->binding);
}

/* Before the binding, which takes the tile where it runs. */
static clmla_status try_large_tile(const clmla_layer *layer, cl_command_queue queue)
{
    const mla__attention_shape shape = mla__layer_attention_shape(layer);
    mla__stream s;
    if (!mla__layer_fills_tile(layer, MLA__ATTENTION_LARGE_ROWS))
        return CLMLA_SUCCESS;
    const clmla_status status = mla__stream_begin(&s, queue, 0, NULL);
    return status == CLMLA_SUCCESS ? mla__attention_try_large(layer->context, &shape, &s) : status;
}

/* The projections of x, and q_b_proj. */
static clmla_status warm_inputs(clmla_binding *b, mla__stream *s)
{
    const bool q_lora = b->layer->config.q_lora_rank > 0;
    const bool paired = b->qkv_a_proj.num_variants > 0;
    clmla_status status = mla__projection_native_warm(&b->qkv_a_proj, s);
    if (status == CLMLA_SUCCESS && q_lora && !paired)
        status = mla__projection_warm(&b->q_a_proj, s);
    if (status == CLMLA_SUCCESS && !paired)
        status = mla__projection_warm(&b->kv_a_proj, s);
    if (status == CLMLA_SUCCESS && (q_lora || !paired))
        status = mla__projection_warm(&b->q_b_proj, s);
    return status;
}

/* What lies between the projections and attention. */
static clmla_status warm_between(clmla_binding *b, mla__stream *s)
{
    if (b->attention.rotates_query)
        return mla__cache_append_warm(&b->norm_append, s);
    const clmla_status status =
        b->layer->config.q_lora_rank > 0 ? mla__rmsnorm_warm(&b->q_a_layernorm, s) : CLMLA_SUCCESS;
    return status == CLMLA_SUCCESS ? mla__rope_append_warm(&b->rope_append, s) : status;
}

static clmla_status warm(rehearsal *r, cl_command_queue queue)
{
    clmla_binding *b = r->binding;
    mla__stream s;
    clmla_status status = mla__stream_begin(&s, queue, 0, NULL);
    if (status != CLMLA_SUCCESS || (status = mla__rope_table_warm(&r->plan->rope_table, &s)) != 0 ||
        (status = mla__plan_device_warm(r->plan, &s)) != CLMLA_SUCCESS)
        return status;
    if ((status = warm_inputs(b, &s)) != CLMLA_SUCCESS ||
        (status = warm_between(b, &s)) != CLMLA_SUCCESS ||
        (status = mla__projection_warm(&b->absorb, &s)) != CLMLA_SUCCESS ||
        (status = mla__attention_warm(&b->attention, &s)) != CLMLA_SUCCESS ||
        (status = mla__projection_warm(&b->v_up, &s)) != CLMLA_SUCCESS ||
        (b->merge_v_up_tokens > 0 &&
         (status = mla__merge_up_warm(&b->merge_v_up, &s)) != CLMLA_SUCCESS) ||
        (status = mla__projection_warm(&b->o_proj, &s)) != CLMLA_SUCCESS)
        return status;
    return clFinish(queue);
}

/* How many work-groups of the one launch are on the device at once. */
static clmla_status probe_one_launch(rehearsal *r, clmla_layer *layer, cl_command_queue queue)
{
    mla__decode_layer *op = &r->binding->decode_layer;
    const char *why_not = op->why_not;
    int32_t groups = 0;
    if (op->kernel.kernel != NULL) {
        const clmla_status status = mla__decode_layer_probe(op, layer->context, queue, &groups);
        if (status != CLMLA_SUCCESS)
            return status;
        if (groups == 0)
            why_not = "its work-groups are not on the device at once";
    }
    mla__layer_set_one_launch_groups(layer, groups, why_not);
    return why_not == NULL ? CLMLA_SUCCESS
                           : mla__fail(layer->context, CLMLA_SUCCESS,
                                       "prepare: the layer is not one launch, %s", why_not);
}

static void release(rehearsal *r)
{
    const cl_mem buffers[] = {r->cache, r->rows, r->workspace};
    clmla_binding_release(r->binding);
    clmla_plan_release(r->plan);
    clmla_weights_release(r->weights);
    for (size_t i = 0; i < sizeof(buffers) / sizeof(buffers[0]); i++) {
        if (buffers[i] != NULL)
            clReleaseMemObject(buffers[i]);
    }
    clmla_layer_release(r->layer);
}

clmla_status clmla_layer_prepare(clmla_layer *layer, cl_command_queue queue)
{
    if (layer == NULL)
        return CLMLA_INVALID_ARGUMENT;
    if (queue == NULL)
        return CL_INVALID_COMMAND_QUEUE;
    mla__sm_90a_probe(layer->context); /* before kernels are chosen */
    rehearsal r = {.layer = make_twin(layer)};
    if (r.layer == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    clmla_status status = mla__weights_hollow(r.layer, &r.weights);
    if (status == CLMLA_SUCCESS)
        status = clmla_plan_create(r.layer, &r.plan);
    if (status == CLMLA_SUCCESS)
        status = make_buffers(&r);
    if (status == CLMLA_SUCCESS)
        status = try_large_tile(r.layer, queue);
    if (status == CLMLA_SUCCESS)
        status = make_binding(&r);
    if (status == CLMLA_SUCCESS)
        status = warm(&r, queue);
    if (status == CLMLA_SUCCESS && layer->one_launch)
        status = probe_one_launch(&r, layer, queue);
    release(&r);
    return status;
}
