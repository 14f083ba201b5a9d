#include "layer/weights.h"

#include <stdlib.h>

#include "core/checked.h"
#include "core/dtype.h"
#include "ops/op.h"
#include "ops/sm_90a.h"

enum { ALIGNMENT = 256 };

/* Matrices begin where a sub-buffer may begin, so that CLBlast reads float32 weights in place. */
static uint64_t alignment(const clmla_layer *layer)
{
    const uint64_t device = layer->context->device.mem_base_addr_align_bytes;
    return device > ALIGNMENT ? device : ALIGNMENT;
}

static bool place(uint64_t bytes, uint64_t unit, uint64_t *end, uint64_t *offset)
{
    uint64_t next;
    if (!mla__checked_round_up(bytes, unit, &bytes) || !mla__checked_add(*end, bytes, &next))
        return false;
    *offset = *end;
    *end = next;
    return true;
}

clmla_status mla__weights_layout_of(const clmla_layer *layer, mla__weights_layout *out)
{
    mla__weights_layout layout = {0};
    const uint64_t unit = alignment(layer);
    bool fits = true;
    for (int role = 0; role < MLA__NUM_ROLES; role++) {
        const struct clmla_matrix m = mla__layer_matrix(layer, (enum mla__role)role);
        uint64_t bytes = 0;
        if (m.out_features > 0) {
            const clmla_status status = mla__matrix_bytes(
                layer->context, m.num_batches, m.out_features, m.in_features, m.dtype, &bytes);
            if (status != CLMLA_SUCCESS)
                return status;
        }
        fits = fits && place(bytes, unit, &layout.bytes, &layout.matrices[role]);
    }
    fits = fits &&
           place(4 * (uint64_t)layer->config.q_lora_rank, unit, &layout.bytes,
                 &layout.q_a_layernorm) &&
           place(4 * (uint64_t)layer->config.kv_lora_rank, unit, &layout.bytes,
                 &layout.kv_a_layernorm);
    if (!fits)
        return mla__fail(layer->context, CLMLA_INTERNAL, "weights: size overflows");
    *out = layout;
    return CLMLA_SUCCESS;
}

clmla_status mla__weights_bytes(const clmla_layer *layer, uint64_t *bytes)
{
    mla__weights_layout layout;
    const clmla_status status = mla__weights_layout_of(layer, &layout);
    if (status == CLMLA_SUCCESS)
        *bytes = layout.bytes;
    return status;
}

void mla__weights_place(const clmla_layer *layer, const mla__weights_layout *layout, cl_mem buffer,
                        uint64_t offset_bytes, clmla_weights *weights)
{
    for (int role = 0; role < MLA__NUM_ROLES; role++) {
        weights->matrices[role] = mla__layer_matrix(layer, (enum mla__role)role);
        weights->matrices[role].buffer = buffer;
        weights->matrices[role].offset_bytes = offset_bytes + layout->matrices[role];
    }
    const clmla_tensor norm = {.buffer = buffer, .dtype = CLMLA_DTYPE_F32};
    weights->kv_a_layernorm = norm;
    weights->kv_a_layernorm.offset_bytes = offset_bytes + layout->kv_a_layernorm;
    if (layer->config.q_lora_rank > 0) {
        weights->q_a_layernorm = norm;
        weights->q_a_layernorm.offset_bytes = offset_bytes + layout->q_a_layernorm;
    }
}

/* ---- sources ------------------------------------------------------------------------------- */

static bool is_given(const clmla_weight_source *source)
{
    return source->host != NULL || source->tensor.buffer != NULL;
}

/* Each source is given exactly where this configuration has a use for it. */
static clmla_status check_sources(const clmla_layer *layer, const clmla_weights_params *p)
{
    const bool lora = layer->config.q_lora_rank > 0;
    const struct {
        const char *name;
        const clmla_weight_source *source;
        bool wanted;
    } sources[] = {{"q_proj", &p->q_proj, !lora},
                   {"q_a_proj", &p->q_a_proj, lora},
                   {"q_a_layernorm", &p->q_a_layernorm, lora},
                   {"q_b_proj", &p->q_b_proj, lora},
                   {"kv_a_proj_with_mqa", &p->kv_a_proj_with_mqa, true},
                   {"kv_a_layernorm", &p->kv_a_layernorm, true},
                   {"kv_b_proj", &p->kv_b_proj, true},
                   {"o_proj", &p->o_proj, true}};
    for (size_t i = 0; i < sizeof(sources) / sizeof(sources[0]); i++) {
        if (is_given(sources[i].source) == sources[i].wanted)
            continue;
        return mla__fail(layer->context, CLMLA_INVALID_ARGUMENT,
                         "weights: %s is %s, but q_lora_rank is %d", sources[i].name,
                         sources[i].wanted ? "missing" : "given", (int)layer->config.q_lora_rank);
    }
    return CLMLA_SUCCESS;
}

/* kv_b_proj as the per-head matrices W_UK and W_UV: rows (nope + v) · h + first_row onwards. */
static clmla_weight_source head_slice(const clmla_layer *layer, const clmla_weight_source *kv_b,
                                      int32_t first_row)
{
    const clmla_config *c = &layer->config;
    const uint64_t rows = (uint64_t)c->qk_nope_head_dim + (uint64_t)c->v_head_dim;
    clmla_weight_source slice = *kv_b;
    const uint64_t row_stride =
        kv_b->tensor.strides[0] > 0 ? kv_b->tensor.strides[0] : (uint64_t)c->kv_lora_rank;
    slice.tensor.strides[0] = rows * row_stride;
    slice.tensor.strides[1] = row_stride;
    slice.tensor.offset_bytes +=
        (uint64_t)first_row * row_stride *
        mla__dtype_bytes(mla__dtype_or(kv_b->tensor.dtype, CLMLA_DTYPE_BF16));
    return slice;
}

static clmla_weight_source source_of(const clmla_layer *layer, const clmla_weights_params *p,
                                     enum mla__role role)
{
    switch (role) {
    case MLA__Q_PROJ:
        return p->q_proj;
    case MLA__Q_A_PROJ:
        return p->q_a_proj;
    case MLA__Q_B_PROJ:
        return p->q_b_proj;
    case MLA__KV_A_PROJ:
        return p->kv_a_proj_with_mqa;
    case MLA__W_UK:
        return head_slice(layer, &p->kv_b_proj, 0);
    case MLA__W_UV:
        return head_slice(layer, &p->kv_b_proj, layer->config.qk_nope_head_dim);
    case MLA__O_PROJ:
    case MLA__NUM_ROLES:
        break;
    }
    return p->o_proj;
}

static clmla_status pack_all(clmla_weights *weights, const clmla_weights_params *p,
                             cl_command_queue queue)
{
    const clmla_layer *layer = weights->layer;
    clmla_context *context = layer->context;
    clmla_status status = CLMLA_SUCCESS;
    for (int role = 0; role < MLA__NUM_ROLES && status == CLMLA_SUCCESS; role++) {
        const struct clmla_matrix *m = &weights->matrices[role];
        struct clmla_matrix packed;
        if (m->out_features == 0)
            continue;
        const clmla_matrix_params params = {.struct_size = sizeof(params),
                                            .source = source_of(layer, p, (enum mla__role)role),
                                            .num_batches = m->num_batches,
                                            .out_features = m->out_features,
                                            .in_features = m->in_features,
                                            .transposed = role == MLA__W_UK,
                                            .dtype = m->dtype,
                                            .buffer = m->buffer,
                                            .offset_bytes = m->offset_bytes};
        status = mla__matrix_pack(context, &params, queue, &packed);
    }
    if (status == CLMLA_SUCCESS && layer->config.q_lora_rank > 0)
        status = mla__vector_pack(context, &p->q_a_layernorm, "q_a_layernorm",
                                  layer->config.q_lora_rank, weights->q_a_layernorm.buffer,
                                  weights->q_a_layernorm.offset_bytes, queue);
    if (status == CLMLA_SUCCESS)
        status = mla__vector_pack(context, &p->kv_a_layernorm, "kv_a_layernorm",
                                  layer->config.kv_lora_rank, weights->kv_a_layernorm.buffer,
                                  weights->kv_a_layernorm.offset_bytes, queue);
    return status;
}

/* The caller's memory, checked and retained, or memory of our own. */
static clmla_status take_buffer(const clmla_layer *layer, const clmla_weights_params *p,
                                uint64_t bytes, cl_mem *out)
{
    cl_int error;
    if (p->buffer == NULL) {
        const cl_mem buffer =
            clCreateBuffer(layer->context->context, CL_MEM_READ_WRITE, (size_t)bytes, NULL, &error);
        if (error != CL_SUCCESS)
            return mla__fail(layer->context, error, "weights: cannot allocate %llu bytes",
                             (unsigned long long)bytes);
        *out = buffer;
        return CLMLA_SUCCESS;
    }
    const clmla_tensor tensor = {
        .buffer = p->buffer, .offset_bytes = p->offset_bytes, .dtype = CLMLA_DTYPE_F32};
    const mla__tensor_spec spec = {.name = "weights: buffer",
                                   .shape = {bytes / 4},
                                   .rank = 1,
                                   .dtypes = MLA__F32,
                                   .otherwise = CLMLA_DTYPE_F32};
    mla__view view;
    if (p->offset_bytes % ALIGNMENT != 0)
        return mla__fail(layer->context, CLMLA_INVALID_ARGUMENT,
                         "weights: offset_bytes is %llu, must be a multiple of %d",
                         (unsigned long long)p->offset_bytes, ALIGNMENT);
    const clmla_status status = mla__view_make(layer->context, &tensor, &spec, &view);
    if (status != CLMLA_SUCCESS)
        return status;
    error = clRetainMemObject(p->buffer);
    if (error == CL_SUCCESS)
        *out = p->buffer;
    return error;
}

/* An object with its memory in place and nothing packed yet. */
static clmla_status make(clmla_layer *layer, const clmla_weights_params *p, clmla_weights **out)
{
    mla__weights_layout layout;
    clmla_status status = mla__weights_layout_of(layer, &layout);
    if (status != CLMLA_SUCCESS)
        return status;
    clmla_weights *weights = calloc(1, sizeof(*weights));
    if (weights == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    mla__layer_retain(layer);
    weights->layer = layer;
    weights->references = 1;
    status = take_buffer(layer, p, layout.bytes, &weights->buffer);
    if (status != CLMLA_SUCCESS) {
        clmla_weights_release(weights);
        return status;
    }
    mla__weights_place(layer, &layout, weights->buffer, p->buffer == NULL ? 0 : p->offset_bytes,
                       weights);
    *out = weights;
    return CLMLA_SUCCESS;
}

clmla_status mla__weights_hollow(clmla_layer *layer, clmla_weights **out)
{
    const clmla_weights_params allocate = {.struct_size = sizeof(allocate)};
    return make(layer, &allocate, out);
}

clmla_status clmla_weights_create(clmla_layer *layer, const clmla_weights_params *params,
                                  cl_command_queue queue, clmla_weights **out)
{
    clmla_weights_params p;
    clmla_weights *weights;
    if (layer == NULL || out == NULL)
        return CLMLA_INVALID_ARGUMENT;
    if (queue == NULL)
        return CL_INVALID_COMMAND_QUEUE;
    clmla_status status = MLA__PARAMS_COPY(layer->context, "weights", p, params);
    if (status != CLMLA_SUCCESS || (status = check_sources(layer, &p)) != CLMLA_SUCCESS ||
        (status = make(layer, &p, &weights)) != CLMLA_SUCCESS)
        return status;
    mla__sm_90a_probe(layer->context);
    status = pack_all(weights, &p, queue);
    if (status != CLMLA_SUCCESS) {
        clmla_weights_release(weights);
        return status;
    }
    *out = weights;
    return CLMLA_SUCCESS;
}

bool mla__weights_fit(const clmla_weights *weights, const clmla_layer *layer)
{
    if (weights->layer->context != layer->context)
        return false;
    for (int role = 0; role < MLA__NUM_ROLES; role++) {
        const struct clmla_matrix *have = &weights->matrices[role];
        const struct clmla_matrix need = mla__layer_matrix(layer, (enum mla__role)role);
        if (have->num_batches != need.num_batches || have->out_features != need.out_features ||
            have->in_features != need.in_features || have->dtype != need.dtype)
            return false;
    }
    return true;
}

void mla__weights_retain(clmla_weights *weights)
{
    mla__os_mutex_lock(weights->layer->context->mutex);
    weights->references++;
    mla__os_mutex_unlock(weights->layer->context->mutex);
}

void clmla_weights_release(clmla_weights *weights)
{
    if (weights == NULL)
        return;
    mla__os_mutex_lock(weights->layer->context->mutex);
    const bool last = --weights->references == 0;
    mla__os_mutex_unlock(weights->layer->context->mutex);
    if (!last)
        return;
    if (weights->buffer != NULL)
        clReleaseMemObject(weights->buffer);
    clmla_layer_release(weights->layer);
    free(weights);
}
