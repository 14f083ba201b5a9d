/* What search and timing do with a subject, whichever kind it is. */
#include <stdlib.h>

#include "cli/tune.h"

clmla_status mla_subject_describe(const mla_subject *subject, clmla_context *clmla,
                                  char text[MLA_LINE_BYTES])
{
    if (subject->product != NULL) {
        const clmla_projection_params params =
            mla_product_params(subject->product, subject->rows, 0);
        return clmla_projection_describe(clmla, &params, text, MLA_LINE_BYTES, NULL);
    }
    const clmla_attention_params params = mla_attention_params(subject->attention, subject->rows);
    return clmla_attention_describe(clmla, &params, text, MLA_LINE_BYTES, NULL);
}

clmla_status mla_subject_enqueue(const mla_subject *subject, clmla_context *clmla, unsigned turn)
{
    if (subject->product != NULL) {
        const clmla_projection_params params =
            mla_product_params(subject->product, subject->rows, turn);
        return clmla_enqueue_projection(clmla, &params, subject->queue, 0, NULL, NULL);
    }
    const clmla_attention_params params = mla_attention_params(subject->attention, subject->rows);
    return clmla_enqueue_attention(clmla, &params, subject->queue, 0, NULL, NULL);
}

clmla_status mla_subject_check(const mla_subject *subject, clmla_context *clmla, bool *right,
                               char *why, size_t why_bytes)
{
    static const cl_uchar poison = 0xff; /* NaN */
    const mla_product_data *product = subject->product;
    size_t bytes;
    const cl_mem output = product != NULL
                              ? mla_product_output(product, subject->rows, &bytes)
                              : mla_attention_output(subject->attention, subject->rows, &bytes);
    void *results = malloc(bytes);
    *right = false;
    if (results == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    clmla_status status = clEnqueueFillBuffer(subject->queue, output, &poison, sizeof(poison), 0,
                                              bytes, 0, NULL, NULL);
    if (status == CLMLA_SUCCESS)
        status = mla_subject_enqueue(subject, clmla, 0);
    if (status == CLMLA_SUCCESS)
        status =
            clEnqueueReadBuffer(subject->queue, output, CL_TRUE, 0, bytes, results, 0, NULL, NULL);
    if (status == CLMLA_SUCCESS)
        *right =
            product != NULL
                ? mla_product_compare(product, results, subject->rows, why, why_bytes)
                : mla_attention_compare(subject->attention, results, subject->rows, why, why_bytes);
    free(results);
    return status;
}
