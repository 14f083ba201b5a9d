#include "core/config.h"
#include "support/support.h"

/* DeepSeek-R1's attention. */
static clmla_config r1(void)
{
    return (clmla_config){
        .struct_size = sizeof(clmla_config),
        .hidden_size = 7168,
        .num_attention_heads = 128,
        .q_lora_rank = 1536,
        .kv_lora_rank = 512,
        .qk_nope_head_dim = 128,
        .qk_rope_head_dim = 64,
        .v_head_dim = 128,
        .max_position_embeddings = 163840,
        .rms_norm_eps = 1e-6,
        .rope_theta = 10000.0,
        .rope_scaling = {.factor = 40.0,
                         .beta_fast = 32.0,
                         .beta_slow = 1.0,
                         .mscale = 1.0,
                         .mscale_all_dim = 1.0,
                         .original_max_position_embeddings = 4096},
    };
}

static void accepts_the_released_models_and_unusual_shapes(void **state)
{
    (void)state;
    clmla_config config = r1();
    assert_int_equal(clmla_config_validate(&config, NULL, 0), CLMLA_SUCCESS);

    config = (clmla_config){.struct_size = sizeof config,
                            .hidden_size = 1,
                            .num_attention_heads = 1,
                            .kv_lora_rank = 1,
                            .qk_nope_head_dim = 1,
                            .v_head_dim = 1};
    assert_int_equal(clmla_config_validate(&config, NULL, 0), CLMLA_SUCCESS);

    config = r1();
    config.rope_scaling = (clmla_rope_scaling){.beta_fast = -1.0, .mscale = (double)NAN};
    assert_int_equal(clmla_config_validate(&config, NULL, 0), CLMLA_SUCCESS); /* factor 0: off */
}

static void set_struct_size(clmla_config *c) { c->struct_size--; }
static void set_hidden(clmla_config *c) { c->hidden_size = 0; }
static void set_heads(clmla_config *c) { c->num_attention_heads = -1; }
static void set_heads_large(clmla_config *c) { c->num_attention_heads = 65537; }
static void set_q_lora(clmla_config *c) { c->q_lora_rank = -4; }
static void set_kv_lora(clmla_config *c) { c->kv_lora_rank = -4; }
static void set_kv_lora_large(clmla_config *c) { c->kv_lora_rank = 1048577; }
static void set_nope(clmla_config *c) { c->qk_nope_head_dim = 0; }
static void set_rope(clmla_config *c) { c->qk_rope_head_dim = -2; }
static void set_rope_odd(clmla_config *c) { c->qk_rope_head_dim = 63; }
static void set_v(clmla_config *c) { c->v_head_dim = 0; }
static void set_max_position(clmla_config *c) { c->max_position_embeddings = -1; }
static void set_eps(clmla_config *c) { c->rms_norm_eps = -1.0; }
static void set_eps_nan(clmla_config *c) { c->rms_norm_eps = (double)NAN; }
static void set_eps_tiny(clmla_config *c) { c->rms_norm_eps = 1e-50; }
static void set_theta(clmla_config *c) { c->rope_theta = (double)INFINITY; }
static void set_theta_yarn(clmla_config *c) { c->rope_theta = 1.0; }
static void set_scale(clmla_config *c) { c->softmax_scale = -0.5; }
static void set_scale_nan(clmla_config *c) { c->softmax_scale = (double)NAN; }
static void set_factor(clmla_config *c) { c->rope_scaling.factor = 0.5; }
static void set_factor_nan(clmla_config *c) { c->rope_scaling.factor = (double)NAN; }
static void set_original(clmla_config *c) { c->rope_scaling.original_max_position_embeddings = 0; }
static void set_beta_fast(clmla_config *c) { c->rope_scaling.beta_fast = -32.0; }
static void set_beta_slow(clmla_config *c) { c->rope_scaling.beta_slow = (double)NAN; }
static void set_beta_order(clmla_config *c) { c->rope_scaling.beta_fast = 0.5; }
static void set_mscale(clmla_config *c) { c->rope_scaling.mscale = 0.707; }
static void set_mscale_nan(clmla_config *c) { c->rope_scaling.mscale = (double)NAN; }
static void set_rows(clmla_config *c)
{
    c->num_attention_heads = 65536;
    c->qk_nope_head_dim = 32704;
}
static void set_value_rows(clmla_config *c)
{
    c->num_attention_heads = 65536;
    c->v_head_dim = 32640;
}

static void names_the_field_and_the_value_it_refuses(void **state)
{
    (void)state;
    static const struct {
        void (*spoil)(clmla_config *config);
        const char *parts[2]; /* both in the explanation */
    } cases[] = {
        {set_struct_size, {"struct_size", "must be"}},
        {set_hidden, {"hidden_size is 0", "must be > 0"}},
        {set_heads, {"num_attention_heads is -1", "must be > 0"}},
        {set_heads_large, {"num_attention_heads is 65537", "must be <= 65536"}},
        {set_q_lora, {"q_lora_rank is -4", "must be >= 0"}},
        {set_kv_lora, {"kv_lora_rank is -4", "must be > 0"}},
        {set_kv_lora_large, {"kv_lora_rank is 1048577", "must be <= 1048576"}},
        {set_nope, {"qk_nope_head_dim is 0", "must be > 0"}},
        {set_rope, {"qk_rope_head_dim is -2", "must be >= 0"}},
        {set_rope_odd, {"qk_rope_head_dim is 63", "must be even"}},
        {set_v, {"v_head_dim is 0", "must be > 0"}},
        {set_max_position, {"max_position_embeddings is -1", "must be >= 0"}},
        {set_eps, {"rms_norm_eps is -1", "must be finite and > 0"}},
        {set_eps_nan, {"rms_norm_eps is ", "must be finite and > 0"}},
        {set_eps_tiny, {"rms_norm_eps is 1e-50", "must be >= 1.17549e-38"}},
        {set_theta, {"rope_theta is inf", "must be finite and > 0"}},
        {set_theta_yarn, {"rope_theta is 1", "must be > 1 with YaRN"}},
        {set_scale, {"softmax_scale is -0.5", "must be finite and > 0"}},
        {set_scale_nan, {"softmax_scale is ", "must be finite and > 0"}},
        {set_factor, {"rope_scaling.factor is 0.5", "must be finite and >= 1"}},
        {set_factor_nan, {"rope_scaling.factor is ", "must be finite and >= 1"}},
        {set_original, {"original_max_position_embeddings is 0", "must be > 0"}},
        {set_beta_fast, {"beta_fast is -32", "must be finite and > 0"}},
        {set_beta_slow, {"beta_slow is ", "must be finite and > 0"}},
        {set_beta_order, {"beta_fast is 0.5", "must be >= beta_slow, which is 1"}},
        {set_mscale, {"mscale_all_dim is 1", "must equal mscale, which is 0.707"}},
        {set_mscale_nan, {"rope_scaling.mscale is ", "must be finite and > 0"}},
        {set_rows, {"(qk_nope_head_dim + qk_rope_head_dim) is 2147483648", "<= 2147483647"}},
        {set_value_rows, {"(qk_nope_head_dim + v_head_dim) is 2147483648", "<= 2147483647"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        clmla_config config = r1(), resolved;
        char why[200] = "";
        memset(&resolved, 0xa5, sizeof resolved);
        const clmla_config untouched = resolved;
        cases[i].spoil(&config);
        assert_int_equal(clmla_config_validate(&config, why, sizeof why), CLMLA_INVALID_CONFIG);
        for (size_t part = 0; part < 2; part++)
            if (strstr(why, cases[i].parts[part]) == NULL)
                fail_msg("\"%s\" does not say \"%s\"", why, cases[i].parts[part]);
        assert_int_equal(mla__config_resolve(&config, &resolved, NULL, 0), CLMLA_INVALID_CONFIG);
        assert_memory_equal(&resolved, &untouched, sizeof resolved);
    }
}

static void keeps_the_explanation_inside_its_buffer(void **state)
{
    (void)state;
    clmla_config config = r1();
    char why[16];
    memset(why, '#', sizeof why);
    config.hidden_size = -1;
    assert_int_equal(clmla_config_validate(&config, why, 8), CLMLA_INVALID_CONFIG);
    assert_string_equal(why, "hidden_");
    assert_int_equal(why[8], '#');
    assert_int_equal(clmla_config_validate(&config, why, 0), CLMLA_INVALID_CONFIG);
    assert_int_equal(clmla_config_validate(NULL, why, sizeof why), CLMLA_INVALID_CONFIG);
    assert_string_equal(why, "config is NULL");
}

static void fills_defaults(void **state)
{
    (void)state;
    clmla_config config = r1(), resolved;
    config.rms_norm_eps = 0.0;
    config.rope_theta = 0.0;
    config.rope_scaling =
        (clmla_rope_scaling){.factor = 2.0, .original_max_position_embeddings = 10};
    assert_int_equal(mla__config_resolve(&config, &resolved, NULL, 0), CLMLA_SUCCESS);
    assert_true(resolved.rms_norm_eps == 1e-6);
    assert_true(resolved.rope_theta == 10000.0);
    assert_true(resolved.rope_scaling.beta_fast == 32.0);
    assert_true(resolved.rope_scaling.beta_slow == 1.0);
    assert_true(resolved.rope_scaling.mscale == 1.0);
    assert_true(resolved.rope_scaling.mscale_all_dim == 1.0);
    assert_true(resolved.softmax_scale == 0.0);

    config.rope_scaling.mscale = 0.707;
    assert_int_equal(mla__config_resolve(&config, &resolved, NULL, 0), CLMLA_SUCCESS);
    assert_true(resolved.rope_scaling.mscale_all_dim == 0.707);
}

static void keeps_what_was_given(void **state)
{
    (void)state;
    clmla_config config = r1(), resolved;
    config.rms_norm_eps = 1e-5;
    config.rope_theta = 500.0;
    config.rope_scaling.beta_fast = 16.0;
    config.rope_scaling.beta_slow = 2.0;
    assert_int_equal(mla__config_resolve(&config, &resolved, NULL, 0), CLMLA_SUCCESS);
    assert_memory_equal(&resolved, &config, sizeof config);
}

/* Expected values computed with 50 digits. */
static void softmax_scale_follows_the_formula(void **state)
{
    (void)state;
    clmla_config config = r1();
    assert_true(fabs(clmla_config_softmax_scale(&config) - 0.1352337788608801) < 1e-15);

    config.rope_scaling.mscale = config.rope_scaling.mscale_all_dim = 0.707;
    assert_true(fabs(clmla_config_softmax_scale(&config) - 0.11472138679292611) < 1e-15);

    config.rope_scaling.mscale = config.rope_scaling.mscale_all_dim = 0.0; /* default 1 */
    assert_true(fabs(clmla_config_softmax_scale(&config) - 0.1352337788608801) < 1e-15);

    config.rope_scaling.factor = 0.0;
    assert_true(fabs(clmla_config_softmax_scale(&config) - 0.07216878364870322) < 1e-16);
    config.rope_scaling.factor = 1.0;
    assert_true(fabs(clmla_config_softmax_scale(&config) - 0.07216878364870322) < 1e-16);

    config.softmax_scale = 0.25;
    assert_true(clmla_config_softmax_scale(&config) == 0.25);
}

static void derives_sizes(void **state)
{
    (void)state;
    clmla_config config = r1();
    assert_int_equal(mla__config_qk_head_dim(&config), 192);
    assert_int_equal(mla__config_kv_dim(&config), 576);
    assert_int_equal(mla__config_q_in(&config), 1536);
    config.q_lora_rank = 0;
    assert_int_equal(mla__config_q_in(&config), 7168);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(accepts_the_released_models_and_unusual_shapes),
        cmocka_unit_test(names_the_field_and_the_value_it_refuses),
        cmocka_unit_test(keeps_the_explanation_inside_its_buffer),
        cmocka_unit_test(fills_defaults),
        cmocka_unit_test(keeps_what_was_given),
        cmocka_unit_test(softmax_scale_follows_the_formula),
        cmocka_unit_test(derives_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
