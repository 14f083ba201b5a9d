#include "ref/draw.h"
#include "support/support.h"

#define LITE_SEED 129 /* tests/golden/29_full_lite_prefill */
#define R1_SEED 131   /* tests/golden/31_full_r1_prefill */

/* Checksums and first patterns from the metadata of those files. */
typedef struct recipe_case {
    const char *name;
    uint64_t seed;
    size_t count;
    mla_draw_kind kind;
    int exp;
    uint64_t sum16;
    uint64_t wsum16;
    uint16_t first[4]; /* zeros: not stated */
} recipe_case;

static const recipe_case cases[] = {
    {"model.layers.0.self_attn.kv_a_layernorm.weight",
     LITE_SEED,
     512,
     MLA_DRAW_NORM,
     0,
     UINT64_C(0x00000000007ee03b),
     UINT64_C(0x000000007f2113c1),
     {0x3f76, 0x3fae, 0x3f81, 0x3f42}},
    {"model.layers.0.self_attn.q_a_layernorm.weight",
     R1_SEED,
     1536,
     MLA_DRAW_NORM,
     0,
     UINT64_C(0x00000000017c9175),
     UINT64_C(0x00000004768fb8bb),
     {0x3fa7, 0x3f46, 0x3fa1, 0x3f84}},
    {"model.layers.0.self_attn.kv_a_proj_with_mqa.weight",
     LITE_SEED,
     576 * 2048,
     MLA_DRAW_SYM,
     -5,
     UINT64_C(0x00000008bc533ffa),
     UINT64_C(0x004e9f32ec4bc6dd),
     {0xbcad, 0x3c9b, 0x3ca7, 0xbb84}},
    {"req0.init.pe_cache",
     LITE_SEED,
     512 * 64,
     MLA_DRAW_SYM,
     1,
     UINT64_C(0x000000003f5cfe75),
     UINT64_C(0x00000fd7605b7f8f),
     {0}},
    {"req0.step0.hidden_states",
     LITE_SEED,
     64 * 2048,
     MLA_DRAW_SYM,
     1,
     UINT64_C(0x00000000fe8459f5),
     UINT64_C(0x0000fed344c36d0f),
     {0}},
};
#define NUM_CASES (sizeof cases / sizeof cases[0])

static void matches_the_recipe_of_the_golden_files(void **state)
{
    (void)state;
    for (size_t i = 0; i < NUM_CASES; i++) {
        const recipe_case *c = &cases[i];
        uint16_t *patterns = malloc(c->count * sizeof *patterns);
        uint64_t sum = 0, weighted_sum = 0;
        assert_non_null(patterns);
        mla_draw(mla_draw_base(c->name, c->seed), 0, c->count, c->kind, c->exp, patterns);
        mla_draw_sums(patterns, c->count, &sum, &weighted_sum);
        if (sum != c->sum16 || weighted_sum != c->wsum16)
            fail_msg("%s: sums %016llx %016llx, expected %016llx %016llx", c->name,
                     (unsigned long long)sum, (unsigned long long)weighted_sum,
                     (unsigned long long)c->sum16, (unsigned long long)c->wsum16);
        for (size_t k = 0; k < 4 && c->first[k] != 0; k++)
            assert_int_equal(patterns[k], c->first[k]);
        free(patterns);
    }
}

static void an_element_depends_on_its_index_only(void **state)
{
    (void)state;
    const uint64_t base = mla_draw_base("some.tensor", 5);
    const mla_draw_kind kinds[] = {MLA_DRAW_SYM, MLA_DRAW_UNIT, MLA_DRAW_NORM};
    for (size_t k = 0; k < 3; k++) {
        uint16_t part[16 + 1];
        part[16] = 0x1234; /* canary */
        mla_draw(base, 1000003, 16, kinds[k], -2, part);
        for (size_t i = 0; i < 16; i++)
            assert_int_equal(part[i], mla_draw_bf16(base, 1000003 + i, kinds[k], -2));
        assert_int_equal(part[16], 0x1234);
    }
}

static void other_names_and_seeds_give_other_data(void **state)
{
    (void)state;
    assert_true(mla_draw_base("a", 1) != mla_draw_base("b", 1));
    assert_true(mla_draw_base("a", 1) != mla_draw_base("a", 2));
    assert_true(mla_draw_base("", 1) != mla_draw_base("a", 1));
}

static double value_of(uint16_t pattern)
{
    const uint32_t bits = (uint32_t)pattern << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return (double)value;
}

static void stays_in_the_range_of_its_kind_and_reaches_its_ends(void **state)
{
    (void)state;
    static const struct {
        mla_draw_kind kind;
        int exp;
        double low, high; /* smallest and largest value */
    } kinds[] = {
        {MLA_DRAW_SYM, 1, -255.0 / 128, 255.0 / 128},
        {MLA_DRAW_SYM, -4, -255.0 / 4096, 255.0 / 4096},
        {MLA_DRAW_UNIT, 0, 0.0, 255.0 / 256},
        {MLA_DRAW_NORM, 0, 0.5, 191.0 / 128},
    };
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        const uint64_t base = mla_draw_base("range", 9);
        double low = 1e9, high = -1e9;
        for (uint64_t i = 0; i < 20000; i++) {
            const double v = value_of(mla_draw_bf16(base, i, kinds[k].kind, kinds[k].exp));
            low = fmin(low, v);
            high = fmax(high, v);
        }
        assert_true(low == kinds[k].low);
        assert_true(high == kinds[k].high);
    }
}

static void sums_weigh_by_position(void **state)
{
    (void)state;
    const uint16_t patterns[] = {3, 0, 0xffff};
    uint64_t sum = 7, weighted_sum = 7;
    mla_draw_sums(patterns, 3, &sum, &weighted_sum);
    assert_true(sum == 3 + 0xffff);
    assert_true(weighted_sum == 3 + 3 * 0xffff);
    mla_draw_sums(patterns, 0, &sum, &weighted_sum);
    assert_true(sum == 0 && weighted_sum == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(matches_the_recipe_of_the_golden_files),
        cmocka_unit_test(an_element_depends_on_its_index_only),
        cmocka_unit_test(other_names_and_seeds_give_other_data),
        cmocka_unit_test(stays_in_the_range_of_its_kind_and_reaches_its_ends),
        cmocka_unit_test(sums_weigh_by_position),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
