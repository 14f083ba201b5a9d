#include "ref/mla_ref.h"

#include <math.h>
#include <string.h>

/* Independent partial sums: without them the compiler must add in order and cannot vectorise. */
#define LANES 4

double mla_ref_dot(size_t count, const double *a, const double *b)
{
    double sums[LANES] = {0.0};
    size_t i = 0;
    for (; i + LANES <= count; i += LANES)
        for (size_t lane = 0; lane < LANES; lane++)
            sums[lane] += a[i + lane] * b[i + lane];
    double sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    for (; i < count; i++)
        sum += a[i] * b[i];
    return sum;
}

void mla_ref_add_scaled(size_t count, double factor, const double *x, double *y)
{
    for (size_t i = 0; i < count; i++)
        y[i] += factor * x[i];
}

/* The projection works on tiles of 4 x 2 outputs over at most K_BLOCK products, so that what it
 * reads again stays in the first-level caches. */
#define TILE_ROWS 4
#define TILE_COLUMNS 2
#define TILE_LANES 2
#define K_BLOCK 512

/* Two neighbouring doubles: one register, so that the tile's 8 sums stay in registers. */
typedef double pair __attribute__((vector_size(TILE_LANES * sizeof(double))));

static inline pair load_pair(const double *from)
{
    pair value;
    memcpy(&value, from, sizeof value);
    return value;
}

/* y[4, 2] += x[4, count] · w[2, count]ᵀ; count a multiple of TILE_LANES */
static void add_tile(size_t count, const double *x, const double *w, size_t k, double *y, size_t n)
{
    pair sums[TILE_ROWS][TILE_COLUMNS] = {{{0.0}}};
    for (size_t i = 0; i < count; i += TILE_LANES) {
        const pair w0 = load_pair(w + i), w1 = load_pair(w + k + i);
        for (size_t row = 0; row < TILE_ROWS; row++) {
            const pair value = load_pair(x + row * k + i);
            sums[row][0] += value * w0;
            sums[row][1] += value * w1;
        }
    }
    for (size_t row = 0; row < TILE_ROWS; row++)
        for (size_t column = 0; column < TILE_COLUMNS; column++)
            y[row * n + column] += sums[row][column][0] + sums[row][column][1];
}

/* The same for any number of rows and columns, products one by one. */
static void add_edge(size_t rows, size_t columns, size_t count, const double *x, const double *w,
                     size_t k, double *y, size_t n)
{
    for (size_t row = 0; row < rows; row++)
        for (size_t column = 0; column < columns; column++)
            y[row * n + column] += mla_ref_dot(count, x + row * k, w + column * k);
}

void mla_ref_projection(size_t rows, size_t n, size_t k, const double *x, const double *w,
                        double *y)
{
    const size_t tiled_rows = rows - rows % TILE_ROWS;
    const size_t tiled_columns = n - n % TILE_COLUMNS;
    memset(y, 0, rows * n * sizeof *y);
    for (size_t from = 0; from < k; from += K_BLOCK) {
        const size_t count = k - from < K_BLOCK ? k - from : K_BLOCK;
        const size_t tiled = count - count % TILE_LANES;
        for (size_t j = 0; j < tiled_columns; j += TILE_COLUMNS)
            for (size_t i = 0; i < tiled_rows; i += TILE_ROWS) {
                const double *x_tile = x + i * k + from, *w_tile = w + j * k + from;
                double *y_tile = y + i * n + j;
                add_tile(tiled, x_tile, w_tile, k, y_tile, n);
                if (tiled < count)
                    add_edge(TILE_ROWS, TILE_COLUMNS, count - tiled, x_tile + tiled, w_tile + tiled,
                             k, y_tile, n);
            }
        add_edge(tiled_rows, n - tiled_columns, count, x + from, w + tiled_columns * k + from, k,
                 y + tiled_columns, n);
        add_edge(rows - tiled_rows, n, count, x + tiled_rows * k + from, w + from, k,
                 y + tiled_rows * n, n);
    }
}

void mla_ref_rmsnorm(size_t rows, size_t dim, double eps, const double *x, const double *weight,
                     double *y)
{
    for (size_t row = 0; row < rows; row++) {
        const double *in = x + row * dim;
        const double mean = mla_ref_dot(dim, in, in) / (double)dim;
        const double scale = 1.0 / sqrt(mean + eps);
        for (size_t i = 0; i < dim; i++)
            y[row * dim + i] = in[i] * scale * weight[i];
    }
}

void mla_ref_rope(size_t dim, const double *freq, int64_t position, double *x)
{
    for (size_t j = 0; j < dim / 2; j++) {
        const double angle = (double)position * freq[j];
        const double c = cos(angle), s = sin(angle);
        const double even = x[2 * j], odd = x[2 * j + 1];
        x[2 * j] = even * c - odd * s;
        x[2 * j + 1] = even * s + odd * c;
    }
}

double mla_ref_softmax(size_t count, double *scores)
{
    double max = (double)-INFINITY, sum = 0.0;
    for (size_t j = 0; j < count; j++)
        max = fmax(max, scores[j]);
    for (size_t j = 0; j < count; j++) {
        scores[j] = exp(scores[j] - max);
        sum += scores[j];
    }
    for (size_t j = 0; j < count; j++)
        scores[j] /= sum;
    return count > 0 ? max + log(sum) : (double)-INFINITY;
}

void mla_ref_attention_head(size_t num_keys, size_t kv_lora, size_t rope, double scale,
                            const double *q_lat, const double *q_pe, const double *c_kv,
                            const double *k_pe, double *scores, double *out, double *lse)
{
    for (size_t j = 0; j < num_keys; j++)
        scores[j] = scale * (mla_ref_dot(kv_lora, q_lat, c_kv + j * kv_lora) +
                             mla_ref_dot(rope, q_pe, k_pe + j * rope));
    *lse = mla_ref_softmax(num_keys, scores);
    memset(out, 0, kv_lora * sizeof *out);
    for (size_t j = 0; j < num_keys; j++)
        mla_ref_add_scaled(kv_lora, scores[j], c_kv + j * kv_lora, out);
}

void mla_ref_merge_states(size_t num_states, size_t dim, const double *partial_out,
                          const double *partial_lse, double *out, double *lse)
{
    double max = (double)-INFINITY, sum = 0.0;
    for (size_t i = 0; i < num_states; i++)
        max = fmax(max, partial_lse[i]);
    memset(out, 0, dim * sizeof *out);
    for (size_t i = 0; i < num_states; i++) {
        if (partial_lse[i] == (double)-INFINITY)
            continue; /* saw no key: adds nothing, whatever its out holds */
        const double weight = exp(partial_lse[i] - max);
        sum += weight;
        mla_ref_add_scaled(dim, weight, partial_out + i * dim, out);
    }
    for (size_t i = 0; i < dim && sum != 0.0; i++)
        out[i] /= sum;
    *lse = sum != 0.0 ? max + log(sum) : (double)-INFINITY;
}
