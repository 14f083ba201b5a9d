/* Programs rebuilt for target sm_90a, with a driver that is played here: what it gives as the binary,
 * and what it is given. */
#include "ocl/program.h"
#include "support/device.h"
#include "support/support.h"

#define KERNELS TEST_OUTPUT_DIR "/kernels-test-sm-90a"

cl_int __real_clGetProgramInfo(cl_program program, cl_program_info name, size_t bytes, void *value,
                               size_t *bytes_ret);
cl_int __wrap_clGetProgramInfo(cl_program program, cl_program_info name, size_t bytes, void *value,
                               size_t *bytes_ret);
cl_program __wrap_clCreateProgramWithBinary(cl_context context, cl_uint num_devices,
                                            const cl_device_id *devices, const size_t *lengths,
                                            const unsigned char **binaries, cl_int *status,
                                            cl_int *error);

static const char *ptx; /* NULL: the real driver's binary */
static cl_int binary_error;
static int binaries_taken;
static char taken[1024];
static const char *source_of_taken;

cl_int __wrap_clGetProgramInfo(cl_program program, cl_program_info name, size_t bytes, void *value,
                               size_t *bytes_ret)
{
    if (ptx != NULL && name == CL_PROGRAM_BINARY_SIZES) {
        *(size_t *)value = strlen(ptx) + 2;
        return CL_SUCCESS;
    }
    if (ptx != NULL && name == CL_PROGRAM_BINARIES) {
        memcpy(*(unsigned char **)value, ptx, strlen(ptx) + 1);
        (*(unsigned char **)value)[strlen(ptx) + 1] = '\0';
        return CL_SUCCESS;
    }
    return __real_clGetProgramInfo(program, name, bytes, value, bytes_ret);
}

cl_program __wrap_clCreateProgramWithBinary(cl_context context, cl_uint num_devices,
                                            const cl_device_id *devices, const size_t *lengths,
                                            const unsigned char **binaries, cl_int *status,
                                            cl_int *error)
{
    (void)status;
    assert_int_equal(num_devices, 1);
    assert_ptr_equal(devices[0], test_device_get()->id);
    assert_in_range(lengths[0], 1, sizeof taken);
    memcpy(taken, binaries[0], lengths[0]);
    assert_int_equal(taken[lengths[0] - 1], '\0');
    binaries_taken++;
    *error = binary_error;
    return binary_error == CL_SUCCESS
               ? clCreateProgramWithSource(context, 1, &source_of_taken, NULL, error)
               : NULL;
}

#define SAMPLE(target, mark, align, bytes)                                                         \
    ".version 8.8\n.target " target "\n.shared .align " align " .b8 ring[" bytes "];\n"            \
    "//@sm_90a.local 65536\n" mark "wgmma.fence.sync.aligned;\n"

static clmla_status get(clmla_context *context, cl_program *program)
{
    static const char *const files[] = {"plain.cl", NULL};
    test_clear_notify();
    return mla__program_get_sm_90a(context, files, NULL, program);
}

static clmla_context *make_context(void)
{
    test_write_kernel(KERNELS, "plain.cl", "kernel void plain(global int *out) { *out = 1; }\n");
    ptx = SAMPLE("sm_90", "//@sm_90a ", "16", "1024");
    binary_error = CL_SUCCESS;
    source_of_taken = "kernel void rebuilt(global int *out) { *out = 2; }\n";
    binaries_taken = 0;
    return test_context_with_kernels(CLMLA_KERNELS_NVIDIA, KERNELS);
}

static void the_rewritten_text_is_built_once(void **state)
{
    (void)state;
    static const char *const files[] = {"plain.cl", NULL};
    clmla_context *context = make_context();
    cl_program rebuilt = NULL, again = NULL, plain = NULL;
    cl_int error = CL_SUCCESS;
    assert_int_equal(get(context, &rebuilt), CLMLA_SUCCESS);
    assert_string_equal(taken, SAMPLE("sm_90a", "", "1024", "65536"));
    const cl_kernel kernel = clCreateKernel(rebuilt, "rebuilt", &error);
    assert_int_equal(error, CL_SUCCESS);
    (void)clReleaseKernel(kernel);
    assert_int_equal(get(context, &again), CLMLA_SUCCESS);
    assert_ptr_equal(again, rebuilt);
    assert_int_equal(mla__program_get(context, files, NULL, &plain), CLMLA_SUCCESS);
    assert_ptr_not_equal(plain, rebuilt);
    assert_int_equal(binaries_taken, 1);
    clmla_context_release(context);
}

/* The second context finds what the first one built last, not the source's own program. */
static void the_cache_keeps_the_rebuilt_program(void **state)
{
    (void)state;
    const test_device *on = test_device_get();
    static const char directory[] = TEST_OUTPUT_DIR "/cache-test-sm-90a";
    const clmla_context_options options = {
        .struct_size = sizeof options, .kernel_directory = KERNELS, .cache_directory = directory};
    clmla_context_release(make_context()); /* writes the kernel */
    for (int run = 0; run < 2; run++) {
        static const char *const files[] = {"plain.cl", NULL};
        clmla_context *context = NULL;
        cl_program rebuilt = NULL, plain = NULL;
        assert_int_equal(clmla_context_create(on->context, on->id, &options, &context), 0);
        assert_int_equal(get(context, &rebuilt), CLMLA_SUCCESS);
        assert_int_equal(mla__program_get(context, files, NULL, &plain), CLMLA_SUCCESS);
        assert_ptr_not_equal(plain, rebuilt);
        if (run == 1) { /* the first may find those of an earlier process */
            assert_int_equal(context->programs_read, 2);
            assert_int_equal(context->programs_compiled, 0);
        }
        clmla_context_release(context);
    }
}

static void expect_failure(clmla_context *context, const char *says)
{
    cl_program program = NULL;
    assert_int_equal(get(context, &program), CL_BUILD_PROGRAM_FAILURE);
    assert_null(program);
    if (strstr(test_last_notify(), says) == NULL)
        fail_msg("expected '%s', notified '%s'", says, test_last_notify());
    clmla_context_release(context);
}

static void failures_are_failed_builds_and_explained(void **state)
{
    (void)state;
    clmla_context *context = make_context();
    ptx = NULL;
    expect_failure(context, "plain.cl: the driver's program binary is not PTX");
    context = make_context();
    ptx = SAMPLE("sm_90a", "", "16", "1024");
    expect_failure(context, "plain.cl: the driver's PTX is for sm_90a already");
    context = make_context();
    binary_error = CL_INVALID_BINARY;
    expect_failure(context, "plain.cl: the driver does not take PTX for sm_90a");
    context = make_context();
    source_of_taken = "#error wgmma is not known\n";
    expect_failure(context, "plain.cl: clBuildProgram: CL_BUILD_PROGRAM_FAILURE");
    context = make_context();
    test_write_kernel(KERNELS, "plain.cl", "#error no\n");
    expect_failure(context, "plain.cl: clBuildProgram: CL_BUILD_PROGRAM_FAILURE");
    assert_int_equal(binaries_taken, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_rewritten_text_is_built_once),
        cmocka_unit_test(the_cache_keeps_the_rebuilt_program),
        cmocka_unit_test(failures_are_failed_builds_and_explained),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    test_device_close();
    return failed;
}
