#!/usr/bin/env bats
# shellcheck disable=SC2154 # bats sets status, output, lines and stderr
# clmla tune's longer searches: other classes than the CPU's, whose kernels compile for long on one,
# other dtypes, and one that is interrupted.
load common
load tune

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

@test "FP8 weights and cache" {
    model eights 160 2 128 72 16 72 # 128 x 128 blocks have edges
    eights=$BATS_FILE_TMPDIR/eights.json
    try tune --model "$eights" --kernels cpu --weights-dtype fp8 --cache-dtype fp8 --rows 16 \
        --max-seconds 1 --tuning my.tuning
    passes
    [ "$(grep -c '^projection_.* weights=f8_e4m3 .*max_rows=any' my.tuning)" -eq 5 ]
    [ "$(grep -c '^attention_.* cache=fp8_ds_mla' my.tuning)" -eq 1 ]
    [ "$(entries my.tuning)" -eq 6 ] # and no backend: FP8 weights are native's alone
    grep -q '^command .* --weights-dtype fp8 --cache-dtype fp8$' my.tuning
    try bench --model "$eights" --kernels cpu --weights-dtype fp8 --cache-dtype fp8 --runs 3 \
        --max-seconds 1 --tuning my.tuning --format json
    passes
    [ "$(json device.tuning)" -eq 6 ]
    [ "$(json results.3.verified)" = true ]
    try tune --model "$(tiny)" --cache-dtype fp8
    fails_with 2 "--cache-dtype 'fp8'" "multiple of 128"
}

@test "interrupted: what was found is there, and the same command goes on" {
    "$CLMLA" tune --model "$(tiny)" --matrix-units off --ops projection,attention --rows 1,2 \
        --max-seconds 2 \
        --tuning my.tuning >out 2>err &
    local pid=$! i
    for i in $(seq 300); do
        [ ! -s my.tuning ] || break
        sleep 0.1
    done
    kill -TERM "$pid"
    local code=0
    wait "$pid" || code=$?
    [ "$code" -eq 1 ]
    [[ "$(cat err)" == "clmla: interrupted: "*" tiles of this run are in my.tuning; "* ]]
    found=$(entries my.tuning)
    [ "$found" -ge 1 ] && [ "$found" -lt 11 ]
    cp my.tuning before.tuning
    try tune --model "$(tiny)" --matrix-units off --ops projection,attention --rows 1,2 \
        --max-seconds 1 --tuning my.tuning
    passes
    [[ "$output" == *"; $found were there before" ]]
    [ "$(entries my.tuning)" -eq 11 ]
    [ "$(grep -cF -f <(grep -E '^(projection|attention)_' before.tuning) my.tuning)" -eq "$found" ]
}

@test "other dtypes and classes go into one record beside what is there" {
    printf '# mine\n\ndate 2020-01-01\nprojection_cpu weights=f16 batches=1 out_features=7 in_features=9 max_rows=2 : tile_rows=1 vector_width=4 tile_vectors=4 block_rows=1\n' |
        record my.tuning
    try_attention --tuning my.tuning
    passes
    try_attention --tuning my.tuning --dtype f32 --kernels gpu
    passes
    [ "$(entries my.tuning)" -eq 3 ]
    [ "$(grep -c '^date' my.tuning)" -eq 3 ]
    grep -qx '# mine' my.tuning
    grep -q 'in_features=9 max_rows=2 : tile_rows=1' my.tuning
}
