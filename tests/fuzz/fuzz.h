/*
 * What the fuzz targets share. A target is one fuzz_<name>.c with LLVMFuzzerTestOneInput, linked either
 * with libFuzzer (CMake option CLMLA_FUZZ) or with replay.c, which feeds it the files of its corpus.
 *
 * Targets look at everything that an accepted input gives, so that what lies outside of it is
 * touched, and trap where the library breaks a promise.
 */
#ifndef CLMLA_TESTS_FUZZ_H
#define CLMLA_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

#include "clmla_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Reads every byte, for sanitizers. */
void fuzz_touch(const void *data, size_t bytes);

/* A refusal says why, in one line of printable text; success, which is counted, leaves no text behind.
 * Traps else. */
void fuzz_check_error(clmla_status status, const clmla_model_error *error);

extern unsigned long fuzz_accepted; /* inputs, or parts of one */

/* Writes a file in this process's own folder, which goes when the process ends. Returns its path, or
 * that of the folder for name "". The text stays until the next call. */
const char *fuzz_file(const char *name, const void *data, size_t size);

#endif
