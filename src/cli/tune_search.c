/*
 * The search of one line's tile: change by change from the built-in tile on, keeping what is faster,
 * until no change is. A candidate is built by a context of its own, has to compute every output
 * right, and is timed then. What is fastest at the end is measured once more, in turns with the
 * built-in tile, and only takes its place with a margin.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/message.h"
#include "cli/stats.h"
#include "cli/tune.h"
#include "core/os.h"

/* Less than this is noise: within the search; at the end, of the whole and of each batch. At the end
 * the better tile has to win nearly every turn, too: of two equal ones either does in one search of
 * sixteen. */
#define SEARCH_MARGIN 0.01
#define FINAL_MARGIN 0.03
#define BATCH_MARGIN 0.02

/* A candidate that takes so much longer in its first call is not timed any further. */
#define HOPELESS 1.5

enum {
    SEARCH_SAMPLES = 5,
    FINAL_SAMPLES = 3,
    FINAL_TURNS = 7,
    FINAL_WINS = 6,
    MOST_TRIED = 512,
    WHY_BYTES = 256
};

typedef struct search {
    const mla_session *session;
    mla_subject *subjects;
    int count;
    const mla_tune_record *record;
    char tried[MOST_TRIED][MLA_LINE_BYTES]; /* tiles */
    int num_tried;
    uint64_t end_ns;
    double built_in_ns[MLA_MOST_SUBJECTS];
    mla_tune_result *result;
} search;

/* How a candidate came out. */
typedef enum outcome {
    TIMED,
    LEFT_OUT, /* refused, does not build, or wrong; told already */
    FAILED    /* OpenCL or memory; told already */
} outcome;

/* Mean over the batches of time / time of the built-in tile. */
static double score(const search *s, const double ns[MLA_MOST_SUBJECTS])
{
    double sum = 0.0;
    for (int i = 0; i < s->count; i++)
        sum += ns[i] / s->built_in_ns[i];
    return sum / (double)s->count;
}

/* ---- one candidate --------------------------------------------------------------------------- */

/* A driver may refuse a tile that the library takes: that costs the tile, not the search. */
static outcome left_out_or_failed(search *s, mla_session *tried, const char *tile,
                                  clmla_status status)
{
    const bool is_build = status == CL_BUILD_PROGRAM_FAILURE || status == CL_OUT_OF_RESOURCES ||
                          status == CL_INVALID_WORK_GROUP_SIZE ||
                          status == CLMLA_WORKSPACE_TOO_SMALL;
    if (is_build) {
        mla_note("%s: %s is left out: %s (%s)", s->subjects[0].name, tile,
                 tried->detail[0] != '\0' ? tried->detail : clmla_status_message(status),
                 clmla_status_name(status));
        return LEFT_OUT;
    }
    (void)mla_session_fail(tried, s->subjects[0].name, status);
    return FAILED;
}

/* Every output of every batch. */
static outcome check(search *s, mla_session *tried, const char *tile)
{
    char why[WHY_BYTES];
    for (int i = 0; i < s->count; i++) {
        bool right = false;
        const clmla_status status =
            mla_subject_check(&s->subjects[i], tried->clmla, &right, why, sizeof(why));
        if (status != CLMLA_SUCCESS)
            return left_out_or_failed(s, tried, tile, status);
        if (right)
            continue;
        s->result->wrong++;
        mla_error("%s: %s computes wrong results: %s; it is not used, please report this",
                  s->subjects[i].name, tile, why);
        return LEFT_OUT;
    }
    return TIMED;
}

static outcome time_all(search *s, mla_session *tried, const char *tile, int samples,
                        const double most[MLA_MOST_SUBJECTS], double ns[MLA_MOST_SUBJECTS],
                        double *spread)
{
    for (int i = 0; i < s->count; i++) {
        double of_batch = 0.0;
        const clmla_status status =
            mla_tune_time(&s->subjects[i], tried->clmla, samples,
                          most != NULL ? HOPELESS * most[i] : 0.0, &ns[i], &of_batch);
        if (status != CLMLA_SUCCESS)
            return left_out_or_failed(s, tried, tile, status);
        if (spread != NULL)
            *spread = fmax(*spread, of_batch);
    }
    return TIMED;
}

/* most: times of the best so far. */
static outcome try_line(search *s, const mla_tune_line *line, const double most[MLA_MOST_SUBJECTS],
                        double ns[MLA_MOST_SUBJECTS])
{
    char text[MLA_LINE_BYTES], tile[MLA_LINE_BYTES];
    mla_session tried;
    mla_tune_line_print(line, text);
    mla_tune_line_tile(line, tile);
    const clmla_status status = mla_tune_record_session(s->record, s->session, text, &tried);
    outcome done = TIMED;
    if (status == CLMLA_INVALID_TUNING)
        done = LEFT_OUT; /* no tile of this kernel and device */
    else if (status != CLMLA_SUCCESS)
        done = left_out_or_failed(s, &tried, tile, status);
    if (done == TIMED) {
        s->result->tried++;
        done = check(s, &tried, tile);
    }
    if (done == TIMED)
        done = time_all(s, &tried, tile, SEARCH_SAMPLES, most, ns, NULL);
    mla_session_close(&tried);
    return done;
}

/* ---- the search ------------------------------------------------------------------------------ */

static bool is_new(search *s, const mla_tune_line *line)
{
    char tile[MLA_LINE_BYTES];
    mla_tune_line_tile(line, tile);
    for (int i = 0; i < s->num_tried; i++)
        if (strcmp(s->tried[i], tile) == 0)
            return false;
    if (s->num_tried < MOST_TRIED)
        (void)snprintf(s->tried[s->num_tried++], sizeof(s->tried[0]), "%s", tile);
    return true;
}

static bool is_over(const search *s)
{
    return mla__os_interrupted() || mla__os_now_ns() > s->end_ns || s->num_tried == MOST_TRIED;
}

/* Takes every change of *best once; *better: one was faster and is *best now. */
static outcome pass(search *s, mla_tune_line *best, double best_ns[MLA_MOST_SUBJECTS], bool *better)
{
    const int moves = mla_tune_num_moves(best);
    *better = false;
    for (int i = 0; i < moves && !is_over(s); i++) {
        mla_tune_line changed;
        double ns[MLA_MOST_SUBJECTS] = {0};
        if (!mla_tune_move(best, i, &changed) || !is_new(s, &changed))
            continue;
        mla_progress("%s: %d tiles tried, the best is %.3g times as fast", s->subjects[0].name,
                     s->result->tried, 1.0 / score(s, best_ns));
        const outcome done = try_line(s, &changed, best_ns, ns);
        if (done == FAILED)
            return FAILED;
        if (done != TIMED || score(s, ns) > (1.0 - SEARCH_MARGIN) * score(s, best_ns))
            continue;
        *best = changed;
        memcpy(best_ns, ns, sizeof(ns));
        *better = true;
    }
    return TIMED;
}

/* ---- the end --------------------------------------------------------------------------------- */

/* Both, measured in turns. */
typedef struct turns {
    double ns[2][MLA_MOST_SUBJECTS]; /* medians */
    int wins;                        /* turns in which the second was faster */
} turns;

/* num_sessions: 1 measures the first alone. */
static outcome take_turns(search *s, mla_session sessions[2], int num_sessions, turns *out)
{
    double taken[2][MLA_MOST_SUBJECTS][FINAL_TURNS];
    *out = (turns){.wins = 0};
    for (int turn = 0; turn < FINAL_TURNS; turn++) {
        double sums[2] = {0.0, 0.0};
        for (int which = 0; which < num_sessions; which++) {
            double one[MLA_MOST_SUBJECTS] = {0};
            const outcome done =
                time_all(s, &sessions[which], "the last measurement", FINAL_SAMPLES, NULL, one,
                         which == 0 ? &s->result->spread : NULL);
            if (done != TIMED)
                return FAILED;
            for (int i = 0; i < s->count; i++)
                taken[which][i][turn] = one[i];
            sums[which] = score(s, one);
        }
        out->wins += num_sessions == 2 && sums[1] < sums[0];
    }
    for (int which = 0; which < num_sessions; which++)
        for (int i = 0; i < s->count; i++)
            out->ns[which][i] = mla_median(taken[which][i], FINAL_TURNS);
    return TIMED;
}

/* Whether the best of the search is clearly better than the built-in tile, and in no batch of attention
 * worse. */
static bool is_clear(const search *s, const turns *t)
{
    double sum = 0.0;
    for (int i = 0; i < s->count; i++) {
        if (s->subjects[i].attention != NULL && t->ns[1][i] > (1.0 + BATCH_MARGIN) * t->ns[0][i])
            return false;
        sum += t->ns[1][i] / t->ns[0][i];
    }
    return t->wins >= FINAL_WINS && sum / (double)s->count <= 1.0 - FINAL_MARGIN;
}

/* num_lines 1: the built-in tile is the best. */
static outcome compare(search *s, const mla_tune_line *const lines[2], int num_lines)
{
    turns taken = {.wins = 0};
    mla_session sessions[2];
    clmla_status status = CLMLA_SUCCESS;
    int opened = 0;
    for (; opened < num_lines && status == CLMLA_SUCCESS; opened++) {
        char text[MLA_LINE_BYTES];
        mla_tune_line_print(lines[opened], text);
        status = mla_tune_record_session(s->record, s->session, text, &sessions[opened]);
    }
    const outcome done = status == CLMLA_SUCCESS
                             ? take_turns(s, sessions, num_lines, &taken)
                             : left_out_or_failed(s, &sessions[opened - 1], "a tile", status);
    while (opened > 0)
        mla_session_close(&sessions[--opened]);
    if (done != TIMED)
        return FAILED;
    s->result->changed = num_lines == 2 && is_clear(s, &taken);
    memcpy(s->result->before_ns, taken.ns[0], sizeof(taken.ns[0]));
    memcpy(s->result->after_ns, taken.ns[s->result->changed ? 1 : 0], sizeof(taken.ns[0]));
    return TIMED;
}

/* ---- the line -------------------------------------------------------------------------------- */

/* " | rows=16 before_ns=... after_ns=..." of a call of each product; attention by batch. */
static void print_times(const search *s, char *text, size_t bytes)
{
    const mla_tune_result *r = s->result;
    size_t used = 0;
    if (s->subjects[0].product != NULL) {
        double before = 0.0, after = 0.0;
        for (int i = 0; i < s->count; i++) {
            before += r->before_ns[i];
            after += r->after_ns[i];
        }
        (void)snprintf(text, bytes, " | rows=%d before_ns=%.0f after_ns=%.0f",
                       (int)s->subjects[0].rows, before, after);
        return;
    }
    for (int i = 0; i < s->count && used < bytes; i++) {
        const char *name = mla_attention_batch_name(s->subjects[i].rows);
        const int length =
            snprintf(text + used, bytes - used, "%s %s_before_ns=%.0f %s_after_ns=%.0f",
                     i == 0 ? " |" : "", name, r->before_ns[i], name, r->after_ns[i]);
        used += length > 0 ? (size_t)length : 0;
    }
}

static void print_result(search *s, const mla_tune_line *line)
{
    mla_tune_result *r = s->result;
    char times[192];
    mla_tune_line_tile(line, r->tile);
    mla_tune_line_print(line, r->line);
    print_times(s, times, sizeof(times));
    const size_t used = strlen(r->line);
    (void)snprintf(r->line + used, sizeof(r->line) - used, "%s spread_permille=%.0f", times,
                   1e3 * r->spread);
}

/* The built-in tile, measured: without it there is nothing to compare with. */
static outcome begin(search *s, const mla_tune_line *built_in)
{
    mla_progress("%s: the built-in tile", s->subjects[0].name);
    (void)is_new(s, built_in);
    const outcome done = try_line(s, built_in, NULL, s->built_in_ns);
    return done == TIMED ? TIMED : FAILED;
}

int mla_tune_search(const mla_session *session, mla_subject *subjects, int count,
                    const mla_tune_record *record, const mla_tune_line *built_in,
                    double max_seconds, mla_tune_result *out)
{
    mla_tune_line best = *built_in;
    double best_ns[MLA_MOST_SUBJECTS];
    bool better = true, improved = false;
    search *s = calloc(1, sizeof(*s));
    *out = (mla_tune_result){.tried = 0};
    if (s == NULL) {
        mla_error("out of memory");
        return MLA_EXIT_FAILED;
    }
    s->session = session;
    s->subjects = subjects;
    s->count = count;
    s->record = record;
    s->result = out;
    s->end_ns = mla__os_now_ns() + (uint64_t)(1e9 * max_seconds);
    outcome done = begin(s, built_in);
    memcpy(best_ns, s->built_in_ns, sizeof(best_ns));
    while (done == TIMED && better && !is_over(s)) {
        done = pass(s, &best, best_ns, &better);
        improved = improved || better;
    }
    out->stopped = mla__os_interrupted();
    if (done == TIMED && !out->stopped) {
        mla_progress("%s: the best of %d tiles in turns with the built-in one", subjects[0].name,
                     out->tried);
        done = compare(s, (const mla_tune_line *const[2]){built_in, &best}, improved ? 2 : 1);
    }
    mla_progress_clear();
    if (done == TIMED && !out->stopped)
        print_result(s, out->changed ? &best : built_in);
    free(s);
    return done == TIMED ? MLA_EXIT_SUCCESS : MLA_EXIT_FAILED;
}
