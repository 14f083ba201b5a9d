#!/usr/bin/env bash
# Static analysis of src, include and tests, on all cores: clang-tidy with what .clang-tidy and
# tests/.clang-tidy say, cppcheck with what tools/cppcheck.supp says.
#
#   tools/lint.sh             both
#   tools/lint.sh tidy        clang-tidy
#   tools/lint.sh cppcheck
#
# clang-tidy takes the flags of the build by clang in build-clang/, which is configured where it is
# not there yet (tools/check.sh builds it). Prints findings; exits 1 after any. On two cores clang-tidy
# takes three to seven minutes, cppcheck one.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
jobs=$(nproc)

# Files that are compiled; of those in tests some depend on what is installed. One file a process:
# clang-tidy 14 keeps states of va_lists from one file to the next.
tidy() {
    local commands=build-clang/compile_commands.json
    if [ ! -f "$commands" ]; then
        cmake -S . -B build-clang -DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_COMPILER=clang-14 \
            -DCMAKE_EXPORT_COMPILE_COMMANDS=ON -DCMAKE_C_FLAGS_DEBUG='-O0' -DCLMLA_WERROR=ON \
            >/dev/null || return 1
    fi
    local files
    files=$(grep -oE "\"file\": \"$root/(src|tests)/[^\"]*\.c" "$commands" | sed "s,.*\"$root/,," | sort -u)
    if [ -z "$files" ]; then
        echo "lint.sh: $commands names no file of src or tests" >&2
        return 1
    fi
    # What it says on stderr are counts of findings, those of other headers included.
    xargs -P "$jobs" -n 1 clang-tidy-14 -p build-clang --quiet 2>/dev/null <<<"$files"
}

check_with_cppcheck() {
    cppcheck --std=c11 --platform=unix64 --enable=warning,style,performance,portability --quiet \
        -j "$jobs" --error-exitcode=1 --suppressions-list=tools/cppcheck.supp -I include -I src \
        -I tests --template='{file}:{line}: {severity}: {message} [{id}]' src tests
}

case "${1:-}" in
'') status=0 && { tidy || status=1; } && { check_with_cppcheck || status=1; } && exit "$status" ;;
tidy) tidy || exit 1 ;;
cppcheck) check_with_cppcheck || exit 1 ;;
-h | --help) sed -n '2,11s/^# \{0,1\}//p' "$0" ;;
*) echo "lint.sh: unknown argument $1; there are tidy and cppcheck" >&2 && exit 2 ;;
esac
