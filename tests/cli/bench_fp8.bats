#!/usr/bin/env bats
# shellcheck disable=SC2154 # bats sets status, output, lines and stderr
# clmla bench with weights and caches in FP8, whose kernels compile for long.
load common

try_tiny() {
    try bench --model "$(tiny)" --warmup 1 --runs 3 "$@"
}

# A model of FP8 records, with partial blocks of FP8 weights: 2 heads, kv_lora_rank 512, rope 64.
fp8_model() {
    model fp8 320 2 512 32 64 32
}

try_fp8() {
    try bench --model "$(fp8_model)" --warmup 1 --runs 3 --format json "$@"
}

# fp8_results COUNT DTYPE WEIGHTS CACHE: so many results with these dtypes, each verified; f32 to its
# precision.
fp8_results() {
    local i
    for i in $(seq 0 $(($1 - 1))); do
        [ "$(json "results.$i.verified")" = true ]
        [ "$(json "results.$i.dtype") $(json "results.$i.weights_dtype") $(json "results.$i.cache_dtype")" = \
            "$2 $3 $4" ]
        if [ "$2" = f32 ]; then
            [[ "$(json "results.$i.max_rel_error")" =~ e-0?[6-9]$ ]]
        fi
    done
}

# bytes OPTION...: of one step of decoding, sequences of 3 and 70 keys before it.
bytes() {
    try_fp8 --case decode --mode batched --pastlens 3,70 --runs 1 --warmup 0 "$@"
    passes
    json results.0.bytes
}

@test "FP8 weights stay codes: every case and mode, cpu and gpu" {
    for kernels in cpu gpu; do
        for dtype in bf16 f32; do
            try_tiny --weights-dtype fp8 --kernels $kernels --dtype $dtype --case prefill \
                --seqlens 5,70 --pastlens 66,0 --check full --format json
            passes
            is_quiet
            fp8_results 2 $dtype f8_e4m3 $dtype
            try_tiny --weights-dtype fp8 --kernels $kernels --dtype $dtype --case decode \
                --pastlens 5,130 --format json
            passes
            fp8_results 2 $dtype f8_e4m3 $dtype
        done
    done
    try_fp8 --weights-dtype fp8 --dtype f16 --layers 2 --tp 2 --case prefill --seqlens 9,70 \
        --pastlens 3,0
    passes
    fp8_results 2 f16 f8_e4m3 f16
}

@test "an FP8 cache: every case and mode, cpu and gpu, alone and with FP8 weights" {
    for kernels in cpu gpu; do
        for dtype in bf16 f32; do
            try_fp8 --cache-dtype fp8 --kernels $kernels --dtype $dtype --case prefill \
                --seqlens 5,70 --pastlens 66,0 --check full
            passes
            is_quiet
            fp8_results 2 $dtype $dtype fp8_ds_mla
            try_fp8 --cache-dtype fp8 --kernels $kernels --dtype $dtype --case decode \
                --pastlens 5,130 --weights-dtype fp8 --layers 2
            passes
            fp8_results 2 $dtype f8_e4m3 fp8_ds_mla
        done
    done
    try_fp8 --cache-dtype fp8 --case decode --pastlens 5,130 --page-block-size 0
    passes
    fp8_results 2 bf16 bf16 fp8_ds_mla
}

@test "without FP8 both dtypes are that of --dtype" {
    try_tiny --case decode --mode batched --dtype f16 --weights-dtype same --cache-dtype same \
        --format json
    passes
    fp8_results 1 f16 f16 f16
}

@test "bytes count a byte a weight, its scales, and 656 bytes a key" {
    both=$(bytes --weights-dtype fp8 --cache-dtype fp8)
    weights=$(bytes --weights-dtype fp8)
    cache=$(bytes --cache-dtype fp8)
    neither=$(bytes)
    # elements: q 192·320, kv_a 576·320, kv_b 128·512, o 320·64; scales: 2·3 + 5·3 + 1·4 + 3·1;
    # keys: 4 + 71 read, 2 written
    awk -v both="$both" -v weights="$weights" -v cache="$cache" -v neither="$neither" 'BEGIN {
        w = 192 * 320 + 576 * 320 + 128 * 512 + 320 * 64 - 4 * 28
        c = 77 * (1152 - 656)
        exit !(neither - weights == w && neither - cache == c && neither - both == w + c) }'
}

@test "tables and CSV say what is FP8" {
    try bench --model "$(fp8_model)" --warmup 1 --runs 3 --case decode --mode batched \
        --pastlens 5 --weights-dtype fp8 --cache-dtype fp8
    passes
    [[ "${lines[0]}" == *", weights f8_e4m3, cache fp8_ds_mla, "* ]]
    try_fp8 --case decode --mode batched --pastlens 5 --cache-dtype fp8 --format csv
    passes
    [[ "${lines[0]}" == *,weights_dtype,cache_dtype,verified,max_rel_error ]]
    [[ "${lines[1]}" == *,bf16,fp8_ds_mla,yes,* ]]
    try_tiny --case decode --mode batched --pastlens 5
    passes
    [[ "${lines[0]}" != *weights* && "${lines[0]}" != *cache* ]]
}

@test "--sweep in FP8, with the attention stage's bytes" {
    try_fp8 --sweep --batches 1,3 --contexts 1,70 --weights-dtype fp8 --cache-dtype fp8 --stages
    passes
    fp8_results 4 bf16 f8_e4m3 fp8_ds_mla
    [ "$(json results.3.batch) $(json results.3.context)" = "3 70" ]
    # 656 · 3 · 70 + 2 · 3 · 2 · (576 + 512)
    awk -v ms="$(json results.3.attention_ms)" -v rate="$(json results.3.attention_gb_per_s)" \
        'BEGIN { r = rate * ms * 1e6 / 150816; exit !(ms > 0 && r > 0.999 && r < 1.001) }'
    try_fp8 --sweep --batches 1 --contexts 5 --cache-dtype fp8 --format csv
    passes
    [[ "${lines[0]}" == *,weights_dtype,cache_dtype,device_read_gb_per_s,* ]]
    [[ "${lines[1]}" == *,bf16,fp8_ds_mla,* ]]
}

# A scale of another block, or of another group of a record, is found.
@test "FP8 that is decoded wrongly is not timed" {
    [ -n "${CLMLA_KERNEL_SOURCES:-}" ] || skip "CLMLA_KERNEL_SOURCES is not set"
    cp -r "$CLMLA_KERNEL_SOURCES" weights
    cp -r "$CLMLA_KERNEL_SOURCES" cache
    chmod -R u+w weights cache
    sed -i 's|(k0 / FP8_GROUP)|0|' weights/cpu/projection.cl weights/cpu/projection_dot_fp8.cl
    sed -i 's|\[i / FP8_GROUP\]|[0]|' cache/common.clh
    for wrong in weights cache; do
        ! diff -rq "$CLMLA_KERNEL_SOURCES" $wrong >/dev/null
        for case in prefill decode; do
            try_fp8 --mode batched --case $case --seqlens 1 --pastlens 70 --kernels cpu \
                --kernel-dir $wrong --$wrong-dtype fp8 --format table
            fails_with 1 "wrong result, not timed" "$case batched"
        done
    done
}
