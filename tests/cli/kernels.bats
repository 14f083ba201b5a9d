#!/usr/bin/env bats
# shellcheck disable=SC2154 # bats sets status, output, lines and stderr
# --kernel-dir with files that are broken.
load common

# fails_naming TEXT...: exit code 1, nothing on stdout, one line of the program's own on stderr, which
# holds every text. The driver's compiler may have lines, too.
fails_naming() {
    local error text
    error=$(grep '^clmla: ' <<<"$stderr")
    if [ "$status" -ne 1 ] || [ -n "$output" ] || [[ "$error" == *$'\n'* ]]; then
        show_result
        return 1
    fi
    for text in "$@"; do
        if [[ "$error" != *"$text"* ]]; then
            echo "not in the error: $text"
            show_result
            return 1
        fi
    done
}

# try_each TEXT...: the commands that compute, each with --kernel-dir kernels.
try_each() {
    try verify --kernel-dir kernels "$(golden 01_tiny_prefill)"
    fails_naming "01_tiny_prefill" "$@"
    try run --kernel-dir kernels --case "$(golden 01_tiny_prefill)" --output y.safetensors
    fails_naming "01_tiny_prefill" "$@"
    [ ! -e y.safetensors ]
    try bench --kernel-dir kernels --model "$(tiny)" --case decode --mode batched --format json
    [ "$(json results)" = "[]" ]
    output=
    fails_naming "decode batched" "$@"
}

@test "a file that does not compile is named, its log shown with --verbose" {
    mkdir kernels
    printf '\n#error broken on purpose\n' >kernels/plan.cl
    try_each "plan.cl: clBuildProgram: CL_BUILD_PROGRAM_FAILURE"
    try verify --kernel-dir kernels --verbose "$(golden 01_tiny_prefill)"
    fails_naming "plan.cl"
    [[ "$stderr" == *"plan.cl:2:"*"broken on purpose"* ]]
}

@test "a file without its kernels is named" {
    mkdir kernels
    echo '/* nothing */' >kernels/plan.cl
    try_each "plan.cl" CL_INVALID_KERNEL_NAME
}

@test "a file that cannot be read is named" {
    mkdir -p kernels/plan.cl
    try_each "kernels/plan.cl cannot be read: Is a directory" CLMLA_IO
    rmdir kernels/plan.cl
    ln -s nosuch kernels/plan.cl
    try_each "kernels/plan.cl cannot be read: No such file or directory" CLMLA_IO
}

@test "an empty directory replaces nothing" {
    mkdir kernels
    try verify --kernel-dir kernels "$(golden 01_tiny_prefill)"
    passes
    is_quiet
}
