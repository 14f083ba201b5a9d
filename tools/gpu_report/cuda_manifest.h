/* What build_ptx.sh says of its programs: files, parameters, kernels, and their arguments by name. */
#ifndef CLMLA_CUDA_MANIFEST_H
#define CLMLA_CUDA_MANIFEST_H

#include <stdbool.h>
#include <stddef.h>

enum {
    MANIFEST_MAX_ARGUMENTS = 64,
    MANIFEST_MAX_KERNELS = 8,
    MANIFEST_MAX_PROGRAMS = 48,
    MANIFEST_WORD = 64
};

typedef struct manifest_argument {
    char type[16]; /* of OpenCL C, or "pointer" */
    char name[MANIFEST_WORD];
} manifest_argument;

typedef struct manifest_kernel {
    char name[MANIFEST_WORD];
    int work_items; /* of a group; 0: any number */
    int num_arguments;
    manifest_argument arguments[MANIFEST_MAX_ARGUMENTS];
} manifest_kernel;

typedef struct manifest_program {
    char file[MANIFEST_WORD];
    char defines[1024]; /* NAME=VALUE ... */
    int num_kernels;
    manifest_kernel kernels[MANIFEST_MAX_KERNELS];
} manifest_program;

typedef struct manifest {
    char commit[MANIFEST_WORD], target[MANIFEST_WORD];
    int num_programs;
    manifest_program programs[MANIFEST_MAX_PROGRAMS];
} manifest;

/* Reads folder/manifest. False: `error` says why. */
bool manifest_read(const char *folder, manifest *out, char *error, size_t bytes);

/* The value of a definition, 0 where there is none. */
int manifest_value(const manifest_program *program, const char *name);
/* Whether NAME=value is among the definitions. */
bool manifest_has(const manifest_program *program, const char *name, const char *value);

/* The file as text with a NUL behind, NULL where it cannot be read; to be freed. */
char *manifest_file(const char *folder, const char *name);

#endif
