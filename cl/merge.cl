/*
 * Combines partial attention states by their log-sum-exp:
 *
 *     lse     = ln Σ_s exp(partial_lse[s])
 *     out[i]  = Σ_s exp(partial_lse[s] - lse) · partial_out[s, i]
 *
 * computed as w[s] = exp(partial_lse[s] - max), out = Σ w · partial_out / Σ w, so that one state
 * alone comes out bit for bit. A state of lse -INFINITY is left out; its partial_out is not read.
 *
 * partial_out [S, T, H, dim] float, partial_lse [S, T, H] float, out [T, H, dim], lse [T, H] float
 * or null; strides as arguments, the last dimension dense.
 *
 * One work-item = VALUES = 16 neighbouring elements of one (token, head); the first of a row also
 * writes its lse. No local memory, no barrier; any work-group size.
 *
 * Macro, required: OUT_DTYPE (bf16, f16, f32).
 */
#define VALUES 16

CLMLA_INLINE float16 load_chunk(global const float *p, const int count)
{
    if (count >= VALUES)
        return vload16(0, p);
    float v[VALUES];
    for (int i = 0; i < VALUES; i++)
        v[i] = i < count ? p[i] : 0.0f;
    return vload16(0, v);
}

CLMLA_INLINE void store_chunk(global STORAGE(OUT_DTYPE) * p, const float16 value, const int count)
{
    float v[VALUES];
    if (count >= VALUES) {
        STORE16(OUT_DTYPE, value, p, 0);
        return;
    }
    vstore16(value, 0, v);
    for (int i = 0; i < count; i++)
        STORE(OUT_DTYPE, v[i], p, i);
}

kernel void merge(global const float *partial_out, const ulong partial_offset,
                  const ulong partial_state_stride, const ulong partial_token_stride,
                  const ulong partial_head_stride, global const float *partial_lse,
                  const ulong partial_lse_offset, const ulong partial_lse_state_stride,
                  const ulong partial_lse_token_stride, global STORAGE(OUT_DTYPE) * out,
                  const ulong out_offset, const ulong out_token_stride, const ulong out_head_stride,
                  global float *lse, const ulong lse_offset, const ulong lse_token_stride,
                  const int num_states, const int num_tokens, const int num_heads, const int dim)
{
    const size_t chunks = (size_t)((dim + VALUES - 1) / VALUES);
    const size_t row = get_global_id(0) / chunks;
    const int first = (int)(get_global_id(0) % chunks) * VALUES;
    const size_t token = row / (size_t)num_heads, head = row % (size_t)num_heads;
    if (token >= (size_t)num_tokens)
        return;
    global const float *lses =
        partial_lse + partial_lse_offset + token * partial_lse_token_stride + head;
    global const float *parts = partial_out + partial_offset + token * partial_token_stride +
                                head * partial_head_stride + first;
    global STORAGE(OUT_DTYPE) *to =
        out + out_offset + token * out_token_stride + head * out_head_stride + first;

    float highest = -INFINITY;
    for (int s = 0; s < num_states; s++)
        highest = fmax(highest, lses[(size_t)s * partial_lse_state_stride]);

    float total = 0.0f;
    float16 sum = 0.0f;
    bool empty = true;
    for (int s = 0; s < num_states; s++) {
        const float state_lse = lses[(size_t)s * partial_lse_state_stride];
        if (state_lse == -INFINITY)
            continue;
        const float weight = exp(state_lse - highest);
        empty = false;
        total += weight;
        sum = fma((float16)weight,
                  load_chunk(parts + (size_t)s * partial_state_stride, dim - first), sum);
    }
    store_chunk(to, empty ? (float16)0.0f : sum * (1.0f / total), dim - first);
    if (first == 0 && lse != 0)
        lse[lse_offset + token * lse_token_stride + head] =
            empty ? -INFINITY : highest + log(total);
}
