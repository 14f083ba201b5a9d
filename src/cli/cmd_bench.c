#include "cli/cli.h"
int mla_cmd_bench(int argc, char **argv){(void)argc;(void)argv;return 1;}
