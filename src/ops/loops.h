/*
 * Iterations that the loops of one work-item come to at the most, for devices that stop at a number
 * of them (mla__device.max_loop_iterations): every loop of a kernel, none taken as unrolled, once
 * more for each time that a loop is left. Both ways of a branch count, since work-items that are
 * lanes of one vector go both. What mla__define_loops is told.
 */
#ifndef CLMLA_OPS_LOOPS_H
#define CLMLA_OPS_LOOPS_H

#include "ops/attention.h"
#include "ops/projection_kernel.h"

/* Classes cpu and gpu. Kernels of matrix units are not counted: infinite. */
double mla__loops_projection(const mla__projection_choice *choice, clmla_dtype weights_dtype,
                             int32_t in_features);
double mla__loops_attention(enum mla__attention_kind kind, const mla__attention_tile *tile,
                            int32_t kv_lora_rank, int32_t rope_dim, double num_keys);
double mla__loops_merge(int32_t num_states);
/* One row normalised, appended as FP8 where asked, by a work-group of this size. */
double mla__loops_row(int32_t dim, bool fp8, size_t work_group);
/* The pairs of a row, or of num_heads of them, rotated by a work-group. */
double mla__loops_rotate(int32_t num_heads, int32_t num_pairs, size_t work_group);
/* The search for a token's sequence. */
double mla__loops_search(void);
/* n iterations side by side. */
double mla__loops_shared(double n, size_t work_group);

#endif
