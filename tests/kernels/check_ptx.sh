#!/usr/bin/env bash
# Compiles the GPUs' programs for NVIDIA without a GPU or its driver: clang to PTX, ptxas to machine
# code. Prints what every kernel takes of a multiprocessor and fails on a program that does not
# compile, a function that nobody defines, more registers than the list grants, spilled registers or
# a stack frame that it does not allow, more local memory than an OpenCL work-group gets or than the
# list grants.
#
#   check_ptx.sh <folder of kernel files> <list of programs> <target, such as sm_90>...
#   check_ptx.sh <folder of kernel files> <list of programs> sm_90a <program of tests/kernels/retarget.c>
#
# The second form is for kernels on cl/nvidia/wgmma.clh: they must assemble for sm_90, as the driver
# builds them first, and, rewritten by the library's own code, for sm_90a, without a word of ptxas
# about products of warpgroups that it made wait for each other.
#
# The list: see ptx_programs.txt. NVIDIA's OpenCL has a front end of its own: its registers differ
# from these by a few. Looks for clang, libclc, ptxas and libdevice; $CLANG, $LIBCLC, $PTXAS and
# $LIBDEVICE override.
set -euo pipefail

here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=/dev/null
. "$here/programs.sh"
# shellcheck source=/dev/null
. "$here/ptx.sh"

kernels=$1 list=$2
shift 2
targets=("$@")
local_bytes=$((48 * 1024))
retarget='' # the program, for sm_90a
if [ "$1" = sm_90a ]; then
    targets=(sm_90a)
    retarget=$2
    local_bytes=$((227 * 1024))
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
results=0 failures=0

clang=$(find_clang) || skip 'clang 15 or later is not installed'
libclc=$(find_libclc nvptx64--nvidiacl.bc) || skip 'libclc (nvptx64--nvidiacl.bc) is not installed'
ptxas=$(find_ptxas) || skip 'ptxas is not installed'
libdevice=$(find_libdevice) || skip 'libdevice is not installed'
for target in "${targets[@]}"; do
    grep -qw "$target" <<<"$("$ptxas" --help)" || skip "this ptxas does not know $target"
done

if [ -n "$retarget" ]; then
    prepare_ptx "$folder" "$clang" "$libclc" "$libdevice" sm_90 8.0
else
    prepare_ptx "$folder" "$clang" "$libclc" "$libdevice"
fi

# A multiprocessor's work-items, work-groups and bytes of local memory. Source: NVIDIA, CUDA C++
# Programming Guide, technical specifications per compute capability. Registers are 65536 on each.
multiprocessor() {
    case "$1" in
    sm_80) echo 2048 32 $((164 * 1024)) ;;
    sm_89) echo 1536 24 $((100 * 1024)) ;;
    sm_90 | sm_90a) echo 2048 32 $((228 * 1024)) ;;
    sm_120) echo 1536 24 $((100 * 1024)) ;;
    *) echo "check_ptx.sh: unknown target '$1'" >&2 && return 1 ;;
    esac
}

# work_groups <target> <registers> <bytes of local memory> <work-items>: how many a multiprocessor
# holds. It deals registers to warps by 256, and keeps 1 KiB of local memory per group to itself.
work_groups() {
    local items groups bytes limit warps=$((($4 + 31) / 32)) dealt=$((($2 + 7) / 8))
    read -r items groups bytes <<<"$(multiprocessor "$1")"
    for limit in $((items / (32 * warps))) $((65536 / (256 * dealt * warps))) \
        $((bytes / ($3 + 1024))); do
        groups=$((limit < groups ? limit : groups))
    done
    echo "$groups"
}

# budget <NAME=value ...> <name...>: the value of the first name that has one, nothing where none has
budget() {
    local entry name entries=$1
    shift
    for name in "$@"; do
        for entry in $entries; do
            if [ "${entry%%=*}" = "$name" ]; then
                echo "${entry#*=}"
                return 0
            fi
        done
    done
}

fail() {
    echo "FAIL $1"
    failures=$((failures + 1))
}

# Rewrites $folder/program.ptx for sm_90a.
rewrite() {
    "$ptxas" -arch=sm_90 "$folder/program.ptx" -o "$folder/program.cubin" &&
        mv "$folder/program.ptx" "$folder/plain.ptx" &&
        "$retarget" <"$folder/plain.ptx" >"$folder/program.ptx"
}

# Lines "kernel registers spills stack local" of what ptxas -v says; spills: bytes stored and loaded.
resources() {
    awk '
        /Compiling entry function/ { split($0, quoted, "\x27"); name = quoted[2] }
        /bytes stack frame/ { stack = $1; spills = $5 + $9 }
        /Used [0-9]+ registers/ {
            bytes = 0
            for (i = 1; i < NF; i++) {
                if ($(i + 1) ~ /^registers/)
                    registers = $i
                if ($i == "bytes" && $(i + 1) ~ /^smem/)
                    bytes = $(i - 1)
            }
            print name, registers, spills, stack, bytes
        }' "$1"
}

# check_kernel <target> <program> <budgets> <reason> <kernel> <registers> <spills> <stack> <local>
check_kernel() {
    local target=$1 program=$2 budgets=$3 reason=$4 kernel=$5
    local registers=$6 spills=$7 stack=$8 bytes=$9 items most allowed granted groups what
    items=$(awk -v name="$kernel" '$1 == name { print $2 }' "$folder/sizes")
    items=${items:-$(budget "$budgets" "$kernel.items")}
    most=$(budget "$budgets" "$kernel@$target" "$kernel")
    if [ -n "$(budget "$budgets" "$kernel@$target.unused")" ]; then
        printf '%-6s  not chosen there: %s%s\n' "$target" "$kernel" "${program:+  $program}"
        [ -n "$reason" ] || fail "$target $kernel: $list gives no reason why it is not chosen"
        return 0
    fi
    results=$((results + 1))
    if [ -z "$items" ] || [ -z "$most" ]; then
        fail "$kernel: $list has no registers or no work-items for it"
        return 0
    fi
    groups=$(work_groups "$target" "$registers" "$bytes" "$items")
    printf '%-6s  %4d %4d  %6d %5d  %5d  %6d  %s%s\n' "$target" "$registers" "$most" "$spills" \
        "$stack" "$bytes" "$groups" "$kernel" "${program:+  $program}"
    if ((registers > most)); then
        fail "$target $kernel: $registers registers, granted are $most"
    fi
    for what in spills stack; do
        allowed=$(budget "$budgets" "$kernel@$target.$what" "$kernel.$what")
        if ((${!what} > ${allowed:-0})); then
            fail "$target $kernel: ${!what} bytes of $what, allowed are ${allowed:-0}"
        elif ((${allowed:-0} > 0)) && [ -z "$reason" ]; then
            fail "$target $kernel: $list gives no reason for its $what"
        fi
    done
    granted=$(budget "$budgets" "$kernel@$target.local" "$kernel.local")
    if ((bytes > ${granted:-$local_bytes})); then
        fail "$target $kernel: $bytes bytes of local memory, granted are ${granted:-$local_bytes}"
    elif ((groups == 0)); then
        fail "$target $kernel: no multiprocessor holds a work-group of it"
    elif [ -n "$granted" ] && [ -z "$reason" ]; then
        fail "$target $kernel: $list gives no reason for its local memory"
    fi
}

# check <target> <files> <definitions> <name of the program> <budgets> <reason>
check() {
    local files=$2 definitions=$3 name=$4 budgets=$5 reason=$6 target usage kernel options=()
    if [[ $budgets == *.local=* ]]; then # a hidden option; without it 48 KiB are an error
        options=(-enable-extended-smem true)
    fi
    if ! compile_ptx "$kernels" "$files" "$definitions" ||
        { [ -n "$retarget" ] && ! rewrite; }; then
        fail "$files with $definitions"
        return 0
    fi
    for target in "${targets[@]}"; do
        if ! "$ptxas" "-arch=$target" "${options[@]}" -v "$folder/program.ptx" -o "$folder/program.cubin" \
            >"$folder/log" 2>&1; then
            cat "$folder/log"
            fail "$target $files with $definitions"
            continue
        fi
        grep -v '^ptxas info\|bytes stack frame' "$folder/log" || true
        if grep 'wgmma\.\|(C7' "$folder/log"; then
            fail "$target $files with $definitions: ptxas has something to say about wgmma"
        fi
        while read -r kernel usage; do
            # shellcheck disable=SC2086 # four numbers
            check_kernel "$target" "$name" "$budgets" "$reason" "$kernel" $usage
        done < <(resources "$folder/log")
    done
}

# Budgets hold for the versions that the list names; others differ.
echo "$("$clang" --version | head -n 1); ptxas $("$ptxas" --version | sed -n 's/.*release.*, V//p')"
printf '%-6s  %4s %4s  %6s %5s  %5s  %6s  %s\n' target regs most spills stack local groups \
    'kernel and program (bytes; work-groups per multiprocessor)'
each_program "$list" check
echo "$results kernels, $failures failures"
((results > 0 && failures == 0))
