/*
 * For the .bats files, so that they need neither jq nor Python:
 *
 *   probe json a.0.b           the value at that path of the JSON document on stdin; exit 1: none
 *   probe keys                 the names of its members, one a line
 *   probe shape FILE TENSOR    "F32 1 5 64"
 *   probe error FILE REFERENCE TENSOR [TENSOR_OF_REFERENCE]
 *                              relative L2 difference of an F32 tensor from an F64 or F32 one, in
 *                              parts per million, rounded up; exit 1: not finite
 *   probe rows FILE TENSOR REFERENCE PREFIX
 *                              the same for the rows of [1, s, width] that PREFIX.rows lists, from
 *                              PREFIX.output_rows
 *   probe same FILE TENSOR FILE TENSOR
 *                              exit 1: not the same dtype, shape and bits
 *   probe make FILE NAME:DTYPE:SHAPE...
 *                              a file of zeros; SHAPE is 1x5x64
 *   probe peak COMMAND...      runs it; its largest resident memory in MiB on stdout, its exit code
 */
/* fork, execvp; getrusage is of X/Open */
#define _XOPEN_SOURCE 700

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clmla_model.h"

static int show_json(const char *path)
{
    json_error_t error;
    json_t *document = json_loadf(stdin, JSON_REJECT_DUPLICATES, &error);
    const json_t *value = document;
    char word[64];
    if (document == NULL) {
        (void)fprintf(stderr, "probe: not JSON: %s at %d:%d\n", error.text, error.line,
                      error.column);
        return 1;
    }
    for (size_t length; *path != '\0' && value != NULL; path += length) {
        length = strcspn(path, ".");
        (void)snprintf(word, sizeof(word), "%.*s", (int)length, path);
        value = json_is_array(value) ? json_array_get(value, strtoul(word, NULL, 10))
                                     : json_object_get(value, word);
        length += path[length] == '.';
    }
    int code = 1;
    if (json_is_string(value))
        code = puts(json_string_value(value)) < 0;
    else if (value != NULL)
        code = json_dumpf(value, stdout, JSON_ENCODE_ANY | JSON_COMPACT) != 0;
    json_decref(document);
    return code;
}

static int show_keys(void)
{
    json_error_t error;
    const char *key;
    json_t *value, *document = json_loadf(stdin, JSON_REJECT_DUPLICATES, &error);
    json_object_foreach(document, key, value)(void) puts(key);
    json_decref(document);
    return document == NULL;
}

static const clmla_safetensors_tensor *find(const char *path, const char *name,
                                            clmla_safetensors **file)
{
    clmla_model_error error = {{0}};
    const clmla_safetensors_tensor *tensor = NULL;
    *file = NULL;
    if (clmla_safetensors_open(path, file, &error) != CLMLA_SUCCESS)
        (void)fprintf(stderr, "probe: %s\n", error.text);
    else if ((tensor = clmla_safetensors_find(*file, name)) == NULL)
        (void)fprintf(stderr, "probe: %s: no tensor %s\n", path, name);
    return tensor;
}

static int show_shape(const char *path, const char *name)
{
    clmla_safetensors *file;
    const clmla_safetensors_tensor *tensor = find(path, name, &file);
    if (tensor != NULL) {
        (void)printf("%s", clmla_safetensors_dtype_name(tensor->dtype));
        for (int32_t i = 0; i < tensor->rank; i++)
            (void)printf(" %" PRIu64, tensor->shape[i]);
        (void)printf("\n");
    }
    clmla_safetensors_close(file);
    return tensor == NULL;
}

/* Element i of F64 or F32. */
static double element(const clmla_safetensors_tensor *tensor, uint64_t i)
{
    double wide;
    float narrow;
    if (tensor->dtype == CLMLA_ST_F64) {
        memcpy(&wide, (const char *)tensor->data + i * sizeof(wide), sizeof(wide));
        return wide;
    }
    memcpy(&narrow, (const char *)tensor->data + i * sizeof(narrow), sizeof(narrow));
    return (double)narrow;
}

/* Exit code after printing the error; rows NULL: all of y. */
static int print_error(const clmla_safetensors_tensor *y, const clmla_safetensors_tensor *t,
                       const clmla_safetensors_tensor *rows)
{
    double difference = 0.0, norm = 0.0;
    if (y->dtype != CLMLA_ST_F32 || (t->dtype != CLMLA_ST_F64 && t->dtype != CLMLA_ST_F32) ||
        (rows == NULL && y->num_elements != t->num_elements) ||
        (rows != NULL && (rows->dtype != CLMLA_ST_I32 || y->rank != 3 || t->rank != 2 ||
                          t->shape[1] != y->shape[2] || t->shape[0] != rows->num_elements)))
        return 1;
    for (uint64_t i = 0; i < t->num_elements; i++) {
        uint64_t at = i;
        if (rows != NULL) {
            int32_t row;
            memcpy(&row, (const char *)rows->data + i / t->shape[1] * sizeof(row), sizeof(row));
            at = (uint64_t)row * t->shape[1] + i % t->shape[1];
            if (row < 0 || at >= y->num_elements)
                return 1;
        }
        const double truth = element(t, i);
        difference += (element(y, at) - truth) * (element(y, at) - truth);
        norm += truth * truth;
    }
    if (!isfinite(difference / norm))
        return 1;
    (void)printf("%.0f\n", ceil(1e6 * sqrt(difference / norm)));
    return 0;
}

static int show_error(const char *path, const char *name, const char *reference,
                      const char *reference_name, const char *rows_name)
{
    clmla_safetensors *file, *reference_file, *rows_file = NULL;
    const clmla_safetensors_tensor *y = find(path, name, &file);
    const clmla_safetensors_tensor *t = find(reference, reference_name, &reference_file);
    const clmla_safetensors_tensor *rows =
        rows_name != NULL ? find(reference, rows_name, &rows_file) : NULL;
    const bool found = y != NULL && t != NULL && (rows_name == NULL || rows != NULL);
    const int code = found ? print_error(y, t, rows) : 1;
    clmla_safetensors_close(file);
    clmla_safetensors_close(reference_file);
    clmla_safetensors_close(rows_file);
    return code;
}

static int show_rows(const char *path, const char *name, const char *reference, const char *prefix)
{
    char rows[96], output[96];
    (void)snprintf(rows, sizeof(rows), "%s.rows", prefix);
    (void)snprintf(output, sizeof(output), "%s.output_rows", prefix);
    return show_error(path, name, reference, output, rows);
}

static int compare(const char *path_a, const char *name_a, const char *path_b, const char *name_b)
{
    clmla_safetensors *file_a, *file_b;
    const clmla_safetensors_tensor *a = find(path_a, name_a, &file_a);
    const clmla_safetensors_tensor *b = find(path_b, name_b, &file_b);
    const bool same = a != NULL && b != NULL && a->dtype == b->dtype && a->rank == b->rank &&
                      memcmp(a->shape, b->shape, sizeof(a->shape)) == 0 &&
                      memcmp(a->data, b->data, (size_t)a->bytes) == 0;
    clmla_safetensors_close(file_a);
    clmla_safetensors_close(file_b);
    return !same;
}

/* "NAME:DTYPE:1x5x64", which is cut apart in place. */
static bool parse_tensor(char *text, clmla_safetensors_tensor *out)
{
    char *dtype = strchr(text, ':');
    char *shape = dtype != NULL ? strchr(dtype + 1, ':') : NULL;
    if (shape == NULL)
        return false;
    *dtype++ = '\0';
    *shape++ = '\0';
    *out = (clmla_safetensors_tensor){.name = text};
    for (clmla_safetensors_dtype d = CLMLA_ST_BOOL; d <= CLMLA_ST_F6_E3M2; d++)
        if (strcmp(clmla_safetensors_dtype_name(d), dtype) == 0)
            out->dtype = d;
    for (char *word = strtok(shape, "x"); word != NULL && out->rank < 8; word = strtok(NULL, "x"))
        out->shape[out->rank++] = strtoull(word, NULL, 10);
    return out->dtype != 0;
}

static int make_file(const char *path, char **words, size_t count)
{
    enum { MOST = 8 };
    static const char zeros[1 << 20];
    clmla_safetensors_tensor tensors[MOST];
    clmla_model_error error = {{0}};
    for (size_t i = 0; i < count; i++) {
        if (count > MOST || !parse_tensor(words[i], &tensors[i]))
            return 2;
        tensors[i].data = zeros;
    }
    if (clmla_safetensors_write(path, tensors, count, NULL, 0, &error) == CLMLA_SUCCESS)
        return 0;
    (void)fprintf(stderr, "probe: %s\n", error.text);
    return 1;
}

static int show_peak(char **command)
{
    struct rusage usage;
    int status = 0;
    const pid_t child = fork();
    if (child == 0) {
        (void)execvp(command[0], command);
        _exit(127);
    }
    if (child < 0 || waitpid(child, &status, 0) != child || getrusage(RUSAGE_CHILDREN, &usage) != 0)
        return 1;
    (void)printf("%ld\n", usage.ru_maxrss / 1024);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "json") == 0)
        return show_json(argv[2]);
    if (argc == 2 && strcmp(argv[1], "keys") == 0)
        return show_keys();
    if (argc == 4 && strcmp(argv[1], "shape") == 0)
        return show_shape(argv[2], argv[3]);
    if ((argc == 5 || argc == 6) && strcmp(argv[1], "error") == 0)
        return show_error(argv[2], argv[4], argv[3], argv[argc - 1], NULL);
    if (argc == 6 && strcmp(argv[1], "rows") == 0)
        return show_rows(argv[2], argv[3], argv[4], argv[5]);
    if (argc == 6 && strcmp(argv[1], "same") == 0)
        return compare(argv[2], argv[3], argv[4], argv[5]);
    if (argc >= 4 && strcmp(argv[1], "make") == 0)
        return make_file(argv[2], argv + 3, (size_t)argc - 3);
    if (argc >= 3 && strcmp(argv[1], "peak") == 0)
        return show_peak(argv + 2);
    (void)fprintf(stderr, "probe: see probe.c\n");
    return 2;
}
