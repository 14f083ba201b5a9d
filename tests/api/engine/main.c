/* The example alone, as an application: engine [auto|cpu|gpu|nvidia]. */
#include "example.h"

int main(int argc, char **argv) { return example_main(argc, argv, NULL); }
