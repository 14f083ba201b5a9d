/*
 * The host's memory as the library asks for it, wrapped at link time: the n-th allocation fails, and
 * the blocks that live are counted. Link with --wrap of each function in memory.c.
 */
#ifndef CLMLA_TESTS_FAULTS_MEMORY_H
#define CLMLA_TESTS_FAULTS_MEMORY_H

#include <stdbool.h>

/* Allocation number n from here on fails, 1 the next; 0: none. */
void memory_arm(int n);
/* No allocation fails any more; whether one did. */
bool memory_disarm(void);
int memory_blocks(void);

#endif
