#include "cli/select.h"
#include "support/support.h"

/* The flat list of a machine with three platforms; the second has a GPU and a CPU. */
static const mla_device_description machine[] = {
    {0, "Clover", "Mesa", "llvmpipe (LLVM 15)", MLA_DEVICE_GPU},
    {1, "Intel(R) OpenCL", "Intel Corporation", "Intel Xeon", MLA_DEVICE_CPU},
    {1, "Intel(R) OpenCL", "Intel Corporation", "Intel FPGA card", MLA_DEVICE_ACCELERATOR},
    {2, "NVIDIA CUDA", "NVIDIA Corporation", "NVIDIA H200", MLA_DEVICE_GPU},
    {2, "NVIDIA CUDA", "NVIDIA Corporation", "NVIDIA L40", MLA_DEVICE_GPU},
    {3, "AMD Accelerated Parallel Processing", "Advanced Micro Devices, Inc.", "gfx942",
     MLA_DEVICE_GPU},
};

enum { MACHINE_DEVICES = sizeof(machine) / sizeof(machine[0]) };

typedef struct select_case {
    const char *name;
    size_t first, count; /* part of the machine; count 0: all */
    mla_device_request request;
    int32_t expected;
    const char *why; /* part of the message, where expected is -1 */
} select_case;

static const select_case cases[] = {
    {.name = "nothing asked for: a GPU, and no software rasteriser", .expected = 3},
    {.name = "no GPU: an accelerator", .first = 0, .count = 3, .expected = 2},
    {.name = "no accelerator: a CPU", .first = 0, .count = 2, .expected = 1},
    {.name = "a software rasteriser where nothing else is", .count = 1, .expected = 0},
    {.name = "a device index alone counts the whole list",
     .request = {.device = "4"},
     .expected = 4},
    {.name = "a device index counts within the platform",
     .request = {.platform = "nvidia", .device = "1"},
     .expected = 4},
    {.name = "a platform by index", .request = {.platform = "3"}, .expected = 5},
    {.name = "a platform by part of its name in any case",
     .request = {.platform = "cuda"},
     .expected = 3},
    {.name = "a platform by part of its vendor",
     .request = {.platform = "ADVANCED"},
     .expected = 5},
    {.name = "the preferred device of a platform", .request = {.platform = "1"}, .expected = 2},
    {.name = "a device by part of its name", .request = {.device = "l40"}, .expected = 4},
    {.name = "a device by name within a platform",
     .request = {.platform = "Intel", .device = "xeon"},
     .expected = 1},
    {.name = "a vendor's shorthand", .request = {.shorthand = MLA_SHORTHAND_AMD}, .expected = 5},
    {.name = "a shorthand with an index within its platform",
     .request = {.shorthand = MLA_SHORTHAND_NVIDIA, .device = "1"},
     .expected = 4},
    {.name = "--cpu is a type of device",
     .request = {.shorthand = MLA_SHORTHAND_CPU},
     .expected = 1},
    {.name = "--cpu keeps the numbers of the whole list",
     .request = {.shorthand = MLA_SHORTHAND_CPU, .device = "1"},
     .expected = 1},
    {.name = "an index past the end names it and the devices",
     .request = {.device = "99", .device_source = "--device"},
     .expected = -1,
     .why = "--device '99': no such device; an index or part of a name of: 0 'llvmpipe"},
    {.name = "an index that no integer holds",
     .request = {.device = "99999999999999999999", .device_source = "--device"},
     .expected = -1,
     .why = "'99999999999999999999': no such device"},
    {.name = "an index past the platform's devices",
     .request = {.platform = "NVIDIA", .device = "2", .device_source = "CLMLA_DEVICE"},
     .expected = -1,
     .why = "CLMLA_DEVICE '2': no such device; an index or part of a name of: 0 'NVIDIA H200', 1 "
            "'NVIDIA L40'"},
    {.name = "an unknown platform names those there are",
     .request = {.platform = "nosuch", .platform_source = "--platform"},
     .expected = -1,
     .why = "--platform 'nosuch': no such platform; an index or part of a name of: 0 'Clover', 1 "
            "'Intel(R) OpenCL', 2"},
    {.name = "a platform index past the end",
     .request = {.platform = "7", .platform_source = "CLMLA_PLATFORM"},
     .expected = -1,
     .why = "CLMLA_PLATFORM '7': no such platform"},
    {.name = "a device name of another platform",
     .request = {.platform = "NVIDIA", .device = "gfx942", .device_source = "--device"},
     .expected = -1,
     .why = "'gfx942': no such device"},
    {.name = "a vendor without a platform",
     .request = {.shorthand = MLA_SHORTHAND_MOORE},
     .expected = -1,
     .why = "--moore: Moore Threads exposes no OpenCL platform here"},
    {.name = "an AMD processor does not make an AMD platform",
     .first = 0,
     .count = 2,
     .request = {.shorthand = MLA_SHORTHAND_AMD},
     .expected = -1,
     .why = "--amd: AMD exposes no OpenCL platform here"},
    {.name = "--cpu without a CPU device names the package",
     .first = 3,
     .count = 2,
     .request = {.shorthand = MLA_SHORTHAND_CPU},
     .expected = -1,
     .why = "pocl-opencl-icd"},
    {.name = "--cpu does not reach a GPU by its number",
     .request = {.shorthand = MLA_SHORTHAND_CPU, .device = "3", .device_source = "--device"},
     .expected = -1,
     .why = "--device '3': no such device; an index or part of a name of: 1 'Intel Xeon'"},
};

static void chooses(void **state)
{
    const select_case *c = *state;
    char why[1024] = "";
    const size_t count = c->count > 0 ? c->count : MACHINE_DEVICES;
    const int32_t chosen =
        mla_select_device(machine + c->first, count, &c->request, why, sizeof(why));
    if (chosen != c->expected)
        fail_msg("chose %d, expected %d: %s", (int)chosen, (int)c->expected, why);
    if (c->why != NULL && strstr(why, c->why) == NULL)
        fail_msg("'%s' is not in '%s'", c->why, why);
}

static void a_short_buffer_is_terminated(void **state)
{
    (void)state;
    char why[8];
    const mla_device_request request = {.platform = "nosuch", .platform_source = "--platform"};
    assert_int_equal(mla_select_device(machine, MACHINE_DEVICES, &request, why, sizeof(why)), -1);
    assert_string_equal(why, "--platf");
}

int main(void)
{
    enum { NUM_CASES = sizeof(cases) / sizeof(cases[0]) };
    struct CMUnitTest tests[NUM_CASES + 1];
    for (size_t i = 0; i < NUM_CASES; i++)
        tests[i] =
            (struct CMUnitTest){cases[i].name, chooses, NULL, NULL, (void *)(uintptr_t)&cases[i]};
    tests[NUM_CASES] = (struct CMUnitTest)cmocka_unit_test(a_short_buffer_is_terminated);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
