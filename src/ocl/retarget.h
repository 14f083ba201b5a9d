/*
 * PTX that NVIDIA's driver made for target sm_90, rewritten for sm_90a. Its OpenCL compiles for the
 * former alone, which has neither products of warpgroups nor more than 48 KiB of local memory, but
 * takes PTX for the latter. cl/nvidia/wgmma.clh has the marks that this looks for.
 */
#ifndef CLMLA_OCL_RETARGET_H
#define CLMLA_OCL_RETARGET_H

#include <stddef.h>

/* binary: what CL_PROGRAM_BINARIES gave; zeros at its end are left out. Returns text that ends in a
 * zero, free() it; or NULL and in *why the reason, constant text. */
char *mla__retarget_sm_90a(const char *binary, size_t bytes, const char **why);

#endif
