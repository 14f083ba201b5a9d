#!/usr/bin/env bats
# shellcheck disable=SC2154 # bats sets status, output, lines and stderr
# clmla verify with kernels of classes nvidia and gpu, which compile for long on a CPU.
load common

@test "kernels for sm_90a are tried, or the reason against them is given" {
    try verify --kernels nvidia --sm-90a --verbose "$(golden 03_tiny_yarn)"
    passes
    [[ "$stderr" == *"sm_90a, projections: tried, results are right"* ]]
    [[ "$stderr" == *"sm_90a, attention: tried, results are right"* ]]
    try verify --kernels cpu --sm-90a --verbose "$(golden 03_tiny_yarn)"
    passes
    [[ "$stderr" == *"sm_90a, attention: refused, the kernels are not of class nvidia"* ]]
    try verify --kernels nvidia --verbose "$(golden 03_tiny_yarn)"
    passes
    [[ "$stderr" != *sm_90a* ]]
}

@test "one launch where a class has it, and why not elsewhere" {
    try verify --one-launch --kernels cpu --verbose "$(golden 03_tiny_yarn)"
    passes
    [[ "$stderr" == *"the layer in one launch: no, not of this class"* ]]
}

@test "an FP8 cache; ranks that make no records are skipped" {
    for kernels in cpu gpu nvidia; do
        try verify --cache-dtype fp8 --kernels "$kernels" "$(golden 07_r1_yarn_decode)" \
            "$(golden 01_tiny_prefill)"
        passes
        [[ "${lines[1]}" == 07_r1_yarn_decode*PASS ]]
        [[ "${lines[2]}" == 01_tiny_prefill*SKIP ]]
        [[ "$stderr" == *"01_tiny_prefill: skipped, kv_lora_rank 32 makes no FP8 records"* ]]
    done
}

@test "class gpu: dtypes, and FP8 weights kept as codes" {
    for options in "" "--dtype f32"; do
        # shellcheck disable=SC2086 # options are several words
        try verify --kernels gpu $options "$(golden 03_tiny_yarn)"
        passes
    done
    try verify --weights-dtype fp8 --dtype f16 --kernels gpu "$(golden 27_fp8_prefill)" \
        "$(golden 28_fp8_decode)"
    passes
    [[ "${lines[1]}" == 27_fp8_prefill*PASS ]]
    [[ "${lines[2]}" == 28_fp8_decode*PASS ]]
}
