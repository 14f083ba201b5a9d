/* Which native kernels compute the calls of a projection: by class, device, storage, shape of the
 * matrix and number of rows. */
#ifndef CLMLA_OPS_PROJECTION_KERNEL_H
#define CLMLA_OPS_PROJECTION_KERNEL_H

#include "ops/op.h"
#include "tuning/params.h"

enum mla__projection_kind {
    MLA__PROJECTION_CPU,    /* cl/cpu/projection.cl */
    MLA__PROJECTION_DOT,    /* cl/cpu/projection_dot.cl: bf16 dot products */
    MLA__PROJECTION_DOT_F8, /* cl/cpu/projection_dot_fp8.cl: the same on FP8 weights */
    MLA__PROJECTION_GPU,    /* cl/gpu/projection.cl */
    MLA__PROJECTION_STREAM, /* cl/gpu/projection_stream.cl: fewest rows */
    MLA__PROJECTION_FEW,    /* cl/nvidia/projection_few.cl: tensor cores, few rows */
    MLA__PROJECTION_TILED,  /* cl/nvidia/projection_tiled.cl: tensor cores, many rows */
    MLA__PROJECTION_WGMMA   /* cl/nvidia/projection_wgmma.cl: the same, target sm_90a */
};

/* What the choice depends on. */
typedef struct mla__projection_shape {
    clmla_dtype x, w, y;
    int32_t num_batches, out_features, in_features;
    bool batch_invariant; /* a row has the same bits whatever the number of rows */
    bool portable;        /* no matrix units: the driver did not build their kernels */
} mla__projection_shape;

typedef struct mla__projection_choice {
    enum mla__projection_kind kind;
    int32_t max_rows; /* of a call that takes this kernel; INT32_MAX: no limit */
    mla__projection_tile tile;
    bool recorded; /* the tile is the tuning record's */
} mla__projection_choice;

/* The kernels of a projection, by rising max_rows. */
enum { MLA__PROJECTION_MAX_CHOICES = 16 }; /* few rows: 3; many: 5 of our own, 4 of either record */
typedef struct mla__projection_choices {
    mla__projection_choice list[MLA__PROJECTION_MAX_CHOICES];
    int count;
    const char *why_portable; /* class nvidia on GPU kernels: the reason; else NULL */
} mla__projection_choices;

/* Whether it is a kernel of bf16 dot products. */
bool mla__projection_by_dot(enum mla__projection_kind kind);

/* Those that calls of up to max_rows rows can take, at least one. */
void mla__projection_choose(const clmla_context *context, const mla__projection_shape *shape,
                            int32_t max_rows, mla__projection_choices *choices);

/* The kernel's source files, which end in NULL, and its name. */
typedef struct mla__projection_source {
    const char *files[6];
    const char *name;
} mla__projection_source;
mla__projection_source mla__projection_source_of(const clmla_context *context,
                                                 enum mla__projection_kind kind);

/* Whether x · Wᵀ takes the bf16 dot products: x is stored as bf16, W as bf16 or FP8, and the device
 * has them, for FP8 its decoder, too. Not a matter of rows or of strides, so that a row's bits do
 * not depend on either. */
bool mla__projection_uses_dot(const clmla_context *context, clmla_dtype x, clmla_dtype w);
/* The tile of cl/gpu/projection_stream.cl for a matrix [num_batches, out_features, in_features] of
 * dtype w; every kernel of class gpu takes its tile_k and slices. True: the tuning record's. */
bool mla__projection_choose_stream(const clmla_context *context, clmla_dtype w, int32_t num_batches,
                                   int32_t out_features, int32_t in_features,
                                   mla__projection_tile *tile);

#endif
