#!/bin/bash
# isa_leak.sh LIBRARY NM: fails if an object of the library that is compiled for AVX2 or AVX-512
# defines a weak (inline) function: the linker might choose it for the whole program, and the program
# would then die on a machine without those instructions.
set -euo pipefail
library=$1
nm=$2
objects=$("$nm" -C "$library" 2>/dev/null | awk '
  /\.o:$/ { wide = ($0 ~ /_avx(2|512)\.cc/); if (wide) ++count; object = $0; next }
  wide && $(NF > 2 ? 2 : 1) ~ /^W$/ { print object, $0 }
  END { print "objects", count + 0 }')
count=$(printf '%s\n' "$objects" | sed -n 's/^objects //p')
leaks=$(printf '%s\n' "$objects" | grep -v '^objects ' || true)
if [ "$count" -lt 2 ]; then
  echo "expected objects for AVX2 and AVX-512 in $library, found $count" >&2
  exit 1
fi
if [ -n "$leaks" ]; then
  printf 'shared symbols compiled for wider instructions:\n%s\n' "$leaks" >&2
  exit 1
fi
