/*
 * projection_few and projection_tiled (cl/nvidia): checked on a matrix that no tile divides, every
 * element; timed on the matrices of DeepSeek-R1, where some elements are checked first.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_harness.h"

enum { PANEL = 64, ROW_GAP = 8, X_ROW = 2, Y_ROW = 1, ROWS_BEHIND = 1 };

/* y = x · Wᵀ, and where the kernel has SECOND, y2 = x · W2ᵀ. x and y begin before the first row
 * and have gaps between rows where gap > 0. */
typedef struct projection {
    const cuda_kernel *kernel;
    size_t N, N2, K, rows;
    size_t x_row, y_row, gap;
    cuda_buffer x, W, y, y2;
    uint64_t w_count; /* of both packed matrices, in uint */
} projection;

static size_t padded(size_t N) { return (N + PANEL - 1) / PANEL * PANEL; }

static size_t y_rows(const projection *p)
{
    return p->y_row + p->rows + (p->gap > 0 ? ROWS_BEHIND : 0);
}

static bool is_tiled(const cuda_kernel *kernel)
{
    return strcmp(kernel->about->name, "projection_tiled") == 0;
}

static void free_projection(harness *h, projection *p)
{
    cuda_buffer_free(&h->driver, &p->x);
    cuda_buffer_free(&h->driver, &p->y);
    cuda_buffer_free(&h->driver, &p->y2);
}

/* As src/ops/projection_native.c binds and launches it. */
static cuda_launch launch_of(const projection *p)
{
    const manifest_program *program = p->kernel->program;
    const size_t columns = p->N2 > 0 ? padded(p->N) + p->N2 : p->N;
    const size_t tile_columns = (size_t)manifest_value(program, "TILE_COLUMNS");
    const size_t tile_rows = (size_t)manifest_value(program, "TILE_ROWS");
    const unsigned by_column = (unsigned)((columns + tile_columns - 1) / tile_columns);
    const unsigned by_row = (unsigned)((p->rows + tile_rows - 1) / tile_rows);
    cuda_launch l = is_tiled(p->kernel) ? cuda_launch_of(p->kernel, by_row, by_column)
                                        : cuda_launch_of(p->kernel, by_column, by_row);
    const struct {
        const char *name;
        size_t value;
    } integers[] = {{"x_offset", 0},       {"x_row_stride", p->K + p->gap},
                    {"x_batch_stride", 0}, {"w_offset", 0},
                    {"y_offset", 0},       {"y_row_stride", p->N + p->gap},
                    {"y_batch_stride", 0}, {"N", p->N},
                    {"K", p->K},           {"x_row", p->x_row},
                    {"y_row", p->y_row},   {"num_rows", p->rows},
                    {"y2_offset", 0},      {"y2_row_stride", p->N2 + p->gap},
                    {"N2", p->N2}};
    for (size_t i = 0; i < sizeof(integers) / sizeof(integers[0]); i++)
        cuda_set_integer(&l, integers[i].name, (int64_t)integers[i].value);
    cuda_set_buffer(&l, "x", &p->x);
    cuda_set_buffer(&l, "W", &p->W);
    cuda_set_buffer(&l, "y", &p->y);
    if (p->N2 > 0)
        cuda_set_buffer(&l, "y2", &p->y2);
    return l;
}

/* Random x, of which the host keeps a copy, and poisoned results. */
static bool make_operands(harness *h, projection *p, uint16_t **x)
{
    const size_t count = (p->x_row + p->rows) * (p->K + p->gap);
    *x = malloc(count * sizeof(**x));
    if (*x == NULL)
        return cuda_fail(&h->driver, "out of memory");
    data_draw(*x, count, 11);
    return cuda_buffer_of(&h->driver, *x, count * sizeof(**x), &p->x) &&
           cuda_buffer_make(&h->driver, y_rows(p) * (p->N + p->gap) * sizeof(**x), &p->y) &&
           (p->N2 == 0 ||
            cuda_buffer_make(&h->driver, y_rows(p) * (p->N2 + p->gap) * sizeof(**x), &p->y2));
}

/* y[m, n] against the sum in double; float32 sums in any order are within K · 2^-24 · Σ|x·w|.
 * w: the packed weights on the host, element i is w[i % w_count]. */
static void compare_product(const projection *p, const uint16_t *x, const uint16_t *w,
                            size_t w_count, const char *what, size_t m, size_t column, size_t n,
                            double is, comparison *c)
{
    const uint16_t *row = x + (p->x_row + m) * (p->K + p->gap);
    double sum = 0.0, magnitude = 0.0;
    for (size_t k = 0; k < p->K; k++) {
        const double product =
            data_value(row[k]) * data_value(w[data_packed_index(p->K, column, k) % w_count]);
        sum += product;
        magnitude += fabs(product);
    }
    const double bound = (double)p->K * 0x1p-24 * magnitude;
    compare(c, what, m, n, is, sum, bound + 0x1p-8 * (fabs(sum) + bound));
}

/* ---- check ---------------------------------------------------------------------------------- */

/* Every element of y or y2, whose first column is `first` of the packed weights. */
static bool compare_all(harness *h, const projection *p, const uint16_t *x, const uint16_t *w,
                        const cuda_buffer *result, const char *what, size_t first, size_t N,
                        comparison *c)
{
    const size_t stride = N + p->gap, w_count = 2 * p->w_count;
    uint16_t *y = malloc(result->bytes);
    if (y == NULL)
        return cuda_fail(&h->driver, "out of memory");
    const bool ok = cuda_read(&h->driver, result, 0, y, result->bytes);
    for (size_t i = 0; i < result->bytes / sizeof(*y) && ok; i++) {
        const size_t row = i / stride, n = i % stride;
        if (row < p->y_row || row >= p->y_row + p->rows || n >= N)
            compare_untouched(c, what, row, n, y[i] == 0xffff);
        else
            compare_product(p, x, w, w_count, what, row - p->y_row, first + n, n, data_value(y[i]),
                            c);
    }
    free(y);
    return ok;
}

/* Both matrices packed behind each other; also to device memory. */
static uint16_t *make_weights(harness *h, projection *p)
{
    const size_t counts[] = {data_packed_count(p->N, p->K), data_packed_count(p->N2, p->K)};
    const size_t columns[] = {p->N, p->N2};
    uint16_t *packed = malloc((counts[0] + counts[1]) * sizeof(*packed));
    uint16_t *plain = malloc((p->N + p->N2) * p->K * sizeof(*plain));
    bool ok = packed != NULL && plain != NULL;
    if (!ok)
        (void)cuda_fail(&h->driver, "out of memory");
    for (size_t i = 0; i < 2 && ok; i++) {
        data_draw(plain, columns[i] * p->K, 12 + i);
        data_pack(plain, columns[i], p->K, packed + i * counts[0]);
    }
    p->w_count = (counts[0] + counts[1]) / 2;
    ok = ok && cuda_buffer_of(&h->driver, packed, 4 * p->w_count, &p->W);
    free(plain);
    if (!ok) {
        free(packed);
        packed = NULL;
    }
    return packed;
}

bool projection_verify(harness *h, const cuda_kernel *kernel, json *record)
{
    const bool second = manifest_value(kernel->program, "SECOND") == 1;
    const size_t tile_rows = (size_t)manifest_value(kernel->program, "TILE_ROWS");
    projection p = {.kernel = kernel,
                    .N = 200,
                    .N2 = second ? 72 : 0,
                    .K = 1064,
                    .rows = tile_rows + 5,
                    .x_row = X_ROW,
                    .y_row = Y_ROW,
                    .gap = ROW_GAP};
    comparison c = {.elements = 0};
    uint16_t *x = NULL;
    uint16_t *w = make_weights(h, &p);
    bool ok = w != NULL && make_operands(h, &p, &x);
    if (ok) {
        cuda_launch launch = launch_of(&p);
        ok = cuda_run(&h->driver, &launch);
    }
    ok = ok && compare_all(h, &p, x, w, &p.y, "y", 0, p.N, &c) &&
         (!second || compare_all(h, &p, x, w, &p.y2, "y2", padded(p.N), p.N2, &c)) &&
         harness_judge(h, &c, record);
    free_projection(h, &p);
    cuda_buffer_free(&h->driver, &p.W);
    free(x);
    free(w);
    return ok;
}

/* ---- measurement ---------------------------------------------------------------------------- */

/* DeepSeek-R1's, by the names of its weights. */
typedef struct matrix_shape {
    const char *name;
    size_t N, N2, K;
} matrix_shape;

static const matrix_shape models[] = {
    {"o_proj", 7168, 0, 16384},
    {"q_b_proj", 24576, 0, 1536},
    {"q_a_proj and kv_a_proj as one", 2112, 0, 7168},
    {"q_a_proj, kv_a_proj_with_mqa", 1536, 576, 7168},
};
static const matrix_shape small_shapes[] = {{"small", 128, 0, 256}, {"small pair", 64, 64, 128}};

/* Weights for all shapes: the same words over and over, in enough memory that no cache holds what
 * launches in turn read. */
typedef struct weight_pool {
    cuda_buffer buffer;
    uint16_t *words; /* their bf16 elements */
    size_t count;
} weight_pool;

static bool make_pool(harness *h, weight_pool *pool)
{
    const size_t bytes = h->small ? (size_t)1 << 20 : (size_t)1 << 30;
    *pool = (weight_pool){.count = h->small ? (size_t)1 << 18 : (size_t)1 << 24};
    pool->words = malloc(pool->count * sizeof(*pool->words));
    if (pool->words == NULL)
        return cuda_fail(&h->driver, "out of memory");
    data_draw(pool->words, pool->count, 13);
    return cuda_buffer_repeat(&h->driver, pool->words, pool->count * sizeof(*pool->words), bytes,
                              &pool->buffer);
}

/* Eight columns from the whole width, of the first and the last row. */
static bool check_sample(harness *h, const projection *p, const weight_pool *pool,
                         const uint16_t *x, comparison *c)
{
    enum { COLUMNS = 8 };
    const size_t rows[] = {0, p->rows - 1}, widths[] = {p->N, p->N2};
    for (size_t i = 0; i < 2 * 2 * COLUMNS; i++) {
        const size_t m = rows[i % 2], which = i / 2 % 2, N = widths[which];
        if (N == 0)
            continue;
        const size_t n = i / 4 * (N - 1) / (COLUMNS - 1);
        uint16_t y;
        if (!cuda_read(&h->driver, which == 0 ? &p->y : &p->y2, (m * N + n) * sizeof(y), &y,
                       sizeof(y)))
            return false;
        compare_product(p, x, pool->words, pool->count, which == 0 ? "y" : "y2", m,
                        which == 0 ? n : padded(p->N) + n, n, data_value(y), c);
    }
    return true;
}

static bool measure_run(harness *h, projection *p, const weight_pool *pool, json *record)
{
    cuda_timing timing;
    comparison c = {.elements = 0};
    uint16_t *x = NULL;
    bool ok = make_operands(h, p, &x);
    if (ok) {
        cuda_launch launch = launch_of(p);
        ok = cuda_run(&h->driver, &launch) && check_sample(h, p, pool, x, &c) &&
             harness_judge(h, &c, record);
        ok = ok && (cuda_turn(&launch, "w_offset", (int)(pool->buffer.bytes / 4 / p->w_count),
                              p->w_count) ||
                    cuda_fail(&h->driver, "the kernel has no w_offset"));
        ok = ok && cuda_time(&h->driver, &launch, 1, h->round_s, &timing);
    }
    free(x);
    if (!ok)
        return false;
    const double columns = (double)(p->N + p->N2), K = (double)p->K, rows = (double)p->rows;
    harness_timing(&timing, record);
    json_number(record, "gb_per_s", 2e-9 * (columns * K + rows * (K + columns)) / timing.median_s);
    json_number(record, "tflop_per_s", 2e-12 * rows * columns * K / timing.median_s);
    return true;
}

static void measure_kernel(harness *h, const cuda_kernel *kernel, const matrix_shape *shape,
                           size_t rows, const weight_pool *pool)
{
    json record;
    projection p = {.kernel = kernel,
                    .N = shape->N,
                    .N2 = shape->N2,
                    .K = shape->K,
                    .rows = rows,
                    .W = pool->buffer};
    p.w_count = (data_packed_count(p.N, p.K) + data_packed_count(p.N2, p.K)) / 2;
    harness_record(h, "projection", kernel, &record);
    json_string(&record, "matrix", shape->name);
    json_integer(&record, "rows", (long long)rows);
    json_integer(&record, "out_features", (long long)(shape->N + shape->N2));
    json_integer(&record, "in_features", (long long)shape->K);
    if (!harness_has_time(h)) {
        json_string(&record, "skipped", "the time is over");
        harness_print(h, &record, true);
        return;
    }
    harness_print(h, &record, measure_run(h, &p, pool, &record));
    free_projection(h, &p);
}

/* Every verified kernel of that name with every shape that it takes. */
static void measure_kernels(harness *h, const char *name, const size_t *rows, size_t num_rows,
                            const weight_pool *pool)
{
    const matrix_shape *const shapes = h->small ? small_shapes : models;
    const size_t num_shapes = h->small ? sizeof(small_shapes) / sizeof(small_shapes[0])
                                       : sizeof(models) / sizeof(models[0]);
    for (size_t s = 0; s < num_shapes; s++)
        for (int i = 0; i < h->num_kernels; i++) {
            const cuda_kernel *kernel = &h->kernels[i];
            const bool pair = manifest_value(kernel->program, "SECOND") == 1;
            if (!kernel->verified || strcmp(kernel->about->name, name) != 0 ||
                pair != (shapes[s].N2 > 0))
                continue;
            for (size_t r = 0; r < num_rows; r++)
                measure_kernel(h, kernel, &shapes[s], rows[r], pool);
        }
}

void projection_measure(harness *h)
{
    static const size_t few[] = {1, 16}, many[] = {704}, small[] = {130};
    weight_pool pool;
    if (harness_verified(h, "projection_few") == NULL &&
        harness_verified(h, "projection_tiled") == NULL)
        return;
    if (make_pool(h, &pool)) {
        measure_kernels(h, "projection_few", few, 2, &pool);
        measure_kernels(h, "projection_tiled", h->small ? small : many, 1, &pool);
    } else {
        json record;
        harness_record(h, "projection", NULL, &record);
        harness_print(h, &record, false);
    }
    cuda_buffer_free(&h->driver, &pool.buffer);
    free(pool.words);
}
