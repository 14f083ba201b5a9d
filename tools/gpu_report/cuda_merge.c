#include "cuda_merge.h"

#include <math.h>
#include <stdlib.h>

#include "cuda_harness.h"

/* As src/ops/merge.c binds and launches it. */
cuda_launch merge_launch(const cuda_kernel *kernel, const merge_operands *o)
{
    enum { WORK_GROUP = 64, VALUES = 16 };
    const int64_t row = (int64_t)o->heads * o->dim;
    const int64_t items = o->tokens * (int64_t)o->heads * ((o->dim + VALUES - 1) / VALUES);
    cuda_launch l = cuda_launch_of(kernel, (unsigned)((items + WORK_GROUP - 1) / WORK_GROUP), 1);
    const struct {
        const char *name;
        int64_t value;
    } integers[] = {{"partial_offset", 0},
                    {"partial_state_stride", o->tokens * row},
                    {"partial_token_stride", row},
                    {"partial_head_stride", o->dim},
                    {"partial_lse_offset", 0},
                    {"partial_lse_state_stride", (int64_t)o->tokens * o->heads},
                    {"partial_lse_token_stride", o->heads},
                    {"out_offset", 0},
                    {"out_token_stride", row},
                    {"out_head_stride", o->dim},
                    {"lse_offset", 0},
                    {"lse_token_stride", o->heads},
                    {"num_states", o->splits},
                    {"num_tokens", o->tokens},
                    {"num_heads", o->heads},
                    {"dim", o->dim}};
    l.work_items = WORK_GROUP;
    for (size_t i = 0; i < sizeof(integers) / sizeof(integers[0]); i++)
        cuda_set_integer(&l, integers[i].name, integers[i].value);
    cuda_set_buffer(&l, "partial_out", &o->states);
    cuda_set_buffer(&l, "partial_lse", &o->state_lse);
    cuda_set_buffer(&l, "out", &o->out);
    cuda_set_buffer(&l, "lse", &o->lse);
    return l;
}

/* ---- check ---------------------------------------------------------------------------------- */

enum { SPLITS = 3, TOKENS = 3, HEADS = 5, DIM = 512, ROWS = TOKENS * HEADS };

/* States of the check on the host, and what came of them. */
typedef struct merge_data {
    float states[SPLITS * ROWS * DIM], state_lse[SPLITS * ROWS], lse[ROWS];
    uint16_t drawn[SPLITS * ROWS * DIM], out[ROWS * DIM];
} merge_data;

/* Row 0 has no state at all, row r no state r % 4; those hold NaN. */
static bool is_empty(int split, int row) { return row == 0 || split == row % 4; }

static void draw(merge_data *d)
{
    data_draw(d->drawn, SPLITS * ROWS * DIM, 21);
    for (int i = 0; i < SPLITS * ROWS; i++) {
        const bool empty = is_empty(i / ROWS, i % ROWS);
        d->state_lse[i] = empty ? -INFINITY : 8.0f * (float)data_value(d->drawn[7 * i]);
        for (int j = 0; j < DIM; j++)
            d->states[i * DIM + j] = empty ? NAN : (float)data_value(d->drawn[i * DIM + j]);
    }
}

/* One row against the sum in double; exp and the additions have float32's error. */
static void compare_row(const merge_data *d, int row, comparison *c)
{
    double total = 0.0;
    for (int s = 0; s < SPLITS; s++)
        total += exp((double)d->state_lse[s * ROWS + row]);
    const double lse = total > 0.0 ? log(total) : -HUGE_VAL;
    compare(c, "lse", (size_t)row, 0, (double)d->lse[row], lse, 0x1p-18);
    for (int j = 0; j < DIM; j++) {
        double sum = 0.0, magnitude = 0.0;
        for (int s = 0; s < SPLITS; s++) {
            const int at = s * ROWS + row;
            if (is_empty(s, row))
                continue;
            const double weight = exp((double)d->state_lse[at] - lse);
            sum += weight * (double)d->states[at * DIM + j];
            magnitude += weight * fabs((double)d->states[at * DIM + j]);
        }
        compare(c, "out", (size_t)row, (size_t)j, data_value(d->out[row * DIM + j]), sum,
                0x1p-8 * fabs(sum) + 0x1p-18 * magnitude);
    }
}

bool merge_verify(harness *h, const cuda_kernel *kernel, json *record)
{
    cuda *const c = &h->driver;
    comparison compared = {.elements = 0};
    merge_operands o = {.splits = SPLITS, .tokens = TOKENS, .heads = HEADS, .dim = DIM};
    merge_data *d = malloc(sizeof(*d));
    if (d == NULL)
        return cuda_fail(c, "out of memory");
    draw(d);
    bool ok = cuda_buffer_of(c, d->states, sizeof(d->states), &o.states) &&
              cuda_buffer_of(c, d->state_lse, sizeof(d->state_lse), &o.state_lse) &&
              cuda_buffer_make(c, sizeof(d->out), &o.out) &&
              cuda_buffer_make(c, sizeof(d->lse), &o.lse);
    if (ok) {
        cuda_launch launch = merge_launch(kernel, &o);
        ok = cuda_run(c, &launch) && cuda_read(c, &o.out, 0, d->out, sizeof(d->out)) &&
             cuda_read(c, &o.lse, 0, d->lse, sizeof(d->lse));
    }
    for (int row = 0; row < ROWS && ok; row++)
        compare_row(d, row, &compared);
    cuda_buffer_free(c, &o.states);
    cuda_buffer_free(c, &o.state_lse);
    cuda_buffer_free(c, &o.out);
    cuda_buffer_free(c, &o.lse);
    free(d);
    return ok && harness_judge(h, &compared, record);
}
