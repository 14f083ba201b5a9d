#!/usr/bin/env bash
# Builds tests/api/embed.c, and with find_package the engine, as a host application would, and runs
# them.
#
#   run_embedding.sh install        BUILD WORK             installs the build into WORK/prefix
#   run_embedding.sh find_package   SOURCE WORK COMPILER   against the installed library
#   run_embedding.sh pkg_config     SOURCE WORK COMPILER   likewise, without CMake
#   run_embedding.sh add_subdirectory SOURCE WORK COMPILER   as a part of another project, static
set -euo pipefail

mode=$1 from=$2 work=$3 compiler=${4:-cc}
prefix=$work/prefix

# Prints the first installed file of that name.
installed_file() {
    find "$prefix" -name "$1" -print -quit | grep . ||
        { echo "run_embedding.sh: $1 was not installed" >&2 && return 1; }
}

case "$mode" in
install)
    rm -rf "$prefix"
    cmake --install "$from" --prefix "$prefix" >/dev/null
    for name in clmla.h clmla_model.h 'libclmla.*' clmlaConfig.cmake clmlaConfigVersion.cmake \
        clmla.pc clmla; do
        installed_file "$name" >/dev/null
    done
    if grep -rIl --include='*.cmake' --include='*.pc' -e "$from" "$prefix"; then
        echo "run_embedding.sh: these installed files name the build directory" >&2
        exit 1
    fi
    "$prefix/bin/clmla" --version
    ;;
find_package)
    build=$work/find_package
    rm -rf "$build"
    cmake -S "$from/tests/api" -B "$build" -DCMAKE_PREFIX_PATH="$prefix" \
        -DCMAKE_C_COMPILER="$compiler" >/dev/null
    cmake --build "$build"
    "$build/embed"
    "$build/engine"
    if [ -x "$build/embed_model" ]; then
        "$build/embed_model"
    fi
    ;;
pkg_config)
    folder=$(dirname "$(installed_file clmla.pc)")
    export PKG_CONFIG_PATH=$folder${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}
    libraries=$(pkg-config --variable=libdir clmla)
    # shellcheck disable=SC2046 # pkg-config prints several words
    "$compiler" -std=c11 -Wall -Wextra -Wpedantic -Werror "$from/tests/api/embed.c" \
        -o "$work/embed_pkg_config" $(pkg-config --cflags --libs clmla) -lm
    LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} "$work/embed_pkg_config"
    ;;
add_subdirectory)
    build=$work/add_subdirectory
    rm -rf "$build"
    cmake -S "$from/tests/api/subdirectory" -B "$build" -DCLMLA_SOURCE="$from" \
        -DCMAKE_C_COMPILER="$compiler" -DBUILD_SHARED_LIBS=OFF >/dev/null
    cmake --build "$build" --parallel 2 >/dev/null
    "$build/embed"
    ;;
*)
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
