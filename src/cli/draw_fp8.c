#include "cli/draw_fp8.h"

#include <math.h>
#include <stdio.h>

#include "core/checked.h"
#include "core/dtype.h"
#include "ref/draw.h"

#define F8_E4M3_MAX 448.0f

/* The rows and columns of one scale; at the edges fewer than MLA__FP8_BLOCK. */
typedef struct block {
    const uint16_t *patterns; /* of the whole matrix */
    size_t first, rows, columns, row_stride;
} block;

static float largest_of(const block *b)
{
    float largest = 0.0f;
    for (size_t r = 0; r < b->rows; r++)
        for (size_t c = 0; c < b->columns; c++)
            largest = fmaxf(
                largest, fabsf(mla__bf16_to_float(b->patterns[b->first + r * b->row_stride + c])));
    return largest;
}

static void quantise_block(const block *b, float scale, uint8_t *codes)
{
    for (size_t r = 0; r < b->rows; r++)
        for (size_t c = 0; c < b->columns; c++) {
            const size_t at = b->first + r * b->row_stride + c;
            codes[at] = mla__float_to_f8_e4m3(mla__bf16_to_float(b->patterns[at]) / scale);
        }
}

size_t mla_fp8_scales(size_t rows, size_t columns)
{
    return mla__ceil_div(rows, MLA__FP8_BLOCK) * mla__ceil_div(columns, MLA__FP8_BLOCK);
}

void mla_draw_fp8(const char *name, uint64_t seed, const uint16_t *patterns, size_t rows,
                  size_t columns, uint8_t *codes, float *scale_inv)
{
    char scale_name[128];
    (void)snprintf(scale_name, sizeof(scale_name), "%s_scale_inv", name);
    const uint64_t base = mla_draw_base(scale_name, seed);
    size_t index = 0;
    for (size_t row = 0; row < rows; row += MLA__FP8_BLOCK)
        for (size_t column = 0; column < columns; column += MLA__FP8_BLOCK, index++) {
            const block b = {
                .patterns = patterns,
                .first = row * columns + column,
                .rows = rows - row < MLA__FP8_BLOCK ? rows - row : MLA__FP8_BLOCK,
                .columns = columns - column < MLA__FP8_BLOCK ? columns - column : MLA__FP8_BLOCK,
                .row_stride = columns,
            };
            const float drawn = mla__bf16_to_float(mla_draw_bf16(base, index, MLA_DRAW_UNIT, 0));
            scale_inv[index] = largest_of(&b) / F8_E4M3_MAX * (1.0f + drawn);
            quantise_block(&b, scale_inv[index], codes);
        }
}
