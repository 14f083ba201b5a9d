/* Tuning records: what is read, what is refused and in which words, and which entry a call takes. */
#include "core/dtype.h"
#include "support/support.h"
#include "tuning/record.h"
#include "tuning/record_device.h"

#define HEADER RECORD_HEADER
#define MATRIX "weights=bf16 batches=1 out_features=3072 in_features=2048"
#define CPU_TILE "tile_rows=4 vector_width=16 tile_vectors=4 block_rows=64"
#define GPU_TILE "tile_rows=16 tile_columns=32 work_rows=2 work_columns=1"
#define XGEMM(kwg, nwg)                                                                            \
    " kwg=" kwg " kwi=2 mdima=4 mdimc=4 mwg=64 ndimb=1 ndimc=1 nwg=" nwg                           \
    " sa=0 sb=0 strm=0 strn=0 vwm=8 vwn=8 min_indirect_size=1"
#define LATENT "cache=bf16 heads=16 kv_lora_rank=512 rope_dim=64"

static char notified[2400];

static void remember(clmla_status status, const char *text, void *user)
{
    (void)user;
    (void)snprintf(notified, sizeof notified, "%d %s", (int)status, text);
}

static clmla_context test_clmla(void) { return record_context(remember); }

static clmla_status read_bytes(const char *text, size_t bytes, mla__record **record)
{
    const clmla_context context = test_clmla();
    notified[0] = '\0';
    *record = NULL;
    return mla__record_read(&context, "my.tuning", text, bytes, record);
}

static mla__record *read_good(const char *text)
{
    mla__record *record;
    if (read_bytes(text, strlen(text), &record) != CLMLA_SUCCESS || record == NULL)
        fail_msg("refused: %s", notified);
    assert_string_equal(notified, "");
    return record;
}

/* ---- what is refused ---------------------------------------------------------------------- */

typedef struct bad_record {
    const char *name, *text;
    int line;          /* that the message names */
    const char *words; /* of the message */
} bad_record;

static const bad_record bad_records[] = {
    {"nothing", "", 1, "must be the line 'clmla-tuning 1'"},
    {"another version", "clmla-tuning 2\n", 1, "'clmla-tuning': must be the line"},
    {"text after the version", "clmla-tuning 1 \n", 1, "must be the line"},
    {"no device", "clmla-tuning 1\n", 2, "must be the line 'device NAME'"},
    {"no driver", "clmla-tuning 1\ndevice Test device\n", 3, "the line 'driver VERSION'"},
    {"DOS line ends", "clmla-tuning 1\r\n", 1, "printable"},
    {"JSON", "{\"device\": 1}", 1, "must be the line"},
    {"an unknown kernel", HEADER "projection_fpga " MATRIX "\n", 4,
     "'projection_fpga': must be projection_cpu"},
    {"a kernel's name that goes on", HEADER "projection_cpux " MATRIX "\n", 4, "projection_cpux"},
    {"an unknown remark", HEADER "\n# note\nauthor me\n", 6, "'author'"},
    {"a remark without text", HEADER "commit\n", 4, "'commit'"},
    {"a kernel alone", HEADER "projection_cpu", 4, "weights=bf16|f16|f32|f8_e4m3"},
    {"an unknown dtype", HEADER "projection_cpu weights=fp4 batches=1", 4,
     "'weights=fp4': must be"},
    {"a dtype that goes on", HEADER "projection_cpu weights=bf16x batches=1", 4, "weights=bf16x"},
    {"dot products of f32", HEADER "projection_dot weights=f32 batches=1", 4,
     "must be weights=bf16"},
    {"words in another order", HEADER "projection_cpu weights=bf16 out_features=1 batches=1", 4,
     "'out_features=1': must be batches=N"},
    {"two blanks", HEADER "projection_cpu weights=bf16  batches=1", 4, "must be batches=N"},
    {"a tab", HEADER "projection_cpu\tweights=bf16", 4, "printable"},
    {"a size of 0", HEADER "projection_cpu weights=bf16 batches=0", 4, "from 1 to"},
    {"a negative size", HEADER "projection_cpu weights=bf16 batches=-1", 4, "'batches=-1'"},
    {"a sign", HEADER "projection_cpu weights=bf16 batches=+1", 4, "'batches=+1'"},
    {"a leading zero", HEADER "projection_cpu weights=bf16 batches=01", 4, "'batches=01'"},
    {"hexadecimal", HEADER "projection_cpu weights=bf16 batches=0x1", 4, "'batches=0x1'"},
    {"a fraction", HEADER "projection_cpu weights=bf16 batches=1.5", 4, "'batches=1.5'"},
    {"a size past int32", HEADER "projection_cpu weights=bf16 batches=4294967297", 4, "an integer"},
    {"a size past int64", HEADER "projection_cpu weights=bf16 batches=99999999999999999999999", 4,
     "an integer"},
    {"no max_rows", HEADER "projection_cpu " MATRIX " : " CPU_TILE, 4, "must be max_rows=N"},
    {"max_rows of 0", HEADER "projection_cpu " MATRIX " max_rows=0 : " CPU_TILE, 4, "max_rows=0"},
    {"max_rows of anything", HEADER "projection_cpu " MATRIX " max_rows=anything : " CPU_TILE, 4,
     "'max_rows=anything'"},
    {"max_rows of a stream", HEADER "projection_stream " MATRIX " max_rows=4 : tile_columns=32", 4,
     "must be ':'"},
    {"no tile", HEADER "projection_cpu " MATRIX " max_rows=16", 4, "must be ':'"},
    {"an empty tile", HEADER "projection_cpu " MATRIX " max_rows=16 :", 4, "must be tile_rows=N"},
    {"half a tile", HEADER "projection_cpu " MATRIX " max_rows=16 : tile_rows=4", 4,
     "must be vector_width=N"},
    {"another kernel's tile", HEADER "projection_cpu " MATRIX " max_rows=16 : " GPU_TILE, 4,
     "'tile_columns=32': must be vector_width=N"},
    {"a word too many", HEADER "projection_cpu " MATRIX " max_rows=16 : " CPU_TILE " slices=2", 4,
     "'slices=2': must be '|' or the end"},
    {"an empty measurement", HEADER "projection_cpu " MATRIX " max_rows=16 : " CPU_TILE " |", 4,
     "must be a measurement"},
    {"a measurement with a fraction",
     HEADER "projection_cpu " MATRIX " max_rows=16 : " CPU_TILE " | ns=1.5", 4, "'ns=1.5'"},
    {"a measurement without a name",
     HEADER "projection_cpu " MATRIX " max_rows=16 : " CPU_TILE " | =1", 4,
     "must be a measurement"},
    {"an entry twice",
     HEADER "projection_cpu " MATRIX " max_rows=16 : " CPU_TILE "\nprojection_cpu " MATRIX
            " max_rows=16 : " CPU_TILE "\n",
     5, "line 4 has the same"},
    {"five numbers of rows",
     HEADER "projection_cpu " MATRIX " max_rows=1 : " CPU_TILE "\nprojection_cpu " MATRIX
            " max_rows=2 : " CPU_TILE "\nprojection_cpu " MATRIX " max_rows=3 : " CPU_TILE
            "\nprojection_cpu " MATRIX " max_rows=4 : " CPU_TILE "\nprojection_cpu " MATRIX
            " max_rows=5 : " CPU_TILE "\n",
     8, "at most 4"},
    /* what the kernels reject */
    {"vectors of 5",
     HEADER "projection_cpu " MATRIX
            " max_rows=16 : tile_rows=4 vector_width=5 tile_vectors=4 block_rows=64",
     4, "vector_width must be 4, 8 or 16"},
    {"dot products with vectors of 8",
     HEADER "projection_dot " MATRIX
            " max_rows=16 : tile_rows=4 vector_width=8 tile_vectors=4 block_rows=64",
     4, "vector_width must be 16"},
    {"dot products of FP8 weights with half a pair of vectors",
     HEADER "projection_dot weights=f8_e4m3 batches=1 out_features=3072 in_features=2048"
            " max_rows=16 : tile_rows=4 vector_width=16 tile_vectors=1 block_rows=64",
     4, "tile_vectors must be even"},
    {"a tile across panels",
     HEADER "projection_cpu " MATRIX
            " max_rows=16 : tile_rows=4 vector_width=16 tile_vectors=3 block_rows=64",
     4, "must be 16, 32 or 64"},
    {"a tile of eight columns",
     HEADER "projection_cpu " MATRIX
            " max_rows=16 : tile_rows=4 vector_width=8 tile_vectors=1 block_rows=64",
     4, "must be 16, 32 or 64"},
    {"a block of half tiles",
     HEADER "projection_cpu " MATRIX
            " max_rows=16 : tile_rows=3 vector_width=16 tile_vectors=4 block_rows=64",
     4, "multiple of tile_rows"},
    {"a tile of a million rows",
     HEADER "projection_cpu " MATRIX
            " max_rows=16 : tile_rows=1000000 vector_width=16 tile_vectors=4 block_rows=64",
     4, "tile_rows must be at most 16"},
    {"work-items that do not divide",
     HEADER "projection_gpu " MATRIX
            " max_rows=16 : tile_rows=16 tile_columns=32 work_rows=3 work_columns=1",
     4, "a multiple of work_rows"},
    {"a tile of 48 columns",
     HEADER "projection_gpu " MATRIX
            " max_rows=16 : tile_rows=16 tile_columns=48 work_rows=2 work_columns=1",
     4, "must divide 64"},
    {"more work-items than the device has",
     HEADER "projection_gpu " MATRIX
            " max_rows=16 : tile_rows=16 tile_columns=32 work_rows=1 work_columns=1",
     4, "a work-group of the device"},
    {"more local memory than the device has",
     HEADER "\nprojection_gpu " MATRIX
            " max_rows=any : tile_rows=128 tile_columns=64 work_rows=8 work_columns=4\n"
            "projection_stream " MATRIX " : tile_columns=32 tile_k=64 slices=8\n",
     6, "room in local memory"},
    {"a stage of 24", HEADER "projection_stream " MATRIX " : tile_columns=32 tile_k=24 slices=8", 4,
     "tile_k must be 16, 32 or 64"},
    {"more slices than work-items",
     HEADER "projection_stream " MATRIX " : tile_columns=64 tile_k=32 slices=5", 4,
     "a work-group of the device"},
    {"eight vectors of rows",
     HEADER "attention_cpu " LATENT " : row_vectors=8 block_tokens=32 tile_tokens=4 tile_values=4",
     4, "row_vectors must be at most 4"},
    {"rows that overflow",
     HEADER "attention_cpu " LATENT
            " : row_vectors=16777216 block_tokens=32 tile_tokens=4 tile_values=4",
     4, "row_vectors must be at most 4"},
    {"a block of half tiles of keys",
     HEADER "attention_cpu " LATENT " : row_vectors=2 block_tokens=24 tile_tokens=8 tile_values=8",
     4, "block_tokens must be a multiple"},
    {"an odd tile of keys for dot products",
     HEADER "attention_dot " LATENT " : row_vectors=1 block_tokens=33 tile_tokens=3 tile_values=8",
     4, "tile_tokens must be even"},
    {"dot products with a float32 cache",
     HEADER "attention_dot cache=f32 heads=16 kv_lora_rank=512 rope_dim=64"
            " : row_vectors=1 block_tokens=32 tile_tokens=4 tile_values=8",
     4, "cache must be bf16"},
    {"more private memory than a stack",
     HEADER "attention_cpu cache=f32 heads=16 kv_lora_rank=16384 rope_dim=64"
            " : row_vectors=2 block_tokens=64 tile_tokens=8 tile_values=8",
     4, "2 MiB of private memory"},
    {"a group of 24 rows",
     HEADER "attention_gpu " LATENT " : tile_rows=24 block_tokens=8 work_group=256", 4,
     "powers of two"},
    {"more scores than work-items",
     HEADER "attention_gpu " LATENT " : tile_rows=64 block_tokens=32 work_group=256", 4,
     "at most work_group"},
    {"a work-group that the device lacks",
     HEADER "attention_gpu " LATENT " : tile_rows=16 block_tokens=8 work_group=512", 4,
     "work_group must be one of the device"},
    {"CLBlast's other kernel",
     HEADER "clblast_xgemm max_rows=16 : gemmk=1 kreg=1" XGEMM("32", "16"), 4, "gemmk must be 0"},
    {"CLBlast with a third of a tile",
     HEADER "clblast_xgemm max_rows=16 : gemmk=0 kreg=1" XGEMM("24", "16"), 4, "powers of two"},
    {"CLBlast with k past a slab's",
     HEADER "clblast_xgemm max_rows=16 : gemmk=0 kreg=1" XGEMM("64", "16"), 4, "at most 32"},
    {"CLBlast's rows padded past the entry's",
     HEADER "clblast_xgemm max_rows=24 : gemmk=0 kreg=1" XGEMM("32", "16"), 4,
     "must be a multiple of nwg"},
    {"CLBlast with more loaders than fit",
     HEADER "clblast_xgemm max_rows=any : gemmk=0 kreg=1 kwg=32 kwi=2 mdima=16 mdimc=4 mwg=64 "
            "ndimb=1 ndimc=1 nwg=16 sa=0 sb=0 strm=0 strn=0 vwm=8 vwn=8 min_indirect_size=1",
     4, "must divide mwg"},
    {"CLBlast for a matrix", HEADER "clblast_xgemm weights=bf16 max_rows=16", 4, "max_rows=N"},
    {"CLBlast with half of its parameters", HEADER "clblast_xgemm max_rows=16 : gemmk=0 kwg=32", 4,
     "must be kreg=N, an integer from 0"},
    {"few rows on tensor cores with a third of a panel",
     HEADER "projection_few " MATRIX " : tile_columns=24 slices=4", 4, "must be 32 or 64"},
    {"few rows on tensor cores with f32", HEADER "projection_few weights=f32 batches=1", 4,
     "must be weights=bf16"},
    {"few rows of FP8 weights on tensor cores with a panel",
     HEADER "projection_few weights=f8_e4m3 batches=1 out_features=3072 in_features=2048"
            " : tile_columns=64 slices=4",
     4, "of FP8 weights must be 32"},
    {"few rows with more slices than sums are added of",
     HEADER "projection_few " MATRIX " : tile_columns=32 slices=17", 4, "at most 16"},
    {"few rows with more work-items than the device has",
     HEADER "projection_few " MATRIX " : tile_columns=32 slices=9", 4, "work-items"},
    {"many rows on tensor cores in 96",
     HEADER "projection_tiled " MATRIX
            " max_rows=any : tile_rows=96 tile_columns=64 work_rows=32 stages=2",
     4, "must be 64 or 128"},
    {"many rows on tensor cores in one stage",
     HEADER "projection_tiled " MATRIX
            " max_rows=any : tile_rows=64 tile_columns=64 work_rows=32 stages=1",
     4, "from 2 to 8"},
    {"many rows on tensor cores with more stages than fit",
     HEADER "projection_tiled " MATRIX
            " max_rows=any : tile_rows=128 tile_columns=64 work_rows=32 stages=3",
     4, "more local memory"},
    {"warpgroups with two stages",
     HEADER "projection_wgmma " MATRIX " max_rows=any : tile_columns=128 stages=2", 4,
     "from 3 to 8"},
    {"warpgroups with 64 columns",
     HEADER "projection_wgmma " MATRIX " max_rows=any : tile_columns=64 stages=4", 4,
     "must be 128 or 256"},
    {"warpgroups with more stages than fit",
     HEADER "projection_wgmma " MATRIX " max_rows=any : tile_columns=128 stages=4", 4,
     "more local memory"},
    {"attention on tensor cores in 64 rows",
     HEADER "attention_mma " LATENT " max_rows=any : tile_rows=64 stages=2", 4, "16 or 32"},
    {"attention on tensor cores with more stages than fit",
     HEADER "attention_mma " LATENT " max_rows=16 : tile_rows=16 stages=2", 4, "more local memory"},
    {"attention on tensor cores with a float16 cache", HEADER "attention_mma cache=f16 heads=16", 4,
     "must be cache=bf16|fp8_ds_mla"},
    {"AUTO with FP8 weights", HEADER "auto_gpu weights=f8_e4m3 : native_max_rows=4", 4,
     "must be weights=bf16|f16|f32"},
    {"AUTO for a matrix", HEADER "auto_gpu " MATRIX " : native_max_rows=4", 4, "must be ':'"},
    {"AUTO with more rows than there may be",
     HEADER "auto_nvidia weights=bf16 : native_max_rows=16777217", 4, "from 0 to 16777216"},
    {"more local memory for keys than the device has",
     HEADER "attention_gpu " LATENT " : tile_rows=16 block_tokens=32 work_group=256", 4,
     "more local memory"},
};

static void refuses(void **state)
{
    const bad_record *bad = *state;
    mla__record *record;
    char place[64];
    const clmla_status status = read_bytes(bad->text, strlen(bad->text), &record);
    (void)snprintf(place, sizeof place, "%d tuning: my.tuning:%d: ", CLMLA_INVALID_TUNING,
                   bad->line);
    if (status != CLMLA_INVALID_TUNING || record != NULL ||
        strncmp(notified, place, strlen(place)) != 0 || strstr(notified, bad->words) == NULL)
        fail_msg("%s: %s; not \"%s ... %s\"", clmla_status_name(status), notified, place,
                 bad->words);
}

/* Every beginning of a good record, and it with each byte changed in turn, is read or refused with a
 * line; nothing else happens (sanitizers look on). */
static void damaged_records_are_refused_or_read(void **state)
{
    (void)state;
    static const char text[] =
        HEADER "commit abc\nprojection_cpu " MATRIX " max_rows=16 : " CPU_TILE
               " | rows=1 before_ns=3\nprojection_gpu " MATRIX " max_rows=any : " GPU_TILE
               "\nattention_gpu " LATENT " : tile_rows=16 block_tokens=8 work_group=256\n";
    char damaged[sizeof text];
    mla__record *record;
    for (size_t i = 0; i < sizeof text; i++) {
        const clmla_status status = read_bytes(text, i, &record);
        assert_true(status == CLMLA_SUCCESS || strstr(notified, "my.tuning:") != NULL);
        free(record);
    }
    for (size_t i = 0; i + 1 < sizeof text; i++)
        for (int byte = 0; byte < 256; byte++) {
            memcpy(damaged, text, sizeof text);
            damaged[i] = (char)byte;
            const clmla_status status = read_bytes(damaged, sizeof text - 1, &record);
            assert_true(status == CLMLA_SUCCESS || status == CLMLA_INVALID_TUNING);
            assert_true(status == CLMLA_SUCCESS || strstr(notified, "my.tuning:") != NULL);
            free(record);
        }
}

/* The stage, tile_k, comes from another line. */
static void a_gpu_tile_fits_with_the_stage_of_its_matrix(void **state)
{
    (void)state;
    static const char tile[] =
        HEADER "projection_gpu " MATRIX
               " max_rows=any : tile_rows=128 tile_columns=64 work_rows=8 work_columns=4\n";
    static const char both[] =
        HEADER "projection_gpu " MATRIX
               " max_rows=any : tile_rows=128 tile_columns=64 work_rows=8 work_columns=4\n"
               "projection_stream " MATRIX " : tile_columns=32 tile_k=64 slices=4\n";
    clmla_context context = test_clmla();
    mla__record *record = NULL;
    context.device.local_mem_bytes = 48 * 1024;
    assert_int_equal(mla__record_read(&context, "my.tuning", tile, strlen(tile), &record),
                     CLMLA_SUCCESS);
    free(record);
    assert_int_equal(mla__record_read(&context, "my.tuning", both, strlen(both), &record),
                     CLMLA_INVALID_TUNING);
    assert_non_null(strstr(notified, "my.tuning:4: projection_gpu: the tile needs more local"));
}

static void refuses_what_is_too_large(void **state)
{
    (void)state;
    enum { LINES = MLA__RECORD_MOST_ENTRIES + 1, BYTES = MLA__RECORD_MOST_BYTES + 1 };
    mla__record *record;
    char *text = malloc(BYTES);
    assert_non_null(text);
    memset(text, '\n', BYTES);
    memcpy(text, HEADER, strlen(HEADER));
    assert_int_equal(read_bytes(text, BYTES, &record), CLMLA_INVALID_TUNING);
    assert_non_null(strstr(notified, "must be at most 1048576"));
    assert_int_equal(read_bytes(text, BYTES - 1, &record), CLMLA_SUCCESS);
    assert_int_equal(record->count, 0);
    free(record);

    memset(text + strlen(HEADER), '#', 1024);
    assert_int_equal(read_bytes(text, strlen(HEADER) + 1024, &record), CLMLA_INVALID_TUNING);
    assert_non_null(
        strstr(notified, "my.tuning:4: must be a line of printable text, at most 1023"));

    size_t used = strlen(HEADER);
    for (int i = 1; i <= LINES; i++)
        used += (size_t)snprintf(text + used, BYTES - used,
                                 "projection_cpu weights=bf16 batches=%d out_features=1 "
                                 "in_features=1 max_rows=any : " CPU_TILE "\n",
                                 i);
    assert_int_equal(read_bytes(text, used, &record), CLMLA_INVALID_TUNING);
    assert_non_null(strstr(notified, "more entries than the 1024"));
    free(text);
}

/* ---- what is read ------------------------------------------------------------------------- */

static void another_device_is_told_and_not_used(void **state)
{
    (void)state;
    static const char device[] = "clmla-tuning 1\ndevice Test\ndriver 3.1\nwhatever\n";
    static const char driver[] = "clmla-tuning 1\ndevice Test device\ndriver 3.10\nwhatever\n";
    mla__record *record;
    assert_int_equal(read_bytes(device, strlen(device), &record), CLMLA_SUCCESS);
    assert_null(record);
    assert_string_equal(
        notified, "0 tuning: my.tuning is not used: it is of another device than 'Test device'");
    assert_int_equal(read_bytes(driver, strlen(driver), &record), CLMLA_SUCCESS);
    assert_null(record);
    assert_string_equal(
        notified, "0 tuning: my.tuning is not used: it is of another driver version than '3.1'");
}

static const char *const lines[] = {
    "projection_cpu " MATRIX " max_rows=16 : " CPU_TILE,
    "projection_cpu weights=f8_e4m3 batches=1 out_features=1 in_features=1 max_rows=any "
    ": " CPU_TILE,
    "projection_dot " MATRIX " max_rows=1 : " CPU_TILE,
    "projection_gpu " MATRIX " max_rows=any : " GPU_TILE,
    "projection_stream " MATRIX " : tile_columns=16 tile_k=32 slices=6",
    "attention_cpu cache=f32 heads=16 kv_lora_rank=512 rope_dim=0 : row_vectors=1 block_tokens=16 "
    "tile_tokens=16 tile_values=4",
    "attention_dot cache=fp8_ds_mla heads=16 kv_lora_rank=512 rope_dim=64 : row_vectors=2 "
    "block_tokens=64 tile_tokens=8 tile_values=8",
    "projection_few " MATRIX " : tile_columns=32 slices=4",
    "projection_tiled " MATRIX " max_rows=256 : tile_rows=64 tile_columns=64 work_rows=32 stages=2",
    "projection_wgmma " MATRIX " max_rows=any : tile_columns=128 stages=3",
    "attention_mma cache=bf16 heads=16 kv_lora_rank=256 rope_dim=32 max_rows=16 : tile_rows=16 "
    "stages=2",
    "attention_gpu cache=f16 heads=128 kv_lora_rank=512 rope_dim=64 : tile_rows=8 block_tokens=4 "
    "work_group=64",
    "auto_cpu weights=f32 : native_max_rows=16777216",
    "auto_gpu weights=bf16 : native_max_rows=0",
    "auto_nvidia weights=f16 : native_max_rows=96",
    "clblast_xgemm max_rows=64 : gemmk=0 kreg=1" XGEMM("32", "16"),
};
enum { NUM_LINES = sizeof lines / sizeof lines[0] };

static void what_is_written_is_what_was_read(void **state)
{
    (void)state;
    char text[8192] = HEADER "# a remark\n\ncommand clmla tune --model lite\ncommit abc-dirty\n",
         line[256];
    for (int i = 0; i < NUM_LINES; i++)
        (void)snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s\n", lines[i],
                       i % 2 == 0 ? " | rows=16 before_ns=812300 after_ns=790100" : "");
    text[strlen(text) - 1] = '\0'; /* the last line need not end */
    clmla_context context = test_clmla();
    context.device.has_ptx = true; /* which has more local memory for warpgroups than it reports */
    mla__record *record = NULL;
    notified[0] = '\0';
    assert_int_equal(mla__record_read(&context, "my.tuning", text, strlen(text), &record),
                     CLMLA_SUCCESS);
    assert_string_equal(notified, "");
    assert_int_equal(record->count, NUM_LINES);
    for (int i = 0; i < NUM_LINES; i++) {
        const int length = mla__record_line(&record->entries[i], line, sizeof line);
        assert_string_equal(line, lines[i]);
        assert_int_equal(length, strlen(lines[i]));
        assert_int_equal(mla__record_line(&record->entries[i], NULL, 0), length);
        char cut[8];
        assert_int_equal(mla__record_line(&record->entries[i], cut, sizeof cut), length);
        assert_memory_equal(cut, lines[i], sizeof cut - 1);
    }
    free(record);
}

static const mla__record_entry *find(const mla__record *record, mla__record_kernel kernel,
                                     clmla_dtype dtype, int32_t last_size, int32_t rows)
{
    const mla__record_key key = {.kernel = kernel, .dtype = dtype, .sizes = {1, 3072, last_size}};
    return mla__record_find(record, &key, rows);
}

static void a_call_takes_the_entry_with_the_fewest_rows_that_holds_it(void **state)
{
    (void)state;
    mla__record *record = read_good(
        HEADER "projection_cpu " MATRIX " max_rows=16 : " CPU_TILE "\nprojection_cpu " MATRIX
               " max_rows=1 : tile_rows=1 vector_width=16 tile_vectors=4 block_rows=64\n"
               "projection_cpu " MATRIX
               " max_rows=100 : tile_rows=6 vector_width=16 tile_vectors=4 block_rows=96\n");
    const mla__record_kernel CPU = MLA__RECORD_PROJECTION_CPU;
    const clmla_dtype BF16 = CLMLA_DTYPE_BF16;
    assert_int_equal(find(record, CPU, BF16, 2048, 1)->projection.tile_rows, 1);
    assert_int_equal(find(record, CPU, BF16, 2048, 2)->projection.tile_rows, 4);
    assert_int_equal(find(record, CPU, BF16, 2048, 16)->projection.tile_rows, 4);
    assert_int_equal(find(record, CPU, BF16, 2048, 17)->projection.block_rows, 96);
    assert_null(find(record, CPU, BF16, 2048, 101));
    assert_null(find(record, CPU, BF16, 2047, 1));
    assert_null(find(record, CPU, CLMLA_DTYPE_F16, 2048, 1));
    assert_null(find(record, MLA__RECORD_PROJECTION_DOT, BF16, 2048, 1));
    assert_null(find(NULL, CPU, BF16, 2048, 1));
    free(record);
}

int main(void)
{
    struct CMUnitTest tests[sizeof bad_records / sizeof bad_records[0] + 6];
    size_t count = 0;
    for (size_t i = 0; i < sizeof bad_records / sizeof bad_records[0]; i++)
        tests[count++] = (struct CMUnitTest){bad_records[i].name, refuses, NULL, NULL,
                                             (void *)(uintptr_t)&bad_records[i]};
    tests[count++] = (struct CMUnitTest)cmocka_unit_test(damaged_records_are_refused_or_read);
    tests[count++] = (struct CMUnitTest)cmocka_unit_test(refuses_what_is_too_large);
    tests[count++] =
        (struct CMUnitTest)cmocka_unit_test(a_gpu_tile_fits_with_the_stage_of_its_matrix);
    tests[count++] = (struct CMUnitTest)cmocka_unit_test(another_device_is_told_and_not_used);
    tests[count++] = (struct CMUnitTest)cmocka_unit_test(what_is_written_is_what_was_read);
    tests[count++] = (struct CMUnitTest)cmocka_unit_test(
        a_call_takes_the_entry_with_the_fewest_rows_that_holds_it);
    assert_int_equal(count, sizeof tests / sizeof tests[0]);
    return cmocka_run_group_tests_name("record", tests, NULL, NULL);
}
