/*
 * The search space: for every kernel the values that are tried, as changes to a tile. Values that
 * belong together change together; what does not fit the device or the kernel is the library's to
 * refuse. Taken from what kernels are made for: sums in registers, whole panels of weights, blocks
 * that caches or local memory hold.
 */
#include <string.h>

#include "cli/tune.h"

/* A kernel's changes: words of its tile with their new values. */
typedef struct space {
    const char *kernel;
    const char *const *moves;
    int num_moves;
} space;

static const char *const cpu_projection[] = {
    "tile_rows=1",
    "tile_rows=2",
    "tile_rows=3",
    "tile_rows=4",
    "tile_rows=5",
    "tile_rows=6",
    "tile_rows=8",
    "vector_width=16 tile_vectors=4",
    "vector_width=16 tile_vectors=2",
    "vector_width=16 tile_vectors=1",
    "vector_width=8 tile_vectors=8",
    "vector_width=8 tile_vectors=4",
    "vector_width=8 tile_vectors=2",
    "vector_width=4 tile_vectors=4",
    "block_rows=16",
    "block_rows=32",
    "block_rows=64",
    "block_rows=128",
    "block_rows=256",
};

static const char *const gpu_projection[] = {
    "tile_rows=8 work_rows=1",        "tile_rows=8 work_rows=2",
    "tile_rows=8 work_rows=4",        "tile_rows=16 work_rows=1",
    "tile_rows=16 work_rows=2",       "tile_rows=16 work_rows=4",
    "tile_rows=32 work_rows=2",       "tile_rows=32 work_rows=4",
    "tile_rows=32 work_rows=8",       "tile_rows=64 work_rows=4",
    "tile_rows=64 work_rows=8",       "tile_rows=128 work_rows=8",
    "tile_columns=16 work_columns=1", "tile_columns=32 work_columns=1",
    "tile_columns=32 work_columns=2", "tile_columns=64 work_columns=1",
    "tile_columns=64 work_columns=2", "tile_columns=64 work_columns=4",
    "tile_columns=64 work_columns=8",
};

static const char *const stream_projection[] = {
    "tile_columns=16 slices=16",
    "tile_columns=16 slices=8",
    "tile_columns=16 slices=4",
    "tile_columns=32 slices=8",
    "tile_columns=32 slices=4",
    "tile_columns=32 slices=2",
    "tile_columns=64 slices=4",
    "tile_columns=64 slices=2",
    "tile_columns=64 slices=1",
    "tile_k=16",
    "tile_k=32",
    "tile_k=64",
};

/* Of all rows up to 64: what fills the device without adding more parts than it has to. */
static const char *const few_projection[] = {
    "tile_columns=32 slices=2",  "tile_columns=32 slices=4",  "tile_columns=32 slices=8",
    "tile_columns=32 slices=16", "tile_columns=64 slices=2",  "tile_columns=64 slices=4",
    "tile_columns=64 slices=8",  "tile_columns=64 slices=16",
};

static const char *const tiled_projection[] = {
    "tile_rows=64 tile_columns=64 work_rows=32 stages=3",
    "tile_rows=64 tile_columns=64 work_rows=64 stages=3",
    "tile_rows=64 tile_columns=128 work_rows=32 stages=2",
    "tile_rows=64 tile_columns=128 work_rows=64 stages=2",
    "tile_rows=128 tile_columns=64 work_rows=32 stages=2",
    "tile_rows=128 tile_columns=64 work_rows=64 stages=2",
    "tile_rows=128 tile_columns=128 work_rows=32 stages=2",
    "tile_rows=128 tile_columns=128 work_rows=64 stages=2",
    "stages=2",
    "stages=3",
    "stages=4",
    "stages=5",
};

static const char *const wgmma_projection[] = {
    "tile_columns=128", "tile_columns=256", "stages=3", "stages=4", "stages=5", "stages=6",
};

static const char *const cpu_attention[] = {
    "row_vectors=1 tile_tokens=4 tile_values=4",
    "row_vectors=1 tile_tokens=4 tile_values=8",
    "row_vectors=1 tile_tokens=8 tile_values=8",
    "row_vectors=1 tile_tokens=8 tile_values=16",
    "row_vectors=1 tile_tokens=16 tile_values=16",
    "row_vectors=2 tile_tokens=4 tile_values=4",
    "row_vectors=2 tile_tokens=4 tile_values=8",
    "row_vectors=2 tile_tokens=8 tile_values=4",
    "row_vectors=2 tile_tokens=8 tile_values=8",
    "row_vectors=3 tile_tokens=4 tile_values=4",
    "row_vectors=4 tile_tokens=4 tile_values=4",
    "block_tokens=16",
    "block_tokens=32",
    "block_tokens=64",
    "block_tokens=128",
};

static const char *const gpu_attention[] = {
    "tile_rows=4 block_tokens=4",
    "tile_rows=4 block_tokens=8",
    "tile_rows=4 block_tokens=16",
    "tile_rows=8 block_tokens=4",
    "tile_rows=8 block_tokens=8",
    "tile_rows=8 block_tokens=16",
    "tile_rows=16 block_tokens=4",
    "tile_rows=16 block_tokens=8",
    "tile_rows=16 block_tokens=16",
    "tile_rows=32 block_tokens=4",
    "work_group=32",
    "work_group=64",
    "work_group=128",
    "work_group=256",
};

static const char *const mma_attention[] = {
    "tile_rows=16", "tile_rows=32", "stages=2", "stages=3", "stages=4",
};

/* CLBlast's own search has a thousand; these are the shapes that its database holds. */
static const char *const clblast[] = {
    "mwg=64 mdimc=4 mdima=4 vwm=8",
    "mwg=64 mdimc=4 mdima=4 vwm=4",
    "mwg=64 mdimc=8 mdima=8 vwm=8",
    "mwg=64 mdimc=8 mdima=8 vwm=4",
    "mwg=64 mdimc=8 mdima=8 vwm=2",
    "mwg=64 mdimc=16 mdima=16 vwm=4",
    "mwg=64 mdimc=16 mdima=16 vwm=2",
    "mwg=64 mdimc=2 mdima=2 vwm=8",
    "mwg=32 mdimc=4 mdima=4 vwm=8",
    "mwg=32 mdimc=4 mdima=4 vwm=4",
    "mwg=32 mdimc=8 mdima=8 vwm=4",
    "nwg=8 ndimc=1 ndimb=1 vwn=8",
    "nwg=16 ndimc=1 ndimb=1 vwn=8",
    "nwg=16 ndimc=1 ndimb=1 vwn=4",
    "nwg=16 ndimc=2 ndimb=2 vwn=4",
    "nwg=16 ndimc=2 ndimb=2 vwn=8",
    "nwg=32 ndimc=2 ndimb=2 vwn=4",
    "nwg=32 ndimc=2 ndimb=2 vwn=8",
    "nwg=32 ndimc=4 ndimb=4 vwn=4",
    "nwg=32 ndimc=8 ndimb=8 vwn=4",
    "nwg=64 ndimc=4 ndimb=4 vwn=4",
    "nwg=64 ndimc=4 ndimb=4 vwn=8",
    "nwg=64 ndimc=8 ndimb=8 vwn=4",
    "nwg=64 ndimc=8 ndimb=8 vwn=8",
    "nwg=64 ndimc=16 ndimb=16 vwn=4",
    "kwg=16",
    "kwg=32",
    "kwi=2",
    "kwi=8",
    "sa=0 sb=0",
    "sa=1 sb=1",
};

#define MOVES(moves) (moves), (int)(sizeof(moves) / sizeof((moves)[0]))

static const space spaces[] = {
    {"projection_cpu", MOVES(cpu_projection)},     {"projection_dot", MOVES(cpu_projection)},
    {"projection_gpu", MOVES(gpu_projection)},     {"projection_stream", MOVES(stream_projection)},
    {"attention_cpu", MOVES(cpu_attention)},       {"attention_dot", MOVES(cpu_attention)},
    {"attention_gpu", MOVES(gpu_attention)},       {"attention_mma", MOVES(mma_attention)},
    {"projection_few", MOVES(few_projection)},     {"projection_tiled", MOVES(tiled_projection)},
    {"projection_wgmma", MOVES(wgmma_projection)}, {"clblast_xgemm", MOVES(clblast)},
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
static bool costs_the_fused_kernel(mla_tune_line *line, int32_t slices_before)
{
    enum { LANES = 4 };
    const int32_t *slices = mla_tune_line_word(line, "slices");
    return slices != NULL && *slices != slices_before && *slices % LANES != 0 &&
           strstr(line->key, " batches=1 ") == NULL;
}

bool mla_tune_move(const mla_tune_line *line, int number, mla_tune_line *out)
{
    *out = *line;
    const int32_t *slices = mla_tune_line_word(out, "slices");
    const int32_t slices_before = slices != NULL ? *slices : 0;
    mla_tune_line_set(out, space_of(line)->moves[number]);
    if (costs_the_fused_kernel(out, slices_before))
        return false;
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
