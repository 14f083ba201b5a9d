#!/usr/bin/env bash
# check.sh sees every planted fault, for what it is, and nothing where there is none.
#
#   check_planted.sh <library of host_writes.c> <folder> <planted>
set -euo pipefail

library=$1 folder=$2 planted=$3
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
failed=0

expect() { # <fault> <what check.sh says>
    local status=0 said
    said=$("$here/check.sh" "$library" "$folder" "planted_$1" -- "$planted" "$1" 2>&1) || status=$?
    if [ "$1" = none ] && [ "$status" -ne 0 ]; then
        printf '%s\n%s: nothing is wrong, and check.sh fails\n' "$said" "$1"
        failed=1
    elif [ "$1" != none ] && { [ "$status" -eq 0 ] || ! grep -q "$2" <<<"$said"; }; then
        printf '%s\n%s: check.sh ends with %s without "%s"\n' "$said" "$1" "$status" "$2"
        failed=1
    fi
}

expect none ''
expect silent 'no test passed'
expect failed 'the program ended with 1'
expect race 'data race at local memory'
expect global_race 'data race at global memory'
expect uninitialised 'Controlflow depends on uninitialized value'
expect uninitialised_local 'Uninitialized value written to global memory'
expect bounds 'Invalid write of size 4'
expect barrier 'divergence detected'
expect api 'OpenCL runtime error'
if [ "$failed" -eq 0 ]; then
    echo 'every planted fault is seen'
fi
exit "$failed"
