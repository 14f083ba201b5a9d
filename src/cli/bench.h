/*
 * clmla bench: what its parts share.
 *
 * A workload is a set of requests (prefill or decode). A cell is one workload in one mode with one
 * projection backend, ready to run: layer, weights, caches, bindings. In batched mode all requests
 * form one lane; in sequential mode each request is a lane of its own, and lanes run one after
 * another. A forward is one step of one lane through all model layers.
 */
#ifndef CLMLA_CLI_BENCH_H
#define CLMLA_CLI_BENCH_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "cli/pages.h"
#include "cli/report.h"
#include "cli/session.h"
#include "clmla_model.h"

/* ONE: the last request only, as a sample of many. */
typedef enum mla_check { MLA_CHECK_FULL, MLA_CHECK_SAMPLE, MLA_CHECK_OFF, MLA_CHECK_ONE } mla_check;

typedef struct mla_backend {
    mla_session session;
    clmla_weights **weights; /* [num_layers], packed for the first cell, for all; NULL: not yet */
} mla_backend;

typedef struct mla_bench {
    const mla_common *common;
    mla_backend backends[MLA_MAX_PROJECTIONS]; /* of common->projections */
    int32_t num_backends;
    clmla_config config; /* of the shard that runs */
    int32_t num_layers;
    int32_t warmup, runs;
    double max_seconds; /* of one cell */
    mla_check check;
    bool stages;
} mla_bench;

typedef struct mla_workload {
    bool decode;
    int32_t num_requests;
    const int32_t *seqlens, *pastlens; /* new tokens of a step, and tokens before the first */
    int32_t num_tokens;                /* Σ seqlens: new tokens of a run */
} mla_workload;

/* ---- models (bench_models.c) ----------------------------------------------------------------- */

/* The config of "lite" or "r1"; false for other names. */
bool mla_bench_model(const char *name, clmla_config *out);
/* --model, default lite, and --tp (1: the whole): the config of one of tp shards. *model is the
 * name as given. False after printing the error. */
bool mla_option_model(const mla_options *options, int32_t tp, const char **model,
                      clmla_config *out);
/* Whether FP8 is asked for where it goes; prints the error. */
bool mla_check_storage(const mla_common *common, const char *model, const clmla_config *config);

/* ---- drawn data (bench_data.c) --------------------------------------------------------------- */

enum { MLA_NUM_WEIGHTS = 8 };

/* One layer's weights in the order of the fields of clmla_checkpoint_weights. */
typedef struct mla_drawn_weights {
    clmla_checkpoint_weight weights[MLA_NUM_WEIGHTS]; /* data NULL: not in this configuration */
    void *owned[2 * MLA_NUM_WEIGHTS];                 /* what they point to */
} mla_drawn_weights;

/* In bf16; fp8: matrices as FP8 codes with scales. False: out of memory; release in each case. */
bool mla_draw_weights(const clmla_config *config, int32_t layer, uint64_t seed, bool fp8,
                      mla_drawn_weights *out);
void mla_drawn_weights_release(mla_drawn_weights *weights);

/* bf16 patterns of a request's new tokens [seqlen, hidden] and of its past cache rows in one layer:
 * rows [pastlen, kv_lora] or, rope_part, [pastlen, rope]. */
void mla_draw_hidden(const clmla_config *config, int32_t request, uint64_t seed, size_t count,
                     uint16_t *out);
void mla_draw_past(int32_t layer, int32_t request, bool rope_part, uint64_t seed, size_t count,
                   uint16_t *out);
/* The same rows as records of an FP8 cache, `count` of them. False: out of memory. */
bool mla_draw_records(const clmla_config *config, int32_t layer, int32_t request, uint64_t seed,
                      size_t count, unsigned char *out);

/* ---- backends (bench_backend.c) -------------------------------------------------------------- */

/* Opens the device with every projection backend of common, which must outlive the bench. Neither
 * bench nor common may move. Returns -1 to go on, or an exit code after printing the error; close
 * in each case. */
int mla_bench_open(const mla_common *common, mla_bench *bench);
void mla_bench_close(mla_bench *bench);
/* Packs the weights that the backend does not have yet; layer is any of its context with the
 * bench's configuration. */
clmla_status mla_backend_pack(const mla_bench *bench, mla_backend *backend, clmla_layer *layer);
/* Releases the weights of every backend, as another configuration needs it. */
void mla_bench_drop_weights(mla_bench *bench);

/* ---- cells (bench_cell.c) -------------------------------------------------------------------- */

typedef struct mla_lane {
    int32_t first_request, num_requests;
    int32_t num_tokens, max_seqlen;
    size_t first_row;         /* of the token tensors */
    int32_t *cu_seqlens_q;    /* [num_requests + 1] */
    int32_t *cache_seqlens;   /* [num_requests], of the first step */
    clmla_binding **bindings; /* [num_layers] */
} mla_lane;

typedef struct mla_cell {
    const mla_bench *bench;
    mla_backend *backend;
    const mla_workload *workload;
    bool batched;
    const char *what;  /* "decode batched": for messages */
    int32_t max_steps; /* of one chain */
    int32_t num_lanes;
    mla_lane *lanes;
    mla_pages pages;
    clmla_layer *layer;
    clmla_plan *plan;
    cl_mem *kv_cache, *pe_cache;
    cl_mem initial; /* [num_tokens, hidden] hidden states as drawn */
    cl_mem work;    /* output; for decode the input, too */
    cl_mem workspace;
    uint64_t rows_bytes; /* of num_tokens rows */
    clmla_layer_info info;
} mla_cell;

/* Makes everything and prepares the layer: no later call compiles. All arguments must outlive the
 * cell. Release in each case. */
clmla_status mla_cell_create(const mla_bench *bench, mla_backend *backend,
                             const mla_workload *workload, bool batched, const char *what,
                             mla_cell *out);
void mla_cell_release(mla_cell *cell);

/* Decode: hidden states as drawn again, for a new chain. Nothing for prefill. */
clmla_status mla_cell_restore(const mla_cell *cell, cl_command_queue queue);
/* Enqueues the tables of a lane's first step; of the step after. */
clmla_status mla_cell_first_step(const mla_cell *cell, const mla_lane *lane,
                                 cl_command_queue queue);
clmla_status mla_cell_next_step(const mla_cell *cell, cl_command_queue queue);
/* Enqueues one forward of the lane. */
clmla_status mla_cell_forward(const mla_cell *cell, const mla_lane *lane, cl_command_queue queue);

/* ---- check (bench_check.c) ------------------------------------------------------------------- */

/* Compares a cell with the double reference. *rel_error: the worst relative L2 error of outputs or
 * cache rows, INFINITY when something is not finite. */
clmla_status mla_cell_check(const mla_cell *cell, double *rel_error);
/* What *rel_error may be. */
double mla_check_bound(clmla_dtype dtype);

/* ---- time (bench_time.c) --------------------------------------------------------------------- */

typedef struct mla_times {
    int32_t runs;
    double chain_seconds; /* `runs` runs, synchronised only at their ends */
    double median_ms, min_ms;
    double ttft_ms;    /* prefill */
    double enqueue_us; /* host time of one clmla_enqueue_layer, median of chain 2 */
} mla_times;

clmla_status mla_cell_time(const mla_cell *cell, mla_times *out);

/* ---- stages (bench_stages.c) ----------------------------------------------------------------- */

/* Time of each stage of one layer's forward: an array of {"stage","median_ms"}. */
clmla_status mla_cell_stages(const mla_cell *cell, json_t **out);

/* ---- cost (bench_cost.c) --------------------------------------------------------------------- */

typedef struct mla_cost {
    double bytes, flop;
} mla_cost;

/* What `runs` runs of a cell must move and compute at the least. */
mla_cost mla_cell_cost(const mla_cell *cell, int32_t runs);

/* The same of one attention stage: `tokens` new tokens of sequences that hold `keys` keys in all and
 * see `pairs` of them. */
mla_cost mla_attention_cost(const mla_bench *bench, double tokens, double keys, double pairs);

/* GFLOP/s of work with this cost on a device of that bandwidth and peak: whichever ends later. */
double mla_roofline(double gb_per_s, double gflop_per_s, mla_cost cost);

/* Device memory of a decode cell of `requests` requests of at most `keys` keys: weights of every
 * backend, caches and token rows (not the workspace), and its largest buffer. */
typedef struct mla_memory {
    double total_bytes, largest_bytes;
} mla_memory;

mla_memory mla_decode_memory(const mla_bench *bench, int32_t requests, int32_t keys);

/* ---- results (bench_result.c) ---------------------------------------------------------------- */

/* Makes a cell, checks it, then times it. A wrong result is never timed. Returns an exit code, with
 * the figures as an object on success, and after printing the error otherwise. */
int mla_bench_measure(const mla_bench *bench, mla_backend *backend, const mla_workload *workload,
                      bool batched, const char *what, json_t **result);
/* The line above a table: version, model, FP8 storage if any, device. */
void mla_print_title(const mla_bench *bench, const char *model);
/* The stages of every result, one line each; `what` names the members that tell results apart. */
void mla_print_stages(const json_t *rows, const char *const *what, size_t num_what);

/* ---- requests (cmd_bench.c) ------------------------------------------------------------------ */

/* Everything that the arguments say. */
typedef struct mla_bench_request mla_bench_request;

/* The options' values; max_seconds where it is not among them. NULL after printing the error; a
 * mistake in the arguments, but for lack of memory. */
mla_bench_request *mla_bench_request_create(const mla_options *options, int64_t max_seconds);
void mla_bench_request_release(mla_bench_request *request);
const clmla_config *mla_bench_request_config(const mla_bench_request *request);

/* Opens the device and adds a row for every case, mode and backend that could be measured, without
 * printing. *about: {"device","model","layers",...}, NULL where the device could not be opened.
 * Returns an exit code, after printing the errors. */
int mla_bench_request_run(mla_bench_request *request, mla_report *report, json_t **about);

/* ---- sweep (bench_sweep.c) ------------------------------------------------------------------- */

/* Lists; each is owned. */
typedef struct mla_sweep {
    int32_t *batches, *contexts, *heads;
    size_t num_batches, num_contexts, num_heads;
} mla_sweep;

/* The lists of the options, or the defaults. False after printing the error; release in each
 * case. */
bool mla_sweep_take(const mla_options *options, const mla_bench *bench, bool named_model,
                    mla_sweep *out);
void mla_sweep_release(mla_sweep *sweep);
/* Returns an exit code. */
int mla_sweep_run(mla_bench *bench, const mla_sweep *sweep, const char *model);

#endif
