/*
 * One layer of a checkpoint and a file of hidden states, as a job.
 */
#ifndef CLMLA_CLI_RUN_INPUT_H
#define CLMLA_CLI_RUN_INPUT_H

#include "cli/job.h"

/* Must not move: the job points into it. */
typedef struct mla_run_input {
    clmla_checkpoint *checkpoint;
    clmla_safetensors *file;
    int32_t tokens;
    mla_array hidden;
    mla_job job; /* one request of one step; its tensors' names have no step */
} mla_run_input;

/* Opens the checkpoint and the input: hidden_states [b, s, hidden]; optionally init.kv_cache and
 * init.pe_cache [b, past, ...], all BF16, F16 or F32, and start_pos I32 [1], which is past. Returns
 * -1 to go on, or an exit code after printing the error. Close in each case. */
int mla_run_input_open(const char *weights, int32_t layer, const char *input, mla_run_input *out);
void mla_run_input_close(mla_run_input *input);

#endif
