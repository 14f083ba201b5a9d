# shellcheck shell=bash
# For the checks in this folder to source: programs as the host assembles them, from lists such as
# programs.txt, and the tools that compile them without a driver.

# assemble <folder of kernel files> <SPLITS_VLOAD> <definitions> <file...>: the text that
# src/ocl/program.c makes: definitions, then the files with their names.
assemble() {
    local kernels=$1 splits=$2 definitions=$3 definition file
    shift 3
    for definition in $definitions; do
        echo "#define ${definition%%=*} ${definition#*=}"
    done
    echo "#define SPLITS_VLOAD $splits" # of the device, see src/ocl/device.h
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
    echo "${result[*]-}"
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

# each_program <list> <function>: calls the function for every program of the list with its target,
# files, definitions, and those of the definitions that tell it from others of its line. For lists
# that have them, with the further columns, too: budgets, chosen like definitions, and a text.
each_program() {
    local list=$1 call=$2 line target files definitions lists budgets text i count
    while IFS= read -r line <&3; do
        case "$line" in
        '' | '#'*) continue ;;
        esac
        IFS='|' read -r target files definitions budgets text <<<"$line"
        read -ra files <<<"$files"
        read -ra definitions <<<"$definitions"
        read -ra budgets <<<"$budgets"
        lists=()
        for i in "${definitions[@]}"; do
            if [[ $i == *,* ]]; then
                lists+=("$i")
            fi
        done
        count=$(num_variants "${definitions[@]}")
        for ((i = 0; i < count; i++)); do
            "$call" "${target// /}" "${files[*]}" "$(variant "$i" "${definitions[@]}")" \
                "$(variant "$i" "${lists[@]}")" "$(variant "$i" "${budgets[@]}")" "${text# }"
        done
    done 3<"$list"
}

# first_file <path...>: the first that exists.
first_file() {
    local path
    for path in "$@"; do
        if [ -f "$path" ]; then
            echo "$path"
            return 0
        fi
    done
    return 1
}

# $CLANG, or the one that ptx_programs.txt was measured with, or another of at least 15, the first
# that reads the bitcode of Debian's libclc-15.
find_clang() {
    local clang version
    for clang in ${CLANG:-clang-19 clang-21 clang-20 clang-18 clang-17 clang-16 clang-15 clang}; do
        if version=$("$clang" -dumpversion 2>/dev/null) && ((${version%%.*} >= 15)); then
            echo "$clang"
            return 0
        fi
    done
    return 1
}

# find_libclc <name of a bitcode file>, or $LIBCLC
find_libclc() {
    if [ -n "${LIBCLC:-}" ]; then
        first_file "$LIBCLC"
    else
        first_file "/usr/lib/clc/$1" "/usr/share/clc/$1"
    fi
}

# undefined_functions <LLVM IR as text>: prints those that nobody defines; true where there are any.
undefined_functions() {
    grep '^declare' "$1" | grep -v '@llvm\.'
}

# Ends a check that cannot be made, visibly: the tests count lines that begin so.
skip() {
    echo "skipped: $1"
    exit 0
}
