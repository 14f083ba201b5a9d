/*
 * For the .bats files, so that they need neither jq nor Python:
 *
 *   probe json a.0.b           the value at that path of the JSON document on stdin; exit 1: none
 *   probe keys                 the names of its members, one a line
 *   probe shape FILE TENSOR    "F32 1 5 64"
 *   probe error FILE REFERENCE TENSOR
 *                              relative L2 difference of an F32 tensor from the F64 one of the
 *                              same name, in parts per million, rounded up; exit 1: not finite
 */
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

static double relative_error(const clmla_safetensors_tensor *y, const clmla_safetensors_tensor *t)
{
    double difference = 0.0, norm = 0.0;
    if (y->dtype != CLMLA_ST_F32 || t->dtype != CLMLA_ST_F64 || y->num_elements != t->num_elements)
        return (double)NAN;
    for (uint64_t i = 0; i < y->num_elements; i++) {
        float value;
        double truth;
        memcpy(&value, (const char *)y->data + i * sizeof(value), sizeof(value));
        memcpy(&truth, (const char *)t->data + i * sizeof(truth), sizeof(truth));
        difference += ((double)value - truth) * ((double)value - truth);
        norm += truth * truth;
    }
    return sqrt(difference / norm);
}

static int show_error(const char *path, const char *reference, const char *name)
{
    clmla_safetensors *file, *reference_file;
    const clmla_safetensors_tensor *y = find(path, name, &file);
    const clmla_safetensors_tensor *t = find(reference, name, &reference_file);
    const double error = y != NULL && t != NULL ? relative_error(y, t) : (double)NAN;
    clmla_safetensors_close(file);
    clmla_safetensors_close(reference_file);
    if (!isfinite(error))
        return 1;
    (void)printf("%.0f\n", ceil(1e6 * error));
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "json") == 0)
        return show_json(argv[2]);
    if (argc == 2 && strcmp(argv[1], "keys") == 0)
        return show_keys();
    if (argc == 4 && strcmp(argv[1], "shape") == 0)
        return show_shape(argv[2], argv[3]);
    if (argc == 5 && strcmp(argv[1], "error") == 0)
        return show_error(argv[2], argv[3], argv[4]);
    (void)fprintf(stderr, "probe: see probe.c\n");
    return 2;
}
