/*
 * clmla tune: what its parts share.
 *
 * A subject is what one line of a record is for, or a part of it: a product of a model for calls of so
 * many rows, or a batch of attention. CLBlast's parameters are one line for all products. Its tile is
 * searched with candidates, lines of a record, each of which a clmla context of its own takes as its
 * tuning_text: what the library refuses is no candidate, what computes wrong results is never timed.
 */
#ifndef CLMLA_CLI_TUNE_H
#define CLMLA_CLI_TUNE_H

#include <stdbool.h>
#include <stdint.h>

#include "cli/session.h"
#include "clmla.h"

enum { MLA_LINE_BYTES = 512, MLA_MOST_SUBJECTS = 8 };

/* ---- lines (tune_line.c) --------------------------------------------------------------------- */

enum { MLA_MOST_WORDS = 24, MLA_WORD_BYTES = 24 };

/* "KEY : name=value ..." taken apart. */
typedef struct mla_tune_line {
    char key[256]; /* with its kernel's name */
    int num_words;
    struct {
        char name[MLA_WORD_BYTES];
        int32_t value;
    } words[MLA_MOST_WORDS];
} mla_tune_line;

/* False: text is no such line. A measurement behind it is left out. */
bool mla_tune_line_parse(const char *text, mla_tune_line *out);
void mla_tune_line_print(const mla_tune_line *line, char text[MLA_LINE_BYTES]);
/* The tile alone, "name=value ...". */
void mla_tune_line_tile(const mla_tune_line *line, char text[MLA_LINE_BYTES]);
/* NULL: there is no word of this name. */
int32_t *mla_tune_line_word(mla_tune_line *line, const char *name);
/* Gives those of the line's words that stand in "name=value ..." these values. */
void mla_tune_line_set(mla_tune_line *line, const char *words);
/* The key's max_rows, where it has one (true); INT32_MAX: any. */
bool mla_tune_line_set_rows(mla_tune_line *line, int32_t max_rows);
/* Whether text begins with this key and its " :". Of a key that is a whole line what is before its own
 * counts. */
bool mla_tune_has_key(const char *text, const char *key);

/* ---- the search space (tune_space.c) --------------------------------------------------------- */

/* How many changes there are to a tile of the line's kernel; 0: the kernel is not known. */
int mla_tune_num_moves(const mla_tune_line *line);
/* The line with change number `move`, and what has to follow from it; false: it is the same. */
bool mla_tune_move(const mla_tune_line *line, int move, mla_tune_line *out);

/* ---- time (tune_time.c) ---------------------------------------------------------------------- */

typedef struct mla_subject mla_subject;

/* Nanoseconds of device time of one call of the subject on this context: the median of `samples`
 * samples of at least a millisecond or so each; *spread, unless NULL, becomes (longest - shortest) /
 * median. Gives up after the first sample, with that, where it takes more than most_ns (0: no
 * limit). */
clmla_status mla_tune_time(mla_subject *subject, clmla_context *clmla, int samples, double most_ns,
                           double *ns, double *spread);

/* ---- subjects (tune_subject.c, tune_product.c, tune_attention.c) ----------------------------- */

/* A matrix product of a model. */
typedef struct mla_tune_product {
    char name[32]; /* "q_proj" */
    int32_t batches, out_features, in_features;
    clmla_dtype x, w, y;
} mla_tune_product;

enum { MLA_MOST_PRODUCTS = MLA_MOST_SUBJECTS };
/* Those of a layer, without repetition of a shape; returns how many. paired: the two projections of
 * hidden states as one, too, as tensor cores compute them. */
int mla_tune_products(const clmla_config *config, clmla_dtype dtype, clmla_dtype weights,
                      bool paired, mla_tune_product out[MLA_MOST_PRODUCTS]);

typedef struct mla_product_data mla_product_data;
typedef struct mla_attention_data mla_attention_data;

struct mla_subject {
    const mla_session *session;
    cl_command_queue queue; /* with profiling */
    char name[64];          /* "q_proj, 16 rows" */
    int32_t rows;           /* of a product; the number of a batch of attention */
    mla_product_data *product;
    mla_attention_data *attention; /* the other one is NULL */
};

/* Inputs, weights and the reference's results for up to max_rows rows, by kernels of the library
 * (NATIVE), by CLBlast, or by what mla_product_set_backend says (AUTO). *out may be incomplete after a failure; release in each case, NULL is
 * allowed. */
clmla_status mla_product_create(mla_session *session, const mla_tune_product *product,
                                clmla_projection_backend backend, int32_t max_rows,
                                mla_product_data **out);
void mla_product_set_backend(mla_product_data *data, clmla_projection_backend backend);
bool mla_product_is_native(const mla_product_data *data);
void mla_product_release(mla_product_data *data);
clmla_projection_params mla_product_params(const mla_product_data *data, int32_t rows,
                                           unsigned turn);
/* Where rows' results come to be, so many bytes from the buffer's begin. */
cl_mem mla_product_output(const mla_product_data *data, int32_t rows, size_t *bytes);
/* Whether all of them are within the bound of the reference's, else `why` names the first. */
bool mla_product_compare(const mla_product_data *data, const void *results, int32_t rows, char *why,
                         size_t why_bytes);

/* The same for attention: batches of decoding (0) and of a chunk of a prompt (1). */
enum { MLA_ATTENTION_BATCHES = 2 };
clmla_status mla_attention_create(mla_session *session, const clmla_config *config,
                                  mla_attention_data **out);
void mla_attention_release(mla_attention_data *data);
clmla_attention_params mla_attention_params(const mla_attention_data *data, int32_t batch);
cl_mem mla_attention_output(const mla_attention_data *data, int32_t batch, size_t *bytes);
bool mla_attention_compare(const mla_attention_data *data, const void *results, int32_t batch,
                           char *why, size_t why_bytes);
const char *mla_attention_batch_name(int32_t batch);
/* Rows (token · heads) of each of its sequences. */
int32_t mla_attention_batch_rows(const mla_attention_data *data, int32_t batch);

/* The line that the context's own tile would be chosen by. */
clmla_status mla_subject_describe(const mla_subject *subject, clmla_context *clmla,
                                  char text[MLA_LINE_BYTES]);
/* One call. turn counts them: weights alternate, so that they come from memory. */
clmla_status mla_subject_enqueue(const mla_subject *subject, clmla_context *clmla, unsigned turn);
/* Computes into poisoned outputs and compares every one of them with the reference; *right: all are
 * within its bound, else `why` names the first that is not. */
clmla_status mla_subject_check(const mla_subject *subject, clmla_context *clmla, bool *right,
                               char *why, size_t why_bytes);

/* ---- the record (tune_record.c) -------------------------------------------------------------- */

typedef struct mla_tune_record mla_tune_record;

/* The record at path as far as it exists, to be added to. remarks: lines on where the new entries
 * come from. Fails after printing the error where the file is no record of this device. */
bool mla_tune_record_open(const mla_session *session, const char *path, const char *remarks,
                          mla_tune_record **out);
void mla_tune_record_release(mla_tune_record *record);
bool mla_tune_record_has(const mla_tune_record *record, const char *key);
/* The record's text with this line in place of the one of its key; line NULL: as it is. free() it.
 * NULL: out of memory. */
char *mla_tune_record_text(const mla_tune_record *record, const char *line);
/* A context that has the record with that line; its detail on failure. Close it in each case. */
clmla_status mla_tune_record_session(const mla_tune_record *record, const mla_session *session,
                                     const char *line, mla_session *out);
/* Takes the line for good, and writes the file in one step. False after printing the error. */
bool mla_tune_record_put(mla_tune_record *record, const char *line);

/* ---- search (tune_search.c) ------------------------------------------------------------------ */

typedef struct mla_tune_result {
    char line[MLA_LINE_BYTES]; /* of the better tile */
    char tile[MLA_LINE_BYTES];
    double before_ns[MLA_MOST_SUBJECTS], after_ns[MLA_MOST_SUBJECTS];
    double spread; /* of before_ns, the largest */
    int tried, wrong;
    bool changed; /* the tile is not the built-in one */
    bool stopped; /* interrupted before the search was over: not to be recorded */
} mla_tune_result;

/* Searches the tile of the subjects, all of which one line is for (the batches of attention; one
 * product, or for CLBlast all of them), from that line with the built-in tile on. Returns an exit
 * code after printing the errors. */
int mla_tune_search(const mla_session *session, mla_subject *subjects, int count,
                    const mla_tune_record *record, const mla_tune_line *built_in,
                    double max_seconds, mla_tune_result *out);

/* ---- native or CLBlast (tune_backend.c) ------------------------------------------------------ */

enum { MLA_BACKEND_MOST_ROWS = 7 };

/* All products of a layer, one call each. */
typedef struct mla_backend_times {
    int32_t rows;
    double native_ns, clblast_ns;
} mla_backend_times;

typedef struct mla_backend_result {
    char line[MLA_LINE_BYTES];
    int32_t native_max_rows;
    int count; /* of times: up to the rows from which CLBlast is faster */
    mla_backend_times times[MLA_BACKEND_MOST_ROWS];
    int wrong;
    bool stopped; /* interrupted: not to be recorded */
} mla_backend_result;

/* Rows that the subjects' data must be for. */
int32_t mla_tune_backend_max_rows(void);
/* Finds from how many rows on CLBlast computes the subjects, products with backend AUTO, in less time
 * than native kernels, both with the record's tiles. key: of the line. Returns an exit code after
 * printing the errors. */
int mla_tune_backend(const mla_session *session, mla_subject *subjects, int count,
                     const mla_tune_record *record, const char *key, mla_backend_result *out);

#endif
