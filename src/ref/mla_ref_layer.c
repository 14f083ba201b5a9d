#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/checked.h"
#include "core/config.h"
#include "core/yarn.h"
#include "ref/mla_ref.h"

/* Tokens that go through a projection together: weights are read once per block. */
#define BLOCK_TOKENS 64

/* The sizes of a call, as size_t. */
typedef struct sizes {
    size_t hidden, heads, q_lora, kv_lora, nope, rope, v;
    size_t qk;    /* nope + rope */
    size_t block; /* min(BLOCK_TOKENS, num_tokens) */
    size_t past, num_tokens;
} sizes;

typedef struct scratch {
    double *freq;     /* [rope / 2] */
    double *x;        /* [block, hidden] */
    double *kv_a;     /* [block, kv_lora + rope] */
    double *q_a;      /* [block, q_lora] */
    double *q;        /* [block, heads, qk] */
    double *q_lat;    /* [kv_lora] */
    double *ctx;      /* [kv_lora] */
    double *kv;       /* [past + num_tokens, nope + v]: one head's keys and values, naive form */
    double *scores;   /* [past + num_tokens] */
    double *attn_out; /* [block, heads, v] */
    double *y;        /* [block, hidden] */
} scratch;

/* Everything the equations of one call read. */
typedef struct layer {
    clmla_config config; /* resolved */
    const mla_ref_weights *weights;
    mla_ref_form form;
    sizes size;
    double scale; /* of the softmax */
    const double *kv_cache, *pe_cache;
    const mla_ref_intermediates *mid;
    scratch scratch;
} layer;

static sizes sizes_of(const clmla_config *config, size_t past, size_t num_tokens)
{
    return (sizes){
        .hidden = (size_t)config->hidden_size,
        .heads = (size_t)config->num_attention_heads,
        .q_lora = (size_t)config->q_lora_rank,
        .kv_lora = (size_t)config->kv_lora_rank,
        .nope = (size_t)config->qk_nope_head_dim,
        .rope = (size_t)config->qk_rope_head_dim,
        .v = (size_t)config->v_head_dim,
        .qk = (size_t)mla__config_qk_head_dim(config),
        .block = num_tokens < BLOCK_TOKENS ? num_tokens : BLOCK_TOKENS,
        .past = past,
        .num_tokens = num_tokens,
    };
}

static bool allocate(double **out, size_t rows, size_t columns)
{
    uint64_t count = 0;
    if (!mla__checked_mul(rows, columns, &count) || count >= SIZE_MAX)
        return false;
    *out = calloc((size_t)count + 1, sizeof(double)); /* + 1: empty arrays are allocated too */
    return *out != NULL;
}

static bool scratch_create(const sizes *n, mla_ref_form form, scratch *s)
{
    uint64_t keys = 0;
    return mla__checked_add(n->past, n->num_tokens, &keys) && keys <= SIZE_MAX &&
           allocate(&s->freq, 1, n->rope / 2) && allocate(&s->x, n->block, n->hidden) &&
           allocate(&s->kv_a, n->block, n->kv_lora + n->rope) &&
           allocate(&s->q_a, n->block, n->q_lora) && allocate(&s->q, n->block, n->heads * n->qk) &&
           allocate(&s->q_lat, 1, n->kv_lora) && allocate(&s->ctx, 1, n->kv_lora) &&
           allocate(&s->kv, form == MLA_REF_NAIVE ? (size_t)keys : 0, n->nope + n->v) &&
           allocate(&s->scores, 1, (size_t)keys) &&
           allocate(&s->attn_out, n->block, n->heads * n->v) &&
           allocate(&s->y, n->block, n->hidden);
}

static void scratch_release(scratch *s)
{
    free(s->freq);
    free(s->x);
    free(s->kv_a);
    free(s->q_a);
    free(s->q);
    free(s->q_lat);
    free(s->ctx);
    free(s->kv);
    free(s->scores);
    free(s->attn_out);
    free(s->y);
}

/* Copies row `row` of an intermediate, where the caller wants it. */
static void keep(double *mid, size_t row, size_t row_size, const double *values)
{
    if (mid != NULL)
        memcpy(mid + row * row_size, values, row_size * sizeof *values);
}

/* [c_kv | k_pe] = x · kv_a_proj_with_mqaᵀ,  c_kv = RMSNorm(c_kv),  k_pe = RoPE(k_pe, p): the new
 * cache rows of all tokens. */
static void append_cache_rows(const layer *l, const double *hidden_states, double *kv_cache,
                              double *pe_cache)
{
    const sizes *n = &l->size;
    const size_t kv_dim = n->kv_lora + n->rope;
    for (size_t first = 0; first < n->num_tokens; first += n->block) {
        const size_t count = n->num_tokens - first < n->block ? n->num_tokens - first : n->block;
        mla_ref_projection(count, kv_dim, n->hidden, hidden_states + first * n->hidden,
                           l->weights->kv_a_proj_with_mqa, l->scratch.kv_a);
        for (size_t i = 0; i < count; i++) {
            const double *kv_a = l->scratch.kv_a + i * kv_dim;
            const size_t position = n->past + first + i;
            double *k_pe = pe_cache + position * n->rope;
            mla_ref_rmsnorm(1, n->kv_lora, l->config.rms_norm_eps, kv_a, l->weights->kv_a_layernorm,
                            kv_cache + position * n->kv_lora);
            memcpy(k_pe, kv_a + n->kv_lora, n->rope * sizeof *k_pe);
            mla_ref_rope(n->rope, l->scratch.freq, (int64_t)position, k_pe);
        }
    }
}

/* q = x · q_projᵀ, or q = RMSNorm(x · q_a_projᵀ) · q_b_projᵀ: scratch.q, before rope. */
static void project_query(const layer *l, size_t count)
{
    const sizes *n = &l->size;
    const scratch *s = &l->scratch;
    if (n->q_lora == 0) {
        mla_ref_projection(count, n->heads * n->qk, n->hidden, s->x, l->weights->q_proj, s->q);
        return;
    }
    mla_ref_projection(count, n->q_lora, n->hidden, s->x, l->weights->q_a_proj, s->q_a);
    mla_ref_rmsnorm(count, n->q_lora, l->config.rms_norm_eps, s->q_a, l->weights->q_a_layernorm,
                    s->q_a);
    mla_ref_projection(count, n->heads * n->qk, n->q_lora, s->q_a, l->weights->q_b_proj, s->q);
}

/* q_pe = RoPE(q_pe, p) of every head of one token. */
static void rotate_query(const layer *l, size_t token, double *q)
{
    const sizes *n = &l->size;
    for (size_t h = 0; h < n->heads; h++) {
        double *q_pe = q + h * n->qk + n->nope;
        mla_ref_rope(n->rope, l->scratch.freq, (int64_t)(n->past + token), q_pe);
        keep(l->mid->q_pe, token * n->heads + h, n->rope, q_pe);
    }
}

/* The probabilities of a head with zeros for the keys it must not see. */
static void keep_scores(const layer *l, size_t token, size_t head, size_t num_keys)
{
    const sizes *n = &l->size;
    const size_t keys = n->past + n->num_tokens;
    if (l->mid->scores == NULL)
        return;
    double *row = l->mid->scores + (token * n->heads + head) * keys;
    memset(row, 0, keys * sizeof *row);
    memcpy(row, l->scratch.scores, num_keys * sizeof *row);
}

/* q_lat = q_nope · W_UK,  ctx = attention over the latents,  o = W_UV · ctx */
static void attend_absorbed(const layer *l, size_t token, size_t head, const double *q, double *o)
{
    const sizes *n = &l->size;
    const scratch *s = &l->scratch;
    const size_t num_keys = n->past + token + 1;
    const double *w_uk = l->weights->kv_b_proj + head * (n->nope + n->v) * n->kv_lora;
    const double *w_uv = w_uk + n->nope * n->kv_lora;
    double lse;

    memset(s->q_lat, 0, n->kv_lora * sizeof *s->q_lat);
    for (size_t i = 0; i < n->nope; i++)
        mla_ref_add_scaled(n->kv_lora, q[i], w_uk + i * n->kv_lora, s->q_lat);
    mla_ref_attention_head(num_keys, n->kv_lora, n->rope, l->scale, s->q_lat, q + n->nope,
                           l->kv_cache, l->pe_cache, s->scores, s->ctx, &lse);
    mla_ref_projection(1, n->v, n->kv_lora, s->ctx, w_uv, o);

    keep(l->mid->q_absorbed, token * n->heads + head, n->kv_lora, s->q_lat);
    keep(l->mid->attn_latent, token * n->heads + head, n->kv_lora, s->ctx);
}

/* [k_nope | v] = c_kv · kv_b_projᵀ of one head and every key: scratch.kv. */
static void materialise_keys(const layer *l, size_t head)
{
    const sizes *n = &l->size;
    mla_ref_projection(n->past + n->num_tokens, n->nope + n->v, n->kv_lora, l->kv_cache,
                       l->weights->kv_b_proj + head * (n->nope + n->v) * n->kv_lora, l->scratch.kv);
}

/* s[j] = scale · (q_nope · k_nope[j] + q_pe · k_pe[j]),  o = softmax(s) · v */
static void attend_naive(const layer *l, size_t token, const double *q, double *o)
{
    const sizes *n = &l->size;
    const size_t num_keys = n->past + token + 1;
    const size_t kv_row = n->nope + n->v;
    double *scores = l->scratch.scores;
    for (size_t j = 0; j < num_keys; j++)
        scores[j] = l->scale * (mla_ref_dot(n->nope, q, l->scratch.kv + j * kv_row) +
                                mla_ref_dot(n->rope, q + n->nope, l->pe_cache + j * n->rope));
    (void)mla_ref_softmax(num_keys, scores);
    memset(o, 0, n->v * sizeof *o);
    for (size_t j = 0; j < num_keys; j++)
        mla_ref_add_scaled(n->v, scores[j], l->scratch.kv + j * kv_row + n->nope, o);
}

/* y of `count` tokens, at most a block: tokens[i], or first + i where tokens is NULL. Heads
 * outside, tokens inside, so that a head's weights are read once per block. */
static void compute_block(const layer *l, const double *hidden_states, const int32_t *tokens,
                          size_t first, size_t count, double *output)
{
    const sizes *n = &l->size;
    const scratch *s = &l->scratch;
    const mla_ref_intermediates *mid = l->mid;
    size_t token[BLOCK_TOKENS];
    for (size_t i = 0; i < count; i++) {
        token[i] = tokens != NULL ? (size_t)tokens[first + i] : first + i;
        memcpy(s->x + i * n->hidden, hidden_states + token[i] * n->hidden,
               n->hidden * sizeof *s->x);
    }

    project_query(l, count);
    for (size_t i = 0; i < count; i++) {
        double *q = s->q + i * n->heads * n->qk;
        const size_t position = n->past + token[i];
        keep(mid->q, token[i], n->heads * n->qk, q);
        keep(mid->kv_norm, token[i], n->kv_lora, l->kv_cache + position * n->kv_lora);
        keep(mid->k_pe, token[i], n->rope, l->pe_cache + position * n->rope);
        rotate_query(l, token[i], q);
    }

    for (size_t h = 0; h < n->heads; h++) {
        if (l->form == MLA_REF_NAIVE)
            materialise_keys(l, h);
        for (size_t i = 0; i < count; i++) {
            const double *q = s->q + (i * n->heads + h) * n->qk;
            double *o = s->attn_out + (i * n->heads + h) * n->v;
            if (l->form == MLA_REF_NAIVE)
                attend_naive(l, token[i], q, o);
            else
                attend_absorbed(l, token[i], h, q, o);
            keep_scores(l, token[i], h, n->past + token[i] + 1);
        }
    }

    mla_ref_projection(count, n->hidden, n->heads * n->v, s->attn_out, l->weights->o_proj, s->y);
    for (size_t i = 0; i < count; i++) {
        keep(mid->attn_out, token[i], n->heads * n->v, s->attn_out + i * n->heads * n->v);
        keep(output, token[i], n->hidden, s->y + i * n->hidden);
    }
}

static bool weights_complete(const mla_ref_weights *w, size_t q_lora)
{
    const bool query = q_lora == 0
                           ? w->q_proj != NULL
                           : w->q_a_proj != NULL && w->q_a_layernorm != NULL && w->q_b_proj != NULL;
    return query && w->kv_a_proj_with_mqa != NULL && w->kv_a_layernorm != NULL &&
           w->kv_b_proj != NULL && w->o_proj != NULL;
}

static bool rows_valid(const int32_t *rows, size_t num_rows, size_t num_tokens)
{
    for (size_t i = 0; i < num_rows; i++)
        if (rows[i] < 0 || (size_t)rows[i] >= num_tokens || (i > 0 && rows[i] <= rows[i - 1]))
            return false;
    return true;
}

/* Checks the arguments and makes what the equations need; layer_close releases it in each case. */
static clmla_status layer_open(layer *l, const clmla_config *config, const mla_ref_weights *weights,
                               mla_ref_form form, size_t past, size_t num_tokens,
                               const int32_t *rows, size_t num_rows)
{
    *l = (layer){.weights = weights, .form = form};
    const clmla_status status = mla__config_resolve(config, &l->config, NULL, 0);
    if (status != CLMLA_SUCCESS)
        return status;
    if (!weights_complete(weights, (size_t)l->config.q_lora_rank) ||
        (rows != NULL && !rows_valid(rows, num_rows, num_tokens)))
        return CLMLA_INVALID_ARGUMENT;
    l->size = sizes_of(&l->config, past, num_tokens);
    l->scale = clmla_config_softmax_scale(&l->config);
    if (!scratch_create(&l->size, form, &l->scratch))
        return CL_OUT_OF_HOST_MEMORY;
    mla__rope_frequencies(&l->config, l->scratch.freq);
    return CLMLA_SUCCESS;
}

static void layer_close(layer *l) { scratch_release(&l->scratch); }

/* y of the rows, or of every token where rows is NULL, block by block. */
static void compute_rows(layer *l, const double *hidden_states, const double *kv_cache,
                         const double *pe_cache, const int32_t *rows, size_t num_rows,
                         double *output, const mla_ref_intermediates *mid)
{
    static const mla_ref_intermediates keep_nothing = {0};
    const size_t wanted = output == NULL ? 0 : rows != NULL ? num_rows : l->size.num_tokens;
    l->kv_cache = kv_cache;
    l->pe_cache = pe_cache;
    l->mid = mid != NULL ? mid : &keep_nothing;
    for (size_t first = 0; first < wanted; first += l->size.block) {
        const size_t count = wanted - first < l->size.block ? wanted - first : l->size.block;
        compute_block(l, hidden_states, rows, first, count, output);
    }
}

clmla_status mla_ref_layer(const clmla_config *config, const mla_ref_weights *weights,
                           mla_ref_form form, size_t past, size_t num_tokens,
                           const double *hidden_states, double *kv_cache, double *pe_cache,
                           const int32_t *rows, size_t num_rows, double *output,
                           const mla_ref_intermediates *mid)
{
    layer l;
    const clmla_status status =
        layer_open(&l, config, weights, form, past, num_tokens, rows, num_rows);
    if (status == CLMLA_SUCCESS) {
        append_cache_rows(&l, hidden_states, kv_cache, pe_cache);
        compute_rows(&l, hidden_states, kv_cache, pe_cache, rows, num_rows, output, mid);
    }
    layer_close(&l);
    return status;
}

clmla_status mla_ref_layer_attend(const clmla_config *config, const mla_ref_weights *weights,
                                  mla_ref_form form, size_t past, size_t num_tokens,
                                  const double *hidden_states, const double *kv_cache,
                                  const double *pe_cache, const int32_t *rows, size_t num_rows,
                                  double *output, const mla_ref_intermediates *mid)
{
    layer l;
    const clmla_status status =
        layer_open(&l, config, weights, form, past, num_tokens, rows, num_rows);
    if (status == CLMLA_SUCCESS)
        compute_rows(&l, hidden_states, kv_cache, pe_cache, rows, num_rows, output, mid);
    layer_close(&l);
    return status;
}
