#include "faults/ops.h"

enum { ROWS = 3, DIM = 40, HEADS = 2, ROPE = 8, LATENT = DIM - ROPE, KEYS = 16 };

static test_buffer drawn(size_t count, clmla_dtype dtype, uint64_t seed)
{
    double *values = malloc(count * sizeof(double));
    test_random random = {seed};
    assert_non_null(values);
    for (size_t i = 0; i < count; i++)
        values[i] = test_random_uniform(&random, -1.0, 1.0);
    const test_buffer made = test_buffer_of_doubles(values, count, dtype);
    free(values);
    return made;
}

static clmla_sequences sequences_of(const op_world *w)
{
    return (clmla_sequences){.num_sequences = 1,
                             .num_tokens = ROWS,
                             .max_cache_seqlen = KEYS,
                             .num_pages = 1,
                             .page_block_size = KEYS,
                             .cu_seqlens_q = w->cu.tensor,
                             .cache_seqlens = w->lengths.tensor};
}

static clmla_status rmsnorm(op_world *w, cl_event *event)
{
    const clmla_rmsnorm_params p = {.struct_size = sizeof p,
                                    .num_tokens = ROWS,
                                    .dim = DIM,
                                    .x = w->x.tensor,
                                    .weight = w->weight.tensor,
                                    .y = w->y.tensor};
    return clmla_enqueue_rmsnorm(w->context, &p, w->queue, w->wait != NULL, w->wait, event);
}

static clmla_status rope(op_world *w, cl_event *event)
{
    const clmla_rope_params p = {.struct_size = sizeof p,
                                 .num_tokens = ROWS,
                                 .num_heads = HEADS,
                                 .rope_dim = ROPE,
                                 .x = w->y.tensor,
                                 .cos_sin = w->table.tensor};
    return clmla_enqueue_rope(w->context, &p, w->queue, w->wait != NULL, w->wait, event);
}

static clmla_status cache_append(op_world *w, cl_event *event)
{
    const clmla_cache_append_params p = {.struct_size = sizeof p,
                                         .kv_lora_rank = LATENT,
                                         .rope_dim = ROPE,
                                         .sequences = sequences_of(w),
                                         .kv_a = w->x.tensor,
                                         .kv_a_layernorm = w->weight.tensor,
                                         .cos_sin = w->table.tensor,
                                         .kv_cache = w->y.tensor,
                                         .pe_cache = w->pe.tensor};
    return clmla_enqueue_cache_append(w->context, &p, w->queue, w->wait != NULL, w->wait, event);
}

static clmla_status projection(op_world *w, cl_event *event)
{
    const clmla_projection_params p = {.struct_size = sizeof p,
                                       .matrix = w->matrix,
                                       .num_rows = ROWS,
                                       .x = w->x.tensor,
                                       .y = w->y.tensor,
                                       .workspace = w->cache.tensor};
    return clmla_enqueue_projection(w->context, &p, w->queue, w->wait != NULL, w->wait, event);
}

static clmla_status merge_states(op_world *w, cl_event *event)
{
    const clmla_merge_states_params p = {.struct_size = sizeof p,
                                         .num_states = ROWS,
                                         .num_tokens = 1,
                                         .num_heads = 1,
                                         .dim = DIM,
                                         .partial_out = w->x.tensor,
                                         .partial_lse = w->weight.tensor,
                                         .out = w->y.tensor};
    return clmla_enqueue_merge_states(w->context, &p, w->queue, w->wait != NULL, w->wait, event);
}

void ops_reset(void *at)
{
    const op_world *w = at;
    assert_int_equal(clEnqueueWriteBuffer(test_device_get()->queue, w->y.tensor.buffer, CL_TRUE,
                                          (size_t)w->y.tensor.offset_bytes, w->y.bytes, w->start, 0,
                                          NULL, NULL),
                     CL_SUCCESS);
}

clmla_status ops_run(void *at)
{
    op_world *w = at;
    cl_event event = NULL;
    const clmla_status status = w->enqueue(w, &event);
    assert_true((event != NULL) == (status == CLMLA_SUCCESS));
    if (event != NULL)
        assert_int_equal(clReleaseEvent(event), CL_SUCCESS);
    return status;
}

void ops_check(void *at)
{
    op_world *w = at;
    unsigned char *bytes = malloc(w->y.bytes);
    assert_non_null(bytes);
    test_buffer_read(&w->y, bytes);
    if (w->expected == NULL) {
        assert_memory_not_equal(bytes, w->start, w->y.bytes);
        w->expected = bytes;
        return;
    }
    assert_memory_equal(bytes, w->expected, w->y.bytes);
    free(bytes);
}

void ops_check_untouched(void *at)
{
    const op_world *w = at;
    unsigned char *bytes = malloc(w->y.bytes);
    assert_non_null(bytes);
    test_buffer_read(&w->y, bytes);
    assert_memory_equal(bytes, w->start, w->y.bytes);
    free(bytes);
}

op_world ops_make(clmla_kernel_class kernel_class, clmla_projection_backend backend)
{
    static const int32_t cu[] = {0, ROWS}, lengths[] = {KEYS};
    op_world w = {.context = test_context(kernel_class, backend),
                  .queue = test_device_get()->queue,
                  .x = drawn(ROWS * DIM, CLMLA_DTYPE_F32, 1),
                  .weight = drawn(DIM * DIM, CLMLA_DTYPE_F32, 2),
                  .y = test_buffer_poisoned(KEYS * DIM * sizeof(float), CLMLA_DTYPE_F32),
                  .table = drawn(ROWS * ROPE, CLMLA_DTYPE_F32, 3),
                  .cache = test_buffer_poisoned(1 << 20, CLMLA_DTYPE_F32),
                  .pe = test_buffer_poisoned(KEYS * ROPE * sizeof(float), CLMLA_DTYPE_F32),
                  .cu = test_buffer_of(cu, sizeof cu, CLMLA_DTYPE_I32),
                  .lengths = test_buffer_of(lengths, sizeof lengths, CLMLA_DTYPE_I32)};
    const clmla_matrix_params matrix = {.struct_size = sizeof matrix,
                                        .source = {.tensor = w.weight.tensor},
                                        .out_features = DIM,
                                        .in_features = DIM,
                                        .dtype = CLMLA_DTYPE_F32};
    assert_int_equal(clmla_matrix_create(w.context, &matrix, test_device_get()->queue, &w.matrix),
                     CLMLA_SUCCESS);
    test_buffer start = drawn(KEYS * DIM, CLMLA_DTYPE_F32, 4);
    w.start = malloc(w.y.bytes);
    assert_non_null(w.start);
    test_buffer_read(&start, w.start);
    test_buffer_release(&start);
    return w;
}

const char *ops_choose(op_world *w, int op)
{
    static const struct {
        const char *name;
        clmla_status (*enqueue)(op_world *w, cl_event *event);
    } ops[NUM_OPS] = {{"rmsnorm", rmsnorm},
                      {"rope", rope},
                      {"cache_append", cache_append},
                      {"projection", projection},
                      {"merge_states", merge_states}};
    w->enqueue = ops[op].enqueue;
    free(w->expected);
    w->expected = NULL;
    return ops[op].name;
}

void ops_release(op_world *w)
{
    free(w->start);
    free(w->expected);
    test_buffer *const buffers[] = {&w->x,     &w->weight, &w->y,  &w->table,
                                    &w->cache, &w->pe,     &w->cu, &w->lengths};
    for (size_t i = 0; i < sizeof buffers / sizeof buffers[0]; i++)
        test_buffer_release(buffers[i]);
    clmla_matrix_release(w->matrix);
    clmla_context_release(w->context);
}
