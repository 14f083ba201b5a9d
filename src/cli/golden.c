/*
 * Opening a golden case: metadata, configuration, weights and requests.
 */
#include "cli/golden.h"

#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/golden_internal.h"
#include "core/checked.h"
#include "core/dtype.h"
#include "core/printable.h"

/* In parentheses: golden_internal.h gives the analyzer a macro of this name. */
clmla_status(mla_golden_fail)(clmla_model_error *error, clmla_status status, const char *format,
                              ...)
{
    va_list arguments;
    if (error == NULL)
        return status;
    va_start(arguments, format);
    if (vsnprintf(error->text, sizeof error->text, format, arguments) < 0)
        error->text[0] = '\0';
    va_end(arguments);
    mla__make_printable(error->text); /* metadata may hold anything */
    return status;
}

mla_golden_key mla_golden_request_key(const mla_golden *golden, const mla_request *request,
                                      int32_t step, const char *what)
{
    mla_golden_key key = {.rank = 0};
    mla_job_tensor_name(&golden->job, request, step, what, key.name);
    return key;
}

clmla_status mla_golden_stored(const mla_golden *golden, const mla_golden_key *key,
                               clmla_safetensors_dtype dtype, const void **data,
                               clmla_model_error *error)
{
    const clmla_safetensors_tensor *tensor = clmla_safetensors_find(golden->file, key->name);
    bool fits;
    if (tensor == NULL)
        return mla_golden_fail(error, CLMLA_BAD_FILE, "%s: tensor '%s' is missing",
                               golden->job.name, key->name);
    fits = tensor->dtype == dtype && tensor->rank == key->rank;
    for (int32_t i = 0; i < key->rank && fits; i++)
        fits = tensor->shape[i] == key->shape[i];
    if (!fits)
        return mla_golden_fail(error, CLMLA_BAD_FILE,
                               "%s: tensor '%s' is not %s of the shape that the case's config and "
                               "requests ask for",
                               golden->job.name, key->name, clmla_safetensors_dtype_name(dtype));
    if ((uintptr_t)tensor->data % clmla_safetensors_dtype_bytes(dtype) != 0)
        return mla_golden_fail(error, CLMLA_BAD_FILE, "%s: tensor '%s' is not aligned to its %s",
                               golden->job.name, key->name, clmla_safetensors_dtype_name(dtype));
    *data = tensor->data;
    return CLMLA_SUCCESS;
}

clmla_status mla_golden_own(mla_golden *golden, void *memory, clmla_model_error *error)
{
    void **owned = NULL;
    if (memory != NULL)
        owned = realloc(golden->owned, (golden->num_owned + 1) * sizeof *owned);
    if (owned == NULL) {
        free(memory);
        return mla_golden_fail(error, CL_OUT_OF_HOST_MEMORY, "%s: out of memory", golden->job.name);
    }
    golden->owned = owned;
    owned[golden->num_owned++] = memory;
    return CLMLA_SUCCESS;
}

/* ---- metadata ------------------------------------------------------------------------------- */

/* NULL, and the error written, when it is missing. */
static const char *read_text(const mla_golden_opener *open, const char *key)
{
    const char *text = clmla_safetensors_metadata(open->golden.file, key);
    if (text == NULL)
        (void)mla_golden_fail(open->error, CLMLA_BAD_FILE, "%s: metadata '%s' is missing",
                              open->golden.job.name, key);
    return text;
}

static clmla_status read_bound(const mla_golden_opener *open, const char *key, double *bound)
{
    const char *text = read_text(open, key);
    char *end;
    if (text == NULL)
        return CLMLA_BAD_FILE;
    *bound = strtod(text, &end);
    if (end == text || *end != '\0' || !isfinite(*bound) || !(*bound > 0.0))
        return mla_golden_fail(open->error, CLMLA_BAD_FILE,
                               "%s: metadata '%s' is '%.40s', not a number > 0",
                               open->golden.job.name, key, text);
    return CLMLA_SUCCESS;
}

/* One of two words. */
static clmla_status read_choice(const mla_golden_opener *open, const char *key, const char *no,
                                const char *yes, bool *chosen)
{
    const char *text = read_text(open, key);
    if (text == NULL)
        return CLMLA_BAD_FILE;
    if (strcmp(text, no) != 0 && strcmp(text, yes) != 0)
        return mla_golden_fail(open->error, CLMLA_BAD_FILE,
                               "%s: metadata '%s' is '%.40s', neither '%s' nor '%s'",
                               open->golden.job.name, key, text, no, yes);
    *chosen = strcmp(text, yes) == 0;
    return CLMLA_SUCCESS;
}

static clmla_status read_layout(mla_golden_opener *open, bool *prefixed)
{
    const char *layout = read_text(open, "layout");
    if (layout == NULL)
        return CLMLA_BAD_FILE;
    open->golden.recipe = strcmp(layout, "recipe") == 0;
    *prefixed = open->golden.recipe || strcmp(layout, "ragged") == 0;
    if (!*prefixed && strcmp(layout, "batch") != 0)
        return mla_golden_fail(open->error, CLMLA_BAD_FILE,
                               "%s: metadata 'layout' is '%.40s'; batch, ragged and recipe exist",
                               open->golden.job.name, layout);
    return CLMLA_SUCCESS;
}

static clmla_status read_config(mla_golden_opener *open)
{
    const char *text = read_text(open, "config");
    if (text == NULL)
        return CLMLA_BAD_FILE;
    return clmla_model_config_parse(text, strlen(text), &open->golden.job.config, open->error);
}

static clmla_status read_metadata(mla_golden_opener *open, const char *path, bool *prefixed)
{
    mla_golden *golden = &open->golden;
    const char *format = clmla_safetensors_metadata(golden->file, "format");
    const char *name;
    clmla_status status;

    golden->job.name = path; /* until the case's own name is known */
    if (format == NULL || strcmp(format, "mla-golden 1") != 0)
        return mla_golden_fail(open->error, CLMLA_BAD_FILE,
                               "%s: not a golden case: metadata 'format' is %.40s, not "
                               "'mla-golden 1'",
                               path, format != NULL ? format : "missing");
    name = read_text(open, "case");
    if (name == NULL)
        return CLMLA_BAD_FILE;
    golden->job.name = name;
    status = read_layout(open, prefixed);
    if (status == CLMLA_SUCCESS)
        status = read_choice(open, "feedback", "false", "true", &golden->feedback);
    if (status == CLMLA_SUCCESS)
        status = read_choice(open, "dtype", "bfloat16", "float8_e4m3fn", &golden->fp8);
    if (status == CLMLA_SUCCESS)
        status = read_bound(open, "bound_bf16_rel_l2", &golden->bound_bf16_rel_l2);
    if (status == CLMLA_SUCCESS)
        status = read_bound(open, "bound_bf16_max_abs", &golden->bound_bf16_max_abs);
    if (status == CLMLA_SUCCESS)
        status = read_bound(open, "bound_f32_rel_l2", &golden->bound_f32_rel_l2);
    if (status == CLMLA_SUCCESS)
        status = read_config(open);
    return status;
}

/* ---- requests ------------------------------------------------------------------------------- */

static bool in_range(const json_t *value, json_int_t low)
{
    return json_is_integer(value) && json_integer_value(value) >= low &&
           json_integer_value(value) <= INT32_MAX;
}

/* batch, past and steps; positions must fit an int32. */
static bool parse_request(const json_t *entry, bool recipe, mla_request *out)
{
    const json_t *batch = json_object_get(entry, "batch");
    const json_t *past = json_object_get(entry, "past");
    const json_t *steps = json_object_get(entry, "steps");
    json_int_t length;
    if (!in_range(batch, 1) || !in_range(past, 0) || json_array_size(steps) == 0 ||
        json_array_size(steps) > INT32_MAX || (recipe && json_integer_value(batch) != 1))
        return false;
    out->batch = (int32_t)json_integer_value(batch);
    out->past = (int32_t)json_integer_value(past);
    out->num_steps = (int32_t)json_array_size(steps);
    length = out->past;
    for (int32_t i = 0; i < out->num_steps; i++) {
        const json_t *tokens = json_array_get(steps, (size_t)i);
        if (!in_range(tokens, 1) || length + json_integer_value(tokens) > INT32_MAX)
            return false;
        out->steps[i] = (int32_t)json_integer_value(tokens);
        length += out->steps[i];
    }
    return true;
}

static clmla_status read_request(mla_golden_opener *open, const json_t *entry, bool prefixed,
                                 mla_request *out)
{
    const size_t num_steps = json_array_size(json_object_get(entry, "steps"));
    const int32_t index = open->golden.job.num_requests;
    clmla_status status;

    out->steps = calloc(num_steps + 1, sizeof *out->steps);
    status = mla_golden_own(&open->golden, out->steps, open->error);
    if (status != CLMLA_SUCCESS)
        return status;
    out->hidden = calloc(num_steps + 1, sizeof *out->hidden);
    status = mla_golden_own(&open->golden, out->hidden, open->error);
    if (status != CLMLA_SUCCESS)
        return status;
    if (prefixed)
        (void)snprintf(out->prefix, sizeof out->prefix, "req%d.", index);
    if (!parse_request(entry, open->golden.recipe, out))
        return mla_golden_fail(open->error, CLMLA_BAD_FILE,
                               "%s: metadata 'requests': request %d is not a batch >= 1%s, a past "
                               ">= 0 and steps >= 1",
                               open->golden.job.name, index,
                               open->golden.recipe ? " (recipe: 1)" : "");
    return CLMLA_SUCCESS;
}

static clmla_status read_requests(mla_golden_opener *open, bool prefixed)
{
    mla_golden *golden = &open->golden;
    const char *text = read_text(open, "requests");
    clmla_status status = CLMLA_SUCCESS;
    json_t *list;
    size_t count;
    if (text == NULL)
        return CLMLA_BAD_FILE;
    list = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    count = json_array_size(list);
    if (count == 0 || count > MLA_MAX_REQUESTS || (!prefixed && count != 1))
        status = mla_golden_fail(open->error, CLMLA_BAD_FILE,
                                 "%s: metadata 'requests' is not a list of 1 to %d requests",
                                 golden->job.name, prefixed ? MLA_MAX_REQUESTS : 1);
    for (size_t r = 0; r < count && status == CLMLA_SUCCESS; r++) {
        status = read_request(open, json_array_get(list, r), prefixed, &golden->job.requests[r]);
        golden->job.num_requests++;
    }
    json_decref(list);
    return status;
}

/* ---- tensors -------------------------------------------------------------------------------- */

/* A bf16 tensor: drawn when the recipe names it, else stored. */
static clmla_status load_bf16(mla_golden_opener *open, const mla_golden_key *key, const void **out)
{
    if (open->recipe != NULL && json_object_get(open->recipe, key->name) != NULL)
        return mla_golden_draw(open, key, out);
    return mla_golden_stored(&open->golden, key, CLMLA_ST_BF16, out, open->error);
}

static clmla_status load_array(mla_golden_opener *open, const mla_golden_key *key, mla_array *out)
{
    out->dtype = CLMLA_DTYPE_BF16;
    return load_bf16(open, key, &out->data);
}

/* A matrix [rows, columns], or a norm's weights [columns] with rows == 0. */
static clmla_status load_weight(mla_golden_opener *open, const char *which, int32_t rows,
                                int32_t columns, clmla_checkpoint_weight *out)
{
    mla_golden_key key = {.rank = rows > 0 ? 2 : 1};
    const bool fp8 = open->golden.fp8 && rows > 0;
    clmla_checkpoint_weight weight = {.dtype = fp8 ? CLMLA_ST_F8_E4M3 : CLMLA_ST_BF16,
                                      .rows = rows > 0 ? (uint64_t)rows : 1,
                                      .columns = (uint64_t)columns};
    clmla_status status;

    (void)snprintf(key.name, sizeof key.name, "model.layers.0.self_attn.%s.weight", which);
    key.shape[0] = rows > 0 ? weight.rows : weight.columns;
    key.shape[1] = weight.columns;
    if (!fp8) {
        status = load_bf16(open, &key, &weight.data);
    } else {
        status = mla_golden_stored(&open->golden, &key, weight.dtype, &weight.data, open->error);
        if (status == CLMLA_SUCCESS) {
            (void)snprintf(key.name, sizeof key.name,
                           "model.layers.0.self_attn.%s.weight_scale_inv", which);
            key.shape[0] = mla__ceil_div(weight.rows, MLA__FP8_BLOCK);
            key.shape[1] = mla__ceil_div(weight.columns, MLA__FP8_BLOCK);
            status = mla_golden_stored(&open->golden, &key, CLMLA_ST_F32, &weight.scale_inv,
                                       open->error);
        }
    }
    if (status == CLMLA_SUCCESS)
        *out = weight;
    return status;
}

static clmla_status load_weights(mla_golden_opener *open)
{
    const clmla_config *c = &open->golden.job.config;
    clmla_checkpoint_weights *weights = &open->golden.job.weights;
    const int32_t heads = c->num_attention_heads;
    const int32_t q_rows = heads * (c->qk_nope_head_dim + c->qk_rope_head_dim);
    clmla_status status;

    if (c->q_lora_rank == 0) {
        status = load_weight(open, "q_proj", q_rows, c->hidden_size, &weights->q_proj);
    } else {
        status = load_weight(open, "q_a_proj", c->q_lora_rank, c->hidden_size, &weights->q_a_proj);
        if (status == CLMLA_SUCCESS)
            status = load_weight(open, "q_a_layernorm", 0, c->q_lora_rank, &weights->q_a_layernorm);
        if (status == CLMLA_SUCCESS)
            status = load_weight(open, "q_b_proj", q_rows, c->q_lora_rank, &weights->q_b_proj);
    }
    if (status == CLMLA_SUCCESS)
        status = load_weight(open, "kv_a_proj_with_mqa", c->kv_lora_rank + c->qk_rope_head_dim,
                             c->hidden_size, &weights->kv_a_proj_with_mqa);
    if (status == CLMLA_SUCCESS)
        status = load_weight(open, "kv_a_layernorm", 0, c->kv_lora_rank, &weights->kv_a_layernorm);
    if (status == CLMLA_SUCCESS)
        status = load_weight(open, "kv_b_proj", heads * (c->qk_nope_head_dim + c->v_head_dim),
                             c->kv_lora_rank, &weights->kv_b_proj);
    if (status == CLMLA_SUCCESS)
        status =
            load_weight(open, "o_proj", c->hidden_size, heads * c->v_head_dim, &weights->o_proj);
    return status;
}

static clmla_status load_cache(mla_golden_opener *open, const mla_request *request,
                               const char *what, int32_t width, mla_array *out)
{
    mla_golden_key key = mla_golden_request_key(&open->golden, request, -1, what);
    if (request->past == 0 || width == 0)
        return CLMLA_SUCCESS;
    key.rank = 3;
    key.shape[0] = (uint64_t)request->batch;
    key.shape[1] = (uint64_t)request->past;
    key.shape[2] = (uint64_t)width;
    return load_array(open, &key, out);
}

/* The hidden states of a step, and that it starts where the steps before it end. */
static clmla_status load_step(mla_golden_opener *open, mla_request *request, int32_t step,
                              int32_t start)
{
    mla_golden_key key = mla_golden_request_key(&open->golden, request, step, "start_pos");
    const void *start_pos;
    clmla_status status;

    key.rank = 1;
    key.shape[0] = 1;
    status = mla_golden_stored(&open->golden, &key, CLMLA_ST_I32, &start_pos, open->error);
    if (status != CLMLA_SUCCESS)
        return status;
    if (*(const int32_t *)start_pos != start)
        return mla_golden_fail(open->error, CLMLA_BAD_FILE,
                               "%s: tensor '%s' is %d, but %d tokens come before the step",
                               open->golden.job.name, key.name, *(const int32_t *)start_pos, start);
    key = mla_golden_request_key(&open->golden, request, step, "hidden_states");
    key.rank = 3;
    key.shape[0] = (uint64_t)request->batch;
    key.shape[1] = (uint64_t)request->steps[step];
    key.shape[2] = (uint64_t)open->golden.job.config.hidden_size;
    return load_array(open, &key, &request->hidden[step]);
}

static clmla_status load_request(mla_golden_opener *open, mla_request *request)
{
    const clmla_config *c = &open->golden.job.config;
    int32_t start = request->past;
    clmla_status status =
        load_cache(open, request, "init.kv_cache", c->kv_lora_rank, &request->kv_cache);
    if (status == CLMLA_SUCCESS)
        status =
            load_cache(open, request, "init.pe_cache", c->qk_rope_head_dim, &request->pe_cache);
    for (int32_t i = 0; i < request->num_steps && status == CLMLA_SUCCESS; i++) {
        status = load_step(open, request, i, start);
        start += request->steps[i];
    }
    return status;
}

static clmla_status load_case(mla_golden_opener *open, const char *path)
{
    bool prefixed = false;
    clmla_status status = read_metadata(open, path, &prefixed);
    if (status == CLMLA_SUCCESS)
        status = read_requests(open, prefixed);
    if (status == CLMLA_SUCCESS && open->golden.recipe)
        status = mla_golden_read_recipe(open);
    if (status == CLMLA_SUCCESS)
        status = load_weights(open);
    for (int32_t r = 0; r < open->golden.job.num_requests && status == CLMLA_SUCCESS; r++)
        status = load_request(open, &open->golden.job.requests[r]);
    return status;
}

clmla_status mla_golden_open(const char *path, bool (*progress)(const char *what, void *user),
                             void *user, mla_golden *out, clmla_model_error *error)
{
    mla_golden_opener open = {.progress = progress, .user = user, .error = error};
    clmla_status status = clmla_safetensors_open(path, &open.golden.file, error);
    if (status != CLMLA_SUCCESS)
        return status;
    status = load_case(&open, path);
    json_decref(open.recipe);
    if (status != CLMLA_SUCCESS) {
        mla_golden_close(&open.golden);
        return status;
    }
    *out = open.golden;
    return CLMLA_SUCCESS;
}

void mla_golden_close(mla_golden *golden)
{
    if (golden == NULL)
        return;
    for (size_t i = 0; i < golden->num_owned; i++)
        free(golden->owned[i]);
    free(golden->owned);
    clmla_safetensors_close(golden->file);
    memset(golden, 0, sizeof *golden);
}
