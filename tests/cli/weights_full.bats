#!/usr/bin/env bats
# shellcheck disable=SC2154 # bats sets status, output, lines and stderr
# A layer of DeepSeek-R1's size, drawn by the golden recipe, as a checkpoint.
load common

LAYER_MIB=357  # in BF16
OTHER_MIB=256  # the program, OpenCL's driver and compiler, 32 MiB of staging, workspace

# Runs model's layer into y.safetensors, in at most LIMIT MiB and what OTHER_MIB says.
run_within() {
    local limit=$(($1 + OTHER_MIB))
    POCL_AFFINITY=1 run --separate-stderr "$CLMLA_PROBE" peak "$CLMLA" run --weights model \
        --input model/input.safetensors --output y.safetensors
    passes
    echo "peak: $output of $limit MiB"
    [ "$output" -le $limit ]
}

# The mapped file, whose pages the system can drop at any time, and the packed copy that the device
# holds, which is in this process where the CPU is the device.
@test "an R1 layer is within its bounds, in the memory of its file and one packed copy" {
    checkpoint 31_full_r1_prefill
    run_within $((2 * LAYER_MIB))
    [ "$("$CLMLA_PROBE" shape y.safetensors output)" = "F32 1 64 7168" ]
    [ "$("$CLMLA_PROBE" rows y.safetensors output "$(golden 31_full_r1_prefill)" req0.step0)" \
        -le 15500 ]
}

# FP8: half of the file, and what it stands for until that is packed.
@test "an R1 layer in FP8 is the layer that its codes stand for, bit for bit" {
    checkpoint 31_full_r1_prefill 0 fp8_decoded
    run_within $((2 * LAYER_MIB))
    mv y.safetensors decoded.safetensors
    checkpoint 31_full_r1_prefill 0 fp8
    run_within $((2 * LAYER_MIB + LAYER_MIB / 2))
    for tensor in output kv_cache pe_cache; do
        "$CLMLA_PROBE" same y.safetensors $tensor decoded.safetensors $tensor
    done
}
