/*
 * Golden cases of full size: tensors drawn by the recipe of tests/golden/README.md.
 */
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "cli/golden_internal.h"
#include "core/checked.h"
#include "ref/draw.h"

enum { LARGE_TENSOR = 1 << 20 }; /* elements; smaller ones are drawn without a word */

typedef struct recipe_entry {
    mla_draw_kind kind;
    int exp;
    uint64_t sum, weighted_sum;
} recipe_entry;

static bool parse_kind(const char *text, mla_draw_kind *kind)
{
    static const struct {
        const char *name;
        mla_draw_kind kind;
    } kinds[] = {{"sym", MLA_DRAW_SYM}, {"unit", MLA_DRAW_UNIT}, {"norm", MLA_DRAW_NORM}};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0] && text != NULL; i++) {
        if (strcmp(kinds[i].name, text) == 0) {
            *kind = kinds[i].kind;
            return true;
        }
    }
    return false;
}

static bool parse_hexadecimal(const char *text, uint64_t *value)
{
    char *end;
    if (text == NULL || text[0] == '\0')
        return false;
    errno = 0;
    *value = strtoull(text, &end, 16);
    return *end == '\0' && errno == 0;
}

static bool same_shape(const json_t *shape, const mla_golden_key *key)
{
    if (json_array_size(shape) != (size_t)key->rank)
        return false;
    for (int32_t i = 0; i < key->rank; i++) {
        const json_t *size = json_array_get(shape, (size_t)i);
        if (!json_is_integer(size) || json_integer_value(size) != (json_int_t)key->shape[i])
            return false;
    }
    return true;
}

/* kind 'sym' has an exp; powers of two that far from 1 are no data. */
static bool parse_exp(const json_t *value, int *exp)
{
    enum { LARGEST = 64 };
    if (value == NULL) {
        *exp = 0;
        return true;
    }
    if (!json_is_integer(value) || json_integer_value(value) < -LARGEST ||
        json_integer_value(value) > LARGEST)
        return false;
    *exp = (int)json_integer_value(value);
    return true;
}

static clmla_status parse_entry(const mla_golden_opener *open, const mla_golden_key *key,
                                recipe_entry *out)
{
    const json_t *entry = json_object_get(open->recipe, key->name);
    const char *name = open->golden.job.name;
    if (!same_shape(json_object_get(entry, "shape"), key))
        return mla_golden_fail(open->error, CLMLA_BAD_FILE,
                               "%s: recipe of '%s': not the shape that the case's config and "
                               "requests ask for",
                               name, key->name);
    if (!parse_kind(json_string_value(json_object_get(entry, "kind")), &out->kind) ||
        !parse_exp(json_object_get(entry, "exp"), &out->exp))
        return mla_golden_fail(open->error, CLMLA_BAD_FILE,
                               "%s: recipe of '%s': kind or exp is not valid", name, key->name);
    if (!parse_hexadecimal(json_string_value(json_object_get(entry, "sum16")), &out->sum) ||
        !parse_hexadecimal(json_string_value(json_object_get(entry, "wsum16")), &out->weighted_sum))
        return mla_golden_fail(open->error, CLMLA_BAD_FILE,
                               "%s: recipe of '%s': sum16 or wsum16 is not hexadecimal", name,
                               key->name);
    return CLMLA_SUCCESS;
}

/* Memory for the elements of a tensor, owned by the case, once progress knows of it. */
static clmla_status allocate(mla_golden_opener *open, const mla_golden_key *key, uint16_t **out,
                             size_t *count)
{
    uint64_t bytes = sizeof **out;
    uint16_t *memory;
    clmla_status status;
    for (int32_t i = 0; i < key->rank; i++)
        if (!mla__checked_mul(bytes, key->shape[i], &bytes))
            bytes = UINT64_MAX;
    if (open->progress != NULL && bytes >= LARGE_TENSOR * sizeof **out &&
        !open->progress(key->name, open->user))
        return mla_golden_fail(open->error, CLMLA_BAD_FILE, "%s: '%s' was not to be drawn",
                               open->golden.job.name, key->name);
    memory = bytes <= SIZE_MAX / 2 ? malloc((size_t)bytes) : NULL;
    status = mla_golden_own(&open->golden, memory, open->error);
    if (status != CLMLA_SUCCESS)
        return mla_golden_fail(open->error, status, "%s: no memory to draw '%s'",
                               open->golden.job.name, key->name);
    *out = memory;
    *count = (size_t)bytes / sizeof **out;
    return CLMLA_SUCCESS;
}

clmla_status mla_golden_draw(mla_golden_opener *open, const mla_golden_key *key, const void **data)
{
    recipe_entry entry = {.exp = 0};
    uint16_t *values;
    size_t count;
    uint64_t sum;
    uint64_t weighted_sum;
    clmla_status status = parse_entry(open, key, &entry);
    if (status == CLMLA_SUCCESS)
        status = allocate(open, key, &values, &count);
    if (status != CLMLA_SUCCESS)
        return status;
    mla_draw(mla_draw_base(key->name, open->seed), 0, count, entry.kind, entry.exp, values);
    mla_draw_sums(values, count, &sum, &weighted_sum);
    if (sum != entry.sum || weighted_sum != entry.weighted_sum)
        return mla_golden_fail(open->error, CLMLA_BAD_FILE,
                               "%s: tensor '%s' as drawn has sum16 %016llx and wsum16 %016llx, the "
                               "recipe says %016llx and %016llx",
                               open->golden.job.name, key->name, (unsigned long long)sum,
                               (unsigned long long)weighted_sum, (unsigned long long)entry.sum,
                               (unsigned long long)entry.weighted_sum);
    *data = values;
    return CLMLA_SUCCESS;
}

/* probe0 and probe1: kind 'sym', exp 0, no checksum. */
static clmla_status draw_probes(mla_golden_opener *open)
{
    static const char *const names[2] = {"probe0", "probe1"};
    for (int p = 0; p < 2; p++) {
        mla_golden_key key = {.rank = 1, .shape = {(uint64_t)open->golden.job.config.hidden_size}};
        size_t count;
        clmla_status status;
        memcpy(key.name, names[p], strlen(names[p]) + 1);
        status = allocate(open, &key, &open->golden.probes[p], &count);
        if (status != CLMLA_SUCCESS)
            return status;
        mla_draw(mla_draw_base(key.name, open->seed), 0, count, MLA_DRAW_SYM, 0,
                 open->golden.probes[p]);
    }
    return CLMLA_SUCCESS;
}

clmla_status mla_golden_read_recipe(mla_golden_opener *open)
{
    const char *text = clmla_safetensors_metadata(open->golden.file, "recipe");
    json_t *root = text != NULL ? json_loads(text, JSON_REJECT_DUPLICATES, NULL) : NULL;
    json_t *tensors = json_object_get(root, "tensors");
    const json_t *seed = json_object_get(root, "seed");
    if (!json_is_object(tensors) || !json_is_integer(seed) || json_integer_value(seed) < 0) {
        json_decref(root);
        return mla_golden_fail(open->error, CLMLA_BAD_FILE,
                               "%s: metadata 'recipe' is not an object with seed and tensors",
                               open->golden.job.name);
    }
    open->seed = (uint64_t)json_integer_value(seed);
    open->recipe = json_incref(tensors);
    json_decref(root);
    return draw_probes(open);
}
