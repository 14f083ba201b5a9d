/*
 * Tuning records: tiles for one device that were measured there, in place of built-in ones. Text, as
 * `clmla tune` writes it:
 *
 *     clmla-tuning 1
 *     device NAME                                   CL_DEVICE_NAME
 *     driver VERSION                                CL_DRIVER_VERSION
 *     command clmla tune --model lite               where what follows comes from: platform, clmla,
 *                                                   commit, date, model, command; any number, once
 *                                                   and again, for people
 *     KERNEL KEY : TILE | MEASUREMENT               one line an entry
 *
 *     projection_cpu weights=bf16 batches=1 out_features=3072 in_features=2048 max_rows=16 :
 *     tile_rows=4 vector_width=16 tile_vectors=4 block_rows=64 | rows=16 before_ns=812 after_ns=790
 *
 * (on one line). Words are separated by one blank and stand in the order of record.c's tables; the
 * measurement may be missing. Blank lines and lines that begin with '#' say nothing. Lines end in a
 * line feed; their characters are printable ASCII or UTF-8's.
 *
 * auto_cpu, auto_gpu and auto_nvidia say what backend AUTO takes on a class with weights of a dtype:
 * native kernels for calls of up to native_max_rows rows (16777216: all), CLBlast above.
 *
 * clblast_xgemm entries are the parameters of CLBlast's float32 GEMM for calls of so many padded rows
 * on any matrix; they count where the context allows overrides.
 *
 * An entry holds for calls of up to max_rows rows ("any": without limit) that no entry of fewer
 * max_rows takes; rows of attention are those (token · heads) that a sequence has on average. A
 * projection_stream entry is its matrix's: its tile_k and slices are those of every kernel of class
 * gpu that multiplies by it, so that a row has the same bits in each; a projection_few entry's slices
 * are those of all tiles of that kernel.
 */
#ifndef CLMLA_TUNING_RECORD_H
#define CLMLA_TUNING_RECORD_H

#include "ocl/context.h"
#include "tuning/clblast_records.h"
#include "tuning/params.h"

/* Kernels that a record may give a tile; their names are in record.c. */
typedef enum mla__record_kernel {
    MLA__RECORD_PROJECTION_CPU,
    MLA__RECORD_PROJECTION_DOT,
    MLA__RECORD_PROJECTION_GPU,
    MLA__RECORD_PROJECTION_STREAM,
    MLA__RECORD_PROJECTION_FEW, /* from here to WGMMA on tensor cores */
    MLA__RECORD_PROJECTION_TILED,
    MLA__RECORD_PROJECTION_WGMMA,
    MLA__RECORD_ATTENTION_CPU,
    MLA__RECORD_ATTENTION_DOT,
    MLA__RECORD_ATTENTION_GPU,
    MLA__RECORD_ATTENTION_MMA, /* on tensor cores, without the tile of 64 rows */
    MLA__RECORD_CLBLAST_XGEMM,
    MLA__RECORD_AUTO_CPU, /* from here on what backend AUTO takes */
    MLA__RECORD_AUTO_GPU,
    MLA__RECORD_AUTO_NVIDIA,
    MLA__RECORD_NUM_KERNELS
} mla__record_kernel;

/* What an entry is for. */
typedef struct mla__record_key {
    mla__record_kernel kernel;
    clmla_dtype
        dtype; /* projections, AUTO: of the weights; attention: of the cache; CLBlast: DEFAULT */
    int32_t sizes[3]; /* projections: batches, out_features, in_features of the matrix; attention:
                          heads, kv_lora_rank, rope_dim; CLBlast, AUTO: 0, one set serves all */
} mla__record_key;

/* Fields of a tile that its kernel does not use are 0. */
typedef struct mla__record_entry {
    mla__record_key key;
    int32_t max_rows; /* INT32_MAX: any */
    int32_t line;     /* of the text */
    mla__projection_tile projection;
    mla__attention_tile attention;
    mla__clblast_record clblast;
    int32_t native_max_rows; /* AUTO */
} mla__record_entry;

/* One allocation: free() releases it. */
typedef struct mla__record {
    int32_t count;
    mla__record_entry entries[];
} mla__record;

enum {
    MLA__RECORD_MOST_BYTES = 1 << 20,
    MLA__RECORD_MOST_ENTRIES = 1024,
    MLA__RECORD_MOST_ROWS = 4,     /* entries of one key */
    MLA__RECORD_ALL_ROWS = 1 << 24 /* the largest number that a record may hold */
};

/* Reads the record that the options name into context->record. SUCCESS with none, and told to
 * notify, when it is of another device or driver. Errors: INVALID_ARGUMENT (file and text), IO,
 * INVALID_TUNING; the text that goes to notify names file, line and what would be accepted. */
clmla_status mla__record_open(clmla_context *context, const clmla_context_options *options);

/* Reads text for a device; name stands for it in messages. *out NULL: it is of another. */
clmla_status mla__record_read(const clmla_context *context, const char *name, const char *text,
                              size_t bytes, mla__record **out);

/* The entry for calls of so many rows; NULL: none. record may be NULL. Kernels without max_rows have
 * one, whatever the rows. */
const mla__record_entry *mla__record_find(const mla__record *record, const mla__record_key *key,
                                          int32_t rows);

/* The entry as a line of a record, without measurement and line feed. Returns the length as
 * snprintf. */
int mla__record_line(const mla__record_entry *entry, char *text, size_t capacity);

/* NULL, or why the tile is none: what the kernel's source rejects, what does not fit the device, or
 * is beyond sense. `why` is constant text that says what would be accepted. */
const char *mla__record_fault(const mla__device *device, const mla__record_entry *entry);
/* The same for cl/gpu/projection.cl with tile_k of its matrix. */
bool mla__record_gpu_tile_fits(const mla__device *device, const mla__projection_tile *tile);

#endif
