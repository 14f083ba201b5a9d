/* Plans: what is refused, device tables, advance. */
#include "support/layer_fixture.h"
#include "support/table.h"

enum { PAGE = 8, PAGES = FIXTURE_MAX_KEYS / PAGE };

static fixture make(void)
{
    const fixture_options options = {.config = fixture_config(0),
                                     .kernel_class = CLMLA_KERNELS_CPU,
                                     .projection = CLMLA_PROJECTION_NATIVE,
                                     .dtype = CLMLA_DTYPE_F32,
                                     .page_block_size = PAGE};
    return fixture_create(&options);
}

static clmla_status enqueue(const fixture *f, const clmla_step *step)
{
    return clmla_enqueue_plan(f->plan, step, test_device_get()->queue, 0, NULL, NULL);
}

/* ---- refused --------------------------------------------------------------------------------- */

typedef struct bad_step {
    const char *name;
    clmla_status status;
    const char *text; /* part of the notify text */
    int32_t num_sequences;
    int32_t cu[4], lengths[3];
    int32_t bad_page, bad_page_at; /* block_table[0, bad_page_at] */
    int32_t block_table_stride;
} bad_step;

static const bad_step bad_steps[] = {
    {"cu does not begin at 0", CLMLA_INVALID_SEQUENCE, "cu_seqlens_q[0] is 1", 1, {1, 2}, {9}},
    {"cu decreases", CLMLA_INVALID_SEQUENCE, "cu_seqlens_q[2] is 3", 2, {0, 5, 3}, {9, 9}},
    {"too many tokens", CLMLA_CAPACITY_EXCEEDED, "max_num_tokens is 64", 1, {0, 65}, {70}},
    {"fewer keys than new tokens",
     CLMLA_INVALID_SEQUENCE,
     "cache_seqlens[1] is 1",
     2,
     {0, 2, 4},
     {2, 1}},
    {"negative length", CLMLA_INVALID_SEQUENCE, "cache_seqlens[0] is -1", 1, {0, 0}, {-1}},
    {"more keys than the cache holds",
     CLMLA_CAPACITY_EXCEEDED,
     "max_cache_seqlen is 96",
     1,
     {0, 1},
     {97}},
    {"page out of the cache",
     CLMLA_INVALID_BLOCK_TABLE,
     "block_table[0, 1] is 2147480000",
     1,
     {0, 1},
     {PAGE + 1},
     2147480000,
     1},
    {"negative page",
     CLMLA_INVALID_BLOCK_TABLE,
     "block_table[0, 0] is -1",
     1,
     {0, 1},
     {PAGE},
     -1,
     0},
    {"table too narrow",
     CLMLA_INVALID_BLOCK_TABLE,
     "needs 3 pages",
     1,
     {0, 1},
     {2 * PAGE + 1},
     0,
     0,
     2},
    {"too many sequences", CLMLA_CAPACITY_EXCEEDED, "num_sequences is 9", 9, {0}, {0}},
    {"negative sequences", CLMLA_CAPACITY_EXCEEDED, "num_sequences is -1", -1, {0}, {0}},
};

static void refuses(void **state)
{
    const bad_step *c = *state;
    fixture f = make();
    int32_t table[PAGES];
    const int32_t good_past[1] = {4}, good_new[1] = {2};
    for (int i = 0; i < PAGES; i++)
        table[i] = c->bad_page != 0 && i == c->bad_page_at ? c->bad_page : i;
    assert_int_equal(fixture_plan(&f, 1, good_past, good_new), CLMLA_SUCCESS);
    const clmla_step step = {.struct_size = sizeof(step),
                             .num_sequences = c->num_sequences,
                             .cu_seqlens_q = c->cu,
                             .cache_seqlens = c->lengths,
                             .block_table = table,
                             .block_table_stride = c->block_table_stride};
    test_clear_notify();
    assert_int_equal(enqueue(&f, &step), c->status);
    if (strstr(test_last_notify(), c->text) == NULL)
        fail_msg("notify says '%s', not '%s'", test_last_notify(), c->text);
    /* The former step is still there. */
    clmla_sequences kept;
    assert_int_equal(clmla_plan_get_tables(f.plan, &kept, NULL, NULL), CLMLA_SUCCESS);
    assert_int_equal(kept.num_tokens, 2);
    assert_int_equal(kept.max_cache_seqlen, 6);
    fixture_release(&f);
}

static void refuses_a_struct_of_the_future(void **state)
{
    (void)state;
    fixture f = make();
    const int32_t cu[1] = {0};
    const clmla_step step = {.struct_size = sizeof(step) + 8, .cu_seqlens_q = cu};
    assert_int_equal(enqueue(&f, &step), CLMLA_INVALID_ARGUMENT);
    assert_int_equal(enqueue(&f, NULL), CLMLA_INVALID_ARGUMENT);
    fixture_release(&f);
}

static void refuses_to_advance_past_the_pages(void **state)
{
    (void)state;
    fixture f = make();
    const int32_t past[2] = {FIXTURE_MAX_KEYS - 2, 3}, one[2] = {1, 1}, back[2] = {0, -4};
    const cl_command_queue queue = test_device_get()->queue;
    assert_int_equal(clmla_enqueue_advance(f.plan, NULL, queue, 0, NULL, NULL),
                     CLMLA_INVALID_STATE);
    assert_int_equal(fixture_plan(&f, 2, past, one), CLMLA_SUCCESS);
    assert_int_equal(clmla_enqueue_advance(f.plan, NULL, queue, 0, NULL, NULL), CLMLA_SUCCESS);
    assert_int_equal(clmla_enqueue_advance(f.plan, NULL, queue, 0, NULL, NULL),
                     CLMLA_CAPACITY_EXCEEDED);
    /* Nothing was advanced: sequence 1 has 5 keys, so 4 back leave 1, and 5 would leave none. */
    assert_int_equal(clmla_enqueue_advance(f.plan, back, queue, 0, NULL, NULL), CLMLA_SUCCESS);
    assert_int_equal(clmla_enqueue_advance(f.plan, back, queue, 0, NULL, NULL),
                     CLMLA_CAPACITY_EXCEEDED);
    fixture_release(&f);
}

/* ---- tables ---------------------------------------------------------------------------------- */

static void read_table(const clmla_tensor *tensor, void *data, size_t count)
{
    assert_int_equal(clEnqueueReadBuffer(test_device_get()->queue, tensor->buffer, CL_TRUE,
                                         (size_t)tensor->offset_bytes, 4 * count, data, 0, NULL,
                                         NULL),
                     CL_SUCCESS);
}

static void derives_positions_and_advances_them(void **state)
{
    (void)state;
    fixture f = make();
    const int32_t past[4] = {3, 0, 7, 50}, n[4] = {2, 3, 0, 1}, deltas[4] = {-1, 2, 5, 1};
    static const int32_t first[6] = {3, 4, 0, 1, 2, 50}, second[6] = {2, 3, 2, 3, 4, 51};
    int32_t positions[6], lengths[4];
    clmla_sequences sequences;
    clmla_tensor position_table;
    assert_int_equal(fixture_plan(&f, 4, past, n), CLMLA_SUCCESS);
    assert_int_equal(clmla_plan_get_tables(f.plan, &sequences, &position_table, NULL),
                     CLMLA_SUCCESS);
    read_table(&position_table, positions, 6);
    assert_memory_equal(positions, first, sizeof(first));
    assert_int_equal(clmla_enqueue_advance(f.plan, deltas, test_device_get()->queue, 0, NULL, NULL),
                     CLMLA_SUCCESS);
    read_table(&position_table, positions, 6);
    assert_memory_equal(positions, second, sizeof(second));
    read_table(&sequences.cache_seqlens, lengths, 4);
    for (int b = 0; b < 4; b++)
        assert_int_equal(lengths[b], past[b] + n[b] + deltas[b]);
    fixture_release(&f);
}

/* The same step from host arrays and from device tables gives the same output. */
static void device_tables_equal_host_arrays(void **state)
{
    (void)state;
    fixture f = make();
    const int32_t past[3] = {9, 0, 20}, n[3] = {1, 4, 2}, cu[4] = {0, 1, 5, 7},
                  lengths[3] = {10, 4, 22};
    const size_t width = (size_t)f.options.config.hidden_size;
    const cl_command_queue queue = test_device_get()->queue;
    double *hidden = fixture_draw_hidden(&f, 7, 4);
    double *a = malloc(7 * width * sizeof(double)), *b = malloc(7 * width * sizeof(double));
    for (int32_t s = 0; s < 3; s++)
        fixture_set_past(&f, s, past[s], 60 + (uint64_t)s);
    fixture_set_hidden(&f, hidden, 0, 7);
    assert_int_equal(fixture_plan(&f, 3, past, n), CLMLA_SUCCESS);
    assert_int_equal(clmla_enqueue_layer(f.binding, f.plan, queue, 0, NULL, NULL), CLMLA_SUCCESS);
    fixture_get_output(&f, a, 0, 7);
    test_buffer cu_table = test_buffer_of(cu, sizeof(cu), CLMLA_DTYPE_I32);
    test_buffer length_table = test_buffer_of(lengths, sizeof(lengths), CLMLA_DTYPE_I32);
    test_buffer block_table =
        test_buffer_of(f.block_table, 3 * (size_t)f.pages * sizeof(int32_t), CLMLA_DTYPE_I32);
    const clmla_step step = {.struct_size = sizeof(step),
                             .num_sequences = 3,
                             .cu_seqlens_q_table = cu_table.tensor,
                             .cache_seqlens_table = length_table.tensor,
                             .block_table_table = block_table.tensor,
                             .num_tokens = 9,
                             .max_cache_seqlen = 40};
    clmla_status error = -1;
    assert_int_equal(enqueue(&f, &step), CLMLA_SUCCESS);
    assert_int_equal(clmla_enqueue_layer(f.binding, f.plan, queue, 0, NULL, NULL), CLMLA_SUCCESS);
    fixture_get_output(&f, b, 0, 7);
    assert_int_equal(clmla_plan_get_error(f.plan, queue, &error), CLMLA_SUCCESS);
    assert_int_equal(error, CLMLA_SUCCESS);
    assert_memory_equal(a, b, 7 * width * sizeof(double));
    test_buffer_release(&cu_table);
    test_buffer_release(&length_table);
    test_buffer_release(&block_table);
    free(hidden);
    free(a);
    free(b);
    fixture_release(&f);
}

/* A bad page in a device table empties its sequence only, and is remembered until asked for. */
static void a_bad_device_table_empties_its_sequence(void **state)
{
    (void)state;
    fixture f = make();
    const int32_t cu[3] = {0, 1, 2}, lengths[2] = {10, 10};
    const size_t width = (size_t)f.options.config.hidden_size;
    const size_t latent = (size_t)f.options.config.kv_lora_rank;
    const cl_command_queue queue = test_device_get()->queue;
    int32_t *table = malloc(2 * (size_t)f.pages * sizeof(int32_t));
    memcpy(table, f.block_table, 2 * (size_t)f.pages * sizeof(int32_t));
    table[1] = 2147480000; /* holds key 9 of sequence 0 */
    double *hidden = fixture_draw_hidden(&f, 2, 4), *out = malloc(2 * width * sizeof(double));
    double *expected = malloc(width * sizeof(double));
    double *kv = malloc(10 * latent * sizeof(double)), *pe = malloc(10 * 12 * sizeof(double));
    fixture_set_past(&f, 0, 9, 1);
    fixture_set_past(&f, 1, 9, 2);
    fixture_set_hidden(&f, hidden, 0, 2);
    test_buffer cu_table = test_buffer_of(cu, sizeof(cu), CLMLA_DTYPE_I32);
    test_buffer length_table = test_buffer_of(lengths, sizeof(lengths), CLMLA_DTYPE_I32);
    test_buffer block_table =
        test_buffer_of(table, 2 * (size_t)f.pages * sizeof(int32_t), CLMLA_DTYPE_I32);
    const clmla_step step = {.struct_size = sizeof(step),
                             .num_sequences = 2,
                             .cu_seqlens_q_table = cu_table.tensor,
                             .cache_seqlens_table = length_table.tensor,
                             .block_table_table = block_table.tensor,
                             .num_tokens = 2};
    clmla_status error = -1;
    assert_int_equal(enqueue(&f, &step), CLMLA_SUCCESS);
    assert_int_equal(clmla_enqueue_layer(f.binding, f.plan, queue, 0, NULL, NULL), CLMLA_SUCCESS);
    fixture_get_output(&f, out, 0, 2);
    for (size_t i = 0; i < width; i++) /* nothing attended: ctx = 0, so y = 0 */
        assert_true(out[i] == 0.0);
    fixture_reference(&f, 1, 9, 1, hidden + width, expected);
    test_close("the other sequence", out + width, expected, width, 5e-6);
    fixture_get_cache(&f, 0, 10, kv, pe);
    for (size_t i = 0; i < latent; i++) /* key 9 was not appended: still poison */
        assert_true(isnan(kv[9 * latent + i]));
    assert_int_equal(clmla_plan_get_error(f.plan, queue, &error), CLMLA_SUCCESS);
    assert_int_equal(error, CLMLA_INVALID_BLOCK_TABLE);
    assert_int_equal(clmla_plan_get_error(f.plan, queue, &error), CLMLA_SUCCESS);
    assert_int_equal(error, CLMLA_SUCCESS);
    test_buffer_release(&cu_table);
    test_buffer_release(&length_table);
    test_buffer_release(&block_table);
    free(table);
    free(hidden);
    free(out);
    free(expected);
    free(kv);
    free(pe);
    fixture_release(&f);
}

/* Steps enqueued behind a gate: no upload may be lost or overwritten before it is read. */
static void uploads_do_not_wait_nor_overwrite_each_other(void **state)
{
    enum { STEPS = 5 };
    (void)state;
    fixture f = make();
    const cl_command_queue queue = test_device_get()->queue;
    cl_int error;
    const cl_event gate = clCreateUserEvent(test_device_get()->context, &error);
    assert_int_equal(error, CL_SUCCESS);
    int32_t lengths[STEPS];
    clmla_sequences sequences;
    assert_int_equal(clmla_plan_get_tables(f.plan, &sequences, NULL, NULL), CLMLA_SUCCESS);
    for (int32_t i = 0; i < STEPS; i++) {
        const int32_t cu[2] = {0, 1}, length[1] = {10 * (i + 1)};
        const clmla_step step = {.struct_size = sizeof(step),
                                 .num_sequences = 1,
                                 .cu_seqlens_q = cu,
                                 .cache_seqlens = length,
                                 .block_table = f.block_table};
        assert_int_equal(
            clmla_enqueue_plan(f.plan, &step, queue, i == 0, i == 0 ? &gate : NULL, NULL),
            CLMLA_SUCCESS);
        assert_int_equal(clEnqueueReadBuffer(queue, sequences.cache_seqlens.buffer, CL_FALSE,
                                             (size_t)sequences.cache_seqlens.offset_bytes, 4,
                                             &lengths[i], 0, NULL, NULL),
                         CL_SUCCESS);
    }
    assert_int_equal(clSetUserEventStatus(gate, CL_COMPLETE), CL_SUCCESS);
    assert_int_equal(clFinish(queue), CL_SUCCESS);
    for (int32_t i = 0; i < STEPS; i++)
        assert_int_equal(lengths[i], 10 * (i + 1));
    clReleaseEvent(gate);
    fixture_release(&f);
}

int main(int argc, char **argv)
{
    const test_table table = TEST_TABLE(refuses, bad_steps);
    const struct CMUnitTest others[] = {
        cmocka_unit_test(refuses_a_struct_of_the_future),
        cmocka_unit_test(refuses_to_advance_past_the_pages),
        cmocka_unit_test(derives_positions_and_advances_them),
        cmocka_unit_test(device_tables_equal_host_arrays),
        cmocka_unit_test(a_bad_device_table_empties_its_sequence),
        cmocka_unit_test(uploads_do_not_wait_nor_overwrite_each_other),
    };
    return test_run("plan", argc, argv, &table, 1, TEST_AND(others));
}
