#include "tuning/nvidia_records.h"

/* H100 and H200, by ptxas 13.0 for sm_90 (tests/kernels/ptx_programs.txt; kv_lora_rank 512 + 64):
 * 168 registers of 128 work-items three times, 255 twice, of 65536; 128 of 256 work-items twice.
 * Local memory, 41 to 45 KiB a work-group of 228, allows more. */
static const mla__nvidia_record hopper = {
    .few_groups = 2,
    .attention_groups_of_16 = 3,
    .attention_groups_of_32 = 2,
    .source = "not measured: derived from registers and local memory on H100 and H200"};

/* The others: 232 to 248 registers for 16 rows, and where a multiprocessor has 100 KiB of local
 * memory that, too, ends at two. */
static const mla__nvidia_record others = {
    .few_groups = 2,
    .attention_groups_of_16 = 2,
    .attention_groups_of_32 = 2,
    .source = "not measured: derived from registers and local memory for compute capability 8.0, "
              "8.9 and 12.0"};

const mla__nvidia_record *mla__nvidia_record_find(const mla__device *device)
{
    return device->compute_capability == 90 ? &hopper : &others;
}
