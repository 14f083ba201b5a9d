/*
 * A checkpoint's weights in a storage dtype. FP8: code · scale of its block, in float32, rounded
 * once.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/checked.h"
#include "core/dtype.h"
#include "model/checkpoint.h"
#include "model/error.h"

enum { NUM_WEIGHTS = 8, ALIGNMENT = 64 };

/* DEFAULT for what clmla_weights_create does not take as it is. */
static clmla_dtype dtype_of(clmla_safetensors_dtype stored)
{
    switch (stored) {
    case CLMLA_ST_BF16:
        return CLMLA_DTYPE_BF16;
    case CLMLA_ST_F16:
        return CLMLA_DTYPE_F16;
    case CLMLA_ST_F32:
        return CLMLA_DTYPE_F32;
    default:
        return CLMLA_DTYPE_DEFAULT;
    }
}

/* ---- values --------------------------------------------------------------------------------- */

/* What every code of a block stands for, in the dtype that is asked for: code · scale is a float,
 * rounded to dtype once. A block has far more elements than there are codes. */
typedef union code_table {
    float wide[256];
    uint16_t narrow[256];
} code_table;

static void fill_table(float scale, clmla_dtype dtype, code_table *table)
{
    for (int code = 0; code < 256; code++) {
        const float product = mla__f8_e4m3_to_float((uint8_t)code) * scale;
        mla__store(table, dtype, (size_t)code, (double)product);
    }
}

static float scale_of(const clmla_checkpoint_weight *weight, uint64_t row, uint64_t column)
{
    const uint64_t blocks = mla__ceil_div(weight->columns, MLA__FP8_BLOCK);
    const uint64_t at = row / MLA__FP8_BLOCK * blocks + column / MLA__FP8_BLOCK;
    float scale;
    memcpy(&scale, (const unsigned char *)weight->scale_inv + at * sizeof scale, sizeof scale);
    return scale;
}

static uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }

/* Block by block; at the edges, and where the rows begin inside a block, parts of blocks. */
static void decode_fp8(const clmla_checkpoint_weight *weight, uint64_t first_row, uint64_t num_rows,
                       clmla_dtype dtype, void *out)
{
    const uint64_t end_row = first_row + num_rows, columns = weight->columns;
    const uint8_t *codes = weight->data;
    float *const wide = out;
    uint16_t *const narrow = out;
    code_table table;
    uint64_t row_end;
    for (uint64_t begin = first_row; begin < end_row; begin = row_end) {
        row_end = least(end_row, (begin / MLA__FP8_BLOCK + 1) * MLA__FP8_BLOCK);
        for (uint64_t column = 0; column < columns; column += MLA__FP8_BLOCK) {
            const uint64_t column_end = least(columns, column + MLA__FP8_BLOCK);
            fill_table(scale_of(weight, begin, column), dtype, &table);
            for (uint64_t row = begin; row < row_end; row++)
                for (uint64_t c = column; c < column_end; c++) {
                    const uint8_t code = codes[row * columns + c];
                    const uint64_t to = (row - first_row) * columns + c;
                    if (dtype == CLMLA_DTYPE_F32)
                        wide[to] = table.wide[code];
                    else
                        narrow[to] = table.narrow[code];
                }
        }
    }
}

clmla_status clmla_checkpoint_decode(const clmla_checkpoint_weight *weight, uint64_t first_row,
                                     uint64_t num_rows, clmla_dtype dtype, void *out)
{
    clmla_dtype stored;
    if (dtype == CLMLA_DTYPE_DEFAULT)
        dtype = CLMLA_DTYPE_BF16;
    if (weight == NULL || weight->data == NULL || out == NULL || dtype < CLMLA_DTYPE_BF16 ||
        dtype > CLMLA_DTYPE_F32 || first_row > weight->rows || num_rows > weight->rows - first_row)
        return CLMLA_INVALID_ARGUMENT;
    if (weight->dtype == CLMLA_ST_F8_E4M3 && weight->scale_inv != NULL) {
        decode_fp8(weight, first_row, num_rows, dtype, out);
        return CLMLA_SUCCESS;
    }
    stored = dtype_of(weight->dtype);
    if (stored == CLMLA_DTYPE_DEFAULT)
        return CLMLA_INVALID_ARGUMENT;
    for (uint64_t i = 0; i < num_rows * weight->columns; i++)
        mla__store(out, dtype, (size_t)i,
                   mla__load(weight->data, stored, (size_t)(first_row * weight->columns + i)));
    return CLMLA_SUCCESS;
}

/* ---- sources -------------------------------------------------------------------------------- */

/* float32 scales of an FP8 weight, in bytes. */
static uint64_t scale_bytes(const clmla_checkpoint_weight *weight)
{
    return mla__ceil_div(weight->rows, MLA__FP8_BLOCK) *
           mla__ceil_div(weight->columns, MLA__FP8_BLOCK) * sizeof(float);
}

/* Bytes of a weight in the block of memory; 0: it is used where it lies. Where FP8 stays FP8 only
 * its scales are there: in the file they may lie at any address. */
static bool block_bytes(const clmla_checkpoint_weight *weight, clmla_dtype dtype, uint64_t *bytes)
{
    *bytes = 0;
    if (weight->data == NULL || weight->dtype != CLMLA_ST_F8_E4M3)
        return true;
    if (dtype == CLMLA_DTYPE_F8_E4M3)
        *bytes = scale_bytes(weight);
    else if (!mla__checked_mul(weight->rows, weight->columns, bytes) ||
             !mla__checked_mul(*bytes, mla__dtype_bytes(dtype), bytes))
        return false;
    return mla__checked_round_up(*bytes, ALIGNMENT, bytes);
}

/* at: the weight's place in the block. */
static clmla_status source_of(const clmla_checkpoint_weight *weight, clmla_dtype dtype,
                              unsigned char *at, clmla_weight_source *out)
{
    *out = (clmla_weight_source){.host = weight->data};
    if (weight->data == NULL)
        return CLMLA_SUCCESS;
    if (weight->dtype != CLMLA_ST_F8_E4M3) {
        out->tensor.dtype = dtype_of(weight->dtype);
        return out->tensor.dtype != CLMLA_DTYPE_DEFAULT ? CLMLA_SUCCESS : CLMLA_INVALID_ARGUMENT;
    }
    if (weight->scale_inv == NULL)
        return CLMLA_INVALID_ARGUMENT;
    out->tensor.dtype = dtype;
    if (dtype == CLMLA_DTYPE_F8_E4M3) {
        memcpy(at, weight->scale_inv, (size_t)scale_bytes(weight));
        out->scale_inv = (const float *)(const void *)at;
        return CLMLA_SUCCESS;
    }
    out->host = at;
    return clmla_checkpoint_decode(weight, 0, weight->rows, dtype, at);
}

/* Fills sources, and *block with what had to be decoded. */
static clmla_status make_sources(const clmla_checkpoint_weight *const from[NUM_WEIGHTS],
                                 clmla_dtype dtype, clmla_weight_source sources[NUM_WEIGHTS],
                                 unsigned char **block, clmla_model_error *error)
{
    uint64_t bytes[NUM_WEIGHTS];
    uint64_t total = 0;
    unsigned char *at;
    clmla_status status = CLMLA_SUCCESS;
    for (int i = 0; i < NUM_WEIGHTS; i++)
        if (!block_bytes(from[i], dtype, &bytes[i]) || !mla__checked_add(total, bytes[i], &total))
            total = UINT64_MAX; /* stays there */
    *block = total > 0 && total <= SIZE_MAX / 2 ? malloc((size_t)total) : NULL;
    if (total > 0 && *block == NULL)
        return mla__model_fail(error, CL_OUT_OF_HOST_MEMORY,
                               "checkpoint: no memory for %llu bytes of weights",
                               (unsigned long long)total);
    at = *block;
    for (int i = 0; i < NUM_WEIGHTS && status == CLMLA_SUCCESS; i++) {
        status = source_of(from[i], dtype, at, &sources[i]);
        if (bytes[i] > 0)
            at += bytes[i];
    }
    if (status == CLMLA_SUCCESS)
        return status;
    free(*block);
    return mla__model_fail(error, status,
                           "checkpoint: a weight's dtype is not BF16, F16, F32, or F8_E4M3 with "
                           "scales");
}

clmla_status clmla_checkpoint_sources(const clmla_checkpoint_weights *weights, clmla_dtype dtype,
                                      clmla_weights_params *params, void **memory,
                                      clmla_model_error *error)
{
    clmla_weight_source sources[NUM_WEIGHTS];
    unsigned char *block;
    clmla_status status;
    if (weights == NULL || params == NULL || memory == NULL || dtype < CLMLA_DTYPE_DEFAULT ||
        (dtype > CLMLA_DTYPE_F32 && dtype != CLMLA_DTYPE_F8_E4M3))
        return mla__model_fail(error, CLMLA_INVALID_ARGUMENT,
                               "checkpoint: an argument is NULL, or dtype is not bf16, f16, f32 or "
                               "f8_e4m3");
    const clmla_checkpoint_weight *const from[NUM_WEIGHTS] = {&weights->q_proj,
                                                              &weights->q_a_proj,
                                                              &weights->q_a_layernorm,
                                                              &weights->q_b_proj,
                                                              &weights->kv_a_proj_with_mqa,
                                                              &weights->kv_a_layernorm,
                                                              &weights->kv_b_proj,
                                                              &weights->o_proj};
    clmla_weight_source *const to[NUM_WEIGHTS] = {&params->q_proj,
                                                  &params->q_a_proj,
                                                  &params->q_a_layernorm,
                                                  &params->q_b_proj,
                                                  &params->kv_a_proj_with_mqa,
                                                  &params->kv_a_layernorm,
                                                  &params->kv_b_proj,
                                                  &params->o_proj};
    status = make_sources(from, mla__dtype_or(dtype, CLMLA_DTYPE_BF16), sources, &block, error);
    if (status != CLMLA_SUCCESS)
        return status;
    for (int i = 0; i < NUM_WEIGHTS; i++)
        *to[i] = sources[i];
    *memory = block;
    return CLMLA_SUCCESS;
}

void clmla_checkpoint_sources_free(void *memory) { free(memory); }
