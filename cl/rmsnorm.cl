/*
 * y[t, i] = x[t, i] / sqrt(mean_i(x[t, i]²) + eps) · weight[i]
 *
 * x, y [num_tokens, dim], rows x_stride and y_stride elements apart; weight [dim]. y may be x.
 *
 * One work-group = one row, so that a row's result does not depend on how many there are. Needs
 * rmsnorm.clh, and its macros.
 */
kernel __attribute__((reqd_work_group_size(WORK_GROUP, 1, 1))) void
rmsnorm(global const STORAGE(X_DTYPE) * x, const ulong x_offset, const ulong x_stride,
        global const STORAGE(W_DTYPE) * weight, const ulong weight_offset,
        global STORAGE(Y_DTYPE) * y, const ulong y_offset, const ulong y_stride, const int dim,
        const float eps, const int num_tokens)
{
#if WORK_GROUP == 1
    local float *const partial = 0;
#else
    local float partial[WORK_GROUP];
#endif
    const size_t token = get_group_id(0);
    normalise_row(x + x_offset + token * x_stride, weight + weight_offset,
                  y + y_offset + token * y_stride, token < (size_t)num_tokens ? dim : 0, dim, eps,
                  partial);
}
