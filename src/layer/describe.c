/* clmla_layer_describe: the layer's choices as text. */
#include <stdarg.h>
#include <stdio.h>

#include "core/dtype.h"
#include "layer/decode_layer.h"
#include "layer/layer.h"
#include "ops/attention.h"
#include "ops/clblast.h"
#include "ops/merge_up.h"
#include "ops/projection.h"
#include "ops/projection_pair.h"
#include "tuning/nvidia_records.h"
#include "tuning/params.h"

/* snprintf's rule: writes what fits, counts everything. */
typedef struct text_sink {
    char *text;
    size_t capacity, length;
} text_sink;

static void append(text_sink *sink, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void append(text_sink *sink, const char *format, ...)
{
    const size_t used = sink->length < sink->capacity ? sink->length : sink->capacity;
    char *const end = sink->text == NULL ? NULL : sink->text + used;
    va_list arguments;
    va_start(arguments, format);
    const int written = vsnprintf(end, sink->capacity - used, format, arguments);
    va_end(arguments);
    if (written > 0)
        sink->length += (size_t)written;
}

/* x is the hidden states, a stage of the workspace, or what attention leaves there. */
static clmla_dtype x_dtype(const clmla_layer *layer, enum mla__role role)
{
    if (role == MLA__W_UV)
        return layer->latent_dtype;
    return role == MLA__Q_PROJ || role == MLA__Q_A_PROJ || role == MLA__KV_A_PROJ
               ? layer->hidden_dtype
               : layer->stage_dtype;
}

static clmla_dtype y_dtype(const clmla_layer *layer, enum mla__role role)
{
    switch (role) {
    case MLA__KV_A_PROJ:
        return CLMLA_DTYPE_F32;
    case MLA__W_UK:
        return layer->latent_dtype;
    case MLA__O_PROJ:
        return layer->output_dtype;
    default:
        return layer->stage_dtype;
    }
}

static void describe_projection(const clmla_layer *layer, enum mla__role role, text_sink *sink)
{
    const struct clmla_matrix m = mla__layer_matrix(layer, role);
    const mla__projection_shape shape = mla__projection_shape_of(
        &m, x_dtype(layer, role), y_dtype(layer, role), layer->batch_invariant);
    if (m.out_features == 0)
        return;
    append(sink, "%s: [%d x %d, %d]", mla__role_name(role), (int)m.num_batches, (int)m.out_features,
           (int)m.in_features);
    if (layer->projection != CLMLA_PROJECTION_CLBLAST) {
        const int32_t rows = layer->tokens_per_block;
        char text[1024];
        (void)mla__projection_native_text(
            layer->context, &shape, rows < layer->native_max_rows ? rows : layer->native_max_rows,
            text, sizeof(text));
        append(sink, " %s", text);
    }
    if (layer->projection == CLMLA_PROJECTION_AUTO)
        append(sink, "; above %d rows", (int)layer->native_max_rows);
    if (layer->projection != CLMLA_PROJECTION_NATIVE)
        append(sink, " CLBlast SGEMM%s", m.num_batches > 1 ? " strided batched" : "");
    append(sink, "\n");
}

/* Whether the projections of hidden_states are one launch. */
static void describe_pair(const clmla_layer *layer, text_sink *sink)
{
    const enum mla__role role = layer->config.q_lora_rank > 0 ? MLA__Q_A_PROJ : MLA__Q_PROJ;
    const struct clmla_matrix first = mla__layer_matrix(layer, role);
    const struct clmla_matrix second = mla__layer_matrix(layer, MLA__KV_A_PROJ);
    const bool paired =
        layer->projection == CLMLA_PROJECTION_NATIVE &&
        mla__projection_pair_fits(layer->context, &first, &second, layer->hidden_dtype,
                                  y_dtype(layer, role), y_dtype(layer, MLA__KV_A_PROJ));
    append(sink, "%s and kv_a_proj_with_mqa in one: %s\n", mla__role_name(role),
           paired ? "yes, where the weights lie one behind the other" : "no");
}

/* What takes the place of attention's merge and W_UV. */
static void describe_merge_up(const clmla_layer *layer, text_sink *sink)
{
    const struct clmla_matrix w_uv = mla__layer_matrix(layer, MLA__W_UV);
    const char *why_not;
    char text[256];
    const int32_t tokens = mla__layer_merge_up_tokens(layer, &why_not);
    if (tokens == 0) {
        append(sink, "merge and W_UV in one: no, %s\n", why_not);
        return;
    }
    (void)mla__merge_up_text(layer->context, &w_uv, text, sizeof(text));
    append(sink,
           "merge and W_UV in one: %s, where attention is split and a step has up to %d "
           "tokens\n",
           text, (int)tokens);
}

/* Whether few tokens take one launch, where that was asked for. */
static void describe_one_launch(const clmla_layer *layer, text_sink *sink)
{
    const char *why_not;
    const int32_t groups = mla__layer_one_launch_groups(layer, &why_not);
    if (!layer->one_launch)
        return;
    if (groups > 0)
        append(sink, "the layer in one launch: decode_layer, %d work-groups, up to %d tokens\n",
               (int)groups, MLA__DECODE_LAYER_MAX_TOKENS);
    else
        append(sink, "the layer in one launch: no, %s\n", why_not);
}

static const char *projection_reason(const clmla_layer *layer)
{
    int32_t rows;
    if (layer->batch_invariant)
        return "native, since batch_invariant excludes CLBlast";
    if (layer->weights_dtype == CLMLA_DTYPE_F8_E4M3)
        return "native, since CLBlast takes no FP8 weights";
    switch (layer->context->projection) {
    case CLMLA_PROJECTION_NATIVE:
        return "native, as the context asks";
    case CLMLA_PROJECTION_CLBLAST:
        return "CLBlast, as the context asks";
    default:
        break;
    }
    if (mla__projection_auto_rows(layer->context, layer->weights_dtype, &rows))
        return layer->projection == CLMLA_PROJECTION_NATIVE ? "native (tuning record)"
               : layer->projection == CLMLA_PROJECTION_CLBLAST
                   ? "CLBlast (tuning record)"
                   : "native for few rows, else CLBlast "
                     "(tuning record)";
    return layer->projection == CLMLA_PROJECTION_NATIVE
               ? "native, the default of this class and number of tokens"
               : "native for few rows, else CLBlast: the default of this class without a tuning "
                 "record";
}

/* What CLBlast's float32 GEMM runs with, where the layer may call it. */
static void describe_clblast(const clmla_layer *layer, text_sink *sink)
{
    const clmla_context *context = layer->context;
    char text[256];
    if (layer->projection == CLMLA_PROJECTION_NATIVE)
        return;
    const mla__clblast_record *record = mla__clblast_record_of(context, 1);
    if (record == NULL) {
        append(sink, "CLBlast parameters: its own%s\n",
               context->clblast_overrides ? ", since there are none here for this device"
                                          : ", since the context allows no overrides");
        return;
    }
    for (bool first = true, last = false; !last && record != NULL; first = false) {
        last = record->max_rows == INT32_MAX;
        mla__clblast_xgemm_text(&record->xgemm, text, sizeof(text));
        append(sink, "CLBlast parameters");
        if (!last)
            append(sink, " up to %d rows", (int)record->max_rows);
        else if (!first)
            append(sink, " above");
        append(sink, ": %s XGEMM_MIN_INDIRECT_SIZE=%d (%s)\n", text, (int)record->min_indirect_size,
               record->source);
        if (!last)
            record = mla__clblast_record_of(context, (size_t)record->max_rows + 1);
    }
}

/* Tensor cores' tile for steps with the most rows a sequence. */
static void describe_large_tile(const clmla_layer *layer, const mla__attention_choice *choice,
                                text_sink *sink)
{
    char tile[256];
    const char *const why_not = mla__layer_fills_tile(layer, MLA__ATTENTION_LARGE_ROWS)
                                    ? choice->why_not_large
                                    : "no step has as many";
    append(sink, "attention from %d rows a sequence: ", (int)MLA__ATTENTION_LARGE_ROWS);
    if (why_not != NULL) {
        append(sink, "no tile of its own, %s\n", why_not);
        return;
    }
    (void)mla__attention_tile_text(&choice->large_tile, tile, sizeof(tile));
    append(sink, "%s, %llu bytes of local memory\n", tile,
           (unsigned long long)choice->large_local_bytes);
}

static void describe_attention(const clmla_layer *layer, text_sink *sink)
{
    static const char *const kinds[] = {[MLA__ATTENTION_CPU] = "cpu",
                                        [MLA__ATTENTION_DOT] = "cpu by bf16 dot products",
                                        [MLA__ATTENTION_GPU] = "gpu",
                                        [MLA__ATTENTION_MMA] = "nvidia by tensor cores",
                                        [MLA__ATTENTION_WGMMA] =
                                            "nvidia by products of warpgroups"};
    const mla__attention_shape shape = mla__layer_attention_shape(layer);
    mla__attention_choice choice;
    char tile[256], many[64] = "";
    if (!mla__attention_choose(layer->context, &shape, &choice)) {
        append(sink, "attention: no tile fits\n");
        return;
    }
    (void)mla__attention_tile_text(&choice.tile, tile, sizeof(tile));
    if (choice.many_tile.tile_rows > 0)
        (void)snprintf(many, sizeof(many), " (tile_rows=%d stages=%d from %d rows a sequence)",
                       (int)choice.many_tile.tile_rows, (int)choice.many_tile.stages,
                       (int)choice.many_rows);
    append(sink, "attention: %s %s%s%s, %s\n", kinds[choice.kind], tile,
           choice.recorded ? " (tuning record)" : "", many,
           layer->num_splits == 1  ? "one split"
           : layer->num_splits > 1 ? "splits as asked for"
                                   : "splits chosen per step");
    if (choice.kind == MLA__ATTENTION_MMA)
        describe_large_tile(layer, &choice, sink);
    if (choice.why_portable != NULL)
        append(sink, "attention: not by tensor cores, %s\n", choice.why_portable);
}

/* Kernels for target sm_90a, where they were asked for. */
static void describe_sm_90a(const clmla_layer *layer, mla__sm_90a_part part, text_sink *sink)
{
    const char *why;
    const char *const name = mla__sm_90a_part_name(part);
    const bool excluded = part == MLA__SM_90A_PROJECTION && layer->batch_invariant;
    switch (mla__context_sm_90a(layer->context, part, &why)) {
    case MLA__SM_90A_OFF:
        break;
    case MLA__SM_90A_ASKED:
        append(sink, "sm_90a, %s: asked for, not tried before weights are made\n", name);
        break;
    case MLA__SM_90A_READY:
        append(sink, "sm_90a, %s: tried, results are right%s\n", name,
               excluded ? "; not used, the layer is batch-invariant" : "");
        break;
    case MLA__SM_90A_REFUSED:
        append(sink, "sm_90a, %s: refused, %s\n", name, why);
        break;
    }
}

clmla_status clmla_layer_describe(const clmla_layer *layer, char *text, size_t capacity,
                                  size_t *length)
{
    if (layer == NULL || (text == NULL && capacity > 0))
        return CLMLA_INVALID_ARGUMENT;
    const clmla_context *context = layer->context;
    text_sink sink = {.text = text, .capacity = capacity};
    append(&sink, "device: %s (%s)\n", context->device.name, context->device.driver_version);
    append(&sink, "kernels: %s%s\n", clmla_kernel_class_name(context->kernel_class),
           context->kernel_class == context->device.kernel_class
               ? ", the device's class"
               : ", as the context asks; the device's class is another");
    if (context->kernel_class == CLMLA_KERNELS_CPU)
        append(&sink, "vectors: %d floats, as the device says\n",
               (int)context->device.float_vector_width);
    if (context->kernel_class == CLMLA_KERNELS_NVIDIA)
        append(&sink, "tiles: %s\n", mla__nvidia_record_find(&context->device)->source);
    if (context->tuning_entries > 0)
        append(&sink, "tuning record: %d tiles\n", (int)context->tuning_entries);
    append(&sink, "storage: weights %s, cache %s, hidden states %s, output %s, q_lat and ctx %s\n",
           mla__dtype_name(layer->weights_dtype), mla__dtype_name(layer->cache_dtype),
           mla__dtype_name(layer->hidden_dtype), mla__dtype_name(layer->output_dtype),
           mla__dtype_name(layer->latent_dtype));
    append(&sink, "workspace: %llu bytes, %d tokens at a time\n",
           (unsigned long long)layer->workspace.bytes, (int)layer->tokens_per_block);
    for (int part = 0; part < MLA__SM_90A_PARTS; part++)
        describe_sm_90a(layer, (mla__sm_90a_part)part, &sink);
    append(&sink, "projections: %s\n", projection_reason(layer));
    for (int role = 0; role < MLA__NUM_ROLES; role++)
        describe_projection(layer, (enum mla__role)role, &sink);
    describe_pair(layer, &sink);
    describe_clblast(layer, &sink);
    describe_attention(layer, &sink);
    describe_merge_up(layer, &sink);
    describe_one_launch(layer, &sink);
    if (length != NULL)
        *length = sink.length;
    return CLMLA_SUCCESS;
}
