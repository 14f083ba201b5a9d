/* Tile defaults keep the constraints that the kernels state, and their text and macros agree. */
#include "support/support.h"
#include "tuning/nvidia_records.h"
#include "tuning/params.h"

static mla__device device_of(size_t max_work_group_size, cl_ulong local_mem_bytes)
{
    return (mla__device){.max_work_group_size = max_work_group_size,
                         .local_mem_bytes = local_mem_bytes};
}

static const int32_t vector_widths[] = {4, 8, 16};

static void check_cpu_projection_tile(const mla__projection_tile *tile, int32_t rows)
{
    const int32_t columns = tile->vector_width * tile->tile_vectors;
    assert_true(tile->tile_rows >= 1 && tile->block_rows % tile->tile_rows == 0);
    assert_int_equal(columns % 16, 0);
    assert_int_equal(64 % columns, 0);
    assert_int_equal(tile->tile_rows > 1, rows > mla__projection_few_rows(CLMLA_KERNELS_CPU));
    if (tile->tile_rows == 1)
        assert_int_equal(columns, 64);
    assert_int_equal(tile->work_rows, 0); /* not a parameter of this class */
}

/* Where rows are many, sums and the weights of one k leave a register for x: of 16 with vectors of
 * 8 (AVX2), of 32 else (AVX-512, NEON). */
static void cpu_projection_tile_keeps_its_constraints(void **state)
{
    (void)state;
    for (size_t w = 0; w < 3; w++) {
        mla__device device = device_of(4096, 1 << 20);
        device.float_vector_width = vector_widths[w];
        for (int32_t rows = 1; rows < 10; rows++) {
            mla__projection_tile tile, dot;
            mla__projection_tile_default(&device, CLMLA_KERNELS_CPU, CLMLA_DTYPE_BF16, rows, &tile);
            check_cpu_projection_tile(&tile, rows);
            assert_int_equal(tile.vector_width, vector_widths[w]);
            if (tile.tile_rows > 1)
                assert_true((tile.tile_rows + 1) * tile.tile_vectors <
                            (vector_widths[w] == 8 ? 16 : 32));
            mla__projection_tile_dot(rows, &dot);
            check_cpu_projection_tile(&dot, rows);
            assert_int_equal(dot.vector_width, 16);
        }
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

/* cl/gpu/projection_stream.cl and, with the same cut of k, cl/gpu/merge_up.cl. */
static void gpu_stream_tiles_fit_the_device(void **state)
{
    (void)state;
    static const size_t groups[] = {1, 8, 16, 64, 100, 128, 256, 1024};
    static const cl_ulong locals[] = {16 * 1024, 32 * 1024, 48 * 1024, 228 * 1024};
    static const cl_uint units[] = {1, 2, 24, 132, 300};
    static const int32_t columns[] = {1, 64, 65, 128, 576, 2048, 24576};
    static const int32_t in[] = {1, 37, 512, 1024, 4096, 1 << 20};
    for (size_t i = 0; i < 8 * 4 * 5 * 7; i++) {
        mla__device device = device_of(groups[i % 8], locals[i / 8 % 4]);
        device.compute_units = units[i / 32 % 5];
        const int32_t N = columns[i / 160];
        mla__projection_tile tiled, t, up;
        int32_t work_group = 0;
        mla__projection_tile_default(&device, CLMLA_KERNELS_GPU, CLMLA_DTYPE_BF16, 16, &tiled);
        mla__projection_stream_tile(&device, 1, N, &t);
        assert_int_equal(t.tile_rows, mla__projection_stream_rows(CLMLA_KERNELS_GPU));
        assert_int_equal(t.tile_k, tiled.tile_k); /* else slices would differ */
        assert_int_equal(64 % t.tile_columns, 0);
        assert_true(t.slices >= 1 &&
                    (size_t)(t.tile_columns * t.slices) <= device.max_work_group_size);
        const int32_t floats = t.tile_rows * t.slices * (t.tile_k + 4 + t.tile_columns);
        assert_true(4 * (cl_ulong)floats <= device.local_mem_bytes && 4 * floats <= 32 * 1024);
        for (size_t k = 0; k < 6; k++) {
            if (!mla__merge_up_tile(&device, &t, in[k], &up, &work_group)) {
                assert_true(in[k] > 1024 || work_group < 64); /* R1's 512 fits any GPU */
                continue;
            }
            const int32_t slice_k =
                ((in[k] + up.slices - 1) / up.slices + up.tile_k - 1) / up.tile_k * up.tile_k;
            assert_true(up.slices == t.slices && up.tile_k == t.tile_k);
            assert_true((size_t)work_group <= device.max_work_group_size);
            assert_int_equal(64 % up.tile_columns, 0);
            assert_int_equal(work_group % up.tile_columns, 0);
            assert_int_equal(up.slices % (work_group / up.tile_columns), 0);
            const uint64_t bytes =
                4 * (uint64_t)(up.slices * (slice_k + up.tile_columns) + work_group);
            assert_true(bytes <= device.local_mem_bytes && bytes <= 32 * 1024);
        }
    }
    assert_int_equal(mla__projection_stream_rows(CLMLA_KERNELS_CPU), 0);
}

/* Narrower tiles only where whole panels leave the device short of groups. */
static void gpu_stream_tile_follows_compute_units(void **state)
{
    (void)state;
    mla__device device = device_of(256, 32 * 1024);
    mla__projection_tile t;
    device.compute_units = 8;
    mla__projection_stream_tile(&device, 1, 1024, &t); /* 16 panels, 16 groups wanted */
    assert_true(t.tile_columns == 64 && t.slices == 4);
    mla__projection_stream_tile(&device, 1, 960, &t);
    assert_true(t.tile_columns == 32 && t.slices == 8);
    mla__projection_stream_tile(&device, 4, 256, &t);
    assert_true(t.tile_columns == 64 && t.slices == 4);
    mla__projection_stream_tile(&device, 1, 64, &t);
    assert_true(t.tile_columns == 16 && t.slices == 16);
}

static void merge_up_takes_few_rows(void **state)
{
    (void)state;
    assert_int_equal(mla__merge_up_max_tokens(16), 8);
    assert_int_equal(mla__merge_up_max_tokens(3), 42);
    assert_int_equal(mla__merge_up_max_tokens(128), 1);
    assert_int_equal(mla__merge_up_max_tokens(500), 1);
}

/* Bytes of the private arrays of cl/cpu/attention.cl, from their declarations there. */
static uint64_t cpu_attention_bytes(uint64_t rows, uint64_t keys, uint64_t kv_lora_rank,
                                    uint64_t rope_dim)
{
    const uint64_t key_dim = kv_lora_rank + rope_dim;
    return 4 * (rows * key_dim + rows * kv_lora_rank + keys * key_dim + keys * rows);
}

/* A row vector is sixteen floats: one register, two of 8 (AVX2: 16 registers), or four of 4 (NEON:
 * 32 registers). Sums, a query or weights, and a key element have to fit. */
static void check_registers(const mla__attention_tile *t, int32_t vector_width)
{
    const int32_t registers = 16 / vector_width, all = vector_width == 8 ? 16 : 32;
    assert_true((t->tile_tokens + 1) * t->row_vectors * registers < all);
    assert_true((t->tile_values + 1) * t->row_vectors * registers < all);
}

static void cpu_attention_tile_keeps_its_constraints(void **state)
{
    (void)state;
    static const int32_t ranks[] = {1, 2, 17, 64, 128, 256, 511, 512, 513, 768, 1024, 1536, 4096};
    static const int32_t ropes[] = {0, 2, 14, 32, 64, 128, 192};
    for (size_t i = 0; i < 3 * 13 * 7; i++) {
        const int32_t width = vector_widths[i % 3], rank = ranks[i / 3 % 13], rope = ropes[i / 39];
        mla__device device = device_of(4096, 1 << 20);
        mla__attention_tile t;
        device.float_vector_width = width;
        assert_true(mla__attention_tile_default(&device, CLMLA_KERNELS_CPU, CLMLA_DTYPE_F32, rank,
                                                rope, &t));
        assert_int_equal(t.tile_rows, 16 * t.row_vectors);
        assert_true(t.tile_tokens >= 1 && t.tile_values >= 1);
        assert_int_equal(t.block_tokens % (t.tile_tokens * t.row_vectors), 0);
        check_registers(&t, width);
        const uint64_t bytes = cpu_attention_bytes((uint64_t)t.tile_rows, (uint64_t)t.block_tokens,
                                                   (uint64_t)rank, (uint64_t)rope);
        const uint64_t least = cpu_attention_bytes(16, 4, (uint64_t)rank, (uint64_t)rope);
        assert_true(bytes <= 256 * 1024 || bytes == least);
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

/* What a device's local memory and work-groups must hold; with the emulation's scratch where there
 * is no PTX. */
static bool mma_fits(const mla__device *device, int32_t bytes, int32_t work_group)
{
    const int32_t scratch = device->has_ptx ? 0 : 32 * work_group;
    return bytes <= 48 * 1024 && (cl_ulong)(bytes + scratch) <= device->local_mem_bytes &&
           (size_t)work_group <= device->max_work_group_size;
}

/* Slices are the matrix's, whatever the tile of rows. */
static void nvidia_few_tiles_fit_the_device(void **state)
{
    (void)state;
    static const size_t groups[] = {32, 64, 128, 256, 512, 1024};
    static const cl_uint units[] = {1, 2, 24, 132, 300};
    static const int32_t columns[] = {1, 64, 65, 576, 2048, 24576};
    static const int32_t in[] = {8, 32, 40, 128, 512, 7168};
    for (size_t i = 0; i < 6 * 5 * 6 * 6; i++) {
        mla__device device = device_of(groups[i % 6], i % 2 == 0 ? 48 * 1024 : 64 * 1024);
        device.compute_units = units[i / 6 % 5];
        device.has_ptx = i % 2 == 0;
        const int32_t N = columns[i / 30 % 6], K = in[i / 180];
        int32_t slices = 0;
        for (int32_t rows = 16; rows <= MLA__PROJECTION_FEW_MAX_ROWS; rows *= 2) {
            mla__projection_tile t;
            assert_true(mla__projection_tile_few(&device, CLMLA_DTYPE_BF16, rows, 1, N, K, &t));
            assert_int_equal(t.tile_rows, rows);
            assert_true(t.tile_columns == 32 || (t.tile_columns == 64 && rows < 64));
            assert_true(t.slices >= 1 && t.slices <= 16 && t.slices <= (K + 31) / 32);
            assert_true(mma_fits(&device, 4 * t.slices * 16 * (t.tile_columns + 4), 32 * t.slices));
            slices = slices == 0 ? t.slices : slices;
            assert_int_equal(t.slices, slices);
            const int32_t bf16_columns = t.tile_columns;
            assert_true(mla__projection_tile_few(&device, CLMLA_DTYPE_F8_E4M3, rows, 1, N, K, &t));
            assert_true(t.tile_columns == 32 && t.tile_columns <= bf16_columns);
            assert_int_equal(t.slices, slices);
        }
    }
    const mla__device narrow = device_of(16, 48 * 1024), small = device_of(256, 16 * 1024);
    mla__projection_tile tile;
    assert_false(mla__projection_tile_few(&narrow, CLMLA_DTYPE_BF16, 16, 1, 64, 64, &tile));
    assert_false(mla__projection_tile_few(&small, CLMLA_DTYPE_BF16, 16, 1, 64, 512, &tile));
}

/* From small to large, each within what NVIDIA's OpenCL gives a work-group. */
static void check_tiled_tiles(clmla_dtype w)
{
    mla__device device = device_of(1024, 48 * 1024);
    mla__projection_tile tile = {.tile_rows = 0}, last = tile;
    int32_t size = 0;
    device.has_ptx = true;
    for (; mla__projection_tile_tiled(&device, w, size, &tile); size++) {
        const int32_t w_row = (w == CLMLA_DTYPE_BF16 ? 4 : 2) * tile.tile_columns + 32;
        const int32_t bytes = tile.stages * (tile.tile_rows * 80 + 16 * w_row);
        const int32_t group = tile.tile_rows / tile.work_rows * tile.tile_columns;
        assert_true(mma_fits(&device, bytes, group) && tile.stages >= 2);
        assert_true(tile.tile_rows * tile.tile_columns > last.tile_rows * last.tile_columns);
        assert_true(tile.tile_rows >= last.tile_rows && tile.tile_columns >= last.tile_columns);
        assert_int_equal(tile.tile_rows * 4 % group, 0);
        assert_int_equal(tile.tile_columns * 4 % group, 0);
        last = tile;
    }
    assert_int_equal(size, 3);
    assert_false(mla__projection_tile_tiled(&device, w, -1, &tile));
    device.has_ptx = false; /* the emulation's scratch does not fit beside it */
    device.local_mem_bytes = 32 * 1024;
    assert_false(mla__projection_tile_tiled(&device, w, 0, &tile));
}

static void nvidia_tiled_tiles_fit_the_device(void **state)
{
    (void)state;
    check_tiled_tiles(CLMLA_DTYPE_BF16);
    check_tiled_tiles(CLMLA_DTYPE_F8_E4M3);
}

/* Within what sm_90a gives two work-groups of the smaller tile or one of the larger, whatever the
 * device says of itself; the emulation within what it says. */
static void nvidia_warpgroup_tiles_fit_sm_90a(void **state)
{
    (void)state;
    mla__device device = device_of(1024, 48 * 1024);
    mla__projection_tile tile;
    int32_t size = 0;
    device.has_ptx = true;
    for (; mla__projection_tile_wgmma(&device, size, &tile); size++) {
        const int32_t groups = 256 / tile.tile_columns; /* two warpgroups */
        assert_int_equal(tile.tile_rows, 128);
        assert_int_equal(tile.tile_columns, 128 << size);
        assert_true(groups * (tile.stages * tile.tile_rows * 128 + 1024) <= 228 * 1024);
        assert_true(tile.stages >= 3);
    }
    assert_int_equal(size, 2);
    assert_false(mla__projection_tile_wgmma(&device, -1, &tile));
    device.max_work_group_size = 128;
    assert_true(mla__projection_tile_wgmma(&device, 0, &tile));
    assert_false(mla__projection_tile_wgmma(&device, 1, &tile));
    device.has_ptx = false;
    assert_false(mla__projection_tile_wgmma(&device, 0, &tile));
    device.local_mem_bytes = (64 + 4) * 1024;
    assert_true(mla__projection_tile_wgmma(&device, 0, &tile));
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

/* Local memory as cl/nvidia/attention.clh declares it. */
static void attention_on_tensor_cores_fits_48_kib(void **state)
{
    (void)state;
    const struct {
        int32_t heads, latent, rope, rows, many_rows; /* rows 0: no tile */
    } cases[] = {{1, 512, 64, 16, 32},  {16, 512, 64, 16, 32}, {17, 512, 64, 32, 0},
                 {128, 512, 64, 32, 0}, {40, 256, 32, 32, 0},  {16, 64, 0, 16, 32},
                 {128, 576, 64, 16, 0}, {16, 640, 64, 0, 0},   {16, 1024, 64, 0, 0}};
    mla__device device = device_of(1024, 48 * 1024);
    device.has_ptx = true;
    device.compute_capability = 90;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        mla__attention_tile t = {.tile_rows = 0}, many = {.tile_rows = 0};
        const bool fits = mla__attention_tile_mma(&device, cases[i].heads, cases[i].latent,
                                                  cases[i].rope, &t, &many);
        assert_true(fits == (cases[i].rows > 0));
        assert_int_equal(t.tile_rows, cases[i].rows);
        assert_int_equal(many.tile_rows, cases[i].many_rows);
        const int32_t pitch = 2 * (cases[i].latent + cases[i].rope) + 16;
        const int32_t rows = many.tile_rows > 0 ? many.tile_rows : t.tile_rows;
        assert_true(t.stages * t.block_tokens * pitch + 16 * rows * t.block_tokens <= 48 * 1024);
    }
    mla__attention_tile t, many;
    device.compute_capability = 120; /* more rows would spill there */
    assert_true(mla__attention_tile_mma(&device, 128, 512, 64, &t, &many));
    assert_int_equal(t.tile_rows, 16);
    assert_int_equal(many.tile_rows, 0);
    device.max_work_group_size = 64;
    assert_false(mla__attention_tile_mma(&device, 16, 512, 64, &t, &many));
}

/* Local memory as cl/nvidia/attention_wgmma.cl declares it, whatever the device says of itself; the
 * emulation within what it says. */
static void attention_by_warpgroups_fits_sm_90a(void **state)
{
    (void)state;
    static const struct {
        int32_t heads, latent, rope;
        bool fits;
    } cases[] = {{64, 512, 64, true},   {128, 512, 64, true}, {192, 256, 64, true},
                 {64, 256, 0, true},    {16, 512, 64, false}, {96, 512, 64, false},
                 {64, 384, 64, false},  {64, 512, 32, false}, {64, 512, 128, false},
                 {64, 1024, 64, false}, {128, 64, 16, false}};
    mla__device device = device_of(1024, 48 * 1024);
    mla__attention_tile t = {.tile_rows = 0};
    device.has_ptx = true;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const int32_t panels = (cases[i].latent + cases[i].rope) / 64;
        if (mla__attention_tile_wgmma(&device, cases[i].heads, cases[i].latent, cases[i].rope,
                                      &t) != cases[i].fits)
            fail_msg("%d heads, %d + %d", (int)cases[i].heads, (int)cases[i].latent,
                     (int)cases[i].rope);
        if (cases[i].fits)
            assert_true((1 + t.stages) * panels * 8192 + 8192 + 512 <= 227 * 1024);
    }
    device.max_work_group_size = 128;
    assert_false(mla__attention_tile_wgmma(&device, 64, 512, 64, &t));
    device = device_of(1024, 229888 + 32 * 256);
    assert_true(mla__attention_tile_wgmma(&device, 64, 512, 64, &t));
    device.local_mem_bytes--;
    assert_false(mla__attention_tile_wgmma(&device, 64, 512, 64, &t));
}

/* A record's work-groups and their budgets of registers (tests/kernels/ptx_programs.txt) fit a
 * multiprocessor, and a record that is not measured says so. */
static void nvidia_records_fit_a_multiprocessor(void **state)
{
    (void)state;
    enum { REGISTERS = 65536 };
    const struct {
        int32_t capability, registers_of_16;
        int32_t attention_rows;
        bool one_launch;
    } devices[] = {{80, 232, 32, false}, {86, 232, 64, false},  {89, 232, 64, false},
                   {90, 168, 64, true},  {100, 232, 64, false}, {120, 248, 16, true},
                   {0, 248, 64, true}};
    for (size_t i = 0; i < sizeof devices / sizeof devices[0]; i++) {
        const mla__device device = {.compute_capability = devices[i].capability,
                                    .has_ptx = devices[i].capability > 0};
        const mla__nvidia_record *record = mla__nvidia_record_find(&device);
        assert_true(record->few_groups * 256 * 128 <= REGISTERS);
        assert_true(record->attention_groups_of_16 * 128 * devices[i].registers_of_16 <= REGISTERS);
        assert_true(record->attention_groups_of_32 * 128 * 255 <= REGISTERS);
        assert_int_equal(record->attention_rows, devices[i].attention_rows);
        assert_int_equal(record->one_launch, devices[i].one_launch);
        assert_int_equal(strstr(record->source, "not measured") == NULL, record->measured);
    }
}

/* The same bytes for the tile of 64 rows: within what work-groups of each GPU can have, whatever it
 * reports; on other devices, with the emulation's scratch, within what they report. */
static void large_attention_fits_what_the_device_can_have(void **state)
{
    (void)state;
    const struct {
        int32_t compute_capability, kib; /* 0: no PTX */
        int32_t latent, rope, stages;    /* 0: no tile: too much local memory, or it would spill */
    } cases[] = {{80, 48, 512, 64, 0},  {90, 48, 512, 64, 4},   {86, 48, 512, 64, 4},
                 {89, 48, 512, 64, 4},  {120, 48, 512, 64, 0},  {999, 48, 512, 64, 0},
                 {90, 48, 1024, 64, 4}, {100, 48, 1024, 64, 4}, {89, 48, 1024, 64, 2},
                 {90, 48, 2048, 64, 3}, {86, 48, 2048, 64, 0},  {100, 48, 2048, 64, 3},
                 {0, 48, 512, 64, 0},   {0, 64, 512, 64, 2},    {0, 512, 512, 64, 4},
                 {0, 48, 64, 16, 4},    {90, 48, 64, 0, 4}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        mla__device device = device_of(256, (cl_ulong)cases[i].kib * 1024);
        mla__attention_tile t = {.tile_rows = 0};
        uint64_t bytes = 0;
        device.compute_capability = cases[i].compute_capability;
        device.has_ptx = cases[i].compute_capability >= 80;
        const bool fits =
            mla__attention_tile_large(&device, cases[i].latent, cases[i].rope, &t, &bytes);
        if (fits != (cases[i].stages > 0) || t.stages != cases[i].stages)
            fail_msg("case %zu: %d stages", i, (int)t.stages);
        device.max_work_group_size = 128;
        mla__attention_tile none;
        assert_false(
            mla__attention_tile_large(&device, cases[i].latent, cases[i].rope, &none, &bytes));
        if (!fits)
            continue;
        const int32_t pitch = 2 * (cases[i].latent + cases[i].rope) + 16;
        const int32_t scratch = device.has_ptx ? 0 : 32 * t.work_group;
        assert_int_equal(t.tile_rows, 64);
        assert_int_equal(t.work_group, 256);
        assert_int_equal(bytes, t.stages * t.block_tokens * pitch +
                                    16 * t.tile_rows * t.block_tokens + scratch);
        /* the bits of the other tiles */
        mla__attention_tile few, many;
        device = device_of(1024, 64 * 1024);
        device.has_ptx = true;
        device.compute_capability = 90;
        if (mla__attention_tile_mma(&device, 16, cases[i].latent, cases[i].rope, &few, &many))
            assert_int_equal(t.block_tokens, few.block_tokens);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cpu_projection_tile_keeps_its_constraints),
        cmocka_unit_test(gpu_projection_tile_fits_the_device),
        cmocka_unit_test(gpu_stream_tiles_fit_the_device),
        cmocka_unit_test(gpu_stream_tile_follows_compute_units),
        cmocka_unit_test(merge_up_takes_few_rows),
        cmocka_unit_test(cpu_attention_tile_keeps_its_constraints),
        cmocka_unit_test(gpu_attention_tile_fits_the_device),
        cmocka_unit_test(nvidia_few_tiles_fit_the_device),
        cmocka_unit_test(nvidia_tiled_tiles_fit_the_device),
        cmocka_unit_test(nvidia_warpgroup_tiles_fit_sm_90a),
        cmocka_unit_test(text_and_macros_name_the_fields),
        cmocka_unit_test(text_is_cut_like_snprintf),
        cmocka_unit_test(attention_on_tensor_cores_fits_48_kib),
        cmocka_unit_test(attention_by_warpgroups_fits_sm_90a),
        cmocka_unit_test(nvidia_records_fit_a_multiprocessor),
        cmocka_unit_test(large_attention_fits_what_the_device_can_have),
    };
    return cmocka_run_group_tests_name("params", tests, NULL, NULL);
}
