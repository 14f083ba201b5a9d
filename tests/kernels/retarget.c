/* PTX for sm_90 from standard input as the library rewrites it for sm_90a, to standard output. */
#include "ocl/retarget.h"

#include <stdio.h>
#include <stdlib.h>

enum { MOST_BYTES = 16 << 20 };

int main(void)
{
    char *const ptx = malloc(MOST_BYTES);
    const char *why = "out of memory";
    const size_t bytes = ptx == NULL ? 0 : fread(ptx, 1, MOST_BYTES, stdin);
    char *const text = ptx == NULL ? NULL : mla__retarget_sm_90a(ptx, bytes, &why);
    const int failed = text == NULL || fputs(text, stdout) == EOF || fflush(stdout) != 0;
    if (text == NULL)
        (void)fprintf(stderr, "retarget: %s\n", why);
    free(text);
    free(ptx);
    return failed;
}
