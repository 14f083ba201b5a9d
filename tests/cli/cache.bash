# shellcheck shell=bash disable=SC2154 # bats sets stderr
# Shared by cache.bats and cache_together.bats; after common.

# compute OUTPUT OPTION...: a golden case with --verbose.
compute() {
    local output_file=$1
    shift
    try run --case "$(golden 01_tiny_prefill)" --projection native --output "$output_file" \
        --verbose "$@"
    passes
}

# The counts that --verbose prints, as "READ COMPILED".
counts() {
    sed -n 's/^cache: .*; \([0-9]*\) programs read, \([0-9]*\) compiled$/\1 \2/p' <<<"$stderr"
}
