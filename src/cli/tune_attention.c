/*
 * Attention of a model as subjects: a batch of decoding sequences and a chunk of a prompt, on a
 * paged cache, with the reference's results for every row. One tile serves both.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/convert.h"
#include "cli/pages.h"
#include "cli/tune.h"
#include "core/dtype.h"
#include "ref/draw.h"
#include "ref/mla_ref.h"

enum { MOST_SEQUENCES = 8 };

typedef struct batch_shape {
    const char *name;
    int32_t num_sequences;
    int32_t new_tokens; /* of each sequence */
    int32_t keys[MOST_SEQUENCES];
} batch_shape;

static const batch_shape shapes[MLA_ATTENTION_BATCHES] = {
    {"decode", 8, 1, {32, 64, 96, 128, 256, 384, 512, 1024}},
    {"prefill", 1, 64, {256}},
};

typedef struct batch {
    const batch_shape *shape;
    int32_t tokens, max_keys;
    mla_pages pages;
    cl_mem q_lat, q_pe, kv_cache, pe_cache, out, workspace;
    cl_mem cu_seqlens_q, cache_seqlens, block_table;
    double *expected; /* [tokens, heads, kv_lora] */
} batch;

struct mla_attention_data {
    mla_session *session;
    clmla_config config;
    clmla_dtype dtype, latent; /* of q_pe, and of the cache unless it is FP8; of q_lat and out */
    bool fp8;                  /* the cache: records */
    double scale;
    batch batches[MLA_ATTENTION_BATCHES];
};

const char *mla_attention_batch_name(int32_t index) { return shapes[index].name; }

int32_t mla_attention_batch_rows(const mla_attention_data *data, int32_t index)
{
    return shapes[index].new_tokens * data->config.num_attention_heads;
}

/* ---- data ------------------------------------------------------------------------------------ */

static uint16_t *draw(const mla_attention_data *d, const batch *b, const char *what, size_t count)
{
    char name[64];
    uint16_t *patterns = malloc(count * sizeof(*patterns) + 1);
    (void)snprintf(name, sizeof(name), "tune.attention.%s.%s", b->shape->name, what);
    if (patterns != NULL)
        mla_draw(mla_draw_base(name, d->session->common->seed), 0, count, MLA_DRAW_SYM,
                 MLA_DRAW_INPUT_EXP, patterns);
    return patterns;
}

static double *widen(const uint16_t *patterns, size_t count)
{
    double *values = malloc(count * sizeof(*values) + 1);
    if (patterns != NULL && values != NULL)
        mla_load_doubles(patterns, CLMLA_DTYPE_BF16, 0, count, values);
    return values;
}

static clmla_status upload(const mla_attention_data *d, const uint16_t *patterns, size_t count,
                           clmla_dtype dtype, cl_mem *out)
{
    void *host = malloc(count * mla__dtype_bytes(dtype) + 1);
    if (host == NULL || patterns == NULL) {
        free(host);
        return CL_OUT_OF_HOST_MEMORY;
    }
    mla_store_array(patterns, CLMLA_DTYPE_BF16, count, dtype, host, 0);
    const clmla_status status =
        mla_session_buffer(d->session, host, (uint64_t)count * mla__dtype_bytes(dtype), out);
    free(host);
    return status;
}

/* Rows of every sequence in their pages; NaN elsewhere. rows [sequences, max_keys, width]. */
static clmla_status upload_cache(const mla_attention_data *d, const batch *b, const uint16_t *rows,
                                 size_t width, cl_mem *out)
{
    const size_t bytes = mla_pages_rows(&b->pages) * width * mla__dtype_bytes(d->dtype);
    unsigned char *host = malloc(bytes + 1);
    if (host == NULL || rows == NULL) {
        free(host);
        return CL_OUT_OF_HOST_MEMORY;
    }
    memset(host, 0xff, bytes);
    for (int32_t s = 0; s < b->shape->num_sequences; s++)
        for (int32_t key = 0; key < b->shape->keys[s]; key++)
            mla_store_array(rows + ((size_t)s * (size_t)b->max_keys + (size_t)key) * width,
                            CLMLA_DTYPE_BF16, width, d->dtype, host,
                            mla_pages_row(&b->pages, s, key) * width);
    const clmla_status status = mla_session_buffer(d->session, host, bytes, out);
    free(host);
    return status;
}

/* The same of FP8 records, each of which kv and pe come to hold what it stands for. */
static clmla_status upload_records(const mla_attention_data *d, const batch *b,
                                   const uint16_t *c_kv, const uint16_t *k_pe, double *kv,
                                   double *pe, cl_mem *out)
{
    const size_t latent = (size_t)d->config.kv_lora_rank;
    const size_t rope = (size_t)d->config.qk_rope_head_dim, bytes = mla_record_bytes(&d->config);
    const size_t all = mla_pages_rows(&b->pages) * bytes;
    unsigned char *host = malloc(all);
    float *row = malloc((latent + rope + 1) * sizeof(*row));
    clmla_status status = CL_OUT_OF_HOST_MEMORY;
    if (host != NULL && row != NULL) {
        memset(host, 0xff, all);
        for (int32_t s = 0; s < b->shape->num_sequences; s++)
            for (int32_t key = 0; key < b->shape->keys[s]; key++) {
                const size_t at = (size_t)s * (size_t)b->max_keys + (size_t)key;
                unsigned char *record = host + mla_pages_row(&b->pages, s, key) * bytes;
                mla_load_floats(c_kv, CLMLA_DTYPE_BF16, at * latent, latent, row);
                mla_store_record(&d->config, row, k_pe + at * rope, CLMLA_DTYPE_BF16, record);
                mla_load_record(&d->config, record, row, row + latent);
                for (size_t i = 0; i < latent; i++)
                    kv[at * latent + i] = (double)row[i];
                for (size_t i = 0; i < rope; i++)
                    pe[at * rope + i] = (double)row[latent + i];
            }
        status = mla_session_buffer(d->session, host, all, out);
    }
    free(host);
    free(row);
    return status;
}

static clmla_status upload_tables(const mla_attention_data *d, batch *b)
{
    int32_t cu[MOST_SEQUENCES + 1] = {0};
    const int32_t n = b->shape->num_sequences;
    for (int32_t s = 0; s < n; s++)
        cu[s + 1] = cu[s] + b->shape->new_tokens;
    const size_t entries = (size_t)n * (size_t)b->pages.pages_per_sequence;
    clmla_status status =
        mla_session_buffer(d->session, cu, sizeof(cu[0]) * ((uint64_t)n + 1), &b->cu_seqlens_q);
    if (status == CLMLA_SUCCESS)
        status = mla_session_buffer(d->session, b->shape->keys, sizeof(cu[0]) * (uint64_t)n,
                                    &b->cache_seqlens);
    if (status == CLMLA_SUCCESS)
        status = mla_session_buffer(d->session, b->pages.block_table, sizeof(cu[0]) * entries,
                                    &b->block_table);
    return status;
}

/* The drawn values of a batch, widened. */
typedef struct wide {
    double *q_lat, *q_pe, *kv, *pe;
} wide;

/* Every (token, head) by the reference. False: out of memory. */
static bool expect(const mla_attention_data *d, batch *b, const wide *v)
{
    const size_t heads = (size_t)d->config.num_attention_heads;
    const size_t kv = (size_t)d->config.kv_lora_rank, rope = (size_t)d->config.qk_rope_head_dim;
    double *scores = malloc((size_t)b->max_keys * sizeof(*scores)), lse;
    b->expected = malloc((size_t)b->tokens * heads * kv * sizeof(double));
    const bool made = scores != NULL && b->expected != NULL && v->q_lat != NULL &&
                      v->q_pe != NULL && v->kv != NULL && v->pe != NULL;
    for (size_t row = 0; row < (size_t)b->tokens * heads && made; row++) {
        const int32_t token = (int32_t)(row / heads);
        const int32_t s = token / b->shape->new_tokens, i = token % b->shape->new_tokens;
        const int32_t keys = b->shape->keys[s] - b->shape->new_tokens + i + 1;
        const size_t first = (size_t)s * (size_t)b->max_keys;
        mla_ref_attention_head((size_t)keys, kv, rope, d->scale, v->q_lat + row * kv,
                               v->q_pe + row * rope, v->kv + first * kv, v->pe + first * rope,
                               scores, b->expected + row * kv, &lse);
    }
    free(scores);
    return made;
}

static clmla_status make_data(const mla_attention_data *d, batch *b)
{
    const size_t rows = (size_t)b->tokens * (size_t)d->config.num_attention_heads;
    const size_t kv = (size_t)d->config.kv_lora_rank, rope = (size_t)d->config.qk_rope_head_dim;
    const size_t keys = (size_t)b->shape->num_sequences * (size_t)b->max_keys;
    uint16_t *q_lat = draw(d, b, "q_lat", rows * kv), *q_pe = draw(d, b, "q_pe", rows * rope);
    uint16_t *c_kv = draw(d, b, "c_kv", keys * kv), *k_pe = draw(d, b, "k_pe", keys * rope);
    const wide values = {widen(q_lat, rows * kv), widen(q_pe, rows * rope), widen(c_kv, keys * kv),
                         widen(k_pe, keys * rope)};
    clmla_status status = CLMLA_SUCCESS;
    if (d->fp8 && c_kv != NULL && k_pe != NULL && values.kv != NULL && values.pe != NULL)
        status = upload_records(d, b, c_kv, k_pe, values.kv, values.pe, &b->kv_cache);
    if (status == CLMLA_SUCCESS && !expect(d, b, &values))
        status = CL_OUT_OF_HOST_MEMORY;
    if (status == CLMLA_SUCCESS)
        status = upload(d, q_lat, rows * kv, d->latent, &b->q_lat);
    if (status == CLMLA_SUCCESS)
        status = upload(d, q_pe, rows * rope, d->dtype, &b->q_pe);
    if (status == CLMLA_SUCCESS && !d->fp8)
        status = upload_cache(d, b, c_kv, kv, &b->kv_cache);
    if (status == CLMLA_SUCCESS && !d->fp8)
        status = upload_cache(d, b, k_pe, rope, &b->pe_cache);
    uint16_t *const drawn[] = {q_lat, q_pe, c_kv, k_pe};
    double *const widened[] = {values.q_lat, values.q_pe, values.kv, values.pe};
    for (int i = 0; i < 4; i++) {
        free(drawn[i]);
        free(widened[i]);
    }
    return status;
}

static size_t out_bytes(const mla_attention_data *d, const batch *b)
{
    return (size_t)b->tokens * (size_t)d->config.num_attention_heads *
           (size_t)d->config.kv_lora_rank * mla__dtype_bytes(d->latent);
}

static clmla_status make_batch(mla_attention_data *d, int32_t index)
{
    batch *b = &d->batches[index];
    uint64_t workspace = 0;
    b->shape = &shapes[index];
    b->tokens = b->shape->num_sequences * b->shape->new_tokens;
    for (int32_t s = 0; s < b->shape->num_sequences; s++)
        b->max_keys = b->shape->keys[s] > b->max_keys ? b->shape->keys[s] : b->max_keys;
    if (!mla_pages_create(b->shape->num_sequences, b->max_keys, b->shape->keys,
                          d->session->common->page_block_size, d->session->common->seed, &b->pages))
        return CL_OUT_OF_HOST_MEMORY;
    clmla_status status = make_data(d, b);
    if (status == CLMLA_SUCCESS)
        status = upload_tables(d, b);
    if (status == CLMLA_SUCCESS)
        status = mla_session_buffer(d->session, NULL, out_bytes(d, b), &b->out);
    const clmla_attention_params params = mla_attention_params(d, index);
    if (status == CLMLA_SUCCESS)
        status = clmla_attention_workspace_size(d->session->clmla, &params, &workspace);
    if (status == CLMLA_SUCCESS)
        status = mla_session_buffer(d->session, NULL, workspace, &b->workspace);
    return status;
}

clmla_status mla_attention_create(mla_session *session, const clmla_config *config,
                                  mla_attention_data **out)
{
    mla_attention_data *d = calloc(1, sizeof(*d));
    clmla_status status = CLMLA_SUCCESS;
    *out = d;
    if (d == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    d->session = session;
    d->config = *config;
    d->dtype = session->common->dtype;
    d->fp8 = session->common->cache_dtype == CLMLA_DTYPE_FP8_DS_MLA;
    d->latent = d->dtype == CLMLA_DTYPE_F16 ? CLMLA_DTYPE_F32 : d->dtype;
    d->scale = clmla_config_softmax_scale(config);
    for (int32_t i = 0; i < MLA_ATTENTION_BATCHES && status == CLMLA_SUCCESS; i++)
        status = make_batch(d, i);
    return status == CLMLA_SUCCESS ? clFinish(session->queue) : status;
}

void mla_attention_release(mla_attention_data *d)
{
    for (int i = 0; d != NULL && i < MLA_ATTENTION_BATCHES; i++) {
        batch *b = &d->batches[i];
        const cl_mem buffers[] = {b->q_lat,        b->q_pe,          b->kv_cache,
                                  b->pe_cache,     b->out,           b->workspace,
                                  b->cu_seqlens_q, b->cache_seqlens, b->block_table};
        for (size_t j = 0; j < sizeof(buffers) / sizeof(buffers[0]); j++)
            mla_buffer_release(buffers[j]);
        mla_pages_release(&b->pages);
        free(b->expected);
    }
    free(d);
}

clmla_attention_params mla_attention_params(const mla_attention_data *d, int32_t index)
{
    const batch *b = &d->batches[index];
    return (clmla_attention_params){
        .struct_size = sizeof(clmla_attention_params),
        .num_heads = d->config.num_attention_heads,
        .kv_lora_rank = d->config.kv_lora_rank,
        .rope_dim = d->config.qk_rope_head_dim,
        .softmax_scale = d->scale,
        .sequences = {.num_sequences = b->shape->num_sequences,
                      .num_tokens = b->tokens,
                      .max_cache_seqlen = b->max_keys,
                      .num_pages = b->pages.num_pages,
                      .page_block_size = b->pages.page_block_size,
                      .block_table_stride = b->pages.pages_per_sequence,
                      .cu_seqlens_q = {.buffer = b->cu_seqlens_q, .dtype = CLMLA_DTYPE_I32},
                      .cache_seqlens = {.buffer = b->cache_seqlens, .dtype = CLMLA_DTYPE_I32},
                      .block_table = {.buffer = b->block_table, .dtype = CLMLA_DTYPE_I32}},
        .q_lat = {.buffer = b->q_lat, .dtype = d->latent},
        .q_pe = {.buffer = b->q_pe, .dtype = d->dtype},
        .kv_cache = {.buffer = b->kv_cache, .dtype = d->session->common->cache_dtype},
        .pe_cache = {.buffer = b->pe_cache, .dtype = d->fp8 ? CLMLA_DTYPE_DEFAULT : d->dtype},
        .out = {.buffer = b->out, .dtype = d->latent},
        .workspace = {.buffer = b->workspace},
    };
}

/* ---- results --------------------------------------------------------------------------------- */

cl_mem mla_attention_output(const mla_attention_data *d, int32_t index, size_t *bytes)
{
    *bytes = out_bytes(d, &d->batches[index]);
    return d->batches[index].out;
}

/* Relative to the length of a (token, head)'s output. bf16: the output and, with dot products, the
 * keys' weights are rounded, 2^-8 each at most. Else float32 sums of the same order as the layer's,
 * which clmla bench holds to 1e-5. */
static double bound_of(const mla_attention_data *d)
{
    return d->latent == CLMLA_DTYPE_BF16 ? 0x1p-7 : 1e-5;
}

bool mla_attention_compare(const mla_attention_data *d, const void *results, int32_t index,
                           char *why, size_t why_bytes)
{
    const batch *b = &d->batches[index];
    const size_t heads = (size_t)d->config.num_attention_heads, kv = (size_t)d->config.kv_lora_rank;
    for (size_t row = 0; row < (size_t)b->tokens * heads; row++) {
        double error = 0.0, length = 0.0;
        for (size_t i = 0; i < kv; i++) {
            const double truth = b->expected[row * kv + i];
            const double difference = mla__load(results, d->latent, row * kv + i) - truth;
            error += difference * difference;
            length += truth * truth;
        }
        if (sqrt(error) <= bound_of(d) * sqrt(length))
            continue; /* NaN fails */
        (void)snprintf(why, why_bytes, "%s, token %zu, head %zu is off by %.2g, may be %.2g",
                       b->shape->name, row / heads, row % heads, sqrt(error / length), bound_of(d));
        return false;
    }
    return true;
}
