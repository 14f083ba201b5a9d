/* The kernel sources that tools/embed.cmake compiled in. */
#ifndef CLMLA_OCL_EMBEDDED_H
#define CLMLA_OCL_EMBEDDED_H

struct mla__embedded {
    const char *name; /* "common.clh", "cpu/attention.cl"; NULL ends the table */
    const char *text; /* the file, zero-terminated */
};

extern const struct mla__embedded mla__embedded_kernels[];

#endif
