/*
 * kv norm, rotation of k_pe and append to the caches: append.clh's equations, which it needs in
 * front of it. One work-group = one token.
 */
kernel __attribute__((reqd_work_group_size(WORK_GROUP, 1, 1))) void cache_append(APPEND_PARAMS)
{
    DECLARE_PARTIAL;
    append_token(APPEND_ARGS, get_group_id(0), true, partial);
}
