/*
 * The tables of test_arguments.c: every option with what it takes, and command lines that are wrong as
 * a whole.
 */
#ifndef CLMLA_TESTS_ARGUMENTS_H
#define CLMLA_TESTS_ARGUMENTS_H

#include <stdint.h>

/* ---- options --------------------------------------------------------------------------------- */

typedef enum value_kind {
    FLAG,    /* no value */
    INTEGER, /* from minimum to maximum */
    LIST,    /* of such, with commas between */
    CHOICE,  /* one of the names */
    CHOICES, /* several, with commas between */
    MODEL,   /* a file that is read when the arguments are */
    OTHER    /* text of which only an empty one is wrong before there is a device or a file */
} value_kind;

typedef struct option_row {
    const char *name, *commands; /* with commas between */
    value_kind kind;
    int64_t minimum, maximum;
    const char *accepted;   /* what errors say besides "must be " */
    const char *names[4];   /* of choices */
    const char *besides[7]; /* arguments that the first command needs to get to the value */
} option_row;

#define COMPUTING "bench,verify,run,report,tune"
#define ALL "devices," COMPUTING
#define NAME_OF_ONE "an index, or part of a name"

static const option_row option_rows[] = {
    {"platform", ALL, OTHER, 0, 0, NAME_OF_ONE},
    {"device", ALL, OTHER, 0, 0, NAME_OF_ONE},
    {"nvidia", ALL, FLAG},
    {"amd", ALL, FLAG},
    {"intel", ALL, FLAG},
    {"moore", ALL, FLAG},
    {"metax", ALL, FLAG},
    {"iluvatar", ALL, FLAG},
    {"cpu", ALL, FLAG},
    {"help", ALL, FLAG},
    {"measure", "devices", FLAG},
    {"format", "devices,bench,verify", CHOICE, 0, 0, "", {"table", "csv", "json"}},
    {"dtype", COMPUTING, CHOICE, 0, 0, "", {"bf16", "f16", "f32"}},
    {"matrix-units", COMPUTING, CHOICE, 0, 0, "", {"auto", "off"}},
    {"clblast-overrides", COMPUTING, CHOICE, 0, 0, "", {"off", "on"}},
    {"sm-90a", COMPUTING, FLAG},
    {"kernels", COMPUTING, CHOICE, 0, 0, "", {"auto", "cpu", "gpu", "nvidia"}},
    {"kernel-dir", COMPUTING, OTHER, 0, 0, "a directory of .cl files"},
    {"one-launch", COMPUTING, FLAG},
    {"batch-invariant", COMPUTING, FLAG},
    {"no-cache", COMPUTING, FLAG},
    {"tuning", COMPUTING, OTHER, 0, 0, "a file, or none"},
    {"page-block-size", COMPUTING, INTEGER, 0, 1 << 24},
    {"seed", COMPUTING, INTEGER, 0, INT64_MAX},
    {"verbose", COMPUTING, FLAG},
    {"weights-dtype", COMPUTING, CHOICE, 0, 0, "", {"same", "fp8"}},
    {"cache-dtype", COMPUTING, CHOICE, 0, 0, "", {"same", "fp8"}},
    {"projection", "bench", CHOICES, 0, 0, "", {"auto", "native", "clblast"}},
    {"projection", "verify,run,report,tune", CHOICE, 0, 0, "", {"auto", "native", "clblast"}},

    {"model", "bench,report,tune", MODEL, 0, 0, "lite, r1 or a config.json"},
    {"case", "bench", CHOICES, 0, 0, "", {"prefill", "decode"}},
    {"mode", "bench", CHOICES, 0, 0, "", {"sequential", "batched"}},
    {"seqlens", "bench", LIST, 1, 1 << 24},
    {"pastlens", "bench", LIST, 0, 1 << 24},
    {"warmup", "bench", INTEGER, 0, 1000000},
    {"runs", "bench", INTEGER, 1, 1000000},
    {"max-seconds", "bench,report,tune", INTEGER, 1, 1000000},
    {"layers", "bench", INTEGER, 1, 1024},
    {"tp", "bench", INTEGER, 1, 1024},
    {"stages", "bench", FLAG},
    {"check", "bench", CHOICE, 0, 0, "", {"full", "sample", "off"}},
    {"sweep", "bench", FLAG},
    {"batches", "bench", LIST, 1, 1 << 16, .besides = {"--sweep"}},
    {"contexts", "bench", LIST, 1, 1 << 24, .besides = {"--sweep"}},
    {"heads", "bench", LIST, 1, 1 << 12, .besides = {"--sweep"}},

    {"case", "run", OTHER, 0, 0, "a file"},
    {"weights", "run", OTHER, 0, 0, "a folder or a file"},
    {"layer", "run", INTEGER, 0, INT32_MAX,
     .besides = {"--weights", "folder", "--input", "x", "--output", "y"}},
    {"input", "run", OTHER, 0, 0, "a file"},
    {"output", "run,report", OTHER, 0, 0, "a file"},

    {"tp", "tune", INTEGER, 1, 1 << 16},
    {"ops", "tune", CHOICES, 0, 0, "", {"projection", "attention", "backend"}},
    {"rows", "tune", LIST, 1, 1 << 16},
    {"again", "tune", FLAG},
};

/* ---- command lines --------------------------------------------------------------------------- */

typedef struct line_row {
    int code;
    const char *text; /* on stderr */
    const char *words[9];
} line_row;

/* In the folder are g.safetensors, a golden case, tiny.json, a model, and folder, empty. No line gets
 * as far as computing. */
static const line_row line_rows[] = {
    /* which command */
    {2, "a subcommand is missing", {NULL}},
    {2, ": unknown subcommand; must be devices", {""}},
    {2, "nosuch: unknown subcommand", {"nosuch"}},
    {2, "BENCH: unknown subcommand", {"BENCH"}},
    {2, "bench : unknown subcommand", {"bench "}},
    {2, "?[31m: unknown subcommand", {"\x1b[31m"}},
    {2, "?: unknown subcommand", {"\xff"}},
    {2, "--nosuch: unknown option", {"--nosuch"}},
    {2, "--: unknown option", {"--"}},
    {2, "--verbose: unknown option", {"--verbose", "bench"}},
    /* what is no option */
    {2, "--nosuch: unknown option; see clmla bench", {"bench", "--nosuch"}},
    {2, "--nosuch=1: unknown option", {"bench", "--nosuch=1"}},
    {2, "--run: unknown option", {"bench", "--run", "1"}},
    {2, "--RUNS: unknown option", {"bench", "--RUNS", "1"}},
    {2, "--r?ns: unknown option", {"bench", "--r\xffns", "1"}},
    {2, "--r?ns: unknown option", {"bench", "--r\x1bns", "1"}},
    {2, "-x: unknown option", {"bench", "-x"}},
    {2, "-x: unknown option", {"verify", "-x", "g.safetensors"}},
    {2, "---runs: unknown option", {"bench", "---runs", "1"}},
    {2, "--=: unknown option", {"bench", "--="}},
    {2, "--=1: unknown option", {"bench", "--=1"}},
    {2, "--measure: unknown option", {"bench", "--measure"}},
    {2, "--dtype: unknown option", {"devices", "--dtype", "f32"}},
    {2, "--runs: unknown option", {"verify", "--runs", "1", "g.safetensors"}},
    {2, "--format: unknown option", {"run", "--format", "json"}},
    {2, "--output: unknown option", {"bench", "--output", "y.json"}},
    {2, "--ops: unknown option", {"report", "--ops", "attention"}},
    {2, "--stages: unknown option", {"tune", "--stages"}},
    /* arguments where none belong */
    {2, "file: unexpected argument", {"devices", "file"}},
    {2, "file: unexpected argument", {"bench", "file"}},
    {2, "file: unexpected argument", {"bench", "--runs", "1", "file"}},
    {2, "--runs: unexpected argument", {"bench", "--", "--runs", "1"}},
    {2, "-: unexpected argument", {"bench", "-"}},
    {2, ": unexpected argument", {"bench", ""}},
    {2, "?[31m: unexpected argument", {"run", "\x1b[31m"}},
    {2, "file: unexpected argument", {"tune", "file"}},
    /* values */
    {2, "--runs '--layers': must be an integer", {"bench", "--runs", "--layers"}},
    {2, "--seed '-1': must be an integer", {"bench", "--seed", "-1"}},
    {2, "--layers '0'", {"bench", "--runs", "x", "--runs", "1", "--layers", "0"}},
    {2, "--runs 'x'", {"bench", "--runs", "1", "--runs", "x"}},
    {2, "--runs: needs a value", {"bench", "--layers", "1", "--runs"}},
    {2,
     "--model 'nosuch.json': must be lite, r1",
     {"bench", "--model", "r1", "--model", "nosuch.json"}},
    {2, "--rows '1,2,4,8,16'", {"tune", "--rows", "1,2,4,8,16"}},
    {2, "--rows '2,1': must be up to 4 numbers that", {"tune", "--rows", "2,1"}},
    {2, "--rows '1,1': must be up to 4 numbers that", {"tune", "--rows", "1,1"}},
    {2,
     "--rows '1,16': must be multiples of 16",
     {"tune", "--projection", "clblast", "--rows", "1,16"}},
    {2, "--tuning 'none': must be the file to write", {"tune", "--tuning", "none"}},
    {2, "--tp '3': must divide the 4 heads", {"bench", "--model", "tiny.json", "--tp", "3"}},
    {2, "--tp '3': must divide the 4 heads", {"tune", "--model", "tiny.json", "--tp", "3"}},
    {2,
     "more than 16777216 tokens in all",
     {"bench", "--case", "prefill", "--seqlens", "16777216,1", "--pastlens", "0,0"}},
    {2,
     "has 1 entries, --pastlens '0,0' has 2",
     {"bench", "--case", "prefill", "--seqlens", "1", "--pastlens", "0,0"}},
    {2, "verify: an argument is empty", {"verify", ""}},
    {2, "verify: an argument is empty", {"verify", "g.safetensors", ""}},
    {2, "report: an argument is empty", {"report", ""}},
    /* options that do not go together */
    {2, "--platform and --cpu: give one of them", {"devices", "--platform", "0", "--cpu"}},
    {2, "--nvidia and --amd: give one of them", {"devices", "--amd", "--nvidia"}},
    {2, "--intel and --cpu: give one of them", {"verify", "--cpu", "--intel", "g.safetensors"}},
    {2, "--case prefill or --case decode must say", {"bench", "--seqlens", "1", "--pastlens", "0"}},
    {2,
     "--case prefill or --case decode must say",
     {"bench", "--case", "decode,prefill", "--pastlens", "0"}},
    {2, "--seqlens: --pastlens must be given too", {"bench", "--case", "decode", "--seqlens", "1"}},
    {2,
     "--pastlens: --seqlens must be given too",
     {"bench", "--case", "prefill", "--pastlens", "1"}},
    {2, "--case: does not go with --sweep", {"bench", "--sweep", "--case", "decode"}},
    {2, "--mode: does not go with --sweep", {"bench", "--sweep", "--mode", "batched"}},
    {2, "--tp: does not go with --sweep", {"bench", "--sweep", "--tp", "1"}},
    {2, "--batches: needs --sweep", {"bench", "--batches", "1"}},
    {2, "--contexts: needs --sweep", {"bench", "--contexts", "1"}},
    {2, "--heads: needs --sweep", {"bench", "--heads", "1"}},
    {2,
     "--weights-dtype 'fp8': CLBlast takes no FP8",
     {"bench", "--weights-dtype", "fp8", "--projection", "clblast"}},
    {2,
     "--weights-dtype 'fp8': CLBlast takes no FP8",
     {"bench", "--weights-dtype", "fp8", "--projection", "native,clblast"}},
    {2,
     "--cache-dtype 'fp8': tiny.json has kv_lora_",
     {"bench", "--model", "tiny.json", "--cache-dtype", "fp8"}},
    {2,
     "--cache-dtype 'fp8': tiny.json has kv_lora_",
     {"tune", "--model", "tiny.json", "--cache-dtype", "fp8"}},
    {2,
     "--case and --weights: give one of them",
     {"run", "--case", "g.safetensors", "--weights", "folder", "--output", "y"}},
    {2,
     "--layer: needs --weights",
     {"run", "--case", "g.safetensors", "--layer", "0", "--output", "y"}},
    {2,
     "--input: needs --weights",
     {"run", "--case", "g.safetensors", "--input", "x", "--output", "y"}},
    {2, "--output Y.safetensors is needed", {"run", "--case", "g.safetensors"}},
    {2, "--output Y.safetensors is needed", {"run", "--weights", "folder", "--output", "y"}},
    {2, "--output Y.safetensors is needed", {"run"}},
    {2, "verify: at least one golden", {"verify"}},
    {2, "verify: at least one golden", {"verify", "--"}},
    /* devices */
    {2, "--device '99': no such device; an index", {"devices", "--device", "99"}},
    {2,
     "--device '99999999999999999999': no such",
     {"devices", "--device", "99999999999999999999"}},
    {2,
     "--platform '4294967296': no such platform",
     {"verify", "--platform", "4294967296", "g.safetensors"}},
    {2,
     "--device '-1': no such device",
     {"run", "--device", "-1", "--case", "g.safetensors", "--output", "y"}},
    {2, "--device '?[31m': no such device", {"tune", "--device", "\x1b[31m", "--tuning", "y"}},
    {2, "--iluvatar: Iluvatar exposes no OpenCL", {"report", "--iluvatar"}},
    /* files */
    {2, "--model 'folder': must be lite, r1 or a", {"bench", "--model", "folder"}},
    {2, "--model '/dev/null': must be lite, r1 or a", {"bench", "--model", "/dev/null"}},
    {2, "--model '/dev/zero': must be lite, r1 or a", {"bench", "--model", "/dev/zero"}},
    {2, "--model 'g.safetensors': must be lite, r1", {"tune", "--model", "g.safetensors"}},
    {2,
     "--kernel-dir 'tiny.json': must be a direct",
     {"verify", "--kernel-dir", "tiny.json", "g.safetensors"}},
    {2, "--kernel-dir '/dev/null': must be a direct", {"report", "--kernel-dir", "/dev/null"}},
    {1,
     "--output 'folder': is a directory",
     {"run", "--case", "g.safetensors", "--output", "folder"}},
    {1, "--output 'folder/': is a directory", {"report", "--output", "folder/"}},
    {1,
     "--output 'no/y': its folder does not exist",
     {"run", "--case", "g.safetensors", "--output", "no/y"}},
    {1, "--output 'tiny.json/y': its folder does not", {"report", "--output", "tiny.json/y"}},
    {1, "folder: is a directory", {"verify", "folder"}},
    {1, "/dev/null: is not a regular file", {"verify", "/dev/null"}},
    {1, "nosuch: No such file or directory", {"verify", "--", "nosuch"}},
    {1, "--runs: No such file or directory", {"verify", "--", "--runs"}},
    {1, "tiny.json", {"verify", "tiny.json"}},
    {1, "?[31m: No such file or directory", {"run", "--case", "\x1b[31m", "--output", "y"}},
    {1, "folder: is a directory", {"run", "--case", "folder", "--output", "y"}},
    {1, "/dev/null: is not a regular file", {"run", "--case", "/dev/null", "--output", "y"}},
    {1,
     "folder/config.json: No such file",
     {"run", "--weights", "folder", "--input", "g.safetensors", "--output", "y"}},
    {1,
     "nosuch: No such file or directory",
     {"run", "--weights", "nosuch", "--input", "g.safetensors", "--output", "y"}},
    {1, "folder", {"verify", "--tuning", "folder", "g.safetensors"}},
    {1, "nosuch.tuning", {"verify", "--tuning", "nosuch.tuning", "g.safetensors"}},
    {1, "/dev/null", {"run", "--tuning", "/dev/null", "--case", "g.safetensors", "--output", "y"}},
    {1, "g.safetensors", {"bench", "--model", "tiny.json", "--tuning", "g.safetensors"}},
};

#endif
