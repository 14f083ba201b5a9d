/* What must not change a row of attention's result by a single bit, on every path: NaN
 * that the row does not see, the cache's layout, other sequences, chunks, token blocks, the queue.
 */
#include "ops/attention_tests.h"

enum { HEADS = 4 };

/* ---- not a number --------------------------------------------------------------------------- */

static const attention_batch chunk = {
    .num_heads = HEADS, STANDARD, SEQUENCES(mixed), .page_block_size = 7};

static bool same_row(const attention_batch *b, const attention_result *x, size_t row_x,
                     const attention_result *y, size_t row_y)
{
    const size_t latent = (size_t)b->kv_lora_rank, bytes = latent * sizeof(double);
    return memcmp(x->out + row_x * latent, y->out + row_y * latent, bytes) == 0 &&
           memcmp(x->lse + row_x, y->lse + row_y, sizeof(double)) == 0;
}

static bool row_is_nan(const attention_batch *b, const attention_result *r, size_t row)
{
    for (size_t i = 0; i < (size_t)b->kv_lora_rank; i++)
        if (!isnan(r->out[row * (size_t)b->kv_lora_rank + i]))
            return false;
    return isnan(r->lse[row]);
}

/* Keys of both places in a pair. */
static void a_nan_key_reaches_the_rows_that_see_it_and_no_other(void **state)
{
    clmla_context *context = open_path(state);
    const struct {
        int32_t splits;
        size_t key;
    } runs[] = {{1, 23}, {3, 23}, {1, 24}, {3, 24}};
    for (size_t k = 0; k < COUNT(runs); k++) {
        attention_batch batch = on_path(state, &chunk);
        batch.num_splits = runs[k].splits;
        attention_result clean = attention_run(context, &batch);
        batch.nan_key = 1 + (int32_t)runs[k].key;
        attention_result result = attention_run(context, &batch);
        for (size_t r = 0; r < MIXED_TOKENS * HEADS; r++) {
            /* the first sequence's token i is at position 17 + i */
            const bool sees = r / HEADS < 13 && 17 + r / HEADS >= runs[k].key;
            if (sees ? !row_is_nan(&batch, &result, r) : !same_row(&batch, &result, r, &clean, r))
                fail_msg("%d splits: row %zu %s", (int)runs[k].splits, r,
                         sees ? "sees a NaN and is none" : "changed by a key it does not see");
        }
        attention_result_release(&clean);
        attention_result_release(&result);
    }
    clmla_context_release(context);
}

static void a_nan_query_stays_in_its_row(void **state)
{
    clmla_context *context = open_path(state);
    const int32_t splits[] = {1, 3};
    for (size_t k = 0; k < COUNT(splits); k++) {
        attention_batch batch = on_path(state, &chunk);
        batch.num_splits = splits[k];
        attention_result clean = attention_run(context, &batch);
        batch.nan_row = 1 + 7;
        attention_result result = attention_run(context, &batch);
        for (size_t r = 0; r < 13 * HEADS; r++)
            assert_true(r == 7 ? row_is_nan(&batch, &result, r)
                               : same_row(&batch, &result, r, &clean, r));
        attention_result_release(&clean);
        attention_result_release(&result);
    }
    clmla_context_release(context);
}

/* ---- the same bits -------------------------------------------------------------------------- */

static void cache_layout_does_not_change_a_bit(void **state)
{
    clmla_context *context = open_path(state);
    const struct {
        int32_t page_block_size, gap;
        bool fused;
    } layouts[] = {{0, 0, false}, {1, 0, false}, {3, 0, true}, {64, 5, false}, {16, 2, true}};
    attention_result first = {NULL, NULL};
    for (size_t i = 0; i < COUNT(layouts); i++) {
        attention_batch batch = on_path(state, &chunk);
        batch.page_block_size = layouts[i].page_block_size;
        batch.gap = layouts[i].gap;
        batch.fused = layouts[i].fused;
        attention_result result = attention_run(context, &batch);
        for (size_t r = 0; i > 0 && r < MIXED_TOKENS * HEADS; r++)
            if (!same_row(&batch, &result, r, &first, r))
                fail_msg("layout %zu: row %zu differs", i, r);
        if (i == 0)
            first = result;
        else
            attention_result_release(&result);
    }
    attention_result_release(&first);
    clmla_context_release(context);
}

static void every_tile_of_tensor_cores_has_the_same_bits(void **state)
{
    clmla_context *context = open_path(state);
    const int32_t splits[] = {1, 3}, tiles[] = {16, 32, MLA__ATTENTION_LARGE_ROWS};
    for (size_t k = 0; k < COUNT(splits); k++) {
        attention_batch batch = on_path(state, &chunk);
        attention_result first = {NULL, NULL};
        batch.num_splits = splits[k];
        for (size_t t = 0; t < COUNT(tiles); t++) {
            batch.tile_rows = tiles[t];
            attention_result result = attention_run(context, &batch);
            for (size_t r = 0; t > 0 && r < MIXED_TOKENS * HEADS; r++)
                if (!same_row(&batch, &result, r, &first, r))
                    fail_msg("%d splits, tile of %d rows: row %zu differs", (int)splits[k],
                             (int)tiles[t], r);
            if (t == 0)
                first = result;
            else
                attention_result_release(&result);
        }
        attention_result_release(&first);
    }
    clmla_context_release(context);
}

/* Alone and batched; split_tokens 0: one split. */
static void a_sequence_has_the_same_bits_alone_and_batched(void **state)
{
    clmla_context *context = open_path(state);
    const int32_t split_tokens[] = {0, 24, 32};
    for (size_t k = 0; k < COUNT(split_tokens); k++) {
        attention_batch batch = on_path(state, &chunk);
        batch.num_splits = 1;
        batch.split_tokens = split_tokens[k];
        attention_result together = attention_run(context, &batch);
        size_t row = 0;
        for (size_t s = 0; s < COUNT(mixed); s++) {
            batch.num_sequences = 1;
            batch.sequences = &mixed[s];
            attention_result alone = attention_run(context, &batch);
            for (size_t r = 0; r < (size_t)mixed[s].new_tokens * HEADS; r++, row++)
                if (!same_row(&batch, &alone, r, &together, row))
                    fail_msg("split_tokens %d: sequence %zu, row %zu differs alone",
                             (int)split_tokens[k], s, r);
            attention_result_release(&alone);
        }
        attention_result_release(&together);
    }
    clmla_context_release(context);
}

static void a_prefill_has_the_same_bits_in_chunks_and_whole(void **state)
{
    clmla_context *context = open_path(state);
    const int32_t split_tokens[] = {0, 24, 32}, chunks[] = {1, 7, 16};
    for (size_t k = 0; k < COUNT(split_tokens); k++) {
        attention_batch batch = on_path(state, &chunk);
        batch.num_splits = 1;
        batch.split_tokens = split_tokens[k];
        batch.num_sequences = 1;
        batch.sequences = prefill;
        attention_result whole = attention_run(context, &batch);
        for (size_t c = 0; c < COUNT(chunks); c++)
            for (int32_t begin = 0; begin < prefill->keys; begin += chunks[c]) {
                const int32_t left = prefill->keys - begin;
                const int32_t n = left < chunks[c] ? left : chunks[c];
                const attention_sequence part = {prefill->id, n, begin + n};
                batch.sequences = &part;
                attention_result result = attention_run(context, &batch);
                for (size_t r = 0; r < (size_t)n * HEADS; r++)
                    if (!same_row(&batch, &result, r, &whole, (size_t)begin * HEADS + r))
                        fail_msg("split_tokens %d, chunk at %d, row %zu differs",
                                 (int)split_tokens[k], (int)begin, r);
                attention_result_release(&result);
            }
        attention_result_release(&whole);
    }
    clmla_context_release(context);
}

/* The step's tensors hold all tokens; a block's begin at its first token. */
static clmla_attention_params of_block(const attention_problem *p, int32_t begin, int32_t tokens)
{
    clmla_attention_params params = p->params;
    clmla_tensor *const rows[] = {&params.q_lat, &params.q_pe, &params.out};
    for (size_t i = 0; i < COUNT(rows); i++)
        rows[i]->offset_bytes +=
            (uint64_t)begin * rows[i]->strides[0] * mla__dtype_bytes(rows[i]->dtype);
    params.softmax_lse.offset_bytes += (uint64_t)begin * (uint64_t)params.num_heads * sizeof(float);
    params.sequences.num_tokens = tokens;
    return params;
}

static void token_blocks_have_the_same_bits_as_the_whole_step(void **state)
{
    clmla_context *context = open_path(state);
    const cl_command_queue queue = test_device_get()->queue;
    const int32_t ends[] = {1, 5, 13, 14, 15, 18, MIXED_TOKENS + 2};
    attention_batch batch = on_path(state, &chunk);
    batch.num_splits = 3;
    batch.extra_tokens = 2;
    attention_result whole = attention_run(context, &batch);
    attention_problem p = attention_problem_make(context, &batch);
    int32_t begin = 0;
    for (size_t i = 0; i < COUNT(ends); i++) {
        const int32_t tokens = ends[i] - begin;
        const clmla_attention_params params = of_block(&p, begin, tokens);
        const mla__attention_step step = {.num_sequences = (int32_t)COUNT(mixed),
                                          .token_begin = begin,
                                          .num_tokens = tokens,
                                          .num_splits = 3,
                                          .split_tokens = 22};
        mla__attention op = {.num_heads = 0};
        mla__stream stream;
        uint64_t bytes = 0;
        assert_int_equal(
            mla__attention_split_bytes(context, tokens, HEADS, batch.kv_lora_rank, 3, &bytes), 0);
        assert_int_equal(mla__attention_bind_steps(context, &params, bytes, NULL, &op),
                         CLMLA_SUCCESS);
        assert_int_equal(mla__stream_begin(&stream, queue, 0, NULL), CLMLA_SUCCESS);
        assert_int_equal(mla__attention_warm(&op, &stream), CLMLA_SUCCESS);
        attention_keep_tile(&op, batch.tile_rows); /* the others have no rows from here on */
        assert_int_equal(mla__attention_enqueue(&op, &stream, &step), CLMLA_SUCCESS);
        assert_int_equal(clFinish(queue), CL_SUCCESS);
        mla__attention_step too_much = step;
        too_much.num_splits = 4;
        assert_int_equal(mla__attention_enqueue(&op, &stream, &too_much), CLMLA_INTERNAL);
        mla__attention_release(&op);
        begin = ends[i];
    }
    assert_int_equal(begin, p.num_tokens);
    double *out = doubles((size_t)begin * HEADS * (size_t)batch.kv_lora_rank),
           *lse = doubles((size_t)begin * HEADS);
    attention_problem_read(&p, out, lse);
    const attention_result blocks = {out, lse};
    for (size_t r = 0; r < (size_t)begin * HEADS; r++)
        if (!same_row(&batch, &blocks, r, &whole, r))
            fail_msg("row %zu differs", r);
    free(out);
    free(lse);
    attention_result_release(&whole);
    attention_problem_release(&p);
    clmla_context_release(context);
}

static void an_out_of_order_queue_with_events_gives_the_same_bits(void **state)
{
    const test_device *device = test_device_get();
    if (device->out_of_order == NULL) {
        print_message("skipped: the device has no out-of-order queues\n");
        skip();
    }
    clmla_context *context = open_path(state);
    attention_batch batch = on_path(state, &chunk);
    batch.num_splits = 3;
    attention_result expected = attention_run(context, &batch);
    attention_problem p = attention_problem_make(context, &batch);
    cl_int status = CL_SUCCESS;
    const cl_event gate = clCreateUserEvent(device->context, &status);
    cl_event done = NULL;
    assert_int_equal(status, CL_SUCCESS);
    assert_int_equal(attention_problem_enqueue(context, &p, device->out_of_order, 1, &gate, &done),
                     CLMLA_SUCCESS);
    assert_int_equal(clSetUserEventStatus(gate, CL_COMPLETE), CL_SUCCESS);
    assert_int_equal(clWaitForEvents(1, &done), CL_SUCCESS);
    const size_t rows = (size_t)p.num_tokens * HEADS;
    const attention_result result = {doubles(rows * (size_t)batch.kv_lora_rank), doubles(rows)};
    attention_problem_read(&p, result.out, result.lse);
    for (size_t r = 0; r < rows; r++)
        assert_true(same_row(&batch, &result, r, &expected, r));
    (void)clReleaseEvent(gate);
    (void)clReleaseEvent(done);
    free(result.out);
    free(result.lse);
    attention_result_release(&expected);
    attention_problem_release(&p);
    clmla_context_release(context);
}

int main(void)
{
    PATHS;
    const struct CMUnitTest tests[] = {
        ALL_PATHS(a_nan_key_reaches_the_rows_that_see_it_and_no_other),
        ALL_PATHS(a_nan_query_stays_in_its_row),
        ALL_PATHS(cache_layout_does_not_change_a_bit),
        ON_PATH(every_tile_of_tensor_cores_has_the_same_bits, nvidia_large),
        ALL_PATHS(a_sequence_has_the_same_bits_alone_and_batched),
        ALL_PATHS(a_prefill_has_the_same_bits_in_chunks_and_whole),
        ALL_PATHS(token_blocks_have_the_same_bits_as_the_whole_step),
        ALL_PATHS(an_out_of_order_queue_with_events_gives_the_same_bits),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    test_device_close();
    return failed;
}
