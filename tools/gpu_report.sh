#!/usr/bin/env bash
# Measures a device and writes one JSON and one text report:
#   tools/reports/<device>-<date>-<commit>.{json,txt}
#
#   tools/gpu_report.sh [--platform I --device J] [--build FOLDER] [--output FOLDER]
#
#   --platform, --device   indices as `clmla devices` prints them; both or none. Default: the first
#                          GPU, else the first device
#   --build                default build-report
#   --output               default tools/reports
#
# Builds with what the machine has: CMAKE_PREFIX_PATH names libraries in other places. Finds a
# vendor's OpenCL library that is not registered in /etc/OpenCL/vendors. CLMLA_COMMIT names the
# commit when this is no git checkout. A step that fails is reported and the rest goes on; the exit
# code is then 1. Takes less than 8 minutes on a GPU; a CPU gets fewer runs.
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=$root/build-report
output=$root/tools/reports
device_options=()
limit_s=460 # of the whole script on a GPU

usage() { sed -n '2,16s/^# \{0,1\}//p' "$0"; }

platform='' device=''
while [ $# -gt 0 ]; do
    case "$1" in
    --platform) platform=${2:-} ;;
    --device) device=${2:-} ;;
    --build) build=${2:-} ;;
    --output) output=${2:-} ;;
    -h | --help) usage && exit 0 ;;
    *) usage >&2 && exit 2 ;;
    esac
    shift 2 || { usage >&2 && exit 2; }
done
if [[ ! $platform$device =~ ^[0-9]*$ ]] ||
    [ "${platform:+x}" != "${device:+x}" ]; then
    echo "gpu_report.sh: --platform and --device are two indices, given together" >&2
    exit 2
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
text=$work/report.txt
errors=()

say() { echo "$*" | tee -a "$text" >&2; }

note_error() {
    errors+=("$1")
    say "ERROR: $1"
}

json_string() {
    printf '"%s"' "$(printf '%s' "$1" | tr '\t\n\r' '   ' | tr -d '\000-\037' |
        sed 's/\\/\\\\/g; s/"/\\"/g')"
}

# json_field <file> <key>: the first scalar of that name.
json_field() {
    sed -n 's/^.*"'"$2"'": *"\{0,1\}\([^",}]*\)"\{0,1\}.*$/\1/p' "$1" | head -n 1
}

is_json() {
    if command -v python3 >/dev/null; then
        python3 -m json.tool "$1" >/dev/null 2>&1
    elif command -v jq >/dev/null; then
        jq -e . "$1" >/dev/null 2>&1
    else
        head -c 1 "$1" | grep -q '[[{]'
    fi
}

# json_rows <file>: the objects of "results" or "devices", one a line, without JSON's punctuation.
json_rows() {
    tr -d '\n' <"$1" | tr -s ' ' | sed -E 's/^.*"(results|devices)": *\[//' |
        sed 's/} *, *{/}\n{/g; s/\][] }]*$//' |
        sed 's/, *\("[^"]*" *:\)/  \1/g; s/["{}]//g; s/: */=/g; s/^[[ ]*/  /; s/ *$//'
    echo
}

commit_name() {
    if [ -n "${CLMLA_COMMIT:-}" ]; then
        echo "$CLMLA_COMMIT"
    elif ! git -C "$root" rev-parse --short=12 HEAD 2>/dev/null; then
        echo unknown
    fi
}

# Registers OpenCL libraries of GPU vendors that no .icd file names, for this process only.
find_vendor_libraries() {
    local vendors=$work/vendors name path found=()
    if [ -n "${OCL_ICD_VENDORS:-}${OCL_ICD_FILENAMES:-}" ]; then
        return 0
    fi
    mkdir "$vendors"
    cp /etc/OpenCL/vendors/*.icd "$vendors" 2>/dev/null
    for name in libnvidia-opencl.so.1 libamdocl64.so libigdrcl.so; do
        if grep -qs "$name" "$vendors"/*.icd; then
            continue
        fi
        path=$({
            ldconfig -p 2>/dev/null | sed -n "s|^.*$name .*=> ||p"
            find /usr/local/nvidia /usr/lib /usr/lib64 /usr/local/lib /opt -name "$name" 2>/dev/null
        } | head -n 1)
        if [ -n "$path" ]; then
            echo "$path" >"$vendors/$name.icd"
            found+=("$path")
        fi
    done
    if [ ${#found[@]} -gt 0 ]; then
        say "OpenCL libraries found beside /etc/OpenCL/vendors: ${found[*]}"
        export OCL_ICD_VENDORS=$vendors
        export OCL_ICD_FILENAMES
        OCL_ICD_FILENAMES=$(IFS=: && echo "${found[*]}") # the name that Khronos' loader knows
    fi
}

build_clmla() {
    local log=$work/build.log
    if [ -z "${CUDA_PATH:-}" ] && [ -d /usr/local/cuda ]; then
        export CUDA_PATH=/usr/local/cuda # FindOpenCL looks there for headers and library
    fi
    if ! { cmake -S "$root" -B "$build" -DCMAKE_BUILD_TYPE=Release -DCLMLA_BUILD_TESTS=OFF &&
        cmake --build "$build" --parallel "$(nproc)" --target clmla-cli clmla_device_probe; } \
        >"$log" 2>&1; then
        tail -n 40 "$log" >&2
        note_error "build: $(grep -m 1 -i 'error' "$log")"
        return 1
    fi
}

seconds_left() {
    if $reduced; then
        echo 1800
    else
        echo $((limit_s - SECONDS))
    fi
}

# The command without the names of the golden files.
short_command() {
    local word words=() files=0
    for word in "$@"; do
        case "$word" in
        *.safetensors) files=$((files + 1)) ;;
        *) words+=("$word") ;;
        esac
    done
    if [ "$files" -gt 0 ]; then
        words+=("($files golden files)")
    fi
    echo "clmla ${words[*]}"
}

# run_part <list> <command...>: appends {"command", "seconds", "exit_code", "result"} to the JSON
# list in $work/<list>, and the rows of the result to the text.
run_part() {
    local list=$work/$1 out=$work/out err=$work/err start=$SECONDS code left result name
    shift
    name=$(short_command "$@")
    left=$(seconds_left)
    if [ "$left" -lt 5 ]; then
        note_error "$name: not run, the $limit_s s of this script are over"
        return 1
    fi
    say ''
    say "$ $name"
    timeout "$left" "$build/clmla" "$@" --format json "${device_options[@]}" >"$out" 2>"$err"
    code=$?
    result=null
    if is_json "$out"; then
        result=$(cat "$out")
        json_rows "$out" | tee -a "$text" >&2
    fi
    if [ "$code" -ne 0 ]; then
        note_error "$name: exit code $code: $(tail -n 1 "$err")"
    elif [ "$result" = null ]; then
        note_error "$name: no valid JSON on stdout"
    fi
    if [ -s "$list" ]; then
        echo ',' >>"$list"
    fi
    printf '{"command": %s, "seconds": %d, "exit_code": %d, "result": %s}\n' \
        "$(json_string "$name")" $((SECONDS - start)) "$code" "$result" >>"$list"
    [ "$code" -eq 0 ]
}

# Figures of the probe, and what a reader of the text wants to know of the device.
report_device() {
    if ! "$build/clmla_device_probe" ${platform:+"$platform" "$device"} \
        >"$work/probe" 2>"$work/err"; then
        note_error "device probe: $(tail -n 1 "$work/err")"
        echo null >"$work/probe"
        return 1
    fi
    platform=$(json_field "$work/probe" platform_index)
    device=$(json_field "$work/probe" device_index)
    device_options=(--platform "$platform" --device "$device")
    grep -v '"extensions"' "$work/probe" | sed '/^[{}]/d; s/["{}]//g; s/,$//' |
        tee -a "$text" >&2
}

run_all() {
    local golden=$root/tests/golden model projection
    local small=("$golden"/[01]*.safetensors "$golden"/2[0-8]*.safetensors)
    local large=("$golden"/29*.safetensors "$golden"/3*.safetensors)
    if $reduced; then
        say ''
        say 'This is a CPU: fewer runs of the benchmark, small golden files only.'
        run_part verify verify --dtype bf16 "${small[@]}"
        for model in lite r1; do
            run_part bench bench --model "$model" --warmup 1 --runs 3
        done
        return
    fi
    run_part verify verify --dtype bf16 "${small[@]}" "${large[@]}"
    for model in lite r1; do
        run_part bench bench --model "$model" --max-seconds 8
    done
    run_part verify verify --dtype f32 "${small[@]}" "${large[@]}"
    for projection in native clblast; do
        run_part verify verify --dtype bf16 --projection "$projection" "${small[@]}"
        run_part verify verify --dtype f32 --projection "$projection" "${small[@]}"
        for model in lite r1; do
            run_part bench bench --model "$model" --projection "$projection" --max-seconds 8
        done
    done
}

host_json() {
    printf '{"system": %s, "cpu": %s, "cores": %d}' "$(json_string "$(uname -srm)")" \
        "$(json_string "$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)")" "$(nproc)"
}

write_json() {
    local i
    printf '{"gpu_report": 1, "date": "%s", "commit": %s, "reduced": %s, "seconds": %d,\n' \
        "$date" "$(json_string "$commit")" "$reduced" "$SECONDS"
    printf '"host": %s,\n"probe": %s,\n' "$(host_json)" "$(cat "$work/probe")"
    printf '"devices": [%s],\n"verify": [%s],\n"bench": [%s],\n"errors": [' \
        "$(cat "$work/devices")" "$(cat "$work/verify")" "$(cat "$work/bench")"
    for i in "${!errors[@]}"; do
        [ "$i" -eq 0 ] || printf ', '
        json_string "${errors[$i]}"
    done
    printf ']}\n'
}

main() {
    date=$(date -u +%Y-%m-%d)
    commit=$(commit_name)
    reduced=false
    touch "$text" "$work"/{devices,verify,bench}
    echo null >"$work/probe"
    export POCL_AFFINITY=${POCL_AFFINITY:-1}

    say "clmla device report, $date, commit $commit"
    find_vendor_libraries
    local name=no-device
    if build_clmla; then
        say ''
        if report_device; then
            name=$(json_field "$work/probe" name | tr -cs 'A-Za-z0-9.\n' '-' | sed 's/^-*//; s/-*$//')
            if [ "$(json_field "$work/probe" type)" = cpu ]; then
                reduced=true
            fi
            run_part devices devices --measure
            run_all
        fi
    fi
    say ''
    say "${#errors[@]} errors, $SECONDS s"

    mkdir -p "$output"
    local base=$output/$name-$date-$commit
    write_json >"$base.json"
    cp "$text" "$base.txt"
    is_json "$base.json" || echo "gpu_report.sh: $base.json is not valid JSON" >&2
    echo "$base.json"
    echo "$base.txt"
    [ ${#errors[@]} -eq 0 ]
}

main
