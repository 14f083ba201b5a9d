/*
 * The cost of the seed's workloads, against figures worked out by hand from the models' sizes:
 *
 *   lite: q 6.29 M, kv_a 1.18 M, W_UK and W_UV 1.05 M each, o 4.19 M elements
 *   r1:   q_a 11.01 M, q_b 37.75 M, kv_a 4.13 M, W_UK and W_UV 8.39 M each, o 117.44 M
 *   prefill: 704 new tokens, 1472 keys, 174 432 causal pairs
 *   decode:  16 new tokens a step, 3016 keys in the first step, 4600 in the hundredth, 3808 on the
 *            average; a pair is 2 · 1088 · heads operations, a key 1152 bytes
 */
#include "cli/bench.h"
#include "support/support.h"

static const int32_t prefill_seqlens[] = {64, 128, 256, 256};
static const int32_t prefill_pastlens[] = {512, 0, 0, 256};
static const int32_t decode_seqlens[] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
static const int32_t decode_pastlens[] = {50,  50,  50,  50,  100, 100, 100, 100,
                                          200, 200, 200, 200, 400, 400, 400, 400};

typedef struct cost_case {
    const char *name;
    const char *model;
    bool decode, batched;
    int32_t num_layers, runs;
    double gflop; /* of one run on the average */
    double mb;    /* likewise, 1e6 bytes, of weights and cache */
    double rows;  /* rows of hidden_size elements in and out, per run and layer */
    bool fp8_weights, fp8_cache;
} cost_case;

static const cost_case cases[] = {
    {"lite prefill", "lite", false, true, 1, 1, 25.5, 27.5 + 1152e-6 * (1472 + 704), 1408},
    {"r1 prefill", "r1", false, true, 1, 1, 312.0, 374.2 + 1152e-6 * (1472 + 704), 1408},
    {"r1 prefill request by request reads the weights four times", "r1", false, false, 1, 1, 312.0,
     4 * 374.2 + 1152e-6 * (1472 + 704), 1408},
    {"lite decode", "lite", true, true, 1, 100, 0.440 + 0.133, 27.5 + 4.39 + 1152e-6 * 16, 32},
    {"r1 decode", "r1", true, true, 1, 100, 5.99 + 1.061, 374.2 + 4.39 + 1152e-6 * 16, 32},
    {"r1 decode request by request", "r1", true, false, 1, 100, 5.99 + 1.061,
     16 * 374.2 + 4.39 + 1152e-6 * 16, 32},
    {"two layers cost twice", "lite", false, true, 2, 3, 2 * 25.5,
     2 * (27.5 + 1152e-6 * (1472 + 704)), 2 * 1408},
    {"lite decode, FP8 weights", "lite", true, true, 1, 100, 0.440 + 0.133,
     13.77 + 4.39 + 1152e-6 * 16, 32, .fp8_weights = true},
    {"lite decode, FP8 cache: 656 bytes a key", "lite", true, true, 1, 100, 0.440 + 0.133,
     27.5 + 656e-6 * (3808 + 16), 32, .fp8_cache = true},
    {"r1 decode, both", "r1", true, true, 1, 100, 5.99 + 1.061, 187.2 + 656e-6 * (3808 + 16), 32,
     .fp8_weights = true, .fp8_cache = true},
};

static mla_common stored(bool fp8_weights, bool fp8_cache)
{
    return (mla_common){
        .dtype = CLMLA_DTYPE_BF16,
        .weights_dtype = fp8_weights ? CLMLA_DTYPE_F8_E4M3 : CLMLA_DTYPE_BF16,
        .cache_dtype = fp8_cache ? CLMLA_DTYPE_FP8_DS_MLA : CLMLA_DTYPE_BF16,
    };
}

static void costs(void **state)
{
    const cost_case *c = *state;
    const mla_common common = stored(c->fp8_weights, c->fp8_cache);
    mla_bench bench = {.common = &common, .num_layers = c->num_layers};
    const mla_workload workload = {
        .decode = c->decode,
        .num_requests = c->decode ? 16 : 4,
        .seqlens = c->decode ? decode_seqlens : prefill_seqlens,
        .pastlens = c->decode ? decode_pastlens : prefill_pastlens,
    };
    mla_lane lanes[16] = {{0}};
    const mla_cell cell = {
        .bench = &bench,
        .workload = &workload,
        .batched = c->batched,
        .num_lanes = c->batched ? 1 : workload.num_requests,
        .lanes = lanes,
    };
    assert_true(mla_bench_model(c->model, &bench.config));
    for (int32_t i = 0; i < workload.num_requests; i++) {
        mla_lane *lane = &lanes[c->batched ? 0 : i];
        lane->first_request = c->batched ? 0 : i;
        lane->num_requests++;
        lane->num_tokens += workload.seqlens[i];
    }
    const mla_cost cost = mla_cell_cost(&cell, c->runs);
    const double rows_mb = 1e-6 * 2.0 * c->rows * (double)bench.config.hidden_size;
    /* the figures above have three or four digits */
    assert_true(fabs(1e-9 * cost.flop / (double)c->runs / c->gflop - 1.0) < 2e-3);
    assert_true(fabs(1e-6 * cost.bytes / (double)c->runs / (c->mb + rows_mb) - 1.0) < 2e-3);
}

static void the_roofline_is_the_lower_ceiling(void **state)
{
    (void)state;
    const mla_cost few = {.bytes = 10.0, .flop = 20.0}, many = {.bytes = 10.0, .flop = 2000.0};
    assert_true(mla_roofline(30.0, 100.0, few) == 60.0);
    assert_true(mla_roofline(30.0, 100.0, many) == 100.0);
}

/* Two sequences of 100 keys, one of which gets three new tokens: 4 tokens, 100 + 98 + 99 + 100 pairs
 * with lite's 16 heads. */
static void attention_alone(void **state)
{
    (void)state;
    mla_common common = stored(false, false);
    mla_bench bench = {.common = &common};
    assert_true(mla_bench_model("lite", &bench.config));
    const mla_cost cost = mla_attention_cost(&bench, 4.0, 200.0, 397.0);
    assert_true(cost.bytes == 200.0 * 1152.0 + 4.0 * 16.0 * (1152.0 + 1024.0));
    assert_true(cost.flop == 397.0 * 16.0 * 2176.0);
    common = stored(true, true);
    const mla_cost records = mla_attention_cost(&bench, 4.0, 200.0, 397.0);
    assert_true(records.bytes == 200.0 * 656.0 + 4.0 * 16.0 * (1152.0 + 1024.0));
    assert_true(records.flop == cost.flop);
}

/* One token without a past in r1 with 2 heads: matrices [1536, 7168], [384, 1536], [576, 7168],
 * [512, 512] and [7168, 256] in FP8, each with a scale per block of 128 x 128, parts of one too. */
static void scales_of_fp8_weights(void **state)
{
    (void)state;
    const double elements =
        1536.0 * 7168 + 384.0 * 1536 + 576.0 * 7168 + 512.0 * 512 + 7168.0 * 256;
    const double scales = 12 * 56 + 3 * 12 + 5 * 56 + 4 * 4 + 56 * 2;
    const int32_t seqlens[] = {1}, pastlens[] = {0};
    const mla_workload workload = {
        .decode = true, .num_requests = 1, .seqlens = seqlens, .pastlens = pastlens};
    mla_lane lane = {.num_requests = 1, .num_tokens = 1};
    mla_common common = stored(false, true);
    mla_bench bench = {.common = &common, .num_layers = 1};
    const mla_cell cell = {.bench = &bench, .workload = &workload, .num_lanes = 1, .lanes = &lane};
    assert_true(mla_bench_model("r1", &bench.config));
    bench.config.num_attention_heads = 2;
    const double others = 4.0 * (1536 + 512) + 2 * 656.0 + 2 * 2.0 * 7168;
    assert_true(mla_cell_cost(&cell, 1).bytes == 2.0 * elements + others);
    common = stored(true, true);
    assert_true(mla_cell_cost(&cell, 1).bytes == elements + 4.0 * scales + others);
}

/* lite in bf16: 27.5 MB of weights; rows of 512 and 64 elements in pages of 64. */
static void memory_of_a_decode_cell(void **state)
{
    (void)state;
    mla_common common = stored(false, false);
    common.page_block_size = 64;
    mla_bench bench = {.common = &common, .num_backends = 1, .num_layers = 1};
    assert_true(mla_bench_model("lite", &bench.config));
    const mla_memory small = mla_decode_memory(&bench, 1, 1);
    const double weights = small.largest_bytes, tokens = 2.0 * 2.0 * 2048.0;
    assert_true(fabs(1e-6 * weights / 27.5 - 1.0) < 2e-3);
    assert_true(small.total_bytes == weights + 64.0 * 576.0 * 2.0 + 2.0 * tokens);
    bench.num_layers = 3;
    const mla_memory large = mla_decode_memory(&bench, 16, 32769);
    assert_true(large.largest_bytes == 16.0 * 513.0 * 64.0 * 512.0 * 2.0);
    assert_true(large.total_bytes ==
                3.0 * (weights + 16.0 * 513.0 * 64.0 * 576.0 * 2.0) + 2.0 * 16.0 * tokens);
    common.page_block_size = 0;
    assert_true(mla_decode_memory(&bench, 16, 32769).largest_bytes == 16.0 * 32769.0 * 512.0 * 2.0);
    bench.num_backends = 2; /* each has packed weights of its own */
    const mla_memory two = mla_decode_memory(&bench, 16, 32769);
    assert_true(two.total_bytes ==
                3.0 * (2.0 * weights + 16.0 * 32769.0 * 576.0 * 2.0) + 2.0 * 16.0 * tokens);
}

/* The same in FP8: 13.76 M codes packed with a scale for every 128 of them, records of 656 bytes. */
static void memory_of_a_decode_cell_in_fp8(void **state)
{
    (void)state;
    mla_common common = stored(true, true);
    mla_bench bench = {.common = &common, .num_backends = 1, .num_layers = 1};
    common.page_block_size = 64;
    assert_true(mla_bench_model("lite", &bench.config));
    const double elements = 3072.0 * 2048 + 576.0 * 2048 + 4096.0 * 512 + 2048.0 * 2048;
    const double weights = elements * (1.0 + 4.0 / 128), tokens = 2.0 * 2.0 * 2048.0;
    const mla_memory small = mla_decode_memory(&bench, 1, 1);
    assert_true(small.largest_bytes == weights);
    assert_true(small.total_bytes == weights + 64.0 * 656.0 + 2.0 * tokens);
    const mla_memory large = mla_decode_memory(&bench, 16, 32769);
    assert_true(large.largest_bytes == 16.0 * 513.0 * 64.0 * 656.0);
    assert_true(large.total_bytes == weights + 16.0 * 513.0 * 64.0 * 656.0 + 2.0 * 16.0 * tokens);
}

static void only_two_models_have_names(void **state)
{
    (void)state;
    clmla_config config = {.hidden_size = 7};
    char why[256];
    assert_false(mla_bench_model("R1", &config));
    assert_int_equal(config.hidden_size, 7);
    assert_true(mla_bench_model("lite", &config));
    assert_int_equal(clmla_config_validate(&config, why, sizeof(why)), CLMLA_SUCCESS);
    assert_int_equal(config.q_lora_rank, 0);
    assert_true(mla_bench_model("r1", &config));
    assert_int_equal(clmla_config_validate(&config, why, sizeof(why)), CLMLA_SUCCESS);
    assert_int_equal(config.q_lora_rank, 1536);
}

int main(void)
{
    enum { NUM_CASES = sizeof(cases) / sizeof(cases[0]) };
    struct CMUnitTest tests[NUM_CASES + 6];
    for (size_t i = 0; i < NUM_CASES; i++)
        tests[i] =
            (struct CMUnitTest){cases[i].name, costs, NULL, NULL, (void *)(uintptr_t)&cases[i]};
    tests[NUM_CASES] = (struct CMUnitTest)cmocka_unit_test(only_two_models_have_names);
    tests[NUM_CASES + 1] = (struct CMUnitTest)cmocka_unit_test(the_roofline_is_the_lower_ceiling);
    tests[NUM_CASES + 2] = (struct CMUnitTest)cmocka_unit_test(memory_of_a_decode_cell);
    tests[NUM_CASES + 3] = (struct CMUnitTest)cmocka_unit_test(attention_alone);
    tests[NUM_CASES + 4] = (struct CMUnitTest)cmocka_unit_test(scales_of_fp8_weights);
    tests[NUM_CASES + 5] = (struct CMUnitTest)cmocka_unit_test(memory_of_a_decode_cell_in_fp8);
    return cmocka_run_group_tests_name("bench_cost", tests, NULL, NULL);
}
