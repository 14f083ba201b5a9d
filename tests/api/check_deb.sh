#!/usr/bin/env bash
# Builds the .deb, installs it in a directory that stands for a machine's root, runs what is there
# and removes it again. The machine itself stays as it is.
#
#   check_deb.sh BUILD WORK
set -euo pipefail

build=$1 work=$2/deb
root=$work/root

skip() {
    echo "skipped: $*"
    exit 0
}

fail() {
    echo "check_deb.sh: $*" >&2
    exit 1
}

# The packages that are installed on this machine satisfy dependencies; dpkg then warns that it does
# not know their files.
run_dpkg() {
    "${as_root[@]}" dpkg --root="$root" --log=/dev/null "$@" >"$work/dpkg.log" 2>&1 || {
        grep -v 'files list file for package' "$work/dpkg.log" >&2
        fail "dpkg $* failed"
    }
}

# What is in the root beside dpkg's own notes.
installed() {
    find "$root" -mindepth 1 -path "$root/var" -prune -o -mindepth 1 -printf '%P\n'
}

for tool in dpkg dpkg-deb dpkg-shlibdeps; do
    command -v "$tool" >/dev/null || skip "$tool is not installed"
done
PATH=$PATH:/usr/sbin:/sbin # dpkg looks for ldconfig
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    command -v fakeroot >/dev/null || skip "neither root nor fakeroot"
    as_root=(fakeroot)
fi

rm -rf "$work"
mkdir -p "$root"/var/lib/dpkg/{info,updates,triggers}
cp /var/lib/dpkg/status "$root/var/lib/dpkg/status"

cpack --config "$build/CPackConfig.cmake" -G DEB -B "$work" >"$work/cpack.log" 2>&1 || {
    cat "$work/cpack.log" >&2
    fail 'cpack failed'
}
package=$(find "$work" -maxdepth 1 -name 'clmla_*.deb')
[ -f "$package" ] || fail 'cpack made no clmla_*.deb'
depends=$(dpkg-deb --field "$package" Depends)
echo "$(basename "$package"): depends on $depends"
for library in libclblast1 libjansson4 libpopt0 'libopencl1\|ocl-icd-libopencl1' libc6; do
    grep -qw "$library" <<<"$depends" || fail "no dependency on $library"
done
if command -v lintian >/dev/null; then
    options=()
    [ "$(id -u)" -ne 0 ] || options=(--allow-root)
    lintian "${options[@]}" --fail-on error "$package"
else
    echo 'lintian is not installed'
fi

run_dpkg --install "$package"
[ "$(dpkg-query --admindir="$root/var/lib/dpkg" -W -f '${Status}' clmla)" = "install ok installed" ]
program=$root/usr/bin/clmla
library=$(find "$root/usr/lib" -name 'libclmla.so.*' -type f)
export LD_LIBRARY_PATH=${library%/*}
grep -qF "$LD_LIBRARY_PATH/libclmla.so" <<<"$(ldd "$program")" || fail 'the program takes another libclmla'
[ "$("$program" --version)" = "clmla $(dpkg-deb --field "$package" Version | sed 's/-.*//')" ]
"$program" devices
for file in "$root"/usr/{include/clmla.h,include/clmla_ops.h,share/man/man1/clmla.1.gz,share/doc/clmla/copyright} \
    "$root/usr/share/bash-completion/completions/clmla"; do
    [ -f "$file" ] || fail "$file was not installed"
done

run_dpkg --purge clmla
left=$(installed)
[ -z "$left" ] || fail "left after removal: $left"
