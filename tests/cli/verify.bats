#!/usr/bin/env bats
# shellcheck disable=SC2154 # bats sets status, output, lines and stderr
load common

@test "one line per case, all passed" {
    try verify "$(golden 01_tiny_prefill)" "$(golden 02_tiny_decode)"
    passes
    [ "${#lines[@]}" -eq 3 ]
    [[ "${lines[1]}" == 01_tiny_prefill*PASS ]]
    [[ "${lines[2]}" == 02_tiny_decode*PASS ]]
}

@test "every dtype and projection" {
    for options in "--dtype bf16" "--dtype f16" "--dtype f32" "--projection native" \
        "--projection clblast" "--kernels cpu"; do
        # shellcheck disable=SC2086 # options are several words
        try verify $options "$(golden 03_tiny_yarn)"
        passes
    done
}

@test "CLBlast's parameters are named, and can be left alone" {
    try verify --projection clblast --verbose "$(golden 03_tiny_yarn)"
    passes
    [[ "$stderr" == *"CLBlast parameters"* ]]
    try verify --projection clblast --verbose --clblast-overrides off "$(golden 03_tiny_yarn)"
    passes
    [[ "$stderr" == *"CLBlast parameters: its own"* ]]
    try verify --clblast-overrides maybe "$(golden 03_tiny_yarn)"
    fails_with 2 "--clblast-overrides" "maybe"
}

@test "batch-invariant, by native projections alone" {
    try verify --batch-invariant --projection auto --verbose "$(golden 20_ragged_prefill)"
    passes
    [[ "$stderr" == *"batch_invariant excludes CLBlast"* ]]
    try verify --batch-invariant --projection clblast "$(golden 20_ragged_prefill)"
    [ "$status" -eq 1 ]
    [[ "$stderr" == *"batch_invariant needs native projections"* ]]
}

@test "any page size, and a contiguous cache" {
    for size in 0 1 7 64; do
        try verify --page-block-size "$size" "$(golden 20_ragged_prefill)"
        passes
    done
}

@test "JSON has the fields" {
    try verify --format json --dtype f32 "$(golden 13_autoregressive)"
    passes
    is_quiet
    [ "$(json passed)" = true ]
    [ "$(json results.0.case)" = 13_autoregressive ]
    [ "$(json results.0.dtype)" = f32 ]
    [ "$(json results.0.weights_dtype)" = f32 ]
    [ "$(json results.0.cache_dtype)" = f32 ]
    [ "$(json results.0.result)" = PASS ]
    for field in projection kernels rel_l2 rel_l2_bound cache_rel_l2 cache_bound; do
        json "results.0.$field" >/dev/null
    done
    for field in platform name driver class; do
        json "device.$field" >/dev/null
    done
}

@test "CSV has a heading and a line" {
    try verify --format csv "$(golden 27_fp8_prefill)"
    passes
    [ "${#lines[@]}" -eq 2 ]
    [[ "${lines[0]}" == case,dtype,weights_dtype,cache_dtype,projection,kernels,rel_l2,* ]]
}

# alter FILE PATTERN TEXT: TEXT over the bytes from PATTERN's first place on.
alter() {
    local offset
    offset=$(grep -abo -m1 -- "$2" "$1" | head -n1 | cut -d: -f1)
    printf '%s' "$3" | dd of="$1" bs=1 seek="$offset" conv=notrunc status=none
}

@test "a bound that is exceeded fails, and the other files are still done" {
    cp "$(golden 01_tiny_prefill)" tight.safetensors
    chmod u+w tight.safetensors
    alter tight.safetensors '"bound_bf16_rel_l2":"0.005508' '"bound_bf16_rel_l2":"0.000001'
    run --separate-stderr clmla verify tight.safetensors "$(golden 02_tiny_decode)"
    [ "$status" -eq 1 ]
    [[ "${lines[1]}" == *FAIL ]]
    [[ "${lines[2]}" == *PASS ]]
}

@test "no file" {
    try verify
    fails_with 2 "FILE.safetensors"
}

@test "a file that is missing" {
    try verify nosuch.safetensors
    fails_with 1 "nosuch.safetensors"
}

@test "an empty file" {
    : >empty.safetensors
    try verify empty.safetensors
    fails_with 1 "empty.safetensors"
}

@test "a truncated file" {
    head -c 20000 "$(golden 01_tiny_prefill)" >short.safetensors
    try verify short.safetensors
    fails_with 1 "short.safetensors"
    head -c 100 "$(golden 01_tiny_prefill)" >shorter.safetensors
    try verify shorter.safetensors
    fails_with 1 "shorter.safetensors"
}

@test "a header that lies about its length" {
    cp "$(golden 01_tiny_prefill)" lying.safetensors
    chmod u+w lying.safetensors
    printf '\377\377\377\377\377\377\377\177' | dd of=lying.safetensors conv=notrunc status=none
    try verify lying.safetensors
    fails_with 1 "lying.safetensors"
}

@test "a header that lies about a shape" {
    cp "$(golden 01_tiny_prefill)" lying.safetensors
    chmod u+w lying.safetensors
    alter lying.safetensors '"shape":\[[0-9]' '"shape":[9'
    try verify lying.safetensors
    fails_with 1 "lying.safetensors"
}

@test "a directory, and a file that is no safetensors" {
    try verify .
    fails_with 1
    echo "not safetensors at all, only a line of text" >text
    try verify text
    fails_with 1 "text"
}

@test "a config without a field" {
    cp "$(golden 01_tiny_prefill)" config.safetensors
    chmod u+w config.safetensors
    alter config.safetensors 'kv_lora_rank' 'kv_lora_xxxx'
    try verify config.safetensors
    fails_with 1 "kv_lora_rank"
}

@test "arguments out of range" {
    try verify --page-block-size -1 "$(golden 01_tiny_prefill)"
    fails_with 2 "--page-block-size '-1'"
    try verify --dtype fp8 "$(golden 01_tiny_prefill)"
    fails_with 2 "--dtype 'fp8'" "bf16, f16 or f32"
    try verify --device 99 "$(golden 01_tiny_prefill)"
    fails_with 2 "--device '99'"
    try verify --kernel-dir nosuch "$(golden 01_tiny_prefill)"
    fails_with 2 "--kernel-dir 'nosuch'"
}

@test "a list of projections is for bench only" {
    try verify --projection native,clblast "$(golden 01_tiny_prefill)"
    fails_with 2 "--projection 'native,clblast': must be auto, native or clblast"
}

@test "what float16 cannot hold is skipped with its reason, and the other files are still done" {
    for tensor in model.layers.0.self_attn.o_proj.weight init.kv_cache step0.hidden_states; do
        cp "$(golden 02_tiny_decode)" large.safetensors
        chmod u+w large.safetensors
        poke large.safetensors "$tensor"
        try verify --dtype f16 large.safetensors "$(golden 01_tiny_prefill)"
        passes
        [[ "${lines[1]}" == 02_tiny_decode*SKIP ]]
        [[ "${lines[2]}" == 01_tiny_prefill*PASS ]]
        [[ "$stderr" == *"02_tiny_decode: skipped, $tensor has 65536, f16 ends at 65504"* ]]
        try run --dtype f16 --case large.safetensors --output y.safetensors
        fails_with 1 "$tensor has 65536"
    done
    try verify --dtype f16 --format json large.safetensors
    passes
    [ "$(json results.0.result)" = SKIP ]
    [[ "$(json results.0.reason)" == step0.hidden_states* ]]
}

@test "an overflow that the layer makes is a failure" {
    cp "$(golden 01_tiny_prefill)" hot.safetensors
    chmod u+w hot.safetensors
    # 57344, which float16 holds, as the weight of a norm: its products pass float16's end
    printf '\x60\x47' >hot
    for ((i = 0; i < 5; i++)); do cat hot hot >hotter && mv hotter hot; done
    local length offset
    length=$(od -An -tu8 -N8 hot.safetensors)
    offset=$(dd if=hot.safetensors bs=1 skip=8 count="$((length))" status=none |
        sed -n 's/.*"[^"]*kv_a_layernorm.weight":{[^}]*"data_offsets":\[\([0-9]*\),.*/\1/p')
    dd if=hot of=hot.safetensors bs=1 seek="$((8 + length + offset))" conv=notrunc status=none
    run --separate-stderr clmla verify --dtype f16 hot.safetensors
    [ "$status" -eq 1 ]
    [[ "${lines[1]}" == *FAIL ]]
}

@test "FP8 weights kept as codes; other weights are skipped" {
    for options in "" "--dtype f32"; do
        # shellcheck disable=SC2086 # options are several words
        try verify --weights-dtype fp8 $options "$(golden 27_fp8_prefill)" "$(golden 28_fp8_decode)" \
            "$(golden 01_tiny_prefill)"
        passes
        [[ "${lines[1]}" == 27_fp8_prefill*PASS ]]
        [[ "${lines[2]}" == 28_fp8_decode*PASS ]]
        [[ "${lines[3]}" == 01_tiny_prefill*SKIP ]]
        [[ "$stderr" == *"01_tiny_prefill: skipped, its weights are not FP8"* ]]
    done
    try verify --weights-dtype fp8 --projection clblast "$(golden 27_fp8_prefill)"
    fails_with 1 "f8_e4m3 needs native projections"
    try verify --weights-dtype int8 "$(golden 27_fp8_prefill)"
    fails_with 2 "--weights-dtype 'int8'" "same or fp8"
}
