/* rope_append leaves the bits of cache_append and rope, and nothing else. The equations themselves
 * are tested in test_cache_append.c and test_rope.c. */
#include "ops/append_case.h"
#include "ops/rope.h"
#include "ops/rope_append.h"

static mla__rope_append_params make_params(const fused_case *c, const arrays *a, const buffers *on)
{
    const size_t heads = (size_t)c->heads;
    return (mla__rope_append_params){
        .append = append_params(c, a, on),
        .num_heads = c->heads,
        .q_pe = view_of(&on->q, c->rope > 0 ? c->nope : 0, heads * a->head, a->head)};
}

static void run_apart(const fused_case *c, const mla__rope_append_params *p, clmla_context *context)
{
    const int32_t n = p->append.sequences.num_tokens;
    const clmla_rope_params rope_params = {.struct_size = sizeof rope_params,
                                           .num_tokens = n,
                                           .num_heads = p->num_heads,
                                           .rope_dim = c->rope,
                                           .x = p->q_pe,
                                           .cos_sin = p->append.cos_sin};
    mla__cache_append append;
    mla__rope rope;
    mla__stream stream;
    assert_int_equal(mla__cache_append_bind(context, &p->append, &append), 0);
    assert_int_equal(mla__rope_bind(context, &rope_params, &rope), 0);
    assert_int_equal(mla__stream_begin(&stream, test_device_get()->queue, 0, NULL), 0);
    assert_int_equal(mla__cache_append_enqueue(&append, &stream, c->token_begin, n), 0);
    assert_int_equal(mla__rope_enqueue(&rope, &stream, c->token_begin, n), 0);
    mla__cache_append_release(&append);
    mla__rope_release(&rope);
}

static void run_fused(const fused_case *c, const arrays *a, const buffers *on,
                      const mla__rope_append_params *p, clmla_context *context)
{
    mla__rope_append op;
    mla__stream stream;
    assert_int_equal(mla__rope_append_bind(context, p, &op), 0);
    assert_int_equal(mla__stream_begin(&stream, test_device_get()->queue, 0, NULL), 0);
    assert_int_equal(mla__rope_append_warm(&op, &stream), 0);
    test_buffer_unchanged("q after warm", &on->q, a->q);
    assert_int_equal(
        mla__rope_append_enqueue(&op, &stream, c->token_begin, p->append.sequences.num_tokens), 0);
    assert_int_equal(stream.kernel_launches, 2); /* warm, enqueue */
    mla__rope_append_release(&op);
}

static void run_case(const fused_case *c, clmla_context *context)
{
    arrays a = make_arrays(c);
    buffers apart = make_buffers(c, &a), fused = make_buffers(c, &a);
    const mla__rope_append_params params_apart = make_params(c, &a, &apart);
    const mla__rope_append_params params_fused = make_params(c, &a, &fused);
    run_apart(c, &params_apart, context);
    run_fused(c, &a, &fused, &params_fused, context);
    check_same(c->name, "kv_cache", &apart.kv, &fused.kv);
    check_same(c->name, "pe_cache", &apart.pe, &fused.pe);
    check_same(c->name, "q", &apart.q, &fused.q);
    test_buffer_unchanged("kv_a", &fused.kv_a, a.kv_a);
    test_buffer_unchanged("cos_sin", &fused.table, a.table);
    release_buffers(&apart);
    release_buffers(&fused);
    release_arrays(&a);
}

static void leaves_the_bits_of_the_separate_ops(void **state)
{
    (void)state;
    for (size_t k = 0; k < 2; k++) {
        clmla_context *context = test_context(both_classes[k], CLMLA_PROJECTION_AUTO);
        for (size_t i = 0; i < sizeof fused_cases / sizeof fused_cases[0]; i++)
            if (!fused_case_is_too_long(&fused_cases[i]))
                run_case(&fused_cases[i], context);
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
    const mla__rope_append_params good = make_params(c, &a, &on);
    mla__rope_append_params bad[3] = {good, good, good};
    mla__rope_append op = {.append = {.num_tokens = -7}};
    bad[0].num_heads = 0;
    bad[1].q_pe.strides[1] = 63;
    bad[2].append.eps = -1.0;
    const clmla_status expected[3] = {CLMLA_INVALID_TENSOR_SHAPE, CLMLA_INVALID_STRIDE,
                                      CLMLA_INVALID_ARGUMENT};
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(mla__rope_append_bind(context, &bad[i], &op), expected[i]);
    assert_int_equal(op.append.num_tokens, -7);
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
