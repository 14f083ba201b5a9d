/* What search and timing do with a subject, whichever kind it is. */
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
    *right = false;
    return subject->product != NULL ? mla_product_check(subject->product, clmla, subject->queue,
                                                        subject->rows, right, why, why_bytes)
                                    : mla_attention_check(subject->attention, clmla, subject->queue,
                                                          subject->rows, right, why, why_bytes);
}
