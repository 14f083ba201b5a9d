/* Drawn weights as the FP8 of a checkpoint: e4m3 codes and float32 scales. */
#ifndef CLMLA_CLI_DRAW_FP8_H
#define CLMLA_CLI_DRAW_FP8_H

#include <stddef.h>
#include <stdint.h>

/* Scales of a matrix, one of every 128 x 128 weights or what is left of them at the edges. */
size_t mla_fp8_scales(size_t rows, size_t columns);

/* codes [rows, columns] and scale_inv of the drawn bf16 patterns: weight = code · scale. Scales are
 * those of a checkpoint, the largest weight of the block over e4m3's largest number, each times
 * something drawn by name and seed from [1, 2): drawn blocks are too much alike, and a scale taken
 * from another block would not show. */
void mla_draw_fp8(const char *name, uint64_t seed, const uint16_t *patterns, size_t rows,
                  size_t columns, uint8_t *codes, float *scale_inv);

#endif
