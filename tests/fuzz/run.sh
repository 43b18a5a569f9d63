#!/bin/bash
# Builds the fuzzers (preset fuzz: clang-16, address and undefined-behaviour sanitizers) and runs each of them.
#
#   tests/fuzz/run.sh [SECONDS] [TARGET...]    SECONDS per target (default 60); all targets by default
#
# What a run learns stays in build/fuzz/corpus/TARGET; the seeds in tests/fuzz/corpus are only read. A crash leaves its
# input in build/fuzz/crashes and makes the exit status 1. Two targets run at a time.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

seconds=${1:-60}
shift || true
targets=("$@")
if ((${#targets[@]} == 0)); then targets=(safetensors index config doctor gguf tokenizer sentencepiece recipe template calibration); fi
binaries=("${targets[@]/%/_fuzz}")

mkdir -p build
cmake --preset fuzz >build/fuzz.configure.log 2>&1 || { cat build/fuzz.configure.log >&2; exit 1; }
cmake --build --preset fuzz -j "$(nproc)" --target "${binaries[@]}" || exit 1
mkdir -p build/fuzz/crashes

run() {  # run TARGET
  local log="build/fuzz/$1.log" learned="build/fuzz/corpus/$1"
  mkdir -p "$learned"
  # -timeout: one input may take 10 seconds (sanitized); -rss_limit_mb: and 2 GiB.
  "build/fuzz/tests/$1_fuzz" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=65536 \
    -print_final_stats=1 -artifact_prefix="build/fuzz/crashes/$1-" \
    "$learned" "tests/fuzz/corpus/$1" >"$log" 2>&1
  local status=$?
  local executed
  executed=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  if ((status == 0)); then
    echo "$1: ok, ${executed:-0} inputs in $seconds s"
  else
    echo "$1: FAILED, see $log"
    tail -n 25 "$log"
  fi
  return $status
}

failed=0
for ((i = 0; i < ${#targets[@]}; i += 2)); do
  pids=()
  for target in "${targets[@]:i:2}"; do
    run "$target" &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
done
exit $failed
