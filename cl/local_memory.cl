/*
 * Whether a work-group has LOCAL_BYTES of local memory, which may be more than the device reports:
 * writes a pattern through all of it; every word comes back as another work-item reads it. Grid:
 * {WORK_GROUP, 1, 1}. out [LOCAL_BYTES / 4]: element i is word words - 1 - i.
 */
#define NUM_WORDS (LOCAL_BYTES / 4)

kernel __attribute__((reqd_work_group_size(WORK_GROUP, 1, 1))) void local_memory(global uint *out)
{
    local uint words[NUM_WORDS];
    for (int i = (int)get_local_id(0); i < NUM_WORDS; i += WORK_GROUP)
        words[i] = (uint)i * 2654435761u;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int i = (int)get_local_id(0); i < NUM_WORDS; i += WORK_GROUP)
        out[i] = words[NUM_WORDS - 1 - i];
}
