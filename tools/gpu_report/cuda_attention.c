/*
 * attention__mma (cl/nvidia/attention.cl): checked on a ragged, paged, causal batch, every element;
 * timed while decoding one token a sequence, where a few rows are checked first.
 */
#include "cuda_attention.h"

#include <limits.h>
#include <math.h>
#include <string.h>

#include "cuda_harness.h"
#include "cuda_merge.h"

enum { CANARY_BYTES = 256 };

#define LOG2_E 1.4426950408889634

/* A problem in device memory. */
typedef struct attention_buffers {
    cuda_buffer cu, keys, table, latent, pe, q_lat, q_pe, cos_sin, out, lse;
} attention_buffers;

/* How a kernel is launched on a problem. */
typedef struct attention_run {
    const cuda_kernel *kernel;
    const attention_problem *problem;
    attention_buffers buffers;
    int splits, split_tokens;
    bool partial;     /* float32 states */
    size_t out_bytes; /* of an element */
} attention_run;

static void free_buffers(harness *h, attention_buffers *b)
{
    cuda_buffer *const buffers[] = {&b->cu,    &b->keys, &b->table,   &b->latent, &b->pe,
                                    &b->q_lat, &b->q_pe, &b->cos_sin, &b->out,    &b->lse};
    for (size_t i = 0; i < sizeof(buffers) / sizeof(buffers[0]); i++)
        cuda_buffer_free(&h->driver, buffers[i]);
}

static bool upload(harness *h, const attention_problem *p, attention_buffers *b)
{
    cuda *const c = &h->driver;
    const size_t sequences = (size_t)p->sequences, tokens = (size_t)p->tokens;
    const size_t rows = tokens * (size_t)p->heads, element = sizeof(uint16_t);
    return cuda_buffer_of(c, p->cu, (sequences + 1) * sizeof(int), &b->cu) &&
           cuda_buffer_of(c, p->keys, sequences * sizeof(int), &b->keys) &&
           cuda_buffer_of(c, p->table, sequences * (size_t)p->table_stride * sizeof(int),
                          &b->table) &&
           cuda_buffer_repeat(c, p->latent, p->pool_rows * LATENT * element,
                              p->cache_rows * LATENT * element, &b->latent) &&
           cuda_buffer_repeat(c, p->pe, p->pool_rows * ROPE * element,
                              p->cache_rows * ROPE * element, &b->pe) &&
           cuda_buffer_of(c, p->q_lat, rows * LATENT * element, &b->q_lat) &&
           cuda_buffer_of(c, p->q_pe, rows * ROPE * element, &b->q_pe) &&
           cuda_buffer_of(c, p->cos_sin, tokens * ROPE * sizeof(float), &b->cos_sin);
}

static size_t result_rows(const attention_run *run)
{
    return (size_t)run->splits * (size_t)run->problem->tokens * (size_t)run->problem->heads;
}

/* Poisoned results, with a canary behind each. */
static bool make_results(harness *h, attention_run *run)
{
    const size_t rows = result_rows(run);
    cuda_buffer_free(&h->driver, &run->buffers.out);
    cuda_buffer_free(&h->driver, &run->buffers.lse);
    return cuda_buffer_make(&h->driver, rows * LATENT * run->out_bytes + CANARY_BYTES,
                            &run->buffers.out) &&
           cuda_buffer_make(&h->driver, rows * sizeof(float) + CANARY_BYTES, &run->buffers.lse);
}

static void choose_kernel(attention_run *run, const cuda_kernel *kernel)
{
    run->kernel = kernel;
    run->partial = manifest_value(kernel->program, "PARTIAL_STATES") == 1;
    run->out_bytes = manifest_has(kernel->program, "OUT_DTYPE", "f32") ? 4 : 2;
}

/* As src/ops/attention_kernel.c and attention.c bind and launch it. */
static cuda_launch launch_of(const attention_run *run)
{
    const attention_problem *p = run->problem;
    const attention_buffers *b = &run->buffers;
    const int tile = manifest_value(run->kernel->program, "TILE_ROWS");
    const int groups = p->tokens * p->heads / tile + p->sequences + 1;
    cuda_launch l = cuda_launch_of(run->kernel, (unsigned)groups, (unsigned)run->splits);
    const struct {
        const char *name;
        const cuda_buffer *buffer;
    } buffers[] = {{"cu_seqlens_q", &b->cu},   {"cache_seqlens", &b->keys},
                   {"block_table", &b->table}, {"q_lat", &b->q_lat},
                   {"q_pe", &b->q_pe},         {"kv_cache", &b->latent},
                   {"pe_cache", &b->pe},       {"out", &b->out},
                   {"lse", &b->lse},           {"cos_sin", &b->cos_sin}};
    const struct {
        const char *name;
        int64_t value;
    } integers[] = {{"cu_seqlens_q_offset", 0},
                    {"cache_seqlens_offset", 0},
                    {"block_table_offset", 0},
                    {"block_table_stride", p->table_stride},
                    {"page_block_size", PAGE_ROWS},
                    {"num_pages", p->pages},
                    {"num_sequences", p->sequences},
                    {"q_lat_offset", 0},
                    {"q_lat_token_stride", (int64_t)p->heads * LATENT},
                    {"q_lat_head_stride", LATENT},
                    {"q_pe_offset", 0},
                    {"q_pe_token_stride", (int64_t)p->heads * ROPE},
                    {"q_pe_head_stride", ROPE},
                    {"kv_offset", 0},
                    {"kv_page_stride", PAGE_ROWS * LATENT},
                    {"kv_row_stride", LATENT},
                    {"pe_offset", 0},
                    {"pe_page_stride", PAGE_ROWS * ROPE},
                    {"pe_row_stride", ROPE},
                    {"out_offset", 0},
                    {"out_token_stride", (int64_t)p->heads * LATENT},
                    {"out_head_stride", LATENT},
                    {"lse_offset", 0},
                    {"lse_token_stride", p->heads},
                    {"num_heads", p->heads},
                    {"causal", 1},
                    {"token_begin", 0},
                    {"num_tokens", p->tokens},
                    {"split_tokens", run->split_tokens},
                    {"cos_sin_offset", 0},
                    {"cos_sin_token_stride", ROPE},
                    {"cos_sin_pair_stride", 2}};
    for (size_t i = 0; i < sizeof(buffers) / sizeof(buffers[0]); i++)
        cuda_set_buffer(&l, buffers[i].name, buffers[i].buffer);
    for (size_t i = 0; i < sizeof(integers) / sizeof(integers[0]); i++)
        cuda_set_integer(&l, integers[i].name, integers[i].value);
    cuda_set_float(&l, "scale_log2", (float)(p->scale * LOG2_E));
    return l;
}

/* ---- comparison ----------------------------------------------------------------------------- */

static bool is_poison(const void *data, size_t bytes)
{
    const unsigned char *const byte = data;
    for (size_t i = 0; i < bytes; i++)
        if (byte[i] != 0xff)
            return false;
    return true;
}

/* A row of out and its lse as they are. */
static void compare_row(const attention_run *run, size_t at, const attention_row *expected,
                        const unsigned char *out, float lse, comparison *c)
{
    const double rounding = run->out_bytes == 4 ? 0x1p-24 : 0x1p-8;
    compare(c, "lse", at, 0, (double)lse, expected->lse, expected->lse_bound);
    for (size_t i = 0; i < LATENT; i++) {
        const unsigned char *element = out + i * run->out_bytes;
        if (run->partial && expected->num_keys == 0) {
            compare_untouched(c, "out", at, i, is_poison(element, run->out_bytes));
            continue;
        }
        uint16_t half;
        float single;
        memcpy(&half, element, sizeof(half));
        memcpy(&single, element, run->out_bytes == 4 ? sizeof(single) : sizeof(half));
        const double value = run->out_bytes == 4 ? (double)single : data_value(half);
        const double bound = expected->bound[i];
        compare(c, "out", at, i, value, expected->out[i],
                bound + rounding * (fabs(expected->out[i]) + bound));
    }
}

/* Compares a token's head in every split. */
static bool check_row(harness *h, const attention_run *run, int token, int head, comparison *c)
{
    const attention_problem *p = run->problem;
    for (int split = 0; split < run->splits; split++) {
        unsigned char out[LATENT * 4];
        float lse;
        attention_row expected;
        const int64_t first = (int64_t)split * run->split_tokens;
        const int64_t end = first + run->split_tokens;
        const size_t at =
            ((size_t)split * (size_t)p->tokens + (size_t)token) * (size_t)p->heads + (size_t)head;
        if (!attention_reference(p, token, head, (int)first, (int)(end < INT_MAX ? end : INT_MAX),
                                 &expected))
            return cuda_fail(&h->driver, "out of memory");
        if (!cuda_read(&h->driver, &run->buffers.out, at * LATENT * run->out_bytes, out,
                       LATENT * run->out_bytes) ||
            !cuda_read(&h->driver, &run->buffers.lse, at * sizeof(lse), &lse, sizeof(lse)))
            return false;
        compare_row(run, at, &expected, out, lse, c);
    }
    return true;
}

static bool check_canaries(harness *h, const attention_run *run, comparison *c)
{
    const cuda_buffer *const buffers[] = {&run->buffers.out, &run->buffers.lse};
    for (size_t i = 0; i < 2; i++) {
        unsigned char canary[CANARY_BYTES];
        if (!cuda_read(&h->driver, buffers[i], buffers[i]->bytes - CANARY_BYTES, canary,
                       CANARY_BYTES))
            return false;
        compare_untouched(c, i == 0 ? "behind out" : "behind lse", 0, 0,
                          is_poison(canary, CANARY_BYTES));
    }
    return true;
}

/* ---- check ---------------------------------------------------------------------------------- */

bool attention_verify(harness *h, const cuda_kernel *kernel, json *record)
{
    static const int new_tokens[] = {1, 2, 1, 3}, keys[] = {77, 150, 0, 16};
    const attention_shape shape = {.heads =
                                       manifest_value(kernel->program, "TILE_ROWS") == 16 ? 16 : 40,
                                   .sequences = 4,
                                   .new_tokens = new_tokens,
                                   .keys = keys,
                                   .extra_tokens = 1};
    attention_problem problem;
    comparison c = {.elements = 0};
    if (manifest_value(kernel->program, "KV_LORA_RANK") != LATENT ||
        manifest_value(kernel->program, "ROPE_DIM") != ROPE)
        return cuda_fail(&h->driver, "this harness knows KV_LORA_RANK %d, ROPE_DIM %d", LATENT,
                         ROPE);
    if (!attention_problem_make(&shape, &problem))
        return cuda_fail(&h->driver, "out of memory");
    attention_run run = {.problem = &problem, .splits = 1, .split_tokens = INT_MAX};
    choose_kernel(&run, kernel);
    if (run.partial) {
        run.splits = 4; /* the last one beyond all keys */
        run.split_tokens = 64;
    }
    bool ok = upload(h, &problem, &run.buffers) && make_results(h, &run);
    if (ok) {
        cuda_launch launch = launch_of(&run);
        ok = cuda_run(&h->driver, &launch);
    }
    for (int token = 0; token < problem.tokens && ok; token++)
        for (int head = 0; head < problem.heads && ok; head++)
            ok = check_row(h, &run, token, head, &c);
    ok = ok && check_canaries(h, &run, &c) && harness_judge(h, &c, record);
    free_buffers(h, &run.buffers);
    attention_problem_free(&problem);
    return ok;
}

/* ---- measurement ---------------------------------------------------------------------------- */

/* As src/ops/attention_split.c does it for GPUs. */
static void choose_splits(const harness *h, const attention_shape *shape, attention_run *run)
{
    enum { GROUP_ROWS = 16, GROUPS_PER_UNIT = 4, MIN_KEYS = 64, SPLIT_UNIT = 64 };
    const int wanted = h->driver.multiprocessors * GROUPS_PER_UNIT;
    const int by_rows = (shape->sequences * shape->heads + GROUP_ROWS - 1) / GROUP_ROWS;
    const int groups = by_rows > shape->sequences ? by_rows : shape->sequences;
    int splits = (wanted + groups - 1) / groups;
    if (splits > shape->context / MIN_KEYS)
        splits = shape->context / MIN_KEYS;
    run->splits = 1;
    run->split_tokens = INT_MAX;
    if (splits <= 1 || groups >= wanted)
        return;
    const int tokens = ((shape->context + splits - 1) / splits + SPLIT_UNIT - 1) / SPLIT_UNIT;
    if (tokens * SPLIT_UNIT >= shape->context)
        return;
    run->split_tokens = tokens * SPLIT_UNIT;
    run->splits = (shape->context + run->split_tokens - 1) / run->split_tokens;
}

/* First, middle and last token, first and last head. */
static bool check_sample(harness *h, const attention_run *run, comparison *c)
{
    const attention_problem *p = run->problem;
    const int tokens[] = {0, p->tokens / 2, p->tokens - 1}, heads[] = {0, p->heads - 1};
    for (int t = 0; t < 3; t++)
        if (!check_row(h, run, tokens[t], heads[t % 2], c))
            return false;
    return true;
}

/* The merge of run's states. merged: a run whose results are those of the merge. */
static bool make_merge(harness *h, const attention_run *run, attention_run *merged,
                       cuda_launch *launch)
{
    const cuda_kernel *kernel = harness_verified(h, "merge");
    *merged = (attention_run){
        .problem = run->problem, .splits = 1, .split_tokens = INT_MAX, .out_bytes = 2};
    if (kernel == NULL)
        return cuda_fail(&h->driver, "the kernel that merges states is not verified");
    if (!make_results(h, merged))
        return false;
    const merge_operands operands = {.states = run->buffers.out,
                                     .state_lse = run->buffers.lse,
                                     .out = merged->buffers.out,
                                     .lse = merged->buffers.lse,
                                     .splits = run->splits,
                                     .tokens = run->problem->tokens,
                                     .heads = run->problem->heads,
                                     .dim = LATENT};
    *launch = merge_launch(kernel, &operands);
    return true;
}

/* Checks and times the kernel, where it writes states, with their merge: *seconds of both. */
static bool time_run(harness *h, attention_run *run, json *record, double *seconds)
{
    cuda *const driver = &h->driver;
    comparison c = {.elements = 0};
    cuda_timing timing, states;
    cuda_launch launches[2];
    attention_run merged = {.problem = NULL};
    const int num_launches = run->partial ? 2 : 1;
    bool ok = make_results(h, run) && (!run->partial || make_merge(h, run, &merged, &launches[1]));
    if (ok) {
        launches[0] = launch_of(run);
        ok = cuda_run(driver, &launches[0]) && check_sample(h, run, &c);
    }
    if (run->partial)
        ok = ok && cuda_run(driver, &launches[1]) && check_sample(h, &merged, &c);
    ok = ok && harness_judge(h, &c, record);
    if (ok && run->partial) {
        ok = cuda_time(driver, launches, 1, h->round_s, &states);
        json_number(record, "without_merge_us", ok ? 1e6 * states.median_s : HUGE_VAL);
    }
    ok = ok && cuda_time(driver, launches, num_launches, h->round_s, &timing);
    free_buffers(h, &merged.buffers);
    if (!ok)
        return false;
    harness_timing(&timing, record);
    *seconds = timing.median_s;
    return true;
}

static bool measure_run(harness *h, attention_run *run, const attention_shape *shape, json *record)
{
    double seconds;
    if (!time_run(h, run, record, &seconds))
        return false;
    const double tokens = shape->sequences, heads = shape->heads, keys = tokens * shape->context;
    const double bytes = 2.0 * ((LATENT + ROPE) * keys + tokens * heads * (2 * LATENT + ROPE));
    const double flop = 2.0 * (2 * LATENT + ROPE) * heads * keys;
    json_number(record, "cache_bytes", 2.0 * (LATENT + ROPE) * keys); /* perhaps within L2 */
    json_number(record, "gb_per_s", 1e-9 * bytes / seconds);
    json_number(record, "tflop_per_s", 1e-12 * flop / seconds);
    return true;
}

/* One record for a verified kernel on a problem in device memory. chosen: the library would take
 * the kernel, with its splits. */
static void measure_kernel(harness *h, const cuda_kernel *kernel, const attention_shape *shape,
                           const attention_run *of_library, attention_run *run)
{
    json record;
    choose_kernel(run, kernel);
    run->splits = run->partial ? of_library->splits : 1;
    run->split_tokens = run->partial ? of_library->split_tokens : INT_MAX;
    harness_record(h, "attention", kernel, &record);
    json_integer(&record, "heads", shape->heads);
    json_integer(&record, "batch", shape->sequences);
    json_integer(&record, "context", shape->context);
    json_integer(&record, "splits", run->splits);
    json_bool(&record, "chosen", run->partial == (of_library->splits > 1));
    harness_print(h, &record, measure_run(h, run, shape, &record));
}

/* All verified kernels with the tile that the library takes for so many heads. */
static bool measure_shape(harness *h, const attention_shape *shape)
{
    attention_problem problem;
    attention_run of_library = {.splits = 1};
    if (!attention_problem_make(shape, &problem))
        return cuda_fail(&h->driver, "out of memory");
    attention_run run = {.problem = &problem};
    choose_splits(h, shape, &of_library);
    const bool ok = upload(h, &problem, &run.buffers);
    for (int i = 0; i < h->num_kernels && ok; i++) {
        const cuda_kernel *kernel = &h->kernels[i];
        const int tile = shape->heads >= 32 ? 32 : 16;
        if (!kernel->verified || strcmp(kernel->about->name, "attention__mma") != 0 ||
            manifest_value(kernel->program, "TILE_ROWS") != tile)
            continue;
        if (manifest_value(kernel->program, "PARTIAL_STATES") == 0 || of_library.splits > 1)
            measure_kernel(h, kernel, shape, &of_library, &run);
    }
    free_buffers(h, &run.buffers);
    attention_problem_free(&problem);
    return ok;
}

void attention_measure(harness *h)
{
    static const attention_shape models[] = {{.heads = 16, .sequences = 128, .context = 4096},
                                             {.heads = 128, .sequences = 128, .context = 4096},
                                             {.heads = 16, .sequences = 32, .context = 1024},
                                             {.heads = 128, .sequences = 32, .context = 1024},
                                             {.heads = 16, .sequences = 1, .context = 4096},
                                             {.heads = 128, .sequences = 1, .context = 4096},
                                             {.heads = 16, .sequences = 32, .context = 16384},
                                             {.heads = 128, .sequences = 32, .context = 16384},
                                             {.heads = 16, .sequences = 128, .context = 16384},
                                             {.heads = 128, .sequences = 128, .context = 1024},
                                             {.heads = 16, .sequences = 1, .context = 65536},
                                             {.heads = 128, .sequences = 1, .context = 65536}};
    static const attention_shape small[] = {{.heads = 16, .sequences = 2, .context = 128},
                                            {.heads = 32, .sequences = 2, .context = 64}};
    const attention_shape *const shapes = h->small ? small : models;
    const size_t count =
        h->small ? sizeof(small) / sizeof(small[0]) : sizeof(models) / sizeof(models[0]);
    if (harness_verified(h, "attention__mma") == NULL)
        return;
    for (size_t i = 0; i < count; i++) {
        const double rows = (double)shapes[i].sequences * shapes[i].context;
        const bool fits = cuda_fits(&h->driver, 2.5 * (LATENT + ROPE) * rows);
        if (fits && harness_has_time(h) && measure_shape(h, &shapes[i]))
            continue;
        json record;
        harness_record(h, "attention", NULL, &record);
        json_integer(&record, "heads", shapes[i].heads);
        json_integer(&record, "batch", shapes[i].sequences);
        json_integer(&record, "context", shapes[i].context);
        if (fits && harness_has_time(h)) {
            harness_print(h, &record, false);
            continue;
        }
        json_string(&record, "skipped", fits ? "the time is over" : "more memory than is free");
        harness_print(h, &record, true);
    }
}
