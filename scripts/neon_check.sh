#!/bin/sh
# Compile the lanes and the maths functions for aarch64, run them under qemu-user and compare the bits of the neon
# level with those of the serial level, on aarch64 and on this machine.
#
# usage: scripts/neon_check.sh        CXX_AARCH64, QEMU_AARCH64 and CXX name other tools
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
cross=${CXX_AARCH64:-aarch64-linux-gnu-g++}
qemu=${QEMU_AARCH64:-qemu-aarch64-static}
native=${CXX:-g++}

missing=no
need() { # program, Debian package
  if ! command -v "$1" >/dev/null 2>&1; then
    echo "neon_check: $1 is not installed; on Debian or Ubuntu: apt-get install $2" >&2
    missing=yes
  fi
}
need "$cross" g++-aarch64-linux-gnu
need "$qemu" qemu-user-static
need "$native" g++
[ "$missing" = no ] || exit 2

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

flags="-std=c++20 -O2 -Wall -Wextra -Werror -Wno-unused-function -ffp-contract=off -fno-math-errno -fno-trapping-math"
sources="scripts/neon_check.cpp csrc/levels/levels.cpp csrc/simd/simd.cpp csrc/simd/simd_serial.cpp"
cd "$root"
# shellcheck disable=SC2086  # the lists are meant to be split
"$cross" $flags -DGRADFOLD_HAVE_NEON=1 -Icsrc -static $sources csrc/simd/simd_neon.cpp -o "$work/aarch64"
# shellcheck disable=SC2086
"$native" $flags -Icsrc $sources -o "$work/native"

"$qemu" "$work/aarch64" neon >"$work/neon"
"$qemu" "$work/aarch64" serial >"$work/serial"
"$work/native" serial >"$work/here"
lines=$(wc -l <"$work/neon")
[ "$lines" -gt 400000 ] || { echo "neon_check: only $lines results were printed" >&2; exit 1; }
for other in serial here; do
  if ! cmp -s "$work/neon" "$work/$other"; then
    echo "neon_check: neon differs from $other, first in:" >&2
    diff "$work/neon" "$work/$other" | head -n 5 >&2 || true
    exit 1
  fi
done
echo "neon_check: the lanes agree with plain C++;"
echo "neon_check: $lines results have the same bits on neon, on serial (aarch64) and on serial (here)"

# Every kernel: the self-test compares neon with serial on aarch64, and its digest that serial with this machine's.
kernels() { # compiler, definition, extra files' suffix, output
  compiler=$1 definition=$2 suffix=$3 output=$4
  mkdir -p "$output.o"
  for file in csrc/selftest.cpp csrc/*/*.cpp; do
    case $file in
      csrc/bind/*) continue ;;
      *_"$suffix".cpp | *_serial.cpp) ;;
      *_x86_v3.cpp | *_x86_v4.cpp | *_neon.cpp) continue ;;
    esac
    echo "$file"
  done | xargs -P 2 -I{} sh -c "$compiler $flags -Wno-uninitialized -Wno-maybe-uninitialized $definition -Icsrc -c {} \
    -o $output.o/\$(echo {} | tr / _).o"
  "$compiler" -static "$output.o"/*.o -o "$output" -pthread
}
kernels "$cross" -DGRADFOLD_HAVE_NEON=1 neon "$work/kernels_aarch64"
kernels "$native" "" serial "$work/kernels_here"
"$qemu" "$work/kernels_aarch64" | tail -n 2 | tee "$work/kernels_neon"
"$work/kernels_here" | grep digest >"$work/digest"
grep -q -x -F -f "$work/digest" "$work/kernels_neon" || { echo "neon_check: kernels differ from this machine's" >&2; exit 1; }
grep -q ' 0 failed' "$work/kernels_neon" || exit 1
echo "neon_check: every kernel has the same bits on neon, on serial (aarch64) and on serial (here)"
