/*
 * The forward pass: clmla.h's equation, one op a line.
 */
#include "layer/binding.h"

/* Tells the stage function, if there is one, where a stage ends. */
static clmla_status stage_end(const clmla_binding *binding, mla__stream *stream, const char *stage)
{
    cl_event end;
    if (binding->stage_fn == NULL)
        return CLMLA_SUCCESS;
    const clmla_status status = mla__stream_end(stream, &end);
    if (status != CLMLA_SUCCESS)
        return status;
    binding->stage_fn(stage, end, binding->stage_user);
    return clReleaseEvent(end);
}

/* Runs one line, ends its stage, and leaves the function at the first failure. */
#define STAGE(name, enqueue)                                                                       \
    do {                                                                                           \
        if ((status = (enqueue)) != CLMLA_SUCCESS ||                                               \
            (status = stage_end(binding, stream, (name))) != CLMLA_SUCCESS)                        \
            return status;                                                                         \
    } while (0)

clmla_status mla__forward_block(clmla_binding *binding, const clmla_plan *plan, mla__stream *stream,
                                int32_t token_begin, int32_t num_tokens)
{
    const int32_t t0 = token_begin, n = num_tokens;
    const bool q_lora = binding->layer->config.q_lora_rank > 0;
    const bool rotates = binding->attention.rotates_query;
    const bool paired = binding->qkv_a_proj.num_variants > 0;
    mla__attention_step keys = {
        .num_sequences = plan->step.num_sequences, .token_begin = t0, .num_tokens = n};
    clmla_status status;
    mla__binding_split(binding, plan, n, &keys);

    /* all that follows in one launch, where asked for and possible */
    if (mla__decode_layer_takes(&binding->decode_layer, &keys)) {
        STAGE("layer", mla__decode_layer_enqueue(&binding->decode_layer, stream, &keys));
        return CLMLA_SUCCESS;
    }
    /* q_a = x · q_a_projᵀ, [c_kv | k_pe] = x · kv_a_proj_with_mqaᵀ */
    if (paired) { /* or q = x · q_projᵀ with the latter */
        STAGE("qkv_a_proj", mla__projection_native_enqueue(&binding->qkv_a_proj, stream, t0, 0, n));
    } else {
        if (q_lora)
            STAGE("q_a_proj", mla__projection_enqueue(&binding->q_a_proj, stream, t0, 0, n));
        STAGE("kv_a_proj_with_mqa", mla__projection_enqueue(&binding->kv_a_proj, stream, t0, 0, n));
    }
    /* q_a = RMSNorm(q_a); kv_cache[b, p] = RMSNorm(c_kv), pe_cache[b, p] = RoPE(k_pe, p) now, or
     * below together with q_pe */
    if (rotates)
        STAGE("norm_append", mla__cache_append_enqueue(&binding->norm_append, stream, t0, n));
    else if (q_lora)
        STAGE("q_a_layernorm", mla__rmsnorm_enqueue(&binding->q_a_layernorm, stream, n));
    /* q = q_a · q_b_projᵀ, or x · q_projᵀ */
    if (q_lora || !paired)
        STAGE(q_lora ? "q_b_proj" : "q_proj",
              mla__projection_enqueue(&binding->q_b_proj, stream, q_lora ? 0 : t0, 0, n));
    /* q_pe = RoPE(q_pe, p), here or in attention */
    if (!rotates)
        STAGE("rope_append", mla__rope_append_enqueue(&binding->rope_append, stream, t0, n));
    /* q_lat[h] = q_nope[h] · W_UK[h] */
    STAGE("absorb", mla__projection_enqueue(&binding->absorb, stream, 0, 0, n));
    /* ctx[h] = softmax_j(softmax_scale · (q_lat[h]·c_kv[j] + q_pe[h]·k_pe[j])) · c_kv
     * o[h] = W_UV[h] · ctx[h]; few tokens: on ctx of the splits, merged in the same launch */
    if (mla__binding_merges_up(binding, &keys)) {
        STAGE("attention", mla__attention_enqueue_states(&binding->attention, stream, &keys));
        STAGE("merge_v_up",
              mla__merge_up_enqueue(&binding->merge_v_up, stream, keys.num_splits, n));
    } else {
        STAGE("attention", mla__attention_enqueue(&binding->attention, stream, &keys));
        STAGE("v_up", mla__projection_enqueue(&binding->v_up, stream, 0, 0, n));
    }
    /* y = concat_h(o) · o_projᵀ */
    STAGE("o_proj", mla__projection_enqueue(&binding->o_proj, stream, 0, t0, n));
    return CLMLA_SUCCESS;
}

#undef STAGE

clmla_status clmla_enqueue_layer(clmla_binding *binding, clmla_plan *plan, cl_command_queue queue,
                                 cl_uint num_events, const cl_event *wait_list, cl_event *event)
{
    mla__stream stream;
    if (binding == NULL || plan == NULL)
        return CLMLA_INVALID_ARGUMENT;
    const clmla_layer *layer = binding->layer;
    if (plan->layer != layer)
        return mla__fail(layer->context, CLMLA_INVALID_STATE,
                         "layer: the plan was made for another layer object");
    clmla_status status = mla__stream_begin(&stream, queue, num_events, wait_list);
    if (status == CLMLA_SUCCESS)
        status = mla__plan_ready(plan, "layer", &stream);
    if (status == CLMLA_SUCCESS)
        status = mla__binding_use_plan(binding, plan);
    for (int32_t t0 = 0; status == CLMLA_SUCCESS && t0 < plan->step.num_tokens;
         t0 += layer->tokens_per_block) {
        const int32_t left = plan->step.num_tokens - t0;
        const int32_t n = left < layer->tokens_per_block ? left : layer->tokens_per_block;
        status = mla__forward_block(binding, plan, &stream, t0, n);
        if (n == left)
            break; /* t0 + tokens_per_block may pass INT32_MAX */
    }
    if (status == CLMLA_SUCCESS)
        status = mla__stream_end(&stream, event);
    if (status != CLMLA_SUCCESS)
        return status;
    binding->stats.kernel_launches = stream.kernel_launches;
    binding->stats.clblast_calls = stream.clblast_calls;
    return CLMLA_SUCCESS;
}
