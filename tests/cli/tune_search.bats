#!/usr/bin/env bats
# shellcheck disable=SC2154 # bats sets status, output, lines and stderr
# clmla tune over the kernels of other classes than the CPU's, which compile for long on one.
load common

@test "class gpu: slices and tiles, and what is found computes right" {
    try tune --model "$(tiny)" --kernels gpu --ops projection,attention --rows 1,16 --max-seconds 1 --tuning gpu.tuning
    passes
    try tune --model "$(tiny)" --kernels gpu --ops projection,attention --dtype f16 --rows 1 \
        --max-seconds 1 --tuning gpu.tuning
    passes
    [ "$(grep -c '^projection_stream' gpu.tuning)" -eq 10 ]
    [ "$(grep -c '^projection_gpu' gpu.tuning)" -eq 5 ]
    [ "$(grep -c '^attention_gpu' gpu.tuning)" -eq 2 ]
    try bench --model "$(tiny)" --kernels gpu --runs 3 --warmup 1 --max-seconds 1 \
        --tuning gpu.tuning --format json
    passes
    [ "$(json device.tuning)" -eq 17 ]
    for i in 0 1 2 3; do
        [ "$(json "results.$i.verified")" = true ]
    done
}

@test "class nvidia: tiles of tensor cores, and what is found computes right" {
    model wide 64 1 64 64 16 64 # sizes that they take; three products
    wide=$BATS_FILE_TMPDIR/wide.json
    try tune --model "$wide" --kernels nvidia --ops projection,attention --rows 1,16,80 \
        --max-seconds 1 --tuning my.tuning
    passes
    [ "$(grep -c '^projection_few' my.tuning)" -eq 3 ] # one of 1 and 16 rows
    [ "$(grep -c '^projection_tiled .* max_rows=any' my.tuning)" -eq 3 ]
    grep -q '^projection_few .* out_features=208 ' my.tuning # both of hidden states as a pair
    grep -q '^attention_mma .* max_rows=1 : .* | decode_before_ns=' my.tuning
    grep -q '^attention_mma .* max_rows=any : .* | prefill_before_ns=' my.tuning
    try bench --model "$wide" --kernels nvidia --mode batched --runs 3 --warmup 1 \
        --max-seconds 1 --tuning my.tuning --format json --verbose
    passes
    [ "$(json results.0.verified)" = true ]
    [ "$(json results.1.verified)" = true ]
    [[ "$stderr" == *"(tuning record)"* ]]
}
