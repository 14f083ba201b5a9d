/*
 * The search space: for every kernel the values that are tried, as changes to a tile. Values that
 * belong together change together; what does not fit the device or the kernel is the library's to
 * refuse. Taken from what kernels are made for: sums in registers, whole panels of weights, blocks
 * that caches or local memory hold.
 */
#include <string.h>

#include "cli/tune.h"

enum { MOST_SET = 4 };

/* A change: values for up to four words. */
typedef struct move {
    struct {
        const char *name;
        int32_t value;
    } set[MOST_SET];
} move;

#define ROWS(n)                                                                                    \
    {                                                                                              \
        {                                                                                          \
            {                                                                                      \
                "tile_rows", n                                                                     \
            }                                                                                      \
        }                                                                                          \
    }
#define BLOCK(n)                                                                                   \
    {                                                                                              \
        {                                                                                          \
            {                                                                                      \
                "block_rows", n                                                                    \
            }                                                                                      \
        }                                                                                          \
    }
#define VECTORS(width, count)                                                                      \
    {                                                                                              \
        {                                                                                          \
            {"vector_width", width}, { "tile_vectors", count }                                     \
        }                                                                                          \
    }

static const move cpu_projection[] = {
    ROWS(1),       ROWS(2),       ROWS(3),        ROWS(4),        ROWS(5),
    ROWS(6),       ROWS(8),       VECTORS(16, 4), VECTORS(16, 2), VECTORS(16, 1),
    VECTORS(8, 8), VECTORS(8, 4), VECTORS(8, 2),  VECTORS(4, 4),  BLOCK(16),
    BLOCK(32),     BLOCK(64),     BLOCK(128),     BLOCK(256),
};

static const move dot_projection[] = {
    ROWS(1),   ROWS(2),   ROWS(3),        ROWS(4),        ROWS(5),
    ROWS(6),   ROWS(8),   VECTORS(16, 4), VECTORS(16, 2), VECTORS(16, 1),
    BLOCK(16), BLOCK(32), BLOCK(64),      BLOCK(128),     BLOCK(256),
};

#define TILE_ROWS(tile, work)                                                                      \
    {                                                                                              \
        {                                                                                          \
            {"tile_rows", tile}, { "work_rows", work }                                             \
        }                                                                                          \
    }
#define TILE_COLUMNS(tile, work)                                                                   \
    {                                                                                              \
        {                                                                                          \
            {"tile_columns", tile}, { "work_columns", work }                                       \
        }                                                                                          \
    }

static const move gpu_projection[] = {
    TILE_ROWS(8, 1),     TILE_ROWS(8, 2),     TILE_ROWS(8, 4),     TILE_ROWS(16, 1),
    TILE_ROWS(16, 2),    TILE_ROWS(16, 4),    TILE_ROWS(32, 2),    TILE_ROWS(32, 4),
    TILE_ROWS(32, 8),    TILE_ROWS(64, 4),    TILE_ROWS(64, 8),    TILE_ROWS(128, 8),
    TILE_COLUMNS(16, 1), TILE_COLUMNS(32, 1), TILE_COLUMNS(32, 2), TILE_COLUMNS(64, 1),
    TILE_COLUMNS(64, 2), TILE_COLUMNS(64, 4), TILE_COLUMNS(64, 8),
};

#define STREAM(columns, slices)                                                                    \
    {                                                                                              \
        {                                                                                          \
            {"tile_columns", columns}, { "slices", slices }                                        \
        }                                                                                          \
    }
#define STAGE(n)                                                                                   \
    {                                                                                              \
        {                                                                                          \
            {                                                                                      \
                "tile_k", n                                                                        \
            }                                                                                      \
        }                                                                                          \
    }

static const move stream[] = {
    STREAM(16, 16), STREAM(16, 8), STREAM(16, 4), STREAM(32, 8), STREAM(32, 4), STREAM(32, 2),
    STREAM(64, 4),  STREAM(64, 2), STREAM(64, 1), STAGE(16),     STAGE(32),     STAGE(64),
};

#define LANES(vectors, tokens, values)                                                             \
    {                                                                                              \
        {                                                                                          \
            {"row_vectors", vectors}, {"tile_tokens", tokens}, { "tile_values", values }           \
        }                                                                                          \
    }
#define KEYS(n)                                                                                    \
    {                                                                                              \
        {                                                                                          \
            {                                                                                      \
                "block_tokens", n                                                                  \
            }                                                                                      \
        }                                                                                          \
    }

static const move cpu_attention[] = {
    LANES(1, 4, 4), LANES(1, 4, 8), LANES(1, 8, 8), LANES(1, 8, 16), LANES(1, 16, 16),
    LANES(2, 4, 4), LANES(2, 4, 8), LANES(2, 8, 4), LANES(2, 8, 8),  LANES(3, 4, 4),
    LANES(4, 4, 4), KEYS(16),       KEYS(32),       KEYS(64),        KEYS(128),
};

#define GROUP(rows, tokens)                                                                        \
    {                                                                                              \
        {                                                                                          \
            {"tile_rows", rows}, { "block_tokens", tokens }                                        \
        }                                                                                          \
    }
#define ITEMS(n)                                                                                   \
    {                                                                                              \
        {                                                                                          \
            {                                                                                      \
                "work_group", n                                                                    \
            }                                                                                      \
        }                                                                                          \
    }

static const move gpu_attention[] = {
    GROUP(4, 4),  GROUP(4, 8),   GROUP(4, 16), GROUP(8, 4), GROUP(8, 8), GROUP(8, 16), GROUP(16, 4),
    GROUP(16, 8), GROUP(16, 16), GROUP(32, 4), ITEMS(32),   ITEMS(64),   ITEMS(128),   ITEMS(256),
};

#define COLUMNS(tile, items, loaders, vector)                                                      \
    {                                                                                              \
        {                                                                                          \
            {"mwg", tile}, {"mdimc", items}, {"mdima", loaders}, { "vwm", vector }                 \
        }                                                                                          \
    }
#define GEMM_ROWS(tile, items, loaders, vector)                                                    \
    {                                                                                              \
        {                                                                                          \
            {"nwg", tile}, {"ndimc", items}, {"ndimb", loaders}, { "vwn", vector }                 \
        }                                                                                          \
    }
#define WORD(name, value)                                                                          \
    {                                                                                              \
        {                                                                                          \
            {                                                                                      \
                name, value                                                                        \
            }                                                                                      \
        }                                                                                          \
    }

/* CLBlast's own search has a thousand; these are the shapes that its database holds. */
static const move clblast[] = {
    COLUMNS(64, 4, 4, 8),     COLUMNS(64, 4, 4, 4),   COLUMNS(64, 8, 8, 8),
    COLUMNS(64, 8, 8, 4),     COLUMNS(64, 8, 8, 2),   COLUMNS(64, 16, 16, 4),
    COLUMNS(64, 16, 16, 2),   COLUMNS(64, 2, 2, 8),   COLUMNS(32, 4, 4, 8),
    COLUMNS(32, 4, 4, 4),     COLUMNS(32, 8, 8, 4),   GEMM_ROWS(8, 1, 1, 8),
    GEMM_ROWS(16, 1, 1, 8),   GEMM_ROWS(16, 1, 1, 4), GEMM_ROWS(16, 2, 2, 4),
    GEMM_ROWS(16, 2, 2, 8),   GEMM_ROWS(32, 2, 2, 4), GEMM_ROWS(32, 2, 2, 8),
    GEMM_ROWS(32, 4, 4, 4),   GEMM_ROWS(32, 8, 8, 4), GEMM_ROWS(64, 4, 4, 4),
    GEMM_ROWS(64, 4, 4, 8),   GEMM_ROWS(64, 8, 8, 4), GEMM_ROWS(64, 8, 8, 8),
    GEMM_ROWS(64, 16, 16, 4), WORD("kwg", 16),        WORD("kwg", 32),
    WORD("kwi", 2),           WORD("kwi", 8),         {{{"sa", 0}, {"sb", 0}}},
    {{{"sa", 1}, {"sb", 1}}},
};

#define SPACE(kernel, moves)                                                                       \
    {                                                                                              \
        kernel, moves, (int)(sizeof(moves) / sizeof((moves)[0]))                                   \
    }

typedef struct space {
    const char *kernel;
    const move *moves;
    int num_moves;
} space;

static const space spaces[] = {
    SPACE("projection_cpu", cpu_projection), SPACE("projection_dot", dot_projection),
    SPACE("projection_gpu", gpu_projection), SPACE("projection_stream", stream),
    SPACE("attention_cpu", cpu_attention),   SPACE("attention_dot", cpu_attention),
    SPACE("attention_gpu", gpu_attention),   SPACE("clblast_xgemm", clblast),
};

static const space *space_of(const mla_tune_line *line)
{
    const size_t length = strcspn(line->key, " ");
    for (size_t i = 0; i < sizeof(spaces) / sizeof(spaces[0]); i++)
        if (strlen(spaces[i].kernel) == length && strncmp(spaces[i].kernel, line->key, length) == 0)
            return &spaces[i];
    return NULL;
}

int mla_tune_num_moves(const mla_tune_line *line)
{
    const space *found = space_of(line);
    return found != NULL ? found->num_moves : 0;
}

/* The nearest multiple of `of` that is not 0. */
static void round_word(mla_tune_line *line, const char *name, int32_t of)
{
    int32_t *word = mla_tune_line_word(line, name);
    if (word == NULL || of < 1)
        return;
    const int32_t times = (*word + of / 2) / of;
    *word = (times > 0 ? times : 1) * of;
}

/* W_UV's slices are those of the kernel that merges and multiplies in one, which needs a multiple of
 * four (cl/gpu/merge_up.clh): fewer would cost more than they gain. */
static bool costs_the_fused_kernel(const mla_tune_line *line, const move *m)
{
    enum { LANES = 4 };
    bool costs = false;
    for (int i = 0; i < MOST_SET && m->set[i].name != NULL; i++)
        costs = costs || (strcmp(m->set[i].name, "slices") == 0 && m->set[i].value % LANES != 0);
    return costs && strstr(line->key, " batches=1 ") == NULL;
}

bool mla_tune_move(const mla_tune_line *line, int number, mla_tune_line *out)
{
    const move *m = &space_of(line)->moves[number];
    *out = *line;
    if (costs_the_fused_kernel(line, m))
        return false;
    for (int i = 0; i < MOST_SET && m->set[i].name != NULL; i++) {
        int32_t *word = mla_tune_line_word(out, m->set[i].name);
        if (word != NULL)
            *word = m->set[i].value;
    }
    const int32_t *rows = mla_tune_line_word(out, "tile_rows");
    const int32_t *vectors = mla_tune_line_word(out, "row_vectors");
    const int32_t *tokens = mla_tune_line_word(out, "tile_tokens");
    if (rows != NULL)
        round_word(out, "block_rows", *rows);
    if (vectors != NULL && tokens != NULL)
        round_word(out, "block_tokens", *vectors * *tokens);
    for (int i = 0; i < line->num_words; i++)
        if (out->words[i].value != line->words[i].value)
            return true;
    return false;
}
