#include "ops/loops.h"

#include <math.h>

/* ---- loops ---------------------------------------------------------------------------------- */

/* n iterations, each of which runs loops of `body`, and the way out. */
static double loop(double n, double body) { return n * (1 + body) + 1; }

static double divide_up(double a, double b) { return ceil(a / b); }

/* `length` elements sixteen at a time, then the rest one by one. */
static double vectors_and_rest(double length) { return loop(length / 16, 0) + loop(15, 0); }

double mla__loops_shared(double n, size_t work_group)
{
    return loop(divide_up(n, (double)work_group), 0);
}

double mla__loops_search(void) { return loop(32, 0); }

/* ---- projection ----------------------------------------------------------------------------- */

/* cl/cpu/projection.cl */
static double projection_cpu(const mla__projection_tile *t, double K)
{
    enum { CHUNK_K = 512 };
    const double rows = t->tile_rows, vectors = t->tile_vectors;
    const double tile = loop(rows, loop(vectors, 0)); /* sums begun, or products added */
    const double steps = loop(K, 2 * loop(vectors, 0) + tile);
    const double chunks = loop(divide_up(K, CHUNK_K), loop(rows, vectors_and_rest(CHUNK_K)));
    const double stores = loop(rows, loop(vectors * t->vector_width / 16, loop(15, 0)));
    return loop((double)t->block_rows / rows, tile + chunks + steps + tile + stores);
}

/* The same with FP8 weights: a chunk is decoded once for the block's rows. */
static double projection_cpu_fp8(const mla__projection_tile *t, double K)
{
    enum { CHUNK_K = 64, CHUNK_PAIRS = CHUNK_K / 2 };
    const double rows = t->tile_rows, vectors = t->tile_vectors;
    const double tile = loop(rows, loop(vectors, 0));
    const double decode = loop(vectors, 0) + loop(CHUNK_PAIRS, loop(vectors, 0));
    const double begin = tile + loop(rows, vectors_and_rest(CHUNK_K) + loop(vectors, 0));
    const double products = loop(CHUNK_K, tile) + tile;
    const double chunk = decode + loop((double)t->block_rows / rows, begin + products);
    const double stores = loop(t->block_rows, loop(vectors * t->vector_width / 16, loop(15, 0)));
    return loop(divide_up(K, CHUNK_K), chunk) + stores;
}

/* cl/gpu/projection.cl */
static double projection_gpu(const mla__projection_tile *t, double K)
{
    const double rows = t->work_rows, columns = t->work_columns;
    const double work_group = t->tile_rows / rows * (t->tile_columns / columns);
    const double tile = loop(rows, loop(columns, 0));
    const double loads = loop(divide_up((double)t->tile_rows * t->tile_k, work_group), 0) +
                         loop(divide_up((double)t->tile_columns * t->tile_k / 2, work_group), 0);
    const double products = loop(t->tile_k, loop(columns, 0) + tile);
    return tile + loop(divide_up(K, t->tile_k), loads + products + tile) + tile;
}

/* cl/gpu/projection_stream.cl */
static double projection_stream(const mla__projection_tile *t, double K)
{
    const double rows = t->tile_rows, tile_k = t->tile_k;
    const double work_group = (double)t->tile_columns * t->slices;
    const double stages = divide_up(divide_up(K, t->slices), tile_k);
    const double loads =
        loop(tile_k / 2, 0) + loop(divide_up(rows * t->slices * tile_k, work_group), 0);
    const double products = loop(rows, loop(tile_k / 4, 0));
    const double stores = loop(divide_up(rows * t->tile_columns, work_group), loop(t->slices, 0));
    return loop(rows, 0) + loop(stages, loads + products) + loop(rows, 0) + stores;
}

double mla__loops_projection(const mla__projection_choice *choice, clmla_dtype weights_dtype,
                             int32_t in_features)
{
    switch (choice->kind) {
    case MLA__PROJECTION_CPU:
        return weights_dtype == CLMLA_DTYPE_F8_E4M3 ? projection_cpu_fp8(&choice->tile, in_features)
                                                    : projection_cpu(&choice->tile, in_features);
    case MLA__PROJECTION_GPU:
        return projection_gpu(&choice->tile, in_features);
    case MLA__PROJECTION_STREAM:
        return projection_stream(&choice->tile, in_features);
    default:
        return (double)INFINITY;
    }
}

/* ---- attention ------------------------------------------------------------------------------ */

/* cl/cpu/attention.cl for one row vector, or all of the tile's. */
static double attend_cpu(const mla__attention_tile *t, double vectors, double latent, double rope,
                         double num_keys)
{
    const double block = t->block_tokens, key = latent + rope;
    const double registers = (double)t->tile_tokens * t->row_vectors;
    const double tokens = registers / vectors, values = t->tile_values;
    const double tile = loop(tokens, loop(vectors, 0));
    const double sums = loop(values, loop(vectors, 0));
    const double load =
        loop(block, vectors_and_rest(latent) + vectors_and_rest(rope)) + loop(registers * key, 0);
    const double scores = loop(divide_up(block, tokens),
                               loop(registers, 0) + loop(key, loop(vectors, 0) + tile) + tile);
    const double weights = 2 * loop(vectors, 0) + loop(block, loop(vectors, 0));
    /* keys that all rows see, and the others */
    const double add = sums + loop(block, sums) + loop(0, 0) + sums;
    const double blocks =
        loop(divide_up(num_keys, block),
             load + scores + weights + loop(divide_up(latent, values), add) + add);
    return 2 * loop(vectors, 0) + blocks;
}

static double attention_cpu(const mla__attention_tile *t, double latent, double rope,
                            double num_keys)
{
    const double rows = t->tile_rows, key = latent + rope;
    const double begin = mla__loops_search() + loop(key * rows, 0) + loop(latent * rows, 0) +
                         loop(rows, 0) +
                         loop(rows, vectors_and_rest(latent) + vectors_and_rest(rope));
    const double end = loop(rows, 0) + loop(divide_up(latent, 16), loop(rows, loop(15, 0)));
    return begin +
           fmax(attend_cpu(t, 1, latent, rope, num_keys),
                attend_cpu(t, t->row_vectors, latent, rope, num_keys)) +
           end;
}

/* cl/gpu/attention.cl */
static double attention_gpu(const mla__attention_tile *t, double latent, double rope,
                            double num_keys)
{
    const double rows = t->tile_rows, block = t->block_tokens, group = t->work_group;
    const double latent_pairs = divide_up(latent, 2), rope_pairs = divide_up(rope, 2);
    const double slices = group / (rows * block / 4), loaders = group / block;
    const double tile = loop(rows, loop(divide_up(latent_pairs, group), 0));
    const double columns = loop(divide_up(latent_pairs, group), 0);
    const double queries = loop(rows, columns + loop(divide_up(rope_pairs, group), 0));
    /* a block's keys, or what it lacks */
    const double load = loop(divide_up(latent_pairs + rope_pairs, loaders), 0) +
                        loop(divide_up(latent_pairs, loaders), 0) +
                        loop(divide_up(rope_pairs, loaders), 0);
    const double scores =
        loop(divide_up(latent_pairs, slices), 0) + loop(divide_up(rope_pairs, slices), 0);
    const double weights = loop(divide_up(rows * block, group), loop(slices, 0)) +
                           loop(divide_up(rows * block, group), loop(block, 0)) + loop(block, 0);
    const double values = tile + loop(block, columns + 2 * tile);
    const double blocks = loop(divide_up(num_keys, block), load + scores + weights + values);
    return mla__loops_search() + tile + queries + blocks + tile;
}

double mla__loops_attention(enum mla__attention_kind kind, const mla__attention_tile *tile,
                            int32_t kv_lora_rank, int32_t rope_dim, double num_keys)
{
    switch (kind) {
    case MLA__ATTENTION_CPU:
        return attention_cpu(tile, kv_lora_rank, rope_dim, num_keys);
    case MLA__ATTENTION_GPU:
        return attention_gpu(tile, kv_lora_rank, rope_dim, num_keys);
    default:
        return (double)INFINITY;
    }
}

/* ---- rows ----------------------------------------------------------------------------------- */

/* cl/merge.cl */
double mla__loops_merge(int32_t num_states)
{
    const double element = loop(16, 0); /* of a row's last ones */
    return loop(num_states, 0) + loop(num_states, element) + element;
}

/* A sum or a maximum over the work-group. */
static double tree(size_t work_group) { return loop(ceil(log2((double)work_group)), 0); }

/* cl/rmsnorm.clh, cl/append.clh */
double mla__loops_row(int32_t dim, bool fp8, size_t work_group)
{
    enum { FP8_GROUP = 128 };
    const double elements =
        work_group == 1 ? vectors_and_rest(dim) : mla__loops_shared(dim, work_group);
    const double group = 2 * mla__loops_shared(FP8_GROUP, work_group) + tree(work_group);
    return 2 * elements + tree(work_group) + (fp8 ? loop((double)dim / FP8_GROUP, group) : 0);
}

/* cl/rotate.clh; eight pairs at a time of class cpu are fewer iterations, not more. */
double mla__loops_rotate(int32_t num_heads, int32_t num_pairs, size_t work_group)
{
    return work_group == 1 ? loop(num_heads, loop(num_pairs, 0)) + loop(num_pairs / 8.0, num_heads)
                           : mla__loops_shared((double)num_heads * num_pairs, work_group);
}
