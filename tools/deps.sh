#!/usr/bin/env bash
# Installs the Debian packages that clmla needs. Does nothing when all are there.
#
#   tools/deps.sh build   to compile library and program
#   tools/deps.sh test    to compile and run the tests, as well; for those that compile kernels for
#                         GPUs clang-19 and libclc, but not NVIDIA's ptxas and libdevice: they are
#                         part of CUDA and are used where they are installed
#   tools/deps.sh run     an OpenCL device: PoCL (the CPU) when the machine has none
#   tools/deps.sh plot    gnuplot, for tools/plot_bench.gp
#   tools/deps.sh all     everything above
#   tools/deps.sh devices what tools/check_devices.sh needs besides: PoCL, oclgrind, libclc, and
#                         Python's venv
#   tools/deps.sh peers   what tools/compare.sh compares with: numpy and OpenBLAS; python3-torch
#                         or a virtual environment with a newer PyTorch is left to you
#
# Without root (and without sudo) it names the packages that are missing and exits 1. On a system
# without apt-get it checks for the tools and libraries themselves.
set -euo pipefail

build_packages=(build-essential cmake pkg-config ocl-icd-opencl-dev opencl-c-headers libclblast-dev
    libjansson-dev libpopt-dev)
test_packages=(libcmocka-dev bats)
# With test, where the distribution has them.
check_packages=(clang-format-14 clang-14 libclang-rt-14-dev clang-tidy-14 cppcheck clang-19 libclc-15 shellcheck valgrind
    oclgrind mandoc lintian libopenmpi-dev openmpi-bin)
run_packages=(pocl-opencl-icd)
plot_packages=(gnuplot-nox)
# Mesa's rusticl looks for libclc where its package has it; where the distribution has them.
device_packages=(python3-venv pocl-opencl-icd oclgrind libclc-15)
# The second OpenBLAS shares OpenMP's threads with Debian's PyTorch.
peer_packages=(python3-numpy libopenblas0-pthread libopenblas0-openmp)

usage() {
    sed -n '2,17s/^# \{0,1\}//p' "$0"
}

# True when a program can see an OpenCL device. Without a compiler: when a driver is registered.
has_opencl_device() {
    local folder status=0
    folder=$(mktemp -d)
    if command -v cc >/dev/null && cc -x c -o "$folder/probe" - -lOpenCL 2>/dev/null <<'PROBE'
#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>
int main(void)
{
    cl_platform_id platforms[32];
    cl_uint num_platforms = 0;
    if (clGetPlatformIDs(32, platforms, &num_platforms) != CL_SUCCESS)
        return 1;
    for (cl_uint i = 0; i < num_platforms && i < 32; i++) {
        cl_uint num_devices = 0;
        if (clGetDeviceIDs(platforms[i], CL_DEVICE_TYPE_ALL, 0, 0, &num_devices) == CL_SUCCESS &&
            num_devices > 0)
            return 0;
    }
    return 1;
}
PROBE
    then
        "$folder/probe" >/dev/null 2>&1 || status=1
    else
        compgen -G '/etc/OpenCL/vendors/*.icd' >/dev/null || status=1
    fi
    rm -rf "$folder"
    return "$status"
}

# Prints those of the packages that are not installed.
missing_packages() {
    local package
    for package in "$@"; do
        if [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" != installed ]; then
            printf '%s\n' "$package"
        fi
    done
}

# Prints those of the packages that apt-get could install.
available_packages() {
    local package
    for package in "$@"; do
        if apt-cache show "$package" >/dev/null 2>&1; then
            printf '%s\n' "$package"
        fi
    done
}

install_packages() {
    local missing as_root=()
    mapfile -t missing < <(missing_packages "$@")
    if [ ${#missing[@]} -eq 0 ]; then
        return 0
    fi
    if [ "$(id -u)" -ne 0 ]; then
        if command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
            as_root=(sudo)
        else
            echo "deps.sh: missing packages: ${missing[*]}" >&2
            echo "deps.sh: as root: apt-get install ${missing[*]}" >&2
            return 1
        fi
    fi
    echo "deps.sh: installing ${missing[*]}"
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq update
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y \
        -o Dpkg::Use-Pty=0 install --no-install-recommends "${missing[@]}" >/dev/null
}

# Other systems: says what is not found.
check_without_apt() {
    local what=$1 tool module missing=()
    for tool in cc cmake pkg-config; do
        command -v "$tool" >/dev/null || missing+=("$tool")
    done
    if command -v pkg-config >/dev/null; then
        for module in OpenCL clblast jansson popt; do
            pkg-config --exists "$module" || missing+=("$module (development files)")
        done
        if [ "$what" = test ] || [ "$what" = all ]; then
            pkg-config --exists cmocka || missing+=("cmocka (development files)")
        fi
    fi
    if [ "$what" = test ] || [ "$what" = all ]; then
        command -v bats >/dev/null || missing+=(bats)
    fi
    if [ ${#missing[@]} -gt 0 ]; then
        echo "deps.sh: this system has no apt-get; please install:" >&2
        printf 'deps.sh:   %s\n' "${missing[@]}" >&2
        return 1
    fi
}

main() {
    local what=${1:-}
    case "$what" in
    build | test | run | plot | all | devices | peers) ;;
    -h | --help) usage && return 0 ;;
    *) usage >&2 && return 2 ;;
    esac

    if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
        case "$what" in
        run) ;;
        plot)
            if ! command -v gnuplot >/dev/null; then
                echo "deps.sh: this system has no apt-get; please install gnuplot" >&2
                return 1
            fi
            ;;
        devices)
            if ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
                echo "deps.sh: please install Python's venv" >&2
                return 1
            fi
            ;;
        peers)
            if ! python3 -c 'import numpy' 2>/dev/null; then
                echo "deps.sh: please install numpy for python3, built with OpenBLAS" >&2
                return 1
            fi
            ;;
        *) check_without_apt "$what" ;;
        esac
    else
        case "$what" in
        build) install_packages "${build_packages[@]}" ;;
        peers) install_packages "${peer_packages[@]}" ;;
        devices)
            mapfile -t device_packages < <(available_packages "${device_packages[@]}")
            install_packages "${device_packages[@]}"
            ;;
        test | all)
            install_packages "${build_packages[@]}" "${test_packages[@]}"
            # After the line above: a bare machine's package lists are empty before it.
            mapfile -t check_packages < <(available_packages "${check_packages[@]}")
            install_packages "${check_packages[@]}"
            ;;
        esac
        if [ "$what" = plot ] || [ "$what" = all ]; then
            install_packages "${plot_packages[@]}"
        fi
    fi

    if [ "$what" = run ] || [ "$what" = all ]; then
        if ! has_opencl_device; then
            if command -v apt-get >/dev/null; then
                install_packages "${run_packages[@]}"
            else
                echo "deps.sh: no OpenCL device found; install a GPU vendor's driver or PoCL" >&2
                return 1
            fi
        fi
    fi
}

main "$@"
