#include "ops/clblast_layout.h"

#include "ops/clblast.h"

/* Bounds of the workspace, besides CLBlast's temporary. One call's weights are large enough to fill
 * a big device (64 MiB: 1024 columns of K = 16384) and x and y together hold a prefill of 1024 rows
 * of DeepSeek-R1's o_proj; with both, r1's projections stay below 150 MiB.
 *
 * A CPU's slabs stay in its last-level cache between widening and multiplying. Decode of 16
 * sequences, clmla bench --case decode --mode batched --projection clblast, PoCL 3.1 on 2 Zen 4
 * cores with 32 MiB of it, medians of three runs, slabs of 64 / 16 / 12 / 8 / 6 MiB: 8 layers of
 * lite 49 / 47 / 42 / 45 / 41 ms, one of r1 158 / 103 / 70 / 61 / 76 ms; below 4 MiB the launches
 * cost more. */
static const uint64_t W_SLAB_BYTES = (uint64_t)64 << 20, CPU_W_SLAB_BYTES = (uint64_t)8 << 20;
static const uint64_t ROWS_BYTES = (uint64_t)80 << 20;

enum {
    TILE = MLA__CLBLAST_TILE,
    FEW_TILE = MLA__CLBLAST_FEW_TILE,
    FEW_ROWS = MLA__CLBLAST_FEW_ROWS
};
enum {
    K_TILE = 32, /* CLBlast's tiles of k are 16 or 32 */
    MIN_ALIGNMENT = 256
};

static uint64_t round_up(uint64_t a, uint64_t unit) { return (a + unit - 1) / unit * unit; }

int32_t mla__clblast_padded_rows(const clmla_context *context, int32_t rows)
{
    const mla__clblast_record *record = mla__clblast_record_of(context, (size_t)rows);
    const bool given = record != NULL && record->min_indirect_size <= 1;
    const int32_t tile = given ? record->xgemm.nwg : rows <= FEW_ROWS ? FEW_TILE : TILE;
    return (int32_t)round_up((uint64_t)rows, (uint64_t)tile);
}

int32_t mla__clblast_padded_columns(const clmla_matrix *matrix)
{
    return (int32_t)round_up((uint64_t)matrix->out_features, MLA__PANEL);
}

bool mla__clblast_is_widened(const clmla_matrix *matrix)
{
    return matrix->dtype != CLMLA_DTYPE_F32;
}

uint64_t mla__clblast_alignment(const clmla_context *context)
{
    const uint64_t align = context->device.mem_base_addr_align_bytes;
    return align > MIN_ALIGNMENT ? align : MIN_ALIGNMENT;
}

static uint64_t w_slab_bytes(const clmla_context *context)
{
    return context->kernel_class == CLMLA_KERNELS_CPU ? CPU_W_SLAB_BYTES : W_SLAB_BYTES;
}

/* Parts of at most `most`, as equal as multiples of unit can be. */
static int32_t balanced(int32_t total, uint64_t most, int32_t unit)
{
    const uint64_t whole = most / (uint64_t)unit * (uint64_t)unit;
    const uint64_t part = whole > 0 ? whole : (uint64_t)unit;
    if ((uint64_t)total <= part)
        return total;
    const uint64_t parts = mla__ceil_div((uint64_t)total, part);
    return (int32_t)round_up(mla__ceil_div((uint64_t)total, parts), (uint64_t)unit);
}

/* Batches are put together where they have few rows and columns each; else rows are cut. */
static void cut(const clmla_context *context, const clmla_matrix *matrix, int32_t max_rows,
                bool together, mla__clblast_layout *out)
{
    const bool widened = mla__clblast_is_widened(matrix);
    const int32_t all_columns = mla__clblast_padded_columns(matrix),
                  all_rows = mla__clblast_padded_rows(context, max_rows);
    mla__clblast_layout l = {0};
    l.k_pad =
        widened ? (int32_t)round_up((uint64_t)matrix->in_features, K_TILE) : matrix->in_features;
    const uint64_t column_bytes = 4 * (uint64_t)l.k_pad;
    l.slab_columns = widened
                         ? balanced(all_columns, w_slab_bytes(context) / column_bytes, MLA__PANEL)
                         : all_columns;
    const uint64_t row_bytes = 4 * ((uint64_t)l.k_pad + (uint64_t)l.slab_columns);
    l.slab_batches = 1;
    if (together && l.slab_columns == all_columns) {
        uint64_t most = ROWS_BYTES / (row_bytes * (uint64_t)all_rows);
        const uint64_t fit = w_slab_bytes(context) / (column_bytes * (uint64_t)all_columns);
        if (widened && fit < most)
            most = fit;
        l.slab_batches = balanced(matrix->num_batches, most, 1);
    }
    const uint64_t rows = ROWS_BYTES / (row_bytes * (uint64_t)l.slab_batches);
    l.slab_rows = balanced(all_rows, rows, rows < TILE ? FEW_TILE : TILE);
    /* fewer rows than a slab's must not be padded to more */
    while (mla__clblast_padded_rows(context, l.slab_rows) > l.slab_rows && l.slab_rows > FEW_TILE)
        l.slab_rows -= FEW_TILE;
    l.slab_rows = mla__clblast_padded_rows(context, l.slab_rows);
    *out = l;
}

/* The largest temporary that a call of enqueue may need. Row counts between those tried need no
 * more than the next larger one. */
static clmla_status largest_temporary(const clmla_context *context, cl_command_queue queue,
                                      const clmla_matrix *matrix, const mla__clblast_layout *l,
                                      uint64_t *bytes)
{
    const int32_t sizes[] = {1, FEW_ROWS, TILE, l->slab_rows - TILE, l->slab_rows};
    const int32_t rest = mla__clblast_padded_columns(matrix) % l->slab_columns;
    const int32_t columns[] = {l->slab_columns, rest};
    /* groups of float32 batches begin inside the matrix, where a sub-buffer may not */
    const uint64_t group_bytes =
        4 * (uint64_t)l->slab_batches * (uint64_t)l->k_pad * (uint64_t)l->slab_columns;
    const size_t w_offset = !mla__clblast_is_widened(matrix) &&
                            l->slab_batches < matrix->num_batches &&
                            group_bytes % mla__clblast_alignment(context) != 0;
    uint64_t most = 0;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        const int32_t rows = mla__clblast_padded_rows(context, sizes[i]);
        for (size_t j = 0; j < sizeof(columns) / sizeof(columns[0]); j++) {
            uint64_t needed;
            if (rows <= 0 || rows > l->slab_rows || columns[j] == 0)
                continue;
            const clmla_status status =
                mla__clblast_temporary_bytes(context, queue, (size_t)columns[j], (size_t)rows,
                                             (size_t)l->k_pad, w_offset, &needed);
            if (status != CLMLA_SUCCESS)
                return status;
            if (needed > most)
                most = needed;
        }
    }
    *bytes = most;
    return CLMLA_SUCCESS;
}

/* Whether a call may have several batches. CLBlast's indirect batched path allocates for all of
 * them what it cannot use as it lies, and knows no offset: it serves where parameters are given
 * that the slabs are padded for. */
static clmla_status batches_fit(const clmla_context *context, cl_command_queue queue,
                                const mla__clblast_layout *l, bool *out)
{
    const size_t columns = (size_t)l->slab_columns, rows = (size_t)l->slab_rows;
    const size_t k = (size_t)l->k_pad;
    uint64_t temporary = 0;
    bool fit;
    clmla_status status = mla__clblast_is_direct(context, queue, columns, rows, k, &fit);
    if (status == CLMLA_SUCCESS && !fit && mla__clblast_record_of(context, rows) != NULL) {
        status = mla__clblast_temporary_bytes(context, queue, columns, rows, k, 0, &temporary);
        fit = temporary == 0;
    }
    *out = fit;
    return status;
}

static clmla_status lay_out_with(const clmla_context *context, cl_command_queue queue,
                                 const clmla_matrix *matrix, int32_t max_rows,
                                 mla__clblast_layout *out)
{
    mla__clblast_layout l;
    bool fit = true;
    const uint64_t align = mla__clblast_alignment(context);
    cut(context, matrix, max_rows, matrix->num_batches > 1, &l);
    if (l.slab_batches > 1) {
        const clmla_status status = batches_fit(context, queue, &l, &fit);
        if (status != CLMLA_SUCCESS)
            return status;
    }
    if (!fit)
        cut(context, matrix, max_rows, false, &l);
    const uint64_t floats = 4 * (uint64_t)l.slab_batches;
    const uint64_t rows = (uint64_t)l.slab_rows, columns = (uint64_t)l.slab_columns;
    l.x_bytes = round_up(floats * (uint64_t)l.k_pad * rows, align);
    l.w_bytes =
        mla__clblast_is_widened(matrix) ? round_up(floats * (uint64_t)l.k_pad * columns, align) : 0;
    l.y_bytes = round_up(floats * columns * rows, align);
    const clmla_status status = largest_temporary(context, queue, matrix, &l, &l.temporary_bytes);
    if (status != CLMLA_SUCCESS)
        return status;
    l.temporary_bytes = round_up(l.temporary_bytes, align);
    *out = l;
    return CLMLA_SUCCESS;
}

/* CLBlast wants a queue even for a question; none is at hand when sizes are asked for. */
clmla_status mla__clblast_lay_out(const clmla_context *context, const clmla_matrix *matrix,
                                  int32_t max_rows, mla__clblast_layout *out)
{
    const uint64_t elements = (uint64_t)matrix->num_batches *
                              (uint64_t)mla__clblast_padded_columns(matrix) *
                              (uint64_t)matrix->in_features;
    if (!mla__clblast_is_widened(matrix) && elements > INT32_MAX)
        return mla__fail(context, CLMLA_UNSUPPORTED_CONFIG,
                         "projection: CLBlast's 32-bit offsets do not reach %llu float32 weights",
                         (unsigned long long)elements);
    cl_int error;
    const cl_command_queue queue =
        clCreateCommandQueue(context->context, context->device.id, 0, &error);
    if (error != CL_SUCCESS)
        return mla__fail(context, error, "projection: cannot make a queue for CLBlast's query");
    const clmla_status status = lay_out_with(context, queue, matrix, max_rows, out);
    clReleaseCommandQueue(queue);
    return status;
}

uint64_t mla__clblast_layout_bytes(const mla__clblast_layout *l)
{
    return l->x_bytes + l->w_bytes + l->y_bytes + l->temporary_bytes;
}
