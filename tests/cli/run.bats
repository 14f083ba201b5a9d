#!/usr/bin/env bats
# shellcheck disable=SC2154 # bats sets status, output, lines and stderr
load common

@test "writes outputs and appended cache rows, as the golden file has them" {
    try run --dtype f32 --case "$(golden 13_autoregressive)" --output y.safetensors
    passes
    [ "$("$CLMLA_PROBE" shape y.safetensors step0.output)" = "F32 1 6 128" ]
    [ "$("$CLMLA_PROBE" shape y.safetensors step5.output)" = "F32 1 1 128" ]
    [ "$("$CLMLA_PROBE" shape y.safetensors kv_cache)" = "F32 1 11 64" ]
    [ "$("$CLMLA_PROBE" shape y.safetensors pe_cache)" = "F32 1 11 16" ]
    for tensor in step0.output step1.output step5.output kv_cache pe_cache; do
        [ "$("$CLMLA_PROBE" error y.safetensors "$(golden 13_autoregressive)" "$tensor")" -le 8 ]
    done
}

@test "ragged cases have a prefix per request" {
    try run --dtype f32 --case "$(golden 20_ragged_prefill)" --output y.safetensors
    passes
    [ "$("$CLMLA_PROBE" shape y.safetensors req0.step0.output)" = "F32 1 5 112" ]
    [ "$("$CLMLA_PROBE" shape y.safetensors req3.step0.output)" = "F32 1 9 112" ]
    for tensor in req0.step0.output req1.kv_cache req2.pe_cache req3.step0.output; do
        [ "$("$CLMLA_PROBE" error y.safetensors "$(golden 20_ragged_prefill)" "$tensor")" -le 5 ]
    done
}

@test "batches are the first dimension" {
    try run --dtype f32 --case "$(golden 14_autoregressive_b2)" --output y.safetensors
    passes
    [ "$("$CLMLA_PROBE" shape y.safetensors step0.output)" = "F32 2 9 112" ]
    [ "$("$CLMLA_PROBE" shape y.safetensors kv_cache)" = "F32 2 14 96" ]
    for tensor in step0.output step5.output kv_cache pe_cache; do
        [ "$("$CLMLA_PROBE" error y.safetensors "$(golden 14_autoregressive_b2)" "$tensor")" -le 5 ]
    done
}

@test "two runs are the same bits" {
    try run --case "$(golden 16_chunked_4_b2)" --output a.safetensors
    passes
    try run --case "$(golden 16_chunked_4_b2)" --output b.safetensors
    passes
    cmp a.safetensors b.safetensors
}

@test "an existing output file is replaced" {
    echo old >y.safetensors
    try run --case "$(golden 01_tiny_prefill)" --output y.safetensors
    passes
    [ -z "$output" ]
    [ "$("$CLMLA_PROBE" shape y.safetensors step0.output)" = "F32 1 5 64" ]
}

@test "a failed run leaves the existing output file alone" {
    echo old >y.safetensors
    head -c 20000 "$(golden 01_tiny_prefill)" >short.safetensors
    try run --case short.safetensors --output y.safetensors
    fails_with 1 "short.safetensors"
    [ "$(cat y.safetensors)" = old ]
}

@test "an output in a folder that is missing" {
    try run --case "$(golden 01_tiny_prefill)" --output nosuch/y.safetensors
    fails_with 1 "--output 'nosuch/y.safetensors'"
}

@test "an output that is a folder" {
    mkdir folder
    try run --case "$(golden 01_tiny_prefill)" --output folder
    fails_with 1 "folder"
}

@test "a device that is full" {
    [ -e /dev/full ] || skip "no /dev/full here"
    try run --case "$(golden 01_tiny_prefill)" --output /dev/full
    fails_with 1 "/dev/full"
}

@test "arguments that are missing" {
    try run --case "$(golden 01_tiny_prefill)"
    fails_with 2 "--output"
    try run --output y.safetensors
    fails_with 2 "--case"
}

@test "a case that is missing" {
    try run --case nosuch.safetensors --output y.safetensors
    fails_with 1 "nosuch.safetensors"
    [ ! -e y.safetensors ]
}
