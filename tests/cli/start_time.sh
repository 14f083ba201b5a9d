#!/usr/bin/env bash
# start_time.sh CLMLA SECONDS: a bench process from start to end once its programs are compiled, the
# best of five after two, with the driver's cache alone and with one of clmla's. Fails over SECONDS,
# but where the processor was busy with something else.
set -euo pipefail

clmla=$1
limit_ms=$(awk -v s="$2" 'BEGIN {print int(s * 1000)}')
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
TIMEFORMAT='%R %U %S'

start() {
    "$clmla" bench --model lite --case decode --projection native --check off --warmup 0 --runs 1 \
        >"$folder/output" 2>"$folder/errors" || {
        cat "$folder/errors" >&2
        return 1
    }
}

failed=false
busy=false
for cache in '' "$folder/cache"; do
    export CLMLA_CACHE_DIR=$cache CLMLA_TUNING_DIR=""
    start
    start
    : >"$folder/times"
    for _ in 1 2 3 4 5; do
        { time start; } 2>>"$folder/times"
    done
    # milliseconds on the clock, and of processor time
    best=$(sort -n "$folder/times" | awk 'NR == 1 {print int($1 * 1000), int(($2 + $3) * 1000)}')
    read -r ms processor_ms <<<"$best"
    who="the driver's cache"
    [ -z "$cache" ] || who="clmla's cache and the driver's"
    echo "$who: $ms ms, $processor_ms ms of processor time, at most $limit_ms ms"
    if [ "$ms" -gt "$limit_ms" ]; then
        if [ "$processor_ms" -gt "$limit_ms" ]; then failed=true; else busy=true; fi
    fi
done
if $failed; then exit 1; fi
if $busy; then echo "skipped: the machine is busy, load $(cut -d' ' -f1-3 /proc/loadavg)"; fi
