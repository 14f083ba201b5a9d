/*
 * Absorbed attention on tensor cores: attention.clh, a launch of its own. Grid: (groups of rows ·
 * WORK_GROUP, splits of the keys), work-group {WORK_GROUP, 1, 1}.
 */
kernel __attribute__((reqd_work_group_size(WORK_GROUP, 1, 1))) void
attention__mma(ATTENTION_PARAMS ROTATION_PARAMS)
{
    local uint4 ring[RING_BYTES / 16];
    local float4 exchange[EXCHANGE_BYTES / 16];
    WARP_BEGIN(w, WORK_GROUP);
    attend(ATTENTION_ARGS ROTATION_ARGS, &w, (long)get_group_id(0), (int)get_group_id(1), ring,
           exchange);
}
