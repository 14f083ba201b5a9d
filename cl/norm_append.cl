/* norm_append.clh, a launch of its own. Grid: two work-groups a token. */
kernel __attribute__((reqd_work_group_size(WORK_GROUP, 1, 1))) void norm_append(NORM_APPEND_PARAMS)
{
    DECLARE_PARTIAL;
    norm_append_token(NORM_APPEND_ARGS, get_group_id(0), partial);
}
