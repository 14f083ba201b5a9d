/* CLBlast's parameters keep CLBlast's own constraints, and fit what the slabs are padded to. */
#include "support/support.h"
#include "tuning/clblast_records.h"

/* Slabs: columns in multiples of 64, k of 32 (src/ops/projection_clblast.c). */
enum { COLUMNS = 64, K = 32 };

static void check_record(const mla__clblast_record *record)
{
    const mla__clblast_xgemm *x = &record->xgemm;
    assert_int_equal(x->gemmk, 0); /* how the operands lie */
    assert_int_equal(x->kwg % x->kwi, 0);
    assert_int_equal(x->mwg % (x->mdimc * x->vwm), 0);
    assert_int_equal(x->nwg % (x->ndimc * x->vwn), 0);
    assert_int_equal(x->mwg % (x->mdima * x->vwm), 0);
    assert_int_equal(x->nwg % (x->ndimb * x->vwn), 0);
    assert_int_equal(x->mdimc * x->ndimc % x->mdima, 0);
    assert_int_equal(x->mdimc * x->ndimc % x->ndimb, 0);
    assert_int_equal(x->kwg % (x->mdimc * x->ndimc / x->mdima), 0);
    assert_int_equal(x->kwg % (x->mdimc * x->ndimc / x->ndimb), 0);
    assert_int_equal(COLUMNS % x->mwg, 0);
    assert_int_equal(K % x->kwg, 0);
    if (record->min_indirect_size <= 1 && record->max_rows < INT32_MAX)
        assert_int_equal(record->max_rows % x->nwg, 0); /* padding does not leave the record */
    assert_non_null(record->source);
    assert_int_equal(strstr(record->source, "not measured") == NULL, record->measured);
}

static void records_keep_their_constraints(void **state)
{
    (void)state;
    const mla__device devices[] = {{.is_pocl = true, .type = CL_DEVICE_TYPE_CPU},
                                   {.compute_capability = 90},
                                   {.compute_capability = 100}};
    for (size_t d = 0; d < sizeof(devices) / sizeof(devices[0]); d++) {
        int32_t count = 0;
        const mla__clblast_record *records = mla__clblast_records(&devices[d], &count);
        assert_true(count > 0);
        for (int32_t i = 0; i < count; i++) {
            check_record(&records[i]);
            if (i > 0)
                assert_true(records[i].max_rows > records[i - 1].max_rows);
            assert_ptr_equal(mla__clblast_record_find(&devices[d], records[i].max_rows),
                             &records[i]);
        }
        assert_int_equal(records[count - 1].max_rows, INT32_MAX);
    }
}

static void other_devices_have_none(void **state)
{
    (void)state;
    const mla__device devices[] = {{.is_pocl = true, .type = CL_DEVICE_TYPE_GPU},
                                   {.type = CL_DEVICE_TYPE_CPU},
                                   {.compute_capability = 89},
                                   {.compute_capability = 120}};
    for (size_t d = 0; d < sizeof(devices) / sizeof(devices[0]); d++) {
        int32_t count = 1;
        assert_null(mla__clblast_records(&devices[d], &count));
        assert_int_equal(count, 0);
        assert_null(mla__clblast_record_find(&devices[d], 1));
    }
}

static void text_names_what_is_not_zero(void **state)
{
    (void)state;
    const mla__clblast_xgemm xgemm = {.kwg = 32, .vwn = 4};
    char text[64];
    assert_int_equal(mla__clblast_xgemm_text(&xgemm, text, sizeof(text)), 12);
    assert_string_equal(text, "KWG=32 VWN=4");
    assert_int_equal(mla__clblast_xgemm_text(&xgemm, NULL, 0), 12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(records_keep_their_constraints),
        cmocka_unit_test(other_devices_have_none),
        cmocka_unit_test(text_names_what_is_not_zero),
    };
    return cmocka_run_group_tests_name("clblast_records", tests, NULL, NULL);
}
