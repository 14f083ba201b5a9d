/*
 * RoPE on interleaved pairs: the step's table of cos and sin, and the rotation in place.
 *
 * rope_table   position(t) = cache_seqlens[b] - n + i for new token i of n of sequence b
 *              angle[t, j] = position(t) · turns[j] modulo 2^64, in units of 2^-64 turns
 *              cos_sin[t, j] = (cos, sin)(angle[t, j])
 *   positions [T] int (may be null), cos_sin [T, half, 2] float, turns [half].
 *   Tokens without a position (past the last sequence, or of a sequence that the plan made empty)
 *   get -1 and (1, 0).
 *   One work-group = one token, work-item k takes pairs k, k + WORK_GROUP, ...
 *
 * rope         x rotated pair by pair, as in rotate.clh, which it needs in front of it
 *   x [num_tokens, num_heads, 2·half]; its row i is rotated by row token_begin + i of cos_sin.
 *   WORK_GROUP == 1: one work-item = one head of one token; else one work-item = one pair.
 *
 * No local memory, no barrier. half = rope_dim / 2 > 0, except that rope_table accepts 0 (positions
 * only). pair_stride: elements between neighbouring pairs of cos_sin, 2 when dense.
 *
 * Macros, all required: X_DTYPE (bf16, f16, f32; rope only), WORK_GROUP >= 1.
 */
#if WORK_GROUP < 1
#error "WORK_GROUP must be positive"
#endif

/* The nearest quarter turn is taken off in integers, so that the float argument lies within ±1/4
 * half turns: its rounding is at most 2^-27 half turns (2.4e-8 radians), and cospi, sinpi stay
 * within 4 ulp of a result below one (2.4e-7), whatever the position. */
CLMLA_INLINE float2 cos_sin_of_turns(const ulong angle)
{
    const ulong quarter = (angle + (1ul << 61)) >> 62;
    const float half_turns = (float)(long)(angle - (quarter << 62)) * 0x1p-63f;
    const float c = cospi(half_turns), s = sinpi(half_turns);
    switch ((int)(quarter & 3)) {
    case 0:
        return (float2)(c, s);
    case 1:
        return (float2)(-s, c);
    case 2:
        return (float2)(-c, -s);
    default:
        return (float2)(s, -c);
    }
}

kernel __attribute__((reqd_work_group_size(WORK_GROUP, 1, 1))) void
rope_table(SEQUENCES_PARAMS, global const ulong *turns, const int half_dim, global int *positions,
           const ulong positions_offset, global float *cos_sin, const ulong cos_sin_offset,
           const ulong token_stride, const ulong pair_stride, const int num_tokens)
{
    const size_t token = get_group_id(0);
    if (token >= (size_t)num_tokens)
        return;
    global const int *cu = cu_seqlens_q + cu_seqlens_q_offset;
    global const int *lengths = cache_seqlens + cache_seqlens_offset;
    global float *row = cos_sin + cos_sin_offset + token * token_stride;

    const int b = find_sequence(cu, num_sequences, (int)token);
    const int position = b < 0 ? -1 : max(find_position(cu, lengths, b, (int)token), -1);

    if (positions != 0 && get_local_id(0) == 0)
        positions[positions_offset + token] = position;

    for (int j = (int)get_local_id(0); j < half_dim; j += WORK_GROUP) {
        const float2 value =
            position < 0 ? (float2)(1.0f, 0.0f) : cos_sin_of_turns((ulong)position * turns[j]);
        vstore2(value, 0, row + (size_t)j * pair_stride);
    }
}

#ifdef X_DTYPE
kernel __attribute__((reqd_work_group_size(WORK_GROUP, 1, 1))) void
rope(global STORAGE(X_DTYPE) * x, const ulong x_offset, const ulong x_token_stride,
     const ulong x_head_stride, global const float *cos_sin, const ulong cos_sin_offset,
     const ulong token_stride, const ulong pair_stride, const int num_heads, const int half_dim,
     const int token_begin, const int num_tokens)
{
#if WORK_GROUP == 1
    const size_t token_head = get_global_id(0);
#else
    const size_t token_head = get_global_id(0) / (size_t)half_dim;
    const int pair = (int)(get_global_id(0) % (size_t)half_dim);
#endif
    const size_t token = token_head / (size_t)num_heads;
    if (token >= (size_t)num_tokens)
        return;
    global STORAGE(X_DTYPE) *head =
        x + x_offset + token * x_token_stride + token_head % (size_t)num_heads * x_head_stride;
    global const float *row =
        cos_sin + cos_sin_offset + ((size_t)token_begin + token) * token_stride;

#if WORK_GROUP == 1
    rotate_heads(head, x_head_stride, 1, row, pair_stride, half_dim);
#else
    rotate_in_place(head, row, pair_stride, pair);
#endif
}
#endif
