#include "ops/sequences.h"

#include <stdio.h>

static clmla_status check_counts(const clmla_context *context, const char *op,
                                 const clmla_sequences *s)
{
    const struct {
        const char *name;
        int32_t value;
    } counts[] = {
        {"num_sequences", s->num_sequences},
        {"num_tokens", s->num_tokens},
        {"max_cache_seqlen", s->max_cache_seqlen},
    };
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
        if (counts[i].value < 0)
            return mla__fail(context, CLMLA_INVALID_ARGUMENT, "%s: %s %d is negative", op,
                             counts[i].name, (int)counts[i].value);
    return CLMLA_SUCCESS;
}

/* One int32 table, dense. */
static clmla_status make_table(const clmla_context *context, const char *op, const char *name,
                               const clmla_tensor *tensor, uint64_t entries, mla__view *out)
{
    char full_name[96];
    (void)snprintf(full_name, sizeof full_name, "%s: %s", op, name);
    const mla__tensor_spec spec = {.name = full_name,
                                   .shape = {entries},
                                   .rank = 1,
                                   .dtypes = MLA__I32,
                                   .otherwise = CLMLA_DTYPE_I32};
    return mla__view_make(context, tensor, &spec, out);
}

static clmla_status make_pages(const clmla_context *context, const char *op,
                               const clmla_sequences *s, mla__sequences *made)
{
    if (s->num_pages < 0)
        return mla__fail(context, CLMLA_INVALID_ARGUMENT, "%s: num_pages %d is negative", op,
                         (int)s->num_pages);
    if (s->page_block_size < 1)
        return mla__fail(context, CLMLA_INVALID_ARGUMENT, "%s: page_block_size %d < 1", op,
                         (int)s->page_block_size);
    made->num_pages = s->num_pages;
    made->page_block_size = s->page_block_size;
    if (s->block_table.buffer == NULL) {
        if (s->num_pages < s->num_sequences)
            return mla__fail(context, CLMLA_INVALID_ARGUMENT,
                             "%s: num_pages %d < num_sequences %d without a block_table", op,
                             (int)s->num_pages, (int)s->num_sequences);
        return CLMLA_SUCCESS; /* stride 0: contiguous */
    }
    if (s->block_table_stride < 1)
        return mla__fail(context, CLMLA_INVALID_ARGUMENT, "%s: block_table_stride %d < 1", op,
                         (int)s->block_table_stride);
    made->block_table_stride = s->block_table_stride;
    return make_table(context, op, "block_table", &s->block_table,
                      (uint64_t)s->num_sequences * (uint64_t)s->block_table_stride,
                      &made->block_table);
}

clmla_status mla__sequences_make(const clmla_context *context, const char *op,
                                 const clmla_sequences *sequences, int needs_pages,
                                 mla__sequences *out)
{
    const clmla_sequences *s = sequences;
    clmla_status status = check_counts(context, op, s);
    if (status != CLMLA_SUCCESS)
        return status;
    mla__sequences made = {.num_sequences = s->num_sequences,
                           .num_tokens = s->num_tokens,
                           .max_cache_seqlen = s->max_cache_seqlen};
    /* Without sequences kernels read neither table, so that the tables need not exist. */
    const uint64_t num_sequences = (uint64_t)s->num_sequences;
    status = make_table(context, op, "cu_seqlens_q", &s->cu_seqlens_q,
                        num_sequences == 0 ? 0 : num_sequences + 1, &made.cu_seqlens_q);
    if (status == CLMLA_SUCCESS)
        status = make_table(context, op, "cache_seqlens", &s->cache_seqlens, num_sequences,
                            &made.cache_seqlens);
    if (status == CLMLA_SUCCESS && needs_pages)
        status = make_pages(context, op, s, &made);
    if (status == CLMLA_SUCCESS)
        *out = made;
    return status;
}

clmla_status mla__arg_set_sequences(mla__kernel *kernel, cl_uint first,
                                    const mla__sequences *sequences)
{
    const mla__view *tables[] = {&sequences->cu_seqlens_q, &sequences->cache_seqlens,
                                 &sequences->block_table};
    const int32_t numbers[] = {sequences->block_table_stride, sequences->page_block_size,
                               sequences->num_pages, sequences->num_sequences};
    clmla_status status = CLMLA_SUCCESS;
    cl_uint index = first;
    for (size_t i = 0; status == CLMLA_SUCCESS && i < 3; i++) {
        status = mla__arg_set_buffer(kernel, index++, tables[i]->buffer);
        if (status == CLMLA_SUCCESS)
            status = mla__arg_set_ulong(kernel, index++, tables[i]->offset);
    }
    for (size_t i = 0; status == CLMLA_SUCCESS && i < 4; i++)
        status = mla__arg_set_int(kernel, index++, numbers[i]);
    return status;
}

void mla__arg_sequences(mla__kernel *kernel, const mla__sequences *sequences)
{
    if (kernel->status == CLMLA_SUCCESS)
        kernel->status = mla__arg_set_sequences(kernel, kernel->next_arg, sequences);
    kernel->next_arg += MLA__SEQUENCES_ARGS;
}
