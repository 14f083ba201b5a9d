/*
 * Drawn data in FP8, against the bf16 data that it is made from.
 */
#include "cli/bench.h"
#include "cli/convert.h"
#include "core/dtype.h"
#include "core/fp8_cache.h"
#include "support/support.h"

/* Whole blocks and parts of them in every matrix; q_proj is [240, 320]. */
static const clmla_config config = {
    .struct_size = sizeof(clmla_config),
    .hidden_size = 320,
    .num_attention_heads = 3,
    .kv_lora_rank = 256,
    .qk_nope_head_dim = 48,
    .qk_rope_head_dim = 32,
    .v_head_dim = 48,
};

enum { SEED = 7, LAYER = 2, BLOCK = MLA__FP8_BLOCK };

static double to_double(const clmla_checkpoint_weight *weight, size_t i)
{
    return mla__load(weight->data, CLMLA_DTYPE_BF16, i);
}

/* A block: the scale admits its largest weight, and no more than twice that; codes are the weights
 * over it to the nearest: half of a step is 2^-4 of a normal number, or 2^-10. */
static void check_block(const clmla_checkpoint_weight *bf16, const clmla_checkpoint_weight *fp8,
                        size_t row, size_t column, double scale)
{
    const uint8_t *codes = fp8->data;
    double largest = 0.0;
    for (size_t r = row; r < row + BLOCK && r < bf16->rows; r++)
        for (size_t c = column; c < column + BLOCK && c < bf16->columns; c++) {
            const size_t i = r * (size_t)bf16->columns + c;
            const double wanted = to_double(bf16, i) / scale;
            const double error = fabs((double)mla__f8_e4m3_to_float(codes[i]) - wanted);
            largest = fmax(largest, fabs(wanted));
            assert_true(error <= fmax(0x1p-4 * fabs(wanted), 0x1p-10) * (1.0 + 1e-6));
        }
    assert_true(largest <= 448.0 * (1.0 + 1e-6) && largest > 223.0);
}

static void matrices_become_codes_with_scales(void **state)
{
    (void)state;
    mla_drawn_weights bf16, fp8;
    assert_true(mla_draw_weights(&config, LAYER, SEED, false, &bf16));
    assert_true(mla_draw_weights(&config, LAYER, SEED, true, &fp8));
    int matrices = 0;
    for (int i = 0; i < MLA_NUM_WEIGHTS; i++) {
        const clmla_checkpoint_weight *from = &bf16.weights[i], *to = &fp8.weights[i];
        assert_int_equal(from->data == NULL, to->data == NULL);
        if (from->data == NULL || from->rows == 1) { /* not there, or of a norm */
            assert_int_equal(to->dtype, from->dtype);
            assert_null(to->scale_inv);
            continue;
        }
        assert_int_equal(to->dtype, CLMLA_ST_F8_E4M3);
        assert_true(to->rows == from->rows && to->columns == from->columns);
        const float *scales = to->scale_inv;
        size_t index = 0;
        for (size_t row = 0; row < to->rows; row += BLOCK)
            for (size_t column = 0; column < to->columns; column += BLOCK, index++) {
                check_block(from, to, row, column, (double)scales[index]);
                if (index > 0) /* else one taken from another block would not show */
                    assert_true(scales[index] != scales[index - 1]);
            }
        assert_true(index > 1);
        matrices++;
    }
    assert_int_equal(matrices, 4); /* without query LoRA */
    mla_drawn_weights_release(&bf16);
    mla_drawn_weights_release(&fp8);
}

/* A group of a record is the drawn one, made smaller by a power of two and rounded to e4m3. */
static void records_are_the_drawn_rows(void **state)
{
    (void)state;
    enum { COUNT = 40, KV_LORA = 256, ROPE = 32, GROUP = MLA__FP8_GROUP, REQUEST = 3 };
    static uint16_t kv[COUNT * KV_LORA], pe[COUNT * ROPE];
    static unsigned char records[COUNT * (KV_LORA + 8 + 2 * ROPE)];
    float latent[KV_LORA], rope[ROPE];
    int seen[4] = {0};
    assert_int_equal(mla_record_bytes(&config) * COUNT, sizeof(records));
    mla_draw_past(LAYER, REQUEST, false, SEED, COUNT * KV_LORA, kv);
    mla_draw_past(LAYER, REQUEST, true, SEED, COUNT * ROPE, pe);
    assert_true(mla_draw_records(&config, LAYER, REQUEST, SEED, COUNT, records));
    for (size_t key = 0; key < COUNT; key++) {
        mla_load_record(&config, records + key * mla_record_bytes(&config), latent, rope);
        for (size_t i = 0; i < ROPE; i++)
            assert_true(rope[i] == mla__bf16_to_float(pe[key * ROPE + i]));
        for (size_t first = 0; first < KV_LORA; first += GROUP) {
            const float *drawn = latent + first;
            int shift = 0;
            while (shift < 4 && fabsf(drawn[0] * ldexpf(1.0f, shift) /
                                          mla__bf16_to_float(kv[key * KV_LORA + first]) -
                                      1.0f) > 0x1p-4f)
                shift++;
            assert_true(shift < 4);
            seen[shift]++;
            for (size_t i = 0; i < GROUP; i++) {
                const float wanted =
                    ldexpf(mla__bf16_to_float(kv[key * KV_LORA + first + i]), -shift);
                assert_true(fabsf(drawn[i] - wanted) <= 0x1p-4f * fabsf(wanted));
            }
        }
    }
    for (int i = 0; i < 4; i++)
        assert_true(seen[i] > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(matrices_become_codes_with_scales),
        cmocka_unit_test(records_are_the_drawn_rows),
    };
    return cmocka_run_group_tests_name("bench_data", tests, NULL, NULL);
}
