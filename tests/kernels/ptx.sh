# shellcheck shell=bash
# For check_ptx.sh and tools/gpu_report/build_ptx.sh to source, behind programs.sh: programs as the
# host assembles them, compiled to PTX by clang, without a GPU or its driver.

cuda=${CUDA_HOME:-/usr/local/cuda}

# $PTXAS, or the one in $PATH or in CUDA's folder
find_ptxas() {
    command -v "${PTXAS:-ptxas}" || first_file "${PTXAS:-$cuda/bin/ptxas}"
}

# $LIBDEVICE, or the one beside ptxas or in a usual place
find_libdevice() {
    local ptxas
    if [ -n "${LIBDEVICE:-}" ]; then
        first_file "$LIBDEVICE"
        return
    fi
    ptxas=$(find_ptxas) || ptxas=$cuda/bin/ptxas
    first_file "$(dirname "$(readlink -f "$ptxas")")/../nvvm/libdevice/libdevice.10.bc" \
        "$cuda/nvvm/libdevice/libdevice.10.bc" \
        /usr/lib/nvidia-cuda-toolkit/libdevice/libdevice.10.bc
}

# prepare_ptx <folder> <clang> <libclc> <libdevice> <target and version of PTX, or none>: for
# compile_ptx, whose files the folder holds.
#
# Without them PTX of the oldest GPU that class nvidia serves, for every target: it shows, too, that
# no assembly asks for more. For these targets clang has vload_half and its like with cl_khr_fp16 only.
prepare_ptx() {
    local builtins library
    builtins=$(dirname "${BASH_SOURCE[0]}")/nvptx_builtins.cl
    ptx_folder=$1
    ptx_version=${6:-7.0}
    to_ptx=("$2" --target=nvptx64-nvidia-nvcl -Xclang -target-cpu -Xclang "${5:-sm_80}"
        -Xclang -target-feature -Xclang "+ptx${ptx_version/./}" -O3)
    from_opencl=("${to_ptx[@]}" -x cl -cl-std=CL1.2 -Xclang -finclude-default-header
        -Xclang -cl-ext=+cl_khr_fp16 -emit-llvm)
    libraries=()
    for library in "$ptx_folder/builtins.bc" "$3" "$4"; do
        libraries+=(-Xclang -mlink-builtin-bitcode -Xclang "$library")
    done
    "${from_opencl[@]}" -c "$builtins" -o "$ptx_folder/builtins.bc"
}

# Clang forgets reqd_work_group_size on the way to PTX. NVIDIA's compiler does not, and the size
# bounds the registers. Prints the annotations that say it again, and the sizes to a file.
annotate_sizes() {
    awk -v sizes="$2" '
        FNR == NR && /^![0-9]+ = !\{i32 [0-9]+, i32 [0-9]+, i32 [0-9]+\}$/ {
            metadata = $1
            gsub(/[^0-9 ]|i32/, "")
            split(substr($0, length(metadata)), size, " ")
            text[metadata] = size[1] " " size[2] " " size[3]
        }
        FNR != NR && /^define .*!reqd_work_group_size / {
            match($0, /@[A-Za-z0-9_]+\(/)
            name = substr($0, RSTART + 1, RLENGTH - 2)
            match($0, /!reqd_work_group_size ![0-9]+/)
            split(text[substr($0, RSTART + 22, RLENGTH - 22)], size, " ")
            printf "!nvvm.annotations = !{!%d}\n", 900000 + ++count
            printf "!%d = !{ptr @%s, !\"reqntidx\", i32 %d, !\"reqntidy\", i32 %d, !\"reqntidz\", i32 %d}\n",
                900000 + count, name, size[1], size[2], size[3]
            print name, size[1] * size[2] * size[3] > sizes
        }' "$1" "$1"
}

# compile_ptx <folder of kernel files> <files> <definitions> <more options of clang...>: program.ll,
# program.ptx and sizes, the kernels' names and work-items where they have a size of their own
compile_ptx() {
    local kernels=$1 definitions=$3 program=$ptx_folder/program names
    read -ra names <<<"$2"
    shift 3
    : >"$ptx_folder/sizes"
    assemble "$kernels" 0 "$definitions" "${names[@]}" >"$program.cl"
    "${from_opencl[@]}" -Wno-linker-warnings "${libraries[@]}" "$@" -S "$program.cl" \
        -o "$program.ll" || return 1
    if undefined_functions "$program.ll"; then
        return 1
    fi
    annotate_sizes "$program.ll" "$ptx_folder/sizes" >"$ptx_folder/annotations"
    cat "$ptx_folder/annotations" >>"$program.ll"
    "${to_ptx[@]}" -x ir -Xclang -disable-llvm-passes -S "$program.ll" -o "$program.clang.ptx"
    # clang names the latest version that it knows, whatever ptx70 says; an older driver takes none
    sed "s/^\.version .*/.version $ptx_version/" "$program.clang.ptx" >"$program.ptx"
}
