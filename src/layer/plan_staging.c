#include "layer/plan_staging.h"

#include <stdlib.h>

/* Complete, or ended by an error (negative): the driver no longer reads the block. */
static int is_done(cl_event event)
{
    cl_int execution = CL_QUEUED;
    const cl_int error = clGetEventInfo(event, CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof(execution),
                                        &execution, NULL);
    return error == CL_SUCCESS && execution <= CL_COMPLETE;
}

clmla_status mla__staging_acquire(mla__staging *staging, mla__staging_block **out)
{
    for (mla__staging_block *block = staging->blocks; block != NULL; block = block->next) {
        if (block->written != NULL && is_done(block->written)) {
            clReleaseEvent(block->written);
            block->written = NULL;
        }
        if (block->written == NULL) {
            *out = block;
            return CLMLA_SUCCESS;
        }
    }
    mla__staging_block *block = malloc(sizeof(*block) + staging->block_bytes);
    if (block == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    block->next = staging->blocks;
    block->written = NULL;
    staging->blocks = block;
    *out = block;
    return CLMLA_SUCCESS;
}

void mla__staging_release(mla__staging *staging)
{
    mla__staging_block *block = staging->blocks;
    while (block != NULL) {
        mla__staging_block *next = block->next;
        if (block->written != NULL) {
            clWaitForEvents(1, &block->written);
            clReleaseEvent(block->written);
        }
        free(block);
        block = next;
    }
    staging->blocks = NULL;
}
