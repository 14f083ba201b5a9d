#!/usr/bin/env bats
# shellcheck disable=SC2154,SC2030,SC2031 # bats sets status, output, lines and stderr; every test
# is a subshell
# clmla tune, and the records that every command reads.
load common
load tune

# What --verbose says of the kernels that a golden case takes.
describe() {
    try run --case "$(golden 01_tiny_prefill)" --projection native --matrix-units off \
        --kernels cpu --output y.safetensors --verbose "$@"
    passes
}

@test "a record with where it comes from and what was measured" {
    mkdir folder && cd folder # nothing else is in it
    try_tune --tuning new.tuning
    passes
    is_quiet
    [ "$(entries new.tuning)" -eq 5 ] # q_proj, kv_a_proj_with_mqa, W_UK, W_UV, o_proj
    [ "$(head -n 1 new.tuning)" = "clmla-tuning 1" ]
    for word in device driver platform clmla commit date model command; do
        grep -qE "^$word .+" new.tuning
    done
    grep -qx 'model hidden_size 64, heads 4, .*' new.tuning
    grep -qE '^projection_cpu weights=bf16 batches=4 out_features=32 in_features=16 max_rows=any : .* \| rows=1 before_ns=[0-9]+ after_ns=[0-9]+ spread_permille=[0-9]+$' \
        new.tuning
    [[ "$output" == *"new.tuning: 5 tiles searched, "* ]]
    [ "$(ls)" = new.tuning ]
    run ! grep -F "$BATS_FILE_TMPDIR" new.tuning # no path
}

@test "attention has one line for decoding and prompts" {
    try_attention --tuning new.tuning
    passes
    [ "$(entries new.tuning)" -eq 1 ]
    grep -qE '^attention_[a-z]+ cache=bf16 heads=4 kv_lora_rank=32 rope_dim=8 : .* \| decode_before_ns=[0-9]+ decode_after_ns=[0-9]+ prefill_before_ns=[0-9]+ prefill_after_ns=[0-9]+ ' \
        new.tuning
    [[ "$output" == *"attention, decode"*"attention, prefill"* ]]
}

@test "what the record has is not searched again, but with --again" {
    try_attention --tuning my.tuning
    cp my.tuning first.tuning
    try_attention --tuning my.tuning
    passes
    [[ "$output" == *"my.tuning: 0 tiles searched, 0 better than the built-in ones; 1 were there"* ]]
    cmp my.tuning first.tuning
    try_attention --tuning my.tuning --again
    passes
    [[ "$output" == *"my.tuning: 1 tiles searched"* ]]
    [ "$(entries my.tuning)" -eq 1 ]
    [ "$(grep -c '^date' my.tuning)" -eq 1 ] # remarks without entries are gone
}

@test "a built-in tile that is wrong ends the search" {
    mkdir kernels
    cp -r "$CLMLA_KERNEL_SOURCES"/. kernels
    sed -i 's/store_columns(SIXTEEN_COLUMNS(sum + n \/ VECTOR_WIDTH)/store_columns(1.0f + SIXTEEN_COLUMNS(sum + n \/ VECTOR_WIDTH)/' \
        kernels/cpu/projection.cl
    try_tune --kernels cpu --kernel-dir kernels --tuning my.tuning
    fails_with 1 "q_proj, 1 row" "computes wrong results"
    [ ! -e my.tuning ]
}

# ---- the record is read --------------------------------------------------------------------------

tile='tile_rows=2 vector_width=8 tile_vectors=4 block_rows=6'

# For q_proj of golden case 01.
for_q_proj() {
    describe --tuning none
    sed -nE 's/^q_proj: \[([0-9]*) x ([0-9]*), ([0-9]*)\].*/batches=\1 out_features=\2 in_features=\3/p' \
        <<<"$stderr"
}

@test "--tuning: the kernels take its tiles, and say so" {
    echo "projection_cpu weights=bf16 $(for_q_proj) max_rows=any : $tile" | record my.tuning
    describe --tuning my.tuning
    [[ "$stderr" == *"tuning: my.tuning; 1 tiles"* ]]
    [[ "$stderr" == *"q_proj: "*"above: projection $tile (tuning record)"* ]]
    [ "$(grep -c '(tuning record)' <<<"$stderr")" -eq 1 ]
    try verify --kernels cpu --matrix-units off --projection native --tuning my.tuning \
        "$(golden 01_tiny_prefill)"
    passes
    is_quiet
}

@test "without --tuning: CLMLA_TUNING_DIR, XDG_DATA_HOME, HOME, or none" {
    local line file
    line="projection_cpu weights=bf16 $(for_q_proj) max_rows=any : $tile"
    export CLMLA_TUNING_DIR=$PWD/own
    describe
    [[ "$stderr" == *"tuning: none; no $PWD/own/"*" (clmla tune makes it)"* ]]
    file=$(sed -n 's/^tuning: none; no \(.*\) (clmla tune makes it)$/\1/p' <<<"$stderr")
    mkdir own
    record "$file" <<<"$line"
    describe
    [[ "$stderr" == *"tuning: $file; 1 tiles"* ]]
    describe --tuning none
    [[ "$stderr" != *"tuning record"* ]]
    export POCL_CACHE_DIR=${POCL_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/pocl/kcache}
    unset CLMLA_TUNING_DIR
    export XDG_DATA_HOME=$PWD/xdg HOME=$PWD/home
    mkdir -p xdg home/.local/share
    mv own xdg/clmla
    describe
    [[ "$stderr" == *"tuning: $PWD/xdg/clmla/${file##*/}; 1 tiles"* ]]
    unset XDG_DATA_HOME
    mv xdg/clmla home/.local/share/clmla
    describe
    [[ "$stderr" == *"tuning: $PWD/home/.local/share/clmla/${file##*/}; 1 tiles"* ]]
}

@test "tune makes the user's directory and writes there" {
    export CLMLA_TUNING_DIR=$PWD/parent/records
    try_attention
    passes
    [ "$(stat -c %a parent/records)" = 700 ]
    [ "$(entries parent/records/*--*.tuning)" -eq 1 ]
    try_attention
    [[ "$output" == *"; 1 were there before" ]]
}

@test "a damaged record of the user's directory is noted, and everything works" {
    export CLMLA_TUNING_DIR=$PWD/own
    describe
    mkdir own
    echo damaged >"$(sed -n 's/^tuning: none; no \(.*\) (clmla tune makes it)$/\1/p' <<<"$stderr")"
    try verify "$(golden 01_tiny_prefill)"
    passes
    [[ "$stderr" == "clmla: note: tuning: $PWD/own/"*":1: 'damaged': must be the line 'clmla-tuning 1': not used" ]]
}

@test "a record of another device or driver is not used, and says so where it was named" {
    printf 'clmla-tuning 1\ndevice Other\ndriver 1\n' >other.tuning
    try verify --tuning other.tuning "$(golden 01_tiny_prefill)"
    passes
    [[ "$stderr" == "clmla: note: tuning: other.tuning is not used: it is of another device than '"*"'" ]]
    record driver.tuning </dev/null
    sed -i 's/^driver .*/driver 0.0/' driver.tuning
    try verify --tuning driver.tuning "$(golden 01_tiny_prefill)"
    passes
    [[ "$stderr" == "clmla: note: tuning: driver.tuning is not used: it is of another driver version than '"*"'" ]]
    try_tune --tuning other.tuning
    fails_with 1 other.tuning "another device or driver"
    [ "$(sed -n 2p other.tuning)" = "device Other" ]
}

@test "records that cannot be read" {
    record bad.tuning <<<'projection_cpu weights=bf16 batches=1 out_features=4 in_features=4 max_rows=1 : tile_rows=4 vector_width=16 tile_vectors=3 block_rows=4'
    echo '{"a": 1}' >json.tuning
    for command in "bench --model $(tiny)" "verify $(golden 01_tiny_prefill)" \
        "run --case $(golden 01_tiny_prefill) --output y.safetensors"; do
        # shellcheck disable=SC2086 # words
        try $command --tuning nosuch.tuning
        fails_with 1 nosuch.tuning
        # shellcheck disable=SC2086
        try $command --tuning bad.tuning
        fails_with 1 "bad.tuning:4: projection_cpu: vector_width * tile_vectors must be 16, 32 or 64"
        # shellcheck disable=SC2086
        try $command --tuning json.tuning
        fails_with 1 json.tuning:1: "must be the line 'clmla-tuning 1'"
        # shellcheck disable=SC2086
        try $command --tuning ''
        fails_with 2 "--tuning ''"
    done
    try_tune --tuning bad.tuning
    fails_with 1 bad.tuning "must be 16, 32 or 64"
    [ "$(entries bad.tuning)" -eq 1 ]
    try_tune --tuning json.tuning
    fails_with 1 json.tuning "no tuning record"
    [ "$(cat json.tuning)" = '{"a": 1}' ]
}

@test "arguments that are refused" {
    while read -r words; do
        # shellcheck disable=SC2086 # words
        try tune $words
        fails_with 2 "${words%% *}" "must be"
    done <<'WORDS'
--rows 0
--rows 16,1
--rows 1,1
--rows 1,2,3,4,5
--rows 1,x
--max-seconds 0
--ops softmax
--model nosuch.json
--tp 0
--tuning none
--projection blas
--dtype fp8
WORDS
    try tune extra
    fails_with 2 extra
    try tune --tp 3
    fails_with 2 "--tp '3'"
    try_tune --tuning nosuch/my.tuning
    fails_with 1 nosuch/my.tuning
    mkdir folder
    try_tune --tuning folder
    fails_with 1 folder
    CLMLA_TUNING_DIR='' try_tune
    fails_with 1 CLMLA_TUNING_DIR
}
