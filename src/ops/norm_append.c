#include "ops/norm_append.h"

#include "ops/loops.h"
#include "ops/rmsnorm.h"

enum { PARTS = 2 }; /* work-groups of a token, see cl/norm_append.clh */

static clmla_status check_q_a(const clmla_context *context, const mla__norm_append_params *params,
                              const mla__append_args *append, mla__rmsnorm_args *q_a)
{
    const clmla_status status = mla__rmsnorm_check(context, &params->q_a, q_a);
    if (status != CLMLA_SUCCESS)
        return status;
    if (q_a->x.offset != q_a->y.offset || q_a->x.dtype != q_a->y.dtype ||
        q_a->weight.dtype != append->kv_a_layernorm.dtype)
        return mla__fail(context, CLMLA_INVALID_ARGUMENT,
                         "norm_append: q_a is normalised in place, by weights of the dtype of "
                         "kv_a_layernorm");
    return CLMLA_SUCCESS;
}

clmla_status mla__norm_append_bind(clmla_context *context, const mla__norm_append_params *params,
                                   mla__cache_append *op)
{
    static const char *const files[] = {"append.clh", "rmsnorm.clh", "norm_append.clh",
                                        "norm_append.cl", NULL};
    mla__append_args args;
    mla__rmsnorm_args q_a;
    if (params->q_a.dim == 0)
        return mla__cache_append_bind(context, &params->append, op);
    clmla_status status = mla__append_check(context, &params->append, &args);
    if (status == CLMLA_SUCCESS)
        status = check_q_a(context, params, &args, &q_a);
    if (status != CLMLA_SUCCESS)
        return status;

    mla__cache_append made = mla__append_begin(context, &args);
    made.groups_per_token = PARTS;
    mla__defines defines = {.length = 0};
    mla__append_define(&made, &args, &defines);
    mla__define_dtype(&defines, "X_DTYPE", q_a.x.dtype);
    mla__define_dtype(&defines, "Y_DTYPE", q_a.x.dtype);
    mla__define_loops(&defines, mla__append_loops(&made, &args) +
                                    mla__loops_row(params->q_a.dim, false, made.work_group));
    status = mla__kernel_create(context, files, &defines, "norm_append", &made.kernel);
    if (status != CLMLA_SUCCESS)
        return status;
    mla__append_arguments(&made, &args);
    mla__arg_view(&made.kernel, &q_a.x, 1);
    mla__arg_view(&made.kernel, &q_a.weight, 0);
    mla__arg_int(&made.kernel, params->q_a.dim);
    mla__arg_float(&made.kernel, q_a.eps);
    status = mla__kernel_ready(&made.kernel);
    if (status == CLMLA_SUCCESS)
        *op = made;
    else
        mla__cache_append_release(&made);
    return status;
}
