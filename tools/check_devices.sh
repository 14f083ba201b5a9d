#!/usr/bin/env bash
# Runs the device tests on OpenCL implementations for a CPU, none of which is installed for that
# (Mesa's, once installed, is loaded into every program that uses OpenCL, and leaks there).
#
#   tools/check_devices.sh [--only NAME]... [--groups GROUP,...] [--library NAME=FILE]...
#                          [--seconds N] [--build DIR] [--folder DIR]
#
#   pocl      the distribution's PoCL, as it is installed
#   pocl-new  a current PoCL, where --library pocl-new=FILE names its libpocl.so. PyPI's newest is a
#             release candidate of 3.0, which does not compile class cpu
#   intel     Intel's CPU runtime, from PyPI into a virtual environment (about 1 GB)
#   rusticl   Mesa's on llvmpipe, from the distribution's packages: small kernels, and five golden
#             cases with an empty cache in less than five minutes
#   oclgrind  the simulator that looks for races and wrong accesses: the smallest shapes
#
# Groups are named after the tests' folders: ocl, ops, layer, faults, golden (those with bf16),
# emulated (golden cases), api, oclgrind; without the tests that have label slow or long
# (tools/check.sh), but for emulated and oclgrind. --library takes another FILE for any of the first
# four. --seconds: a test's limit of time (default 2400: Intel's runtime compiles for nearly all of a
# test's time, and keeps nothing of it). --build: where clmla is built (default build-check). --folder:
# for what is fetched, kernel caches, logs, report.txt and report.md (default build-check/devices).
# Exits 1 after a failure. What cannot be had is skipped with its reason. One run at a time for a
# build: tests have files there.
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=$root/build-check folder='' limit=2400
all_devices=(pocl pocl-new intel rusticl oclgrind)
all_groups=(ocl ops layer faults golden emulated api oclgrind)
devices=() groups=("${all_groups[@]}")
declare -A library=()

wrong() {
    echo "check_devices.sh: $1" >&2
    exit 2
}

# one_of WHAT NAME NAMES...
one_of() {
    [[ " ${*:3} " == *" $2 "* ]] || wrong "no $1 $2; there are ${*:3}"
}

while [ $# -gt 0 ]; do
    case "$1" in
    -h | --help) sed -n '2,25s/^# \{0,1\}//p' "$0" && exit 0 ;;
    --only | --groups | --library | --seconds | --build | --folder)
        [ -n "${2:-}" ] || wrong "$1 takes an argument"
        ;;&
    --only) one_of device "$2" "${all_devices[@]}" && devices+=("$2") ;;
    --groups) IFS=, read -ra groups <<<"$2" ;;
    --library) library[${2%%=*}]=$(realpath "${2#*=}") ;;
    --seconds) limit=$2 ;;
    --build) build=$(realpath "$2") ;;
    --folder) folder=$2 ;;
    *) wrong "unknown option $1" ;;
    esac
    shift 2
done
[[ "$limit" =~ ^[1-9][0-9]*$ ]] || wrong '--seconds takes a number >= 1'
for name in "${groups[@]}"; do
    one_of group "$name" "${all_groups[@]}"
done
for name in "${!library[@]}"; do
    one_of library "$name" pocl pocl-new intel rusticl
    [ -f "${library[$name]}" ] || wrong "--library $name: there is no ${library[$name]}"
done
[ ${#devices[@]} -gt 0 ] || devices=("${all_devices[@]}")

mkdir -p "${folder:=$build/devices}" || exit 1
folder=$(realpath "$folder")
clmla=$build/clmla
commit=$(git -C "$root" describe --always --dirty 2>/dev/null || echo 'no commit known')
rows=()    # device, group, passed, failed, skipped, seconds; separated by |
notes=()   # failures and skips with their reasons
versions=() # of the devices
failed=false

# ---- implementations ----------------------------------------------------------------------------

# skip DEVICE REASON
skip() {
    echo "== $1: skipped, $2"
    rows+=("$1|-|0|0|all|0")
    notes+=("$1: skipped, $2")
}

# The only implementation that the loader sees in this environment.
register() {
    local device=$1 file=$2
    rm -rf "$folder/$device/vendors"
    mkdir -p "$folder/$device"/{vendors,kernels}
    echo "$file" >"$folder/$device/vendors/only.icd"
    environment+=("OCL_ICD_VENDORS=$folder/$device/vendors"
        "POCL_CACHE_DIR=$folder/$device/kernels")
}

# prepare_NAME sets file to the implementation's library, or reason to why there is none.
prepare_pocl() {
    file=$(cat /etc/OpenCL/vendors/pocl.icd 2>/dev/null)
    reason='pocl-opencl-icd is not installed'
}

prepare_pocl-new() {
    reason='no --library pocl-new=FILE names a libpocl.so'
}

prepare_intel() {
    local venv=$folder/intel/venv
    if [ ! -f "$venv/lib/libintelocl.so" ]; then
        reason="it could not be installed from PyPI, see $folder/intel/pip.log"
        rm -rf "$venv"
        { python3 -m venv "$venv" &&
            "$venv/bin/pip" install intel-opencl-rt intel-cmplr-lib-rt; } \
            >"$folder/intel/pip.log" 2>&1 || return
    fi
    file=$venv/lib/libintelocl.so
}

# With those of its dependencies that are not installed; libclc's files are used where libclc-15 has
# them only.
prepare_rusticl() {
    local unpacked=$folder/rusticl/root packages package
    if ! compgen -G "$unpacked/usr/lib/*/libRusticlOpenCL.so.1" >/dev/null; then
        reason="mesa-opencl-icd could not be fetched, see $folder/rusticl/apt.log"
        mapfile -t packages < <(apt-get -s --no-install-recommends install mesa-opencl-icd |
            sed -n 's/^Inst \([^ ]*\) .*/\1/p')
        if [ ${#packages[@]} -eq 0 ]; then
            file=$(cat /etc/OpenCL/vendors/rusticl.icd) # installed, all the same
            reason='apt-get knows no mesa-opencl-icd'
            return
        fi
        (cd "$folder/rusticl" && apt-get -q download "${packages[@]}") || return
        for package in "$folder"/rusticl/*.deb; do
            dpkg -x "$package" "$unpacked" || return
        done
    fi >"$folder/rusticl/apt.log" 2>&1
    file=$(compgen -G "$unpacked/usr/lib/*/libRusticlOpenCL.so.1")
}

# True when the device is there. Sets environment and platform, part of whose name chooses it; notes
# its version.
prepare() {
    local device=$1 file='' reason='' listed words through=()
    mkdir -p "$folder/$device"
    case "$device" in
    pocl*) platform=Portable ;;
    intel) platform=Intel ;;
    oclgrind) platform=Oclgrind ;;
    *) platform=$device ;;
    esac
    environment=("CLMLA_PLATFORM=$platform" "CLMLA_TEST_PLATFORM=$platform")
    if [ "$device" = oclgrind ]; then
        if ! command -v oclgrind >/dev/null; then
            skip oclgrind 'it is not installed' && return 1
        fi
        through=(oclgrind)
    else
        if [ -n "${library[$device]:-}" ]; then
            file=${library[$device]}
        else
            "prepare_$device"
        fi
        if [ -z "$file" ]; then
            skip "$device" "$reason" && return 1
        fi
        register "$device" "$file"
    fi
    if [ "$device" = rusticl ]; then
        environment+=(RUSTICL_ENABLE=llvmpipe "MESA_SHADER_CACHE_DIR=$folder/rusticl/shaders"
            "LD_LIBRARY_PATH=$(dirname "$file")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}")
        notes+=("rusticl: other tests skipped, their kernels may pass the 65,535 iterations at"
            "    which llvmpipe ends loops, or do not say how many they have: refused there")
    fi
    if ! listed=$(env "${environment[@]}" "${through[@]}" "$clmla" devices --format=json 2>&1) ||
        ! grep -q '"driver"' <<<"$listed"; then
        skip "$device" "its library has no device: $(tail -n 1 <<<"$listed")" && return 1
    fi
    words=$(sed -n 's/^ *"\(platform\|name\|driver\)": "\(.*\)",*$/\2/p' <<<"$listed")
    versions+=("$device: $(head -n 3 <<<"$words" | paste -sd '|' | sed 's/|/, /g')")
}

# ---- tests --------------------------------------------------------------------------------------

# Tests of a group, as ctest's options.
selection() {
    local device=$1 group=$2
    case "$device $group" in
    'rusticl ocl') echo '-R ^ocl/test_(context|device)$' ;;
    'rusticl ops')
        echo '-R ^ops/test_((cache|norm|rope)_append|fp8_cache|loops|merge|rmsnorm|rope|tensor)$'
        ;;
    *emulated) echo '-R ^emulated/golden$' ;;
    *faults) echo '-R ^faults/test_ -LE slow|long' ;;
    *golden) echo '-R ^golden/small_bf16_ -LE slow|long' ;;
    *api) echo '-R ^api/(engine|tensor_parallel)_ -LE slow|long' ;;
    *oclgrind) echo '-R ^oclgrind/' ;;
    *) echo "-R ^$group/ -LE slow|long" ;;
    esac
}

# Of a LastTest.log: those of the test's lines that match. A program's own words on what it left out
# begin with "skipped: ".
lines_of() {
    local log=$1 test=$2 pattern=$3
    awk -v test="$test" -v pattern="$pattern" '
        /^[0-9]+\/[0-9]+ Testing: / { inside = $3 == test }
        inside && $0 ~ pattern' "$log"
}

# What ctest says of a test as: name|word|seconds.
test_line='s/^ *[0-9]+\/[0-9]+ Test +#[0-9]+: ([^ ]+) [ .]*(.*\*\*\*)?([A-Z].*[^ :]):? +'
test_line+='([0-9.]+) sec$/\1|\3|\4/p'
failure_words='\\[  (ERROR|FAILED)|error: |FAIL|^clmla: |data race|runtime error'

# add DEVICE GROUP PASSED FAILED SKIPPED SECONDS
add() {
    local IFS='|'
    rows+=("$*")
    echo "== $1 $2: $3 passed, $4 failed, $5 skipped, $6 s"
    [ "$4" -eq 0 ] || failed=true
}

# What ctest wrote of tests that did not pass, and what programs that passed left out.
note_tests() {
    local device=$1 log=$2 last=$3 name word seconds line
    while IFS='|' read -r name word seconds; do
        if [ "$word" != Passed ] && [ "$word" != Skipped ]; then
            notes+=("$device $name: FAILED, $word after $seconds s")
            while read -r line; do
                notes+=("    $line")
            done < <(lines_of "$last" "$name" "$failure_words" | grep -v 'test(s)\|TEST(S)' |
                awk '!seen[$0]++' | head -n 5)
        fi
        while read -r line; do
            notes+=("$device $name: $line")
        done < <(lines_of "$last" "$name" '^skipped: ' | sort | uniq -c |
            sed 's/^ *1 //; s/^ *\([0-9]*\) /\1 times /')
    done < <(sed -nE "$test_line" "$log")
}

# The tests' own limits of time are for the default check; here all have the same one. In a copy of
# ctest's list, whose logs are the device's.
run_tests() {
    local device=$1 group=$2 log=$folder/$1/$2.log place=$folder/$1/ctest begin=$SECONDS options
    mkdir -p "$place"
    sed -E "s/ TIMEOUT \"[0-9]+\"/ TIMEOUT \"$limit\"/; s#^subdirs\(\"#&$build/#" \
        "$build/CTestTestfile.cmake" \
        >"$place/CTestTestfile.cmake"
    read -ra options <<<"$(selection "$device" "$group")"
    (cd "$place" && env "${environment[@]}" ctest -j "$(nproc)" --timeout "$limit" --no-tests=error \
        "${options[@]}") >"$log" 2>&1
    cp "$place/Testing/Temporary/LastTest.log" "$folder/$device/$group.last.log" 2>/dev/null
    if ! grep -q 'tests passed' "$log"; then
        notes+=("$device $group: FAILED, ctest: $(tail -n 1 "$log")")
        add "$device" "$group" 0 1 0 $((SECONDS - begin)) && return
    fi
    local total passed skipped
    total=$(grep -cE '^ *[0-9]+/[0-9]+ Test ' "$log")
    passed=$(grep -cE '^ *[0-9]+/[0-9]+ Test .* Passed ' "$log")
    skipped=$(grep -cE '^ *[0-9]+/[0-9]+ Test .*\*\*\*Skipped ' "$log")
    note_tests "$device" "$log" "$folder/$device/$group.last.log"
    add "$device" "$group" "$passed" $((total - passed - skipped)) "$skipped" $((SECONDS - begin))
}

# llvmpipe is slow and ends loops; these have small ones.
run_small_golden() {
    local log=$folder/rusticl/golden.log begin=$SECONDS kernels cases passed=0 failures status
    rm -rf "$folder/rusticl/shaders"
    mapfile -t cases < <(compgen -G "$root/tests/golden/0[123]_*.safetensors"
        compgen -G "$root/tests/golden/1[01]_*.safetensors")
    : >"$log"
    for kernels in cpu gpu; do
        env "${environment[@]}" timeout $((301 + begin - SECONDS)) "$clmla" verify \
            --kernels "$kernels" --no-cache "${cases[@]}" >>"$log" 2>&1
        status=$?
        if [ "$status" -eq 124 ]; then
            notes+=("rusticl golden: FAILED, more than 300 s, on class $kernels") && break
        fi
    done
    passed=$(grep -cE ' PASS *$' "$log")
    failures=$((2 * ${#cases[@]} - passed))
    [ "$failures" -eq 0 ] || notes+=("rusticl golden: FAILED" "$(grep -vE ' PASS *$' "$log")")
    add rusticl golden "$passed" "$failures" 0 $((SECONDS - begin))
}

# has_group DEVICE GROUP
has_group() {
    case "$1" in
    rusticl) [[ "$2" =~ ^(ocl|ops|golden)$ ]] ;;
    oclgrind) [ "$2" = oclgrind ] ;;
    *) [ "$2" != oclgrind ] ;;
    esac
}

run_device() {
    local device=$1 group platform environment
    prepare "$device" || return
    for group in "${groups[@]}"; do
        has_group "$device" "$group" || continue
        if [ "$device $group" = 'rusticl golden' ]; then
            run_small_golden
        else
            run_tests "$device" "$group"
        fi
        write_report
    done
}

# ---- report -------------------------------------------------------------------------------------

print_notes() {
    printf '%s\n' "${versions[@]}" ''
    printf '%s\n' "${notes[@]}"
}

# A line for each device, a column for each group: passed of all, and what did not pass.
print_matrix() {
    local names=${all_groups[*]}
    echo "| device | ${names// / | } | seconds |"
    echo "|---|${all_groups[*]/*/---|}---|" | tr -d ' '
    printf '%s\n' "${rows[@]}" | awk -F '|' -v names="$names" '
        !($1 in seconds) { order[++devices] = $1 }
        {
            seconds[$1] += $6
            cell[$1, $2] = $3 " of " $3 + $4 + $5 ($4 > 0 ? ", " $4 " failed" : "") \
                ($5 > 0 ? ", " $5 " skipped" : "")
        }
        END {
            count = split(names, group, " ")
            for (d = 1; d <= devices; d++) {
                name = order[d]
                line = "| " name
                for (g = 1; g <= count; g++)
                    line = line " | " ((name, "-") in cell ? "skipped" : cell[name, group[g]])
                print line " | " seconds[name] " |"
            }
        }'
}

# After each group, so that a run that is broken off has a report too.
write_report() {
    {
        echo "clmla $commit"
        printf '%s\n' 'device|group|passed|failed|skipped|seconds' "${rows[@]}" | column -t -s '|'
        echo
        print_notes
    } >"$folder/report.txt"
    {
        echo "Commit $commit:"
        echo
        print_matrix
        echo
        print_notes | sed 's/^\([^ ]\)/- \1/'
    } >"$folder/report.md"
}

if [ ! -f "$build/CMakeCache.txt" ]; then
    cmake -S "$root" -B "$build" -DCMAKE_BUILD_TYPE=Release >/dev/null || exit 1
fi
cmake --build "$build" --parallel "$(nproc)" >"$folder/build.log" 2>&1 ||
    { tail -n 30 "$folder/build.log" >&2 && exit 1; }
for name in "${devices[@]}"; do
    run_device "$name"
    write_report
done
echo
cat "$folder/report.txt"
if $failed; then
    exit 1
fi
