#include "faults/scenario.h"

#include "faults/memory.h"
#include "support/device.h"

static bool may_be_overcome(const scenario *s, const char *function)
{
    for (const char *const *name = s->overcome; name != NULL && *name != NULL; name++) {
        if (strcmp(*name, function) == 0)
            return true;
    }
    return false;
}

static void expect_holds(const scenario *s, const faults_holds *before, int blocks, int n,
                         const char *function)
{
    const faults_holds now = faults_count();
    if (!s->keeps_events && memory_blocks() != blocks)
        fail_msg("%s: call %d, %s: %+d blocks of memory", s->name, n, function,
                 memory_blocks() - blocks);
    for (int kind = 0; kind < FAULTS_KINDS; kind++) {
        if (kind == FAULTS_EVENT && s->keeps_events)
            continue;
        if (now.of[kind] != before->of[kind])
            fail_msg("%s: call %d, %s: %+d %s", s->name, n, function,
                     now.of[kind] - before->of[kind], faults_kind_name(kind));
    }
}

void scenario_expect_holds(const faults_holds *before)
{
    static const scenario whole = {.name = "the world"};
    expect_holds(&whole, before, memory_blocks(), 0, "its end");
}

/* What is made to fail. */
typedef enum part { CALLS, ALLOCATIONS } part;

static const cl_int statuses[] = {CL_MEM_OBJECT_ALLOCATION_FAILURE, CL_OUT_OF_RESOURCES,
                                  CL_OUT_OF_HOST_MEMORY};
enum { NUM_STATUSES = sizeof statuses / sizeof statuses[0] };

static clmla_status run_once(const scenario *s, void *world, part what, int n, const char **failed)
{
    if (s->before != NULL)
        s->before(world);
    if (what == CALLS)
        faults_arm(n, statuses[n % NUM_STATUSES]);
    else
        memory_arm(n);
    const clmla_status status = s->run(world);
    *failed = what == CALLS ? faults_disarm() : memory_disarm() ? "malloc" : NULL;
    assert_int_equal(clFinish(test_device_get()->queue), CL_SUCCESS);
    return status;
}

static void expect_success(const scenario *s, void *world, clmla_status status, const char *after)
{
    if (status != CLMLA_SUCCESS)
        fail_msg("%s: after %s: %s (%s)", s->name, after, clmla_status_name(status),
                 test_last_notify());
    if (s->check != NULL)
        s->check(world);
}

/* The driver's word for a build that failed is not passed on, see program.c. */
static bool is_passed_on(const char *failed, clmla_status expected, clmla_status status)
{
    return status == expected ||
           (status == CL_BUILD_PROGRAM_FAILURE && strcmp(failed, "clBuildProgram") == 0);
}

static void expect_failure(const scenario *s, void *world, part what, int n, const char *failed,
                           clmla_status status)
{
    const clmla_status expected =
        what == CALLS ? statuses[n % NUM_STATUSES] : CL_OUT_OF_HOST_MEMORY;
    if (status == CLMLA_SUCCESS && !may_be_overcome(s, failed))
        fail_msg("%s: number %d, %s, failed, and the status is success", s->name, n, failed);
    if (status != CLMLA_SUCCESS && !is_passed_on(failed, expected, status))
        fail_msg("%s: number %d, %s: %s became %s", s->name, n, failed, clmla_status_name(expected),
                 clmla_status_name(status));
    if (status == CLMLA_SUCCESS && s->check != NULL)
        s->check(world);
    if (status != CLMLA_SUCCESS && s->check_failed != NULL)
        s->check_failed(world);
}

static int run_part(const scenario *s, void *world, part what)
{
    const int stride = s->stride == 0 || getenv("CLMLA_FAULTS_ALL") != NULL ? 1 : s->stride;
    const char *failed = NULL, *none = NULL;
    int count = 0;
    const faults_holds before = faults_count();
    const int blocks = memory_blocks();
    for (int n = 1;; n += n < s->dense ? 1 : stride) {
        const clmla_status status = run_once(s, world, what, n, &failed);
        if (failed == NULL) {
            expect_success(s, world, status, "all failures");
            expect_holds(s, &before, blocks, n, "none");
            return count;
        }
        count++;
        expect_failure(s, world, what, n, failed, status);
        expect_holds(s, &before, blocks, n, failed);
        expect_success(s, world, run_once(s, world, what, 0, &none), failed);
        expect_holds(s, &before, blocks, n, failed);
    }
}

void scenario_run(const scenario *s, void *world)
{
    const char *none = NULL;
    expect_success(s, world, run_once(s, world, CALLS, 0, &none),
                   "nothing"); /* what is made once */
    const int calls = run_part(s, world, CALLS);
    const int allocations = run_part(s, world, ALLOCATIONS);
    print_message("%s: %d calls failed, %d allocations\n", s->name, calls, allocations);
}
