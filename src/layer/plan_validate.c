/* A step's host arrays, checked entry by entry before anything is touched. */
#include "core/checked.h"
#include "layer/plan.h"

int32_t mla__plan_capacity(const clmla_layer *layer)
{
    if (layer->pages_per_sequence == 0)
        return layer->max_cache_seqlen;
    const int64_t rows = (int64_t)layer->pages_per_sequence * layer->page_block_size;
    return rows < layer->max_cache_seqlen ? (int32_t)rows : layer->max_cache_seqlen;
}

static clmla_status check_lengths(const clmla_layer *layer, const clmla_step *host, int32_t b)
{
    const int32_t begin = host->cu_seqlens_q[b], end = host->cu_seqlens_q[b + 1];
    const int32_t length = host->cache_seqlens[b];
    if (end < begin)
        return mla__fail(layer->context, CLMLA_INVALID_SEQUENCE,
                         "plan: cu_seqlens_q[%d] is %d, less than the %d before it", (int)b + 1,
                         (int)end, (int)begin);
    if (end > layer->max_num_tokens)
        return mla__fail(layer->context, CLMLA_CAPACITY_EXCEEDED,
                         "plan: cu_seqlens_q[%d] is %d, max_num_tokens is %d", (int)b + 1, (int)end,
                         (int)layer->max_num_tokens);
    if (end - begin > layer->max_seqlen_q)
        return mla__fail(layer->context, CLMLA_CAPACITY_EXCEEDED,
                         "plan: sequence %d has %d new tokens, max_seqlen_q is %d", (int)b,
                         (int)(end - begin), (int)layer->max_seqlen_q);
    if (length < end - begin)
        return mla__fail(layer->context, CLMLA_INVALID_SEQUENCE,
                         "plan: cache_seqlens[%d] is %d, less than its %d new tokens (it counts "
                         "them too)",
                         (int)b, (int)length, (int)(end - begin));
    if (length > layer->max_cache_seqlen)
        return mla__fail(layer->context, CLMLA_CAPACITY_EXCEEDED,
                         "plan: cache_seqlens[%d] is %d, max_cache_seqlen is %d", (int)b,
                         (int)length, (int)layer->max_cache_seqlen);
    return CLMLA_SUCCESS;
}

static clmla_status check_pages(const clmla_layer *layer, const int32_t *row, int32_t stride,
                                int32_t length, int32_t b)
{
    const int32_t needed =
        (int32_t)mla__ceil_div((uint64_t)length, (uint64_t)layer->page_block_size);
    if (needed > stride)
        return mla__fail(layer->context, CLMLA_INVALID_BLOCK_TABLE,
                         "plan: sequence %d needs %d pages, block_table_stride is %d", (int)b,
                         (int)needed, (int)stride);
    for (int32_t i = 0; i < needed; i++) {
        if (row[i] < 0 || row[i] >= layer->num_pages)
            return mla__fail(layer->context, CLMLA_INVALID_BLOCK_TABLE,
                             "plan: block_table[%d, %d] is %d, the cache has %d pages", (int)b,
                             (int)i, (int)row[i], (int)layer->num_pages);
    }
    return CLMLA_SUCCESS;
}

clmla_status mla__plan_validate(const clmla_plan *plan, const clmla_step *host,
                                mla__plan_step *step)
{
    const clmla_layer *layer = plan->layer;
    const bool paged = layer->pages_per_sequence > 0;
    const int32_t stride =
        host->block_table_stride > 0 ? host->block_table_stride : layer->pages_per_sequence;
    if (host->cache_seqlens == NULL && host->num_sequences > 0)
        return mla__fail(layer->context, CLMLA_INVALID_ARGUMENT, "plan: cache_seqlens is null");
    if (host->num_sequences > 0 && paged != (host->block_table != NULL))
        return mla__fail(layer->context, CLMLA_INVALID_ARGUMENT,
                         "plan: block_table is %s, but the cache is %s", paged ? "null" : "given",
                         paged ? "paged" : "contiguous");
    if (host->cu_seqlens_q[0] != 0)
        return mla__fail(layer->context, CLMLA_INVALID_SEQUENCE,
                         "plan: cu_seqlens_q[0] is %d, must be 0", (int)host->cu_seqlens_q[0]);
    mla__plan_step checked = {.num_sequences = host->num_sequences,
                              .num_tokens = host->cu_seqlens_q[host->num_sequences],
                              .filled = true};
    for (int32_t b = 0; b < host->num_sequences; b++) {
        const int32_t length = host->cache_seqlens[b];
        clmla_status status = check_lengths(layer, host, b);
        if (status == CLMLA_SUCCESS && paged)
            status = check_pages(layer, host->block_table + (size_t)b * (size_t)stride, stride,
                                 length, b);
        if (status != CLMLA_SUCCESS)
            return status;
        if (length > checked.max_cache_seqlen)
            checked.max_cache_seqlen = length;
    }
    *step = checked;
    return CLMLA_SUCCESS;
}
