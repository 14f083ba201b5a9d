/*
 * Parameters that CLBlast's float32 GEMM runs with on devices that its own database does not know.
 * They reach CLBlast only through a context that allows overrides.
 */
#ifndef CLMLA_TUNING_CLBLAST_RECORDS_H
#define CLMLA_TUNING_CLBLAST_RECORDS_H

#include "ocl/device.h"

/* What CLBlast calls its kernel "Xgemm" with, all of it: an override must be complete. m counts
 * columns of y (weights), n rows of y. X(field, CLBlast's name, meaning). */
#define MLA__CLBLAST_XGEMM(X)                                                                      \
    X(gemmk, GEMMK, "which kernel; 0: A not rotated, B rotated, which is how operands lie here")   \
    X(kreg, KREG, "k per step in registers, kernel 1 only")                                        \
    X(kwg, KWG, "k per work-group and stage")                                                      \
    X(kwi, KWI, "k per unrolled step")                                                             \
    X(mdima, MDIMA, "work-items along m that load A")                                              \
    X(mdimc, MDIMC, "work-items along m")                                                          \
    X(mwg, MWG, "m per work-group")                                                                \
    X(ndimb, NDIMB, "work-items along n that load B")                                              \
    X(ndimc, NDIMC, "work-items along n")                                                          \
    X(nwg, NWG, "n per work-group")                                                                \
    X(sa, SA, "A through local memory")                                                            \
    X(sb, SB, "B through local memory")                                                            \
    X(strm, STRM, "a work-item's vectors of m lie apart")                                          \
    X(strn, STRN, "a work-item's vectors of n lie apart")                                          \
    X(vwm, VWM, "vector along m")                                                                  \
    X(vwn, VWN, "vector along n")

#define MLA__CLBLAST_FIELD(field, name, meaning) int32_t field;
typedef struct mla__clblast_xgemm {
    MLA__CLBLAST_XGEMM(MLA__CLBLAST_FIELD)
} mla__clblast_xgemm;
#undef MLA__CLBLAST_FIELD

/* Rows and columns of a call come padded to what the record's tiles divide (see
 * ops/projection_clblast.c), so that CLBlast neither pads nor transposes. */
typedef struct mla__clblast_record {
    int32_t max_rows;          /* of a call, padded; INT32_MAX in the last record of a device */
    int32_t min_indirect_size; /* "GemmRoutine": from this³ multiplications on Xgemm computes, below
                                  it XgemmDirect, with CLBlast's own parameters */
    mla__clblast_xgemm xgemm;
    bool measured;      /* on a device that it is for */
    const char *source; /* one line for --verbose */
} mla__clblast_record;

/* A device's records by ascending max_rows, *count of them; 0: CLBlast's own parameters serve. */
const mla__clblast_record *mla__clblast_records(const mla__device *device, int32_t *count);

/* The record of a call of so many padded rows, or NULL. */
const mla__clblast_record *mla__clblast_record_find(const mla__device *device, int32_t rows);

/* "KREG=1 KWG=32 ..." without the parameters that are 0; returns the length as snprintf. */
int mla__clblast_xgemm_text(const mla__clblast_xgemm *xgemm, char *text, size_t capacity);

#endif
