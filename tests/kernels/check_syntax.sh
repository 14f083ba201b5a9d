#!/usr/bin/env bash
# Parses every program that the host makes of the kernel files with clang, as OpenCL C 1.2, warnings
# as errors, without an OpenCL driver.
#
#   check_syntax.sh <clang> <folder of kernel files> <list of programs>
#
# The list: see programs.txt. A kernel file that no program of it has is a failure, too.
set -euo pipefail

clang=$1 kernels=$2 list=$3
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
programs=0 failures=0
# No program uses all of common.clh, nor a helper every parameter of its shared list.
warnings=(-Wall -Wextra -Werror -Wno-unused-function -Wno-unused-parameter)

# Names, for the assembly of dot products, a processor that has them.
target_options() {
    case "$1" in
    any) echo --target=spir64-unknown-unknown ;;
    nvptx64) echo --target=nvptx64-nvidia-nvcl -Xclang -cl-ext=+cl_khr_fp16 ;;
    x86_64) echo --target=x86_64-unknown-linux-gnu -march=cooperlake ;;
    *) echo "check_syntax.sh: unknown target '$1'" >&2 && return 1 ;;
    esac
}

# The text that src/ocl/program.c assembles: definitions, then the files with their names.
assemble() {
    local definitions=$1 definition file
    shift
    echo "#define SPLITS_VLOAD $((programs % 2))" # of the device, see src/ocl/device.h
    for definition in $definitions; do
        echo "#define ${definition%%=*} ${definition#*=}"
    done
    for file in common.clh "$@"; do
        echo "#line 1 \"$file\""
        cat "$kernels/$file"
        echo
    done
}

# variant <index> <NAME=a,b,c ...>: NAME=<value of that index, or the last one> ...
variant() {
    local index=$1 definition values result=()
    shift
    for definition in "$@"; do
        IFS=, read -ra values <<<"${definition#*=}"
        result+=("${definition%%=*}=${values[index < ${#values[@]} ? index : ${#values[@]} - 1]}")
    done
    echo "${result[*]}"
}

# Length of the longest list of values.
num_variants() {
    local definition values most=1
    for definition in "$@"; do
        IFS=, read -ra values <<<"${definition#*=}"
        if ((${#values[@]} > most)); then
            most=${#values[@]}
        fi
    done
    echo "$most"
}

check_line() {
    local target files definitions options count i chosen
    IFS='|' read -r target files definitions <<<"$1"
    read -ra files <<<"$files"
    read -ra definitions <<<"$definitions"
    read -ra options <<<"$(target_options "${target// /}")"
    ((${#options[@]} > 0)) || return 1
    printf '%s\n' "${files[@]}" >>"$folder/files"
    count=$(num_variants "${definitions[@]}")
    for ((i = 0; i < count; i++)); do
        chosen=$(variant "$i" "${definitions[@]}")
        programs=$((programs + 1))
        assemble "$chosen" "${files[@]}" >"$folder/program.cl"
        if ! "$clang" -x cl -cl-std=CL1.2 -Xclang -finclude-default-header -fsyntax-only \
            "${warnings[@]}" "${options[@]}" "$folder/program.cl"; then
            echo "FAIL ${files[*]} with $chosen"
            failures=$((failures + 1))
        fi
    done
}

echo common.clh >"$folder/files"
while read -r line; do
    case "$line" in
    '' | '#'*) ;;
    *) check_line "$line" ;;
    esac
done <"$list"

while read -r file; do
    if ! grep -qxF "$file" "$folder/files"; then
        echo "FAIL $file is in no program of $list"
        failures=$((failures + 1))
    fi
done < <(cd "$kernels" && find . -name '*.cl' -o -name '*.clh' | sed 's|^\./||' | sort)

echo "$programs programs, $failures failures"
((programs > 0 && failures == 0))
