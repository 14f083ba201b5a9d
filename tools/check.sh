#!/usr/bin/env bash
# Checks the whole project: format, scripts, a Release build by gcc with warnings as errors and its
# tests, a build by clang with AddressSanitizer and UBSan and its tests.
#
#   tools/check.sh           the default, for every change
#   tools/check.sh --ci      also the tests with label long, whose kernels compile for minutes on a
#                            CPU: those of class nvidia one by one, more dtypes and peers' cases on
#                            class gpu, searches of clmla tune, every kind of kernel in clmla bench
#   tools/check.sh --full    also the slow tests (valgrind among them), the unit tests under
#                            ThreadSanitizer, static analysis (tools/lint.sh, minutes), builds by gcc
#                            without and by clang without and with optimisation
#   tools/check.sh --all-devices [OPTION...]
#                            only this, and in no other check: the device tests on each OpenCL
#                            implementation that can be had (tools/check_devices.sh, its options):
#                            device × test group with passed, failed, skipped and the reasons.
#                            Takes half an hour on two cores at first and fetches 1 GB
#
# Builds in build-check/, build-asan/ and, in full, build-gcc-debug/, build-clang/,
# build-clang-release/ and build-tsan/. Installs what the tests need (tools/deps.sh).
# Goes on after a failure, names all failures at the end and then exits 1.
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
full=false
unlisted='slow|long' # labels that are left out
case "${1:-}" in
'') ;;
--ci) unlisted=slow ;;
--full) full=true ;;
--all-devices)
    for group in test devices; do
        "$root/tools/deps.sh" "$group" || exit 1
    done
    exec "$root/tools/check_devices.sh" "${@:2}"
    ;;
-h | --help) sed -n '2,21s/^# \{0,1\}//p' "$0" && exit 0 ;;
*) echo "check.sh: unknown option $1; there are --ci, --full and --all-devices" >&2 && exit 2 ;;
esac

jobs=$(nproc)
failures=()
skips=()
summaries=()

# One kernel cache for all builds: the same kernels are compiled once.
export POCL_CACHE_DIR=${POCL_CACHE_DIR:-$root/build-check/pocl-cache}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
# LeakSanitizer crashes now and then on the thread-local ranges that this interception records.
export ASAN_OPTIONS=${ASAN_OPTIONS:-intercept_tls_get_addr=0}
export LSAN_OPTIONS=${LSAN_OPTIONS:-suppressions=$root/tests/lsan.supp:print_suppressions=0}

# step <name> <command...>: runs it, notes a failure.
step() {
    local name=$1
    shift
    echo "== $name"
    if ! "$@"; then
        failures+=("$name")
        return 1
    fi
}

skip() {
    echo "== $1: skipped, $2"
    skips+=("$1: $2")
}

check_format() {
    find "$root"/{include,src,cl,tests,tools} \
        \( -name '*.[ch]' -o -name '*.cl' -o -name '*.clh' \) -print0 |
        xargs -0 clang-format-14 --dry-run -Werror
}

check_scripts() {
    shellcheck "$root"/tools/{,*/}*.sh "$root"/tools/completion/*.bash "$root"/tests/*/*.sh "$root/.ci/run"
}

# build <folder> <cmake options...>
build() {
    local folder=$1
    shift
    cmake -S "$root" -B "$root/$folder" "$@" >/dev/null || return 1
    if ! cmake --build "$root/$folder" --parallel "$jobs" >"$root/$folder/build.log" 2>&1; then
        tail -n 60 "$root/$folder/build.log" >&2
        return 1
    fi
}

# run_tests <folder> <ctest options...>
run_tests() {
    local folder=$1 log status
    shift
    log=$root/$folder/ctest.log
    (cd "$root/$folder" && ctest --output-on-failure --no-tests=error -j "$jobs" "$@") | tee "$log"
    status=${PIPESTATUS[0]}
    summaries+=("$folder: $(grep 'tests passed' "$log")")
    # What a test program left out says so on a line of its own; "# skip" is bats' word for it.
    while read -r line; do
        skips+=("$folder: $line")
    done < <(grep -hEi '^(skipped: |.*# skip )' "$root/$folder/Testing/Temporary/LastTest.log" |
        sort | uniq -c | sed 's/^ *1 //; s/^ *\([0-9]*\) /\1 times /')
    return "$status"
}

# Under sanitizers slow tests would take days. By default the tests of the program whose time goes
# into measuring run in the Release build only, and the longest with sanitizers only, which see more.
released=(-LE "$unlisted")
sanitized=(-LE slow)
if $full; then
    released=()
elif [ "$unlisted" = 'slow|long' ]; then
    released+=(-E '^faults/test_objects$')
    sanitized=(-LE "$unlisted" -E '^cli/(bench|cache|report|tune)$')
fi

step 'packages' "$root/tools/deps.sh" all || exit 1

if command -v clang-format-14 >/dev/null; then
    step 'format' check_format
else
    skip 'format' 'clang-format-14 is not installed'
fi
if command -v shellcheck >/dev/null; then
    step 'scripts' check_scripts
else
    skip 'scripts' 'shellcheck is not installed'
fi

if step 'Release build' build build-check -DCMAKE_BUILD_TYPE=Release -DCLMLA_WERROR=ON; then
    step 'Release tests' run_tests build-check "${released[@]}"
fi
sanitizers=(-DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_FLAGS_DEBUG='-g -O1'
    '-DCLMLA_SANITIZER=address,undefined' -DCLMLA_WERROR=ON)
if command -v clang-14 >/dev/null; then # other warnings than gcc's, and more checks
    sanitizers+=(-DCMAKE_C_COMPILER=clang-14)
else
    skip 'clang' 'clang-14 is not installed; gcc has the sanitizers'
fi
if step 'ASan and UBSan build' build build-asan "${sanitizers[@]}"; then
    step 'ASan and UBSan tests' run_tests build-asan -L 'unit|cli|device' "${sanitized[@]}"
fi
if $full; then
    step 'gcc -O0 build' build build-gcc-debug -DCMAKE_BUILD_TYPE=Debug \
        -DCMAKE_C_FLAGS_DEBUG='-O0' -DCLMLA_WERROR=ON
    if command -v clang-14 >/dev/null; then
        step 'clang -O0 build' build build-clang -DCMAKE_BUILD_TYPE=Debug \
            -DCMAKE_C_COMPILER=clang-14 -DCMAKE_C_FLAGS_DEBUG='-O0' \
            -DCMAKE_EXPORT_COMPILE_COMMANDS=ON -DCLMLA_WERROR=ON # for clang-tidy
        step 'clang -O3 build' build build-clang-release -DCMAKE_BUILD_TYPE=Release \
            -DCMAKE_C_COMPILER=clang-14 -DCLMLA_WERROR=ON
    fi
    if command -v clang-tidy-14 >/dev/null && command -v clang-14 >/dev/null; then
        step 'clang-tidy' "$root/tools/lint.sh" tidy
    else
        skip 'clang-tidy' 'clang-tidy-14 or clang-14 is not installed'
    fi
    if command -v cppcheck >/dev/null; then
        step 'cppcheck' "$root/tools/lint.sh" cppcheck
    else
        skip 'cppcheck' 'cppcheck is not installed'
    fi
    if step 'TSan build' build build-tsan -DCMAKE_BUILD_TYPE=Debug \
        -DCMAKE_C_FLAGS_DEBUG='-g -O1' -DCLMLA_SANITIZER=thread -DCLMLA_WERROR=ON; then
        step 'TSan tests' run_tests build-tsan -L unit
    fi
else
    skip 'slow tests, TSan, static analysis' 'they are part of tools/check.sh --full'
    if [ "$unlisted" != slow ]; then
        skip 'tests with label long, sanitizers in those that measure, faults/test_objects without' \
            'they are part of tools/check.sh --ci'
    fi
fi

echo
echo "== check.sh: $((SECONDS / 60)) min $((SECONDS % 60)) s"
if [ ${#skips[@]} -gt 0 ]; then
    printf 'skipped  %s\n' "${skips[@]}"
fi
printf '%s\n' "${summaries[@]}"
if [ ${#failures[@]} -gt 0 ]; then
    printf 'FAILED   %s\n' "${failures[@]}"
    exit 1
fi
echo 'all passed'
