/* Programs: sources found and overridden, text assembled, built once, failures explained. */
#define _POSIX_C_SOURCE 200809L /* pthread barriers */

#include <pthread.h>
#include <unistd.h>

#include "clmla.h"
#include "ocl/embedded.h"
#include "ocl/launch.h"
#include "ocl/program.h"
#include "support/device.h"
#include "support/support.h"

#define KERNELS TEST_OUTPUT_DIR "/kernels-test-program"

#define ANSWER(value)                                                                              \
    "kernel void answer(global int *out, ulong at)\n{\n    out[at] = " value ";\n}\n"

static void definitions_reach_the_kernel(void **state)
{
    (void)state;
    test_write_kernel(KERNELS, "defined.cl", ANSWER("VALUE + NAME"));
    clmla_context *context = test_context_with_kernels(CLMLA_KERNELS_AUTO, KERNELS);
    mla__defines defines = {0};
    mla__define_int(&defines, "VALUE", -7);
    mla__define_text(&defines, "NAME", "(3 * 100)");
    assert_string_equal(defines.text, "#define VALUE -7\n#define NAME (3 * 100)\n");
    assert_int_equal(test_answer(context, "defined.cl", &defines), 293);
    mla__defines others = {0};
    mla__define_int(&others, "VALUE", 1);
    mla__define_int(&others, "NAME", 1);
    assert_int_equal(test_answer(context, "defined.cl", &others), 2);
    clmla_context_release(context);
}

static void dtypes_are_defined_by_their_kernel_names(void **state)
{
    (void)state;
    mla__defines defines = {0};
    mla__define_dtype(&defines, "A", CLMLA_DTYPE_BF16);
    mla__define_dtype(&defines, "B", CLMLA_DTYPE_F16);
    mla__define_dtype(&defines, "C", CLMLA_DTYPE_F32);
    assert_string_equal(defines.text, "#define A bf16\n#define B f16\n#define C f32\n");
}

static void definitions_that_do_not_fit_are_an_error(void **state)
{
    (void)state;
    static char value[5000];
    memset(value, '1', sizeof value - 1);
    const char *const files[] = {"defined.cl", NULL};
    clmla_context *context = test_context_with_kernels(CLMLA_KERNELS_AUTO, KERNELS);
    mla__defines defines = {0};
    cl_program program = NULL;
    mla__define_int(&defines, "VALUE", 1);
    mla__define_text(&defines, "NAME", value);
    assert_string_equal(defines.text, "#define VALUE 1\n"); /* never half a definition */
    assert_int_equal(mla__program_get(context, files, &defines, &program), CLMLA_INTERNAL);
    assert_null(program);
    clmla_context_release(context);
}

static void a_program_is_built_once_per_context(void **state)
{
    (void)state;
    test_write_kernel(KERNELS, "defined.cl", ANSWER("VALUE"));
    const char *const files[] = {"defined.cl", NULL};
    mla__defines one = {0}, two = {0};
    mla__define_int(&one, "VALUE", 1);
    mla__define_int(&two, "VALUE", 2);
    clmla_context *context = test_context_with_kernels(CLMLA_KERNELS_AUTO, KERNELS);
    clmla_context *other = test_context_with_kernels(CLMLA_KERNELS_AUTO, KERNELS);
    cl_program first = NULL, again = NULL, different = NULL, elsewhere = NULL;
    assert_int_equal(mla__program_get(context, files, &one, &first), CLMLA_SUCCESS);
    assert_int_equal(mla__program_get(context, files, &one, &again), CLMLA_SUCCESS);
    assert_int_equal(mla__program_get(context, files, &two, &different), CLMLA_SUCCESS);
    assert_int_equal(mla__program_get(other, files, &one, &elsewhere), CLMLA_SUCCESS);
    assert_ptr_equal(first, again);
    assert_ptr_not_equal(first, different);
    assert_ptr_not_equal(first, elsewhere);
    /* the other context's programs do not go with this one */
    clmla_context_release(context);
    assert_int_equal(test_answer(other, "defined.cl", &one), 1);
    clmla_context_release(other);
}

static void files_are_joined_after_common_clh(void **state)
{
    (void)state;
    /* no newline at the end of the first file; CLMLA_INLINE and PANEL come from common.clh */
    test_write_kernel(KERNELS, "helper.cl", "CLMLA_INLINE int helper(int x) { return x + PANEL; }");
    test_write_kernel(KERNELS, "user.cl", ANSWER("helper(1)"));
    const char *const files[] = {"helper.cl", "user.cl", NULL};
    clmla_context *context = test_context_with_kernels(CLMLA_KERNELS_AUTO, KERNELS);
    cl_program program = NULL;
    assert_int_equal(mla__program_get(context, files, NULL, &program), CLMLA_SUCCESS);
    clmla_context_release(context);
}

static void a_build_log_names_file_and_line(void **state)
{
    (void)state;
    test_write_kernel(KERNELS, "fine.cl", "CLMLA_INLINE int fine(void) { return 1; }");
    test_write_kernel(KERNELS, "cpu/broken.cl",
                      "kernel void answer(global int *out)\n{\n\n    out[0] = nowhere;\n}\n");
    const char *const files[] = {"fine.cl", "cpu/broken.cl", NULL};
    clmla_context *context = test_context_with_kernels(CLMLA_KERNELS_AUTO, KERNELS);
    cl_program program = NULL;
    test_clear_notify();
    assert_int_equal(mla__program_get(context, files, NULL, &program), CL_BUILD_PROGRAM_FAILURE);
    assert_null(program);
    assert_memory_equal(test_last_notify(), "fine.cl, cpu/broken.cl: ", 24);
    assert_non_null(strstr(test_last_notify(), "cpu/broken.cl:4"));
    assert_non_null(strstr(test_last_notify(), "nowhere"));
    /* a failure is not remembered */
    test_write_kernel(KERNELS, "cpu/broken.cl", ANSWER("fine()"));
    assert_int_equal(mla__program_get(context, files, NULL, &program), CLMLA_SUCCESS);
    assert_non_null(program);
    clmla_context_release(context);
}

static void an_unknown_kernel_is_named(void **state)
{
    (void)state;
    test_write_kernel(KERNELS, "plain.cl", ANSWER("5"));
    const char *const files[] = {"plain.cl", NULL};
    clmla_context *context = test_context_with_kernels(CLMLA_KERNELS_AUTO, KERNELS);
    mla__kernel kernel = {0};
    test_clear_notify();
    assert_int_equal(mla__kernel_create(context, files, NULL, "question", &kernel),
                     CL_INVALID_KERNEL_NAME);
    assert_null(kernel.kernel);
    assert_non_null(strstr(test_last_notify(), "question"));
    clmla_context_release(context);
}

static void sources_come_from_the_directory_before_the_embedded_ones(void **state)
{
    (void)state;
    clmla_context *plain = test_context_with_kernels(CLMLA_KERNELS_AUTO, NULL);
    const char *text = NULL;
    char *owned = NULL;
    const char *embedded_name = mla__embedded_kernels[1].name;
    assert_non_null(embedded_name);

    assert_int_equal(mla__source_find(plain, embedded_name, &text, &owned), CLMLA_SUCCESS);
    assert_ptr_equal(text, mla__embedded_kernels[1].text);
    assert_null(owned);

    const char *directory = KERNELS "-override";
    test_write_kernel(directory, embedded_name, "/* another */\n");
    clmla_context *overridden = test_context_with_kernels(CLMLA_KERNELS_AUTO, directory);
    assert_int_equal(mla__source_find(overridden, embedded_name, &text, &owned), CLMLA_SUCCESS);
    assert_string_equal(text, "/* another */\n");
    assert_ptr_equal(text, owned);
    free(owned);
    /* what the directory lacks is still the embedded file */
    assert_int_equal(mla__source_find(overridden, "common.clh", &text, &owned), CLMLA_SUCCESS);
    assert_ptr_equal(text, mla__embedded_kernels[0].text);
    assert_null(owned);
    clmla_context_release(overridden);
    clmla_context_release(plain);
}

/* A directory of the file's name, and a link to nothing. */
static void a_file_that_cannot_be_read_is_an_error(void **state)
{
    (void)state;
    const char *directory = KERNELS "-unreadable";
    const char *const paths[] = {KERNELS "-unreadable/common.clh/in_the_way",
                                 KERNELS "-unreadable/rmsnorm.cl"};
    const char *const names[] = {"common.clh", "rmsnorm.cl"};
    test_write_kernel(directory, "common.clh/in_the_way", "");
    (void)unlink(paths[1]);
    assert_int_equal(symlink("no-such-file", paths[1]), 0);
    clmla_context *context = test_context_with_kernels(CLMLA_KERNELS_AUTO, directory);
    for (int i = 0; i < 2; i++) {
        const char *text = NULL;
        char *owned = NULL;
        test_clear_notify();
        assert_int_equal(mla__source_find(context, names[i], &text, &owned), CLMLA_IO);
        assert_null(text);
        assert_null(owned);
        assert_non_null(strstr(test_last_notify(), names[i]));
        assert_non_null(strstr(test_last_notify(), directory));
    }
    clmla_context_release(context);
    (void)unlink(paths[0]);
    (void)unlink(paths[1]);
    (void)rmdir(KERNELS "-unreadable/common.clh");
}

static void a_missing_file_is_named(void **state)
{
    (void)state;
    clmla_context *contexts[] = {test_context_with_kernels(CLMLA_KERNELS_AUTO, NULL),
                                 test_context_with_kernels(CLMLA_KERNELS_AUTO, KERNELS)};
    const char *const files[] = {"no_such_file.cl", NULL};
    for (int i = 0; i < 2; i++) {
        cl_program program = NULL;
        test_clear_notify();
        assert_int_equal(mla__program_get(contexts[i], files, NULL, &program),
                         CLMLA_KERNEL_SOURCE_NOT_FOUND);
        assert_null(program);
        assert_non_null(strstr(test_last_notify(), "no_such_file.cl"));
        clmla_context_release(contexts[i]);
    }
}

static void a_changed_file_changes_the_next_context(void **state)
{
    (void)state;
    for (int round = 0; round < 2; round++) {
        test_write_kernel(KERNELS, "gpu/changing.cl", round == 0 ? ANSWER("10") : ANSWER("20"));
        clmla_context *context = test_context_with_kernels(CLMLA_KERNELS_AUTO, KERNELS);
        assert_int_equal(test_answer(context, "gpu/changing.cl", NULL), round == 0 ? 10 : 20);
        clmla_context_release(context);
    }
}

enum { THREADS = 4 };

struct racer {
    clmla_context *context;
    pthread_barrier_t *start;
    cl_program program;
    clmla_status status;
};

static void *race(void *argument)
{
    struct racer *racer = argument;
    const char *const files[] = {"plain.cl", NULL};
    pthread_barrier_wait(racer->start);
    mla__context_retain(racer->context);
    racer->status = mla__program_get(racer->context, files, NULL, &racer->program);
    clmla_context_release(racer->context);
    return NULL;
}

static void threads_share_one_build(void **state)
{
    (void)state;
    test_write_kernel(KERNELS, "plain.cl", ANSWER("5"));
    clmla_context *context = test_context_with_kernels(CLMLA_KERNELS_AUTO, KERNELS);
    pthread_barrier_t start;
    pthread_t threads[THREADS];
    struct racer racers[THREADS];
    assert_int_equal(pthread_barrier_init(&start, NULL, THREADS), 0);
    for (int i = 0; i < THREADS; i++) {
        racers[i] = (struct racer){.context = context, .start = &start, .status = -1};
        assert_int_equal(pthread_create(&threads[i], NULL, race, &racers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(racers[i].status, CLMLA_SUCCESS);
        assert_non_null(racers[i].program);
        assert_ptr_equal(racers[i].program, racers[0].program);
    }
    pthread_barrier_destroy(&start);
    clmla_context_release(context);
}

static void every_embedded_kernel_is_there(void **state)
{
    (void)state;
    assert_string_equal(mla__embedded_kernels[0].name, "common.clh");
    for (const struct mla__embedded *kernel = mla__embedded_kernels; kernel->name != NULL; kernel++)
        assert_true(strlen(kernel->text) > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(definitions_reach_the_kernel),
        cmocka_unit_test(dtypes_are_defined_by_their_kernel_names),
        cmocka_unit_test(definitions_that_do_not_fit_are_an_error),
        cmocka_unit_test(a_program_is_built_once_per_context),
        cmocka_unit_test(files_are_joined_after_common_clh),
        cmocka_unit_test(a_build_log_names_file_and_line),
        cmocka_unit_test(an_unknown_kernel_is_named),
        cmocka_unit_test(sources_come_from_the_directory_before_the_embedded_ones),
        cmocka_unit_test(a_file_that_cannot_be_read_is_an_error),
        cmocka_unit_test(a_missing_file_is_named),
        cmocka_unit_test(a_changed_file_changes_the_next_context),
        cmocka_unit_test(threads_share_one_build),
        cmocka_unit_test(every_embedded_kernel_is_there),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    test_device_close();
    return failed;
}
