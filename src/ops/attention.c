#include "ops/attention.h"

#include <math.h>

#include "ocl/local_memory.h"
#include "ops/attention_kernel.h"

/* Order of the arguments: ATTENTION_PARAMS in cl/attention.clh. */
enum {
    SEQUENCES_ARG = 0,
    NUM_SEQUENCES_ARG = MLA__SEQUENCES_ARGS - 1,
    TOKEN_BEGIN_ARG = MLA__SEQUENCES_ARGS + 26,
    NUM_TOKENS_ARG = TOKEN_BEGIN_ARG + 1,
    SPLIT_TOKENS_ARG = TOKEN_BEGIN_ARG + 2,
    COS_SIN_ARG = TOKEN_BEGIN_ARG + 3, /* where the query is rotated */
    MAX_SPLITS = 65535 /* what every driver takes as work-groups of the second dimension */
};

/* ---- checks --------------------------------------------------------------------------------- */

static clmla_status check_numbers(const clmla_context *context, const clmla_attention_params *p)
{
    if (p->num_heads < 1 || p->kv_lora_rank < 1 || p->rope_dim < 0)
        return mla__fail(context, CLMLA_INVALID_TENSOR_SHAPE,
                         "attention: num_heads %d and kv_lora_rank %d must be >= 1, rope_dim %d >= "
                         "0",
                         (int)p->num_heads, (int)p->kv_lora_rank, (int)p->rope_dim);
    if (p->mask != CLMLA_MASK_CAUSAL && p->mask != CLMLA_MASK_NONE)
        return mla__fail(context, CLMLA_INVALID_ARGUMENT, "attention: mask %d is unknown",
                         (int)p->mask);
    if (!(p->softmax_scale > 0.0) || !isfinite((float)(p->softmax_scale * MLA__LOG2_E)))
        return mla__fail(context, CLMLA_INVALID_ARGUMENT,
                         "attention: softmax_scale %g is not a positive number", p->softmax_scale);
    if (p->num_splits < 0 || p->num_splits > MAX_SPLITS || p->split_tokens < 0)
        return mla__fail(context, CLMLA_INVALID_ARGUMENT,
                         "attention: num_splits %d must be 0 .. %d, split_tokens %d >= 0",
                         (int)p->num_splits, MAX_SPLITS, (int)p->split_tokens);
    if (p->sequences.num_sequences < 0 || p->sequences.num_tokens < 0 ||
        p->sequences.max_cache_seqlen < 0)
        return mla__fail(context, CLMLA_INVALID_ARGUMENT,
                         "attention: num_sequences %d, num_tokens %d, max_cache_seqlen %d: one is "
                         "negative",
                         (int)p->sequences.num_sequences, (int)p->sequences.num_tokens,
                         (int)p->sequences.max_cache_seqlen);
    return CLMLA_SUCCESS;
}

static clmla_status make_views(const clmla_context *context, const clmla_attention_params *p,
                               mla__attention_args *args)
{
    const uint64_t tokens = (uint64_t)args->sequences.num_tokens, heads = (uint64_t)p->num_heads;
    const uint64_t latent = (uint64_t)p->kv_lora_rank, rope = (uint64_t)p->rope_dim;
    const struct {
        mla__tensor_spec spec;
        const clmla_tensor *tensor;
        mla__view *view;
    } checks[] = {
        {{"attention: q_lat", {tokens, heads, latent}, 3, MLA__FLOATS, CLMLA_DTYPE_BF16},
         &p->q_lat,
         &args->q_lat},
        {{"attention: q_pe", {tokens, heads, rope}, 3, MLA__FLOATS, CLMLA_DTYPE_BF16},
         &p->q_pe,
         &args->q_pe},
        {{"attention: out", {tokens, heads, latent}, 3, MLA__FLOATS, CLMLA_DTYPE_BF16},
         &p->out,
         &args->out},
        {{"attention: softmax_lse", {tokens, heads}, 2, MLA__F32, CLMLA_DTYPE_F32},
         &p->softmax_lse,
         &args->lse},
    };
    args->lse = (mla__view){.dtype = CLMLA_DTYPE_F32};
    for (size_t i = 0; i < sizeof checks / sizeof checks[0]; i++) {
        if (checks[i].tensor == &p->softmax_lse && p->softmax_lse.buffer == NULL)
            continue; /* not wanted */
        const clmla_status status =
            mla__view_make(context, checks[i].tensor, &checks[i].spec, checks[i].view);
        if (status != CLMLA_SUCCESS)
            return status;
    }
    const clmla_status status =
        mla__cache_tensors_make(context, "attention", &args->sequences, &p->kv_cache, &p->pe_cache,
                                p->kv_lora_rank, p->rope_dim, &args->cache);
    const mla__cache_tensors *cache = &args->cache;
    if (status != CLMLA_SUCCESS || cache->fp8)
        return status;
    if (rope == 0) /* there is none, of whatever dtype */
        args->cache.pe_cache.dtype = cache->kv_cache.dtype;
    if (cache->pe_cache.dtype != cache->kv_cache.dtype)
        return mla__fail(context, CLMLA_INVALID_TENSOR_DTYPE,
                         "attention: kv_cache is %s, pe_cache %s; they must be the same",
                         mla__dtype_name(cache->kv_cache.dtype),
                         mla__dtype_name(cache->pe_cache.dtype));
    return CLMLA_SUCCESS;
}

/* Elements from the first to the last of [rows, columns, dim]. */
static uint64_t span(const mla__view *view, uint64_t rows, uint64_t columns, uint64_t dim)
{
    if (rows == 0 || columns == 0 || dim == 0)
        return 0;
    return (rows - 1) * view->strides[0] + (columns - 1) * view->strides[1] + dim;
}

static clmla_status check_overlap(const clmla_context *context, const clmla_attention_params *p,
                                  const mla__attention_args *args)
{
    const mla__view *out = &args->out, *q = &args->q_lat;
    const uint64_t tokens = (uint64_t)args->sequences.num_tokens, heads = (uint64_t)p->num_heads;
    const uint64_t pages = (uint64_t)args->sequences.num_pages;
    const uint64_t page_rows = (uint64_t)args->sequences.page_block_size;
    const uint64_t latent = (uint64_t)p->kv_lora_rank, rope = (uint64_t)p->rope_dim;
    const uint64_t out_span = span(out, tokens, heads, latent);
    const bool same = out->offset == q->offset && out->dtype == q->dtype &&
                      (tokens <= 1 || out->strides[0] == q->strides[0]) &&
                      (heads <= 1 || out->strides[1] == q->strides[1]);
    if (!same && mla__views_overlap(out, out_span, q, span(q, tokens, heads, latent)))
        return mla__fail(context, CLMLA_INVALID_ARGUMENT,
                         "attention: out overlaps q_lat; it may be q_lat exactly or lie apart");
    const mla__view *kv = &args->cache.kv_cache, *pe = &args->cache.pe_cache;
    if (mla__views_overlap(out, out_span, kv,
                           span(kv, pages, page_rows, args->cache.kv_elements)) ||
        mla__views_overlap(out, out_span, pe, span(pe, pages, page_rows, rope)))
        return mla__fail(context, CLMLA_INVALID_ARGUMENT, "attention: out overlaps the cache");
    return CLMLA_SUCCESS;
}

static clmla_status check(const clmla_context *context, const clmla_attention_params *params,
                          mla__attention_args *args)
{
    clmla_status status = check_numbers(context, params);
    if (status == CLMLA_SUCCESS)
        status = mla__sequences_make(context, "attention", &params->sequences, 1, &args->sequences);
    if (status == CLMLA_SUCCESS)
        status = make_views(context, params, args);
    if (status == CLMLA_SUCCESS)
        status = check_overlap(context, params, args);
    args->mask = params->mask;
    args->softmax_scale = params->softmax_scale;
    args->rope_dim = params->rope_dim;
    args->rotates_query = false; /* take_rotation */
    return status;
}

static clmla_status make_workspace(const clmla_context *context, const clmla_tensor *tensor,
                                   uint64_t bytes, mla__view *view)
{
    size_t size = 0;
    uint64_t end = 0;
    if (tensor->buffer == NULL)
        return mla__fail(context, CLMLA_WORKSPACE_TOO_SMALL,
                         "attention: no workspace, %llu bytes are needed",
                         (unsigned long long)bytes);
    const clmla_status status =
        clGetMemObjectInfo(tensor->buffer, CL_MEM_SIZE, sizeof size, &size, NULL);
    if (status != CLMLA_SUCCESS)
        return mla__fail(context, status, "attention: the workspace's buffer is not valid");
    if (!mla__checked_add(tensor->offset_bytes, bytes, &end) || end > size)
        return mla__fail(context, CLMLA_WORKSPACE_TOO_SMALL,
                         "attention: workspace of %llu bytes at %llu in a buffer of %zu",
                         (unsigned long long)bytes, (unsigned long long)tensor->offset_bytes, size);
    const clmla_tensor floats = {.buffer = tensor->buffer, .offset_bytes = tensor->offset_bytes};
    const mla__tensor_spec spec = {.name = "attention: workspace",
                                   .shape = {bytes / sizeof(float)},
                                   .rank = 1,
                                   .dtypes = MLA__F32,
                                   .otherwise = CLMLA_DTYPE_F32};
    return mla__view_make(context, &floats, &spec, view);
}

/* ---- bind ----------------------------------------------------------------------------------- */

void mla__attention_states(const clmla_tensor *workspace, int32_t num_heads, int32_t kv_lora_rank,
                           clmla_tensor *partial_out, clmla_tensor *partial_lse)
{
    const uint64_t heads = (uint64_t)num_heads, latent = (uint64_t)kv_lora_rank;
    const uint64_t record = heads * (latent + 1);
    *partial_out = (clmla_tensor){.buffer = workspace->buffer,
                                  .offset_bytes = workspace->offset_bytes,
                                  .strides = {record, record, latent},
                                  .dtype = CLMLA_DTYPE_F32};
    *partial_lse =
        (clmla_tensor){.buffer = workspace->buffer,
                       .offset_bytes = workspace->offset_bytes + heads * latent * sizeof(float),
                       .strides = {record, record},
                       .dtype = CLMLA_DTYPE_F32};
}

/* The tile's kernels. Partial states lie in the workspace as records [H, kv_lora_rank] out | [H] lse
 * of one (split, token) each, so that only the stride between splits depends on a step. */
static clmla_status bind_variant(clmla_context *context, const mla__attention_args *args,
                                 const mla__view *workspace, const mla__attention *op,
                                 const mla__attention_tile *tile, mla__attention_variant *variant)
{
    const uint64_t heads = (uint64_t)op->num_heads, latent = (uint64_t)op->kv_lora_rank;
    const uint64_t record = heads * (latent + 1);
    const mla__view out = {.buffer = workspace->buffer,
                           .offset = workspace->offset,
                           .strides = {record, latent},
                           .dtype = CLMLA_DTYPE_F32};
    mla__view lse = out;
    lse.offset += heads * latent;
    variant->tile = *tile;
    clmla_status status = mla__attention_kernel(context, op, tile, args, &args->out, &args->lse,
                                                false, &variant->kernel);
    if (status == CLMLA_SUCCESS && op->workspace_bytes > 0)
        status = mla__attention_kernel(context, op, tile, args, &out, &lse, true,
                                       &variant->split_kernel);
    return status;
}

static void release_variant(mla__attention_variant *variant)
{
    mla__kernel_release(&variant->kernel);
    mla__kernel_release(&variant->split_kernel);
    *variant = (mla__attention_variant){.tile = {.tile_rows = 0}};
}

/* Where its kernels fail, after a kernel with as much local memory ran, the other tiles remain. */
static clmla_status bind_large(clmla_context *context, const mla__attention_args *args,
                               const mla__view *workspace, const mla__attention_choice *choice,
                               mla__attention *op)
{
    const clmla_status status =
        bind_variant(context, args, workspace, op, &choice->large_tile, &op->large);
    if (status == CLMLA_SUCCESS || status == CL_OUT_OF_HOST_MEMORY)
        return status;
    release_variant(&op->large);
    mla__local_memory_refuse(context, choice->large_local_bytes);
    return mla__fail(context, CLMLA_SUCCESS,
                     "attention: the tile of %d rows does not build here; those of fewer remain",
                     (int)choice->large_tile.tile_rows);
}

static clmla_status bind_merge(clmla_context *context, const clmla_attention_params *params,
                               mla__attention *op)
{
    const uint64_t record = (uint64_t)op->num_heads * ((uint64_t)op->kv_lora_rank + 1);
    const uint64_t states = op->workspace_bytes / (record * sizeof(float));
    clmla_merge_states_params merge = {
        .struct_size = sizeof(merge),
        .num_states = states < INT32_MAX ? (int32_t)states : INT32_MAX,
        .num_tokens = 1, /* states of one token lie a record apart: packed */
        .num_heads = op->num_heads,
        .dim = op->kv_lora_rank,
        .out = params->out,
        .softmax_lse = params->softmax_lse};
    mla__attention_states(&params->workspace, op->num_heads, op->kv_lora_rank, &merge.partial_out,
                          &merge.partial_lse);
    return mla__merge_bind(context, &merge, &op->merge);
}

static mla__attention_shape shape_of(const mla__attention *op, const mla__attention_args *args)
{
    return (mla__attention_shape){.q_lat = args->q_lat.dtype,
                                  .q_pe = args->q_pe.dtype,
                                  .cache = args->cache.kv_cache.dtype,
                                  .out = args->out.dtype,
                                  .num_heads = op->num_heads,
                                  .kv_lora_rank = op->kv_lora_rank,
                                  .rope_dim = args->rope_dim};
}

/* Kind and tiles for the shape, and the op's kernels. Leaves none of them after a failure, but the
 * kind that was chosen. */
static clmla_status bind_kernels(clmla_context *context, const clmla_attention_params *params,
                                 const mla__attention_args *args, const mla__view *workspace,
                                 const mla__attention_shape *shape, mla__attention *op)
{
    mla__attention_choice choice;
    if (!mla__attention_choose(context, shape, &choice))
        return mla__fail(context, CLMLA_UNSUPPORTED_DEVICE,
                         "attention: kv_lora_rank %d with rope_dim %d in %s fits no tile of class "
                         "%s (device: %llu bytes of local memory)",
                         (int)shape->kv_lora_rank, (int)shape->rope_dim,
                         mla__dtype_name(mla__attention_widest(shape)),
                         clmla_kernel_class_name(context->kernel_class),
                         (unsigned long long)context->device.local_mem_bytes);
    op->kind = choice.kind;
    op->rotates_query = args->rotates_query && mla__attention_on_tensor_cores(choice.kind);
    clmla_status status = bind_variant(context, args, workspace, op, &choice.tile, &op->few);
    if (status == CLMLA_SUCCESS && choice.many_tile.tile_rows > 0)
        status = bind_variant(context, args, workspace, op, &choice.many_tile, &op->many);
    op->many.from_rows = choice.many_rows;
    op->large.from_rows = choice.large_tile.tile_rows;
    if (status == CLMLA_SUCCESS && choice.large_tile.tile_rows > 0)
        status = bind_large(context, args, workspace, &choice, op);
    if (status == CLMLA_SUCCESS && op->workspace_bytes > 0)
        status = bind_merge(context, params, op);
    if (status != CLMLA_SUCCESS)
        mla__attention_release(op);
    return status;
}

static clmla_status take_rotation(const clmla_context *context, const clmla_tensor *cos_sin,
                                  mla__attention_args *args)
{
    const mla__tensor_spec spec = {
        .name = "attention: cos_sin",
        .shape = {(uint64_t)args->sequences.num_tokens, (uint64_t)args->rope_dim / 2, 2},
        .rank = 3,
        .dtypes = MLA__F32,
        .otherwise = CLMLA_DTYPE_F32};
    args->rotates_query = args->rope_dim > 0;
    return args->rotates_query ? mla__view_make(context, cos_sin, &spec, &args->cos_sin)
                               : CLMLA_SUCCESS;
}

clmla_status mla__attention_bind_steps(clmla_context *context,
                                       const clmla_attention_params *user_params,
                                       uint64_t workspace_bytes, const clmla_tensor *cos_sin,
                                       mla__attention *op)
{
    clmla_attention_params params;
    mla__attention_args args;
    mla__view workspace = {.buffer = NULL};
    clmla_status status = MLA__PARAMS_COPY(context, "attention", params, user_params);
    if (status == CLMLA_SUCCESS)
        status = check(context, &params, &args);
    if (status == CLMLA_SUCCESS && cos_sin != NULL)
        status = take_rotation(context, cos_sin, &args);
    if (status != CLMLA_SUCCESS)
        return status;
    mla__attention made = {.num_heads = params.num_heads,
                           .kv_lora_rank = params.kv_lora_rank,
                           .sequences_arg = SEQUENCES_ARG};
    const uint64_t record_bytes =
        (uint64_t)made.num_heads * ((uint64_t)made.kv_lora_rank + 1) * sizeof(float);
    if (workspace_bytes >= record_bytes && params.sequences.num_tokens > 0)
        made.workspace_bytes = workspace_bytes;
    if (made.workspace_bytes > 0)
        status = make_workspace(context, &params.workspace, workspace_bytes, &workspace);
    if (status != CLMLA_SUCCESS)
        return status;
    mla__attention_shape shape = shape_of(&made, &args);
    status = bind_kernels(context, &params, &args, &workspace, &shape, &made);
    if (status == CL_BUILD_PROGRAM_FAILURE && made.kind == MLA__ATTENTION_WGMMA) {
        mla__context_refuse_sm_90a(context, MLA__SM_90A_ATTENTION,
                                   "the driver does not build one of them");
        status = bind_kernels(context, &params, &args, &workspace, &shape, &made);
    }
    if (status == CL_BUILD_PROGRAM_FAILURE &&
        (made.kind == MLA__ATTENTION_MMA || made.kind == MLA__ATTENTION_DOT)) {
        (void)mla__fail(context, CLMLA_SUCCESS,
                        "attention: the kernel for %s does not build here; the portable one takes "
                        "its place",
                        made.kind == MLA__ATTENTION_MMA ? "tensor cores" : "bf16 dot products");
        shape.portable = true;
        status = bind_kernels(context, &params, &args, &workspace, &shape, &made);
    }
    if (status == CLMLA_SUCCESS)
        *op = made;
    return status;
}

clmla_status mla__attention_bind(clmla_context *context, const clmla_attention_params *user_params,
                                 mla__attention *op)
{
    clmla_attention_params params;
    uint64_t bytes = 0;
    clmla_status status = MLA__PARAMS_COPY(context, "attention", params, user_params);
    if (status == CLMLA_SUCCESS)
        status = check_numbers(context, &params);
    if (status == CLMLA_SUCCESS && params.num_splits > 1)
        status = mla__attention_split_bytes(context, params.sequences.num_tokens, params.num_heads,
                                            params.kv_lora_rank, params.num_splits, &bytes);
    return status == CLMLA_SUCCESS ? mla__attention_bind_steps(context, &params, bytes, NULL, op)
                                   : status;
}

static clmla_status set_cos_sin(mla__kernel *kernel, const mla__view *cos_sin)
{
    clmla_status status = mla__arg_set_buffer(kernel, COS_SIN_ARG, cos_sin->buffer);
    if (status == CLMLA_SUCCESS)
        status = mla__arg_set_ulong(kernel, COS_SIN_ARG + 1, cos_sin->offset);
    for (cl_uint i = 0; i < 2 && status == CLMLA_SUCCESS; i++)
        status = mla__arg_set_ulong(kernel, COS_SIN_ARG + 2 + i, cos_sin->strides[i]);
    return status;
}

clmla_status mla__attention_set_sequences(mla__attention *op, const mla__sequences *sequences,
                                          const mla__view *cos_sin)
{
    mla__kernel *const kernels[] = {&op->few.kernel,   &op->few.split_kernel,
                                    &op->many.kernel,  &op->many.split_kernel,
                                    &op->large.kernel, &op->large.split_kernel};
    clmla_status status = CLMLA_SUCCESS;
    for (size_t i = 0; i < sizeof kernels / sizeof kernels[0] && status == CLMLA_SUCCESS; i++) {
        if (kernels[i]->kernel == NULL)
            continue;
        status = mla__arg_set_sequences(kernels[i], op->sequences_arg, sequences);
        if (status == CLMLA_SUCCESS && op->rotates_query)
            status = set_cos_sin(kernels[i], cos_sin);
    }
    return status;
}

/* ---- enqueue -------------------------------------------------------------------------------- */

/* By the rows that sequences have on average. */
static mla__attention_variant *variant_for(mla__attention *op, const mla__attention_step *step)
{
    const uint64_t rows = (uint64_t)step->num_tokens * (uint64_t)op->num_heads;
    mla__attention_variant *const larger[] = {&op->large, &op->many};
    for (size_t i = 0; i < sizeof larger / sizeof larger[0]; i++)
        if (larger[i]->tile.tile_rows > 0 &&
            rows >= (uint64_t)larger[i]->from_rows * (uint64_t)step->num_sequences)
            return larger[i];
    return &op->few;
}

static clmla_status launch(const mla__attention *op, const mla__attention_variant *variant,
                           bool partial, mla__stream *stream, const mla__attention_step *step)
{
    const bool cpu = op->kind == MLA__ATTENTION_CPU || op->kind == MLA__ATTENTION_DOT;
    const size_t work_group = cpu ? 1 : (size_t)variant->tile.work_group;
    const uint64_t rows = (uint64_t)step->num_tokens * (uint64_t)op->num_heads;
    /* One group more than sequences and rows ask for: tokens past the last sequence. */
    const size_t groups =
        (size_t)(rows / (uint64_t)variant->tile.tile_rows) + (size_t)step->num_sequences + 1;
    mla__kernel kernel = partial ? variant->split_kernel : variant->kernel;
    const size_t global[2] = {groups * work_group, (size_t)step->num_splits};
    const size_t local[2] = {work_group, 1};
    const struct {
        cl_uint index;
        cl_int value;
    } changing[] = {{NUM_SEQUENCES_ARG, step->num_sequences},
                    {TOKEN_BEGIN_ARG, step->token_begin},
                    {NUM_TOKENS_ARG, step->num_tokens},
                    {SPLIT_TOKENS_ARG, step->split_tokens}};
    for (size_t i = 0; i < sizeof changing / sizeof changing[0]; i++) {
        const clmla_status status = mla__arg_set_int(&kernel, changing[i].index, changing[i].value);
        if (status != CLMLA_SUCCESS)
            return status;
    }
    return mla__stream_launch(stream, &kernel, 2, global, local);
}

clmla_status mla__attention_enqueue_states(mla__attention *op, mla__stream *stream,
                                           const mla__attention_step *step)
{
    uint64_t bytes = 0;
    if (step->num_tokens == 0)
        return CLMLA_SUCCESS;
    const clmla_status status = mla__attention_split_bytes(
        NULL, step->num_tokens, op->num_heads, op->kv_lora_rank, step->num_splits, &bytes);
    if (status != CLMLA_SUCCESS || bytes > op->workspace_bytes || step->split_tokens < 1)
        return CLMLA_INTERNAL; /* whoever chose the step did not ask what the workspace holds */
    return launch(op, variant_for(op, step), true, stream, step);
}

clmla_status mla__attention_enqueue(mla__attention *op, mla__stream *stream,
                                    const mla__attention_step *step)
{
    mla__attention_step s = *step;
    if (s.num_tokens == 0)
        return CLMLA_SUCCESS;
    if (s.num_splits <= 1) {
        s.num_splits = 1;
        s.split_tokens = INT32_MAX;
        return launch(op, variant_for(op, &s), false, stream, &s);
    }
    const clmla_status status = mla__attention_enqueue_states(op, stream, &s);
    return status == CLMLA_SUCCESS
               ? mla__merge_enqueue(&op->merge, stream, s.num_splits, s.num_tokens)
               : status;
}

clmla_status mla__attention_warm(mla__attention *op, mla__stream *stream)
{
    const mla__attention_step nothing = {.num_splits = 1, .split_tokens = INT32_MAX};
    const mla__attention_variant *const variants[] = {&op->few, &op->many, &op->large};
    clmla_status status = CLMLA_SUCCESS;
    for (int i = 0; i < 6 && status == CLMLA_SUCCESS; i++) {
        const mla__attention_variant *variant = variants[i / 2];
        const bool partial = i % 2 == 1;
        if ((partial ? variant->split_kernel : variant->kernel).kernel != NULL)
            status = launch(op, variant, partial, stream, &nothing);
    }
    if (status == CLMLA_SUCCESS && op->merge.kernel.kernel != NULL)
        status = mla__merge_warm(&op->merge, stream);
    return status;
}

void mla__attention_release(mla__attention *op)
{
    release_variant(&op->few);
    release_variant(&op->many);
    release_variant(&op->large);
    mla__merge_release(&op->merge);
}

/* ---- public --------------------------------------------------------------------------------- */

clmla_status mla__attention_choose_step(const clmla_context *context,
                                        const clmla_attention_params *p, mla__attention_step *step)
{
    const uint64_t keys =
        p->sequences.max_cache_seqlen > 0 ? (uint64_t)p->sequences.max_cache_seqlen : 1;
    *step = (mla__attention_step){.num_sequences = p->sequences.num_sequences,
                                  .num_tokens = p->sequences.num_tokens,
                                  .split_tokens = p->split_tokens};
    if (p->split_tokens == 0 && p->num_splits == 0) {
        mla__attention_choose_splits(context, p->num_heads, p->sequences.num_sequences,
                                     p->sequences.num_tokens, p->sequences.max_cache_seqlen,
                                     MAX_SPLITS, &step->num_splits, &step->split_tokens);
        return CLMLA_SUCCESS;
    }
    if (p->split_tokens == 0)
        step->split_tokens = (int32_t)mla__ceil_div(keys, (uint64_t)p->num_splits);
    const uint64_t splits = mla__ceil_div(keys, (uint64_t)step->split_tokens);
    if (splits > MAX_SPLITS)
        return mla__fail(context, CLMLA_INVALID_ARGUMENT,
                         "attention: split_tokens %d cuts %llu keys into more than %d splits",
                         (int)step->split_tokens, (unsigned long long)keys, MAX_SPLITS);
    step->num_splits = (int32_t)splits;
    return CLMLA_SUCCESS;
}

static clmla_status copy_and_choose(const clmla_context *context,
                                    const clmla_attention_params *user_params,
                                    clmla_attention_params *params, mla__attention_step *step)
{
    clmla_status status = MLA__PARAMS_COPY(context, "attention", *params, user_params);
    if (status == CLMLA_SUCCESS)
        status = check_numbers(context, params);
    if (status == CLMLA_SUCCESS)
        status = mla__attention_choose_step(context, params, step);
    if (status == CLMLA_SUCCESS)
        params->num_splits = step->num_splits;
    return status;
}

clmla_status clmla_attention_workspace_size(clmla_context *context,
                                            const clmla_attention_params *user_params,
                                            uint64_t *bytes)
{
    clmla_attention_params params;
    mla__attention_step step;
    uint64_t needed = 0;
    if (context == NULL || bytes == NULL)
        return CLMLA_INVALID_ARGUMENT;
    clmla_status status = copy_and_choose(context, user_params, &params, &step);
    if (status == CLMLA_SUCCESS && step.num_splits > 1)
        status = mla__attention_split_bytes(context, step.num_tokens, params.num_heads,
                                            params.kv_lora_rank, step.num_splits, &needed);
    if (status == CLMLA_SUCCESS)
        *bytes = needed;
    return status;
}

clmla_status clmla_enqueue_attention(clmla_context *context,
                                     const clmla_attention_params *user_params,
                                     cl_command_queue queue, cl_uint num_events,
                                     const cl_event *wait_list, cl_event *event)
{
    clmla_attention_params params;
    mla__attention_step step;
    mla__attention op = {.num_heads = 0};
    mla__stream stream;
    if (context == NULL)
        return CLMLA_INVALID_ARGUMENT;
    clmla_status status = copy_and_choose(context, user_params, &params, &step);
    if (status == CLMLA_SUCCESS)
        status = mla__attention_bind(context, &params, &op);
    if (status != CLMLA_SUCCESS)
        return status;
    status = mla__stream_begin(&stream, queue, num_events, wait_list);
    if (status == CLMLA_SUCCESS)
        status = mla__attention_enqueue(&op, &stream, &step);
    if (status == CLMLA_SUCCESS)
        status = mla__stream_end(&stream, event);
    mla__attention_release(&op);
    return status;
}
