#include "ops/projection_pair.h"

static bool on_tensor_cores(const clmla_context *context, const clmla_matrix *matrix, clmla_dtype x,
                            clmla_dtype y)
{
    const mla__projection_shape shape = mla__projection_shape_of(matrix, x, y, false);
    mla__projection_choices choices;
    mla__projection_choose(context, &shape, 1, &choices);
    return choices.list[0].kind == MLA__PROJECTION_FEW;
}

bool mla__projection_pair_fits(const clmla_context *context, const clmla_matrix *first,
                               const clmla_matrix *second, clmla_dtype x, clmla_dtype first_y,
                               clmla_dtype second_y)
{
    return first->num_batches == 1 && second->num_batches == 1 && first->dtype == second->dtype &&
           first->dtype != CLMLA_DTYPE_F8_E4M3 && /* scales lie between their panels */
           first->in_features == second->in_features &&
           on_tensor_cores(context, first, x, first_y) &&
           on_tensor_cores(context, second, x, second_y);
}

static bool follows(const clmla_context *context, const clmla_matrix *first,
                    const clmla_matrix *second)
{
    uint64_t bytes = 0;
    return first->buffer == second->buffer &&
           mla__matrix_bytes(context, 1, first->out_features, first->in_features, first->dtype,
                             &bytes) == CLMLA_SUCCESS &&
           second->offset_bytes == first->offset_bytes + bytes;
}

static clmla_status make_view(const clmla_context *context, const char *name, int32_t num_rows,
                              int32_t features, const clmla_tensor *tensor, mla__view *out)
{
    const mla__tensor_spec spec = {.name = name,
                                   .shape = {(uint64_t)num_rows, (uint64_t)features},
                                   .rank = 2,
                                   .dtypes = MLA__FLOATS,
                                   .otherwise = CLMLA_DTYPE_BF16};
    const clmla_status status = mla__view_make(context, tensor, &spec, out);
    out->strides[1] = 0; /* one batch */
    return status;
}

clmla_status mla__projection_pair_bind(clmla_context *context, const mla__projection_pair_params *p,
                                       mla__projection_native *op)
{
    const int32_t in = p->first->in_features;
    mla__projection_second second = {.matrix = p->second};
    mla__view x, y;
    clmla_status status = make_view(context, "projection pair: x", p->num_rows, in, &p->x, &x);
    if (status == CLMLA_SUCCESS)
        status = make_view(context, "projection pair: y", p->num_rows, p->first->out_features,
                           &p->first_y, &y);
    if (status == CLMLA_SUCCESS)
        status = make_view(context, "projection pair: y2", p->num_rows, p->second->out_features,
                           &p->second_y, &second.y);
    if (status != CLMLA_SUCCESS)
        return status;
    *op = (mla__projection_native){.num_variants = 0};
    if (!mla__projection_pair_fits(context, p->first, p->second, x.dtype, y.dtype,
                                   second.y.dtype) ||
        !follows(context, p->first, p->second))
        return CLMLA_SUCCESS;
    const clmla_projection_params params = {
        .struct_size = sizeof(params), .matrix = p->first, .num_rows = p->num_rows};
    status =
        mla__projection_native_bind_pair(context, &params, &x, &y, &second, p->batch_invariant, op);
    return status == CL_BUILD_PROGRAM_FAILURE ? CLMLA_SUCCESS : status;
}
