#!/usr/bin/env bash
# Parses every program that the host makes of the kernel files with clang, as OpenCL C 1.2, warnings
# as errors, without an OpenCL driver.
#
#   check_syntax.sh <clang> <folder of kernel files> <list of programs>
#
# The list: see programs.txt. A kernel file that no program of it has is a failure, too.
set -euo pipefail

# shellcheck source=/dev/null
. "$(dirname "${BASH_SOURCE[0]}")/programs.sh"

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

# check <target> <files> <definitions>
check() {
    local files options
    read -ra files <<<"$2"
    read -ra options <<<"$(target_options "$1")"
    ((${#options[@]} > 0)) || return 1
    printf '%s\n' "${files[@]}" >>"$folder/files"
    programs=$((programs + 1))
    assemble "$kernels" $((programs % 2)) "$3" "${files[@]}" >"$folder/program.cl"
    if ! "$clang" -x cl -cl-std=CL1.2 -Xclang -finclude-default-header -fsyntax-only \
        "${warnings[@]}" "${options[@]}" "$folder/program.cl"; then
        echo "FAIL ${files[*]} with $3"
        failures=$((failures + 1))
    fi
}

echo common.clh >"$folder/files"
each_program "$list" check

while read -r file; do
    if ! grep -qxF "$file" "$folder/files"; then
        echo "FAIL $file is in no program of $list"
        failures=$((failures + 1))
    fi
done < <(cd "$kernels" && find . -name '*.cl' -o -name '*.clh' | sed 's|^\./||' | sort)

echo "$programs programs, $failures failures"
((programs > 0 && failures == 0))
