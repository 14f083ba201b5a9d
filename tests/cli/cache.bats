#!/usr/bin/env bats
# shellcheck disable=SC2154,SC2030,SC2031 # bats sets status, output, lines and stderr; every test
# is a subshell
# The programs that the command keeps on disk.
load common
load cache

# The driver's own cache stays where it is when HOME or XDG_CACHE_HOME move.
keep_driver_cache() {
    export POCL_CACHE_DIR=${POCL_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/pocl/kcache}
}

@test "CLMLA_CACHE_DIR keeps programs; what is read computes the same" {
    export CLMLA_CACHE_DIR=$PWD/parent/cache
    compute first.safetensors
    [[ "$(counts)" =~ ^0\ [1-9] ]]
    local compiled=${BASH_REMATCH[0]#0 }
    [[ "$stderr" == *"cache: $PWD/parent/cache; "* ]]
    compute second.safetensors
    [[ "$(counts)" =~ ^[1-9][0-9]*\ 0$ ]]
    [[ "$(counts)" == "$compiled"* ]]
    cmp first.safetensors second.safetensors
    [ "$(stat -c %a parent parent/cache | sort -u)" = 700 ]
    [ "$(stat -c %a parent/cache/*.bin | sort -u)" = 600 ]
}

@test "--no-cache neither reads nor writes" {
    export CLMLA_CACHE_DIR=$PWD/cache
    compute first.safetensors --no-cache
    [[ "$stderr" == *"cache: none; 0 programs read, "* ]]
    [ ! -e cache ]
    compute first.safetensors
    local names
    names=$(ls cache)
    compute second.safetensors --no-cache
    [[ "$(counts)" =~ ^0\ [1-9] ]]
    [ "$(ls cache)" = "$names" ]
    cmp first.safetensors second.safetensors
}

@test "an empty CLMLA_CACHE_DIR switches the cache off" {
    keep_driver_cache
    export CLMLA_CACHE_DIR='' HOME=$PWD XDG_CACHE_HOME=$PWD
    compute y.safetensors
    [[ "$stderr" == *"cache: none; "* ]]
    [ ! -e clmla ]
}

@test "without CLMLA_CACHE_DIR: XDG_CACHE_HOME, HOME, or none; never where PoCL has its own" {
    keep_driver_cache
    unset CLMLA_CACHE_DIR
    export HOME=$PWD/home XDG_CACHE_HOME=$PWD/xdg
    compute y.safetensors
    if [[ "$stderr" == *"cache: PoCL's own"* ]]; then
        [ ! -e "$PWD/home" ] && [ ! -e "$PWD/xdg" ]
        return
    fi
    [ -e xdg/clmla ] && [ ! -e home ]
    unset XDG_CACHE_HOME
    compute y.safetensors
    [ -e home/.cache/clmla ]
    unset HOME
    compute y.safetensors
    [[ "$stderr" == *"cache: none; "* ]]
}

@test "a directory that others may write to is not used, and says so with --verbose" {
    mkdir -m 777 shared
    export CLMLA_CACHE_DIR=$PWD/shared
    compute y.safetensors
    [[ "$stderr" == *"$PWD/shared is not used: can be written by other users"* ]]
    [[ "$stderr" == *"cache: none; "* ]]
    [ -z "$(ls shared)" ]
    try run --case "$(golden 01_tiny_prefill)" --projection native --output y.safetensors
    passes
    is_quiet
}

# with_disk OPTIONS COMMAND...: runs it with a file system of its own, mounted with these, in the folder
# "disk". Skips the test where that is not allowed.
with_disk() {
    local spaces=(-m)
    [ "$(id -u)" -eq 0 ] || spaces=(-r -m)
    mkdir -p disk
    unshare "${spaces[@]}" mount -t tmpfs -o "$1" tmpfs disk 2>/dev/null ||
        skip "no file system can be mounted here"
    # shellcheck disable=SC2016 # the inner shell expands it
    run --separate-stderr unshare "${spaces[@]}" \
        bash -c 'mount -t tmpfs -o "$1" tmpfs disk && shift && "$@"' bash "$@"
}

# In such a disk: computes twice, and lists what is kept.
# shellcheck disable=SC2016 # the inner shell expands it
twice='for y in first second; do
    "$CLMLA" run --case "$GOLDEN_DIR/01_tiny_prefill.safetensors" --projection native \
        --output "$y.safetensors" "$@" || exit 1
done
find disk -type f'

@test "a full directory keeps what fits, whole, and says with --verbose what does not" {
    export CLMLA_CACHE_DIR=$PWD/disk
    with_disk mode=0700,size=160k bash -c "$twice" bash --verbose
    passes
    [[ "$stderr" == *"cannot write $PWD/disk/"*": No space left on device"* ]]
    [ "$(grep -c '^disk/[0-9a-f]*\.bin$' <<<"$output")" -eq "${#lines[@]}" ]
    local kept refused # twice
    kept=${#lines[@]}
    refused=$(grep -c 'cannot write' <<<"$stderr")
    [ "$(counts | head -n 1)" = "0 $((kept + refused / 2))" ]
    [ "$(counts | tail -n 1)" = "$kept $((refused / 2))" ]
    compute without.safetensors --no-cache
    cmp first.safetensors second.safetensors
    cmp first.safetensors without.safetensors
    with_disk mode=0700,size=160k bash -c "$twice" bash
    passes
    is_quiet
}

@test "a directory on a disk that is read-only" {
    export CLMLA_CACHE_DIR=$PWD/disk
    with_disk mode=0700,ro bash -c "$twice" bash --verbose
    passes
    [ -z "$output" ]
    [[ "$stderr" == *"cannot write $PWD/disk/"*": Read-only file system"* ]]
    cmp first.safetensors second.safetensors
}

@test "damaged files are replaced, and the result stays" {
    export CLMLA_CACHE_DIR=$PWD/cache
    compute first.safetensors
    for file in cache/*.bin; do
        printf 'no machine code' | dd of="$file" bs=1 seek=20000 conv=notrunc status=none
    done
    compute second.safetensors
    [[ "$(counts)" =~ ^0\ [1-9] ]]
    [[ "$stderr" == *"will replace"* ]]
    cmp first.safetensors second.safetensors
    compute third.safetensors
    [[ "$(counts)" =~ ^[1-9][0-9]*\ 0$ ]]
}
