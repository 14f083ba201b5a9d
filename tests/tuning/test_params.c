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
    const cl_ulong locals[] = {16 * 1024, 32 * 1024, 48 * 1024, 228 * 1024};
    const int32_t rows[] = {1, 16, 17, 4096};
    for (size_t g = 0; g < 7; g++) {
        for (size_t l = 0; l < 4; l++) {
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

/* Bytes of the local arrays of cl/gpu/attention.cl, from their declarations there. */
static uint64_t gpu_attention_bytes(const mla__attention_tile *t, uint64_t element_bytes,
                                    uint64_t kv_lora_rank, uint64_t rope_dim)
{
    const uint64_t rows = (uint64_t)t->tile_rows, keys = (uint64_t)t->block_tokens;
    const uint64_t latent_pairs = (kv_lora_rank + 1) / 2, rope_pairs = (rope_dim + 1) / 2;
    const uint64_t key_pitch = (latent_pairs + rope_pairs + 11) / 16 * 16 + 4;
    const uint64_t score_tiles = rows / 2 * (keys / 2);
    const uint64_t slices = (uint64_t)t->work_group / score_tiles;
    const uint64_t queries = 2 * element_bytes * rows * (latent_pairs + rope_pairs);
    const uint64_t block = 2 * element_bytes * keys * key_pitch;
    return queries + block + 4 * (slices * rows * keys + rows * keys) + 4 * 4 * rows;
}

static void gpu_attention_tile_fits_the_device(void **state)
{
    (void)state;
    static const size_t groups[] = {32, 64, 128, 256, 1024};
    static const cl_ulong locals[] = {16 * 1024, 32 * 1024, 48 * 1024, 228 * 1024};
    static const int32_t ranks[] = {1, 2, 17, 64, 128, 256, 511, 512, 513, 768, 1024, 1536};
    static const int32_t ropes[] = {0, 2, 14, 32, 64, 128, 192};
    static const clmla_dtype dtypes[] = {CLMLA_DTYPE_BF16, CLMLA_DTYPE_F32};
    for (size_t i = 0; i < 5 * 4 * 12 * 7 * 2; i++) {
        const size_t group = groups[i % 5];
        const cl_ulong local = locals[i / 5 % 4];
        const int32_t rank = ranks[i / 20 % 12], rope = ropes[i / 240 % 7];
        const clmla_dtype dtype = dtypes[i / 1680];
        const uint64_t element_bytes = dtype == CLMLA_DTYPE_F32 ? 4 : 2;
        const mla__device device = device_of(group, local);
        mla__attention_tile t;
        if (!mla__attention_tile_default(&device, CLMLA_KERNELS_GPU, dtype, rank, rope, &t)) {
            /* DeepSeek's shapes, and all smaller ones, fit wherever OpenCL 1.2's GPUs do. */
            assert_true(rank > 512 || rope > 64 || local < 32 * 1024);
            continue;
        }
        const uint64_t bytes =
            gpu_attention_bytes(&t, element_bytes, (uint64_t)rank, (uint64_t)rope);
        if (bytes > local || bytes > 32 * 1024)
            fail_msg("rank %d, rope %d, groups of %zu: %llu bytes", rank, rope, group,
                     (unsigned long long)bytes);
        assert_true((size_t)t.work_group <= group);
        assert_true(t.tile_rows % 2 == 0 && t.block_tokens % 2 == 0);
        assert_true(t.tile_rows <= t.work_group);
        assert_int_equal(t.work_group % (t.tile_rows / 2 * (t.block_tokens / 2)), 0);
        assert_int_equal(t.work_group % t.block_tokens, 0);
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
        cmocka_unit_test(gpu_attention_tile_fits_the_device),
        cmocka_unit_test(text_and_macros_name_the_fields),
        cmocka_unit_test(text_is_cut_like_snprintf),
    };
    return cmocka_run_group_tests_name("params", tests, NULL, NULL);
}
