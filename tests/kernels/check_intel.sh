#!/usr/bin/env bash
# Compiles the GPUs' portable programs for Intel without a GPU, by ocloc, the compiler of Intel's
# driver. Prints what it warns of, such as spilled registers, and fails on a program that does not
# compile.
#
#   check_intel.sh <folder of kernel files> <list of programs> <folder for ocloc> <device, such as dg2>...
#
# The list: see ptx_programs.txt, of which this takes the lines of target any. Without ocloc on the
# PATH it unpacks Debian's packages in the folder. Installed they would register an OpenCL driver,
# which the other tests would then meet.
set -euo pipefail

# shellcheck source=/dev/null
. "$(dirname "${BASH_SOURCE[0]}")/programs.sh"

kernels=$1 list=$2 unpacked=$3
shift 3
devices=("$@")
packages=(intel-opencl-icd libigc1 libigdfcl1 libigdgmm12 libopencl-clang14 libllvmspirvlib14)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
results=0 failures=0

# Tests may run this at the same time: the folder appears whole or not at all.
unpack() {
    local package
    [ ! -d "$unpacked" ] || return 0
    command -v apt-get >/dev/null && command -v dpkg >/dev/null || return 1
    mkdir "$folder/packages" "$folder/root"
    (cd "$folder/packages" && apt-get -qq download "${packages[@]}") >/dev/null 2>&1 || return 1
    for package in "$folder/packages"/*.deb; do
        dpkg -x "$package" "$folder/root" || return 1
    done
    mkdir -p "$(dirname "$unpacked")"
    mv -T "$folder/root" "$unpacked" 2>/dev/null || [ -d "$unpacked" ]
}

if command -v ocloc >/dev/null; then
    ocloc=(ocloc)
else
    unpack || skip 'ocloc is not installed and its packages cannot be had'
    libraries=$(dirname "$(find "$unpacked" -name 'libigc.so.1' | head -n 1)")
    ocloc=(env "LD_LIBRARY_PATH=$libraries" "$unpacked/usr/bin/ocloc")
    "${ocloc[@]}" --help >/dev/null 2>&1 || skip 'ocloc, unpacked, does not run'
fi
echo 'kernel void nothing(global int *p) { p[0] = 0; }' >"$folder/program.cl"

# compile <device>: $folder/program.cl; what ocloc says to $folder/log
compile() {
    "${ocloc[@]}" compile -file "$folder/program.cl" -device "$1" -options -cl-std=CL1.2 \
        -out_dir "$folder" >"$folder/log" 2>&1
}

for device in "${devices[@]}"; do
    compile "$device" || skip "this ocloc does not know $device"
done

# check <target in the list> <files> <definitions> <name of the program> ...
check() {
    local files device
    if [ "$1" != any ]; then
        return 0
    fi
    read -ra files <<<"$2"
    assemble "$kernels" 0 "$3" "${files[@]}" >"$folder/program.cl"
    for device in "${devices[@]}"; do
        results=$((results + 1))
        echo "$device  $2${4:+  $4}"
        if ! compile "$device"; then
            cat "$folder/log"
            echo "FAIL $device $2 with $3"
            failures=$((failures + 1))
        else
            grep -i warning "$folder/log" || true
        fi
    done
}

each_program "$list" check
echo "$results programs, $failures failures"
((results > 0 && failures == 0))
