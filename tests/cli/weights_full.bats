#!/usr/bin/env bats
# shellcheck disable=SC2154 # bats sets status, output, lines and stderr
# A layer of DeepSeek-R1's size, drawn by the golden recipe, as a BF16 checkpoint of 357 MiB.
load common

# The limit: the mapped file, whose pages the system can drop at any time, and the packed copy that
# the device holds, which is this process where the CPU is the device, are 2 x 357 MiB; the rest is
# the program with OpenCL's driver and compiler, 32 MiB of staging, and workspace: 256 MiB.
@test "an R1 layer is within its bounds, in the memory of its file and one packed copy" {
    checkpoint 31_full_r1_prefill
    POCL_AFFINITY=1 run --separate-stderr "$CLMLA_PROBE" peak "$CLMLA" run --weights model \
        --input model/input.safetensors --output y.safetensors
    passes
    echo "peak: $output MiB"
    [ "$output" -le $((2 * 357 + 256)) ]
    [ "$("$CLMLA_PROBE" shape y.safetensors output)" = "F32 1 64 7168" ]
    [ "$("$CLMLA_PROBE" rows y.safetensors output "$(golden 31_full_r1_prefill)" req0.step0)" \
        -le 15500 ]
}
