/* Tile defaults keep the constraints that the kernels state, and their text and macros agree. */
#include "support/support.h"
#include "tuning/params.h"

static mla__device device_of(size_t max_work_group_size, cl_ulong local_mem_bytes)
{
    return (mla__device){.max_work_group_size = max_work_group_size,
                         .local_mem_bytes = local_mem_bytes};
}

static void cpu_projection_tile_keeps_its_constraints(void **state)
{
    (void)state;
    const mla__device device = device_of(4096, 1 << 20);
    for (int32_t rows = 1; rows < 10; rows++) {
        mla__projection_tile tile;
        mla__projection_tile_default(&device, CLMLA_KERNELS_CPU, CLMLA_DTYPE_BF16, rows, &tile);
        assert_true(tile.tile_rows >= 1 && tile.block_rows % tile.tile_rows == 0);
        assert_int_equal(64 % (16 * tile.tile_vectors), 0);
        assert_int_equal(tile.tile_rows > 1, rows > mla__projection_few_rows(CLMLA_KERNELS_CPU));
        assert_int_equal(tile.work_rows, 0); /* not a parameter of this class */
    }
}

/* Also on devices with few work-items to a group or little local memory. */
static void gpu_projection_tile_fits_the_device(void **state)
{
    (void)state;
    const size_t groups[] = {1, 8, 16, 64, 128, 256, 1024};
    const cl_ulong locals[] = {16 * 1024, 32 * 1024, 48 * 1024};
    const int32_t rows[] = {1, 16, 17, 4096};
    for (size_t g = 0; g < 7; g++) {
        for (size_t l = 0; l < 3; l++) {
            const mla__device device = device_of(groups[g], locals[l]);
            mla__projection_tile first, t;
            mla__projection_tile_default(&device, CLMLA_KERNELS_GPU, CLMLA_DTYPE_BF16, 1, &first);
            for (size_t r = 0; r < 4; r++) {
                mla__projection_tile_default(&device, CLMLA_KERNELS_GPU, CLMLA_DTYPE_BF16, rows[r],
                                             &t);
                const size_t group =
                    (size_t)(t.tile_rows / t.work_rows) * (size_t)(t.tile_columns / t.work_columns);
                assert_true(group >= 1 && group <= groups[g]);
                assert_int_equal(t.tile_rows % t.work_rows, 0);
                assert_int_equal(t.tile_columns % t.work_columns, 0);
                assert_int_equal(64 % t.tile_columns, 0);
                assert_int_equal(t.tile_k % 2, 0);
                assert_int_equal(t.tile_k, first.tile_k); /* else rows would differ in bits */
                const size_t floats = (size_t)t.tile_k * (size_t)(t.tile_rows + 1 + t.tile_columns);
                assert_true(4 * floats <= locals[l] && 4 * floats <= 32 * 1024);
            }
        }
    }
}

static void text_and_macros_name_the_fields(void **state)
{
    (void)state;
    const mla__projection_tile tile = {.tile_rows = 4, .tile_vectors = 2, .work_columns = 7};
    char text[128];
    int length = mla__projection_tile_text(&tile, text, sizeof text);
    assert_int_equal(length, strlen(text));
    assert_string_equal(text, "tile_rows=4 tile_vectors=2 work_columns=7");
    mla__defines defines = {0};
    mla__define_projection_tile(&defines, &tile);
    assert_int_equal(defines.overflow, 0);
    assert_non_null(strstr(defines.text, "#define TILE_ROWS 4\n"));
    assert_non_null(strstr(defines.text, "#define WORK_COLUMNS 7\n"));
    assert_non_null(strstr(defines.text, "#define TILE_K 0\n"));
    const mla__attention_tile attention = {.tile_rows = 16, .work_group = 128};
    length = mla__attention_tile_text(&attention, text, sizeof text);
    assert_int_equal(length, strlen(text));
    assert_string_equal(text, "tile_rows=16 work_group=128");
}

/* As snprintf: cut text is terminated, the returned length is the whole text's. */
static void text_is_cut_like_snprintf(void **state)
{
    (void)state;
    const mla__projection_tile tile = {.tile_rows = 4, .tile_vectors = 2};
    const char whole[] = "tile_rows=4 tile_vectors=2";
    for (size_t capacity = 0; capacity <= sizeof whole; capacity++) {
        char text[sizeof whole + 1];
        memset(text, '#', sizeof text);
        assert_int_equal(mla__projection_tile_text(&tile, text, capacity), sizeof whole - 1);
        if (capacity > 0) {
            const size_t kept = capacity - 1 < sizeof whole - 1 ? capacity - 1 : sizeof whole - 1;
            assert_memory_equal(text, whole, kept);
            assert_int_equal(text[kept], '\0');
        }
        assert_int_equal(text[capacity], '#');
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cpu_projection_tile_keeps_its_constraints),
        cmocka_unit_test(gpu_projection_tile_fits_the_device),
        cmocka_unit_test(text_and_macros_name_the_fields),
        cmocka_unit_test(text_is_cut_like_snprintf),
    };
    return cmocka_run_group_tests_name("params", tests, NULL, NULL);
}
