/* An FP8 cache is the same cache in float32 and bf16, encoded: records bit by bit, and what a layer's
 * attention then reads is in test_attention.c. */
#include "ops/append_case.h"

static void append(clmla_context *context, const fused_case *c,
                   const clmla_cache_append_params *params)
{
    const cl_command_queue queue = test_device_get()->queue;
    mla__cache_append op;
    mla__stream stream;
    assert_int_equal(mla__cache_append_bind(context, params, &op), 0);
    assert_int_equal(mla__stream_begin(&stream, queue, 0, NULL), 0);
    assert_int_equal(
        mla__cache_append_enqueue(&op, &stream, c->token_begin, params->sequences.num_tokens), 0);
    assert_int_equal(clFinish(queue), CL_SUCCESS);
    mla__cache_append_release(&op);
}

static unsigned char *contents(const test_buffer *buffer)
{
    unsigned char *bytes = malloc(buffer->bytes + 1);
    assert_non_null(bytes);
    test_buffer_read(buffer, bytes);
    return bytes;
}

/* Poisoned rows of the cache in parts stay poisoned as records. */
static void check_records(const fused_case *c, const test_buffer *kv, const test_buffer *pe,
                          const test_buffer *records)
{
    const size_t latent = (size_t)c->kv_lora, rope = (size_t)c->rope;
    const size_t size = mla__fp8_record_bytes(c->kv_lora, c->rope);
    unsigned char *const values = contents(kv), *const turned = contents(pe);
    unsigned char *const got = contents(records), *const expected = malloc(size);
    size_t written = 0;
    assert_non_null(expected);
    for (size_t row = 0; row < SEQUENCES * PAGES_EACH * PAGE_ROWS; row++) {
        const float *from = (const float *)(const void *)values + row * latent;
        memset(expected, 0xff, size);
        if (!isnan(from[0])) {
            mla__fp8_encode_latent(from, c->kv_lora, expected);
            memcpy(expected + mla__fp8_latent_bytes(c->kv_lora), turned + row * rope * 2, rope * 2);
            written++;
        }
        if (memcmp(got + row * size, expected, size) != 0)
            fail_msg("%s: the record of row %zu differs", c->name, row);
    }
    assert_true(written > 0);
    free(values);
    free(turned);
    free(got);
    free(expected);
}

static void records_hold_the_rounded_values(void **state)
{
    (void)state;
    static const clmla_kernel_class classes[] = {CLMLA_KERNELS_CPU, CLMLA_KERNELS_GPU};
    fused_case cases[] = {{.name = "R1's ranks",
                           .kv_lora = 512,
                           .rope = 64,
                           .new_tokens = {3, 1, 5},
                           .cache_seqlens = {3, 9, 5}},
                          {.name = "one group, no rope part",
                           .kv_lora = 128,
                           .new_tokens = {2, 0, 1},
                           .cache_seqlens = {12, 4, 20},
                           .spare_tokens = 1,
                           .token_begin = 1}};
    for (size_t k = 0; k < 2; k++) {
        clmla_context *context = test_context(classes[k], CLMLA_PROJECTION_AUTO);
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
            fused_case *c = &cases[i];
            c->heads = 1;
            c->q = c->weight = BF16;
            c->cache = FP8;
            arrays a = make_arrays(c);
            buffers on = make_buffers(c, &a);
            const size_t rows = SEQUENCES * PAGES_EACH * PAGE_ROWS;
            test_buffer kv = test_buffer_poisoned(rows * (size_t)c->kv_lora * 4, F32);
            test_buffer pe = test_buffer_poisoned(rows * (size_t)c->rope * 2, BF16);
            clmla_cache_append_params params = append_params(c, &a, &on);
            append(context, c, &params);
            params.kv_cache = kv.tensor;
            if (c->rope > 0)
                params.pe_cache = pe.tensor;
            append(context, c, &params);
            check_records(c, &kv, &pe, &on.kv);
            test_buffer_release(&kv);
            test_buffer_release(&pe);
            release_buffers(&on);
            release_arrays(&a);
        }
        clmla_context_release(context);
    }
}

static void wrong_records_are_refused(void **state)
{
    (void)state;
    clmla_context *context = test_context(CLMLA_KERNELS_CPU, CLMLA_PROJECTION_AUTO);
    const fused_case c = {.kv_lora = 128,
                          .rope = 16,
                          .heads = 1,
                          .q = BF16,
                          .cache = FP8,
                          .weight = BF16,
                          .new_tokens = {1, 1, 1},
                          .cache_seqlens = {1, 1, 1}};
    arrays a = make_arrays(&c);
    buffers on = make_buffers(&c, &a);
    const clmla_cache_append_params good = append_params(&c, &a, &on);
    const size_t size = mla__fp8_record_bytes(c.kv_lora, c.rope);
    clmla_cache_append_params bad[5] = {good, good, good, good, good};
    const clmla_status expected[5] = {CLMLA_INVALID_ARGUMENT, CLMLA_INVALID_STRIDE,
                                      CLMLA_INVALID_STRIDE, CLMLA_BUFFER_TOO_SMALL,
                                      CLMLA_INVALID_TENSOR_SHAPE};
    bad[0].pe_cache = good.kv_cache;
    bad[1].kv_cache.offset_bytes = 2;
    bad[1].sequences.num_pages = 1;
    bad[2].kv_cache.strides[1] = size + 2;
    bad[2].sequences.num_pages = 1;
    bad[3].kv_cache.strides[1] = 2 * size;
    bad[4].kv_lora_rank = 64;
    for (size_t i = 0; i < 5; i++) {
        test_clear_notify();
        assert_int_equal(
            clmla_enqueue_cache_append(context, &bad[i], test_device_get()->queue, 0, NULL, NULL),
            expected[i]);
        assert_non_null(strstr(test_last_notify(), "cache_append"));
    }
    release_buffers(&on);
    release_arrays(&a);
    clmla_context_release(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(records_hold_the_rounded_values),
                                       cmocka_unit_test(wrong_records_are_refused)};
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    test_device_close();
    return failed;
}
