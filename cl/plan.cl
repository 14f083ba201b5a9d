/*
 * A step's tables: copied from the caller's device tables and checked, and advanced in place.
 *
 * plan is one buffer of ints that holds all of the plan's tables; *_at are element offsets in it:
 *     cu    [B + 1]                 cu_seqlens_q
 *     len   [B]                     cache_seqlens
 *     table [B, table_stride]       block_table; table_stride 0: contiguous cache, page b is
 *                                   sequence b's, there is no table
 *     error [1]                     0, or the first status found; sticky until the host clears it
 * B = num_sequences; entries past it are not touched.
 *
 * What is bad becomes empty, so that no other kernel has to check:
 *   - a bad sequence keeps its rows of the step but gets len 0. Its tokens then stand at negative
 *     positions, which every kernel takes as "attend nothing, append nothing"; the rows of the
 *     other sequences stay where they are.
 *   - a bad cu makes the whole step empty: cu and len all 0.
 * cu is bad unless cu[0] = 0, not decreasing (INVALID_SEQUENCE) and cu[B] <= num_tokens_bound
 * (CAPACITY_EXCEEDED). Sequence b with n = cu[b + 1] - cu[b] new tokens is bad with
 *   INVALID_SEQUENCE     len < n (so negative lengths too)
 *   CAPACITY_EXCEEDED    n > max_seqlen_q, len > max_cache_seqlen or len > capacity
 *   INVALID_BLOCK_TABLE  a page that holds a visible key is outside 0 .. num_pages - 1
 *
 * Macros: WORK_GROUP >= 1, required: work-items per sequence of plan_validate.
 */
#if WORK_GROUP < 1
#error "WORK_GROUP must be positive"
#endif

/* Values of clmla_status in clmla_ops.h. */
enum plan_error {
    PLAN_OK = 0,
    PLAN_CAPACITY_EXCEEDED = -3009,
    PLAN_INVALID_BLOCK_TABLE = -3010,
    PLAN_INVALID_SEQUENCE = -3011
};

/* What is wrong with entries first, first + step, ... of cu, seen alone. */
CLMLA_INLINE int check_cu(global const int *cu, const int num_sequences, const int bound,
                          const int first, const int step)
{
    for (int b = first; b < num_sequences; b += step) {
        if ((b == 0 && cu[0] != 0) || cu[b + 1] < cu[b])
            return PLAN_INVALID_SEQUENCE;
        if (cu[b + 1] > bound)
            return PLAN_CAPACITY_EXCEEDED;
    }
    return PLAN_OK;
}

/* Pages that hold keys 0 .. num_keys - 1. */
CLMLA_INLINE int count_pages(const int num_keys, const int page_block_size)
{
    return num_keys / page_block_size + (num_keys % page_block_size != 0);
}

/* Copies the caller's tables into the plan's and checks them.
 *
 * One work-group = one sequence: global size num_sequences · WORK_GROUP, local size WORK_GROUP.
 * Every work-group checks the whole of cu, so that all agree without a second launch; then its
 * work-items copy the row of the block table side by side. num_sequences == 0: not launched.
 *
 * src_*_offset in elements. src_table_stride: entries between rows of src_table, all readable;
 * entries of the plan's row past it become -1. capacity: keys that the pages of a sequence can
 * hold, at most min(src_table_stride, table_stride) · page_block_size, or page_block_size when
 * contiguous. Local memory: one int; barriers: four. */
kernel __attribute__((reqd_work_group_size(WORK_GROUP, 1, 1))) void
plan_validate(global const int *src_cu, const ulong src_cu_offset, global const int *src_len,
              const ulong src_len_offset, global const int *src_table, const ulong src_table_offset,
              const int src_table_stride, global int *plan, const ulong cu_at, const ulong len_at,
              const ulong table_at, const int table_stride, const ulong error_at,
              const int num_sequences, const int num_tokens_bound, const int max_seqlen_q,
              const int max_cache_seqlen, const int page_block_size, const int num_pages,
              const int capacity)
{
    local int found; /* lowest status of any work-item: statuses are negative */
    const int b = (int)get_group_id(0);
    const int lane = (int)get_local_id(0);
    global const int *from_cu = src_cu + src_cu_offset;
    global int *cu = plan + cu_at, *len = plan + len_at, *error = plan + error_at;

    /* The whole of cu. */
    if (lane == 0)
        found = PLAN_OK;
    barrier(CLK_LOCAL_MEM_FENCE);
    const int cu_error = check_cu(from_cu, num_sequences, num_tokens_bound, lane, WORK_GROUP);
    if (cu_error != PLAN_OK)
        atomic_min(&found, cu_error);
    barrier(CLK_LOCAL_MEM_FENCE);
    const int step_error = found;
    barrier(CLK_LOCAL_MEM_FENCE);

    /* This sequence's counts; the same in every work-item. */
    const int n = step_error == PLAN_OK ? from_cu[b + 1] - from_cu[b] : 0;
    const int keys = src_len[src_len_offset + (size_t)b];
    int status = step_error;
    if (status == PLAN_OK && keys < n)
        status = PLAN_INVALID_SEQUENCE;
    if (status == PLAN_OK && (n > max_seqlen_q || keys > max_cache_seqlen || keys > capacity))
        status = PLAN_CAPACITY_EXCEEDED;

    /* Its row of the block table. */
    const int visible = status == PLAN_OK ? count_pages(keys, page_block_size) : 0;
    if (src_table_stride == 0 || table_stride == 0) {
        if (visible > 0 && b >= num_pages)
            status = PLAN_INVALID_BLOCK_TABLE;
    } else {
        global const int *from =
            src_table + src_table_offset + (size_t)b * (size_t)src_table_stride;
        global int *to = plan + table_at + (size_t)b * (size_t)table_stride;
        for (int i = lane; i < table_stride; i += WORK_GROUP) {
            const int page = i < src_table_stride ? from[i] : -1;
            to[i] = page;
            if (i < visible && (page < 0 || page >= num_pages))
                atomic_min(&found, PLAN_INVALID_BLOCK_TABLE);
        }
    }
    /* Global too: warming up takes the plan's own tables as the caller's. */
    barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE);

    if (lane == 0) {
        if (status == PLAN_OK)
            status = found;
        if (b == 0)
            cu[0] = 0;
        cu[b + 1] = step_error == PLAN_OK ? from_cu[b + 1] : 0;
        len[b] = status == PLAN_OK ? keys : 0;
        if (status != PLAN_OK)
            atomic_cmpxchg(error, PLAN_OK, status);
    }
}

/* len[first + i] += d[i] for i < count <= 64, d = d0 | d1 | d2 | d3 by value, so that no host
 * memory must outlive the call; with use_new_tokens != 0, += the sequence's own number of new
 * tokens.
 *
 * One work-item = one sequence: global size count, any local size. A result outside [n, capacity]
 * is CAPACITY_EXCEEDED, a newly visible page outside the cache INVALID_BLOCK_TABLE: the sequence
 * becomes empty. One that an earlier error made empty (len 0 < n) stays so.
 * capacity: the largest length allowed, within what the plan's pages hold. */
kernel void plan_advance(global int *plan, const ulong cu_at, const ulong len_at,
                         const ulong table_at, const int table_stride, const ulong error_at,
                         const int first, const int count, const int use_new_tokens, const int16 d0,
                         const int16 d1, const int16 d2, const int16 d3, const int capacity,
                         const int page_block_size, const int num_pages)
{
    const int i = (int)get_global_id(0);
    if (i >= count)
        return;
    global const int *cu = plan + cu_at, *table = plan + table_at;
    global int *len = plan + len_at, *error = plan + error_at;
    const int b = first + i;
    const int n = cu[b + 1] - cu[b];
    const int old = len[b];
    if (old == 0 && n > 0)
        return;

    int d[64];
    vstore16(d0, 0, d);
    vstore16(d1, 1, d);
    vstore16(d2, 2, d);
    vstore16(d3, 3, d);
    const long keys = (long)old + (use_new_tokens != 0 ? n : d[i]);

    int status = PLAN_OK;
    if (keys < n || keys > capacity) {
        status = PLAN_CAPACITY_EXCEEDED;
    } else {
        const int pages = count_pages((int)keys, page_block_size);
        for (int j = count_pages(old, page_block_size); j < pages; j++) {
            const int page = find_page(table, table_stride, 1, b, j);
            if (page < 0 || page >= num_pages)
                status = PLAN_INVALID_BLOCK_TABLE;
        }
    }
    len[b] = status == PLAN_OK ? (int)keys : 0;
    if (status != PLAN_OK)
        atomic_cmpxchg(error, PLAN_OK, status);
}
