/* norm_append leaves the bits of cache_append and rmsnorm, and nothing else. The equations themselves
 * are tested in test_cache_append.c and test_rmsnorm.c. */
#include "ops/append_case.h"
#include "ops/norm_append.h"
#include "ops/rmsnorm.h"

/* A case's q, whatever its heads mean elsewhere, as rows of q_a with some elements between them. */
enum { GAP = 3 };

static mla__norm_append_params make_params(const fused_case *c, const arrays *a, const buffers *on,
                                           const test_buffer *q_weight)
{
    const size_t row = (size_t)c->heads * a->head;
    const clmla_tensor q_a = view_of(&on->q, 0, row, 0);
    return (mla__norm_append_params){.append = append_params(c, a, on),
                                     .q_a = {.struct_size = sizeof(clmla_rmsnorm_params),
                                             .num_tokens = (int32_t)a->block,
                                             .dim = (int32_t)row - GAP,
                                             .x = q_a,
                                             .weight = q_weight->tensor,
                                             .y = q_a}};
}

static void run_apart(const fused_case *c, const mla__norm_append_params *p, clmla_context *context)
{
    const int32_t n = p->append.sequences.num_tokens;
    mla__cache_append append;
    mla__rmsnorm norm;
    mla__stream stream;
    assert_int_equal(mla__cache_append_bind(context, &p->append, &append), 0);
    assert_int_equal(mla__stream_begin(&stream, test_device_get()->queue, 0, NULL), 0);
    assert_int_equal(mla__cache_append_enqueue(&append, &stream, c->token_begin, n), 0);
    mla__cache_append_release(&append);
    if (p->q_a.dim == 0)
        return;
    assert_int_equal(mla__rmsnorm_bind(context, &p->q_a, &norm), 0);
    assert_int_equal(mla__rmsnorm_enqueue(&norm, &stream, n), 0);
    mla__rmsnorm_release(&norm);
}

static void run_fused(const fused_case *c, const arrays *a, const buffers *on,
                      const mla__norm_append_params *p, clmla_context *context)
{
    mla__cache_append op;
    mla__stream stream;
    assert_int_equal(mla__norm_append_bind(context, p, &op), 0);
    assert_int_equal(mla__stream_begin(&stream, test_device_get()->queue, 0, NULL), 0);
    assert_int_equal(mla__cache_append_warm(&op, &stream), 0);
    test_buffer_unchanged("q_a after warm", &on->q, a->q);
    assert_int_equal(
        mla__cache_append_enqueue(&op, &stream, c->token_begin, p->append.sequences.num_tokens), 0);
    assert_int_equal(stream.kernel_launches, 2); /* warm, enqueue */
    mla__cache_append_release(&op);
}

static void run_case(const fused_case *c, bool has_q_a, clmla_context *context)
{
    arrays a = make_arrays(c);
    buffers apart = make_buffers(c, &a), fused = make_buffers(c, &a);
    const size_t row = (size_t)c->heads * a.head;
    unsigned char *weight = filled(row - GAP, c->weight, 5);
    test_buffer q_weight =
        test_buffer_of(weight, (row - GAP) * mla__dtype_bytes(c->weight), c->weight);
    mla__norm_append_params of_apart = make_params(c, &a, &apart, &q_weight);
    mla__norm_append_params of_fused = make_params(c, &a, &fused, &q_weight);
    if (!has_q_a)
        of_apart.q_a.dim = of_fused.q_a.dim = 0;
    run_apart(c, &of_apart, context);
    run_fused(c, &a, &fused, &of_fused, context);
    check_same(c->name, "kv_cache", &apart.kv, &fused.kv);
    check_same(c->name, "pe_cache", &apart.pe, &fused.pe);
    check_same(c->name, "q_a", &apart.q, &fused.q);
    test_buffer_unchanged("kv_a", &fused.kv_a, a.kv_a);
    test_buffer_unchanged("weight", &q_weight, weight);
    test_buffer_release(&q_weight);
    release_buffers(&apart);
    release_buffers(&fused);
    release_arrays(&a);
    free(weight);
}

static void leaves_the_bits_of_the_separate_ops(void **state)
{
    (void)state;
    for (size_t k = 0; k < 2; k++) {
        clmla_context *context = test_context(both_classes[k], CLMLA_PROJECTION_AUTO);
        for (size_t i = 0; i < sizeof fused_cases / sizeof fused_cases[0]; i++) {
            if (fused_case_is_too_long(&fused_cases[i]))
                continue;
            run_case(&fused_cases[i], true, context);
            run_case(&fused_cases[i], false, context);
        }
        clmla_context_release(context);
    }
}

static void refuses_what_either_op_refuses(void **state)
{
    (void)state;
    clmla_context *context = test_context(CLMLA_KERNELS_CPU, CLMLA_PROJECTION_AUTO);
    const fused_case *c = &fused_cases[0];
    arrays a = make_arrays(c);
    buffers on = make_buffers(c, &a);
    test_buffer q_weight = test_buffer_poisoned((size_t)c->heads * a.head * 2, BF16);
    const mla__norm_append_params good = make_params(c, &a, &on, &q_weight);
    mla__norm_append_params bad[] = {good, good, good, good};
    mla__cache_append op = {.num_tokens = -7};
    bad[0].append.eps = -1.0;
    bad[1].q_a.eps = -1.0;
    bad[2].q_a.y.offset_bytes += 2; /* not in place */
    bad[3].q_a.dim = -1;
    const clmla_status expected[] = {CLMLA_INVALID_ARGUMENT, CLMLA_INVALID_ARGUMENT,
                                     CLMLA_INVALID_ARGUMENT, CLMLA_INVALID_TENSOR_SHAPE};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(mla__norm_append_bind(context, &bad[i], &op), expected[i]);
    assert_int_equal(op.num_tokens, -7);
    assert_int_equal(mla__norm_append_bind(context, &good, &op), CLMLA_SUCCESS);
    mla__cache_append_release(&op);
    test_buffer_release(&q_weight);
    release_buffers(&on);
    release_arrays(&a);
    clmla_context_release(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(leaves_the_bits_of_the_separate_ops),
        cmocka_unit_test(refuses_what_either_op_refuses),
    };
    const int failures = cmocka_run_group_tests(tests, NULL, NULL);
    test_device_close();
    return failures;
}
