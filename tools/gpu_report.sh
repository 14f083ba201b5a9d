#!/usr/bin/env bash
# Measures a device and writes one JSON and one text report:
#   tools/reports/<device>-<date>-<commit>.{json,txt}
#
#   tools/gpu_report.sh [--platform I --device J] [--build FOLDER] [--output FOLDER] [--seconds S]
#                       [--full] [--ptx FOLDER]
#
#   --platform, --device   indices as `clmla devices` prints them; both or none. Default: the first
#                          GPU, else the first device
#   --build                default build-report
#   --output               default tools/reports
#   --seconds              of the whole on a GPU, default 460; parts are left out when they are over
#   --full                 on a CPU, too, all that a GPU gets, in as many seconds
#   --ptx                  what tools/gpu_report/build_ptx.sh wrote on a machine with clang, for one
#                          without; default ptx/ in the build folder, made anew where clang is
#
# With NVIDIA's driver but no OpenCL GPU it measures class nvidia's kernels through the CUDA driver
# API instead (cuda_harness.c), in a section of the report that says so; where both are, after all
# else. That part needs a C compiler and the PTX only.
#
# What matters most comes first, each part has a time limit of its own, and the report is written
# anew after each: launch costs and bandwidth, what NVIDIA's driver takes (nvidia_probe.c), verify,
# bench with each backend and kernel class, a sweep of attention, and PyTorch's layer, eager and as
# CUDA graph, where python3 (TORCH_PYTHON names another) has it with CUDA.
# Builds with what the machine has: CMAKE_PREFIX_PATH names libraries in other places. Finds a
# vendor's OpenCL library that is not registered in /etc/OpenCL/vendors. CLMLA_COMMIT names the
# commit when this is no git checkout. A step that fails is reported and the rest goes on; the exit
# code is then 1. A CPU gets fewer runs.
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=$root/build-report
output=$root/tools/reports
device_options=()
limit_s=460
full=false
ptx=
torch_python=${TORCH_PYTHON:-python3}

usage() { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '$d'; }

platform='' device=''
while [ $# -gt 0 ]; do
    case "$1" in
    --full) full=true && shift && continue ;;
    --seconds) limit_s=${2:-} ;;
    --platform) platform=${2:-} ;;
    --device) device=${2:-} ;;
    --build) build=${2:-} ;;
    --output) output=${2:-} ;;
    --ptx) ptx=${2:-} ;;
    -h | --help) usage && exit 0 ;;
    *) usage >&2 && exit 2 ;;
    esac
    shift 2 || { usage >&2 && exit 2; }
done
if [[ ! $platform$device =~ ^[0-9]*$ ]] || [[ ! $limit_s =~ ^[1-9][0-9]*$ ]] ||
    [ "${platform:+x}" != "${device:+x}" ]; then
    echo "gpu_report.sh: --platform and --device are two indices, given together, --seconds a" \
        "number" >&2
    exit 2
fi

[[ $build == /* ]] || build=$PWD/$build
[[ $output == /* ]] || output=$PWD/$output
[[ -z $ptx || $ptx == /* ]] || ptx=$PWD/$ptx
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
text=$work/report.txt
errors=() skips=()

say() { echo "$*" | tee -a "$text" >&2; }

# What was left out, for a reason that is no failure.
note_skip() {
    skips+=("$1")
    say "SKIPPED: $1"
}

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
    tr -d '\n' <"$1" | tr -s ' ' |
        sed -E 's/\{ *"stage": *"([^"]*)", *"median_ms": *([^ }]*) *\},?/\1 \2/g' |
        sed -E 's/^.*"(results|devices)": *\[//' |
        sed 's/} *, *{/}\n{/g; s/\][] }]*$//' |
        sed 's/, *\("[^"]*" *:\)/  \1/g; s/["{}]//g; s/: */=/g; s/^[[ ]*/  /; s/ *$//'
    echo
}

# pick_fields <list>: of json_rows' lines those fields alone, in that order; all where the list is
# empty.
pick_fields() {
    awk -F '  +' -v list="$1" '
        BEGIN { count = split(list, keys, " ") }
        count == 0 { print; next }
        {
            split("", found)
            for (i = 1; i <= NF; i++) {
                split($i, part, "=")
                found[part[1]] = $i
            }
            line = ""
            for (i = 1; i <= count; i++)
                if (keys[i] in found)
                    line = line "  " found[keys[i]]
            if (line != "")
                print line
        }'
}

commit_name() {
    if [ -n "${CLMLA_COMMIT:-}" ]; then
        echo "$CLMLA_COMMIT"
    elif ! git -C "$root" rev-parse --short=12 HEAD 2>/dev/null; then
        echo unknown
    fi
}

# find_library <name>: where the loader or a usual place of drivers has it; nothing where none has.
find_library() {
    local folder folders
    IFS=: read -ra folders <<<"${LD_LIBRARY_PATH:-}"
    {
        for folder in "${folders[@]}"; do
            [ ! -f "$folder/$1" ] || echo "$folder/$1"
        done
        ldconfig -p 2>/dev/null | sed -n "s|^.*$1 .*=> ||p"
        find /usr/local/nvidia /usr/lib /usr/lib64 /usr/local/lib /opt -name "$1" 2>/dev/null
    } | head -n 1
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
        path=$(find_library "$name")
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

# Without CMake's help: a probe needs an OpenCL library and its headers only.
compile_probe() {
    local name=$1 folder flags=()
    shift
    for folder in $(tr ':;' '  ' <<<"${CMAKE_PREFIX_PATH:-} ${CUDA_PATH:-}"); do
        flags+=(-I"$folder/include" -L"$folder/lib" -L"$folder/lib64"
            "-Wl,-rpath,$folder/lib" "-Wl,-rpath,$folder/lib64")
    done
    mkdir -p "$build" &&
        "${CC:-cc}" -std=c11 -O2 -DCL_TARGET_OPENCL_VERSION=120 "${flags[@]}" \
            -o "$build/clmla_$name" "$@" -lOpenCL -lm
}

build_all() {
    local log=$work/build.log name ok=true
    if [ -z "${CUDA_PATH:-}" ] && [ -d /usr/local/cuda ]; then
        export CUDA_PATH=/usr/local/cuda # FindOpenCL looks there for headers and library
    fi
    if ! { cmake -S "$root" -B "$build" -DCMAKE_BUILD_TYPE=Release -DCLMLA_BUILD_TESTS=OFF &&
        cmake --build "$build" --parallel "$(nproc)" --target clmla-cli; } >"$log" 2>&1; then
        tail -n 40 "$log" >&2
        note_error "build: $(grep -m 1 -i 'error' "$log")"
        ok=false
    fi
    for name in device_probe nvidia_probe; do
        cmake --build "$build" --target "clmla_$name" >"$log" 2>&1 ||
            compile_probe "$name" "$root/tools/gpu_report/$name"*.c \
                "$root/tools/gpu_report/report_common.c" >>"$log" 2>&1 ||
            note_error "build of $name: $(grep -m 1 -i 'error' "$log")"
    done
    $ok
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
        "$root"/*) words+=("${word#"$root"/}") ;;
        "$work"/*) words+=("${word#"$work"/}") ;;
        *) words+=("$word") ;;
        esac
    done
    if [ "$files" -gt 0 ]; then
        words+=("($files golden files)")
    fi
    echo "${words[*]}"
}

# limit_of <seconds> <kept>: what a part may take, so that `kept` seconds are left for later ones.
limit_of() {
    local left=$(($(seconds_left) - $2))
    echo $((left < $1 ? left : $1))
}

# record <list> <seconds> <kept> <name> <fields> <command...>: runs the command, at most so long;
# appends {"command", "seconds", "exit_code", "result"} to the JSON list in $work/<list>, and the
# fields of the result's rows to the text.
record() {
    local list=$work/$1 out=$work/out err=$work/err start=$SECONDS code limit result
    local name=$4 fields=$5
    limit=$(limit_of "$2" "$3")
    shift 5
    if [ "$limit" -lt 5 ]; then
        note_skip "$name: not run, the time of this script is over"
        return 1
    fi
    say ''
    say "$ $name"
    timeout --kill-after=5 "$limit" "$@" >"$out" 2>"$err"
    code=$?
    result=null
    if is_json "$out"; then
        result=$(cat "$out")
        json_rows "$out" | pick_fields "$fields" | tee -a "$text" >&2
    fi
    if [ "$code" -eq 124 ] || [ "$code" -eq 137 ]; then
        note_error "$name: ended after $limit s"
    elif [ "$code" -ne 0 ]; then
        note_error "$name: exit code $code: $(tail -n 1 "$err")"
    elif [ "$result" = null ]; then
        note_error "$name: no valid JSON on stdout"
    fi
    if [ -s "$list" ]; then
        echo ',' >>"$list"
    fi
    printf '{"command": %s, "seconds": %d, "exit_code": %d, "result": %s}\n' \
        "$(json_string "$name")" $((SECONDS - start)) "$code" "$result" >>"$list"
    write_report
    [ "$code" -eq 0 ]
}

# run_part <list> <seconds> <arguments of clmla...>
run_part() {
    local list=$1 seconds=$2
    shift 2
    record "$list" "$seconds" 0 "clmla $(short_command "$@")" '' \
        "$build/clmla" "$@" --format json "${device_options[@]}"
}

# Figures of the probe, and what a reader of the text wants to know of the device.
report_device() {
    if ! timeout --kill-after=5 60 "$build/clmla_device_probe" ${platform:+"$platform" "$device"} \
        >"$work/probe" 2>"$work/err"; then
        note_error "device probe: $(tail -n 1 "$work/err")"
        echo null >"$work/probe"
        [ -z "$platform" ] || device_options=(--platform "$platform" --device "$device")
        # not by a pipe, whose writer fails where grep has seen enough
        [[ "$("$build/clmla" devices --format json 2>/dev/null)" == *'"type": "gpu"'* ]] || reduced=true
        return 1
    fi
    platform=$(json_field "$work/probe" platform_index)
    device=$(json_field "$work/probe" device_index)
    device_options=(--platform "$platform" --device "$device")
    case $(json_field "$work/probe" type) in
    cpu) reduced=true ;;
    gpu) opencl_gpu=true ;;
    esac
    device_name=$(json_field "$work/probe" name | tr -cs 'A-Za-z0-9.\n' '-' | sed 's/^-*//; s/-*$//')
    grep -v '"extensions"' "$work/probe" | sed '/^[{}]/d; s/["{}]//g; s/,$//' |
        tee -a "$text" >&2
}

# What NVIDIA's driver takes. The text leaves out the single measurements.
report_nvidia() {
    local limit
    limit=$(limit_of 90 0)
    say ''
    say '$ nvidia_probe'
    timeout --kill-after=5 $((limit + 5)) "$build/clmla_nvidia_probe" --root "$root" \
        --seconds $((limit - 30)) ${platform:+"$platform" "$device"} \
        >"$work/nvidia_probe" 2>"$work/err"
    local code=$?
    if ! is_json "$work/nvidia_probe"; then
        note_error "nvidia_probe: exit code $code: $(tail -n 1 "$work/err")"
        echo null >"$work/nvidia_probe"
    else
        sed -E 's/, "rows": \[[^]]*\]//g; /^[{}]$/d; s/["{}]//g; s/,$//' "$work/nvidia_probe" |
            tee -a "$text" >&2
    fi
    write_report
}

# The PTX for cuda_harness, in $ptx.
find_ptx() {
    local said
    [ -z "$ptx" ] || return 0
    ptx=$build/ptx
    said=$("$root/tools/gpu_report/build_ptx.sh" "$ptx" 2>&1) || {
        note_error "PTX: $(tail -n 1 <<<"$said")"
        return 1
    }
    if [ ! -f "$ptx/manifest" ]; then
        note_skip "cuda_harness: not run, no --ptx, and none can be built here: $said"
        return 1
    fi
}

# report_cuda <seconds> <kept>: class nvidia's kernels through the CUDA driver API, where there is
# NVIDIA's driver with a device.
report_cuda() {
    local library harness=$build/clmla_cuda_harness name limit
    library=$(find_library libcuda.so.1)
    [ -n "$library" ] || return 0
    mkdir -p "$build"
    if ! "${CC:-cc}" -std=c11 -O2 -o "$harness" "$root"/tools/gpu_report/cuda_*.c \
        "$root/tools/gpu_report/report_common.c" -ldl -lm 2>"$work/err"; then
        note_error "build of cuda_harness: $(grep -m 1 -i 'error' "$work/err")"
        return
    fi
    local run=(env "LD_LIBRARY_PATH=$(dirname "$library")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
        "CLMLA_COMMIT=$commit" "$harness")
    if ! name=$(timeout --kill-after=5 60 "${run[@]}" --device 2>"$work/err"); then
        note_skip "cuda_harness: not run: $(tail -n 1 "$work/err")"
        return
    fi
    find_ptx || return
    if [ "$device_name" = unknown-device ]; then
        device_name=$(tr -cs 'A-Za-z0-9.\n' '-' <<<"$name")-cuda
    fi
    limit=$(limit_of "$1" "$2")
    record cuda "$1" "$2" 'cuda_harness: CUDA driver API, not OpenCL' "kind kernel program heads \
batch context splits matrix rows verified error_of_bound registers local_bytes stack_bytes bytes \
median_us without_merge_us dependent_us enqueue_us round_trip_us gb_per_s tflop_per_s skipped error" \
        "${run[@]}" --seconds $((limit > 40 ? limit - 30 : 10)) "$ptx" # checks come on top
}

# Each backend, then class gpu beside nvidia (which a run before has verified).
bench_backends() {
    local model check=sample
    local bench=(bench --mode batched --stages)
    for model in lite r1; do
        run_part bench 70 "${bench[@]}" --model "$model" --projection native,clblast --max-seconds 4
    done
    for model in lite r1; do
        run_part bench 40 "${bench[@]}" --model "$model" --kernels gpu --max-seconds 3
        run_part bench 40 "${bench[@]}" --model "$model" --kernels nvidia --max-seconds 3 \
            --check "$check"
        check=off
    done
}

# What is off by default: kernels for sm_90a, which prefill and attention of many heads take, and
# decoding in one launch, verified first on cases whose truth is stored; and a cache of FP8 records.
bench_options() {
    local golden=$root/tests/golden model
    run_part verify 90 verify --dtype bf16 --sm-90a "$golden"/29*.safetensors \
        "$golden"/3[12]*.safetensors
    run_part bench 40 bench --mode batched --stages --case prefill --model lite --sm-90a \
        --max-seconds 3 --check off
    run_part bench 60 bench --mode batched --stages --model r1 --sm-90a --max-seconds 3 --check off
    sweep_part 40 0 128 1,128 4096 --check off --sm-90a
    run_part bench 40 bench --mode batched --stages --case decode --model r1 --cache-dtype fp8 \
        --max-seconds 3 --check off
    run_part verify 60 verify --dtype bf16 --one-launch "$golden"/30*.safetensors "$golden"/32*.safetensors
    for model in lite r1; do
        run_part bench 40 bench --mode batched --case decode --model "$model" --one-launch \
            --max-seconds 3
    done
}

# Weights of eight layers come from memory as a whole model's do; a shard of eight. The reference
# would take minutes for r1's eight layers: its rows say that they are not verified.
bench_layers() {
    local bench=(bench --mode batched --stages --max-seconds 3)
    run_part bench 40 "${bench[@]}" --model lite --layers 8
    run_part bench 40 "${bench[@]}" --model r1 --tp 8
    run_part bench 40 "${bench[@]}" --model r1 --tp 8 --layers 8
    run_part bench 60 "${bench[@]}" --model r1 --layers 8 --check off
}

# sweep_part <seconds> <kept> <heads> <batch> <contexts> [<more options...>]
sweep_part() {
    local options=(bench --sweep --stages --runs 20 --warmup 3 --max-seconds 3 --heads "$3"
        --batches "$4" --contexts "$5" "${@:6}")
    record sweep "$1" "$2" "clmla ${options[*]}" "heads batch context kernels runs median_ms \
gb_per_s gflop_per_s attention_ms attention_gb_per_s attention_gflop_per_s max_rel_error" \
        "$build/clmla" "${options[@]}" --format json "${device_options[@]}"
}

# sweep_parts <heads> <batch> <kept>: three contexts. Many heads over the longest one are not
# verified: the reference would take longer than all else.
sweep_parts() {
    local check=()
    [ "$1" -le 16 ] || check=(--check off)
    sweep_part 40 "$3" "$1" "$2" 1024,4096
    sweep_part 40 "$3" "$1" "$2" 16384 "${check[@]}"
}

report_torch() {
    local model how
    if ! timeout --kill-after=5 60 "$torch_python" -c \
        'import numpy, torch; assert torch.cuda.is_available()' >/dev/null 2>"$work/err"; then
        note_skip "PyTorch: not run, $torch_python has none with CUDA: $(tail -n 1 "$work/err")"
        return
    fi
    mkdir -p "$work/data"
    for model in lite r1; do
        for how in eager graph; do
            local options=(tools/peers/torch_mla.py --device cuda --model "$model" --warmup 10
                --runs 100 --max-seconds 4 --data "$work/data")
            [ "$how" = eager ] || options+=(--graph)
            record torch 60 0 "python3 $(short_command "${options[@]}")" '' \
                env PYTHONDONTWRITEBYTECODE=1 "$torch_python" "$root/${options[0]}" \
                "${options[@]:1}"
        done
    done
}

run_all() {
    local golden=$root/tests/golden model heads batch
    local small=("$golden"/[01]*.safetensors "$golden"/2[0-8]*.safetensors)
    local large=("$golden"/29*.safetensors "$golden"/3*.safetensors)
    if $reduced && ! $full; then
        say ''
        say 'This is a CPU: fewer runs of the benchmark, small golden files only.'
        run_part verify 900 verify --dtype bf16 "${small[@]}"
        for model in lite r1; do
            run_part bench 300 bench --model "$model" --warmup 1 --runs 3
        done
        sweep_part 300 0 16 1 1024
        report_torch
        return
    fi
    reduced=false
    run_part verify 60 verify --dtype bf16 "${large[@]}"
    run_part bench 60 bench --model lite --max-seconds 5
    run_part bench 90 bench --model r1 --max-seconds 3
    run_part verify 60 verify --dtype bf16 "$golden"/0*.safetensors
    run_part verify 60 verify --dtype bf16 "$golden"/1*.safetensors "$golden"/2[0-8]*.safetensors
    for heads in 16 128; do
        sweep_parts "$heads" 1 0
        sweep_parts "$heads" 32 0
    done
    bench_backends
    report_torch
    bench_options
    bench_layers
    for heads in 16 128; do
        sweep_parts "$heads" 128 40 # seconds kept for what follows
    done
    for batch in 32 1 128; do
        sweep_parts 64 "$batch" 40
    done
    run_part verify 60 verify --dtype f32 "${large[@]}"
    run_part verify 60 verify --dtype f32 "${small[@]}"
}

host_json() {
    printf '{"system": %s, "cpu": %s, "cores": %d, "nvidia_smi": %s}' \
        "$(json_string "$(uname -srm)")" \
        "$(json_string "$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)")" "$(nproc)" \
        "$(json_string "$nvidia_smi")"
}

json_strings() {
    local i=0 word
    for word in "$@"; do
        [ "$i" -eq 0 ] || printf ', '
        json_string "$word"
        i=1
    done
}

write_json() {
    printf '{"gpu_report": 1, "date": "%s", "commit": %s, "reduced": %s, "seconds": %d,\n' \
        "$date" "$(json_string "$commit")" "$reduced" "$SECONDS"
    printf '"host": %s,\n"probe": %s,\n"nvidia_probe": %s,\n' "$(host_json)" \
        "$(cat "$work/probe")" "$(cat "$work/nvidia_probe")"
    printf '"devices": [%s],\n"verify": [%s],\n"bench": [%s],\n"sweep": [%s],\n"torch": [%s],\n' \
        "$(cat "$work/devices")" "$(cat "$work/verify")" "$(cat "$work/bench")" \
        "$(cat "$work/sweep")" "$(cat "$work/torch")"
    printf '"cuda_driver_api_not_opencl": [%s],\n' "$(cat "$work/cuda")"
    printf '"skipped": [%s],\n"errors": [%s]}\n' "$(json_strings "${skips[@]}")" \
        "$(json_strings "${errors[@]}")"
}

# The report so far: it is of use, too, when this script is ended.
write_report() {
    local base=$output/$device_name-$date-$commit
    mkdir -p "$output"
    write_json >"$base.json"
    cp "$text" "$base.txt"
}

main() {
    date=$(date -u +%Y-%m-%d)
    commit=$(commit_name)
    device_name=unknown-device
    reduced=false
    opencl_gpu=false
    touch "$text" "$work"/{devices,verify,bench,sweep,torch,cuda}
    echo null >"$work/probe"
    echo null >"$work/nvidia_probe"
    export POCL_AFFINITY=${POCL_AFFINITY:-1}
    export CUDA_CACHE_PATH=${CUDA_CACHE_PATH:-$build/cuda-cache} # the home may not be writable
    export CLMLA_CACHE_DIR=${CLMLA_CACHE_DIR-$build/program-cache}

    say "clmla device report, $date, commit $commit"
    # what bounds its clocks; empty without the program
    nvidia_smi=$(timeout --kill-after=5 20 nvidia-smi --format=csv --query-gpu=name,driver_version,\
clocks.max.sm,clocks.max.mem,clocks.sm,power.limit,ecc.mode.current,persistence_mode 2>/dev/null |
        tr '\n' ';')
    [ -z "$nvidia_smi" ] || say "nvidia-smi: $nvidia_smi"
    find_vendor_libraries
    local built=true
    build_all || built=false
    say ''
    report_device
    $opencl_gpu || report_cuda 160 60
    report_nvidia
    if $built; then
        run_part devices 30 devices --measure
        run_all
    else
        report_torch
    fi
    ! $opencl_gpu || report_cuda 90 0
    say ''
    say "${#errors[@]} errors, ${#skips[@]} parts skipped, $SECONDS s"

    write_report
    local base=$output/$device_name-$date-$commit
    is_json "$base.json" || echo "gpu_report.sh: $base.json is not valid JSON" >&2
    echo "$base.json"
    echo "$base.txt"
    [ ${#errors[@]} -eq 0 ]
}

main
