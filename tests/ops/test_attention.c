/* attention against the reference in double, its errors, and its splits, on both kernel classes. */
#include "ops/attention_tests.h"

enum { NO_MASK = CLMLA_MASK_NONE };

/* {id, new tokens, keys} */
static const attention_sequence decode[] = {{1, 1, 37}};
static const attention_sequence single[] = {{1, 1, 18}, {2, 0, 5}, {3, 1, 0}, {4, 1, 33}};
static const attention_sequence two_tokens[] = {{1, 2, 50}};
static const attention_sequence one_key[] = {{1, 1, 1}};
static const attention_sequence nothing[] = {{1, 1, 0}, {2, 0, 0}};
static const attention_sequence more_tokens_than_keys[] = {{1, 5, 3}, {2, 4, 4}};
static const attention_sequence around_block[] = {{1, 1, 7},  {2, 1, 8},  {3, 1, 9}, {4, 1, 31},
                                                  {5, 1, 32}, {6, 1, 33}, {7, 2, 65}};
static const attention_sequence around_tile[] = {{1, 15, 15}, {2, 16, 16}, {3, 17, 17},
                                                 {4, 31, 31}, {5, 32, 32}, {6, 33, 33}};
static const attention_sequence many[] = {
    {1, 1, 3},  {2, 2, 3},  {3, 0, 3},  {4, 5, 6},  {5, 1, 9},  {6, 1, 2},  {7, 7, 7},  {8, 0, 0},
    {9, 1, 1},  {10, 3, 4}, {11, 1, 8}, {12, 1, 5}, {13, 2, 9}, {14, 1, 4}, {15, 0, 7}, {16, 4, 4},
    {17, 1, 3}, {18, 1, 3}, {19, 6, 9}, {20, 1, 6}, {21, 1, 1}, {22, 1, 0}, {23, 2, 2}, {24, 1, 5}};

// clang-format off
static const attention_case cases[] = {
    {"one head of one token, contiguous", false,
     {STANDARD, .num_heads = 1, SEQUENCES(decode)}},
    {"one key: out is that key", false,
     {STANDARD, .num_heads = 3, SEQUENCES(one_key)}},
    {"nothing to attend: out 0, lse -INFINITY", false,
     {STANDARD, .num_heads = 3, SEQUENCES(nothing), .page_block_size = 4}},
    {"tokens before the first key attend nothing", false,
     {STANDARD, .num_heads = 5, SEQUENCES(more_tokens_than_keys)}},
    {"mixed batch, paged", false,
     {STANDARD, .num_heads = 4, SEQUENCES(mixed), .page_block_size = 16}},
    {"mixed batch without a mask", false,
     {STANDARD, .num_heads = 4, .mask = NO_MASK, SEQUENCES(mixed), .page_block_size = 16}},
    {"fused cache, strides wider than rows", false,
     {STANDARD, .num_heads = 4, SEQUENCES(mixed), .page_block_size = 5, .gap = 6, .fused = true}},
    {"pages of one row", false,
     {STANDARD, .num_heads = 4, SEQUENCES(mixed), .page_block_size = 1}},
    {"tokens past the last sequence", false,
     {STANDARD, .num_heads = 4, SEQUENCES(mixed), .extra_tokens = 11}},
    {"many short sequences, three heads", false,
     {STANDARD, .num_heads = 3, SEQUENCES(many), .page_block_size = 4}},
    {"prefill of one sequence, seven heads", false,
     {STANDARD, .num_heads = 7, SEQUENCES(prefill)}},
    {"rows around a tile, keys one by one", false,
     {STANDARD, .num_heads = 1, SEQUENCES(around_tile), .page_block_size = 8}},
    {"keys around a block", false,
     {STANDARD, .num_heads = 17, SEQUENCES(around_block), .page_block_size = 16}},
    {"63 heads", false,
     {STANDARD, .num_heads = 63, SEQUENCES(decode), .page_block_size = 16}},
    {"64 heads, sequences of one token and none", false,
     {STANDARD, .num_heads = 64, SEQUENCES(single)}},
    {"128 heads, two tokens, three splits", false,
     {STANDARD, .num_heads = 128, SEQUENCES(two_tokens), .num_splits = 3}},
    {"sharp softmax", false,
     {STANDARD, .num_heads = 4, .softmax_scale = 300, SEQUENCES(mixed)}},
    {"no rope part", true,
     {.num_heads = 4, .kv_lora_rank = 64, SEQUENCES(mixed), .page_block_size = 16}},
    {"no rope part, fused", false,
     {.num_heads = 2, .kv_lora_rank = LATENT, .out = F32, SEQUENCES(mixed), .fused = true}},
    {"one latent element, one rope element", true,
     {.num_heads = 2, .kv_lora_rank = 1, .rope_dim = 1, SEQUENCES(mixed), .page_block_size = 3}},
    {"dims of whole vectors, bf16, in place, lse not wanted", true,
     {.num_heads = 4, .kv_lora_rank = 64, .rope_dim = 16, SEQUENCES(mixed), .page_block_size = 16,
      .in_place = true, .no_lse = true}},
    {"in place", false,
     {STANDARD, .num_heads = 9, SEQUENCES(mixed), .page_block_size = 16, .in_place = true}},
    {"f16 cache, latent in f32, in place", true,
     {.num_heads = 4, .kv_lora_rank = 64, .rope_dim = 16, SEQUENCES(mixed), .page_block_size = 16,
      .in_place = true, .q_lat = F32, .q_pe = F16, .cache = F16, .out = F32}},
    {"f32 throughout, odd strides", false,
     {.num_heads = 5, .kv_lora_rank = 35, .rope_dim = 6, SEQUENCES(mixed), .page_block_size = 16,
      .gap = 1, .q_lat = F32, .q_pe = F32, .cache = F32, .out = F32}},
    {"every dtype another", true,
     {.num_heads = 4, .kv_lora_rank = 64, .rope_dim = 16, SEQUENCES(mixed), .q_lat = F16,
      .q_pe = F32, .cache = BF16, .out = F16}},
    {"FP8 cache, paged", false,
     {.num_heads = 4, .kv_lora_rank = 256, .rope_dim = 16, .cache = FP8, .out = F32,
      SEQUENCES(mixed), .page_block_size = 16}},
    {"FP8 cache, records apart, in place, splits", false,
     {.num_heads = 4, .kv_lora_rank = 256, .rope_dim = 16, .cache = FP8, SEQUENCES(mixed),
      .page_block_size = 5, .gap = 3, .in_place = true, .num_splits = 3}},
    {"FP8 cache, no rope part, float32 query", true,
     {.num_heads = 3, .kv_lora_rank = 128, .cache = FP8, .q_lat = F32, .q_pe = F32, .out = F32,
      SEQUENCES(prefill)}},
    {"four splits", false,
     {STANDARD, .num_heads = 4, SEQUENCES(mixed), .page_block_size = 16, .num_splits = 4}},
    {"splits of fixed length, in place, tokens past the last sequence", false,
     {STANDARD, .num_heads = 4, SEQUENCES(mixed), .page_block_size = 16, .in_place = true,
      .extra_tokens = 2, .split_tokens = 32}},
    {"splits of one key, lse not wanted", false,
     {STANDARD, .num_heads = 3, SEQUENCES(mixed), .no_lse = true, .split_tokens = 1}},
    {"more splits than keys", false,
     {STANDARD, .num_heads = 3, SEQUENCES(many), .num_splits = 50}},
};
// clang-format on

/* What a path is there to test. */
static enum mla__attention_kind kind_of_path(const attention_path *path)
{
    if (path->kernel_class == CLMLA_KERNELS_CPU)
        return path->dot_products ? MLA__ATTENTION_DOT : MLA__ATTENTION_CPU;
    return path->mma ? MLA__ATTENTION_MMA : MLA__ATTENTION_GPU;
}

/* Weights rounded to bf16 are off by at most 2^-9 of themselves, each by its own error; latent
 * elements are independent of them and of mean 0. So an element of out is off by the root of
 * Σ (2^-9 · w_j · c_j)² at most, when out itself is the root of Σ (w_j · c_j)²: 2^-9 in L2. */
static void matches_the_formula(void **state)
{
    clmla_context *context = open_path(state);
    const attention_path *path = path_of(state);
    const bool bf16_only = path->dot_products || path->mma;
    for (size_t i = 0; i < COUNT(cases); i++) {
        attention_case c = cases[i];
        c.batch = on_path(state, &c.batch);
        if (c.cpu_only && context->kernel_class != CLMLA_KERNELS_CPU)
            continue;
        if (bf16_only && c.batch.cache != CLMLA_DTYPE_DEFAULT && c.batch.cache != BF16 &&
            c.batch.cache != FP8)
            continue; /* same kernel as without */
        assert_int_equal(attention_kind(context, &c.batch), kind_of_path(path));
        attention_check(context, &c, bf16_only ? 0x1p-9 : 0);
    }
    clmla_context_release(context);
}

/* Storage other than bf16, another class, or units switched off: attention.cl. */
static void matrix_units_are_for_bf16_throughout(void **state)
{
    clmla_context *context = open_path(state);
    const clmla_dtype dtypes[][3] = {{F32, BF16, BF16}, {BF16, F32, BF16}, {F16, F16, F16}};
    attention_batch batch = {.num_heads = 4, .kv_lora_rank = 64, .rope_dim = 16, SEQUENCES(decode)};
    const bool mma = path_of(state)->mma;
    assert_int_equal(attention_kind(context, &batch), kind_of_path(path_of(state)));
    for (size_t i = 0; i < COUNT(dtypes); i++) {
        batch.q_lat = dtypes[i][0];
        batch.q_pe = dtypes[i][1];
        batch.cache = dtypes[i][2];
        assert_int_equal(attention_kind(context, &batch),
                         mma ? MLA__ATTENTION_GPU : MLA__ATTENTION_CPU);
    }
    clmla_context_release(context);
}

static void shapes_not_for_tensor_cores_go_to_the_portable_kernel(void **state)
{
    clmla_context *context = open_path(state);
    const attention_batch plain = {
        .num_heads = 4, .kv_lora_rank = 64, .rope_dim = 16, SEQUENCES(decode)};
    attention_batch others[] = {plain, plain, plain, plain};
    others[0].kv_lora_rank = 48;
    others[1].rope_dim = 8;
    others[2].out = F16;
    others[3].kv_lora_rank = 1024; /* local memory */
    assert_int_equal(attention_kind(context, &plain), MLA__ATTENTION_MMA);
    for (size_t i = 0; i < COUNT(others); i++)
        assert_int_equal(attention_kind(context, &others[i]), MLA__ATTENTION_GPU);
    context->matrix_units = false;
    assert_int_equal(attention_kind(context, &plain), MLA__ATTENTION_GPU);
    clmla_context_release(context);
}

/* The smallest that reaches every part of the kernel, for simulators: rows that see different keys of
 * a block, a block that all see, a page's end, splits; sixteen rows, thirty-two and sixty-four. */
static void nvidia_on_simulators(void **state)
{
    (void)state;
    static const attention_sequence chunk[] = {{1, 2, 21}, {2, 1, 0}}, wide[] = {{1, 3, 18}};
    clmla_context *context = test_context_with_units(CLMLA_KERNELS_NVIDIA, CLMLA_MATRIX_UNITS_AUTO);
    const attention_case small[] = {
        {"sixteen rows",
         false,
         {.num_heads = 3,
          .kv_lora_rank = 64,
          .rope_dim = 16,
          SEQUENCES(chunk),
          .page_block_size = 16,
          .num_splits = 2}},
        {"in place, a sequence without keys",
         false,
         {.num_heads = 3, .kv_lora_rank = 64, .rope_dim = 16, SEQUENCES(chunk), .in_place = true}},
        {"thirty-two rows",
         false,
         {.num_heads = 11, .kv_lora_rank = 64, SEQUENCES(wide), .page_block_size = 7, .gap = 1}},
        {"sixty-four rows",
         false,
         {.num_heads = 22,
          .kv_lora_rank = 64,
          SEQUENCES(wide),
          .tile_rows = MLA__ATTENTION_LARGE_ROWS}}};
    const char *why_not;
    const size_t count =
        COUNT(small) - (attention_try_large_tile(context, 64, 16, &why_not) ? 0 : 1);
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(attention_kind(context, &small[i].batch), MLA__ATTENTION_MMA);
        attention_check(context, &small[i], 0x1p-9);
    }
    clmla_context_release(context);
}

/* A driver that does not take the PTX, or has no vectors for vdpbf16ps. */
static void a_kernel_that_does_not_build_gives_way(clmla_kernel_class kernel_class,
                                                   const char *kernel,
                                                   enum mla__attention_kind expected)
{
    const char *const directory = TEST_OUTPUT_DIR "/no_matrix_units";
    test_write_kernel(directory, kernel, "#error no matrix units\n");
    clmla_context *context = test_context_with_kernels(kernel_class, directory);
    context->device.has_bf16_dot = true;
    const attention_case c = {"portable in place of matrix units",
                              false,
                              {.num_heads = 4,
                               .kv_lora_rank = 64,
                               .rope_dim = 16,
                               SEQUENCES(mixed),
                               .page_block_size = 16,
                               .num_splits = 2}};
    test_clear_notify();
    assert_int_equal(attention_kind(context, &c.batch), expected);
    assert_non_null(strstr(test_last_notify(), "the portable one takes its place"));
    attention_check(context, &c, 0);
    clmla_context_release(context);
}

static void the_portable_kernel_where_nvidia_does_not_build(void **state)
{
    (void)state;
    a_kernel_that_does_not_build_gives_way(CLMLA_KERNELS_NVIDIA, "nvidia/attention.cl",
                                           MLA__ATTENTION_GPU);
}

static void the_portable_kernel_where_bf16_dot_does_not_build(void **state)
{
    (void)state;
    a_kernel_that_does_not_build_gives_way(CLMLA_KERNELS_CPU, "cpu/attention_dot.cl",
                                           MLA__ATTENTION_CPU);
}

/* ---- errors --------------------------------------------------------------------------------- */

typedef struct wrong_case {
    const char *name;
    clmla_status expected;
    void (*spoil)(clmla_attention_params *params);
} wrong_case;

static void newer_struct(clmla_attention_params *p) { p->struct_size += 8; }
static void no_heads(clmla_attention_params *p) { p->num_heads = 0; }
static void no_latent(clmla_attention_params *p) { p->kv_lora_rank = 0; }
static void negative_rope(clmla_attention_params *p) { p->rope_dim = -2; }
static void no_scale(clmla_attention_params *p) { p->softmax_scale = 0; }
static void nan_scale(clmla_attention_params *p) { p->softmax_scale = (double)NAN; }
static void huge_scale(clmla_attention_params *p) { p->softmax_scale = 1e39; }
static void unknown_mask(clmla_attention_params *p) { p->mask = 2; }
static void negative_splits(clmla_attention_params *p) { p->num_splits = -1; }
static void negative_split_tokens(clmla_attention_params *p) { p->split_tokens = -1; }
static void endless_splits(clmla_attention_params *p)
{
    p->split_tokens = 1;
    p->sequences.max_cache_seqlen = 65536;
}
static void no_workspace(clmla_attention_params *p) { p->workspace.buffer = NULL; }
static void late_workspace(clmla_attention_params *p) { p->workspace.offset_bytes += 260; }
static void negative_tokens(clmla_attention_params *p) { p->sequences.num_tokens = -1; }
static void no_page_rows(clmla_attention_params *p) { p->sequences.page_block_size = 0; }
static void more_pages(clmla_attention_params *p) { p->sequences.num_pages += 1; }
static void more_tokens(clmla_attention_params *p) { p->sequences.num_tokens += 1; }
static void rows_overlap(clmla_attention_params *p) { p->q_lat.strides[1] = 32; }
static void cache_rows_overlap(clmla_attention_params *p) { p->kv_cache.strides[1] = 32; }
static void odd_offset(clmla_attention_params *p) { p->out.offset_bytes += 1; }
static void integer_cache(clmla_attention_params *p) { p->kv_cache.dtype = CLMLA_DTYPE_I32; }
static void two_cache_dtypes(clmla_attention_params *p) { p->pe_cache.dtype = F16; }
static void half_lse(clmla_attention_params *p) { p->softmax_lse.dtype = BF16; }
static void no_out(clmla_attention_params *p) { p->out.buffer = NULL; }
static void out_on_the_cache(clmla_attention_params *p) { p->out = p->kv_cache; }
static void out_half_on_q(clmla_attention_params *p)
{
    p->out = p->q_lat;
    p->out.offset_bytes += 2;
}

static const wrong_case wrong[] = {
    {"a struct of a newer version", CLMLA_INVALID_ARGUMENT, newer_struct},
    {"no heads", CLMLA_INVALID_TENSOR_SHAPE, no_heads},
    {"no latent", CLMLA_INVALID_TENSOR_SHAPE, no_latent},
    {"a negative rope part", CLMLA_INVALID_TENSOR_SHAPE, negative_rope},
    {"softmax_scale not set", CLMLA_INVALID_ARGUMENT, no_scale},
    {"softmax_scale is a NaN", CLMLA_INVALID_ARGUMENT, nan_scale},
    {"softmax_scale past float32", CLMLA_INVALID_ARGUMENT, huge_scale},
    {"a mask nobody knows", CLMLA_INVALID_ARGUMENT, unknown_mask},
    {"a negative number of splits", CLMLA_INVALID_ARGUMENT, negative_splits},
    {"negative split_tokens", CLMLA_INVALID_ARGUMENT, negative_split_tokens},
    {"more splits than a grid has", CLMLA_INVALID_ARGUMENT, endless_splits},
    {"splits without a workspace", CLMLA_WORKSPACE_TOO_SMALL, no_workspace},
    {"a workspace that ends too early", CLMLA_WORKSPACE_TOO_SMALL, late_workspace},
    {"a negative number of tokens", CLMLA_INVALID_ARGUMENT, negative_tokens},
    {"pages of no rows", CLMLA_INVALID_ARGUMENT, no_page_rows},
    {"more pages than the cache", CLMLA_BUFFER_TOO_SMALL, more_pages},
    {"more tokens than the tensors", CLMLA_BUFFER_TOO_SMALL, more_tokens},
    {"rows of q_lat that overlap", CLMLA_INVALID_STRIDE, rows_overlap},
    {"rows of the cache that overlap", CLMLA_INVALID_STRIDE, cache_rows_overlap},
    {"out at half an element", CLMLA_INVALID_STRIDE, odd_offset},
    {"a cache of integers", CLMLA_INVALID_TENSOR_DTYPE, integer_cache},
    {"kv_cache and pe_cache of two dtypes", CLMLA_INVALID_TENSOR_DTYPE, two_cache_dtypes},
    {"softmax_lse in bf16", CLMLA_INVALID_TENSOR_DTYPE, half_lse},
    {"no out", CLMLA_INVALID_ARGUMENT, no_out},
    {"out on the cache", CLMLA_INVALID_ARGUMENT, out_on_the_cache},
    {"out an element off q_lat", CLMLA_INVALID_ARGUMENT, out_half_on_q},
};

static void rejects_wrong_arguments_and_touches_nothing(void **state)
{
    clmla_context *context = open_path(state);
    const cl_command_queue queue = test_device_get()->queue;
    const attention_batch batch = {.num_heads = 4,
                                   .kv_lora_rank = LATENT,
                                   .rope_dim = ROPE,
                                   SEQUENCES(mixed),
                                   .page_block_size = 7,
                                   .num_splits = 3};
    attention_problem p = attention_problem_make(context, &batch);
    cl_event event = (cl_event)&p; /* not to be written */
    for (size_t i = 0; i < COUNT(wrong); i++) {
        clmla_attention_params params = p.params;
        wrong[i].spoil(&params);
        test_clear_notify();
        const clmla_status status =
            clmla_enqueue_attention(context, &params, queue, 0, NULL, &event);
        if (status != wrong[i].expected)
            fail_msg("%s: %s (%s), expected %s", wrong[i].name, clmla_status_name(status),
                     test_last_notify(), clmla_status_name(wrong[i].expected));
        if (test_last_notify()[0] == '\0')
            fail_msg("%s: no text", wrong[i].name);
        assert_true(event == (cl_event)&p);
    }
    assert_int_equal(clmla_enqueue_attention(NULL, &p.params, queue, 0, NULL, NULL),
                     CLMLA_INVALID_ARGUMENT);
    assert_int_equal(clmla_enqueue_attention(context, NULL, queue, 0, NULL, NULL),
                     CLMLA_INVALID_ARGUMENT);
    assert_int_equal(clmla_enqueue_attention(context, &p.params, NULL, 0, NULL, NULL),
                     CL_INVALID_COMMAND_QUEUE);
    assert_int_equal(clFinish(queue), CL_SUCCESS);
    attention_problem_untouched(&p);
    attention_problem_release(&p);
    clmla_context_release(context);
}

static void a_latent_that_fits_no_tile_is_unsupported(void **state)
{
    const bool cpu = path_of(state)->kernel_class == CLMLA_KERNELS_CPU;
    clmla_context *context = open_path(state);
    mla__attention_tile tile = {.tile_rows = -1};
    assert_false(mla__attention_tile_default(&context->device, context->kernel_class, F32, 1 << 20,
                                             64, &tile));
    assert_int_equal(tile.tile_rows, -1);
    for (int32_t latent = 1; latent <= (cpu ? 8192 : 1024); latent = latent * 2 + 1)
        assert_true(mla__attention_tile_default(&context->device, context->kernel_class, F32,
                                                latent, 64, &tile));
    clmla_context_release(context);
}

static void no_tokens_is_success(void **state)
{
    clmla_context *context = open_path(state);
    const cl_command_queue queue = test_device_get()->queue;
    const attention_batch batch = {.num_heads = 4, .kv_lora_rank = LATENT, .rope_dim = ROPE};
    attention_problem p = attention_problem_make(context, &batch);
    cl_event event = NULL;
    assert_int_equal(clmla_enqueue_attention(context, &p.params, queue, 0, NULL, &event),
                     CLMLA_SUCCESS);
    assert_int_equal(clWaitForEvents(1, &event), CL_SUCCESS);
    (void)clReleaseEvent(event);
    attention_problem_release(&p);
    clmla_context_release(context);
}

/* ---- splits --------------------------------------------------------------------------------- */

static void splits_cover_the_keys_and_stop_where_groups_are_many(void **state)
{
    const clmla_kernel_class kernel_class = path_of(state)->kernel_class;
    const int32_t least = kernel_class == CLMLA_KERNELS_CPU ? 128 : 64;
    static clmla_context context; /* only its device is looked at */
    const cl_uint units[] = {1, 2, 132};
    const int32_t keys[] = {0, 1, 63, 64, 127, 128, 129, 1000, 4096, 163840}, tokens[] = {1, 2, 77};
    context.kernel_class = kernel_class;
    context.device.float_vector_width = 16;
    for (size_t u = 0; u < COUNT(units); u++)
        for (size_t k = 0; k < COUNT(keys); k++)
            for (size_t t = 0; t < COUNT(tokens); t++)
                for (int32_t most = 1; most < 300; most += 149) {
                    int32_t splits = -1, length = -1, again = -1, again_length = -1;
                    context.device.compute_units = units[u];
                    mla__attention_choose_splits(&context, 16, tokens[t], tokens[t], keys[k], most,
                                                 &splits, &length);
                    mla__attention_choose_splits(&context, 16, tokens[t], tokens[t], keys[k], most,
                                                 &again, &again_length);
                    assert_true(splits == again && length == again_length);
                    assert_true(splits >= 1 && splits <= most && length >= 1);
                    assert_true((int64_t)splits * length >= keys[k]);
                    if (splits > 1) {
                        assert_true(length >= least);
                        assert_true((int64_t)(splits - 1) * length < keys[k]);
                    }
                    if (tokens[t] >= 77 && units[u] < 10)
                        assert_int_equal(splits, 1);
                    if (tokens[t] == 1 && units[u] > 1 && keys[k] >= 1000 && most > 1)
                        assert_true(splits > 1);
                }
}

/* One sequence of 32k keys, one new token, with heads that fill one group of rows and several. The
 * groups are those of the tile for a latent of DeepSeek's. */
static void one_long_sequence_keeps_every_compute_unit_busy(void **state)
{
    static clmla_context context; /* only its device is looked at */
    const cl_uint units[] = {2, 3, 8, 64, 132};
    const int32_t heads[] = {16, 128};
    context.kernel_class = path_of(state)->kernel_class;
    context.device.float_vector_width = path_of(state)->narrow ? 8 : 16;
    context.device.local_mem_bytes = 32 * 1024;
    context.device.max_work_group_size = 256;
    mla__attention_tile tile;
    assert_true(
        mla__attention_tile_default(&context.device, context.kernel_class, BF16, 512, 64, &tile));
    for (size_t u = 0; u < COUNT(units); u++)
        for (size_t h = 0; h < COUNT(heads); h++) {
            const int32_t groups = (heads[h] + tile.tile_rows - 1) / tile.tile_rows;
            int32_t splits = -1, length = -1;
            context.device.compute_units = units[u];
            mla__attention_choose_splits(&context, heads[h], 1, 1, 32768, INT32_MAX, &splits,
                                         &length);
            assert_true(groups * splits >= (int32_t)units[u]);
            assert_true((int64_t)splits * length >= 32768);
        }
}

/* One fill of H200's 132 multiprocessors, three groups of 16 rows or two of 32 on each, rather than
 * a second one that is half empty. */
static void tensor_cores_fill_the_device_evenly(void **state)
{
    (void)state;
    static clmla_context context; /* only its device is looked at */
    context.kernel_class = CLMLA_KERNELS_NVIDIA;
    context.device.compute_units = 132;
    context.device.compute_capability = 90;
    context.device.has_ptx = true;
    const struct {
        int32_t heads, sequences, keys, splits;
    } steps[] = {{16, 128, 4096, 3}, {16, 32, 4096, 11}, {16, 1, 4096, 64},
                 {16, 396, 4096, 1}, {16, 500, 4096, 3}, {128, 1, 4096, 64},
                 {128, 32, 4096, 2}, {128, 66, 4096, 1}, {16, 128, 64, 1}};
    for (size_t i = 0; i < COUNT(steps); i++) {
        int32_t splits = -1, length = -1;
        mla__attention_choose_splits(&context, steps[i].heads, steps[i].sequences,
                                     steps[i].sequences, steps[i].keys, INT32_MAX, &splits,
                                     &length);
        assert_int_equal(splits, steps[i].splits);
    }
    int32_t splits = -1, length = -1;
    mla__attention_choose_splits(&context, 16, 128, 128, 4096, 2, &splits, &length);
    assert_int_equal(splits, 2); /* what there is room for */
    context.device.compute_capability = 80;
    mla__attention_choose_splits(&context, 16, 128, 128, 4096, INT32_MAX, &splits, &length);
    assert_int_equal(splits, 2);             /* two groups of 16 rows on each */
    context.device.compute_capability = 120; /* no tile of 32 rows: twice the groups */
    mla__attention_choose_splits(&context, 128, 32, 32, 4096, INT32_MAX, &splits, &length);
    assert_int_equal(splits, 1);
}

/* test_attention [pattern of test names] */
int main(int argc, char **argv)
{
    PATHS;
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        ALL_PATHS(matches_the_formula),
        ON_PATH(matrix_units_are_for_bf16_throughout, cpu),
        ON_PATH(matrix_units_are_for_bf16_throughout, cpu_dot),
        ON_PATH(matrix_units_are_for_bf16_throughout, nvidia),
        cmocka_unit_test(nvidia_on_simulators),
        cmocka_unit_test(the_portable_kernel_where_nvidia_does_not_build),
        cmocka_unit_test(the_portable_kernel_where_bf16_dot_does_not_build),
        ON_PATH(shapes_not_for_tensor_cores_go_to_the_portable_kernel, nvidia),
        BOTH_CLASSES(rejects_wrong_arguments_and_touches_nothing),
        BOTH_CLASSES(a_latent_that_fits_no_tile_is_unsupported),
        BOTH_CLASSES(no_tokens_is_success),
        ON_PATH(no_tokens_is_success, nvidia),
        BOTH_CLASSES(splits_cover_the_keys_and_stop_where_groups_are_many),
        ON_PATH(splits_cover_the_keys_and_stop_where_groups_are_many, nvidia),
        cmocka_unit_test(tensor_cores_fill_the_device_evenly),
        BOTH_CLASSES(one_long_sequence_keeps_every_compute_unit_busy),
        ON_PATH(one_long_sequence_keeps_every_compute_unit_busy, cpu_narrow),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    test_device_close();
    return failed;
}
