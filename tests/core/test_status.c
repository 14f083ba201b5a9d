#include "clmla.h"
#include "support/support.h"

static void names_every_status_of_clmla(void **state)
{
    (void)state;
#define CHECK(name, value, message)                                                                \
    assert_int_equal(CLMLA_##name, (value));                                                       \
    assert_string_equal(clmla_status_name(value), "CLMLA_" #name);                                 \
    assert_string_equal(clmla_status_message(value), message);
    CLMLA_STATUS_MAP(CHECK)
#undef CHECK
}

static void names_every_status_of_opencl_1_2(void **state)
{
    (void)state;
#define CHECK(code) assert_string_equal(clmla_status_name(code), #code);
    CHECK(CL_DEVICE_NOT_FOUND)
    CHECK(CL_DEVICE_NOT_AVAILABLE)
    CHECK(CL_COMPILER_NOT_AVAILABLE)
    CHECK(CL_MEM_OBJECT_ALLOCATION_FAILURE)
    CHECK(CL_OUT_OF_RESOURCES)
    CHECK(CL_OUT_OF_HOST_MEMORY)
    CHECK(CL_PROFILING_INFO_NOT_AVAILABLE)
    CHECK(CL_MEM_COPY_OVERLAP)
    CHECK(CL_IMAGE_FORMAT_MISMATCH)
    CHECK(CL_IMAGE_FORMAT_NOT_SUPPORTED)
    CHECK(CL_BUILD_PROGRAM_FAILURE)
    CHECK(CL_MAP_FAILURE)
    CHECK(CL_MISALIGNED_SUB_BUFFER_OFFSET)
    CHECK(CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST)
    CHECK(CL_COMPILE_PROGRAM_FAILURE)
    CHECK(CL_LINKER_NOT_AVAILABLE)
    CHECK(CL_LINK_PROGRAM_FAILURE)
    CHECK(CL_DEVICE_PARTITION_FAILED)
    CHECK(CL_KERNEL_ARG_INFO_NOT_AVAILABLE)
    CHECK(CL_INVALID_VALUE)
    CHECK(CL_INVALID_DEVICE_TYPE)
    CHECK(CL_INVALID_PLATFORM)
    CHECK(CL_INVALID_DEVICE)
    CHECK(CL_INVALID_CONTEXT)
    CHECK(CL_INVALID_QUEUE_PROPERTIES)
    CHECK(CL_INVALID_COMMAND_QUEUE)
    CHECK(CL_INVALID_HOST_PTR)
    CHECK(CL_INVALID_MEM_OBJECT)
    CHECK(CL_INVALID_IMAGE_FORMAT_DESCRIPTOR)
    CHECK(CL_INVALID_IMAGE_SIZE)
    CHECK(CL_INVALID_SAMPLER)
    CHECK(CL_INVALID_BINARY)
    CHECK(CL_INVALID_BUILD_OPTIONS)
    CHECK(CL_INVALID_PROGRAM)
    CHECK(CL_INVALID_PROGRAM_EXECUTABLE)
    CHECK(CL_INVALID_KERNEL_NAME)
    CHECK(CL_INVALID_KERNEL_DEFINITION)
    CHECK(CL_INVALID_KERNEL)
    CHECK(CL_INVALID_ARG_INDEX)
    CHECK(CL_INVALID_ARG_VALUE)
    CHECK(CL_INVALID_ARG_SIZE)
    CHECK(CL_INVALID_KERNEL_ARGS)
    CHECK(CL_INVALID_WORK_DIMENSION)
    CHECK(CL_INVALID_WORK_GROUP_SIZE)
    CHECK(CL_INVALID_WORK_ITEM_SIZE)
    CHECK(CL_INVALID_GLOBAL_OFFSET)
    CHECK(CL_INVALID_EVENT_WAIT_LIST)
    CHECK(CL_INVALID_EVENT)
    CHECK(CL_INVALID_OPERATION)
    CHECK(CL_INVALID_GL_OBJECT)
    CHECK(CL_INVALID_BUFFER_SIZE)
    CHECK(CL_INVALID_MIP_LEVEL)
    CHECK(CL_INVALID_GLOBAL_WORK_SIZE)
    CHECK(CL_INVALID_PROPERTY)
    CHECK(CL_INVALID_IMAGE_DESCRIPTOR)
    CHECK(CL_INVALID_COMPILER_OPTIONS)
    CHECK(CL_INVALID_LINKER_OPTIONS)
    CHECK(CL_INVALID_DEVICE_PARTITION_COUNT)
#undef CHECK
}

/* Values that the headers hide from a 1.2 target, from the specification and registry. */
static void names_later_codes_and_extensions_by_value(void **state)
{
    (void)state;
    assert_string_equal(clmla_status_name(-69), "CL_INVALID_PIPE_SIZE");
    assert_string_equal(clmla_status_name(-70), "CL_INVALID_DEVICE_QUEUE");
    assert_string_equal(clmla_status_name(-71), "CL_INVALID_SPEC_ID");
    assert_string_equal(clmla_status_name(-72), "CL_MAX_SIZE_RESTRICTION_EXCEEDED");
    assert_string_equal(clmla_status_name(-1001), "CL_PLATFORM_NOT_FOUND_KHR");
    assert_string_equal(clmla_status_name(-1057), "CL_DEVICE_PARTITION_FAILED_EXT");
    assert_string_equal(clmla_status_name(-1094), "CL_INVALID_ACCELERATOR_INTEL");
    assert_string_equal(clmla_status_name(-1121), "CL_CONTEXT_TERMINATED_KHR");
}

static void says_so_when_a_status_is_unknown(void **state)
{
    (void)state;
    const clmla_status unknown[] = {1, -20, -29, -73, -3000, -3020, INT32_MIN, INT32_MAX};
    for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
        assert_string_equal(clmla_status_name(unknown[i]), "unknown status");
        assert_true(strlen(clmla_status_message(unknown[i])) > 0);
    }
}

static void gives_every_status_one_name_and_a_line_of_text(void **state)
{
    (void)state;
    for (clmla_status status = 0; status > -4000; status--) {
        const char *message = clmla_status_message(status);
        assert_true(strlen(message) > 0);
        assert_null(strchr(message, '\n'));
        if (strcmp(clmla_status_name(status), "unknown status") == 0)
            continue;
        for (clmla_status other = status - 1; other > -4000; other--)
            assert_string_not_equal(clmla_status_name(status), clmla_status_name(other));
    }
}

static void states_its_version(void **state)
{
    (void)state;
    char expected[32];
    (void)snprintf(expected, sizeof expected, "%d.%d.%d", CLMLA_VERSION_MAJOR, CLMLA_VERSION_MINOR,
                   CLMLA_VERSION_PATCH);
    assert_string_equal(clmla_version(), expected);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_every_status_of_clmla),
        cmocka_unit_test(names_every_status_of_opencl_1_2),
        cmocka_unit_test(names_later_codes_and_extensions_by_value),
        cmocka_unit_test(says_so_when_a_status_is_unknown),
        cmocka_unit_test(gives_every_status_one_name_and_a_line_of_text),
        cmocka_unit_test(states_its_version),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
