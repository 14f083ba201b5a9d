#!/usr/bin/env bats
# shellcheck disable=SC2154,SC2030,SC2031 # bats sets status, output and stderr; every test is a
# subshell
# More than the device's memory holds: one line that names the bytes, how much there is and what needs
# less, before anything large is drawn.
load common

# A device of PoCL's with 1 GiB, and 256 MiB in one buffer.
small_device() {
    export POCL_MEMORY_LIMIT=1
    try devices --platform portable --device 0 --format json
    if [ "$status" -ne 0 ] || [ "$(json devices.0.max_alloc_gib)" != 0.25 ]; then
        skip "no device whose memory can be limited here"
    fi
}

try_small() {
    try "$1" --platform portable --device 0 "${@:2}"
}

@test "a cache that no buffer holds" {
    small_device
    try_small bench --model "$(tiny)" --case decode --mode batched --pastlens 8000000
    fails_with 1 "decode batched: cannot allocate a buffer of 5120" " bytes; the device has 1 GiB" \
        "0.25 GiB in one buffer" "fewer tokens" CL_INVALID_BUFFER_SIZE
    try_small bench --model "$(tiny)" --case decode --mode batched --pastlens 100
    passes
}

@test "rows that no buffer holds" {
    small_device
    try_small bench --model "$(tiny)" --case prefill --mode batched --seqlens 16777216 --pastlens 0
    fails_with 1 "prefill batched: cannot allocate a buffer of " " bytes; the device has 1 GiB"
}

@test "weights that no buffer holds" {
    small_device
    try_small bench --model "$(model large 65536 4 65536 16 8 16)" --case decode --mode batched
    fails_with 1 "decode batched: cannot allocate a buffer of " " bytes; the device has 1 GiB" \
        "a smaller model" CL_INVALID_BUFFER_SIZE
    try_small report --model "$(model large 65536 4 65536 16 8 16)" --output r.json
    [ "$status" -eq 1 ]
    output=$(cat r.json)
    [[ "$(json errors.0.text)" == *"cannot allocate a buffer of "* ]]
}

# full COMMAND...: fails whichever buffer is the first that cannot be had, and works when all can.
full() {
    local n named=0
    [ -n "${CLMLA_FAILING_BUFFER:-}" ] || skip "sanitizers admit no library before them"
    for ((n = 1; n < 32; n++)); do
        CLMLA_FAIL_BUFFER=$n LD_PRELOAD=$CLMLA_FAILING_BUFFER try "$@"
        [ "$status" -ne 0 ] || break
        fails_with 1 "; the device has " "need less (CL_MEM_OBJECT_ALLOCATION_FAILURE)"
        [[ "$stderr" != *"cannot allocate "*" bytes"* ]] || named=$((named + 1))
    done
    echo "$((n - 1)) buffers, $named of them named with their bytes"
    [ "$n" -gt 4 ] && [ "$n" -lt 32 ] && [ "$named" -eq $((n - 1)) ]
}

@test "a device that is full: run" {
    full run --case "$(golden 01_tiny_prefill)" --projection native --output y.safetensors
}

@test "a device that is full: bench" {
    full bench --model "$(tiny)" --case decode --mode batched --projection native --runs 3 \
        --warmup 1 --check off --seqlens 1,1 --pastlens 3,5
}
