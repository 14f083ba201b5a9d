/* What the tests of attention share: the batches' sequences and the table of tests. */
#ifndef CLMLA_TESTS_ATTENTION_TESTS_H
#define CLMLA_TESTS_ATTENTION_TESTS_H

#include "ops/attention.h"
#include "support/attention_batch.h"
#include "support/support.h"

enum { BF16 = CLMLA_DTYPE_BF16, F16 = CLMLA_DTYPE_F16, F32 = CLMLA_DTYPE_F32 };

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define SEQUENCES(array) .num_sequences = (int32_t)COUNT(array), .sequences = (array)

/* Both dims have whole vectors of sixteen, or pairs, and a tail. Few programs are built that way.
 */
enum { LATENT = 33, ROPE = 18 };
#define STANDARD .kv_lora_rank = LATENT, .rope_dim = ROPE, .q_lat = F32, .out = F32

/* Sequences {id, new tokens, keys}: a chunk, single tokens, several, none; with keys and without.
 */
static const attention_sequence mixed[] = {{1, 13, 30}, {2, 1, 41}, {3, 0, 12}, {4, 1, 1},
                                           {5, 3, 17},  {6, 2, 0},  {7, 0, 0},  {8, 1, 64}};
enum { MIXED_TOKENS = 21 };
static const attention_sequence prefill[] = {{1, 37, 37}};

static inline clmla_context *open_class(void **state)
{
    return test_context(*(const clmla_kernel_class *)*state, CLMLA_PROJECTION_AUTO);
}

static inline double *doubles(size_t count)
{
    double *values = malloc((count + 1) * sizeof(double));
    assert_non_null(values);
    return values;
}

#define OF_CLASS(test, kernel_class)                                                               \
    {                                                                                              \
#test " on class " #kernel_class, test, NULL, NULL, &kernel_class                          \
    }
#define BOTH_CLASSES(test) OF_CLASS(test, cpu), OF_CLASS(test, gpu)

#endif
