/*
 * A kernel directory whose files do not compile, cannot be read or lack their kernels: the call that
 * needs one gives a status and names the file, makes nothing, and works once the file is repaired.
 */
#define _POSIX_C_SOURCE 200809L

#include <sys/stat.h>
#include <unistd.h>

#include "support/layer_fixture.h"

#define KERNELS TEST_OUTPUT_DIR "/kernels-test-broken"

typedef struct world {
    clmla_config config;
    fixture_weights weights;
    clmla_context *context;
} world;

/* Everything of a layer that builds kernels. */
static clmla_status make_layer(const world *w)
{
    const cl_command_queue queue = test_device_get()->queue;
    clmla_layer *layer = NULL;
    clmla_weights *weights = NULL;
    clmla_plan *plan = NULL;
    const clmla_layer_params params = {.struct_size = sizeof params,
                                       .config = &w->config,
                                       .max_num_sequences = 2,
                                       .max_num_tokens = 8,
                                       .max_cache_seqlen = 32,
                                       .page_block_size = 16,
                                       .num_pages = 4,
                                       .num_splits = 2};
    const clmla_weights_params sources = fixture_weights_params(&w->weights);
    clmla_status status = clmla_layer_create(w->context, &params, &layer);
    assert_true((layer != NULL) == (status == CLMLA_SUCCESS));
    if (status == CLMLA_SUCCESS) {
        status = clmla_weights_create(layer, &sources, queue, &weights);
        assert_true((weights != NULL) == (status == CLMLA_SUCCESS));
    }
    if (status == CLMLA_SUCCESS) {
        status = clmla_plan_create(layer, &plan);
        assert_true((plan != NULL) == (status == CLMLA_SUCCESS));
    }
    if (status == CLMLA_SUCCESS)
        status = clmla_layer_prepare(layer, queue);
    assert_int_equal(clFinish(queue), CL_SUCCESS);
    clmla_plan_release(plan);
    clmla_weights_release(weights);
    clmla_layer_release(layer);
    return status;
}

static world make_world(void)
{
    world w = {.config = fixture_config(36)};
    w.weights = fixture_weights_create(&w.config, 1);
    (void)mkdir(KERNELS, 0700);
    w.context = test_context_with_kernels(CLMLA_KERNELS_CPU, KERNELS);
    test_clear_notify();
    return w;
}

static void release_world(world *w)
{
    fixture_weights_release(&w->weights);
    clmla_context_release(w->context);
}

/* What every layer of class cpu builds. */
static const char *const files[] = {"common.clh", "attention.clh", "matrix.cl",      "merge.cl",
                                    "plan.cl",    "rmsnorm.cl",    "rope_append.cl", "rope.cl"};
enum { NUM_FILES = sizeof files / sizeof files[0] };

static void path_of(const char *name, char path[512])
{
    (void)snprintf(path, 512, KERNELS "/%s", name);
}

static void a_file_that_does_not_compile_is_named(void **state)
{
    (void)state;
    for (int i = 0; i < NUM_FILES; i++) {
        char path[512], line[64];
        test_write_kernel(KERNELS, files[i], "\n#error broken on purpose\n");
        path_of(files[i], path);
        (void)snprintf(line, sizeof line, "%s:2", files[i]);
        world w = make_world();
        assert_int_equal(make_layer(&w), CL_BUILD_PROGRAM_FAILURE);
        assert_non_null(strstr(test_last_notify(), line)); /* the compiler's log */
        assert_non_null(strstr(test_last_notify(), "broken on purpose"));
        assert_int_equal(unlink(path), 0);
        release_world(&w);
    }
}

static void a_repaired_file_is_taken_by_the_same_context(void **state)
{
    (void)state;
    test_write_kernel(KERNELS, "plan.cl", "kernel void unfinished(\n");
    world w = make_world();
    for (int again = 0; again < 2; again++)
        assert_int_equal(make_layer(&w), CL_BUILD_PROGRAM_FAILURE);
    assert_int_equal(unlink(KERNELS "/plan.cl"), 0);
    assert_int_equal(make_layer(&w), CLMLA_SUCCESS);
    release_world(&w);
}

static void a_file_without_its_kernels_is_named(void **state)
{
    (void)state;
    test_write_kernel(KERNELS, "plan.cl", "/* nothing */\n");
    world w = make_world();
    assert_int_equal(make_layer(&w), CL_INVALID_KERNEL_NAME);
    assert_non_null(strstr(test_last_notify(), "plan.cl"));
    assert_int_equal(unlink(KERNELS "/plan.cl"), 0);
    release_world(&w);
}

/* A link to nothing, and a directory. */
static void a_file_that_cannot_be_read_is_named(void **state)
{
    (void)state;
    for (int directory = 0; directory < 2; directory++) {
        if (directory)
            assert_int_equal(mkdir(KERNELS "/plan.cl", 0700), 0);
        else
            assert_int_equal(symlink("no-such-file", KERNELS "/plan.cl"), 0);
        world w = make_world();
        assert_int_equal(make_layer(&w), CLMLA_IO);
        assert_non_null(strstr(test_last_notify(), KERNELS "/plan.cl"));
        assert_int_equal(directory ? rmdir(KERNELS "/plan.cl") : unlink(KERNELS "/plan.cl"), 0);
        assert_int_equal(make_layer(&w), CLMLA_SUCCESS);
        release_world(&w);
    }
}

/* The context was made while it was there; the embedded files stand in, as for any that it lacks. */
static void a_directory_that_vanishes_leaves_the_embedded_files(void **state)
{
    (void)state;
    world w = make_world();
    assert_int_equal(rmdir(KERNELS), 0);
    assert_int_equal(make_layer(&w), CLMLA_SUCCESS);
    release_world(&w);
}

/* Of runs that failed. */
static int set_up(void **state)
{
    (void)state;
    (void)rmdir(KERNELS "/cpu");
    for (int i = 0; i < NUM_FILES; i++) {
        char path[512];
        path_of(files[i], path);
        (void)unlink(path);
        (void)rmdir(path);
    }
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_file_that_does_not_compile_is_named, set_up),
        cmocka_unit_test_setup(a_repaired_file_is_taken_by_the_same_context, set_up),
        cmocka_unit_test_setup(a_file_without_its_kernels_is_named, set_up),
        cmocka_unit_test_setup(a_file_that_cannot_be_read_is_named, set_up),
        cmocka_unit_test_setup(a_directory_that_vanishes_leaves_the_embedded_files, set_up),
    };
    const int failed = cmocka_run_group_tests_name("broken kernels", tests, NULL, NULL);
    test_device_close();
    return failed;
}
