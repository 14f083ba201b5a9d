/*
 * The example under test: after every layer of every step its outputs and its caches are compared
 * with the reference in double precision, which an installed clmla does not have. An application
 * leaves this file out.
 *
 * The reference gets the layer's input as the device had it, and keeps caches of its own, so a
 * difference is that layer's alone. Every cache row that no live sequence owns must still be NaN:
 * nothing else was written, and nothing that was read shows.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/dtype.h"
#include "example.h"
#include "ref/mla_ref.h"

/* Relative L2: of bf16 storage, as in tests/layer; cache rows as in tests/golden/README.md. */
#define OUTPUT_BOUND 1e-2
#define CACHE_BOUND 3.5e-3

enum { NUM_ROWS = NUM_PAGES * PAGE_BLOCK_SIZE, MAX_WIDTH = 64 };

struct checker {
    const char *run;
    int32_t num_checks;
    double *weights[NUM_LAYERS][NUM_WEIGHTS];
    double kv[NUM_LAYERS][MAX_SEQUENCES][MAX_KEYS * MAX_WIDTH];
    double pe[NUM_LAYERS][MAX_SEQUENCES][MAX_KEYS * MAX_WIDTH];
};

/* What is looked at, for the words of a failure. */
struct place {
    const char *run;
    int32_t step, layer, shard, sequence;
};

static clmla_status report(const struct place *place, const char *what, double error, double bound)
{
    fprintf(stderr,
            "engine_check: %s: step %d, layer %d, shard %d, sequence %d: %s: relative L2 %.3g > "
            "%.3g\n",
            place->run, (int)place->step, (int)place->layer, (int)place->shard,
            (int)place->sequence, what, error, bound);
    return CLMLA_INTERNAL;
}

/* A NaN on either side fails, too. */
static clmla_status check_close(const struct place *place, const char *what, const double *actual,
                                const double *expected, size_t count, double bound)
{
    double error = 0, norm = 0;
    for (size_t i = 0; i < count; i++) {
        error += (actual[i] - expected[i]) * (actual[i] - expected[i]);
        norm += expected[i] * expected[i];
    }
    if (sqrt(error) <= bound * sqrt(norm))
        return CLMLA_SUCCESS;
    return report(place, what, sqrt(error / norm), bound);
}

/* ---- the reference --------------------------------------------------------------------------- */

static clmla_status widen_weights(struct checker *checker, const struct model *model)
{
    for (int layer = 0; layer < NUM_LAYERS; layer++) {
        for (int i = 0; i < NUM_WEIGHTS; i++) {
            const struct model_weight *weight = &model->layers[layer][i];
            const size_t count = weight->rows * weight->columns;
            double *values = malloc(count * sizeof *values);
            if (values == NULL)
                return CL_OUT_OF_HOST_MEMORY;
            for (size_t j = 0; j < count; j++)
                values[j] = (double)mla__bf16_to_float(weight->values[j]);
            checker->weights[layer][i] = values;
        }
    }
    return CLMLA_SUCCESS;
}

static mla_ref_weights weights_of_layer(const struct checker *checker, int32_t layer)
{
    double *const *w = checker->weights[layer];
    return (mla_ref_weights){.q_a_proj = w[Q_A_PROJ],
                             .q_a_layernorm = w[Q_A_LAYERNORM],
                             .q_b_proj = w[Q_B_PROJ],
                             .kv_a_proj_with_mqa = w[KV_A_PROJ_WITH_MQA],
                             .kv_a_layernorm = w[KV_A_LAYERNORM],
                             .kv_b_proj = w[KV_B_PROJ],
                             .o_proj = w[O_PROJ]};
}

/* ---- outputs --------------------------------------------------------------------------------- */

static clmla_status read_hidden(const struct engine *engine, int32_t which, size_t num_tokens,
                                double *values)
{
    float floats[MAX_STEP_TOKENS * HIDDEN_SIZE];
    const clmla_status status =
        clEnqueueReadBuffer(engine->shards[0].queue, engine->hidden[which], CL_TRUE, 0,
                            num_tokens * HIDDEN_SIZE * sizeof *floats, floats, 0, NULL, NULL);
    for (size_t i = 0; status == CLMLA_SUCCESS && i < num_tokens * HIDDEN_SIZE; i++)
        values[i] = (double)floats[i];
    return status;
}

static clmla_status check_outputs(struct checker *checker, const struct engine *engine,
                                  const struct batch *batch, struct place place)
{
    const mla_ref_weights weights = weights_of_layer(checker, place.layer);
    double input[MAX_STEP_TOKENS * HIDDEN_SIZE], output[MAX_STEP_TOKENS * HIDDEN_SIZE];
    double expected[MAX_STEP_TOKENS * HIDDEN_SIZE];
    const size_t num_tokens = (size_t)batch->num_tokens;
    clmla_status status = read_hidden(engine, place.layer % 2, num_tokens, input);
    if (status == CLMLA_SUCCESS)
        status = read_hidden(engine, (place.layer + 1) % 2, num_tokens, output);
    for (int32_t b = 0; b < batch->num_sequences && status == CLMLA_SUCCESS; b++) {
        const int32_t slot = batch->slots[b];
        const size_t first = (size_t)batch->cu_seqlens_q[b] * HIDDEN_SIZE;
        const int32_t num_new = batch->cu_seqlens_q[b + 1] - batch->cu_seqlens_q[b];
        place.sequence = engine->sequences[slot].id;
        status = mla_ref_layer(&model_config, &weights, MLA_REF_ABSORBED,
                               (size_t)(batch->cache_seqlens[b] - num_new), (size_t)num_new,
                               input + first, checker->kv[place.layer][slot],
                               checker->pe[place.layer][slot], NULL, 0, expected + first, NULL);
        if (status == CLMLA_SUCCESS)
            status = check_close(&place, "output", output + first, expected + first,
                                 (size_t)num_new * HIDDEN_SIZE, OUTPUT_BOUND);
    }
    return status;
}

/* ---- caches ---------------------------------------------------------------------------------- */

/* Keys that a sequence has in this layer's caches by now: in the step's, those of the step, too. */
static int32_t keys_of_slot(const struct engine *engine, const struct batch *batch, int32_t slot)
{
    for (int32_t b = 0; b < batch->num_sequences; b++) {
        if (batch->slots[b] == slot)
            return batch->cache_seqlens[b];
    }
    return engine->sequences[slot].id >= 0 ? engine->sequences[slot].num_keys : 0;
}

/* One cache of one shard: the rows of every live sequence, then all the others. */
static clmla_status check_cache(const struct engine *engine, const struct batch *batch,
                                struct place place, const char *what, cl_mem cache, size_t width,
                                double expected[MAX_SEQUENCES][MAX_KEYS * MAX_WIDTH])
{
    uint16_t bits[NUM_ROWS * MAX_WIDTH];
    double actual[MAX_KEYS * MAX_WIDTH];
    bool owned[NUM_ROWS] = {false};
    clmla_status status = clEnqueueReadBuffer(engine->shards[place.shard].queue, cache, CL_TRUE, 0,
                                              NUM_ROWS * width * sizeof *bits, bits, 0, NULL, NULL);
    for (int32_t slot = 0; slot < MAX_SEQUENCES && status == CLMLA_SUCCESS; slot++) {
        const int32_t *pages = engine->sequences[slot].pages.pages;
        const int32_t num_keys = keys_of_slot(engine, batch, slot);
        place.sequence = engine->sequences[slot].id;
        for (int32_t key = 0; key < num_keys; key++) {
            const int32_t row =
                pages[key / PAGE_BLOCK_SIZE] * PAGE_BLOCK_SIZE + key % PAGE_BLOCK_SIZE;
            const uint16_t *from = bits + (size_t)row * width;
            owned[row] = true;
            for (size_t i = 0; i < width; i++)
                actual[(size_t)key * width + i] = (double)mla__bf16_to_float(from[i]);
        }
        status = check_close(&place, what, actual, expected[slot], (size_t)num_keys * width,
                             CACHE_BOUND);
    }
    place.sequence = -1;
    for (size_t i = 0; i < NUM_ROWS * width && status == CLMLA_SUCCESS; i++) {
        if (!owned[i / width] && bits[i] != 0xffff)
            status = report(&place, "a cache row without an owner", (double)INFINITY, 0);
    }
    return status;
}

static clmla_status check_caches(struct checker *checker, const struct engine *engine,
                                 const struct batch *batch, struct place place)
{
    clmla_status status = CLMLA_SUCCESS;
    for (int32_t s = 0; s < engine->options.num_shards && status == CLMLA_SUCCESS; s++) {
        const struct shard_layer *own = &engine->shards[s].layers[place.layer];
        place.shard = s;
        status = check_cache(engine, batch, place, "kv_cache", own->kv_cache,
                             (size_t)model_config.kv_lora_rank, checker->kv[place.layer]);
        if (status == CLMLA_SUCCESS)
            status = check_cache(engine, batch, place, "pe_cache", own->pe_cache,
                                 (size_t)model_config.qk_rope_head_dim, checker->pe[place.layer]);
    }
    return status;
}

/* ---- the observer ---------------------------------------------------------------------------- */

static void begin(void *user, const char *run)
{
    struct checker *checker = user;
    checker->run = run;
}

static clmla_status after_layer(void *user, const struct engine *engine, const struct batch *batch,
                                int32_t layer)
{
    struct checker *checker = user;
    const struct place place = {checker->run, engine->counts.steps, layer, 0, -1};
    clmla_status status = CLMLA_SUCCESS;
    if (checker->weights[0][0] == NULL)
        status = widen_weights(checker, engine->options.model);
    for (int32_t s = 0; s < engine->options.num_shards && status == CLMLA_SUCCESS; s++)
        status = clFinish(engine->shards[s].queue);
    if (status == CLMLA_SUCCESS)
        status = check_outputs(checker, engine, batch, place);
    if (status == CLMLA_SUCCESS)
        status = check_caches(checker, engine, batch, place);
    checker->num_checks += status == CLMLA_SUCCESS;
    return status;
}

int main(int argc, char **argv)
{
    static struct checker checker;
    const struct observer observer = {&checker, begin, after_layer};
    const int exit_code = example_main(argc, argv, &observer);
    for (int layer = 0; layer < NUM_LAYERS; layer++) {
        for (int i = 0; i < NUM_WEIGHTS; i++)
            free(checker.weights[layer][i]);
    }
    printf("engine_check: %d layers of steps equal the reference\n", (int)checker.num_checks);
    return exit_code == EXIT_SUCCESS && checker.num_checks == 0 ? EXIT_FAILURE : exit_code;
}
