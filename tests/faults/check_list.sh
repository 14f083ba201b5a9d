#!/bin/sh
# check_list.sh <library> <function...>: fails unless these are all of OpenCL and CLBlast that the
# library refers to.
library=$1
shift
wanted=$(nm -u "$library" | sed -n 's/^ *U \(cl[A-Z][A-Za-z]*\|CLBlast[A-Za-z]*\).*/\1/p' | sort -u)
wrapped=$(printf '%s\n' "$@" | sort -u)
[ "$wanted" = "$wrapped" ] && exit 0
echo "the library refers to one list, faults are in the other:"
printf '%s\n' "$wanted" >"${TMPDIR:-/tmp}/wanted.$$"
printf '%s\n' "$wrapped" | diff "${TMPDIR:-/tmp}/wanted.$$" -
rm -f "${TMPDIR:-/tmp}/wanted.$$"
exit 1
