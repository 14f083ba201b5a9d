/* A stand-in for NVIDIA's driver: the entries that cuda_harness calls. */
#ifndef CLMLA_TESTS_MOCK_CUDA_H
#define CLMLA_TESTS_MOCK_CUDA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MOCK_MAX_PARAMETERS = 64, MOCK_WORD = 64 };

/* A parameter of an .entry of PTX. */
typedef struct mock_parameter {
    size_t bytes;
    bool is_pointer;
} mock_parameter;

typedef struct mock_function {
    char program[MOCK_WORD]; /* file, from the first line of the PTX */
    char name[MOCK_WORD];
    unsigned required[3]; /* .reqntid; 0: none */
    int num_parameters;
    mock_parameter parameters[MOCK_MAX_PARAMETERS];
} mock_function;

typedef struct mock_allocation {
    unsigned char *data;
    size_t bytes;
    void *buffer; /* mock_cuda_run.c's */
} mock_allocation;

/* The allocation that begins there, NULL where none does. */
mock_allocation *mock_find(uint64_t address);

/* ---- mock_cuda_run.c: kernels on an OpenCL device ---- */

/* Runs the function, from FOLDER/PROGRAM.cl for PROGRAM.ptx, and waits. NULL, or what went wrong. */
const char *mock_run(const char *folder, const mock_function *function, const unsigned *grid,
                     const unsigned *block, void **arguments);
void mock_forget(mock_allocation *allocation); /* before it is freed */

#endif
