#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_attention.h"
#include "cuda_data.h"

enum { POOL_ROWS = 32768, NO_PAGE = 2147480000 };

/* ---- batch ---------------------------------------------------------------------------------- */

static int pages_of(int keys) { return (keys + PAGE_ROWS - 1) / PAGE_ROWS; }

/* Sequences, counts of tokens and pages. */
static void lay_out(const attention_shape *shape, attention_problem *p)
{
    int longest = 1;
    p->cu[0] = 0;
    for (int s = 0; s < p->sequences; s++) {
        p->keys[s] = shape->keys != NULL ? shape->keys[s] : shape->context;
        p->cu[s + 1] = p->cu[s] + (shape->new_tokens != NULL ? shape->new_tokens[s] : 1);
        p->pages += pages_of(p->keys[s]);
        longest = p->keys[s] > longest ? p->keys[s] : longest;
    }
    p->tokens = p->cu[p->sequences] + shape->extra_tokens;
    p->table_stride = pages_of(longest);
    p->cache_rows = (size_t)p->pages * PAGE_ROWS;
    p->pool_rows = p->cache_rows < POOL_ROWS ? p->cache_rows : POOL_ROWS;
}

/* Deals pages out in an order that jumps about; the caches' rows without a key become NaN. */
static bool deal_pages(attention_problem *p)
{
    int *order = malloc(((size_t)p->pages + 1) * sizeof(*order));
    uint64_t state = 1;
    if (order == NULL)
        return false;
    for (int i = 0; i < p->pages; i++) { /* a random order of 0 .. i */
        state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        const int at = (int)((state >> 33) % ((uint64_t)i + 1));
        order[i] = order[at];
        order[at] = i;
    }
    int next = 0;
    for (int s = 0; s < p->sequences; s++)
        for (int i = 0; i < p->table_stride; i++) {
            const bool used = i < pages_of(p->keys[s]);
            const int page = used ? order[next++] : NO_PAGE;
            p->table[s * p->table_stride + i] = page;
            for (int row = 0; used && row < PAGE_ROWS; row++) {
                const size_t at = ((size_t)page * PAGE_ROWS + (size_t)row) % p->pool_rows;
                if (i * PAGE_ROWS + row >= p->keys[s]) {
                    memset(p->latent + at * LATENT, 0xff, LATENT * sizeof(*p->latent));
                    memset(p->pe + at * ROPE, 0xff, ROPE * sizeof(*p->pe));
                }
            }
        }
    free(order);
    return true;
}

static void draw(attention_problem *p)
{
    const size_t rows = (size_t)p->tokens * (size_t)p->heads;
    const size_t factors = (size_t)p->tokens * ROPE;
    data_draw(p->latent, p->pool_rows * LATENT, 1);
    data_draw(p->pe, p->pool_rows * ROPE, 2);
    data_draw(p->q_lat, rows * LATENT, 3);
    data_draw(p->q_pe, rows * ROPE, 4);
    for (size_t i = 0; i < factors; i++) {
        uint16_t bits;
        data_draw(&bits, 1, 5 + i);
        p->cos_sin[i] = (float)data_value(bits);
    }
}

bool attention_problem_make(const attention_shape *shape, attention_problem *out)
{
    attention_problem p = {.heads = shape->heads, .sequences = shape->sequences};
    const size_t sequences = (size_t)shape->sequences;
    p.scale = 1.0 / sqrt((double)(LATENT + ROPE));
    p.cu = malloc((sequences + 1) * sizeof(*p.cu));
    p.keys = malloc(sequences * sizeof(*p.keys));
    if (p.cu != NULL && p.keys != NULL)
        lay_out(shape, &p);
    const size_t rows = (size_t)p.tokens * (size_t)p.heads;
    p.table = malloc(sequences * (size_t)p.table_stride * sizeof(*p.table));
    p.latent = malloc(p.pool_rows * LATENT * sizeof(*p.latent));
    p.pe = malloc(p.pool_rows * ROPE * sizeof(*p.pe));
    p.q_lat = malloc(rows * LATENT * sizeof(*p.q_lat));
    p.q_pe = malloc(rows * ROPE * sizeof(*p.q_pe));
    p.cos_sin = malloc((size_t)p.tokens * ROPE * sizeof(*p.cos_sin));
    *out = p;
    if (p.table != NULL && p.latent != NULL && p.pe != NULL && p.q_lat != NULL && p.q_pe != NULL &&
        p.cos_sin != NULL) {
        draw(out);
        if (deal_pages(out))
            return true;
    }
    attention_problem_free(out);
    return false;
}

void attention_problem_free(attention_problem *p)
{
    void *const arrays[] = {p->cu, p->keys,  p->table, p->latent,
                            p->pe, p->q_lat, p->q_pe,  p->cos_sin};
    for (size_t i = 0; i < sizeof(arrays) / sizeof(arrays[0]); i++)
        free(arrays[i]);
    *p = (attention_problem){.heads = 0};
}

/* ---- reference ------------------------------------------------------------------------------ */

/* Keys that the token sees, causal, and its sequence. */
static int visible_keys(const attention_problem *p, int token, int *sequence)
{
    int s = 0;
    while (s < p->sequences && token >= p->cu[s + 1])
        s++;
    *sequence = s;
    if (s == p->sequences)
        return 0;
    const int visible = p->keys[s] - (p->cu[s + 1] - token) + 1;
    return visible < 0 ? 0 : visible;
}

static size_t pool_row(const attention_problem *p, int sequence, int key)
{
    const int page = p->table[sequence * p->table_stride + key / PAGE_ROWS];
    return ((size_t)page * PAGE_ROWS + (size_t)(key % PAGE_ROWS)) % p->pool_rows;
}

/* The query, its second part rotated and rounded as the kernel does: the products and their sum are
 * exact in float32. */
static void load_query(const attention_problem *p, int token, int head, double *query)
{
    const size_t row = (size_t)token * (size_t)p->heads + (size_t)head;
    const float *factors = p->cos_sin + (size_t)token * ROPE;
    for (size_t i = 0; i < LATENT; i++)
        query[i] = data_value(p->q_lat[row * LATENT + i]);
    for (size_t i = 0; i < ROPE; i += 2) {
        const double x = data_value(p->q_pe[row * ROPE + i]);
        const double y = data_value(p->q_pe[row * ROPE + i + 1]);
        const double c = (double)factors[i], s = (double)factors[i + 1];
        query[LATENT + i] = data_value(data_round(x * c - y * s));
        query[LATENT + i + 1] = data_value(data_round(y * c + x * s));
    }
}

/* scores[j], and the largest error that float32 makes in one: of 576 additions, of the products
 * with scale · log2(e), and of exp2. */
static double score_keys(const attention_problem *p, int sequence, int first, int num_keys,
                         const double *query, double *scores)
{
    double error = 0.0;
    for (int j = 0; j < num_keys; j++) {
        const size_t row = pool_row(p, sequence, first + j);
        double sum = 0.0, magnitude = 0.0;
        for (size_t i = 0; i < LATENT + ROPE; i++) {
            const double key = data_value(i < LATENT ? p->latent[row * LATENT + i]
                                                     : p->pe[row * ROPE + i - LATENT]);
            sum += query[i] * key;
            magnitude += fabs(query[i] * key);
        }
        scores[j] = p->scale * sum;
        error = fmax(error, p->scale * magnitude * (LATENT + ROPE) * 0x1p-24 +
                                (fabs(scores[j]) + 1.0) * 0x1p-20);
    }
    return error;
}

bool attention_reference(const attention_problem *p, int token, int head, int first, int end,
                         attention_row *row)
{
    double query[LATENT + ROPE], largest = -HUGE_VAL, total = 0.0;
    int sequence;
    const int visible = visible_keys(p, token, &sequence);
    *row = (attention_row){.lse = -HUGE_VAL};
    row->num_keys = (visible < end ? visible : end) - first;
    if (row->num_keys <= 0) {
        row->num_keys = 0;
        return true;
    }
    double *weights = malloc((size_t)row->num_keys * sizeof(*weights));
    if (weights == NULL)
        return false;
    load_query(p, token, head, query);
    const double error = score_keys(p, sequence, first, row->num_keys, query, weights);
    for (int j = 0; j < row->num_keys; j++)
        largest = fmax(largest, weights[j]);
    for (int j = 0; j < row->num_keys; j++) {
        weights[j] = exp(weights[j] - largest);
        total += weights[j];
    }
    for (int j = 0; j < row->num_keys; j++) {
        const uint16_t *key = p->latent + pool_row(p, sequence, first + j) * LATENT;
        for (size_t i = 0; i < LATENT; i++) {
            row->out[i] += weights[j] / total * data_value(key[i]);
            row->bound[i] += weights[j] / total * fabs(data_value(key[i]));
        }
    }
    /* a weight is rounded to bf16, 2^-8, and it and the total have the scores' error */
    for (size_t i = 0; i < LATENT; i++)
        row->bound[i] *= 0x1p-8 + 2.0 * error + (double)row->num_keys * 0x1p-24;
    row->lse = largest + log(total);
    row->lse_bound = error + (double)row->num_keys * 0x1p-24 + (fabs(row->lse) + 1.0) * 0x1p-20;
    free(weights);
    return true;
}
