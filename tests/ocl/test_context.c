/* Contexts: options, what they retain, how long they live. */
#include "clmla.h"
#include "core/checked.h"
#include "ocl/context.h"
#include "support/device.h"
#include "support/support.h"

static cl_uint references_of(cl_context context)
{
    cl_uint count = 0;
    assert_int_equal(
        clGetContextInfo(context, CL_CONTEXT_REFERENCE_COUNT, sizeof count, &count, NULL),
        CL_SUCCESS);
    return count;
}

static char notified[256];
static clmla_status notified_status;

static void remember(clmla_status status, const char *text, void *user)
{
    *(int *)user += 1;
    notified_status = status;
    (void)snprintf(notified, sizeof notified, "%s", text);
}

static void bad_options_are_refused_by_name(void **state)
{
    (void)state;
    const test_device *on = test_device_get();
    const struct {
        const char *name;
        clmla_context_options options;
        clmla_status status;
        const char *says;
    } cases[] = {
        {"kernel class below the range",
         {.kernel_class = -1},
         CLMLA_INVALID_ARGUMENT,
         "kernel_class -1"},
        {"kernel class above the range",
         {.kernel_class = CLMLA_KERNELS_NVIDIA + 1},
         CLMLA_INVALID_ARGUMENT,
         "kernel_class 4"},
        {"projection below the range", {.projection = -1}, CLMLA_INVALID_ARGUMENT, "projection -1"},
        {"projection above the range", {.projection = 3}, CLMLA_INVALID_ARGUMENT, "projection 3"},
        {"neither allowed nor not",
         {.allow_clblast_overrides = 2},
         CLMLA_INVALID_ARGUMENT,
         "allow_clblast_overrides is 2"},
        {"neither asked for nor not", {.sm_90a = 2}, CLMLA_INVALID_ARGUMENT, "sm_90a is 2"},
        {"a kernel directory that does not exist",
         {.kernel_directory = TEST_OUTPUT_DIR "/no/such"},
         CLMLA_KERNEL_SOURCE_NOT_FOUND,
         "/no/such"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int calls = 0;
        clmla_context_options options = cases[i].options;
        options.struct_size = sizeof options;
        options.notify = remember;
        options.notify_user = &calls;
        clmla_context *context = NULL;
        const cl_uint before = references_of(on->context);
        print_message("  %s\n", cases[i].name);
        assert_int_equal(clmla_context_create(on->context, on->id, &options, &context),
                         cases[i].status);
        assert_null(context);
        assert_int_equal(calls, 1);
        assert_int_equal(notified_status, cases[i].status);
        assert_non_null(strstr(notified, cases[i].says));
        assert_int_equal(references_of(on->context), before);
    }
}

static void bad_arguments_are_refused(void **state)
{
    (void)state;
    const test_device *on = test_device_get();
    clmla_context *context = NULL;
    clmla_context_options options = {.struct_size = sizeof options};
    assert_int_equal(clmla_context_create(NULL, on->id, NULL, &context), CLMLA_INVALID_ARGUMENT);
    assert_int_equal(clmla_context_create(on->context, NULL, NULL, &context),
                     CLMLA_INVALID_ARGUMENT);
    assert_int_equal(clmla_context_create(on->context, on->id, NULL, NULL), CLMLA_INVALID_ARGUMENT);
    options.struct_size = 0;
    assert_int_equal(clmla_context_create(on->context, on->id, &options, &context),
                     CLMLA_INVALID_ARGUMENT);
    options.struct_size = sizeof options + 8;
    assert_int_equal(clmla_context_create(on->context, on->id, &options, &context),
                     CLMLA_INVALID_ARGUMENT);
    assert_null(context);
    clmla_context_release(NULL);
}

static void defaults_come_from_the_device(void **state)
{
    (void)state;
    const test_device *on = test_device_get();
    clmla_context *context = NULL;
    clmla_kernel_class expected = 0;
    assert_int_equal(clmla_device_kernel_class(on->id, &expected), CLMLA_SUCCESS);
    assert_int_equal(clmla_context_create(on->context, on->id, NULL, &context), CLMLA_SUCCESS);
    assert_int_equal(clmla_context_kernel_class(context), expected);
    assert_int_equal(context->projection, CLMLA_PROJECTION_AUTO);
    clmla_context_release(context);
}

static void every_class_can_be_asked_for_on_every_device(void **state)
{
    (void)state;
    for (clmla_kernel_class asked = CLMLA_KERNELS_CPU; asked <= CLMLA_KERNELS_NVIDIA; asked++) {
        clmla_context *context = test_context(asked, CLMLA_PROJECTION_NATIVE);
        assert_int_equal(clmla_context_kernel_class(context), asked);
        assert_int_equal(context->projection, CLMLA_PROJECTION_NATIVE);
        clmla_context_release(context);
    }
}

static void kernels_for_sm_90a_are_refused_where_they_cannot_be(void **state)
{
    (void)state;
    const test_device *on = test_device_get();
    static const struct {
        clmla_context_options options;
        mla__sm_90a expected;
        const char *why;
    } cases[] = {
        {{.kernel_class = CLMLA_KERNELS_NVIDIA}, MLA__SM_90A_OFF, NULL},
        {{.kernel_class = CLMLA_KERNELS_NVIDIA, .sm_90a = 1}, MLA__SM_90A_ASKED, NULL},
        {{.kernel_class = CLMLA_KERNELS_NVIDIA,
          .matrix_units = CLMLA_MATRIX_UNITS_OFF,
          .sm_90a = 1},
         MLA__SM_90A_REFUSED,
         "matrix units are off"},
        {{.kernel_class = CLMLA_KERNELS_GPU, .sm_90a = 1},
         MLA__SM_90A_REFUSED,
         "the kernels are not of class nvidia"},
        {{.kernel_class = CLMLA_KERNELS_GPU}, MLA__SM_90A_OFF, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int calls = 0;
        clmla_context *context = NULL;
        clmla_context_options options = cases[i].options;
        options.struct_size = sizeof options;
        options.notify = remember;
        options.notify_user = &calls;
        assert_int_equal(clmla_context_create(on->context, on->id, &options, &context), 0);
        assert_int_equal(calls, cases[i].why != NULL);
        static const mla__sm_90a_part parts[] = {MLA__SM_90A_PROJECTION, MLA__SM_90A_ATTENTION};
        for (size_t p = 0; p < sizeof parts / sizeof parts[0]; p++) {
            const mla__sm_90a_part part = parts[p];
            const char *why = NULL;
            assert_int_equal(mla__context_sm_90a(context, part, &why), cases[i].expected);
            if (cases[i].why != NULL) {
                assert_int_equal(notified_status, CLMLA_SUCCESS);
                assert_string_equal(why, cases[i].why);
                assert_non_null(strstr(notified, why));
            }
            calls = 0;
            mla__context_refuse_sm_90a(context, part, "for another reason"); /* the first counts */
            mla__context_accept_sm_90a(context, part);
            assert_int_equal(mla__context_sm_90a(context, part, NULL),
                             cases[i].expected == MLA__SM_90A_OFF ? MLA__SM_90A_OFF
                                                                  : MLA__SM_90A_REFUSED);
            assert_int_equal(calls, cases[i].expected == MLA__SM_90A_ASKED);
            if (calls > 0)
                assert_non_null(strstr(notified, mla__sm_90a_part_name(part)));
        }
        clmla_context_release(context);
    }
}

static void a_context_lives_until_its_last_reference_goes(void **state)
{
    (void)state;
    const test_device *on = test_device_get();
    const cl_uint before = references_of(on->context);
    clmla_context *context = test_context(CLMLA_KERNELS_AUTO, CLMLA_PROJECTION_AUTO);
    assert_int_equal(references_of(on->context), before + 1);
    mla__context_retain(context);
    clmla_context_release(context);
    assert_int_equal(references_of(on->context), before + 1);
    assert_ptr_equal(context->context, on->context);
    clmla_context_release(context);
    assert_int_equal(references_of(on->context), before);
}

static void the_kernel_directory_is_copied(void **state)
{
    (void)state;
    char directory[] = TEST_OUTPUT_DIR;
    clmla_context *context = test_context_with_kernels(CLMLA_KERNELS_AUTO, directory);
    memset(directory, 'x', sizeof directory - 1);
    assert_string_equal(context->kernel_directory, TEST_OUTPUT_DIR);
    clmla_context_release(context);
}

static void a_device_of_another_context_is_refused(void **state)
{
    (void)state;
    const test_device *on = test_device_get();
    /* One compute unit of the device is a device of its own, and not of this context. */
    const cl_device_partition_property by_counts[] = {CL_DEVICE_PARTITION_EQUALLY, 1, 0};
    cl_device_id parts[64] = {NULL};
    cl_uint most = 0, count = 0;
    /* Asked first: Mesa 22.3, whose devices have no parts, has no clCreateSubDevices to call. */
    if (clGetDeviceInfo(on->id, CL_DEVICE_PARTITION_MAX_SUB_DEVICES, sizeof most, &most, NULL) !=
            CL_SUCCESS ||
        most == 0 || clCreateSubDevices(on->id, by_counts, 0, NULL, &count) != CL_SUCCESS ||
        count > 64 || clCreateSubDevices(on->id, by_counts, count, parts, NULL) != CL_SUCCESS) {
        print_message("skipped: the device cannot be partitioned\n");
        skip();
    }
    clmla_context *context = NULL;
    assert_int_equal(clmla_context_create(on->context, parts[0], NULL, &context),
                     CLMLA_INVALID_ARGUMENT);
    assert_null(context);
    for (cl_uint i = 0; i < count; i++)
        clReleaseDevice(parts[i]);
}

static void detail_is_cut_not_overrun(void **state)
{
    (void)state;
    static char longer[5000];
    memset(longer, 'x', sizeof longer - 1);
    clmla_context *context = test_context(CLMLA_KERNELS_AUTO, CLMLA_PROJECTION_AUTO);
    assert_int_equal(mla__fail(context, CLMLA_INTERNAL, "a: %s", longer), CLMLA_INTERNAL);
    assert_true(strlen(test_last_notify()) >= 1000 && strlen(test_last_notify()) < sizeof longer);
    assert_memory_equal(test_last_notify(), "a: xxx", 6);
    assert_int_equal(mla__fail(NULL, CLMLA_IO, "nobody listens"), CLMLA_IO);
    clmla_context_release(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_options_are_refused_by_name),
        cmocka_unit_test(bad_arguments_are_refused),
        cmocka_unit_test(defaults_come_from_the_device),
        cmocka_unit_test(every_class_can_be_asked_for_on_every_device),
        cmocka_unit_test(kernels_for_sm_90a_are_refused_where_they_cannot_be),
        cmocka_unit_test(a_context_lives_until_its_last_reference_goes),
        cmocka_unit_test(the_kernel_directory_is_copied),
        cmocka_unit_test(a_device_of_another_context_is_refused),
        cmocka_unit_test(detail_is_cut_not_overrun),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    test_device_close();
    return failed;
}
