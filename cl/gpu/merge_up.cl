/*
 * merge_up.clh, a launch of its own. Grid: (column tiles · WORK_GROUP, heads, tokens), work-group
 * {WORK_GROUP, 1, 1}.
 */
kernel __attribute__((reqd_work_group_size(WORK_GROUP, 1, 1))) void merge_up(MERGE_UP_PARAMS)
{
    local float4 scratch[(MERGE_FLOATS + 3) / 4];
    merge_and_project(MERGE_UP_ARGS, get_group_id(0), get_group_id(1), get_group_id(2), scratch);
}
