#include "ops/projection_kernel.h"

#include "tuning/record.h"

bool mla__projection_uses_dot(const clmla_context *context, clmla_dtype x, clmla_dtype w)
{
    return context->kernel_class == CLMLA_KERNELS_CPU && context->matrix_units &&
           context->device.has_bf16_dot && x == CLMLA_DTYPE_BF16 &&
           (w == CLMLA_DTYPE_BF16 || (w == CLMLA_DTYPE_F8_E4M3 && context->device.has_byte_tables));
}

bool mla__projection_by_dot(enum mla__projection_kind kind)
{
    return kind == MLA__PROJECTION_DOT || kind == MLA__PROJECTION_DOT_F8;
}

bool mla__projection_choose_stream(const clmla_context *context, clmla_dtype w, int32_t num_batches,
                                   int32_t out_features, int32_t in_features,
                                   mla__projection_tile *tile)
{
    const mla__record_key key = {.kernel = MLA__RECORD_PROJECTION_STREAM,
                                 .dtype = w,
                                 .sizes = {num_batches, out_features, in_features}};
    const mla__record_entry *entry = mla__record_find(context->record, &key, 1);
    if (entry != NULL)
        *tile = entry->projection;
    else
        mla__projection_stream_tile(&context->device, num_batches, out_features, tile);
    return entry != NULL;
}

/* ---- choice --------------------------------------------------------------------------------- */

/* Adds a kernel, unless calls of up to max_rows rows never get past those that are there. */
static void add(mla__projection_choices *choices, int32_t max_rows,
                const mla__projection_choice *choice)
{
    const int32_t limit = choices->count > 0 ? choices->list[choices->count - 1].max_rows : 0;
    if (choices->count == 0 || (limit < max_rows && limit < choice->max_rows))
        choices->list[choices->count++] = *choice;
}

/* Tiles of rising numbers of rows: the record's where it has one, else the built-in one for the rows
 * in question. choice has the kind, and slices and tile_k where they are the matrix's. */
static void add_tiles(const clmla_context *context, const mla__projection_shape *s,
                      int32_t max_rows, const mla__record_key *key, mla__projection_choice *choice,
                      mla__projection_choices *choices)
{
    const int32_t few = mla__projection_few_rows(context->kernel_class);
    const mla__projection_tile of_matrix = choice->tile;
    for (int32_t limit = 0; limit < INT32_MAX; limit = choice->max_rows) {
        const mla__record_entry *entry = mla__record_find(context->record, key, limit + 1);
        choice->max_rows = limit < few ? few : INT32_MAX;
        if (entry != NULL && entry->max_rows < choice->max_rows)
            choice->max_rows = entry->max_rows;
        choice->recorded = entry != NULL;
        if (entry != NULL)
            choice->tile = entry->projection;
        else if (mla__projection_by_dot(choice->kind))
            mla__projection_tile_dot(choice->max_rows, &choice->tile);
        else
            mla__projection_tile_default(&context->device, context->kernel_class, s->w,
                                         choice->max_rows, &choice->tile);
        choice->tile.slices = of_matrix.slices;
        choice->tile.tile_k = of_matrix.tile_k;
        add(choices, max_rows, choice);
    }
}

/* Classes cpu and gpu. */
static void choose_portable(const clmla_context *context, const mla__projection_shape *s,
                            int32_t max_rows, mla__projection_choices *choices)
{
    mla__record_key key = {.kernel = MLA__RECORD_PROJECTION_GPU,
                           .dtype = s->w,
                           .sizes = {s->num_batches, s->out_features, s->in_features}};
    mla__projection_choice choice = {.kind = MLA__PROJECTION_STREAM,
                                     .max_rows =
                                         mla__projection_stream_rows(context->kernel_class)};
    if (context->kernel_class != CLMLA_KERNELS_CPU) {
        choice.recorded = mla__projection_choose_stream(
            context, s->w, s->num_batches, s->out_features, s->in_features, &choice.tile);
        add(choices, max_rows, &choice);
        choice.kind = MLA__PROJECTION_GPU; /* with its slices and tile_k: one order of the sum */
    } else if (!s->portable && mla__projection_uses_dot(context, s->x, s->w)) {
        key.kernel = MLA__RECORD_PROJECTION_DOT;
        choice.kind = s->w == CLMLA_DTYPE_F8_E4M3 ? MLA__PROJECTION_DOT_F8 : MLA__PROJECTION_DOT;
    } else {
        key.kernel = MLA__RECORD_PROJECTION_CPU;
        choice.kind = MLA__PROJECTION_CPU;
    }
    add_tiles(context, s, max_rows, &key, &choice, choices);
}

static int32_t few_max_rows(const mla__projection_shape *s)
{
    return s->w == CLMLA_DTYPE_F8_E4M3 ? MLA__PROJECTION_FEW_MAX_ROWS_FP8
                                       : MLA__PROJECTION_FEW_MAX_ROWS;
}

/* Why the shape does not go to tensor cores, or NULL. */
static const char *why_not_mma(const clmla_context *context, const mla__projection_shape *s)
{
    mla__projection_tile tile;
    if (s->portable)
        return "its kernel did not build";
    if (!context->matrix_units)
        return "matrix units are off";
    if (context->device.max_loop_iterations > 0)
        return "the device ends loops after a number of iterations";
    if (s->x != CLMLA_DTYPE_BF16 || (s->w != CLMLA_DTYPE_BF16 && s->w != CLMLA_DTYPE_F8_E4M3) ||
        s->y == CLMLA_DTYPE_F16)
        return "x must be bf16, weights bf16 or FP8, y bf16 or f32";
    if (s->in_features % 8 != 0)
        return "in_features must be a multiple of 8";
    if (!mla__projection_tile_few(&context->device, s->w, few_max_rows(s), s->num_batches,
                                  s->out_features, s->in_features, &tile) ||
        !mla__projection_tile_tiled(&context->device, s->w, 0, &tile))
        return "no tile fits the device's local memory or work-groups";
    return NULL;
}

/* From how many rows a tile has a work-group for every compute unit. */
static int64_t filling_rows(const clmla_context *context, const mla__projection_shape *s,
                            const mla__projection_tile *tile)
{
    const uint64_t groups = (uint64_t)s->num_batches *
                            mla__ceil_div((uint64_t)s->out_features, (uint64_t)tile->tile_columns);
    const uint64_t row_tiles = mla__ceil_div(context->device.compute_units, groups);
    return row_tiles > 0 ? (int64_t)((row_tiles - 1) * (uint64_t)tile->tile_rows + 1) : 1;
}

/* ---- tensor cores --------------------------------------------------------------------------- */

static mla__record_key key_of(const mla__projection_shape *s, mla__record_kernel kernel)
{
    return (mla__record_key){.kernel = kernel,
                             .dtype = s->w,
                             .sizes = {s->num_batches, s->out_features, s->in_features}};
}

/* The smallest tile that holds the rows: the record's columns and slices, else the built-in ones. */
static void add_few(const clmla_context *context, const mla__projection_shape *s, int32_t max_rows,
                    mla__projection_choices *choices)
{
    const mla__record_key key = key_of(s, MLA__RECORD_PROJECTION_FEW);
    const mla__record_entry *entry = mla__record_find(context->record, &key, 1);
    for (int32_t rows = 16; rows <= few_max_rows(s); rows *= 2) {
        mla__projection_choice few = {
            .kind = MLA__PROJECTION_FEW, .max_rows = rows, .recorded = entry != NULL};
        (void)mla__projection_tile_few(&context->device, s->w, rows, s->num_batches,
                                       s->out_features, s->in_features, &few.tile);
        if (entry != NULL) {
            few.tile.slices = entry->projection.slices;
            few.tile.tile_columns =
                mla__projection_few_columns(s->w, rows, entry->projection.tile_columns);
        }
        if (rows == few_max_rows(s) && s->batch_invariant)
            few.max_rows =
                INT32_MAX; /* block by block: tiles of many rows add k in another order */
        add(choices, max_rows, &few);
    }
}

/* Tiles of many rows by rising size, those of warpgroups last: they read bf16 from local memory, so
 * FP8 has none. False: there is none. */
static bool tile_of_many_rows(const clmla_context *context, const mla__projection_shape *s,
                              int size, mla__projection_choice *choice)
{
    int tiled = 0;
    while (tiled <= size &&
           mla__projection_tile_tiled(&context->device, s->w, tiled, &choice->tile))
        tiled++;
    if (tiled > size) {
        choice->kind = MLA__PROJECTION_TILED;
        return true;
    }
    choice->kind = MLA__PROJECTION_WGMMA;
    return s->w == CLMLA_DTYPE_BF16 &&
           mla__context_sm_90a(context, MLA__SM_90A_PROJECTION, NULL) == MLA__SM_90A_READY &&
           mla__projection_tile_wgmma(&context->device, size - tiled, &choice->tile);
}

/* The built-in tile for calls of so many rows: the largest that fills the device; max_rows: those up
 * to which it does. */
static void built_in_many(const clmla_context *context, const mla__projection_shape *s,
                          int32_t rows, mla__projection_choice *many)
{
    mla__projection_choice larger = {0};
    (void)tile_of_many_rows(context, s, 0, many);
    many->max_rows = INT32_MAX;
    for (int size = 1; tile_of_many_rows(context, s, size, &larger); size++) {
        const int64_t from = filling_rows(context, s, &larger.tile);
        if (from > rows) {
            many->max_rows = from > INT32_MAX ? INT32_MAX : (int32_t)from - 1;
            return;
        }
        *many = larger;
        many->max_rows = INT32_MAX;
    }
}

/* The record's tile for calls of so many rows: of its entries for either kernel the one with fewest
 * rows that holds them. */
static bool recorded_many(const clmla_context *context, const mla__projection_shape *s,
                          int32_t rows, mla__projection_choice *many)
{
    const mla__record_key tiled = key_of(s, MLA__RECORD_PROJECTION_TILED);
    const mla__record_key wgmma = key_of(s, MLA__RECORD_PROJECTION_WGMMA);
    const mla__record_entry *entry = mla__record_find(context->record, &tiled, rows);
    const mla__record_entry *of_warpgroups = NULL;
    if (mla__context_sm_90a(context, MLA__SM_90A_PROJECTION, NULL) == MLA__SM_90A_READY)
        of_warpgroups = mla__record_find(context->record, &wgmma, rows);
    const bool is_wgmma =
        of_warpgroups != NULL && (entry == NULL || of_warpgroups->max_rows <= entry->max_rows);
    if (is_wgmma)
        entry = of_warpgroups;
    if (entry == NULL)
        return false;
    *many =
        (mla__projection_choice){.kind = is_wgmma ? MLA__PROJECTION_WGMMA : MLA__PROJECTION_TILED,
                                 .max_rows = entry->max_rows,
                                 .tile = entry->projection,
                                 .recorded = true};
    return true;
}

static void choose_mma(const clmla_context *context, const mla__projection_shape *s,
                       int32_t max_rows, mla__projection_choices *choices)
{
    add_few(context, s, max_rows, choices);
    for (int32_t limit = choices->list[choices->count - 1].max_rows; limit < max_rows;) {
        mla__projection_choice many = {0};
        if (!recorded_many(context, s, limit + 1, &many))
            built_in_many(context, s, limit + 1, &many);
        add(choices, max_rows, &many);
        limit = many.max_rows;
    }
}

void mla__projection_choose(const clmla_context *context, const mla__projection_shape *shape,
                            int32_t max_rows, mla__projection_choices *choices)
{
    *choices = (mla__projection_choices){.count = 0};
    if (context->kernel_class == CLMLA_KERNELS_NVIDIA)
        choices->why_portable = why_not_mma(context, shape);
    if (context->kernel_class == CLMLA_KERNELS_NVIDIA && choices->why_portable == NULL)
        choose_mma(context, shape, max_rows, choices);
    else
        choose_portable(context, shape, max_rows, choices);
}

/* ---- source --------------------------------------------------------------------------------- */

mla__projection_source mla__projection_source_of(const clmla_context *context,
                                                 enum mla__projection_kind kind)
{
    switch (kind) {
    case MLA__PROJECTION_CPU:
        return (mla__projection_source){{"cpu/projection.clh", "cpu/projection.cl"}, "projection"};
    case MLA__PROJECTION_DOT:
        return (mla__projection_source){{"cpu/projection.clh", "cpu/projection_dot.cl"},
                                        "projection_dot"};
    case MLA__PROJECTION_DOT_F8:
        return (mla__projection_source){{"cpu/projection.clh", "cpu/projection_dot_fp8.cl"},
                                        "projection_dot_fp8"};
    case MLA__PROJECTION_STREAM:
        return (mla__projection_source){{"gpu/weights.clh", "gpu/projection_stream.cl"},
                                        "projection_stream"};
    case MLA__PROJECTION_FEW:
        return (mla__projection_source){{mla__ptx_file(context), "nvidia/projection.clh",
                                         "nvidia/projection_few.clh", "nvidia/projection_few.cl"},
                                        "projection_few"};
    case MLA__PROJECTION_TILED:
        return (mla__projection_source){
            {mla__ptx_file(context), "nvidia/projection.clh", "nvidia/projection_tiled.cl"},
            "projection_tiled"};
    case MLA__PROJECTION_WGMMA:
        return (mla__projection_source){{mla__ptx_file(context), mla__wgmma_file(context),
                                         "nvidia/wgmma_matrix.clh", "nvidia/projection.clh",
                                         "nvidia/projection_wgmma.cl"},
                                        "projection_wgmma"};
    case MLA__PROJECTION_GPU:
        break;
    }
    return (mla__projection_source){{"gpu/weights.clh", "gpu/projection.cl"}, "projection"};
}
