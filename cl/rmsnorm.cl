/*
 * y[t, i] = x[t, i] / sqrt(mean_i(x[t, i]²) + eps) · weight[i]
 *
 * x, y [num_tokens, dim], rows x_stride and y_stride elements apart; weight [dim]. y may be x.
 *
 * One work-group = one row, so that a row's result does not depend on how many there are.
 *   WORK_GROUP == 1  one work-item walks the row sixteen elements at a time (cpu class);
 *                    no local memory, no barrier
 *   WORK_GROUP > 1   work-item k takes elements k, k + WORK_GROUP, ...; the squares are summed as a
 *                    tree in WORK_GROUP floats of local memory
 *
 * In place is safe: an element is written by the work-item that read it, after the sum is complete.
 *
 * Macros, all required: X_DTYPE, W_DTYPE, Y_DTYPE (bf16, f16, f32); WORK_GROUP, a power of two.
 */
#if WORK_GROUP < 1 || (WORK_GROUP & (WORK_GROUP - 1)) != 0
#error "WORK_GROUP must be a power of two"
#endif

kernel __attribute__((reqd_work_group_size(WORK_GROUP, 1, 1))) void
rmsnorm(global const STORAGE(X_DTYPE) * x, const ulong x_offset, const ulong x_stride,
        global const STORAGE(W_DTYPE) * weight, const ulong weight_offset,
        global STORAGE(Y_DTYPE) * y, const ulong y_offset, const ulong y_stride, const int dim,
        const float eps, const int num_tokens)
{
    const size_t token = get_group_id(0);
    const int length = token < (size_t)num_tokens ? dim : 0; /* 0: nothing to do */
    global const STORAGE(X_DTYPE) *x_row = x + x_offset + token * x_stride;
    global const STORAGE(W_DTYPE) *w = weight + weight_offset;
    global STORAGE(Y_DTYPE) *y_row = y + y_offset + token * y_stride;

#if WORK_GROUP == 1
    const int whole = length / 16 * 16;
    float16 squares = 0.0f;
    for (int i = 0; i < whole; i += 16) {
        const float16 v = LOAD16(X_DTYPE, x_row, i);
        squares += v * v;
    }
    float sum = sum_lanes(squares);
    for (int i = whole; i < length; i++) {
        const float v = LOAD(X_DTYPE, x_row, i);
        sum += v * v;
    }

    const float scale = 1.0f / sqrt(sum / (float)dim + eps);

    for (int i = 0; i < whole; i += 16)
        STORE16(Y_DTYPE, LOAD16(X_DTYPE, x_row, i) * scale * LOAD16(W_DTYPE, w, i), y_row, i);
    for (int i = whole; i < length; i++)
        STORE(Y_DTYPE, LOAD(X_DTYPE, x_row, i) * scale * LOAD(W_DTYPE, w, i), y_row, i);
#else
    local float partial[WORK_GROUP];
    const int lane = (int)get_local_id(0);

    float squares = 0.0f;
    for (int i = lane; i < length; i += WORK_GROUP) {
        const float v = LOAD(X_DTYPE, x_row, i);
        squares += v * v;
    }
    const float sum = sum_work_group(partial, WORK_GROUP, squares);

    const float scale = 1.0f / sqrt(sum / (float)dim + eps);

    for (int i = lane; i < length; i += WORK_GROUP)
        STORE(Y_DTYPE, LOAD(X_DTYPE, x_row, i) * scale * LOAD(W_DTYPE, w, i), y_row, i);
#endif
}
