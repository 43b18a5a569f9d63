#!/bin/bash
# Installs what is missing, builds Octavo and runs its tests. usage: tests/run.sh [--oracles] [--full] [--skip-ctest] [-- CTEST_ARGS...]
#
#   (nothing)     deploy/install.sh, release build, then every CTest test: real processes included, no network; where nvcc is
#                 on PATH, octavo-gpu-check is built too and its kernels' registers and spills are checked
#   --oracles     also the live oracles: every tests/oracle/check_*.py in a pinned virtual environment
#                 (build/cache/venv, made by tests/oracle/install.sh; without network that is a failure, not a skip)
#   --full        also ASan + UBSan and TSan over their tests, and tests/fuzz/run.sh; the CTest tests kill 20 jobs of each kind at
#                 random moments instead of 8, and all scratch is on a disk (TMPDIR, /tmp) instead of in memory (tests/cluster/scratch.py);
#                 of the oracles also those and the sizes that take long
#   --skip-ctest  leave the CTest tests of the release build out (with --oracles or --full)
#
# Ends with one line "N passed, N failed"; the exit status is 0 only if nothing failed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

oracles=0 full=0 ctest=1
while (($#)); do
  case $1 in
    --oracles) oracles=1 ;;
    --full) full=1 ;;
    --skip-ctest) ctest=0 ;;
    --) shift; break ;;
    -h | --help) sed -n '2,14s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "error: unknown flag $1 (see --help)" >&2; exit 64 ;;
  esac
  shift
done

jobs=$(nproc)
passed=0 failed=0
failures=()

count() {  # count NAME STATUS: one test that is not CTest's
  if (($2 == 0)); then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    failures+=("$1")
  fi
}

build() {  # build PRESET [BUILD_ARGS...]
  local preset=$1
  shift
  cmake --preset "$preset" >"build/$preset.configure.log" 2>&1 || { cat "build/$preset.configure.log" >&2; return 1; }
  cmake --build --preset "$preset" -j "$jobs" "$@"
}

run_ctest() {  # run_ctest PRESET CTEST_ARGS...: adds CTest's own counts
  local preset=$1 report="build/$1.junit.xml"
  shift
  rm -f "$report"
  ctest --test-dir "build/$preset" -j "$jobs" --output-on-failure --no-tests=error \
    --output-junit "$PWD/$report" "$@"
  local counts
  counts=$(python3 - "$report" <<'PY'
import sys, xml.etree.ElementTree as tree
try:
    cases = tree.parse(sys.argv[1]).getroot().findall("testcase")
except OSError:
    cases = []
bad = [c.get("name") for c in cases if c.get("status") != "run"]
print(len(cases) - len(bad), len(bad) if cases else 1, " ".join(bad) if cases else "ctest")
PY
  )
  local good bad names
  read -r good bad names <<<"$counts"
  passed=$((passed + good))
  failed=$((failed + bad))
  for name in $names; do failures+=("$preset:$name"); done
}

finish() {
  for name in "${failures[@]}"; do echo "FAILED $name"; done
  echo "$passed passed, $failed failed"
  ((failed == 0))
  exit
}

mkdir -p build/cache
if ! deploy/install.sh; then
  count "deploy/install.sh" 1
  finish
fi
if ! build release; then
  count "build release" 1
  finish
fi
((full)) && export OCTAVO_KILLS=20 TMPDIR=${TMPDIR:-/tmp}
TMPDIR=$(python3 tests/cluster/scratch.py)
export TMPDIR
((ctest)) && run_ctest release "$@"
if ((ctest && $# == 0)) && command -v nvcc >/dev/null; then  # the GPU's kernels compile for it too, and take no more of it than they should
  build cuda --target octavo-gpu-check
  count "build cuda" $?
  python3 tests/gpu/check_resources.py build/cuda
  count "tests/gpu/check_resources.py" $?
fi

declare -a checks=()  # of the oracles: "VENV|CHECK ARGS..."

environment() {  # environment NAME INSTALL...: makes one, unless it is there; as a test, because the network may fail
  local name=$1 status
  shift
  "$@"
  status=$?
  count "$name" $status
  return $status
}

lane() {  # lane NUMBER LOGS: runs one check after the other that no other lane has taken, with a cache of its own
  local cache="$PWD/build/cache/oracle" i began pid=""
  trap '[[ -n $pid ]] && kill $pid; exit 143' TERM
  (($1 == 0)) || cache+="-$1"
  mkdir -p "$cache"
  for i in "${!checks[@]}"; do
    mkdir "$2/$i" 2>/dev/null || continue
    local words=(${checks[i]#*|})
    began=$SECONDS
    OCTAVO_ORACLE_CACHE=$cache timeout 1200 "${checks[i]%%|*}/bin/python" "${words[@]}" >"$2/$i/out" 2>&1 &
    pid=$!
    wait $pid
    echo $? >"$2/$i/status"
    pid=""
    echo "${checks[i]#*|}: $((SECONDS - began)) s"
  done
}

run_checks() {  # most of a check is one thread: as many at once as there are processors, and 6 GiB of memory for each
  local logs lanes i room
  logs=$(mktemp -d)
  room=$(awk '/^MemAvailable:/{print int($2 / 6 / 2^20)}' /proc/meminfo)
  lanes=$((jobs < room ? jobs : room))
  lanes=$((lanes < 1 ? 1 : lanes > 4 ? 4 : lanes))
  trap 'kill $(jobs -p) 2>/dev/null; exit 143' INT TERM
  for ((i = 0; i < lanes; i++)); do lane $i "$logs" & done
  wait
  trap - INT TERM
  for i in "${!checks[@]}"; do
    echo "== ${checks[i]#*|}"
    cat "$logs/$i/out"
    count "${checks[i]#*|}" "$(cat "$logs/$i/status" || echo 1)"
  done
  rm -r "$logs"
}

if ((oracles)); then
  export OCTAVO_BIN_DIR="$PWD/build/release/bin" HF_HUB_OFFLINE=1
  venv="$PWD/build/cache/venv"
  if environment "oracle environment" tests/oracle/install.sh "$venv"; then
    for check in tests/oracle/check_*.py; do
      [[ $check == */check_@(vllm|bitmask|lm_eval).py ]] && continue  # environments of their own
      # A quarter of an hour each: --oracles --full.
      [[ $check == */check_@(perplexity|compat).py ]] && ((full == 0)) && continue
      args=""
      [[ $check =~ check_(tokenizer|sentencepiece) ]] && ((full == 0)) && args=" --lines 10000"  # 100,000 with --full
      [[ $check == */check_solved_readers.py ]] && ((full == 0)) && args=" int8-w8a8-gptq"  # three recipes with --full
      checks+=("$venv|$check$args")
    done
  fi
  venv="$PWD/build/cache/venv-bitmask"
  environment "environment of sparse-24-bitmask" tests/oracle/install.sh "$venv" requirements_bitmask.txt \
    compressed_tensors safetensors torch transformers && checks+=("$venv|tests/oracle/check_bitmask.py")
  if ((full)); then  # some minutes
    venv="$PWD/build/cache/venv-lm-eval"
    environment "lm-eval environment" tests/oracle/install.sh "$venv" requirements_lm_eval.txt lm_eval torch \
      transformers && checks+=("$venv|tests/oracle/check_lm_eval.py")
  fi
  venv="$PWD/build/cache/venv-vllm"
  if environment "vLLM environment" tests/oracle/install_vllm.sh "$venv"; then
    checks+=("$venv|tests/oracle/check_vllm.py int8-dynamic")
    ((full)) && checks+=("$venv|tests/oracle/check_vllm.py fp8-dynamic")
    checks+=("$venv|tests/oracle/check_solved_readers.py --vllm int8-w8a8-gptq")
  fi
  run_checks
fi

if ((full)); then
  for preset in asan tsan; do
    if build "$preset"; then
      # Real clusters under a sanitizer miss their leases.
      run_ctest "$preset" --label-exclude '^(cluster|lint)$'
    else
      count "build $preset" 1
    fi
  done
  tests/fuzz/run.sh
  count "tests/fuzz/run.sh" $?
fi
finish
