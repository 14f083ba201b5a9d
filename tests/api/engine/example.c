/*
 * An application that serves five requests on the engine, four times: plainly; with speculation,
 * which must not change a bit, since the engine is batch-invariant then; without that property; and
 * on two tensor-parallel shards. The later runs are compared with the first one, position by
 * position. Exits 0 when all agree.
 */
#include "example.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device.h"

/* Together they want more pages than there are, and more slots. */
static const struct request {
    int32_t arrives; /* in this step */
    int32_t num_prompt;
    int32_t max_tokens;
} requests[] = {{0, 5, 30}, {0, 23, 42}, {2, 37, 50}, {4, 2, 20}, {9, 12, 28}};

enum { NUM_REQUESTS = sizeof requests / sizeof requests[0] };

/* What the first run generated, and the hidden state that each token was sampled from. */
struct record {
    int32_t tokens[NUM_REQUESTS][MAX_KEYS];
    float hidden[NUM_REQUESTS][MAX_KEYS][HIDDEN_SIZE];
};

struct run {
    const char *name;
    int32_t num_shards;
    int32_t batch_invariant;
    int32_t speculates;
    /* Of the relative L2 distance to the first run's hidden state; 0: the same bits. Rounding to
     * bf16 falls differently where float32 sums were added in another order, so the bound is the one
     * between a result and the reference. */
    double bound;
};

static const struct run runs[] = {
    {.name = "plain", .num_shards = 1, .batch_invariant = 1},
    {.name = "speculative", .num_shards = 1, .batch_invariant = 1, .speculates = 1},
    {.name = "not batch-invariant", .num_shards = 1, .speculates = 1, .bound = 1e-2},
    {.name = "two shards", .num_shards = 2, .speculates = 1, .bound = 1e-2},
};

/* The engine's user pointer. */
struct client {
    const struct model *model;
    const struct run *run;
    struct record *record; /* written by the first run, read by the others */
    bool records;
    int32_t num_compared;
    int32_t num_wrong;
};

/* ---- sampling -------------------------------------------------------------------------------- */

static double relative_distance(const float *a, const float *b)
{
    double error = 0, norm = 0;
    for (size_t i = 0; i < HIDDEN_SIZE; i++) {
        const double d = (double)a[i] - (double)b[i];
        error += d * d;
        norm += (double)b[i] * (double)b[i];
    }
    return sqrt(error / norm);
}

static void compare(struct client *client, int32_t id, int32_t position, const float *hidden)
{
    const float *expected = client->record->hidden[id][position];
    const double distance = relative_distance(hidden, expected);
    const bool same = client->run->bound > 0
                          ? distance <= client->run->bound
                          : memcmp(hidden, expected, HIDDEN_SIZE * sizeof *hidden) == 0;
    client->num_compared++;
    if (same)
        return;
    client->num_wrong++;
    fprintf(stderr, "engine: %s: request %d, position %d: relative distance %.3g from plain\n",
            client->run->name, (int)id, (int)position, distance);
}

/* The first run decodes greedily. The others are given its tokens, so that a near tie that falls
 * the other way does not make two different texts of them. */
static int32_t sample(void *user, const struct sequence *sequence, int32_t position,
                      const float *hidden)
{
    struct client *client = user;
    int32_t *tokens = client->record->tokens[sequence->id];
    if (client->records) {
        memcpy(client->record->hidden[sequence->id][position], hidden,
               HIDDEN_SIZE * sizeof *hidden);
        tokens[position + 1] = model_sample(client->model, hidden);
    } else {
        compare(client, sequence->id, position, hidden);
    }
    return tokens[position + 1];
}

/* Stands in for a draft model, and is wrong about every fifth token. */
static int32_t draft(void *user, const struct sequence *sequence, int32_t max_drafts,
                     int32_t *drafts)
{
    const struct client *client = user;
    const int32_t *tokens = client->record->tokens[sequence->id];
    for (int32_t i = 0; i < max_drafts; i++) {
        const int32_t position = sequence->num_tokens + i;
        drafts[i] = (tokens[position] + (position % 5 == 0)) % VOCABULARY;
    }
    return max_drafts;
}

/* ---- serving --------------------------------------------------------------------------------- */

/* Any tokens will do as a prompt. */
static void write_prompt(int32_t id, int32_t *prompt)
{
    for (int32_t i = 0; i < requests[id].num_prompt; i++)
        prompt[i] = (7 * id + 13 * i + i * i) % VOCABULARY;
}

/* Steps until every request was served; those that find no free slot wait outside. */
static clmla_status serve(struct engine *engine)
{
    clmla_status status = CLMLA_SUCCESS;
    int32_t next = 0;
    while (status == CLMLA_SUCCESS && (next < NUM_REQUESTS || engine_is_busy(engine))) {
        int32_t prompt[MAX_KEYS];
        while (next < NUM_REQUESTS && requests[next].arrives <= engine->counts.steps) {
            write_prompt(next, prompt);
            if (!engine_add(engine, next, prompt, requests[next].num_prompt,
                            requests[next].max_tokens))
                break;
            next++;
        }
        status = engine_step(engine);
    }
    return status;
}

/* That a run did what it is there for: nothing was left out, all pages came back. */
static bool is_complete(const struct engine *engine, const struct client *client)
{
    const struct engine_counts *counts = &engine->counts;
    int32_t num_generated = 0;
    for (int32_t i = 0; i < NUM_REQUESTS; i++)
        num_generated += requests[i].max_tokens - requests[i].num_prompt;
    const bool compared = client->records || client->num_compared == num_generated;
    const bool speculated =
        !client->run->speculates || (counts->accepted_drafts > 0 && counts->rejected_drafts > 0);
    printf("engine: %s: %d steps (%d mixed, %d advanced), %d refusals, %d preemptions, "
           "%d drafts accepted, %d rejected\n",
           client->run->name, (int)counts->steps, (int)counts->mixed_steps, (int)counts->advances,
           (int)counts->refusals, (int)counts->preemptions, (int)counts->accepted_drafts,
           (int)counts->rejected_drafts);
    if (compared && speculated && counts->mixed_steps > 0 && counts->advances > 0 &&
        counts->refusals > 0 && counts->preemptions > 0 && engine->pool.num_free == NUM_PAGES)
        return client->num_wrong == 0;
    fprintf(stderr, "engine: %s: %d of %d tokens compared, %d of %d pages free at the end\n",
            client->run->name, (int)client->num_compared, (int)num_generated,
            (int)engine->pool.num_free, (int)NUM_PAGES);
    return false;
}

static bool perform(const struct run *run, struct engine_options options, struct client *client,
                    const struct observer *observer)
{
    static struct engine engine;
    options.num_shards = run->num_shards;
    options.batch_invariant = run->batch_invariant;
    options.draft = run->speculates ? draft : NULL;
    options.user = client;
    if (observer != NULL) {
        observer->begin(observer->user, run->name);
        options.after_layer = observer->after_layer;
        options.after_layer_user = observer->user;
    }
    client->run = run;
    client->records = run == runs;
    client->num_compared = 0;
    client->num_wrong = 0;
    clmla_status status = engine_create(&options, &engine);
    if (status == CLMLA_SUCCESS)
        status = serve(&engine);
    if (status != CLMLA_SUCCESS)
        fprintf(stderr, "engine: %s: %s (%s)\n", run->name, clmla_status_message(status),
                clmla_status_name(status));
    const bool right = status == CLMLA_SUCCESS && is_complete(&engine, client);
    engine_release(&engine);
    return right;
}

/* ---- beginning ------------------------------------------------------------------------------- */

/* More than there is, and more than a sequence may have: neither may change anything. */
static bool refuses_without_a_trace(void)
{
    struct page_pool pool, before;
    struct page_list list = {0}, other = {0}, held;
    page_pool_init(&pool);
    if (!page_list_reserve(&other, &pool, MAX_KEYS) || !page_list_reserve(&list, &pool, 3))
        return false;
    before = pool;
    held = list;
    const bool refused = !page_list_reserve(&list, &pool, MAX_KEYS) &&
                         !page_list_reserve(&list, &pool, MAX_KEYS + 1);
    return refused && memcmp(&pool, &before, sizeof pool) == 0 &&
           memcmp(&list, &held, sizeof list) == 0;
}

int example_main(int argc, char **argv, const struct observer *observer)
{
    static struct record record;
    struct model model = {0};
    struct engine_options options = {.model = &model, .poison = 1, .sample = sample};
    options.device = choose_device(0);
    if (argc > 2 || (argc == 2 && !parse_kernel_class(argv[1], &options.kernel_class))) {
        fprintf(stderr, "usage: %s [auto|cpu|gpu|nvidia]\n", argv[0]);
        return 2;
    }
    if (options.device == NULL) {
        fprintf(stderr, "engine: no OpenCL device\n");
        return EXIT_FAILURE;
    }
    bool right = refuses_without_a_trace();
    if (!right)
        fprintf(stderr, "engine: a refused reservation left a trace\n");
    right = right && model_create(&model) == CLMLA_SUCCESS;
    struct client client = {.model = &model, .record = &record};
    for (size_t i = 0; i < sizeof runs / sizeof runs[0] && right; i++)
        right = perform(&runs[i], options, &client, observer);
    model_release(&model);
    return right ? EXIT_SUCCESS : EXIT_FAILURE;
}
