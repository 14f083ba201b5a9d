/*
 * For every new token t of sequence b at position p, from kv_a[t] = c_kv | k_pe:
 *
 *     kv_cache[b, p, i] = c_kv[i] / sqrt(mean_i(c_kv[i]²) + eps) · weight[i]
 *     pe_cache[b, p]    = k_pe rotated pair by pair by cos_sin[t]
 *
 * kv_a [num_tokens, kv_lora + rope] float, row i is token token_begin + i of the step; weight
 * [kv_lora]; cos_sin [T, half, 2] float, half = rope / 2 (0: no rope part, cos_sin and pe_cache are
 * not touched). [b, p] is row p % page_block_size of the page that find_page names; caches
 * [num_pages, page_block_size, ...] with strides between pages and between rows.
 *
 * Skipped, writing nothing: tokens past the last sequence, negative positions (a sequence that the
 * plan made empty), positions past the block table, pages outside 0 .. num_pages - 1.
 *
 * One work-group = one token.
 *   WORK_GROUP == 1  one work-item walks the row sixteen elements at a time (cpu class);
 *                    no local memory, no barrier
 *   WORK_GROUP > 1   work-item k takes elements k, k + WORK_GROUP, ... and pairs likewise; the
 *                    squares are summed as a tree in WORK_GROUP floats of local memory
 *
 * Macros, all required: W_DTYPE (norm weight), KV_DTYPE, PE_DTYPE (bf16, f16, f32);
 * WORK_GROUP, a power of two.
 */
#if WORK_GROUP < 1 || (WORK_GROUP & (WORK_GROUP - 1)) != 0
#error "WORK_GROUP must be a power of two"
#endif

kernel __attribute__((reqd_work_group_size(WORK_GROUP, 1, 1))) void
cache_append(SEQUENCES_PARAMS, global const float *kv_a, const ulong kv_a_offset,
             const ulong kv_a_stride, global const STORAGE(W_DTYPE) * weight,
             const ulong weight_offset, global const float *cos_sin, const ulong cos_sin_offset,
             const ulong token_stride, const ulong pair_stride, global STORAGE(KV_DTYPE) * kv_cache,
             const ulong kv_offset, const ulong kv_page_stride, const ulong kv_row_stride,
             global STORAGE(PE_DTYPE) * pe_cache, const ulong pe_offset, const ulong pe_page_stride,
             const ulong pe_row_stride, const int kv_lora_rank, const int half_dim, const float eps,
             const int token_begin, const int num_tokens)
{
    const size_t block_row = get_group_id(0);
    const int token = token_begin + (int)block_row;
    global const int *cu = cu_seqlens_q + cu_seqlens_q_offset;
    global const int *lengths = cache_seqlens + cache_seqlens_offset;

    /* Where the row goes; page -1: nowhere. */
    const int max_pages = block_table_stride == 0 ? 1 : block_table_stride;
    const int b = block_row < (size_t)num_tokens ? find_sequence(cu, num_sequences, token) : -1;
    const int position = b < 0 ? -1 : find_position(cu, lengths, b, token);
    int page = -1;
    if (position >= 0 && position / page_block_size < max_pages)
        page = find_page(block_table + block_table_offset, block_table_stride, page_block_size, b,
                         position);
    const bool skip = page < 0 || page >= num_pages;
    const size_t to_page = skip ? 0 : (size_t)page;
    const size_t to_row = skip ? 0 : (size_t)(position % page_block_size);

    const int num_latent = skip ? 0 : kv_lora_rank; /* loops of a skipped token are empty */
    const int num_pairs = skip ? 0 : half_dim;
    global const float *c_kv = kv_a + kv_a_offset + block_row * kv_a_stride;
    global const float *k_pe = c_kv + kv_lora_rank;
    global const STORAGE(W_DTYPE) *w = weight + weight_offset;
    global const float *rotation = cos_sin + cos_sin_offset + (size_t)token * token_stride;
    global STORAGE(KV_DTYPE) *kv_row =
        kv_cache + kv_offset + to_page * kv_page_stride + to_row * kv_row_stride;
    global STORAGE(PE_DTYPE) *pe_row =
        pe_cache + pe_offset + to_page * pe_page_stride + to_row * pe_row_stride;

    /* kv_cache = RMSNorm(c_kv) */
#if WORK_GROUP == 1
    const int lane = 0;
    const int whole = num_latent / 16 * 16;
    float16 squares = 0.0f;
    for (int i = 0; i < whole; i += 16) {
        const float16 v = vload16(0, c_kv + i);
        squares += v * v;
    }
    float sum = sum_lanes(squares);
    for (int i = whole; i < num_latent; i++)
        sum += c_kv[i] * c_kv[i];

    const float scale = 1.0f / sqrt(sum / (float)kv_lora_rank + eps);

    for (int i = 0; i < whole; i += 16)
        STORE16(KV_DTYPE, vload16(0, c_kv + i) * scale * LOAD16(W_DTYPE, w, i), kv_row, i);
    for (int i = whole; i < num_latent; i++)
        STORE(KV_DTYPE, c_kv[i] * scale * LOAD(W_DTYPE, w, i), kv_row, i);
#else
    local float partial[WORK_GROUP];
    const int lane = (int)get_local_id(0);
    float squares = 0.0f;
    for (int i = lane; i < num_latent; i += WORK_GROUP)
        squares += c_kv[i] * c_kv[i];
    const float sum = sum_work_group(partial, WORK_GROUP, squares);

    const float scale = 1.0f / sqrt(sum / (float)kv_lora_rank + eps);

    for (int i = lane; i < num_latent; i += WORK_GROUP)
        STORE(KV_DTYPE, c_kv[i] * scale * LOAD(W_DTYPE, w, i), kv_row, i);
#endif

    /* pe_cache = RoPE(k_pe) */
    for (int pair = lane; pair < num_pairs; pair += WORK_GROUP) {
        const float2 y = rotate_pair(vload2((size_t)pair, k_pe),
                                     vload2(0, rotation + (size_t)pair * pair_stride));
        STORE(PE_DTYPE, y.x, pe_row, 2 * (size_t)pair);
        STORE(PE_DTYPE, y.y, pe_row, 2 * (size_t)pair + 1);
    }
}
