#!/usr/bin/env bats
# Processes that compile the same programs at the same time.
load common
load cache

@test "several processes fill one directory" {
    export CLMLA_CACHE_DIR=$PWD/cache
    local pids=() i
    for i in 1 2 3; do # PoCL 3.1 does not unpack into a cache that others fill at the same time
        POCL_CACHE_DIR=$PWD/pocl-$i clmla run --case "$(golden 01_tiny_prefill)" --projection native \
            --output "$i.safetensors" &
        pids+=($!)
    done
    for i in "${pids[@]}"; do
        wait "$i"
    done
    cmp 1.safetensors 2.safetensors
    cmp 1.safetensors 3.safetensors
    compute 4.safetensors
    [[ "$(counts)" =~ ^[1-9][0-9]*\ 0$ ]]
    [ -z "$(find cache -type f ! -name '*.bin')" ]
}
