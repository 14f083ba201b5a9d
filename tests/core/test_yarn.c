#include "core/config.h"
#include "core/yarn.h"
#include "support/support.h"

#define MAX_PAIRS 32

typedef struct rope_case {
    const char *name;
    double theta; /* 0: the default */
    int32_t rope;
    double factor;
    int32_t original;
    int32_t num_checked;
    struct {
        int32_t pair;
        double freq; /* computed with 50 digits from the formula in yarn.h */
    } checked[6];
} rope_case;

static const rope_case cases[] = {
    {"plain",
     0,
     64,
     0,
     0,
     4,
     {{0, 1.0}, {1, 0.7498942093324559}, {16, 0.01}, {31, 0.0001333521432163324}}},
    {"DeepSeek-R1: blends from pair 10 to pair 23",
     0,
     64,
     40,
     4096,
     6,
     {{0, 1.0},
      {10, 0.05623413251903491},
      {11, 0.03900692656714386},
      {16, 0.0055},
      {23, 3.33380358040831e-05},
      {31, 3.33380358040831e-06}}},
    {"short original context: low is cut at 0",
     0,
     14,
     6,
     50,
     4,
     {{0, 1.0}, {1, 0.156490588057984}, {2, 0.011994761216685867}, {6, 6.2126562005249e-05}}},
    {"low equals high: a step after pair 0",
     0,
     8,
     4,
     3,
     4,
     {{0, 1.0}, {1, 0.025}, {2, 0.0025}, {3, 0.00025}}},
    {"a factor of 1 changes nothing", 0, 64, 1, 4096, 2, {{16, 0.01}, {31, 0.0001333521432163324}}},
    {"another theta", 100.0, 4, 0, 0, 2, {{0, 1.0}, {1, 0.1}}},
};
#define NUM_CASES (sizeof cases / sizeof cases[0])

static clmla_config config_of(const rope_case *c)
{
    const clmla_config config = {
        .struct_size = sizeof config,
        .hidden_size = 64,
        .num_attention_heads = 1,
        .kv_lora_rank = 64,
        .qk_nope_head_dim = 64,
        .qk_rope_head_dim = c->rope,
        .v_head_dim = 64,
        .rope_theta = c->theta,
        .rope_scaling = {.factor = c->factor, .original_max_position_embeddings = c->original},
    };
    clmla_config resolved;
    assert_int_equal(mla__config_resolve(&config, &resolved, NULL, 0), CLMLA_SUCCESS);
    return resolved;
}

static void frequencies_follow_the_formula(void **state)
{
    (void)state;
    for (size_t i = 0; i < NUM_CASES; i++) {
        const clmla_config config = config_of(&cases[i]);
        double freq[MAX_PAIRS + 1];
        freq[cases[i].rope / 2] = -7.0; /* canary */
        mla__rope_frequencies(&config, freq);
        for (int32_t k = 0; k < cases[i].num_checked; k++) {
            const double expected = cases[i].checked[k].freq;
            const double got = freq[cases[i].checked[k].pair];
            if (!(fabs(got - expected) <= 1e-14 * expected))
                fail_msg("%s: pair %d is %.17g, expected %.17g", cases[i].name,
                         cases[i].checked[k].pair, got, expected);
        }
        assert_true(freq[cases[i].rope / 2] == -7.0);
    }
}

/* position · turns modulo 2^64, as a fraction of a turn, against the fraction of position · freq /
 * 2π. A double of at most 26076 turns (position 163840, freq 1) is off by up to 2^-39 of a turn. */
static void turns_are_the_angle_modulo_a_turn(void **state)
{
    (void)state;
    const int64_t positions[] = {0, 1, 2, 4095, 4096, 100003, 163840};
    for (size_t i = 0; i < NUM_CASES; i++) {
        const clmla_config config = config_of(&cases[i]);
        double freq[MAX_PAIRS];
        uint64_t turns[MAX_PAIRS + 1];
        turns[cases[i].rope / 2] = 77; /* canary */
        mla__rope_frequencies(&config, freq);
        mla__rope_turns(&config, turns);
        assert_true(turns[cases[i].rope / 2] == 77);
        for (int32_t j = 0; j < cases[i].rope / 2; j++)
            for (size_t p = 0; p < sizeof positions / sizeof positions[0]; p++) {
                const double fixed = ldexp((double)((uint64_t)positions[p] * turns[j]), -64);
                const double exact = (double)positions[p] * freq[j] / 6.283185307179586476925;
                const double difference = remainder(fixed - exact, 1.0);
                if (!(fabs(difference) <= 0x1p-36))
                    fail_msg("%s: pair %d position %lld is off by %g turns", cases[i].name, j,
                             (long long)positions[p], difference);
            }
    }
}

/* Computed with 50 digits; the frequency is a double, so 2^-52 of the value may be missing. */
static void turns_are_as_exact_as_the_frequency(void **state)
{
    (void)state;
    static const struct {
        int32_t pair;
        uint64_t turns;
    } expected[] = {
        {0, UINT64_C(2935890503282001226)},
        {16, UINT64_C(16147397768051007)},
        {31, UINT64_C(9787682271528)},
    };
    const clmla_config config = config_of(&cases[1]);
    uint64_t turns[MAX_PAIRS];
    mla__rope_turns(&config, turns);
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        const double difference = (double)(int64_t)(turns[expected[i].pair] - expected[i].turns);
        assert_true(fabs(difference) <= 0x1p-50 * (double)expected[i].turns);
    }
}

/* freq > 2π is possible with theta < 1: whole turns of one position do not count. */
static void turns_drop_whole_turns(void **state)
{
    (void)state;
    const rope_case fast = {.theta = 1e-4, .rope = 4};
    const clmla_config config = config_of(&fast);
    uint64_t turns[2];
    mla__rope_turns(&config, turns);
    const double expected = fmod(100.0 / 6.283185307179586476925, 1.0); /* theta^(-2/4) = 100 */
    assert_true(fabs(ldexp((double)turns[1], -64) - expected) < 1e-13);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frequencies_follow_the_formula),
        cmocka_unit_test(turns_are_the_angle_modulo_a_turn),
        cmocka_unit_test(turns_are_as_exact_as_the_frequency),
        cmocka_unit_test(turns_drop_whole_turns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
