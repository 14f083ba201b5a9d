#include "tuning/nvidia_records.h"

/* All by ptxas 13.0 for 512 + 64 (tests/kernels/ptx_programs.txt): which tiles spill registers, and how
 * many work-groups the registers of a multiprocessor, 65536, hold.
 *
 * H100 and H200: 168 registers of 128 work-items three times, 255 twice; 128 of 256 work-items twice.
 * Local memory, 41 to 45 KiB a work-group of 228, allows more. */
static const mla__nvidia_record hopper = {
    .few_groups = 2,
    .attention_groups_of_16 = 3,
    .attention_groups_of_32 = 2,
    .attention_rows = 64,
    .one_launch = true,
    .source = "not measured: derived from registers and local memory on H100 and H200"};

/* The others: 224 to 248 registers for 16 rows, and where a multiprocessor has 100 KiB of local
 * memory that, too, ends at two. */
#define OTHERS(rows, whole_layer, capability)                                                      \
    {                                                                                              \
        .few_groups = 2, .attention_groups_of_16 = 2, .attention_groups_of_32 = 2,                 \
        .attention_rows = (rows), .one_launch = (whole_layer),                                     \
        .source = "not measured: derived from registers and local memory for compute "             \
                  "capability " capability                                                         \
    }
static const mla__nvidia_record ampere = OTHERS(32, false, "8.0");
static const mla__nvidia_record ada = OTHERS(64, false, "8.6 to 8.9 and 10.0 to 11.0");
static const mla__nvidia_record blackwell = OTHERS(16, true, "12.0");
/* Emulated: every kernel, so that each is tested. */
static const mla__nvidia_record emulated = OTHERS(64, true, "9.0, emulated");

const mla__nvidia_record *mla__nvidia_record_find(const mla__device *device)
{
    if (!device->has_ptx)
        return &emulated;
    if (device->compute_capability == 90)
        return &hopper;
    return device->compute_capability == 80   ? &ampere
           : device->compute_capability < 120 ? &ada
                                              : &blackwell;
}
