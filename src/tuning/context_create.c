/* clmla_context_create: the context of ocl/context.h, and its tuning record, which that room does
 * not know how to read. */
#include "core/checked.h"
#include "tuning/record.h"

clmla_status clmla_context_create(cl_context context, cl_device_id device,
                                  const clmla_context_options *options, clmla_context **out)
{
    clmla_context_options o = {.struct_size = sizeof o};
    clmla_context *made = NULL;
    if (context == NULL || device == NULL || out == NULL)
        return CLMLA_INVALID_ARGUMENT;
    if (options != NULL && !mla__params_copy(&o, sizeof o, sizeof o, options))
        return CLMLA_INVALID_ARGUMENT;
    clmla_status status = mla__context_create(context, device, &o, &made);
    if (status == CLMLA_SUCCESS)
        status = mla__record_open(made, &o);
    if (status != CLMLA_SUCCESS) {
        clmla_context_release(made);
        return status;
    }
    *out = made;
    return CLMLA_SUCCESS;
}
