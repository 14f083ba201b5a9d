/* clmla_projection_describe: a call's kernel and tile as the line of a tuning record. */
#include "core/dtype.h"
#include "ops/clblast.h"
#include "ops/clblast_layout.h"
#include "ops/projection.h"
#include "tuning/record.h"

static const mla__record_kernel kernel_of[] = {
    [MLA__PROJECTION_CPU] = MLA__RECORD_PROJECTION_CPU,
    [MLA__PROJECTION_DOT] = MLA__RECORD_PROJECTION_DOT,
    [MLA__PROJECTION_DOT_F8] = MLA__RECORD_PROJECTION_DOT,
    [MLA__PROJECTION_GPU] = MLA__RECORD_PROJECTION_GPU,
    [MLA__PROJECTION_STREAM] = MLA__RECORD_PROJECTION_STREAM,
    [MLA__PROJECTION_FEW] = MLA__RECORD_PROJECTION_FEW,
    [MLA__PROJECTION_TILED] = MLA__RECORD_PROJECTION_TILED,
    [MLA__PROJECTION_WGMMA] = MLA__RECORD_PROJECTION_WGMMA,
};

clmla_status clmla_projection_describe(clmla_context *context,
                                       const clmla_projection_params *params, char *text,
                                       size_t capacity, size_t *length)
{
    clmla_projection_params p;
    mla__projection_choices choices;
    int32_t native_max_rows;
    if (context == NULL || (text == NULL && capacity > 0))
        return CLMLA_INVALID_ARGUMENT;
    const clmla_status status = MLA__PARAMS_COPY(context, "projection", p, params);
    if (status != CLMLA_SUCCESS)
        return status;
    if (p.matrix == NULL || p.num_rows < 1)
        return mla__fail(context, CLMLA_INVALID_ARGUMENT,
                         "projection: matrix is null or num_rows %d is below 1", (int)p.num_rows);
    const clmla_matrix *m = p.matrix;
    (void)mla__projection_resolve(context, p.backend, m->dtype, p.num_rows, &native_max_rows);
    const mla__projection_shape shape =
        mla__projection_shape_of(m, mla__dtype_or(p.x.dtype, CLMLA_DTYPE_BF16),
                                 mla__dtype_or(p.y.dtype, CLMLA_DTYPE_BF16), false);
    mla__projection_choose(context, &shape, p.num_rows, &choices);
    const mla__projection_choice *choice = &choices.list[0];
    while (p.num_rows > choice->max_rows)
        choice++;
    mla__record_entry entry = {.key = {.kernel = kernel_of[choice->kind],
                                       .dtype = m->dtype,
                                       .sizes = {m->num_batches, m->out_features, m->in_features}},
                               .max_rows = choice->max_rows,
                               .projection = choice->tile};
    if (p.num_rows > native_max_rows) {
        const int32_t rows = mla__clblast_padded_rows(context, p.num_rows);
        const mla__clblast_record *record = mla__clblast_record_of(context, (size_t)rows);
        if (record == NULL)
            return mla__fail(context, CLMLA_UNSUPPORTED_CONFIG,
                             "projection: CLBlast runs with parameters of its own here");
        entry = (mla__record_entry){.key.kernel = MLA__RECORD_CLBLAST_XGEMM,
                                    .max_rows = record->max_rows,
                                    .clblast = *record};
    }
    const int written = mla__record_line(&entry, text, capacity);
    if (length != NULL)
        *length = (size_t)written;
    return CLMLA_SUCCESS;
}
