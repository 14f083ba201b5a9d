/* What bounds the kernels: the read bandwidth of far more than the caches hold (stream.cl), and the
 * cost of a launch (launch.cl). */
#include <stdlib.h>

#include "cuda_harness.h"

enum { WORK_ITEMS = 256, FILL_GROUPS = 4 };
#define FACTOR UINT32_C(2654435761)

/* A buffer for stream.cl's kernels. */
typedef struct stream {
    const cuda_kernel *fill, *read;
    cuda_buffer data, sums;
    size_t words;
} stream;

static bool fill(harness *h, const stream *s)
{
    cuda_launch l = cuda_launch_of(s->fill, (unsigned)(FILL_GROUPS * h->driver.multiprocessors), 1);
    cuda_set_buffer(&l, "data", &s->data);
    cuda_set_integer(&l, "first", 0);
    cuda_set_integer(&l, "count", (int64_t)(s->words / 4));
    return cuda_run(&h->driver, &l);
}

static cuda_launch read_launch(const stream *s, unsigned groups)
{
    cuda_launch l = cuda_launch_of(s->read, groups, 1);
    cuda_set_buffer(&l, "data", &s->data);
    cuda_set_integer(&l, "count", (int64_t)(s->words / 4));
    cuda_set_buffer(&l, "sums", &s->sums);
    cuda_set_integer(&l, "add", 0);
    return l;
}

/* The sums' total, modulo 2^32, as one element. */
static bool compare_total(harness *h, const stream *s, unsigned groups, comparison *c)
{
    const size_t count = (size_t)groups * WORK_ITEMS * 4;
    uint32_t *sums = malloc(count * sizeof(*sums));
    uint32_t total = 0;
    if (sums == NULL)
        return cuda_fail(&h->driver, "out of memory");
    const bool ok = cuda_read(&h->driver, &s->sums, 0, sums, count * sizeof(*sums));
    for (size_t i = 0; i < count && ok; i++)
        total += sums[i];
    free(sums);
    const uint64_t words = s->words; /* even */
    compare(c, "sum of data", 0, 0, (double)total,
            (double)((uint32_t)(words / 2 * (words - 1)) * FACTOR), 0.0);
    return ok;
}

/* ---- checks --------------------------------------------------------------------------------- */

enum { CHECKED_WORDS = 40000, CHECKED_GROUPS = 3 };

bool fill_verify(harness *h, const cuda_kernel *kernel, json *record)
{
    stream s = {.fill = kernel, .words = CHECKED_WORDS};
    comparison c = {.elements = 0};
    uint32_t *words = malloc(CHECKED_WORDS * sizeof(*words));
    bool ok = words != NULL || cuda_fail(&h->driver, "out of memory");
    ok = ok && cuda_buffer_make(&h->driver, CHECKED_WORDS * sizeof(*words), &s.data) &&
         fill(h, &s) && cuda_read(&h->driver, &s.data, 0, words, CHECKED_WORDS * sizeof(*words));
    for (size_t i = 0; i < CHECKED_WORDS && ok; i++)
        compare(&c, "data", i, 0, (double)words[i], (double)((uint32_t)i * FACTOR), 0.0);
    cuda_buffer_free(&h->driver, &s.data);
    free(words);
    return ok && harness_judge(h, &c, record);
}

/* Every element of sums, on data from the host. */
bool stream_verify(harness *h, const cuda_kernel *kernel, json *record)
{
    const size_t step = CHECKED_GROUPS * WORK_ITEMS, count = step * 4;
    stream s = {.read = kernel, .words = CHECKED_WORDS};
    comparison c = {.elements = 0};
    uint32_t *words = malloc(CHECKED_WORDS * sizeof(*words));
    uint32_t *sums = malloc(count * sizeof(*sums));
    bool ok = (words != NULL && sums != NULL) || cuda_fail(&h->driver, "out of memory");
    for (size_t i = 0; i < CHECKED_WORDS && ok; i++)
        words[i] = (uint32_t)i * FACTOR;
    ok = ok && cuda_buffer_of(&h->driver, words, CHECKED_WORDS * sizeof(*words), &s.data) &&
         cuda_buffer_make(&h->driver, count * sizeof(*sums), &s.sums);
    if (ok) {
        cuda_launch launch = read_launch(&s, CHECKED_GROUPS);
        ok = cuda_run(&h->driver, &launch) &&
             cuda_read(&h->driver, &s.sums, 0, sums, count * sizeof(*sums));
    }
    for (size_t i = 0; i < count && ok; i++) {
        uint32_t expected = 0;
        for (size_t at = i; at < CHECKED_WORDS; at += count)
            expected += words[at];
        compare(&c, "sums", i / 4, i % 4, (double)sums[i], (double)expected, 0.0);
    }
    cuda_buffer_free(&h->driver, &s.data);
    cuda_buffer_free(&h->driver, &s.sums);
    free(words);
    free(sums);
    return ok && harness_judge(h, &c, record);
}

/* ---- bandwidth ------------------------------------------------------------------------------ */

static bool measure_groups(harness *h, const stream *s, unsigned groups, json *record)
{
    cuda_timing timing;
    comparison c = {.elements = 0};
    cuda_launch launch = read_launch(s, groups);
    if (!cuda_run(&h->driver, &launch) || !compare_total(h, s, groups, &c) ||
        !harness_judge(h, &c, record) || !cuda_time(&h->driver, &launch, 1, h->round_s, &timing))
        return false;
    harness_timing(&timing, record);
    json_number(record, "gb_per_s", 4e-9 * (double)s->words / timing.median_s);
    json_number(record, "best_gb_per_s", 4e-9 * (double)s->words / timing.min_s);
    return true;
}

void memory_measure(harness *h)
{
    static const unsigned per_unit[] = {2, 4, 8, 16};
    json record;
    stream s = {.fill = harness_verified(h, "fill"), .read = harness_verified(h, "stream")};
    if (s.fill == NULL || s.read == NULL)
        return;
    s.words = (size_t)1 << (h->small ? 18 : 30);
    while (!cuda_fits(&h->driver, 8.0 * (double)s.words))
        s.words /= 2;
    const size_t most = (size_t)per_unit[3] * (size_t)h->driver.multiprocessors * WORK_ITEMS;
    const bool ok = cuda_buffer_make(&h->driver, 4 * s.words, &s.data) &&
                    cuda_buffer_make(&h->driver, 16 * most, &s.sums) && fill(h, &s);
    if (!ok) {
        harness_record(h, "read", s.fill, &record);
        harness_print(h, &record, false);
    }
    for (size_t i = 0; i < sizeof(per_unit) / sizeof(per_unit[0]) && ok; i++) {
        harness_record(h, "read", s.read, &record);
        json_integer(&record, "bytes", (long long)(4 * s.words));
        json_integer(&record, "groups_per_multiprocessor", (long long)per_unit[i]);
        harness_print(
            h, &record,
            measure_groups(h, &s, per_unit[i] * (unsigned)h->driver.multiprocessors, &record));
    }
    cuda_buffer_free(&h->driver, &s.data);
    cuda_buffer_free(&h->driver, &s.sums);
}

/* ---- launches ------------------------------------------------------------------------------- */

/* A chain of one-work-item kernels that each add 1 to the same counter. */
static cuda_launch counting_launch(const cuda_kernel *kernel, const cuda_buffer *counter)
{
    cuda_launch l = cuda_launch_of(kernel, 1, 1);
    l.work_items = 1;
    cuda_set_buffer(&l, "counter", counter);
    return l;
}

static bool compare_counter(harness *h, const cuda_buffer *counter, uint32_t expected,
                            comparison *c)
{
    uint32_t is = 0;
    if (!cuda_read(&h->driver, counter, 0, &is, sizeof(is)))
        return false;
    compare(c, "counter", 0, 0, (double)is, (double)expected, 0.0);
    return true;
}

bool add_one_verify(harness *h, const cuda_kernel *kernel, json *record)
{
    enum { LAUNCHES = 100, BEFORE = 5 };
    const uint32_t start = BEFORE;
    comparison c = {.elements = 0};
    cuda_buffer counter = {.bytes = 0};
    bool ok = cuda_buffer_of(&h->driver, &start, sizeof(start), &counter);
    cuda_launch launch = counting_launch(kernel, &counter);
    for (int i = 0; i < LAUNCHES && ok; i++)
        ok = cuda_enqueue(&h->driver, &launch, i);
    ok = ok && compare_counter(h, &counter, BEFORE + LAUNCHES, &c);
    cuda_buffer_free(&h->driver, &counter);
    return ok && harness_judge(h, &c, record);
}

/* Host time of an enqueue in a chain, and of a launch that is waited for; medians. */
static bool measure_host(harness *h, cuda_launch *launch, json *record)
{
    enum { CHAIN = 1000, ROUNDS = 15, TRIPS = 101 };
    double enqueue_s[ROUNDS], trip_s[TRIPS];
    for (int r = 0; r < ROUNDS; r++) {
        const double start = report_now_s();
        for (int i = 0; i < CHAIN; i++)
            if (!cuda_enqueue(&h->driver, launch, i))
                return false;
        enqueue_s[r] = (report_now_s() - start) / (double)CHAIN;
        if (!cuda_run(&h->driver, launch))
            return false;
    }
    for (int i = 0; i < TRIPS; i++) {
        const double start = report_now_s();
        if (!cuda_run(&h->driver, launch))
            return false;
        trip_s[i] = report_now_s() - start;
    }
    json_number(record, "enqueue_us", 1e6 * report_median(enqueue_s, ROUNDS));
    json_number(record, "round_trip_us", 1e6 * report_median(trip_s, TRIPS));
    return true;
}

void launch_measure(harness *h)
{
    const cuda_kernel *kernel = harness_verified(h, "add_one");
    const uint32_t start = 0;
    cuda_buffer counter = {.bytes = 0};
    cuda_timing timing;
    json record;
    if (kernel == NULL)
        return;
    harness_record(h, "launch", kernel, &record);
    bool ok = cuda_buffer_of(&h->driver, &start, sizeof(start), &counter);
    cuda_launch launch = counting_launch(kernel, &counter);
    ok = ok && cuda_time(&h->driver, &launch, 1, h->round_s, &timing);
    if (ok) {
        harness_timing(&timing, &record);
        json_number(&record, "dependent_us", 1e6 * timing.median_s);
        ok = measure_host(h, &launch, &record);
    }
    harness_print(h, &record, ok);
    cuda_buffer_free(&h->driver, &counter);
}
