/* The ops of a binding, each with its tensors. */
#include "core/config.h"
#include "core/dtype.h"
#include "layer/binding.h"

/* A view of the workspace. */
static clmla_tensor in_workspace(const clmla_binding_params *p, uint64_t at, clmla_dtype dtype)
{
    const clmla_tensor tensor = {.buffer = p->workspace.buffer,
                                 .offset_bytes = p->workspace.offset_bytes + at,
                                 .dtype = dtype};
    return tensor;
}

/* The same with strides of the first two of three dimensions. */
static clmla_tensor strided(clmla_tensor tensor, uint64_t outer, uint64_t inner)
{
    tensor.strides[0] = outer;
    tensor.strides[1] = inner;
    return tensor;
}

static clmla_status bind_projection(const clmla_binding *binding, const clmla_binding_params *p,
                                    enum mla__role role, clmla_tensor x, clmla_tensor y,
                                    clmla_output_mode mode, mla__projection *op)
{
    const clmla_layer *layer = binding->layer;
    const clmla_projection_params params = {
        .struct_size = sizeof(params),
        .matrix = &binding->weights->matrices[role],
        .num_rows = layer->tokens_per_block,
        .x = x,
        .y = y,
        .output_mode = mode,
        .workspace = in_workspace(p, layer->workspace.scratch, CLMLA_DTYPE_F32),
        .backend = layer->projection};
    return mla__projection_bind_steps(layer->context, &params, layer->batch_invariant, op);
}

/* q_a [T, q_lora], q [T, H, nope + rope], kv_a [T, kv_lora + rope], q_lat [T, H, kv_lora],
 * o [T, H, v] and the parts of q. */
typedef struct intermediates {
    clmla_tensor q_a, kv_a, q, q_nope, q_pe, q_lat, o;
} intermediates;

static intermediates place(const clmla_layer *layer, const clmla_binding_params *p)
{
    const clmla_config *c = &layer->config;
    const mla__workspace *w = &layer->workspace;
    const uint64_t heads = (uint64_t)c->num_attention_heads;
    const uint64_t qk = (uint64_t)mla__config_qk_head_dim(c);
    const uint64_t v = (uint64_t)c->v_head_dim;
    intermediates t;
    t.q_a = in_workspace(p, w->q_a, layer->stage_dtype);
    t.kv_a = in_workspace(p, w->kv_a, CLMLA_DTYPE_F32);
    t.q = in_workspace(p, w->q, layer->stage_dtype);
    t.q_nope = strided(t.q, heads * qk, qk);
    t.q_pe = t.q_nope;
    t.q_pe.offset_bytes += (uint64_t)c->qk_nope_head_dim * mla__dtype_bytes(layer->stage_dtype);
    t.q_lat = strided(in_workspace(p, w->q_lat, layer->latent_dtype),
                      heads * (uint64_t)c->kv_lora_rank, (uint64_t)c->kv_lora_rank);
    t.o = strided(in_workspace(p, w->q, layer->stage_dtype), heads * v, v);
    return t;
}

/* Sequences that name no tables yet: bound before any plan is known, replaced before any launch.
 * The workspace stands in for the tables, since some buffer of sufficient size must. */
static clmla_sequences no_sequences(const clmla_layer *layer, clmla_tensor stand_in)
{
    stand_in.dtype = CLMLA_DTYPE_I32;
    clmla_sequences s = {.num_sequences = 0,
                         .num_tokens = layer->tokens_per_block,
                         .max_cache_seqlen = layer->max_cache_seqlen,
                         .num_pages = layer->num_pages,
                         .page_block_size = layer->page_block_size,
                         .block_table_stride = layer->pages_per_sequence,
                         .cu_seqlens_q = stand_in,
                         .cache_seqlens = stand_in};
    if (layer->pages_per_sequence > 0)
        s.block_table = stand_in;
    return s;
}

static clmla_rmsnorm_params q_a_norm(const clmla_binding *b, const intermediates *t)
{
    return (clmla_rmsnorm_params){.struct_size = sizeof(clmla_rmsnorm_params),
                                  .num_tokens = b->layer->tokens_per_block,
                                  .dim = b->layer->config.q_lora_rank,
                                  .eps = b->layer->config.rms_norm_eps,
                                  .x = t->q_a,
                                  .weight = b->weights->q_a_layernorm,
                                  .y = t->q_a};
}

/* Both projections of x, in one launch where tensor cores take them. */
static clmla_status bind_inputs(clmla_binding *b, const clmla_binding_params *p,
                                const intermediates *t)
{
    const clmla_layer *layer = b->layer;
    const bool q_lora = layer->config.q_lora_rank > 0;
    clmla_tensor q = t->q;
    q.strides[0] = 0; /* [T, H · (nope + rope)], dense */
    const mla__projection_pair_params pair = {
        .first = &b->weights->matrices[q_lora ? MLA__Q_A_PROJ : MLA__Q_PROJ],
        .second = &b->weights->matrices[MLA__KV_A_PROJ],
        .num_rows = layer->tokens_per_block,
        .x = p->hidden_states,
        .first_y = q_lora ? t->q_a : q,
        .second_y = t->kv_a,
        .batch_invariant = layer->batch_invariant};
    clmla_status status = CLMLA_SUCCESS;
    if (layer->projection == CLMLA_PROJECTION_NATIVE)
        status = mla__projection_pair_bind(layer->context, &pair, &b->qkv_a_proj);
    const bool paired = b->qkv_a_proj.num_variants > 0;
    if (status == CLMLA_SUCCESS && !paired)
        status = bind_projection(b, p, MLA__KV_A_PROJ, p->hidden_states, t->kv_a, CLMLA_OVERWRITE,
                                 &b->kv_a_proj);
    if (status == CLMLA_SUCCESS && !paired)
        status = q_lora ? bind_projection(b, p, MLA__Q_A_PROJ, p->hidden_states, t->q_a,
                                          CLMLA_OVERWRITE, &b->q_a_proj)
                        : bind_projection(b, p, MLA__Q_PROJ, p->hidden_states, q, CLMLA_OVERWRITE,
                                          &b->q_b_proj);
    if (status == CLMLA_SUCCESS && q_lora)
        status = bind_projection(b, p, MLA__Q_B_PROJ, t->q_a, q, CLMLA_OVERWRITE, &b->q_b_proj);
    return status;
}

/* The norms, rotations and the append between the projections and attention, which is bound. */
static clmla_status bind_between(clmla_binding *b, const clmla_binding_params *p,
                                 const intermediates *t)
{
    const clmla_layer *layer = b->layer;
    const clmla_config *c = &layer->config;
    const clmla_rmsnorm_params q_a = q_a_norm(b, t);
    const clmla_cache_append_params append = {.struct_size = sizeof(append),
                                              .kv_lora_rank = c->kv_lora_rank,
                                              .rope_dim = c->qk_rope_head_dim,
                                              .eps = c->rms_norm_eps,
                                              .sequences = no_sequences(layer, t->kv_a),
                                              .kv_a = t->kv_a,
                                              .kv_a_layernorm = b->weights->kv_a_layernorm,
                                              .cos_sin = t->kv_a, /* stands in, as above */
                                              .kv_cache = p->kv_cache,
                                              .pe_cache = p->pe_cache};
    if (b->attention.rotates_query) {
        const mla__norm_append_params params = {.append = append, .q_a = q_a};
        return mla__norm_append_bind(layer->context, &params, &b->norm_append);
    }
    const mla__rope_append_params params = {
        .append = append, .num_heads = c->num_attention_heads, .q_pe = t->q_pe};
    clmla_status status = c->q_lora_rank > 0
                              ? mla__rmsnorm_bind(layer->context, &q_a, &b->q_a_layernorm)
                              : CLMLA_SUCCESS;
    return status == CLMLA_SUCCESS ? mla__rope_append_bind(layer->context, &params, &b->rope_append)
                                   : status;
}

static clmla_status bind_attention(clmla_binding *b, const clmla_binding_params *p,
                                   const intermediates *t)
{
    const clmla_layer *layer = b->layer;
    const clmla_config *c = &layer->config;
    const clmla_attention_params attention = {
        .struct_size = sizeof(attention),
        .num_heads = c->num_attention_heads,
        .kv_lora_rank = c->kv_lora_rank,
        .rope_dim = c->qk_rope_head_dim,
        .softmax_scale = layer->softmax_scale,
        .sequences = no_sequences(layer, t->kv_a),
        .q_lat = t->q_lat,
        .q_pe = t->q_pe,
        .kv_cache = p->kv_cache,
        .pe_cache = p->pe_cache,
        .out = t->q_lat,
        .workspace = in_workspace(p, layer->workspace.splits, CLMLA_DTYPE_F32)};
    return mla__attention_bind_steps(layer->context, &attention, layer->workspace.splits_bytes,
                                     &t->kv_a /* stands in for cos_sin */, &b->attention);
}

/* On the partial states that attention leaves in the workspace. */
static clmla_status bind_merge_v_up(clmla_binding *b, const clmla_binding_params *p,
                                    const intermediates *t)
{
    const clmla_layer *layer = b->layer;
    const clmla_config *c = &layer->config;
    const clmla_tensor splits = in_workspace(p, layer->workspace.splits, CLMLA_DTYPE_F32);
    uint64_t state_bytes = 0;
    b->merge_v_up_tokens = mla__layer_merge_up_tokens(layer, NULL);
    if (b->merge_v_up_tokens == 0)
        return CLMLA_SUCCESS;
    clmla_status status = mla__attention_split_bytes(layer->context, 1, c->num_attention_heads,
                                                     c->kv_lora_rank, 1, &state_bytes);
    if (status != CLMLA_SUCCESS)
        return status;
    mla__merge_up_params params = {.matrix = &b->weights->matrices[MLA__W_UV],
                                   .max_tokens = b->merge_v_up_tokens,
                                   .num_states = layer->workspace.splits_bytes / state_bytes,
                                   .ctx_dtype = layer->latent_dtype,
                                   .y = t->o};
    mla__attention_states(&splits, c->num_attention_heads, c->kv_lora_rank, &params.partial_out,
                          &params.partial_lse);
    return mla__merge_up_bind(layer->context, &params, &b->merge_v_up);
}

clmla_status mla__binding_bind_ops(clmla_binding *binding, const clmla_binding_params *params)
{
    const clmla_layer *layer = binding->layer;
    const intermediates t = place(layer, params);
    clmla_tensor o = t.o;
    o.strides[0] = o.strides[1] = 0; /* [T, H · v], dense */
    clmla_status status = bind_inputs(binding, params, &t);
    if (status == CLMLA_SUCCESS)
        status = bind_projection(binding, params, MLA__W_UK, t.q_nope, t.q_lat, CLMLA_OVERWRITE,
                                 &binding->absorb);
    if (status == CLMLA_SUCCESS)
        status = bind_attention(binding, params, &t);
    if (status == CLMLA_SUCCESS)
        status = bind_between(binding, params, &t);
    if (status == CLMLA_SUCCESS)
        status = bind_projection(binding, params, MLA__W_UV, t.q_lat, t.o, CLMLA_OVERWRITE,
                                 &binding->v_up);
    if (status == CLMLA_SUCCESS)
        status = bind_merge_v_up(binding, params, &t);
    if (status == CLMLA_SUCCESS)
        status = bind_projection(binding, params, MLA__O_PROJ, o, params->output,
                                 params->output_mode, &binding->o_proj);
    if (status == CLMLA_SUCCESS)
        status = mla__decode_layer_bind(binding, params, &binding->decode_layer);
    return status;
}

void mla__binding_release_ops(clmla_binding *b)
{
    mla__projection_native_release(&b->qkv_a_proj);
    mla__projection_release(&b->q_a_proj);
    mla__rmsnorm_release(&b->q_a_layernorm);
    mla__projection_release(&b->q_b_proj);
    mla__projection_release(&b->kv_a_proj);
    mla__cache_append_release(&b->norm_append);
    mla__rope_append_release(&b->rope_append);
    mla__projection_release(&b->absorb);
    mla__attention_release(&b->attention);
    mla__projection_release(&b->v_up);
    mla__merge_up_release(&b->merge_v_up);
    mla__projection_release(&b->o_proj);
    mla__decode_layer_release(&b->decode_layer);
}
