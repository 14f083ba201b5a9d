#include "tuning/clblast_records.h"

#include <stddef.h>
#include <stdio.h>

#define COUNT(array) ((int32_t)(sizeof(array) / sizeof((array)[0])))

/* PoCL CPUs. Device pthread-skylake-avx512-AMD EPYC (2 cores, shared), driver PoCL 3.1, CLBlast
 * 1.5.3, 2026-11-23; one CLBlastSgemm as this library calls it, checked against sums in double, all
 * sets in one run; median ms, CLBlast's own parameters -> these:
 *     m 3072, n 16, k 2048       31.7 -> 1.99    (9 calls)
 *     m 3072, n 704, k 2048       762 -> 131     (3 calls)
 * The machine was busy then, which slows CLBlast's own parameters most: these ratios are too high.
 * Whole layers on the idle machine, median ms, verified by ctest rather than in the run:
 *     prefill 1074 -> 204, decode 43.6 -> 16.9, by
 *     clmla bench --model lite --projection clblast --mode batched --warmup 1 --max-seconds 3
 *         --check off --clblast-overrides off|on        (commit 41fb170)
 * Lost, n = 16: MDIMC 8 (level for m 3072, 1.8 times the time for 2048); NWG 8 (no faster at 8
 * rows); 16-wide vectors (5 to 10 times); KWI 1 or 8; KWG 16. Lost, n = 704: MWG 32 and KWG 16
 * (level), NDIMC 8 and MDIMC 8 (1.7 times), 16-wide vectors (3 times). The set for few rows takes
 * 31 ms for 64 rows and 17 for 32, that for many 15.
 * 17 to 32 rows, m 1024, n 32, k 2048 (a slab of a CPU), medians of 15 calls: the set for few rows
 * 1.91, that for many 1.9 (rows padded to 64), the one between 0.85. Lost: NDIMC 4 (1.13), MDIMC 2
 * (1.03), MDIMC 8 (1.0 to 2.9), VWN 2 (1.02), VWM 4 (1.9), MWG 32 (1.09); NDIMC 1 with VWN 8 and
 * KWG 16 are level. For 192 to 704 rows it takes up to 6% more than the set for many.
 * Local memory is a copy on a CPU, hence SA = SB = 0. */
static const mla__clblast_record pocl_cpu[] = {
    {.max_rows = 16,
     .min_indirect_size = 1,
     .xgemm = {.kreg = 1,
               .kwg = 32,
               .kwi = 2,
               .mdima = 4,
               .mdimc = 4,
               .mwg = 64,
               .ndimb = 1,
               .ndimc = 1,
               .nwg = 16,
               .vwm = 8,
               .vwn = 8},
     .measured = true,
     .source = "measured on PoCL 3.1, x86-64 with AVX-512"},
    {.max_rows = 32,
     .min_indirect_size = 1,
     .xgemm = {.kreg = 1,
               .kwg = 32,
               .kwi = 2,
               .mdima = 4,
               .mdimc = 4,
               .mwg = 64,
               .ndimb = 2,
               .ndimc = 2,
               .nwg = 32,
               .vwm = 8,
               .vwn = 4},
     .measured = true,
     .source = "measured on PoCL 3.1, x86-64 with AVX-512"},
    {.max_rows = INT32_MAX,
     .min_indirect_size = 1,
     .xgemm = {.kreg = 1,
               .kwg = 32,
               .kwi = 2,
               .mdima = 4,
               .mdimc = 4,
               .mwg = 64,
               .ndimb = 4,
               .ndimc = 4,
               .nwg = 64,
               .vwm = 8,
               .vwn = 4},
     .measured = true,
     .source = "measured on PoCL 3.1, x86-64 with AVX-512"},
};

/* Compute capability 9.0 to 10.x, which no CLBlast up to 1.7.0 has an entry for: it falls back to
 * one for any NVIDIA device. Not measured: the values are those of CLBlast 1.7.0's database for the
 * A100-PCIE-40GB (8.0), the nearest device that its authors tuned. Its tiles divide the slabs (64
 * columns, 64 rows, 32 k), so the indirect kernel needs no copy, and copies are what the threshold
 * below which the direct kernel runs pays for: above 16 rows there is none. Up to 16 rows stay
 * direct, as padding to 64 would be four times the work. */
#define A100_XGEMM                                                                                 \
    {                                                                                              \
        .kreg = 1, .kwg = 32, .kwi = 2, .mdima = 8, .mdimc = 8, .mwg = 32, .ndimb = 16,            \
        .ndimc = 16, .nwg = 64, .sa = 1, .sb = 1, .vwm = 4, .vwn = 4                               \
    }
static const char A100_SOURCE[] =
    "not measured: CLBlast 1.7.0's values for A100, it has none for this device";
static const mla__clblast_record nvidia_data_center[] = {
    {.max_rows = 16, .min_indirect_size = 1984, .xgemm = A100_XGEMM, .source = A100_SOURCE},
    {.max_rows = INT32_MAX, .min_indirect_size = 1, .xgemm = A100_XGEMM, .source = A100_SOURCE},
};

const mla__clblast_record *mla__clblast_records(const mla__device *device, int32_t *count)
{
    if (device->is_pocl && (device->type & CL_DEVICE_TYPE_CPU) != 0) {
        *count = COUNT(pocl_cpu);
        return pocl_cpu;
    }
    if (device->compute_capability >= 90 && device->compute_capability < 110) {
        *count = COUNT(nvidia_data_center);
        return nvidia_data_center;
    }
    *count = 0;
    return NULL;
}

const mla__clblast_record *mla__clblast_record_find(const mla__device *device, int32_t rows)
{
    int32_t count;
    const mla__clblast_record *records = mla__clblast_records(device, &count);
    for (int32_t i = 0; i < count; i++) {
        if (rows <= records[i].max_rows)
            return &records[i];
    }
    return NULL;
}

int mla__clblast_xgemm_text(const mla__clblast_xgemm *xgemm, char *text, size_t capacity)
{
#define NAMED_VALUE(field, name, meaning) {#name, xgemm->field},
    const struct {
        const char *name;
        int32_t value;
    } values[] = {MLA__CLBLAST_XGEMM(NAMED_VALUE)};
#undef NAMED_VALUE
    int length = 0;
    if (capacity > 0)
        text[0] = '\0';
    for (int32_t i = 0; i < COUNT(values); i++) {
        if (values[i].value == 0)
            continue;
        const bool room = (size_t)length < capacity;
        length += snprintf(room ? text + length : NULL, room ? capacity - (size_t)length : 0,
                           "%s%s=%d", length > 0 ? " " : "", values[i].name, (int)values[i].value);
    }
    return length;
}
