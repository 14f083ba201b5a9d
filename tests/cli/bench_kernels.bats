#!/usr/bin/env bats
# shellcheck disable=SC2154 # bats sets status, output, lines and stderr
# clmla bench with kernels that compile for long: both classes, every dtype, CLBlast's.
load common

try_tiny() {
    try bench --model "$(tiny)" --warmup 1 --runs 3 "$@"
}

@test "every dtype, projection, class, check and page size" {
    for options in "--dtype f16" "--projection clblast" "--kernels gpu" "--check full" \
        "--page-block-size 0" "--page-block-size 1" "--layers 3 --check full" "--tp 2"; do
        # shellcheck disable=SC2086 # options are several words
        try_tiny --format json --seqlens 9,4 --pastlens 3,0 --case prefill $options
        passes
        [ "$(json results.1.verified)" = true ]
    done
    try_tiny --format json --case decode --pastlens 3,0 --layers 3 --check full
    passes
}

@test "projections beside each other: rows in the order given, the seed's lines of the first" {
    try_tiny --projection clblast,native
    passes
    [ "${#lines[@]}" -eq 12 ] # title, heading, 8 rows, the two lines
    [[ "${lines[2]}" =~ ^prefill\ +sequential\ +bf16\ +clblast ]]
    [[ "${lines[3]}" =~ ^prefill\ +sequential\ +bf16\ +native ]]
    [[ "${lines[9]}" =~ ^decode\ +batched\ +bf16\ +native ]]
    [[ "${lines[-2]}" =~ ^Prefill\ Latency:\ [0-9.]+\ ms\ \(batched,\ clblast\)$ ]]
    [[ "${lines[-1]}" =~ ^Decode\ Throughput:\ [0-9.]+\ tok/s\ \(batched,\ clblast\)$ ]]
    try_tiny --projection native,clblast --layers 2 --stages --case decode --format json
    passes
    for i in 0 1 2 3; do
        [ "$(json "results.$i.verified")" = true ]
        json "results.$i.stages.0.stage" >/dev/null
    done
    [ "$(json results.0.mode) $(json results.0.projection)" = "sequential native" ]
    [ "$(json results.1.mode) $(json results.1.projection)" = "sequential clblast" ]
    [ "$(json results.2.mode) $(json results.2.projection)" = "batched native" ]
    [ "$(json results.3.mode) $(json results.3.projection)" = "batched clblast" ]
    [ "$(json results.2.clblast_calls)" = 0 ]
    [ "$(json results.3.clblast_calls)" -gt 0 ]
    try_tiny --projection auto,clblast --mode batched --format csv
    passes
    [ "${#lines[@]}" -eq 5 ]
    [[ "${lines[2]}" == prefill,batched,bf16,clblast,* ]]
    [[ "${lines[4]}" == decode,batched,bf16,clblast,* ]]
}

@test "--sweep measures projections beside each other" {
    try_tiny --sweep --batches 1,3 --contexts 5 --projection native,clblast --format csv
    passes
    [ "${#lines[@]}" -eq 5 ]
    [[ "${lines[1]}" == 4,1,5,bf16,native,* ]]
    [[ "${lines[2]}" == 4,1,5,bf16,clblast,* ]]
    [[ "${lines[3]}" == 4,3,5,bf16,native,* ]]
    [[ "${lines[4]}" == 4,3,5,bf16,clblast,* ]]
}
