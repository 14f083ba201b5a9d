# shellcheck shell=bash disable=SC2154,SC2034 # bats sets output; json reads it
# Shared by tune.bats and tune_search.bats; after common.

# A search that takes no time: products of one row, on float32 kernels that every machine has.
try_tune() {
    try tune --model "$(tiny)" --matrix-units off --ops projection --rows 1 --max-seconds 1 "$@"
}

# The same of attention: one line.
try_attention() {
    try tune --model "$(tiny)" --matrix-units off --ops attention --max-seconds 1 "$@"
}

# The lines of entries of a record.
entries() {
    grep -cE '^(projection|attention|clblast)_' "$1"
}

# A record of this device, with the lines on standard input after its header.
record() {
    clmla devices --format json >devices.json
    output=$(cat devices.json)
    {
        printf 'clmla-tuning 1\ndevice %s\n' "$(json devices.0.name)"
        printf 'driver %s\n' "$(json devices.0.driver)"
        cat
    } >"$1"
}
