#include "ops/attention_kernel.h"

#include "ocl/local_memory.h"
#include "ops/loops.h"

static clmla_dtype widest(clmla_dtype a, clmla_dtype b)
{
    return mla__dtype_bytes(a) >= mla__dtype_bytes(b) ? a : b;
}

/* What kernels have of a key once it is read: FP8 with scales is exact in bf16. */
static clmla_dtype key_dtype(const mla__attention_shape *shape)
{
    return shape->cache == CLMLA_DTYPE_FP8_DS_MLA ? CLMLA_DTYPE_BF16 : shape->cache;
}

clmla_dtype mla__attention_widest(const mla__attention_shape *shape)
{
    return widest(shape->q_lat, widest(shape->q_pe, key_dtype(shape)));
}

bool mla__attention_on_tensor_cores(enum mla__attention_kind kind)
{
    return kind == MLA__ATTENTION_MMA || kind == MLA__ATTENTION_WGMMA;
}

/* ---- choice --------------------------------------------------------------------------------- */

static bool is_bf16(const mla__attention_shape *s)
{
    return s->q_lat == CLMLA_DTYPE_BF16 && key_dtype(s) == CLMLA_DTYPE_BF16 &&
           (s->rope_dim == 0 || s->q_pe == CLMLA_DTYPE_BF16);
}

/* Why the shape does not go to tensor cores, or NULL; then the tiles are theirs. */
static const char *why_not_mma(const clmla_context *context, const mla__attention_shape *s,
                               mla__attention_choice *choice)
{
    if (s->portable)
        return "its kernel did not build";
    if (!context->matrix_units)
        return "matrix units are off";
    if (context->device.max_loop_iterations > 0)
        return "the device ends loops after a number of iterations";
    if (!is_bf16(s) || s->out == CLMLA_DTYPE_F16)
        return "query and cache must be bf16, out bf16 or f32";
    if (s->kv_lora_rank % 64 != 0 || s->rope_dim % 16 != 0)
        return "kv_lora_rank must be a multiple of 64, rope_dim of 16";
    if (!mla__attention_tile_mma(&context->device, s->num_heads, s->kv_lora_rank, s->rope_dim,
                                 &choice->tile, &choice->many_tile))
        return "no tile fits the device's local memory or work-groups";
    choice->many_rows = choice->many_tile.tile_rows;
    return NULL;
}

/* The kernel for target sm_90a in their place, where it is known to work. */
static bool choose_wgmma(const clmla_context *context, const mla__attention_shape *s,
                         mla__attention_choice *choice)
{
    if (s->cache == CLMLA_DTYPE_FP8_DS_MLA ||
        mla__context_sm_90a(context, MLA__SM_90A_ATTENTION, NULL) != MLA__SM_90A_READY ||
        !mla__attention_tile_wgmma(&context->device, s->num_heads, s->kv_lora_rank, s->rope_dim,
                                   &choice->tile))
        return false;
    choice->kind = MLA__ATTENTION_WGMMA;
    choice->many_tile = (mla__attention_tile){0};
    return true;
}

/* The large tile beside the others, or why not. */
static void choose_large(const clmla_context *context, const mla__attention_shape *s,
                         mla__attention_choice *choice)
{
    mla__attention_tile tile;
    if (!mla__attention_tile_large(&context->device, s->kv_lora_rank, s->rope_dim, &tile,
                                   &choice->large_local_bytes)) {
        choice->why_not_large = "no tile fits the device's local memory, registers or work-groups";
        return;
    }
    switch (mla__local_memory_state(context, choice->large_local_bytes)) {
    case MLA__LOCAL_PROVEN:
        choice->large_tile = tile;
        break;
    case MLA__LOCAL_REFUSED:
        choice->why_not_large = "it does not build or run here";
        break;
    case MLA__LOCAL_UNTRIED:
        choice->why_not_large = "its local memory is not tried before clmla_layer_prepare";
        break;
    }
}

bool mla__attention_choose(const clmla_context *context, const mla__attention_shape *s,
                           mla__attention_choice *choice)
{
    mla__attention_choice made = {.kind = MLA__ATTENTION_GPU};
    bool fits = false;
    if (context->kernel_class == CLMLA_KERNELS_CPU) {
        fits = !s->portable && is_bf16(s) && context->matrix_units &&
               context->device.has_bf16_dot &&
               mla__attention_tile_dot(s->kv_lora_rank, s->rope_dim, &made.tile);
        made.kind = fits ? MLA__ATTENTION_DOT : MLA__ATTENTION_CPU;
    } else if (context->kernel_class == CLMLA_KERNELS_NVIDIA) {
        made.why_portable = why_not_mma(context, s, &made);
        fits = made.why_portable == NULL;
        if (fits && !choose_wgmma(context, s, &made)) {
            made.kind = MLA__ATTENTION_MMA;
            choose_large(context, s, &made);
        }
    }
    if (!fits)
        fits = mla__attention_tile_default(&context->device, context->kernel_class,
                                           mla__attention_widest(s), s->kv_lora_rank, s->rope_dim,
                                           &made.tile);
    if (!fits)
        return false;
    mla__attention_take_record(context, s, &made);
    *choice = made;
    return true;
}

clmla_status mla__attention_try_large(clmla_context *context, const mla__attention_shape *shape,
                                      mla__stream *stream)
{
    mla__attention_choice choice;
    if (!mla__attention_choose(context, shape, &choice) || choice.large_local_bytes == 0)
        return CLMLA_SUCCESS;
    return mla__local_memory_try(context, choice.large_local_bytes, MLA__ATTENTION_LARGE_GROUP,
                                 stream);
}

/* ---- kernel --------------------------------------------------------------------------------- */

/* Its source files and name. */
typedef struct kernel_source {
    const char *files[7]; /* ends in NULL */
    const char *name;
} kernel_source;

static kernel_source source_of(const clmla_context *context, enum mla__attention_kind kind)
{
    switch (kind) {
    case MLA__ATTENTION_CPU:
        return (kernel_source){{"attention.clh", "cpu/attention_lanes.clh", "cpu/attention.cl"},
                               "attention__cpu"};
    case MLA__ATTENTION_DOT:
        return (kernel_source){{"attention.clh", "cpu/attention_lanes.clh", "cpu/attention_dot.cl"},
                               "attention__cpu_dot"};
    case MLA__ATTENTION_MMA:
        return (kernel_source){{"attention.clh", mla__ptx_file(context),
                                "nvidia/attention_rows.clh", "nvidia/attention.clh",
                                "nvidia/attention.cl"},
                               "attention__mma"};
    case MLA__ATTENTION_WGMMA:
        return (kernel_source){{"attention.clh", mla__ptx_file(context), mla__wgmma_file(context),
                                "nvidia/wgmma_matrix.clh", "nvidia/attention_rows.clh",
                                "nvidia/attention_wgmma.cl"},
                               "attention__wgmma"};
    case MLA__ATTENTION_GPU:
        break;
    }
    return (kernel_source){{"attention.clh", "gpu/attention.cl"}, "attention__gpu"};
}

/* How rows lie in memory, as far as the kernel reads or writes several elements at once. */
static void define_alignment(mla__defines *defines, enum mla__attention_kind kind,
                             const mla__attention_args *args, const mla__view *out)
{
    const uint64_t together = kind == MLA__ATTENTION_WGMMA ? 8 : 2;
    const bool query = mla__view_is_multiple(&args->q_lat, together) &&
                       mla__view_is_multiple(&args->q_pe, together);
    if (kind == MLA__ATTENTION_GPU)
        mla__define_int(defines, "ALIGNED_PAIRS",
                        query && mla__view_is_multiple(&args->cache.kv_cache, 2) &&
                            mla__view_is_multiple(&args->cache.pe_cache, 2));
    if (!mla__attention_on_tensor_cores(kind))
        return;
    mla__define_int(defines, "ALIGNED_CACHE",
                    mla__view_is_multiple(&args->cache.kv_cache, 8) &&
                        mla__view_is_multiple(&args->cache.pe_cache, 8));
    mla__define_int(defines, "ALIGNED_QUERY", query);
    mla__define_int(defines, "ALIGNED_OUT", mla__view_is_multiple(out, 2));
}

/* Keys that a row sees at the most, in one split or in several. */
static double most_keys(const mla__attention_args *args)
{
    const mla__sequences *s = &args->sequences;
    const double pages = s->block_table_stride > 0 ? s->block_table_stride : 1;
    const double room = pages * s->page_block_size;
    return s->max_cache_seqlen > 0 && s->max_cache_seqlen < room ? s->max_cache_seqlen : room;
}

clmla_status mla__attention_kernel(clmla_context *context, const mla__attention *op,
                                   const mla__attention_tile *tile, const mla__attention_args *args,
                                   const mla__view *out, const mla__view *lse, bool partial,
                                   mla__kernel *kernel)
{
    const kernel_source source = source_of(context, op->kind);
    mla__defines defines = {.length = 0};
    mla__define_dtype(&defines, "Q_LAT_DTYPE", args->q_lat.dtype);
    mla__define_dtype(&defines, "Q_PE_DTYPE", args->q_pe.dtype);
    mla__define_dtype(&defines, "CACHE_DTYPE", args->cache.pe_cache.dtype);
    mla__define_int(&defines, "CACHE_FP8", args->cache.fp8);
    mla__define_dtype(&defines, "OUT_DTYPE", out->dtype);
    mla__define_int(&defines, "KV_LORA_RANK", op->kv_lora_rank);
    mla__define_int(&defines, "ROPE_DIM", args->rope_dim);
    mla__define_int(&defines, "PARTIAL_STATES", partial);
    mla__define_attention_tile(&defines, tile);
    mla__define_loops(&defines, mla__loops_attention(op->kind, tile, op->kv_lora_rank,
                                                     args->rope_dim, most_keys(args)));
    if (mla__attention_on_tensor_cores(op->kind))
        mla__define_int(&defines, "ROTATE_QUERY", op->rotates_query);
    define_alignment(&defines, op->kind, args, out);
    const bool rebuilt = op->kind == MLA__ATTENTION_WGMMA && context->device.has_ptx;
    const clmla_status status = (rebuilt ? mla__kernel_create_sm_90a : mla__kernel_create)(
        context, source.files, &defines, source.name, kernel);
    if (status != CLMLA_SUCCESS)
        return status;
    mla__arg_sequences(kernel, &args->sequences);
    mla__arg_view(kernel, &args->q_lat, 2);
    mla__arg_view(kernel, &args->q_pe, 2);
    mla__arg_view(kernel, &args->cache.kv_cache, 2);
    mla__arg_view(kernel, &args->cache.pe_cache, 2);
    mla__arg_view(kernel, out, 2);
    mla__arg_view(kernel, lse, 1);
    mla__arg_int(kernel, op->num_heads);
    mla__arg_float(kernel, (float)(args->softmax_scale * MLA__LOG2_E));
    mla__arg_int(kernel, args->mask == CLMLA_MASK_CAUSAL);
    mla__arg_int(kernel, 0);
    mla__arg_int(kernel, args->sequences.num_tokens);
    mla__arg_int(kernel, INT32_MAX);
    if (op->rotates_query)
        mla__arg_view(kernel, &args->cos_sin, 2);
    return mla__kernel_ready(kernel);
}
