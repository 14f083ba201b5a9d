#!/usr/bin/env bash
# One program under oclgrind: data races, uninitialised values, accesses out of bounds, diverging
# barriers, wrong API calls.
#
#   check.sh <library of host_writes.c, or none> <folder for lists> <name> <options of oclgrind...>
#       -- <program> <arguments...>
#
# oclgrind exits with the program's code whatever it finds, so its words are what fails the test; so
# does a program in which no test passed. Without the library uninitialised values are not looked
# for, and the program's own writes reach oclgrind. <folder>/<name>.kernels lists what ran.
# Optimisation is off: oclgrind 21.10 does not know every instruction of optimised code.
set -euo pipefail

library=$1 folder=$2 name=$3
shift 3
options=(--data-races --check-api --build-options -cl-opt-disable --max-errors 20)
while [ "$1" != -- ]; do
    options+=("$1")
    shift
done
shift
mkdir -p "$folder"
log=$folder/$name.log
rm -f "$folder/$name.kernels"
unset CLMLA_DEVICE
export CLMLA_PLATFORM=Oclgrind CLMLA_TEST_PLATFORM=Oclgrind CLMLA_CACHE_DIR='' CLMLA_TUNING_DIR=''
if [ "$library" != none ]; then
    options+=(--uninitialized)
    export CLMLA_OCLGRIND_KERNELS=$folder/$name.kernels
    # oclgrind preloads its OpenCL; the library has to stand in front of it.
    export CLMLA_OCLGRIND_LIBRARY=$library
    # shellcheck disable=SC2016 # that shell expands them
    set -- sh -c 'LD_PRELOAD=$CLMLA_OCLGRIND_LIBRARY:$LD_PRELOAD exec "$@"' sh "$@"
fi
status=0
oclgrind "${options[@]}" "$@" >"$log" 2>&1 || status=$?
cat "$log"

findings='Kernel: |OpenCL runtime error|FATAL|data race|ninitialized|errors generated|FAIL'
passed='^\[  PASSED  \] [1-9]| PASS$'
if [ "$status" -ne 0 ]; then
    echo "oclgrind check: the program ended with $status"
    exit 1
elif grep -qE "$findings" "$log"; then
    echo "oclgrind check: $(grep -cE "$findings" "$log") lines of findings"
    exit 1
elif ! grep -qE "$passed" "$log"; then
    echo 'oclgrind check: no test passed'
    exit 1
fi
