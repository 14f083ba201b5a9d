/*
 * A product of a model as a subject: y = x · Wᵀ on drawn data, and what it must come out as.
 *
 * Every output is compared with the sum in double. Long batches would cost as many sums as they have
 * rows, so their rows repeat a few base rows, in an order that no tile has the period of.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/convert.h"
#include "cli/draw_fp8.h"
#include "cli/tune.h"
#include "core/config.h"
#include "core/dtype.h"
#include "ref/draw.h"

enum {
    BASE_ROWS = 13, /* prime: tiles and work-groups are not */
    BASE_STEP = 5,
    MOST_COPIES = 16
};

/* Copies of the weights take turns until they are this many bytes: more than caches hold. */
#define COPIES_BYTES ((uint64_t)128 << 20)

struct mla_product_data {
    mla_session *session;
    mla_tune_product product;
    clmla_projection_backend backend; /* AUTO: set before each call */
    int32_t max_rows, base_rows;
    unsigned num_copies;
    clmla_matrix *copies[MOST_COPIES];
    cl_mem workspace;
    cl_mem x, y;                  /* [max_rows, batches, in], [max_rows, batches, out] */
    double *expected, *magnitude; /* [base_rows, batches, out]: Σ x · w, Σ |x · w| */
};

/* ---- the products of a model ----------------------------------------------------------------- */

static void add(mla_tune_product *out, int *count, const mla_tune_product *product)
{
    for (int i = 0; i < *count; i++)
        if (out[i].batches == product->batches && out[i].out_features == product->out_features &&
            out[i].in_features == product->in_features)
            return;
    if (product->out_features > 0 && product->in_features > 0)
        out[(*count)++] = *product;
}

int mla_tune_products(const clmla_config *c, clmla_dtype dtype, clmla_dtype weights, bool paired,
                      mla_tune_product out[MLA_MOST_PRODUCTS])
{
    enum { PANEL = 64 }; /* of packed weights, at whose bounds the second of a pair begins */
    /* q_lat and ctx stay float32 beside f16 storage */
    const clmla_dtype latent = dtype == CLMLA_DTYPE_F16 ? CLMLA_DTYPE_F32 : dtype;
    const int32_t heads = c->num_attention_heads, q_rows = heads * mla__config_qk_head_dim(c);
    const int32_t q_first = c->q_lora_rank > 0 ? c->q_lora_rank : q_rows;
    const int32_t pair = (q_first + PANEL - 1) / PANEL * PANEL + mla__config_kv_dim(c);
    const mla_tune_product products[] = {
        {"q_proj", 1, c->q_lora_rank > 0 ? 0 : q_rows, c->hidden_size, dtype, weights, dtype},
        {"q_a_proj", 1, c->q_lora_rank, c->hidden_size, dtype, weights, dtype},
        {"q_b_proj", 1, q_rows, c->q_lora_rank, dtype, weights, dtype},
        {"kv_a_proj_with_mqa", 1, mla__config_kv_dim(c), c->hidden_size, dtype, weights,
         CLMLA_DTYPE_F32},
        {"both of hidden_states", 1, paired ? pair : 0, c->hidden_size, dtype, weights, dtype},
        {"W_UK", heads, c->kv_lora_rank, c->qk_nope_head_dim, dtype, weights, latent},
        {"W_UV", heads, c->v_head_dim, c->kv_lora_rank, latent, weights, dtype},
        {"o_proj", 1, c->hidden_size, heads * c->v_head_dim, dtype, weights, dtype},
    };
    int count = 0;
    for (size_t i = 0; i < sizeof(products) / sizeof(products[0]); i++)
        add(out, &count, &products[i]);
    return count;
}

/* ---- data ------------------------------------------------------------------------------------ */

/* Where row `row` of a batch has its data from. */
static int32_t base_of(const mla_product_data *d, int32_t row)
{
    return (int32_t)((int64_t)row * BASE_STEP % d->base_rows);
}

static uint16_t *draw(const mla_product_data *d, const char *what, size_t count, int exp)
{
    char name[64];
    uint16_t *patterns = malloc(count * sizeof(*patterns));
    (void)snprintf(name, sizeof(name), "tune.%s.%s", d->product.name, what);
    if (patterns != NULL)
        mla_draw(mla_draw_base(name, d->session->common->seed), 0, count, MLA_DRAW_SYM, exp,
                 patterns);
    return patterns;
}

/* Drawn weights [batches · out, in]; of FP8 weights what they are as codes, one matrix. */
typedef struct drawn_weights {
    uint16_t *patterns;
    uint8_t *codes; /* NULL: not FP8 */
    float *scale_inv;
} drawn_weights;

/* False: out of memory. Release in each case. */
static bool draw_weights(const mla_product_data *d, drawn_weights *out)
{
    const mla_tune_product *p = &d->product;
    const size_t rows = (size_t)p->batches * (size_t)p->out_features, in = (size_t)p->in_features;
    *out =
        (drawn_weights){.patterns = draw(d, "w", rows * in, mla_draw_weight_exp(p->in_features))};
    if (out->patterns == NULL || p->w != CLMLA_DTYPE_F8_E4M3)
        return out->patterns != NULL;
    out->codes = malloc(rows * in);
    out->scale_inv = malloc(mla_fp8_scales(rows, in) * sizeof(float));
    if (out->codes == NULL || out->scale_inv == NULL)
        return false;
    mla_draw_fp8(p->name, d->session->common->seed, out->patterns, rows, in, out->codes,
                 out->scale_inv);
    return true;
}

static void release_weights(drawn_weights *w)
{
    free(w->patterns);
    free(w->codes);
    free(w->scale_inv);
}

/* Row `row` of the matrix. */
static void load_row(const drawn_weights *w, size_t row, size_t in, float *out)
{
    const size_t blocks = (in - 1) / MLA__FP8_BLOCK + 1;
    if (w->codes == NULL) {
        mla_load_floats(w->patterns, CLMLA_DTYPE_BF16, row * in, in, out);
        return;
    }
    for (size_t k = 0; k < in; k++)
        out[k] = mla__f8_e4m3_to_float(w->codes[row * in + k]) *
                 w->scale_inv[row / MLA__FP8_BLOCK * blocks + k / MLA__FP8_BLOCK];
}

/* Sums in double of every base row. The drawn values are the same in every storage dtype but FP8. */
static bool expect(mla_product_data *d, const uint16_t *x, const drawn_weights *w)
{
    const size_t in = (size_t)d->product.in_features, out = (size_t)d->product.out_features;
    const size_t batches = (size_t)d->product.batches, rows = (size_t)d->base_rows;
    d->expected = calloc(rows * batches * out, sizeof(double));
    d->magnitude = calloc(rows * batches * out, sizeof(double));
    float *x_row = malloc(rows * in * sizeof(*x_row)), *w_row = malloc(in * sizeof(*w_row));
    const bool made = d->expected != NULL && d->magnitude != NULL && x_row != NULL && w_row != NULL;
    for (size_t b = 0; b < batches && made; b++) {
        for (size_t r = 0; r < rows; r++)
            mla_load_floats(x, CLMLA_DTYPE_BF16, (r * batches + b) * in, in, x_row + r * in);
        for (size_t n = 0; n < out; n++) {
            load_row(w, b * out + n, in, w_row);
            for (size_t r = 0; r < rows; r++) {
                double sum = 0.0, magnitude = 0.0;
                for (size_t k = 0; k < in; k++) {
                    const double term = (double)x_row[r * in + k] * (double)w_row[k];
                    sum += term;
                    magnitude += fabs(term);
                }
                d->expected[(r * batches + b) * out + n] = sum;
                d->magnitude[(r * batches + b) * out + n] = magnitude;
            }
        }
    }
    free(x_row);
    free(w_row);
    return made;
}

/* x with its rows in their order. */
static clmla_status upload_x(mla_product_data *d, const uint16_t *base)
{
    const size_t width = (size_t)d->product.batches * (size_t)d->product.in_features;
    const size_t bytes = mla__dtype_bytes(d->product.x) * width;
    unsigned char *host = malloc((size_t)d->max_rows * bytes);
    if (host == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    for (int32_t row = 0; row < d->max_rows; row++)
        mla_store_array(base + (size_t)base_of(d, row) * width, CLMLA_DTYPE_BF16, width,
                        d->product.x, host, (size_t)row * width);
    const clmla_status status =
        mla_session_buffer(d->session, host, (uint64_t)d->max_rows * bytes, &d->x);
    free(host);
    return status;
}

static clmla_status pack(mla_product_data *d, const drawn_weights *w)
{
    const clmla_weight_source patterns = {.host = w->patterns,
                                          .tensor = {.dtype = CLMLA_DTYPE_BF16}};
    const clmla_weight_source codes = {
        .host = w->codes, .tensor = {.dtype = CLMLA_DTYPE_F8_E4M3}, .scale_inv = w->scale_inv};
    const clmla_matrix_params params = {
        .struct_size = sizeof(params),
        .source = w->codes != NULL ? codes : patterns,
        .num_batches = d->product.batches,
        .out_features = d->product.out_features,
        .in_features = d->product.in_features,
        .dtype = d->product.w,
    };
    uint64_t bytes = 0;
    clmla_status status = clmla_matrix_size(d->session->clmla, &params, &bytes);
    if (status != CLMLA_SUCCESS)
        return status;
    const uint64_t wanted = COPIES_BYTES / (bytes > 0 ? bytes : 1) + 1;
    unsigned copies = wanted < MOST_COPIES ? (unsigned)wanted : MOST_COPIES;
    if (d->backend == CLMLA_PROJECTION_CLBLAST) /* converts them at every call */
        copies = 1;
    for (; d->num_copies < copies && status == CLMLA_SUCCESS; d->num_copies++)
        status = clmla_matrix_create(d->session->clmla, &params, d->session->queue,
                                     &d->copies[d->num_copies]);
    return status;
}

/* Twice what the library's own parameters need: others may pad rows to more. */
static clmla_status make_workspace(mla_product_data *d)
{
    uint64_t bytes = 0;
    clmla_projection_params params = mla_product_params(d, d->max_rows, 0);
    if (params.backend == CLMLA_PROJECTION_AUTO)
        params.backend = CLMLA_PROJECTION_CLBLAST; /* native kernels need none */
    const clmla_status status = clmla_projection_workspace_size(d->session->clmla, &params, &bytes);
    return status == CLMLA_SUCCESS ? mla_session_buffer(d->session, NULL, 2 * bytes, &d->workspace)
                                   : status;
}

void mla_product_set_backend(mla_product_data *d, clmla_projection_backend backend)
{
    d->backend = backend;
}

bool mla_product_is_native(const mla_product_data *d)
{
    return d->backend == CLMLA_PROJECTION_NATIVE;
}

clmla_status mla_product_create(mla_session *session, const mla_tune_product *product,
                                clmla_projection_backend backend, int32_t max_rows,
                                mla_product_data **out)
{
    mla_product_data *d = calloc(1, sizeof(*d));
    *out = d;
    if (d == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    d->session = session;
    d->product = *product;
    d->backend = backend;
    d->max_rows = max_rows;
    d->base_rows = max_rows < BASE_ROWS ? max_rows : BASE_ROWS;
    if (d->base_rows % BASE_STEP == 0) /* else rows would not take every base row in turn */
        d->base_rows--;
    const size_t batches = (size_t)product->batches, in = (size_t)product->in_features;
    const size_t out_row = batches * (size_t)product->out_features;
    uint16_t *x = draw(d, "x", (size_t)d->base_rows * batches * in, MLA_DRAW_INPUT_EXP);
    drawn_weights w;
    clmla_status status = CL_OUT_OF_HOST_MEMORY;
    if (draw_weights(d, &w) && x != NULL && expect(d, x, &w))
        status = upload_x(d, x);
    if (status == CLMLA_SUCCESS)
        status = pack(d, &w);
    if (status == CLMLA_SUCCESS)
        status = mla_session_buffer(
            session, NULL, (uint64_t)max_rows * out_row * mla__dtype_bytes(product->y), &d->y);
    if (status == CLMLA_SUCCESS)
        status = make_workspace(d);
    if (status == CLMLA_SUCCESS)
        status = clFinish(session->queue);
    free(x);
    release_weights(&w);
    return status;
}

void mla_product_release(mla_product_data *d)
{
    if (d == NULL)
        return;
    for (unsigned i = 0; i < d->num_copies; i++)
        clmla_matrix_release(d->copies[i]);
    mla_buffer_release(d->x);
    mla_buffer_release(d->y);
    mla_buffer_release(d->workspace);
    free(d->expected);
    free(d->magnitude);
    free(d);
}

clmla_projection_params mla_product_params(const mla_product_data *d, int32_t rows, unsigned turn)
{
    return (clmla_projection_params){
        .struct_size = sizeof(clmla_projection_params),
        .matrix = d->copies[turn % d->num_copies],
        .num_rows = rows,
        .x = {.buffer = d->x, .dtype = d->product.x},
        .y = {.buffer = d->y, .dtype = d->product.y},
        .workspace = {.buffer = d->workspace},
        .backend = d->backend,
    };
}

/* ---- results --------------------------------------------------------------------------------- */

cl_mem mla_product_output(const mla_product_data *d, int32_t rows, size_t *bytes)
{
    *bytes = (size_t)rows * (size_t)d->product.batches * (size_t)d->product.out_features *
             mla__dtype_bytes(d->product.y);
    return d->y;
}

/* Half a unit in the last place of a value rounded to dtype. */
static double rounding(clmla_dtype dtype, double value)
{
    switch (dtype) {
    case CLMLA_DTYPE_BF16:
        return 0x1p-8 * fabs(value);
    case CLMLA_DTYPE_F16:
        return fmax(0x1p-11 * fabs(value), 0x1p-25);
    default:
        return 0x1p-24 * fabs(value);
    }
}

/* A chain of in_features multiply-adds, in whatever order, is within in_features · 2^-24 · Σ |x · w|;
 * one rounding more stores it. */
bool mla_product_compare(const mla_product_data *d, const void *results, int32_t rows, char *why,
                         size_t why_bytes)
{
    const size_t width = (size_t)d->product.batches * (size_t)d->product.out_features;
    for (int32_t row = 0; row < rows; row++) {
        const size_t base = (size_t)base_of(d, row) * width;
        for (size_t i = 0; i < width; i++) {
            const double value = mla__load(results, d->product.y, (size_t)row * width + i);
            const double truth = d->expected[base + i];
            const double chain = (double)d->product.in_features * 0x1p-24 * d->magnitude[base + i];
            if (fabs(value - truth) <= chain + rounding(d->product.y, fabs(truth) + chain))
                continue; /* NaN fails */
            (void)snprintf(why, why_bytes, "row %d, column %zu is %g, must be %g", (int)row, i,
                           value, truth);
            return false;
        }
    }
    return true;
}
