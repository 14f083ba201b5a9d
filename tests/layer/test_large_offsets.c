/*
 * Offsets past 2^31 and 2^32 elements in every tensor that a host lays out: rows of hidden states
 * and output 2^30 elements apart, cache pages 2^26 elements apart and handed out up to page 127.
 * The bits are those of the same step in compact tensors, output and appended rows alike, for every
 * kernel that a layer reaches. The tensors are ranges of addresses (support/sparse.h).
 */
#include "core/dtype.h"
#include "support/layer_fixture.h"
#include "support/sparse.h"
#include "support/table.h"

enum { NUM_SEQUENCES = 4, NUM_PAGES = 128, PAGE_ROWS = 16, PAGES = 6, MAX_TOKENS = 24 };
#define ROW_STRIDE (((size_t)1 << 30) + 104) /* multiples of 16 bytes, as tensor cores want */
#define PAGE_STRIDE (((size_t)1 << 26) + 208)

typedef struct offsets_case {
    const char *name;
    clmla_kernel_class kernel_class;
    clmla_dtype dtype;
    int32_t fused, fp8_cache, num_splits, one_launch;
    int32_t new_tokens[NUM_SEQUENCES];
    clmla_projection_backend projection; /* AUTO: native */
} offsets_case;

#define MIXED                                                                                      \
    {                                                                                              \
        1, 13, 0, 7                                                                                \
    }
#define DECODE                                                                                     \
    {                                                                                              \
        1, 1, 1, 1                                                                                 \
    }
static const int32_t past[NUM_SEQUENCES] = {61, 0, 17, 40};

// clang-format off
static const offsets_case cases[] = {
    {"cpu bf16, mixed", CLMLA_KERNELS_CPU, CLMLA_DTYPE_BF16, 0, 0, 0, 0, MIXED},
    {"cpu f32, fused cache, three splits, decode", CLMLA_KERNELS_CPU, CLMLA_DTYPE_F32, 1, 0, 3, 0,
     DECODE},
    {"cpu f16, decode", CLMLA_KERNELS_CPU, CLMLA_DTYPE_F16, 0, 0, 0, 0, DECODE},
    {"cpu bf16, FP8 cache, mixed", CLMLA_KERNELS_CPU, CLMLA_DTYPE_BF16, 0, 1, 0, 0, MIXED},
    {"gpu bf16, mixed", CLMLA_KERNELS_GPU, CLMLA_DTYPE_BF16, 0, 0, 0, 0, MIXED},
    {"gpu f32, fused cache, three splits, decode", CLMLA_KERNELS_GPU, CLMLA_DTYPE_F32, 1, 0, 3, 0,
     DECODE},
    {"nvidia bf16, mixed", CLMLA_KERNELS_NVIDIA, CLMLA_DTYPE_BF16, 0, 0, 0, 0, MIXED},
    {"nvidia bf16, fused cache, three splits, decode", CLMLA_KERNELS_NVIDIA, CLMLA_DTYPE_BF16, 1, 0,
     3, 0, DECODE},
    {"nvidia bf16, one launch, decode", CLMLA_KERNELS_NVIDIA, CLMLA_DTYPE_BF16, 0, 0, 0, 1, DECODE},
    {"cpu bf16, CLBlast, mixed", CLMLA_KERNELS_CPU, CLMLA_DTYPE_BF16, 0, 0, 0, 0, MIXED,
     CLMLA_PROJECTION_CLBLAST},
    {"gpu f32, CLBlast, mixed", CLMLA_KERNELS_GPU, CLMLA_DTYPE_F32, 0, 0, 0, 0, MIXED,
     CLMLA_PROJECTION_CLBLAST},
};
// clang-format on

/* The compact step, and a layer of the same weights for the large tensors. */
typedef struct large {
    fixture f;
    const offsets_case *of;
    clmla_layer *layer;
    clmla_plan *plan;
    clmla_binding *binding;
    test_buffer workspace;
    sparse hidden, output, kv, pe;
    int32_t table[NUM_SEQUENCES * PAGES];
    size_t kv_row, pe_row; /* elements */
} large;

static fixture make_compact(const offsets_case *c)
{
    fixture_options options = {.config = fixture_config_of(c->kernel_class, 36),
                               .kernel_class = c->kernel_class,
                               .projection = c->projection != CLMLA_PROJECTION_AUTO
                                                 ? c->projection
                                                 : CLMLA_PROJECTION_NATIVE,
                               .dtype = c->dtype,
                               .page_block_size = PAGE_ROWS,
                               .fused = c->fused,
                               .fp8_cache = c->fp8_cache,
                               .num_splits = c->num_splits,
                               .one_launch = c->one_launch,
                               .max_num_tokens = MAX_TOKENS,
                               .share_context = 1};
    if (c->fp8_cache)
        options.config.kv_lora_rank = 128;
    return fixture_create(&options);
}

static void make_layer(large *l)
{
    const fixture_options *o = &l->f.options;
    const clmla_layer_params params = {.struct_size = sizeof params,
                                       .config = &o->config,
                                       .max_num_sequences = FIXTURE_MAX_SEQUENCES,
                                       .max_num_tokens = MAX_TOKENS,
                                       .max_cache_seqlen = FIXTURE_MAX_KEYS,
                                       .page_block_size = PAGE_ROWS,
                                       .num_pages = NUM_PAGES,
                                       .weights_dtype = o->dtype,
                                       .cache_dtype =
                                           o->fp8_cache ? CLMLA_DTYPE_FP8_DS_MLA : o->dtype,
                                       .hidden_dtype = o->dtype,
                                       .num_splits = o->num_splits,
                                       .one_launch = o->one_launch};
    clmla_layer_info info = {.struct_size = sizeof info};
    assert_int_equal(clmla_layer_create(l->f.context, &params, &l->layer), CLMLA_SUCCESS);
    if (o->one_launch)
        assert_int_equal(clmla_layer_prepare(l->layer, test_device_get()->queue), CLMLA_SUCCESS);
    assert_int_equal(clmla_plan_create(l->layer, &l->plan), CLMLA_SUCCESS);
    assert_int_equal(clmla_layer_get_info(l->layer, &info), CLMLA_SUCCESS);
    l->workspace = test_buffer_poisoned((size_t)info.workspace_bytes, CLMLA_DTYPE_F32);
}

static bool make_regions(large *l)
{
    const fixture_options *o = &l->f.options;
    const size_t element = mla__dtype_bytes(o->dtype);
    const size_t cache_element = o->fp8_cache ? 1 : element;
    const size_t rows = MAX_TOKENS * ROW_STRIDE * element;
    const size_t pages = NUM_PAGES * PAGE_STRIDE * cache_element;
    const char *why_not = sparse_create(rows, &l->hidden);
    if (why_not == NULL)
        why_not = sparse_create(rows, &l->output);
    if (why_not == NULL)
        why_not = sparse_create(pages, &l->kv);
    if (why_not == NULL)
        why_not = sparse_create(pages, &l->pe);
    if (why_not != NULL)
        print_message("skipped: no offsets past 2^31, %s\n", why_not);
    return why_not == NULL;
}

static clmla_tensor rows_of(const sparse *region, clmla_dtype dtype)
{
    return (clmla_tensor){.buffer = region->buffer, .dtype = dtype, .strides = {ROW_STRIDE}};
}

static clmla_tensor pages_of(const sparse *region, clmla_dtype dtype, size_t row)
{
    return (clmla_tensor){.buffer = region->buffer, .dtype = dtype, .strides = {PAGE_STRIDE, row}};
}

static void bind(large *l)
{
    const fixture *f = &l->f;
    const size_t latent = (size_t)f->options.config.kv_lora_rank;
    const size_t rope = (size_t)f->options.config.qk_rope_head_dim;
    const clmla_dtype dtype = f->options.dtype, cache = f->kv_cache.tensor.dtype;
    l->kv_row = f->kv_cache.bytes / mla__dtype_bytes(cache) /
                ((size_t)FIXTURE_MAX_SEQUENCES * (size_t)f->pages * PAGE_ROWS);
    l->pe_row = l->of->fused ? l->kv_row : rope;
    clmla_binding_params params = {.struct_size = sizeof params,
                                   .weights = f->weights,
                                   .kv_cache = pages_of(&l->kv, cache, l->kv_row),
                                   .hidden_states = rows_of(&l->hidden, dtype),
                                   .output = rows_of(&l->output, dtype),
                                   .workspace = l->workspace.tensor};
    if (l->of->fused) {
        params.pe_cache = params.kv_cache;
        params.pe_cache.offset_bytes = latent * mla__dtype_bytes(dtype);
    } else if (!l->of->fp8_cache) {
        params.pe_cache = pages_of(&l->pe, dtype, l->pe_row);
    }
    assert_int_equal(clmla_binding_create(l->layer, &params, &l->binding), CLMLA_SUCCESS);
}

/* Copies a sequence's first `keys` cache rows, to the large cache or compares them there. */
static void for_cache_rows(large *l, int32_t sequence, int32_t keys, bool compare)
{
    const fixture *f = &l->f;
    struct {
        const test_buffer *compact;
        sparse *to;
        size_t row;
    } caches[] = {{&f->kv_cache, &l->kv, l->kv_row}, {&f->pe_cache, &l->pe, l->pe_row}};
    const size_t num_caches = l->of->fused || l->of->fp8_cache ? 1 : 2;
    for (size_t c = 0; c < num_caches; c++) {
        const size_t element = mla__dtype_bytes(caches[c].compact->tensor.dtype);
        const size_t bytes = caches[c].row * element;
        unsigned char *all = malloc(caches[c].compact->bytes);
        assert_non_null(all);
        test_buffer_read(caches[c].compact, all);
        for (int32_t key = 0; key < keys; key++) {
            const size_t place = (size_t)(key % PAGE_ROWS);
            const size_t page = (size_t)f->block_table[sequence * f->pages + key / PAGE_ROWS];
            const size_t to = (size_t)l->table[sequence * PAGES + key / PAGE_ROWS];
            unsigned char *from = all + (page * PAGE_ROWS + place) * bytes;
            unsigned char *at = caches[c].to->data + to * PAGE_STRIDE * element + place * bytes;
            if (!compare)
                memcpy(at, from, bytes);
            else if (memcmp(at, from, bytes) != 0)
                fail_msg("%s: cache %zu, sequence %d: row %d differs", l->of->name, c,
                         (int)sequence, (int)key);
        }
        free(all);
    }
}

/* Pages from the last one down, in turns: each sequence has some far up. */
static void deal_pages(large *l)
{
    for (int32_t b = 0; b < NUM_SEQUENCES; b++)
        for (int32_t i = 0; i < PAGES; i++)
            l->table[b * PAGES + i] = NUM_PAGES - 1 - (i * NUM_SEQUENCES + b) * 5;
}

static void run_large(large *l, const unsigned char *hidden, size_t tokens, size_t row_bytes)
{
    const cl_command_queue queue = test_device_get()->queue;
    const size_t element = mla__dtype_bytes(l->f.options.dtype);
    int32_t cu[NUM_SEQUENCES + 1] = {0}, lengths[NUM_SEQUENCES];
    for (int32_t b = 0; b < NUM_SEQUENCES; b++) {
        cu[b + 1] = cu[b] + l->of->new_tokens[b];
        lengths[b] = past[b] + l->of->new_tokens[b];
    }
    for (size_t t = 0; t < tokens; t++)
        memcpy(l->hidden.data + t * ROW_STRIDE * element, hidden + t * row_bytes, row_bytes);
    const clmla_step step = {.struct_size = sizeof step,
                             .num_sequences = NUM_SEQUENCES,
                             .cu_seqlens_q = cu,
                             .cache_seqlens = lengths,
                             .block_table = l->table,
                             .block_table_stride = PAGES};
    assert_int_equal(clmla_enqueue_plan(l->plan, &step, queue, 0, NULL, NULL), CLMLA_SUCCESS);
    assert_int_equal(clmla_enqueue_layer(l->binding, l->plan, queue, 0, NULL, NULL), CLMLA_SUCCESS);
    assert_int_equal(clFinish(queue), CL_SUCCESS);
}

static void check_one_launch(const large *l)
{
    clmla_binding_stats stats = {.struct_size = sizeof stats};
    assert_int_equal(clmla_binding_get_stats(l->binding, &stats), CLMLA_SUCCESS);
    if (l->of->one_launch)
        assert_int_equal(stats.kernel_launches, 1);
}

static void compare_with_compact(large *l)
{
    fixture *f = &l->f;
    const cl_command_queue queue = test_device_get()->queue;
    const size_t element = mla__dtype_bytes(f->options.dtype);
    const size_t row_bytes = (size_t)f->options.config.hidden_size * element;
    size_t tokens = 0;
    for (int32_t b = 0; b < NUM_SEQUENCES; b++) {
        tokens += (size_t)l->of->new_tokens[b];
        fixture_set_past(f, b, past[b], 40 + (uint64_t)b);
        for_cache_rows(l, b, past[b], false);
    }
    double *drawn = fixture_draw_hidden(f, tokens, 8);
    unsigned char *hidden = malloc(f->hidden.bytes), *output = malloc(f->output.bytes);
    assert_true(hidden != NULL && output != NULL);
    fixture_set_hidden(f, drawn, 0, tokens);
    test_buffer_read(&f->hidden, hidden);
    assert_int_equal(fixture_plan(f, NUM_SEQUENCES, past, l->of->new_tokens), CLMLA_SUCCESS);
    assert_int_equal(clmla_enqueue_layer(f->binding, f->plan, queue, 0, NULL, NULL), CLMLA_SUCCESS);
    test_buffer_read(&f->output, output);
    run_large(l, hidden, tokens, row_bytes);
    check_one_launch(l);
    for (size_t t = 0; t < tokens; t++)
        if (memcmp(l->output.data + t * ROW_STRIDE * element, output + t * row_bytes, row_bytes) !=
            0)
            fail_msg("%s: token %zu differs", l->of->name, t);
    for (int32_t b = 0; b < NUM_SEQUENCES; b++)
        for_cache_rows(l, b, past[b] + l->of->new_tokens[b], true);
    free(drawn);
    free(hidden);
    free(output);
}

static void has_the_bits_of_compact_tensors(void **state)
{
    large l = {.of = *state};
    if (l.of->one_launch && !test_all()) {
        print_message("skipped: %s, slow; CLMLA_TEST_ALL=1 computes it\n", l.of->name);
        skip();
    }
    l.f = make_compact(l.of);
    make_layer(&l);
    deal_pages(&l);
    const bool have = make_regions(&l);
    if (have) {
        bind(&l);
        compare_with_compact(&l);
    }
    clmla_binding_release(l.binding);
    clmla_plan_release(l.plan);
    clmla_layer_release(l.layer);
    test_buffer_release(&l.workspace);
    sparse_release(&l.hidden);
    sparse_release(&l.output);
    sparse_release(&l.kv);
    sparse_release(&l.pe);
    fixture_release(&l.f);
    if (!have)
        skip();
}

int main(int argc, char **argv)
{
    const test_table table = TEST_TABLE(has_the_bits_of_compact_tensors, cases);
    return test_run("large_offsets", argc, argv, &table, 1, TEST_NO_OTHERS);
}
