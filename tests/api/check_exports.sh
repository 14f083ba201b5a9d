#!/usr/bin/env bash
# A shared library exports exactly the functions that its public headers declare.
#
#   check_exports.sh LIBRARY HEADER...
set -euo pipefail

library=$1
shift

declared=$(grep -oh 'CLMLA_API [^;(]*(' "$@" | grep -o 'clmla_[a-z0-9_]*($' | tr -d '(' | sort)
exported=$(nm -D --defined-only "$library" | awk '{print $NF}' | sed 's/@.*//' | sort)

if [ -z "$declared" ]; then
    echo "check_exports.sh: found no declaration in $*" >&2
    exit 1
fi
if ! difference=$(diff <(echo "$declared") <(echo "$exported")); then
    echo "check_exports.sh: $* (<) and $library (>) differ:" >&2
    echo "$difference" | grep '^[<>]' >&2
    exit 1
fi
echo "$(echo "$declared" | wc -l) functions"
