/* Attention and tuning records: the tile of a record, and a call's choice as its line. */
#include "core/dtype.h"
#include "ops/attention_kernel.h"
#include "tuning/record.h"

/* False for kernels that records do not know. */
static bool make_key(const mla__attention_shape *s, enum mla__attention_kind kind,
                     mla__record_key *key)
{
    *key =
        (mla__record_key){.dtype = s->cache, .sizes = {s->num_heads, s->kv_lora_rank, s->rope_dim}};
    switch (kind) {
    case MLA__ATTENTION_CPU:
        key->kernel = MLA__RECORD_ATTENTION_CPU;
        return true;
    case MLA__ATTENTION_DOT:
        key->kernel = MLA__RECORD_ATTENTION_DOT;
        return true;
    case MLA__ATTENTION_GPU:
        key->kernel = MLA__RECORD_ATTENTION_GPU;
        return true;
    case MLA__ATTENTION_MMA:
        key->kernel = MLA__RECORD_ATTENTION_MMA;
        return true;
    default:
        return false;
    }
}

/* Tensor cores: tiles by rows of a sequence. The first entry's is for the fewest, the second's from
 * there on; above entries the built-in tiles stay. The large tile does, too, wherever it runs. */
static void take_by_rows(const clmla_context *context, const mla__record_key *key,
                         mla__attention_choice *choice)
{
    const mla__record_entry *few = mla__record_find(context->record, key, 1);
    if (few == NULL)
        return;
    const mla__attention_tile built_in =
        choice->many_tile.tile_rows > 0 ? choice->many_tile : choice->tile;
    choice->recorded = true;
    choice->tile = few->attention;
    choice->many_tile = (mla__attention_tile){0};
    if (few->max_rows == INT32_MAX)
        return;
    const mla__record_entry *many = mla__record_find(context->record, key, few->max_rows + 1);
    choice->many_tile = many != NULL ? many->attention : built_in;
    choice->many_rows = few->max_rows + 1;
}

void mla__attention_take_record(const clmla_context *context, const mla__attention_shape *shape,
                                mla__attention_choice *choice)
{
    mla__record_key key;
    if (context->record == NULL || !make_key(shape, choice->kind, &key))
        return;
    if (choice->kind == MLA__ATTENTION_MMA) {
        take_by_rows(context, &key, choice);
        return;
    }
    const mla__record_entry *entry = mla__record_find(context->record, &key, 1);
    /* The record was checked for the cache's dtype; the query may have a wider one. */
    if (entry == NULL ||
        (choice->kind == MLA__ATTENTION_GPU &&
         !mla__attention_tile_fits_gpu(&context->device, &entry->attention,
                                       mla__dtype_bytes(mla__attention_widest(shape)),
                                       shape->kv_lora_rank, shape->rope_dim)))
        return;
    choice->tile = entry->attention;
    choice->recorded = true;
}

/* The choice's tile for the rows that sequences have on average, as an entry. */
static void fill_entry(const mla__attention_choice *choice, const clmla_attention_params *p,
                       mla__record_entry *entry)
{
    const int64_t rows = (int64_t)p->sequences.num_tokens * p->num_heads;
    entry->attention = choice->tile;
    entry->max_rows = INT32_MAX;
    if (choice->kind != MLA__ATTENTION_MMA || choice->many_tile.tile_rows == 0)
        return;
    if (rows >= (int64_t)choice->many_rows * p->sequences.num_sequences)
        entry->attention = choice->many_tile;
    else
        entry->max_rows = choice->many_rows - 1;
}

clmla_status clmla_attention_describe(clmla_context *context, const clmla_attention_params *params,
                                      char *text, size_t capacity, size_t *length)
{
    clmla_attention_params p;
    mla__attention_choice choice;
    mla__record_entry entry = {0};
    if (context == NULL || (text == NULL && capacity > 0))
        return CLMLA_INVALID_ARGUMENT;
    const clmla_status status = MLA__PARAMS_COPY(context, "attention", p, params);
    if (status != CLMLA_SUCCESS)
        return status;
    const mla__attention_shape shape = {.q_lat = mla__dtype_or(p.q_lat.dtype, CLMLA_DTYPE_BF16),
                                        .q_pe = mla__dtype_or(p.q_pe.dtype, CLMLA_DTYPE_BF16),
                                        .cache = mla__dtype_or(p.kv_cache.dtype, CLMLA_DTYPE_BF16),
                                        .out = mla__dtype_or(p.out.dtype, CLMLA_DTYPE_BF16),
                                        .num_heads = p.num_heads,
                                        .kv_lora_rank = p.kv_lora_rank,
                                        .rope_dim = p.rope_dim};
    if (p.num_heads < 1 || p.kv_lora_rank < 1 || p.rope_dim < 0)
        return mla__fail(
            context, CLMLA_INVALID_TENSOR_SHAPE,
            "attention: num_heads %d, kv_lora_rank %d, rope_dim %d: the first two must "
            "be >= 1, the last >= 0",
            (int)p.num_heads, (int)p.kv_lora_rank, (int)p.rope_dim);
    if (!mla__attention_choose(context, &shape, &choice))
        return mla__fail(context, CLMLA_UNSUPPORTED_DEVICE, "attention: no tile fits the device");
    if (!make_key(&shape, choice.kind, &entry.key))
        return mla__fail(context, CLMLA_UNSUPPORTED_CONFIG,
                         "attention: tuning records have no tiles for target sm_90a");
    fill_entry(&choice, &p, &entry);
    const int written = mla__record_line(&entry, text, capacity);
    if (length != NULL)
        *length = (size_t)written;
    return CLMLA_SUCCESS;
}
