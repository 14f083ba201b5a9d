/*
 * A small MLA layer with drawn weights, its device objects, and its double reference.
 *
 * Weights, caches and inputs are drawn as bf16 values, so that bf16, f16 and f32 storage all hold
 * them exactly and the reference needs no rounding of its own.
 */
#ifndef CLMLA_TESTS_LAYER_FIXTURE_H
#define CLMLA_TESTS_LAYER_FIXTURE_H

#include "ref/mla_ref.h"
#include "support/device.h"
#include "support/support.h"

enum { FIXTURE_MAX_SEQUENCES = 8 };

typedef struct fixture_weights {
    uint16_t *bits[8]; /* bf16, order of the fields of clmla_weights_params */
    double *values[8];
    size_t count[8], columns[8];
    uint8_t *codes[8]; /* FP8's, with scales of blocks of 128 x 128; NULL elsewhere */
    float *scales[8];
    mla_ref_weights ref;
} fixture_weights;

/* Odd dims, three heads; q_lora_rank 0 or 36. */
clmla_config fixture_config(int32_t q_lora_rank);
/* The same; class nvidia gets dims that tensor cores take, tails of their tiles among them. */
clmla_config fixture_config_of(clmla_kernel_class kernel_class, int32_t q_lora_rank);

fixture_weights fixture_weights_create(const clmla_config *config, uint64_t seed);
void fixture_weights_release(fixture_weights *weights);
/* Host sources for clmla_weights_create. */
clmla_weights_params fixture_weights_params(const fixture_weights *weights);

/* What a fixture is made of; zero fields as in clmla.h. */
typedef struct fixture_options {
    clmla_config config;
    clmla_kernel_class kernel_class;
    clmla_projection_backend projection;
    clmla_dtype dtype; /* of weights, cache and hidden states */
    clmla_dtype output_dtype;
    int32_t page_block_size;
    int32_t max_num_tokens; /* 0: 64 */
    int32_t num_splits;
    uint64_t workspace_limit_bytes;
    int32_t batch_invariant;
    int32_t feed_back;            /* output is bound to the same tensor as hidden_states */
    int32_t sm_90a;               /* asked for */
    int32_t fused;                /* one cache buffer, rows of kv_lora + rope elements */
    int32_t fp8_weights;          /* of dims whose heads begin where scale blocks allow */
    int32_t fp8_cache;            /* records; the reference has what those of the past stand for */
    int32_t one_launch;           /* prepares the layer, too */
    cl_uint max_loop_iterations;  /* 0: the device's */
    int32_t share_context;        /* with other fixtures that say so: programs are built once */
    const char *kernel_directory; /* with projection AUTO */
    clmla_output_mode output_mode;
} fixture_options;

enum { FIXTURE_MAX_KEYS = 96 };

typedef struct fixture {
    fixture_options options;
    clmla_context *context;
    clmla_layer *layer;
    fixture_weights host_weights;
    clmla_weights *weights;
    clmla_plan *plan;
    clmla_binding *binding;
    test_buffer hidden, output, kv_cache, pe_cache, workspace;
    int32_t *block_table;                  /* [FIXTURE_MAX_SEQUENCES, pages]; NULL: contiguous */
    int32_t pages;                         /* per sequence */
    double *ref_kv[FIXTURE_MAX_SEQUENCES]; /* [FIXTURE_MAX_KEYS, kv_lora] */
    double *ref_pe[FIXTURE_MAX_SEQUENCES];
} fixture;

fixture fixture_create(const fixture_options *options);
void fixture_release(fixture *f);
/* Gives up the contexts that fixtures shared; before test_device_close. */
void fixture_release_contexts(void);

/* Writes rows first .. first + count - 1 of hidden_states. */
void fixture_set_hidden(fixture *f, const double *values, size_t first, size_t count);
/* Draws count · hidden_size bf16 values. */
double *fixture_draw_hidden(const fixture *f, size_t count, uint64_t seed);
/* Fills cache rows 0 .. past - 1 of a sequence, on the device and in the reference. */
void fixture_set_past(fixture *f, int32_t sequence, int32_t past, uint64_t seed);
/* Enqueues the plan from host arrays; cache_seqlens[b] = past[b] + new_tokens[b]. */
clmla_status fixture_plan(fixture *f, int32_t num_sequences, const int32_t *past,
                          const int32_t *new_tokens);
/* Reads rows of the output as double. */
void fixture_get_output(const fixture *f, double *values, size_t first, size_t count);
/* Reads a sequence's cache rows 0 .. count - 1 as double. */
void fixture_get_cache(const fixture *f, int32_t sequence, int32_t count, double *kv, double *pe);
/* The reference's output of a sequence's new tokens; appends to ref_kv and ref_pe. */
void fixture_reference(fixture *f, int32_t sequence, int32_t past, int32_t new_tokens,
                       const double *hidden, double *output);

#endif
