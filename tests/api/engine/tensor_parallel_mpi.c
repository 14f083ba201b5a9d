/*
 * Tensor parallelism over processes: each rank holds an equal share of the heads on a device of its
 * own, and MPI adds up what they compute. clmla knows nothing of ranks: to it a shard is a layer
 * with fewer heads, whose float32 output is a summand.
 *
 *     mpiexec -n 2 tensor_parallel_mpi [auto|cpu|gpu|nvidia]
 *
 * Rank 0 computes the same steps with all the heads, too, and compares. Exits 0 when they agree.
 */
#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device.h"
#include "pages.h"
#include "shard.h"

/* Two sequences, a prompt each and then three decode steps. */
enum { NUM_SEQUENCES = 2, NUM_STEPS = 4, NUM_VALUES = MAX_STEP_TOKENS * HIDDEN_SIZE };

static const int32_t new_tokens[NUM_STEPS][NUM_SEQUENCES] = {{6, 10}, {1, 1}, {1, 1}, {1, 1}};

/* What a rank, or the whole model in one process, computes with. */
struct worker {
    cl_context cl;
    clmla_context *context;
    cl_mem hidden[2];
    struct shard shard;
};

static void print_note(clmla_status status, const char *text, void *user)
{
    const int *rank = user;
    if (status != CLMLA_SUCCESS)
        fprintf(stderr, "rank %d: clmla: %s: %s\n", *rank, clmla_status_name(status), text);
}

static clmla_status worker_create(const struct model *model, cl_device_id device,
                                  clmla_kernel_class kernel_class, int32_t first_head,
                                  int32_t num_heads, int *rank, struct worker *worker)
{
    const clmla_context_options options = {.struct_size = sizeof options,
                                           .notify = print_note,
                                           .notify_user = rank,
                                           .kernel_class = kernel_class};
    clmla_status status = CLMLA_SUCCESS;
    worker->cl = clCreateContext(NULL, 1, &device, NULL, NULL, &status);
    for (int i = 0; i < 2 && status == CLMLA_SUCCESS; i++)
        worker->hidden[i] = clCreateBuffer(worker->cl, CL_MEM_READ_WRITE,
                                           NUM_VALUES * sizeof(float), NULL, &status);
    if (status == CLMLA_SUCCESS)
        status = clmla_context_create(worker->cl, device, &options, &worker->context);
    const struct shard_params params = {.model = model,
                                        .cl = worker->cl,
                                        .device = device,
                                        .context = worker->context,
                                        .first_head = first_head,
                                        .num_heads = num_heads,
                                        .hidden = {worker->hidden[0], worker->hidden[1]}};
    return status == CLMLA_SUCCESS ? shard_create(&params, &worker->shard) : status;
}

static void worker_release(struct worker *worker)
{
    shard_release(&worker->shard);
    clmla_context_release(worker->context);
    for (int i = 0; i < 2; i++) {
        if (worker->hidden[i] != NULL)
            clReleaseMemObject(worker->hidden[i]);
    }
    if (worker->cl != NULL)
        clReleaseContext(worker->cl);
}

/* Every rank caches all latents, so every rank has the same plan. Sequence b has the pages from
 * b · MAX_PAGES_PER_SEQUENCE / 2 on; engine.c shows how an engine hands them out. */
static clmla_status plan_step(struct worker *worker, int step)
{
    enum { PAGES = MAX_PAGES_PER_SEQUENCE / 2 };
    int32_t cu_seqlens_q[NUM_SEQUENCES + 1] = {0}, cache_seqlens[NUM_SEQUENCES] = {0};
    int32_t block_table[NUM_SEQUENCES][PAGES];
    for (int32_t b = 0; b < NUM_SEQUENCES; b++) {
        cu_seqlens_q[b + 1] = cu_seqlens_q[b] + new_tokens[step][b];
        for (int i = 0; i <= step; i++)
            cache_seqlens[b] += new_tokens[i][b];
        for (int32_t i = 0; i < PAGES; i++)
            block_table[b][i] = b * PAGES + i;
    }
    const clmla_step tables = {.struct_size = sizeof tables,
                               .num_sequences = NUM_SEQUENCES,
                               .cu_seqlens_q = cu_seqlens_q,
                               .cache_seqlens = cache_seqlens,
                               .block_table = &block_table[0][0],
                               .block_table_stride = PAGES};
    return clmla_enqueue_plan(worker->shard.plan, &tables, worker->shard.queue, 0, NULL, NULL);
}

/* One step on this rank's heads. hidden [num_tokens, HIDDEN_SIZE]: input and output. After each
 * layer the ranks' summands become the sum on all of them: the next layer needs the whole hidden
 * state. parallel 0: this worker has all the heads already.
 * The sum goes through host memory, which every MPI can do; with one that takes the memory of the
 * devices the two copies go away. */
static clmla_status compute_step(struct worker *worker, int step, int parallel, float *hidden,
                                 int num_tokens)
{
    const cl_command_queue queue = worker->shard.queue;
    const int count = num_tokens * HIDDEN_SIZE;
    const size_t bytes = (size_t)count * sizeof *hidden;
    clmla_status status = plan_step(worker, step);
    for (int layer = 0; layer < NUM_LAYERS && status == CLMLA_SUCCESS; layer++) {
        status = clEnqueueWriteBuffer(queue, worker->hidden[layer % 2], CL_FALSE, 0, bytes, hidden,
                                      0, NULL, NULL);
        if (status == CLMLA_SUCCESS)
            status = clmla_enqueue_layer(worker->shard.layers[layer].binding, worker->shard.plan,
                                         queue, 0, NULL, NULL);
        if (status == CLMLA_SUCCESS)
            status = clEnqueueReadBuffer(queue, worker->hidden[(layer + 1) % 2], CL_TRUE, 0, bytes,
                                         hidden, 0, NULL, NULL);
        if (status == CLMLA_SUCCESS && parallel)
            MPI_Allreduce(MPI_IN_PLACE, hidden, count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    }
    return status;
}

/* All steps; outputs [NUM_STEPS, NUM_VALUES]. The tokens are arbitrary. */
static clmla_status compute(struct worker *worker, const struct model *model, int parallel,
                            float *outputs)
{
    clmla_status status = CLMLA_SUCCESS;
    for (int step = 0; step < NUM_STEPS && status == CLMLA_SUCCESS; step++) {
        float *hidden = outputs + (size_t)step * NUM_VALUES;
        int num_tokens = 0;
        for (int b = 0; b < NUM_SEQUENCES; b++)
            num_tokens += new_tokens[step][b];
        for (int t = 0; t < num_tokens; t++)
            model_embed(model, (7 * step + 3 * t) % VOCABULARY, hidden + (size_t)t * HIDDEN_SIZE);
        status = compute_step(worker, step, parallel, hidden, num_tokens);
    }
    return status;
}

/* float32 sums in another order, and what becomes of them when bf16 cache rows are rounded: the
 * bound is the one between a result and the reference. */
static bool outputs_agree(const float *sum, const float *whole)
{
    double error = 0, norm = 0;
    for (size_t i = 0; i < NUM_STEPS * NUM_VALUES; i++) {
        error += ((double)sum[i] - (double)whole[i]) * ((double)sum[i] - (double)whole[i]);
        norm += (double)whole[i] * (double)whole[i];
    }
    const bool agree = norm > 0 && sqrt(error) <= 1e-2 * sqrt(norm);
    printf("tensor_parallel_mpi: relative distance from one process: %.2g\n", sqrt(error / norm));
    return agree;
}

/* This rank's heads, and on rank 0 all of them once more. The ranks of one machine take its devices
 * in turn; with several machines the rank within the machine counts (MPI_Comm_split_type). */
static clmla_status run(const struct model *model, clmla_kernel_class kernel_class, int rank,
                        int num_ranks, bool *agree)
{
    static float sum[NUM_STEPS * NUM_VALUES], whole[NUM_STEPS * NUM_VALUES];
    const int32_t num_heads = NUM_HEADS / num_ranks;
    const cl_device_id device = choose_device(rank);
    struct worker worker = {0};
    if (device == NULL)
        return CL_DEVICE_NOT_FOUND;
    clmla_status status =
        worker_create(model, device, kernel_class, rank * num_heads, num_heads, &rank, &worker);
    if (status == CLMLA_SUCCESS)
        status = compute(&worker, model, 1, sum);
    worker_release(&worker);
    if (status != CLMLA_SUCCESS || rank != 0)
        return status;

    memset(&worker, 0, sizeof worker);
    status = worker_create(model, device, kernel_class, 0, NUM_HEADS, &rank, &worker);
    if (status == CLMLA_SUCCESS)
        status = compute(&worker, model, 0, whole);
    worker_release(&worker);
    *agree = status == CLMLA_SUCCESS && outputs_agree(sum, whole);
    return status;
}

int main(int argc, char **argv)
{
    struct model model = {0};
    clmla_kernel_class kernel_class = CLMLA_KERNELS_AUTO;
    int rank = 0, num_ranks = 1;
    bool agree = true;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &num_ranks);
    if (argc > 2 || (argc == 2 && !parse_kernel_class(argv[1], &kernel_class)) ||
        NUM_HEADS % num_ranks != 0) {
        if (rank == 0)
            fprintf(stderr, "usage: mpiexec -n N %s [auto|cpu|gpu|nvidia], N a divisor of %d\n",
                    argv[0], (int)NUM_HEADS);
        MPI_Finalize();
        return 2;
    }

    clmla_status status = model_create(&model);
    if (status == CLMLA_SUCCESS)
        status = run(&model, kernel_class, rank, num_ranks, &agree);
    model_release(&model);
    if (status != CLMLA_SUCCESS) {
        fprintf(stderr, "tensor_parallel_mpi: rank %d: %s (%s)\n", rank,
                clmla_status_message(status), clmla_status_name(status));
        MPI_Abort(MPI_COMM_WORLD, EXIT_FAILURE); /* the others wait for this one's summands */
    }
    MPI_Finalize();
    return agree ? EXIT_SUCCESS : EXIT_FAILURE;
}
