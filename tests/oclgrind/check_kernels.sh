#!/usr/bin/env bash
# Every kernel of cl/ ran under oclgrind, or not_simulated.txt says why not.
#
#   check_kernels.sh <cl folder> <not_simulated.txt> <lists of check.sh...>
set -euo pipefail

cl=$1 exceptions=$2
shift 2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

complain() { # <words> <file of names>
    while read -r line; do
        echo "$line: $1"
        failed=1
    done <"$2"
}

(cd "$cl" && find . -name '*.cl' | sed 's|^\./||') | while read -r file; do
    tr '\n' ' ' <"$cl/$file" |
        grep -oE '\bkernel (__attribute__\(\([a-z_]+\([^)]*\)\)\) )?void +\w+ *\(' |
        sed -E "s|.* (\w+) *\(\$|$file \1|"
done | sort -u >"$work/kernels"
sort -u "$@" >"$work/ran"
grep -vE '^(#|$)' "$exceptions" |
    awk '{sub(/:$/, "", $2); print $1, $2}' | sort -u >"$work/exceptions"

comm -23 "$work/kernels" <(sort -u "$work/ran" "$work/exceptions") >"$work/missing"
complain 'neither ran nor is in not_simulated.txt' "$work/missing"
comm -12 "$work/exceptions" "$work/ran" >"$work/both"
complain 'ran, although not_simulated.txt has it' "$work/both"
comm -23 "$work/exceptions" "$work/kernels" >"$work/gone"
complain 'in not_simulated.txt, but no kernel' "$work/gone"

grep -vE '^(#|$)' "$exceptions" | sed 's/^/skipped: /'
echo "$(comm -12 "$work/kernels" "$work/ran" | wc -l) of $(wc -l <"$work/kernels") kernels ran"
exit "$failed"
