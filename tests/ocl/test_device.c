/* What a device is: read once, and the class that follows from it. */
#include "clmla.h"
#include "ocl/device.h"
#include "support/device.h"
#include "support/support.h"

/* The extension list in another way than device.c: padded with spaces and searched for " word ". */
static bool advertises(cl_device_id id, const char *extension)
{
    static char list[65536] = " ";
    char word[128];
    size_t bytes = 0;
    assert_int_equal(clGetDeviceInfo(id, CL_DEVICE_EXTENSIONS, sizeof list - 2, list + 1, &bytes),
                     CL_SUCCESS);
    (void)strcat(list, " ");
    (void)snprintf(word, sizeof word, " %s ", extension);
    return strstr(list, word) != NULL;
}

static void reads_what_the_device_says(void **state)
{
    (void)state;
    const test_device *on = test_device_get();
    mla__device device;
    memset(&device, 0xff, sizeof device);
    assert_int_equal(mla__device_read(on->id, &device), CLMLA_SUCCESS);

    cl_ulong global_bytes = 0;
    cl_uint width = 0;
    char name[1024] = "";
    clGetDeviceInfo(on->id, CL_DEVICE_GLOBAL_MEM_SIZE, sizeof global_bytes, &global_bytes, NULL);
    clGetDeviceInfo(on->id, CL_DEVICE_NAME, sizeof name, name, NULL);
    name[sizeof device.name - 1] = '\0';
    assert_ptr_equal(device.id, on->id);
    assert_string_equal(device.name, name);
    assert_true(device.global_mem_bytes == global_bytes);
    assert_true(strlen(device.platform_name) > 0 && strlen(device.driver_version) > 0);
    assert_memory_equal(device.version, "OpenCL ", 7);
    assert_memory_equal(device.platform_version, "OpenCL ", 7);
    assert_true(device.compute_units >= 1);
    clGetDeviceInfo(on->id, CL_DEVICE_NATIVE_VECTOR_WIDTH_FLOAT, sizeof width, &width, NULL);
    if (width == 4 || width == 8 || width == 16)
        assert_int_equal(device.float_vector_width, width);
    assert_true(device.max_alloc_bytes >= 1 && device.max_alloc_bytes <= device.global_mem_bytes);
    assert_true(device.local_mem_bytes >= 32 * 1024); /* the least that OpenCL 1.2 allows */
    assert_true(device.max_work_group_size >= 1);
    for (int i = 0; i < 3; i++)
        assert_true(device.max_work_item_sizes[i] >= 1);
    /* the largest built-in type, long16, must be aligned: 128 bytes */
    assert_true(device.mem_base_addr_align_bytes >= 128);
    assert_int_equal(device.has_fp16, advertises(on->id, "cl_khr_fp16"));
    assert_int_equal(device.splits_vload,
                     device.is_pocl && device.kernel_class == CLMLA_KERNELS_CPU);
    if (!advertises(on->id, "cl_nv_device_attribute_query"))
        assert_int_equal(device.compute_capability, 0);
    else
        assert_true(device.compute_capability >= 10);
}

/* Rounded down to a width that there are kernels for; 1: scalar lanes, as GPUs have. */
static void vector_width_is_one_of_three(void **state)
{
    (void)state;
    const struct {
        cl_uint native, preferred;
        int32_t expected;
    } widths[] = {{16, 16, 16}, {8, 8, 8},  {4, 4, 4},  {8, 16, 8}, {16, 4, 16},
                  {32, 1, 16},  {12, 1, 8}, {7, 16, 4}, {1, 16, 4}, {0, 16, 16},
                  {0, 8, 8},    {0, 4, 4},  {0, 1, 4},  {0, 0, 4},  {UINT32_MAX, 0, 16}};
    for (size_t i = 0; i < sizeof widths / sizeof widths[0]; i++)
        assert_int_equal(mla__float_vector_width(widths[i].native, widths[i].preferred),
                         widths[i].expected);
}

static void class_follows_type_and_compute_capability(void **state)
{
    (void)state;
    const test_device *on = test_device_get();
    cl_device_type type = 0;
    clGetDeviceInfo(on->id, CL_DEVICE_TYPE, sizeof type, &type, NULL);
    const clmla_kernel_class expected =
        (type & CL_DEVICE_TYPE_CPU) != 0 ? CLMLA_KERNELS_CPU : CLMLA_KERNELS_GPU;
    clmla_kernel_class kernel_class = -1;
    mla__device device;
    assert_int_equal(mla__device_read(on->id, &device), CLMLA_SUCCESS);
    assert_true(device.has_ptx == (device.compute_capability >= 80));
    assert_int_equal(device.kernel_class, device.has_ptx ? CLMLA_KERNELS_NVIDIA : expected);
    assert_int_equal(clmla_device_kernel_class(on->id, &kernel_class), CLMLA_SUCCESS);
    assert_int_equal(kernel_class, device.kernel_class);
}

static void nothing_is_written_on_failure(void **state)
{
    (void)state;
    const test_device *on = test_device_get();
    clmla_kernel_class kernel_class = 77;
    mla__device device = {.compute_units = 77};
    assert_int_equal(clmla_device_kernel_class(NULL, &kernel_class), CLMLA_INVALID_ARGUMENT);
    assert_int_equal(clmla_device_kernel_class(on->id, NULL), CLMLA_INVALID_ARGUMENT);
    assert_int_equal(kernel_class, 77);
    assert_int_equal(mla__device_read(NULL, &device), CL_INVALID_DEVICE);
    assert_int_equal(device.compute_units, 77);
}

static void classes_have_names(void **state)
{
    (void)state;
    assert_string_equal(clmla_kernel_class_name(CLMLA_KERNELS_AUTO), "auto");
    assert_string_equal(clmla_kernel_class_name(CLMLA_KERNELS_CPU), "cpu");
    assert_string_equal(clmla_kernel_class_name(CLMLA_KERNELS_GPU), "gpu");
    assert_string_equal(clmla_kernel_class_name(CLMLA_KERNELS_NVIDIA), "nvidia");
    assert_string_equal(clmla_kernel_class_name(4), "unknown");
    assert_string_equal(clmla_kernel_class_name(-1), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_what_the_device_says),
        cmocka_unit_test(vector_width_is_one_of_three),
        cmocka_unit_test(class_follows_type_and_compute_capability),
        cmocka_unit_test(nothing_is_written_on_failure),
        cmocka_unit_test(classes_have_names),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    test_device_close();
    return failed;
}
