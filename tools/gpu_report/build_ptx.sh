#!/usr/bin/env bash
# Compiles class nvidia's kernels, and what measures the device, to PTX for cuda_harness, without a
# GPU or a driver: where clang is, for machines that have none.
#
#   build_ptx.sh FOLDER [LIST]      LIST: default ptx_programs.txt beside this script
#
# Writes NN-NAME.ptx and last a manifest, in lines of words that are read in order:
#
#   commit NAME                     of the sources; CLMLA_COMMIT names it where this is no checkout
#   target NAME                     of the PTX; a driver compiles it for later GPUs, too
#   compiler TEXT
#   program FILE.ptx                what follows belongs to it
#   files NAME...                   behind common.clh, in cl/
#   define NAME=VALUE...
#   kernel NAME WORK_ITEMS          of the program; work-items of a group, 0: any number
#   argument TYPE NAME              of the kernel, in order; TYPE is OpenCL C's, or pointer
#
# Where a tool is missing it says so and leaves the folder as it is, and the exit code is 0. See
# tests/kernels/ptx.sh for the variables that name tools.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source=/dev/null
. "$root/tests/kernels/programs.sh"
# shellcheck source=/dev/null
. "$root/tests/kernels/ptx.sh"

output=$1 list=${2:-$root/tools/gpu_report/ptx_programs.txt}
clang=$(find_clang) || skip 'clang 15 or later is not installed'
libclc=$(find_libclc nvptx64--nvidiacl.bc) || skip 'libclc (nvptx64--nvidiacl.bc) is not installed'
libdevice=$(find_libdevice) || skip 'libdevice is not installed'
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
programs=0 # not count: a variable of each_program
mkdir -p "$output"
rm -f "$output"/manifest "$output"/[0-9][0-9]-*.ptx

# arguments <LLVM IR with -cl-kernel-arg-info> <sizes of compile_ptx>: lines kernel and argument
arguments() {
    awk '
        FILENAME == ARGV[1] { size[$1] = $2; next }
        /^![0-9]+ = !\{!"/ { metadata[$1] = $0; next }
        /^define .*!kernel_arg_name / {
            match($0, /@[A-Za-z0-9_]+\(/)
            kernels[++count] = substr($0, RSTART + 1, RLENGTH - 2)
            match($0, /!kernel_arg_type ![0-9]+/)
            types[count] = substr($0, RSTART + 17, RLENGTH - 17)
            match($0, /!kernel_arg_name ![0-9]+/)
            names[count] = substr($0, RSTART + 17, RLENGTH - 17)
        }
        END {
            for (k = 1; k <= count; k++) {
                print "kernel", kernels[k], size[kernels[k]] + 0
                num = split(metadata[types[k]], type, "\"")
                split(metadata[names[k]], name, "\"")
                for (i = 2; i <= num; i += 2)
                    print "argument", (type[i] ~ /\*$/ ? "pointer" : type[i]), name[i]
            }
        }' "$2" "$1"
}

# The CUDA driver takes what the OpenCL driver does but for the mode of textures, of which there are
# none, and looks for kernels among what is visible.
for_cuda() {
    echo "// clmla $1"
    sed -E 's/^(\.target [a-z0-9_]+), texmode_independent$/\1/; s/^\.entry /.visible .entry /' "$2"
}

# build_program <target> <files> <definitions>
build_program() {
    local files=$2 definitions=$3 name
    name=${files##*/}
    name=$(printf '%02d-%s.ptx' "$programs" "${name%.cl}")
    programs=$((programs + 1))
    compile_ptx "$root/cl" "$files" "$definitions" -cl-kernel-arg-info || {
        echo "build_ptx.sh: $files with $definitions does not compile" >&2
        exit 1
    }
    for_cuda "$name" "$work/program.ptx" >"$output/$name"
    {
        echo "program $name"
        echo "files $files"
        echo "define $definitions"
        arguments "$work/program.ll" "$work/sizes"
    } >>"$work/manifest"
    ptx_target=$(sed -n 's/^\.target \([a-z0-9_]*\).*/\1/p' "$output/$name")
}

prepare_ptx "$work" "$clang" "$libclc" "$libdevice"
each_program "$list" build_program
commit=${CLMLA_COMMIT:-$(git -C "$root" rev-parse --short=12 HEAD 2>/dev/null || echo unknown)}
{
    printf 'commit %s\ntarget %s\ncompiler %s\n' "$commit" "$ptx_target" \
        "$("$clang" --version | head -n 1)"
    cat "$work/manifest"
} >"$output/manifest"
echo "$programs programs for $ptx_target in $output"
