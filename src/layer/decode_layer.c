#include "layer/decode_layer.h"

#include "core/checked.h"
#include "layer/binding.h"
#include "ops/attention_kernel.h"
#include "tuning/nvidia_records.h"

enum { WORK_GROUP = 128, WARPS = WORK_GROUP / 32 };
/* Rows of keys' products of a group. 32, as attention alone has for many heads, would spill. */
enum { ATTENTION_ROWS = 16 };
enum { COLUMNS = 32 }; /* of a projection's tile: half a panel, so that there are more of them */
/* 64 KiB for a work-group, 17 MiB for two on each of an H100's multiprocessors: a third of its L2.
 * Not measured on a GPU. */
enum { PREFETCH_LINES = 4 };
enum {
    GRID_WORDS = 3,
    GRID_BROKEN = 2,
    ERROR_WORD = 3
}; /* cl/nvidia/grid.clh; the last stands in */

/* Arguments that change; see DECODE_PARAMS in cl/nvidia/decode_layer.cl. */
enum {
    SEQUENCES_ARG = 0,
    COS_SIN_ARG = MLA__SEQUENCES_ARGS,
    STEP_ARG = COS_SIN_ARG + 35, /* token_begin, num_tokens, num_splits, split_tokens */
    ERROR_ARG = STEP_ARG + 5
};

/* ---- whether it fits --------------------------------------------------------------------------- */

static bool on_tensor_cores(const mla__projection *op)
{
    return op->native.num_variants > 0 && op->native.variants[0].choice.kind == MLA__PROJECTION_FEW;
}

/* cl/gpu/merge_up.clh's tile in work-groups of this size. */
static bool fits_merge(const mla__projection_tile *tile)
{
    return WORK_GROUP % tile->tile_columns == 0 &&
           tile->slices % (WORK_GROUP / tile->tile_columns) == 0;
}

/* A reason that lies in the layer or in the ops that it was bound with, or NULL. */
static const char *why_not(const clmla_binding *b)
{
    const clmla_layer *layer = b->layer;
    const char *no_merge = NULL;
    if (layer->context->kernel_class != CLMLA_KERNELS_NVIDIA)
        return "not of this class";
    if (!mla__nvidia_record_find(&layer->context->device)->one_launch)
        return "its kernel spills registers on this compute capability";
    if (layer->weights_dtype == CLMLA_DTYPE_F8_E4M3)
        return "the weights are FP8";
    if (layer->cache_dtype == CLMLA_DTYPE_FP8_DS_MLA)
        return "the cache is FP8";
    if (layer->batch_invariant)
        return "batch_invariant asks for the same bits with more tokens";
    if (b->qkv_a_proj.num_variants == 0)
        return "the projections of hidden_states are not one launch";
    if (!b->attention.rotates_query)
        return "attention is not by tensor cores, or has no rope part";
    if ((layer->config.q_lora_rank > 0 && !on_tensor_cores(&b->q_b_proj)) ||
        !on_tensor_cores(&b->absorb) || !on_tensor_cores(&b->o_proj))
        return "not every projection is by tensor cores";
    if (mla__layer_merge_up_tokens(layer, &no_merge) == 0)
        return no_merge;
    if (!fits_merge(&b->merge_v_up.tile))
        return "merge_up's tile does not fit its work-groups";
    return NULL;
}

/* Tensors of the caller as the kernel sees them. */
typedef struct views {
    mla__view hidden, output;
    mla__cache_tensors cache;
} views;

static clmla_status make_views(const clmla_layer *layer, const clmla_binding_params *p, views *out)
{
    const clmla_config *c = &layer->config;
    const uint64_t tokens = (uint64_t)layer->max_num_tokens, hidden = (uint64_t)c->hidden_size;
    const mla__sequences pages = {.num_pages = layer->num_pages,
                                  .page_block_size = layer->page_block_size};
    const struct {
        mla__tensor_spec spec;
        const clmla_tensor *tensor;
        mla__view *view;
    } checks[] = {
        {{"layer: hidden_states", {tokens, hidden}, 2, MLA__FLOATS, CLMLA_DTYPE_BF16},
         &p->hidden_states,
         &out->hidden},
        {{"layer: output", {tokens, hidden}, 2, MLA__FLOATS, CLMLA_DTYPE_BF16},
         &p->output,
         &out->output},
    };
    for (size_t i = 0; i < sizeof(checks) / sizeof(checks[0]); i++) {
        const clmla_status status =
            mla__view_make(layer->context, checks[i].tensor, &checks[i].spec, checks[i].view);
        if (status != CLMLA_SUCCESS)
            return status;
    }
    return mla__cache_tensors_make(layer->context, "layer", &pages, &p->kv_cache, &p->pe_cache,
                                   c->kv_lora_rank, c->qk_rope_head_dim, &out->cache);
}

/* The one program that prepare asked the device about is for rows of 16 bytes. */
static bool all_aligned(const views *v)
{
    mla__view hidden = v->hidden;
    hidden.strides[1] = 0;
    return mla__view_is_multiple(&hidden, 8) && mla__view_is_multiple(&v->cache.kv_cache, 8) &&
           mla__view_is_multiple(&v->cache.pe_cache, 8);
}

/* ---- bind -------------------------------------------------------------------------------------- */

static int32_t slices_of(const mla__projection *op)
{
    return op->native.num_variants > 0 ? op->native.variants[0].choice.tile.slices : 1;
}

static void define_attention(const clmla_binding *b, mla__defines *d)
{
    static const char *const dtypes[] = {"Q_LAT_DTYPE", "Q_PE_DTYPE", "CACHE_DTYPE", "KV_DTYPE",
                                         "PE_DTYPE",    "X_DTYPE",    "Y_DTYPE",     "CTX_DTYPE"};
    for (size_t i = 0; i < sizeof(dtypes) / sizeof(dtypes[0]); i++)
        mla__define_dtype(d, dtypes[i], CLMLA_DTYPE_BF16);
    mla__define_dtype(d, "W_DTYPE", CLMLA_DTYPE_F32);
    mla__define_dtype(d, "OUT_DTYPE", CLMLA_DTYPE_F32);
    mla__define_dtype(d, "OUTPUT_DTYPE", b->layer->output_dtype);
    mla__define_int(d, "PARTIAL_STATES", 1);
    mla__define_int(d, "CACHE_FP8", 0);
    mla__define_int(d, "KV_FP8", 0);
    mla__define_int(d, "PAIR_F8", 0);
    mla__define_int(d, "ROTATE_QUERY", 1);
    mla__define_int(d, "ALIGNED_CACHE", 1);
    mla__define_int(d, "ALIGNED_QUERY", 1);
    /* a state is NUM_HEADS · (KV_LORA_RANK + 1) floats, KV_LORA_RANK even */
    mla__define_int(d, "ALIGNED_OUT", b->layer->config.num_attention_heads % 2 == 0);
    mla__define_int(d, "TILE_ROWS", ATTENTION_ROWS);
    mla__define_int(d, "BLOCK_TOKENS", 16);
    mla__define_int(d, "STAGES", 2);
    mla__define_int(d, "WORK_GROUP", WORK_GROUP);
}

static void define_projections(const clmla_binding *b, mla__defines *d)
{
    const clmla_config *c = &b->layer->config;
    const mla__projection_tile *merge = &b->merge_v_up.tile;
    const struct {
        const char *name;
        int32_t value;
    } numbers[] = {{"FEW_ROWS", MLA__DECODE_LAYER_MAX_TOKENS},
                   {"FEW_COLUMNS", COLUMNS},
                   {"FEW_WARPS", WARPS},
                   {"ALIGNED_X", 1},
                   {"SECOND", 0},
                   {"ACCUMULATE", 0},
                   {"INPUT_SLICES", b->qkv_a_proj.variants[0].choice.tile.slices},
                   {"Q_B_SLICES", slices_of(&b->q_b_proj)},
                   {"ABSORB_SLICES", slices_of(&b->absorb)},
                   {"OUT_SLICES", slices_of(&b->o_proj)},
                   {"PAIRED", 1},
                   {"PAIR_F16", 0},
                   {"TILE_COLUMNS", merge->tile_columns},
                   {"TILE_K", merge->tile_k},
                   {"SLICES", merge->slices},
                   {"LATENT", c->kv_lora_rank},
                   {"HIDDEN_SIZE", c->hidden_size},
                   {"Q_LORA_RANK", c->q_lora_rank},
                   {"NUM_HEADS", c->num_attention_heads},
                   {"KV_LORA_RANK", c->kv_lora_rank},
                   {"ROPE_DIM", c->qk_rope_head_dim},
                   {"NOPE_DIM", c->qk_nope_head_dim},
                   {"V_DIM", c->v_head_dim},
                   {"PREFETCH_LINES", PREFETCH_LINES}};
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        mla__define_int(d, numbers[i].name, numbers[i].value);
}

/* Byte offsets as numbers of four bytes. */
static void set_places(mla__kernel *k, const uint64_t *offset_bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        mla__arg_ulong(k, offset_bytes[i] / 4);
}

static clmla_status set_arguments(const clmla_binding *b, const clmla_binding_params *p,
                                  const views *v, mla__decode_layer *op)
{
    const clmla_layer *layer = b->layer;
    const struct clmla_matrix *m = b->weights->matrices;
    const mla__workspace *w = &layer->workspace;
    const uint64_t base = p->workspace.offset_bytes;
    const bool q_lora = layer->config.q_lora_rank > 0;
    const uint64_t weights[] = {m[q_lora ? MLA__Q_A_PROJ : MLA__Q_PROJ].offset_bytes,
                                m[MLA__Q_B_PROJ].offset_bytes,
                                m[MLA__W_UK].offset_bytes,
                                m[MLA__W_UV].offset_bytes,
                                m[MLA__O_PROJ].offset_bytes,
                                b->weights->q_a_layernorm.offset_bytes,
                                b->weights->kv_a_layernorm.offset_bytes};
    const uint64_t stages[] = {base + w->q_a, base + w->kv_a, base + w->q, base + w->q_lat,
                               base + w->splits};
    /* the workspace stands in for a plan's tables, as in binding_ops.c */
    const mla__sequences no_sequences = {.cu_seqlens_q.buffer = p->workspace.buffer,
                                         .cache_seqlens.buffer = p->workspace.buffer,
                                         .block_table.buffer = p->workspace.buffer,
                                         .page_block_size = layer->page_block_size,
                                         .num_pages = layer->num_pages};
    const mla__view no_cos_sin = {.buffer = p->workspace.buffer};
    float eps;
    if (!mla__resolve_eps(layer->config.rms_norm_eps, &eps))
        return CLMLA_INTERNAL; /* the layer's configuration was checked */
    mla__kernel *k = &op->kernel;
    mla__arg_sequences(k, &no_sequences);
    mla__arg_view(k, &no_cos_sin, 2);
    mla__arg_view(k, &v->output, 1);
    mla__arg_view(k, &v->hidden, 1);
    mla__arg_view(k, &v->cache.kv_cache, 2);
    mla__arg_view(k, &v->cache.pe_cache, 2);
    mla__arg_buffer(k, b->weights->buffer);
    set_places(k, weights, sizeof(weights) / sizeof(weights[0]));
    mla__arg_buffer(k, p->workspace.buffer);
    set_places(k, stages, sizeof(stages) / sizeof(stages[0]));
    mla__arg_float(k, eps);
    mla__arg_float(k, (float)(layer->softmax_scale * MLA__LOG2_E));
    mla__arg_int(k, p->output_mode == CLMLA_ACCUMULATE);
    for (size_t i = 0; i < sizeof(op->step_args) / sizeof(op->step_args[0]); i++)
        mla__arg_int(k, op->step_args[i] = 0);
    mla__arg_buffer(k, op->grid);
    mla__arg_buffer(k, op->grid); /* stands in for a plan's error word */
    mla__arg_ulong(k, ERROR_WORD);
    return mla__kernel_ready(k);
}

static clmla_status make_grid(const clmla_context *context, mla__decode_layer *op)
{
    cl_uint zeros[GRID_WORDS + 1] = {0};
    cl_int error;
    op->grid = clCreateBuffer(context->context, CL_MEM_READ_WRITE | CL_MEM_COPY_HOST_PTR,
                              sizeof(zeros), zeros, &error);
    if (error == CL_SUCCESS)
        return CLMLA_SUCCESS;
    op->grid = NULL;
    return mla__fail(context, error, "one launch: cannot allocate %zu bytes", sizeof(zeros));
}

static clmla_status make(const clmla_binding *b, const clmla_binding_params *p, const views *v,
                         mla__decode_layer *op)
{
    clmla_context *context = b->layer->context;
    const char *const files[] = {"attention.clh",
                                 mla__ptx_file(context),
                                 "nvidia/attention_rows.clh",
                                 "nvidia/attention.clh",
                                 "nvidia/projection.clh",
                                 "nvidia/projection_few.clh",
                                 "append.clh",
                                 "rmsnorm.clh",
                                 "norm_append.clh",
                                 "gpu/weights.clh",
                                 "gpu/merge_up.clh",
                                 "nvidia/grid.clh",
                                 "nvidia/decode_layer.cl",
                                 NULL};
    mla__defines defines = {.length = 0};
    define_attention(b, &defines);
    define_projections(b, &defines);
    clmla_status status = mla__kernel_create(context, files, &defines, "decode_layer", &op->kernel);
    if (status == CL_BUILD_PROGRAM_FAILURE) {
        op->why_not = "its kernel did not build";
        return CLMLA_SUCCESS;
    }
    if (status == CLMLA_SUCCESS)
        status = make_grid(context, op);
    return status == CLMLA_SUCCESS ? set_arguments(b, p, v, op) : status;
}

clmla_status mla__decode_layer_bind(const clmla_binding *b, const clmla_binding_params *p,
                                    mla__decode_layer *op)
{
    const clmla_layer *layer = b->layer;
    mla__decode_layer made = {.num_groups = (size_t)mla__layer_one_launch_groups(layer, NULL)};
    uint64_t state_bytes = 0;
    views v;
    *op = (mla__decode_layer){.num_groups = 0};
    if (made.num_groups == 0)
        return CLMLA_SUCCESS;
    op->why_not = why_not(b);
    if (op->why_not != NULL)
        return CLMLA_SUCCESS;
    clmla_status status = make_views(layer, p, &v);
    if (status == CLMLA_SUCCESS)
        status = mla__attention_split_bytes(layer->context, 1, layer->config.num_attention_heads,
                                            layer->config.kv_lora_rank, 1, &state_bytes);
    if (status != CLMLA_SUCCESS)
        return status;
    if (!all_aligned(&v)) {
        op->why_not = "rows of hidden_states or of a cache do not begin at multiples of 16 bytes";
        return mla__fail(layer->context, CLMLA_SUCCESS, "binding: not in one launch, %s",
                         op->why_not);
    }
    made.max_states = layer->workspace.splits_bytes / state_bytes;
    status = make(b, p, &v, &made);
    if (status == CLMLA_SUCCESS)
        *op = made;
    else
        mla__decode_layer_release(&made);
    return status;
}

clmla_status mla__decode_layer_set_plan(mla__decode_layer *op, const clmla_plan *plan,
                                        const mla__sequences *sequences, const mla__view *cos_sin)
{
    mla__kernel *k = &op->kernel;
    if (k->kernel == NULL)
        return CLMLA_SUCCESS;
    clmla_status status = mla__arg_set_sequences(k, SEQUENCES_ARG, sequences);
    if (status == CLMLA_SUCCESS)
        status = mla__arg_set_buffer(k, COS_SIN_ARG, cos_sin->buffer);
    if (status == CLMLA_SUCCESS)
        status = mla__arg_set_ulong(k, COS_SIN_ARG + 1, cos_sin->offset);
    for (cl_uint i = 0; i < 2 && status == CLMLA_SUCCESS; i++)
        status = mla__arg_set_ulong(k, COS_SIN_ARG + 2 + i, cos_sin->strides[i]);
    if (status == CLMLA_SUCCESS)
        status = mla__arg_set_buffer(k, ERROR_ARG, plan->buffer);
    return status == CLMLA_SUCCESS ? mla__arg_set_ulong(k, ERROR_ARG + 1, plan->at.error) : status;
}

/* ---- enqueue ----------------------------------------------------------------------------------- */

bool mla__decode_layer_takes(const mla__decode_layer *op, const mla__attention_step *step)
{
    return op->kernel.kernel != NULL && step->num_tokens > 0 &&
           step->num_tokens <= MLA__DECODE_LAYER_MAX_TOKENS &&
           (uint64_t)step->num_splits * (uint64_t)step->num_tokens <= op->max_states;
}

static clmla_status launch(mla__decode_layer *op, mla__stream *stream,
                           const mla__attention_step *step)
{
    const int32_t wanted[] = {step->token_begin, step->num_tokens, step->num_splits,
                              step->split_tokens};
    const size_t local = WORK_GROUP, global = op->num_groups * WORK_GROUP;
    for (cl_uint i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
        if (op->step_args[i] == wanted[i])
            continue;
        const clmla_status status = mla__arg_set_int(&op->kernel, STEP_ARG + i, wanted[i]);
        op->step_args[i] = status == CLMLA_SUCCESS ? wanted[i] : -1;
        if (status != CLMLA_SUCCESS)
            return status;
    }
    return mla__stream_launch(stream, &op->kernel, 1, &global, &local);
}

clmla_status mla__decode_layer_enqueue(mla__decode_layer *op, mla__stream *stream,
                                       const mla__attention_step *step)
{
    return launch(op, stream, step);
}

/* ---- probe ------------------------------------------------------------------------------------- */

/* One launch of num_groups, which do nothing but wait for each other. */
static clmla_status try_groups(mla__decode_layer *op, cl_command_queue queue, size_t num_groups,
                               bool *met)
{
    const mla__attention_step no_tokens = {.num_splits = 1, .split_tokens = 1};
    cl_uint words[GRID_WORDS + 1] = {0};
    mla__stream stream;
    op->num_groups = num_groups;
    clmla_status status =
        clEnqueueWriteBuffer(queue, op->grid, CL_TRUE, 0, sizeof(words), words, 0, NULL, NULL);
    if (status == CLMLA_SUCCESS)
        status = mla__stream_begin(&stream, queue, 0, NULL);
    if (status == CLMLA_SUCCESS)
        status = launch(op, &stream, &no_tokens);
    if (status == CLMLA_SUCCESS)
        status = clFinish(queue);
    if (status == CLMLA_SUCCESS)
        status =
            clEnqueueReadBuffer(queue, op->grid, CL_TRUE, 0, sizeof(words), words, 0, NULL, NULL);
    *met = status == CLMLA_SUCCESS && words[GRID_BROKEN] == 0;
    return status;
}

clmla_status mla__decode_layer_probe(mla__decode_layer *op, const clmla_context *context,
                                     cl_command_queue queue, int32_t *num_groups)
{
    enum { MOST_PER_UNIT = 3 };
    const int32_t units = (int32_t)context->device.compute_units;
    *num_groups = 0;
    for (int32_t per_unit = MOST_PER_UNIT; per_unit >= 0; per_unit--) {
        const int32_t groups = per_unit > 0 ? per_unit * units : 1;
        bool met = false;
        if (per_unit == 0 && context->device.has_ptx)
            break; /* one group alone is for the emulation: it always meets itself */
        const clmla_status status = try_groups(op, queue, (size_t)groups, &met);
        if (status != CLMLA_SUCCESS)
            return status;
        if (met) {
            *num_groups = groups;
            return CLMLA_SUCCESS;
        }
    }
    return CLMLA_SUCCESS;
}

void mla__decode_layer_release(mla__decode_layer *op)
{
    mla__kernel_release(&op->kernel);
    if (op->grid != NULL)
        clReleaseMemObject(op->grid);
    op->grid = NULL;
}
