#include "core/checked.h"
#include "ops/attention.h"

/* Splitting pays when there are fewer row groups than the device can run side by side, and costs a
 * merge: on two cores it lost 30 % with 128 keys a part where it was not needed. */
enum {
    WIDE_CPU_GROUP_ROWS = 32, /* rows of a group, as src/tuning/attention_tile.c chooses them */
    GROUP_ROWS = 16,          /* on narrower vectors and on class gpu */
    CPU_GROUPS_PER_UNIT = 2,  /* groups × splits to aim at, per compute unit */
    GPU_GROUPS_PER_UNIT = 4,
    CPU_MIN_KEYS = 128,
    GPU_MIN_KEYS = 64,
    SPLIT_UNIT = 64 /* parts are whole blocks of any tile */
};

static int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

void mla__attention_choose_splits(const clmla_context *context, int32_t num_heads,
                                  int32_t num_sequences, int32_t num_tokens,
                                  int32_t max_cache_seqlen, int32_t max_splits, int32_t *num_splits,
                                  int32_t *split_tokens)
{
    const bool cpu = context->kernel_class == CLMLA_KERNELS_CPU;
    const int64_t units = at_least(context->device.compute_units, 1);
    const int64_t wanted = units * (cpu ? CPU_GROUPS_PER_UNIT : GPU_GROUPS_PER_UNIT);
    const bool wide = cpu && context->device.float_vector_width >= 16;
    const int64_t group_rows = wide ? WIDE_CPU_GROUP_ROWS : GROUP_ROWS;
    const int64_t rows = (int64_t)num_tokens * num_heads;
    const int64_t groups =
        at_least(at_least(at_most(num_sequences, num_tokens), 1), ceil_div(rows, group_rows));
    const int64_t keys = at_least(max_cache_seqlen, 1);
    int64_t splits = at_most(ceil_div(wanted, groups), keys / (cpu ? CPU_MIN_KEYS : GPU_MIN_KEYS));
    splits = at_most(splits, max_splits);
    *num_splits = 1;
    *split_tokens = (int32_t)keys;
    if (splits <= 1 || groups >= wanted)
        return;
    const int64_t tokens = ceil_div(ceil_div(keys, splits), SPLIT_UNIT) * SPLIT_UNIT;
    if (tokens >= keys)
        return;
    *num_splits = (int32_t)ceil_div(keys, tokens);
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
