/* The application around the engine, with the place where tests look in. */
#ifndef ENGINE_EXAMPLE_H
#define ENGINE_EXAMPLE_H

#include "engine.h"

/* See engine_options.after_layer. begin is called with every new engine. */
struct observer {
    void *user;
    void (*begin)(void *user, const char *run);
    clmla_status (*after_layer)(void *user, const struct engine *engine, const struct batch *batch,
                                int32_t layer);
};

/* Serves the same requests several times: plainly, with speculation, with two shards. argv[1] may
 * name a kernel class. observer NULL: none. Returns an exit code. */
int example_main(int argc, char **argv, const struct observer *observer);

#endif
