#!/usr/bin/env bash
# Installs clmla, and builds and runs host applications as their authors would.
#
#   run_embedding.sh install        BUILD KIND WORK             installs the build in WORK/prefix
#   run_embedding.sh find_package   SOURCE KIND WORK COMPILER   against what is installed there
#   run_embedding.sh pkg_config     SOURCE KIND WORK COMPILER   likewise, without CMake
#   run_embedding.sh static         SOURCE KIND WORK COMPILER   all of these, built static
#   run_embedding.sh add_subdirectory SOURCE KIND WORK COMPILER   as a part of another project
#
# KIND of the build: shared or static. A build has installed.txt: what is installed.
set -euo pipefail

mode=$1 from=$2 kind=$3 work=$4 compiler=${5:-cc}

fail() {
    echo "run_embedding.sh: $*" >&2
    exit 1
}

# Prints the first file of that name in the prefix.
installed_file() {
    find "$1" -name "$2" -print -quit | grep . || fail "$2 was not installed"
}

# install_build BUILD PREFIX: installs elsewhere and moves the whole, since nothing may depend on where
# it was installed. Compares what is there with the list.
install_build() {
    local build=$1 prefix=$2 first=$2.first
    rm -rf "$first" "$prefix"
    cmake --install "$build" --prefix "$first" >/dev/null
    mv "$first" "$prefix"
    if ! diff <(sed -n "s/^$kind //; / /!p" "$build/installed.txt" | sort) \
        <(cd "$prefix" && find . ! -type d | sed 's,^\./,,' | sort); then
        fail "installed.txt (<) and what is installed (>) differ"
    fi
    if grep -rIlE --include='*.cmake' --include='*.pc' -e "$build|$first" "$prefix"; then
        fail 'these installed files name the build directory or where they were installed'
    fi
    "$prefix/bin/clmla" --version
}

# The SONAME is a file beside the library, and what the program asks for.
check_soname() {
    local library soname
    for library in libclmla libclmla_model; do
        library=$(installed_file "$1" "$library.so")
        soname=$(readelf -d "$library" | sed -n 's/.*(SONAME).*\[\(.*\)\]/\1/p')
        [ -e "$(dirname "$library")/$soname" ] || fail "$library has SONAME '$soname'"
        grep -qF "[$soname]" <<<"$(readelf -d "$1/bin/clmla")" || fail "the program does not use $soname"
    done
}

# use_cmake PREFIX BUILD
use_cmake() {
    rm -rf "$2"
    cmake -S "$from/tests/api" -B "$2" -DCMAKE_PREFIX_PATH="$1" -DCMAKE_C_COMPILER="$compiler" \
        >/dev/null
    cmake --build "$2"
    "$2/embed"
    "$2/engine"
    "$2/embed_model"
}

# use_pkg_config PREFIX PROGRAM
use_pkg_config() {
    local folder libraries module options=()
    if [ "$kind" = static ]; then
        options=(--static)
    fi
    folder=$(dirname "$(installed_file "$1" clmla.pc)")
    export PKG_CONFIG_PATH=$folder${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}
    libraries=$(pkg-config --variable=libdir clmla)
    for module in clmla clmla_model; do
        [ "clmla $(pkg-config --modversion $module)" = "$("$1/bin/clmla" --version)" ] ||
            fail "$module.pc states another version"
    done
    # shellcheck disable=SC2046 # pkg-config prints several words
    "$compiler" -std=c11 -Wall -Wextra -Wpedantic -Werror "$from/tests/api/embed.c" \
        -o "$2" $(pkg-config "${options[@]}" --cflags --libs clmla) -lm
    # shellcheck disable=SC2046
    "$compiler" -std=c11 -Wall -Wextra -Wpedantic -Werror "$from/tests/api/embed_model.c" \
        -o "$2_model" $(pkg-config "${options[@]}" --cflags --libs clmla_model)
    export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    "$2"
    "$2_model"
}

case "$mode" in
install)
    install_build "$from" "$work/prefix"
    if [ "$kind" = shared ]; then
        check_soname "$work/prefix"
    fi
    ;;
find_package)
    use_cmake "$work/prefix" "$work/find_package"
    ;;
pkg_config)
    use_pkg_config "$work/prefix" "$work/embed_pkg_config"
    ;;
static)
    kind=static
    build=$work/static
    rm -rf "$build"
    cmake -S "$from" -B "$build" -DCMAKE_C_COMPILER="$compiler" -DCMAKE_BUILD_TYPE=Release \
        -DBUILD_SHARED_LIBS=OFF -DCLMLA_BUILD_TESTS=OFF >/dev/null
    cmake --build "$build" --parallel 2 >/dev/null
    install_build "$build" "$build/prefix"
    use_cmake "$build/prefix" "$build/find_package"
    use_pkg_config "$build/prefix" "$build/embed_pkg_config"
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
    sed -n '2,11s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
