#!/usr/bin/env bats
# shellcheck disable=SC2154 # bats sets status, output, lines and stderr
# clmla run --weights: golden cases as checkpoints, beside the same cases with --case.
load common

# same_as_case CASE [OPTIONS]: the layer's output and appended rows are the case's, bit for bit.
same_as_case() {
    local case=$1
    shift
    try run "$@" --weights model --input model/input.safetensors --output y.safetensors
    passes
    [ -z "$output" ]
    try run "$@" --case "$(golden "$case")" --output z.safetensors
    passes
    "$CLMLA_PROBE" same y.safetensors output z.safetensors step0.output
    "$CLMLA_PROBE" same y.safetensors kv_cache z.safetensors kv_cache
    "$CLMLA_PROBE" same y.safetensors pe_cache z.safetensors pe_cache
}

# error_of CASE: of the output, against the case's truth, in parts per million.
error_of() {
    "$CLMLA_PROBE" error y.safetensors "$(golden "$1")" output step0.output
}

@test "outputs and appended cache rows are those of the golden case" {
    # query LoRA and a cache; neither; YaRN; FP8 with query LoRA; FP8 without, batch of 2
    for case in 02_tiny_decode 10_odd_prefill 12_odd_yarn_chunk 27_fp8_prefill 28_fp8_decode; do
        checkpoint "$case"
        same_as_case "$case"
    done
    [ "$("$CLMLA_PROBE" shape y.safetensors output)" = "F32 2 1 320" ]
    [ "$("$CLMLA_PROBE" shape y.safetensors kv_cache)" = "F32 2 1 192" ]
    [ "$("$CLMLA_PROBE" shape y.safetensors pe_cache)" = "F32 2 1 32" ]
}

@test "options of the computation hold here, too" {
    checkpoint 27_fp8_prefill
    same_as_case 27_fp8_prefill --dtype f32
    same_as_case 27_fp8_prefill --dtype f16 --page-block-size 0
    same_as_case 27_fp8_prefill --projection clblast --kernels gpu
}

@test "FP8 is within the bounds of the case" {
    checkpoint 27_fp8_prefill
    try run --dtype f32 --weights model --input model/input.safetensors --output y.safetensors
    passes
    [ "$(error_of 27_fp8_prefill)" -le 5 ]
    try run --weights model --input model/input.safetensors --output y.safetensors
    passes
    [ "$(error_of 27_fp8_prefill)" -le 9290 ]
}

@test "weights and inputs in F32 and F16" {
    checkpoint 12_odd_yarn_chunk 0 f32 # exact: the case is bf16
    same_as_case 12_odd_yarn_chunk
    same_as_case 12_odd_yarn_chunk --dtype f32
    checkpoint 12_odd_yarn_chunk 0 f16
    try run --dtype f32 --weights model --input model/input.safetensors --output y.safetensors
    passes
    [ "$(error_of 12_odd_yarn_chunk)" -le 5 ]
}

@test "a layer by its number" {
    checkpoint 08_r1_noyarn_prefill 60
    try run --layer 60 --dtype f32 --weights model/ --input model/input.safetensors \
        --output y.safetensors
    passes
    [ "$(error_of 08_r1_noyarn_prefill)" -le 5 ]
    for layer in 0 61; do
        try run --layer $layer --weights model --input model/input.safetensors --output y
        fails_with 2 "--layer '$layer'" "layers 60 to 60"
    done
    try run --weights model --input model/input.safetensors --output y # the default is 0
    fails_with 2 "--layer '0'" "layers 60 to 60"
    for layer in -1 x 1.5 4294967296; do
        try run --layer $layer --weights model --input model/input.safetensors --output y
        fails_with 2 "--layer '$layer'" "must be an integer from 0"
    done
}

@test "one file" {
    checkpoint 10_odd_prefill 0 stored 1
    same_as_case 10_odd_prefill
    cd model
    try run --weights model.safetensors --input input.safetensors --output ../x.safetensors
    passes
    cmp ../x.safetensors ../y.safetensors
}

@test "a shard alone lacks the rest of the layer" {
    checkpoint 10_odd_prefill
    try run --weights model/model-00002-of-00002.safetensors --input model/input.safetensors \
        --output y.safetensors
    fails_with 1 "model/model-00002-of-00002.safetensors" "self_attn.q_proj.weight' is missing" \
        "q_lora_rank 0"
}

@test "two runs are the same bits" {
    checkpoint 28_fp8_decode
    for y in a b; do
        try run --weights model --input model/input.safetensors --output $y.safetensors
        passes
    done
    cmp a.safetensors b.safetensors
}

@test "arguments that are missing or too many" {
    try run --weights model --output y.safetensors
    fails_with 2 "--input"
    try run --weights model --input x.safetensors
    fails_with 2 "--output"
    try run --input x.safetensors --output y.safetensors
    fails_with 2 "--input" "--weights"
    try run --layer 3 --case "$(golden 01_tiny_prefill)" --output y.safetensors
    fails_with 2 "--layer" "--weights"
    try run --weights model --case "$(golden 01_tiny_prefill)" --output y.safetensors
    fails_with 2 "--case and --weights"
}

@test "files that are missing" {
    try run --weights nosuch --input x.safetensors --output y.safetensors
    fails_with 1 "nosuch: No such file"
    checkpoint 10_odd_prefill
    try run --weights model --input nosuch.safetensors --output y.safetensors
    fails_with 1 "nosuch.safetensors: No such file"
    rm model/model-00002-of-00002.safetensors
    try run --weights model --input model/input.safetensors --output y.safetensors
    fails_with 1 "model/model-00002-of-00002.safetensors: No such file"
    rm model/config.json
    try run --weights model --input model/input.safetensors --output y.safetensors
    fails_with 1 "model/config.json: No such file"
    [ ! -e y.safetensors ]
}

@test "a shard that ends early, and what the output was before" {
    checkpoint 10_odd_prefill
    echo old >y.safetensors
    head -c 5000 model/model-00001-of-00002.safetensors >short
    mv short model/model-00001-of-00002.safetensors
    try run --weights model --input model/input.safetensors --output y.safetensors
    fails_with 1 "model/model-00001-of-00002.safetensors: tensor '"
    [ "$(cat y.safetensors)" = old ]
}

@test "a configuration that is not supported" {
    checkpoint 10_odd_prefill
    sed 's/"rope_scaling": null/"rope_scaling": {"type": "longrope"}/' model/config.json >c
    mv c model/config.json
    try run --weights model --input model/input.safetensors --output y.safetensors
    fails_with 1 "model/config.json: rope_scaling.rope_type 'longrope' is not supported"
}

# refused TEXT... -- TENSOR...: an input file of these tensors is refused with these words.
refused() {
    local words=()
    while [ "$1" != -- ]; do
        words+=("$1")
        shift
    done
    "$CLMLA_PROBE" make x.safetensors "${@:2}"
    try run --weights model --input x.safetensors --output y.safetensors
    fails_with 1 x.safetensors "${words[@]}"
}

@test "inputs that do not fit the model" {
    checkpoint 10_odd_prefill # hidden 96, kv_lora 40, rope 12
    local hidden=hidden_states:BF16:2x3x96
    refused "'hidden_states' is missing" -- hidden:BF16:2x3x96
    refused "'hidden_states' is BF16 [2, 3, 95]" "[batch, tokens, 96]" -- hidden_states:BF16:2x3x95
    refused "'hidden_states' is BF16 [3, 96]" -- hidden_states:BF16:3x96
    refused "'hidden_states' is F64 [2, 3, 96]" "BF16, F16 or F32" -- hidden_states:F64:2x3x96
    refused "'hidden_states' is BF16 [0, 3, 96]" "both >= 1" -- hidden_states:BF16:0x3x96
    refused "'hidden_states' is BF16 [2, 0, 96]" "both >= 1" -- hidden_states:BF16:2x0x96
    refused "'init.pe_cache' is missing" "init.kv_cache" -- $hidden init.kv_cache:BF16:2x4x40
    refused "'init.kv_cache' is missing" "init.pe_cache" -- $hidden init.pe_cache:BF16:2x4x12
    refused "'init.kv_cache' is [1, 4, ...]" "batch of 2" -- \
        $hidden init.kv_cache:BF16:1x4x40 init.pe_cache:BF16:2x4x12
    refused "'init.pe_cache' is [2, 5, ...]" "the same rows" -- \
        $hidden init.kv_cache:BF16:2x4x40 init.pe_cache:BF16:2x5x12
    refused "'init.pe_cache' is BF16 [2, 4, 13]" -- \
        $hidden init.kv_cache:BF16:2x4x40 init.pe_cache:BF16:2x4x13
    refused "'start_pos' is 0, but init.kv_cache holds 4 tokens" -- \
        $hidden init.kv_cache:BF16:2x4x40 init.pe_cache:BF16:2x4x12 start_pos:I32:1
    refused "'start_pos' is not I32 [1]" -- $hidden start_pos:I64:1
    try run --weights model --input "$(golden 01_tiny_prefill)" --output y.safetensors
    fails_with 1 "01_tiny_prefill.safetensors: tensor 'hidden_states' is missing"
}

@test "caches of another dtype than the hidden states" {
    checkpoint 10_odd_prefill
    "$CLMLA_PROBE" make x.safetensors hidden_states:F16:2x3x96 init.kv_cache:F32:2x4x40 \
        init.pe_cache:BF16:2x4x12
    try run --weights model --input x.safetensors --output y.safetensors
    passes
    [ "$("$CLMLA_PROBE" shape y.safetensors kv_cache)" = "F32 2 3 40" ]
}

@test "what float16 cannot hold" {
    checkpoint 02_tiny_decode 5
    poke model/model-00001-of-00002.safetensors model.layers.5.self_attn.o_proj.weight
    try run --dtype f16 --layer 5 --weights model --input model/input.safetensors --output y
    fails_with 1 "model: model.layers.5.self_attn.o_proj.weight has 65536, f16 ends at 65504"
    for tensor in init.kv_cache hidden_states; do
        checkpoint 02_tiny_decode
        poke model/input.safetensors $tensor
        try run --dtype f16 --weights model --input model/input.safetensors --output y
        fails_with 1 "model/input.safetensors: $tensor has 65536, f16 ends at 65504"
        try run --weights model --input model/input.safetensors --output y
        passes
    done
}
