#include "faults/scenario.h"

#include "support/device.h"

static bool may_be_overcome(const scenario *s, const char *function)
{
    for (const char *const *name = s->overcome; name != NULL && *name != NULL; name++) {
        if (strcmp(*name, function) == 0)
            return true;
    }
    return false;
}

static void expect_holds(const scenario *s, const faults_holds *before, int n, const char *function)
{
    const faults_holds now = faults_count();
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
    expect_holds(&whole, before, 0, "its end");
}

static clmla_status run_once(const scenario *s, void *world, int n, const char **failed)
{
    if (s->before != NULL)
        s->before(world);
    faults_arm(n);
    const clmla_status status = s->run(world);
    *failed = faults_disarm();
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

int scenario_run(const scenario *s, void *world)
{
    const int stride = s->stride == 0 || getenv("CLMLA_FAULTS_ALL") != NULL ? 1 : s->stride;
    const char *failed = NULL;
    int count = 0;
    expect_success(s, world, run_once(s, world, 0, &failed), "nothing"); /* what is made once */
    const faults_holds before = faults_count();
    for (int n = 1;; n += n < s->dense ? 1 : stride) {
        const clmla_status status = run_once(s, world, n, &failed);
        if (failed == NULL) {
            expect_success(s, world, status, "all failures");
            expect_holds(s, &before, n, "none");
            return count;
        }
        count++;
        if (status == CLMLA_SUCCESS && !may_be_overcome(s, failed))
            fail_msg("%s: call %d, %s, failed, and the status is success", s->name, n, failed);
        if (status == CLMLA_SUCCESS && s->check != NULL)
            s->check(world);
        if (status != CLMLA_SUCCESS && s->check_failed != NULL)
            s->check_failed(world);
        expect_holds(s, &before, n, failed);
        const char *none;
        expect_success(s, world, run_once(s, world, 0, &none), failed);
        expect_holds(s, &before, n, failed);
    }
}
