#include "faults/memory.h"

#include <errno.h>
#include <stddef.h>

static int allocations_left; /* 0: none fails */
static bool failed;
static int blocks;

void memory_arm(int n)
{
    allocations_left = n;
    failed = false;
}

bool memory_disarm(void)
{
    allocations_left = 0;
    return failed;
}

int memory_blocks(void) { return blocks; }

static bool fails(void)
{
    if (allocations_left == 0 || --allocations_left > 0)
        return false;
    failed = true;
    errno = ENOMEM;
    return true;
}

static void *count(void *block)
{
    blocks += block != NULL;
    return block;
}

void *__real_malloc(size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__real_calloc(size_t number, size_t bytes);
void *__wrap_calloc(size_t number, size_t bytes);
void *__real_realloc(void *block, size_t bytes);
void *__wrap_realloc(void *block, size_t bytes);
char *__real_strdup(const char *text);
char *__wrap_strdup(const char *text);
void __real_free(void *block);
void __wrap_free(void *block);

void *__wrap_malloc(size_t bytes) { return fails() ? NULL : count(__real_malloc(bytes)); }

void *__wrap_calloc(size_t number, size_t bytes)
{
    return fails() ? NULL : count(__real_calloc(number, bytes));
}

void *__wrap_realloc(void *block, size_t bytes)
{
    if (fails())
        return NULL;
    void *const moved = __real_realloc(block, bytes);
    return block == NULL ? count(moved) : moved;
}

char *__wrap_strdup(const char *text) { return fails() ? NULL : count(__real_strdup(text)); }

void __wrap_free(void *block)
{
    blocks -= block != NULL;
    __real_free(block);
}
