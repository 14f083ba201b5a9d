/*
 * Damaged checkpoints: random bytes of every file are overwritten. Whatever that gives is read or
 * refused with a message; a sanitizer sees the rest.
 */
#define FOLDER TEST_OUTPUT_DIR "/test_checkpoint_damage"
#include "checkpoint_model.h"

enum { ROUNDS = 1500, SEED = 3, MOST_BYTES = 8 };

/* A file of the folder, and how much of its beginning is damaged: of shards the header. */
typedef struct target {
    const char *name;
    long bytes;
} target;

static const target targets[] = {{"config.json", 0}, {INDEX, 0}, {SHARD_1, 1200}, {SHARD_2, 1200}};

enum { NUM_TARGETS = sizeof targets / sizeof targets[0] };

/* Bytes that mean something in JSON and in lengths are likelier. */
static int draw_byte(test_random *random)
{
    static const char meaningful[] = "{}[],:\"\\0129-.eE/ ntu\0\377\177";
    return test_random_int(random, 0, 1) == 0
               ? meaningful[test_random_int(random, 0, (int32_t)sizeof meaningful - 2)]
               : test_random_int(random, 0, 255);
}

static void damage(test_random *random, const target *file)
{
    char path[512];
    const int32_t count = test_random_int(random, 1, MOST_BYTES);
    (void)snprintf(path, sizeof path, FOLDER "/%s", file->name);
    FILE *stream = fopen(path, "r+b");
    assert_non_null(stream);
    assert_int_equal(fseek(stream, 0, SEEK_END), 0);
    const long end = ftell(stream);
    const long bytes = file->bytes > 0 && file->bytes < end ? file->bytes : end;
    for (int32_t i = 0; i < count; i++) {
        assert_int_equal(fseek(stream, test_random_int(random, 0, (int32_t)bytes - 1), SEEK_SET),
                         0);
        assert_true(fputc(draw_byte(random), stream) != EOF);
    }
    assert_int_equal(fclose(stream), 0);
}

/* Reads every byte of what was accepted. */
static void use(const clmla_checkpoint_weights *weights)
{
    clmla_weights_params params = {.struct_size = sizeof params};
    void *memory = NULL;
    const clmla_checkpoint_weight *const all[] = {&weights->q_proj, &weights->q_a_proj,
                                                  &weights->kv_b_proj, &weights->o_proj};
    assert_int_equal(clmla_checkpoint_sources(weights, CLMLA_DTYPE_BF16, &params, &memory, NULL),
                     CLMLA_SUCCESS);
    clmla_checkpoint_sources_free(memory);
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        if (all[i]->data == NULL)
            continue;
        float *row = malloc((size_t)all[i]->columns * sizeof *row);
        assert_non_null(row);
        for (uint64_t r = 0; r < all[i]->rows; r++)
            assert_int_equal(clmla_checkpoint_decode(all[i], r, 1, CLMLA_DTYPE_F32, row),
                             CLMLA_SUCCESS);
        free(row);
    }
}

static void reads_or_refuses_whatever_is_damaged(void **state)
{
    test_random random = {SEED};
    int accepted = 0;
    model m;
    (void)state;
    for (int round = 0; round < ROUNDS; round++) {
        const target *file = &targets[round % NUM_TARGETS];
        clmla_checkpoint *checkpoint = NULL;
        clmla_checkpoint_weights weights;
        clmla_model_error error = {""};
        make(&m);
        write_model(&m);
        damage(&random, file);
        clmla_status status = clmla_checkpoint_open(FOLDER, &checkpoint, &error);
        if (status == CLMLA_SUCCESS)
            status = clmla_checkpoint_layer(checkpoint, 0, &weights, &error);
        if (status == CLMLA_SUCCESS) {
            use(&weights);
            accepted++;
        } else if (error.text[0] == '\0') {
            fail_msg("round %d, %s: %s without a message", round, file->name,
                     clmla_status_name(status));
        }
        clmla_checkpoint_close(checkpoint);
    }
    /* neither all nor none: the damage reaches what is checked, and does not always */
    assert_true(accepted > 0 && accepted < ROUNDS / 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(reads_or_refuses_whatever_is_damaged)};
    draw_data();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
