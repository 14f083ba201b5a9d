#!/usr/bin/env bash
# Compiles the GPUs' portable programs for AMD without a GPU or its driver: clang to assembly. Prints
# what every kernel takes and fails on a program that does not compile, a function that nobody
# defines, or more local memory (LDS) than a work-group gets.
#
#   check_amd.sh <folder of kernel files> <list of programs> <target, such as gfx942>...
#
# The list: see ptx_programs.txt, of which this takes the lines of target any. Looks for clang and
# libclc; $CLANG and $LIBCLC override.
set -euo pipefail

# shellcheck source=/dev/null
. "$(dirname "${BASH_SOURCE[0]}")/programs.sh"

kernels=$1 list=$2
shift 2
targets=("$@")
local_bytes=$((64 * 1024))
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
results=0 failures=0

clang=$(find_clang) || skip 'clang 15 or later is not installed'
libclc=$(find_libclc amdgcn--amdhsa.bc) || skip 'libclc (amdgcn--amdhsa.bc) is not installed'
for target in "${targets[@]}"; do
    "$clang" --target=amdgcn-amd-amdhsa "-mcpu=$target" -nogpulib -x cl -fsyntax-only /dev/null \
        2>/dev/null || skip "this clang does not know $target"
done

fail() {
    echo "FAIL $1"
    failures=$((failures + 1))
}

# compile <target>: $folder/program.cl to program.s
compile() {
    local to_assembly=("$clang" --target=amdgcn-amd-amdhsa "-mcpu=$1" -nogpulib -O3 -S)
    "${to_assembly[@]}" -x cl -cl-std=CL1.2 -Xclang -finclude-default-header -Wno-linker-warnings \
        -Xclang -mlink-builtin-bitcode -Xclang "$libclc" -emit-llvm "$folder/program.cl" \
        -o "$folder/program.ll" || return 1
    if undefined_functions "$folder/program.ll"; then
        return 1
    fi
    "${to_assembly[@]}" -x ir -Xclang -disable-llvm-passes "$folder/program.ll" \
        -o "$folder/program.s"
}

# Lines "kernel vector-registers spilled scratch local" from the metadata that drivers read.
resources() {
    awk '
        $1 == ".group_segment_fixed_size:" { bytes = $2 }
        $1 == ".name:" && $2 ~ /^[a-z_0-9]+$/ { name = $2 }
        $1 == ".private_segment_fixed_size:" { scratch = $2 }
        $1 == ".vgpr_count:" { registers = $2 }
        $1 == ".vgpr_spill_count:" { print name, registers, $2, scratch, bytes }' "$1"
}

# check <target in the list> <files> <definitions> <name of the program> ...
check() {
    local files target kernel registers spilled scratch bytes
    if [ "$1" != any ]; then
        return 0
    fi
    read -ra files <<<"$2"
    assemble "$kernels" 0 "$3" "${files[@]}" >"$folder/program.cl"
    for target in "${targets[@]}"; do
        if ! compile "$target"; then
            fail "$target $2 with $3"
            continue
        fi
        while read -r kernel registers spilled scratch bytes; do
            results=$((results + 1))
            printf '%-8s  %4d  %7d  %7d  %5d  %s%s\n' "$target" "$registers" "$spilled" "$scratch" \
                "$bytes" "$kernel" "${4:+  $4}"
            if ((bytes > local_bytes)); then
                fail "$target $kernel: $bytes bytes of local memory, a work-group has $local_bytes"
            fi
        done < <(resources "$folder/program.s")
    done
}

printf '%-8s  %4s  %7s  %7s  %5s  %s\n' target regs spilled scratch local \
    'kernel and program (vector registers; bytes)'
each_program "$list" check
echo "$results kernels, $failures failures"
((results > 0 && failures == 0))
