#!/usr/bin/env bats
# shellcheck disable=SC2154 # bats sets status, output, lines and stderr
# clmla report with class gpu's kernels, which compile for long on a CPU.
load common

@test "options of the computation count, and a list of devices stays whole" {
    try report --model "$(tiny)" --max-seconds 1 --device 0 --dtype f32 --projection native --matrix-units off --kernels gpu \
        "$(golden 01_tiny_prefill)"
    passes
    [ "$(json settings.matrix_units)" = off ]
    [ "$(json device.class)" = gpu ]
    for result in verify.results.0 bench.results.3; do
        [ "$(json $result.dtype) $(json $result.projection) $(json $result.kernels)" = \
            "f32 native gpu" ]
    done
}
