#include "support/layer_fixture.h"

#include "core/dtype.h"
#include "core/fp8_cache.h"
#include "ocl/context.h"

/* ---- weights --------------------------------------------------------------------------------- */

clmla_config fixture_config(int32_t q_lora_rank)
{
    const clmla_config config = {
        .struct_size = sizeof(config),
        .hidden_size = 88,
        .num_attention_heads = 4,
        .q_lora_rank = q_lora_rank,
        .kv_lora_rank = 40,
        .qk_nope_head_dim = 21,
        .qk_rope_head_dim = 12,
        .v_head_dim = 19,
        .rope_scaling = {.factor = 4.0, .original_max_position_embeddings = 32}};
    return config;
}

clmla_config fixture_config_of(clmla_kernel_class kernel_class, int32_t q_lora_rank)
{
    clmla_config config = fixture_config(q_lora_rank);
    if (kernel_class != CLMLA_KERNELS_NVIDIA)
        return config;
    config.q_lora_rank = (q_lora_rank + 7) / 8 * 8;
    config.kv_lora_rank = 64;
    config.qk_nope_head_dim = 24;
    config.qk_rope_head_dim = 16;
    config.v_head_dim = 24;
    return config;
}

static void draw_matrix(fixture_weights *w, int index, size_t rows, size_t columns, int norm,
                        test_random *random)
{
    const size_t count = rows * columns;
    const double scale = norm ? 0.5 : sqrt(3.0 / (double)columns);
    w->count[index] = count;
    w->columns[index] = columns;
    if (count == 0)
        return;
    w->bits[index] = malloc(count * sizeof(uint16_t));
    w->values[index] = malloc(count * sizeof(double));
    assert_non_null(w->bits[index]);
    assert_non_null(w->values[index]);
    for (size_t i = 0; i < count; i++) {
        const double value = test_random_uniform(random, -scale, scale) + (norm ? 1.0 : 0.0);
        w->bits[index][i] = mla__double_to_bf16(value);
        w->values[index][i] = (double)mla__bf16_to_float(w->bits[index][i]);
    }
}

fixture_weights fixture_weights_create(const clmla_config *c, uint64_t seed)
{
    fixture_weights w = {0};
    test_random random = {seed};
    const size_t hidden = (size_t)c->hidden_size, heads = (size_t)c->num_attention_heads;
    const size_t qk = (size_t)(c->qk_nope_head_dim + c->qk_rope_head_dim);
    const size_t lora = (size_t)c->q_lora_rank, latent = (size_t)c->kv_lora_rank;
    const size_t nope_v = (size_t)(c->qk_nope_head_dim + c->v_head_dim);
    draw_matrix(&w, 0, lora > 0 ? 0 : heads * qk, hidden, 0, &random);
    draw_matrix(&w, 1, lora, hidden, 0, &random);
    draw_matrix(&w, 2, lora > 0, lora, 1, &random);
    draw_matrix(&w, 3, lora > 0 ? heads * qk : 0, lora, 0, &random);
    draw_matrix(&w, 4, latent + (size_t)c->qk_rope_head_dim, hidden, 0, &random);
    draw_matrix(&w, 5, 1, latent, 1, &random);
    draw_matrix(&w, 6, heads * nope_v, latent, 0, &random);
    draw_matrix(&w, 7, hidden, heads * (size_t)c->v_head_dim, 0, &random);
    const mla_ref_weights ref = {w.values[0], w.values[1], w.values[2], w.values[3],
                                 w.values[4], w.values[5], w.values[6], w.values[7]};
    w.ref = ref;
    return w;
}

/* Matrices (norms stay) become codes with a scale for each block, and the reference's values what
 * those stand for. */
static void round_to_fp8(fixture_weights *w)
{
    enum { BLOCK = 128, LARGEST = 448 };
    for (int i = 0; i < 8; i++) {
        if (w->count[i] == 0 || i == 2 || i == 5)
            continue;
        const size_t columns = w->columns[i], rows = w->count[i] / columns;
        const size_t across = (columns - 1) / BLOCK + 1, blocks = across * ((rows - 1) / BLOCK + 1);
        w->codes[i] = malloc(w->count[i]);
        w->scales[i] = malloc(blocks * sizeof(float));
        assert_non_null(w->codes[i]);
        assert_non_null(w->scales[i]);
        for (size_t b = 0; b < blocks; b++) /* drawn elements are within sqrt(3 / columns) */
            w->scales[i][b] =
                (float)(sqrt(3.0 / (double)columns) / LARGEST * (1.0 + 0.1 * (double)b));
        for (size_t at = 0; at < w->count[i]; at++) {
            const float scale = w->scales[i][at / columns / BLOCK * across + at % columns / BLOCK];
            w->codes[i][at] = mla__float_to_f8_e4m3((float)w->values[i][at] / scale);
            w->values[i][at] = (double)mla__f8_e4m3_to_float(w->codes[i][at]) * (double)scale;
        }
    }
}

void fixture_weights_release(fixture_weights *w)
{
    for (int i = 0; i < 8; i++) {
        free(w->codes[i]);
        free(w->scales[i]);
        free(w->bits[i]);
        free(w->values[i]);
    }
}

clmla_weights_params fixture_weights_params(const fixture_weights *w)
{
    clmla_weights_params p = {.struct_size = sizeof(p)};
    clmla_weight_source *const sources[8] = {
        &p.q_proj,         &p.q_a_proj,  &p.q_a_layernorm, &p.q_b_proj, &p.kv_a_proj_with_mqa,
        &p.kv_a_layernorm, &p.kv_b_proj, &p.o_proj};
    for (int i = 0; i < 8; i++) {
        sources[i]->host = w->bits[i];
        sources[i]->tensor.dtype = CLMLA_DTYPE_BF16;
        if (w->codes[i] == NULL)
            continue;
        sources[i]->host = w->codes[i];
        sources[i]->tensor.dtype = CLMLA_DTYPE_F8_E4M3;
        sources[i]->scale_inv = w->scales[i];
    }
    return p;
}

/* ---- device objects -------------------------------------------------------------------------- */

/* By class and backend, with kernels for sm_90a not asked for. */
static clmla_context *shared[CLMLA_KERNELS_NVIDIA + 1][CLMLA_PROJECTION_CLBLAST + 1];

static clmla_context *open_context(const fixture_options *o)
{
    if (o->kernel_directory != NULL)
        return test_context_with_kernels(o->kernel_class, o->kernel_directory);
    assert_true(!o->share_context || (!o->sm_90a && o->max_loop_iterations == 0));
    if (!o->share_context)
        return test_context(o->kernel_class, o->projection);
    clmla_context **const context = &shared[o->kernel_class][o->projection];
    if (*context == NULL)
        *context = test_context(o->kernel_class, o->projection);
    return *context;
}

void fixture_release_contexts(void)
{
    clmla_context **const all = &shared[0][0];
    for (size_t i = 0; i < sizeof shared / sizeof shared[0][0]; i++) {
        clmla_context_release(all[i]);
        all[i] = NULL;
    }
}

static void make_layer(fixture *f)
{
    const fixture_options *o = &f->options;
    const int32_t pages = o->page_block_size > 0
                              ? (FIXTURE_MAX_KEYS + o->page_block_size - 1) / o->page_block_size
                              : 1;
    const clmla_layer_params params = {
        .struct_size = sizeof(params),
        .config = &o->config,
        .max_num_sequences = FIXTURE_MAX_SEQUENCES,
        .max_num_tokens = o->max_num_tokens,
        .max_cache_seqlen = FIXTURE_MAX_KEYS,
        .page_block_size = o->page_block_size,
        .num_pages = FIXTURE_MAX_SEQUENCES * pages,
        .weights_dtype = o->fp8_weights ? CLMLA_DTYPE_F8_E4M3 : o->dtype,
        .cache_dtype = o->fp8_cache ? CLMLA_DTYPE_FP8_DS_MLA : o->dtype,
        .hidden_dtype = o->dtype,
        .output_dtype = o->output_dtype,
        .workspace_limit_bytes = o->workspace_limit_bytes,
        .batch_invariant = o->batch_invariant,
        .num_splits = o->num_splits,
        .one_launch = o->one_launch};
    f->pages = pages;
    f->context = open_context(o);
    for (int part = 0; part < MLA__SM_90A_PARTS; part++)
        f->context->sm_90a[part] = o->sm_90a ? MLA__SM_90A_ASKED : MLA__SM_90A_OFF;
    if (o->max_loop_iterations > 0)
        f->context->device.max_loop_iterations = o->max_loop_iterations;
    assert_int_equal(clmla_layer_create(f->context, &params, &f->layer), CLMLA_SUCCESS);
    if (o->one_launch)
        assert_int_equal(clmla_layer_prepare(f->layer, test_device_get()->queue), CLMLA_SUCCESS);
}

/* Pages handed out in an order that is neither ascending nor the same for two sequences; entries
 * past the last page do not exist, so every entry is valid. */
static void make_block_table(fixture *f)
{
    const int32_t total = FIXTURE_MAX_SEQUENCES * f->pages;
    if (f->options.page_block_size == 0)
        return;
    test_random random = {77};
    f->block_table = malloc((size_t)total * sizeof(int32_t));
    assert_non_null(f->block_table);
    for (int32_t i = 0; i < total; i++)
        f->block_table[i] = i;
    for (int32_t i = total - 1; i > 0; i--) {
        const int32_t j = test_random_int(&random, 0, i);
        const int32_t page = f->block_table[i];
        f->block_table[i] = f->block_table[j];
        f->block_table[j] = page;
    }
}

static size_t cache_rows(const fixture *f)
{
    const int32_t rows =
        f->options.page_block_size > 0 ? f->options.page_block_size : FIXTURE_MAX_KEYS;
    return (size_t)FIXTURE_MAX_SEQUENCES * (size_t)f->pages * (size_t)rows;
}

static size_t record_bytes(const fixture *f)
{
    const clmla_config *c = &f->options.config;
    return (size_t)mla__fp8_record_bytes(c->kv_lora_rank, c->qk_rope_head_dim);
}

static void make_buffers(fixture *f)
{
    const clmla_config *c = &f->options.config;
    const size_t tokens = (size_t)f->options.max_num_tokens;
    const size_t element = mla__dtype_bytes(f->options.dtype);
    const size_t out_element = mla__dtype_bytes(f->options.output_dtype);
    const size_t latent = (size_t)c->kv_lora_rank, rope = (size_t)c->qk_rope_head_dim;
    clmla_layer_info info = {.struct_size = sizeof(info)};
    assert_int_equal(clmla_layer_get_info(f->layer, &info), CLMLA_SUCCESS);
    f->hidden = test_buffer_poisoned(tokens * (size_t)c->hidden_size * element, f->options.dtype);
    f->output = f->hidden;
    if (!f->options.feed_back)
        f->output = test_buffer_poisoned(tokens * (size_t)c->hidden_size * out_element,
                                         f->options.output_dtype);
    f->workspace = test_buffer_poisoned((size_t)info.workspace_bytes, CLMLA_DTYPE_F32);
    if (f->options.fp8_cache) {
        f->kv_cache = test_buffer_poisoned(cache_rows(f) * record_bytes(f), CLMLA_DTYPE_FP8_DS_MLA);
        return;
    }
    if (!f->options.fused) {
        f->kv_cache = test_buffer_poisoned(cache_rows(f) * latent * element, f->options.dtype);
        f->pe_cache = test_buffer_poisoned(cache_rows(f) * rope * element, f->options.dtype);
        return;
    }
    const size_t rows_per_page = cache_rows(f) / ((size_t)FIXTURE_MAX_SEQUENCES * (size_t)f->pages);
    f->kv_cache = test_buffer_poisoned(cache_rows(f) * (latent + rope) * element, f->options.dtype);
    f->kv_cache.tensor.strides[0] = rows_per_page * (latent + rope);
    f->kv_cache.tensor.strides[1] = latent + rope;
    f->pe_cache = f->kv_cache;
    f->pe_cache.tensor.offset_bytes += latent * element;
}

fixture fixture_create(const fixture_options *options)
{
    fixture f = {.options = *options};
    if (f.options.max_num_tokens == 0)
        f.options.max_num_tokens = 64;
    if (f.options.dtype == CLMLA_DTYPE_DEFAULT)
        f.options.dtype = CLMLA_DTYPE_BF16;
    if (f.options.output_dtype == CLMLA_DTYPE_DEFAULT)
        f.options.output_dtype = f.options.dtype;
    const clmla_config *c = &f.options.config;
    make_layer(&f);
    make_block_table(&f);
    make_buffers(&f);
    f.host_weights = fixture_weights_create(c, 1234);
    if (options->fp8_weights)
        round_to_fp8(&f.host_weights);
    const clmla_weights_params weights = fixture_weights_params(&f.host_weights);
    assert_int_equal(clmla_weights_create(f.layer, &weights, test_device_get()->queue, &f.weights),
                     CLMLA_SUCCESS);
    assert_int_equal(clmla_plan_create(f.layer, &f.plan), CLMLA_SUCCESS);
    const clmla_binding_params binding = {.struct_size = sizeof(binding),
                                          .weights = f.weights,
                                          .kv_cache = f.kv_cache.tensor,
                                          .pe_cache = f.pe_cache.tensor,
                                          .hidden_states = f.hidden.tensor,
                                          .output = f.output.tensor,
                                          .output_mode = f.options.output_mode,
                                          .workspace = f.workspace.tensor};
    const clmla_status status = clmla_binding_create(f.layer, &binding, &f.binding);
    if (status != CLMLA_SUCCESS)
        fail_msg("binding: %s: %s", clmla_status_name(status), test_last_notify());
    for (int b = 0; b < FIXTURE_MAX_SEQUENCES; b++) {
        f.ref_kv[b] = calloc(FIXTURE_MAX_KEYS * (size_t)c->kv_lora_rank, sizeof(double));
        f.ref_pe[b] = calloc(FIXTURE_MAX_KEYS * (size_t)c->qk_rope_head_dim + 1, sizeof(double));
        assert_non_null(f.ref_kv[b]);
        assert_non_null(f.ref_pe[b]);
    }
    return f;
}

void fixture_release(fixture *f)
{
    clmla_binding_release(f->binding);
    clmla_plan_release(f->plan);
    clmla_weights_release(f->weights);
    clmla_layer_release(f->layer);
    if (!f->options.share_context)
        clmla_context_release(f->context);
    if (!f->options.feed_back)
        test_buffer_release(&f->output);
    test_buffer_release(&f->hidden);
    test_buffer_release(&f->kv_cache);
    if (!f->options.fused && !f->options.fp8_cache)
        test_buffer_release(&f->pe_cache);
    test_buffer_release(&f->workspace);
    fixture_weights_release(&f->host_weights);
    free(f->block_table);
    for (int b = 0; b < FIXTURE_MAX_SEQUENCES; b++) {
        free(f->ref_kv[b]);
        free(f->ref_pe[b]);
    }
}

/* ---- data in and out ------------------------------------------------------------------------- */

static void write_elements(const test_buffer *buffer, size_t first, const double *values,
                           size_t count)
{
    if (count == 0)
        return; /* PoCL 7.1 refuses a copy of no byte */
    const clmla_dtype dtype = buffer->tensor.dtype;
    const size_t element = mla__dtype_bytes(dtype);
    unsigned char *data = malloc(count * element + 1);
    assert_non_null(data);
    for (size_t i = 0; i < count; i++)
        mla__store(data, dtype, i, values[i]);
    assert_int_equal(clEnqueueWriteBuffer(test_device_get()->queue, buffer->tensor.buffer, CL_TRUE,
                                          (size_t)buffer->tensor.offset_bytes + first * element,
                                          count * element, data, 0, NULL, NULL),
                     CL_SUCCESS);
    free(data);
}

static void read_elements(const test_buffer *buffer, size_t first, double *values, size_t count)
{
    if (count == 0)
        return; /* PoCL 7.1 refuses a copy of no byte */
    const clmla_dtype dtype = buffer->tensor.dtype;
    const size_t element = mla__dtype_bytes(dtype);
    unsigned char *data = malloc(count * element + 1);
    assert_non_null(data);
    assert_int_equal(clEnqueueReadBuffer(test_device_get()->queue, buffer->tensor.buffer, CL_TRUE,
                                         (size_t)buffer->tensor.offset_bytes + first * element,
                                         count * element, data, 0, NULL, NULL),
                     CL_SUCCESS);
    for (size_t i = 0; i < count; i++)
        values[i] = mla__load(data, dtype, i);
    free(data);
}

double *fixture_draw_hidden(const fixture *f, size_t count, uint64_t seed)
{
    test_random random = {seed};
    const size_t elements = count * (size_t)f->options.config.hidden_size;
    double *values = malloc((elements + 1) * sizeof(double));
    assert_non_null(values);
    for (size_t i = 0; i < elements; i++)
        values[i] = (double)mla__bf16_to_float(
            mla__double_to_bf16(test_random_uniform(&random, -1.5, 1.5)));
    return values;
}

void fixture_set_hidden(fixture *f, const double *values, size_t first, size_t count)
{
    const size_t hidden = (size_t)f->options.config.hidden_size;
    write_elements(&f->hidden, first * hidden, values, count * hidden);
}

/* Element of a cache at which a sequence's key begins. */
static size_t key_at(const fixture *f, const test_buffer *cache, size_t width, int32_t sequence,
                     int32_t key)
{
    const int32_t size =
        f->options.page_block_size > 0 ? f->options.page_block_size : FIXTURE_MAX_KEYS;
    const int32_t page =
        f->block_table == NULL ? sequence : f->block_table[sequence * f->pages + key / size];
    const size_t row_stride = cache->tensor.strides[1] > 0 ? cache->tensor.strides[1] : width;
    return ((size_t)page * (size_t)size + (size_t)(key % size)) * row_stride;
}

/* Byte of the buffer. */
static size_t record_at(const fixture *f, int32_t sequence, int32_t key)
{
    return (size_t)f->kv_cache.tensor.offset_bytes +
           key_at(f, &f->kv_cache, record_bytes(f), sequence, key);
}

/* A key's record, to the device and back. kv comes out as what the record stands for. */
static void write_record(fixture *f, int32_t sequence, int32_t key, double *kv, const double *pe)
{
    const clmla_config *c = &f->options.config;
    const size_t bytes = record_bytes(f);
    float *const latent = malloc((size_t)c->kv_lora_rank * sizeof(float));
    unsigned char *const record = malloc(bytes);
    assert_true(latent != NULL && record != NULL);
    for (int32_t i = 0; i < c->kv_lora_rank; i++)
        latent[i] = (float)kv[i];
    mla__fp8_encode_latent(latent, c->kv_lora_rank, record);
    mla__fp8_decode_latent(record, c->kv_lora_rank, latent);
    for (int32_t i = 0; i < c->kv_lora_rank; i++)
        kv[i] = (double)latent[i];
    for (int32_t i = 0; i < c->qk_rope_head_dim; i++)
        mla__store(record + mla__fp8_latent_bytes(c->kv_lora_rank), CLMLA_DTYPE_BF16, (size_t)i,
                   pe[i]);
    assert_int_equal(clEnqueueWriteBuffer(test_device_get()->queue, f->kv_cache.tensor.buffer,
                                          CL_TRUE, record_at(f, sequence, key), bytes, record, 0,
                                          NULL, NULL),
                     CL_SUCCESS);
    free(latent);
    free(record);
}

static void read_record(const fixture *f, int32_t sequence, int32_t key, double *kv, double *pe)
{
    const clmla_config *c = &f->options.config;
    const size_t bytes = record_bytes(f);
    float *const latent = malloc((size_t)c->kv_lora_rank * sizeof(float));
    unsigned char *const record = malloc(bytes);
    assert_true(latent != NULL && record != NULL);
    assert_int_equal(clEnqueueReadBuffer(test_device_get()->queue, f->kv_cache.tensor.buffer,
                                         CL_TRUE, record_at(f, sequence, key), bytes, record, 0,
                                         NULL, NULL),
                     CL_SUCCESS);
    mla__fp8_decode_latent(record, c->kv_lora_rank, latent);
    for (int32_t i = 0; i < c->kv_lora_rank; i++)
        kv[i] = (double)latent[i];
    for (int32_t i = 0; i < c->qk_rope_head_dim; i++)
        pe[i] =
            mla__load(record + mla__fp8_latent_bytes(c->kv_lora_rank), CLMLA_DTYPE_BF16, (size_t)i);
    free(latent);
    free(record);
}

void fixture_set_past(fixture *f, int32_t sequence, int32_t past, uint64_t seed)
{
    test_random random = {seed};
    const size_t latent = (size_t)f->options.config.kv_lora_rank;
    const size_t rope = (size_t)f->options.config.qk_rope_head_dim;
    for (int32_t key = 0; key < past; key++) {
        double *kv = f->ref_kv[sequence] + (size_t)key * latent;
        double *pe = f->ref_pe[sequence] + (size_t)key * rope;
        for (size_t i = 0; i < latent + rope; i++) {
            const double value = (double)mla__bf16_to_float(
                mla__double_to_bf16(test_random_uniform(&random, -1.5, 1.5)));
            *(i < latent ? kv + i : pe + (i - latent)) = value;
        }
        if (f->options.fp8_cache) {
            write_record(f, sequence, key, kv, pe);
            continue;
        }
        write_elements(&f->kv_cache, key_at(f, &f->kv_cache, latent, sequence, key), kv, latent);
        if (rope > 0)
            write_elements(&f->pe_cache, key_at(f, &f->pe_cache, rope, sequence, key), pe, rope);
    }
}

clmla_status fixture_plan(fixture *f, int32_t num_sequences, const int32_t *past,
                          const int32_t *new_tokens)
{
    int32_t cu[FIXTURE_MAX_SEQUENCES + 1] = {0}, lengths[FIXTURE_MAX_SEQUENCES];
    for (int32_t b = 0; b < num_sequences; b++) {
        cu[b + 1] = cu[b] + new_tokens[b];
        lengths[b] = past[b] + new_tokens[b];
    }
    const clmla_step step = {.struct_size = sizeof(step),
                             .num_sequences = num_sequences,
                             .cu_seqlens_q = cu,
                             .cache_seqlens = lengths,
                             .block_table = f->block_table,
                             .block_table_stride = f->block_table != NULL ? f->pages : 0};
    return clmla_enqueue_plan(f->plan, &step, test_device_get()->queue, 0, NULL, NULL);
}

void fixture_get_output(const fixture *f, double *values, size_t first, size_t count)
{
    const size_t hidden = (size_t)f->options.config.hidden_size;
    read_elements(&f->output, first * hidden, values, count * hidden);
}

void fixture_get_cache(const fixture *f, int32_t sequence, int32_t count, double *kv, double *pe)
{
    const size_t latent = (size_t)f->options.config.kv_lora_rank;
    const size_t rope = (size_t)f->options.config.qk_rope_head_dim;
    for (int32_t key = 0; key < count; key++) {
        if (f->options.fp8_cache) {
            read_record(f, sequence, key, kv + (size_t)key * latent, pe + (size_t)key * rope);
            continue;
        }
        read_elements(&f->kv_cache, key_at(f, &f->kv_cache, latent, sequence, key),
                      kv + (size_t)key * latent, latent);
        if (rope > 0)
            read_elements(&f->pe_cache, key_at(f, &f->pe_cache, rope, sequence, key),
                          pe + (size_t)key * rope, rope);
    }
}

void fixture_reference(fixture *f, int32_t sequence, int32_t past, int32_t new_tokens,
                       const double *hidden, double *output)
{
    assert_int_equal(mla_ref_layer(&f->options.config, &f->host_weights.ref, MLA_REF_ABSORBED,
                                   (size_t)past, (size_t)new_tokens, hidden, f->ref_kv[sequence],
                                   f->ref_pe[sequence], NULL, 0, output, NULL),
                     CLMLA_SUCCESS);
}
