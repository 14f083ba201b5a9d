#!/usr/bin/env bats
# shellcheck disable=SC2154 # bats sets status, output, lines and stderr
# clmla tune's longer searches: other classes than the CPU's and CLBlast, whose kernels compile for
# long on one, other dtypes, wrong kernels, and one that is interrupted.
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

@test "CLBlast's parameters, for all products at once" {
    try tune --model "$(tiny)" --projection clblast --rows 16 --max-seconds 1 --tuning my.tuning
    passes
    [ "$(entries my.tuning)" -eq 1 ]
    grep -qE '^clblast_xgemm max_rows=any : gemmk=0 .* \| rows=16 before_ns=[0-9]+ ' my.tuning
    grep -q '^command .* --projection clblast' my.tuning
    try verify --projection clblast --tuning my.tuning --verbose "$(golden 01_tiny_prefill)"
    passes
    [[ "$stderr" == *"CLBlast parameters: "*" (tuning record)"* ]]
    try tune --model "$(tiny)" --projection clblast --clblast-overrides off --tuning off.tuning
    passes
    [[ "$stderr" == *"note: "*"CLBlast runs with parameters of its own here"* ]]
    try tune --projection clblast --rows 1,16
    fails_with 2 "--rows '1,16'" "multiples of 16"
}

@test "up to how many rows --projection auto stays native" {
    try tune --model "$(tiny)" --kernels gpu --ops backend --tuning my.tuning
    passes
    is_quiet
    [ "$(grep -cE '^auto_gpu weights=bf16 : native_max_rows=[0-9]+ \| rows=1 native_ns=[0-9]+ clblast_ns=[0-9]+' my.tuning)" -eq 1 ]
    [[ "$output" == *"--projection auto: "* ]]
    # The layer follows the record, and says so.
    for rows in 0 2 16777216; do
        echo "auto_gpu weights=bf16 : native_max_rows=$rows" | record my.tuning
        try verify --kernels gpu --tuning my.tuning --verbose "$(golden 01_tiny_prefill)"
        passes
        case $rows in
        0) [[ "$stderr" == *"projections: CLBlast (tuning record)"* ]] ;;
        2) [[ "$stderr" == *"projections: native for few rows, else CLBlast (tuning record)"*"; above 2 rows CLBlast"* ]] ;;
        *) [[ "$stderr" == *"projections: native (tuning record)"* ]] ;;
        esac
    done
    try tune --model "$(tiny)" --kernels gpu --ops backend --tuning my.tuning
    [[ "$output" == *"; 1 were there before" ]]
    for words in '--projection native' '--projection clblast --rows 16 --max-seconds 1'; do
        # shellcheck disable=SC2086 # words
        try tune --model "$(tiny)" --kernels gpu --ops backend $words --tuning other.tuning
        passes
        [ ! -e other.tuning ] || [ "$(grep -c '^auto_' other.tuning)" -eq 0 ]
    done
}

@test "tiles that compute wrong results or do not build are told, not timed and not recorded" {
    mkdir kernels
    cp -r "$CLMLA_KERNEL_SOURCES"/. kernels
    # Where a tile has six rows, everything is off by a half.
    sed -i '1i #if TILE_ROWS == 6\n#define Y_OF(v) ((v) + 0.5f)\n#else\n#define Y_OF(v) (v)\n#endif\n#if TILE_ROWS == 5\n#error "no five rows here"\n#endif
        s/store_columns(SIXTEEN_COLUMNS(sum + n \/ VECTOR_WIDTH)/store_columns(Y_OF(SIXTEEN_COLUMNS(sum + n \/ VECTOR_WIDTH))/' \
        kernels/cpu/projection.cl
    grep -q 'store_columns(Y_OF(' kernels/cpu/projection.cl
    try_tune --kernels cpu --kernel-dir kernels --max-seconds 20 --tuning my.tuning
    [ "$status" -eq 1 ]
    [[ "$stderr" == *"tile_rows=6"*"computes wrong results: row 0, column 0 is "*"please report"* ]]
    [[ "$stderr" == *"note: "*"tile_rows=5"*" is left out: "* ]]
    [ "$(entries my.tuning)" -eq 5 ]
    run ! grep -qE 'tile_rows=[56]' my.tuning
}
