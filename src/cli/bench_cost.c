/*
 * What a forward must move and compute at the least, whatever the kernels do.
 *
 * Bytes of one model layer's forward of T new tokens in B sequences, b_w, b_h bytes per element of
 * weights and hidden states, k bytes per key: b_c · (kv_lora + rope), or those of an FP8 record:
 *   weights       b_w · (matrices) + 4 · (norm weights), read once; of FP8 matrices 4 bytes for each
 *                 block of 128 x 128, too
 *   cache read    k · Σ keys of the sequences, new ones included, read once
 *   cache written k · T
 *   activations   b_h · hidden · 2 T, in and out
 * What stages hand to each other is not counted: a fused kernel would not move it.
 *
 * Operations, two a multiply-add:
 *   projections   T · (q, kv_a and o matrices) · 2
 *   absorption    T · H · kv_lora · (nope + v) · 2
 *   attention     pairs · H · (2 · kv_lora + rope) · 2, pairs = Σ over new tokens of the keys they
 *                 see (causal)
 *
 * Of the attention stage alone (mla_attention_cost):
 *   bytes         k · Σ keys + b_h · (T · H · (kv_lora + rope) + T · H · kv_lora): the cache once
 *                 per sequence, queries, results
 *   operations    as attention above
 *
 * The roofline of such a forward: a device that reads R bytes and does P operations a second needs
 * max(bytes / R, operations / P) seconds, so reaches at most operations / that.
 */
#include <math.h>

#include "cli/bench.h"
#include "cli/convert.h"
#include "core/config.h"
#include "core/dtype.h"

typedef struct sizes {
    double hidden, heads, q_lora, kv_lora, nope, rope, v;
    double q_matrices, kv_a, kv_b, o; /* elements */
    double scales;                    /* of the matrices in FP8 */
} sizes;

/* Blocks of a matrix that share a scale. */
static double num_scales(double rows, double columns)
{
    return ceil(rows / MLA__FP8_BLOCK) * ceil(columns / MLA__FP8_BLOCK);
}

static sizes sizes_of(const clmla_config *c)
{
    sizes s = {
        .hidden = c->hidden_size,
        .heads = c->num_attention_heads,
        .q_lora = c->q_lora_rank,
        .kv_lora = c->kv_lora_rank,
        .nope = c->qk_nope_head_dim,
        .rope = c->qk_rope_head_dim,
        .v = c->v_head_dim,
    };
    const double q_rows = s.heads * (s.nope + s.rope);
    s.q_matrices = c->q_lora_rank > 0 ? s.q_lora * s.hidden + q_rows * s.q_lora : q_rows * s.hidden;
    s.kv_a = (s.kv_lora + s.rope) * s.hidden;
    s.kv_b = s.heads * (s.nope + s.v) * s.kv_lora;
    s.o = s.hidden * s.heads * s.v;
    s.scales = num_scales(s.kv_lora + s.rope, s.hidden) +
               num_scales(s.heads * (s.nope + s.v), s.kv_lora) +
               num_scales(s.hidden, s.heads * s.v);
    s.scales += c->q_lora_rank > 0 ? num_scales(s.q_lora, s.hidden) + num_scales(q_rows, s.q_lora)
                                   : num_scales(q_rows, s.hidden);
    return s;
}

/* Of all matrices. */
static double weight_bytes(const mla_bench *bench, const sizes *s)
{
    const clmla_dtype dtype = bench->common->weights_dtype;
    const double elements = s->q_matrices + s->kv_a + s->kv_b + s->o;
    return (double)mla__dtype_bytes(dtype) * elements +
           (dtype == CLMLA_DTYPE_F8_E4M3 ? 4.0 * s->scales : 0.0);
}

/* Of a key in its caches: in kv_cache, which holds all of an FP8 record, and in pe_cache. */
static double kv_bytes(const mla_bench *bench)
{
    const clmla_dtype dtype = bench->common->cache_dtype;
    return dtype == CLMLA_DTYPE_FP8_DS_MLA
               ? (double)mla_record_bytes(&bench->config)
               : (double)mla__dtype_bytes(dtype) * (double)bench->config.kv_lora_rank;
}

static double pe_bytes(const mla_bench *bench)
{
    const clmla_dtype dtype = bench->common->cache_dtype;
    return dtype == CLMLA_DTYPE_FP8_DS_MLA
               ? 0.0
               : (double)mla__dtype_bytes(dtype) * (double)bench->config.qk_rope_head_dim;
}

static double hidden_element_bytes(const mla_bench *bench)
{
    return (double)mla__dtype_bytes(bench->common->dtype);
}

/* One forward of `tokens` tokens whose sequences hold `keys` keys and see `pairs` of them. */
static mla_cost forward_cost(const mla_bench *bench, const sizes *s, double tokens, double keys,
                             double pairs)
{
    return (mla_cost){
        .bytes = weight_bytes(bench, s) + 4.0 * (s->q_lora + s->kv_lora) +
                 (kv_bytes(bench) + pe_bytes(bench)) * (keys + tokens) +
                 hidden_element_bytes(bench) * s->hidden * 2.0 * tokens,
        .flop = 2.0 * (tokens * (s->q_matrices + s->kv_a + s->o) +
                       tokens * s->heads * s->kv_lora * (s->nope + s->v) +
                       pairs * s->heads * (2.0 * s->kv_lora + s->rope)),
    };
}

/* A lane's forward at a step: sequences have grown by `step` times their new tokens. */
static mla_cost lane_cost(const mla_cell *cell, const mla_lane *lane, const sizes *s, int32_t step)
{
    const mla_workload *w = cell->workload;
    double keys = 0.0, pairs = 0.0;
    for (int32_t i = 0; i < lane->num_requests; i++) {
        const double new_tokens = w->seqlens[lane->first_request + i];
        const double past = w->pastlens[lane->first_request + i] + (double)step * new_tokens;
        keys += past + new_tokens;
        pairs += new_tokens * past + new_tokens * (new_tokens + 1.0) / 2.0;
    }
    return forward_cost(cell->bench, s, (double)lane->num_tokens, keys, pairs);
}

mla_cost mla_cell_cost(const mla_cell *cell, int32_t runs)
{
    const sizes s = sizes_of(&cell->bench->config);
    mla_cost sum = {0.0, 0.0};
    for (int32_t run = 0; run < runs; run++)
        for (int32_t i = 0; i < cell->num_lanes; i++) {
            const mla_cost one =
                lane_cost(cell, &cell->lanes[i], &s, cell->workload->decode ? run : 0);
            sum.bytes += one.bytes * (double)cell->bench->num_layers;
            sum.flop += one.flop * (double)cell->bench->num_layers;
        }
    return sum;
}

mla_cost mla_attention_cost(const mla_bench *bench, double tokens, double keys, double pairs)
{
    const sizes s = sizes_of(&bench->config);
    return (mla_cost){
        .bytes =
            (kv_bytes(bench) + pe_bytes(bench)) * keys +
            hidden_element_bytes(bench) * tokens * s.heads * ((s.kv_lora + s.rope) + s.kv_lora),
        .flop = 2.0 * pairs * s.heads * (2.0 * s.kv_lora + s.rope),
    };
}

double mla_roofline(double gb_per_s, double gflop_per_s, mla_cost cost)
{
    return fmin(gflop_per_s, gb_per_s * cost.flop / cost.bytes);
}

/* The library packs FP8 weights with a scale for each column and 128 rows. */
static double packed_bytes(const mla_bench *bench, const sizes *s)
{
    const clmla_dtype dtype = bench->common->weights_dtype;
    const double per_element = (double)mla__dtype_bytes(dtype) +
                               (dtype == CLMLA_DTYPE_F8_E4M3 ? 4.0 / MLA__FP8_BLOCK : 0.0);
    return per_element * (s->q_matrices + s->kv_a + s->kv_b + s->o);
}

mla_memory mla_decode_memory(const mla_bench *bench, int32_t requests, int32_t keys)
{
    const sizes s = sizes_of(&bench->config);
    const int32_t page_block_size = bench->common->page_block_size;
    const int32_t page = page_block_size > 0 ? page_block_size : keys;
    const double rows = (double)requests * ceil((double)keys / page) * page;
    const double weights = packed_bytes(bench, &s);
    const double kv = kv_bytes(bench) * rows, pe = pe_bytes(bench) * rows;
    const double tokens =
        hidden_element_bytes(bench) * 2.0 * s.hidden * (double)requests; /* each of two buffers */
    return (mla_memory){
        .total_bytes = bench->num_layers * (bench->num_backends * weights + kv + pe) + 2.0 * tokens,
        .largest_bytes = fmax(weights, fmax(kv, tokens)),
    };
}
