#!/usr/bin/env bash
# Compares clmla with OpenBLAS (through numpy) and, where python3 can import it, PyTorch.
#
#   tools/compare.sh [options]
#
#   --quick                one alternation instead of five
#   --rounds N             so many alternations
#   --models lite,r1       the models to measure; default both
#   --build FOLDER         where clmla was built; default build
#   --output FOLDER        keeps the measured JSON there
#   --torch-device D       device of PyTorch: cpu (default), cuda, none (leaves PyTorch out)
#   --wrap "COMMAND"       goes before every timed command, such as "flock FILE"
#
# First all must agree: every program computes the golden cases 29 to 32 within the files' bounds.
# Then one program runs at a time, in turn; the tables show ratios of medians, with the targets.
# The machine should be idle. PYTHON names another interpreter than /usr/bin/python3 for numpy and
# OpenBLAS, TORCH_PYTHON one for PyTorch (default: the same), such as that of a virtual environment:
# python3 -m venv V && V/bin/pip install numpy torch.
# The clmla device is the default one; CLMLA_PLATFORM and CLMLA_DEVICE choose another.
# Exit code: 0 measured, also where a target is missed; 1 something failed or did not agree.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
peers=$root/tools/peers
build=$root/build
rounds=5
models=lite,r1
output=''
torch_device=cpu
wrap=()

usage() { sed -n '2,21s/^# \{0,1\}//p' "$0"; }

while [ $# -gt 0 ]; do
    case "$1" in
    --quick) rounds=1 && shift && continue ;;
    -h | --help) usage && exit 0 ;;
    --rounds) rounds=${2:-} ;;
    --models) models=${2:-} ;;
    --build) build=${2:-} ;;
    --output) output=${2:-} ;;
    --torch-device) torch_device=${2:-} ;;
    --wrap) read -r -a wrap <<<"${2:-}" ;;
    *) usage >&2 && exit 2 ;;
    esac
    shift 2 || { usage >&2 && exit 2; }
done
if [[ ! $rounds =~ ^[1-9][0-9]*$ ]] || [[ ! ,$models, =~ ^,(lite,|r1,)+$ ]]; then
    echo "compare.sh: --rounds is a number from 1, --models lite, r1 or lite,r1" >&2
    exit 2
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
results=${output:-$work/results}
mkdir -p "$results" "$work/data"
rm -f "$results"/*.json

python=${PYTHON:-}
if [ -z "$python" ]; then
    python=/usr/bin/python3
    [ -x "$python" ] || python=python3
fi

torch_python=${TORCH_PYTHON:-$python}

fail() {
    echo "compare.sh: $*" >&2
    exit 1
}

[ -x "$build/clmla" ] || fail "$build/clmla is missing; tools/quickstart.sh builds it"
"$python" -c 'import numpy' 2>/dev/null ||
    fail "$python cannot import numpy: tools/deps.sh peers, or set PYTHON"

# All cores for each program. OpenMP's binding would put the peers' other threads, which inherit
# the first one's, on one core; threads that spin would take time from them.
export POCL_AFFINITY=${POCL_AFFINITY:-1} OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
export PYTHONDONTWRITEBYTECODE=1
unset OPENBLAS_NUM_THREADS OMP_NUM_THREADS OMP_PROC_BIND

# Debian's PyTorch multiplies float32 with the system's BLAS: one that shares its OpenMP threads.
shared_blas=$(find /usr/lib -maxdepth 2 -type d -name openblas-openmp 2>/dev/null | head -n 1)

# run_program <name> <json> <arguments...>
run_program() {
    local name=$1 json=$results/$2
    shift 2
    case "$name" in
    auto | off)
        "${wrap[@]}" "$build/clmla" "$@" --matrix-units "$name" --format json >"$json" 2>"$work/err"
        ;;
    openblas)
        "${wrap[@]}" "$python" "$peers/openblas_mla.py" "$@" >"$json" 2>"$work/err"
        ;;
    torch-*)
        "${wrap[@]}" env LD_LIBRARY_PATH="${shared_blas:+$shared_blas:}${LD_LIBRARY_PATH:-}" \
            "$torch_python" "$peers/torch_mla.py" --device "$torch_device" --dtype "${name#torch-}" \
            "$@" >"$json" 2>"$work/err"
        ;;
    esac || {
        cat "$work/err" >&2
        fail "$name failed: $*"
    }
}

check_agreement() {
    local name golden=()
    case ",$models," in *,lite,*) golden+=("$root"/tests/golden/{29,30}_*.safetensors) ;; esac
    case ",$models," in *,r1,*) golden+=("$root"/tests/golden/{31,32}_*.safetensors) ;; esac
    local wrap=() # nothing is timed
    for name in "${names[@]}"; do
        echo "compare.sh: golden cases, $name" >&2
        case "$name" in
        auto | off) run_program "$name" "agreement.$name.json" verify "${golden[@]}" ;;
        *) run_program "$name" "agreement.$name.json" --golden "${golden[@]}" ;;
        esac
    done
}

measure_device() {
    "${wrap[@]}" "$build/clmla" devices --measure --format json >"$results/devices-$1.json"
}

# measure <name> <model> <round>; layers: enough for the weights to exceed the caches
measure() {
    local name=$1 model=$2 round=$3 layers=8 check=off try
    [ "$model" = lite ] || layers=1
    [ "$round" -gt 1 ] || check=sample
    echo "compare.sh: round $round of $rounds, $model, $name" >&2
    local common=(--model "$model" --layers "$layers" --warmup 2 --runs 10 --max-seconds 5)
    case "$name" in
    auto | off)
        local options=(bench "${common[@]}" --mode batched --stages --check "$check")
        run_program "$name" "$name.$model.$round.json" "${options[@]}"
        # Memory may be shared with other machines: its bandwidth before and after counts.
        for try in 1 2 3; do
            measure_device "$name-$model-$round-$try-before"
            run_program "$name" "$name.$model.$round-$try.json" "${options[@]}" --case decode \
                --seqlens 1 --pastlens 50
            measure_device "$name-$model-$round-$try-after"
        done
        ;;
    *)
        run_program "$name" "$name.$model.$round.json" "${common[@]}" \
            --case prefill,decode,decode-1 --data "$work/data"
        ;;
    esac
}

names=(auto off openblas)
if [ "$torch_device" = none ]; then
    echo "compare.sh: PyTorch is left out" >&2
elif "$torch_python" -c 'import torch, numpy' 2>/dev/null; then
    names+=(torch-bf16 torch-f32)
else
    echo "compare.sh: $torch_python cannot import torch and numpy, PyTorch is skipped" >&2
fi

check_agreement
for ((round = 1; round <= rounds; round++)); do
    for model in ${models//,/ }; do
        for name in "${names[@]}"; do
            measure "$name" "$model" "$round"
        done
    done
done
load=$(cut -d ' ' -f 1 /proc/loadavg 2>/dev/null || echo unknown)
cores=$(nproc 2>/dev/null || echo unknown)
commit=$(git -C "$root" rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
cpu=$(sed -n 's/^model name.*: //p' /proc/cpuinfo 2>/dev/null | head -n 1)
echo "tools/compare.sh, $(date -u +%Y-%m-%d), commit $commit, ${cpu:-unknown CPU}, $cores cores," \
    "load at the end $load"
echo
"$python" "$peers/ratios.py" "$results"
