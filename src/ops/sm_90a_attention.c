/*
 * Attention of known results with cl/nvidia/attention_wgmma.cl.
 *
 * Keys are of random signs, and a row's query is the mean of two of them: of its DIM coordinates the
 * `agree` where both are the same contribute 1 to the scores of both keys, DIM / 2 or so, and to no
 * other key's score more than some deviations of sqrt(DIM / 2). Scaled as here, all but the two weigh
 * 2^-100 and less, the two a half each: out is the query's latent part, and lse follows from `agree`.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/dtype.h"
#include "ops/attention.h"
#include "ops/sm_90a_trial.h"

enum { HEADS = 64, LATENT = 512, ROPE = 64, DIM = LATENT + ROPE, PAST = 200, MAX_SPLITS = 2 };
#define SCALE (2.0 * log(2.0)) /* of scores: exp(SCALE · s) is 2^(2 s) */

typedef struct problem {
    const mla__sm_90a_trial *trial;
    int32_t tokens, keys;
    cl_mem q_lat, q_pe, kv_cache, pe_cache, out, lse, workspace, tables;
    uint16_t *q, *results; /* host copies: latent parts of the query, out */
    float *expected_lse, *lses;
} problem;

static uint32_t hash(uint32_t a, uint32_t b)
{
    uint32_t x = a * 0x9e3779b1u ^ b * 0x85ebca6bu;
    x = (x ^ x >> 15) * 0x2c1b3c6du;
    x = (x ^ x >> 12) * 0x297a2d39u;
    return x ^ x >> 15;
}

static int sign_of(uint32_t key, uint32_t i) { return (hash(key, i) & 1) != 0 ? 1 : -1; }

/* The two keys of a row, which every token sees. */
static uint32_t key_of(uint32_t row, uint32_t which) { return hash(row, 1000000 + which) % PAST; }

/* ---- what the kernel reads ----------------------------------------------------------------- */

static bool make_caches(problem *p)
{
    const size_t keys = (size_t)p->keys;
    uint16_t *kv = malloc(keys * LATENT * sizeof(*kv)), *pe = malloc(keys * ROPE * sizeof(*pe));
    for (size_t j = 0; kv != NULL && pe != NULL && j < keys; j++) {
        for (uint32_t i = 0; i < DIM; i++)
            *(i < LATENT ? kv + j * LATENT + i : pe + j * ROPE + i - LATENT) =
                mla__float_to_bf16((float)sign_of((uint32_t)j, i));
    }
    if (kv != NULL && pe != NULL) {
        p->kv_cache = mla__sm_90a_buffer(p->trial, keys * LATENT * sizeof(*kv), kv);
        p->pe_cache = mla__sm_90a_buffer(p->trial, keys * ROPE * sizeof(*pe), pe);
    }
    free(kv);
    free(pe);
    return p->kv_cache != NULL && p->pe_cache != NULL;
}

static bool make_query(problem *p)
{
    const size_t rows = (size_t)p->tokens * HEADS;
    uint16_t *pe = malloc(rows * ROPE * sizeof(*pe));
    p->q = malloc(rows * LATENT * sizeof(*p->q));
    p->expected_lse = malloc(rows * sizeof(*p->expected_lse));
    const bool made = pe != NULL && p->q != NULL && p->expected_lse != NULL;
    for (size_t r = 0; made && r < rows; r++) {
        const uint32_t first = key_of((uint32_t)r, 0), second = key_of((uint32_t)r, 1);
        int agree = 0;
        for (uint32_t i = 0; i < DIM; i++) {
            const int mean = (sign_of(first, i) + sign_of(second, i)) / 2;
            *(i < LATENT ? p->q + r * LATENT + i : pe + r * ROPE + i - LATENT) =
                mla__float_to_bf16((float)mean);
            agree += mean != 0;
        }
        p->expected_lse[r] = (float)(SCALE * agree + (first == second ? 0.0 : log(2.0)));
    }
    if (made) {
        p->q_lat = mla__sm_90a_buffer(p->trial, rows * LATENT * sizeof(*p->q), p->q);
        p->q_pe = mla__sm_90a_buffer(p->trial, rows * ROPE * sizeof(*pe), pe);
    }
    free(pe);
    return made && p->q_lat != NULL && p->q_pe != NULL;
}

/* On a GPU a work-group for every compute unit: what goes wrong between neighbours is to show. An
 * emulation has none. */
static bool make(problem *p)
{
    const mla__device *device = &p->trial->context->device;
    uint64_t bytes = 0;
    p->tokens = device->has_ptx ? (int32_t)device->compute_units : 2;
    p->keys = PAST + p->tokens;
    const size_t rows = (size_t)p->tokens * HEADS;
    int32_t tables[] = {0, p->tokens, p->keys}; /* cu_seqlens_q, cache_seqlens */
    if (!make_caches(p) || !make_query(p) ||
        mla__attention_split_bytes(NULL, p->tokens, HEADS, LATENT, MAX_SPLITS, &bytes) !=
            CLMLA_SUCCESS)
        return false;
    p->out = mla__sm_90a_buffer(p->trial, rows * LATENT * sizeof(*p->results), NULL);
    p->lse = mla__sm_90a_buffer(p->trial, rows * sizeof(float), NULL);
    p->workspace = mla__sm_90a_buffer(p->trial, (size_t)bytes, NULL);
    p->tables = mla__sm_90a_buffer(p->trial, sizeof(tables), tables);
    p->results = malloc(rows * LATENT * sizeof(*p->results));
    p->lses = malloc(rows * sizeof(*p->lses));
    return p->out != NULL && p->lse != NULL && p->workspace != NULL && p->tables != NULL &&
           p->results != NULL && p->lses != NULL;
}

static void release(problem *p)
{
    const cl_mem buffers[] = {p->q_lat, p->q_pe, p->kv_cache,  p->pe_cache,
                              p->out,   p->lse,  p->workspace, p->tables};
    for (size_t i = 0; i < sizeof(buffers) / sizeof(buffers[0]); i++) {
        if (buffers[i] != NULL)
            (void)clReleaseMemObject(buffers[i]);
    }
    free(p->q);
    free(p->results);
    free(p->expected_lse);
    free(p->lses);
}

/* ---- runs ---------------------------------------------------------------------------------- */

static clmla_attention_params params_of(const problem *p, int32_t splits)
{
    return (clmla_attention_params){
        .struct_size = sizeof(clmla_attention_params),
        .num_heads = HEADS,
        .kv_lora_rank = LATENT,
        .rope_dim = ROPE,
        .mask = CLMLA_MASK_CAUSAL,
        .softmax_scale = SCALE,
        .num_splits = splits,
        .sequences = {.num_sequences = 1,
                      .num_tokens = p->tokens,
                      .max_cache_seqlen = p->keys,
                      .num_pages = 1,
                      .page_block_size = p->keys,
                      .cu_seqlens_q = {.buffer = p->tables},
                      .cache_seqlens = {.buffer = p->tables, .offset_bytes = 2 * sizeof(int32_t)}},
        .q_lat = {.buffer = p->q_lat},
        .q_pe = {.buffer = p->q_pe},
        .kv_cache = {.buffer = p->kv_cache},
        .pe_cache = {.buffer = p->pe_cache},
        .out = {.buffer = p->out},
        .softmax_lse = {.buffer = p->lse},
        .workspace = {.buffer = p->workspace}};
}

static clmla_status enqueue(problem *p, const clmla_attention_params *params, mla__attention *op)
{
    static const cl_uint poison = 0xffffffff; /* NaN */
    const size_t rows = (size_t)p->tokens * HEADS;
    const cl_command_queue queue = p->trial->queue;
    mla__attention_step step;
    mla__stream stream;
    clmla_status status = clEnqueueFillBuffer(queue, p->out, &poison, sizeof(poison), 0,
                                              rows * LATENT * sizeof(*p->results), 0, NULL, NULL);
    if (status == CLMLA_SUCCESS)
        status = clEnqueueFillBuffer(queue, p->lse, &poison, sizeof(poison), 0,
                                     rows * sizeof(*p->lses), 0, NULL, NULL);
    if (status == CLMLA_SUCCESS)
        status = mla__attention_choose_step(p->trial->context, params, &step);
    if (status == CLMLA_SUCCESS)
        status = mla__stream_begin(&stream, queue, 0, NULL);
    if (status == CLMLA_SUCCESS)
        status = mla__attention_enqueue(op, &stream, &step);
    if (status == CLMLA_SUCCESS)
        status = clFinish(queue);
    if (status == CLMLA_SUCCESS)
        status = clEnqueueReadBuffer(queue, p->out, CL_TRUE, 0, rows * LATENT * sizeof(*p->results),
                                     p->results, 0, NULL, NULL);
    if (status == CLMLA_SUCCESS)
        status = clEnqueueReadBuffer(queue, p->lse, CL_TRUE, 0, rows * sizeof(*p->lses), p->lses, 0,
                                     NULL, NULL);
    return status;
}

/* Merging splits rounds; 0, 1 and -1 in bf16 are far from each other. */
static bool results_are_right(const problem *p)
{
    const size_t rows = (size_t)p->tokens * HEADS;
    for (size_t i = 0; i < rows * LATENT; i++) {
        const double expected = mla__load(p->q, CLMLA_DTYPE_BF16, i);
        if (!(fabs(mla__load(p->results, CLMLA_DTYPE_BF16, i) - expected) <= 0x1p-10))
            return false;
    }
    for (size_t r = 0; r < rows; r++) {
        if (!(fabsf(p->lses[r] - p->expected_lse[r]) <= 1e-5f * p->expected_lse[r]))
            return false;
    }
    return true;
}

static const char *try_splits(problem *p, int32_t splits)
{
    const clmla_attention_params params = params_of(p, splits);
    mla__attention op = {.num_heads = 0};
    clmla_status status = mla__attention_bind(p->trial->context, &params, &op);
    if (status != CLMLA_SUCCESS)
        return "they cannot be bound";
    const bool built = op.kind == MLA__ATTENTION_WGMMA;
    if (built)
        status = enqueue(p, &params, &op);
    mla__attention_release(&op);
    return !built                    ? "the driver does not build them"
           : status != CLMLA_SUCCESS ? "they do not run"
           : !results_are_right(p)   ? "their results are wrong"
                                     : NULL;
}

const char *mla__sm_90a_try_attention(const mla__sm_90a_trial *trial)
{
    problem p = {.trial = trial};
    mla__attention_tile tile;
    if (!mla__attention_tile_wgmma(&trial->context->device, HEADS, LATENT, ROPE, &tile))
        return "no tile fits the device's local memory or work-groups";
    mla__context_accept_sm_90a(trial->context, MLA__SM_90A_ATTENTION); /* here alone */
    const char *why = make(&p) ? NULL : "no memory to try them in";
    for (int32_t splits = 1; splits <= MAX_SPLITS && why == NULL; splits++)
        why = try_splits(&p, splits);
    release(&p);
    return why;
}
