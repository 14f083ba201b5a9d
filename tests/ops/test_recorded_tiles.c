/* A tuning record's tile is the one that runs, results are right with it, and rows keep their bits
 * whatever their number; calls that no entry is for keep their tiles. */
#include "ops/clblast.h"
#include "ops/clblast_layout.h"
#include "ops/merge_up.h"
#include "ops/projection_case.h"
#include "support/attention_batch.h"
#include "tuning/record.h"

/* N and K have tails. */
enum { N = 200, K = 1075, MOST_ROWS = 70 };
#define MMA_MATRIX "weights=bf16 batches=1 out_features=200 in_features=1080"
#define MATRIX(w) "weights=" w " batches=1 out_features=200 in_features=1075"

typedef struct recorded_case {
    const char *name;
    clmla_kernel_class kernel_class;
    clmla_matrix_units units;
    clmla_dtype x, w;
    const char *entries;
    const char *taken[3]; /* lines that calls of 1, 16 and 70 rows describe themselves with */
    int32_t k;            /* in_features; 0: K */
    bool many_differ;     /* the kernel of 70 rows adds in another order */
} recorded_case;

static const recorded_case cases[] = {
    {"cpu: a tile for every number of rows",
     CLMLA_KERNELS_CPU,
     CLMLA_MATRIX_UNITS_OFF,
     BF16,
     BF16,
     "projection_cpu " MATRIX(
         "bf16") " max_rows=1 : tile_rows=1 vector_width=16 tile_vectors=2 block_rows=16\n"
                 "projection_cpu " MATRIX(
                     "bf16") " max_rows=16 : tile_rows=6 vector_width=16 tile_vectors=2 "
                             "block_rows=36\n"
                             "projection_cpu " MATRIX(
                                 "bf16") " max_rows=any : tile_rows=3 vector_width=8 "
                                         "tile_vectors=4 block_rows=33\n",
     {"max_rows=1 : tile_rows=1 vector_width=16 tile_vectors=2 block_rows=16",
      "max_rows=16 : tile_rows=6 vector_width=16 tile_vectors=2 block_rows=36",
      "max_rows=any : tile_rows=3 vector_width=8 tile_vectors=4 block_rows=33"}},
    {"cpu: f32 weights",
     CLMLA_KERNELS_CPU,
     CLMLA_MATRIX_UNITS_OFF,
     F32,
     F32,
     "projection_cpu " MATRIX(
         "f32") " max_rows=any : tile_rows=5 vector_width=4 tile_vectors=8 block_rows=40\n",
     {"tile_rows=5 vector_width=4 tile_vectors=8 block_rows=40",
      "tile_rows=5 vector_width=4 tile_vectors=8 block_rows=40",
      "tile_rows=5 vector_width=4 tile_vectors=8 block_rows=40"}},
    {"cpu: bf16 dot products",
     CLMLA_KERNELS_CPU,
     CLMLA_MATRIX_UNITS_AUTO,
     BF16,
     BF16,
     "projection_dot " MATRIX(
         "bf16") " max_rows=16 : tile_rows=2 vector_width=16 tile_vectors=4 block_rows=8\n",
     {"projection_dot " MATRIX("bf16") " max_rows=3 : tile_rows=2",
      "projection_dot " MATRIX("bf16") " max_rows=16 : tile_rows=2",
      "projection_dot " MATRIX("bf16") " max_rows=any : tile_rows=4"}},
    {"cpu: bf16 dot products on FP8 weights",
     CLMLA_KERNELS_CPU,
     CLMLA_MATRIX_UNITS_AUTO,
     BF16,
     F8,
     "projection_dot " MATRIX(
         "f8_e4m3") " max_rows=16 : tile_rows=2 vector_width=16 tile_vectors=2 block_rows=8\n"
                    "projection_dot " MATRIX(
                        "bf16") " max_rows=any : tile_rows=5 vector_width=16 tile_vectors=4 "
                                "block_rows=40\n",
     {"projection_dot " MATRIX("f8_e4m3") " max_rows=3 : tile_rows=2",
      "projection_dot " MATRIX("f8_e4m3") " max_rows=16 : tile_rows=2",
      "projection_dot " MATRIX("f8_e4m3") " max_rows=any : tile_rows=4"}},
    {"gpu: other slices and stages",
     CLMLA_KERNELS_GPU,
     CLMLA_MATRIX_UNITS_OFF,
     BF16,
     BF16,
     "projection_gpu " MATRIX(
         "bf16") " max_rows=16 : tile_rows=8 tile_columns=64 work_rows=1 work_columns=4\n"
                 "projection_stream " MATRIX("bf16") " : tile_columns=16 tile_k=64 slices=3\n",
     {"projection_stream " MATRIX("bf16") " : tile_columns=16 tile_k=64 slices=3",
      "max_rows=16 : tile_rows=8 tile_columns=64 work_rows=1 work_columns=4",
      "max_rows=any : tile_rows=64 tile_columns=64 work_rows=4 work_columns=4"}},
    {"gpu: many rows, slices as built in",
     CLMLA_KERNELS_GPU,
     CLMLA_MATRIX_UNITS_OFF,
     F32,
     F32,
     "projection_gpu " MATRIX(
         "f32") " max_rows=any : tile_rows=32 tile_columns=32 work_rows=4 work_columns=2\n",
     {"projection_stream " MATRIX("f32") " : tile_columns=",
      "max_rows=16 : tile_rows=32 tile_columns=32 work_rows=4 work_columns=2",
      "max_rows=any : tile_rows=32 tile_columns=32 work_rows=4 work_columns=2"}},
    {"nvidia: slices of few rows, a tile of many",
     CLMLA_KERNELS_NVIDIA,
     CLMLA_MATRIX_UNITS_AUTO,
     BF16,
     BF16,
     "projection_few " MMA_MATRIX " : tile_columns=64 slices=3\n"
     "projection_tiled " MMA_MATRIX
     " max_rows=128 : tile_rows=64 tile_columns=128 work_rows=64 stages=2\n",
     {"projection_few " MMA_MATRIX " : tile_columns=64 slices=3",
      "projection_few " MMA_MATRIX " : tile_columns=64 slices=3",
      "projection_tiled " MMA_MATRIX
      " max_rows=128 : tile_rows=64 tile_columns=128 work_rows=64 stages=2"},
     .k = 1080,
     .many_differ = true},
    {"nvidia: another tile of many rows than the record has",
     CLMLA_KERNELS_NVIDIA,
     CLMLA_MATRIX_UNITS_AUTO,
     BF16,
     BF16,
     "projection_tiled " MMA_MATRIX
     " max_rows=69 : tile_rows=128 tile_columns=128 work_rows=32 stages=2\n",
     {"projection_few " MMA_MATRIX " : tile_columns=64",
      "projection_few " MMA_MATRIX " : tile_columns=64",
      "projection_tiled " MMA_MATRIX " max_rows="},
     .k = 1080,
     .many_differ = true},
};

static int32_t k_of(const recorded_case *c) { return c->k > 0 ? c->k : K; }

static clmla_context *open_case(const recorded_case *c)
{
    char *text = test_tuning_text(c->entries);
    clmla_context *context = test_context_with_tuning(c->kernel_class, c->units, text);
    free(text);
    if (c->units == CLMLA_MATRIX_UNITS_AUTO && !mla__projection_uses_dot(context, c->x, c->w)) {
        clmla_context_release(context);
        print_message("skipped: the device has no bf16 dot products of these weights\n");
        skip();
    }
    return context;
}

static void describes_itself_by_the_recorded_tile(void **state)
{
    const recorded_case *c = *state;
    static const int32_t rows[] = {1, 16, MOST_ROWS};
    clmla_context *context = open_case(c);
    const struct clmla_matrix matrix = {
        .num_batches = 1, .out_features = N, .in_features = k_of(c), .dtype = c->w};
    for (int i = 0; i < 3; i++) {
        const clmla_projection_params params = {.struct_size = sizeof params,
                                                .matrix = &matrix,
                                                .num_rows = rows[i],
                                                .x.dtype = c->x,
                                                .y.dtype = F32};
        char text[256];
        size_t length = 0;
        assert_int_equal(clmla_projection_describe(context, &params, text, sizeof text, &length),
                         CLMLA_SUCCESS);
        assert_int_equal(length, strlen(text));
        if (strstr(text, c->taken[i]) == NULL)
            fail_msg("%d rows: %s, not %s", (int)rows[i], text, c->taken[i]);
    }
    clmla_context_release(context);
}

/* Against the sum in double, and a row's bits among 1, 2, 5, 16, 17 and 70 rows. */
static void computes_right_with_the_recorded_tile(void **state)
{
    const recorded_case *c = *state;
    static const int32_t rows[] = {MOST_ROWS, 17, 16, 5, 2, 1};
    clmla_context *context = open_case(c);
    float *whole = NULL;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const projection_case one = {
            .name = c->name, .M = rows[i], .N = N, .K = k_of(c), .x = c->x, .w = c->w, .y = F32};
        float *y = (float *)(void *)projection_run_on(context, &one, test_device_get()->queue);
        if (i == 0 && c->many_differ) {
            free(y);
            continue;
        }
        if (whole == NULL)
            whole = y;
        /* the same weights and first rows are drawn for every number of rows */
        assert_memory_equal(y, whole, (size_t)rows[i] * N * sizeof *y);
        if (y != whole)
            free(y);
    }
    free(whole);
    clmla_context_release(context);
}

/* The fused kernel takes the slices and stages of its matrix, or steps back. */
static void merge_and_w_uv_follow_the_slices_of_their_matrix(void **state)
{
    (void)state;
    static const char *const tiles[] = {"tile_columns=32 tile_k=16 slices=8",
                                        "tile_columns=32 tile_k=32 slices=3"};
    const struct clmla_matrix w_uv = {
        .num_batches = 3, .out_features = 128, .in_features = 512, .dtype = BF16};
    for (int i = 0; i < 2; i++) {
        char entries[192], fused[256];
        (void)snprintf(entries, sizeof entries,
                       "projection_stream weights=bf16 batches=3 out_features=128 "
                       "in_features=512 : %s\n",
                       tiles[i]);
        char *text = test_tuning_text(entries);
        clmla_context *context =
            test_context_with_tuning(CLMLA_KERNELS_GPU, CLMLA_MATRIX_UNITS_OFF, text);
        (void)mla__merge_up_text(context, &w_uv, fused, sizeof fused);
        assert_int_equal(mla__merge_up_fits(context, &w_uv), i == 0);
        assert_int_equal(strstr(fused, "tile_k=16 slices=8") != NULL, i == 0);
        clmla_context_release(context);
        free(text);
    }
}

/* ---- CLBlast ------------------------------------------------------------------------------ */

#define SET                                                                                        \
    "gemmk=0 kreg=1 kwg=16 kwi=2 mdima=8 mdimc=8 mwg=32 ndimb=2 ndimc=2 nwg=8 sa=1 sb=0 strm=0 "   \
    "strn=0 vwm=4 vwn=4 min_indirect_size=1"

/* The record's set up to its rows, then the device's own; results are right with either. */
static void clblast_runs_with_the_recorded_parameters(void **state)
{
    (void)state;
    char *text = test_tuning_text("clblast_xgemm max_rows=24 : " SET "\n");
    const clmla_context_options options = {.struct_size = sizeof options,
                                           .projection = CLMLA_PROJECTION_CLBLAST,
                                           .allow_clblast_overrides = 1,
                                           .tuning_text = text};
    const test_device *device = test_device_get();
    clmla_context *context = NULL;
    assert_int_equal(clmla_context_create(device->context, device->id, &options, &context),
                     CLMLA_SUCCESS);
    const int32_t rows[] = {1, 20, 24, 40};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const projection_case one = {
            .name = "CLBlast", .M = rows[i], .N = 72, .K = 45, .x = F32, .w = BF16, .y = F32};
        const mla__clblast_record *record =
            mla__clblast_record_of(context, (size_t)mla__clblast_padded_rows(context, rows[i]));
        assert_int_equal(record != NULL && record->xgemm.nwg == 8 && record->max_rows == 24,
                         rows[i] <= 24);
        projection_run(context, &one);
        const struct clmla_matrix matrix = {
            .num_batches = 1, .out_features = 72, .in_features = 45, .dtype = BF16};
        const clmla_projection_params params = {.struct_size = sizeof params,
                                                .matrix = &matrix,
                                                .num_rows = rows[i],
                                                .x.dtype = F32,
                                                .y.dtype = F32};
        char line[512];
        const clmla_status status =
            clmla_projection_describe(context, &params, line, sizeof line, NULL);
        if (rows[i] <= 24) {
            assert_int_equal(status, CLMLA_SUCCESS);
            assert_string_equal(line, "clblast_xgemm max_rows=24 : " SET);
        }
    }
    clmla_context_release(context);
    free(text);
}

/* ---- attention ---------------------------------------------------------------------------- */

typedef struct attention_case {
    const char *name;
    clmla_kernel_class kernel_class;
    clmla_matrix_units units;
    clmla_dtype dtype;
    const char *tile;           /* with its kernel's name; the last line's is taken */
    int32_t kv_lora_rank, rope; /* 0: KV, ROPE */
} attention_case;

enum { HEADS = 5, KV = 33, ROPE = 18 };

static const attention_case attention_cases[] = {
    {"attention, cpu", CLMLA_KERNELS_CPU, CLMLA_MATRIX_UNITS_OFF, F32,
     "attention_cpu cache=f32 heads=5 kv_lora_rank=33 rope_dim=18 : row_vectors=3 block_tokens=24 "
     "tile_tokens=4 tile_values=7"},
    {"attention, bf16 dot products", CLMLA_KERNELS_CPU, CLMLA_MATRIX_UNITS_AUTO, BF16,
     "attention_dot cache=bf16 heads=5 kv_lora_rank=33 rope_dim=18 : row_vectors=1 "
     "block_tokens=36 tile_tokens=6 tile_values=12"},
    {"attention, gpu", CLMLA_KERNELS_GPU, CLMLA_MATRIX_UNITS_OFF, F32,
     "attention_gpu cache=f32 heads=5 kv_lora_rank=33 rope_dim=18 : tile_rows=4 block_tokens=16 "
     "work_group=64"},
    {"attention, nvidia", CLMLA_KERNELS_NVIDIA, CLMLA_MATRIX_UNITS_AUTO, BF16,
     "attention_mma cache=bf16 heads=5 kv_lora_rank=64 rope_dim=16 max_rows=any : tile_rows=32 "
     "stages=3",
     64, 16},
    {"attention, nvidia, by rows", CLMLA_KERNELS_NVIDIA, CLMLA_MATRIX_UNITS_AUTO, BF16,
     "attention_mma cache=bf16 heads=5 kv_lora_rank=64 rope_dim=16 max_rows=19 : tile_rows=32 "
     "stages=4\n"
     "attention_mma cache=bf16 heads=5 kv_lora_rank=64 rope_dim=16 max_rows=any : tile_rows=16 "
     "stages=5",
     64, 16},
};

static const attention_sequence sequences[] = {{1, 13, 30}, {2, 1, 141}, {3, 0, 12}, {4, 2, 0}};

static void attention_computes_right_with_the_recorded_tile(void **state)
{
    const attention_case *c = *state;
    const int32_t kv = c->kv_lora_rank > 0 ? c->kv_lora_rank : KV;
    const char *const end = strrchr(c->tile, '\n');
    const recorded_case open = {
        .kernel_class = c->kernel_class, .units = c->units, .entries = c->tile};
    clmla_context *context = open_case(&open);
    const attention_batch batch = {.num_heads = HEADS,
                                   .kv_lora_rank = kv,
                                   .rope_dim = c->rope > 0 ? c->rope : ROPE,
                                   .num_sequences = 4,
                                   .sequences = sequences,
                                   .page_block_size = 7,
                                   .q_lat = c->dtype,
                                   .q_pe = c->dtype,
                                   .cache = c->dtype,
                                   .out = F32};
    attention_problem p = attention_problem_make(context, &batch);
    char text[256];
    assert_int_equal(clmla_attention_describe(context, &p.params, text, sizeof text, NULL),
                     CLMLA_SUCCESS);
    assert_string_equal(text, end != NULL ? end + 1 : c->tile);
    const cl_command_queue queue = test_device_get()->queue;
    assert_int_equal(attention_problem_enqueue(context, &p, queue, 0, NULL, NULL), CLMLA_SUCCESS);
    assert_int_equal(clFinish(queue), CL_SUCCESS);
    const size_t rows = (size_t)p.num_tokens * HEADS, width = (size_t)kv;
    double *out = doubles(rows * width), *expected = doubles(width), *lse = doubles(rows), one;
    attention_problem_read(&p, out, lse);
    for (size_t row = 0; row < rows; row++) {
        (void)attention_reference(&p, row, expected, &one);
        double scale = 0.0;
        for (size_t i = 0; i < width; i++)
            scale = fmax(scale, fabs(expected[i]));
        for (size_t i = 0; i < width; i++) /* weights of bf16 dot products are rounded to bf16 */
            if (!(fabs(out[row * width + i] - expected[i]) <=
                  (c->dtype == BF16 ? 0x1p-7 : 0x1p-18) * (scale + 0x1p-20)))
                fail_msg("%s: row %zu, %zu: %g, expected %g", c->name, row, i, out[row * width + i],
                         expected[i]);
        assert_true(lse[row] == one || fabs(lse[row] - one) <= 1e-3 * (1 + fabs(one)));
    }
    free(out);
    free(expected);
    free(lse);
    attention_problem_release(&p);
    clmla_context_release(context);
}

/* An entry for heads, dims or storage that the call does not have. */
static void other_calls_keep_their_tile(void **state)
{
    (void)state;
    static const char *const others[] = {
        "attention_gpu cache=bf16 heads=4 kv_lora_rank=512 rope_dim=64 : ",
        "attention_gpu cache=bf16 heads=16 kv_lora_rank=256 rope_dim=64 : ",
        "attention_gpu cache=f16 heads=16 kv_lora_rank=512 rope_dim=64 : "};
    const mla__attention_shape shape = {.q_lat = BF16,
                                        .q_pe = BF16,
                                        .cache = BF16,
                                        .out = BF16,
                                        .num_heads = 16,
                                        .kv_lora_rank = 512,
                                        .rope_dim = 64};
    for (int i = 0; i < 3; i++) {
        char entry[192];
        mla__attention_choice choice;
        (void)snprintf(entry, sizeof entry, "%stile_rows=2 block_tokens=2 work_group=32\n",
                       others[i]);
        char *text = test_tuning_text(entry);
        clmla_context *context =
            test_context_with_tuning(CLMLA_KERNELS_GPU, CLMLA_MATRIX_UNITS_OFF, text);
        assert_true(mla__attention_choose(context, &shape, &choice));
        assert_int_equal(choice.tile.tile_rows, 16);
        assert_false(choice.recorded);
        clmla_context_release(context);
        free(text);
    }
}

/* float32 queries on a bf16 cache need more local memory than the record was checked for. */
static void a_tile_that_does_not_fit_the_query_is_left_out(void **state)
{
    (void)state;
    char *text = test_tuning_text("attention_gpu cache=bf16 heads=16 kv_lora_rank=512 rope_dim=64 "
                                  ": tile_rows=16 block_tokens=8 work_group=256\n");
    clmla_context *context =
        test_context_with_tuning(CLMLA_KERNELS_GPU, CLMLA_MATRIX_UNITS_OFF, text);
    mla__attention_shape shape = {.q_lat = BF16,
                                  .q_pe = BF16,
                                  .cache = BF16,
                                  .out = BF16,
                                  .num_heads = 16,
                                  .kv_lora_rank = 512,
                                  .rope_dim = 64};
    mla__attention_choice choice;
    context->device.local_mem_bytes = 32 * 1024;
    assert_true(mla__attention_choose(context, &shape, &choice));
    assert_true(choice.recorded);
    shape.q_lat = F32;
    assert_true(mla__attention_choose(context, &shape, &choice));
    assert_false(choice.recorded);
    clmla_context_release(context);
    free(text);
}

/* ---- the context -------------------------------------------------------------------------- */

static void a_file_and_a_text_are_one_too_many(void **state)
{
    (void)state;
    const clmla_context_options options = {
        .struct_size = sizeof options, .tuning_file = "nosuch", .tuning_text = "clmla-tuning 1\n"};
    const test_device *device = test_device_get();
    clmla_context *context = NULL;
    assert_int_equal(clmla_context_create(device->context, device->id, &options, &context),
                     CLMLA_INVALID_ARGUMENT);
    assert_null(context);
}

static void a_file_is_read_counted_and_refused(void **state)
{
    (void)state;
    static const char path[] = TEST_OUTPUT_DIR "/recorded_tiles.tuning";
    clmla_context_options options = {.struct_size = sizeof options, .tuning_file = path};
    const test_device *device = test_device_get();
    clmla_context *context = NULL;
    clmla_context_info info = {.struct_size = sizeof info};
    char *text = test_tuning_text(cases[0].entries);
    assert_int_equal(mla__os_replace_file(path, text, strlen(text)), CLMLA_SUCCESS);
    assert_int_equal(clmla_context_create(device->context, device->id, &options, &context),
                     CLMLA_SUCCESS);
    assert_int_equal(clmla_context_get_info(context, &info), CLMLA_SUCCESS);
    assert_int_equal(info.tuning_entries, 3);
    clmla_context_release(context);
    context = NULL;
    assert_int_equal(mla__os_replace_file(path, text, 20), CLMLA_SUCCESS);
    assert_int_equal(clmla_context_create(device->context, device->id, &options, &context),
                     text[20] == '\n' ? CLMLA_SUCCESS : CLMLA_INVALID_TUNING);
    options.tuning_file = TEST_OUTPUT_DIR "/nosuch.tuning";
    assert_int_equal(clmla_context_create(device->context, device->id, &options, &context),
                     CLMLA_IO);
    options.tuning_file = "/dev/zero"; /* not regular: never read */
    assert_int_equal(clmla_context_create(device->context, device->id, &options, &context),
                     CLMLA_IO);
    assert_null(context);
    free(text);
}

int main(void)
{
    enum {
        CASES = sizeof cases / sizeof cases[0],
        ATTENTION = sizeof attention_cases / sizeof attention_cases[0]
    };
    struct CMUnitTest tests[2 * CASES + ATTENTION + 6] = {
        cmocka_unit_test(clblast_runs_with_the_recorded_parameters),
        cmocka_unit_test(merge_and_w_uv_follow_the_slices_of_their_matrix),
        cmocka_unit_test(other_calls_keep_their_tile),
        cmocka_unit_test(a_tile_that_does_not_fit_the_query_is_left_out),
        cmocka_unit_test(a_file_and_a_text_are_one_too_many),
        cmocka_unit_test(a_file_is_read_counted_and_refused),
    };
    size_t count = 6;
    for (size_t i = 0; i < CASES; i++) {
        void *const c = (void *)(uintptr_t)&cases[i];
        tests[count++] = (struct CMUnitTest){cases[i].name, describes_itself_by_the_recorded_tile,
                                             NULL, NULL, c};
        tests[count++] = (struct CMUnitTest){cases[i].name, computes_right_with_the_recorded_tile,
                                             NULL, NULL, c};
    }
    for (size_t i = 0; i < ATTENTION; i++)
        tests[count++] = (struct CMUnitTest){attention_cases[i].name,
                                             attention_computes_right_with_the_recorded_tile, NULL,
                                             NULL, (void *)(uintptr_t)&attention_cases[i]};
    const int failed = cmocka_run_group_tests_name("recorded tiles", tests, NULL, NULL);
    test_device_close();
    return failed;
}
