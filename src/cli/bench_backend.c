/*
 * The projection backends of a bench run, each with a clmla context of its own, on one OpenCL
 * context and queue. Their packed weights outlive the cells: they serve every layer of the same
 * context, whatever its limits are.
 */
#include <stdlib.h>

#include "cli/bench.h"
#include "cli/message.h"

int mla_bench_open(const mla_common *common, mla_bench *bench)
{
    int code = -1;
    bench->common = common;
    for (size_t i = 0; i < common->num_projections && code == -1; i++) {
        mla_session *session = &bench->backends[i].session;
        bench->num_backends = (int32_t)i + 1;
        code = i == 0 ? mla_session_open(common, session)
                      : mla_session_open_beside(&bench->backends[0].session, common->projections[i],
                                                session);
    }
    return code;
}

void mla_bench_close(mla_bench *bench)
{
    mla_bench_drop_weights(bench);
    for (int32_t i = bench->num_backends; i-- > 0;) /* the first holds what the others stand on */
        mla_session_close(&bench->backends[i].session);
    bench->num_backends = 0;
}

/* ---- weights --------------------------------------------------------------------------------- */

static clmla_status pack_layer(const mla_bench *bench, mla_backend *backend, clmla_layer *layer,
                               int32_t index)
{
    const mla_common *common = bench->common;
    clmla_weights_params params = {.struct_size = sizeof(params)};
    mla_drawn_weights drawn;
    void *decoded = NULL;
    clmla_status status = CL_OUT_OF_HOST_MEMORY;
    mla_progress("drawing and packing weights of layer %d of %d", (int)index + 1,
                 (int)bench->num_layers);
    if (mla_draw_weights(&bench->config, index, common->seed,
                         common->weights_dtype == CLMLA_DTYPE_F8_E4M3, &drawn)) {
        const clmla_checkpoint_weight *w = drawn.weights;
        const clmla_checkpoint_weights weights = {w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7]};
        status = clmla_checkpoint_sources(&weights, common->weights_dtype, &params, &decoded, NULL);
    }
    if (status == CLMLA_SUCCESS)
        status =
            clmla_weights_create(layer, &params, backend->session.queue, &backend->weights[index]);
    clmla_checkpoint_sources_free(decoded);
    mla_drawn_weights_release(&drawn);
    return status;
}

clmla_status mla_backend_pack(const mla_bench *bench, mla_backend *backend, clmla_layer *layer)
{
    clmla_status status = CLMLA_SUCCESS;
    if (backend->weights == NULL)
        backend->weights = calloc((size_t)bench->num_layers, sizeof(clmla_weights *));
    if (backend->weights == NULL)
        return CL_OUT_OF_HOST_MEMORY;
    for (int32_t i = 0; i < bench->num_layers && status == CLMLA_SUCCESS; i++)
        if (backend->weights[i] == NULL)
            status = pack_layer(bench, backend, layer, i);
    return status;
}

void mla_bench_drop_weights(mla_bench *bench)
{
    for (int32_t b = 0; b < bench->num_backends; b++) {
        mla_backend *backend = &bench->backends[b];
        for (int32_t i = 0; backend->weights != NULL && i < bench->num_layers; i++)
            clmla_weights_release(backend->weights[i]);
        free(backend->weights);
        backend->weights = NULL;
    }
}
