#!/usr/bin/env bash
# A small command of the program under valgrind: any error, and any memory definitely lost, fails.
#
#   check.sh <clmla> <folder to work in> <arguments of clmla...>
#
# On PoCL alone: other drivers have findings of their own. valgrind shows programs a CPU without
# AVX-512, and PoCL compiles for that one; so its cache, which natively built kernels must not enter,
# is a folder of its own, and clmla's is off.
set -euo pipefail

program=$1 work=$2
shift 2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
icd=(/etc/OpenCL/vendors/pocl*.icd)
if [ ! -e "${icd[0]}" ]; then
    echo 'skipped: PoCL is not installed'
    exit 0
fi
mkdir -p "$work/vendors" "$work/pocl-cache"
cp "${icd[@]}" "$work/vendors/"
unset CLMLA_PLATFORM CLMLA_DEVICE
export OCL_ICD_VENDORS=$work/vendors POCL_CACHE_DIR=$work/pocl-cache POCL_AFFINITY=1
export CLMLA_CACHE_DIR='' CLMLA_TUNING_DIR=''
cat >"$work/tiny.json" <<'JSON'
{"hidden_size": 64, "num_attention_heads": 4, "q_lora_rank": null, "kv_lora_rank": 32,
 "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16, "rms_norm_eps": 1e-6,
 "rope_theta": 10000.0, "max_position_embeddings": 4096}
JSON
cd "$work"
exec valgrind --quiet --error-exitcode=9 --leak-check=full --show-leak-kinds=definite \
    --errors-for-leak-kinds=definite --num-callers=60 --suppressions="$here/drivers.supp" \
    "$program" "$@"
