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

@test "every dtype, projection and class" {
    for options in "--dtype bf16" "--dtype f16" "--dtype f32" "--projection native" \
        "--projection clblast" "--kernels cpu" "--kernels gpu" "--dtype f32 --kernels gpu"; do
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

@test "one launch where a class has it, and why not elsewhere" {
    try verify --one-launch --kernels cpu --verbose "$(golden 03_tiny_yarn)"
    passes
    [[ "$stderr" == *"the layer in one launch: no, not of this class"* ]]
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
    [ -z "$stderr" ]
    [ "$(json passed)" = true ]
    [ "$(json results.0.case)" = 13_autoregressive ]
    [ "$(json results.0.dtype)" = f32 ]
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
    [[ "${lines[0]}" == case,dtype,projection,kernels,rel_l2,* ]]
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
