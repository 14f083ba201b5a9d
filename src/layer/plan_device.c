/* The plan's kernels, cl/plan.cl: a step from the caller's device tables, and advance. */
#include <string.h>

#include "layer/plan.h"
#include "ops/loops.h"

enum {
    ADVANCE_CHUNK = 64, /* sequences per launch: their numbers travel as arguments */
    WANTED_WORK_GROUP = 64
};

/* Arguments that name the plan's tables, in the order both kernels take them. */
static void add_tables(const clmla_plan *plan, mla__kernel *kernel)
{
    mla__arg_buffer(kernel, plan->buffer);
    mla__arg_ulong(kernel, plan->at.cu_seqlens_q);
    mla__arg_ulong(kernel, plan->at.cache_seqlens);
    mla__arg_ulong(kernel, plan->at.block_table);
    mla__arg_int(kernel, plan->layer->pages_per_sequence);
    mla__arg_ulong(kernel, plan->at.error);
}

static size_t work_group(const clmla_plan *plan)
{
    const clmla_context *context = plan->layer->context;
    const size_t most = context->device.max_work_group_size;
    if (context->kernel_class == CLMLA_KERNELS_CPU)
        return 1;
    return WANTED_WORK_GROUP < most ? WANTED_WORK_GROUP : most;
}

clmla_status mla__plan_device_bind(clmla_plan *plan)
{
    static const char *const files[] = {"plan.cl", NULL};
    clmla_context *context = plan->layer->context;
    mla__defines defines = {0};
    const double pages = plan->layer->pages_per_sequence;
    mla__define_int(&defines, "WORK_GROUP", (long long)work_group(plan));
    mla__define_loops(&defines,
                      mla__loops_shared(plan->layer->max_num_sequences, work_group(plan)) +
                          mla__loops_shared(pages, work_group(plan)));
    clmla_status status =
        mla__kernel_create(context, files, &defines, "plan_validate", &plan->validate);
    mla__define_loops(&defines, mla__loops_shared(pages, 1));
    if (status == CLMLA_SUCCESS)
        status = mla__kernel_create(context, files, &defines, "plan_advance", &plan->advance);
    return status;
}

void mla__plan_device_release(clmla_plan *plan)
{
    mla__kernel_release(&plan->validate);
    mla__kernel_release(&plan->advance);
}

static clmla_status make_table(const clmla_plan *plan, const char *name, const clmla_tensor *tensor,
                               uint64_t count, mla__view *out)
{
    const mla__tensor_spec spec = {.name = name,
                                   .shape = {count},
                                   .rank = 1,
                                   .dtypes = MLA__I32,
                                   .otherwise = CLMLA_DTYPE_I32};
    return mla__view_make(plan->layer->context, tensor, &spec, out);
}

/* Views of the caller's tables; block_table stays empty for a contiguous cache. */
static clmla_status make_tables(const clmla_plan *plan, const clmla_step *tables, int32_t stride,
                                mla__view *cu, mla__view *len, mla__view *block_table)
{
    const uint64_t n = (uint64_t)tables->num_sequences;
    clmla_status status =
        make_table(plan, "plan: cu_seqlens_q_table", &tables->cu_seqlens_q_table, n + 1, cu);
    if (status == CLMLA_SUCCESS)
        status =
            make_table(plan, "plan: cache_seqlens_table", &tables->cache_seqlens_table, n, len);
    if (status == CLMLA_SUCCESS && stride > 0)
        status = make_table(plan, "plan: block_table_table", &tables->block_table_table,
                            n * (uint64_t)stride, block_table);
    return status;
}

clmla_status mla__plan_device_fill(clmla_plan *plan, const clmla_step *tables,
                                   const mla__plan_step *step, mla__stream *stream)
{
    const clmla_layer *layer = plan->layer;
    const int32_t width = layer->pages_per_sequence;
    const int32_t given = tables->block_table_stride > 0 ? tables->block_table_stride : width;
    const int32_t stride = width > 0 ? given : 0;
    const int64_t rows = stride > 0
                             ? (int64_t)(stride < width ? stride : width) * layer->page_block_size
                             : layer->page_block_size;
    const int32_t capacity =
        rows < layer->max_cache_seqlen ? (int32_t)rows : layer->max_cache_seqlen;
    mla__view cu, len, block_table = {0};
    if (step->num_sequences == 0)
        return CLMLA_SUCCESS;
    clmla_status status = make_tables(plan, tables, stride, &cu, &len, &block_table);
    if (status != CLMLA_SUCCESS)
        return status;
    mla__kernel *k = &plan->validate;
    k->next_arg = 0;
    k->status = CLMLA_SUCCESS;
    mla__arg_view(k, &cu, 0);
    mla__arg_view(k, &len, 0);
    mla__arg_view(k, &block_table, 0);
    mla__arg_int(k, stride);
    add_tables(plan, k);
    mla__arg_int(k, step->num_sequences);
    mla__arg_int(k, step->num_tokens);
    mla__arg_int(k, layer->max_seqlen_q);
    mla__arg_int(k, step->max_cache_seqlen);
    mla__arg_int(k, layer->page_block_size);
    mla__arg_int(k, layer->num_pages);
    mla__arg_int(k, capacity);
    if ((status = mla__kernel_ready(k)) != CLMLA_SUCCESS)
        return status;
    const size_t local = work_group(plan);
    const size_t global = (size_t)step->num_sequences * local;
    return mla__stream_launch(stream, k, 1, &global, &local);
}

/* One launch: sequences first .. first + count - 1. */
static clmla_status advance_chunk(clmla_plan *plan, const int32_t *num_tokens, int32_t first,
                                  int32_t count, mla__stream *stream)
{
    const clmla_layer *layer = plan->layer;
    cl_int deltas[ADVANCE_CHUNK] = {0};
    mla__kernel *k = &plan->advance;
    if (num_tokens != NULL)
        memcpy(deltas, num_tokens + first, (size_t)count * sizeof(cl_int));
    k->next_arg = 0;
    k->status = CLMLA_SUCCESS;
    add_tables(plan, k);
    mla__arg_int(k, first);
    mla__arg_int(k, count);
    mla__arg_int(k, num_tokens == NULL);
    for (int i = 0; i < ADVANCE_CHUNK; i += 16) {
        cl_int16 d;
        memcpy(&d, deltas + i, sizeof(d));
        mla__arg_bytes(k, &d, sizeof(d));
    }
    mla__arg_int(k, mla__plan_capacity(layer));
    mla__arg_int(k, layer->page_block_size);
    mla__arg_int(k, layer->num_pages);
    const clmla_status status = mla__kernel_ready(k);
    if (status != CLMLA_SUCCESS)
        return status;
    const size_t local = work_group(plan);
    const size_t global = (size_t)(count > 0 ? count : 1);
    return mla__stream_launch(stream, k, 1, &global, &local);
}

clmla_status mla__plan_device_advance(clmla_plan *plan, const int32_t *num_tokens,
                                      mla__stream *stream)
{
    const int32_t n = plan->step.num_sequences;
    for (int32_t first = 0; first < n; first += ADVANCE_CHUNK) {
        const int32_t count = n - first < ADVANCE_CHUNK ? n - first : ADVANCE_CHUNK;
        const clmla_status status = advance_chunk(plan, num_tokens, first, count, stream);
        if (status != CLMLA_SUCCESS)
            return status;
    }
    return CLMLA_SUCCESS;
}

/* plan_validate checks one sequence without tokens, from the plan's own zeroed tables. */
clmla_status mla__plan_device_warm(clmla_plan *plan, mla__stream *stream)
{
    const clmla_sequences own = mla__plan_sequences(plan);
    const clmla_step tables = {.struct_size = sizeof(tables),
                               .num_sequences = 1,
                               .cu_seqlens_q_table = own.cu_seqlens_q,
                               .cache_seqlens_table = own.cache_seqlens,
                               .block_table_table = own.block_table};
    const mla__plan_step step = {.num_sequences = 1, .on_device = true};
    const clmla_status status = mla__plan_device_fill(plan, &tables, &step, stream);
    return status == CLMLA_SUCCESS ? advance_chunk(plan, NULL, 0, 0, stream) : status;
}
