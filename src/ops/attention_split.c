#include "core/checked.h"
#include "ops/attention.h"
#include "tuning/nvidia_records.h"

/* Splitting pays when there are fewer row groups than the device can run side by side, and costs a
 * merge: on two cores it lost 30 % with 128 keys a part where it was not needed. */
enum {
    WIDE_CPU_GROUP_ROWS = 32, /* rows of a group, as src/tuning/attention_tile.c chooses them */
    GROUP_ROWS = 16,          /* on narrower vectors and on GPUs */
    CPU_GROUPS_PER_UNIT = 2,  /* groups × splits to aim at, per compute unit */
    GPU_GROUPS_PER_UNIT = 4,
    CPU_MIN_KEYS = 128,
    GPU_MIN_KEYS = 64,
    SPLIT_UNIT = 64 /* parts are whole blocks of any tile */
};

/* A step as far as it matters here, each at least 1. */
typedef struct split_problem {
    int64_t units, heads, sequences, rows, keys;
} split_problem;

static int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

static int64_t part_keys(int64_t keys, int64_t splits)
{
    return ceil_div(ceil_div(keys, splits), SPLIT_UNIT) * SPLIT_UNIT;
}

/* Classes cpu and gpu: a few groups for every compute unit. */
static int64_t unit_splits(const clmla_context *context, const split_problem *p)
{
    const bool cpu = context->kernel_class == CLMLA_KERNELS_CPU;
    const int64_t wanted = p->units * (cpu ? CPU_GROUPS_PER_UNIT : GPU_GROUPS_PER_UNIT);
    const bool wide = cpu && context->device.float_vector_width >= 16;
    const int64_t group_rows = wide ? WIDE_CPU_GROUP_ROWS : GROUP_ROWS;
    const int64_t groups = at_least(p->sequences, ceil_div(p->rows, group_rows));
    if (groups >= wanted)
        return 1;
    return at_most(ceil_div(wanted, groups), p->keys / (cpu ? CPU_MIN_KEYS : GPU_MIN_KEYS));
}

/* Class nvidia: groups that start together end together, so what counts is how often the device is
 * filled,
 *
 *     time ~ fills · (keys of a part + START_KEYS),      fills = ceil(groups · splits / slots)
 *
 * START_KEYS stands for a group's query and its partial states, float32 and read again by the merge:
 * 64 KiB of 16 rows beside 1152 bytes a key. A number of fills is used best by the most splits that
 * it holds; past MORE_FILLS nothing is spread any better. Of equal times the fewest splits. Not
 * measured on a GPU. */
static int64_t fill_splits(const mla__device *device, const split_problem *p, int64_t max_splits)
{
    enum { LARGE_ROWS = 32, START_KEYS = 64, MORE_FILLS = 4 };
    const mla__nvidia_record *record = mla__nvidia_record_find(device);
    const bool large = record->attention_rows >= LARGE_ROWS &&
                       (p->heads > GROUP_ROWS || p->rows >= LARGE_ROWS * p->sequences);
    const int64_t groups =
        at_least(p->sequences, ceil_div(p->rows, large ? LARGE_ROWS : GROUP_ROWS));
    const int64_t slots =
        p->units * (large ? record->attention_groups_of_32 : record->attention_groups_of_16);
    const int64_t fills = ceil_div(groups, slots);
    int64_t best = 1, best_time = fills * (p->keys + START_KEYS);
    for (int64_t fill = fills; fill < fills + MORE_FILLS; fill++) {
        const int64_t most = at_most(fill * slots / groups, p->keys / GPU_MIN_KEYS);
        const int64_t splits = at_most(most, max_splits);
        if (splits <= best)
            continue;
        const int64_t part = part_keys(p->keys, splits);
        const int64_t all = groups * ceil_div(p->keys, part);
        const int64_t time = ceil_div(all, slots) * (part + START_KEYS);
        if (time < best_time) {
            best = splits;
            best_time = time;
        }
    }
    return best;
}

void mla__attention_choose_splits(const clmla_context *context, int32_t num_heads,
                                  int32_t num_sequences, int32_t num_tokens,
                                  int32_t max_cache_seqlen, int32_t max_splits, int32_t *num_splits,
                                  int32_t *split_tokens)
{
    const split_problem p = {.units = at_least(context->device.compute_units, 1),
                             .heads = num_heads,
                             .sequences = at_least(at_most(num_sequences, num_tokens), 1),
                             .rows = at_least((int64_t)num_tokens * num_heads, 1),
                             .keys = at_least(max_cache_seqlen, 1)};
    const int64_t wanted = context->kernel_class == CLMLA_KERNELS_NVIDIA
                               ? fill_splits(&context->device, &p, max_splits)
                               : unit_splits(context, &p);
    const int64_t splits = at_most(wanted, max_splits);
    *num_splits = 1;
    *split_tokens = (int32_t)p.keys;
    if (splits <= 1)
        return;
    const int64_t tokens = part_keys(p.keys, splits);
    if (tokens >= p.keys)
        return;
    *num_splits = (int32_t)ceil_div(p.keys, tokens);
    *split_tokens = (int32_t)tokens;
}

clmla_status mla__attention_split_bytes(const clmla_context *context, int32_t num_tokens,
                                        int32_t num_heads, int32_t kv_lora_rank, int32_t num_splits,
                                        uint64_t *bytes)
{
    /* [split, token] of records [H, kv_lora_rank] out | [H] lse, float32 */
    uint64_t total;
    if (!mla__checked_mul((uint64_t)num_heads, (uint64_t)kv_lora_rank + 1, &total) ||
        !mla__checked_mul(total, (uint64_t)num_tokens, &total) ||
        !mla__checked_mul(total, (uint64_t)num_splits, &total) ||
        !mla__checked_mul(total, sizeof(float), &total))
        return mla__fail(context, CLMLA_INVALID_ARGUMENT,
                         "attention: %d splits of %d tokens need more than 2^64 bytes",
                         (int)num_splits, (int)num_tokens);
    *bytes = total;
    return CLMLA_SUCCESS;
}
