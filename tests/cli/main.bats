#!/usr/bin/env bats
# shellcheck disable=SC2154 # bats sets status, output, lines and stderr
load common

@test "--version names the version" {
    try --version
    passes
    [[ "$output" =~ ^clmla\ [0-9]+\.[0-9]+\.[0-9]+$ ]]
}

@test "--help lists every subcommand" {
    try --help
    passes
    for name in devices bench verify run report tune; do
        [[ "$output" == *"  $name "* ]]
    done
}

@test "every subcommand has --help" {
    for name in devices bench verify run report tune; do
        try "$name" --help
        passes
        [[ "$output" == *"Usage: clmla $name"* ]]
        is_quiet
    done
}

@test "no subcommand" {
    try
    fails_with 2 "subcommand is missing"
}

@test "an unknown subcommand" {
    try nosuch
    fails_with 2 "nosuch" "devices, bench, verify, run, report or tune"
}

@test "an unknown option before the subcommand" {
    try --nosuch
    fails_with 2 "--nosuch"
}

@test "an unknown option of every subcommand" {
    for name in devices bench verify run report tune; do
        try "$name" --nosuch
        fails_with 2 "--nosuch" "unknown option"
    done
}

@test "a standard output that is full is an error" {
    [ -e /dev/full ] || skip "no /dev/full here"
    # shellcheck disable=SC2016 # the inner shell expands it
    run --separate-stderr bash -c '"$CLMLA" --help >/dev/full'
    fails_with 1 "standard output"
}
