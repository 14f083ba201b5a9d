#!/usr/bin/env bash
# Feeds what reads foreign files with mutated input, under AddressSanitizer and UBSan. Needs clang with
# libFuzzer (tools/deps.sh check).
#
#   tools/fuzz.sh [--runs N] [--seconds S] [TARGET...]
#
# N executions of each target (default 5000000), or as many as S seconds allow. Targets: the
# fuzz_*.c of tests/fuzz, all unless some are named. What reaches new code is kept in
# build-fuzz/corpus/; a crash ends the target and leaves its input in build-fuzz/. Inputs worth
# keeping go to tests/fuzz/corpus/, which ctest -R fuzz/ replays.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=$root/build-fuzz
runs=5000000 seconds=0 targets=()

number() {
    [[ "${2:-}" =~ ^[1-9][0-9]*$ ]] || { echo "fuzz.sh: $1 takes a number >= 1" >&2 && exit 2; }
    echo "$2"
}

while [ $# -gt 0 ]; do
    case "$1" in
    --runs) runs=$(number "$@") && shift ;;
    --seconds) seconds=$(number "$@") && shift ;;
    -h | --help) sed -n '2,12s/^# \{0,1\}//p' "$0" && exit 0 ;;
    -*) echo "fuzz.sh: unknown option $1" >&2 && exit 2 ;;
    *)
        [ -f "$root/tests/fuzz/fuzz_$1.c" ] || { echo "fuzz.sh: no target $1" >&2 && exit 2; }
        targets+=("$1")
        ;;
    esac
    shift
done
if [ ${#targets[@]} -eq 0 ]; then
    for file in "$root"/tests/fuzz/fuzz_*.c; do
        name=$(basename "$file" .c)
        targets+=("${name#fuzz_}")
    done
fi

clang=''
for name in clang-19 clang-14 clang; do
    if command -v "$name" >/dev/null &&
        [ -f "$("$name" -print-file-name="libclang_rt.fuzzer-$(uname -m).a")" ]; then
        clang=$name
        break
    fi
done
[ -n "$clang" ] || { echo "fuzz.sh: no clang with libFuzzer is installed" >&2 && exit 1; }
cmake -S "$root" -B "$build" -DCMAKE_C_COMPILER="$clang" -DCMAKE_BUILD_TYPE=RelWithDebInfo \
    -DCLMLA_FUZZ=ON -DCLMLA_SANITIZER=address,undefined,fuzzer-no-link >/dev/null
cmake --build "$build" -j "$(nproc)" -t "${targets[@]/#/fuzz_}" >"$build/log" ||
    { cat "$build/log" && exit 1; }

# LeakSanitizer crashes now and then on the thread-local ranges that this interception records.
export ASAN_OPTIONS=${ASAN_OPTIONS:-intercept_tls_get_addr=0}
failures=0
for target in "${targets[@]}"; do
    kept=$build/corpus/$target
    mkdir -p "$kept"
    echo "== $target"
    "$build/fuzz_$target" -runs="$runs" -max_total_time="$seconds" -max_len=8192 -print_final_stats=1 \
        -verbosity=0 -artifact_prefix="$build/$target-" "$kept" \
        "$root/tests/fuzz/corpus/$target" 2>&1 | grep -v '^$' || failures=$((failures + 1))
done
exit $((failures > 0))
