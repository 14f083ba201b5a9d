/* The table of cos and sin against long double, the rotation against the reference. */
#include "core/config.h"
#include "core/yarn.h"
#include "ops/rope.h"
#include "ops/rows.h"
#include "ref/mla_ref.h"

enum { BF16 = CLMLA_DTYPE_BF16, F16 = CLMLA_DTYPE_F16, F32 = CLMLA_DTYPE_F32 };
enum { I32 = CLMLA_DTYPE_I32, MAX_SEQUENCES = 8, MAX_HALF = 64 };

static clmla_config config_of(int32_t rope_dim, bool yarn)
{
    clmla_config config = {.struct_size = sizeof config,
                           .hidden_size = 64,
                           .num_attention_heads = 2,
                           .kv_lora_rank = 32,
                           .qk_nope_head_dim = 16,
                           .qk_rope_head_dim = rope_dim,
                           .v_head_dim = 16};
    if (yarn)
        config.rope_scaling =
            (clmla_rope_scaling){.factor = 40, .original_max_position_embeddings = 4096};
    return config;
}

/* ---- the table ------------------------------------------------------------------------------- */

typedef struct table_case {
    const char *name;
    int32_t rope_dim;
    bool yarn;
    int32_t num_sequences;
    int32_t new_tokens[MAX_SEQUENCES];
    int32_t cache_seqlens[MAX_SEQUENCES];
    int32_t spare_tokens; /* rows past the last sequence */
    size_t gap;           /* floats between the end of a row of cos_sin and the next */
    bool no_positions;
} table_case;

/* clang-format off */
static const table_case table_cases[] = {
    {"a prompt from position 0",
     64, false, 1, {5}, {5}, 0, 0, false},
    {"positions up to the largest of an int32, plain frequencies",
     64, false, 5, {1, 1, 2, 1, 1}, {1, 2, 4096, 163841, 2147483647}, 0, 0, false},
    {"positions up to the largest of an int32, YaRN",
     64, true, 5, {1, 1, 2, 1, 3}, {1, 2, 4096, 163841, 2147483647}, 0, 0, false},
    {"sequences without new tokens, rows past the last token",
     8, false, 6, {0, 3, 0, 0, 2, 0}, {9, 4, 0, 7, 100, 3}, 4, 0, false},
    {"a sequence that the plan made empty",
     6, true, 3, {2, 3, 1}, {5, 0, 70}, 1, 0, false},
    {"one pair, rows apart",
     2, false, 2, {3, 2}, {30, 2000000000}, 2, 3, false},
    {"positions not wanted",
     34, true, 2, {2, 1}, {17, 1}, 1, 0, true},
    {"more pairs than work-items",
     126, true, 2, {2, 1}, {163840, 1}, 0, 1, false},
    {"no rope part: positions only",
     0, false, 2, {2, 1}, {17, 1}, 1, 0, false},
    {"no sequences",
     8, false, 0, {0}, {0}, 3, 0, false},
};
/* clang-format on */

/* position of each token, -1 where it has none; returns the number of tokens */
static int32_t list_positions(const table_case *c, int32_t *cu, int32_t *positions)
{
    cu[0] = 0;
    for (int32_t b = 0; b < c->num_sequences; b++) {
        cu[b + 1] = cu[b] + c->new_tokens[b];
        for (int32_t i = 0; i < c->new_tokens[b]; i++) {
            const int32_t position = c->cache_seqlens[b] - c->new_tokens[b] + i;
            positions[cu[b] + i] = position < 0 ? -1 : position;
        }
    }
    const int32_t total = cu[c->num_sequences] + c->spare_tokens;
    for (int32_t t = cu[c->num_sequences]; t < total; t++)
        positions[t] = -1;
    return total;
}

static void check_table(const table_case *c, const clmla_config *config, const int32_t *positions,
                        size_t tokens, const float *cos_sin)
{
    const size_t rope = (size_t)c->rope_dim, stride = rope + c->gap;
    const long double turn = 6.283185307179586476925286766559005768L;
    double freq[MAX_HALF];
    clmla_config resolved;
    assert_int_equal(mla__config_resolve(config, &resolved, NULL, 0), 0);
    mla__rope_frequencies(&resolved, freq);
    for (size_t at = 0; at < tokens * stride; at++) {
        const size_t t = at / stride, i = at % stride;
        if (i >= rope) {
            check_poison(c->name, (const unsigned char *)cos_sin, F32, at);
            continue;
        }
        const long double angle =
            positions[t] < 0 ? 0.0L
                             : fmodl((long double)positions[t] * (long double)freq[i / 2], turn);
        const double expected = (double)(i % 2 == 0 ? cosl(angle) : sinl(angle));
        if (positions[t] < 0 ? (double)cos_sin[at] != expected
                             : !(fabs((double)cos_sin[at] - expected) <= 3e-7))
            fail_msg("%s: position %d, pair %zu: %.9g, expected %.9g", c->name, positions[t], i / 2,
                     (double)cos_sin[at], expected);
    }
}

static void run_table(const table_case *c, clmla_context *context)
{
    int32_t cu[MAX_SEQUENCES + 1], positions[64] = {0}, got[64] = {0};
    const size_t tokens = (size_t)list_positions(c, cu, positions);
    const size_t count = tokens * ((size_t)c->rope_dim + c->gap);
    const clmla_config config = config_of(c->rope_dim, c->yarn);
    const size_t sequences = (size_t)c->num_sequences;
    test_buffer cu_buffer = test_buffer_of(cu, (sequences + 1) * 4, I32);
    test_buffer len_buffer = test_buffer_of(c->cache_seqlens, sequences * 4, I32);
    test_buffer position_buffer = test_buffer_poisoned(tokens * 4, I32);
    test_buffer cos_sin_buffer = test_buffer_poisoned(count * 4 + 4, F32);
    clmla_rope_table_params params = {.struct_size = sizeof params,
                                      .config = &config,
                                      .sequences = {.num_sequences = c->num_sequences,
                                                    .num_tokens = (int32_t)tokens,
                                                    .cu_seqlens_q = cu_buffer.tensor,
                                                    .cache_seqlens = len_buffer.tensor},
                                      .positions = position_buffer.tensor,
                                      .cos_sin = cos_sin_buffer.tensor};
    params.cos_sin.strides[0] = (size_t)c->rope_dim + c->gap;
    if (c->no_positions)
        params.positions = (clmla_tensor){.buffer = NULL};
    assert_int_equal(
        clmla_enqueue_rope_table(context, &params, test_device_get()->queue, 0, NULL, NULL), 0);

    float *cos_sin = malloc(count * 4 + 4);
    assert_non_null(cos_sin);
    test_buffer_read(&cos_sin_buffer, cos_sin);
    check_table(c, &config, positions, tokens, cos_sin);
    test_buffer_read(&position_buffer, got);
    for (size_t t = 0; t < tokens; t++)
        assert_int_equal(got[t], c->no_positions ? -1 : positions[t]);
    test_buffer_unchanged("cu_seqlens_q", &cu_buffer, cu);
    test_buffer_unchanged("cache_seqlens", &len_buffer, c->cache_seqlens);
    free(cos_sin);
    test_buffer_release(&cu_buffer);
    test_buffer_release(&len_buffer);
    test_buffer_release(&position_buffer);
    test_buffer_release(&cos_sin_buffer);
}

static void angles_are_right_at_every_position(void **state)
{
    (void)state;
    for (size_t k = 0; k < 2; k++) {
        clmla_context *context = test_context(both_classes[k], CLMLA_PROJECTION_AUTO);
        for (size_t i = 0; i < sizeof table_cases / sizeof table_cases[0]; i++)
            run_table(&table_cases[i], context);
        clmla_context_release(context);
    }
}

/* One prompt as long as a model's longest context, R1's rope part; by default every 61st position
 * with YaRN on class cpu. */
static void angles_are_right_up_to_the_longest_context(void **state)
{
    enum { POSITIONS = 163841, ROPE = 64, DEFAULT_STEP = 61 };
    (void)state;
    const int32_t cu[] = {0, POSITIONS}, length[] = {POSITIONS};
    const int32_t step = test_all() ? 1 : DEFAULT_STEP;
    for (size_t k = 0; k < (test_all() ? 4 : 1); k++) {
        const table_case c = {.name = "longest context", .rope_dim = ROPE, .yarn = k / 2 == 0};
        const clmla_config config = config_of(c.rope_dim, c.yarn);
        clmla_context *context = test_context(both_classes[k % 2], CLMLA_PROJECTION_AUTO);
        test_buffer cu_buffer = test_buffer_of(cu, sizeof cu, I32);
        test_buffer length_buffer = test_buffer_of(length, sizeof length, I32);
        test_buffer cos_sin_buffer = test_buffer_poisoned((size_t)POSITIONS * ROPE * 4, F32);
        const clmla_rope_table_params params = {
            .struct_size = sizeof params,
            .config = &config,
            .sequences = {.num_sequences = 1,
                          .num_tokens = POSITIONS,
                          .cu_seqlens_q = cu_buffer.tensor,
                          .cache_seqlens = length_buffer.tensor},
            .cos_sin = cos_sin_buffer.tensor};
        float *cos_sin = malloc((size_t)POSITIONS * ROPE * 4);
        assert_non_null(cos_sin);
        assert_int_equal(
            clmla_enqueue_rope_table(context, &params, test_device_get()->queue, 0, NULL, NULL), 0);
        test_buffer_read(&cos_sin_buffer, cos_sin);
        for (int32_t position = 0; position < POSITIONS; position += step)
            check_table(&c, &config, &position, 1, cos_sin + (size_t)position * ROPE);
        free(cos_sin);
        test_buffer_release(&cu_buffer);
        test_buffer_release(&length_buffer);
        test_buffer_release(&cos_sin_buffer);
        clmla_context_release(context);
    }
}

/* As a plan uses it: bound once for its limits, enqueued with a step's counts. */
static void a_bound_table_follows_the_counts(void **state)
{
    (void)state;
    const int32_t cu[] = {0, 2, 3, 6}, len[] = {2, 9, 3};
    const int32_t expected[] = {0, 1, -1, -1, -1, -1}; /* one sequence, four tokens of six */
    const clmla_config config = config_of(8, false);
    for (size_t k = 0; k < 2; k++) {
        clmla_context *context = test_context(both_classes[k], CLMLA_PROJECTION_AUTO);
        test_buffer cu_buffer = test_buffer_of(cu, sizeof cu, I32);
        test_buffer len_buffer = test_buffer_of(len, sizeof len, I32);
        test_buffer positions = test_buffer_poisoned(6 * 4, I32);
        test_buffer cos_sin = test_buffer_poisoned(6 * 8 * 4, F32);
        unsigned char *poison = poisoned(6 * 8, F32);
        const clmla_rope_table_params params = {.struct_size = sizeof params,
                                                .config = &config,
                                                .sequences = {.num_sequences = 3,
                                                              .num_tokens = 6,
                                                              .cu_seqlens_q = cu_buffer.tensor,
                                                              .cache_seqlens = len_buffer.tensor},
                                                .positions = positions.tensor,
                                                .cos_sin = cos_sin.tensor};
        mla__rope_table op;
        mla__stream stream;
        int32_t got[6];
        float table[6 * 8];
        assert_int_equal(mla__rope_table_bind(context, &params, &op), 0);
        assert_int_equal(mla__stream_begin(&stream, test_device_get()->queue, 0, NULL), 0);
        assert_int_equal(mla__rope_table_warm(&op, &stream), 0);
        test_buffer_unchanged("cos_sin after warm", &cos_sin, poison);
        assert_int_equal(mla__rope_table_enqueue(&op, &stream, 1, 4), 0);
        test_buffer_read(&positions, got);
        test_buffer_read(&cos_sin, table);
        assert_memory_equal(got, expected, sizeof got);
        assert_true(fabs((double)table[8] - cos(1.0)) <= 3e-7);
        for (size_t i = 4 * 8; i < 6 * 8; i++)
            check_poison("rows past the count", (unsigned char *)table, F32, i);
        mla__rope_table_release(&op);
        clmla_context_release(context);
        test_buffer_release(&cu_buffer);
        test_buffer_release(&len_buffer);
        test_buffer_release(&positions);
        test_buffer_release(&cos_sin);
        free(poison);
    }
}

/* ---- the rotation ---------------------------------------------------------------------------- */

typedef struct rope_case {
    const char *name;
    int32_t tokens, heads, rope_dim;
    size_t nope;      /* elements of a head in front of its rope part */
    size_t token_gap; /* elements between the last head of a token and the next token */
    int32_t token_begin;
    clmla_dtype dtype;
} rope_case;

static const rope_case rope_cases[] = {
    {"one pair", 1, 1, 2, 0, 0, 0, F32},
    {"q_pe within q, bf16", 3, 4, 64, 128, 0, 0, BF16},
    {"odd number of pairs, f16", 5, 3, 14, 18, 5, 0, F16},
    {"a later block of the step, f32", 4, 2, 6, 1, 3, 9, F32},
    {"more heads than a work-group has items, bf16", 2, 131, 8, 3, 1, 2, BF16},
    {"dense", 7, 1, 130, 0, 0, 1, F32},
};

/* cos_sin of positions 3·t + 1 in float, dense. */
static void fill_cos_sin(const double *freq, size_t tokens, size_t half, float *cos_sin)
{
    for (size_t i = 0; i < tokens * half; i++) {
        const double angle = (double)(3 * (i / half) + 1) * freq[i % half];
        cos_sin[2 * i] = (float)cos(angle);
        cos_sin[2 * i + 1] = (float)sin(angle);
    }
}

static void check_rotated(const rope_case *c, const double *freq, const unsigned char *before,
                          const unsigned char *after, size_t count)
{
    const size_t rope = (size_t)c->rope_dim, head = c->nope + rope, heads = (size_t)c->heads;
    const size_t token = heads * head + c->token_gap, bytes = mla__dtype_bytes(c->dtype);
    double x[2 * MAX_HALF + 2] = {0.0};
    for (size_t at = 0; at < count; at++) {
        const size_t t = at / token, in_token = at % token, i = in_token % head;
        if (in_token >= heads * head || i < c->nope) {
            assert_memory_equal(before + at * bytes, after + at * bytes, bytes);
            continue;
        }
        const size_t j = i - c->nope, first = at - j, partner = j ^ 1;
        for (size_t e = 0; e < rope; e++)
            x[e] = mla__load(before, c->dtype, first + e);
        const double size = fabs(x[j]) + fabs(x[partner]);
        mla_ref_rope(rope, freq, 3 * ((int64_t)t + c->token_begin) + 1, x);
        /* cos and sin are rounded, so is each product and the sum: at most four roundings */
        check_element(c->name, at / head, j, c->dtype, mla__load(after, c->dtype, at), x[j],
                      4 * 0x1p-24 * size);
    }
}

static void run_rope(const rope_case *c, clmla_context *context)
{
    const size_t rope = (size_t)c->rope_dim, half = rope / 2, head = c->nope + rope;
    const size_t token = (size_t)c->heads * head + c->token_gap;
    const size_t count = (size_t)c->tokens * token;
    const size_t steps = (size_t)(c->tokens + c->token_begin);
    double freq[MAX_HALF + 1];
    test_random random = {.state = 17};
    for (size_t j = 0; j < half; j++)
        freq[j] = pow(10000.0, -2.0 * (double)j / (double)rope);
    float *table = malloc(steps * rope * sizeof(float));
    unsigned char *x = poisoned(count, c->dtype), *after = poisoned(count, c->dtype);
    assert_non_null(table);
    fill_cos_sin(freq, steps, half, table);
    for (size_t at = 0; at < count; at++) {
        const size_t in_token = at % token;
        if (in_token < (size_t)c->heads * head && in_token % head >= c->nope)
            (void)put_random(x, c->dtype, at, &random);
    }
    test_buffer x_buffer = test_buffer_of(x, count * mla__dtype_bytes(c->dtype), c->dtype);
    test_buffer table_buffer = test_buffer_of(table, steps * rope * sizeof(float), F32);
    const clmla_rope_params params = {.struct_size = sizeof params,
                                      .num_tokens = c->tokens,
                                      .num_heads = c->heads,
                                      .rope_dim = c->rope_dim,
                                      .x = view_of(&x_buffer, c->nope, token, head),
                                      .cos_sin = table_buffer.tensor};
    mla__rope op;
    mla__stream stream;
    assert_int_equal(mla__rope_bind(context, &params, &op), 0);
    assert_int_equal(mla__stream_begin(&stream, test_device_get()->queue, 0, NULL), 0);
    assert_int_equal(mla__rope_enqueue(&op, &stream, c->token_begin, 0), 0);
    test_buffer_unchanged("x after no token", &x_buffer, x);
    assert_int_equal(mla__rope_enqueue(&op, &stream, c->token_begin, c->tokens), 0);
    test_buffer_read(&x_buffer, after);
    check_rotated(c, freq, x, after, count);
    test_buffer_unchanged("cos_sin", &table_buffer, table);
    mla__rope_release(&op);
    test_buffer_release(&x_buffer);
    test_buffer_release(&table_buffer);
    free(table);
    free(x);
    free(after);
}

static void pairs_are_rotated_in_place(void **state)
{
    (void)state;
    for (size_t k = 0; k < 2; k++) {
        clmla_context *context = test_context(both_classes[k], CLMLA_PROJECTION_AUTO);
        for (size_t i = 0; i < sizeof rope_cases / sizeof rope_cases[0]; i++)
            if (!test_too_long((size_t)(rope_cases[i].heads * rope_cases[i].rope_dim)))
                run_rope(&rope_cases[i], context);
        clmla_context_release(context);
    }
}

static void bad_arguments_are_refused(void **state)
{
    (void)state;
    clmla_context *context = test_context(CLMLA_KERNELS_CPU, CLMLA_PROJECTION_AUTO);
    cl_command_queue queue = test_device_get()->queue;
    test_buffer x = test_buffer_poisoned(64 * 4, F32), table = test_buffer_poisoned(64 * 4, F32);
    const clmla_rope_params good = {.struct_size = sizeof good,
                                    .num_tokens = 4,
                                    .num_heads = 2,
                                    .rope_dim = 8,
                                    .x = x.tensor,
                                    .cos_sin = table.tensor};
    clmla_rope_params bad[5];
    const clmla_status expected[5] = {CLMLA_INVALID_TENSOR_SHAPE, CLMLA_INVALID_TENSOR_SHAPE,
                                      CLMLA_BUFFER_TOO_SMALL, CLMLA_INVALID_TENSOR_DTYPE,
                                      CLMLA_INVALID_STRIDE};
    for (size_t i = 0; i < 5; i++)
        bad[i] = good;
    bad[0].rope_dim = 7;
    bad[1].num_heads = 0;
    bad[2].num_tokens = 400;
    bad[3].cos_sin.dtype = BF16;
    bad[4].x.strides[1] = 6;
    for (size_t i = 0; i < 5; i++) {
        test_clear_notify();
        assert_int_equal(clmla_enqueue_rope(context, &bad[i], queue, 0, NULL, NULL), expected[i]);
        assert_non_null(strstr(test_last_notify(), "rope"));
    }
    clmla_rope_params nothing = good;
    nothing.rope_dim = 0;
    assert_int_equal(clmla_enqueue_rope(context, &nothing, queue, 0, NULL, NULL), 0);

    clmla_rope_table_params no_config = {.struct_size = sizeof no_config};
    assert_int_equal(clmla_enqueue_rope_table(context, &no_config, queue, 0, NULL, NULL),
                     CLMLA_INVALID_ARGUMENT);
    clmla_config odd = config_of(7, false);
    no_config.config = &odd;
    assert_int_equal(clmla_enqueue_rope_table(context, &no_config, queue, 0, NULL, NULL),
                     CLMLA_INVALID_CONFIG);
    clmla_context_release(context);
    test_buffer_release(&x);
    test_buffer_release(&table);
}

/* An argument is a pattern of names: the tests to run. */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(angles_are_right_at_every_position),
        cmocka_unit_test(angles_are_right_up_to_the_longest_context),
        cmocka_unit_test(a_bound_table_follows_the_counts),
        cmocka_unit_test(pairs_are_rotated_in_place),
        cmocka_unit_test(bad_arguments_are_refused),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    test_device_close();
    return failed;
}
