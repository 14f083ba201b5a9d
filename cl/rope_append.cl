/*
 * All that a step does between its projections and attention, in one launch:
 *
 *     kv_cache[b, p] = RMSNorm(c_kv), pe_cache[b, p] = RoPE(k_pe, p)     (append.clh)
 *     q_pe[t, h]     = RoPE(q_pe[t, h], p), in place                     (rotate.clh)
 *
 * for the tokens of the block. q_pe [num_tokens, num_heads, 2·half]; its row i, like kv_a's, is
 * token token_begin + i, and both are rotated by row token_begin + i of cos_sin. The two halves
 * touch no memory in common but what they only read.
 *
 * A token has groups_per_token work-groups: part 0 appends, part k > 0 rotates heads
 * (k - 1) · HEADS_PER_GROUP and on. Work-groups of the other kind walk through either half with
 * empty loops rather than around it: append_token has barriers.
 *
 * Needs append.clh and rotate.clh in front of it, and their macros; HEADS_PER_GROUP >= 1.
 */
#if HEADS_PER_GROUP < 1
#error "HEADS_PER_GROUP must be positive"
#endif

kernel __attribute__((reqd_work_group_size(WORK_GROUP, 1, 1))) void
rope_append(APPEND_PARAMS, global STORAGE(X_DTYPE) * q_pe, const ulong q_pe_offset,
            const ulong q_pe_token_stride, const ulong q_pe_head_stride, const int num_heads,
            const int groups_per_token)
{
    DECLARE_PARTIAL;
    const size_t block_row = get_group_id(0) / (size_t)groups_per_token;
    const int part = (int)(get_group_id(0) % (size_t)groups_per_token);

    append_token(APPEND_ARGS, block_row, part == 0, partial);

    const int first = (part - 1) * HEADS_PER_GROUP; /* negative: this work-group appended */
    const bool skip = first < 0 || block_row >= (size_t)num_tokens;
    const size_t from = skip ? 0 : block_row * q_pe_token_stride + (size_t)first * q_pe_head_stride;
    const size_t token = skip ? 0 : (size_t)token_begin + block_row;
    rotate_heads(q_pe + q_pe_offset + from, q_pe_head_stride,
                 skip ? 0 : min(num_heads - first, HEADS_PER_GROUP),
                 cos_sin + cos_sin_offset + token * token_stride, pair_stride, half_dim);
}
