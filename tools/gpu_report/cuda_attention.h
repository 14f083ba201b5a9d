/* A batch for the attention kernels of class nvidia, and its results in double. */
#ifndef CLMLA_CUDA_ATTENTION_H
#define CLMLA_CUDA_ATTENTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    LATENT = 512, /* KV_LORA_RANK */
    ROPE = 64,    /* ROPE_DIM */
    PAGE_ROWS = 64
};

/* Arrays NULL: one new token and `context` keys each. */
typedef struct attention_shape {
    int heads, sequences, context;
    const int *new_tokens, *keys;
    int extra_tokens; /* behind the last sequence, without keys */
} attention_shape;

/* Paged, pages in random order. Row r of the caches is row r % pool_rows of these arrays; rows that
 * hold no key are NaN, table entries without a page absurd. */
typedef struct attention_problem {
    int heads, sequences, tokens, pages, table_stride;
    int *cu;    /* [sequences + 1] */
    int *keys;  /* [sequences] */
    int *table; /* [sequences, table_stride] */
    size_t cache_rows, pool_rows;
    uint16_t *latent, *pe;  /* [pool_rows, LATENT], [pool_rows, ROPE] */
    uint16_t *q_lat, *q_pe; /* [tokens, heads, LATENT], [tokens, heads, ROPE], not rotated */
    float *cos_sin;         /* [tokens, ROPE / 2, 2]: any factors will do, these are exact */
    double scale;
} attention_problem;

bool attention_problem_make(const attention_shape *shape, attention_problem *out);
void attention_problem_free(attention_problem *problem);

/* One row of the result over keys first .. end - 1 of those that it sees. */
typedef struct attention_row {
    int num_keys;                      /* 0: out is zero, lse -INFINITY */
    double out[LATENT], bound[LATENT]; /* before out is rounded */
    double lse, lse_bound;
} attention_row;

bool attention_reference(const attention_problem *problem, int token, int head, int first, int end,
                         attention_row *row);

#endif
