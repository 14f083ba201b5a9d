#include "tuning/record.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/dtype.h"
#include "core/printable.h"

/* ---- words -------------------------------------------------------------------------------- */

/* An integer of an entry by name. */
typedef struct word {
    const char *name;
    size_t offset; /* of an int32_t in mla__record_entry */
} word;

enum { MOST_KEY_WORDS = 3 };

/* One kernel's line: dtype=, the sizes, max_rows= (where has_rows), ':' and the tile. */
typedef struct schema {
    const char *name;
    const char *dtype; /* its name in the line; NULL: neither dtype nor sizes */
    const clmla_dtype *dtypes;
    const word *sizes;
    bool has_rows;
    int32_t least; /* value of a word of the tile */
    const word *tile;
    int num_tile;
} schema;

/* Where a word's value is. */
#define IN_ENTRY(member) offsetof(mla__record_entry, member)
#define XGEMM_WORD(field, name, meaning) {#field, IN_ENTRY(clblast.xgemm.field)},

static const word matrix_sizes[MOST_KEY_WORDS] = {{"batches", IN_ENTRY(key.sizes[0])},
                                                  {"out_features", IN_ENTRY(key.sizes[1])},
                                                  {"in_features", IN_ENTRY(key.sizes[2])}};
static const word attention_sizes[MOST_KEY_WORDS] = {{"heads", IN_ENTRY(key.sizes[0])},
                                                     {"kv_lora_rank", IN_ENTRY(key.sizes[1])},
                                                     {"rope_dim", IN_ENTRY(key.sizes[2])}};

/* Each ends in DEFAULT. */
static const clmla_dtype weights[] = {CLMLA_DTYPE_BF16, CLMLA_DTYPE_F16, CLMLA_DTYPE_F32,
                                      CLMLA_DTYPE_F8_E4M3, CLMLA_DTYPE_DEFAULT};
static const clmla_dtype floats[] = {CLMLA_DTYPE_BF16, CLMLA_DTYPE_F16, CLMLA_DTYPE_F32,
                                     CLMLA_DTYPE_DEFAULT};
static const clmla_dtype dot_weights[] = {CLMLA_DTYPE_BF16, CLMLA_DTYPE_F8_E4M3,
                                          CLMLA_DTYPE_DEFAULT};
static const clmla_dtype mma_weights[] = {CLMLA_DTYPE_BF16, CLMLA_DTYPE_F8_E4M3,
                                          CLMLA_DTYPE_DEFAULT};
static const clmla_dtype wgmma_weights[] = {CLMLA_DTYPE_BF16, CLMLA_DTYPE_DEFAULT};
static const clmla_dtype mma_caches[] = {CLMLA_DTYPE_BF16, CLMLA_DTYPE_FP8_DS_MLA,
                                         CLMLA_DTYPE_DEFAULT};
static const clmla_dtype caches[] = {CLMLA_DTYPE_BF16, CLMLA_DTYPE_F16, CLMLA_DTYPE_F32,
                                     CLMLA_DTYPE_FP8_DS_MLA, CLMLA_DTYPE_DEFAULT};

static const word cpu_projection[] = {{"tile_rows", IN_ENTRY(projection.tile_rows)},
                                      {"vector_width", IN_ENTRY(projection.vector_width)},
                                      {"tile_vectors", IN_ENTRY(projection.tile_vectors)},
                                      {"block_rows", IN_ENTRY(projection.block_rows)}};
static const word gpu_projection[] = {{"tile_rows", IN_ENTRY(projection.tile_rows)},
                                      {"tile_columns", IN_ENTRY(projection.tile_columns)},
                                      {"work_rows", IN_ENTRY(projection.work_rows)},
                                      {"work_columns", IN_ENTRY(projection.work_columns)}};
static const word stream_projection[] = {{"tile_columns", IN_ENTRY(projection.tile_columns)},
                                         {"tile_k", IN_ENTRY(projection.tile_k)},
                                         {"slices", IN_ENTRY(projection.slices)}};
static const word few_projection[] = {{"tile_columns", IN_ENTRY(projection.tile_columns)},
                                      {"slices", IN_ENTRY(projection.slices)}};
static const word tiled_projection[] = {{"tile_rows", IN_ENTRY(projection.tile_rows)},
                                        {"tile_columns", IN_ENTRY(projection.tile_columns)},
                                        {"work_rows", IN_ENTRY(projection.work_rows)},
                                        {"stages", IN_ENTRY(projection.stages)}};
static const word wgmma_projection[] = {{"tile_columns", IN_ENTRY(projection.tile_columns)},
                                        {"stages", IN_ENTRY(projection.stages)}};
static const word cpu_attention[] = {{"row_vectors", IN_ENTRY(attention.row_vectors)},
                                     {"block_tokens", IN_ENTRY(attention.block_tokens)},
                                     {"tile_tokens", IN_ENTRY(attention.tile_tokens)},
                                     {"tile_values", IN_ENTRY(attention.tile_values)}};
static const word gpu_attention[] = {{"tile_rows", IN_ENTRY(attention.tile_rows)},
                                     {"block_tokens", IN_ENTRY(attention.block_tokens)},
                                     {"work_group", IN_ENTRY(attention.work_group)}};
static const word mma_attention[] = {{"tile_rows", IN_ENTRY(attention.tile_rows)},
                                     {"stages", IN_ENTRY(attention.stages)}};
static const word auto_backend[] = {{"native_max_rows", IN_ENTRY(native_max_rows)}};
static const word clblast_xgemm[] = {
    MLA__CLBLAST_XGEMM(XGEMM_WORD){"min_indirect_size", IN_ENTRY(clblast.min_indirect_size)}};

#define TILE(words) (words), (int)(sizeof(words) / sizeof((words)[0]))

static const schema schemas[MLA__RECORD_NUM_KERNELS] = {
    [MLA__RECORD_PROJECTION_CPU] = {"projection_cpu", "weights", weights, matrix_sizes, true, 1,
                                    TILE(cpu_projection)},
    [MLA__RECORD_PROJECTION_DOT] = {"projection_dot", "weights", dot_weights, matrix_sizes, true, 1,
                                    TILE(cpu_projection)},
    [MLA__RECORD_PROJECTION_GPU] = {"projection_gpu", "weights", weights, matrix_sizes, true, 1,
                                    TILE(gpu_projection)},
    [MLA__RECORD_PROJECTION_STREAM] = {"projection_stream", "weights", weights, matrix_sizes, false,
                                       1, TILE(stream_projection)},
    [MLA__RECORD_PROJECTION_FEW] = {"projection_few", "weights", mma_weights, matrix_sizes, false,
                                    1, TILE(few_projection)},
    [MLA__RECORD_PROJECTION_TILED] = {"projection_tiled", "weights", mma_weights, matrix_sizes,
                                      true, 1, TILE(tiled_projection)},
    [MLA__RECORD_PROJECTION_WGMMA] = {"projection_wgmma", "weights", wgmma_weights, matrix_sizes,
                                      true, 1, TILE(wgmma_projection)},
    [MLA__RECORD_ATTENTION_CPU] = {"attention_cpu", "cache", caches, attention_sizes, false, 1,
                                   TILE(cpu_attention)},
    [MLA__RECORD_ATTENTION_DOT] = {"attention_dot", "cache", caches, attention_sizes, false, 1,
                                   TILE(cpu_attention)},
    [MLA__RECORD_ATTENTION_GPU] = {"attention_gpu", "cache", caches, attention_sizes, false, 1,
                                   TILE(gpu_attention)},
    [MLA__RECORD_ATTENTION_MMA] = {"attention_mma", "cache", mma_caches, attention_sizes, true, 1,
                                   TILE(mma_attention)},
    [MLA__RECORD_CLBLAST_XGEMM] = {"clblast_xgemm", NULL, NULL, NULL, true, 0, TILE(clblast_xgemm)},
    [MLA__RECORD_AUTO_CPU] = {"auto_cpu", "weights", floats, NULL, false, 0, TILE(auto_backend)},
    [MLA__RECORD_AUTO_GPU] = {"auto_gpu", "weights", floats, NULL, false, 0, TILE(auto_backend)},
    [MLA__RECORD_AUTO_NVIDIA] = {"auto_nvidia", "weights", floats, NULL, false, 0,
                                 TILE(auto_backend)},
};

/* Texts that say where entries come from. */
static const char *const remarks[] = {"platform", "clmla", "commit", "date", "model", "command"};

static int32_t *field(mla__record_entry *entry, const word *w)
{
    return (int32_t *)(void *)((char *)entry + w->offset);
}

static int32_t value_of(const mla__record_entry *entry, const word *w)
{
    int32_t value;
    memcpy(&value, (const char *)entry + w->offset, sizeof value);
    return value;
}

/* ---- one line ----------------------------------------------------------------------------- */

enum { MOST_LINE_BYTES = 1024 };

/* Where a reader stands. */
typedef struct reader {
    const mla__device *device;
    const char *at; /* in text */
    int32_t line;
    char text[MOST_LINE_BYTES]; /* the line, which ends in a zero */
    char why[320];              /* not "": the fault */
} reader;

static bool refuse(reader *r, const char *wanted)
{
    (void)snprintf(r->why, sizeof r->why, "'%.*s': must be %s", (int)strcspn(r->at, " "), r->at,
                   wanted);
    return false;
}

/* Goes past text where it comes next. */
static bool skip(reader *r, const char *text)
{
    const size_t length = strlen(text);
    if (strncmp(r->at, text, length) != 0)
        return false;
    r->at += length;
    return true;
}

/* Decimal digits without a sign or a leading zero, from least to most; a blank or the end follows. */
static bool take_number(reader *r, int64_t least, int64_t most, int64_t *out)
{
    int64_t value = 0;
    const char *digit = r->at;
    while (*digit >= '0' && *digit <= '9' && value <= most)
        value = 10 * value + (*digit++ - '0');
    const bool whole = digit != r->at && (*digit == ' ' || *digit == '\0') &&
                       (r->at[0] != '0' || digit == r->at + 1);
    if (!whole || value < least || value > most)
        return false;
    r->at = digit;
    *out = value;
    return true;
}

/* " name=N" */
static bool take_word(reader *r, const char *name, int32_t least, int32_t *out)
{
    char wanted[96];
    int64_t value = 0;
    const char *begin = r->at;
    (void)snprintf(wanted, sizeof wanted, "%s=N, an integer from %d to %d", name, (int)least,
                   (int)MLA__RECORD_ALL_ROWS);
    if (skip(r, " ") && skip(r, name) && skip(r, "=") &&
        take_number(r, least, MLA__RECORD_ALL_ROWS, &value)) {
        *out = (int32_t)value;
        return true;
    }
    r->at = *begin == ' ' ? begin + 1 : begin;
    return refuse(r, wanted);
}

static bool take_dtype(reader *r, const schema *s, clmla_dtype *out)
{
    char wanted[96];
    const char *begin = r->at;
    int length = snprintf(wanted, sizeof wanted, "%s=", s->dtype);
    const bool named = skip(r, " ") && skip(r, s->dtype) && skip(r, "=");
    for (const clmla_dtype *dtype = s->dtypes; *dtype != CLMLA_DTYPE_DEFAULT; dtype++) {
        const char *name = mla__dtype_name(*dtype);
        const size_t end = strlen(name);
        if (named && strncmp(r->at, name, end) == 0 && (r->at[end] == ' ' || r->at[end] == '\0')) {
            r->at += end;
            *out = *dtype;
            return true;
        }
        length += snprintf(wanted + length, sizeof wanted - (size_t)length, "%s%s",
                           dtype == s->dtypes ? "" : "|", name);
    }
    r->at = *begin == ' ' ? begin + 1 : begin;
    return refuse(r, wanted);
}

static bool take_rows(reader *r, int32_t *out)
{
    const char *begin = r->at;
    if (skip(r, " max_rows=any") && (*r->at == ' ' || *r->at == '\0')) {
        *out = INT32_MAX;
        return true;
    }
    r->at = begin;
    return take_word(r, "max_rows", 1, out);
}

/* " | name=N ..." up to the end: for people and programs that compare; only its form is looked at. */
static bool take_measurement(reader *r)
{
    static const char names[] = "abcdefghijklmnopqrstuvwxyz_";
    if (*r->at == '\0')
        return true;
    if (!skip(r, " |")) {
        r->at += *r->at == ' ';
        return refuse(r, "'|' or the end of the line");
    }
    do {
        int64_t value;
        const char *begin = r->at;
        const size_t length = *r->at == ' ' ? strspn(r->at + 1, names) : 0;
        r->at += length + 1;
        if (length == 0 || !skip(r, "=") || !take_number(r, 0, INT64_C(1) << 53, &value)) {
            r->at = *begin == ' ' ? begin + 1 : begin;
            return refuse(r, "a measurement, name=N with a whole number N");
        }
    } while (*r->at != '\0');
    return true;
}

/* What follows from the kernel and the words that were read. */
static void complete(mla__record_entry *entry)
{
    switch (entry->key.kernel) {
    case MLA__RECORD_ATTENTION_CPU:
    case MLA__RECORD_ATTENTION_DOT:
        entry->attention.tile_rows =
            entry->attention.row_vectors <= 4 ? 16 * entry->attention.row_vectors : 0;
        break;
    case MLA__RECORD_ATTENTION_MMA:
        mla__attention_tile_complete_mma(&entry->attention);
        break;
    case MLA__RECORD_PROJECTION_STREAM:
        entry->projection.tile_rows = mla__projection_stream_rows(CLMLA_KERNELS_GPU);
        break;
    case MLA__RECORD_PROJECTION_WGMMA:
        entry->projection.tile_rows = MLA__PROJECTION_WGMMA_ROWS;
        break;
    case MLA__RECORD_CLBLAST_XGEMM:
        entry->clblast.max_rows = entry->max_rows;
        entry->clblast.measured = true;
        entry->clblast.source = "tuning record";
        break;
    default:
        break;
    }
}

static bool take_entry(reader *r, mla__record_kernel kernel, mla__record_entry *entry)
{
    const schema *s = &schemas[kernel];
    *entry = (mla__record_entry){.key.kernel = kernel, .max_rows = INT32_MAX, .line = r->line};
    if (s->dtype != NULL && !take_dtype(r, s, &entry->key.dtype))
        return false;
    for (int i = 0; i < MOST_KEY_WORDS && s->sizes != NULL; i++) {
        const bool may_be_zero = s->sizes == attention_sizes && i == 2; /* no rope part */
        if (!take_word(r, s->sizes[i].name, may_be_zero ? 0 : 1, field(entry, &s->sizes[i])))
            return false;
    }
    if (s->has_rows && !take_rows(r, &entry->max_rows))
        return false;
    if (!skip(r, " :")) {
        r->at += *r->at == ' ';
        return refuse(r, "':', after which the tile follows");
    }
    for (int i = 0; i < s->num_tile; i++)
        if (!take_word(r, s->tile[i].name, s->least, field(entry, &s->tile[i])))
            return false;
    if (!take_measurement(r))
        return false;
    complete(entry);
    const char *fault = mla__record_fault(r->device, entry);
    if (fault != NULL)
        (void)snprintf(r->why, sizeof r->why, "%s: %s", s->name, fault);
    return fault == NULL;
}

static bool is_remark(reader *r)
{
    for (size_t i = 0; i < sizeof remarks / sizeof remarks[0]; i++)
        if (skip(r, remarks[i]) && *r->at == ' ')
            return true;
    return false;
}

/* ---- the whole text ----------------------------------------------------------------------- */

static bool same_key(const mla__record_key *a, const mla__record_key *b)
{
    return a->kernel == b->kernel && a->dtype == b->dtype &&
           memcmp(a->sizes, b->sizes, sizeof a->sizes) == 0;
}

/* Fails where the key has this max_rows already, or too many. */
static bool add_entry(reader *r, mla__record *record, const mla__record_entry *entry)
{
    int32_t others = 0;
    for (int32_t i = 0; i < record->count; i++) {
        const mla__record_entry *other = &record->entries[i];
        if (!same_key(&other->key, &entry->key))
            continue;
        others++;
        if (other->max_rows != entry->max_rows && others < MLA__RECORD_MOST_ROWS)
            continue;
        (void)snprintf(r->why, sizeof r->why,
                       "%s: line %d has the same; one must go, and at most "
                       "%d with other max_rows may be",
                       schemas[entry->key.kernel].name, (int)other->line, MLA__RECORD_MOST_ROWS);
        return false;
    }
    if (record->count == MLA__RECORD_MOST_ENTRIES) {
        (void)snprintf(r->why, sizeof r->why, "more entries than the %d that a record may have",
                       MLA__RECORD_MOST_ENTRIES);
        return false;
    }
    record->entries[record->count++] = *entry;
    return true;
}

/* A line after the first three. */
static bool take_line(reader *r, mla__record *record)
{
    const char *begin = r->at;
    mla__record_entry entry;
    if (*r->at == '\0' || *r->at == '#' || is_remark(r))
        return true;
    r->at = begin;
    const size_t length = strcspn(r->at, " ");
    for (int kernel = 0; kernel < MLA__RECORD_NUM_KERNELS; kernel++) {
        const char *name = schemas[kernel].name;
        if (strlen(name) != length || strncmp(r->at, name, length) != 0)
            continue;
        r->at += length;
        return take_entry(r, (mla__record_kernel)kernel, &entry) && add_entry(r, record, &entry);
    }
    r->at = begin;
    return refuse(
        r, "projection_cpu, _dot, _gpu, _stream, _few, _tiled or _wgmma, attention_cpu, _dot, _gpu "
           "or _mma, clblast_xgemm, "
           "auto_cpu, _gpu or _nvidia, platform, clmla, commit, date, model or command");
}

/* The tiles of cl/gpu/projection.cl with the tile_k that their matrices come to have. */
static bool check_gpu_tiles(reader *r, const mla__record *record)
{
    for (int32_t i = 0; i < record->count; i++) {
        const mla__record_entry *entry = &record->entries[i];
        if (entry->key.kernel != MLA__RECORD_PROJECTION_GPU)
            continue;
        mla__record_key key = entry->key;
        mla__projection_tile stream, tile = entry->projection;
        key.kernel = MLA__RECORD_PROJECTION_STREAM;
        const mla__record_entry *of_matrix = mla__record_find(record, &key, 1);
        mla__projection_stream_tile(r->device, key.sizes[0], key.sizes[1], &stream);
        tile.tile_k = of_matrix != NULL ? of_matrix->projection.tile_k : stream.tile_k;
        if (mla__record_gpu_tile_fits(r->device, &tile))
            continue;
        r->line = entry->line;
        (void)snprintf(r->why, sizeof r->why,
                       "projection_gpu: the tile needs more local memory "
                       "than the device has");
        return false;
    }
    return true;
}

enum { VERSION_LINE = 1, DEVICE_LINE, DRIVER_LINE };

/* Of the first three lines. *other: the record is of another device or driver. */
static bool take_header(reader *r, bool *other)
{
    const bool is_device = r->line == DEVICE_LINE;
    if (r->line == VERSION_LINE)
        return strcmp(r->at, "clmla-tuning 1") == 0 || refuse(r, "the line 'clmla-tuning 1'");
    if (!skip(r, is_device ? "device " : "driver "))
        return refuse(r, is_device ? "the line 'device NAME'" : "the line 'driver VERSION'");
    *other = strcmp(r->at, is_device ? r->device->name : r->device->driver_version) != 0;
    return true;
}

/* Whether the bytes from at are printable up to the line's end. */
static bool is_text(const char *at, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (mla__is_control(at[i]))
            return false;
    return true;
}

/* All lines of text, which ends in a zero. */
static bool take_text(reader *r, const char *text, size_t bytes, mla__record *record, bool *other)
{
    const char *at = text, *const end = text + bytes;
    for (r->line = 1; at < end || r->line <= DRIVER_LINE; r->line++) {
        const char *feed = at < end ? memchr(at, '\n', (size_t)(end - at)) : NULL;
        const size_t length = (size_t)((feed != NULL ? feed : end) - at);
        if (length >= sizeof r->text || !is_text(at, length)) {
            (void)snprintf(r->why, sizeof r->why,
                           "must be a line of printable text, at most %d "
                           "bytes",
                           MOST_LINE_BYTES - 1);
            return false;
        }
        memcpy(r->text, at, length);
        r->text[length] = '\0';
        r->at = r->text;
        if (!(r->line <= DRIVER_LINE ? take_header(r, other) : take_line(r, record)))
            return false;
        if (*other)
            return true;
        at = feed != NULL ? feed + 1 : end;
    }
    return check_gpu_tiles(r, record);
}

static int32_t count_lines(const char *text, size_t bytes)
{
    int32_t lines = 1;
    for (size_t i = 0; i < bytes; i++)
        lines += text[i] == '\n';
    return lines;
}

clmla_status mla__record_read(const clmla_context *context, const char *name, const char *text,
                              size_t bytes, mla__record **out)
{
    reader r = {.device = &context->device};
    bool other = false;
    if (bytes > MLA__RECORD_MOST_BYTES)
        return mla__fail(context, CLMLA_INVALID_TUNING,
                         "tuning: %s: has %zu bytes, must be at most %d", name, bytes,
                         MLA__RECORD_MOST_BYTES);
    int32_t most = count_lines(text, bytes);
    most = most < MLA__RECORD_MOST_ENTRIES ? most : MLA__RECORD_MOST_ENTRIES;
    mla__record *record = calloc(1, sizeof *record + (size_t)most * sizeof record->entries[0]);
    if (record == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    const bool taken = take_text(&r, text, bytes, record, &other);
    if (taken && !other) {
        *out = record;
        return CLMLA_SUCCESS;
    }
    free(record);
    if (!taken)
        return mla__fail(context, CLMLA_INVALID_TUNING, "tuning: %s:%d: %s", name, (int)r.line,
                         r.why);
    (void)mla__fail(context, CLMLA_SUCCESS, "tuning: %s is not used: it is of another %s than '%s'",
                    name, r.line == DEVICE_LINE ? "device" : "driver version",
                    r.line == DEVICE_LINE ? context->device.name : context->device.driver_version);
    *out = NULL;
    return CLMLA_SUCCESS;
}

static clmla_status read_file(const clmla_context *context, const char *path, mla__record **out)
{
    mla__os_map map;
    clmla_status status = mla__os_map_file(path, &map);
    if (status != CLMLA_SUCCESS)
        return mla__fail(context, status, "tuning: %s: %s", path, mla__os_last_error());
    status = mla__record_read(context, path, map.data == NULL ? "" : (const char *)map.data,
                              map.bytes, out);
    mla__os_unmap_file(&map);
    return status;
}

clmla_status mla__record_open(clmla_context *context, const clmla_context_options *options)
{
    const char *path = options->tuning_file, *text = options->tuning_text;
    clmla_status status = CLMLA_SUCCESS;
    if (path != NULL && text != NULL)
        return mla__fail(context, CLMLA_INVALID_ARGUMENT,
                         "context: tuning_file and tuning_text: only one of them may be given");
    if (text != NULL)
        status = mla__record_read(context, "tuning_text", text, strlen(text), &context->record);
    else if (path != NULL)
        status = read_file(context, path, &context->record);
    if (context->record != NULL)
        context->tuning_entries = context->record->count;
    return status;
}

/* ---- use ---------------------------------------------------------------------------------- */

const mla__record_entry *mla__record_find(const mla__record *record, const mla__record_key *key,
                                          int32_t rows)
{
    const mla__record_entry *found = NULL;
    for (int32_t i = 0; record != NULL && i < record->count; i++) {
        const mla__record_entry *entry = &record->entries[i];
        if (same_key(&entry->key, key) && rows <= entry->max_rows &&
            (found == NULL || entry->max_rows < found->max_rows))
            found = entry;
    }
    return found;
}

/* Appends " name=value" as snprintf does where it does not fit. */
static void append(char *text, size_t capacity, int *length, const char *name, int32_t value)
{
    const bool room = (size_t)*length < capacity;
    *length += snprintf(room ? text + *length : NULL, room ? capacity - (size_t)*length : 0,
                        " %s=%d", name, (int)value);
}

int mla__record_line(const mla__record_entry *entry, char *text, size_t capacity)
{
    const schema *s = &schemas[entry->key.kernel];
    int length = s->dtype != NULL ? snprintf(text, capacity, "%s %s=%s", s->name, s->dtype,
                                             mla__dtype_name(entry->key.dtype))
                                  : snprintf(text, capacity, "%s", s->name);
    for (int i = 0; i < MOST_KEY_WORDS && s->sizes != NULL; i++)
        append(text, capacity, &length, s->sizes[i].name, value_of(entry, &s->sizes[i]));
    if (s->has_rows && entry->max_rows < INT32_MAX)
        append(text, capacity, &length, "max_rows", entry->max_rows);
    const char *end = s->has_rows && entry->max_rows == INT32_MAX ? " max_rows=any :" : " :";
    const bool room = (size_t)length < capacity;
    length +=
        snprintf(room ? text + length : NULL, room ? capacity - (size_t)length : 0, "%s", end);
    for (int i = 0; i < s->num_tile; i++)
        append(text, capacity, &length, s->tile[i].name, value_of(entry, &s->tile[i]));
    return length;
}
