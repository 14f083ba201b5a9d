/* Every tensor of a job is looked at, FP8 with its scales, and the one that does not fit is named. */
#include "cli/range.h"
#include "support/support.h"

enum { ROWS = 2, COLUMNS = 130, HIDDEN = 4 };

typedef struct small_case {
    uint16_t weight[ROWS * COLUMNS], cache[ROWS * COLUMNS], hidden[2 * HIDDEN];
    uint8_t codes[ROWS * COLUMNS];
    float scales[2]; /* of columns 0 .. 127 and 128 .. 129 */
    mla_array steps_hidden[2];
    int32_t steps[2];
    mla_job job;
} small_case;

static void make(small_case *c)
{
    *c = (small_case){.scales = {1.0f, 1.0f}, .steps = {1, 1}};
    c->steps_hidden[0] = (mla_array){c->hidden, CLMLA_DTYPE_BF16};
    c->steps_hidden[1] = (mla_array){c->hidden + HIDDEN, CLMLA_DTYPE_BF16};
    c->job = (mla_job){
        .config = {.hidden_size = HIDDEN, .kv_lora_rank = COLUMNS, .qk_rope_head_dim = COLUMNS},
        .layer = 3,
        .weights = {.q_proj = {c->weight, CLMLA_ST_BF16, ROWS, COLUMNS, NULL},
                    .o_proj = {c->codes, CLMLA_ST_F8_E4M3, ROWS, COLUMNS, c->scales}},
        .num_requests = 1};
    c->job.requests[0] = (mla_request){.prefix = "req0.",
                                       .batch = 1,
                                       .past = ROWS,
                                       .num_steps = 2,
                                       .steps = c->steps,
                                       .kv_cache = {c->cache, CLMLA_DTYPE_BF16},
                                       .pe_cache = {c->cache, CLMLA_DTYPE_BF16},
                                       .hidden = c->steps_hidden};
}

static void names(small_case *c, const char *tensor, double value)
{
    mla_outlier outlier;
    assert_false(mla_job_fits(&c->job, MLA_F16_MAX, &outlier));
    assert_string_equal(outlier.tensor, tensor);
    assert_int_equal(outlier.is_weight, strstr(tensor, "self_attn") != NULL);
    assert_true(outlier.value == value);
}

enum { BF16_65280 = 0x477f, BF16_65536 = 0x4780, BF16_MINUS_65536 = 0xc780, BF16_NAN = 0x7fff };

static void what_fits(void **state)
{
    (void)state;
    small_case c;
    mla_outlier outlier;
    make(&c);
    c.weight[7] = BF16_65280;
    c.hidden[0] = BF16_NAN;
    c.codes[129] = 0x7e; /* 448 */
    c.scales[1] = 146.0f;
    assert_true(mla_job_fits(&c.job, MLA_F16_MAX, &outlier));
}

static void what_does_not(void **state)
{
    (void)state;
    small_case c;
    make(&c);
    c.weight[ROWS * COLUMNS - 1] = BF16_MINUS_65536;
    names(&c, "model.layers.3.self_attn.q_proj.weight", -65536.0);
    make(&c);
    c.codes[COLUMNS + 129] = 0x7e;
    c.scales[1] = 147.0f;
    names(&c, "model.layers.3.self_attn.o_proj.weight", 448.0 * 147.0);
    make(&c);
    c.cache[ROWS * COLUMNS - 1] = BF16_65536;
    names(&c, "req0.init.kv_cache", 65536.0);
    c.job.requests[0].kv_cache.data = c.weight;
    names(&c, "req0.init.pe_cache", 65536.0);
    make(&c);
    c.hidden[2 * HIDDEN - 1] = BF16_65536;
    names(&c, "req0.step1.hidden_states", 65536.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(what_fits),
                                       cmocka_unit_test(what_does_not)};
    return cmocka_run_group_tests_name("range", tests, NULL, NULL);
}
