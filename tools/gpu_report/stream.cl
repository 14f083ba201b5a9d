/*
 * Reads far more than the caches hold. Words are place · an odd constant, so that their sum is
 * known, modulo 2^32, without a loop. Any number of work-groups; count in uint4.
 * common.clh goes in front.
 */
kernel void fill(global uint4 *data, const uint first, const uint count)
{
    for (uint i = (uint)get_global_id(0); i < count; i += (uint)get_global_size(0))
        data[i] = (first + 4 * i + (uint4)(0, 1, 2, 3)) * 2654435761u;
}

/* sums[global id] (+)= Σ of every global-size-th element from there. */
kernel __attribute__((reqd_work_group_size(256, 1, 1))) void
stream(global const uint4 *restrict data, const uint count, global uint4 *sums, const uint add)
{
    const uint step = (uint)get_global_size(0);
    uint4 sum = add ? sums[get_global_id(0)] : (uint4)(0);
    uint i = (uint)get_global_id(0);
    for (; i + 7 * step < count; i += 8 * step) {
        uint4 x[8];
        UNROLL
        for (uint j = 0; j < 8; j++)
            x[j] = data[i + j * step];
        UNROLL
        for (uint j = 0; j < 8; j++)
            sum += x[j];
    }
    for (; i < count; i += step)
        sum += data[i];
    sums[get_global_id(0)] = sum;
}
