/*
 * What a forward must move and compute at the least, whatever the kernels do.
 *
 * Bytes of one model layer's forward of T new tokens in B sequences, b_w, b_c, b_h bytes per
 * element of weights, cache and hidden states:
 *   weights       b_w · (matrices) + 4 · (norm weights), read once
 *   cache read    b_c · (kv_lora + rope) · Σ keys of the sequences, new ones included, read once
 *   cache written b_c · (kv_lora + rope) · T
 *   activations   b_h · hidden · 2 T, in and out
 * What stages hand to each other is not counted: a fused kernel would not move it.
 *
 * Operations, two a multiply-add:
 *   projections   T · (q, kv_a and o matrices) · 2
 *   absorption    T · H · kv_lora · (nope + v) · 2
 *   attention     pairs · H · (2 · kv_lora + rope) · 2, pairs = Σ over new tokens of the keys they
 *                 see (causal)
 *
 * Of the attention stage alone (mla_attention_cost), b bytes per element of all it touches:
 *   bytes         b · ((kv_lora + rope) · Σ keys + T · H · (kv_lora + rope) + T · H · kv_lora):
 *                 the cache once per sequence, queries, results
 *   operations    as attention above
 *
 * The roofline of such a forward: a device that reads R bytes and does P operations a second needs
 * max(bytes / R, operations / P) seconds, so reaches at most operations / that.
 */
#include <math.h>

#include "cli/bench.h"
#include "core/config.h"
#include "core/dtype.h"

typedef struct sizes {
    double hidden, heads, q_lora, kv_lora, nope, rope, v;
    double q_matrices, kv_a, kv_b, o; /* elements */
} sizes;

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
    return s;
}

/* One forward of `tokens` tokens whose sequences hold `keys` keys and see `pairs` of them. */
static mla_cost forward_cost(const sizes *s, double element_bytes, double tokens, double keys,
                             double pairs)
{
    const double weights = s->q_matrices + s->kv_a + s->kv_b + s->o;
    return (mla_cost){
        .bytes = element_bytes * weights + 4.0 * (s->q_lora + s->kv_lora) +
                 element_bytes * (s->kv_lora + s->rope) * (keys + tokens) +
                 element_bytes * s->hidden * 2.0 * tokens,
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
    return forward_cost(s, (double)mla__dtype_bytes(cell->bench->common->dtype),
                        (double)lane->num_tokens, keys, pairs);
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
    const double element = (double)mla__dtype_bytes(bench->common->dtype);
    return (mla_cost){
        .bytes = element * ((s.kv_lora + s.rope) * keys +
                            tokens * s.heads * ((s.kv_lora + s.rope) + s.kv_lora)),
        .flop = 2.0 * pairs * s.heads * (2.0 * s.kv_lora + s.rope),
    };
}

double mla_roofline(double gb_per_s, double gflop_per_s, mla_cost cost)
{
    return fmin(gflop_per_s, gb_per_s * cost.flop / cost.bytes);
}

mla_memory mla_decode_memory(const mla_bench *bench, int32_t requests, int32_t keys)
{
    const sizes s = sizes_of(&bench->config);
    const double element = (double)mla__dtype_bytes(bench->common->dtype);
    const int32_t page_block_size = bench->common->page_block_size;
    const int32_t page = page_block_size > 0 ? page_block_size : keys;
    const double rows = (double)requests * ceil((double)keys / page) * page;
    const double weights = element * (s.q_matrices + s.kv_a + s.kv_b + s.o);
    const double cache = element * s.kv_lora * rows;
    const double tokens = element * 2.0 * s.hidden * (double)requests; /* each of two buffers */
    return (mla_memory){
        .total_bytes =
            bench->num_layers * (bench->num_backends * weights + cache + element * s.rope * rows) +
            2.0 * tokens,
        .largest_bytes = fmax(weights, fmax(cache, tokens)),
    };
}
