#!/usr/bin/env bash
# Installs what is missing, builds clmla in build/ and runs its benchmark.
#
#   tools/quickstart.sh [options of clmla bench]     e.g. --model r1 --device 0
#
# Can be run again at any time: what is installed or built already is kept.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

case "${1:-}" in
-h | --help)
    sed -n '2,6s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac

"$root/tools/deps.sh" build
"$root/tools/deps.sh" run

cd "$root"
# The tests need packages of their own; a build directory that exists keeps what it has.
options=()
if [ ! -e build/CMakeCache.txt ]; then
    options=(-DCLMLA_BUILD_TESTS=OFF)
fi
cmake --preset release "${options[@]}" >/dev/null
# A build prints a line a file: shown only when it fails.
echo "quickstart.sh: building in $root/build"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! cmake --build build --parallel "$(nproc)" >"$log" 2>&1; then
    cat "$log" >&2
    exit 1
fi

echo "quickstart.sh: build/clmla bench $*"
build/clmla bench "$@"
