/*
 * All that a step does between its first projections and q_b_proj, in one launch, where attention
 * rotates q_pe itself:
 *
 *     kv_cache[b, p] = RMSNorm(c_kv), pe_cache[b, p] = RoPE(k_pe, p)     (append.clh)
 *     q_a[t]         = RMSNorm(q_a[t]), in place                         (rmsnorm.clh)
 *
 * for the tokens of the block. q_a [num_tokens, q_dim]; its row i, like kv_a's, is token
 * token_begin + i. The two halves touch no memory in common.
 *
 * A token has two work-groups: part 0 appends, part 1 normalises. Each walks through the other half
 * with empty loops rather than around it: both have barriers.
 *
 * Needs append.clh and rmsnorm.clh in front of it, and their macros; X_DTYPE and Y_DTYPE are q_a's,
 * W_DTYPE is both norms'.
 */
kernel __attribute__((reqd_work_group_size(WORK_GROUP, 1, 1))) void
norm_append(APPEND_PARAMS, global STORAGE(X_DTYPE) * q_a, const ulong q_a_offset,
            const ulong q_a_stride, global const STORAGE(W_DTYPE) * q_weight,
            const ulong q_weight_offset, const int q_dim, const float q_eps)
{
    DECLARE_PARTIAL;
    const size_t block_row = get_group_id(0) / 2;
    const bool appends = get_group_id(0) % 2 == 0;

    append_token(APPEND_ARGS, block_row, appends, partial);
#if WORK_GROUP > 1
    barrier(CLK_LOCAL_MEM_FENCE); /* partial is used again */
#endif

    const bool skip = appends || block_row >= (size_t)num_tokens;
    global STORAGE(X_DTYPE) *row = q_a + q_a_offset + (skip ? 0 : block_row * q_a_stride);
    normalise_row(row, q_weight + q_weight_offset, row, skip ? 0 : q_dim, q_dim, q_eps, partial);
}
