#!/usr/bin/env bash
# tools/gpu_report's way through the CUDA driver API, without a GPU: the PTX of build_ptx.sh, its
# manifest, and cuda_harness on a stand-in for NVIDIA's driver (mock_cuda.c).
#
#   check_cuda_harness.sh arguments <harness> <folder of the stand-in> <probe of the tests>
#   check_cuda_harness.sh numbers   <the same>
#
#   arguments  the driver computes nothing, so that the harness must call every kernel wrong; all
#              launches must fit the PTX
#   numbers    the driver runs the kernels in OpenCL C, their PTX emulated: all must be right, and
#              everything is measured
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source=/dev/null
. "$root/tests/kernels/programs.sh"
# shellcheck source=/dev/null
. "$root/tests/kernels/ptx.sh"

mode=$1 harness=$2 mock=$3 probe=$4
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0

fail() {
    echo "FAIL $1"
    failures=$((failures + 1))
}

# run <expected exit code> <arguments of the harness...>: $work/out, $work/err, $work/log
run() {
    local expected=$1 code=0
    shift
    rm -f "$work/log"
    LD_LIBRARY_PATH=$mock${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} MOCK_CUDA_LOG=$work/log \
        "$harness" "$@" >"$work/out" 2>"$work/err" || code=$?
    if [ "$code" -ne "$expected" ]; then
        fail "cuda_harness $*: exit code $code, expected $expected: $(tail -n 1 "$work/err")"
    fi
}

# count <number> <pattern> <file>
count() {
    local found
    found=$(grep -c -- "$2" "$3" || true)
    [ "$found" -eq "$1" ] || fail "$3 has $found lines with $2, expected $1"
}

# The kernels' arguments as the manifest has them are the parameters of the PTX: as many, as wide.
check_arguments() {
    local word text file
    while read -r word text; do
        case "$word" in
        program) file=$text ;;
        kernel) echo "$file ${text%% *}" ;;
        argument)
            case "${text%% *}" in
            pointer) echo '.u64 .ptr' ;;
            ulong) echo '.u64' ;;
            int | uint) echo '.u32' ;;
            float) echo '.f32' ;;
            *) echo "unknown type: $text" ;;
            esac
            ;;
        esac
    done <"$ptx/manifest" >"$work/said"
    for file in "$ptx"/*.ptx; do
        awk -v file="${file##*/}" '
            /^\.visible \.entry / { sub(/\(.*/, ""); print file, $3 }
            /^\t\.param / { print $2 ($3 == ".ptr" ? " .ptr" : "") }
            /^\{/ { while ((getline line) > 0 && line != "}") continue }' "$file"
    done >"$work/is"
    diff "$work/said" "$work/is" || fail 'the manifest says other arguments than the PTX'
}

check_records() {
    local records
    "$probe" json api <"$work/out" >/dev/null || fail 'no JSON with "api"'
    records=$(grep -c '"kind"' "$work/out")
    count $((records + 1)) '"api": "CUDA driver API, not OpenCL"' "$work/out"
    count 0 '^BAD' "$work/log"
    "$probe" json device <"$work/out" >/dev/null || fail 'no JSON with "device"'
}

assemble_with_ptxas() {
    local ptxas file
    if ! ptxas=$(find_ptxas); then
        echo 'ptxas is not installed: the PTX is not assembled'
        return
    fi
    for file in "$ptx"/*.ptx; do
        "$ptxas" -arch=sm_90 "$file" -o "$work/cubin" || fail "ptxas does not take $file"
    done
}

# The driver leaves all results as they were.
check_without_results() {
    local kernels program name
    kernels=$(grep -c '^kernel ' "$ptx/manifest")
    run 1 "$ptx"
    check_records
    count "$kernels" '"kind"' "$work/out"
    count "$kernels" '"verified": false, "error": "wrong: ' "$work/out"
    count 0 '"median_us"' "$work/out"
    while read -r program name; do
        grep -q "^launch $name $program\$" "$work/log" || fail "$name of $program was not launched"
    done < <(awk '$1 == "program" { file = $2 } $1 == "kernel" { print file, $2 }' "$ptx/manifest")
}

# An argument that the harness does not know, or of another type, is an error before the launch.
check_unknown_arguments() {
    mkdir "$work/other"
    cp "$ptx"/*.ptx "$work/other"
    sed 's/^argument pointer counter$/argument pointer other/; s/^argument uint add$/argument float add/' \
        "$ptx/manifest" >"$work/other/manifest"
    run 1 "$work/other"
    count 1 'add_one: no value for argument 0, other' "$work/out"
    count 1 'stream: add is of type float' "$work/out"
    count 0 'launch add_one' "$work/log"
    echo 'argument pointer lost' >"$work/other/manifest"
    run 2 "$work/other"
    rm "$work/other/manifest"
    run 2 "$work/other"
}

check_without_driver() {
    mkdir "$work/empty"
    : >"$work/empty/libcuda.so.1"
    local mock=$work/empty
    run 3 "$ptx"
    grep -q 'no CUDA driver: ' "$work/err" || fail 'no reason for exit code 3'
}

# PROGRAM.cl for every program: its files with the emulation in the PTX's place
write_sources() {
    local word text file='' names=()
    mkdir "$work/sources"
    while read -r word text; do
        case "$word" in
        program) file=$work/sources/${text%.ptx}.cl ;;
        files) read -ra names <<<"${text/nvidia\/ptx.clh/nvidia/ptx_emulated.clh}" ;;
        define) assemble "$root/cl" 0 "$text" "${names[@]}" >"$file" ;;
        esac
    done <"$ptx/manifest"
}

check_with_results() {
    local kind
    write_sources
    export MOCK_CUDA_SOURCES=$work/sources
    run 0 --small "$ptx"
    check_records
    count "$(grep -c '^kernel ' "$ptx/manifest")" '"verified": true' "$work/out"
    count 0 '"error"\|"skipped"' "$work/out"
    for kind in launch read attention projection; do
        grep "\"kind\": \"$kind\"" "$work/out" | grep -q '"median_us"' ||
            fail "no measurement of kind $kind"
    done
    grep -q '"without_merge_us"' "$work/out" || fail 'no measurement of splits and their merge'
}

ptx=$work/ptx
said=$("$root/tools/gpu_report/build_ptx.sh" "$ptx")
echo "$said"
if [[ $said == 'skipped: '* ]]; then
    exit 0
fi
if [ "$mode" = numbers ]; then
    check_with_results
else
    check_arguments
    assemble_with_ptxas
    check_without_results
    check_unknown_arguments
    check_without_driver
fi
echo "$failures failures"
((failures == 0))
