#!/usr/bin/env bash
# The embedding example in README.md is the one that is compiled and run.
#
#   check_readme.sh README.md embed.c
set -euo pipefail

readme=$1 program=$2

code=$(sed -n '/^\/\/ README begin$/,/^\/\/ README end$/p' "$program" | sed '1d;$d')
shown=$(sed -n '/^<!-- embed.c begin -->$/,/^<!-- embed.c end -->$/p' "$readme" |
    sed '1d;$d' | sed '/^```/d')

if [ -z "$code" ]; then
    echo "check_readme.sh: $program has no part between README begin and README end" >&2
    exit 1
fi
if ! diff <(echo "$shown") <(echo "$code"); then
    echo "check_readme.sh: $readme (<) shows another example than $program (>)" >&2
    exit 1
fi
