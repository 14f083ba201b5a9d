/*
 * clmla_weights: one model layer's weight matrices in the packed layout, and its norm weights in
 * float32, in one buffer.
 */
#ifndef CLMLA_LAYER_WEIGHTS_H
#define CLMLA_LAYER_WEIGHTS_H

#include "layer/layer.h"

struct clmla_weights {
    clmla_layer *layer; /* retained */
    int references;     /* guarded by the context's mutex: bindings retain their weights */
    cl_mem buffer;      /* retained */
    struct clmla_matrix matrices[MLA__NUM_ROLES];
    clmla_tensor q_a_layernorm;  /* [q_lora] f32; no buffer without q LoRA */
    clmla_tensor kv_a_layernorm; /* [kv_lora] f32 */
};

/* Weights of uninitialised memory, for rehearsals. */
clmla_status mla__weights_hollow(clmla_layer *layer, clmla_weights **out);

/* True when the layer's kernels can read them: same context, shapes and storage dtype. */
bool mla__weights_fit(const clmla_weights *weights, const clmla_layer *layer);

void mla__weights_retain(clmla_weights *weights);

/* Where everything lies, relative to the beginning; returns the whole in *bytes. */
typedef struct mla__weights_layout {
    uint64_t matrices[MLA__NUM_ROLES];
    uint64_t q_a_layernorm, kv_a_layernorm;
    uint64_t bytes;
} mla__weights_layout;

clmla_status mla__weights_layout_of(const clmla_layer *layer, mla__weights_layout *out);
clmla_status mla__weights_bytes(const clmla_layer *layer, uint64_t *bytes);

/* Fills matrices and norm views of a buffer according to the layout; packs nothing. */
void mla__weights_place(const clmla_layer *layer, const mla__weights_layout *layout, cl_mem buffer,
                        uint64_t offset_bytes, clmla_weights *weights);

#endif
