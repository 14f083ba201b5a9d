/*
 * Native kernels or CLBlast: up to how many rows backend AUTO takes our own.
 *
 * All products of a layer by either, for rising numbers of rows, every output checked before it is
 * timed, until CLBlast is the faster one: from there on its conversions of x and W, which cost the
 * same for any number of rows, weigh less and less.
 */
#include <stdio.h>

#include "cli/cli.h"
#include "cli/message.h"
#include "cli/tune.h"
#include "core/os.h"

enum { SAMPLES = 5, WHY_BYTES = 256 };
enum { ALL_ROWS = 1 << 24 }; /* what a record says for any number of rows */

/* CLBlast that takes so much longer in its first call is not timed any further. */
#define HOPELESS 1.5

static const int32_t row_counts[MLA_BACKEND_MOST_ROWS] = {1, 16, 32, 64, 128, 256, 512};

int32_t mla_tune_backend_max_rows(void) { return row_counts[MLA_BACKEND_MOST_ROWS - 1]; }

/* One product by one backend: checked, then timed. most_ns: as for mla_tune_time. */
static clmla_status measure(mla_session *tuned, mla_subject *subject,
                            clmla_projection_backend backend, double most_ns,
                            mla_backend_result *out, double *ns)
{
    char why[WHY_BYTES];
    bool right = false;
    mla_product_set_backend(subject->product, backend);
    const clmla_status status = mla_subject_check(subject, tuned->clmla, &right, why, sizeof(why));
    if (status != CLMLA_SUCCESS)
        return status;
    if (right)
        return mla_tune_time(subject, tuned->clmla, SAMPLES, most_ns, ns, NULL);
    out->wrong++;
    mla_error("%s: %s computes wrong results: %s; please report this", subject->name,
              backend == CLMLA_PROJECTION_NATIVE ? "the native kernel" : "CLBlast", why);
    return CLMLA_SUCCESS;
}

/* All products at so many rows by both; *taken gets the sums. */
static clmla_status measure_rows(mla_session *tuned, mla_subject *subjects, int count,
                                 mla_backend_result *out, mla_backend_times *taken)
{
    clmla_status status = CLMLA_SUCCESS;
    for (int i = 0; i < count && status == CLMLA_SUCCESS && !mla__os_interrupted(); i++) {
        double native = 0.0, clblast = 0.0;
        subjects[i].rows = taken->rows;
        status = measure(tuned, &subjects[i], CLMLA_PROJECTION_NATIVE, 0.0, out, &native);
        if (status == CLMLA_SUCCESS)
            status = measure(tuned, &subjects[i], CLMLA_PROJECTION_CLBLAST, HOPELESS * native, out,
                             &clblast);
        taken->native_ns += native;
        taken->clblast_ns += clblast;
    }
    return status;
}

/* "auto_gpu weights=bf16 : native_max_rows=64 | rows=16 native_ns=... clblast_ns=... rows=32 ..." */
static void print_line(const char *key, mla_backend_result *out)
{
    size_t used = (size_t)snprintf(out->line, sizeof(out->line), "%s : native_max_rows=%d |", key,
                                   (int)out->native_max_rows);
    for (int i = 0; i < out->count && used < sizeof(out->line); i++)
        used += (size_t)snprintf(out->line + used, sizeof(out->line) - used,
                                 " rows=%d native_ns=%.0f clblast_ns=%.0f", (int)out->times[i].rows,
                                 out->times[i].native_ns, out->times[i].clblast_ns);
}

int mla_tune_backend(const mla_session *session, mla_subject *subjects, int count,
                     const mla_tune_record *record, const char *key, mla_backend_result *out)
{
    mla_session tuned;
    bool native_wins = true;
    *out = (mla_backend_result){.native_max_rows = 0};
    clmla_status status = mla_tune_record_session(record, session, NULL, &tuned);
    while (status == CLMLA_SUCCESS && native_wins && out->wrong == 0 && !mla__os_interrupted() &&
           out->count < MLA_BACKEND_MOST_ROWS) {
        mla_backend_times taken = {.rows = row_counts[out->count]};
        mla_progress("native or CLBlast: %d rows", (int)taken.rows);
        status = measure_rows(&tuned, subjects, count, out, &taken);
        native_wins = taken.native_ns <= taken.clblast_ns;
        if (native_wins)
            out->native_max_rows = taken.rows;
        out->times[out->count++] = taken;
    }
    if (native_wins)
        out->native_max_rows = ALL_ROWS;
    mla_progress_clear();
    out->stopped = mla__os_interrupted();
    int code = MLA_EXIT_SUCCESS;
    if (status != CLMLA_SUCCESS)
        code = mla_session_fail(&tuned, "native or CLBlast", status);
    else if (out->wrong > 0)
        code = MLA_EXIT_FAILED;
    mla_session_close(&tuned);
    print_line(key, out);
    return code;
}
